"""What a report is made of: sections of charts and tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Cell", "Chart", "Section", "Table", "common", "highest", "interval_text", "number"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it shows.
        order: What its column is sorted by; None sorts last.
        best: Whether it is the highest of its column.
    """

    text: str
    order: float | str | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row.

    Attributes:
        title: Above it.
        header: The names of its columns.
        rows: One cell for each column.
        caption: A sentence below it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Chart:
    """A figure and the numbers in it.

    Attributes:
        name: What its files are called.
        title: Above it.
        caption: A sentence below it.
        figure: The figure, with its legend in `figure.legends`.
        header: The columns of its numbers.
        rows: Its numbers.
    """

    name: str
    title: str
    caption: str
    figure: "Figure"
    header: tuple[str, ...]
    rows: tuple[Sequence[str | float | int | None], ...]


@dataclass(frozen=True)
class Section:
    """What a report says of one run, or of several together.

    Attributes:
        title: Its name.
        subtitle: What was run, in a few words.
        notes: What the reader must know before the numbers: what is missing or was left out.
        contenders: The names of the curves, in the order of their colours.
        charts: Its figures.
        tables: Its tables.
        command: The command line that made the run, if it is known.
        facts: Names and values of what it is about.
    """

    title: str
    subtitle: str
    notes: tuple[str, ...] = ()
    contenders: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    command: str | None = None
    facts: tuple[tuple[str, str], ...] = ()


def common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that are the same in all runs.

    Example:
        >>> common([{"steps": 10, "seeds": 2}, {"steps": 20, "seeds": 2}])
        {'seeds': 2}
    """
    first, *others = settings
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def highest(values: Iterable[float | None]) -> float | None:
    """Return the value to mark in a column: the highest, None if no other is lower.

    Example:
        >>> highest([0.5, None, 0.75, 0.75]), highest([0.0, 0.0])
        (0.75, None)
    """
    known = {value for value in values if value is not None}
    return max(known) if len(known) > 1 else None


def number(value: float | None, digits: int = 4) -> str:
    """Return a number as text, thousands apart, a true minus sign.

    Example:
        >>> number(-1234.5678), number(0.5), number(112.5, 2), number(None)
        ('−1,235', '0.5', '112', '–')
    """
    if value is None or value != value:
        return "–"
    plain = 10**digits <= abs(value) < 1e9 or 1000 <= abs(value) < 1e9
    text = f"{value:,.0f}" if plain else f"{value:.{digits}g}"
    return text.replace("-", "−")


def interval_text(middle: float, low: float | None, high: float | None, digits: int = 4) -> str:
    """Return a value with half of its interval; a half that is rounding alone is 0.

    Example:
        >>> interval_text(497.21, 491.2, 503.2), interval_text(500.0, 499.9999999999997, 500.0000000000003)
        ('497.2 ± 6', '500 ± 0')
    """
    half = None if low is None or high is None else (high - low) / 2
    if half is not None and half < 1e-9 * abs(middle):
        half = 0.0
    return f"{number(middle, digits)} ± {number(half, 2)}"
