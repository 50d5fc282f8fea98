"""Values of objectives and pass@k from evaluations, with confidence intervals."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import value, value_and_error
from ordergrad.spec import parse
from ordergrad.weights import smallest_group

Array = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """The value of one objective under the policies trained on another: the mean over seeds of unbiased estimates.

    The 95% interval is Student's over seeds; with one seed it covers the sampling of episodes only (normal, jackknife
    error).
    """

    trained: str
    evaluated: str
    value: float
    low: float
    high: float
    seeds: int
    by_seed: tuple[float, ...]


def read_returns(path: Path) -> Array:
    """Return the returns of an evaluation."""
    with path.open(newline="") as file:
        return np.array([float(row["return"]) for row in csv.DictReader(file)])


def values_of(returns: Mapping[str, Sequence[Array]], objectives: Sequence[str]) -> list[Value]:
    """Return the value of every objective under every trained policy, from the fresh episodes of each of its seeds.

    NaN and infinite returns are dropped. So are seeds with too few finite returns for an objective, and objectives
    without a seed.

    Example:
        >>> [entry] = values_of({"mean": [np.array([1.0, 3.0]), np.array([2.0, 4.0])]}, ["mean"])
        >>> entry.value, round(entry.low, 2), round(entry.high, 2)
        (2.5, -3.85, 8.85)
    """
    table: list[Value] = []
    for trained, groups in returns.items():
        finite = [group[np.isfinite(group)] for group in groups]
        for objective in objectives:
            need = smallest_group(parse(objective), "leave_one_out")
            pairs = [value_and_error(group, objective) for group in finite if len(group) >= need]
            if not pairs:
                continue
            by_seed = np.array([float(v) for v, _ in pairs])
            s = len(by_seed)
            error = float(by_seed.std(ddof=1)) / s**0.5 if s > 1 else float(pairs[0][1])
            ends = confidence_interval(float(by_seed.mean()), error, s)
            table.append(Value(trained, objective, float(by_seed.mean()), *ends, s, tuple(by_seed.tolist())))
    return table


def read_successes(path: Path) -> tuple[Array, int]:
    """Return the number of successes on each held-out problem, and of completions per problem."""
    table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    return table[:, 1].astype(int), int(table[0, 2])


def powers_of_two(largest: int) -> list[int]:
    """Return 1, 2, 4, ... up to a number: the reported k of pass@k.

    Example:
        >>> powers_of_two(12)
        [1, 2, 4, 8]
    """
    return [1 << i for i in range(largest.bit_length())]


def pass_at(successes: Array, samples: int, k: int) -> Array:
    """Return the unbiased estimate of pass@k for every problem, shape of `successes`.

    Source: Chen et al. (2021), "Evaluating large language models trained on code", equation 1.

    Example:
        >>> pass_at(np.array([0, 1, 4]), 4, 2)
        array([0. , 0.5, 1. ])
    """
    outcomes = (np.arange(samples) < successes[:, None]).astype(np.float64)
    return np.asarray(value(outcomes, f"max@{k}"))


def pass_at_k(runs: Sequence[tuple[Array, int]], ks: Sequence[int]) -> Array:
    """Return pass@k, and the ends of its 95% interval, for each k: shape (len(ks), 3).

    A run is one seed: the successes on each problem, and the completions that each problem had. The interval is
    Student's over seeds; of one seed, the normal one over problems.

    Example:
        >>> pass_at_k([(np.array([0, 2, 4]), 4)], [1])[0, 0]
        np.float64(0.5)
    """
    return np.array([interval([pass_at(successes, samples, k) for successes, samples in runs], (0.0, 1.0)) for k in ks])


def interval(runs: Sequence[Array], bounds: tuple[float, float] = (-math.inf, math.inf)) -> tuple[float, float, float]:
    """Return the mean of the runs' means, and the ends of its 95% interval, clipped to bounds.

    The interval is Student's over runs; of one run, the normal one over its values.

    Example:
        >>> interval([np.array([1.0, 3.0]), np.array([2.0, 4.0])])[0]
        2.5
    """
    means = np.array([run.mean() for run in runs])
    apart = means if len(means) > 1 else runs[0]
    middle, error = float(means.mean()), float(apart.std(ddof=1)) / len(apart) ** 0.5
    low, high = confidence_interval(middle, error, len(means))
    return middle, max(low, bounds[0]), min(high, bounds[1])


def confidence_interval(mean: float, error: float, count: int) -> tuple[float, float]:
    """Return the ends of the 95% interval of a mean: Student's over its values, the normal one of a single value.

    Example:
        >>> [round(end, 3) for end in confidence_interval(0.0, 1.0, 10)]
        [-2.262, 2.262]
    """
    from scipy.stats import t

    half = error * float(t.ppf(0.975, count - 1 if count > 1 else math.inf))
    return mean - half, mean + half


def metric_columns(run: Sequence[Mapping[str, Any]]) -> tuple[Array, dict[str, Array]]:
    """Return the steps of a run and its metrics as arrays, NaN where a row has no number.

    Example:
        >>> metric_columns([{"step": 1}, {"step": 2, "mean": 0.5}])[1]["mean"]
        array([nan, 0.5])
    """
    columns: dict[str, Array] = {}
    for name in dict.fromkeys(name for row in run for name in row):
        values = [row[name] if isinstance(row.get(name), (int, float)) else np.nan for row in run]
        columns[name] = np.array(values, dtype=float)
    return np.array([row["step"] for row in run], dtype=float), columns
