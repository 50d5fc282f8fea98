"""The command `ordergrad train llm`: checks, a progress bar, training, a table and a figure of pass@k."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ordergrad.commands.options import named_values, options_from
from ordergrad.runs.console import Stopped, chosen_jobs, handling_errors, need_packages, plain, train_under_progress
from ordergrad.runs.folder import EVALUATION, open_folder, write_rows
from ordergrad.runs.statistics import powers_of_two
from ordergrad.runs.terminal import show_table
from ordergrad.train import countdown
from ordergrad.train.llm_results import Models, load, pass_table
from ordergrad.train.llm_settings import LLMSettings
from ordergrad.train.llm_summary import collected, nothing_learned, reliability_tables, start_name, write_summary
from ordergrad.train.tasks import countdown_level

__all__ = ["llm"]

_CUT, _OFTEN = "completions/clipped_ratio", 0.05
_NEEDED = ("torch", "trl", "transformers", "datasets", "peft", "matplotlib")


@options_from(LLMSettings)
def llm(
    objective: Annotated[
        str, typer.Option("--objective", "-o", help="Such as top:2@4; max@4..mean moves from one to the other.")
    ],
    against: Annotated[
        list[str] | None, typer.Option("--against", "-a", help="Another to train and compare, or grpo (repeatable).")
    ] = None,
    *,
    settings: dict[str, Any],
    test: Annotated[
        list[str] | None,
        typer.Option(help="File to measure on instead of rows of --data, FILE or NAME=FILE (repeatable)."),
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="String that ends a completion (repeatable).")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Argument of the chat template, NAME=JSON (repeatable).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/llm"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Runs in parallel.", show_default="one per processor; 1 with a GPU")
    ] = None,
) -> None:
    """Post-train language models on objectives of the reward distribution, and compare their pass@k."""
    console = Console(highlight=False, emoji=False)
    with handling_errors(console):
        need_packages("training", _NEEDED, "llm")
        lists: dict[str, Any] = {
            "tests": tuple(test or ()),
            "stop": tuple(stop or ()),
            "template": named_values("template", template),
        }
        asked = LLMSettings((objective, *(against or ())), **_defaults(**settings) | settings | lists)
        if not _train(asked, out, resume, jobs, console):
            raise Stopped(out)
        _summarise(asked, out, console)


def _defaults(data: str, samples: int, lora: bool, model: str = "", **_: Any) -> dict[str, Any]:
    """Return the defaults that depend on the model: the small one, or a pretrained one."""
    if model:
        return {"micro_batch": samples, "learning_rate": 1e-5 if lora else 1e-6, "max_completion": 512}
    level = countdown_level(data)
    longest = countdown.longest_answer(level) + 1 if level else 1
    return {"max_completion": max(LLMSettings.max_completion, longest)}


def _train(settings: LLMSettings, out: Path, resume: bool, jobs: int | None, console: Console) -> bool:
    """Train everything under a progress bar; return whether it has finished."""
    import torch

    from ordergrad.train.llm import check, prepare, run

    check(settings)
    jobs = chosen_jobs(
        1 if jobs is None and torch.cuda.is_available() else jobs, len(settings.objectives) * settings.seeds
    )
    open_folder(
        out, asdict(settings), kind="train llm", resume=resume, may_change=("micro_batch",), may_grow=("seeds",)
    )
    console.print(
        f"[bold]{plain(settings.data)}[/], {len(settings.objectives)} objectives x {settings.seeds} seeds x "
        f"{settings.steps} steps of {settings.prompts} prompts x {settings.samples} completions, {jobs} at a time "
        f"-> {plain(str(out))}"
    )
    if not settings.model and not (out / "warm-start" / EVALUATION).exists():
        console.print(f"First {128 * settings.warm_steps:,} demonstrations are made, and a warm start on them.")
    before = (start_name(settings), 1 if settings.model else settings.warm_steps, partial(prepare, settings, out))
    every = (settings.objectives, settings.seeds, settings.steps)
    return train_under_progress(partial(run, settings), *every, out, jobs, console, _shown, before)


def _shown(row: Mapping[str, Any], objective: str) -> str:
    """Return the metrics that matter, for the progress bar."""
    best = max((name for name in row if name.startswith("ordergrad/pass@")), key=lambda n: int(n[15:]), default="")
    names = ("reward", best, "entropy")
    shown = [f"{name.removeprefix('ordergrad/')} {row[name]:.3f}" for name in names if name in row]
    cut = row.get(_CUT, 0.0)
    return "  ".join([*shown, f"cut short {cut:.0%}"] if cut >= _OFTEN else shown)


def _warn_of_cuts(settings: LLMSettings, models: Models, console: Console) -> None:
    """Warn if many of the last training completions were cut short."""
    shares = {
        name: max((row.get(_CUT, 0.0) for row in contender.last), default=0.0)
        for name, contender in models.contenders.items()
    }
    often = [f"{name} {share:.0%}" for name, share in shares.items() if share >= _OFTEN]
    if often:
        console.print(
            f"[yellow]Warning:[/] completions were cut short at {settings.max_completion} tokens at the end of "
            f"training ({', '.join(often)}) and scored as they were: raise --max-completion."
        )


def _summarise(settings: LLMSettings, out: Path, console: Console) -> None:
    """Write and show pass@k of every trained model, with 95% intervals."""
    from ordergrad.runs.plots import pass_curves, save

    models = load(out, asdict(settings))
    write_rows(out / "results.csv", models.rows())
    show_table(console, pass_table(models))
    found = collected(settings, out)
    write_summary(settings, out, found)
    for table in reliability_tables(found):
        show_table(console, table)
    reason = nothing_learned(settings, out, found)
    if reason:
        console.print(f"[yellow]Warning:[/] {reason}")
    _warn_of_cuts(settings, models, console)
    ks = powers_of_two(settings.eval_samples)
    curves = {name: curve for name, (_, curve) in models.pass_curves().items()}
    save(pass_curves(curves, ks, settings.data), out / "pass_at_k.png")
    console.print(f"Written: {plain(str(out))}/results.csv, measures.csv, leads.csv, pass_at_k.png")
