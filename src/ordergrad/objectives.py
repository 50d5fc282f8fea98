r"""Objectives: which ranks of K sorted rewards to optimise, and with what weight.

An objective is a vector of rank weights $\alpha_1, \dots, \alpha_K$ for ascending ranks (rank 1 is the worst reward,
rank K the best). It stands for $J = E[\sum_j \alpha_j R_{(j:K)}]$ with K independent rewards. Higher reward is better;
a lower-tail objective looks at the bad outcomes. Objectives are frozen dataclasses: hashable, picklable, and closed
under ``+``, ``-`` and multiplication by a number.

Three kinds differ in how the comparison size K is chosen:

* of fixed size (`Mean`, `Gini`, `LMoment`, `Weights`): K follows from the definition;
* counting ranks (`Max`, `Min`, `Top`, `Bottom`, `Rank`, `TopBottom`, `Midrange`): K is part of the objective;
* of levels (`CVaR`, `VaR`, `Quantile`, `Trimmed`, distortions, ...): K may be left open (``k=None``), which means the
  largest one that a group of N allows (N for the value, N - 1 for advantages), and the population functional (K to
  infinity) where there is no group.

A real K mixes its two neighbours, $(1-f) J_{\lfloor K \rfloor} + f J_{\lceil K \rceil}$ with f the fractional part.

References:
    Parmas et al. (2026). OrderGrad: Optimizing Beyond the Mean with Order-Statistic Policy Gradient Estimation.
        arXiv 2606.06096.
    David and Nagaraja (2003). Order Statistics, 3rd edition, Wiley.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Bottom",
    "CVaR",
    "Counting",
    "Elementary",
    "Exponential",
    "Gini",
    "LMoment",
    "Level",
    "Max",
    "MaxRL",
    "Mean",
    "Median",
    "Midrange",
    "Min",
    "Mixture",
    "Objective",
    "Power",
    "Quantile",
    "Range",
    "Rank",
    "Spectrum",
    "Top",
    "TopBottom",
    "Trimmed",
    "UpperCVaR",
    "VaR",
    "Wang",
    "Weights",
    "Winsorized",
    "combine",
    "every_rank",
    "real_number",
    "whole_number",
]

Array = NDArray[np.float64]


class Objective:
    """A weighted sum of elementary objectives: `Mixture`, or one of them alone."""

    def terms(self) -> "tuple[tuple[float, Elementary], ...]":
        """Return the pairs (coefficient, elementary objective) that the objective is the sum of."""
        raise NotImplementedError

    @property
    def is_open(self) -> bool:
        """Whether a level leaves its comparison size to the group."""
        return any(part.comparison_size is None for _, part in self.terms())

    @property
    def largest_size(self) -> int:
        """The largest comparison size that is named, rounded up; 1 if none is."""
        return max((math.ceil(part.comparison_size or 1) for _, part in self.terms()), default=1)

    def shrunk(self, k_max: int) -> "Objective | None":
        """Return the objective at comparison sizes of at most `k_max`, None if a term would become another one.

        Levels are left open, ranks are counted among `k_max` rewards, which must be more than are counted, and
        objectives of fixed size do not shrink.

        Example:
            >>> print(Max(8).shrunk(4), CVaR(0.1, 8).shrunk(4), Top(2, 8).shrunk(2), (Mean() - Gini()).shrunk(1))
            max@4 cvar:0.1 None None
        """
        parts = [(c, part if (part.comparison_size or 1) <= k_max else part.shrunk(k_max)) for c, part in self.terms()]
        kept = [(c, part) for c, part in parts if part is not None]
        return combine(*kept) if len(kept) == len(parts) else None

    def __add__(self, other: object) -> "Objective":
        return combine((1.0, self), (1.0, other)) if isinstance(other, Objective) else NotImplemented

    def __sub__(self, other: object) -> "Objective":
        return combine((1.0, self), (-1.0, other)) if isinstance(other, Objective) else NotImplemented

    def __neg__(self) -> "Objective":
        return combine((-1.0, self))

    def __mul__(self, factor: object) -> "Objective":
        if not isinstance(factor, Real):
            return NotImplemented
        return combine((real_number("factor", factor), self))

    __rmul__ = __mul__

    def __str__(self) -> str:
        parts = [_term_text(coefficient, part) for coefficient, part in self.terms()]
        return "".join(parts).removeprefix("+") or "0*mean"


@dataclass(frozen=True)
class Mixture(Objective):
    """A sum of elementary objectives with coefficients; made by ``+``, ``-``, ``*`` and `combine`.

    Attributes:
        parts: Pairs (coefficient, elementary objective), each objective at most once, no coefficient zero.
    """

    parts: "tuple[tuple[float, Elementary], ...]"

    def terms(self) -> "tuple[tuple[float, Elementary], ...]":
        """Return the pairs (coefficient, elementary objective)."""
        return self.parts


def combine(*parts: tuple[float, Objective]) -> Objective:
    """Return the weighted sum of objectives: terms that are the same objective merge, zero terms drop out.

    Args:
        *parts: Pairs (coefficient, objective).

    Example:
        >>> print(combine((0.5, Mean()), (0.5, Max(8) + Mean())))
        mean+0.5*max@8
    """
    total: dict[Elementary, float] = {}
    for coefficient, objective in parts:
        for inner, part in objective.terms():
            total[part] = real_number("coefficient", total.get(part, 0.0) + coefficient * inner)
    kept = tuple((coefficient, part) for part, coefficient in total.items() if coefficient != 0)
    return kept[0][1] if len(kept) == 1 and kept[0][0] == 1 else Mixture(kept)


def every_rank(k: int) -> list[str]:
    """Return the strings of the objectives that are one rank of k rewards alone, from the worst to the best."""
    return [f"rank:{j}@{k}" for j in range(whole_number("k", k), 0, -1)]


class Elementary(Objective):
    """An objective with a name, numbers, and rank weights for every comparison size K that it admits.

    Attributes:
        name: The word that stands for it in an objective string.
    """

    name: ClassVar[str]

    @property
    def comparison_size(self) -> float | None:
        """The comparison size K, a real number; None for the largest that the group allows."""
        return getattr(self, "k", None)

    def terms(self) -> "tuple[tuple[float, Elementary], ...]":
        """Return the objective itself, once."""
        return ((1.0, self),)

    def shrunk(self, k_max: int) -> Objective | None:
        """Return the objective at a comparison size of at most `k_max`, less than its own; None if there is none."""
        return None

    def rank_weights(self, k: int) -> Array:
        """Return the k rank weights at comparison size `k`, float64, ascending ranks."""
        raise NotImplementedError

    def cumulative(self, u: Array) -> Array:
        r"""Return the population spectrum's integral $\Phi(u) = \int_0^u \varphi$, the limit of large K.

        Only objectives of levels have one; $J = \int Q(u) \, d\Phi(u)$ with Q the quantile function of the reward.
        """
        raise ValueError(f"{self} has no limit for large comparison sizes: it compares {self.comparison_size} rewards")

    def density(self, u: Array) -> Array:
        r"""Return the population spectrum $\varphi(u)$, the limit of large K, where it is a function."""
        raise ValueError(f"the population spectrum of {self} is not a function; give a comparison size: {self}@K")

    def __str__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(cast(Any, self))}
        k = values.pop("k", None)
        return self.name + "".join(f":{_text(v)}" for v in values.values()) + ("" if k is None else f"@{_text(k)}")


class Counting(Elementary):
    """An objective that counts ranks among K rewards."""

    @property
    def counted(self) -> int:
        """How many ranks are counted; K must be larger, or nothing is left of their choice."""
        return 1

    def shrunk(self, k_max: int) -> Objective | None:
        """Return the objective at comparison size `k_max`, None if that many ranks are counted."""
        return replace(cast(Any, self), k=k_max) if self.counted < k_max else None


class Level(Elementary):
    """An objective of quantile levels, whose comparison size may be left to the group."""

    def shrunk(self, k_max: int) -> Objective | None:
        """Return the objective with its comparison size left to the group."""
        return replace(cast(Any, self), k=None)


# Objectives of fixed size


@dataclass(frozen=True)
class Mean(Elementary):
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
class Gini(Elementary):
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
class LMoment(Elementary):
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

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, init=False)
class Weights(Elementary):
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
        object.__setattr__(self, "alpha", tuple(float(real_number("weights", a)) for a in alpha))

    @property
    def comparison_size(self) -> int:
        """The comparison size, the number of weights."""
        return len(self.alpha)

    def rank_weights(self, k: int) -> Array:
        """Return the weights as given."""
        return np.array(self.alpha)

    def __str__(self) -> str:
        return ":".join([self.name, *map(_text, self.alpha)])


# Objectives that count ranks


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

    def __post_init__(self) -> None:
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return weight 1 on the best rank."""
        return _ranks(k, k, k)


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

    def __post_init__(self) -> None:
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return weight 1 on the worst rank."""
        return _ranks(1, 1, k)


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

    def __post_init__(self) -> None:
        _count_of_k("m", self.m, self.k)

    @property
    def counted(self) -> int:
        """The m best."""
        return self.m

    def rank_weights(self, k: int) -> Array:
        """Return 1/m on the m best ranks."""
        m = min(self.m, k)
        return _ranks(k - m + 1, k, k)


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

    def __post_init__(self) -> None:
        _count_of_k("m", self.m, self.k)

    @property
    def counted(self) -> int:
        """The m worst."""
        return self.m

    def rank_weights(self, k: int) -> Array:
        """Return 1/m on the m worst ranks."""
        return _ranks(1, min(self.m, k), k)


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

    def __post_init__(self) -> None:
        _count_of_k("j", self.j, self.k)

    @property
    def counted(self) -> int:
        """The j best, the last of which is the objective."""
        return self.j

    def rank_weights(self, k: int) -> Array:
        """Return weight 1 on the j-th best rank."""
        rank = k + 1 - min(self.j, k)
        return _ranks(rank, rank, k)


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

    def __post_init__(self) -> None:
        _count_of_k("m", self.m, self.k)

    @property
    def counted(self) -> int:
        """The m best and the m worst."""
        return 2 * self.m

    def rank_weights(self, k: int) -> Array:
        """Return 1/(2m) on the m best and on the m worst ranks, their sum where they meet."""
        m = min(self.m, k)
        return (_ranks(1, m, k) + _ranks(k - m + 1, k, k)) / 2


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

    def __post_init__(self) -> None:
        _size(self.k)

    @property
    def counted(self) -> int:
        """The worst and the best."""
        return 2

    def rank_weights(self, k: int) -> Array:
        """Return 1/2 on the worst and on the best rank (1 on the only one for k = 1)."""
        return (_ranks(1, 1, k) + _ranks(k, k, k)) / 2


# Objectives of levels


@dataclass(frozen=True)
class CVaR(Level):
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

    def __post_init__(self) -> None:
        _level("q", self.q, include_one=True)
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return equal weights on the worst K q ranks, a fraction on the boundary rank."""
        return _between(0, self.q, k)

    def cumulative(self, u: Array) -> Array:
        """Return min(u / q, 1)."""
        return np.minimum(u / self.q, 1)

    def density(self, u: Array) -> Array:
        """Return 1/q below q."""
        return np.where(_reached(self.q, u), 0, 1 / self.q)


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

    def __post_init__(self) -> None:
        _level("q", self.q, include_one=True)
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return equal weights on the best K q ranks, a fraction on the boundary rank."""
        return _between(0, self.q, k)[::-1].copy()

    def cumulative(self, u: Array) -> Array:
        """Return max(1 - (1 - u) / q, 0)."""
        return np.maximum(1 - (1 - u) / self.q, 0)

    def density(self, u: Array) -> Array:
        """Return 1/q above 1 - q."""
        return np.where(_reached(1 - self.q, u), 1 / self.q, 0)


@dataclass(frozen=True)
class Range(Level):
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

    def __post_init__(self) -> None:
        real_number("lo", self.lo)
        real_number("hi", self.hi)
        if not 0 <= self.lo < self.hi <= 1:
            raise ValueError(f"lo and hi must satisfy 0 <= lo < hi <= 1; got lo={self.lo}, hi={self.hi}")
        _wide("hi - lo", self.hi - self.lo)
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return equal weights on the ranks between the levels, fractions on the boundary ranks."""
        return _between(self.lo, self.hi, k)

    def cumulative(self, u: Array) -> Array:
        """Return (u - lo) / (hi - lo), clipped to [0, 1]."""
        return np.clip((u - self.lo) / (self.hi - self.lo), 0, 1)

    def density(self, u: Array) -> Array:
        """Return 1 / (hi - lo) between the levels."""
        return np.where(_reached(self.lo, u) & ~_reached(self.hi, u), 1 / (self.hi - self.lo), 0)


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

    def __post_init__(self) -> None:
        _level("q", self.q, include_one=True)
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return weight 1 on rank ceil(K q)."""
        rank = math.ceil(_snap(self.q * k))
        return _ranks(rank, rank, k)

    def cumulative(self, u: Array) -> Array:
        """Return 1 from q on."""
        return np.where(_reached(self.q, u), 1.0, 0.0)


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

    def __post_init__(self) -> None:
        _level("q", self.q)
        if self.method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}; got {self.method!r}")
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return the weights of the quantile estimator."""
        if self.method == "harrelldavis":
            from scipy.special import betainc

            steps = betainc(self.q * (k + 1), (1 - self.q) * (k + 1), np.arange(k + 1) / k)
            return np.diff(np.asarray(steps, dtype=np.float64))
        position = min(max(_snap(_POSITIONS[self.method](self.q, k)), 1.0), float(k))
        below = math.floor(position)
        alpha = np.zeros(k)
        alpha[below - 1] = 1 - (position - below)
        alpha[min(below, k - 1)] += position - below
        return alpha

    def cumulative(self, u: Array) -> Array:
        """Return 1 from q on."""
        return np.where(_reached(self.q, u), 1.0, 0.0)

    def __str__(self) -> str:
        method = "" if self.method == "hazen" else f":{self.method}"
        return f"{self.name}:{_text(self.q)}{method}" + ("" if self.k is None else f"@{_text(self.k)}")


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

    def __post_init__(self) -> None:
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return the weights of the middle ranks."""
        return Quantile(0.5).rank_weights(k)

    def cumulative(self, u: Array) -> Array:
        """Return 1 from 1/2 on."""
        return Quantile(0.5).cumulative(u)


@dataclass(frozen=True)
class Trimmed(Level):
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

    def __post_init__(self) -> None:
        _half("p", self.p)
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return equal weights on the ranks between p and 1 - p, fractions on the boundary ranks."""
        return _between(self.p, 1 - self.p, k)

    def cumulative(self, u: Array) -> Array:
        """Return (u - p) / (1 - 2p), clipped to [0, 1]."""
        return np.clip((u - self.p) / (1 - 2 * self.p), 0, 1)

    def density(self, u: Array) -> Array:
        """Return 1 / (1 - 2p) between p and 1 - p."""
        return np.where(_reached(self.p, u) & ~_reached(1 - self.p, u), 1 / (1 - 2 * self.p), 0)


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

    def __post_init__(self) -> None:
        _half("p", self.p)
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return 1/k inside, the clipped mass on the boundary ranks."""
        alpha = (1 - 2 * self.p) * _between(self.p, 1 - self.p, k)
        boundary = math.floor(_snap(self.p * k))
        alpha[boundary] += self.p
        alpha[k - 1 - boundary] += self.p
        return alpha

    def cumulative(self, u: Array) -> Array:
        """Return u between p and 1 - p, 0 below, 1 above."""
        return np.where(_reached(1 - self.p, u), 1.0, np.where(_reached(self.p, u), u, 0.0))


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

    def __post_init__(self) -> None:
        _size(self.k)

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
class Wang(Level):
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

    def __post_init__(self) -> None:
        real_number("shift", self.shift)
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return the increments of the distortion."""
        return np.diff(self.cumulative(np.arange(k + 1) / k))

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
class Power(Level):
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

    def __post_init__(self) -> None:
        if real_number("gamma", self.gamma) <= 0:
            raise ValueError(f"gamma must satisfy gamma > 0; got gamma={self.gamma}")
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return the increments of the distortion."""
        return np.diff(self.cumulative(np.arange(k + 1) / k))

    def cumulative(self, u: Array) -> Array:
        """Return 1 - (1 - u)^γ."""
        return 1 - (1 - u) ** self.gamma

    def density(self, u: Array) -> Array:
        """Return γ (1 - u)^(γ - 1)."""
        with np.errstate(divide="ignore"):
            return self.gamma * (1 - u) ** (self.gamma - 1)


@dataclass(frozen=True)
class Exponential(Level):
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

    def __post_init__(self) -> None:
        if real_number("gamma", self.gamma) == 0:
            raise ValueError("gamma must not be 0 (that is the mean); got gamma=0")
        _size(self.k)

    def rank_weights(self, k: int) -> Array:
        """Return the increments of the spectrum's integral."""
        return np.diff(self.cumulative(np.arange(k + 1) / k))

    def cumulative(self, u: Array) -> Array:
        """Return (1 - exp(-γ u)) / (1 - exp(-γ)), both times exp(γ) for γ < 0."""
        size, back = abs(self.gamma), min(self.gamma, 0)
        return np.exp(back * (1 - u)) * np.expm1(-size * u) / math.expm1(-size)

    def density(self, u: Array) -> Array:
        """Return γ exp(-γ u) / (1 - exp(-γ)), both times exp(γ) for γ < 0."""
        size = abs(self.gamma)
        return -size * np.exp(-size * (u if self.gamma > 0 else 1 - u)) / math.expm1(-size)


@dataclass(frozen=True)
class Spectrum(Level):
    r"""Any spectrum φ on [0, 1], given as a Python function, as the rank weights of the same shape closest to it.

    The weights minimise $\int_0^1 (\sum_j \alpha_j b_{j,K}(u) - \varphi(u))^2 du$ at the mass
    $\sum_j \alpha_j = \int_0^1 \varphi$, and keep the shape of φ. If it nowhere increases, nor do they: a risk-averse
    spectrum stays one, and no mean-preserving spread raises its value. If it nowhere decreases, nor do they. If it is
    nowhere negative, nor are they: a better reward never gets a smaller advantage. A φ of either sign that goes up and
    down is fitted without bounds, and its weights can be large where φ is not smooth.

    Up to K = 64 all weights of that shape compete. Beyond, sums of the increments
    $\int_{(j-1)/K}^{j/K} \varphi$ (the choice of `CVaR` and `Wang`) and of the weights of that shape at K = 64, raised
    to K: steps and polynomials stay what they are, and the time grows in proportion to K.

    The function takes an array of levels and returns as many values; 1 in a bad tail and 0 elsewhere is q times a CVaR.
    It has no string form; it pickles if φ does. Two are the same if their functions are equal; one that cannot be
    hashed, such as ``numpy.poly1d``, is the same as itself alone, and must not change.

    Source: least squares in the Bernstein basis; Acerbi (2002) for spectral risk measures and their shape.

    Example:
        >>> Spectrum(lambda u: 3 * u**2).rank_weights(3).round(6)
        array([0., 0., 1.])
        >>> Spectrum(lambda u: np.where(u < 0.02, 50, 0)).rank_weights(100)[:4].round(3)
        array([0.5, 0.5, 0. , 0. ])
    """

    function: Callable[[Array], Array]
    k: float | None = None
    name: ClassVar[str] = "spectrum"

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable; got {type(self.function).__name__}")
        _size(self.k)

    def _key(self) -> tuple[object, float | None]:
        try:
            hash(self.function)
        except TypeError:
            return id(self.function), self.k
        return self.function, self.k

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spectrum) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def rank_weights(self, k: int) -> Array:
        """Return the best fit of the shape of φ."""
        levels, mass = _quadrature(k * -(-4096 // k))
        values = self.density(levels)
        increments = (mass * values).reshape(k, -1).sum(axis=1)
        own = min(k, 64)
        shapes, signed = _shapes(values, own)
        nodes, mass = _quadrature(64)
        densities = _bernstein_mixtures(shapes, nodes)
        if k > own:
            densities = np.column_stack([_bernstein_mixtures(increments[:, None], nodes), densities])
            shapes = np.column_stack([increments, _raised(shapes, k)])
        root, firm = np.sqrt(mass), 1e4  # one more equation, of great weight: the mass of φ
        design = np.vstack([root[:, None] * densities, firm * shapes.sum(axis=0)])
        return shapes @ _least_squares(design, np.append(root * self.density(nodes), firm * increments.sum()), signed)

    def cumulative(self, u: Array) -> Array:
        """Return the integral of the function from 0 to u, by Gauss-Legendre quadrature."""
        nodes, mass = _quadrature(32)
        return np.sum(u[..., None] * mass * self.density(u[..., None] * nodes), axis=-1)

    def density(self, u: Array) -> Array:
        """Return the function's values."""
        values = np.asarray(self.function(u), dtype=np.float64)
        if values.shape != u.shape or not np.isfinite(values).all():
            raise ValueError(
                f"function must return one finite value per level; got shape {values.shape} for levels of shape "
                f"{u.shape}, {np.count_nonzero(~np.isfinite(values))} of them not finite"
            )
        return values

    def __str__(self) -> str:
        function = getattr(self.function, "__name__", repr(self.function))
        return f"spectrum({function})" + ("" if self.k is None else f"@{_text(self.k)}")


# Rank weights that several objectives share


def _ranks(first: int, last: int, k: int) -> Array:
    """Return equal weights, of sum 1, on the ranks first..last of k."""
    alpha = np.zeros(k)
    alpha[first - 1 : last] = 1 / (last - first + 1)
    return alpha


def _between(lo: float, hi: float, k: int) -> Array:
    """Return the share of each interval [(j-1)/k, j/k] that lies in [lo, hi], normalised to sum 1."""
    start, stop = _snap(lo * k), _snap(hi * k)
    rank = np.arange(1, k + 1)
    overlap = np.clip(np.minimum(rank, stop) - np.maximum(rank - 1, start), 0, 1)
    return overlap / (stop - start)


def _snap(x: float) -> float:
    """Return the whole number that x means where only rounding keeps it from being one."""
    return float(round(x)) if math.isclose(x, round(x), rel_tol=1e-12) else x


def _reached(level: float, u: Array) -> NDArray[np.bool_]:
    """Return where u is at least a level, but for the rounding of sums of probabilities."""
    return u >= level * (1 - max(1e-12, 8 * float(np.finfo(u.dtype).eps)))


def _quadrature(panels: int) -> tuple[Array, Array]:
    """Return nodes and weights on [0, 1]: Gauss-Legendre rules of 16 nodes on equal panels."""
    nodes, mass = np.polynomial.legendre.leggauss(16)
    return ((np.arange(panels)[:, None] + (nodes + 1) / 2) / panels).ravel(), np.tile(mass / (2 * panels), panels)


def _shapes(values: Array, k: int) -> tuple[Array, bool]:
    """Return the columns whose nonnegative sums are the k weights of the shape of a function, or all their sums."""
    slack = 1e-9 * np.abs(values).max()  # of rounding
    steps, nonnegative = np.diff(values), bool((values >= -slack).all())
    falling = bool((steps <= slack).all())
    if not falling and not (steps >= -slack).all():
        return np.eye(k), not nonnegative
    columns = np.triu(np.ones((k, k))) if falling else np.tril(np.ones((k, k)))
    return (columns if nonnegative else np.column_stack([columns, -np.ones(k)])), False


def _least_squares(design: Array, values: Array, signed: bool) -> Array:
    """Return the coefficients that fit best, nonnegative ones unless they may be `signed`."""
    from scipy.optimize import nnls

    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1
    solve: Any = np.linalg.lstsq if signed else partial(nnls, maxiter=100 * len(scale))
    return np.asarray(solve(design / scale, values)[0], dtype=np.float64) / scale


def _bernstein_mixtures(alpha: Array, u: Array) -> Array:
    r"""Return $\sum_j \alpha_j b_{j,K}(u)$ for each column of rank weights at 0 < u < 1: shape (len(u), columns)."""
    k = len(alpha)
    j = np.arange(k)
    log_binomial = _log_binomial(k - 1, j)
    parts = np.array_split(u[:, None], -(-k * len(u) // (1 << 22)))  # of bounded memory
    return k * np.concatenate(
        [np.exp(log_binomial + j * np.log(part) + (k - 1 - j) * np.log1p(-part)) @ alpha for part in parts]
    )


def _raised(alpha: Array, k: int) -> Array:
    """Return the rank weights of size k with the same spectra, for each column of smaller ones (degree elevation)."""
    own, below = len(alpha), np.arange(k)[:, None]
    j = np.arange(own)
    log_share = _log_binomial(below, j) + _log_binomial(k - 1 - below, own - 1 - j)
    return own / k * np.exp(log_share - _log_binomial(k - 1, own - 1)) @ alpha


def _log_binomial(n: object, r: object) -> Array:
    """Return the logarithm of n choose r, whole numbers; minus infinity for r > n."""
    from scipy.special import gammaln

    n, r = np.asarray(n), np.asarray(r)
    log = gammaln(n + 1) - gammaln(r + 1) - gammaln(np.maximum(n - r, 0) + 1)
    return np.where(r <= n, np.asarray(log, dtype=np.float64), -np.inf)


# Checks and text


def real_number(name: str, value: object) -> float:
    """Return a finite real number, or say by its name what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number; got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite; got {name}={value}")
    return float(value)


def _size(k: float | None) -> None:
    if k is not None and real_number("k", k) < 1:
        raise ValueError(f"k must satisfy k >= 1; got k={k}")


def whole_number(name: str, value: object) -> int:
    """Return a whole number of at least 1, or say by its name what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number; got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must satisfy {name} >= 1; got {name}={value}")
    return int(value)


def _count_of_k(name: str, value: object, k: float) -> None:
    _size(k)
    if whole_number(name, value) > math.floor(k):
        raise ValueError(f"{name} must satisfy 1 <= {name} <= k; got {name}={value}, k={_text(k)}")


def _level(name: str, value: float, include_one: bool = False) -> None:
    if not (0 < real_number(name, value) < 1 or (include_one and value == 1)):
        raise ValueError(f"{name} must satisfy 0 < {name} {'<=' if include_one else '<'} 1; got {name}={value}")


def _half(name: str, value: float) -> None:
    if not 0 <= real_number(name, value) < 0.5:
        raise ValueError(f"{name} must satisfy 0 <= {name} < 0.5; got {name}={value}")
    _wide(f"1 - 2 {name}", 1 - 2 * value)


def _wide(name: str, share: float) -> None:
    if share < 1e-9:
        raise ValueError(f"{name} must be at least 1e-9, or all that is left is a quantile; got {share}")


def _text(value: float) -> str:
    """Return the shortest text that reads back as the same number."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _term_text(coefficient: float, part: Elementary) -> str:
    sign = "-" if coefficient < 0 else "+"
    factor = "" if abs(coefficient) == 1 else f"{_text(abs(coefficient))}*"
    return f"{sign}{factor}{part}"
