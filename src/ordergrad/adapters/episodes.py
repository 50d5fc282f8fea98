r"""What the adapters for reinforcement learning share: ranking the returns of whole episodes, and the counts of it.

A trainer hands over the returns of the episodes that ended; it gets an advantage for each, or the transformation f
with $A_i = f(R_i) - \mathrm{mean} f$ for credit within an episode (`telescoped`). Everything else, which episodes
are whole and where their steps wait, is the adapter's.
"""

import warnings
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import advantages, value
from ordergrad.objectives import Objective
from ordergrad.spec import parse
from ordergrad.weights import check_nonzero, scan, shrunk, smallest_group, spectrum

__all__ = ["LASTING", "WEIGHT", "Credit", "EpisodeRanking", "steepest_slope"]

LASTING = ("nonfinite", "abandoned", "shrunk", "total", "scale")
"""The counts that go on where training is resumed."""

WEIGHT = "ordergrad_weight"
"""Where the last info of an episode has its importance weight; see `ordergrad.envs.SampledConditions`."""


Credit = Literal["episode", "terminal", "telescoped"]
Array = NDArray[Any]


class EpisodeRanking:
    r"""Turns the returns of whole episodes into advantages, one group after the other.

    Args:
        objective: What to optimise: an objective or its string.
        credit: How the steps of an episode come by its advantage A. ``episode``: each carries A. ``terminal``: A is
            the only reward, at the end. ``telescoped``: the rewards are $f(C_t) - f(C_{t-1})$, $C_t$ the return so far.
        discount: The discount of the returns that are ranked.
        min_episodes: The fewest episodes of a group. At least the K + 1 of the objective, and 2, are needed anyway.
        unit_scale: Divide the advantages by the root mean square deviation of the returns so far, times the steepest
            slope of the objective: a positive number, so that the direction stays. It makes the largest slope of f one
            standard deviation per standard deviation, whatever the objective, so that a critic's targets keep their
            scale while an objective changes. Default: where there is a critic, that is not with ``episode``.
        patience: Rollouts to wait for enough episodes.

    Raises:
        ValueError: The objective string is wrong or has no weight, or a number is out of range.

    Attributes:
        stats: Since the start, ``nonfinite`` (episodes left out for NaN or infinite returns), ``abandoned`` (cut short
            or too long), ``shrunk`` (rankings at a smaller K), ``total`` episodes ranked and the ``scale`` of their
            returns (root mean square deviation from the mean of the group); of the last group, the ``value`` of the
            objective. Adapters add to it.

    Example:
        >>> ranking = EpisodeRanking("max@2")
        >>> ranking.advantages(np.array([0.0, 1.0, 1.0, 5.0]))
        array([-2.66666667, -2.66666667, -2.66666667,  8.        ])
        >>> ranking.stats["total"], ranking.stats["value"]
        (4, 3.0)
    """

    def __init__(
        self,
        objective: str | Objective = "mean",
        credit: Credit = "episode",
        discount: float = 1.0,
        min_episodes: int = 2,
        unit_scale: bool | None = None,
        patience: int = 32,
    ):
        if credit not in get_args(Credit):
            raise ValueError(f"credit must be one of {', '.join(get_args(Credit))}; got {credit!r}")
        if not isinstance(discount, Real) or not 0 < discount <= 1:
            raise ValueError(f"discount must satisfy 0 < discount <= 1; got {discount!r}")
        for name, number in (("min_episodes", min_episodes), ("patience", patience)):
            if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
                raise ValueError(f"{name} must be a positive whole number; got {number!r}")
        self.objective = objective
        check_nonzero(self.objective)
        self.credit, self.discount, self.min_episodes = credit, discount, min_episodes
        self.unit_scale = credit != "episode" if unit_scale is None else unit_scale
        self.patience = patience
        self.stats: dict[str, float] = dict.fromkeys(LASTING, 0)
        self._warned: set[str] = set()

    @property
    def objective(self) -> Objective:
        """What is optimised. May be assigned, an objective or its string."""
        return self._objective

    @objective.setter
    def objective(self, objective: str | Objective) -> None:
        self._objective = parse(objective)

    @property
    def lasting(self) -> dict[str, float]:
        """The counts to keep where training is to be resumed; they go into `stats`."""
        return {name: self.stats[name] for name in LASTING}

    @property
    def need(self) -> int:
        """How many episodes make a group."""
        return max(2, self.min_episodes, smallest_group(self.objective, "leave_one_out"))

    @property
    def unit(self) -> float:
        """What advantages are divided by."""
        return steepest_slope(self.objective) * (self.stats["scale"] or 1.0) if self.unit_scale else 1.0

    def advantages(self, returns: Array, weight: Array | None = None) -> Array:
        """Return the advantages of a group of at least two finite returns, shape (N,), at the largest K it allows.

        Args:
            returns: The group.
            weight: Importance weights of its episodes, positive. Each advantage is then multiplied by its episode's
                share in the loss, N ω/Σω. If all are 1, or there are none, the estimator is the unbiased one.
        """
        if weight is not None and (weight == 1).all():
            weight = None
        self.stats["shrunk"] += weight is None and len(returns) < self.need
        self.stats["value"] = float(value(returns, self.objective, sample_weight=weight, small="shrink"))
        a = self._ranked(returns, weight)
        if weight is not None:
            a = a * (len(a) * weight / weight.sum())
        total = self.stats["total"] + len(a)
        mean_square = (self.stats["scale"] ** 2 * self.stats["total"] + len(a) * float(np.var(returns))) / total
        self.stats |= {"total": total, "scale": float(np.sqrt(mean_square))}
        return a / self.unit

    def telescoped(self, returns: Array, before: Array, after: Array) -> Array:
        """Return the rewards f(after) - f(before) in the unit of the advantages, f that of a ranked group.

        Args:
            returns: The group that was ranked.
            before: Returns up to each step, any shape.
            after: Returns with each step, of the same shape. Where either is not finite the reward is 0.
        """
        knots = np.sort(returns)
        slopes = self._slopes(returns)
        with np.errstate(invalid="ignore"):
            rewards = _transform(after, knots, slopes) - _transform(before, knots, slopes)
        return np.where(np.isfinite(rewards), rewards, 0.0) / self.unit

    def _ranked(self, returns: Array, weight: Array | None) -> Array:
        """Return the advantages in the unit of the returns."""
        return np.asarray(advantages(returns, self.objective, sample_weight=weight, small="shrink"))

    def _slopes(self, returns: Array) -> Array:
        """Return the slopes of f between neighbours of the sorted returns, shape (N - 1,)."""
        fitting = shrunk(self.objective, len(returns), "leave_one_out")
        return np.zeros(len(returns) - 1) if fitting is None else scan(fitting, len(returns), "leave_one_out").slopes

    def leave_out(self, count: int) -> None:
        """Count episodes that cannot be ranked, for a return or a weight that is no finite number; warn once."""
        self.stats["nonfinite"] += count
        if count:
            self._warn_once(
                "nonfinite",
                "an episode ended with a NaN or infinite return, or a weight that is not positive and finite, and is "
                "left out, as others will be (see nonfinite in the metrics): check the rewards of the environment",
            )

    def check_weighted(self) -> None:
        """Check that importance weights fit the credit.

        Raises:
            ValueError: The credit is not ``episode``: its critic would learn the values under the sampled conditions.
        """
        if self.credit != "episode":
            raise ValueError(
                f"info[{WEIGHT!r}] needs credit='episode', which has no critic; got credit={self.credit!r}"
            )

    def complain(self, count: int, where: str, remedy: str) -> None:
        """Warn, once, of too few episodes.

        Args:
            count: How many ended.
            where: In what.
            remedy: What to change, beside K.
        """
        self._warn_once(
            "few", f"only {count} episodes ended in {where}, but {self.objective} needs {self.need}: {remedy}"
        )

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            warnings.warn(message, stacklevel=5)
        self._warned.add(topic)


@lru_cache(maxsize=64)
def steepest_slope(objective: Objective) -> float:
    """Return the largest absolute value of an objective's spectrum, levels without @K taken at K = 32.

    It is 1 for the mean, 1/q for ``cvar:q`` (q >= 1/32), K for ``max@K``. A median or quantile has the whole of its
    weight at one level, and in a group a slope that grows with it; at K = 32 the slope is 4.5 for the median.

    Example:
        >>> [round(steepest_slope(parse(text)), 3) for text in ("mean", "cvar:0.2", "0.5*mean+0.5*cvar:0.2", "median")]
        [1.0, 5.0, 3.0, 4.406]
    """
    return float(np.abs(spectrum(objective, np.linspace(0.0, 1.0, 129), k=32)).max())


def _transform(x: Array, knots: Array, slopes: Array) -> Array:
    """Return f(x): piecewise linear with the given slopes between sorted knots, end slopes beyond, f(knots[0]) = 0."""
    heights = np.concatenate([[0.0], np.cumsum(slopes * np.diff(knots))])
    inside = np.interp(x, knots, heights)
    below, above = np.minimum(x - knots[0], 0.0), np.maximum(x - knots[-1], 0.0)
    return inside + slopes[0] * below + slopes[-1] * above
