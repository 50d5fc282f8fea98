"""The parts of a report: sections with charts and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ordergrad.runs.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Chart:
    """A figure, with its legend in `figure.legends`, and its numbers; `name` is that of its files."""

    name: str
    title: str
    caption: str
    figure: "Figure"
    header: tuple[str, ...]
    rows: tuple[Sequence[str | float | int | None], ...]


@dataclass(frozen=True)
class Section:
    """The part of a report about one run, or about several together.

    Attributes:
        notes: What the reader must know first: what is missing or was left out.
        contenders: The names of the curves, in the order of their colours.
        command: The command line of the run, if known.
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
