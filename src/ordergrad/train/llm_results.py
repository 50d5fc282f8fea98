"""The results of `ordergrad train llm`, finished or not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import value
from ordergrad.objectives import Weights
from ordergrad.runs.contenders import GRPO, Contender, common_settings, read_contender, side_by_side
from ordergrad.runs.folder import EVALUATION
from ordergrad.runs.statistics import interval, pass_at_k, powers_of_two, read_successes
from ordergrad.runs.tables import Table, estimate, text
from ordergrad.spec import parse
from ordergrad.train.llm_settings import STARTS, stages
from ordergrad.weights import open_k, rank_weights

Array = NDArray[Any]
SHARED = ("data", "reward", "samples", "eval_problems", "success")
"""The settings that runs must have in common to be compared."""


@dataclass(frozen=True)
class Models:
    """Runs on one task: the settings that they share, the models trained on each objective, and what is missing.

    An evaluation holds the successes on each held-out problem, and the number of completions of each.
    """

    settings: Mapping[str, Any]
    contenders: Mapping[str, Contender]
    notes: tuple[str, ...]

    @property
    def weighed(self) -> dict[str, str]:
        """The objective of each contender that has a spectrum, of a schedule the last one."""
        trained = {name: c.objective for name, c in self.contenders.items() if c.objective not in ("", GRPO)}
        return {name: stages(objective)[1] for name, objective in trained.items()}

    @property
    def spread(self) -> str:
        """What the intervals are over."""
        several = any(len(c.evaluations) > 1 for c in self.contenders.values())
        return "Student's over seeds; over problems where there is one seed" if several else "over problems"

    def pass_curves(self) -> dict[str, tuple[list[int], Array]]:
        """Return for each contender k = 1, 2, 4, ... and pass@k with the ends of its 95% interval."""
        curves: dict[str, tuple[list[int], Array]] = {}
        for name, contender in self.contenders.items():
            ks = powers_of_two(min((samples for _, samples in contender.evaluations), default=0))
            curves[name] = ks, pass_at_k(contender.evaluations, ks) if ks else np.zeros((0, 3))
        return curves

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each contender and k: pass@k and its 95% interval."""
        return [
            {"trained": name, "k": k, "pass_at_k": middle, "low": low, "high": high}
            | {"seeds": len(self.contenders[name].evaluations)}
            for name, (ks, curve) in self.pass_curves().items()
            for k, (middle, low, high) in zip(ks, curve.tolist(), strict=True)
        ]


def load(folder: Path, settings: Mapping[str, Any]) -> Models:
    """Return what the folder of a run holds so far."""
    starts = {name: folder / path / EVALUATION for name, path in STARTS.items()}
    contenders = {name: Contender("", (read_successes(path),)) for name, path in starts.items() if path.exists()}
    contenders |= {name: read_contender(folder, name, settings, read_successes) for name in settings["objectives"]}
    return Models(settings, contenders, tuple(note for c in contenders.values() for note in c.missing))


def together(runs: Mapping[str, Models]) -> Models:
    """Return several runs as one; they have the same settings `SHARED`."""
    contenders = side_by_side({name: run.contenders for name, run in runs.items()})
    return Models(common_settings([run.settings for run in runs.values()]), contenders, ())


def pass_table(models: Models) -> Table:
    """Return pass@k of every model."""
    columns = (text("trained", "trained on"), text("column"), estimate("pass_at_k", digits=3, scale=100))
    rows = tuple(row | {"column": f"k={row['k']}"} for row in models.rows())
    caption = f"± half of the 95% interval ({models.spread})."
    table = Table("pass@k in percent", columns, rows, caption)
    return table.pivot("trained", "column", "pass_at_k", marks="best of column")


def objective_table(models: Models) -> Table:
    """Return the value of every objective that was trained, and of the mean, under every model."""
    k = open_k(int(models.settings["samples"]), "leave_one_out")
    rows: list[dict[str, Any]] = []
    for name, contender in models.contenders.items():
        for objective in dict.fromkeys(("mean", *models.weighed.values())):
            alpha = rank_weights(parse(objective).closed(k))
            if contender.evaluations and all(len(alpha) <= n for _, n in contender.evaluations):
                outcomes: list[Array] = [1.0 * (np.arange(n) < good[:, None]) for good, n in contender.evaluations]
                middle, low, high = interval([np.asarray(value(run, Weights(*alpha))) for run in outcomes])
                rows.append({"trained": name, "evaluated": objective, "value": middle, "low": low, "high": high})
    caption = (
        f"The mean over held-out problems of the unbiased estimate from each problem's successes ± half of its 95% "
        f"interval ({models.spread}). Levels without @K at K = {k}, as in training. The highest of each column is "
        "marked; where intervals overlap the order may be chance."
    )
    columns = (text("trained", "trained on"), text("evaluated"), estimate("value"))
    table = Table("Every objective under every model", columns, tuple(rows), caption)
    return table.pivot("trained", "evaluated", "value", marks="best of column")
