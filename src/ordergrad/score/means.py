r"""Means over the groups of a log, with errors that hold where groups come from the same prompts.

A prompt that comes again at later steps gives values that resemble each other. The unit that varies independently is
the prompt: with $G$ groups of values $v_g$ of mean $\bar v$, and $I_c = \frac{C}{G} \sum_{g \in c} (v_g - \bar v)$ for
each of the C prompts, the squared error is $\sum_c I_c^2 / (C (C - 1))$.

Where values lie between two bounds a and b, such as success rates, the interval is that of Clopper and Pearson for
$p = (\bar v - a) / (b - a)$ at the number of independent tries that has this error,
$n = \frac{p (1 - p)}{\text{error}^2} (t_{R-1} / t_\nu)^2$, R the number of rewards (Korn and Graubard): never of
length zero, and right where successes are rare. $\nu = 2C / (\kappa - 1)$ within [5, C - 1] are the degrees of freedom
of the error, κ the kurtosis of the $I_c$: few where a few prompts carry most of it. Without any success (or failure)
each prompt counts as one try. Otherwise it is that of `ordergrad.intervals.influence_interval`.

References:
    Korn and Graubard (1998). Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data. Survey Methodology 24(2).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.intervals import influence_interval
from ordergrad.runs.statistics import confidence_interval

Array = NDArray[Any]
_KEPT = 1 << 16


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and 95% interval, NaN where they are not known, and over how many groups.

    ``units`` are the independent ones: prompts, where several groups come from the same one.
    """

    value: float = math.nan
    error: float = math.nan
    low: float = math.nan
    high: float = math.nan
    groups: int = 0
    units: int = 0


class Moments:
    """Running means and variances of several columns; NaN entries do not count.

    Attributes:
        count: The number of entries of each column.
        mean: Their mean.
        squares: The sum of their squared distances from the mean.

    Example:
        >>> moments = Moments(1)
        >>> moments.add(np.array([[1.0], [3.0]]))
        >>> moments.mean, moments.error()
        (array([2.]), array([1.]))
    """

    def __init__(self, width: int) -> None:
        self.count, self.mean, self.squares = (np.zeros(width) for _ in range(3))

    def add(self, table: Array) -> None:
        """Take in rows; a table of fewer columns fills the first ones."""
        known = ~np.isnan(table)
        count = known.sum(axis=0).astype(np.float64)
        mean = np.where(known, table, 0).sum(axis=0) / np.maximum(count, 1)
        self.join(count, mean, (np.where(known, table - mean, 0) ** 2).sum(axis=0))

    def join(self, count: Array, mean: Array, squares: Array) -> None:
        """Take in the moments of other rows."""
        first = slice(0, len(count))
        total = np.maximum(self.count[first] + count, 1)
        apart = mean - self.mean[first]
        self.squares[first] += squares + apart**2 * self.count[first] * count / total
        self.mean[first] += apart * count / total
        self.count[first] += count

    def error(self) -> Array:
        """Return the standard errors of the means, NaN for fewer than two rows."""
        enough = self.count > 1
        spread = self.squares / np.where(enough, self.count * (self.count - 1), np.nan)
        return np.sqrt(spread)


class Means:
    """Running means of several columns over groups; NaN entries do not count.

    Groups of one unit are kept as one sum. Without units each group is one; the values of the first 65,536 are kept
    for the skewness of their distribution, which no longer matters beyond.

    Example:
        >>> means = Means(1)
        >>> means.add(np.array([[0.0], [1.0], [1.0], [0.5]]), np.array([7, 7, 8, 8]))
        >>> means.estimate(0).value, means.estimate(0).units
        (0.625, 2)
    """

    def __init__(self, width: int) -> None:
        self._moments = Moments(width)
        self._kept: list[Array] | None = []
        self._units: tuple[Array, Array, Array] | None = None
        self._waiting: list[tuple[Array, Array, Array]] = []

    @property
    def count(self) -> Array:
        """The number of groups of each column."""
        return self._moments.count

    def add(self, table: Array, units: Array | None = None) -> None:
        """Take in the values of groups, shape (groups, columns), and the unit of each as a number."""
        self._moments.add(table)
        if units is None:
            if self._kept is not None:
                self._kept.append(table)
                self._kept = self._kept if sum(map(len, self._kept)) <= _KEPT else None
            return
        known = ~np.isnan(table)
        self._waiting.append((units, np.where(known, table, 0.0), known.astype(np.float64)))
        held = 0 if self._units is None else len(self._units[0])
        if sum(len(some) for some, _, _ in self._waiting) > max(_KEPT, held):
            self._settle()

    def estimate(self, column: int, rewards: int = 0, bounds: tuple[float, float] | None = None) -> Estimate:
        """Return the mean of a column of values that lie between bounds, from so many rewards."""
        count, value = int(self.count[column]), float(self._moments.mean[column])
        if count == 0:
            return Estimate()
        influence, low, high = self._influence(column), math.nan, math.nan
        if influence is None:
            units, error, freedom = count, float(self._moments.error()[column]), None
        else:
            units, freedom = len(influence), _freedom(influence)
            error = math.sqrt((influence**2).mean() / (units - 1)) if units > 1 else math.nan
        if bounds is not None and bounds[0] < bounds[1] and not math.isnan(error):
            low, high = bounded_interval(value, error, units, max(rewards, units), bounds, freedom)
        elif influence is None:
            low, high = confidence_interval(value, error, 1)
        elif units > 1 and error > 1e-12 * abs(value):
            low, high = map(float, influence_interval(value, influence))
        return Estimate(value, error, low, high, count, units)

    def _influence(self, column: int) -> Array | None:
        """Return the influence values of the units, None if they are not kept."""
        mean, count = self._moments.mean[column], self.count[column]
        if self._waiting or self._units is not None:
            self._settle()
            assert self._units is not None
            _, sums, counts = self._units
            some = counts[:, column] > 0
            return (sums[some, column] - mean * counts[some, column]) * some.sum() / count
        if self._kept is None:
            return None
        values = np.concatenate([table[:, column] for table in self._kept if table.shape[1] > column])
        return values[~np.isnan(values)] - mean

    def sums(self) -> Array | None:
        """Return the sums over the groups of each unit, shape (units, columns), None if there are no units."""
        self._settle()
        return None if self._units is None else self._units[1]

    def _settle(self) -> None:
        if not self._waiting:
            return
        parts = [*([] if self._units is None else [self._units]), *self._waiting]
        width = max(values.shape[1] for _, values, _ in parts)
        units, places = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
        sums, counts = np.zeros((len(units), width)), np.zeros((len(units), width))
        start = 0
        for some, values, known in parts:
            at = places[start : start + len(some)]
            start += len(some)
            for column in range(values.shape[1]):
                sums[:, column] += np.bincount(at, values[:, column], len(units))
                counts[:, column] += np.bincount(at, known[:, column], len(units))
        self._units, self._waiting = (units, sums, counts), []


class Shares:
    r"""Running shares $\sum_g a_g / \sum_g b_g$ over groups, such as of the tokens in groups without a gradient.

    The squared error of a share s is $\frac{C}{C-1} \sum_c (A_c - s B_c)^2 / (\sum_c B_c)^2$, with the sums $A_c$ and
    $B_c$ over the groups of each of C units.

    Example:
        >>> shares = Shares(1)
        >>> shares.add(np.array([[10.0], [0.0]]), np.array([[10.0], [30.0]]))
        >>> shares.estimate(0).value
        0.25
    """

    def __init__(self, width: int) -> None:
        self._width, self._groups = width, 0
        self._means = Means(2 * width)
        self._products = np.zeros((5, width))

    def add(self, parts: Array, wholes: Array, units: Array | None = None) -> None:
        """Take in the parts and the wholes of groups, each of shape (groups, columns), and the unit of each group."""
        self._groups += len(parts)
        if units is not None:
            self._means.add(np.concatenate([parts, wholes], axis=1), units)
        else:
            self._products += _products(parts, wholes)

    def estimate(self, column: int) -> Estimate:
        """Return a share with its error and interval; of nothing it is NaN."""
        sums, units = self._means.sums(), self._groups
        products = self._products
        if sums is not None:
            products, units = _products(sums[:, : self._width], sums[:, self._width :]), len(sums)
        part, whole, square, product, other = products[:, column].tolist()
        if whole <= 0:
            return Estimate()
        share = part / whole
        if units < 2:
            return Estimate(share, groups=self._groups, units=units)
        spread = max(square - 2 * share * product + share**2 * other, 0.0)
        error = math.sqrt(spread * units / (units - 1)) / whole
        low, high = bounded_interval(share, error, units, max(self._groups, units), (0.0, 1.0))
        return Estimate(share, error, low, high, self._groups, units)


def _products(a: Array, b: Array) -> Array:
    """Return the sums over rows of a, b, a², ab and b²."""
    return np.stack([a.sum(axis=0), b.sum(axis=0), (a**2).sum(axis=0), (a * b).sum(axis=0), (b**2).sum(axis=0)])


def _freedom(influence: Array) -> float:
    """Return the degrees of freedom of the error that influence values of mean zero give."""
    n, square = len(influence), float((influence**2).mean())
    kurtosis = float((influence**4).mean()) / square**2 if square > 0 else 1.0
    return min(max(2 * n / (kurtosis - 1), 5.0), n - 1.0) if kurtosis > 1 else n - 1.0


def bounded_interval(
    value: float, error: float, units: int, rewards: int, bounds: tuple[float, float], freedom: float | None = None
) -> tuple[float, float]:
    """Return the 95% interval of a mean of values that lie between two bounds.

    Its error is over independent units, with so many degrees of freedom (default one less than units). There cannot be
    more independent tries than rewards.

    Example:
        >>> low, high = bounded_interval(0.0, 0.0, 40, 320, (0.0, 1.0))
        >>> low, round(high, 3)
        (0.0, 0.088)
    """
    from scipy.special import betaincinv, stdtrit

    a, b = bounds
    p, side = min(max((value - a) / (b - a), 0.0), 1.0), 0.025
    if p in (0.0, 1.0):
        n = float(units)
    elif error > 0 and units > 1:
        ratio = float(stdtrit(max(rewards - 1, 1), 1 - side) / stdtrit(freedom or units - 1, 1 - side))
        n = min(p * (1 - p) * ((b - a) / error) ** 2 * ratio**2, rewards)
    else:
        n = float(rewards)
    k = n * p
    low = float(betaincinv(k, n - k + 1, side)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - side)) if k < n else 1.0
    return a + (b - a) * low, a + (b - a) * high
