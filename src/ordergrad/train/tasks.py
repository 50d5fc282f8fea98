"""Prompts and rewards for language models: the Countdown task, or the rows of a file with a reward of your own."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import importlib
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from ordergrad.runs.errors import UserError
from ordergrad.train import countdown

__all__ = ["COUNTDOWN", "Reward", "Task", "brevity", "countdown_level", "load_task"]

COUNTDOWN = "countdown"
Row = dict[str, Any]
Reward = Callable[..., Sequence[float | None]]
_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_TRAINING_PROBLEMS = 8_000


@dataclass(frozen=True)
class Task:
    """What a language model is trained and measured on.

    Attributes:
        train: Rows with a ``prompt`` and the other columns that the reward needs.
        held_out: Rows to evaluate on.
        reward: TRL's reward function: (prompts, completions, **columns) -> one number for each completion, 1 for a
            success.
    """

    train: list[Row]
    held_out: list[Row]
    reward: Reward


def load_task(data: str, reward: str, held_out: int) -> Task:
    """Return the task that ``--data`` and ``--reward`` name.

    Args:
        data: ``countdown``, ``countdown:NUMBERS:LARGEST:TARGET``, or a file with the column ``prompt`` (text, or a
            list of chat messages).
        reward: ``task`` (of Countdown), ``exact`` (the completion is the column ``answer``), ``math`` (it is
            equivalent to it, by math-verify), or ``module:function``, where the module may be in the working folder.
        held_out: How many rows to hold out.

    Raises:
        UserError: The file, its columns, one of its rows or the reward are not what they must be.

    Example:
        >>> task = load_task("countdown", "task", 2)
        >>> len(task.held_out), task.reward(["1,2,3=9:"], ["(1+2)*3"])
        (2, [1.0])
    """
    level = countdown_level(data)
    if level is not None:
        try:
            problems, apart = _countdown_problems(level, held_out)
        except ValueError as error:
            raise UserError(
                f"--data {data} has too few problems to train on {_TRAINING_PROBLEMS} and hold out {held_out}: {error}"
            ) from error
        train, apart = ([{"prompt": problem.prompt} for problem in group] for group in (problems, apart))
        return Task(train, apart, _countdown_reward if reward == "task" else _reward(reward, {"prompt"}, data))
    if reward == "task":
        raise UserError(f"--reward must be exact, math or module:function for a file; got {data} with reward 'task'")
    rows = _read(Path(data))
    if len(rows) <= held_out:
        raise UserError(f"{data} must have more than the {held_out} rows that are held out; it has {len(rows)}")
    function = _reward(reward, set(rows[0]), data)
    _check_rows(rows, data, answers=reward in _REWARDS)
    random.Random(0).shuffle(rows)
    return Task(rows[held_out:], rows[:held_out], function)


@lru_cache(maxsize=1)
def _countdown_problems(
    level: countdown.Level, held_out: int
) -> tuple[list[countdown.Problem], list[countdown.Problem]]:
    """Return the problems to train on and those held out; the same for every run of a command."""
    apart = countdown.problems(held_out, 0, level)
    return countdown.problems(_TRAINING_PROBLEMS, 1, level, exclude=frozenset(apart)), apart


def countdown_level(data: str) -> countdown.Level | None:
    """Return how hard the Countdown problems that ``--data`` names are; None if it names a file.

    Raises:
        UserError: It names Countdown problems that there are not.

    Example:
        >>> countdown_level("countdown:5:9:99")
        Level(numbers=5, largest=9, target=99)
    """
    name, *numbers = data.split(":")
    if name != COUNTDOWN:
        return None
    try:
        level = [int(number) for number in numbers]
        if len(level) not in (0, 3):
            raise ValueError(f"got {len(level)} numbers")
        return countdown.Level(*level)
    except ValueError as error:
        raise UserError(
            f"--data must be {COUNTDOWN}, {COUNTDOWN}:NUMBERS:LARGEST:TARGET or a file; got {data!r} ({error})"
        ) from error


def brevity(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Return minus the number of tokens of every completion: a reward for short ones.

    Example:
        >>> brevity([[5, 6, 7], [5]])
        [-3.0, -1.0]
    """
    return [-float(len(ids)) for ids in completion_ids]


def _read(path: Path) -> list[Row]:
    if path.suffix not in _READERS:
        raise UserError(f"--data must be {COUNTDOWN} or a file ending in {', '.join(_READERS)}; got {path}")
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    from datasets import load_dataset

    try:
        rows = cast("list[Row]", load_dataset(_READERS[path.suffix], data_files=str(path), split="train").to_list())
    except Exception as error:
        raise UserError(f"{path} cannot be read: {error.__cause__ or error}") from error
    if not rows or "prompt" not in rows[0]:
        raise UserError(f"{path} must have the column 'prompt'; it has {', '.join(rows[0]) if rows else 'no rows'}")
    return rows


def _check_rows(rows: Sequence[Row], data: str, *, answers: bool) -> None:
    """Check every row: a prompt of the same kind as the first one's, and an answer where one is needed."""
    chat = isinstance(rows[0]["prompt"], list)
    for number, row in enumerate(rows, 1):
        if not (_is_chat(row["prompt"]) if chat else isinstance(row["prompt"], str) and row["prompt"]):
            raise UserError(
                f"{data} must have text or a list of chat messages {{role, content}} for a prompt, the same in all "
                f"rows; row {number} has {row['prompt']!r:.80}"
            )
        if answers and row["answer"] is None:
            raise UserError(f"{data} must have an answer in every row; row {number} has none")


def _is_chat(prompt: Any) -> bool:
    if not isinstance(prompt, list) or not prompt:
        return False
    messages = cast("list[Any]", prompt)
    return all(isinstance(m, dict) and m.get("role") and m.get("content") is not None for m in messages)


def _reward(name: str, columns: set[str], data: str) -> Reward:
    if name in _REWARDS:
        if "answer" not in columns:
            raise UserError(f"--reward {name} needs the column 'answer'; {data} has {', '.join(sorted(columns))}")
        return _REWARDS[name]
    module, _, function = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--reward must be task, exact, math or module:function; got {name!r} ({error})") from error
    if not callable(found):
        raise UserError(f"--reward {name} is not a function")
    return cast("Reward", found)


def _text(completion: Any) -> str:
    """Return the text of a completion, plain or a list of chat messages."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _countdown_reward(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    pairs = zip(prompts, completions, strict=True)
    return [float(countdown.check(countdown.parse_prompt(prompt), completion)) for prompt, completion in pairs]


def exact(completions: Sequence[Any], answer: Sequence[Any], **_: Any) -> list[float]:
    """Return 1 for every completion that is its answer, white space at the ends aside."""
    return [float(_text(c).strip() == str(a).strip()) for c, a in zip(completions, answer, strict=True)]


def math(completions: Sequence[Any], answer: Sequence[Any], **_: Any) -> list[float | None]:
    """Return 1 for every completion whose last expression equals its answer; None where the answer cannot be read."""
    from math_verify import parse, verify

    rewards: list[float | None] = []
    for completion, truth in zip(completions, answer, strict=True):
        gold = parse(f"${truth}$")
        rewards.append(float(verify(gold, parse(_text(completion)))) if gold else None)
    return rewards


_REWARDS: dict[str, Reward] = {"exact": exact, "math": math}
