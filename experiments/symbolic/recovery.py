"""Whether an expression is the function that was to be found: exactly, by SymPy.

The difference of the two is first evaluated to fifty digits at ten random points; where it is not zero, that settles
it. Otherwise SymPy has to simplify it to zero. SymPy may take forever, so it runs in a process of its own.

    python experiments/symbolic/recovery.py 2 0 1 "(sin(x)*(cos(y)+cos(y)))" "2*sin(x)*cos(y)"
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

import numpy as np

Verdict = Literal["proved", "digits", "different", "undecided"]
"""Simplified to zero; zero to fifty digits at all points but not simplified; not zero; not evaluated in time."""


def verdict(candidate: str, formula: str, variables: int, low: float, high: float, seconds: float = 30) -> Verdict:
    """What SymPy finds about candidate - formula for variables between low and high, within some seconds."""
    arguments = [str(variables), str(low), str(high), candidate, formula]
    command = [sys.executable, str(Path(__file__)), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, start_new_session=True, check=True)
        said = done.stdout
    except subprocess.TimeoutExpired as expired:
        said = expired.stdout or b""
    words = said.decode().split()
    last = words[-1] if words else "undecided"
    for known in get_args(Verdict):
        if last == known:
            return known
    raise RuntimeError(f"unexpected answer about {candidate!r}: {said!r}")


def decide(candidate: str, formula: str, variables: int, low: float, high: float) -> None:
    """Print what is known about the difference, as soon as it is known."""
    import mpmath
    import sympy

    names = ("x", "y")[:variables]
    symbols = {name: sympy.Symbol(name, positive=True) if low >= 0 else sympy.Symbol(name, real=True) for name in names}
    difference = sympy.sympify(f"({candidate})-({formula})", locals=symbols)
    value = sympy.lambdify(list(symbols.values()), difference, "mpmath")
    rng = np.random.default_rng(0)
    with mpmath.workdps(60):
        for _ in range(10):
            try:
                apart = abs(value(*(mpmath.mpf(rng.uniform(low, high)) for _ in names)))
            except ArithmeticError:
                print("undecided")
                return
            if not apart < mpmath.mpf("1e-50"):
                print("different")
                return
    print("digits", flush=True)
    for simplify in (
        sympy.expand,
        sympy.simplify,
        lambda e: sympy.simplify(sympy.expand_log(sympy.expand(e), force=low >= 0)),
        lambda e: sympy.simplify(sympy.expand_trig(e)),
        lambda e: sympy.simplify(sympy.expand(e.rewrite(sympy.exp))),
    ):
        if simplify(difference) == 0:
            print("proved")
            return


if __name__ == "__main__":
    decide(sys.argv[4], sys.argv[5], int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
