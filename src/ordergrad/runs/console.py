"""Progress bars of commands, and how commands end."""

import importlib.util
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import METRICS, is_full_disk, last_line, run_folder
from ordergrad.runs.parallel import Run, ShouldStop, default_jobs, interruptible, train_all

_SECONDS = 10.0  # between two lines of a run
Prepare = Callable[[Callable[[int], None], ShouldStop], bool]
"""Runs with (report, stop), reports its steps, and returns whether it has finished."""


def chosen_jobs(jobs: int | None, runs: int) -> int:
    """Return how many runs to train in parallel, by default one per processor.

    Raises:
        UserError: Fewer than one.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"jobs must be at least 1; got {jobs}")
    return default_jobs(runs) if jobs is None else jobs


def train_under_progress(
    run: Run,
    objectives: Sequence[str],
    seeds: int,
    steps: int,
    out: Path,
    jobs: int,
    console: Console,
    shown: Callable[[Mapping[str, Any], str], str],
    before: tuple[str, int, Prepare] | None = None,
) -> bool:
    """Train every objective with every seed, each with a progress bar; return whether all have finished.

    Args:
        run: Trains and evaluates one objective with one seed.
        objectives: What to train.
        seeds: The number of seeds of each.
        steps: The steps of a run.
        out: The folder of the runs.
        jobs: How many run in parallel.
        console: Where to show the progress.
        shown: Returns the text beside the bar from the latest metrics and the objective.
        before: A name, a number of steps, and a function to run first.
    """
    with _bars("{task.fields[shown]}", console) as progress:
        if before is not None:
            name, total, prepare = before
            first = progress.add_task(name, total=total, shown="")
            stop = threading.Event()
            with interruptible(stop):
                finished = prepare(lambda step: progress.update(first, completed=step), stop.is_set)
            if not finished:
                return False
            progress.update(first, completed=total)
        tasks: dict[tuple[str, int], Any] = {}
        for name in objectives:
            for seed in range(seeds):
                row = last_line(run_folder(out, name, seed) / METRICS)
                label, done = f"{escape(name)} seed {seed}", row["step"] if row else 0
                tasks[name, seed] = progress.add_task(label, total=steps, completed=done, shown="")

        printed: dict[tuple[str, int], float] = {}

        def update(objective: str, seed: int, row: dict[str, Any]) -> None:
            text, step, now = shown(row, objective), row["step"], time.monotonic()
            progress.update(tasks[objective, seed], completed=step, shown=text)
            due = now - printed.get((objective, seed), -math.inf) >= _SECONDS
            if not console.is_terminal and (step == steps or due):  # where bars cannot be drawn
                printed[objective, seed] = now
                line = f"{objective} seed {seed}  step {step:,} of {steps:,}  {text}"
                console.print(line, markup=False, soft_wrap=True)

        return train_all(run, objectives, seeds, out, jobs, update)


@contextmanager
def reading_bars(names: Sequence[str], console: Console) -> Generator[list[Callable[[int, float], None]]]:
    """Show a progress bar for each log; gives functions that take the rows read so far and their share."""
    with _bars("{task.fields[rows]:,} rows", console, transient=True) as progress:
        tasks = [progress.add_task(escape(name), total=1.0, rows=0) for name in names]

        def report(index: int, rows: int, done: float) -> None:
            progress.update(tasks[index], completed=done, rows=rows)

        yield [partial(report, index) for index in range(len(names))]


def _bars(text: str, console: Console, transient: bool = False) -> Progress:
    """Return progress bars with a text beside each."""
    columns = (TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn(), TextColumn(text))
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=transient, refresh_per_second=4)


def need_packages(what: str, packages: Sequence[str], name: str) -> None:
    """Check that the modules of packages are installed, which an extra of that name brings.

    Raises:
        UserError: One of them is missing.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}: pip install 'ordergrad[{name}]'")


class Stopped(KeyboardInterrupt):
    """A run was interrupted, and its folder has checkpoints to continue from."""


@contextmanager
def handling_errors(console: Console) -> Generator[None]:
    """End a command with exit code 2 and a message after a `UserError` or on a full disk, with 130 after Ctrl-C."""
    try:
        yield
    except UserError as error:
        _complain(str(error))
        raise typer.Exit(2) from None
    except OSError as error:
        if not is_full_disk(error):
            raise
        _complain(_full_disk(error))
        raise typer.Exit(2) from None
    except Stopped as stopped:
        console.print(f"Stopped; checkpoints are in {escape(str(stopped))}. Run the same command with --resume.")
        raise typer.Exit(130) from None
    except KeyboardInterrupt:
        console.print("Stopped.")
        raise typer.Exit(130) from None


def _complain(message: str) -> None:
    Console(stderr=True, highlight=False, emoji=False).print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True)


def _full_disk(error: OSError) -> str:
    return (
        f"no space left to write {error.filename or 'a file'}; all that was written before is intact. Make room and "
        "run the same command again, with --resume if it was training"
    )


@contextmanager
def leaving_stdout(wanted: bool) -> Generator[None]:
    """Send what libraries and processes print on standard output to standard error, if that is wanted."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with redirect_stdout(sys.stderr):
            os.dup2(2, 1)
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def ending_resumable(out: Path, console: Console) -> Generator[None]:
    """End a script with a message after a `UserError`, and with 130 after Ctrl-C, saying how to continue."""
    try:
        yield
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise SystemExit(f"Error: {_full_disk(error)}") from None
    except KeyboardInterrupt:
        console.print(f"Stopped; results so far are in {out}. Run the same command with --resume to continue.")
        raise SystemExit(130) from None
