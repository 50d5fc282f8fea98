"""The constants last used: weights made on the host, as the arrays that a library computes with."""

import os
from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Cache:
    """A cache bounded in bytes: a schedule of objectives must not fill the memory.

    Safe to use from threads, from a signal handler that interrupts another use, and after a fork.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._entries: OrderedDict[Any, tuple[tuple[Any, ...], int]] = OrderedDict()
        self._lock = RLock()
        if hasattr(os, "register_at_fork"):  # a fork waits for other threads: in the child nobody would release it
            os.register_at_fork(
                before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._lock.release
            )

    def get(self, key: Any, make: Callable[[], Any], move: Callable[[Any], Any]) -> tuple[Any, ...]:
        """Return the entry of a key; if there is none, make its arrays on the host and move each of them."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                return found[0]
        host = [np.asarray(constant) for constant in make()]
        size = 256 + sum(constant.nbytes for constant in host)  # on the host, as a traced tensor has no number of bytes
        entry = tuple(move(constant) for constant in host)
        with self._lock:
            self._bytes += size
            if key in self._entries:
                self._bytes -= self._entries.pop(key)[1]
            self._entries[key] = entry, size
            while self._bytes > self._limit and len(self._entries) > 1:
                self._bytes -= self._entries.popitem(last=False)[1][1]
        return entry


CONSTANTS = Cache(limit=1 << 28)


def in_dtype(constant: NDArray[Any], dtype: Any) -> Any:
    """Return the dtype that a constant moves to: whole numbers keep theirs, which is None."""
    return None if constant.dtype.kind == "i" else dtype


def host_constants(make: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    """Return the arrays of ``make(*arguments)`` on the host, cached."""
    return CONSTANTS.get((make, *arguments), lambda: make(*arguments), lambda constant: constant)
