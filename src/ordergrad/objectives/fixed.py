"""Objectives whose comparison size follows from their definition: mean, Gini, L-moments, any rank weights."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ordergrad.objectives.base import Fixed
from ordergrad.objectives.checks import number_text, real_number, whole_number

__all__ = ["Gini", "LMoment", "Mean", "Weights"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mean(Fixed):
    r"""The mean reward.

    $J = E[R]$: weights $\alpha = (1)$, K = 1, spectrum 1. Its advantages are those of RLOO.

    Source: Kool et al. (2019), "Buy 4 REINFORCE samples, get a baseline for free!".

    Example:
        >>> Mean().rank_weights(1)
        array([1.])
    """

    name: ClassVar[str] = "mean"

    @property
    def comparison_size(self) -> int:
        """The comparison size, 1."""
        return 1

    def rank_weights(self, k: int) -> Array:
        """Return k equal weights 1/k."""
        return np.full(k, 1 / k)

    def cumulative(self, u: Array) -> Array:
        """Return u."""
        return u

    def density(self, u: Array) -> Array:
        """Return 1."""
        return np.ones_like(u)


@dataclass(frozen=True)
class Gini(Fixed):
    r"""The Gini mean difference, the expected distance of two rewards: a spread, twice the Gini deviation.

    $J = E|R - R'|$, weights $\alpha = (-1, 1)$, K = 2, spectrum $4u - 2$. Nonnegative; subtract it to avoid risk:
    ``mean-0.5*gini``.

    Source: Yitzhaki (1982), "Stochastic dominance, mean variance, and Gini's mean difference"; Luo et al. (2023),
    arXiv 2307.08873, for policy gradients.

    Example:
        >>> Gini().rank_weights(2)
        array([-1.,  1.])
    """

    name: ClassVar[str] = "gini"

    @property
    def comparison_size(self) -> int:
        """The comparison size, 2."""
        return 2

    def rank_weights(self, k: int) -> Array:
        """Return (-1, 1)."""
        return np.array([-1.0, 1.0])


@dataclass(frozen=True)
class LMoment(Fixed):
    r"""The L-moment of order r, a measure of location, spread, skewness or tail weight.

    $\alpha_j = (-1)^{r-j} \binom{r-1}{j-1} / r$, K = r. r = 1 is the mean, r = 2 half the Gini mean difference, r =
    3 and 4 measure skewness and tail weight. The spectrum is the shifted Legendre polynomial of degree r - 1. r is at
    most 12: weights of alternating sign cancel, and from there on float64 leaves fewer than eleven digits.

    Source: Hosking (1990), "L-moments: analysis and estimation of distributions", equation 2.1.

    Example:
        >>> LMoment(3).rank_weights(3) * 3
        array([ 1., -2.,  1.])
    """

    order: int
    name: ClassVar[str] = "lmoment"

    def _check(self) -> None:
        if whole_number("order", self.order) > 12:
            raise ValueError(
                f"order must satisfy 1 <= order <= 12, beyond which weights cancel; got order={self.order}"
            )

    @property
    def comparison_size(self) -> int:
        """The comparison size, r."""
        return self.order

    def rank_weights(self, k: int) -> Array:
        """Return the r alternating binomial weights."""
        r = self.order
        return np.array([(-1) ** (r - j) * math.comb(r - 1, j - 1) / r for j in range(1, r + 1)])


@dataclass(frozen=True, init=False, repr=False)
class Weights(Fixed):
    r"""Any rank weights, ascending: the first number belongs to the worst of K rewards, K is their number.

    Source: Parmas et al. (2026), arXiv 2606.06096.

    Example:
        >>> print(Weights(0, 0, 0.5, 0.5))
        weights:0:0:0.5:0.5
    """

    alpha: tuple[float, ...]
    name: ClassVar[str] = "weights"

    def __init__(self, *alpha: float) -> None:
        if not alpha:
            raise ValueError("weights needs at least one rank weight; got none")
        object.__setattr__(self, "alpha", tuple(real_number("weights", a) for a in alpha))

    @property
    def comparison_size(self) -> int:
        """The comparison size, the number of weights."""
        return len(self.alpha)

    def rank_weights(self, k: int) -> Array:
        """Return the weights as given."""
        return np.array(self.alpha)

    def __repr__(self) -> str:
        return f"Weights({', '.join(map(repr, self.alpha))})"

    def __str__(self) -> str:
        return ":".join([self.name, *map(number_text, self.alpha)])
