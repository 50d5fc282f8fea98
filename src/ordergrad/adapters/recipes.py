"""A few lines for trainers that need no adapter of their own, and what the adapters of verl and SkyRL share.

Each recipe is a plain function with the signature that its framework calls or replaces; `docs/adapters/recipes.md` says
where it goes. None of them imports its framework.
"""

import logging
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ordergrad.extras import extra
from ordergrad.groups import group_advantages
from ordergrad.objectives import Objective
from ordergrad.spec import parse
from ordergrad.weights import check_nonzero

with extra("torch"):
    import torch

__all__ = [
    "Scale",
    "Small",
    "art_rewards",
    "check_fits",
    "check_options",
    "check_size",
    "completion_advantages",
    "rllm_estimator",
    "scaled",
    "sessions",
    "slime_rewards",
    "swift_advantages",
    "tinker_advantages",
]

Scale = Literal["none", "group", "batch"]
Small = Literal["zero", "shrink"]
_logger = logging.getLogger(__name__)


def completion_advantages(
    rewards: Iterable[float | None] | NDArray[Any],
    group_ids: Sequence[Hashable] | NDArray[Any],
    objective: str | Objective,
    *,
    small: Small = "zero",
    scale: Scale = "none",
    size_name: str = "the group size",
) -> NDArray[np.float64]:
    """Return the advantages of a batch of completions as trainers hand them over: ragged, some of them unscorable.

    A reward that is None, NaN or infinite is unscorable: it gets advantage 0, the others of its group are ranked
    without it, and a warning counts it. A group of one gets 0, whatever its reward.

    Args:
        rewards: One reward per completion, shape (M,).
        group_ids: The group of every completion: M hashable ids.
        objective: What to optimise.
        small: What becomes of a group with too few scorable completions for K: advantage ``zero``, or ``shrink``, the
            same objective at the largest K it allows.
        scale: Divide the advantages by their standard deviation in the ``group`` or the whole ``batch``; ``group`` with
            the objective ``mean`` is GRPO. ``none`` keeps the exact gradient.
        size_name: What the framework calls the group size, for the error.

    Returns:
        An array of shape (M,), float64.

    Raises:
        ValueError: K is not below the size of any group, or an option is unknown.

    Example:
        >>> completion_advantages([0, 2, 5, 7, None], ["a", "a", "b", "b", "b"], "mean")
        array([-2.,  2., -2.,  2.,  0.])
    """
    check_options(scale, small)
    flat = np.array([np.nan if r is None else r for r in rewards], dtype=np.float64)
    codes = _codes(group_ids)
    if len(codes) and small == "zero":
        check_fits(objective, int(np.bincount(codes).max()), size_name)
    valid = np.isfinite(flat)
    if not valid.all():
        _logger.warning("%d of %d rewards are NaN or infinite: advantage 0", np.sum(~valid), len(flat))
    a = group_advantages(flat, codes, objective, where=None if valid.all() else valid, small=small)
    return scaled(a, codes, valid, scale)


def check_fits(objective: str | Objective, n: int, size_name: str) -> None:
    """Raise ValueError if an objective has no weight, or its K is not below the group size `n`.

    Example:
        >>> check_fits("max@8", 8, "rollout.n")
        Traceback (most recent call last):
        ValueError: k must satisfy 1 <= k < rollout.n; got k=8, rollout.n=8 for max@8
    """
    objective = parse(objective)
    check_nonzero(objective)
    check_size(objective, n, size_name)


def check_size(objective: Objective, n: int, size_name: str) -> None:
    """Raise ValueError if the K of an objective is not below the group size `n`."""
    k = objective.largest_size
    if n <= k:
        raise ValueError(f"k must satisfy 1 <= k < {size_name}; got k={k}, {size_name}={n} for {objective}")


def check_options(scale: str, small: str, prefix: str = "") -> None:
    """Raise ValueError if an option of `completion_advantages` is unknown; its name has a prefix in some frameworks."""
    for name, got, choices in (("scale", scale, get_args(Scale)), ("small", small, get_args(Small))):
        if got not in choices:
            raise ValueError(f"{prefix}{name} must be one of {', '.join(choices)}; got {got!r}")


def sessions(
    ids: Sequence[Hashable], order: Sequence[int] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row to rank for every session, its last one, and for every row its session's place among them.

    Args:
        ids: The session of every row.
        order: The place of every row in its session; by default that in `ids`.

    Example:
        >>> sessions(["s", "t", "s"])
        (array([2, 1]), array([0, 1, 0]))
    """
    codes = _codes(ids)
    rows = np.lexsort((np.arange(len(codes)) if order is None else np.asarray(order), codes))
    last = np.flatnonzero(np.diff(codes[rows], append=-1))
    return rows[last], codes


def slime_rewards(args: Any, samples: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Return raw rewards and advantages of slime's samples: ``--custom-reward-post-process-path``.

    The objective is ``args.ordergrad_objective`` (a line of slime's ``--custom-config-path`` file), or else the
    environment variable ``ORDERGRAD_OBJECTIVE``.

    Samples with the same `rollout_id` are parts of one rollout: its last one is ranked, and all get that advantage.

    Args:
        args: slime's arguments.
        samples: Samples with `group_index` and `get_reward_value`, and perhaps `rollout_id`.

    Raises:
        ValueError: No objective is given, or its K is not below ``n_samples_per_prompt``.
    """
    objective = getattr(args, "ordergrad_objective", None) or os.environ.get("ORDERGRAD_OBJECTIVE")
    if not objective:
        raise ValueError("set ordergrad_objective in --custom-config-path, or the variable ORDERGRAD_OBJECTIVE")
    raw = [sample.get_reward_value(args) for sample in samples]
    rollouts = [getattr(sample, "rollout_id", None) for sample in samples]
    ranked, row_of = sessions([("row", i) if rollout is None else rollout for i, rollout in enumerate(rollouts)])
    a = completion_advantages(
        [raw[i] for i in ranked],
        [samples[i].group_index for i in ranked],
        objective,
        size_name="n_samples_per_prompt",
    )
    return raw, a[row_of].tolist()


def tinker_advantages(objective: str | Objective) -> Callable[[Sequence[Any]], list[torch.Tensor]]:
    """Return a function to replace `compute_advantages` of the Tinker cookbook.

    Args:
        objective: What to optimise.

    Returns:
        A function from trajectory groups, which have `get_total_rewards`, to one tensor of advantages for each.
    """

    def compute_advantages(trajectory_groups_P: Sequence[Any]) -> list[torch.Tensor]:  # noqa: N803
        groups = [np.asarray(group.get_total_rewards(), dtype=np.float64) for group in trajectory_groups_P]
        return [torch.tensor(a, dtype=torch.float32) for a in _by_group(groups, objective)]

    return compute_advantages


def art_rewards(trajectory_groups: Sequence[Any], objective: str | Objective) -> None:
    """Put the advantages of an objective in the place of the rewards of ART's trajectories.

    Advantages sum to zero in each group, so ART's own centring changes nothing; its scaling has to be off. The true
    rewards are kept in ``trajectory.metrics["reward"]``.

    Args:
        trajectory_groups: Groups with `trajectories`, which have `reward` and `metrics`. Changed in place.
        objective: What to optimise.
    """
    groups = [list(group.trajectories) for group in trajectory_groups]
    rewards = [np.array([trajectory.reward for trajectory in group], dtype=np.float64) for group in groups]
    for group, advantages in zip(groups, _by_group(rewards, objective), strict=True):
        for trajectory, a in zip(group, advantages.tolist(), strict=True):
            trajectory.metrics["reward"] = trajectory.reward
            trajectory.reward = a


def swift_advantages(objective: str | Objective) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Return a function to replace `compute_advantages` of ms-swift's GRPO trainers.

    A completion that no reward function scored is left out of the ranks.

    Args:
        objective: What to optimise.

    Returns:
        A function from the rewards of each reward function, shape (M, functions), and their weights to advantages and
        rewards, shape (M,).
    """

    def compute_advantages(
        rewards_per_func: torch.Tensor,
        reward_weights: torch.Tensor,
        num_generations: int,
        *_: Any,
        kl_in_reward: bool = False,
        beta: float = 0.0,
        kl_values: torch.Tensor | None = None,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rewards = (rewards_per_func * reward_weights).nansum(1)
        if kl_in_reward and kl_values is not None:
            rewards = rewards - beta * kl_values
        ranked = rewards.masked_fill(rewards_per_func.isnan().all(1), torch.nan).double().cpu().numpy()
        a = completion_advantages(
            ranked, np.arange(len(ranked)) // num_generations, objective, size_name="num_generations"
        )
        return torch.as_tensor(a, dtype=rewards.dtype, device=rewards.device), rewards

    return compute_advantages


def rllm_estimator(
    objective: str | Objective,
) -> Callable[..., tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]]:
    """Return an estimator for rLLM's `register_adv_estimator`.

    Args:
        objective: What to optimise.

    Returns:
        A function from one array of rewards per trajectory group to advantages and returns of the same shapes.
    """

    def estimator(rewards: Sequence[NDArray[Any]], *_: Any, **__: Any) -> tuple[Any, Any]:
        a = _by_group(rewards, objective)
        return a, a

    return estimator


def _by_group(groups: Sequence[NDArray[Any]], objective: str | Objective) -> list[NDArray[np.float64]]:
    sizes = [len(group) for group in groups]
    if not sum(sizes):
        return [np.zeros(0) for _ in groups]
    a = completion_advantages(np.concatenate(groups), np.repeat(np.arange(len(groups)), sizes), objective)
    return np.split(a, np.cumsum(sizes)[:-1])


def _codes(group_ids: Sequence[Hashable] | NDArray[Any]) -> NDArray[np.int64]:
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(i, len(known)) for i in group_ids], dtype=np.int64)


def scaled(
    a: NDArray[np.float64], codes: NDArray[np.int64], valid: NDArray[np.bool_], scale: Scale, constant: float = 1e-6
) -> NDArray[np.float64]:
    """Return advantages divided by their standard deviation plus a small constant, by default verl's and SkyRL's."""
    if scale == "none" or not len(a):
        return a
    squares, freedom = np.bincount(codes, a * a), np.maximum(np.bincount(codes, valid) - 1, 0)
    if scale == "batch":
        squares, freedom, codes = squares.sum(), freedom.sum(), np.zeros_like(codes)
    return a / (np.atleast_1d(np.sqrt(squares / np.maximum(freedom, 1))) + constant)[codes]
