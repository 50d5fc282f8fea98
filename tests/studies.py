"""Loading of the scripts in experiments/, which are no package."""

import importlib.util
import sys
from pathlib import Path


def load(name, monkeypatch):
    """Return the module of experiments/NAME.py, under its name so that its classes pickle."""
    path = Path(__file__).parents[1] / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module
