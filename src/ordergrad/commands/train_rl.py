"""The command `ordergrad train rl`: checks, a progress bar, training in processes, a table and figures."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from ordergrad.commands.options import AsJson, Quiet, Resume, named_values, options_from, print_json
from ordergrad.runs.console import (
    Stopped,
    chosen_jobs,
    handling_errors,
    leaving_stdout,
    need_packages,
    train_under_progress,
)
from ordergrad.runs.contenders import pooled
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import open_folder, write_json, write_rows
from ordergrad.runs.terminal import show_table
from ordergrad.spec import parse
from ordergrad.train.rl_results import Policies, load, value_table
from ordergrad.train.rl_settings import RLSettings
from ordergrad.weights import smallest_group

_FILES = ("results.csv", "results.json", "returns.png", "learning.png")
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
    resume: Resume = False,
    jobs: Annotated[int | None, typer.Option(help="Runs in parallel.", show_default="one per processor")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train policies on objectives of the return distribution, and compare them."""
    console = Console(quiet=quiet or as_json)
    with handling_errors(console):
        need_packages("training", _NEEDED, "rl")
        from ordergrad.train.rl_checks import check

        objectives = (objective, *(against or ()))
        asked = check(RLSettings(env_id, objectives, env_args=named_values("env-arg", env_arg), **settings))
        folder = out or Path("runs") / asked.env_id.replace("/", "-").replace(":", "-")
        content: dict[str, Any] = {"out": folder, "finished": False}
        with leaving_stdout(quiet or as_json):
            if _train(asked, folder, resume, jobs, console):
                content |= {"finished": True} | _summarise(asked, folder, console)
        if as_json:
            print_json(content)
        if not content["finished"]:
            raise Stopped(folder)


def _train(settings: RLSettings, folder: Path, resume: bool, jobs: int | None, console: Console) -> bool:
    """Train everything under a progress bar; return whether it has finished."""
    from ordergrad.train.rl import run

    jobs = chosen_jobs(jobs, len(settings.objectives) * settings.seeds)
    open_folder(folder, settings, kind="train rl", resume=resume, may_grow=("steps", "episodes"))
    console.print(
        f"[bold]{escape(settings.env_id)}[/], {len(settings.objectives)} objectives x {settings.seeds} seeds x "
        f"{settings.steps:,} steps, {jobs} at a time -> {escape(str(folder))}"
    )
    every = (settings.objectives, settings.seeds, settings.steps)
    return train_under_progress(partial(run, settings), *every, folder, jobs, console, _shown)


def _shown(row: Mapping[str, Any], objective: str) -> str:
    """Return the metrics that matter, for the progress bar."""
    names = dict.fromkeys(("mean", "cvar:0.1", objective, "best"))
    known = [f"{escape(name)} {row[name]:.4g}" for name in names if row.get(name) is not None]
    return "  ".join(known) or "no episode has ended yet"


def _summarise(settings: RLSettings, folder: Path, console: Console) -> dict[str, Any]:
    """Write and show the table of values, the figures, and what was left out; return them for ``--json``."""
    from ordergrad.runs.plots import learning_curves, return_distributions, save

    policies = load(folder, asdict(settings))
    _check_returns(settings, policies, folder, console)
    rows = policies.rows()
    write_json(folder / "results.json", rows)
    write_rows(folder / "results.csv", [{k: v for k, v in row.items() if k != "by_seed"} for row in rows])
    show_table(console, value_table(policies))
    returns = {name: pooled(contender.evaluations) for name, contender in policies.contenders.items()}
    save(return_distributions(returns, settings.env_id), folder / "returns.png")
    curves = {name: contender.metrics for name, contender in policies.contenders.items()}
    save(learning_curves(curves, policies.watched[:4], settings.env_id), folder / "learning.png")
    for note in policies.notes:
        console.print(escape(note), style="yellow")
    console.print(f"Written: {escape(str(folder))}/{', '.join(_FILES)}")
    return {
        "env_id": settings.env_id,
        "objectives": settings.objectives,
        "values": rows,
        "notes": policies.notes,
        "files": _FILES,
    }


def _check_returns(settings: RLSettings, policies: Policies, folder: Path, console: Console) -> None:
    """Check that enough fresh episodes have a finite return, and say how many have none."""
    needs = {text: smallest_group(parse(text), "leave_one_out") for text in policies.watched}
    text, need = max(needs.items(), key=lambda pair: pair[1])
    for name, contender in policies.contenders.items():
        for seed, returns in enumerate(contender.evaluations):
            count, finite = len(returns), int(np.isfinite(returns).sum())
            if finite < need:
                raise UserError(
                    f"{name} seed {seed}: only {finite} of {count} fresh episodes have a finite return, and {text} "
                    f"needs {need}: rewards of {settings.env_id} are NaN or infinite; fix them, or raise --episodes "
                    f"and add --resume. The trained policies are in {folder}"
                )
            if finite < count:
                run = escape(f"{name} seed {seed}")
                console.print(
                    f"[yellow]{run}: {count - finite} fresh episodes had a NaN or infinite return, left out[/]"
                )
