"""The one file that tells NumPy, PyTorch and JAX apart.

A `Backend` is a record of plain functions on the last axis of an array. Everything else in the package is written once
against it. PyTorch and JAX are imported only when one of their arrays comes in; any other array type is served through
the array API standard.
"""

import importlib.util
import math
import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from types import ModuleType
from typing import Any, cast

import numpy as np

from ordergrad import kernels

__all__ = ["Array", "Backend", "backend_of", "is_finite"]

Array = Any
"""An array of any backend."""


@dataclass(frozen=True)
class Backend:
    """What the estimators need of an array library; every function works on the last axis.

    Attributes:
        xp: The namespace, for elementwise functions.
        floating: Array -> the same in a dtype fit for computing: float64 and float32 stay, smaller floats become
            float32, integers and bools the default floating dtype.
        wide: Array -> the same in float64, where there is one.
        cast: (array, like) -> array in the dtype of `like` if that is floating.
        detach: Array -> the same, cut from the autodiff graph.
        moveaxis: (array, source, destination) -> array with one axis moved.
        sort: Array -> sorted array.
        sort_with_order: Array -> (sorted array, order), the order in a form that `take` and `unsort` understand.
        take: (array, order) -> array in sorted order.
        unsort: (array in sorted order, order) -> array in the original order.
        gaps: (..., n) -> (..., n - 1): differences of neighbours.
        cumulate: (..., n) -> (..., n + 1): running sums that start at 0.
        total: Array -> sums over the last axis, which is dropped.
        mean: Array -> means over the last axis, which is kept with length 1.
        constants: (make, like, *arguments) -> the tuple of host arrays that ``make(*arguments)`` returns, as arrays
            with the dtype and device of `like`; cached, and a constant to compilers.
        counts: (mask, sizes) -> (the numbers of valid samples to prepare for, index of each group's among them). The
            sizes, a NumPy array, are counted where there is one, otherwise the mask; if it cannot be looked at, all
            numbers from 0 on, and None for the index.
        fused: (array, mask, slopes, offset, total, index) -> the scan of every group by a fused kernel; None where
            there is none for such arrays, or where a sum on the host is not finite. Without a mask one scan serves all
            groups; otherwise `index` is the row of each group, or None if that is its number of valid samples.
        fused_ragged: (flat array, positions, sizes, row, at, slopes, offset, total) -> the same for groups of any
            sizes: `positions` of the rewards of the first group, then of the second, ...; `row` of each group in
            `total`, and where its slopes begin, `at`. Host arrays but for the first and the last three. None if there
            is no kernel for any array.
        on_host: Array -> NumPy array of its values, or None where that would synchronise, copy or trace.
        magnitude: Array -> a number that no absolute value exceeds, NaN or infinite if a value is, or None where
            looking would synchronise or trace.
        asarray: (values, like) -> boolean or floating array of this backend beside `like`.
    """

    xp: Any
    floating: Callable[[Array], Array]
    wide: Callable[[Array], Array]
    cast: Callable[[Array, Array], Array]
    detach: Callable[[Array], Array]
    moveaxis: Callable[[Array, int, int], Array]
    sort: Callable[[Array], Array]
    sort_with_order: Callable[[Array], tuple[Array, Any]]
    take: Callable[[Array, Any], Array]
    unsort: Callable[[Array, Any], Array]
    gaps: Callable[[Array], Array]
    cumulate: Callable[[Array], Array]
    total: Callable[[Array], Array]
    mean: Callable[[Array], Array]
    constants: Callable[..., tuple[Array, ...]]
    counts: Callable[[Array, Array | None], tuple[tuple[int, ...], Array | None]]
    fused: Callable[..., Array | None]
    fused_ragged: Callable[..., Array | None] | None
    on_host: Callable[[Array], Array | None]
    magnitude: Callable[[Array], float | None]
    asarray: Callable[[Any, Array], Array]


class _Cache:
    """The constants last used, up to a number of bytes: a schedule of objectives must not fill the memory."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._entries: OrderedDict[Any, tuple[tuple[Array, ...], int]] = OrderedDict()
        self._renew_lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        """Set a lock that nobody holds: after a fork a thread that held it is not there to release it."""
        self._lock = Lock()

    def get(self, key: Any, make: Callable[[], Any], move: Callable[[Array], Array]) -> tuple[Array, ...]:
        """Return the entry of a key; if it is not there, made anew on the host and moved, array by array."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                return found[0]
        host = [np.array(constant, np.float64) for constant in make()]
        size = 256 + sum(constant.nbytes for constant in host)  # of the host's: those of a traced tensor are no numbers
        entry = tuple(move(constant) for constant in host)
        with self._lock:
            self._bytes += size
            if key in self._entries:
                self._bytes -= self._entries.pop(key)[1]
            self._entries[key] = entry, size
            while self._bytes > self._limit and len(self._entries) > 1:
                self._bytes -= self._entries.popitem(last=False)[1][1]
        return entry


_CONSTANTS = _Cache(limit=1 << 28)


def backend_of(array: Array) -> Backend:
    """Return the backend of an array; of NumPy for lists, numbers and anything else that NumPy converts."""
    index = _known(array.__class__)
    return _BACKENDS[_register(array) if index < 0 else index]


def is_finite(ops: Backend, array: Array) -> bool | None:
    """Return whether all values are finite, or None where looking would synchronise or trace."""
    magnitude = ops.magnitude(array)
    if magnitude is None:
        return None
    return math.isfinite(magnitude) or bool(ops.xp.all(ops.xp.isfinite(array)))


def _known(kind: type) -> int:
    """Return the index of the backend of an array type, -1 for a type that was not met before; loads PyTorch's."""
    index = _BY_TYPE.get(kind, -1)
    if index < 0 and any(c.__module__ == "torch" and c.__name__ == "Tensor" for c in kind.__mro__):
        index = _add(kind, _torch())
    return index


cast(Any, _known)._dynamo_marked_constant = True  # torch.compile runs it, also in a first call, and traces what follows


def _register(array: Array) -> int:
    import array_api_compat

    compat: Any = array_api_compat
    if compat.is_jax_array(array):
        return _add(array.__class__, _jax())
    if compat.is_numpy_array(array) or not compat.is_array_api_obj(array):
        return _add(array.__class__, _NUMPY)
    return _add(array.__class__, _standard(compat.array_namespace(array)))


def _add(kind: type, backend: Backend) -> int:
    if backend not in _BACKENDS:
        _BACKENDS.append(backend)
    _BY_TYPE[kind] = _BACKENDS.index(backend)
    return _BY_TYPE[kind]


def _gaps(x: Array) -> Array:
    return x[..., 1:] - x[..., :-1]


_LOADING_TAKES = 1.0
"""Seconds to load the compiled kernel, about."""

_waited = 0.0

_kernels, _CPU = vars(kernels), "ordergrad.kernels.cpu"
"""Where a module is when its import is complete; while that goes on in another thread it is in `sys.modules` only."""


def _cpu_kernel(size: Any) -> Any:
    """Return the module of the CPU kernel, or None: it is loaded once work without it has taken as long as that takes.

    The work is estimated by the number of calls and rewards, not measured: the same calls always go the same way.
    """
    global _waited
    kernel = _kernels.get("cpu")
    if kernel is None and _waited >= 0 and isinstance(size, int):  # that of a traced tensor is no number
        _waited += 3e-5 + 3e-8 * size
        if _waited > _LOADING_TAKES and _CPU not in sys.modules:
            kernel = _load_cpu_kernel()
    return kernel


def _load_cpu_kernel() -> Any:
    """Return the module, or None for good where there is no Numba or it does not work.

    It is imported in another thread: Ctrl-C ends the wait for it, not the import, half of which Numba does not survive.
    """
    global _waited
    failure = None
    if importlib.util.find_spec("numba") is not None:
        from concurrent.futures import ThreadPoolExecutor

        try:
            return ThreadPoolExecutor(1).submit(importlib.import_module, _CPU).result()
        except Exception as error:
            failure = error
    _waited = -1.0
    if failure is not None:
        message = f"the compiled kernel cannot be loaded, and large arrays take longer without it: {failure!r}"
        warnings.warn(message, RuntimeWarning, stacklevel=6)
    return None


# NumPy


def _numpy_floating(x: Array) -> Array:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("masked arrays are not supported: pass their data, and where=~mask")
    x = np.asarray(x)
    kind = x.dtype.kind
    if kind == "f":
        return x if x.dtype.itemsize >= 4 else x.astype(np.float32)
    if kind in "iub":
        return x.astype(np.float64)
    if kind == "V" or x.dtype.name == "bfloat16":
        return x.astype(np.float32)
    raise TypeError(f"rewards must be real numbers; got an array of dtype {x.dtype}")


def _numpy_cast(x: Array, like: Array) -> Array:
    dtype = getattr(like, "dtype", None)
    return x if not isinstance(dtype, np.dtype) or dtype.kind in "iubO" else x.astype(dtype, copy=False)


def _numpy_sort_with_order(x: Array) -> tuple[Array, Array]:
    order: Array = x.argsort(-1)
    if x.ndim > 1:
        starts = cast("Array", np.arange(0, x.size, max(x.shape[-1], 1)))
        order += starts.reshape((*x.shape[:-1], 1))
    return x.reshape(-1)[order], order


def _numpy_take(x: Array, order: Array) -> Array:
    return np.ascontiguousarray(np.broadcast_to(x, order.shape)).reshape(-1)[order]


def _numpy_unsort(x: Array, order: Array) -> Array:
    out = np.empty_like(x)
    out.reshape(-1)[order] = x
    return out


def _numpy_cumulate(x: Array) -> Array:
    out = np.zeros((*x.shape[:-1], x.shape[-1] + 1), x.dtype)
    out[..., 1:] = x.cumsum(-1, dtype=np.float64)  # float32 sums drift away
    return out


def _numpy_constants(make: Callable[..., Any], like: Array, *arguments: Any) -> tuple[Array, ...]:
    dtype = like.dtype
    return _CONSTANTS.get(
        (make, dtype, *arguments), lambda: make(*arguments), lambda constant: np.array(constant, dtype, order="C")
    )


def _numpy_counts(mask: Array, sizes: Array | None) -> tuple[tuple[int, ...], Array]:
    counts: Array = np.count_nonzero(mask, axis=-1) if sizes is None else sizes
    if counts.ndim == 0:
        return (int(counts),), np.zeros((), np.int64)
    found = np.bincount(counts.reshape(-1))
    return tuple(np.flatnonzero(found).tolist()), (np.cumsum(found > 0) - 1)[counts]


def _all_counts(mask: Array) -> tuple[int, ...]:
    return tuple(range(mask.shape[-1] + 1))


def _numpy_fused(x: Array, mask: Array | None, *plan: Array | None) -> Array | None:
    kernel = _cpu_kernel(x.size)
    return None if kernel is None else _fused_on_host(kernel, x, mask, *plan, threads=kernel.default_threads())


def _numpy_fused_ragged(x: Array, *groups_and_scans: Array) -> Array | None:
    kernel = _cpu_kernel(x.size)
    if kernel is None or not _computes(x.dtype):
        return None
    positions, sizes, row, at, *scans = groups_and_scans
    groups = kernel.Groups(positions, sizes, row, at)
    return kernel.scan_ragged(np.ascontiguousarray(x), groups, kernel.Weights(*scans), kernel.default_threads())


def _computes(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" and dtype.itemsize in (4, 8) and dtype.isnative


def _fused_on_host(
    kernel: Any,
    x: Array,
    mask: Array | None,
    slopes: Array,
    offset: Array,
    total: Array,
    index: Array | None,
    threads: int,
) -> Array | None:
    n = x.shape[-1]
    if x.size == 0 or not _computes(x.dtype):
        return None
    flat = np.ascontiguousarray(x).reshape(-1, n)
    weights = kernel.Weights(slopes.reshape(-1), offset.reshape(-1), total.reshape(-1))
    if mask is None or index is None:
        out = kernel.scan_groups(flat, weights, threads)
    else:
        row = index.reshape(-1)
        groups = kernel.Groups(np.flatnonzero(mask), np.count_nonzero(mask, axis=-1).reshape(-1), row, row * (n - 1))
        out = kernel.scan_ragged(flat.reshape(-1), groups, weights, threads)
    return None if out is None else out.reshape(x.shape)


def _numpy_magnitude(x: Array) -> float:
    return float(cast("Any", np.vdot(x, x))) ** 0.5


_NUMPY = Backend(
    xp=np,
    floating=_numpy_floating,
    wide=lambda x: x.astype(np.float64, copy=False),
    cast=_numpy_cast,
    detach=lambda x: x,
    moveaxis=np.moveaxis,
    sort=lambda x: np.sort(x, axis=-1),
    sort_with_order=_numpy_sort_with_order,
    take=_numpy_take,
    unsort=_numpy_unsort,
    gaps=_gaps,
    cumulate=_numpy_cumulate,
    total=lambda x: x.sum(-1),
    mean=lambda x: x.sum(-1, keepdims=True) / x.shape[-1],
    constants=_numpy_constants,
    counts=_numpy_counts,
    fused=_numpy_fused,
    fused_ragged=_numpy_fused_ragged,
    on_host=lambda x: x,
    magnitude=_numpy_magnitude,
    asarray=lambda values, like: np.asarray(values),
)
_BACKENDS = [_NUMPY]
_BY_TYPE: dict[type, int] = {np.ndarray: 0, list: 0, tuple: 0}


# PyTorch

_HOST_DEVICES, _TRITON_DEVICES = ("cpu",), ("cuda",)


_found: dict[str, bool] = {}


def _has_triton() -> bool:
    """Whether there is a Triton that knows tuples, 3.3 or later."""
    if "triton" not in _found:
        there = importlib.util.find_spec("triton") is not None
        version = importlib.import_module("triton").__version__ if there else "0.0"
        _found["triton"] = tuple(int(part) for part in version.split(".")[:2]) >= (3, 3)
    return _found["triton"]


cast(Any, _has_triton)._dynamo_marked_constant = True


def _fused_on_gpu(
    x: Array, mask: Array | None, slopes: Array, offset: Array, total: Array, index: Array | None
) -> Array | None:
    if not _has_triton() or index is not None or x.requires_grad or x.dtype.itemsize != 4:
        return None
    from ordergrad.kernels import cuda

    return cuda.scan_groups(x, mask, slopes, offset, total) if x.shape[-1] <= cuda.LARGEST else None


def _fused_ragged_on_gpu(x: Array, positions: Array, sizes: Array, *others: Array) -> Array | None:
    if not _has_triton() or x.requires_grad or x.dtype.itemsize != 4:
        return None
    from ordergrad.kernels import cuda

    return cuda.scan_ragged(x, positions, sizes, *others) if sizes.max(initial=0) <= cuda.LARGEST else None


@lru_cache(maxsize=1)
def _torch() -> Backend:
    import torch
    from array_api_compat import torch as xp
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack as untransformed
    from torch.autograd import forward_ad

    compiler: Any = torch.compiler
    hidden: Any = vars(torch)["_C"]
    forward: Any = forward_ad
    dispatch_modes, function_modes = hidden._len_torch_dispatch_stack, hidden._len_torch_function_stack
    tracing, early = hidden._get_tracing_state, hidden.DispatchKey.PreDispatch
    has_key = hidden._dispatch_tls_is_dispatch_key_included
    from_numpy: Callable[[Array], Array] = vars(torch)["from_numpy"]
    norm: Callable[[Array], Array] = vars(torch.linalg)["vector_norm"]
    kept = (torch.float32, torch.float64)

    def floating(x: Array) -> Array:
        if x.dtype in kept:
            return x
        if x.dtype.is_complex:
            raise TypeError(f"rewards must be real numbers; got a tensor of dtype {x.dtype}")
        return x.float() if x.dtype.is_floating_point else x.to(torch.get_default_dtype())

    def sort_with_order(x: Array) -> tuple[Array, Array]:
        return x.sort(-1)

    def constants_on(
        make: Callable[..., Any], dtype: torch.dtype, device: torch.device, *arguments: Any
    ) -> tuple[Array, ...]:
        def move(constant: Array) -> Array:
            with torch.inference_mode(False), untransformed():
                return torch.as_tensor(constant, dtype=dtype, device=device)

        if dispatch_modes():  # a mode has tensors of its own, fake ones for example: not for others
            return tuple(move(np.array(constant, np.float64)) for constant in make(*arguments))
        return _CONSTANTS.get((make, dtype, device, *arguments), lambda: make(*arguments), move)

    @compiler.assume_constant_result
    def constants_in_graph(*arguments: Any) -> tuple[Array, ...]:
        found = constants_on(*arguments)
        with untransformed():
            return tuple(c[None] for c in found)

    def constants(make: Callable[..., Any], like: Array, *arguments: Any) -> tuple[Array, ...]:
        if compiler.is_compiling():  # Dynamo takes a float64 constant without an axis for a Python number, and fails
            found = constants_in_graph(make, like.dtype, like.device, *arguments)
            return tuple(c.squeeze(0) for c in found)
        return constants_on(make, like.dtype, like.device, *arguments)

    def on_host(x: Array) -> Array | None:
        """Return the NumPy view of a tensor in host memory that nothing differentiates, maps or traces; or None."""
        kind: Any = x.__class__
        if (
            kind is not torch.Tensor
            or x.device.type not in _HOST_DEVICES
            or (x.requires_grad and torch.is_grad_enabled())
        ):
            return None
        if dispatch_modes() or tracing() or forward._current_level >= 0:
            return None
        if function_modes() and has_key(early):  # an early dispatch mode, which brings function modes along
            return None
        try:
            return x.detach().numpy()
        except RuntimeError:  # a tensor of torch.func
            return None

    def counts(mask: Array, sizes: Array | None) -> tuple[tuple[int, ...], Array | None]:
        if sizes is None and compiler.is_compiling():
            return _all_counts(mask), None
        host = None if sizes is not None else on_host(mask)
        if sizes is None and host is None:
            return _all_counts(mask), None
        distinct, index = _numpy_counts(host, sizes)
        return distinct, asarray(index, mask)

    def fused(x: Array, mask: Array | None, *plan: Array | None) -> Array | None:
        if x.device.type in _TRITON_DEVICES:
            return _fused_on_gpu(x, mask, *cast(Any, plan))
        if compiler.is_compiling():
            return None
        kernel = _cpu_kernel(x.numel())
        if kernel is None:
            return None
        host = [None if array is None else on_host(array) for array in (x, mask)]
        if host[0] is None or (mask is not None and host[1] is None):
            return None
        host += [None if array is None else array.numpy() for array in plan]
        out = _fused_on_host(kernel, *cast(Any, host), threads=torch.get_num_threads())
        return None if out is None else from_numpy(out)

    def fused_ragged(x: Array, *groups_and_scans: Array) -> Array | None:
        if x.device.type in _TRITON_DEVICES:
            return _fused_ragged_on_gpu(x, *groups_and_scans)
        host, kernel = on_host(x), _cpu_kernel(x.numel())
        if host is None or kernel is None:
            return None
        positions, sizes, row, at, *scans = groups_and_scans
        groups, weights = kernel.Groups(positions, sizes, row, at), kernel.Weights(*(scan.numpy() for scan in scans))
        out = kernel.scan_ragged(np.ascontiguousarray(host), groups, weights, torch.get_num_threads())
        return None if out is None else from_numpy(out)

    def magnitude(x: Array) -> float | None:
        if torch.compiler.is_compiling() or x.device.type != "cpu":
            return None
        try:
            found = norm(x).item()
        except RuntimeError:
            return None
        return found if isinstance(found, float) else None  # that of a traced tensor is no number

    def asarray(values: Any, like: Array) -> Array:
        return torch.as_tensor(values, device=like.device)

    return Backend(
        xp=xp,
        floating=floating,
        wide=lambda x: x if x.device.type == "mps" else x.double(),
        cast=lambda x, like: x.to(like.dtype) if like.dtype.is_floating_point and like.dtype != x.dtype else x,
        detach=lambda x: x.detach(),
        moveaxis=torch.movedim,
        sort=lambda x: x.sort(-1).values,
        sort_with_order=sort_with_order,
        take=lambda x, order: x.expand(order.shape).gather(-1, order),
        unsort=lambda x, order: x.scatter(-1, order, x),
        gaps=lambda x: x.diff(),
        cumulate=lambda x: torch.constant_pad_nd(x.cumsum(-1), (1, 0)),
        total=lambda x: x.sum(-1),
        mean=lambda x: x.mean(-1, keepdim=True),
        constants=constants,
        counts=counts,
        fused=fused,
        fused_ragged=fused_ragged,
        on_host=on_host,
        magnitude=magnitude,
        asarray=asarray,
    )


# JAX


@lru_cache(maxsize=1)
def _jax() -> Backend:
    import jax
    from jax.core import Tracer

    jnp: Any = jax.numpy

    def floating(x: Array) -> Array:
        if x.dtype in (jnp.float32, jnp.float64):
            return x
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise TypeError(f"rewards must be real numbers; got an array of dtype {x.dtype}")
        return x.astype(jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else float)

    def sort_with_order(x: Array) -> tuple[Array, Array]:
        positions = jnp.arange(x.shape[-1]) + jnp.zeros_like(x, int)  # sharded like x
        ordered, order = jax.lax.sort((x, positions), num_keys=1, is_stable=False)
        return ordered, order

    def cumulate(x: Array) -> Array:
        return jnp.pad(jnp.cumsum(x, axis=-1), [(0, 0)] * (x.ndim - 1) + [(1, 0)])

    def on_host(x: Array) -> Array | None:
        """Return the NumPy view of an array in host memory that nothing differentiates, maps or traces; or None."""
        if isinstance(x, Tracer) or not x.is_fully_addressable:
            return None
        return np.asarray(x) if all(device.platform == "cpu" for device in x.devices()) else None

    def counts(mask: Array, sizes: Array | None) -> tuple[tuple[int, ...], Array | None]:
        host = on_host(mask) if sizes is None else None
        if sizes is None and host is None:
            return _all_counts(mask), None
        distinct, index = _numpy_counts(host, sizes)
        return distinct, jnp.asarray(index)

    def magnitude(x: Array) -> float | None:
        host = on_host(x)
        return None if host is None else _numpy_magnitude(host)

    return Backend(
        xp=jnp,
        floating=floating,
        wide=lambda x: x.astype(float),
        cast=lambda x, like: x.astype(like.dtype) if jnp.issubdtype(like.dtype, jnp.floating) else x,
        detach=jax.lax.stop_gradient,
        moveaxis=jnp.moveaxis,
        sort=lambda x: jnp.sort(x, axis=-1),
        sort_with_order=sort_with_order,
        take=lambda x, order: jnp.take_along_axis(jnp.broadcast_to(x, order.shape), order, axis=-1),
        unsort=lambda x, order: jax.lax.sort((order, x), num_keys=1, is_stable=False)[1],
        gaps=_gaps,
        cumulate=cumulate,
        total=lambda x: x.sum(-1),
        mean=lambda x: x.mean(-1, keepdims=True),
        constants=_numpy_constants,
        counts=counts,
        fused=lambda *arguments: None,
        fused_ragged=None,
        on_host=on_host,
        magnitude=magnitude,
        asarray=lambda values, like: jnp.asarray(values),
    )


# Any other array of the array API standard


@lru_cache(maxsize=16)
def _standard(xp: ModuleType) -> Backend:
    def floating(x: Array) -> Array:
        return x if xp.isdtype(x.dtype, "real floating") else xp.astype(x, xp.float64)

    def cast_like(x: Array, like: Array) -> Array:
        return xp.astype(x, like.dtype, copy=False) if xp.isdtype(like.dtype, "real floating") else x

    def sort_with_order(x: Array) -> tuple[Array, Array]:
        order = xp.argsort(x, axis=-1)
        return xp.take_along_axis(x, order, axis=-1), order

    def cumulate(x: Array) -> Array:
        return xp.cumulative_sum(x, axis=-1, include_initial=True)

    def constants(make: Callable[..., Any], like: Array, *arguments: Any) -> tuple[Array, ...]:
        return _CONSTANTS.get(
            (make, like.dtype, like.device, *arguments),
            lambda: make(*arguments),
            lambda constant: xp.asarray(constant, dtype=like.dtype, device=like.device),
        )

    def counts(mask: Array, sizes: Array | None) -> tuple[tuple[int, ...], Array]:
        each = xp.sum(xp.astype(mask, xp.int64), axis=-1) if sizes is None else asarray(sizes, mask)
        distinct, index = xp.unique_inverse(each)
        return tuple(int(count) for count in distinct), xp.reshape(index, each.shape)

    def asarray(values: Any, like: Array) -> Array:
        return xp.asarray(values, device=like.device)

    return Backend(
        xp=xp,
        floating=floating,
        wide=lambda x: xp.astype(x, xp.float64, copy=False),
        cast=cast_like,
        detach=lambda x: x,
        moveaxis=lambda x, source, destination: xp.moveaxis(x, source, destination),
        sort=lambda x: xp.sort(x, axis=-1),
        sort_with_order=sort_with_order,
        take=lambda x, order: xp.take_along_axis(xp.broadcast_to(x, order.shape), order, axis=-1),
        unsort=lambda x, order: xp.take_along_axis(x, xp.argsort(order, axis=-1), axis=-1),
        gaps=_gaps,
        cumulate=cumulate,
        total=lambda x: xp.sum(x, axis=-1),
        mean=lambda x: xp.mean(x, axis=-1, keepdims=True),
        constants=constants,
        counts=counts,
        fused=lambda *arguments: None,
        fused_ragged=None,
        on_host=lambda x: None,
        magnitude=lambda x: float(xp.sum(xp.abs(x))),
        asarray=asarray,
    )
