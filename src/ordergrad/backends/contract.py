"""What the estimators need of an array library."""

from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from ordergrad.backends.cache import Constants

Array = Any
"""An array of any backend."""


def computing_dtype(dtype: Any, *, floating: bool, bits: int, float32: Any, default: Any) -> Any:
    """Return the dtype to compute in: the one rule of all backends.

    Floats of 32 bits or more are computed in as they are, smaller ones in float32, and the result has the dtype of
    the rewards. Integers and bools become the library's default float, or float32 if that is smaller, and so does the
    result.

    Args:
        dtype: The dtype of the rewards, a real one.
        floating: Whether it can hold fractions.
        bits: Its size.
        float32: The library's float32.
        default: The library's default float, at least float32.
    """
    if not floating:
        return default
    return dtype if bits >= 32 else float32


class Backend(Protocol):
    """Plain functions on the last axis of an array; each module of this folder named after a library is one."""

    @property
    def xp(self) -> Any:
        """The namespace of elementwise functions."""
        ...

    def floating(self, x: Array, /) -> Array:
        """Return an array in the dtype to compute in (`computing_dtype`); a TypeError if it has no real numbers."""
        ...

    def wide(self, x: Array, /) -> Array:
        """Return an array in float64, where there is one."""
        ...

    def cast(self, x: Array, like: Array, /) -> Array:
        """Return an array in the dtype of `like` if that is floating."""
        ...

    def detach(self, x: Array, /) -> Array:
        """Return an array cut from the autodiff graph."""
        ...

    def moveaxis(self, x: Array, source: int, destination: int, /) -> Array:
        """Return an array with one axis moved."""
        ...

    def sort(self, x: Array, /) -> Array:
        """Return an array in ascending order."""
        ...

    def sort_with_order(self, x: Array, /) -> tuple[Array, Any]:
        """Return an array in ascending order, and the order as `take` and `unsort` understand it."""
        ...

    def take(self, x: Array, order: Any, /) -> Array:
        """Return an array in sorted order."""
        ...

    def unsort(self, x: Array, order: Any, /) -> Array:
        """Return an array that is in sorted order in the original one."""
        ...

    def gaps(self, x: Array, /) -> Array:
        """Return the differences of neighbours, (..., n) -> (..., n - 1)."""
        ...

    def cumulate(self, x: Array, /) -> Array:
        """Return the running sums, starting with 0, (..., n) -> (..., n + 1)."""
        ...

    def total(self, x: Array, /) -> Array:
        """Return the sums, (..., n) -> (...)."""
        ...

    def centred(self, x: Array, /) -> Array:
        """Return an array less its means along the last axis."""
        ...

    def magnitude(self, x: Array, /) -> float | None:
        """Return the largest absolute value, NaN if there is one; None where a look would synchronise or trace.

        By the minimum and the maximum, without BLAS: OpenBLAS does not survive a fork in another thread.
        """
        ...

    def constants(self, make: Callable[..., Constants], like: Array, /, *arguments: Any) -> Constants:
        """Return the host arrays of ``make(*arguments)`` with the dtype and device of `like`.

        Cached; compilers see constants. Whole numbers keep their dtype.
        """
        ...

    def fuses_masked(self, x: Array, /) -> bool:
        """Return whether `fused` serves such arrays with a mask that the host cannot look at."""
        ...

    def fused(self, x: Array, mask: Array | None, slopes: Array, offset: Array, total: Array, /) -> Array | None:
        """Return the scan of every group from a fused kernel.

        None where there is no kernel for such arrays or, on the host, a sum may overflow. Without a mask one scan
        serves all groups; with one, which `fuses_masked`, there are those of 0..n valid samples, one after the other.
        """
        ...

    def fused_ragged(
        self,
        x: Array,
        positions: NDArray[Any],
        sizes: NDArray[Any],
        row: NDArray[Any],
        at: NDArray[Any],
        slopes: NDArray[Any],
        offset: NDArray[Any],
        total: NDArray[Any],
        /,
    ) -> Array | None:
        """Return the scan of groups of any sizes within a flat array from a fused kernel; None as for `fused`.

        Args:
            x: All rewards, shape (M,).
            positions: The rewards of the first group, then of the second, ...: indices into `x`. Others get 0.
            sizes: The number of rewards in each group.
            row: The scan of each group: an index into `total`.
            at: Where the slopes of each group begin in `slopes`.
            slopes: The slopes of all scans, one after the other.
            offset: Their weights of the gaps in the part common to all samples, likewise.
            total: Their weights of the smallest reward in the common part.
        """
        ...

    def on_host(self, x: Array, /) -> NDArray[Any] | None:
        """Return the values as a NumPy array, or None where that would synchronise, copy, trace or lose a gradient."""
        ...

    def asarray(self, values: Any, like: Array, /) -> Array:
        """Return values as an array of this library on the device of `like`."""
        ...
