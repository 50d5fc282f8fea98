"""Batches of completions as trainers hand them over: the settings, the advantages and the groups without a signal.

What the adapters of TRL, verl and SkyRL and the recipes share. Nothing here imports a framework.
"""

import logging
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from ordergrad.adapters.notes import note_levels
from ordergrad.estimators import advantages
from ordergrad.groups import group_advantages
from ordergrad.objectives import Objective
from ordergrad.spec import parse
from ordergrad.weights import check_nonzero

__all__ = [
    "Group",
    "Scale",
    "SmallGroups",
    "batch_advantages",
    "check_fits",
    "check_options",
    "check_size",
    "completion_advantages",
    "group_codes",
    "groups_with_signal",
    "scaled",
    "sessions",
    "with_ties",
]

Scale = Literal["none", "group", "batch"]
SmallGroups = Literal["zero", "shrink"]
Group = Literal["prompt", "batch"]
_logger = logging.getLogger(__name__)


def check_options(scale: str, small: str, group: str = "prompt", prefix: str = "") -> None:
    """Raise ValueError if an option of `completion_advantages` is unknown; some trainers prefix its name."""
    for name, got, kind in (("scale", scale, Scale), ("small", small, SmallGroups), ("group", group, Group)):
        if got not in get_args(kind):
            raise ValueError(f"{prefix}{name} must be one of {', '.join(get_args(kind))}; got {got!r}")


def check_fits(objective: str | Objective, n: int, size_name: str) -> None:
    """Raise ValueError if an objective has no nonzero term, or its K is not below the group size `n`.

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


def completion_advantages(
    rewards: Iterable[float | None] | NDArray[Any],
    group_ids: Sequence[Hashable] | NDArray[Any],
    objective: str | Objective,
    *,
    small: SmallGroups = "zero",
    scale: Scale = "none",
    group: Group = "prompt",
    group_size: int | None = None,
    size_name: str = "the group size",
) -> NDArray[np.float64]:
    """Return the advantages of a batch of completions: ragged groups, some completions unscorable.

    A reward that is None, NaN or infinite is unscorable: its advantage is 0, the rest of its group is ranked without
    it, and a warning reports how many there were. Rewards of one group that differ only by rounding are ties. A group
    of one gets 0.

    Args:
        rewards: One reward per completion, shape (M,).
        group_ids: The group of every completion: M hashable ids.
        objective: What to optimise.
        small: A group with too few scorable completions for K gets advantage ``zero``, or, with ``shrink``, the same
            objective at the largest K it allows.
        scale: Divide the advantages by their standard deviation in the ``group`` or the whole ``batch``; ``group`` with
            the objective ``mean`` is GRPO. ``none`` keeps the exact gradient.
        group: What a completion is ranked among: those of its ``prompt``, its group, or of the whole ``batch``; see
            `batch_advantages`. Groups of one, with which trainers pad a batch, are not ranked then, and K is checked
            against the number of all others.
        group_size: How many completions a whole group has, which K is checked against. By default the size of the
            largest group here.
        size_name: What the trainer calls the group size, for the error.

    Returns:
        An array of shape (M,), float64.

    Raises:
        ValueError: K is not below the group size, or an option is unknown.

    Example:
        >>> completion_advantages([0, 2, 5, 7, None], ["a", "a", "b", "b", "b"], "mean")
        array([-2.,  2., -2.,  2.,  0.])
    """
    check_options(scale, small, group)
    flat, epsilon = _floats(rewards)
    codes = group_codes(group_ids)
    sizes = np.bincount(codes) if len(codes) else np.zeros(1, int)
    alone = (sizes == 1)[codes]
    if group == "batch":
        group_size, size_name = int((~alone).sum()), "the completions of a batch"
    if len(codes):
        n = int(sizes.max()) if group_size is None else group_size
        if small == "zero":
            check_fits(objective, n, size_name)
        note_levels(objective, n)
    valid = np.isfinite(flat)
    if not valid.all():
        _logger.warning("%d of %d rewards are NaN or infinite: advantage 0", np.sum(~valid), len(flat))
    if group == "batch":
        valid &= ~alone
    flat = with_ties(flat, codes if group == "prompt" else np.zeros_like(codes), 4 * epsilon * np.abs(flat))
    rank = group_advantages if group == "prompt" else batch_advantages
    a = rank(flat, codes, objective, where=None if valid.all() else valid, small=small)
    return scaled(a, codes, valid, scale)


def batch_advantages(
    rewards: NDArray[Any],
    group_ids: Sequence[Hashable] | NDArray[Any],
    objective: str | Objective,
    *,
    where: NDArray[np.bool_] | None = None,
    small: SmallGroups = "zero",
) -> NDArray[np.float64]:
    r"""Rank every completion among those of all prompts, and centre its advantage within its prompt.

    The objective is then the tail (or the top) over prompts and completions together: the mean of the worst completions
    of all, which may be those of a few hard prompts, and not the worst completion of each prompt. With the advantages
    $\tilde A$ of the whole batch, the completion i of prompt p gets
    $A_{pi} = \tilde A_{pi} - \frac1{n-1} \sum_{j \ne i} \tilde A_{pj}$, n the completions of the prompt: prompts are
    not the policy's choice, so what they contribute is noise.

    The gradient is consistent, not exactly unbiased: the completions of one prompt are not independent draws from the
    mixture over prompts. The bias falls as one over the number of prompts; see the page on reliability for its size.

    Args:
        rewards: Shape (M,).
        group_ids: The prompt of every completion: M hashable ids.
        objective: What to optimise. K must be below the number of all completions.
        where: Mask of valid completions.
        small: How to treat a batch with too few valid completions for K.

    Returns:
        An array of shape (M,), float64.

    Example:
        >>> batch_advantages(np.array([1.0, 1.0, 0.0, 1.0]), ["a", "a", "b", "b"], "min@2")
        array([ 0.        ,  0.        , -2.66666667,  2.66666667])
    """
    codes = group_codes(group_ids)
    valid = np.ones(len(codes), bool) if where is None else where
    if not valid.any():
        return np.zeros(len(codes))
    ranked = np.asarray(advantages(rewards, objective, where=None if valid.all() else valid, small=small), np.float64)
    highest = np.full(codes.max() + 1, -np.inf)
    np.maximum.at(highest, codes[valid], ranked[valid])
    below = np.where(valid, ranked - highest[codes], 0.0)  # exactly 0 where a prompt's completions have the same rank
    count = np.bincount(codes, valid)
    mean = np.bincount(codes, below) / np.maximum(count, 1)
    factor = count / np.maximum(count - 1, 1)
    return np.where(valid & (count > 1)[codes], (below - mean[codes]) * factor[codes], 0.0)


def groups_with_signal(
    rewards: Iterable[float | None] | NDArray[Any],
    group_ids: Sequence[Hashable] | NDArray[Any],
    objective: str | Objective,
    *,
    small: SmallGroups = "zero",
) -> dict[Hashable, bool]:
    """Return whether each group has a nonzero advantage: what dynamic sampling keeps.

    The standard deviation of the rewards is not enough: under ``max@2`` the group [1, 1, 1, 0] varies, but every
    completion has at least two others that reach 1, so none of them changes the objective's estimate.

    Args:
        rewards: As in `completion_advantages`.
        group_ids: As in `completion_advantages`.
        objective: What to optimise.
        small: As in `completion_advantages`.

    Example:
        >>> groups_with_signal([1, 1, 1, 0, 0, 0, 0, 1], ["a"] * 4 + ["b"] * 4, "max@2")
        {'a': False, 'b': True}
    """
    flat, epsilon = _floats(rewards)
    codes = group_codes(group_ids)
    valid = np.isfinite(flat)
    a = group_advantages(with_ties(flat, codes, 4 * epsilon * np.abs(flat)), codes, objective, where=valid, small=small)
    nonzero = np.bincount(codes, a != 0) > 0
    return {group: bool(nonzero[code]) for group, code in zip(group_ids, codes.tolist(), strict=True)}


def with_ties(
    rewards: NDArray[np.float64], codes: NDArray[np.int64], tolerance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return rewards in which those of one group that differ only by rounding are equal.

    Sorted neighbours are tied if they differ by at most the larger of their tolerances. All others stay as they are.

    Example:
        >>> with_ties(np.array([0.1 + 0.2, 0.3, 0.4]), np.zeros(3, int), np.full(3, 1e-15)).tolist()
        [0.3, 0.3, 0.4]
    """
    order = np.lexsort((rewards, codes))
    x, group, allowed = rewards[order], codes[order], tolerance[order]
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.diff(x)
        close = np.isfinite(gaps) & (gaps <= np.maximum(allowed[1:], allowed[:-1]))
    starts = np.ones(len(x), dtype=bool)
    starts[1:] = ~(close & (group[1:] == group[:-1]))
    result = np.empty_like(x)
    result[order] = x[np.maximum.accumulate(np.where(starts, np.arange(len(x)), 0))]
    return result


def scaled(
    a: NDArray[np.float64], codes: NDArray[np.int64], valid: NDArray[np.bool_], scale: Scale, constant: float = 1e-6
) -> NDArray[np.float64]:
    """Return advantages divided by their standard deviation plus a constant, by default that of verl and SkyRL."""
    if scale == "none" or not len(a):
        return a
    squares, freedom = np.bincount(codes, a * a), np.maximum(np.bincount(codes, valid) - 1, 0)
    if scale == "batch":
        squares, freedom, codes = squares.sum(), freedom.sum(), np.zeros_like(codes)
    return a / (np.atleast_1d(np.sqrt(squares / np.maximum(freedom, 1))) + constant)[codes]


def sessions(
    ids: Sequence[Hashable], order: Sequence[int] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the last row of every session, which is the one to rank, and for every row the index of its session.

    Args:
        ids: The session of every row.
        order: The position of every row in its session; by default the order of `ids`.

    Example:
        >>> sessions(["s", "t", "s"])
        (array([2, 1]), array([0, 1, 0]))
    """
    codes = group_codes(ids)
    rows = np.lexsort((np.arange(len(codes)) if order is None else np.asarray(order), codes))
    last = np.flatnonzero(np.diff(codes[rows], append=-1))
    return rows[last], codes


def group_codes(group_ids: Sequence[Hashable] | NDArray[Any]) -> NDArray[np.int64]:
    """Return one whole number per id, counted from 0 in the order of first appearance."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(i, len(known)) for i in group_ids], dtype=np.int64)


def _floats(rewards: Iterable[float | None] | NDArray[Any]) -> tuple[NDArray[np.float64], float]:
    """Return rewards as float64, NaN for None, and the relative spacing of the numbers they came as."""
    array = cast("NDArray[Any]", rewards)
    if hasattr(rewards, "dtype") and array.dtype.kind == "f":
        return array.astype(np.float64), float(np.finfo(array.dtype).eps)
    flat = np.array([np.nan if r is None else r for r in rewards], dtype=np.float64)
    return flat, float(np.finfo(np.float64).eps)
