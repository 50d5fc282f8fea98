"""Objectives that count ranks among K rewards: the best, the worst, the m best, the j-th best."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ordergrad.objectives.base import Counting
from ordergrad.objectives.checks import check_count, whole_number

__all__ = ["Bottom", "Max", "Midrange", "Min", "Rank", "Top", "TopBottom", "every_rank"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Max(Counting):
    r"""The expected best of K tries; pass@K for 0/1 rewards.

    $J = E[\max(R_1..R_K)]$: $\alpha_K = 1$, spectrum $K u^{K-1}$.

    Source: Walder and Karkhanis (2025), "Pass@K Policy Optimization", arXiv 2505.15201.

    Example:
        >>> Max(4).rank_weights(4)
        array([0., 0., 0., 1.])
    """

    k: float
    name: ClassVar[str] = "max"

    def rank_weights(self, k: int) -> Array:
        """Return weight 1 on the best rank."""
        return equal_weights(k, k, k)


@dataclass(frozen=True)
class Min(Counting):
    r"""The expected worst of K tries.

    $J = E[\min(R_1..R_K)]$: $\alpha_1 = 1$, spectrum $K (1-u)^{K-1}$.

    Source: David and Nagaraja (2003), chapter 2.

    Example:
        >>> Min(4).rank_weights(4)
        array([1., 0., 0., 0.])
    """

    k: float
    name: ClassVar[str] = "min"

    def rank_weights(self, k: int) -> Array:
        """Return weight 1 on the worst rank."""
        return equal_weights(1, 1, k)


@dataclass(frozen=True)
class Top(Counting):
    r"""The mean of the m best of K tries, Top-m@K.

    $\alpha_j = 1/m$ for $j > K - m$, spectrum $\frac{K}{m} P(\mathrm{Bin}(K-1, u) \ge K - m)$.

    Source: Parmas et al. (2026), arXiv 2606.06096.

    Example:
        >>> Top(2, 4).rank_weights(4)
        array([0. , 0. , 0.5, 0.5])
    """

    m: int
    k: float
    name: ClassVar[str] = "top"

    def _check(self) -> None:
        check_count("m", self.m, self.k)

    @property
    def counted(self) -> int:
        """The m best."""
        return self.m

    def rank_weights(self, k: int) -> Array:
        """Return 1/m on the m best ranks."""
        return equal_weights(k - self.m + 1, k, k)


@dataclass(frozen=True)
class Bottom(Counting):
    r"""The mean of the m worst of K tries.

    $\alpha_j = 1/m$ for $j \le m$, spectrum $\frac{K}{m} P(\mathrm{Bin}(K-1, u) < m)$: smooth, not the step of
    `CVaR` at level m/K.

    Source: Parmas et al. (2026), arXiv 2606.06096.

    Example:
        >>> Bottom(2, 4).rank_weights(4)
        array([0.5, 0.5, 0. , 0. ])
    """

    m: int
    k: float
    name: ClassVar[str] = "bottom"

    def _check(self) -> None:
        check_count("m", self.m, self.k)

    @property
    def counted(self) -> int:
        """The m worst."""
        return self.m

    def rank_weights(self, k: int) -> Array:
        """Return 1/m on the m worst ranks."""
        return equal_weights(1, self.m, k)


@dataclass(frozen=True)
class Rank(Counting):
    r"""The expected j-th best of K tries.

    $J = E[R_{(K+1-j:K)}]$: weight 1 on ascending rank K + 1 - j, spectrum the density of Beta(K + 1 - j, j).

    Source: David and Nagaraja (2003), equation 2.1.6.

    Example:
        >>> Rank(2, 4).rank_weights(4)
        array([0., 0., 1., 0.])
    """

    j: int
    k: float
    name: ClassVar[str] = "rank"

    def _check(self) -> None:
        check_count("j", self.j, self.k)

    @property
    def counted(self) -> int:
        """The j best, the last of which is the objective."""
        return self.j

    def rank_weights(self, k: int) -> Array:
        """Return weight 1 on the j-th best rank."""
        rank = k + 1 - self.j
        return equal_weights(rank, rank, k)


@dataclass(frozen=True)
class TopBottom(Counting):
    r"""The average of the mean of the m best and the mean of the m worst of K tries.

    The same as ``0.5*top:m@K+0.5*bottom:m@K``. A location measure that looks at both ends only; m = 1 is the midrange.
    The spectrum is the average of those of `Top` and `Bottom`.

    Source: Parmas et al. (2026), arXiv 2606.06096 (``TopBot`` in the reference code).

    Example:
        >>> TopBottom(1, 4).rank_weights(4)
        array([0.5, 0. , 0. , 0.5])
    """

    m: int
    k: float
    name: ClassVar[str] = "topbottom"

    def _check(self) -> None:
        check_count("m", self.m, self.k)

    @property
    def counted(self) -> int:
        """The m best and the m worst."""
        return 2 * self.m

    def rank_weights(self, k: int) -> Array:
        """Return 1/(2m) on the m best and on the m worst ranks, their sum where they meet."""
        return (equal_weights(1, self.m, k) + equal_weights(k - self.m + 1, k, k)) / 2


@dataclass(frozen=True)
class Midrange(Counting):
    r"""The midrange of K tries, halfway between the worst and the best.

    $J = \frac12 E[\min + \max]$: weight 1/2 on the first and the last rank, spectrum $\frac K2 (u^{K-1} +
    (1-u)^{K-1})$.

    Source: David and Nagaraja (2003), chapter 7.

    Example:
        >>> Midrange(3).rank_weights(3)
        array([0.5, 0. , 0.5])
    """

    k: float
    name: ClassVar[str] = "midrange"

    @property
    def counted(self) -> int:
        """The worst and the best."""
        return 2

    def rank_weights(self, k: int) -> Array:
        """Return 1/2 on the worst and on the best rank (1 on the only one for k = 1)."""
        return (equal_weights(1, 1, k) + equal_weights(k, k, k)) / 2


def every_rank(k: int) -> list[Rank]:
    """Return the objectives that are one rank of k rewards alone, from the worst to the best."""
    return [Rank(j, k) for j in range(whole_number("k", k), 0, -1)]


def equal_weights(first: int, last: int, k: int) -> Array:
    """Return equal weights, of sum 1, on the ranks first..last of k."""
    alpha = np.zeros(k)
    alpha[first - 1 : last] = 1 / (last - first + 1)
    return alpha
