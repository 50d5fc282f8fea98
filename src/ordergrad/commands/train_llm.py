"""The command `ordergrad train llm`: checks, a progress bar, training, a table and a figure of pass@k."""

import importlib.util
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ordergrad.runs.console import chosen_jobs, ending_well, plain, train_under_progress
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import EVALUATION, METRICS, last_line, open_folder, run_folder, write_csv
from ordergrad.runs.statistics import pass_at_k, powers_of_two, read_successes
from ordergrad.train import countdown
from ordergrad.train.llm_settings import LLMSettings, as_json
from ordergrad.train.tasks import countdown_level

__all__ = ["llm"]

_DEFAULTS = LLMSettings(())
_CUT, _OFTEN = "completions/clipped_ratio", 0.05
_NEEDED = ("torch", "trl", "transformers", "datasets", "peft", "matplotlib")


def llm(
    objective: Annotated[
        str, typer.Option("--objective", "-o", help="Such as top:2@4; max@4..mean turns from one to the other.")
    ],
    against: Annotated[
        list[str] | None,
        typer.Option("--against", "-a", help="Another one to train and compare, or grpo (repeatable)."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A folder or a hub id.", show_default="a small one, warm-started for countdown")
    ] = _DEFAULTS.model,
    data: Annotated[
        str, typer.Option(help="countdown[:NUMBERS:LARGEST:TARGET], or a JSONL, CSV or Parquet file.")
    ] = _DEFAULTS.data,
    reward: Annotated[
        str, typer.Option(help="task, exact or math (column answer), or module:function.")
    ] = _DEFAULTS.reward,
    length_penalty: Annotated[
        float, typer.Option(help="Charged for every token of a completion.")
    ] = _DEFAULTS.length_penalty,
    seeds: Annotated[int, typer.Option(help="Models per objective.")] = _DEFAULTS.seeds,
    steps: Annotated[int, typer.Option(help="Optimiser steps of each model.")] = _DEFAULTS.steps,
    prompts: Annotated[int, typer.Option(help="Prompts in a step.")] = _DEFAULTS.prompts,
    samples: Annotated[int, typer.Option(help="Completions of a prompt, the group.")] = _DEFAULTS.samples,
    micro_batch: Annotated[
        int | None,
        typer.Option(
            help="Completions in one backward pass: less memory, the same gradient.",
            show_default="all of a step; with --model those of one prompt",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Constant after ten steps.", show_default="3e-4; with --model 1e-6, and --lora 1e-5"),
    ] = None,
    max_completion: Annotated[
        int | None,
        typer.Option(help="Longest completion, in tokens.", show_default="what demonstrations need; with --model 512"),
    ] = None,
    width: Annotated[int, typer.Option(help="Hidden size of the small model.")] = _DEFAULTS.width,
    layers: Annotated[int, typer.Option(help="Layers of the small model.")] = _DEFAULTS.layers,
    warm_steps: Annotated[
        int, typer.Option(help="Steps on demonstrations before, for the small model.")
    ] = _DEFAULTS.warm_steps,
    warm_hits: Annotated[float, typer.Option(help="Share of right demonstrations.")] = _DEFAULTS.warm_hits,
    lora: Annotated[bool, typer.Option("--lora", help="Train low-rank adapters (peft).")] = False,
    vllm: Annotated[bool, typer.Option("--vllm", help="Generate with vLLM.")] = False,
    eval_problems: Annotated[int, typer.Option(help="Held-out problems.")] = _DEFAULTS.eval_problems,
    eval_samples: Annotated[
        int, typer.Option(help="Completions of each; pass@k for k up to this.")
    ] = _DEFAULTS.eval_samples,
    success: Annotated[float, typer.Option(help="Least reward that is a success, for pass@k.")] = _DEFAULTS.success,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/llm"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue what the folder holds.")] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Runs side by side.", show_default="one per processor; 1 with a GPU")
    ] = None,
) -> None:
    """Post-train language models on objectives of the reward distribution, and compare their pass@k."""
    console = Console(highlight=False, emoji=False)
    with ending_well(console):
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"training needs {', '.join(missing)}: pip install 'ordergrad[llm]'")
        own = _defaults(model, data, samples, lora)
        settings = LLMSettings(
            objectives=(objective, *(against or ())),
            model=model,
            data=data,
            reward=reward,
            length_penalty=length_penalty,
            seeds=seeds,
            steps=steps,
            prompts=prompts,
            samples=samples,
            micro_batch=own["micro_batch"] if micro_batch is None else micro_batch,
            learning_rate=own["learning_rate"] if learning_rate is None else learning_rate,
            max_completion=own["max_completion"] if max_completion is None else max_completion,
            width=width,
            layers=layers,
            warm_steps=warm_steps,
            warm_hits=warm_hits,
            lora=lora,
            vllm=vllm,
            eval_problems=eval_problems,
            eval_samples=eval_samples,
            success=success,
        )
        if not _train(settings, out, resume, jobs, console):
            console.print(f"Stopped; checkpoints are in {plain(str(out))}. Continue by the same command with --resume.")
            raise typer.Exit(130)
        _summarise(settings, out, console)


def _defaults(model: str, data: str, samples: int, lora: bool) -> dict[str, Any]:
    """Return the defaults that depend on the model: those of the small one, or of one that was trained elsewhere."""
    if model:
        return {"micro_batch": samples, "learning_rate": 1e-5 if lora else 1e-6, "max_completion": 512}
    level = countdown_level(data)
    longest = countdown.longest_answer(level) + 1 if level else 1
    return {
        "micro_batch": None,
        "learning_rate": _DEFAULTS.learning_rate,
        "max_completion": max(_DEFAULTS.max_completion, longest),
    }


def _train(settings: LLMSettings, out: Path, resume: bool, jobs: int | None, console: Console) -> bool:
    """Train everything under a progress bar; return whether it has finished."""
    import torch

    from ordergrad.train.llm import check, prepare, run

    check(settings)
    jobs = chosen_jobs(
        1 if jobs is None and torch.cuda.is_available() else jobs, len(settings.objectives) * settings.seeds
    )
    open_folder(
        out, as_json(settings), kind="train llm", resume=resume, may_change=("micro_batch",), may_grow=("seeds",)
    )
    console.print(
        f"[bold]{plain(settings.data)}[/], {len(settings.objectives)} objectives x {settings.seeds} seeds x "
        f"{settings.steps} steps of {settings.prompts} prompts x {settings.samples} completions, {jobs} at a time "
        f"-> {plain(str(out))}"
    )
    if not settings.model and not (out / "warm-start" / EVALUATION).exists():
        console.print(f"First {128 * settings.warm_steps:,} demonstrations are made, and a warm start on them.")
    before = None if settings.model else ("warm start", settings.warm_steps, partial(prepare, settings, out))
    every = (settings.objectives, settings.seeds, settings.steps)
    return train_under_progress(partial(run, settings), *every, out, jobs, console, _shown, before)


def _shown(row: Mapping[str, Any], objective: str) -> str:
    """Return the metrics that matter, for the progress bar."""
    best = max((name for name in row if name.startswith("ordergrad/pass@")), key=lambda n: int(n[15:]), default="")
    names = ("reward", best, "entropy")
    shown = [f"{name.removeprefix('ordergrad/')} {row[name]:.3f}" for name in names if name in row]
    cut = row.get(_CUT, 0.0)
    return "  ".join([*shown, f"cut short {cut:.0%}"] if cut >= _OFTEN else shown)


def _warn_of_cuts(settings: LLMSettings, out: Path, console: Console) -> None:
    """Say so where many of the last completions that were trained on had no room to end."""
    shares: dict[str, float] = {}
    for name in settings.objectives:
        rows = (last_line(run_folder(out, name, seed) / METRICS) for seed in range(settings.seeds))
        shares[name] = max((row.get(_CUT, 0.0) for row in rows if row), default=0.0)
    often = [f"{name} {share:.0%}" for name, share in shares.items() if share >= _OFTEN]
    if often:
        console.print(
            f"[yellow]Warning:[/] completions were cut short at {settings.max_completion} tokens at the end of "
            f"training ({', '.join(often)}), and what they would have said is not scored: raise --max-completion."
        )


def _summarise(settings: LLMSettings, out: Path, console: Console) -> None:
    """Write and show pass@k of every trained model, with 95% intervals."""
    from ordergrad.runs.plots import pass_curves, save

    ks = powers_of_two(settings.eval_samples)
    contenders = list(settings.objectives)
    paths = {name: [run_folder(out, name, s) / EVALUATION for s in range(settings.seeds)] for name in contenders}
    if not settings.model:
        paths = {"warm start": [out / "warm-start" / EVALUATION], **paths}
    curves = {name: pass_at_k([read_successes(path) for path in seeds], ks) for name, seeds in paths.items()}
    rows = [(name, k, *curve[i], len(paths[name])) for name, curve in curves.items() for i, k in enumerate(ks)]
    write_csv(out / "results.csv", ("trained", "k", "pass_at_k", "low", "high", "seeds"), rows)
    table = Table(title=f"pass@k in percent on {settings.eval_problems} held-out problems", title_justify="left")
    table.add_column("trained on")
    for k in ks:
        table.add_column(f"k={k}", justify="right")
    for name, curve in curves.items():
        table.add_row(name, *(f"{100 * middle:.1f} ± {50 * (high - low):.1f}" for middle, low, high in curve))
    console.print(table)
    _warn_of_cuts(settings, out, console)
    save(pass_curves(curves, ks, settings.data), out / "pass_at_k.png")
    console.print(f"Written: {plain(str(out))}/results.csv, pass_at_k.png")
