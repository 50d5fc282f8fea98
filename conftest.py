"""Modules for a package that is optional are collected for their doctests where it is installed."""

from importlib.util import find_spec

_NEEDS = {
    "jax": ["src/ordergrad/backends/jax.py"],
    "numba": ["src/ordergrad/kernels/cpu.py"],
    "skyrl": ["src/ordergrad/adapters/skyrl.py"],
    "torch": ["src/ordergrad/backends/torch.py"],
    "triton": ["src/ordergrad/kernels/cuda.py"],
    "verl": ["src/ordergrad/adapters/verl.py", "src/ordergrad_verl.py"],
}
collect_ignore = [path for package, paths in _NEEDS.items() if find_spec(package) is None for path in paths]
