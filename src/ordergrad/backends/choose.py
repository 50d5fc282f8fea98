"""Which backend serves an array."""

import importlib
from typing import Any, cast

from ordergrad.backends import numpy
from ordergrad.backends.contract import Array, Backend

_BACKENDS: list[Backend] = [numpy]
_BY_TYPE: dict[type, int] = {numpy.xp.ndarray: 0, list: 0, tuple: 0}


def backend_of(array: Array) -> Backend:
    """Return the backend of an array; that of NumPy for lists, numbers and anything else that NumPy converts.

    Raises:
        TypeError: The array is of a kind that cannot be served; the message names what to pass instead.
    """
    index = _known(array.__class__)
    return _BACKENDS[_register(array) if index < 0 else index]


def _known(kind: type) -> int:
    """Return the index of the backend of an array type, -1 for a type that was not met before; loads PyTorch's."""
    index = _BY_TYPE.get(kind, -1)
    if index < 0 and _is(kind, "torch", "Tensor"):
        _refuse(kind)
        index = _add(kind, cast(Backend, importlib.import_module("ordergrad.backends.torch")))
    return index


cast(Any, _known)._dynamo_marked_constant = True  # torch.compile runs it, also in a first call, and traces what follows


def _register(array: Array) -> int:
    import array_api_compat

    compat: Any = array_api_compat
    _refuse(array.__class__)
    if compat.is_jax_array(array):
        return _add(array.__class__, cast(Backend, importlib.import_module("ordergrad.backends.jax")))
    if compat.is_numpy_array(array) or not compat.is_array_api_obj(array):
        return _add(array.__class__, numpy)
    from ordergrad.backends.standard import Standard

    xp = compat.array_namespace(array)
    known = [backend for backend in _BACKENDS if backend.xp is xp]
    return _add(array.__class__, known[0] if known else Standard(xp))


def _add(kind: type, backend: Backend) -> int:
    if backend not in _BACKENDS:
        _BACKENDS.append(backend)
    _BY_TYPE[kind] = _BACKENDS.index(backend)
    return _BY_TYPE[kind]


def _is(kind: type, module: str, name: str = "") -> bool:
    """Whether a type is, or inherits from, one of a module or the modules below it, and of that name if given."""
    return any(f"{base.__module__}.".startswith(f"{module}.") and name in ("", base.__name__) for base in kind.__mro__)


_REFUSED = {
    ("dask", ""): "dask arrays are not supported: pass rewards.compute(), or rewards.map_blocks(function) with the "
    "groups whole in every block",
    ("scipy.sparse", ""): "sparse arrays are not supported: pass rewards.toarray()",
    ("sparse", ""): "sparse arrays are not supported: pass rewards.todense()",
    ("jax.experimental.sparse", ""): "sparse arrays are not supported: pass rewards.todense()",
    ("torch.distributed", "DTensor"): "DTensors are not supported: pass rewards.full_tensor(), or rewards.to_local() "
    "if every group lies whole on one rank",
    ("torch.masked", "MaskedTensor"): "masked tensors are not supported: pass rewards.get_data(), and "
    "where=rewards.get_mask()",
    ("torch.fx", "Proxy"): "torch.fx.symbolic_trace cannot look inside: call the estimator in a function of your own "
    "that torch.fx.wrap keeps whole, or trace with torch.export or torch.compile",
}
"""Arrays that cannot be served, by the module and name of their type, and what to do instead."""


def _refuse(kind: type) -> None:
    for (module, name), reason in _REFUSED.items():
        if _is(kind, module, name):
            raise TypeError(reason)
