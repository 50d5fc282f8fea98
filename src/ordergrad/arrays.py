"""What the user hands in, made ready to compute with, and results handed back: axis, mask, weights, checks."""

import math
import operator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ordergrad.backends import Array, Backend, backend_of

__all__ = [
    "Rewards",
    "arrange",
    "check_choice",
    "check_fits",
    "check_large",
    "counts_on_host",
    "fill_empty",
    "fill_masked",
    "finish",
    "floating_beside",
    "is_finite",
    "probabilities",
    "restore",
    "valid_counts",
    "whole_axis",
    "zero_masked",
]


class Rewards(NamedTuple):
    """Rewards of groups along the last axis, in the dtype to compute in.

    Attributes:
        ops: Their backend.
        x: The rewards, shape (..., n).
        n: The length of the last axis.
        mask: Which are valid, of the shape of `x`; None if all are.
        sizes: The number of valid ones in each group, shape (...), if the host knows it already.
        given: What the user handed in.
        axis: The axis of the group in it.
    """

    ops: Backend
    x: Array
    n: int
    mask: Array | None
    sizes: NDArray[np.int64] | None
    given: Array
    axis: int


def arrange(rewards: Array, axis: int, where: Array | None, *, detach: bool = False) -> Rewards:
    """Return checked rewards with the axis of the group last."""
    ops = backend_of(rewards)
    x = ops.floating(rewards)
    axis = axis if axis.__class__ is int else whole_axis(axis)
    shape = x.shape
    rank = len(shape)
    if not -rank <= axis < rank or shape[axis] == 0:
        raise ValueError(_misfit(axis, tuple(shape)))
    n = len(range(shape[axis]))  # a plain int also where compilers make sizes symbolic
    if detach:
        x = ops.detach(x)
    mask = None
    if where is not None:
        mask = _beside("where", ops.asarray(where, x), x, ops, axis)
        if not ops.xp.isdtype(mask.dtype, "bool"):
            raise TypeError(f"where must be a mask of bools; got dtype {mask.dtype}")
    if axis != -1:
        x = ops.moveaxis(x, axis, -1)
    return Rewards(ops, x, n, mask, None, rewards, axis)


def _misfit(axis: int, shape: tuple[int, ...]) -> str:
    if shape and not -len(shape) <= axis < len(shape):
        return f"axis must satisfy {-len(shape)} <= axis < {len(shape)}; got axis={axis} (rewards shape {shape})"
    return f"rewards must hold at least one sample along axis {axis}; got shape {shape}"


def restore(r: Rewards, a: Array) -> Array:
    """Return an array of one number a sample in the layout and dtype of what the user handed in."""
    return finish(r.ops, a if r.axis == -1 else r.ops.moveaxis(a, -1, r.axis), r.given)


def finish(ops: Backend, result: Array, given: Array) -> Array:
    """Return a result in the dtype of the rewards given; a ValueError if it overflows that."""
    rounded = ops.cast(result, given)
    if rounded is result or rounded.dtype == result.dtype:
        return rounded
    if is_finite(ops, ops.floating(rounded)) is False and is_finite(ops, result):
        raise ValueError(
            f"the result must fit {rounded.dtype}, the dtype of the rewards; got a number above "
            f"{float(ops.xp.finfo(rounded.dtype).max):.6g}: pass rewards in float32, or smaller ones"
        )
    return rounded


# Checks


def check_choice(name: str, got: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError if an argument is not one of its choices."""
    if got not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {got!r}")


def whole_axis(axis: object) -> int:
    """Return an axis as an int; a TypeError if it is no whole number."""
    try:
        return operator.index(axis)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"axis must be a whole number; got {axis!r}") from None


def floating_beside(name: str, values: Array, x: Array, ops: Backend) -> Array:
    """Return numbers as a floating array beside `x`; a TypeError with their name if they are none."""
    try:
        return ops.floating(ops.asarray(values, x))
    except (TypeError, ValueError) as error:
        reason = str(error).removeprefix("rewards must be real numbers; ")
        raise TypeError(f"{name} must be real numbers; {reason}") from error


def is_finite(ops: Backend, array: Array) -> bool | None:
    """Return whether all values are finite, or None where looking would synchronise or trace."""
    largest = ops.magnitude(array)
    return None if largest is None else math.isfinite(largest)


def check_large(r: Rewards, magnitude: float) -> None:
    """Check that rewards of this magnitude are finite, and that sums of their differences fit their dtype.

    Without a factor in the objective, those sums are at most 2 n times the range, n the number of valid samples of the
    group; the kernel checks the same.
    """
    ops, x = r.ops, r.x
    if not math.isfinite(magnitude):
        raise ValueError(f"rewards must be finite; got NaN or infinite values (rewards shape {tuple(x.shape)})")
    half = ops.xp.max(x / 2, axis=-1) - ops.xp.min(x / 2, axis=-1)
    n = r.n if r.mask is None else ops.xp.clip(ops.xp.astype(valid_counts(r), x.dtype), 1, r.n)
    if not bool(ops.xp.all(half <= float(ops.xp.finfo(x.dtype).max) / n / 4)):
        raise ValueError(
            f"rewards must lie closer together, or sums of their differences overflow {x.dtype}; got rewards from "
            f"{float(ops.xp.min(x))} to {float(ops.xp.max(x))} (rewards shape {tuple(x.shape)})"
        )


def check_fits(r: Rewards, result: Array, total: Array | float = 0.0) -> Array:
    """Return a result, checked not to overflow; where the scan's `total` is NaN it may be NaN."""
    xp = r.ops.xp
    if not bool(xp.all(xp.isfinite(result) | xp.isnan(xp.zeros_like(result) + total))):
        raise ValueError(
            f"the result must fit {result.dtype}; got a number above {float(xp.finfo(result.dtype).max):.6g} "
            f"(rewards shape {tuple(r.x.shape)}): pass smaller rewards"
        )
    return result


def _beside(name: str, array: Array, x: Array, ops: Backend, axis: int) -> Array:
    """Return an array broadcast to the rewards, the axis of the group last."""
    try:
        array = ops.xp.broadcast_to(array, x.shape)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be broadcastable to rewards; got shape {tuple(array.shape)} (rewards shape {tuple(x.shape)})"
        ) from error
    return array if axis == -1 else ops.moveaxis(array, axis, -1)


# Masks


def counts_on_host(r: Rewards) -> NDArray[np.int64] | None:
    """Return the number of valid samples of each masked group, or None where the mask cannot be looked at."""
    if r.sizes is not None:
        return r.sizes
    mask = r.ops.on_host(r.mask)
    return None if mask is None else np.asarray(np.count_nonzero(mask, axis=-1))


def valid_counts(r: Rewards) -> Array:
    """Return the number of valid samples of each masked group as an array beside the rewards."""
    if r.sizes is not None:
        return r.ops.asarray(r.sizes, r.x)
    return r.ops.xp.sum(r.ops.xp.astype(r.mask, r.ops.xp.int32), axis=-1)


def fill_masked(r: Rewards) -> Rewards:
    """Return rewards, the masked ones equal to the highest valid one of their group."""
    ops, x, mask = r.ops, r.x, r.mask
    if mask is None:
        return r
    zero = ops.xp.zeros_like(x)
    highest = ops.xp.max(ops.xp.where(mask, x, zero - ops.xp.inf), axis=-1, keepdims=True)
    return r._replace(x=ops.xp.where(mask, x, ops.xp.where(valid_counts(r)[..., None] > 0, highest, zero)))


def zero_masked(r: Rewards, a: Array) -> Array:
    """Return an array of one number a sample with 0 where the sample is masked."""
    return a if r.mask is None else r.ops.xp.where(r.mask, a, r.ops.xp.zeros_like(a))


# Importance weights


def probabilities(r: Rewards, sample_weight: Array, small: str) -> tuple[Array, Array | None]:
    """Return sample weights of sum 1 in every group, zero where masked; and which groups have none, if allowed."""
    ops, x = r.ops, r.x
    unmoved = x if r.axis == -1 else ops.moveaxis(x, -1, r.axis)
    weight = _beside("sample_weight", floating_beside("sample_weight", sample_weight, x, ops), unmoved, ops, r.axis)
    weight = zero_masked(r, ops.wide(weight))
    largest = ops.detach(ops.xp.max(weight, axis=-1, keepdims=True))
    finite = is_finite(ops, weight)
    if finite is not None:
        _check_weights(ops, weight, largest[..., 0], finite, small)
    weight = weight / ops.xp.where(largest > 0, largest, ops.xp.ones_like(largest))  # whose sum does not overflow
    total = ops.total(weight)
    if small == "error":
        return weight / total[..., None], None
    empty = total == 0
    return weight / ops.xp.where(empty, ops.xp.ones_like(total), total)[..., None], empty


def _check_weights(ops: Backend, weight: Array, largest: Array, finite: bool, small: str) -> None:
    got = None
    if not finite:
        got = "got NaN or infinite weights"
    elif bool(ops.xp.any(weight < 0)):
        got = f"got a weight of {float(ops.xp.min(weight))}"
    elif small == "error" and bool(ops.xp.any(largest <= 0)):
        got = "got a group of weights 0; small='shrink' would accept it"
    if got is not None:
        raise ValueError(
            f"sample_weight must be finite and nonnegative, with a positive sum in every group; {got} "
            f"(rewards shape {tuple(weight.shape)})"
        )


def fill_empty(ops: Backend, a: Array, empty: Array | None, fill: float) -> Array:
    """Return an array of one number a group, or a sample, with `fill` for the groups without any weight."""
    if empty is None:
        return a
    empty = empty if empty.ndim == a.ndim else empty[..., None]
    return ops.xp.where(empty, ops.xp.zeros_like(a) + fill, a)
