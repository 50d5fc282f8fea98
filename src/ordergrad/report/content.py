"""The parts of a report: sections with charts and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ordergrad.runs.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Chart:
    """A figure and its numbers.

    Attributes:
        name: The name of its files.
        title: Shown above it.
        caption: Shown below it.
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
    """The part of a report about one run, or about several together.

    Attributes:
        title: Its name.
        subtitle: What was run, in a few words.
        notes: What the reader must know first: what is missing or was left out.
        contenders: The names of the curves, in the order of their colours.
        charts: Its figures.
        tables: Its tables.
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
