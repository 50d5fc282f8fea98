"""Tables, defined once: plain rows, and columns that know how to show them.

A `Table` is shown in a terminal by `ordergrad.runs.terminal.show_table`, in a page by the template of the report, and
written as CSV or JSON through its rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

Row = dict[str, Any]
Marks = Literal["", "best of row", "best of column", "differences"]
UNKNOWN = "–"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: The key of its values in the rows.
        heading: Its heading.
        show: From a row to the text of its cell.
        numeric: Whether it holds numbers, aligned to the right.
        note: What it holds, for the caption.
        order: From a row to what the column is sorted by; None sorts last.
    """

    key: str
    heading: str
    show: Callable[[Row], str]
    numeric: bool = True
    note: str = ""
    order: Callable[[Row], float | str | None] = lambda row: None


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown: its text, what its column is sorted by, and whether it stands out."""

    text: str
    order: float | str | None
    marked: bool


@dataclass(frozen=True)
class Table:
    """A table; its first column names the row.

    Attributes:
        title: Shown above it.
        columns: What is shown of the rows.
        rows: Dictionaries of plain values, also with keys that no column shows; an empty one stands for rows left out.
        caption: Shown below it, before the notes of the columns.
        marks: Which cells stand out: the highest of each row or column, unless all are equal, or rows of which the
            cells differ.
        unmarked: Rows or columns, by name, whose cells are not comparable.
        chosen: The index of a row that stands out.

    Example:
        >>> rows = [{"log": "a", "value": 0.5}, {"log": "b", "value": 0.25}]
        >>> table = Table("Values", (text("log"), number("value")), tuple(rows))
        >>> [[cell.text for cell in row] for row in table.cells()]
        [['a', '0.5'], ['b', '0.25']]
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    marks: Marks = ""
    unmarked: tuple[str, ...] = ()
    chosen: int | None = None

    @property
    def notes(self) -> str:
        """The caption and the notes of the columns."""
        notes = "; ".join(f"{c.heading}: {c.note}" for c in self.columns if c.note)
        return " ".join(filter(None, (self.caption, notes)))

    def pick(self, *keys: str) -> "Table":
        """Return the table with some of its columns, in the order of the keys."""
        columns = {column.key: column for column in self.columns}
        return replace(self, columns=tuple(columns[key] for key in keys if key in columns))

    def without(self, key: str) -> "Table":
        """Return the table without a column."""
        return replace(self, columns=tuple(column for column in self.columns if column.key != key))

    def where(self, key: str, value: Any) -> "Table":
        """Return the table with the rows in which a key has a value."""
        return replace(self, rows=tuple(row for row in self.rows if row[key] == value))

    def pivot(self, rows: str, columns: str | Column, cell: str, marks: Marks = "") -> "Table":
        """Return the table with one row for each value of one key, and one column for each value of another.

        `columns` may be a column whose texts are the headings; `cell` is the key of what the cells show.

        Example:
            >>> rows = [{"k": k, "log": log, "pass": k / 4} for k in (1, 2) for log in "ab"]
            >>> long = Table("pass@k", (count("k"), text("log"), number("pass")), tuple(rows))
            >>> wide = long.pivot("k", "log", "pass")
            >>> [c.heading for c in wide.columns], [cell.text for cell in wide.cells()[1]]
            (['k', 'a', 'b'], ['2', '0.5', '0.5'])
        """
        known = {column.key: column for column in self.columns}
        names, shown = known[rows], known[cell]
        across = known[columns] if isinstance(columns, str) else columns
        wide: dict[Any, dict[str, Any]] = {}
        for row in self.rows:
            wide.setdefault(row[rows], {rows: row[rows], "cells": {}})["cells"][across.show(row)] = row

        def column(heading: str) -> Column:
            def of(row: Row) -> Row:
                return row["cells"].get(heading, {})

            def order(row: Row) -> float | str | None:
                return shown.order(of(row))

            return Column(heading, heading, lambda row: shown.show(of(row)), shown.numeric, order=order)

        headings = dict.fromkeys(map(across.show, self.rows))
        return replace(self, columns=(names, *map(column, headings)), rows=tuple(wide.values()), marks=marks)

    def cells(self) -> list[list[Cell]]:
        """Return the cells of every row."""
        orders = [[column.order(row) for column in self.columns] for row in self.rows]
        texts = [[column.show(row) if row else "…" for column in self.columns] for row in self.rows]
        return [list(map(Cell, *row)) for row in zip(texts, orders, self._marked(orders), strict=True)]

    def _marked(self, orders: list[list[float | str | None]]) -> list[list[bool]]:
        """Return which cells stand out."""
        nothing = [False] * len(self.columns)
        if self.marks == "best of column":
            columns = [_highest(column) for column in zip(*orders, strict=True)]
            free = [i > 0 and column.key not in self.unmarked for i, column in enumerate(self.columns)]
            return [[f and columns[j][i] for j, f in enumerate(free)] for i in range(len(orders))]
        if self.marks == "best of row":
            return [nothing if row[0] in self.unmarked else [False, *_highest(row[1:])] for row in orders]
        if self.marks == "differences":
            return [[False, *([len(set(row[1:])) > 1] * (len(row) - 1))] for row in orders]
        return [nothing for _ in orders]


def _highest(values: Sequence[float | str | None]) -> list[bool]:
    """Return which values are the highest; none where all are equal.

    Example:
        >>> _highest([0.5, None, 0.75, 0.75]), _highest([0.0, 0.0])
        ([False, False, True, True], [False, False])
    """
    known = {value for value in values if isinstance(value, (int, float))}
    best = max(known) if len(known) > 1 else None
    return [best is not None and value == best for value in values]


def _column(key: str, heading: str | None, note: str, show: Callable[[Any], str], numeric: bool = True) -> Column:
    """Return a column whose cells show the value of a key."""

    def shown(row: Row) -> str:
        return UNKNOWN if row.get(key) is None else show(row[key])

    return Column(key, key if heading is None else heading, shown, numeric, note, lambda row: row.get(key))


def text(key: str, heading: str | None = None, note: str = "") -> Column:
    """Return a column of text."""
    return _column(key, heading, note, str, numeric=False)


def number(key: str, heading: str | None = None, note: str = "", digits: int = 4, sign: str = "") -> Column:
    """Return a column of numbers; a sign of ``+`` shows it for positive ones too."""
    return _column(key, heading, note, lambda value: number_text(value, digits, sign))


def decimals(key: str, heading: str | None = None, note: str = "", digits: int = 4, sign: str = "") -> Column:
    """Return a column of numbers with a fixed number of decimals, zero without a minus."""
    form = f"{{:{sign}.{digits}f}}"
    return _column(key, heading, note, lambda x: UNKNOWN if math.isnan(x) else form.format(round(x, digits) + 0))


def count(key: str, heading: str | None = None, note: str = "") -> Column:
    """Return a column of whole numbers, all of their digits shown."""
    return _column(key, heading, note, "{:,}".format)


def percent(key: str, heading: str | None = None, note: str = "") -> Column:
    """Return a column of shares, in percent."""
    return _column(key, heading, note, lambda value: f"{value + 0:.1%}")


def estimate(key: str, heading: str | None = None, note: str = "", digits: int = 4, scale: float = 1.0) -> Column:
    """Return a column of estimates ± half of their interval, the ends of which are under ``low`` and ``high``."""

    def show(row: Row) -> str:
        middle, low, high = (None if row.get(k) is None else scale * row[k] for k in (key, "low", "high"))
        return UNKNOWN if middle is None else estimate_text(middle, low, high, digits)

    return replace(_column(key, heading, note, str), show=show)


def interval(heading: str, note: str = "") -> Column:
    """Return a column of intervals from ``low`` to ``high``."""

    def show(row: Row) -> str:
        low, high = row.get("low"), row.get("high")
        return UNKNOWN if low is None else f"[{number_text(low, 3)}, {number_text(high, 3)}]"

    return replace(_column("low", heading, note, str), show=show)


def number_text(value: float | None, digits: int = 4, sign: str = "") -> str:
    """Return a number as text, thousands apart.

    Example:
        >>> number_text(-1234.5678), number_text(0.5), number_text(112.5, 2), number_text(None)
        ('-1,235', '0.5', '112', '–')
    """
    if value is None or value != value:
        return UNKNOWN
    whole = 10**digits <= abs(value) < 1e9 or 1000 <= abs(value) < 1e9
    return f"{value:{sign},.0f}" if whole else f"{value:{sign}.{digits}g}"


def estimate_text(middle: float, low: float | None, high: float | None, digits: int = 4) -> str:
    """Return a value with half of its interval, or with both ends if they lie at different distances, if it is known.

    A half that is rounding alone is 0.

    Example:
        >>> estimate_text(497.21, 491.2, 503.2), estimate_text(500.0, 499.9999999999997, 500.0000000000003)
        ('497.2 ± 6', '500 ± 0')
        >>> estimate_text(0.025, 0.001, 0.139)
        '0.025 [0.001, 0.14]'
    """
    if low is None or high is None or math.isnan(high - low):
        return number_text(middle, digits)
    half = (high - low) / 2
    if max(high - middle, middle - low) > 1.5 * min(high - middle, middle - low) and half >= 1e-9 * abs(middle):
        return f"{number_text(middle, digits)} [{number_text(low, 2)}, {number_text(high, 2)}]"
    return f"{number_text(middle, digits)} ± {number_text(0.0 if half < 1e-9 * abs(middle) else half, 2)}"


def json_values(content: Any) -> Any:
    """Return content as JSON can hold it: tuples as lists, and None instead of numbers that are not finite.

    Example:
        >>> json_values({"value": float("nan"), "by_seed": (1.0, 2.0)})
        {'value': None, 'by_seed': [1.0, 2.0]}
    """
    if isinstance(content, Mapping):
        return {key: json_values(part) for key, part in cast("Mapping[str, Any]", content).items()}
    if isinstance(content, (list, tuple)):
        return [json_values(part) for part in cast("Sequence[Any]", content)]
    return None if isinstance(content, float) and not math.isfinite(content) else content
