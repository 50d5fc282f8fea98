"""Prompts and rewards for language models: the Countdown task, or the rows of a file with a reward of your own."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import importlib
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from ordergrad.evaluate.rewards import Reward
from ordergrad.runs.errors import UserError
from ordergrad.train import countdown

COUNTDOWN, HELD_OUT = "countdown", "held-out"
Row = dict[str, Any]
_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_TRAINING_PROBLEMS = 8_000


@dataclass(frozen=True)
class Task:
    """What a language model is trained and measured on.

    Attributes:
        train: Rows with a ``prompt`` and the columns that the reward needs.
        tests: Sets of rows that are not trained on, by name.
        reward: A reward function of TRL: (prompts, completions, completion_ids, **columns) -> one number or None for
            each completion; plain or async.
    """

    train: list[Row]
    tests: dict[str, list[Row]]
    reward: Reward


def load_task(data: str, reward: str, held_out: int, tests: Sequence[str] = (), system: str = "") -> Task:
    """Return the task that ``--data``, ``--test`` and ``--reward`` name.

    Args:
        data: ``countdown``, ``countdown:NUMBERS:LARGEST:TARGET``, or a file with the column ``prompt`` (text, or a
            list of chat messages).
        reward: ``task`` (of Countdown), ``exact`` (the completion is the column ``answer``), ``math`` (it ends in
            something equivalent to it, by math-verify), or ``module:function``, where the module may be in the working
            folder.
        held_out: How many rows to hold out where no tests are given; of each test, how many rows to use.
        tests: Files to measure on, each ``FILE`` or ``NAME=FILE``.
        system: A system prompt for every row, which makes texts into chats.

    Raises:
        UserError: A file, its columns, one of its rows or the reward are not what they must be.

    Example:
        >>> task = load_task("countdown", "task", 2)
        >>> len(task.tests["held-out"]), task.reward(["1,2,3=9:"], ["(1+2)*3"])
        (2, [1.0])
    """
    named = named_files(tests)
    level = countdown_level(data)
    if level is not None:
        try:
            problems, apart = _countdown_problems(level, held_out)
        except ValueError as error:
            raise UserError(
                f"--data {data} has too few problems to train on {_TRAINING_PROBLEMS} and hold out {held_out}: {error}"
            ) from error
        train, apart = ([{"prompt": problem.prompt} for problem in group] for group in (problems, apart))
        function = _countdown_reward if reward == "task" else _reward(reward, {"prompt"}, data)
    else:
        train, function = _file(data, reward)
        random.Random(0).shuffle(train)
        apart = [] if named else train[:held_out]
        train = train[len(apart) :]
        if not train:
            raise UserError(
                f"{data} must have more than the {held_out} rows that are held out; it has {len(apart)}. Raise its "
                "rows, lower --eval-problems, or give --test"
            )
    sets = {name: _file(file, reward)[0][:held_out] for name, file in named.items()} or {HELD_OUT: apart}
    seen = {str(row["prompt"]) for row in train}
    for name, rows in sets.items():
        known = sum(str(row["prompt"]) in seen for row in rows)
        if named and known:
            raise UserError(f"the test set {name} must not be trained on; {known} of its prompts are in {data}")
    return Task(_asked(train, system), {name: _asked(rows, system) for name, rows in sets.items()}, function)


def load_problems(data: str, reward: str, most: int, system: str = "") -> tuple[list[Row], Reward]:
    """Return problems to evaluate on and their reward function: the rows of a file, or Countdown's held-out problems.

    The arguments and errors are those of `load_task`, `most` the most problems to take.
    """
    if countdown_level(data) is not None:
        task = load_task(data, reward, most, (), system)
        return task.tests[HELD_OUT], task.reward
    rows, function = _file(data, reward)
    return _asked(rows[:most], system), function


def named_files(files: Sequence[str]) -> dict[str, str]:
    """Return files by their names, each given as ``FILE`` or ``NAME=FILE``.

    Raises:
        UserError: Two have the same name.

    Example:
        >>> named_files(["gsm8k=a/test.jsonl", "b/hard.csv"])
        {'gsm8k': 'a/test.jsonl', 'hard': 'b/hard.csv'}
    """
    parts = [text.partition("=") for text in files]
    pairs = [(name, file) if equals else (Path(name).stem, name) for name, equals, file in parts]
    named = dict(pairs)
    if len(named) < len(pairs):
        raise UserError(f"test sets must have different names, as NAME=FILE; got {', '.join(files)}")
    return named


def with_system_prompt(prompt: Any, system: str) -> Any:
    """Return a prompt that begins with a system message, instead of its own; text becomes a chat.

    Example:
        >>> with_system_prompt("1 + 1?", "Be brief.")
        [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': '1 + 1?'}]
    """
    if not system:
        return prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    own = messages[0]["role"] == "system"
    return [{"role": "system", "content": system}, *messages[own:]]


def _asked(rows: Sequence[Row], system: str) -> list[Row]:
    return [{**row, "prompt": with_system_prompt(row["prompt"], system)} for row in rows]


def _file(data: str, reward: str) -> tuple[list[Row], Reward]:
    """Return the checked rows of a file, and the reward function."""
    if reward == "task":
        raise UserError(f"--reward must be exact, math or module:function for a file; got {data} with reward 'task'")
    rows = _read(Path(data))
    function = _reward(reward, set(rows[0]), data)
    _check_rows(rows, data, answers=reward in _REWARDS)
    return rows, function


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
        UserError: There are no such Countdown problems.

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
    if not callable(found) or isinstance(found, type):
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
    r"""Return 1 for every completion that ends in its answer, by math-verify; None where the answer cannot be read.

    The end of a completion is the content of its last ``\boxed{}``, else its last formula between dollars, else, for
    an answer that is a number, its last number. An unevaluated sum or product does not count as a number, so
    repeating the question does not pay.
    """
    return [_equivalent(_text(c), str(a)) for c, a in zip(completions, answer, strict=True)]


_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?%?")
_FORMULAS = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_UNFINISHED = re.compile(r"(?<=[\w)}\s])\s*(?:[-+*×·÷]|\\times|\\cdot|\\div)\s*[\d(\\]")  # an operator between terms


def _equivalent(completion: str, answer: str) -> float | None:
    from math_verify import parse, verify

    gold = parse(f"${answer}$", fallback_mode="no_fallback")
    if not gold:
        return None
    numeric = _NUMBER.fullmatch(answer.strip().lstrip("+")) is not None
    formulas = ["", *(next(filter(None, match.groups())) for match in _FORMULAS.finditer(completion))]
    found = _boxed(completion) or formulas[-1]
    if numeric:
        numbers = _NUMBER.findall(completion)
        found = found.split("=")[-1].strip() if found else numbers[-1] if numbers else None
        if found is None or _UNFINISHED.search(found):
            return 0.0
    ours = parse(f"${found}$" if found else completion, fallback_mode="no_fallback")
    return float(bool(ours) and verify(gold, ours))


def _boxed(text: str) -> str | None:
    """Return what is in the last closed box of a text, by LaTeX's command."""
    begin = text.rfind("\\boxed{")
    depth = 0
    for place in range(begin + 6, len(text)) if begin >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin + 7 : place]
    return None


_REWARDS: dict[str, Reward] = {"exact": exact, "math": math}
