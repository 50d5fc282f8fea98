"""Flat rewards with group ids: ragged groups without padding and without a loop over groups."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.backend import Array, backend_of
from ordergrad.estimators import Small, advantages
from ordergrad.objectives import Objective
from ordergrad.weights import Baseline

__all__ = ["group_advantages", "group_members"]


def group_advantages(
    rewards: Array,
    group_ids: Sequence[Hashable] | NDArray[Any],
    objective: str | Objective,
    *,
    where: Array | None = None,
    sample_weight: Array | None = None,
    baseline: Baseline = "leave_one_out",
    small: Small = "error",
) -> Array:
    """Return the advantages of rewards that belong to groups of any sizes, in the order they came.

    Groups of equal size are computed together, so the work is one call of `ordergrad.advantages` per distinct size.

    Args:
        rewards: All rewards, shape (M,).
        group_ids: The group of every reward: M hashable ids, or an array of them. Read on the host.
        objective: An objective or its string. Levels without @K take K = N - 1 of each group.
        where: Mask of valid samples, shape (M,).
        sample_weight: Importance weights, shape (M,).
        baseline: As in `ordergrad.advantages`.
        small: What becomes of a group that is too small for K: ``error``, ``zero`` or ``shrink``.

    Returns:
        An array of shape (M,), dtype and device of `rewards`, detached.

    Raises:
        ValueError: The lengths differ, a group is too small (with its id), or the rewards are not finite.

    Example:
        >>> group_advantages([0.0, 1.0, 3.0, 5.0], ["a", "b", "a", "b"], "mean")
        array([-3., -4.,  3.,  4.])
    """
    ops = backend_of(rewards)
    flat = ops.floating(rewards)
    shape: tuple[int, ...] = getattr(group_ids, "shape", (0,))
    if len(shape) != 1:
        raise ValueError(f"group_ids must have one axis; got shape {tuple(shape)}")
    count = len(group_ids)
    beside = {"where": where, "sample_weight": sample_weight}
    columns = {name: ops.asarray(column, flat) for name, column in beside.items() if column is not None}
    for name, found in {"rewards": flat.shape, **{name: column.shape for name, column in columns.items()}}.items():
        if tuple(found) != (count,):
            raise ValueError(f"{name} must have one entry per group id, shape ({count},); got shape {tuple(found)}")
    if count == 0:
        return ops.cast(flat, rewards)
    members = group_members(group_ids)
    parts: list[Array] = []
    for rows in members:
        index = ops.asarray(rows, flat)
        try:
            part = advantages(
                flat[index],
                objective,
                baseline=baseline,
                small=small,
                **{name: column[index] for name, column in columns.items()},
            )
        except ValueError as error:
            raise ValueError(f"group {group_ids[int(rows[0, 0])]!r}: {error}") from error
        parts.append(ops.xp.reshape(part, (-1,)))
    place = np.empty(count, dtype=np.int64)
    place[np.concatenate([rows.ravel() for rows in members])] = np.arange(count)
    return ops.cast(ops.xp.concat(parts)[ops.asarray(place, flat)], rewards)


def group_members(group_ids: Sequence[Hashable] | NDArray[Any]) -> list[NDArray[np.int64]]:
    """Return, for each distinct group size n, the positions of the members of those groups: shape (groups, n).

    Example:
        >>> group_members(["a", "b", "a", "c", "c"])
        [array([[1]]), array([[0, 2], [3, 4]])]
    """
    codes = _codes(group_ids)
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    return [order[starts[sizes == n][:, None] + np.arange(n)] for n in np.unique(sizes).tolist()]


def _codes(group_ids: Sequence[Hashable] | NDArray[Any]) -> NDArray[np.int64]:
    """Return whole numbers 0, 1, ... that stand for the ids."""
    ids = np.asarray(group_ids) if hasattr(group_ids, "__array__") else None
    if ids is not None and ids.dtype.kind in "iubSU":
        return np.unique(ids, return_inverse=True)[1]
    known: dict[Hashable, int] = {}
    return np.fromiter((known.setdefault(i, len(known)) for i in group_ids), dtype=np.int64, count=len(group_ids))
