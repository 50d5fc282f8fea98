"""The constants made last: weights made on the host, as the arrays that a library computes with."""

import os
from collections.abc import Callable, Iterable
from threading import RLock
from typing import Any, TypeVar, cast

from numpy.typing import NDArray

Constants = TypeVar("Constants", bound=tuple[NDArray[Any], ...])
"""Arrays with at least one axis: compilers take those without for numbers."""


class Cache(dict[Any, Any]):
    """A cache bounded in bytes: a schedule of objectives must not fill the memory. The oldest entries leave first.

    Safe to use from threads, from a signal handler that interrupts another use, and after a fork; `get` takes no lock.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit, self._bytes = limit, 0
        self._sizes: dict[Any, int] = {}
        self._lock = RLock()
        if hasattr(os, "register_at_fork"):  # a fork waits for other threads: in the child nobody would release it
            os.register_at_fork(
                before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._lock.release
            )

    def add(self, key: Any, constants: Constants, move: Callable[[NDArray[Any]], Any]) -> Constants:
        """Keep constants under a key, each moved from the host, and return them."""
        entry = replaced(constants, map(move, constants))
        size = 256 + sum(constant.nbytes for constant in constants)
        with self._lock:
            self[key] = entry
            self._bytes += size - self._sizes.pop(key, 0)
            self._sizes[key] = size
            while self._bytes > self._limit and len(self._sizes) > 1:
                oldest = next(iter(self._sizes))
                self._bytes -= self._sizes.pop(oldest, 0)
                self.pop(oldest, None)
        return entry


def replaced(constants: Constants, values: Iterable[Any]) -> Constants:
    """Return a tuple of other values, with the field names of `constants` if it has any."""
    return cast("Constants", getattr(constants, "_make", tuple)(values))


CONSTANTS = Cache(limit=1 << 28)


def in_dtype(constant: NDArray[Any], dtype: Any) -> Any:
    """Return the dtype that a constant moves to: whole numbers keep theirs, which is None."""
    return None if constant.dtype.kind == "i" else dtype


def host_constants(make: Callable[..., Constants], *arguments: Any) -> Constants:
    """Return the arrays of ``make(*arguments)`` on the host, cached."""
    key = (make, *arguments)
    return CONSTANTS.get(key) or CONSTANTS.add(key, make(*arguments), lambda constant: constant)
