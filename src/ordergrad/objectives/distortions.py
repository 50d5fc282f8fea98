"""Distortion and spectral risk measures, and the mixture of all max@K."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ordergrad.objectives.base import Level
from ordergrad.objectives.checks import real_number

__all__ = ["Distortion", "Exponential", "MaxRL", "Power", "Wang"]

Array = NDArray[np.float64]


class Distortion(Level):
    r"""An objective given by the distortion Φ: rank j weighs $\Phi(j/K) - \Phi((j-1)/K)$."""

    def rank_weights(self, k: int) -> Array:
        """Return the increments of the distortion."""
        return np.diff(self.cumulative(np.arange(k + 1) / k))


@dataclass(frozen=True)
class MaxRL(Level):
    r"""MaxRL for any reward, a mixture of the best of 1, 2, ..., K tries.

    $\sum_{i=1}^{K} \frac1i \max@i$ is one L-statistic of size K: $\alpha_j = 1/(K + 1 - j)$, spectrum
    $(1-u^K)/(1-u)$. With 0/1 rewards and K = N - 1 its advantages are $(R_i - \bar R)/\bar R$. The weights sum to
    $1 + \frac12 + \dots + \frac1K$.

    Source: Tajwar et al. (2026), "Maximum likelihood reinforcement learning" (the 0/1 case); Parmas et al. (2026) for
    the family it mixes.

    Example:
        >>> MaxRL().rank_weights(4) * 12
        array([ 3.,  4.,  6., 12.])
    """

    k: float | None = None
    name: ClassVar[str] = "maxrl"
    has_population: ClassVar[bool] = False

    def rank_weights(self, k: int) -> Array:
        """Return 1 / (K + 1 - j)."""
        return 1 / np.arange(k, 0, -1, dtype=np.float64)

    def cumulative(self, u: Array) -> Array:
        """Raise: the integral of 1 / (1 - u) diverges at 1."""
        raise ValueError("maxrl has no finite population value; give a comparison size: maxrl@K")

    def density(self, u: Array) -> Array:
        """Return 1 / (1 - u)."""
        with np.errstate(divide="ignore"):
            return 1 / (1 - u)


@dataclass(frozen=True)
class Wang(Distortion):
    r"""Wang's distortion risk measure, the mean after a shift of normal scores.

    $\Phi(u) = \mathcal N(\mathcal N^{-1}(u) + \lambda)$ with $\mathcal N$ the normal distribution. λ > 0 shifts
    weight to bad outcomes (for a normal reward: mean minus λ standard deviations), λ < 0 to good ones. Rank j
    weighs $\Phi(j/K) - \Phi((j-1)/K)$. Population spectrum $e^{-\lambda z - \lambda^2/2}$, $z = \mathcal N^{-1}(u)$.

    Source: Wang (2000), "A class of distortion operators for pricing financial and insurance risks".

    Example:
        >>> Wang(0.0).rank_weights(4)
        array([0.25, 0.25, 0.25, 0.25])
    """

    shift: float
    k: float | None = None
    name: ClassVar[str] = "wang"

    def _check(self) -> None:
        real_number("shift", self.shift)

    def cumulative(self, u: Array) -> Array:
        """Return the distortion."""
        from scipy.special import ndtr, ndtri

        return np.asarray(ndtr(ndtri(u) + self.shift), dtype=np.float64)

    def density(self, u: Array) -> Array:
        """Return exp(-λ z - λ²/2) with z the normal quantile of u."""
        from scipy.special import ndtri

        z = ndtri(u) if self.shift else np.zeros_like(u)
        return np.asarray(np.exp(-self.shift * z - self.shift**2 / 2), dtype=np.float64)


@dataclass(frozen=True)
class Power(Distortion):
    r"""The dual-power distortion risk measure.

    $\Phi(u) = 1 - (1-u)^\gamma$, spectrum $\gamma (1-u)^{\gamma-1}$, γ > 0. γ > 1 shifts weight to bad outcomes (a
    whole γ is the population form of ``min@γ``), γ < 1 to good ones.

    Source: Wang (1996), "Premium calculation by transforming the layer premium density"; Dowd, Cotter and Sorwar
    (2008), "Spectral risk measures: properties and limitations".

    Example:
        >>> Power(2).rank_weights(2)
        array([0.75, 0.25])
    """

    gamma: float
    k: float | None = None
    name: ClassVar[str] = "power"

    def _check(self) -> None:
        if real_number("gamma", self.gamma) <= 0:
            raise ValueError(f"gamma must satisfy gamma > 0; got gamma={self.gamma}")

    def cumulative(self, u: Array) -> Array:
        """Return 1 - (1 - u)^γ."""
        return 1 - (1 - u) ** self.gamma

    def density(self, u: Array) -> Array:
        """Return γ (1 - u)^(γ - 1)."""
        with np.errstate(divide="ignore"):
            return self.gamma * (1 - u) ** (self.gamma - 1)


@dataclass(frozen=True)
class Exponential(Distortion):
    r"""The exponential spectral risk measure.

    $\varphi(u) = \gamma e^{-\gamma u} / (1 - e^{-\gamma})$, γ ≠ 0. γ > 0 shifts weight to bad outcomes, γ < 0 to
    good ones.

    Source: Cotter and Dowd (2006), "Extreme spectral risk measures".

    Example:
        >>> Exponential(1.0).rank_weights(2).round(4)
        array([0.6225, 0.3775])
    """

    gamma: float
    k: float | None = None
    name: ClassVar[str] = "exponential"

    def _check(self) -> None:
        if real_number("gamma", self.gamma) == 0:
            raise ValueError("gamma must not be 0 (that is the mean); got gamma=0")

    def cumulative(self, u: Array) -> Array:
        """Return (1 - exp(-γ u)) / (1 - exp(-γ)), both times exp(γ) for γ < 0."""
        size, back = abs(self.gamma), min(self.gamma, 0)
        return np.exp(back * (1 - u)) * np.expm1(-size * u) / math.expm1(-size)

    def density(self, u: Array) -> Array:
        """Return γ exp(-γ u) / (1 - exp(-γ)), both times exp(γ) for γ < 0."""
        size = abs(self.gamma)
        return -size * np.exp(-size * (u if self.gamma > 0 else 1 - u)) / math.expm1(-size)
