"""Countdown: reach a target with the given numbers, each used once. A task with a verifier and no dependencies.

A prompt is ``1,5,7,7=9:``, an answer an arithmetic expression over ``+``, ``-`` and ``*`` that uses every number
exactly once and equals the target. Problems are made from random expressions, so every one has a solution.

The task is that of the British television game; as a test of reasoning models: Gandhi et al. (2024), "Stream of
Search", arXiv 2404.03683.
"""

import ast
import math
import operator
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

ALPHABET = "0123456789+-*(),=:"
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_LONGEST = 256
_PATIENCE = 100_000


@dataclass(frozen=True)
class Level:
    """How many numbers a problem has, and how large they and its target may be; all are at least 1.

    Raises:
        ValueError: There are no such problems.
    """

    numbers: int = 4
    largest: int = 9
    target: int = 50

    def __post_init__(self) -> None:
        for name, least in (("numbers", 2), ("largest", 1), ("target", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must satisfy {name} >= {least}; got {getattr(self, name)}")


_LEVEL = Level()
Item = TypeVar("Item")


@dataclass(frozen=True)
class Problem:
    """Numbers to use, and the target to reach."""

    numbers: tuple[int, ...]
    target: int

    @property
    def prompt(self) -> str:
        """The text that a model is asked to complete."""
        return f"{','.join(map(str, self.numbers))}={self.target}:"


@dataclass(frozen=True)
class Demonstration:
    """A problem with a well-formed answer that uses every number, whether it hits the target or not."""

    problem: Problem
    answer: str
    hit: bool


def problems(
    count: int, seed: int, level: Level = _LEVEL, *, exclude: frozenset[Problem] = frozenset()
) -> list[Problem]:
    """Return different solvable problems: the numbers of each are sorted, as one multiset is one problem.

    The same seed gives the same problems; `exclude` are some that must not occur, such as those held out.

    Raises:
        ValueError: There are too few different problems, or 100,000 expressions gave no new one.

    Example:
        >>> problems(2, seed=0)[0].prompt
        '1,5,7,7=9:'
    """
    most = math.comb(level.numbers + level.largest - 1, level.numbers) * level.target
    if count > most:
        raise ValueError(_too_many(count, f"at most {most}", level))
    seen = set(exclude)

    def new(problem: Problem, _: ast.expr) -> Problem | None:
        if problem in seen:
            return None
        seen.add(problem)
        return problem

    return _drawn(count, random.Random(seed), level, new)


def demonstrations(
    count: int, seed: int, level: Level = _LEVEL, *, hit_rate: float = 0.5, exclude: frozenset[Problem] = frozenset()
) -> list[Demonstration]:
    """Return well-formed answers, a share of which reaches its target: a start from which reinforcement can learn.

    The others belong to another problem's target. Problems to `exclude` do not occur.

    Raises:
        ValueError: The share is out of range, or 100,000 expressions gave no problem outside `exclude`.

    Example:
        >>> [d.hit for d in demonstrations(4, seed=0)]
        [True, True, False, False]
    """
    if not 0 <= hit_rate <= 1:
        raise ValueError(f"hit_rate must satisfy 0 <= hit_rate <= 1; got {hit_rate}")
    draw = random.Random(seed)

    def shown(problem: Problem, solution: ast.expr) -> Demonstration | None:
        hit = draw.random() < hit_rate
        if not hit:
            others = [t for t in range(1, level.target + 1) if t != problem.target]
            problem = Problem(problem.numbers, draw.choice(others or [problem.target]))
        answer = ast.unparse(solution).replace(" ", "")
        return None if problem in exclude else Demonstration(problem, answer, hit)

    return _drawn(count, draw, level, shown)


def longest_answer(level: Level) -> int:
    """Return the length of the longest demonstration: its numbers, operators, and parentheses about all but the whole.

    Example:
        >>> longest_answer(Level(4)), len("9*(9*(9-8))")
        (11, 11)
    """
    return level.numbers * len(str(level.largest)) + (level.numbers - 1) + 2 * (level.numbers - 2)


def check(problem: Problem, answer: str) -> bool:
    """Return whether an answer uses every number exactly once and equals the target.

    Example:
        >>> check(Problem((1, 2, 3), 9), "(1+2)*3"), check(Problem((1, 2, 3), 9), "3*3")
        (True, False)
    """
    result = evaluate(answer)
    return result is not None and result[0] == problem.target and sorted(result[1]) == sorted(problem.numbers)


def evaluate(answer: str) -> tuple[int, list[int]] | None:
    """Return the value of an expression and the numbers in it; None for anything but whole numbers and ``+ - *``.

    The text is parsed, never executed.

    Example:
        >>> evaluate("2*(3+4)"), evaluate("2**9"), evaluate("abs(2)")
        ((14, [2, 3, 4]), None, None)
    """
    if len(answer) > _LONGEST or not set(answer) <= set("0123456789+-*()"):
        return None
    try:
        tree = ast.parse(answer, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    used: list[int] = []
    value = _value(tree.body, used)
    return None if value is None else (value, used)


def parse_prompt(prompt: str) -> Problem:
    """Return the problem that a prompt states.

    Raises:
        ValueError: The text is not of the form ``3,5,7=42:``.

    Example:
        >>> parse_prompt("3,5,7=42:")
        Problem(numbers=(3, 5, 7), target=42)
    """
    try:
        numbers, target = prompt.removesuffix(":").split("=")
        return Problem(tuple(int(number) for number in numbers.split(",")), int(target))
    except ValueError:
        raise ValueError(f"prompt must be of the form '3,5,7=42:'; got {prompt!r}") from None


def _value(node: ast.expr, used: list[int]) -> int | None:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return node.value
    if not isinstance(node, ast.BinOp):
        return None
    left, right = _value(node.left, used), _value(node.right, used)
    compute = _OPERATORS.get(type(node.op))
    return None if left is None or right is None or compute is None else compute(left, right)


def _drawn(
    count: int, draw: random.Random, level: Level, take: Callable[[Problem, ast.expr], Item | None]
) -> list[Item]:
    """Return what `take` makes of problems and their solutions, from random expressions; None is left out."""
    found: list[Item] = []
    misses = 0
    while len(found) < count:
        chosen = [draw.randint(1, level.largest) for _ in range(level.numbers)]
        tree = _tree(draw, [ast.Constant(number) for number in chosen])
        value = _value(tree, [])
        taken = None
        if value is not None and 1 <= value <= level.target:
            taken = take(Problem(tuple(sorted(chosen)), value), tree)
        if taken is not None:
            found.append(taken)
            misses = 0
        elif (misses := misses + 1) == _PATIENCE:
            raise ValueError(_too_many(count, f"found {len(found)}", level))
    return found


def _too_many(count: int, known: str, level: Level) -> str:
    return (
        f"count must not exceed the number of problems that are not excluded; got count={count}, "
        f"{known} with {level.numbers} numbers up to {level.largest} and targets up to {level.target}"
    )


def _tree(draw: random.Random, leaves: list[ast.expr]) -> ast.expr:
    """Join random pairs of expressions by random operators until one is left."""
    while len(leaves) > 1:
        left = leaves.pop(draw.randrange(len(leaves)))
        right = leaves.pop(draw.randrange(len(leaves)))
        leaves.append(ast.BinOp(left, draw.choice(list(_OPERATORS))(), right))
    return leaves[0]
