"""Expressions in prefix order: their tokens, their values on many points at once, the Nguyen problems.

A batch of expressions is an int8 array (expressions, length) of indices into `TOKENS`, padded with `PAD`.

References:
    Uy et al. (2011). Semantically-based crossover in genetic programming: application to real-valued symbolic
        regression. Genetic Programming and Evolvable Machines 12. (the Nguyen problems)
    Petersen et al. (2021). Deep symbolic regression. ICLR, arXiv 1912.04871. (reward)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TOKENS = ("+", "-", "*", "/", "sin", "cos", "exp", "log", "x", "y")
ARITY = np.array([2, 2, 2, 2, 1, 1, 1, 1, 0, 0])
PAD = -1
VARIABLES = ("x", "y")

_FUNCTIONS: tuple[Callable[..., np.ndarray], ...] = (
    *(np.add, np.subtract, np.multiply, np.divide),
    *(np.sin, np.cos, np.exp, np.log),
)


def tokens_for(variables: int) -> int:
    """How many of the tokens a problem of so many variables uses: all but the variables it has not."""
    return len(TOKENS) - len(VARIABLES) + variables


def encode(text: str) -> np.ndarray:
    """The indices of tokens separated by blanks."""
    return np.array([TOKENS.index(token) for token in text.split()], dtype=np.int8)


def decode(tokens: np.ndarray) -> str:
    return " ".join(TOKENS[token] for token in tokens if token != PAD)


def infix(tokens: np.ndarray) -> str:
    """The expression as SymPy and people read it."""
    stack: list[str] = []
    for token in reversed([int(token) for token in tokens if token != PAD]):
        parts = [stack.pop() for _ in range(ARITY[token])]
        name = TOKENS[token]
        if len(parts) == 2:
            stack.append(f"({parts[0]}{name}{parts[1]})")
        else:
            stack.append(f"{name}({parts[0]})" if parts else name)
    (text,) = stack
    return text


def evaluate(tokens: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of all expressions at all points, shape (expressions, points); NaN where any part of it is not finite.

    Args:
        tokens: Expressions, shape (expressions, length).
        points: Shape (variables, points).

    Read from the last token backwards, an operator finds its operands on top of a stack, the first one uppermost.
    """
    n, length = tokens.shape
    steps = np.where(tokens == PAD, 0, 1 - ARITY[tokens])
    heights = np.cumsum(steps[:, ::-1], axis=1)
    stack = np.empty((int(heights.max(initial=1)) + 1, n, points.shape[1]))
    top = np.full(n, -1)
    with np.errstate(all="ignore"):
        for column in reversed(range(length)):
            present = tokens[:, column]
            for token in np.bincount(present + 1, minlength=1)[1:].nonzero()[0].tolist():
                rows = (present == token).nonzero()[0]
                place, arity = top[rows], ARITY[token]
                if arity == 0:
                    stack[place + 1, rows] = points[token - len(_FUNCTIONS)]
                else:
                    operands = [stack[place - i, rows] for i in range(arity)]
                    values = _FUNCTIONS[token](*operands)
                    values += 0 * values  # infinities become NaN, so that x / (1 / 0) is no way to write 0
                    stack[place - arity + 1, rows] = values
                top[rows] = place - arity + 1
    return stack[0]


def errors(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Root mean squared errors in units of the target's standard deviation; infinite where a value is not finite."""
    with np.errstate(all="ignore"):
        found = np.sqrt(np.mean((values - target) ** 2, axis=1)) / target.std()
    return np.where(np.isfinite(found), found, np.inf)


@dataclass(frozen=True)
class Problem:
    """A function to find, and the range of its points."""

    formula: str  # as SymPy reads it
    variables: int
    low: float
    high: float
    solution: str  # in our tokens, the shortest that we know

    def points(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """Random points, shape (variables, number)."""
        return rng.uniform(self.low, self.high, (self.variables, number))

    def target(self, points: np.ndarray) -> np.ndarray:
        """The function at points."""
        return evaluate(encode(self.solution)[None], points)[0]


NGUYEN = {
    "Nguyen-1": Problem("x**3+x**2+x", 1, -1, 1, "+ x * x + x * x x"),
    "Nguyen-2": Problem("x**4+x**3+x**2+x", 1, -1, 1, "+ x * x + x * x + x * x x"),
    "Nguyen-3": Problem("x**5+x**4+x**3+x**2+x", 1, -1, 1, "+ x * + x * x x + x * x * x x"),
    "Nguyen-4": Problem("x**6+x**5+x**4+x**3+x**2+x", 1, -1, 1, "* + x * x + x * x x + / x x * x * x x"),
    "Nguyen-5": Problem("sin(x**2)*cos(x)-1", 1, -1, 1, "- * sin * x x cos x / x x"),
    "Nguyen-6": Problem("sin(x)+sin(x+x**2)", 1, -1, 1, "+ sin x sin + x * x x"),
    "Nguyen-7": Problem("log(x+1)+log(x**2+1)", 1, 0, 2, "log + / x x + x * x + x * x x"),
    "Nguyen-8": Problem("sqrt(x)", 1, 0, 4, "exp * log x / x + x x"),
    "Nguyen-9": Problem("sin(x)+sin(y**2)", 2, 0, 1, "+ sin x sin * y y"),
    "Nguyen-10": Problem("2*sin(x)*cos(y)", 2, 0, 1, "* sin x + cos y cos y"),
    "Nguyen-11": Problem("x**y", 2, 0, 1, "exp * y log x"),
    "Nguyen-12": Problem("x**4-x**3+y**2/2-y", 2, 0, 1, "+ * * x x - * x x x - / * y * y y + y y y"),
}


def data(problem: str, seed: int, number: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """The points and targets that a run with this seed sees."""
    rng = np.random.default_rng([seed, list(NGUYEN).index(problem)])
    points = NGUYEN[problem].points(rng, number)
    return points, NGUYEN[problem].target(points)
