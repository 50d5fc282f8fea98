"""Flat rewards with group ids: ragged groups without padding and without a loop over groups."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ordergrad.backends import Array, Backend, backend_of
from ordergrad.estimators import Small, advantages, padded_advantages, ragged_advantages
from ordergrad.objectives import Objective
from ordergrad.schedules import Schedule
from ordergrad.spec import parse
from ordergrad.weights import Baseline, smallest_group

__all__ = ["group_advantages", "group_members"]


def group_advantages(
    rewards: Array,
    group_ids: Sequence[Hashable] | NDArray[Any],
    objective: str | Objective | Schedule,
    *,
    where: Array | None = None,
    sample_weight: Array | None = None,
    baseline: Baseline = "leave_one_out",
    small: Small = "error",
) -> Array:
    """Return the advantages of rewards that belong to groups of any sizes, in the order they came.

    All groups are computed together: in one call of a fused kernel where there is one, otherwise padded to one of a
    few widths, so the work of the interpreter does not grow with their number.

    Args:
        rewards: All rewards, shape (M,).
        group_ids: The group of every reward: M hashable ids, or an array of them. Read on the host.
        objective: An objective or its string. Levels without @K take K = N - 1 of each group.
        where: Mask of valid samples, shape (M,).
        sample_weight: Importance weights, shape (M,).
        baseline: As in `ordergrad.advantages`.
        small: How to treat a group that is too small for K: ``error``, ``zero`` or ``shrink``.

    Returns:
        An array of shape (M,), dtype and device of `rewards`, detached.

    Raises:
        ValueError: The lengths differ, a group is too small (with its id), or the rewards are not finite.
        TypeError: `group_ids` is no sequence of hashable ids.

    Example:
        >>> group_advantages([0.0, 1.0, 3.0, 5.0], ["a", "b", "a", "b"], "mean")
        array([-3., -4.,  3.,  4.])
    """
    ops = backend_of(rewards)
    if isinstance(objective, Schedule):
        options: dict[str, Any] = {"where": where, "sample_weight": sample_weight, "baseline": baseline, "small": small}
        return objective.detached(ops).mix(ops, lambda end: group_advantages(rewards, group_ids, end, **options))
    flat = ops.floating(rewards)
    shape: tuple[int, ...] = getattr(group_ids, "shape", (0,))
    if len(shape) != 1:
        raise ValueError(f"group_ids must have one axis; got shape {tuple(shape)}")
    try:
        count = len(group_ids)
    except TypeError:
        raise TypeError(f"group_ids must be a sequence of ids; got {type(group_ids).__name__}") from None
    beside = {"where": where, "sample_weight": sample_weight}
    columns = {name: ops.asarray(column, flat) for name, column in beside.items() if column is not None}
    for name, found in {"rewards": flat.shape, **{name: column.shape for name, column in columns.items()}}.items():
        if tuple(found) != (count,):
            raise ValueError(f"{name} must have one entry per group id, shape ({count},); got shape {tuple(found)}")
    if count == 0:
        group = np.zeros(smallest_group(parse(objective), baseline))
        advantages(group, objective, baseline=baseline, small=small)  # where one would fail, none fails too
        return ops.cast(flat, rewards)
    order, sizes = group_members(group_ids)
    valid = ops.on_host(columns["where"]) if where is not None else None
    if sample_weight is None and (where is None or (valid is not None and valid.dtype == np.bool_)):
        positions, counts = order, sizes
        if valid is not None:
            chosen = valid[order]
            positions, counts = order[chosen], np.add.reduceat(chosen, np.cumsum(sizes) - sizes, dtype=np.int64)
        result = ragged_advantages(ops, flat, positions, counts, objective, baseline, small)
        if result is not None:
            return ops.cast(result, rewards)
    run = partial(_together, ops, flat, columns, objective, baseline, small)
    parts: list[Array] = []
    place, done = np.empty(count, dtype=np.int64), 0
    for rows, own in _classes(order, sizes):
        try:
            parts.append(run(rows, own))
        except ValueError:
            culprit = _culprit(run, rows, own)
            try:
                run(rows[culprit, None, : own[culprit]], own[culprit, None])
            except ValueError as error:
                named = next(islice(group_ids, int(rows[culprit, 0]), None))  # by place, which a Series does not index
                raise ValueError(f"group {named!r}: {error}") from error
            raise
        inside = _filled_columns(rows.shape[1], own)
        place[rows[inside]] = done + np.flatnonzero(inside)
        done += rows.size
    return ops.cast(ops.xp.concat(parts)[ops.asarray(place, flat)], rewards)


def group_members(group_ids: Sequence[Hashable] | NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the members of one group after the other, ascending in each, and the group sizes.

    Example:
        >>> group_members(["a", "b", "a", "c", "c"])
        (array([0, 2, 1, 3, 4]), array([2, 1, 2]))
    """
    codes = _codes(group_ids)
    bits = len(codes).bit_length()
    keys = (codes << bits) | np.arange(len(codes))
    keys.sort()
    sizes = np.bincount(codes)
    return keys & ((1 << bits) - 1), sizes[sizes > 0]


def _codes(group_ids: Sequence[Hashable] | NDArray[Any]) -> NDArray[np.int64]:
    """Return whole numbers from 0 on that stand for the ids, below a few times their number."""
    if hasattr(group_ids, "cpu"):  # a tensor, which may lie on a device
        group_ids = cast(Any, group_ids).cpu()
    ids = np.asarray(group_ids) if hasattr(group_ids, "__array__") else None
    if ids is not None and ids.dtype.kind in "iub" and ids.size:
        lowest, highest = int(ids.min()), int(ids.max())
        if highest - lowest <= 4 * len(ids):
            return ids.astype(np.int64) - lowest if ids.dtype.kind != "u" else (ids - ids.min()).astype(np.int64)
    if ids is not None and ids.dtype.kind in "iubSU":
        return np.unique(ids, return_inverse=True)[1]
    known: dict[Hashable, int] = {}
    try:
        codes = [known.setdefault(i, len(known)) for i in group_ids]
    except TypeError as error:
        raise TypeError(f"group_ids must be hashable: {error}") from error
    return np.array(codes, dtype=np.int64)


def _classes(
    order: NDArray[np.int64], sizes: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the positions of groups of equal or similar size, each row padded with its last, and their sizes.

    Sizes up to 16 have a class each, larger ones eight in every octave.
    """
    starts = np.cumsum(sizes) - sizes
    step = 1 << np.maximum(np.frexp(sizes - 1.0)[1] - 4, 0)
    width = -(-sizes // step) * step
    for w in np.unique(width).tolist():
        groups = np.flatnonzero(width == w)
        own = sizes[groups]
        yield order[starts[groups][:, None] + np.minimum(range(own.max()), own[:, None] - 1)], own


def _together(
    ops: Backend,
    flat: Array,
    columns: dict[str, Array],
    objective: str | Objective,
    baseline: Baseline,
    small: Small,
    rows: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> Array:
    """Return the advantages of the groups in the rows, flat; the padding gets anything."""
    index = ops.asarray(rows, flat)
    beside = {name: column[index] for name, column in columns.items()}
    inside = _filled_columns(rows.shape[1], sizes)
    if beside or inside.all():
        if not inside.all():
            filled = ops.asarray(inside, flat)
            beside["where"] = beside["where"] & filled if "where" in beside else filled
        found = advantages(flat[index], objective, baseline=baseline, small=small, **beside)
    else:
        found = padded_advantages(ops, flat[index], sizes, objective, baseline, small)
    return ops.xp.reshape(found, (-1,))


def _filled_columns(n: int, sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of n columns are filled in rows of so many, shape (len(sizes), n)."""
    return cast("NDArray[np.int64]", np.arange(n)) < sizes[:, None]


def _culprit(run: Callable[..., Array], rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> int:
    """Return the row of the first group that fails."""
    first, last = 0, len(rows)
    while last - first > 1:
        middle = (first + last) // 2
        try:
            run(rows[first:middle], sizes[first:middle])
            first = middle
        except ValueError:
            last = middle
    return first
