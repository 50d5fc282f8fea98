"""The section of a report on runs of `ordergrad score`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.report import charts
from ordergrad.report.content import Section
from ordergrad.runs.errors import UserError
from ordergrad.score.tables import (
    CURVE_NAMES,
    comparison_table,
    log_table,
    notes_of,
    objective_table,
    step_table,
    tail_table,
    value_table,
)
from ordergrad.spec import parse
from ordergrad.weights import open_k

Array = NDArray[Any]
Row = Mapping[str, Any]
_STEPS = 20


@dataclass(frozen=True)
class Logs:
    """Reward logs that were scored: what `results.json` says of each, by name, and what was left out (notes)."""

    objectives: tuple[str, ...]
    logs: Mapping[str, Row]
    comparisons: tuple[Row, ...]
    notes: tuple[str, ...]
    findings: tuple[str, ...] = ()


def load(folder: Path, settings: Mapping[str, Any]) -> Logs:
    """Return what the folder of a run holds.

    Raises:
        UserError: The results are damaged.
    """
    path = folder / "results.json"
    if not path.exists():
        note = "Unfinished: the folder has no results.json yet."
        return Logs(tuple(settings.get("objectives", ())), {}, (), (note,))
    try:
        results = json.loads(path.read_text())
        logs = {str(log["log"]): log for log in results["logs"]}
        notes = tuple(f"{name}: {note}" for name, log in logs.items() for note in notes_of(log, results["objectives"]))
        names = {name: f"{name}: " if len(logs) > 1 else "" for name in logs}
        found = results.get("findings", ())
        findings = tuple(f"{names[row['log']]}{row['text']} {row['advice']}" for row in found)
        return Logs(tuple(results["objectives"]), logs, tuple(results["comparisons"]), notes, findings)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); score the logs again") from error


def together(runs: Mapping[str, Logs]) -> Logs:
    """Return several runs as one; comparisons stay with the run that made them."""
    logs = {
        f"{name} · {run}": dict(log) | {"log": f"{name} · {run}"}
        for run, scored in runs.items()
        for name, log in scored.logs.items()
    }
    return Logs(tuple(dict.fromkeys(text for run in runs.values() for text in run.objectives)), logs, (), ())


def section(title: str, scored: Logs, command: str | None) -> Section:
    """Return the section of a report."""
    logs = scored.logs
    largest = max((int(log["largest"]) for log in logs.values()), default=2)
    functions = {
        name: (_column(log["quantiles"], "u"), _column(log["quantiles"], "reward")) for name, log in logs.items()
    }
    weighed = {text: (parse(text), open_k(largest, "value")) for text in scored.objectives}
    drawn: list[charts.Chart | None] = []
    if logs:
        samples = {name: charts.resampled(*pair) if len(pair[0]) else pair[0] for name, pair in functions.items()}
        drawn.append(charts.distribution("rewards", samples, "reward", "rows"))
        drawn.append(charts.quantiles("quantiles", functions, weighed, "reward"))
    shown: list[Any] = []
    for curve, what in CURVE_NAMES.items():
        curves = {name: _k_curve(log["curves"], curve) for name, log in logs.items()}
        values = [(ks, table.round(9).tolist()) for ks, table in curves.values()]
        if any(ks for ks, _ in curves.values()) and values not in shown:
            text = "The mean over groups, and its 95% interval over prompts."
            drawn.append(charts.k_curves(f"{curve}-at-k", what, curves, what, text))
            shown.append(values)
    for index, objective in enumerate(scored.objectives):
        found = {name: _over_steps(log.get("steps") or (), objective) for name, log in logs.items()}
        found = {name: table for name, table in found.items() if len(table) > 1}
        if found:
            text = "The mean over the groups of each step, and its 95% interval."
            drawn.append(charts.step_curves(f"steps-{index}", f"{objective} by step", found, objective, text))
    results = {"objectives": scored.objectives, "logs": list(logs.values()), "comparisons": scored.comparisons}
    names = ("log",) if len(logs) > 1 else ()
    signal = objective_table(results).pick(*names, "objective", "no_signal", "effective", "effective_share")
    tables = [
        value_table(results),
        replace(signal, title="What carries the gradient"),
        comparison_table(results),
        step_table(results, _STEPS),
        tail_table(results),
        log_table(results),
    ]
    return Section(
        title=title,
        subtitle="score · " + ", ".join(logs),
        notes=(*scored.findings, *scored.notes),
        contenders=(*logs, *scored.objectives),
        charts=tuple(chart for chart in drawn if chart is not None),
        tables=tuple(table for table in tables if table.rows),
        command=command,
        facts=(
            ("logs", str(len(logs))),
            ("rows", f"{sum(int(log['used']) for log in logs.values()):,} ranked"),
            ("groups", f"{sum(int(log['groups']) for log in logs.values()):,}, of up to {largest} rewards"),
        ),
    )


def _column(rows: Sequence[Row], name: str) -> Array:
    return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=float)


def _k_curve(rows: Sequence[Row], curve: str) -> tuple[list[int], Array]:
    kept = [row for row in rows if row["curve"] == curve and row["value"] is not None]
    return [int(row["k"]) for row in kept], np.array(list(map(_ends, kept)), dtype=float).reshape(-1, 3)


def _over_steps(rows: Sequence[Row], objective: str) -> Array:
    """Return steps, values and the ends of their intervals, shape (steps, 4)."""
    kept = [[row["step"], *_ends(row)] for row in rows if row["objective"] == objective]
    return np.array(kept, dtype=float).reshape(-1, 4)


def _ends(row: Row) -> list[Any]:
    """Return a value and the ends of its interval, itself where they are not known."""
    return [row["value"], *(row["value"] if row.get(end) is None else row[end] for end in ("low", "high"))]
