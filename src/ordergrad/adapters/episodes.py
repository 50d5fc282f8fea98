r"""Ranking of the returns of whole episodes, shared by the adapters for reinforcement learning.

A trainer hands over the returns of the episodes that ended; it gets an advantage for each, or the transformation f
with $A_i = f(R_i) - \mathrm{mean} f$ for credit within an episode (`telescoped`). Everything else, which episodes
are whole and where their steps wait, is the adapter's.
"""

import math
import warnings
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from ordergrad.adapters.mean_first import MeanFirst
from ordergrad.adapters.notes import note_levels
from ordergrad.estimators import advantages, value
from ordergrad.objectives import Objective
from ordergrad.spec import parse
from ordergrad.weights import check_nonzero, scan, shrunk, smallest_group, spectrum

__all__ = [
    "WEIGHT",
    "Cap",
    "Credit",
    "EpisodeRanking",
    "RankingSettings",
    "steepest_slope",
    "thinned",
    "weighs_lower_tail",
]

_COUNTS = ("nonfinite", "abandoned", "shrunk", "total", "scale")
_LEVELS = 32  # the K at which levels without @K are looked at
_IDLE = 5  # rankings without a difference before the warning
_PART = 0.2  # of the way to the quantiles of the recent returns, after every group

WEIGHT = "ordergrad_weight"
"""Where the last info of an episode has its importance weight; see `ordergrad.envs.SampledConditions`."""


Credit = Literal["episode", "terminal", "telescoped"]
Cap = float | Literal["falling"]
Array = NDArray[Any]


class RankingSettings(TypedDict, total=False):
    """What `EpisodeRanking` takes, for adapters that pass it on."""

    objective: str | Objective
    credit: Credit
    discount: float
    min_episodes: int
    unit_scale: bool | None
    patience: int
    pool: int
    cap: Cap | None


class EpisodeRanking:
    r"""Turns the returns of whole episodes into advantages, one group after the other.

    Args:
        objective: What to optimise: an objective or its string.
        credit: How the steps of an episode get its advantage A. ``episode``: each carries A. ``terminal``: A is
            the only reward, at the end. ``telescoped``: the rewards are $f(C_t) - f(C_{t-1})$, $C_t$ the return so far.
        discount: The discount of the returns that are ranked.
        min_episodes: The fewest episodes of a group. At least the K + 1 of the objective, and 2, are needed anyway.
        unit_scale: Divide the advantages by the root mean square deviation of the returns so far, times the steepest
            slope of the objective: a positive number, so that the direction stays. It makes the largest slope of f one
            standard deviation per standard deviation for every objective, so that a critic's targets keep their
            scale while an objective changes. Default: where there is a critic, that is not with ``episode``.
        patience: Rollouts to wait for enough episodes.
        pool: With ``telescoped``, f is that of the last so many episodes, so that a small group has a tail. The older
            ones are of slightly older policies: an approximation.
        cap: With ``telescoped`` and an objective of the lower tail, the return below which every gain counts, as much
            as the objective's steepest: for ``cvar:q`` f is that of min(R, cap) as long as the q-quantile is below
            the cap (Return Capping). The distribution behind f is a running one: after every group its quantiles move a
            fifth of the way to those of the recent episodes. ``falling``: a cap that needs no number,
            `mean_first.MeanFirst`; without effect on other credits and objectives. None: f is the objective's.

    Raises:
        ValueError: The objective string is wrong or has no weight, or a number is out of range.

    Attributes:
        stats: Since the start, ``nonfinite`` (episodes left out for NaN or infinite returns), ``abandoned`` (cut
            short), ``shrunk`` (rankings at a smaller K), ``total`` episodes ranked and the ``scale`` of their
            returns (root mean square deviation from their mean); of the last group, the ``value`` of the objective;
            with a `cap`, the ``level`` at which f is capped (1: not at all). Adapters add to it.

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
        pool: int = 200,
        cap: Cap | None = None,
    ):
        if credit not in get_args(Credit):
            raise ValueError(f"credit must be one of {', '.join(get_args(Credit))}; got {credit!r}")
        if not isinstance(discount, Real) or not 0 < discount <= 1:
            raise ValueError(f"discount must satisfy 0 < discount <= 1; got {discount!r}")
        for name, number in (("min_episodes", min_episodes), ("patience", patience), ("pool", pool)):
            if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
                raise ValueError(f"{name} must be a positive whole number; got {number!r}")
        self._objective = parse(objective)
        check_nonzero(self.objective)
        if cap is not None and cap != "falling":
            if isinstance(cap, bool) or not isinstance(cap, Real) or not math.isfinite(cap):
                raise ValueError(f"cap must be a finite return, 'falling' or None; got {cap!r}")
            if credit != "telescoped" or not weighs_lower_tail(self._objective):
                raise ValueError(
                    "cap must go with credit='telescoped' and an objective of the lower tail, such as cvar:0.2; got "
                    f"cap={cap!r}, credit={credit!r}, objective={str(self._objective)!r}"
                )
        self.credit, self.discount, self.min_episodes = credit, discount, min_episodes
        self.unit_scale = credit != "episode" if unit_scale is None else unit_scale
        self.patience, self.pool, self.cap = patience, pool, cap
        self.stats: dict[str, float] = dict.fromkeys(_COUNTS, 0)
        self._recent = np.zeros(0)
        self._quantiles = np.zeros(0)
        self._approach = MeanFirst(pool)
        self._idle = 0
        self._warned: set[str] = set()

    @property
    def objective(self) -> Objective:
        """What is optimised. May be assigned during training, for a schedule, which ends a falling cap."""
        return self._objective

    @objective.setter
    def objective(self, objective: str | Objective) -> None:
        if self.cap == "falling" and parse(objective) != self._objective:
            self.cap = None
        self._objective = parse(objective)

    def state(self) -> dict[str, Any]:
        """Return what a resumed training needs, as JSON values."""
        counts = {name: self.stats[name] for name in _COUNTS}
        lists = {"recent": self._recent.tolist(), "quantiles": self._quantiles.tolist()}
        return counts | lists | {"approach": vars(self._approach).copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned, perhaps in an older version that kept less."""
        self.stats |= {name: state[name] for name in _COUNTS if name in state}
        self._recent = np.array(state.get("recent", []), dtype=np.float64)
        self._quantiles = np.array(state.get("quantiles", []), dtype=np.float64)
        if len(self._recent) and not len(self._quantiles) and self._runs:
            self._follow()
        vars(self._approach).update(state.get("approach", {}))

    @property
    def need(self) -> int:
        """How many new episodes make a group; with ``telescoped``, the recent ones are ranked with them."""
        if self.credit != "telescoped":
            return self._least
        return max(self.min_episodes, self._least - len(self._recent))

    @property
    def _least(self) -> int:
        return max(2, self.min_episodes, smallest_group(self.objective, "leave_one_out"))

    @property
    def unit(self) -> float:
        """What advantages are divided by."""
        return steepest_slope(self.objective) * (self.stats["scale"] or 1.0) if self.unit_scale else 1.0

    def advantages(self, returns: Array, weight: Array | None = None) -> Array:
        """Return the advantages of a group of finite returns, shape (N,), at the largest K it allows.

        Args:
            returns: The group.
            weight: Importance weights of its episodes, positive. Each advantage is then multiplied by its episode's
                share in the loss, N ω/Σω. If all are 1, or there are none, the estimator is the unbiased one.
        """
        if weight is not None and (weight == 1).all():
            weight = None
        self._recent = np.concatenate([self._recent, returns])[-max(self.pool, len(returns)) :]
        if self._runs:
            self._follow()
        group = self._recent if self.credit == "telescoped" else returns
        if weight is None:
            note_levels(self.objective, max(len(group), self.pool) if self.credit == "telescoped" else len(group))
        self.stats["shrunk"] += weight is None and len(group) < self._least
        self.stats["value"] = float(value(group, self.objective, sample_weight=weight, small="shrink"))
        a = self._ranked(returns, weight) if len(returns) > 1 else np.zeros(len(returns))
        if weight is not None:
            a = a * (len(a) * weight / weight.sum())
        total = self.stats["total"] + len(a)
        squares = float(np.sum((returns - np.mean(group)) ** 2))
        mean_square = (self.stats["scale"] ** 2 * self.stats["total"] + squares) / max(total, 1)
        self.stats |= {"total": total, "scale": float(np.sqrt(mean_square))}
        if self._capped:
            if self.cap == "falling":
                self._approach.look(self._recent, len(returns), self.objective)
            self.stats["level"] = float(np.mean(self._recent <= self._current_cap))
        self._watch(bool(np.ptp(self._heights()[1]) > 0) if self.credit == "telescoped" else bool(a.any()))
        return a / self.unit

    def telescoped(self, before: Array, after: Array) -> Array:
        """Return the rewards f(after) - f(before) in the unit of the advantages, f that of the recent episodes.

        Args:
            before: Returns up to each step, any shape.
            after: Returns with each step, of the same shape. Where either is not finite the reward is 0.
        """
        knots, heights, slopes = self._heights()
        with np.errstate(invalid="ignore"):
            rewards = _transform(after, knots, heights, slopes) - _transform(before, knots, heights, slopes)
        return np.where(np.isfinite(rewards), rewards, 0.0) / self.unit

    def _heights(self) -> tuple[Array, Array, Array]:
        """Return the knots of f, its values there, and its slopes below, between and above them."""
        knots = self._quantiles if self._runs else np.sort(self._recent)
        slopes = self._slopes(knots)
        cap = self._current_cap
        if self._capped and cap > knots[0]:
            count, below = len(knots), int(np.searchsorted(knots, cap))
            steep = slopes[:below].max()
            if math.isinf(cap):
                slopes = np.full(count - 1, steep)
            elif below < count:
                knots = np.insert(knots, below, cap)
                slopes = np.concatenate([np.full(below, steep), slopes[below - 1 :]])
            else:
                knots = np.append(knots, [cap, cap + 1.0])
                slopes = np.append(np.full(count, steep), slopes[-1])
        return knots, np.concatenate([[0.0], np.cumsum(slopes * np.diff(knots))]), slopes

    def _follow(self) -> None:
        """Move the running quantiles to those of the recent returns: a part of the way, at first all of it."""
        quantiles = np.quantile(self._recent, (np.arange(self.pool) + 0.5) / self.pool)
        start = self._quantiles if len(self._quantiles) == self.pool else quantiles
        self._quantiles = start + _PART * (quantiles - start)

    def _ranked(self, returns: Array, weight: Array | None) -> Array:
        """Return the advantages in the unit of the returns."""
        return np.asarray(advantages(returns, self.objective, sample_weight=weight, small="shrink"))

    def _slopes(self, returns: Array) -> Array:
        """Return the slopes of f between neighbours of the sorted returns, shape (N - 1,).

        A median or quantile is smoothed: f would have all its rise between two neighbours, whose distance differs from
        group to group, a target that no critic can follow.
        """
        fitting = shrunk(self.objective, len(returns), "leave_one_out")
        return np.zeros(len(returns) - 1) if fitting is None else scan(fitting, len(returns), "error").slopes

    @property
    def _capped(self) -> bool:
        return self.cap is not None and self.credit == "telescoped" and weighs_lower_tail(self.objective)

    @property
    def _runs(self) -> bool:
        """Whether f follows the running quantiles, as it does under a number."""
        return self._capped and self.cap != "falling"

    @property
    def _current_cap(self) -> float:
        return self._approach.cap if self.cap is None or isinstance(self.cap, str) else float(self.cap)

    def _watch(self, differs: bool) -> None:
        """Warn when several rankings in a row gave all episodes the same advantage, although their returns differ."""
        self._idle = 0 if differs or np.ptp(self._recent) == 0 else self._idle + 1
        if self._idle == _IDLE:
            self._warn_once(
                "idle",
                f"every advantage was zero in {_IDLE} updates, so that nothing is learned: the returns that "
                f"{self.objective} weighs are all equal, {float(np.min(self._recent)):g} at worst. "
                "Take an objective that weighs more of the distribution, such as a mixture with the mean, or a reward "
                "with more values",
            )

    def leave_out(self, count: int) -> None:
        """Count episodes that cannot be ranked, for a return or a weight that is no finite number; warn once."""
        self.stats["nonfinite"] += count
        if count:
            self._warn_once(
                "nonfinite",
                "an episode ended with a NaN or infinite return or cost, or a weight that is not positive and finite, "
                "and is left out, as others will be (see nonfinite in the metrics): "
                "check the rewards of the environment, and its costs",
            )

    def thin(self, stands_for: float, setting: str) -> None:
        """Warn, once, that of the steps of long episodes only some are kept; `setting` is the length of a rollout."""
        self._warn_once(
            "thin",
            f"more steps wait for the end of their episodes, or for enough episodes, than two rollouts hold: one in "
            f"{stands_for:.1f} or fewer is kept, at random and weighted up. No episode is left out, but the gradient "
            f"is noisier: raise {setting}, or take credit='telescoped', whose steps do not wait",
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
        [1.0, 5.0, 3.0, 4.478]
    """
    return float(np.abs(spectrum(objective, np.linspace(0.0, 1.0, 129), k=_LEVELS)).max())


@lru_cache(maxsize=64)
def weighs_lower_tail(objective: Objective) -> bool:
    """Return whether an objective weighs worse returns more than better ones throughout.

    Example:
        >>> [weighs_lower_tail(parse(text)) for text in ("cvar:0.1", "mean-0.5*gini", "mean", "median", "max@4")]
        [True, True, False, False, False]
    """
    rises = np.diff(spectrum(objective, np.linspace(0.0, 1.0, 129), k=_LEVELS))
    return bool((rises <= 1e-9).all() and (rises < -1e-9).any())


def thinned(weights: Array, most: int, start: float, lengths: Array | None = None) -> tuple[Array, Array]:
    """Return which of some weighted items to keep at random, and their new weights, expectations unchanged.

    The larger its weight the surer an item is kept, so that the new weights are as equal as can be.

    Args:
        weights: What each item stands for, shape (n,).
        most: The number of items to keep, or with lengths the sum of theirs, in expectation.
        start: Uniform in [0, 1): where the systematic sample begins.
        lengths: Of the items, shape (n,), 1 unless given.
    """
    lengths = np.ones(len(weights)) if lengths is None else lengths
    sure = np.zeros(len(weights), bool)
    while True:  # items heavier than the threshold are kept as they are
        threshold = (weights * lengths)[~sure].sum() / (most - lengths[sure].sum())
        if not (more := ~sure & (weights > threshold)).any():
            break
        sure |= more
    marks = np.cumsum(np.minimum(weights / threshold, 1.0)) + start
    kept = np.flatnonzero(np.diff(np.floor(marks + 1e-9), prepend=0.0) > 0)
    return kept, np.maximum(weights[kept], threshold)


def _transform(x: Array, knots: Array, heights: Array, slopes: Array) -> Array:
    """Return f(x): piecewise linear through the heights at sorted knots, with the end slopes beyond."""
    inside = np.interp(x, knots, heights)
    below, above = np.minimum(x - knots[0], 0.0), np.maximum(x - knots[-1], 0.0)
    return inside + slopes[0] * below + slopes[-1] * above
