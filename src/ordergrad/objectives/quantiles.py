"""Quantiles of the reward: one order statistic, or an average of a few."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ordergrad.objectives.bands import reached, snap
from ordergrad.objectives.base import Level
from ordergrad.objectives.checks import check_level, number_text
from ordergrad.objectives.counting import equal_weights

__all__ = ["Median", "Quantile", "VaR"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class VaR(Level):
    r"""Value-at-risk as a reward, the lower q-quantile.

    $\inf\{x : F(x) \ge q\}$, one order statistic: weight 1 on rank $\lceil K q \rceil$ (the inverse of the
    empirical distribution function, type 1 of Hyndman and Fan). `Quantile` interpolates between ranks instead. The
    population spectrum is a point mass at q. Higher is better: all but a share q of the
    outcomes exceed it.

    Source: Artzner et al. (1999), "Coherent measures of risk"; Hyndman and Fan (1996), definition 1.

    Example:
        >>> VaR(0.25).rank_weights(8)
        array([0., 1., 0., 0., 0., 0., 0., 0.])
    """

    q: float
    k: float | None = None
    name: ClassVar[str] = "var"

    def _check(self) -> None:
        check_level("q", self.q, include_one=True)

    def rank_weights(self, k: int) -> Array:
        """Return weight 1 on rank ceil(K q)."""
        rank = math.ceil(snap(self.q * k))
        return equal_weights(rank, rank, k)

    def cumulative(self, u: Array) -> Array:
        """Return 1 from q on."""
        return np.where(reached(self.q, u), 1.0, 0.0)


_POSITIONS: dict[str, Callable[[float, int], float]] = {
    "hazen": lambda q, k: q * k + 0.5,
    "weibull": lambda q, k: q * (k + 1),
    "blom": lambda q, k: q * (k + 0.25) + 0.375,
}
_METHODS = (*_POSITIONS, "harrelldavis")


@dataclass(frozen=True)
class Quantile(Level):
    r"""The q-quantile of the reward, from K rewards by interpolation between ranks or by smooth weights.

    ``hazen`` (the default), ``weibull`` and ``blom`` put rank j at the levels $(j-\frac12)/K$, $j/(K+1)$ and
    $(j-\frac38)/(K+\frac14)$ and interpolate linearly; ``harrelldavis`` weighs rank j with
    $I_{j/K}(a, b) - I_{(j-1)/K}(a, b)$, $a = q(K+1)$, $b = (1-q)(K+1)$, I the regularised incomplete beta function.
    The population spectrum is a point mass at q.

    Source: Hyndman and Fan (1996), "Sample quantiles in statistical packages", definitions 5, 6 and 9; Harrell and
    Davis (1982), "A new distribution-free quantile estimator".

    Example:
        >>> Quantile(0.5, "weibull").rank_weights(4)
        array([0. , 0.5, 0.5, 0. ])
        >>> print(Quantile(0.5, "weibull", k=4))
        quantile:0.5:weibull@4
    """

    q: float
    method: str = "hazen"
    k: float | None = None
    name: ClassVar[str] = "quantile"

    def _check(self) -> None:
        check_level("q", self.q)
        if self.method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}; got {self.method!r}")

    def rank_weights(self, k: int) -> Array:
        """Return the weights of the quantile estimator."""
        if self.method == "harrelldavis":
            from scipy.special import betainc

            steps = betainc(self.q * (k + 1), (1 - self.q) * (k + 1), np.arange(k + 1) / k)
            return np.diff(np.asarray(steps, dtype=np.float64))
        position = min(max(snap(_POSITIONS[self.method](self.q, k)), 1.0), float(k))
        below = math.floor(position)
        alpha = np.zeros(k)
        alpha[below - 1] = 1 - (position - below)
        alpha[min(below, k - 1)] += position - below
        return alpha

    def cumulative(self, u: Array) -> Array:
        """Return 1 from q on."""
        return np.where(reached(self.q, u), 1.0, 0.0)

    def __str__(self) -> str:
        method = "" if self.method == "hazen" else f":{self.method}"
        return f"{self.name}:{number_text(self.q)}{method}" + ("" if self.k is None else f"@{number_text(self.k)}")


@dataclass(frozen=True)
class Median(Level):
    """The median: the middle one of K rewards, the average of the two middle ones for even K.

    The population spectrum is a point mass at 1/2.

    Source: David and Nagaraja (2003), chapter 7.

    Example:
        >>> Median().rank_weights(4)
        array([0. , 0.5, 0.5, 0. ])
    """

    k: float | None = None
    name: ClassVar[str] = "median"

    def rank_weights(self, k: int) -> Array:
        """Return the weights of the middle ranks."""
        return Quantile(0.5).rank_weights(k)

    def cumulative(self, u: Array) -> Array:
        """Return 1 from 1/2 on."""
        return Quantile(0.5).cumulative(u)
