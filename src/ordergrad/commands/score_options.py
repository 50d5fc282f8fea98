"""What the commands that read logs have in common: options, checks and progress."""

import importlib.util
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ordergrad.runs.console import plain
from ordergrad.runs.errors import UserError

if TYPE_CHECKING:
    from ordergrad.score.logs import Log

__all__ = [
    "GroupOption",
    "MaskOption",
    "RewardOption",
    "SkipOption",
    "StepOption",
    "SuccessOption",
    "UngroupedOption",
    "WeightOption",
    "open_logs",
    "reading_bar",
]

GroupOption = Annotated[str, typer.Option("--group", help="Column of the group: a prompt, a task.")]
RewardOption = Annotated[str, typer.Option("--reward", help="Column of the reward.")]
MaskOption = Annotated[str | None, typer.Option("--mask", help="Column that says whether a row counts.")]
WeightOption = Annotated[str | None, typer.Option("--weight", help="Column of importance weights.")]
StepOption = Annotated[
    str | None,
    typer.Option("--step", help='Column of the step, part of the group; "" for none.', show_default="step, if there"),
]
UngroupedOption = Annotated[bool, typer.Option("--ungrouped", help="All rows of a log are one group.")]
SkipOption = Annotated[bool, typer.Option("--skip-broken", help="Go on without rows that cannot be used.")]


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise typer.BadParameter(f"must be a finite number; got {number}")
    return number


SuccessOption = Annotated[
    float, typer.Option("--success", help="A reward of at least this passes, for pass@k.", callback=_finite)
]


def open_logs(
    arguments: Sequence[str],
    group: str,
    reward: str,
    mask: str | None,
    weight: str | None,
    step: str | None,
    ungrouped: bool,
) -> "list[Log]":
    """Return the logs that a command names, their files and columns checked.

    Raises:
        UserError: A package is missing, a file cannot be read or lacks a column, or a log is named twice.
    """
    if importlib.util.find_spec("polars") is None:
        raise UserError("reading logs needs polars: pip install 'ordergrad[score]'")
    from ordergrad.score.logs import open_log
    from ordergrad.score.reading import Columns, log_files

    if len(set(arguments)) < len(arguments):
        raise UserError("each log may be given once")
    short = [Path(argument).name for argument in arguments]
    names = short if len(set(short)) == len(short) else arguments
    columns = Columns(None if ungrouped else group, reward, mask, weight, step or None)
    default_step = "step" if step is None and not ungrouped else None
    return [
        open_log(name, log_files(argument), columns, default_step=default_step)
        for name, argument in zip(names, arguments, strict=True)
    ]


@contextmanager
def reading_bar(console: Console, logs: "Sequence[Log]") -> Generator[list[Callable[[int, float], None]]]:
    """Show one line of progress for each log; gives functions that take the rows read so far and their share."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(24),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as progress:
        tasks = [progress.add_task(plain(log.name), total=1.0, rows=0) for log in logs]

        def report(index: int, rows: int, done: float) -> None:
            progress.update(tasks[index], completed=done, rows=rows)

        yield [partial(report, index) for index in range(len(logs))]
