"""Means of the outcomes between two quantile levels, with fractional weights on the boundary ranks."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ordergrad.objectives.base import Level
from ordergrad.objectives.checks import check_half, check_level, check_wide, real_number

__all__ = ["Band", "CVaR", "Range", "Trimmed", "UpperCVaR", "Winsorized"]

Array = NDArray[np.float64]


class Band(Level):
    """The mean between two levels, its `ends`."""

    @property
    def ends(self) -> tuple[float, float]:
        """The levels between which the mean is taken."""
        raise NotImplementedError

    def rank_weights(self, k: int) -> Array:
        """Return equal weights on the ranks between the levels, fractions on the boundary ranks."""
        return shares_between(*self.ends, k)

    def cumulative(self, u: Array) -> Array:
        """Return (u - lo) / (hi - lo), clipped to [0, 1]."""
        lo, hi = self.ends
        return np.clip((u - lo) / (hi - lo), 0, 1)

    def density(self, u: Array) -> Array:
        """Return 1 / (hi - lo) between the levels."""
        lo, hi = self.ends
        return np.where(reached(lo, u) & ~reached(hi, u), 1 / (hi - lo), 0)


@dataclass(frozen=True)
class CVaR(Band):
    r"""The mean of the worst fraction q of outcomes, the expected shortfall of the reward.

    $J = \frac1q \int_0^q Q(u) \, du$. Rank j weighs the share of $[(j-1)/K, j/K]$ that lies below q, divided by q,
    so K q need not be whole. Population spectrum $1/q$ on $[0, q]$. Higher is better: losses must be negated by the
    caller.

    Source: Rockafellar and Uryasev (2002), "Conditional value-at-risk for general loss distributions", proposition 8;
    Acerbi (2002), "Spectral measures of risk".

    Example:
        >>> CVaR(0.3).rank_weights(5)
        array([0.66666667, 0.33333333, 0.        , 0.        , 0.        ])
    """

    q: float
    k: float | None = None
    name: ClassVar[str] = "cvar"

    def _check(self) -> None:
        check_level("q", self.q, include_one=True)

    @property
    def ends(self) -> tuple[float, float]:
        """The levels between which the mean is taken."""
        return 0.0, self.q


@dataclass(frozen=True)
class UpperCVaR(Level):
    r"""The mean of the best fraction q of outcomes.

    $J = \frac1q \int_{1-q}^1 Q(u) \, du$: the mirror image of `CVaR`. Population spectrum $1/q$ on $[1-q, 1]$.
    Maximising it seeks risk.

    Source: Rockafellar and Uryasev (2002); as a training objective, Petersen et al. (2021), "Deep symbolic regression".

    Example:
        >>> UpperCVaR(0.5).rank_weights(4)
        array([0. , 0. , 0.5, 0.5])
    """

    q: float
    k: float | None = None
    name: ClassVar[str] = "uppercvar"

    def _check(self) -> None:
        check_level("q", self.q, include_one=True)

    def rank_weights(self, k: int) -> Array:
        """Return equal weights on the best K q ranks, a fraction on the boundary rank."""
        return shares_between(0, self.q, k)[::-1].copy()

    def cumulative(self, u: Array) -> Array:
        """Return max(1 - (1 - u) / q, 0)."""
        return np.maximum(1 - (1 - u) / self.q, 0)

    def density(self, u: Array) -> Array:
        """Return 1/q above 1 - q."""
        return np.where(reached(1 - self.q, u), 1 / self.q, 0)


@dataclass(frozen=True)
class Range(Band):
    r"""The mean of the outcomes between two quantile levels.

    $J = \frac{1}{hi-lo} \int_{lo}^{hi} Q(u) \, du$, population spectrum $1/(hi-lo)$ on $[lo, hi]$. Fractional weights
    on the boundary ranks, as in `CVaR`.

    Source: Cont, Deguest and Scandolo (2010), "Robustness and sensitivity analysis of risk measurement procedures"
    (range value-at-risk).

    Example:
        >>> Range(0.25, 0.75).rank_weights(4)
        array([0. , 0.5, 0.5, 0. ])
    """

    lo: float
    hi: float
    k: float | None = None
    name: ClassVar[str] = "range"

    def _check(self) -> None:
        real_number("lo", self.lo)
        real_number("hi", self.hi)
        if not 0 <= self.lo < self.hi <= 1:
            raise ValueError(f"lo and hi must satisfy 0 <= lo < hi <= 1; got lo={self.lo}, hi={self.hi}")
        check_wide("hi - lo", self.hi - self.lo)

    @property
    def ends(self) -> tuple[float, float]:
        """The levels between which the mean is taken."""
        return self.lo, self.hi


@dataclass(frozen=True)
class Trimmed(Band):
    r"""The mean without the worst and the best fraction p of outcomes.

    $J = \frac{1}{1-2p} \int_p^{1-p} Q(u) \, du$. Fractional weights on the two boundary ranks, so K p need not be
    whole. Population spectrum $1/(1-2p)$ on $[p, 1-p]$.

    Source: Tukey (1962), "The future of data analysis"; Huber and Ronchetti (2009), "Robust Statistics", section 3.3.

    Example:
        >>> Trimmed(0.25).rank_weights(4)
        array([0. , 0.5, 0.5, 0. ])
    """

    p: float
    k: float | None = None
    name: ClassVar[str] = "trimmed"

    def _check(self) -> None:
        check_half("p", self.p)

    @property
    def ends(self) -> tuple[float, float]:
        """The levels between which the mean is taken."""
        return self.p, 1 - self.p


@dataclass(frozen=True)
class Winsorized(Level):
    r"""The mean after the worst and the best fraction p are moved to the p- and (1-p)-quantile.

    $J = p Q(p) + \int_p^{1-p} Q(u) \, du + p Q(1-p)$: `Trimmed` times (1 - 2p), plus p on each boundary rank
    $\lfloor K p \rfloor + 1$ from either end. Population spectrum 1 on $[p, 1-p]$ and a point mass p at
    either end of it.

    Source: Tukey (1962), "The future of data analysis"; Wilcox (2012), "Robust Estimation and Hypothesis Testing",
    section 3.3.

    Example:
        >>> Winsorized(0.25).rank_weights(4)
        array([0. , 0.5, 0.5, 0. ])
        >>> Winsorized(0.2).rank_weights(5)
        array([0. , 0.4, 0.2, 0.4, 0. ])
    """

    p: float
    k: float | None = None
    name: ClassVar[str] = "winsorized"

    def _check(self) -> None:
        check_half("p", self.p)

    def rank_weights(self, k: int) -> Array:
        """Return 1/k inside, the clipped mass on the boundary ranks."""
        alpha = (1 - 2 * self.p) * shares_between(self.p, 1 - self.p, k)
        boundary = math.floor(snap(self.p * k))
        alpha[boundary] += self.p
        alpha[k - 1 - boundary] += self.p
        return alpha

    def cumulative(self, u: Array) -> Array:
        """Return u between p and 1 - p, 0 below, 1 above."""
        return np.where(reached(1 - self.p, u), 1.0, np.where(reached(self.p, u), u, 0.0))


def shares_between(lo: float, hi: float, k: int) -> Array:
    """Return the share of each interval [(j-1)/k, j/k] that lies in [lo, hi], normalised to sum 1."""
    start, stop = snap(lo * k), snap(hi * k)
    rank = np.arange(1, k + 1)
    overlap = np.clip(np.minimum(rank, stop) - np.maximum(rank - 1, start), 0, 1)
    return overlap / (stop - start)


def snap(x: float) -> float:
    """Return the whole number next to x where only rounding keeps x from it."""
    return float(round(x)) if math.isclose(x, round(x), rel_tol=1e-12) else x


def reached(level: float, u: Array) -> NDArray[np.bool_]:
    """Return where u is at least a level, but for the rounding of sums of probabilities."""
    return u >= level * (1 - max(1e-12, 8 * float(np.finfo(u.dtype).eps)))
