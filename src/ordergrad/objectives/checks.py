"""Checks of the numbers that define an objective, and their text."""

import math
from numbers import Integral, Real

__all__ = ["check_count", "check_half", "check_level", "check_wide", "number_text", "real_number", "whole_number"]


def real_number(name: str, value: object) -> float:
    """Return a finite real number as a float; errors name it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number; got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite; got {name}={value}")
    return number


def whole_number(name: str, value: object) -> int:
    """Return a whole number of at least 1; errors name it."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number; got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must satisfy {name} >= 1; got {name}={value}")
    return int(value)


def check_count(name: str, value: object, k: float) -> None:
    """Check a number of ranks out of k."""
    if whole_number(name, value) > math.floor(k):
        raise ValueError(f"{name} must satisfy 1 <= {name} <= k; got {name}={value}, k={number_text(k)}")


def check_level(name: str, value: float, include_one: bool = False) -> None:
    """Check a quantile level."""
    if not (0 < real_number(name, value) < 1 or (include_one and value == 1)):
        raise ValueError(f"{name} must satisfy 0 < {name} {'<=' if include_one else '<'} 1; got {name}={value}")


def check_half(name: str, value: float) -> None:
    """Check a share that is cut from both ends."""
    if not 0 <= real_number(name, value) < 0.5:
        raise ValueError(f"{name} must satisfy 0 <= {name} < 0.5; got {name}={value}")
    check_wide(f"1 - 2 {name}", 1 - 2 * value)


def check_wide(name: str, share: float) -> None:
    """Check that more than a quantile lies between two levels."""
    if share < 1e-9:
        raise ValueError(f"{name} must be at least 1e-9, or all that is left is a quantile; got {share}")


def number_text(value: float) -> str:
    """Return the shortest text that reads back as the same number.

    Example:
        >>> number_text(8.0), number_text(10**17 + 1), number_text(0.1)
        ('8', '100000000000000001', '0.1')
    """
    if isinstance(value, Integral):
        return str(int(value))
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
