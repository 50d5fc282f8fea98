"""The results of `ordergrad train rl`, finished or not."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ordergrad.runs.contenders import Contender, common_settings, pooled, read_contender, side_by_side
from ordergrad.runs.statistics import read_returns, values_of
from ordergrad.runs.tables import Row, Table, estimate, text
from ordergrad.spec import parse
from ordergrad.train.rl_settings import watched

SHARED = ("env_id", "env_args", "discount")
"""The settings that runs must have in common to be compared."""

_LEFT_OUT = {
    "nonfinite": "episodes had a NaN or infinite return and were left out",
    "abandoned": "episodes were left out because they lasted too long",
    "shrunk": "updates had too few episodes for K and ranked at a smaller one (raise --rollout or --envs)",
}


@dataclass(frozen=True)
class Policies:
    """Runs in one environment: the settings that they share, and the policies trained on each objective.

    An evaluation holds the returns of fresh episodes. `watched` are the objectives that are measured, `ranked` is how
    many episodes an update of each contender typically ranks, `written` the rows of ``results.csv``, for folders that
    hold no episodes, and `notes` what is missing or was left out.
    """

    settings: Mapping[str, Any]
    contenders: Mapping[str, Contender]
    watched: tuple[str, ...]
    ranked: Mapping[str, int]
    written: tuple[Row, ...]
    notes: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each contender and objective: the value of fresh episodes and its 95% interval."""
        finished = {name: c.evaluations for name, c in self.contenders.items() if c.evaluations}
        return [
            {"trained": v.trained, "evaluated": v.evaluated, "value": v.value, "low": v.low, "high": v.high}
            | {"seeds": v.seeds, "episodes": len(finished[v.trained][0]), "by_seed": v.by_seed}
            for v in values_of(finished, self.watched)
        ]


def load(folder: Path, settings: Mapping[str, Any]) -> Policies:
    """Return what the folder of a run holds so far."""
    written = _written(folder / "results.csv")
    known = {row["trained"] for row in written}
    contenders = {
        name: read_contender(folder, name, settings, read_returns, summarised=name in known)
        for name in settings["objectives"]
    }
    left_out = [
        f"{name}, seed {seed}: {row[key]:g} {reason}."
        for name, contender in contenders.items()
        for seed, row in enumerate(contender.last)
        for key, reason in _LEFT_OUT.items()
        if row.get(key)
    ]
    return Policies(
        settings,
        contenders,
        watched(tuple(settings["objectives"])),
        {name: _ranked(contender, settings["min_episodes"]) for name, contender in contenders.items()},
        tuple(written),
        (*(note for contender in contenders.values() for note in contender.missing), *left_out),
    )


def together(runs: Mapping[str, Policies]) -> Policies:
    """Return several runs as one; they have the same settings `SHARED`."""
    return Policies(
        common_settings([run.settings for run in runs.values()]),
        side_by_side({name: run.contenders for name, run in runs.items()}),
        tuple(dict.fromkeys(name for run in runs.values() for name in run.watched)),
        {f"{name} · {run}": n for run, policies in runs.items() for name, n in policies.ranked.items()},
        tuple(row | {"trained": f"{row['trained']} · {name}"} for name, run in runs.items() for row in run.written),
        (),
    )


def value_table(policies: Policies) -> Table:
    """Return the value of every objective under every policy."""
    rows = policies.rows()
    measured = {row["trained"] for row in rows}
    rows += [dict(row) for row in policies.written if row["trained"] not in measured]
    unlike = () if "episodes" in policies.settings else tuple(o for o in policies.watched if parse(o).is_open)
    caption = (
        "The value of fresh episodes ± half of its 95% interval, Student's over seeds; with one seed, of the sampling "
        "of episodes only. The highest of each column is marked; where intervals overlap the order may be chance."
    )
    if unlike:
        caption += f" Not marked: {', '.join(unlike)}, at K = N of runs with different N episodes."
    columns = (text("trained", "trained on"), text("evaluated"), estimate("value"))
    table = Table("Every objective under every policy", columns, tuple(rows), caption, unmarked=unlike)
    return table.pivot("trained", "evaluated", "value", marks="best of column")


def _ranked(contender: Contender, default: int) -> int:
    """Return the median number of episodes that an update ranked."""
    known = pooled([columns["ranked"] for _, columns in contender.metrics if "ranked" in columns])
    known = known[known > 0]
    return int(np.median(known)) if len(known) else default


def _written(path: Path) -> list[Row]:
    """Return the rows of the table that a finished run has written."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row | {key: float(row[key]) for key in ("value", "low", "high")} for row in csv.DictReader(file)]
