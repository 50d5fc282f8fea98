"""Every prompt of a log with what to do about it: keep it, drop it, or sample it more often."""

# pyright: reportUnknownMemberType=false

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import polars as pl

from ordergrad.runs.folder import write_rows
from ordergrad.score.columns import Roles
from ordergrad.score.files import Head
from ordergrad.score.logs import Log
from ordergrad.score.opening import table_of
from ordergrad.score.reading import BrokenRows, read
from ordergrad.score.values import SEPARATOR

_SIZES, _MIXED, _ENOUGH = (2, 4, 8, 16, 32, 64, 128, 256), 0.9, 8
_OWN = ("samples", "mean", "sd", "successes", "action", "group_size")


def write_prompts(log: Log, success: float, passes: bool, out: Path) -> dict[str, int]:
    """Write `prompt_rows` as CSV or JSON lines, and return how many of each action there are."""
    rows = prompt_rows(log, success, passes)
    dumps = partial(json.dumps, ensure_ascii=False)
    if out.suffix.lower() == ".csv":
        cells = [{name: dumps(x) if isinstance(x, (list, dict)) else x for name, x in row.items()} for row in rows]
        write_rows(out, cells)
    else:
        out.write_text("".join(dumps(row) + "\n" for row in rows), encoding="utf-8")
    actions = [row["action"] for row in rows]
    return {action: actions.count(action) for action in ("keep", "resample", "drop")}


def prompt_rows(log: Log, success: float, passes: bool) -> list[dict[str, Any]]:
    """Return one row for each prompt: prompt, samples, mean, sd, successes, action, group_size, and what belongs to it.

    ``prompt`` is the group as it is in the log, text or chat messages; a group of several columns keeps their names.
    ``drop``: at least 8 tries, and all pass (or all rewards are equal, where rewards are graded). ``resample``: none
    passes; ``group_size`` is the one in which a success is likely (80%), if the success rate is 1/2 / (tries + 1).
    ``keep``: the others; ``group_size`` is the smallest of 2, 4, ..., 256 in which successes and failures both come up
    in 90% of the groups. Columns of the log that have one value for each prompt, such as its answer, come last.
    `passes` says whether rewards are successes and failures, a success one of at least `success`.
    """
    head = table_of(log.files[0], log.load)
    names = _group_names(log.roles[0])
    kept = _constant(head, log.roles[0])
    x, columns = pl.col("reward"), [f"keep {i}" for i in range(len(kept))]
    sums = [pl.len().alias("samples"), x.sum().alias("sum"), (x**2).sum().alias("squares")]
    sums.append((x >= success).sum().alias("successes"))
    firsts = [pl.col(name).first() for name in columns]
    firsts += [(pl.col(name).n_unique() == 1).alias(f"alike {i}") for i, name in enumerate(columns)]
    parts: list[pl.DataFrame] = []
    for file, roles in zip(log.files, log.roles, strict=True):
        wider = replace(roles, paths=roles.paths | {role: (name,) for role, name in zip(columns, kept, strict=True)})
        for piece in read(file, wider, BrokenRows(skip=True), log.load):
            parts.append(piece.good.group_by("group", maintain_order=True).agg(*sums, *firsts))
    again = [pl.col(f"alike {i}").all().name.prefix("still ") for i in range(len(kept))]
    added = pl.col("samples", "sum", "squares", "successes").sum()
    total = pl.concat(parts).group_by("group", maintain_order=True).agg(added, *firsts, *again)
    about = [i for i in range(len(kept)) if (total[f"alike {i}"] & total[f"still alike {i}"]).all()]
    rows: list[dict[str, Any]] = []
    for found in total.iter_rows(named=True):
        texts = found["group"].split(SEPARATOR) if len(names) > 1 else [found["group"]]
        prompt = {name: _value(text, head, column) for (name, column), text in zip(names.items(), texts, strict=True)}
        more = {kept[i]: _value(found[f"keep {i}"], head, kept[i]) for i in about}
        rows.append(prompt | _row(found, passes) | {k: v for k, v in more.items() if k not in prompt})
    return rows


def _group_names(roles: Roles) -> dict[str, str]:
    """Return what the columns of the group are called in the file, and in the log."""
    columns = [roles.name(role) for role in roles.of("group")]
    return {columns[0] if len(columns) > 1 else "prompt": columns[0]} | {name: name for name in columns[1:]}


def _constant(head: Head, roles: Roles) -> list[str]:
    """Return the columns of which the first rows have one value for each prompt, and more than one sample of some."""
    used = {path[0] for path in roles.paths.values()}
    groups = [tuple(roles.paths[role]) for role in roles.of("group")]
    first: dict[str, dict[str, Any]] = {}
    repeated, differ = False, set[str]()
    for row in head.rows:
        key = json.dumps([row.get(path[0]) for path in groups], default=str)
        if key in first:
            repeated = True
            differ |= {name for name in head.columns if row.get(name) != first[key].get(name)}
        first.setdefault(key, row)
    return [n for n in head.columns if repeated and n not in differ | used | set(_OWN) | {"prompt"}]


def _value(text: Any, head: Head, column: str) -> Any:
    """Return a value of a log as it was, where it came as JSON text, or in an object as `_text` makes them."""
    values = head.values(column)
    if not isinstance(text, str) or all(isinstance(value, str) for value in values):
        return text
    try:
        found: Any = json.loads(text)
    except ValueError:
        return text
    if isinstance(found, dict) and all(isinstance(value, list) for value in values):
        return next(iter(cast("dict[str, Any]", found).values()))
    return cast("Any", found)


def _row(found: dict[str, Any], passes: bool) -> dict[str, Any]:
    n, successes = int(found["samples"]), int(found["successes"])
    mean = found["sum"] / n
    sd = math.sqrt(max(found["squares"] / n - mean**2, 0.0))
    drop = n >= _ENOUGH and (successes == n if passes else sd == 0)
    action = "drop" if drop else "resample" if passes and successes == 0 else "keep"
    size = group_size(successes, n) if passes and not drop else None
    row: dict[str, Any] = {"samples": n, "mean": mean, "sd": sd, "successes": successes if passes else None}
    return row | {"action": action, "group_size": size}


def group_size(successes: int, tries: int) -> int:
    """Return the smallest group size at which a prompt is likely to teach something.

    Example:
        >>> group_size(0, 8), group_size(2, 8), group_size(4, 8)
        (32, 8, 8)
    """
    p = (successes + 0.5) / (tries + 1)
    if successes == 0:
        return next((n for n in _SIZES if 1 - (1 - p) ** n >= 0.8), _SIZES[-1])
    return next((n for n in _SIZES if 1 - p**n - (1 - p) ** n >= _MIXED), _SIZES[-1])
