"""Running totals over the groups of a log, and their tables."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import value_and_error
from ordergrad.exact import value
from ordergrad.runs.statistics import confidence_interval
from ordergrad.score.distribution import Distribution, levels
from ordergrad.score.groups import GRPO, GroupScores, score_groups

__all__ = ["Moments", "Summary"]

Array = NDArray[Any]
_WIDEST = 32
_TAILS = (
    *("var:0.01", "cvar:0.01", "var:0.05", "cvar:0.05", "var:0.1", "cvar:0.1", "var:0.25", "median"),
    *("var:0.75", "uppercvar:0.1", "var:0.9", "uppercvar:0.05", "var:0.95", "uppercvar:0.01", "var:0.99"),
)


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
        """Add rows; a table of fewer columns fills the first ones."""
        known = ~np.isnan(table)
        count = known.sum(axis=0).astype(np.float64)
        mean = np.where(known, table, 0).sum(axis=0) / np.maximum(count, 1)
        self.join(count, mean, (np.where(known, table - mean, 0) ** 2).sum(axis=0))

    def join(self, count: Array, mean: Array, squares: Array) -> None:
        """Add the moments of other rows."""
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


class Summary:
    """The statistics of `ordergrad score` for one log, from its groups in any order.

    Attributes:
        objectives: The strings of the objectives.
        success: What counts as a success in pass@k.
        groups: The number of groups.
        used: The number of rewards.
        sizes: The number of groups of each size.
        kept: The values of every group with its fingerprint, where they are kept to be compared.

    Example:
        >>> summary = Summary(["mean"])
        >>> summary.add(np.array([0.0, 1.0, 1.0, 1.0]), np.array([2, 2]))
        >>> row = summary.tables()["values"][0]
        >>> row["value"], row["error"], row["groups"]
        (0.75, 0.25, 2)
    """

    def __init__(self, objectives: Sequence[str], success: float = 1.0, keep: bool = False) -> None:
        self.objectives, self.success = list(objectives), success
        self.groups = self.used = 0
        self.kept: list[tuple[Array, Array]] | None = [] if keep else None
        self.sizes: Counter[int] = Counter()
        width = len(self.objectives)
        self._values, self._best, self._passed = Moments(width), Moments(_WIDEST), Moments(_WIDEST)
        self._signal = {name: np.zeros(width + 1) for name in ("groups", "none", "number", "sums", "squares", "rows")}
        self._rewards, self._lowest, self._highest = Moments(1), math.inf, -math.inf
        self._distribution = Distribution()
        self._steps: dict[float, Moments] = {}
        self._weighted = False
        self._alone: tuple[Array, Array | None] | None = None

    def add(
        self,
        rewards: Array,
        sizes: Array,
        *,
        weights: Array | None = None,
        steps: Array | None = None,
        keys: Array | None = None,
    ) -> None:
        """Add whole groups.

        Args:
            rewards: Their rewards, group after group.
            sizes: The size of each group.
            weights: Importance weights of the rewards.
            steps: The step of each group.
            keys: The fingerprints of the groups, needed where they are kept.
        """
        self._alone = (rewards, weights) if self.groups == 0 and len(sizes) == 1 else None
        scores = score_groups(rewards, sizes, self.objectives, success=self.success, weights=weights)
        self.add_scores(scores, weighted=weights is not None, steps=steps)
        self.add_rewards(rewards, weights)
        if self.kept is not None and keys is not None:
            self.kept.append((keys, scores.values))

    def add_scores(self, scores: GroupScores, *, weighted: bool = False, steps: Array | None = None) -> None:
        """Add the scores of groups."""
        self.groups += len(scores.sizes)
        self._weighted |= weighted
        self.sizes.update(scores.sizes.tolist())
        self._values.add(scores.values)
        self._best.add(scores.best)
        self._passed.add(scores.passed)
        known, loud = ~np.isnan(scores.sums), scores.squares > 0
        number = np.divide(scores.sums**2, scores.squares, out=np.zeros_like(scores.sums), where=loud)
        found = {
            "groups": known,
            "none": known & ~loud,
            "number": number,
            "sums": np.where(known, scores.sums, 0),
            "squares": np.where(known, scores.squares, 0),
            "rows": known * scores.sizes[:, None],
        }
        for name, table in found.items():
            self._signal[name] += table.sum(axis=0)
        if steps is not None:
            self._add_steps(scores.values, steps)

    def add_rewards(self, rewards: Array, weights: Array | None = None) -> None:
        """Add rewards to the statistics of all rewards."""
        self.used += len(rewards)
        self._rewards.add(rewards[:, None])
        self._lowest = min(self._lowest, float(rewards.min(initial=math.inf)))
        self._highest = max(self._highest, float(rewards.max(initial=-math.inf)))
        self._distribution.add(rewards, weights)

    def merge_distribution(self, distribution: Distribution, moments: Moments, used: int) -> None:
        """Add the distribution of rewards that were gathered elsewhere."""
        self.used += used
        self._rewards.join(moments.count, moments.mean, moments.squares)
        self._distribution.merge(distribution)
        x, _ = distribution.points()
        self._lowest, self._highest = min(self._lowest, float(x[0])), max(self._highest, float(x[-1]))

    def estimate(self, column: int) -> tuple[float, float, int]:
        """Return the value of an objective, its standard error and the number of groups behind it.

        With one group, the error is the jackknife's of that group.
        """
        count = int(self._values.count[column])
        value_, error = float(self._values.mean[column]), float(self._values.error()[column])
        if count == 1 and self._signal["groups"][column] == 1:
            n = self._signal["rows"][column]
            squares = self._signal["squares"][column]
            error = math.sqrt(squares / n**2 if self._weighted else (n - 1) / n**3 * squares)
        return (value_ if count else math.nan), (error if count else math.nan), count

    @property
    def usual_size(self) -> int:
        """The size of the group in the middle, the smaller one of two; 0 without groups."""
        sizes = sorted(self.sizes)
        return sizes[np.searchsorted(np.cumsum([self.sizes[n] for n in sizes]), (self.groups + 1) // 2)] if sizes else 0

    def about(self) -> dict[str, Any]:
        """Return the numbers of groups and rewards, and the moments of all rewards."""
        self._distribution.points() if self.used else None
        return {
            "used": self.used,
            "groups": self.groups,
            "smallest": min(self.sizes, default=None),
            "largest": max(self.sizes, default=None),
            "mean": float(self._rewards.mean[0]) if self.used else None,
            "sd": math.sqrt(self._rewards.squares[0] / (self.used - 1)) if self.used > 1 else None,
            "min": self._lowest if self.used else None,
            "max": self._highest if self.used else None,
            "exact_quantiles": self._distribution.exact,
        }

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables of `ordergrad.score.folder`, rows as dictionaries, NaN where a number is not known."""
        return {
            "values": list(map(self._value_row, range(len(self.objectives)))),
            "signal": list(map(self._signal_row, range(len(self.objectives) + 1))),
            "curves": [*self._curve("pass", self._passed), *self._curve("max", self._best)],
            "tails": [{"statistic": name, "value": number} for name, number in self._tails()],
            "quantiles": [{"u": u, "reward": reward} for u, reward in self._quantiles()],
            "steps": [
                {"step": step, "objective": objective, "value": v, "error": error, "groups": int(count)}
                for step, moments in sorted(self._steps.items())
                for objective, v, error, count in zip(
                    self.objectives, moments.mean.tolist(), moments.error().tolist(), moments.count, strict=True
                )
                if count
            ],
        }

    def _value_row(self, column: int) -> dict[str, Any]:
        v, error, count = self.estimate(column)
        low, high = confidence_interval(v, error, count)
        row = {"objective": self.objectives[column], "value": v, "error": error, "low": low, "high": high}
        return row | {"groups": count, "too_small": self.groups - count}

    def _signal_row(self, column: int) -> dict[str, Any]:
        count, none, number, sums, squares, rows = (
            float(self._signal[name][column]) for name in ("groups", "none", "number", "sums", "squares", "rows")
        )
        return {
            "objective": (*self.objectives, GRPO)[column],
            "groups": int(count),
            "too_small": self.groups - int(count),
            "no_signal": none / count if count else math.nan,
            "effective": number / (count - none) if count > none else math.nan,
            "effective_share": sums**2 / (squares * rows) if squares > 0 else (0.0 if count else math.nan),
            "rows": int(rows),
        }

    def _curve(self, name: str, moments: Moments) -> Iterable[dict[str, Any]]:
        errors = moments.error()
        for column in np.flatnonzero(moments.count).tolist():
            k, mean, count = 1 << column, float(moments.mean[column]), int(moments.count[column])
            error = self._jackknife(name, k) if self._alone else float(errors[column])
            low, high = confidence_interval(mean, error, count)
            row = {"curve": name, "k": k, "value": mean, "error": error, "low": low, "high": high}
            yield row | {"groups": count}

    def _jackknife(self, name: str, k: int) -> float:
        """Return the error of max@k or pass@k in the only group."""
        assert self._alone is not None
        x, weights = self._alone
        if k >= len(x):
            return math.nan
        x = (x >= self.success).astype(np.float64) if name == "pass" else x
        return float(value_and_error(x, f"max@{k}", sample_weight=weights)[1])

    def _tails(self) -> Iterable[tuple[str, float]]:
        if self.used:
            x, mass = self._distribution.points()
            yield from ((name, float(value(x, mass, name))) for name in _TAILS)

    def _quantiles(self) -> Iterable[tuple[float, float]]:
        if self.used:
            x, mass = self._distribution.points()
            u = levels()
            at = np.searchsorted(np.cumsum(mass), u * (1 - 1e-12), side="left").clip(0, len(x) - 1)
            rewards = x[at]
            rewards[0], rewards[-1] = self._lowest, self._highest
            yield from zip(u.tolist(), rewards.tolist(), strict=True)

    def _add_steps(self, values: Array, steps: Array) -> None:
        distinct, inverse = np.unique(steps, return_inverse=True)
        known = ~np.isnan(values)

        def per_step(table: Array) -> Array:
            columns = [np.bincount(inverse, column, len(distinct)) for column in np.where(known, table, 0).T]
            return np.stack(columns, axis=1)

        count = per_step(known.astype(np.float64))
        mean = per_step(values) / np.maximum(count, 1)
        squares = per_step((values - mean[inverse]) ** 2)
        for step, *moments in zip(distinct.tolist(), count, mean, squares, strict=True):
            self._steps.setdefault(step, Moments(len(self.objectives))).join(*moments)
