"""The command `ordergrad eval`: sample held-out problems with language models, and compare them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ordergrad.commands.options import AsJson, Quiet, StopTexts, Template, named_values, options_from, print_json
from ordergrad.runs.console import handling_errors, leaving_stdout, need_packages
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import open_folder, write_csv, write_rows
from ordergrad.runs.settings import POSITIVE, Setting, at_least, check_settings, finite
from ordergrad.runs.tables import Table, estimate, text
from ordergrad.runs.terminal import show_table

_NEEDED = ("torch", "trl", "transformers", "datasets", "peft")
_LEAD = ("test", "model", "over", "measure", "lead", "low", "high")
_SHARES = ("pass", "cut short", "no reward")


@dataclass(frozen=True)
class EvalSettings:
    """What is measured, and how.

    `data` holds files, each ``FILE`` or ``NAME=FILE``; `stop` strings that end a completion, `template` arguments of
    the chat template.
    """

    data: tuple[str, ...]
    stop: tuple[str, ...] = ()
    template: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reward: Annotated[str, Setting("task (countdown), exact or math (column answer), or module:function.")] = "task"
    samples: Annotated[int, Setting("Completions of each problem.", at_least(1))] = 64
    problems: Annotated[int, Setting("The most problems of each file.", at_least(1))] = 200
    max_completion: Annotated[int, Setting("Longest completion, in tokens.", at_least(1))] = 512
    temperature: Annotated[float, Setting("Of the sampling.", POSITIVE)] = 1.0
    system_prompt: Annotated[str, Setting("Before every prompt, which becomes a chat.")] = ""
    success: Annotated[float, Setting("Smallest reward that is a success.", finite())] = 1.0
    seed: Annotated[int, Setting("Of the sampling.", at_least(0))] = 0
    vllm: Annotated[bool, Setting("Sample with vLLM.")] = False


@options_from(EvalSettings)
def evaluate(
    model: Annotated[
        list[str], typer.Argument(help="Folders with models or adapters, or hub ids.", show_default=False)
    ],
    data: Annotated[
        list[str],
        typer.Option("--data", help="countdown[:...] or a file, FILE or NAME=FILE (repeatable).", show_default=False),
    ],
    *,
    settings: dict[str, Any],
    base: Annotated[
        str | None, typer.Option(help="The model that others are compared with.", show_default="of an adapter its own")
    ] = None,
    stop: StopTexts = None,
    template: Template = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/eval"),
    resume: Annotated[bool, typer.Option("--resume", help="Keep the models that have been measured.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure language models: pass@k, pass^k, rewards and lengths, with 95% intervals over problems."""
    console = Console(highlight=False, emoji=False, quiet=quiet or as_json)
    with handling_errors(console):
        need_packages("evaluation", _NEEDED, "llm")
        asked = EvalSettings(tuple(data), tuple(stop or ()), named_values("template", template), **settings)
        check_settings(asked)
        with leaving_stdout(quiet or as_json):
            content = _compare(asked, model, base, out, resume, console)
        if as_json:
            print_json(content)


def _compare(
    settings: EvalSettings, models: Sequence[str], base: str | None, out: Path, resume: bool, console: Console
) -> dict[str, Any]:
    """Measure the models that have not been measured yet, and show all; return it for ``--json``."""
    from ordergrad.evaluate.evaluation import measures, read_evaluation
    from ordergrad.evaluate.models import base_of
    from ordergrad.train.tasks import load_problems, named_files

    sets = {
        name.replace(":", "-"): load_problems(file, settings.reward, settings.problems, settings.system_prompt)
        for name, file in named_files(settings.data).items()
    }
    bases = [base] if base else [found for name in models if (found := base_of(name)) is not None]
    names = list(dict.fromkeys([*bases, *models]))
    open_folder(out, settings, kind="eval", resume=resume)
    for name in names:
        left = {test: rows for test, rows in sets.items() if not _file(out, name, test).exists()}
        if left:
            console.print(f"{escape(name)}: {', '.join(left)}")
            _measure(settings, name, left, out)
    found = {
        test: {name: measures(read_evaluation(_file(out, name, test)), settings.success) for name in names}
        for test in sets
    }
    rows, ahead = _write(out, found, names)
    for test, measured in found.items():
        show_table(console, _table(test, measured, len(sets[test][0]), settings.samples))
    console.print(f"Written: {escape(str(out))}/measures.csv, leads.csv, completions of every model")
    files = ["measures.csv", "leads.csv", *(_file(Path(), name, test) for name in names for test in sets)]
    return {"out": out, "models": names, "measures": rows, "leads": ahead, "files": files}


def _file(out: Path, model: str, test: str) -> Path:
    """Return the file of the completions of a model."""
    return out / "models" / model.strip("/.").replace("/", "-") / f"{test}.jsonl"


def _measure(settings: EvalSettings, name: str, sets: Mapping[str, Any], out: Path) -> None:
    """Sample and score the problems with one model."""
    from ordergrad.evaluate.evaluation import evaluate as sampled
    from ordergrad.evaluate.evaluation import write_evaluation
    from ordergrad.evaluate.models import load_engine, load_model
    from ordergrad.evaluate.sampling import Sampling

    loaded, tokenizer = load_engine(name) if settings.vllm else load_model(name)
    sampling = Sampling(settings.max_completion, settings.temperature, stop=settings.stop, template=settings.template)
    for test, (rows, reward) in sets.items():
        chat = not isinstance(rows[0]["prompt"], str)
        if chat and not tokenizer.chat_template:
            raise UserError(f"the prompts of {test} are chats, and the tokenizer of {name} has no chat template")
        found = sampled(loaded, tokenizer, rows, reward, settings.samples, sampling, seed=settings.seed)
        write_evaluation(_file(out, name, test), found)


def _write(out: Path, found: dict[str, Any], names: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write the measures, and leads over the first model; return their rows."""
    from ordergrad.evaluate.evaluation import lead

    rows = [
        {"test": test, "model": name, "measure": measure}
        | {"mean": x.mean, "low": x.low, "high": x.high, "problems": len(x.by_problem)}
        for test, measured in found.items()
        for name in names
        for measure, x in measured[name].items()
    ]
    write_rows(out / "measures.csv", rows)
    ahead = [
        {"test": test, "model": name, "over": names[0], "measure": measure}
        | dict(zip(("lead", "low", "high"), lead(x, measured[names[0]][measure])[:3], strict=True))
        for test, measured in found.items()
        for name in names[1:]
        for measure, x in measured[name].items()
        if measure in measured[names[0]]
    ]
    write_csv(out / "leads.csv", _LEAD, [tuple(row.values()) for row in ahead])
    return rows, ahead


def _table(test: str, measured: Mapping[str, Any], problems: int, samples: int) -> Table:
    """Return the measures of every model on one set, and leads over the first model; shares in percent."""
    from ordergrad.evaluate.evaluation import lead

    first, *others = measured
    rows: list[dict[str, Any]] = []
    for measure, base in measured[first].items():
        name, scale = (f"{measure}, %", 100) if measure.startswith(_SHARES) else (measure, 1)
        cells = {first: base}
        for model in others:
            if measure in measured[model]:
                cells[model] = measured[model][measure]
                cells[f"{model}, lead"] = lead(measured[model][measure], base)
        rows += [
            {"measure": name, "model": model, "value": scale * x.mean, "low": scale * x.low, "high": scale * x.high}
            for model, x in cells.items()
        ]
    caption = "± half of the 95% interval over problems."
    if others:
        caption += f" Leads: over {first}, problem by problem."
    columns = (text("measure", ""), text("model"), estimate("value", digits=3))
    table = Table(f"{test}: {problems} problems x {samples} completions", columns, tuple(rows), caption)
    return table.pivot("measure", "model", "value")
