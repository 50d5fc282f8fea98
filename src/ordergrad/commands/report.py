"""The command `ordergrad report`."""

import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ordergrad.commands.options import AsJson, Quiet, print_json
from ordergrad.report import gather
from ordergrad.report.page import render, write
from ordergrad.runs.console import handling_errors, need_packages
from ordergrad.runs.errors import UserError

_NEEDED = ("jinja2", "matplotlib")


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that train or score wrote.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="The HTML file.", show_default="report.html in RUN; of several, here")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing report.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained HTML file about runs, and its figures as PNG and CSV beside it."""
    console = Console(highlight=False, quiet=quiet or as_json)
    with handling_errors(console):
        need_packages("a report", _NEEDED, "cli")
        path = _target(out, runs, overwrite)
        opened = {name: gather.open_run(folder) for name, folder in zip(_names(runs), runs, strict=True)}
        with console.status("drawing"):
            title = "OrderGrad report: " + ", ".join(opened)
            page, pictures = render(title, gather.sections(opened), gather.side_by_side(opened), _made())
        figures = write(page, pictures, path)
    written = f"Written: {path} ({path.stat().st_size / 1e6:.1f} MB)"
    console.print(f"{written}, {len(pictures)} figures as PNG and CSV in {figures}", markup=False, soft_wrap=True)
    if as_json:
        print_json({"report": path, "figures": figures, "pictures": [p.name for p in pictures], "runs": runs})


def _target(out: Path | None, runs: Sequence[Path], overwrite: bool) -> Path:
    """Return the file to write; everything that can be wrong with it is found before any work."""
    path = out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out must end in .html; got {path}")
    if out is not None and not path.parent.is_dir():
        raise UserError(f"--out must lie in an existing folder; got {path}")
    taken = [str(p) for p in (path, path.with_name(path.stem + "-figures")) if p.exists()]
    if taken and not overwrite:
        raise UserError(f"{' and '.join(taken)} would be overwritten; add --overwrite, or choose another --out")
    return path


def _names(runs: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, and as much of the path before it as makes it unique.

    Example:
        >>> _names([Path("a/llm"), Path("b/llm"), Path("a/maze")])
        ['a/llm', 'b/llm', 'maze']
    """
    parts = [run.resolve().parts for run in runs]
    if len(set(parts)) < len(parts):
        raise UserError(f"each run once; got {', '.join(map(str, runs))}")
    names: list[str] = []
    for own in parts:
        depth = 1
        while sum(other[-depth:] == own[-depth:] for other in parts) > 1:
            depth += 1
        names.append("/".join(own[-depth:]))
    return names


def _made() -> list[tuple[str, str]]:
    return [
        ("made on", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")),
        ("with", f"ordergrad {metadata.version('ordergrad')}"),
        ("by", shlex.join(["ordergrad", *sys.argv[1:]])),
    ]
