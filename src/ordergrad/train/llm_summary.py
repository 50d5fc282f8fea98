"""Summary of the runs of `ordergrad train llm`: measures on every test set, and leads over the start."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ordergrad.evaluate.evaluation import Measure, lead, measures, read_evaluation
from ordergrad.runs.folder import METRICS, read_metrics, run_folder, write_rows
from ordergrad.runs.statistics import interval
from ordergrad.runs.tables import Table, estimate, text
from ordergrad.train.llm_settings import STARTS, LLMSettings, completions_file, start_name
from ordergrad.train.tasks import HELD_OUT, named_files

Array = NDArray[Any]
Measured = Mapping[str, Sequence[Mapping[str, Measure]]]
"""For the start and every objective the measures of each seed."""
_IDLE = 0.9


class Outcome(NamedTuple):
    """A mean over problems and seeds, and the ends of its 95% interval."""

    mean: float
    low: float
    high: float


def collected(settings: LLMSettings, out: Path) -> dict[str, Measured]:
    """Return for every test set the measures of the start and of every trained model."""
    start = start_name(settings)
    folders = {start: [out / STARTS[start]]}
    folders |= {name: [run_folder(out, name, seed) for seed in range(settings.seeds)] for name in settings.objectives}
    found: dict[str, Measured] = {}
    for test in named_files(settings.tests) or (HELD_OUT,):
        files = {name: [completions_file(folder, test) for folder in seeds] for name, seeds in folders.items()}
        found[test] = {
            name: [measures(read_evaluation(file), settings.success) for file in seeds] for name, seeds in files.items()
        }
    return found


def outcomes(seeds: Sequence[Mapping[str, Measure]]) -> dict[str, Outcome]:
    """Return each measure over seeds: of one seed the interval is that over problems, of several that over seeds."""
    names = [name for name in seeds[0] if all(name in seed for seed in seeds)]
    return {name: _over([seed[name] for seed in seeds]) for name in names}


def leads(measured: Measured, trained: str, against: str) -> dict[str, Outcome]:
    """Return how far one model is ahead of another in each measure, problem by problem, over seeds."""
    ours, theirs = measured[trained], measured[against]
    paired = list(zip(ours, theirs if len(theirs) == len(ours) else [theirs[0]] * len(ours), strict=True))
    names = [name for name in ours[0] if all(name in seed for pair in paired for seed in pair)]
    return {name: _over([lead(a[name], b[name]) for a, b in paired]) for name in names}


def _over(found: Sequence[Measure]) -> Outcome:
    if len(found) == 1:
        return Outcome(found[0].mean, found[0].low, found[0].high)
    return Outcome(*interval([measure.by_problem[~np.isnan(measure.by_problem)] for measure in found]))


def write_summary(
    settings: LLMSettings, out: Path, found: Mapping[str, Measured]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write ``measures.csv``, and ``leads.csv`` over the start and over the first objective; return their rows."""
    rows = [
        {"test": test, "trained": name, "measure": measure} | outcome._asdict() | {"seeds": len(seeds)}
        for test, measured in found.items()
        for name, seeds in measured.items()
        for measure, outcome in outcomes(seeds).items()
    ]
    write_rows(out / "measures.csv", rows)
    pairs = [
        (name, against) for against in (start_name(settings), settings.objectives[0]) for name in settings.objectives
    ]
    ahead = [
        {"test": test, "trained": name, "over": against, "measure": measure}
        | {"lead": outcome.mean, "low": outcome.low, "high": outcome.high}
        for test, measured in found.items()
        for name, against in pairs
        if name != against
        for measure, outcome in leads(measured, name, against).items()
    ]
    write_rows(out / "leads.csv", ahead)
    return rows, ahead


def reliability_tables(found: Mapping[str, Measured]) -> list[Table]:
    """Return for every test set the table of pass^k, the chance that all of k completions succeed."""
    columns = (text("trained", "trained on"), text("column"), estimate("value", digits=3, scale=100))
    tables: list[Table] = []
    for test, measured in found.items():
        rows = tuple(
            {"trained": name, "column": f"k={measure[5:]}", "value": x.mean, "low": x.low, "high": x.high}
            for name, seeds in measured.items()
            for measure, x in outcomes(seeds).items()
            if measure.startswith("pass^")
        )
        table = Table(f"pass^k in percent, {test}: all of k completions succeed", columns, rows)
        tables.append(table.pivot("trained", "column", "value", marks="best of column"))
    return tables


def nothing_learned(settings: LLMSettings, out: Path, found: Mapping[str, Measured]) -> str | None:
    """Return why no model succeeds more often than the start, and what to change; None if one does.

    A model has learned if a pass@k or pass^k on some test set is ahead of the start's by more than its 95% interval.
    """
    start = start_name(settings)
    for measured in found.values():
        for name in settings.objectives:
            ahead = leads(measured, name, start)
            if any(x.low > 0 for measure, x in ahead.items() if measure.startswith("pass")):
                return None
    first = outcomes(next(iter(found.values()))[start])
    most = max((name for name in first if name.startswith("pass@")), key=lambda name: int(name[5:]))
    folders = [run_folder(out, name, seed) for name in settings.objectives for seed in range(settings.seeds)]
    rows = [row for folder in folders for row in read_metrics(folder / METRICS)]
    idle = [row["ordergrad/no_signal"] for row in rows if "ordergrad/no_signal" in row]
    said = f"Nothing was learned: no model is ahead of the {start} by more than the 95% intervals."
    if first[most].mean == 0:
        return (
            f"{said} None of {settings.eval_samples} completions of any held-out problem succeeds: take easier "
            "problems, a better model or a longer --max-completion, or check --reward and --success."
        )
    if idle and np.mean(idle) > _IDLE:
        return (
            f"{said} In {np.mean(idle):.0%} of the groups all advantages were zero: raise --samples, or take problems "
            "that the model solves sometimes."
        )
    return f"{said} Raise --steps (now {settings.steps}) or --learning-rate (now {settings.learning_rate:g})."
