"""Generic tables: columns by their usual names, JSON values, NumPy arrays."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from ordergrad.runs.errors import UserError
from ordergrad.score.columns import Columns
from ordergrad.score.files import Head, head
from ordergrad.score.formats.plan import NoLogError, Plan, number, text_table

_IDS = ("prompt_id", "group_id", "question_id", "problem_id", "task_id", "example_id", "doc_id", "instance_id")
_GROUPS = ("group", *_IDS, "uid", "prompt", "question", "problem", "task", "input")
_REWARDS = ("reward", "rewards", "score", "scores", "return", "returns", "passed", "correct", "is_correct", "success")
_STEPS = ("step", "global_step")
_LENGTHS = (
    *("completion_tokens", "num_output_tokens", "output_tokens", "response_tokens", "num_tokens", "tokens"),
    *("completion_length", "response_length", "output_length", "length"),
)
_TEXTS = ("completion", "output_response", "output", "response", "generation")
_FORMAT = re.compile(r"(?:^|[_.\s])format(?:$|[_.\s])", re.IGNORECASE)


def read_table(head: Head) -> Plan | None:
    """A table whose columns have usual names, no two of which would give different numbers."""
    reward, group = usual_reward(head), usual_group(head)
    if reward is None or group is None:
        return None
    lists = [value for value in head.values(reward) if isinstance(value, list)]
    several = lists and len(_partition(head, group)) > len(set(_partition(head, group)))
    if several and len({len(value) for value in lists}) > 1:
        return None  # one list for each sample, one number for each token: or not
    return Plan("a table", Columns(group, reward, step=default_step(head)))


def usual_reward(head: Head) -> str | None:
    """Return the column whose name says that it is the reward."""
    return _one(head, [name for name in head.columns if name.lower() in _REWARDS], _values)


def usual_group(head: Head) -> str | None:
    """Return the column whose name says that it is the group."""
    return _one(head, [name for name in head.columns if name.lower() in _GROUPS], _partition)


def default_step(head: Head) -> str | None:
    """Return the column that says at which step a row was made, if its name does."""
    return next((name for name in _STEPS if name in head.columns), None)


def usual_length(head: Head) -> str | None:
    """Return the column whose name says that it counts generated tokens, or the one with the text."""
    numbers = (n for n in _LENGTHS if n in head.columns and _all(head, n, lambda x: x >= 0))
    return next(numbers, None) or next((name for name in _TEXTS if head.values(name)), None)


def usual_format(head: Head) -> str | None:
    """Return the column that says whether the format is right by its name, if there is one, of values from 0 to 1."""
    names = [name for name in head.columns if _FORMAT.search(name) and _all(head, name, lambda x: 0 <= x <= 1)]
    return names[0] if len(names) == 1 else None


def _all(head: Head, name: str, holds: Callable[[float], bool]) -> bool:
    values = [number(value) for value in head.values(name)]
    return bool(values) and all(value is not None and holds(value) for value in values)


def _one(head: Head, names: Sequence[str], content: Any) -> str | None:
    """Return the first of columns that hold the same, None if there is none or they differ."""
    ranked = sorted(names, key=lambda name: (*_GROUPS, *_REWARDS).index(name.lower()))
    if ranked and ranked[0].lower() in ("group", "reward"):
        return ranked[0]
    several = [name for name in ranked if len(set(map(str, content(head, name)))) < len(head.rows)] or ranked
    return several[0] if several and len({str(content(head, name)) for name in several}) == 1 else None


def _values(head: Head, name: str) -> list[Any]:
    values = [row.get(name) for row in head.rows]
    return [value if number(value) is None else number(value) for value in values]


def _partition(head: Head, name: str) -> list[int]:
    """Return for every row which group it is in, numbered as they come."""
    seen: dict[str, int] = {}
    return [seen.setdefault(str(row.get(name)), len(seen)) for row in head.rows]


def as_table(head: Head) -> tuple[Head, Plan | None]:
    """Return the head of a JSON document that is a table, or the plan of one that is groups of numbers."""
    document = head.document()
    if isinstance(document, dict):
        parts = cast("dict[str, Any]", document)
        tables = [value for value in parts.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if len(tables) == 1:
            document = tables[0]
        elif parts and all(_numbers(value) for value in parts.values()):
            return head, Plan("JSON lists by group", Columns("group", "reward"), _lists)
    if isinstance(document, list) and document:
        rows = cast("list[Any]", document)
        if all(isinstance(row, dict) for row in rows):
            names = tuple(dict.fromkeys(name for row in rows for name in row))
            return Head(head.file, "document", names, tuple(rows[:100])), None
        if all(_numbers(row) for row in rows):
            return head, Plan("JSON, a list for each group", Columns("group", "reward"), _lists)
        if _numbers(rows):
            return head, Plan("JSON, one list", Columns(None, "reward"), _lists)
    outline = (
        f"an object with {', '.join(list(document)[:8])}" if isinstance(document, dict) else type(document).__name__
    )
    raise NoLogError(f"{head.file} is a JSON document, and no table of samples: it is {outline}")


def load_rows(file: Path) -> pl.DataFrame:
    """Return the rows of a JSON document that is a table."""
    document = head(file).document()
    if isinstance(document, dict):
        document = next(v for v in document.values() if isinstance(v, list) and v and isinstance(v[0], dict))
    return text_table(document)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(x, (int, float)) for x in value)


def _lists(file: Path) -> pl.DataFrame:
    document = head(file).document()
    if isinstance(document, list) and _numbers(document):
        document = [document]
    groups = document.items() if isinstance(document, dict) else enumerate(document)
    rows = [(str(name), float(x)) for name, values in groups for x in values]
    return pl.DataFrame(rows, schema={"group": pl.String, "reward": pl.Float64}, orient="row")


def read_array(head: Head) -> Plan | None:
    """A NumPy array: rewards of one group, or a row for each group."""
    if head.kind != "numpy":
        return None
    array = _array(head.file)
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiub":
        raise NoLogError(
            f"{head.file} must hold numbers, shape (samples,) or (groups, samples); got shape {array.shape} of "
            f"{array.dtype}"
        )
    name = f"a NumPy array, {' x '.join(map(str, array.shape))}"
    return Plan(name, Columns("group" if array.ndim == 2 else None, "reward"), _from_array)


def _array(file: Path) -> Any:
    try:
        found = np.load(file, allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if isinstance(found, np.ndarray):
        return found
    with found:
        names = found.files
        chosen = names[0] if len(names) == 1 else next((name for name in _REWARDS if name in names), None)
        if chosen is None:
            raise NoLogError(f"{file} holds several arrays ({', '.join(names)}); save the rewards as one .npy file")
        return found[chosen]


def _from_array(file: Path) -> pl.DataFrame:
    array = _array(file).astype(np.float64)
    groups = np.repeat(np.arange(len(array)), array.shape[1] if array.ndim == 2 else 1)
    return pl.DataFrame({"group": groups, "reward": array.ravel()})


def unknown(head: Head) -> str:
    """Return what a file holds, and the flags that would read it."""
    if not head.columns:
        return f"{head.file} is no log that can be read"
    lines: list[str] = []
    numeric: list[str] = []
    for name in head.columns[:30]:
        values = head.values(name)
        shown = ", ".join(str(value).replace("\n", " ")[:24] for value in values[:3])
        lines.append(f"  {name or '(no name)':<24} {shown}"[:100])
        if values and all(number(value) is not None or isinstance(value, bool) for value in values):
            numeric.append(name)
    rewards = [name for name in head.columns if name.lower() in _REWARDS]
    groups = [name for name in head.columns if name.lower() in _GROUPS and name not in rewards]
    repeated = [name for name in head.columns if 1 < len(set(_partition(head, name))) < len(head.rows)]
    groups = groups or [name for name in repeated if name not in rewards][:1]
    rewards = rewards or [name for name in numeric if name not in groups]
    flags = f"--reward {rewards[0] if rewards else 'COLUMN'}"
    flags += f" --group {groups[0]}" if groups and groups[0] != (rewards or [""])[0] else " --ungrouped"
    if any(isinstance(value, list) for name in rewards[:1] for value in head.values(name)):
        flags += " --lists samples (or sum)"
    more = f"\n  ... and {len(head.columns) - 30} more" if len(head.columns) > 30 else ""
    return (
        f"{head.file} is of no tool that is known, and which of its columns is the reward and which the group cannot "
        "be told. Its columns and first values:\n" + "\n".join(lines) + more + f"\nName them, for instance: {flags}"
        " (several columns: a+b; rows without groups: --ungrouped)"
    )
