"""What a report says of runs of `ordergrad train rl`."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.report import charts
from ordergrad.runs.folder import EVALUATION, METRICS, read_metrics, run_folder
from ordergrad.runs.statistics import metric_columns, read_returns, values_of
from ordergrad.runs.tables import Cell, Section, Table, common, highest, interval_text
from ordergrad.score.distribution import levels
from ordergrad.spec import parse
from ordergrad.weights import open_k

__all__ = ["SHARED", "Policies", "load", "section", "together"]

SHARED = ("env_id", "env_args", "discount")
"""The settings that runs must have in common to be drawn together."""

Array = NDArray[Any]
Value = tuple[float, float, float]


@dataclass(frozen=True)
class Contender:
    """The policies trained on one objective, one for each seed.

    Attributes:
        objective: The objective's string.
        returns: The returns of fresh episodes of each seed that was evaluated.
        metrics: The steps and metrics of each seed that was trained.
        ranked: The episodes that an update ranks, typically.
        values: The value of each objective and the ends of its interval, where the folder has them already.
    """

    objective: str
    returns: tuple[Array, ...]
    metrics: tuple[tuple[Array, Mapping[str, Array]], ...]
    ranked: int
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Policies:
    """Runs in one environment.

    Attributes:
        settings: The settings, of several folders those that they share.
        contenders: The policies of each objective by name.
        watched: The objectives that are measured.
        notes: What is missing or was left out.
    """

    settings: Mapping[str, Any]
    contenders: Mapping[str, Contender]
    watched: tuple[str, ...]
    notes: tuple[str, ...]


def load(folder: Path, settings: Mapping[str, Any]) -> Policies:
    """Return what the folder of a run holds so far."""
    watched = tuple(dict.fromkeys(("mean", "cvar:0.1", *settings["objectives"])))
    known = _results(folder / "results.csv")
    contenders: dict[str, Contender] = {}
    notes: list[str] = []
    for name in settings["objectives"]:
        folders = [run_folder(folder, name, seed) for seed in range(settings["seeds"])]
        rows = [read_metrics(path / METRICS) for path in folders]
        evaluated = [path / EVALUATION for path in folders if (path / EVALUATION).exists()]
        notes += _unfinished(name, folders, rows, settings["steps"], name in known)
        notes += _left_out(name, rows)
        ranked = [row["ranked"] for run in rows for row in run if row.get("ranked")]
        contenders[name] = Contender(
            name,
            tuple(read_returns(path) for path in evaluated),
            tuple(metric_columns(run) for run in rows if run),
            int(np.median(ranked)) if ranked else int(settings["min_episodes"]),
            known.get(name, {}),
        )
    return Policies(settings, contenders, watched, tuple(notes))


def together(runs: Mapping[str, Policies]) -> Policies:
    """Return several runs as one; they have the same settings `SHARED`."""
    contenders = {f"{c.objective} · {name}": c for name, run in runs.items() for c in run.contenders.values()}
    watched = tuple(dict.fromkeys(text for run in runs.values() for text in run.watched))
    return Policies(common([run.settings for run in runs.values()]), contenders, watched, ())


def section(title: str, policies: Policies, command: str | None) -> Section:
    """Return the section of a report."""
    settings, contenders = policies.settings, policies.contenders
    returns = {name: np.concatenate([*c.returns, np.zeros(0)]) for name, c in contenders.items()}
    drawn: list[charts.Chart | None] = []
    if any(len(sample) for sample in returns.values()):
        u = levels()
        functions = {name: (u, charts.quantiles_of(sample[np.isfinite(sample)], u)) for name, sample in returns.items()}
        weighed = {name: (parse(c.objective), open_k(c.ranked, "leave_one_out")) for name, c in contenders.items()}
        drawn.append(charts.distribution("returns", returns, "return of an episode", "episodes"))
        drawn.append(charts.quantiles("quantiles", functions, weighed, "return of an episode"))
    metrics = {name: c.metrics for name, c in contenders.items()}
    caption = (
        "Over the last 100 episodes of training: the mean over seeds, and the band from the lowest to the highest."
    )
    for index, metric in enumerate((*policies.watched, "length")):
        drawn.append(
            charts.metric_curves(f"learning-{index}-{_slug(metric)}", metrics, metric, "environment steps", caption)
        )
    table = _table(policies)
    return Section(
        title=title,
        subtitle=f"train rl · {settings['env_id']}",
        notes=policies.notes,
        contenders=tuple(contenders),
        charts=tuple(chart for chart in drawn if chart is not None),
        tables=(table,) if table else (),
        command=command,
        facts=(
            ("environment", str(settings["env_id"])),
            (
                "policies",
                f"{len(contenders)} objectives" + (f" × {settings['seeds']} seeds" if "seeds" in settings else ""),
            ),
            ("training", f"{settings['steps']:,} steps each" if "steps" in settings else "of different length"),
            ("evaluation", f"{sum(map(len, returns.values())):,} fresh episodes"),
        ),
    )


def _table(policies: Policies) -> Table | None:
    """Return the value of every objective under every policy."""
    values: dict[tuple[str, str], Value] = {}
    for name, contender in policies.contenders.items():
        for objective, value in contender.values.items():
            values[name, objective] = value
        if contender.returns:
            for v in values_of({name: contender.returns}, policies.watched):
                values[name, v.evaluated] = v.value, v.low, v.high
    if not values:
        return None
    unlike = [] if "episodes" in policies.settings else [o for o in policies.watched if parse(o).is_open]
    best = {o: highest(v[0] for (_, other), v in values.items() if other == o) for _, o in values if o not in unlike}
    rows = tuple(
        (Cell(name, name), *(_cell(values.get((name, o)), best.get(o)) for o in policies.watched))
        for name in policies.contenders
    )
    omitted = f" Not marked: {', '.join(unlike)}, at K = N of runs with different N episodes." if unlike else ""
    spread = "Student's over seeds; of the sampling of episodes only where there is one seed"
    return Table(
        "Every objective under every policy",
        ("trained on", *policies.watched),
        rows,
        f"The value of fresh episodes ± half of its 95% interval, {spread}. The highest of each column is "
        f"marked; where intervals overlap the order may be chance.{omitted}",
    )


def _cell(value: Value | None, best: float | None) -> Cell:
    if value is None:
        return Cell("–")
    middle, low, high = value
    return Cell(interval_text(middle, low, high), middle, middle == best)


def _results(path: Path) -> dict[str, dict[str, Value]]:
    """Return the values in the table that a finished run has written."""
    found: dict[str, dict[str, Value]] = {}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                interval = float(row["value"]), float(row["low"]), float(row["high"])
                found.setdefault(row["trained"], {})[row["evaluated"]] = interval
    return found


def _unfinished(
    name: str, folders: Sequence[Path], rows: Sequence[Sequence[Mapping[str, Any]]], steps: int, summarised: bool
) -> list[str]:
    """Tell of every run that has not come to its end."""
    if not any(rows) and not any((path / EVALUATION).exists() for path in folders):
        if summarised:
            return [f"{name}: the folder has the table of results, not the episodes and curves behind it."]
        return [f"{name}: not started yet."]
    notes: list[str] = []
    for seed, (path, run) in enumerate(zip(folders, rows, strict=True)):
        step = run[-1]["step"] if run else 0
        if not (path / EVALUATION).exists():
            notes.append(f"Unfinished: {name}, seed {seed}, is at step {step:,} of {steps:,} and not evaluated yet.")
    return notes


def _left_out(name: str, rows: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    reasons = {
        "nonfinite": "episodes had a NaN or infinite return and were left out",
        "abandoned": "episodes were left out because they lasted too long",
        "shrunk": "updates had too few episodes for K and ranked at a smaller one",
    }
    return [
        f"{name}, seed {seed}: {run[-1][key]:g} {text}."
        for seed, run in enumerate(rows)
        for key, text in reasons.items()
        if run and run[-1].get(key)
    ]


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in ".@" else "-" for c in text).strip("-")
