"""Logs compared with the first of them, every objective at one comparison size."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.runs.statistics import confidence_interval
from ordergrad.score.summary import Summary
from ordergrad.spec import parse
from ordergrad.weights import open_k

Array = NDArray[Any]


def common_k(summaries: Sequence[Summary]) -> int:
    """Return the comparison size at which levels without @K are compared.

    It is the largest one, K = N, that the usual (median) group of every log allows.

    Example:
        >>> short, long = Summary(["median"]), Summary(["median"])
        >>> short.add(np.zeros(8), np.array([4, 4]))
        >>> long.add(np.zeros(25), np.array([8, 8, 8, 1]))
        >>> common_k([short, long])
        4
    """
    return open_k(min((summary.usual_size for summary in summaries if summary.groups), default=1), "value")


def compare_logs(
    summaries: Sequence[Summary], again: Callable[[Sequence[str]], Sequence[Summary]]
) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of the comparisons of logs with the first one, each with the number of its log.

    Levels without @K take another K in groups of another size, and are then other objectives. Here they are all at
    `common_k`, and the rows name it. If groups differ in size, `again` reads the logs again for those.
    """
    k = common_k(summaries)
    named = [str(parse(objective).closed(k)) for objective in summaries[0].objectives]
    differ = {size for summary in summaries for size in summary.sizes} - {k}
    if differ and named != summaries[0].objectives:
        summaries = again(named)
    rows: list[tuple[int, dict[str, Any]]] = []
    for index, other in enumerate(summaries[1:], 1):
        compared = compare(summaries[0], other)
        rows += [(index, row | {"objective": name}) for name, row in zip(named, compared, strict=True)]
    return rows


def mixed_sizes(log: Mapping[str, Any], objectives: Sequence[str]) -> str:
    """Return what the values of levels without @K are where the groups of a log differ in size, else nothing.

    Example:
        >>> mixed_sizes({"smallest": 4, "largest": 8}, ["mean", "median"])
        'median: averaged over groups at K = N of their own, 4 to 8; a named K makes it one objective'
    """
    names = [objective for objective in objectives if parse(objective).is_open]
    least, most = (open_k(log[end] or 1, "value") for end in ("smallest", "largest"))
    if not names or least == most:
        return ""
    return (
        f"{', '.join(names)}: averaged over groups at K = N of their own, {least} to {most}; a named K makes it "
        "one objective"
    )


def compare(first: Summary, other: Summary) -> list[dict[str, Any]]:
    """Return, for every objective, how much higher the other log's value is than the first's, with a test.

    Groups with the same id are compared with each other (paired t-test). Without at least two of them the means of the
    groups are compared (Welch's t-test); with one group in either log, the values with their jackknife errors; and
    nothing if a log has no group that is large enough. Objectives without @K are the same only for groups of one size.
    """
    here, there = _matched(first, other)
    rows: list[dict[str, Any]] = []
    for column, objective in enumerate(first.objectives):
        both = ~np.isnan(here[:, column]) & ~np.isnan(there[:, column])
        apart = there[both, column] - here[both, column]
        if len(apart) > 1:
            found = {"method": "paired", "pairs": len(apart)} | _paired(apart)
        else:
            found = {"pairs": 0} | _unpaired(first, other, column)
        rows.append({"objective": objective} | found)
    return rows


def _matched(first: Summary, other: Summary) -> tuple[Array, Array]:
    """Return the values of the groups that both logs have, in the same order."""
    (here, values), (there, others) = _joined(first), _joined(other)
    _, at, at_other = np.intersect1d(here, there, assume_unique=True, return_indices=True)
    return values[at], others[at_other]


def _joined(summary: Summary) -> tuple[Array, Array]:
    """Return the prompts of a log, or its groups without steps, and the mean of the values of each over its steps."""
    kept = summary.kept or [(np.zeros(0, np.uint64), np.zeros((0, len(summary.objectives))))]
    keys, values = np.concatenate([keys for keys, _ in kept]), np.concatenate([values for _, values in kept])
    distinct, at = np.unique(keys, return_inverse=True)
    if len(distinct) == len(keys):
        return keys, values
    known = ~np.isnan(values)
    columns = zip(np.where(known, values, 0.0).T, known.T, strict=True)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(at, v, len(distinct)) / np.bincount(at, some, len(distinct)) for v, some in columns]
    return distinct, np.stack(means, axis=1)


def _paired(apart: Array) -> dict[str, Any]:
    from scipy.stats import t

    count, mean = len(apart), float(apart.mean())
    error = float(apart.std(ddof=1)) / math.sqrt(count)
    low, high = confidence_interval(mean, error, count)
    p = 2 * float(t.sf(abs(mean) / error, count - 1)) if error > 0 else float(mean == 0)
    return {"difference": mean, "error": error, "low": low, "high": high, "p_value": p}


def _unpaired(first: Summary, other: Summary, column: int) -> dict[str, Any]:
    from scipy.stats import norm, t

    one, two = first.estimate(column), other.estimate(column)
    (v0, e0, n0), (v1, e1, n1) = ((found.value, found.error, found.units) for found in (one, two))
    if not min(n0, n1):
        return {"method": "none"} | dict.fromkeys(("difference", "error", "low", "high", "p_value"), math.nan)
    difference, error = v1 - v0, math.hypot(e0, e1)
    if min(n0, n1) > 1 and error > 0:
        df = error**4 / (e0**4 / (n0 - 1) + e1**4 / (n1 - 1))
        law, method = t(df), "welch"
    else:
        law, method = norm(), "jackknife"
    half = float(law.ppf(0.975)) * error
    p = 2 * float(law.sf(abs(difference) / error)) if error > 0 else float(difference == 0)
    row = {"method": method, "difference": difference, "error": error}
    return row | {"low": difference - half, "high": difference + half, "p_value": math.nan if math.isnan(error) else p}
