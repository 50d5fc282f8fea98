"""The source of other packages, read without importing them: many need a GPU or many more packages to be imported."""

import ast
import functools
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@functools.cache
def module_file(module: str) -> Path:
    """Return the file of a module, or skip the test if its package is not installed."""
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    for folder in spec.submodule_search_locations:
        for path in (Path(folder, *rest).with_suffix(".py"), Path(folder, *rest, "__init__.py")):
            if path.is_file():
                return path
    pytest.fail(f"{package} has no module {module} any more")


@functools.cache
def module_text(module: str) -> str:
    """Return the source of a module, or skip the test if its package is not installed."""
    return module_file(module).read_text()


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(module_text(module))


def definition(module: str, name: str) -> Definition:
    """Return a function, class or method of a module, or fail."""
    node: Any = _tree(module)
    for part in name.split("."):
        found = [n for n in ast.walk(node) if isinstance(n, Definition) and n.name == part and n is not node]
        if not found:
            pytest.fail(f"{module} has no {name} any more")
        node = found[0]
    return node


def parameters(module: str, name: str) -> list[str]:
    """Return the names of the parameters of a function or method, without ``self`` and ``cls``."""
    arguments = definition(module, name).args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    names += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    names += [a.arg for a in arguments.kwonlyargs]
    names += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return [n for n in names if n not in ("self", "cls")]


def text(module: str, name: str) -> str:
    """Return the source of a function, class or method of a module."""
    return ast.get_source_segment(module_text(module), definition(module, name)) or ""


def executed(module: str, *names: str, **given: Any) -> SimpleNamespace:
    """Execute definitions of a module, and nothing else of it, with stand-ins for what they refer to.

    Args:
        module: The module.
        *names: Functions, classes or methods; a method becomes a function.
        **given: What the definitions refer to.
    """
    nodes = [definition(module, name) for name in names]
    program = ast.Module([ast.parse("from __future__ import annotations").body[0], *nodes], type_ignores=[])
    namespace = dict(given)
    exec(compile(program, str(module_file(module)), "exec"), namespace)
    return SimpleNamespace(**{node.name: namespace[node.name] for node in nodes})
