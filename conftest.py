"""Which modules are not collected for their doctests.

Those for an optional package that is not installed, those whose import takes seconds (their tests run the doctests),
and scripts that tests run in environments of their own.
"""

from importlib.util import find_spec

_NEEDS = {
    "jax": ["src/ordergrad/backends/jax.py"],
    "numba": ["src/ordergrad/kernels/cpu.py"],
    "rsl_rl": ["src/ordergrad/adapters/rsl_rl.py"],
    "skrl": ["src/ordergrad/adapters/skrl.py"],
    "skyrl": ["src/ordergrad/adapters/skyrl.py"],
    "torch": ["src/ordergrad/backends/torch.py"],
    "triton": ["src/ordergrad/kernels/cuda.py"],
    "verl": [
        "src/ordergrad/adapters/verl.py",
        "src/ordergrad/adapters/verl_sampling.py",
        "src/ordergrad_verl.py",
    ],
}
_SLOW = [f"src/ordergrad/adapters/{name}.py" for name in ("botorch", "rllib", "torchrl")]
_SCRIPTS = ["tests/support/typed_project", "tests/support/verifiers_logs.py"]
collect_ignore = (
    _SLOW + _SCRIPTS + [path for package, paths in _NEEDS.items() if find_spec(package) is None for path in paths]
)
