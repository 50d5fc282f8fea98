"""Adapters are collected for their doctests where the package that they adapt is installed."""

from importlib.util import find_spec

_NEEDS = {
    "skyrl": ["src/ordergrad/adapters/skyrl.py"],
    "verl": ["src/ordergrad/adapters/verl.py", "src/ordergrad_verl.py"],
}
collect_ignore = [path for package, paths in _NEEDS.items() if find_spec(package) is None for path in paths]
