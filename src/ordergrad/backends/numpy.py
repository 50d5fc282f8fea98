"""NumPy arrays, and everything that NumPy converts."""

import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.backends import host
from ordergrad.backends.cache import CONSTANTS, Constants, in_dtype
from ordergrad.backends.contract import Array, computing_dtype

xp = np
moveaxis = np.moveaxis
fused, fused_ragged = host.fused, host.fused_ragged


def floating(x: Array, /) -> Array:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("masked arrays are not supported: pass rewards.data, and where=~rewards.mask")
    try:
        x = np.asarray(x)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(
            "rewards must have groups of one size; got a list of lists of different lengths: pad them and pass a mask "
            "as where, or pass one flat list to group_advantages"
        ) from error
    dtype = x.dtype
    if dtype == np.float64 or dtype == np.float32:
        return x
    if dtype.kind not in "iubf" and not _is_number(dtype):
        raise TypeError(f"rewards must be real numbers; got an array of dtype {dtype}")
    bits = 8 * dtype.itemsize
    return x.astype(
        computing_dtype(dtype, floating=_is_floating(dtype), bits=bits, float32=np.float32, default=np.float64)
    )


def wide(x: Array, /) -> Array:
    return x.astype(np.float64, copy=False)


def cast(x: Array, like: Array, /) -> Array:
    dtype = getattr(like, "dtype", None)
    if dtype == x.dtype or not isinstance(dtype, np.dtype) or not _is_floating(typing.cast("np.dtype[Any]", dtype)):
        return x
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def _is_number(dtype: np.dtype[Any]) -> bool:
    """Whether an extension dtype, one of ml_dtypes, has real numbers."""
    return dtype.kind == "V" and dtype.type is not np.void


@lru_cache(maxsize=256)
def _is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype can hold fractions: bfloat16 can, int4 cannot."""
    return dtype.kind == "f" or (_is_number(dtype) and float(np.full(1, 0.5).astype(dtype)[0]) == 0.5)


def detach(x: Array, /) -> Array:
    return x


def sort(x: Array, /) -> Array:
    return np.sort(x, axis=-1)


def sort_with_order(x: Array, /) -> tuple[Array, Array]:
    order: Array = x.argsort(-1)
    if x.ndim > 1:
        starts = typing.cast(Array, np.arange(0, x.size, max(x.shape[-1], 1)))
        order += starts.reshape((*x.shape[:-1], 1))
    return x.reshape(-1)[order], order


def take(x: Array, order: Array, /) -> Array:
    return np.ascontiguousarray(np.broadcast_to(x, order.shape)).reshape(-1)[order]


def unsort(x: Array, order: Array, /) -> Array:
    out = np.empty_like(x)
    out.reshape(-1)[order] = x
    return out


def gaps(x: Array, /) -> Array:
    return x[..., 1:] - x[..., :-1]


def cumulate(x: Array, /) -> Array:
    out = np.zeros((*x.shape[:-1], x.shape[-1] + 1), x.dtype)
    out[..., 1:] = x.cumsum(-1, dtype=np.float64)  # float32 sums drift away
    return out


def total(x: Array, /) -> Array:
    return x.sum(-1)


def centred(x: Array, /) -> Array:
    return x - x.sum(-1, keepdims=True) / x.shape[-1]


def magnitude(x: Array, /) -> float:
    if not x.size:
        return 0.0
    return max(abs(float(np.minimum.reduce(x, axis=None))), abs(float(np.maximum.reduce(x, axis=None))))


def constants(make: Callable[..., Constants], like: Array, /, *arguments: Any) -> Constants:
    key = (make, like.dtype, *arguments)
    return CONSTANTS.get(key) or CONSTANTS.add(
        key, make(*arguments), lambda constant: np.array(constant, in_dtype(constant, like.dtype), order="C")
    )


def fuses_masked(x: Array, /) -> bool:
    return False


def on_host(x: Array, /) -> NDArray[Any] | None:
    return x


def asarray(values: Any, like: Array, /) -> Array:
    return np.asarray(values)
