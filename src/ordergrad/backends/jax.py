"""JAX arrays, traced ones too."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from numpy.typing import NDArray

from ordergrad.backends import numpy as on_numpy
from ordergrad.backends.cache import Constants
from ordergrad.backends.contract import Array, computing_dtype

jnp: Any = jax.numpy
xp = jnp
moveaxis, detach = jnp.moveaxis, jax.lax.stop_gradient
gaps = on_numpy.gaps


def floating(x: Array, /) -> Array:
    dtype = x.dtype
    is_floating = _is_floating(dtype)
    if not is_floating and not jnp.issubdtype(dtype, jnp.integer) and not jnp.issubdtype(dtype, jnp.bool_):
        raise TypeError(f"rewards must be real numbers; got an array of dtype {dtype}")
    bits = 8 * dtype.itemsize
    return x.astype(computing_dtype(dtype, floating=is_floating, bits=bits, float32=jnp.float32, default=float))


def wide(x: Array, /) -> Array:
    return x.astype(float)


def cast(x: Array, like: Array, /) -> Array:
    return x.astype(like.dtype) if _is_floating(like.dtype) else x


def _is_floating(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)


def sort(x: Array, /) -> Array:
    return jnp.sort(x, axis=-1)


def sort_with_order(x: Array, /) -> tuple[Array, Array]:
    positions = jnp.arange(x.shape[-1]) + jnp.zeros_like(x, int)  # sharded like x
    ordered, order = jax.lax.sort((x, positions), num_keys=1, is_stable=False)
    return ordered, order


def take(x: Array, order: Array, /) -> Array:
    return jnp.take_along_axis(jnp.broadcast_to(x, order.shape), order, axis=-1)


def unsort(x: Array, order: Array, /) -> Array:
    return jax.lax.sort((order, x), num_keys=1, is_stable=False)[1]


def cumulate(x: Array, /) -> Array:
    return jnp.pad(jnp.cumsum(x, axis=-1), [(0, 0)] * (x.ndim - 1) + [(1, 0)])


def total(x: Array, /) -> Array:
    return x.sum(-1)


def centred(x: Array, /) -> Array:
    return x - x.mean(-1, keepdims=True)


def magnitude(x: Array, /) -> float | None:
    values = on_host(detach(x))
    return None if values is None else on_numpy.magnitude(values)


def constants(make: Callable[..., Constants], like: Array, /, *arguments: Any) -> Constants:
    return on_numpy.constants(make, like, *arguments)


def fused(x: Array, mask: Array | None, slopes: Array, offset: Array, total: Array, /) -> Array | None:
    return None


def fused_ragged(x: Array, /, *groups_and_scans: Any) -> Array | None:
    return None


def fuses_masked(x: Array, /) -> bool:
    return False


def on_host(x: Array, /) -> NDArray[Any] | None:
    if isinstance(x, Tracer) or not x.is_fully_addressable:
        return None
    return np.asarray(x) if all(device.platform == "cpu" for device in x.devices()) else None


def asarray(values: Any, like: Array, /) -> Array:
    return jnp.asarray(values)
