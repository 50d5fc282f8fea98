"""Tables in a terminal of any width."""

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ordergrad.runs.tables import Table

_BREAK = re.compile(r"(?<=\s)|(?<=[\w)][+-])(?<![\d.]e[+-])(?=[\w.(])")
"""Where text may continue on the next line: after a space, or after the operator between two terms of an objective."""


def show_table(console: Console, table: Table, *, notes: bool = True) -> None:
    """Print a table and, unless told otherwise, its notes; one that is too wide as a list of its cells, row by row.

    Text is broken only after spaces and after the operators of an objective, never within one of its terms.
    """
    if not table.rows:
        return
    if table.title:
        console.print(Text(table.title, "bold"), soft_wrap=True)
    cells = table.cells()
    headings = [column.heading for column in table.columns]
    texts = [[cell.text for cell in row] for row in cells]
    numeric = [column.numeric for column in table.columns]
    widths = _widths(headings, texts, numeric, console.width - 3 * len(headings) - 1)
    if widths is None:
        _show_list(console, headings, texts)
    else:
        rich = RichTable()
        for heading, width, right in zip(headings, widths, numeric, strict=True):
            side = "right" if right else "left"
            rich.add_column(Text(_broken(heading, width)), justify=side, width=width, no_wrap=True)
        for i, row in enumerate(cells):
            parts = [
                Text(cell.text if right else _broken(cell.text, width), "bold" if cell.marked else "")
                for cell, width, right in zip(row, widths, numeric, strict=True)
            ]
            rich.add_row(*parts, style="bold green" if i == table.chosen else None)
        console.print(rich)
    if notes and table.notes:
        console.print(Text(table.notes, "dim"))


def _widths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], space: int
) -> list[int] | None:
    """Return the widths of the columns, the widest text columns narrowed as far as needed; None if nothing fits."""
    widest: list[int] = []
    narrowest: list[int] = []
    for j, heading in enumerate(headings):
        column = [row[j] for row in rows]
        widest.append(max(map(_width, (heading, *column))))
        pieces = [*_pieces(heading), *(piece for cell in column for piece in ([cell] if numeric[j] else _pieces(cell)))]
        narrowest.append(max(_width(piece.rstrip()) for piece in pieces) + (not numeric[j]))
    widths = list(widest)
    while sum(widths) > space:
        room = [width - least for width, least in zip(widths, narrowest, strict=True)]
        if max(room) <= 0:
            return None
        widths[max((j for j, left in enumerate(room) if left > 0), key=widths.__getitem__)] -= 1
    return widths


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _pieces(text: str) -> list[str]:
    return [piece for line in text.split("\n") for piece in _BREAK.split(line) if piece]


def _broken(text: str, width: int) -> str:
    """Return text broken to a width where that is allowed, continuation lines of an objective indented.

    Example:
        >>> print(_broken("0.5*mean+0.5*cvar:0.05@100", 19))
        0.5*mean+
         0.5*cvar:0.05@100
    """
    if _width(text) <= width:
        return text
    lines = [""]
    for piece in _pieces(text):
        if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
            indent = " " if lines[-1][-1] in "+-" else ""
            lines[-1] = lines[-1].rstrip()
            lines.append(indent)
        lines[-1] += piece
    return "\n".join(lines)


def _show_list(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the cells of each row below one another."""
    names = [" ".join(heading.split()) for heading in headings]
    margin = max(map(cell_len, names)) + 2
    for row in rows:
        lines = [f"{name:<{margin}}{text}" for name, text in zip(names, row, strict=True)]
        console.print(Text("\n".join(lines)), soft_wrap=True)
        console.print()
