r"""From an objective and a group size to the weights of a scan, on the host in float64.

Everything the estimators need of an objective is a `Scan`: two vectors that depend on it and on n alone. The
mathematics of the weights is in `ordergrad.bernstein`.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
    Walder and Karkhanis (2025). Pass@K Policy Optimization. arXiv 2505.15201 (the k-minus-one baseline for the max).
"""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ordergrad.bernstein import k_minus_one_weights, spectrum_of, subset_weights, weights_above
from ordergrad.objectives import Objective, whole_number
from ordergrad.smoothing import smoothed
from ordergrad.spec import parse

__all__ = [
    "Baseline",
    "Quantity",
    "Scan",
    "check_nonzero",
    "components",
    "level_note",
    "neighbouring_sizes",
    "open_k",
    "rank_weights",
    "sample_weights",
    "scan",
    "shrunk",
    "smallest_group",
    "spectrum",
]

Array = NDArray[np.float64]
Baseline = Literal["leave_one_out", "k_minus_one", "none"]
Quantity = Literal["value", "include_one", "excluded", "leave_one_out", "k_minus_one", "none", "error"]
_WITHOUT_ONE = ("leave_one_out", "excluded", "error")


class Scan(NamedTuple):
    """The weights that turn sorted rewards into one quantity.

    Attributes:
        slopes: Its increase per unit of each gap between neighbours; the part that differs between samples. (n-1,)
        offset: Weights of the gaps in the part common to all samples. (n-1,)
        total: Weight of the smallest reward in the common part. (1,)
    """

    slopes: Array
    offset: Array
    total: Array


def open_k(n: int, quantity: Quantity) -> int:
    """Return the comparison size that levels without @K take in a group of n: n for the value, n - 1 for the rest.

    So the value is the sample statistic (the sample CVaR, the median), and leaving one out the same of n - 1 rewards.

    Example:
        >>> open_k(8, "value"), open_k(8, "leave_one_out")
        (8, 7)
    """
    return n if quantity == "value" else max(n - 1, 1)


def level_note(objective: str | Objective, n: int) -> str:
    """Return what the advantages of a group of n see of levels that it cannot hold, one sentence, or nothing.

    A level q below 1/(n - 1) lies within the one worst (or best) of the n - 1 rewards compared: the objective is then
    `min` (or `max`) of them.

    Example:
        >>> level_note("mean+cvar:0.01", 8)
        'in groups of 8, cvar:0.01 is min@7'
        >>> level_note("cvar:0.25", 8)
        ''
    """
    k = open_k(n, "leave_one_out")
    found: list[str] = []
    for _, part in parse(objective).terms():
        if part.comparison_size is None:
            alpha = part.rank_weights(k).round(12).tolist()
            ends = {"min": alpha[0], "max": alpha[-1]} if k > 1 else {"mean": alpha[0]}
            alone = [name for name, weight in ends.items() if weight == 1 and alpha.count(0) == k - 1]
            found += [f"{part} is {name}@{k}" if k > 1 else f"{part} is the {name}" for name in alone]
    return f"in groups of {n}, {', '.join(found)}" if found else ""


def components(objective: Objective, k: int) -> tuple[tuple[float, Array], ...]:
    """Return the pairs (coefficient, rank weights) of whole comparison sizes that an objective amounts to.

    Args:
        objective: The objective.
        k: The comparison size of levels without @K.
    """
    pairs: list[tuple[float, Array]] = []
    for coefficient, part in objective.terms():
        for share, size in neighbouring_sizes(k if part.comparison_size is None else part.comparison_size):
            pairs.append((coefficient * share, part.rank_weights(size)))
    return tuple(pairs)


def neighbouring_sizes(k: float) -> list[tuple[float, int]]:
    """Return the pairs (share, whole K) whose mixture is a real comparison size."""
    below = math.floor(k)
    return [(1.0, below)] if k == below else [(below + 1 - k, below), (k - below, below + 1)]


def rank_weights(objective: str | Objective, k: int | None = None) -> Array:
    r"""Return the rank weights of an objective at one comparison size, ascending ranks.

    Mixtures of several sizes are raised to the largest by degree elevation,
    $\alpha'_j = ((K+1-j) \alpha_j + (j-1) \alpha_{j-1})/(K+1)$, which changes nothing about the objective.

    Args:
        objective: An objective or its string.
        k: The size of the result, which levels without @K take. Default: the largest size in the objective.

    Returns:
        A float64 array of shape (k,).

    Raises:
        ValueError: `k` is smaller than a comparison size of the objective, or missing for a level without @K.

    Example:
        >>> rank_weights("top:2@4")
        array([0. , 0. , 0.5, 0.5])
        >>> rank_weights("cvar:0.5", k=4)
        array([0.5, 0.5, 0. , 0. ])
    """
    objective = parse(objective)
    least = objective.largest_size
    if k is None:
        if objective.is_open:
            raise ValueError(f"k is needed: {objective} leaves the comparison size to the group")
        k = least
    if whole_number("k", k) < least:
        raise ValueError(f"k must be at least the comparison size {least} of {objective}; got k={k}")
    return _sum(((c, subset_weights(alpha, k)) for c, alpha in components(objective, k)), k)


def sample_weights(objective: str | Objective, n: int) -> Array:
    r"""Return the weights $w_m(n)$ that an objective's value gives to n sorted rewards, ascending.

    $\sum_m w_m R_{(m:n)}$ is the average of the statistic over all subsets: an unbiased estimate (U-statistic) of the
    objective. Levels without @K take K = n, so the sum is the sample statistic: the sample CVaR, the median.

    Args:
        objective: An objective or its string.
        n: The group size.

    Returns:
        A float64 array of shape (n,). The relative error is below 1e-12; where rank weights of both signs cancel, it
        is relative to what the terms add up to without their signs (for L-moments, to the largest weight).

    Raises:
        ValueError: `n` is smaller than a comparison size of the objective.

    Example:
        >>> sample_weights("max@2", 4) * 6
        array([0., 1., 2., 3.])
    """
    objective = parse(objective)
    pairs = components(objective, open_k(whole_number("n", n), "value"))
    k = max((len(alpha) for _, alpha in pairs), default=1)
    if k > n:
        raise ValueError(f"k must satisfy 1 <= k <= n; got k={k}, n={n}")
    return _sum(((c, subset_weights(alpha, n)) for c, alpha in pairs), n)


def smallest_group(objective: Objective, quantity: Quantity) -> int:
    """Return the smallest group for which a quantity of an objective is defined."""
    k = objective.largest_size
    if quantity in _WITHOUT_ONE:
        return k + 1
    return max(k, 2) if quantity == "k_minus_one" else k


def shrunk(objective: Objective, n: int, quantity: Quantity) -> Objective | None:
    """Return an objective at the comparison sizes that a quantity of a group of n allows, None if it has none there.

    Example:
        >>> print(shrunk(parse("mean+max@8"), 4, "leave_one_out"), shrunk(parse("mean-gini"), 2, "leave_one_out"))
        mean+max@3 None
    """
    if n < smallest_group(objective, quantity):
        fitting = objective.shrunk(n - 1 if quantity in _WITHOUT_ONE else n)
        return None if fitting is None or n < smallest_group(fitting, quantity) else fitting
    return objective


def check_nonzero(objective: Objective) -> None:
    """Check that an objective has a nonzero term; without one every advantage is zero.

    Example:
        >>> check_nonzero(parse("max@4-max@4"))
        Traceback (most recent call last):
        ValueError: objective must have a nonzero term; got 0*mean
    """
    if not objective.terms():
        raise ValueError(f"objective must have a nonzero term; got {objective}")


def scan(objective: Objective, n: int, quantity: Quantity) -> Scan:
    r"""Return the scan that computes a quantity of n sorted rewards.

    With w the sample weights of groups of n - 1 (slopes) and n (offset), the term of comparison size K has

    ===================  ============================================  ===========================================
    quantity             slopes                                        offset
    ===================  ============================================  ===========================================
    ``value``            0                                             w(n; K, α)
    ``include_one``      (n-K)/K w(n-1; K, α)                          w(n; K, α)
    ``excluded``         -w(n-1; K, α)                                 w(n; K, α)
    ``leave_one_out``    n w(n-1; K, α)                                0
    ``k_minus_one``      (n-K) w(n-1; K, α) + K w(n-1; K-1, α')        K (w(n; K, α) - w(n; K-1, α'))
    ``none``             (n-K) w(n-1; K, α)                            K w(n; K, α)
    ===================  ============================================  ===========================================

    The last three are the advantages with those baselines; ``excluded`` is the value without the sample; ``error`` is
    ``leave_one_out`` of the smoothed objective, the influence of every sample on the value. Levels without @K have the
    size `open_k`.
    """
    if quantity == "error":
        return scan(smoothed(objective), n, "leave_one_out")
    slopes, common = np.zeros(max(n - 1, 0)), np.zeros(n)
    for coefficient, alpha in components(objective, open_k(n, quantity)):
        if quantity == "k_minus_one" and len(alpha) == 1:
            alpha = subset_weights(alpha, 2)
        k = len(alpha)
        inner = subset_weights(alpha, n - 1) if k < n else np.zeros(n - 1)
        outer = subset_weights(alpha, n) if quantity != "leave_one_out" else common
        match quantity:
            case "value":
                common = common + coefficient * outer
            case "include_one":
                slopes += coefficient * (n - k) / k * inner
                common = common + coefficient * outer
            case "excluded":
                slopes -= coefficient * inner
                common = common + coefficient * outer
            case "leave_one_out":
                slopes += coefficient * n * inner
            case "none":
                slopes += coefficient * (n - k) * inner
                common = common + coefficient * k * outer
            case "k_minus_one":
                lower = k_minus_one_weights(alpha)
                slopes += coefficient * ((n - k) * inner + k * subset_weights(lower, n - 1))
                common = common + coefficient * k * (outer - subset_weights(lower, n))
    if quantity == "leave_one_out":
        return Scan(slopes, common[1:], np.zeros(1))
    total = math.fsum(common) if n <= 4096 else float(common.sum())  # fsum is slow on many tiny numbers
    return Scan(slopes, weights_above(common), np.array([total]))


def spectrum(objective: str | Objective, u: object, *, k: int | None = None) -> Array:
    r"""Return the spectrum φ(u): how an objective weighs the quantiles of the reward, $J = \int \varphi(u) Q(u) du$.

    For comparison size K it is the Bernstein polynomial $\sum_j \alpha_j K \binom{K-1}{j-1} u^{j-1} (1-u)^{K-j}$.
    Levels without @K give their population spectrum unless `k` is given.

    Args:
        objective: An objective or its string.
        u: Quantile levels in [0, 1], any shape; 0 is the worst outcome.
        k: The comparison size that levels without @K take.

    Returns:
        A float64 array of the shape of `u`.

    Raises:
        ValueError: A level is outside [0, 1], or a population spectrum is not a function (median, var, quantile,
            winsorized without @K).

    Example:
        >>> spectrum("bottom:1@8", [0.0, 0.125, 1.0]).round(3)
        array([8.   , 3.142, 0.   ])
        >>> spectrum("cvar:0.125", [0.0, 0.1, 1.0])
        array([8., 8., 0.])
    """
    levels = np.asarray(u, dtype=np.float64)
    if not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError(f"u must satisfy 0 <= u <= 1; got values in [{levels.min()}, {levels.max()}]")
    total = np.zeros_like(levels)
    for coefficient, part in parse(objective).terms():
        if part.comparison_size is None and k is None:
            total += coefficient * part.density(levels)
        else:
            for share, alpha in components(part, k or 1):
                total += coefficient * share * spectrum_of(alpha, levels)
    return total


def _sum(parts: Iterable[tuple[float, Array]], n: int) -> Array:
    total = np.zeros(n)
    for coefficient, weights in parts:
        total += coefficient * weights
    return total
