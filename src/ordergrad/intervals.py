r"""Confidence intervals for the objective, from one group of rewards on the host.

Three kinds of objective, one scheme for each:

* a quantile of the population (``median``, ``var:q``, ``quantile:q`` without @K): two order statistics. The number of
  rewards below the quantile is binomial, so the interval holds for every distribution;
* rewards of two values: the objective is a function of one success probability, here over its Clopper-Pearson interval;
* everything else: value and influence values, with a correction for the skewness of the influence and Student's
  quantiles at degrees of freedom that its kurtosis leaves.

References:
    David and Nagaraja (2003). Order Statistics, section 7.1. (intervals for quantiles)
    Clopper and Pearson (1934). The use of confidence or fiducial limits illustrated in the case of the binomial.
    Hall (1992). On the removal of skewness by transformation. JRSS B 54(1).
    Massart (1990). The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ordergrad import exact
from ordergrad.arrays import arrange
from ordergrad.backends import Array
from ordergrad.estimators import advantages
from ordergrad.objectives import Objective, real_number
from ordergrad.smoothing import quantile_level, smoothed
from ordergrad.spec import parse
from ordergrad.weights import rank_weights

__all__ = ["influence_interval", "influence_values", "interval"]

Floats = NDArray[np.float64]


class _Asked(NamedTuple):
    """What one call asks for: the outer probability on each side, and the range of the rewards if it is known."""

    objective: Objective
    level: float
    side: float
    bounds: tuple[float, float] | None


def interval(
    rewards: Array,
    objective: str | Objective,
    *,
    level: float = 0.95,
    axis: int = -1,
    where: Array | None = None,
    bounds: tuple[float, float] | None = None,
) -> tuple[Floats, Floats]:
    r"""Return a confidence interval for the objective J of every group; it may be asymmetric.

    J is the objective at its comparison size; for a level without @K, that of the population. The rewards of a group
    must be independent draws. ``docs/intervals.md`` has the measured coverage of every objective.

    Args:
        rewards: A group of N rewards along `axis`, any number of groups: shape (..., N). In host memory.
        objective: An objective or its string, K below N.
        level: The confidence level.
        axis: The axis of the group.
        where: Mask of valid samples, broadcastable to `rewards`. N is their number in each group.
        bounds: The lowest and the highest reward there can be, such as (0, 1). Needed where all rewards of a group are
            equal, and for quantiles too close to 0 or 1 for N.

    Returns:
        Two float64 arrays (low, high) of shape (...).

    Raises:
        ValueError: A group has no such interval (the message names the group and says why), K does not fit N, or the
            rewards are NaN, infinite or outside `bounds`.
        TypeError: The rewards are not real numbers in host memory.

    Example:
        >>> low, high = interval([0, 1, 1, 0, 1, 1, 1, 0], "max@2")
        >>> print(f"{low:.2f} {high:.2f}")
        0.43 0.99
        >>> interval(range(100), "median")
        (np.float64(39.0), np.float64(60.0))
    """
    asked = _asked(objective, level, bounds)
    x, sizes = _ascending(rewards, axis, where)
    ends = np.empty((2, *sizes.shape))
    for n in np.unique(sizes).tolist():
        groups = sizes == n
        try:
            ends[:, groups] = _of_groups(x[groups, :n], asked)
        except ValueError:
            _raise_with_the_group(x[groups, :n], np.argwhere(groups).tolist(), asked)
            raise
    return ends[0], ends[1]


def influence_values(rewards: Array, objective: str | Objective, *, axis: int = -1) -> Array:
    r"""Return the influence of every reward on the value: $v - J \approx \frac1N \sum_i I_i$, $\sum_i I_i = 0$ here.

    (N-1)/N times the advantages, with quantiles without @K smoothed (`ordergrad.smoothing`). Where rewards come in G
    clusters, such as the completions of a prompt, add up the influence values of each cluster, multiply by G/N, and
    hand those G numbers to `influence_interval`.

    Args:
        rewards: A group of N rewards along `axis`, any number of groups: shape (..., N).
        objective: An objective or its string, K below N.
        axis: The axis of the group.

    Returns:
        An array of the shape, dtype and device of `rewards`, detached.

    Example:
        >>> influence_values([1.0, 2.0, 3.0, 6.0], "mean")
        array([-2., -1.,  0.,  3.])
    """
    a = advantages(rewards, smoothed(parse(objective)), axis=axis)
    return a * (1 - 1 / a.shape[axis])


def influence_interval(value: Floats | float, influence: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    r"""Return the interval around a value whose error is the mean of independent influence values.

    The ends are $v - s\,g(\pm t)$. $s = \sqrt{\sum_i I_i^2 / (n (n-1))}$ is the standard error. t is Student's
    quantile at $2n / (\kappa - 1)$ degrees of freedom, at which $s^2$ varies as much as it does for influence values of
    kurtosis κ, within [5, n - 1]. $g(x) = \frac{3}{c} ((1 + c (x - c/6))^{1/3} - 1)$ is Hall's transformation with
    $c = \gamma/\sqrt n$, γ the skewness of the influence, within ±0.9/t: where the influence is one-sided, as in a
    tail, one side of the interval is longer, up to 1.8 times Student's.

    Args:
        value: The value v of every group, shape (...).
        influence: Influence values of mean zero, shape (..., n): of rewards, or of clusters of them.
        level: The confidence level.

    Returns:
        Two arrays (low, high) of shape (...).

    Example:
        >>> low, high = influence_interval(3.0, influence_values(np.array([1.0, 2.0, 3.0, 6.0]), "mean"))
        >>> print(f"{low:.2f} {high:.2f}")
        0.30 9.39
    """
    from scipy.special import stdtrit

    n = influence.shape[-1]
    if n < 2:
        raise ValueError(f"influence must hold at least two values; got shape {influence.shape}")
    square, cube, fourth = (np.mean(influence**power, axis=-1) for power in (2, 3, 4))
    with np.errstate(divide="ignore", invalid="ignore"):
        c = np.nan_to_num(cube / square**1.5) / math.sqrt(n)
        freedom = np.nan_to_num(2 * n / (fourth / square**2 - 1), nan=n, posinf=n)
    t = np.asarray(stdtrit(np.clip(freedom, 5, n - 1), (1 + level) / 2), dtype=np.float64)
    c = np.where(np.abs(c) < 1e-6, 1e-6, np.clip(c, -0.9 / t, 0.9 / t))
    error = np.sqrt(square / (n - 1))
    low, high = (value - error * 3 / c * (np.cbrt(1 + c * (x - c / 6)) - 1) for x in (t, -t))
    return np.asarray(low), np.asarray(high)


def _asked(objective: str | Objective, level: float, bounds: tuple[float, float] | None) -> _Asked:
    objective = parse(objective)
    exact.value([0.0, 1.0], [0.5, 0.5], objective)  # raises where an open level has no finite value
    if not 0 < real_number("level", level) < 1:
        raise ValueError(f"level must satisfy 0 < level < 1; got level={level}")
    if bounds is not None and not real_number("bounds", bounds[0]) < real_number("bounds", bounds[1]):
        raise ValueError(f"bounds must be the lowest and the highest possible reward; got bounds={bounds}")
    return _Asked(objective, level, (1 - level) / 2, bounds)


def _ascending(rewards: Array, axis: int, where: Array | None) -> tuple[Floats, NDArray[np.int64]]:
    """Return the rewards in float64, each group ascending with its valid samples first, and the numbers of those."""
    r = arrange(rewards, axis, where, detach=True)
    x, mask = r.ops.on_host(r.x), None if r.mask is None else r.ops.on_host(r.mask)
    if x is None or (mask is None and where is not None):
        raise TypeError(f"rewards must be in host memory, outside compiled code; got {type(rewards).__name__}")
    valid = np.ones(x.shape, dtype=np.bool_) if mask is None else mask
    if not np.isfinite(x[valid]).all():
        raise ValueError(f"rewards must be finite; got NaN or infinite values (rewards shape {x.shape})")
    return np.sort(np.where(valid, x, np.inf).astype(np.float64), axis=-1), np.count_nonzero(valid, axis=-1)


def _raise_with_the_group(x: Floats, places: list[list[int]], asked: _Asked) -> None:
    """Raise the error of the first group that has no interval, with its place among the groups."""
    for group, place in zip(x, places, strict=True):
        try:
            _of_groups(group[None], asked)
        except ValueError as error:
            raise ValueError(f"group {', '.join(map(str, place))}: {error}" if place else str(error)) from None


def _between_order_statistics(x: Floats, q: float, asked: _Asked) -> tuple[Floats, Floats]:
    """Return the innermost order statistics that the q-quantile lies beyond with probability `side` each."""
    from scipy.special import bdtr

    n = x.shape[-1]
    below = np.asarray(bdtr(range(n), n, q), dtype=np.float64)  # that at most so many rewards are below the quantile
    low = int(np.searchsorted(below, asked.side, side="right"))
    high = int(np.searchsorted(below, 1 - asked.side)) + 1
    if asked.bounds is None and not (low >= 1 and high <= n):
        need = math.ceil(math.log(asked.side) / math.log1p(-min(q, 1 - q))) if q < 1 else math.inf
        tail, share = ("below", (1 - q) ** n) if low < 1 else ("above", q**n)
        raise ValueError(
            f"{asked.objective} has no {100 * asked.level:g}% interval in a group of N={n}: with probability "
            f"{share:.2g} no reward lies {tail} that quantile; it needs N >= {need}, or bounds=(lowest, highest "
            "possible reward)"
        )
    ends = asked.bounds or (math.nan, math.nan)
    return (
        x[:, low - 1] if low >= 1 else np.full(len(x), ends[0]),
        x[:, high - 1] if high <= n else np.full(len(x), ends[1]),
    )


def _of_groups(x: Floats, asked: _Asked) -> tuple[Floats, Floats]:
    """Return the intervals of sorted groups, shape (groups, N), by the scheme for each."""
    n, bounds, terms = x.shape[-1], asked.bounds, asked.objective.terms()
    if n == 0:
        raise ValueError("where must leave at least one valid sample in every group; got none")
    if bounds is not None and not ((x[:, 0] >= bounds[0]) & (x[:, -1] <= bounds[1])).all():
        raise ValueError(f"rewards must lie within bounds={bounds}; got rewards from {x.min()} to {x.max()}")
    if len(terms) == 1 and (q := quantile_level(terms[0][1])) is not None:
        ends = terms[0][0] * np.stack(_between_order_statistics(x, q, asked))
        return ends.min(axis=0), ends.max(axis=0)
    values = 1 + np.count_nonzero(np.diff(x, axis=-1), axis=-1)
    two = values <= (2 if n > 2 else 1)  # of two rewards, different ones say nothing about how many values there are
    if bounds is not None:
        two |= ((x == bounds[0]) | (x == bounds[1])).all(axis=-1)
    low, high = np.empty(len(x)), np.empty(len(x))
    if two.any():
        low[two], high[two] = _two_valued(x[two], asked)
    if not two.all():
        low[~two], high[~two] = _by_influence(x[~two], asked)
    return low, high


def _two_valued(x: Floats, asked: _Asked) -> tuple[Floats, Floats]:
    """Return the intervals of sorted groups of two values; of one alone, with either bound as the second."""
    n = x.shape[-1]
    worst, best = x[:, 0], x[:, -1]
    low, high = _over_probability(worst, best, np.count_nonzero(x == best[:, None], axis=-1), n, asked)
    equal = worst == best
    if equal.any():
        if asked.bounds is None:
            raise ValueError(
                f"rewards must not all be equal; got a group of {n} times {worst[equal][0]:g}, which says nothing "
                "about other rewards: pass bounds=(lowest, highest possible reward)"
            )
        same = worst[equal]
        none = np.zeros(len(same), dtype=np.int64)
        down = _over_probability(np.full_like(same, asked.bounds[0]), same, none + n, n, asked)
        up = _over_probability(same, np.full_like(same, asked.bounds[1]), none, n, asked)
        low[equal], high[equal] = np.minimum(down[0], up[0]), np.maximum(down[1], up[1])
    return low, high


def _over_probability(
    worst: Floats, best: Floats, successes: NDArray[np.int64], n: int, asked: _Asked
) -> tuple[Floats, Floats]:
    """Return the range of J of two outcomes over the Clopper-Pearson interval of the probability of the better one.

    Where J need not be monotone in it, `between` bounds how far its extremes may lie beyond those of the grid.
    """
    low, high = np.empty(len(worst)), np.empty(len(worst))
    mass = exact.value([1.0], [1.0], asked.objective)
    monotone = (rank_weights(asked.objective, k=max(n, asked.objective.largest_size)) >= 0).all()
    for k in np.unique(successes):
        p = _probability_interval(int(k), n, asked.side)
        j = exact.value(np.array([0.0, 1.0]), np.stack([1 - p, p], axis=-1), asked.objective)
        between = 0.0 if monotone else np.abs(np.diff(j, 2)).max() / 8
        rows = successes == k
        step = best[rows] - worst[rows]
        low[rows] = mass * worst[rows] + step * (j.min() - between)
        high[rows] = mass * worst[rows] + step * (j.max() + between)
    return low, high


def _probability_interval(successes: int, n: int, side: float) -> Floats:
    """Return 65 probabilities from one end of the Clopper-Pearson interval to the other."""
    from scipy.special import betaincinv

    low: Any = betaincinv(successes, n - successes + 1, side) if successes > 0 else 0.0
    high: Any = betaincinv(successes + 1, n - successes, 1 - side) if successes < n else 1.0
    return np.linspace(float(low), float(high), 65)


def _by_influence(x: Floats, asked: _Asked) -> tuple[Floats, Floats]:
    """Return the intervals of sorted groups from their influence values."""
    n = x.shape[-1]
    for _, part in asked.objective.terms():
        if part.comparison_size is None and quantile_level(part) is None:
            (ranks,) = np.nonzero(part.rank_weights(n))
            if len(ranks) == 1:
                raise ValueError(
                    f"{part} has no interval in a group of N={n}: there it is one reward, that of rank {ranks[0] + 1}, "
                    "whose error cannot be estimated; it needs a larger N"
                )
    influence, weights = influence_values(x, asked.objective), rank_weights(asked.objective, k=n)
    value = np.einsum("gm,m->g", x, weights)
    low, high = influence_interval(value, influence, asked.level)
    flat = ~influence.any(axis=-1)
    if flat.any():
        low[flat], high[flat] = _in_band(x[flat], asked)
    if asked.bounds is not None and (weights >= 0).all():
        ends = weights.sum() * np.array(asked.bounds)
        low, high = np.maximum(low, ends[0]), np.minimum(high, ends[1])
    return low, high


def _in_band(x: Floats, asked: _Asked) -> tuple[Floats, Floats]:
    """Return the values with the share of the Dvoretzky-Kiefer-Wolfowitz band moved to the worst and to the best end.

    For groups whose ties hide every influence, such as a tail that is all zeros. Rewards beyond the range of the group
    are seen only through `bounds`.
    """
    n = x.shape[-1]
    ends = asked.bounds or (x[:, 0], x[:, -1])
    wide = np.column_stack([np.broadcast_to(ends[0], len(x)), x, np.broadcast_to(ends[1], len(x))])
    share = min(math.sqrt(math.log(1 / asked.side) / (2 * n)), 1.0)
    rest = np.maximum(np.linspace(0, 1, n + 1) - share, 0)
    up = np.array([0.0, *np.diff(rest), share])
    low, high = (exact.value(wide, p, asked.objective) for p in (up[::-1], up))
    return low, high
