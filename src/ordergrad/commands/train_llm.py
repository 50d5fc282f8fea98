"""The command `ordergrad train llm`: checks, a progress bar, training, a table and a figure of pass@k."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ordergrad.commands.options import (
    AsJson,
    Quiet,
    Resume,
    StopTexts,
    Template,
    named_values,
    options_from,
    print_json,
)
from ordergrad.runs.console import (
    Stopped,
    chosen_jobs,
    handling_errors,
    leaving_stdout,
    need_packages,
    train_under_progress,
)
from ordergrad.runs.folder import EVALUATION, open_folder, write_rows
from ordergrad.runs.statistics import powers_of_two
from ordergrad.runs.terminal import show_table
from ordergrad.train import countdown
from ordergrad.train.llm_results import Models, load, pass_table
from ordergrad.train.llm_settings import LLMSettings, start_name
from ordergrad.train.llm_summary import collected, nothing_learned, reliability_tables, write_summary
from ordergrad.train.tasks import countdown_level

_CUT, _OFTEN = "completions/clipped_ratio", 0.05
_FILES = ("results.csv", "measures.csv", "leads.csv", "pass_at_k.png")
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
    stop: StopTexts = None,
    template: Template = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/llm"),
    resume: Resume = False,
    jobs: Annotated[
        int | None, typer.Option(help="Runs in parallel.", show_default="one per processor; 1 with a GPU")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Post-train language models on objectives of the reward distribution, and compare their pass@k."""
    console = Console(highlight=False, emoji=False, quiet=quiet or as_json)
    with handling_errors(console):
        need_packages("training", _NEEDED, "llm")
        lists: dict[str, Any] = {"tests": tuple(test or ()), "stop": tuple(stop or ())}
        lists["template"] = named_values("template", template)
        asked = LLMSettings((objective, *(against or ())), **_defaults(**settings) | settings | lists)
        content: dict[str, Any] = {"out": out, "finished": False}
        with leaving_stdout(quiet or as_json):
            if _train(asked, out, resume, jobs, console):
                content |= {"finished": True} | _summarise(asked, out, console)
        if as_json:
            print_json(content)
        if not content["finished"]:
            raise Stopped(out)


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

    from ordergrad.train.llm import prepare, run
    from ordergrad.train.llm_checks import check

    check(settings)
    jobs = 1 if jobs is None and torch.cuda.is_available() else jobs
    jobs = chosen_jobs(jobs, len(settings.objectives) * settings.seeds)
    open_folder(out, settings, kind="train llm", resume=resume, may_change=("micro_batch",), may_grow=("seeds",))
    console.print(
        f"[bold]{escape(settings.data)}[/], {len(settings.objectives)} objectives x {settings.seeds} seeds x "
        f"{settings.steps} steps of {settings.prompts} prompts x {settings.samples} completions, {jobs} at a time "
        f"-> {escape(str(out))}"
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


def _cuts(settings: LLMSettings, models: Models) -> str | None:
    """Return a warning if many of the last training completions were cut short."""
    shares = {name: max((row.get(_CUT, 0.0) for row in c.last), default=0.0) for name, c in models.contenders.items()}
    often = [f"{name} {share:.0%}" for name, share in shares.items() if share >= _OFTEN]
    if not often:
        return None
    return (
        f"Completions were cut short at {settings.max_completion} tokens at the end of training ({', '.join(often)}) "
        "and scored as they were: raise --max-completion."
    )


def _summarise(settings: LLMSettings, out: Path, console: Console) -> dict[str, Any]:
    """Write and show pass@k of every trained model, with 95% intervals; return it for ``--json``."""
    from ordergrad.runs.plots import pass_curves, save

    models = load(out, asdict(settings))
    rows = models.rows()
    write_rows(out / "results.csv", rows)
    show_table(console, pass_table(models))
    found = collected(settings, out)
    measures, ahead = write_summary(settings, out, found)
    for table in reliability_tables(found):
        show_table(console, table)
    notes = list(filter(None, (nothing_learned(settings, out, found), _cuts(settings, models))))
    for note in notes:
        console.print(f"[yellow]Warning:[/] {note}")
    ks = powers_of_two(settings.eval_samples)
    curves = {name: curve for name, (_, curve) in models.pass_curves().items()}
    save(pass_curves(curves, ks, settings.data), out / "pass_at_k.png")
    console.print(f"Written: {escape(str(out))}/{', '.join(_FILES)}")
    return {
        "data": settings.data,
        "objectives": settings.objectives,
        "pass_at_k": rows,
        "measures": measures,
        "leads": ahead,
        "notes": notes,
        "files": _FILES,
    }
