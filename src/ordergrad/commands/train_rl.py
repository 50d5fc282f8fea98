"""The command `ordergrad train rl`: checks, a progress bar, training in processes, a table and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ordergrad.commands.options import named_values, options_from
from ordergrad.runs.console import Stopped, chosen_jobs, ending_well, need_packages, plain, train_under_progress
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import (
    EVALUATION,
    METRICS,
    open_folder,
    read_metrics,
    run_folder,
    write_csv,
    write_json,
)
from ordergrad.runs.statistics import metric_columns, read_returns, values_of
from ordergrad.spec import parse
from ordergrad.train.rl_settings import RLSettings, watched
from ordergrad.weights import smallest_group

__all__ = ["rl"]

_NEEDED = ("torch", "gymnasium", "stable_baselines3", "safetensors", "matplotlib")


@options_from(RLSettings)
def rl(
    env_id: Annotated[str, typer.Argument(help="A Gymnasium environment, such as CartPole-v1.", show_default=False)],
    objective: Annotated[str, typer.Option("--objective", "-o", help="What to optimise, such as cvar:0.1 or max@8.")],
    against: Annotated[
        list[str] | None, typer.Option("--against", "-a", help="Another objective to train and compare (repeatable).")
    ] = None,
    *,
    settings: dict[str, Any],
    env_arg: Annotated[
        list[str] | None, typer.Option("--env-arg", help="Argument of the environment, NAME=JSON (repeatable).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results.", show_default="runs/ENV_ID")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Runs in parallel.", show_default="one per processor")] = None,
) -> None:
    """Train policies on objectives of the return distribution, and compare them."""
    console = Console()
    with ending_well(console):
        need_packages("training", _NEEDED, "rl")
        from ordergrad.train.rl import check

        objectives = (objective, *(against or ()))
        asked = check(RLSettings(env_id, objectives, env_args=named_values("env-arg", env_arg), **settings))
        folder = out or Path("runs") / asked.env_id.replace("/", "-").replace(":", "-")
        if not _train(asked, folder, resume, jobs, console):
            raise Stopped(folder)
        _summarise(asked, folder, console)


def _train(settings: RLSettings, folder: Path, resume: bool, jobs: int | None, console: Console) -> bool:
    """Train everything under a progress bar; return whether it has finished."""
    from ordergrad.train.rl import run

    jobs = chosen_jobs(jobs, len(settings.objectives) * settings.seeds)
    open_folder(folder, asdict(settings), kind="train rl", resume=resume, may_grow=("steps", "episodes"))
    console.print(
        f"[bold]{plain(settings.env_id)}[/], {len(settings.objectives)} objectives x {settings.seeds} seeds x "
        f"{settings.steps:,} steps, {jobs} at a time -> {plain(str(folder))}"
    )
    every = (settings.objectives, settings.seeds, settings.steps)
    return train_under_progress(partial(run, settings), *every, folder, jobs, console, _shown)


def _shown(row: Mapping[str, Any], objective: str) -> str:
    """Return the metrics that matter, for the progress bar."""
    names = dict.fromkeys(("mean", "cvar:0.1", objective, "best"))
    known = [f"{plain(name)} {row[name]:.4g}" for name in names if row.get(name) is not None]
    return "  ".join(known) or "no episode has ended yet"


def _summarise(settings: RLSettings, folder: Path, console: Console) -> None:
    """Write and show the table of values and the figures."""
    from ordergrad.runs.plots import learning_curves, return_distributions, save

    folders = {name: [run_folder(folder, name, seed) for seed in range(settings.seeds)] for name in settings.objectives}
    returns = {name: [read_returns(path / EVALUATION) for path in paths] for name, paths in folders.items()}
    _check_returns(settings, returns, folder, console)
    values = values_of(returns, watched(settings.objectives))
    header = ("trained", "evaluated", "value", "low", "high", "seeds", "episodes")
    rows = [(v.trained, v.evaluated, v.value, v.low, v.high, v.seeds, len(returns[v.trained][0])) for v in values]
    write_csv(folder / "results.csv", header, rows)
    write_json(
        folder / "results.json",
        [dict(zip(header, row, strict=True)) | {"by_seed": v.by_seed} for row, v in zip(rows, values, strict=True)],
    )
    console.print(_table(settings, values))
    together = {name: np.concatenate(groups) for name, groups in returns.items()}
    save(return_distributions(together, settings.env_id), folder / "returns.png")
    metrics = {name: [read_metrics(path / METRICS) for path in paths] for name, paths in folders.items()}
    curves = {name: [metric_columns(run) for run in runs] for name, runs in metrics.items()}
    save(learning_curves(curves, watched(settings.objectives)[:4], settings.env_id), folder / "learning.png")
    for name, runs in metrics.items():
        for seed, run in enumerate(runs):
            _warn(console, f"{name} seed {seed}", run[-1])
    console.print(f"Written: {plain(str(folder))}/results.csv, results.json, returns.png, learning.png")


def _check_returns(
    settings: RLSettings, returns: Mapping[str, Sequence[NDArray[Any]]], folder: Path, console: Console
) -> None:
    """Tell of fresh episodes that have no finite return; too few others are an error."""
    needs = {text: smallest_group(parse(text), "leave_one_out") for text in watched(settings.objectives)}
    for name, groups in returns.items():
        for seed, group in enumerate(groups):
            count, finite = len(group), int(np.isfinite(group).sum())
            text, need = max(needs.items(), key=lambda pair: pair[1])
            if finite < need:
                raise UserError(
                    f"{name} seed {seed}: only {finite} of {count} fresh episodes have a finite return, and {text} "
                    f"needs {need}: rewards of {settings.env_id} are NaN or infinite; mend them, or raise --episodes "
                    f"and add --resume. The trained policies are in {folder}"
                )
            if finite < count:
                run = plain(f"{name} seed {seed}")
                console.print(
                    f"[yellow]{run}: {count - finite} fresh episodes had a NaN or infinite return, left out[/]"
                )


def _table(settings: RLSettings, values: Sequence[Any]) -> Table:
    spread = f"{settings.seeds} seeds" if settings.seeds > 1 else "1 seed: sampling of episodes only"
    table = Table(title=f"Value of fresh episodes ± half of the 95% interval ({spread})", title_justify="left")
    table.add_column("trained on")
    for name in watched(settings.objectives):
        table.add_column(plain(name), justify="right")
    best = {name: max(v.value for v in values if v.evaluated == name) for name in watched(settings.objectives)}
    for trained in settings.objectives:
        row = [v for v in values if v.trained == trained]
        cells = [f"{v.value:.5g} ± {v.high - v.value:.3g}" for v in row]
        table.add_row(
            plain(trained),
            *(f"[bold]{c}[/]" if v.value == best[v.evaluated] else c for c, v in zip(cells, row, strict=True)),
        )
    return table


def _warn(console: Console, run: str, row: Mapping[str, Any]) -> None:
    """Tell of what was left out, if anything was."""
    notes = {
        "nonfinite": "episodes had a NaN or infinite return and were left out",
        "abandoned": "episodes were left out because they lasted too long",
        "shrunk": "updates had too few episodes for K and ranked at a smaller one (raise --rollout or --envs)",
    }
    for key, text in notes.items():
        if row.get(key):
            console.print(f"[yellow]{plain(run)}: {row[key]:g} {text}[/]")
