"""Any other array library, through the array API standard."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.backends import numpy as on_numpy
from ordergrad.backends.cache import CONSTANTS, Constants, in_dtype
from ordergrad.backends.contract import Array, computing_dtype


class Standard:
    """The backend of one namespace."""

    def __init__(self, xp: ModuleType) -> None:
        self.xp: Any = xp

    def floating(self, x: Array, /) -> Array:
        xp, dtype = self.xp, x.dtype
        if not xp.isdtype(dtype, ("bool", "integral", "real floating")):
            raise TypeError(f"rewards must be real numbers; got an array of dtype {dtype}")
        is_floating = xp.isdtype(dtype, "real floating")
        bits = xp.finfo(dtype).bits if is_floating else 0
        target = computing_dtype(dtype, floating=is_floating, bits=bits, float32=xp.float32, default=xp.float64)
        return x if target == dtype else xp.astype(x, target)

    def wide(self, x: Array, /) -> Array:
        return self.xp.astype(x, self.xp.float64, copy=False)

    def cast(self, x: Array, like: Array, /) -> Array:
        xp = self.xp
        return xp.astype(x, like.dtype, copy=False) if xp.isdtype(like.dtype, "real floating") else x

    def detach(self, x: Array, /) -> Array:
        return x

    def moveaxis(self, x: Array, source: int, destination: int, /) -> Array:
        return self.xp.moveaxis(x, source, destination)

    def sort(self, x: Array, /) -> Array:
        return self.xp.sort(x, axis=-1)

    def sort_with_order(self, x: Array, /) -> tuple[Array, Array]:
        order = self.xp.argsort(x, axis=-1)
        return self.xp.take_along_axis(x, order, axis=-1), order

    def take(self, x: Array, order: Array, /) -> Array:
        return self.xp.take_along_axis(self.xp.broadcast_to(x, order.shape), order, axis=-1)

    def unsort(self, x: Array, order: Array, /) -> Array:
        return self.xp.take_along_axis(x, self.xp.argsort(order, axis=-1), axis=-1)

    def gaps(self, x: Array, /) -> Array:
        return x[..., 1:] - x[..., :-1]

    def cumulate(self, x: Array, /) -> Array:
        return self.xp.cumulative_sum(x, axis=-1, include_initial=True)

    def total(self, x: Array, /) -> Array:
        return self.xp.sum(x, axis=-1)

    def centred(self, x: Array, /) -> Array:
        return x - self.xp.mean(x, axis=-1, keepdims=True)

    def magnitude(self, x: Array, /) -> float | None:
        values = self.on_host(x)
        return None if values is None else on_numpy.magnitude(values)

    def constants(self, make: Callable[..., Constants], like: Array, /, *arguments: Any) -> Constants:
        def move(constant: Array) -> Array:
            return self.xp.asarray(constant, dtype=in_dtype(constant, like.dtype), device=like.device)

        key = (make, like.dtype, like.device, *arguments)
        return CONSTANTS.get(key) or CONSTANTS.add(key, make(*arguments), move)

    def fuses_masked(self, x: Array, /) -> bool:
        return False

    def fused(self, x: Array, mask: Array | None, slopes: Array, offset: Array, total: Array, /) -> Array | None:
        return None

    def fused_ragged(self, x: Array, /, *groups_and_scans: Any) -> Array | None:
        return None

    def on_host(self, x: Array, /) -> NDArray[Any] | None:
        return np.asarray(x) if "cpu" in str(x.device).lower() else None

    def asarray(self, values: Any, like: Array, /) -> Array:
        return self.xp.asarray(values, device=like.device)
