"""The settings of `ordergrad train llm`, kept apart so that showing them needs none of the packages that train."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["GRPO", "LLMSettings", "as_json"]

GRPO = "grpo"
"""In the place of an objective: TRL's GRPO as it ships, to compare with."""


@dataclass(frozen=True)
class LLMSettings:
    """What `ordergrad train llm` trains.

    Attributes:
        objectives: One model is trained on each, for each seed; `GRPO` among them is TRL's own trainer.
        model: A folder or a hub id; empty for the small model that comes with the task.
        data: ``countdown``, or a file (JSONL, CSV, Parquet) with the column ``prompt``.
        reward: ``task``, ``exact``, ``math``, or ``module:function``.
        seeds: Number of seeds, 0 to seeds - 1.
        steps: Optimiser steps of each run.
        prompts: Prompts in a step.
        samples: Completions of each prompt, the group.
        learning_rate: Constant after a short rise.
        max_completion: Longest completion, in tokens.
        warm_steps: Steps of supervised learning on demonstrations before, for the small model.
        lora: Train low-rank adapters instead of all weights.
        vllm: Generate with vLLM.
        eval_problems: Held-out problems on which each trained model is measured.
        eval_samples: Completions of each of them; pass@k for k up to this.
    """

    objectives: tuple[str, ...]
    model: str = ""
    data: str = "countdown"
    reward: str = "task"
    seeds: int = 1
    steps: int = 500
    prompts: int = 32
    samples: int = 8
    learning_rate: float = 1e-4
    max_completion: int = 24
    warm_steps: int = 600
    lora: bool = False
    vllm: bool = False
    eval_problems: int = 200
    eval_samples: int = 64


def as_json(settings: LLMSettings) -> dict[str, Any]:
    """Return settings as JSON values."""
    return asdict(settings) | {"objectives": list(settings.objectives)}
