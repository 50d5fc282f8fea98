"""Dynamic sampling for TRL: groups without a signal under the objective give way to groups of further prompts.

A group counts by its advantages, not by the spread of its rewards: under `max@2` the rewards [1, 1, 1, 0] differ and
teach nothing. Source of the idea, for the mean: Yu et al. (2025), DAPO, arXiv 2503.14476.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false

import random
from collections.abc import Sequence
from typing import Any

from ordergrad.extras import extra

with extra("llm"):
    import torch

__all__ = ["exchanged", "fresh_prompts", "idle_groups"]

_ROWS = (
    *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "tool_mask"),
    *("old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio"),
)
_WHOLE = ("num_items_in_batch",)


def idle_groups(advantages: torch.Tensor, n: int) -> torch.Tensor:
    """Return which groups of n neighbouring completions have no advantage but 0.

    Example:
        >>> idle_groups(torch.tensor([0.0, 0.0, 1.0, -1.0]), 2)
        tensor([ True, False])
    """
    return (advantages.reshape(-1, n) == 0).all(1)


def fresh_prompts(dataset: Any, count: int, n: int, key: Sequence[int]) -> list[Any]:
    """Return `count` random rows of a dataset, each n times in a row, the same for the same key of numbers."""
    draw = random.Random("-".join(map(str, key)))
    chosen = (
        draw.sample(range(len(dataset)), count) if count <= len(dataset) else draw.choices(range(len(dataset)), k=count)
    )
    return [dataset[index] for index in chosen for _ in range(n)]


def exchanged(
    batch: dict[str, Any], other: dict[str, Any], places: torch.Tensor, sources: torch.Tensor, pad: int
) -> dict[str, Any]:
    """Return a generation batch of TRL with some of its rows replaced by rows of another.

    Args:
        batch: What `_generate_and_score_completions` returns.
        other: Another one.
        places: The rows to replace.
        sources: The rows of `other` that come there, as many.
        pad: The padding token.

    Raises:
        ValueError: The batches hold something that has no rows to exchange, such as images.
    """
    unknown = [name for name in batch if name not in (*_ROWS, *_WHOLE)]
    if unknown:
        raise ValueError(f"refill takes text only; the batch holds {', '.join(unknown)}")
    found = dict(batch)
    for name in _ROWS:
        if name in batch:
            ours, theirs = _same_width(batch[name], other[name], name, pad if name.endswith("_ids") else 0)
            ours[places] = theirs[sources]
            found[name] = ours
    return found


def _same_width(ours: torch.Tensor, theirs: torch.Tensor, name: str, fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return copies of equal width: prompts are padded on the left, everything else on the right."""
    if ours.dim() < 2:
        return ours.clone(), theirs
    width = max(ours.shape[1], theirs.shape[1])

    def padded(x: torch.Tensor) -> torch.Tensor:
        short = width - x.shape[1]
        sides = (short, 0) if name.startswith("prompt") else (0, short)
        return torch.nn.functional.pad(x, sides, value=fill)

    return padded(ours).clone(), padded(theirs)
