"""What commands show: all runs under one progress bar, and how they end."""

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import METRICS, last_line, run_folder
from ordergrad.runs.parallel import Run, default_jobs, interruptible, train_all

__all__ = ["chosen_jobs", "ending_resumable", "ending_well", "plain", "train_under_progress"]

Prepare = Callable[[Callable[[int], None], Callable[[], bool]], bool]
"""Does something (report, stop), reports its steps, and returns whether it has finished."""


def chosen_jobs(jobs: int | None, runs: int) -> int:
    """Return how many runs to train side by side, one for each processor unless chosen.

    Raises:
        UserError: Fewer than one was chosen.
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
    """Train every objective with every seed, one line of progress for each; return whether all have finished.

    Args:
        run: Trains and evaluates one objective with one seed.
        objectives: What to train.
        seeds: The number of seeds of each.
        steps: The steps of a run.
        out: The folder of the runs.
        jobs: How many at a time.
        console: Where to show it.
        shown: From the newest metrics and the objective to the text beside the bar.
        before: A name, a number of steps, and something to do first.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(24),
        TaskProgressColumn(),
        TextColumn("{task.fields[shown]}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console, refresh_per_second=4) as progress:
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
                label, done = f"{plain(name)} seed {seed}", row["step"] if row else 0
                tasks[name, seed] = progress.add_task(label, total=steps, completed=done, shown="")

        def update(objective: str, seed: int, row: dict[str, Any]) -> None:
            progress.update(tasks[objective, seed], completed=row["step"], shown=shown(row, objective))

        return train_all(run, objectives, seeds, out, jobs, update)


def plain(text: str) -> str:
    """Return text with what Rich would take for markup escaped."""
    return escape(text)


@contextmanager
def ending_well(console: Console) -> Generator[None]:
    """End a command with code 2 and a message where its user can put something right, with 130 on Ctrl-C."""
    try:
        yield
    except UserError as error:
        Console(stderr=True, highlight=False, emoji=False).print(
            f"[bold red]Error:[/] {plain(str(error))}", soft_wrap=True
        )
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print("Stopped.")
        raise typer.Exit(130) from None


@contextmanager
def ending_resumable(out: Path, console: Console) -> Generator[None]:
    """End a script with a message where its user can put something right, with 130 on Ctrl-C, saying how to go on."""
    try:
        yield
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
    except KeyboardInterrupt:
        console.print(f"Stopped; what is there is in {out}. Continue by the same command with --resume.")
        raise SystemExit(130) from None
