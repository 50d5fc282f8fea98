"""The runs in the folder of a command, by objective: evaluations, metrics, and what is missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.runs.folder import EVALUATION, METRICS, read_metrics, run_folder
from ordergrad.runs.statistics import metric_columns

GRPO = "grpo"
"""Instead of an objective: GRPO as TRL ships it, to compare with."""


@dataclass(frozen=True)
class Contender:
    """What was trained on one objective, once for each seed.

    Attributes:
        objective: What it was trained on; empty for the model that all started from.
        evaluations: The evaluation of each seed that has one.
        metrics: The steps and metrics of each seed that was trained.
        last: The newest row of metrics of each seed, empty where there is none.
        missing: Sentences on the runs that have not finished.
    """

    objective: str
    evaluations: tuple[Any, ...]
    metrics: tuple[tuple[NDArray[Any], Mapping[str, NDArray[Any]]], ...] = ()
    last: tuple[Mapping[str, Any], ...] = ()
    missing: tuple[str, ...] = ()


def read_contender(
    folder: Path, objective: str, settings: Mapping[str, Any], read: Callable[[Path], Any], *, summarised: bool = False
) -> Contender:
    """Return what a folder holds of one of its objectives, its evaluations read by `read`.

    `summarised` says whether the folder has results of this objective even without its runs.
    """
    folders = [run_folder(folder, objective, seed) for seed in range(settings["seeds"])]
    rows = [read_metrics(path / METRICS) for path in folders]
    evaluated = [path / EVALUATION for path in folders if (path / EVALUATION).exists()]
    if any(rows) or evaluated:
        missing = [
            f"Unfinished: {objective}, seed {seed}, is at step {run[-1]['step'] if run else 0:,} of "
            f"{settings['steps']:,} and not evaluated yet."
            for seed, (path, run) in enumerate(zip(folders, rows, strict=True))
            if not (path / EVALUATION).exists()
        ]
    elif summarised:
        missing = [f"{objective}: the folder has the table of results, not the episodes and curves behind it."]
    else:
        missing = [f"{objective}: not started yet."]
    return Contender(
        objective,
        tuple(read(path) for path in evaluated),
        tuple(metric_columns(run) for run in rows if run),
        tuple(run[-1] if run else {} for run in rows),
        tuple(missing),
    )


def side_by_side(runs: Mapping[str, Mapping[str, Contender]]) -> dict[str, Contender]:
    """Return the contenders of several folders, the folder in their names."""
    return {f"{name} · {run}": found for run, contenders in runs.items() for name, found in contenders.items()}


def common_settings(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that are the same in all runs.

    Example:
        >>> common_settings([{"steps": 10, "seeds": 2}, {"steps": 20, "seeds": 2}])
        {'seeds': 2}
    """
    first, *others = settings
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def pooled(evaluations: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the values of all seeds in one array."""
    return np.concatenate([*evaluations, np.zeros(0)])
