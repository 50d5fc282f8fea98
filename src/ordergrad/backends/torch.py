"""PyTorch tensors: eager, compiled, traced, mapped by torch.func, on any device.

Some questions have no public answer; what is private of PyTorch is named at the top, with the reason.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any
from typing import cast as typed

import torch
from array_api_compat import torch as array_api_torch
from numpy.typing import NDArray
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

from ordergrad.backends import host
from ordergrad.backends import numpy as on_numpy
from ordergrad.backends.cache import CONSTANTS, Constants, in_dtype, replaced
from ordergrad.backends.contract import Array, computing_dtype

xp = array_api_torch
compiler: Any = torch.compiler
moveaxis: Any = torch.movedim
sort_with_order: Any = torch.sort
gaps: Any = torch.diff
_from_numpy: Callable[[Array], Array] = vars(torch)["from_numpy"]

_untransformed = temporarily_clear_interpreter_stack
"""Constants made inside torch.func.vmap or grad must not belong to its level: they outlive it in the cache."""

_hidden: Any = vars(torch)["_C"]
_dispatch_modes = _hidden._len_torch_dispatch_stack
"""Modes such as FakeTensorMode replace every new tensor: those must not be cached, nor read."""

_function_modes, _has_key = _hidden._len_torch_function_stack, _hidden._dispatch_tls_is_dispatch_key_included
_early: Any = _hidden.DispatchKey.PreDispatch
"""make_fx(pre_dispatch=True) traces by a dispatch mode of its own that the count above leaves out."""

_transforms = _hidden._functorch.peek_interpreter_stack
"""Within torch.func a tensor stands for many values, or its gradient is followed without `requires_grad`."""

_tracing = _hidden._get_tracing_state
"""torch.jit.trace would keep what is read on the host as a constant."""

_forward: Any = forward_ad
"""Its `_current_level`: a dual tensor read on the host would lose its tangent."""

_UNDIVIDED = 1 << 15
"""What PyTorch does not divide among threads, which a forked process may have lost."""
_KEPT = (torch.float32, torch.float64)


def _has_triton_device(x: Array) -> bool:
    return x.is_cuda


def floating(x: Array, /) -> Array:
    if x.layout is not torch.strided or x.is_nested:
        raise TypeError(_not_dense(x))
    dtype = x.dtype
    if dtype in _KEPT:
        return x
    if dtype.is_complex or x.is_quantized:
        raise TypeError(f"rewards must be real numbers; got a tensor of dtype {dtype}")
    default = torch.promote_types(torch.get_default_dtype(), torch.float32)
    bits = 8 * dtype.itemsize
    return x.to(
        computing_dtype(dtype, floating=dtype.is_floating_point, bits=bits, float32=torch.float32, default=default)
    )


def _not_dense(x: Array) -> str:
    if x.is_nested:
        return (
            "nested tensors are not supported: pass torch.nested.to_padded_tensor(rewards, 0.0) and a mask of what is "
            "no padding as where, or pass the flat values to group_advantages with the group of each"
        )
    return f"rewards must be dense; got a tensor of layout {x.layout}: pass rewards.to_dense()"


def wide(x: Array, /) -> Array:
    return x if x.device.type == "mps" else x.double()


def cast(x: Array, like: Array, /) -> Array:
    return x.to(like.dtype) if like.dtype.is_floating_point and like.dtype != x.dtype else x


def detach(x: Array, /) -> Array:
    return x.detach() if x.requires_grad or _recorded() else x


def sort(x: Array, /) -> Array:
    return x.sort(-1).values


def take(x: Array, order: Array, /) -> Array:
    return x.expand(order.shape).gather(-1, order)


def unsort(x: Array, order: Array, /) -> Array:
    return x.scatter(-1, order, x)


def cumulate(x: Array, /) -> Array:
    return torch.constant_pad_nd(x.cumsum(-1), (1, 0))


def total(x: Array, /) -> Array:
    return x.sum(-1)


def centred(x: Array, /) -> Array:
    return x.sub(x.sum(-1, True), alpha=1 / x.shape[-1])


def magnitude(x: Array, /) -> float | None:
    x = x.detach() if x.requires_grad else x
    if not _readable(x):
        return None
    if not 0 < x.numel() <= _UNDIVIDED:
        return on_numpy.magnitude(x.numpy())
    low, high = torch.aminmax(x)  # NumPy is as fast alone, but not between calls of PyTorch
    low, high = -low.item(), high.item()
    return low if low > high else high


def constants(make: Callable[..., Constants], like: Array, /, *arguments: Any) -> Constants:
    return _constants(make, like.dtype, like.device, *arguments)


@compiler.assume_constant_result
def _constants(make: Callable[..., Constants], dtype: torch.dtype, device: torch.device, *arguments: Any) -> Constants:
    key = (make, dtype, device, *arguments)
    found = None if _dispatch_modes() else CONSTANTS.get(key)
    return _made(*key) if found is None else found


def _made(make: Callable[..., Constants], dtype: torch.dtype, device: torch.device, *arguments: Any) -> Constants:
    def move(constant: NDArray[Any]) -> Array:
        with torch.inference_mode(False), _untransformed():
            return torch.as_tensor(constant.copy(), dtype=in_dtype(constant, dtype), device=device)

    host = make(*arguments)
    if _dispatch_modes():
        return replaced(host, map(move, host))
    return CONSTANTS.add((make, dtype, device, *arguments), host, move)


def _readable(x: Array) -> bool:
    return x.__class__ is torch.Tensor and x.is_cpu and not _recorded()


def _recorded() -> bool:
    """Return whether anything but the autodiff graph records or transforms what is computed."""
    return bool(
        compiler.is_compiling()
        or _dispatch_modes()
        or _tracing()
        or _forward._current_level >= 0
        or _transforms() is not None
        or (_function_modes() and _has_key(_early))
    )


def on_host(x: Array, /) -> NDArray[Any] | None:
    if not _readable(x) or (x.requires_grad and torch.is_grad_enabled()):
        return None
    return (x.detach() if x.requires_grad else x).numpy()


def asarray(values: Any, like: Array, /) -> Array:
    return torch.as_tensor(values, device=like.device)


def fuses_masked(x: Array, /) -> bool:
    return _has_triton_device(x) and _cuda_kernel(x, x.shape[-1]) is not None


def fused(x: Array, mask: Array | None, slopes: Array, offset: Array, total: Array, /) -> Array | None:
    if _has_triton_device(x):
        cuda = _cuda_kernel(x, x.shape[-1])
        return None if cuda is None else cuda.scan_groups(x, mask, slopes, offset, total)
    if mask is not None or compiler.is_compiling() or host.kernel() is None:
        return None
    values = on_host(x)
    if values is None:
        return None
    out = host.fused(values, None, slopes.numpy(), offset.numpy(), total.numpy(), torch.get_num_threads())
    return None if out is None else _from_numpy(out)


def fused_ragged(x: Array, positions: NDArray[Any], sizes: NDArray[Any], /, *others: Any) -> Array | None:
    if _has_triton_device(x):
        cuda = _cuda_kernel(x, sizes.max(initial=0))
        if cuda is None:
            return None
        row, at, *scans = others
        moved = (torch.as_tensor(scan, dtype=x.dtype, device=x.device) for scan in scans)
        return cuda.scan_ragged(x, positions, sizes, row, at, *moved)
    values = on_host(x)
    if values is None:
        return None
    out = host.fused_ragged(values, positions, sizes, *others, threads=torch.get_num_threads())
    return None if out is None else _from_numpy(out)


def _cuda_kernel(x: Array, largest: int) -> Any:
    """Return the module of the GPU kernel, or None where there is none for such a tensor and the largest group."""
    if x.requires_grad or x.dtype != torch.float32 or not _has_triton():
        return None
    from ordergrad.kernels import cuda

    return cuda if largest <= cuda.LARGEST else None


_triton: dict[str, bool] = {}


def _has_triton() -> bool:
    """Whether there is a Triton that knows tuples, 3.3 or later."""
    if not _triton:
        there = importlib.util.find_spec("triton") is not None
        version = importlib.import_module("triton").__version__ if there else "0.0"
        _triton["usable"] = tuple(int(part) for part in version.split(".")[:2]) >= (3, 3)
    return _triton["usable"]


typed(Any, _has_triton)._dynamo_marked_constant = True
