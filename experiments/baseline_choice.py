r"""Can the better of the two baselines be chosen from the rewards? Every rule against both, over a grid.

Leave-one-out, k-minus-one and every mixture (1 - b) A_loo + b A_kmo with b independent of the group give unbiased
gradients. How noisy each is depends on the rewards, the objective, N, K, and on the scores, which the rewards do not
show. Two extremes of what scores can be:

* *free*: every sample has a direction of its own (a policy with very many outcomes): the total variance of a group's
  gradient is E[A^2] / N;
* *narrow*: one parameter, along which the objective changes fastest (for 0/1 rewards: a policy of two outcomes).

Rules: each baseline always; *halves*; *redraw*, b = (K-1)/(N-1), which is the value with the sample replaced by one of
the others drawn at random; *fitted*, the b that minimises E[A^2] on some other groups of the same prompt; *within*, the
same kept within [0, 1]; *better*, the baseline with the smaller E[A^2] on those. Noise is exact for 0/1 rewards and
otherwise simulated, all rules on the same groups.

For max@K of 0/1 rewards, a bound on every rule there could be: of all functions of the other rewards of the group, made
with the success rate known, the one whose worse ratio of the two kinds of scores is the least.

    python experiments/baseline_choice.py --results experiments/results/baseline_choice --images docs/images
    python experiments/baseline_choice.py --quick

Ctrl-C stops after the current law, `--resume` goes on. Results and what they mean: docs/studies/baseline_choice.md.

References:
    Walder and Karkhanis (2025). Pass@K Policy Optimization. arXiv 2505.15201. (both baselines, for max@K)
    Greensmith, Bartlett and Baxter (2004). Variance reduction techniques for gradient estimates in reinforcement
        learning. JMLR 5. (baselines as control variates)
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import study
from scipy.stats import binom

import ordergrad as og
from ordergrad.advise.rewards import named
from ordergrad.runs.plots import draw_curve, new_figure, save

Array = Any
GEOMETRIES = ("free", "narrow")


@dataclass(frozen=True)
class Settings:
    """The grid."""

    groups: tuple[int, ...] = (4, 8, 16, 64)
    simulated: int = 40_000
    others: tuple[int, ...] = (8, 64)
    draws: int = 4000
    blocks: int = 20
    seed: int = 0


QUICK = replace(Settings(), groups=(4, 8), simulated=4000, draws=500)
BOUNDS = tuple((n, k, p) for n, k in ((4, 2), (8, 2), (8, 4), (8, 7)) for p in (0.1, 0.3, 0.5, 0.7, 0.9, 0.95))
"""Group size, comparison size and success rate of the bounds."""
LAWS = (
    *("bernoulli:0.02", "bernoulli:0.1", "bernoulli:0.5", "bernoulli:0.9", "graded", "uniform", "normal", "student:3"),
    *("exponential", "-exponential", "lognormal:1", "-lognormal:1", "outliers"),
)
LEVELS = ("cvar:0.1", "cvar:0.25", "uppercvar:0.25", "median", "trimmed:0.1", "winsorized:0.1", "wang:0.5", "maxrl")
SIZED = ("max", "min", "top:2", "topbottom:1")
FIXED = ("gini", "mean-0.5*gini")


def law(name: str) -> tuple[Array, Array]:
    """Return outcomes, ascending, and their probabilities."""
    if name == "graded":
        return np.arange(5.0), np.array([0.3, 0.3, 0.2, 0.15, 0.05])
    if name == "outliers":
        return np.concatenate([[-30.0], np.linspace(-2, 2, 101), [30.0]]), np.array([0.025, *[0.95 / 101] * 101, 0.025])
    found = named(name.lstrip("-"))
    if found is None:
        raise ValueError(f"{name} is no law")
    (group,) = found.prompts
    return (-group.x[0, ::-1], group.p[0, ::-1]) if name.startswith("-") else (group.x[0], group.p[0])


def objectives(n: int) -> list[tuple[str, int]]:
    """Return the objectives for groups of n and their comparison sizes."""
    found = [(name, 2) for name in FIXED]
    for k in sorted({2, n // 2, n - 1}):
        found += [(f"{name}@{k}", k) for name in (*LEVELS, *SIZED) if name != "top:2" or k > 2]
    return found


@dataclass(frozen=True)
class Groups:
    """Possible groups: outcomes as indices (R, N), and the probability of each group."""

    index: Array
    chance: Array
    exact: bool


def groups(p: Array, n: int, settings: Settings) -> Groups:
    """Return every group of two outcomes, up to order; of more outcomes simulated ones."""
    if len(p) == 2:
        high = np.arange(n) >= n - np.arange(n + 1)[:, None]
        return Groups(high.astype(int), binom.pmf(np.arange(n + 1), n, p[1]), True)
    rng = np.random.default_rng([settings.seed, n])
    count = settings.simulated
    index = np.searchsorted(np.cumsum(p)[:-1], rng.random((count, n)), side="right")
    return Groups(index, np.full(count, 1 / count), False)


@dataclass(frozen=True)
class Moments:
    """Second moments of the two baselines' estimates: of leave-one-out, with the difference, of the difference.

    The noise of the mixture with share b is ``loo + 2 b cross + b^2 difference``. Per group, shape (R,) each.
    """

    loo: Array
    cross: Array
    difference: Array

    def noise(self, chance: Array, b: float = 0.0, b2: float | None = None) -> float:
        """Return the noise of a mixture; of a random share with mean b and mean square b2."""
        square = b * b if b2 is None else b2
        return float(chance @ (self.loo + 2 * b * self.cross + square * self.difference))


def moments(x: Array, p: Array, objective: str, at: Groups) -> dict[str, Moments]:
    """Return the moments of both geometries, the narrow ones around the expectation."""
    r = x[at.index]
    loo = og.advantages(r, objective)
    difference = og.advantages(r, objective, baseline="k_minus_one") - loo
    slope = np.asarray(og.exact.advantages(x, p, objective))
    size = math.sqrt(p @ slope**2)
    score = slope / (size or 1.0)
    first, second = ((a * score[at.index]).mean(axis=1) for a in (loo, difference))
    first = first - size
    n = r.shape[1]
    free = [(a * b).mean(axis=1) / n for a, b in ((loo, loo), (loo, difference), (difference, difference))]
    return {"free": Moments(*free), "narrow": Moments(first**2, first * second, second**2)}


def fitted(m: Moments, at: Groups, others: int, settings: Settings) -> Array:
    """Return draws of the share that minimises E[A^2] on other groups."""
    rng = np.random.default_rng([settings.seed, others])
    chosen = rng.choice(len(at.chance), size=(settings.draws, others), p=at.chance / at.chance.sum())
    cross, difference = m.cross[chosen].sum(axis=1), m.difference[chosen].sum(axis=1)
    return np.divide(-cross, difference, out=np.zeros_like(cross), where=difference > 0)


def rules(m: Moments, at: Groups, n: int, k: int, settings: Settings) -> dict[str, tuple[float, float]]:
    """Return for every rule the mean and the mean square of the share of k-minus-one."""
    found = {"leave_one_out": 0.0, "k_minus_one": 1.0, "halves": 0.5, "redraw": (k - 1) / (n - 1)}
    shares = {name: (b, b * b) for name, b in found.items()}
    for others in settings.others:
        b = fitted(m, at, others, settings)
        for name, share in (("fitted", b), ("within", b.clip(0, 1)), ("better", (b > 0.5).astype(float))):
            shares[f"{name}, {others} groups"] = float(share.mean()), float((share**2).mean())
    return shares


def ratios(m: Moments, at: Groups, shares: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Return the noise of every rule over that of the better baseline."""
    better = min(m.noise(at.chance), m.noise(at.chance, 1.0))
    return {name: m.noise(at.chance, *share) / better for name, share in shares.items()}


def errors(m: Moments, at: Groups, shares: dict[str, tuple[float, float]], blocks: int) -> dict[str, float]:
    """Return standard errors of the ratios, by leaving out one block of groups at a time; 0 where they are exact."""
    if at.exact:
        return dict.fromkeys(shares, 0.0)
    parts = np.array_split(np.arange(len(at.chance)), blocks)
    columns = ("loo", "cross", "difference")
    sums = np.array([[getattr(m, name)[part].sum() for name in columns] for part in parts])
    left = (sums.sum(axis=0) - sums) / (len(at.chance) - np.array([[len(part)] for part in parts]))
    found: dict[str, float] = {}
    better = np.minimum(left[:, 0], left.sum(axis=1) + left[:, 1])
    for name, (b, b2) in shares.items():
        ratio = (left[:, 0] + 2 * b * left[:, 1] + b2 * left[:, 2]) / better
        found[name] = float(math.sqrt((blocks - 1) * ratio.var()))
    return found


@dataclass(frozen=True)
class Cell:
    """One objective on one law in groups of one size, with one geometry of scores."""

    law: str
    n: int
    k: int
    objective: str
    geometry: str
    kmo_over_loo: float
    best: float
    ratio: dict[str, float]
    error: dict[str, float]

    def worse(self, rule: str) -> bool:
        """Return whether a rule is worse than the better baseline, by half a percent and three standard errors."""
        return self.ratio[rule] > 1 + max(0.005, 3 * self.error[rule])


def measure(name: str, n: int, settings: Settings) -> list[Cell]:
    """Return the cells of one law and group size; objectives without any noise are left out."""
    x, p = law(name)
    at = groups(p, n, settings)
    cells: list[Cell] = []
    for objective, k in objectives(n):
        both = moments(x, p, objective, at)
        shares = rules(both["free"], at, n, k, settings)
        for geometry, m in both.items():
            loo, kmo, spread = m.noise(at.chance), m.noise(at.chance, 1.0), float(at.chance @ m.difference)
            if min(loo, kmo) <= 1e-12 * float(p @ x**2) or spread <= 1e-12 * loo:
                continue
            best = -float(at.chance @ m.cross) / spread
            found = ratios(m, at, shares), errors(m, at, shares, settings.blocks)
            cells.append(Cell(name, n, k, objective, geometry, kmo / loo, best, *found))
    return cells


# A bound on every baseline ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Binary:
    """Groups of n rewards of 0 and 1 with success rate p, and the include-one averages of max@k.

    Those are q, of a failure and of a success by the number of other successes: (2, n). A baseline is any function of
    how many of the n - 1 other rewards are 1: n numbers.
    """

    n: int
    k: int
    p: float
    q: Array

    def free(self, b: Array) -> float:
        """Return E[A^2] / N for a baseline."""
        chance = binom.pmf(np.arange(self.n), self.n - 1, self.p)
        weights = np.array([1 - self.p, self.p])
        return float(self.k**2 / self.n * (weights @ (self.q - b) ** 2 @ chance))

    def narrow(self, b: Array) -> float:
        """Return the variance along the one parameter of a policy of two outcomes."""
        ones, score = np.arange(self.n + 1), math.sqrt((1 - self.p) / self.p)
        a = self.k * (self.q - b)
        success, failure = np.append(0.0, a[1]) * score, -np.append(a[0], 0.0) / score
        estimate = (ones * success + (self.n - ones) * failure) / self.n
        chance = binom.pmf(ones, self.n, self.p)
        return float(chance @ (estimate - chance @ estimate) ** 2)


def binary(n: int, k: int, p: float) -> Binary:
    rewards = np.arange(n) < np.arange(n)[:, None]  # the last one is the sample, before it so many successes
    q = [og.include_one(np.where(np.arange(n) == n - 1, x, rewards.astype(float)), f"max@{k}")[:, -1] for x in (0, 1)]
    return Binary(n, k, p, np.stack(q))


def given(name: str, at: Binary) -> Array:
    """Return one of our baselines as a function of the number of other successes."""
    failures = (np.arange(at.n) < np.arange(at.n)[:, None]).astype(float)
    a = og.advantages(failures, f"max@{at.k}", baseline=name)[:, -1]  # type: ignore[arg-type]
    return at.q[0] - a / at.k


def quadratic(f: Any, n: int) -> tuple[float, Array, Array]:
    """Return value, gradient and Hessian at 0 of a quadratic function of n numbers."""
    unit, zero = np.eye(n), f(np.zeros(n))
    slope = np.array([(f(e) - f(-e)) / 2 for e in unit])
    bend = np.array([[f(a + b) - f(a) - f(b) + zero for b in unit] for a in unit])
    return zero, slope, bend


def least_ratio(at: Binary, points: int = 1001) -> float:
    """Return what the larger of the two ratios to the better baseline cannot fall below, whatever the baseline.

    The minimum over baselines of any mean of the two ratios is such a number (weak duality); the largest is returned.
    """
    parts = []
    for f in (at.free, at.narrow):
        better = min(f(given(name, at)) for name in ("leave_one_out", "k_minus_one"))
        parts.append([x / better for x in quadratic(f, at.n)])
    bound = 0.0
    for share in np.linspace(0, 1, points)[1:-1]:
        zero, slope, bend = (share * a + (1 - share) * b for a, b in zip(*parts, strict=True))
        best = -np.linalg.solve(bend, slope)
        bound = max(bound, float(zero + slope @ best + best @ bend @ best / 2))
    return bound


def bounds() -> list[study.Record]:
    """Return for each case the ratios of k-minus-one to leave-one-out for both kinds of scores, and the bound."""
    rows: list[study.Record] = []
    for n, k, p in BOUNDS:
        at = binary(n, k, p)
        loo, kmo = (given(name, at) for name in ("leave_one_out", "k_minus_one"))
        row = {"n": n, "k": k, "p": p, "kmo_over_loo_free": at.free(kmo) / at.free(loo)}
        row["kmo_over_loo_narrow"] = at.narrow(kmo) / at.narrow(loo)
        rows.append(row | {"least_worse_ratio": least_ratio(at)})
    return rows


# What came out ------------------------------------------------------------------------------------------------------


def irreconcilable(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """Return the pairs of cells, same rewards and objective, where no share is as good as the better one in both.

    The shares that are as good as the better baseline form an interval between it and its mirror image beyond the
    best share.
    """
    pairs = [(pair, *map(as_good, pair)) for pair in _paired(cells)]
    return [pair for pair, (low, high), (low2, high2) in pairs if high < low2 or high2 < low]


def _paired(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    table: dict[tuple[Any, ...], dict[str, Cell]] = {}
    for cell in cells:
        table.setdefault((cell.law, cell.n, cell.k, cell.objective), {})[cell.geometry] = cell
    return [(found["free"], found["narrow"]) for found in table.values() if len(found) == 2]


def as_good(cell: Cell) -> tuple[float, float]:
    """Return the least and the largest share of k-minus-one that is not worse than the better baseline."""
    better = 1.0 if cell.kmo_over_loo < 1 else 0.0
    mirror = 2 * cell.best - better
    return min(better, mirror), max(better, mirror)


def summary_of(cells: Sequence[Cell]) -> list[study.Record]:
    """Return for every geometry and rule: cells, how many are worse, and the ratio's median, 90%, largest, smallest."""
    rows: list[study.Record] = []
    for geometry in GEOMETRIES:
        mine = [cell for cell in cells if cell.geometry == geometry]
        for rule in mine[0].ratio:
            ratio = np.array([cell.ratio[rule] for cell in mine])
            row = {"scores": geometry, "rule": rule, "cells": len(mine), "worse": sum(c.worse(rule) for c in mine)}
            points = {"median": np.median(ratio), "90%": np.quantile(ratio, 0.9)}
            points |= {"largest": ratio.max(), "smallest": ratio.min()}
            rows.append(row | {name: float(x) for name, x in points.items()})
    return rows


def cell_row(cell: Cell) -> study.Record:
    row = {"law": cell.law, "n": cell.n, "k": cell.k, "objective": cell.objective, "scores": cell.geometry}
    row |= {"kmo_over_loo": cell.kmo_over_loo, "best_share": cell.best, **cell.ratio}
    return row | {"error_of_kmo": cell.error["k_minus_one"], "error_of_redraw": cell.error["redraw"]}


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Draw the distribution over the grid of every rule's noise over that of the better baseline."""
    figure, axes = new_figure(2, "Noise of every rule over that of the better baseline")
    shown = ["leave_one_out", "k_minus_one", "redraw", *(r for r in cells[0].ratio if r.startswith("within"))]
    for axis, geometry in zip(axes, GEOMETRIES, strict=True):
        mine = [cell for cell in cells if cell.geometry == geometry]
        for index, rule in enumerate(shown):
            ratio = np.sort([cell.ratio[rule] for cell in mine])
            draw_curve(axis, index, rule, np.linspace(0, 1, len(ratio)), ratio)
        axis.axhline(1, color="#777777", linewidth=0.8)
        axis.set(xlabel="share of the grid", yscale="log", ylim=(0.5, 20), title=f"{geometry} scores")
        axis.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axis.set_yticks([0.5, 1, 2, 5, 10, 20])
        axis.minorticks_off()
    axes[0].set_ylabel("variance / the better baseline's")
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)


def measured(law: str, n: int, settings: Settings) -> study.Record:
    return {"cells": [asdict(cell) for cell in measure(law, n, settings)]}


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/baseline_choice")
    quick: bool = field(default=False, metadata={"help": "a small grid"})


def main(argv: list[str] | None = None, settings: Settings | None = None) -> None:
    options = study.parse(Options, "Compare rules that choose a baseline from the rewards.", argv)
    settings = settings or (QUICK if options.quick else Settings())
    with study.Study(__file__, options, argv) as s:
        s.open(settings)
        tasks = study.grid(law=LAWS, n=settings.groups)
        records = s.computed("cells.jsonl", tasks, partial(measured, settings=settings))
    cells = [Cell(**cell) for record in records for cell in record["cells"]]
    rows, least = summary_of(cells), bounds()
    s.write_table("cells.csv", [cell_row(cell) for cell in cells])
    s.write_table("bounds.csv", least)
    s.write_table("rules.csv", rows)
    s.show("Variance over the better baseline's", list(rows[0]), study.with_digits(rows), left=2)
    for row in least:
        s.console.print(
            "max@{k}, N = {n}, success rate {p}: k-minus-one has {kmo_over_loo_free:.3f} (free) and "
            "{kmo_over_loo_narrow:.3f} (narrow) times the variance; no baseline keeps both ratios to the better one "
            "below {least_worse_ratio:.3f}".format(**row)
        )
    example = [cell for cell in cells if (cell.law, cell.n, cell.objective) == ("bernoulli:0.5", 8, "max@4")]
    names = ("law", "n", "objective", "geometry", "kmo_over_loo", "best")
    s.write_summary(
        settings,
        cells=len(cells),
        irreconcilable=len(irreconcilable(cells)),
        pairs=len(_paired(cells)),
        example=[
            {name: getattr(cell, name) for name in names} | {"shares_as_good": study.rounded(as_good(cell))}
            for cell in example
        ],
    )
    draw(cells, s.images / "baseline_choice.png")


if __name__ == "__main__":
    main()
