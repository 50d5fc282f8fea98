"""The doctests of modules whose import takes seconds, which are not collected with the others (see conftest.py)."""

import doctest
import importlib


def check_doctests(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed
