"""The compiled kernel for arrays in host memory, shared by the libraries that have such arrays.

Whether the extra ``kernels`` is installed decides alone whether it is used, so that the same call gives the same bits
at any time and in any process. It is loaded at the first call that it serves.
"""

import importlib
import importlib.util
import os
import time
import warnings
from _thread import start_new_thread
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_lock = RLock()
_started = False
_found: list[Any] = []
"""The module, or None where there is none; empty until that is known."""
_failures: list[Exception] = []
_held: list[Any] = []
"""The locks that a fork under way holds."""


def kernel() -> Any:
    """Return the module of the compiled kernel, or None without the extra.

    It is imported in a thread of its own: a signal handler interrupts the wait, not the import. Numba does not survive
    half an import, and a handler may itself compute advantages.
    """
    if not _found:
        _load()
    return _found[0]


def _load() -> None:
    global _started
    with _lock:
        if not _started:
            _prepare_for_forks()
            try:
                start_new_thread(_import, ())
            except RuntimeError:  # the interpreter shuts down
                _import()
            _started = True
    _wait()
    if _failures:
        message = f"the compiled kernel cannot be loaded, and calls take longer without it: {_failures.pop()!r}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def _wait() -> None:
    while not _found:  # no lock: a signal handler could interrupt its holder and wait for it
        time.sleep(1e-3)


def _import() -> None:
    found = None
    try:
        if importlib.util.find_spec("numba") is not None:
            found = importlib.import_module("ordergrad.kernels.cpu")
    except Exception as error:
        _failures.append(error)
    finally:
        _found.append(found)


def _prepare_for_forks() -> None:
    """Let a fork wait for the import, and for what is being compiled: in the child nobody would finish it.

    What is registered last runs first before a fork. `logging` locks its own lock then, which the import needs.
    """
    importlib.import_module("logging")
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release)


def _hold() -> None:
    _lock.acquire()
    _held.append(_lock)
    if _started:
        _wait()
    if _found and _found[0] is not None:
        _found[0].compiler_lock.acquire()
        _held.append(_found[0].compiler_lock)


def _release() -> None:
    while _held:
        _held.pop().release()


def fused(
    x: Array, mask: Array | None, slopes: Array, offset: Array, total: Array, threads: int | None = None
) -> Array | None:
    """Return the scan of every group, as `Backend.fused`; masked arrays are for `fused_ragged`."""
    if mask is not None or x.size == 0 or not _serves(x):
        return None
    compiled = kernel()
    if compiled is None:
        return None
    flat = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    scan = compiled.Scans(slopes.reshape(-1), offset.reshape(-1), total.reshape(-1))
    out = compiled.scan_groups(flat, scan, threads or compiled.default_threads())
    return None if out is None else out.reshape(x.shape)


def fused_ragged(
    x: Array,
    positions: Array,
    sizes: Array,
    row: Array,
    at: Array,
    slopes: Array,
    offset: Array,
    total: Array,
    threads: int | None = None,
) -> Array | None:
    """Return the scan of groups of any sizes, as `Backend.fused_ragged`."""
    compiled = kernel() if _serves(x) else None
    if compiled is None:
        return None
    layout = compiled.Layout(positions, sizes, row, at)
    scans = compiled.Scans(*(array.astype(x.dtype, copy=False) for array in (slopes, offset, total)))
    return compiled.scan_ragged(np.ascontiguousarray(x), layout, scans, threads or compiled.default_threads())


def _serves(x: Array) -> bool:
    dtype = x.dtype
    return dtype.kind == "f" and dtype.itemsize in (4, 8) and dtype.isnative
