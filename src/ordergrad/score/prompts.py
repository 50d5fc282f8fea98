"""Every prompt of a log with what to do about it: keep it, drop it, or sample it more often."""

# pyright: reportUnknownMemberType=false

import json
import math
from pathlib import Path
from typing import Any

import polars as pl

from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import write_rows
from ordergrad.score.logs import Log
from ordergrad.score.reading import BrokenRows, read

__all__ = ["group_size", "prompt_rows", "write_prompts"]

_SIZES, _MIXED, _ENOUGH = (2, 4, 8, 16, 32, 64, 128, 256), 0.9, 8


def write_prompts(log: Log, success: float, passes: bool, out: Path) -> dict[str, int]:
    """Write one row for each prompt of a log, as CSV or JSON lines, and return how many of each action there are.

    Args:
        log: The log.
        success: A reward of at least this much is a success.
        passes: Whether rewards are successes and failures.
        out: The file.
    """
    rows = prompt_rows(log, success, passes)
    if out.suffix.lower() == ".csv":
        write_rows(out, rows)
    else:
        out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    actions = [row["action"] for row in rows]
    return {action: actions.count(action) for action in ("keep", "resample", "drop")}


def prompt_rows(log: Log, success: float, passes: bool) -> list[dict[str, Any]]:
    """Return one row for each prompt: prompt, samples, mean, sd, successes, action, group_size.

    ``drop``: at least 8 tries, and all pass (or all rewards are equal, where rewards are graded). ``resample``: none
    passes; ``group_size`` is the one in which a success is likely (80%), if the success rate is 1/2 / (tries + 1).
    ``keep``: the others; ``group_size`` is the smallest of 2, 4, ..., 256 in which successes and failures both come up
    in 90% of the groups.
    """
    if log.columns.group is None:
        raise UserError("--prompts needs groups; this log has none")
    parts: list[pl.DataFrame] = []
    x = pl.col("reward")
    for file, roles in zip(log.files, log.roles, strict=True):
        for piece in read(file, roles, BrokenRows(skip=True), log.load):
            parts.append(piece.good.group_by("group", maintain_order=True).agg(*_sums(x, success)))
    total = pl.concat(parts).group_by("group", maintain_order=True).agg(pl.exclude("group").sum())
    return [_row(row, passes) for row in total.iter_rows(named=True)]


def _sums(x: pl.Expr, success: float) -> list[pl.Expr]:
    return [
        pl.len().alias("samples"),
        x.sum().alias("sum"),
        (x**2).sum().alias("squares"),
        (x >= success).sum().alias("successes"),
    ]


def _row(found: dict[str, Any], passes: bool) -> dict[str, Any]:
    n, successes = int(found["samples"]), int(found["successes"])
    mean = found["sum"] / n
    sd = math.sqrt(max(found["squares"] / n - mean**2, 0.0))
    row: dict[str, Any] = {"prompt": found["group"], "samples": n, "mean": mean, "sd": sd}
    if not passes:
        return row | {"successes": None, "action": "drop" if sd == 0 and n >= _ENOUGH else "keep", "group_size": None}
    if successes == n and n >= _ENOUGH:
        return row | {"successes": successes, "action": "drop", "group_size": None}
    size = group_size(successes, n)
    return row | {"successes": successes, "action": "resample" if successes == 0 else "keep", "group_size": size}


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
