"""Running totals over the groups of a log, and the rows of ``results.json`` made from them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import value_and_error
from ordergrad.exact import value
from ordergrad.intervals import interval
from ordergrad.runs.contenders import GRPO
from ordergrad.runs.statistics import confidence_interval
from ordergrad.score.digest import Digest, levels
from ordergrad.score.groups import GroupScores, outcome_entropy, score_groups
from ordergrad.score.means import Estimate, Means, Moments, Shares, bounded_interval
from ordergrad.spec import parse
from ordergrad.weights import sample_weights, smallest_group

Array = NDArray[Any]
_WIDEST = 32
CURVES = ("pass", "all", "max")
"""pass@k, the chance that one of k tries passes; pass^k, that all do; max@k, the expected best reward."""
_TAILS = (
    *("var:0.01", "cvar:0.01", "var:0.05", "cvar:0.05", "var:0.1", "cvar:0.1", "var:0.25", "median"),
    *("var:0.75", "uppercvar:0.1", "var:0.9", "uppercvar:0.05", "var:0.95", "uppercvar:0.01", "var:0.99"),
)


class Summary:
    """The statistics of `ordergrad score` for one log, from its groups in any order.

    Attributes:
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

    def __init__(
        self, objectives: Sequence[str], success: float = 1.0, keep: bool = False, ks: Sequence[int] | None = None
    ) -> None:
        self.objectives, self.success = list(objectives), success
        self.ks = tuple(ks or (1 << i for i in range(_WIDEST)))
        self._chosen_ks = None if ks is None else tuple(ks)
        self.groups = self.used = 0
        self.kept: list[tuple[Array, Array]] | None = [] if keep else None
        self.sizes: Counter[int] = Counter()
        width = len(self.objectives)
        self._values = Means(width)
        self._silent, self._outcomes = Means(width + 1), Means(2)
        self._curves = {name: Means(len(self.ks)) for name in CURVES}
        self._signal = {name: np.zeros(width + 1) for name in ("groups", "none", "number", "sums", "squares", "rows")}
        self._rewards, self._lowest, self._highest = Moments(1), math.inf, -math.inf
        self._digest = Digest()
        self._steps: dict[float, Moments] = {}
        self._entropy: dict[float, Moments] = {}
        self._generated: Shares | None = None
        self._formats: Shares | None = None
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
        units: Array | None = None,
        lengths: Array | None = None,
        answers: tuple[Array, Array] | None = None,
    ) -> None:
        """Add whole groups.

        Args:
            rewards: Their rewards, group after group.
            sizes: The size of each group.
            weights: Importance weights of the rewards.
            steps: The step of each group.
            keys: The fingerprints of the groups, needed where they are kept.
            units: What each group is of, as a number, where several are of the same: the prompt, at its steps.
            lengths: How much was generated for each reward, NaN where that is not known.
            answers: The rewards without their part for the format, and whether the format is right: 1 or less.
        """
        self._alone = (rewards, weights) if self.groups == 0 and len(sizes) == 1 else None
        options: dict[str, Any] = {"success": self.success, "weights": weights, "ks": self._chosen_ks}
        scores = score_groups(rewards, sizes, self.objectives, **options)
        self.add_scores(scores, weighted=weights is not None, steps=steps, units=units)
        self.add_rewards(rewards, weights)
        if steps is not None:
            _add_steps(self._entropy, outcome_entropy(rewards, sizes)[:, None], steps)
        if lengths is not None:
            self._generated = self._generated or Shares(len(self.objectives) + 1)
            known = ~np.isnan(scores.sums)
            generated = np.where(known, _by_group(lengths, sizes)[:, None], 0.0)
            self._generated.add(np.where(known & ~(scores.squares > 0), generated, 0.0), generated, units)
        if answers is not None:
            rest, right = answers
            self._formats = self._formats or Shares(1)
            failed = (rest < self.success) & ~np.isnan(right)
            wrong, every = (_by_group(rows.astype(np.float64), sizes) for rows in (failed & (right < 1), failed))
            self._formats.add(wrong[:, None], every[:, None], units)
        some = sizes > 0
        passed = np.add.reduceat(rewards >= self.success, (np.cumsum(sizes) - sizes)[some]) if some.any() else sizes[:0]
        ends = np.stack([passed == 0, passed == sizes[some]], axis=1).astype(np.float64)
        self._outcomes.add(ends, None if units is None else units[some])
        if self.kept is not None and keys is not None:
            self.kept.append((keys[:, 0] if units is None else units, scores.values))

    def add_scores(
        self, scores: GroupScores, *, weighted: bool = False, steps: Array | None = None, units: Array | None = None
    ) -> None:
        """Add the scores of groups."""
        self.groups += len(scores.sizes)
        self._weighted |= weighted
        self.sizes.update(scores.sizes.tolist())
        self._values.add(scores.values, units)
        for name, table in (("pass", scores.passed), ("all", scores.reliable), ("max", scores.best)):
            self._curves[name].add(table, units)
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
        self._silent.add(np.where(known, ~loud, np.nan).astype(np.float64), units)
        for name, table in found.items():
            self._signal[name] += table.sum(axis=0)
        if steps is not None:
            _add_steps(self._steps, scores.values, steps)

    def add_rewards(self, rewards: Array, weights: Array | None = None) -> None:
        """Add rewards to the statistics of all rewards."""
        self.used += len(rewards)
        self._rewards.add(rewards[:, None])
        self._lowest = min(self._lowest, float(rewards.min(initial=math.inf)))
        self._highest = max(self._highest, float(rewards.max(initial=-math.inf)))
        self._digest.add(rewards, weights)

    def merge_digest(self, digest: Digest, moments: Moments, used: int) -> None:
        """Add the distribution of rewards that were gathered elsewhere."""
        self.used += used
        self._rewards.join(moments.count, moments.mean, moments.squares)
        self._digest.merge(digest)
        x, _ = digest.points()
        self._lowest, self._highest = min(self._lowest, float(x[0])), max(self._highest, float(x[-1]))

    def estimate(self, column: int) -> Estimate:
        """Return the value of an objective with its error and interval; with one group, those within that group."""
        found = self._values.estimate(column, self.used, self._bounds(self.objectives[column]))
        return self._within(found, self.objectives[column])

    def _within(self, found: Estimate, objective: str, passes: bool = False) -> Estimate:
        """Return an estimate, and if it is from a single group with the error and interval that its rewards give."""
        if found.groups != 1 or self.groups != 1 or self._alone is None:
            return found
        x, weights = self._alone
        x = (x >= self.success).astype(np.float64) if passes else x
        if smallest_group(parse(objective), "leave_one_out") > len(x):
            return found
        error = float(value_and_error(x, objective, sample_weight=weights)[1])
        low, high = confidence_interval(found.value, error, 1)
        if weights is None:
            bounds = (0.0, 1.0) if passes else self._ends()
            try:
                low, high = map(float, interval(x, objective, bounds=bounds))
            except ValueError:
                low = high = math.nan
        return replace(found, error=error, low=low, high=high)

    def _ends(self) -> tuple[float, float] | None:
        """Return the two values that rewards have, None if there are others."""
        x, _ = self._digest.points()
        if len(x) == 1 and x[0] in (0.0, 1.0):
            return 0.0, 1.0
        return (float(x[0]), float(x[-1])) if len(x) == 2 and self._digest.exact else None

    def _bounds(self, objective: str) -> tuple[float, float] | None:
        """Return the lowest and the highest value that a group can have where rewards have two values."""
        ends = self._ends() if self.used and not self._weighted else None
        if ends is None or not self.sizes:
            return None
        need = smallest_group(parse(objective), "value")
        sizes = [n for n in (min(self.sizes), max(self.sizes)) if n >= need] or [max(need, 2)]
        weights = [sample_weights(objective, n) for n in sizes]
        mass, *others = {round(float(w.sum()), 9) for w in weights}
        return None if others or any((w < 0).any() for w in weights) else (mass * ends[0], mass * ends[1])

    @property
    def usual_size(self) -> int:
        """The size of the group in the middle, the smaller one of two; 0 without groups."""
        sizes = sorted(self.sizes)
        return sizes[np.searchsorted(np.cumsum([self.sizes[n] for n in sizes]), (self.groups + 1) // 2)] if sizes else 0

    def about(self) -> dict[str, Any]:
        """Return the numbers of groups and rewards, and the moments of all rewards."""
        self._digest.points() if self.used else None
        return {
            "used": self.used,
            "groups": self.groups,
            "smallest": min(self.sizes, default=None),
            "largest": max(self.sizes, default=None),
            "mean": float(self._rewards.mean[0]) if self.used else None,
            "sd": math.sqrt(self._rewards.squares[0] / (self.used - 1)) if self.used > 1 else None,
            "min": self._lowest if self.used else None,
            "max": self._highest if self.used else None,
            "exact_quantiles": self._digest.exact,
        }

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables of `ordergrad.score.folder`, rows as dictionaries, NaN where a number is not known."""
        return {
            "values": list(self._value_rows()),
            "signal": list(self._signal_rows()),
            "outcomes": list(self._outcome_rows()),
            "curves": [row for name in CURVES for row in self._curve(name)],
            "tails": list(self._tail_rows()),
            "quantiles": list(self._quantile_rows()),
            "steps": list(self._step_rows()),
            "entropy": list(self._entropy_rows()),
            "generated": list(self._generated_rows()),
            "formats": [] if self._formats is None else [asdict(self._formats.estimate(0))],
        }

    @property
    def passes(self) -> bool:
        """Whether rewards are successes and failures, or some reach the threshold of a success."""
        ends = self._ends() if self.used else None
        return ends is not None and ends[0] < self.success <= ends[1]

    def _outcome_rows(self) -> Iterable[dict[str, Any]]:
        """Yield the shares of groups without a success and without a failure, where rewards are successes."""
        if self.passes and self.groups > 1:
            for column, name in enumerate(("never", "always")):
                yield {"outcome": name} | asdict(self._outcomes.estimate(column, self.groups, (0.0, 1.0)))

    def _value_rows(self) -> Iterable[dict[str, Any]]:
        for column, objective in enumerate(self.objectives):
            found = self.estimate(column)
            yield {"objective": objective} | asdict(found) | {"too_small": self.groups - found.groups}

    def _step_rows(self) -> Iterable[dict[str, Any]]:
        bounds = list(map(self._bounds, self.objectives))
        for step, moments in sorted(self._steps.items()):
            columns = zip(self.objectives, moments.mean.tolist(), moments.error().tolist(), bounds, strict=True)
            for (objective, v, error, ends), count in zip(columns, moments.count.astype(int).tolist(), strict=True):
                if not count:
                    continue
                if ends is None or count == 1:
                    low, high = confidence_interval(v, error, count)
                else:
                    low, high = bounded_interval(v, error, count, count * self.usual_size, ends)
                row = {"step": step, "objective": objective, "value": v, "error": error, "low": low, "high": high}
                yield row | {"groups": count}

    def _entropy_rows(self) -> Iterable[dict[str, Any]]:
        """Yield the mean entropy of the rewards of a group at every step."""
        for step, moments in sorted(self._entropy.items()):
            count = int(moments.count[0])
            if count:
                yield {"step": step, "value": moments.mean[0], "error": float(moments.error()[0]), "groups": count}

    def _generated_rows(self) -> Iterable[dict[str, Any]]:
        """Yield the shares of what was generated in groups without a gradient."""
        if self._generated is not None:
            for column, name in enumerate((*self.objectives, GRPO)):
                yield {"objective": name} | asdict(self._generated.estimate(column))

    def _signal_rows(self) -> Iterable[dict[str, Any]]:
        for column, objective in enumerate((*self.objectives, GRPO)):
            count, none, number, sums, squares, rows = (float(total[column]) for total in self._signal.values())
            silent = self._silent.estimate(column, int(count), (0.0, 1.0))
            yield {
                "objective": objective,
                "groups": int(count),
                "too_small": self.groups - int(count),
                "no_signal": none / count if count else math.nan,
                "low": silent.low,
                "high": silent.high,
                "effective": number / (count - none) if count > none else math.nan,
                "effective_share": sums**2 / (squares * rows) if squares > 0 else (0.0 if count else math.nan),
                "rows": int(rows),
            }

    def _curve(self, name: str) -> Iterable[dict[str, Any]]:
        """Yield the rows of a curve; those of passes only where rewards are successes or failures."""
        means = self._curves[name]
        if name != "max" and not self.passes:
            return
        ends = self._ends() if name == "max" and self.used and not self._weighted else (0.0, 1.0)
        for column in np.flatnonzero(means.count).tolist():
            k = self.ks[column]
            within = f"min@{k}" if name == "all" else f"max@{k}"
            found = self._within(means.estimate(column, self.used, ends), within, passes=name != "max")
            yield {"curve": name, "k": k} | asdict(found)

    def _tail_rows(self) -> Iterable[dict[str, Any]]:
        if self.used:
            x, mass = self._digest.points()
            yield from ({"statistic": name, "value": float(value(x, mass, name))} for name in _TAILS)

    def _quantile_rows(self) -> Iterable[dict[str, Any]]:
        if self.used:
            x, mass = self._digest.points()
            u = levels()
            at = np.searchsorted(np.cumsum(mass), u * (1 - 1e-12), side="left").clip(0, len(x) - 1)
            rewards = x[at]
            rewards[0], rewards[-1] = self._lowest, self._highest
            yield from ({"u": u, "reward": reward} for u, reward in zip(u.tolist(), rewards.tolist(), strict=True))


def _add_steps(into: dict[float, Moments], values: Array, steps: Array) -> None:
    """Add the values of groups to the moments of their steps."""
    distinct, inverse = np.unique(steps, return_inverse=True)
    known = ~np.isnan(values)

    def per_step(table: Array) -> Array:
        columns = [np.bincount(inverse, column, len(distinct)) for column in np.where(known, table, 0).T]
        return np.stack(columns, axis=1)

    count = per_step(known.astype(np.float64))
    mean = per_step(values) / np.maximum(count, 1)
    squares = per_step((values - mean[inverse]) ** 2)
    for step, *moments in zip(distinct.tolist(), count, mean, squares, strict=True):
        into.setdefault(step, Moments(values.shape[1])).join(*moments)


def _by_group(values: Array, sizes: Array) -> Array:
    """Return the sum of the values of every group, those that are not known aside."""
    return np.bincount(np.repeat(np.arange(len(sizes)), sizes), np.nan_to_num(values), len(sizes))
