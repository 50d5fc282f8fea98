"""What a report says of runs of `ordergrad score`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.report import charts
from ordergrad.runs.errors import UserError
from ordergrad.runs.tables import Cell, Section, Table, highest, interval_text, number
from ordergrad.score.comparison import mixed_sizes
from ordergrad.spec import parse
from ordergrad.weights import open_k

__all__ = ["Logs", "load", "section", "together"]

Array = NDArray[Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Logs:
    """Reward logs that were scored.

    Attributes:
        objectives: The objectives' strings.
        logs: What `results.json` says of each log, by name.
        comparisons: The rows of the comparisons.
        notes: What was left out.
    """

    objectives: tuple[str, ...]
    logs: Mapping[str, Row]
    comparisons: tuple[Row, ...]
    notes: tuple[str, ...]


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
        return Logs(tuple(results["objectives"]), logs, tuple(results["comparisons"]), tuple(_left_out(logs)))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); score the logs again") from error


def together(runs: Mapping[str, Logs]) -> Logs:
    """Return several runs as one; comparisons stay with the run that made them."""
    logs = {f"{name} · {run}": log for run, scored in runs.items() for name, log in scored.logs.items()}
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
        drawn += [
            charts.distribution("rewards", samples, "reward", "rows"),
            charts.quantiles("quantiles", functions, weighed, "reward"),
        ]
    for curve, what in (("pass", "pass@k"), ("max", "max@k")):
        curves = {name: _k_curve(log["curves"], curve) for name, log in logs.items()}
        if any(ks for ks, _ in curves.values()):
            text = "The mean over groups, and its 95% interval over groups."
            drawn.append(charts.k_curves(f"{curve}-at-k", what, curves, what, text))
    for index, objective in enumerate(scored.objectives):
        runs = {name: _over_steps(log.get("steps") or (), objective) for name, log in logs.items()}
        text = "The mean over the groups of each step."
        drawn.append(charts.metric_curves(f"steps-{index}", runs, objective, "step", text))
    tables = [_values_table(scored), _signal_table(logs), _comparison_table(scored.comparisons)]
    tables += [_tails_table(logs), _rows_table(logs)]
    return Section(
        title=title,
        subtitle="score · " + ", ".join(logs),
        notes=scored.notes,
        contenders=(*logs, *scored.objectives),
        charts=tuple(chart for chart in drawn if chart is not None),
        tables=tuple(table for table in tables if table is not None),
        command=command,
        facts=(
            ("logs", str(len(logs))),
            ("rows", f"{sum(int(log['used']) for log in logs.values()):,} ranked"),
            ("groups", f"{sum(int(log['groups']) for log in logs.values()):,}, of up to {largest} rewards"),
        ),
    )


def _left_out(logs: Mapping[str, Row]) -> list[str]:
    notes: list[str] = []
    for name, log in logs.items():
        if log["broken"]:
            notes.append(
                f"{name}: broken rows left out: {log['broken']:,}; broken.csv in the run's folder has the first."
            )
        if log["masked"]:
            notes.append(f"{name}: rows masked out: {log['masked']:,}.")
        too_small = max((row["too_small"] for row in log["values"]), default=0)
        if too_small:
            notes.append(f"{name}: groups too small for the largest comparison size: {too_small:,}.")
        mixed = mixed_sizes(log, [row["objective"] for row in log["values"]])
        if mixed:
            notes.append(f"{name}: {mixed}.")
    return notes


def _column(rows: Sequence[Row], name: str) -> Array:
    return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=float)


def _k_curve(rows: Sequence[Row], curve: str) -> tuple[list[int], Array]:
    kept = [row for row in rows if row["curve"] == curve and row["value"] is not None]
    ends = [
        [row["value"], *(row["value"] if row[end] is None else row[end] for end in ("low", "high"))] for row in kept
    ]
    return [int(row["k"]) for row in kept], np.array(ends, dtype=float).reshape(-1, 3)


def _over_steps(rows: Sequence[Row], objective: str) -> list[tuple[Array, dict[str, Array]]]:
    kept = [row for row in rows if row["objective"] == objective]
    return [(_column(kept, "step"), {objective: _column(kept, "value")})] if kept else []


def _values_table(scored: Logs) -> Table | None:
    if not scored.logs:
        return None
    found = {(name, row["objective"]): row for name, log in scored.logs.items() for row in log["values"]}
    sizes = {log[end] for log in scored.logs.values() for end in ("smallest", "largest") if log[end] is not None}
    open_ones = [o for o in scored.objectives if parse(o).is_open] if len(sizes) > 1 else []
    best = {
        o: None if o in open_ones else highest(row["value"] for (_, other), row in found.items() if other == o)
        for o in scored.objectives
    }
    rows = tuple(
        (Cell(o, o), *(_value_cell(found.get((name, o)), best[o]) for name in scored.logs)) for o in scored.objectives
    )
    text = "The mean over groups of the unbiased estimate of each group ± half of its 95% interval over groups."
    if len(scored.logs) > 1:
        text += " The highest of each row is marked; where intervals overlap the order may be chance."
        if open_ones:
            text += (
                f" Not marked: {', '.join(open_ones)}, at K = N of each group; with groups of different size they "
                "are other objectives. Comparisons are at one K."
            )
    return Table("Every objective under every log", ("objective", *scored.logs), rows, text)


def _value_cell(row: Row | None, best: float | None) -> Cell:
    if row is None or row["value"] is None:
        return Cell("–")
    return Cell(interval_text(row["value"], row["low"], row["high"]), row["value"], row["value"] == best)


def _signal_table(logs: Mapping[str, Row]) -> Table | None:
    rows = tuple(
        (
            Cell(name, name),
            Cell(row["objective"], row["objective"]),
            _number_cell(row["no_signal"], percent=True),
            _number_cell(row["effective"]),
            _number_cell(row["effective_share"], percent=True),
        )
        for name, log in logs.items()
        for row in log["signal"]
    )
    if not rows:
        return None
    return Table(
        "What carries the gradient",
        ("log", "objective", "groups without signal", "effective samples of a group", "effective share of all rows"),
        rows,
        "No signal: all advantages of the group are zero. Effective samples: (Σ|A|)² / ΣA², over the other groups.",
    )


def _comparison_table(comparisons: Sequence[Row]) -> Table | None:
    if not comparisons:
        return None
    rows = tuple(
        (
            Cell(f"{row['log']} − {row['against']}", row["log"]),
            Cell(row["objective"], row["objective"]),
            _number_cell(row["difference"]),
            Cell("–" if row["low"] is None else f"[{number(row['low'], 3)}, {number(row['high'], 3)}]", row["low"]),
            _number_cell(row["p_value"], digits=2),
            Cell(f"{row['method']}, {row['pairs']:,} pairs" if row["method"] == "paired" else str(row["method"])),
        )
        for row in comparisons
    )
    header = ("difference", "objective", "estimate", "95% interval", "p", "method")
    text = (
        "Both logs at the same K: objectives without @K at the largest that the usual group of every log allows. "
        "Paired over groups of the same id where there are any, otherwise Welch's."
    )
    return Table("Comparisons", header, rows, text)


def _tails_table(logs: Mapping[str, Row]) -> Table | None:
    statistics = dict.fromkeys(row["statistic"] for log in logs.values() for row in log["tails"])
    if not statistics:
        return None
    found = {(name, row["statistic"]): row["value"] for name, log in logs.items() for row in log["tails"]}
    rows = tuple((Cell(s, s), *(_number_cell(found.get((name, s))) for name in logs)) for s in statistics)
    return Table("Tails and quantiles", ("statistic", *logs), rows, "Of all rewards pooled, groups aside.")


def _rows_table(logs: Mapping[str, Row]) -> Table | None:
    if not logs:
        return None
    names = ("rows", "used", "masked", "broken", "groups", "smallest", "largest", "mean", "sd", "min", "max")
    rows = tuple((Cell(name, name), *(_number_cell(log[column]) for column in names)) for name, log in logs.items())
    return Table("What was read", ("log", *names), rows, "smallest and largest are the sizes of groups.")


def _number_cell(value: float | None, *, percent: bool = False, digits: int = 4) -> Cell:
    if value is None:
        return Cell("–")
    if isinstance(value, int):
        return Cell(f"{value:,}", value)
    return Cell(f"{number(100 * value, 3)}%" if percent else number(value, digits), value)
