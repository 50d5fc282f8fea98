"""A plan: which tool wrote a log, its columns, and how to load it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ordergrad.runs.errors import UserError
from ordergrad.score.columns import Columns
from ordergrad.score.files import json_text


class NoLogError(UserError):
    """A recognised file that holds no rewards of samples."""


@dataclass(frozen=True)
class Plan:
    """How the log of a tool is to be read.

    Attributes:
        load: Turns a file that is not a table into one.
        apart: Splits files into separate logs, by name; None if they are one log.
        parts: Conditions that each select a separate log, such as ``filter=strict-match``.
        note: What else a reader of its numbers should know.
    """

    tool: str
    columns: Columns
    load: Callable[[Path], pl.DataFrame] | None = None
    apart: Callable[[Sequence[Path]], dict[str, list[Path]]] | None = None
    parts: tuple[str, ...] = ()
    note: str = ""


Reader = Callable[[Any], Plan | None]
"""From the `Head` of a file to the plan, None if another tool wrote it."""


def by_file(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return every file as a separate log with the file's name."""
    return {str(file) if len({f.name for f in files}) < len(files) else file.name: [file] for file in files}


def number(value: Any) -> float | None:
    """Return a value as a number, if it is one."""
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def text_table(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Return objects as a table of text; lists and objects in them as JSON.

    Example:
        >>> text_table([{"id": 1, "scores": [0, 1]}, {"id": "b"}]).rows()
        [('1', '[0, 1]'), ('b', None)]
    """
    names = dict.fromkeys(name for row in rows for name in row)
    cells = {name: [json_text(row.get(name)) for row in rows] for name in names}
    return pl.DataFrame(cells, schema=dict.fromkeys(names, pl.String))
