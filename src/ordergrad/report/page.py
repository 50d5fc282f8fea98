"""The page of a report: one self-contained HTML file, and its figures as PNG and CSV beside it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import base64
import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ordergrad.report.content import Chart, Section
from ordergrad.runs.folder import replacing
from ordergrad.runs.plots import COLOURS, DASHES
from ordergrad.runs.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _GRID, _AXIS = "#000000", "#b0b0b0", "#777777"


@dataclass(frozen=True)
class Picture:
    """A chart, drawn: SVG for the page, its numbers as CSV and as a link that needs no file, PNG with its legend."""

    name: str
    title: str
    caption: str
    svg: str
    csv: str
    csv_link: str
    png: bytes


@dataclass(frozen=True)
class _Drawn:
    section: Section
    anchor: str
    pictures: tuple[Picture, ...]


def render(
    title: str, sections: Sequence[Section], appendix: Sequence[Table], made: Sequence[tuple[str, str]]
) -> tuple[str, list[Picture]]:
    """Return the page and its pictures; `made` is what made it: the names and values of date, version, command."""
    import jinja2

    drawn: list[_Drawn] = []
    for index, section in enumerate(sections):
        prefix = f"{index + 1}-{_slug(section.title)}-" if len(sections) > 1 else ""
        pictures = tuple(_picture(chart, f"{prefix}{chart.name}") for chart in section.charts)
        drawn.append(_Drawn(section, f"section-{index + 1}", pictures))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ordergrad.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    dashes = [" ".join(str(2 * part) for part in dash) for dash in DASHES]
    most = max((len(section.contenders) for section in sections), default=0)
    page = environment.get_template("report.html").render(
        title=title, drawn=drawn, appendix=appendix, made=made, colours=len(COLOURS), dashes=dashes, most=most
    )
    return page, [picture for part in drawn for picture in part.pictures]


def inline_svg(figure: "Figure", prefix: str, label: str) -> str:
    """Return a figure as SVG for a page: it follows the page's width, font and colours, and its names are its own.

    The prefix comes before its identifiers; the label is what a screen reader says of it.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="(series-\d+)"', r' class="\1"', svg)
    svg = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{prefix}-", svg)
    for index, colour in enumerate(COLOURS[:-1]):
        svg = svg.replace(colour.lower(), f"var(--series-{index})")
    svg = svg.replace(_INK, "currentColor").replace(_GRID, "var(--grid)").replace(_AXIS, "var(--grid)")
    svg = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg role="img" aria-label="{html.escape(label)}" \1>', svg, count=1
    )
    return re.sub(r"\s*\n\s*", "\n", svg)


def _picture(chart: Chart, name: str) -> Picture:
    png = io.BytesIO()
    chart.figure.savefig(png, format="png", metadata={"Software": None})
    for legend in chart.figure.legends:
        legend.remove()
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([chart.header, *map(_short, chart.rows)])
    link = "data:text/csv;base64," + base64.b64encode(table.getvalue().encode()).decode()
    svg = inline_svg(chart.figure, name, f"{chart.title}. {chart.caption}")
    return Picture(name, chart.title, chart.caption, svg, table.getvalue(), link, png.getvalue())


def _short(row: Sequence[str | float | int | None]) -> list[str | int | None]:
    return [f"{value:.6g}" if isinstance(value, float) else value for value in row]


def _slug(text: str) -> str:
    return re.sub(r"[^\w.@]+", "-", text).strip("-").lower()[:40]


def write(page: str, pictures: Sequence[Picture], out: Path) -> Path:
    """Write a page and its pictures; return the folder of the pictures, which is named after the page."""
    folder = out.with_name(out.stem + "-figures")
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / f"{picture.name}.png").write_bytes(picture.png)
        (folder / f"{picture.name}.csv").write_text(picture.csv)
    with replacing(out) as file:
        file.write(page.encode())
    return folder
