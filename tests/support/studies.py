"""Load the scripts of experiments/ as modules, and read their tables."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "experiments"


def load(name: str) -> ModuleType:
    """Return a script as a module, with its folder to import from, known by its name so that its records pickle."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    path = FOLDER / f"{name}.py"
    if name in sys.modules and sys.modules[name].__file__ == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
