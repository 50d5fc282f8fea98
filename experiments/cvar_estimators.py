r"""Estimators of the CVaR gradient compared: bias, noise and signal of ours at every K, of GCVaR and of the mean.

The policy is Gaussian, x ~ N(mu, sigma^2) at mu = 0, log sigma = 0, with scores z and z^2 - 1. Three rewards:
``linear`` x, ``heavy`` -exp(x) (a lognormal loss), ``cliff`` x - 5 for x beyond its 97% quantile (the mean says up, the
tail says down). For groups of N and levels q, all relative to the length of the gradient of the population's CVaR:

* *bias*: exact. The expectation of our estimate is the gradient of the objective at comparison size K (unbiased), that
  of GCVaR an integral over the position of its empirical quantile;
* *noise*: the root of the total variance of one group's estimate, over simulated groups, with its standard error;
* *SNR*: the mean over the standard deviation along the true gradient; a batch of B groups has sqrt(B) times it.

The same for max@K, where leave_one_out and k_minus_one are the baselines of PKPO; for other objectives on the way to
CVaR; and what `ordergrad advise` predicts for the same groups.

    python experiments/cvar_estimators.py --results experiments/results/cvar_estimators --images docs/images
    python experiments/cvar_estimators.py --quick

Ctrl-C stops after the current reward, `--resume` goes on. Results and what they mean: docs/studies/cvar_estimators.md.

References:
    Tamar, Glassner and Mannor (2015). Optimizing the CVaR via sampling. AAAI 29, arXiv 1404.3862. (GCVaR)
    Walder and Karkhanis (2025). Pass@K Policy Optimization. arXiv 2505.15201. (PKPO)
    Kool et al. (2019). Buy 4 REINFORCE samples, get a baseline for free! (RLOO, the mean)
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import study
from rich.table import Table
from scipy.stats import beta, norm

import ordergrad as og
from ordergrad.advise.advice import advise
from ordergrad.advise.rewards import Prompts, Rewards
from ordergrad.advise.words import read_goal
from ordergrad.runs.plots import new_figure, save, style
from ordergrad.weights import scan, smallest_group

Array = Any
BASELINES = ("leave_one_out", "k_minus_one", "none")
CLIFF = float(norm.ppf(0.97))


@dataclass(frozen=True)
class Settings:
    """The grid."""

    groups: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    levels: tuple[float, ...] = (0.01, 0.05, 0.1, 0.25, 0.5)
    upper_groups: tuple[int, ...] = (8, 16, 64)
    advised: tuple[int, ...] = (16, 64)
    simulated: int = 32_768
    cells: int = 1 << 21
    seed: int = 0


QUICK = replace(Settings(), groups=(8, 64), levels=(0.1, 0.5), upper_groups=(8,), advised=(16,), simulated=8192)
REWARDS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "heavy": lambda x: -np.exp(x),
    "cliff": lambda x: x - 5.0 * (x > CLIFF),
}


def others(q: float) -> tuple[str, ...]:
    """Return objectives that someone who wants cvar:q might train on instead; all sizes fit groups of 64."""
    whole = math.ceil(1 / q)
    return (
        "mean",
        f"cvar:{q:g}@63",
        f"cvar:{q:g}@{2 * whole}",
        f"cvar:{q:g}@{whole}",
        f"min@{whole}",
        f"cvar:{2 * q:g}@63",
        f"0.5*mean+0.5*cvar:{q:g}@63",
        f"var:{q:g}@63",
        "mean-0.5*gini",
        "wang:0.5@63",
        "wang:1.5@63",
    )


# Groups and their gradients -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Groups sorted by reward: rewards (R, N), scores for mu and log sigma (R, N, 2)."""

    r: Array
    s: Array


def scores(z: Array) -> Array:
    """Return the derivatives of log p by mu and log sigma at mu = 0, log sigma = 0."""
    return np.stack([z, z * z - 1], axis=-1)


def simulated_groups(reward: str, n: int, settings: Settings) -> Iterator[Group]:
    rng = np.random.default_rng([settings.seed, n])
    rows = max(1, settings.cells // n)
    for begin in range(0, settings.simulated, rows):
        z = rng.standard_normal((min(rows, settings.simulated - begin), n))
        if reward != "linear":
            r = REWARDS[reward](z)
            order = np.argsort(r, axis=1)
            z, r = np.take_along_axis(z, order, 1), np.take_along_axis(r, order, 1)
        else:
            z = r = np.sort(z, axis=1)
        yield Group(r, scores(z))


def our_gradients(group: Group, estimators: Sequence[tuple[str, str]]) -> Array:
    """Return mean(A * score) of every (objective, baseline), shape (R, 2, estimators), by one product.

    A is the centred running sum of slopes times gaps plus a common part; summed by parts against the scores, the
    gradient is linear in the slopes.
    """
    n = group.r.shape[1]
    gaps = np.diff(group.r, axis=1)
    mean = group.s.mean(axis=1, keepdims=True)
    above = np.cumsum((group.s - mean)[:, ::-1], axis=1)[:, ::-1][:, 1:]
    scans = [scan(og.parse(objective), n, baseline) for objective, baseline in estimators]  # type: ignore[arg-type]
    slopes, offsets = (np.stack([s[i] for s in scans], axis=-1) for i in (0, 1))
    totals = np.array([s.total for s in scans])
    common = group.r[:, :1] * totals + gaps @ offsets
    weighted = np.moveaxis(above * gaps[..., None], 1, 2)
    return weighted @ slopes / n + mean[:, 0, :, None] * common[:, None, :]


def gcvar_gradients(group: Group, q: float) -> Array:
    """Return those of Tamar et al.: mean of (R - v) 1[R <= v] / q times the score, v the empirical q-quantile."""
    n = group.r.shape[1]
    worst = worst_of(n, q)
    weight = (group.r[:, :worst] - group.r[:, worst - 1 : worst]) / q
    return np.einsum("rm,rmk->rk", weight, group.s[:, :worst]) / n


def worst_of(n: int, q: float) -> int:
    """Return the rank of the empirical q-quantile."""
    return math.ceil(q * n - 1e-9)


# Expectations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """The reward's distribution on a fine grid of z, sorted by reward."""

    r: Array
    p: Array
    s: Array


@lru_cache(maxsize=6)
def grid(reward: str, cells: int = 4000) -> Grid:
    """Return cells of z by their midpoints, an edge at the cliff, with their exact probabilities."""
    edges = np.union1d(np.linspace(-9, 9, cells + 1), [0.0, CLIFF])
    z = (edges[1:] + edges[:-1]) / 2
    p = np.abs(np.diff(norm.cdf(-np.abs(edges))))  # the upper tail as precisely as the lower
    r = REWARDS[reward](z)
    order = np.argsort(r, kind="stable")
    return Grid(r[order], (p / p.sum())[order], scores(z[order]))


@cache
def exact_gradient(reward: str, objective: str) -> Array:
    """Return the gradient of an objective; without @K, of the population's.

    A finite K has a smooth spectrum, for which 4,000 cells are plenty; that of the population jumps.
    """
    on = grid(reward, 4000 if "@" in objective else 400_000)
    return (on.p * np.asarray(og.exact.advantages(on.r, on.p, objective))) @ on.s


def expected_gcvar(on: Grid, n: int, q: float) -> Array:
    """Return the expectation of GCVaR: given its quantile, the worse samples are independent draws from below it."""
    worst = worst_of(n, q)
    if worst < 2:
        return np.zeros(2)
    below = np.cumsum(on.p)
    chance = np.diff(beta.cdf(below, worst, n - worst + 1), prepend=0.0)
    middle = below - on.p / 2
    sums = np.cumsum(on.p[:, None] * on.r[:, None] * on.s, axis=0) - on.r[:, None] * np.cumsum(
        on.p[:, None] * on.s, axis=0
    )
    return (worst - 1) / (n * q) * (chance @ (sums / middle[:, None]))


# Measuring ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One estimator in groups of n, relative to the gradient of its goal.

    Attributes:
        reward: The reward.
        goal: The objective whose gradient is wanted, without limit on K.
        n: The group size.
        estimator: Its objective with K, or ``gcvar:q``.
        baseline: Its baseline; for GCVaR the empirical quantile.
        bias: Length of the difference of its expectation from the goal's gradient.
        direction: The cosine of the two.
        noise: Root of the total variance.
        noise_error: Standard error of the noise.
        snr: Mean over standard deviation along the goal's gradient.
        deviation: How many standard errors the simulated mean is from the expectation, the larger of two components.
    """

    reward: str
    goal: str
    n: int
    estimator: str
    baseline: str
    bias: float
    direction: float
    noise: float
    noise_error: float
    snr: float
    deviation: float


class Sums:
    """Running moments of gradients around their expectation: (2, estimators)."""

    def __init__(self, expected: Array):
        self.expected, self.count = expected, 0
        self.first, self.square = np.zeros_like(expected), np.zeros((2, *expected.shape))
        self.cross = np.zeros(expected.shape[1])
        self.length, self.length2 = np.zeros(expected.shape[1]), np.zeros(expected.shape[1])

    def add(self, gradients: Array) -> None:
        apart = gradients - self.expected
        self.count += len(apart)
        self.first += apart.sum(axis=0)
        squares = (apart**2).sum(axis=1)
        self.square[0] += (apart**2).sum(axis=0)
        self.cross += (apart[:, 0] * apart[:, 1]).sum(axis=0)
        self.length += squares.sum(axis=0)
        self.length2 += (squares**2).sum(axis=0)

    def measured(
        self, reward: str, goal: str, wanted: Array, n: int, names: Sequence[tuple[str, str]]
    ) -> list[Measured]:
        size = float(np.linalg.norm(wanted))
        unit = wanted / size
        rows: list[Measured] = []
        for i, (estimator, baseline) in enumerate(names):
            mean, variance = self.expected[:, i], self.square[0, :, i] / self.count
            total, spread = self.length[i] / self.count, self.length2[i] / self.count
            along = unit**2 @ variance + 2 * unit[0] * unit[1] * self.cross[i] / self.count
            noise, length = math.sqrt(total), float(np.linalg.norm(mean))
            error = math.sqrt(max(spread - total**2, 0.0) / self.count) / (2 * noise) if noise > 0 else 0.0
            gap = np.abs(self.first[:, i] / self.count) / np.sqrt(np.maximum(variance, 1e-300) / self.count)
            rows.append(
                Measured(
                    *(reward, goal, n, estimator, baseline),
                    bias=float(np.linalg.norm(mean - wanted)) / size,
                    direction=float(mean @ unit) / length if length > 0 else math.nan,
                    noise=noise / size,
                    noise_error=error / size,
                    snr=float(mean @ unit) / math.sqrt(along) if along > 0 else math.nan,
                    deviation=float(gap.max()) if noise > 0 else 0.0,
                )
            )
        return rows


def sizes(n: int) -> list[int]:
    """Return the comparison sizes for groups of n: powers of two, N/2, N - 1 and N."""
    return sorted({*(1 << i for i in range(1, n.bit_length()) if 1 << i < n), n - 1, n})


def allowed(objective: str, n: int) -> list[tuple[str, str]]:
    """Return an objective with every baseline that groups of n allow."""
    parsed = og.parse(objective)
    return [(objective, b) for b in BASELINES if smallest_group(parsed, b) <= n]  # type: ignore[arg-type]


def measure(
    reward: str,
    n: int,
    wanted: Sequence[tuple[str, list[tuple[str, str]]]],
    levels: Sequence[float],
    settings: Settings,
) -> list[Measured]:
    """Measure the estimators of every goal on the same simulated groups; for the levels, GCVaR too."""
    sums = [
        Sums(np.stack([exact_gradient(reward, objective) for objective, _ in names], axis=1)) for _, names in wanted
    ]
    tails = [Sums(expected_gcvar(grid(reward, 40_000), n, q)[:, None]) for q in levels]
    for group in simulated_groups(reward, n, settings):
        for (_, names), total in zip(wanted, sums, strict=True):
            total.add(our_gradients(group, names))
        for q, total in zip(levels, tails, strict=True):
            total.add(gcvar_gradients(group, q)[..., None])
    rows: list[Measured] = []
    for (goal, names), total in zip(wanted, sums, strict=True):
        rows += total.measured(reward, goal, exact_gradient(reward, goal), n, names)
    for q, total in zip(levels, tails, strict=True):
        goal = f"cvar:{q:g}"
        rows += total.measured(reward, goal, exact_gradient(reward, goal), n, [(f"gcvar:{q:g}", "quantile")])
    return rows


def lower_tail(reward: str, settings: Settings) -> list[dict[str, Any]]:
    """CVaR: every N, level, K and baseline; GCVaR; the mean."""
    rows: list[Measured] = []
    for n in settings.groups:
        wanted = [
            (
                f"cvar:{q:g}",
                [pair for k in sizes(n) for pair in allowed(f"cvar:{q:g}@{k}", n)] + [("mean", "leave_one_out")],
            )
            for q in settings.levels
        ]
        rows += measure(reward, n, wanted, settings.levels, settings)
    return [asdict(row) for row in rows]


def upper_tail(reward: str, settings: Settings) -> list[dict[str, Any]]:
    """max@K as its own goal: PKPO's two baselines, and none."""
    rows: list[Measured] = []
    for n in settings.upper_groups:
        wanted = [(f"max@{k}", allowed(f"max@{k}", n)) for k in sizes(n)]
        rows += measure(reward, n, wanted, (), settings)
    return [asdict(row) for row in rows]


def other_objectives(reward: str, settings: Settings) -> list[dict[str, Any]]:
    """Other objectives in groups of 64, for whoever wants the worst tenth or twentieth."""
    wanted = [(f"cvar:{q:g}", [(name, "leave_one_out") for name in others(q)]) for q in (0.1, 0.05)]
    rows = measure(reward, 64, wanted, (), settings)
    return [asdict(row) for row in rows]


def advised(reward: str, settings: Settings) -> list[dict[str, Any]]:
    """What advise predicts, the same measured on continuous groups, and the SNR for the Gaussian policy."""
    rows: list[dict[str, Any]] = []
    on = grid(reward, 2001)
    law = Rewards(reward, (Prompts(on.r[None], on.p[None], np.ones(1)),))
    for n in settings.advised:
        for q in (0.25, 0.1):
            advice = advise(read_goal(f"worst {100 * q:g}%"), law, n)
            goal = f"cvar:{q:g}"
            names = [(c.objective, c.baseline) for c in advice.table]
            snr = free_policy_snr(reward, n, goal, names, settings)
            gaussian = measure(reward, n, [(goal, names)], (), settings)
            for candidate, (found, error), ours in zip(advice.table, snr, gaussian, strict=True):
                rows.append(
                    {
                        "reward": reward,
                        "goal": goal,
                        "n": n,
                        "estimator": candidate.objective,
                        "baseline": candidate.baseline,
                        "advised": int(candidate == advice.best),
                        "predicted": candidate.snr,
                        "measured": found,
                        "error": error,
                        "direction": candidate.direction,
                        "gaussian_snr": ours.snr,
                        "gaussian_direction": ours.direction,
                    }
                )
    return rows


def free_policy_snr(
    reward: str, n: int, goal: str, names: Sequence[tuple[str, str]], settings: Settings
) -> list[tuple[float, float]]:
    """Return the SNR along the goal's natural gradient, the score A^G / sd, with its standard error."""
    on = grid(reward)
    slope = np.asarray(og.exact.advantages(on.r, on.p, goal))
    slope = slope / math.sqrt(on.p @ slope**2)
    expected = [float(on.p @ (np.asarray(og.exact.advantages(on.r, on.p, name)) * slope)) for name, _ in names]
    squares: list[Array] = []
    for group in simulated_groups(reward, n, settings):
        along = np.interp(group.r, on.r, slope)
        score = Group(group.r, np.stack([along, along], axis=-1))
        squares.append((our_gradients(score, names)[:, 0] - expected) ** 2)
    every = np.concatenate(squares)
    variance, spread = every.mean(axis=0), every.std(axis=0) / math.sqrt(len(every))
    snr = np.array(expected) / np.sqrt(variance)
    return list(zip(snr.tolist(), (snr * spread / (2 * variance)).tolist(), strict=True))


# What came out ------------------------------------------------------------------------------------------------------


def pick(rows: Sequence[Measured], **fixed: Any) -> list[Measured]:
    return [row for row in rows if all(getattr(row, name) == value for name, value in fixed.items())]


def size_of(row: Measured) -> int:
    """Return the comparison size of an estimator; that of GCVaR is the group."""
    return int(row.estimator.split("@")[1]) if "@" in row.estimator else row.n


def error_of(row: Measured, batch: int) -> float:
    """Return the relative root mean square error of a batch of groups."""
    return math.sqrt(row.bias**2 + row.noise**2 / batch)


def curve(rows: Sequence[Measured], goal: str, n: int, baseline: str, reward: str = "linear") -> list[Measured]:
    """Return our estimators of one goal, group size and baseline, by comparison size."""
    found = [row for row in pick(rows, reward=reward, goal=goal, n=n, baseline=baseline) if "@" in row.estimator]
    return sorted(found, key=size_of)


def choices(
    rows: Sequence[Measured], settings: Settings, batches: Sequence[int] = (1, 4, 16, 64)
) -> list[tuple[Any, ...]]:
    """Return for every reward, level, N and batch the best K and its error, those of two plain rules, and GCVaR's.

    The rules are K = N - 1, and the smallest K of the grid that is at least 1/q.
    """
    table: list[tuple[Any, ...]] = []
    for reward in REWARDS:
        for q in settings.levels:
            for n in settings.groups:
                goal = f"cvar:{q:g}"
                ours = curve(rows, goal, n, "leave_one_out", reward)
                plain_size = next((row for row in ours if size_of(row) >= 1 / q), ours[-1])
                (tail,) = pick(rows, reward=reward, estimator=f"gcvar:{q:g}", n=n)
                for batch in batches:
                    best = min(ours, key=lambda row: error_of(row, batch))
                    errors = [error_of(row, batch) for row in (best, ours[-1], plain_size, tail)]
                    table.append((reward, goal, n, batch, size_of(best), *errors))
    return table


TAIL_SAMPLES = (3.0, 10.0, 30.0, 100.0, 300.0, math.inf)


def digest(rows: Sequence[Measured], table: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Return what all cases say together, as cases with medians and extremes."""
    own = {(r.reward, r.goal, r.n, size_of(r)): r for r in rows if r.baseline == "leave_one_out" and "@" in r.estimator}
    rules: dict[str, Any] = {}
    for low, high in zip((0.0, *TAIL_SAMPLES), TAIL_SAMPLES, strict=False):
        inside = [r for r in table if low <= level(r[1]) * r[2] * r[3] < high]
        pairs = [(r[6] / r[5], r[7] / r[5], r[8] / r[6]) for r in inside]
        rules[f"below {high:g}"] = {
            name: middle_and_ends([pair[i] for pair in pairs])
            for i, name in enumerate(("largest K over best", "1/q over best", "gcvar over largest K"))
            if pairs
        }
    tails: dict[str, Any] = {}
    for low, high in ((1.0, 3.0), (3.0, 10.0), (10.0, 30.0), (30.0, math.inf)):
        found = [
            r for r in rows if r.estimator.startswith("gcvar") and r.noise > 0 and low < level(r.goal) * r.n <= high
        ]
        with_ours = [(r, own[r.reward, r.goal, r.n, r.n - 1]) for r in found]
        tails[f"up to {high:g}"] = {
            name: middle_and_ends([getattr(r, name) / getattr(o, name) for r, o in with_ours])
            for name in ("snr", "noise", "bias")
            if with_ours
        }
    others_over: dict[str, Any] = {}
    for baseline in BASELINES[1:]:
        found = [r for r in rows if r.baseline == baseline and size_of(r) < r.n]
        ratio = [(r.noise / own[r.reward, r.goal, r.n, size_of(r)].noise) ** 2 for r in found]
        others_over[baseline] = {"variance": middle_and_ends(ratio), "better by 1%": sum(x < 0.99 for x in ratio)}
        by_size = [x / size_of(r) for x, r in zip(ratio, found, strict=True)]
        others_over[baseline]["variance over K"] = [
            *middle_and_ends(by_size),
            round(float(np.quantile(by_size, 0.75)), 4),
        ]
    return {
        "columns": ["cases", "median", "least", "largest"],
        "error of a batch, by tail samples": rules,
        "gcvar over ours at K = N - 1, by tail samples of a group": tails,
        "baselines over leave_one_out": others_over,
    }


def level(goal: str) -> float:
    return float(goal.split(":")[1])


def middle_and_ends(values: Sequence[float]) -> list[float]:
    return [len(values), *(round(float(x), 4) for x in (np.median(values), np.min(values), np.max(values)))]


def draw(rows: Sequence[Measured], settings: Settings, path: Path) -> None:
    """Draw bias against K, noise by baseline, and the error of batches: what K to take."""
    n = 64 if 64 in settings.groups else settings.groups[-1]
    figure, (left, middle, right) = new_figure(3, "The gradient of CVaR of a Gaussian reward")
    largest = settings.groups[-1]
    for index, q in enumerate(settings.levels):
        colour, dash = style(index)
        mine = curve(rows, f"cvar:{q:g}", largest, "leave_one_out")
        left.plot([size_of(row) for row in mine], [row.bias for row in mine], color=colour, linestyle=dash, linewidth=2)
        theirs = sorted(pick(rows, reward="linear", estimator=f"gcvar:{q:g}"), key=size_of)
        theirs = [row for row in theirs if row.direction == row.direction]
        left.plot([row.n for row in theirs], [row.bias for row in theirs], "o", color=colour, markersize=4)
        left.plot([], [], color=colour, linestyle=dash, linewidth=2, label=f"q = {q:g}")
    left.plot([], [], "o", color="#555555", markersize=4, label="GCVaR at N")
    left.set(xscale="log", yscale="log", xlabel="comparison size K (GCVaR: group size N)", ylabel="relative bias")
    left.set(title="Bias: lines are ours, at any N")
    left.legend(frameon=False, fontsize=8)
    goal = "cvar:0.1"
    for index, baseline in enumerate(BASELINES):
        colour, dash = style(index)
        mine = curve(rows, goal, n, baseline)
        k, noise = [size_of(row) for row in mine], [row.noise for row in mine]
        middle.plot(k, noise, "o", color=colour, linestyle=dash, linewidth=2, markersize=3, label=baseline)
    (theirs,) = pick(rows, reward="linear", estimator="gcvar:0.1", n=n)
    middle.plot([n], [theirs.noise], "D", color="#000000", markersize=6, label="GCVaR")
    middle.set(xscale="log", yscale="log", xlabel="comparison size K", ylabel="relative noise of one group")
    middle.set(title=f"Noise: {goal}, N = {n}")
    middle.legend(frameon=False, fontsize=8)
    mine = curve(rows, goal, n, "leave_one_out")
    for index, batch in enumerate((1, 4, 16, 64)):
        colour, dash = style(index)
        errors = [error_of(row, batch) for row in mine]
        label = f"{batch} group{'s' if batch > 1 else ''}"
        right.plot([size_of(row) for row in mine], errors, color=colour, linestyle=dash, linewidth=2, label=label)
        right.plot([n], [error_of(theirs, batch)], "D", color=colour, markersize=5)
        best = int(np.argmin(errors))
        right.plot([size_of(mine[best])], [errors[best]], "o", color=colour, markersize=7)
    right.plot([], [], "D", color="#555555", markersize=5, label="GCVaR")
    right.set(xscale="log", yscale="log", xlabel="comparison size K", ylabel="relative error of the batch")
    right.set(title=f"Error: {goal}, groups of {n}, best K marked")
    right.legend(frameon=False, fontsize=8)
    for axis in (left, middle, right):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axis.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g}%")
        axis.minorticks_off()
    right.set_yticks([0.05, 0.1, 0.2, 0.5, 1.0])
    right.set_ylim(0.8 * min(min(error_of(row, 64) for row in mine), 0.1), 1.0)
    middle.set_yticks([0.1, 0.2, 0.5, 1, 2, 5, 10])
    middle.set_ylim(0.8 * min(row.noise for row in mine), None)
    save(figure, path)


def draw_objectives(rows: Sequence[Measured], path: Path, goal: str = "cvar:0.1") -> None:
    """Draw direction against signal for the objectives one might take instead."""
    figure, axes = new_figure(len(REWARDS), f"On the way to {goal}, groups of 64")
    names = list(dict.fromkeys(row.estimator for row in pick(rows, goal=goal)))
    markers = "osD^vP*Xph<"
    for axis, reward in zip(axes, REWARDS, strict=True):
        for index, name in enumerate(names):
            (row,) = pick(rows, reward=reward, goal=goal, estimator=name)
            axis.plot(
                *([row.snr], [row.direction]),
                markers[index],
                color=style(index)[0],
                markersize=7,
                label=name,
                alpha=0.85,
            )
        axis.axhline(0.95, color="#777777", linewidth=0.8, linestyle="--")
        axis.set(xlabel="signal-to-noise ratio of one group", title=reward)
    axes[0].set_ylabel("direction (cosine with the goal's)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    save(figure, path)


def show(rows: Sequence[Measured], table: Sequence[tuple[Any, ...]], settings: Settings, console: Any) -> None:
    q, n = 0.1, 64 if 64 in settings.groups else settings.groups[-1]
    shown = Table(title=f"cvar:{q:g}, N = {n}: relative to the population's gradient", title_justify="left")
    for heading in ("reward", "estimator", "baseline", "bias", "direction", "noise", "SNR"):
        shown.add_column(heading, justify="left" if heading in ("reward", "estimator", "baseline") else "right")
    for row in pick(rows, goal=f"cvar:{q:g}", n=n):
        shown.add_row(
            *(row.reward, row.estimator, row.baseline, f"{row.bias:.3f}", f"{row.direction:.4f}"),
            *(f"{row.noise:.3f} ± {row.noise_error:.3f}", f"{row.snr:.3f}"),
        )
    console.print(shown)
    best = Table(title="Best K by N and groups in a batch", title_justify="left")
    for heading in ("reward", "goal", "N", "groups", "best K", "error", "K = N - 1", "K = 1/q", "GCVaR"):
        best.add_column(heading)
    for reward, goal, size, batch, k, *errors in table:
        if goal == f"cvar:{q:g}":
            best.add_row(reward, goal, str(size), str(batch), str(k), *(f"{x:.3f}" for x in errors))
    console.print(best)


def largest_deviation(rows: Sequence[Measured]) -> float:
    """Return the largest distance of a simulated mean from its expectation, in standard errors."""
    return max(row.deviation for row in rows)


PARTS = {"cvar": lower_tail, "max": upper_tail, "objectives": other_objectives, "advise": advised}


def part_rows(part: str, reward: str, settings: Settings) -> study.Record:
    return {"rows": PARTS[part](reward, settings)}


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/cvar_estimators")
    quick: bool = field(default=False, metadata={"help": "a small grid"})


def main(argv: list[str] | None = None, settings: Settings | None = None) -> None:
    options = study.parse(Options, "Compare estimators of the gradient of CVaR.", argv)
    settings = settings or (QUICK if options.quick else Settings())
    with study.Study(__file__, options, argv) as s:
        s.open(settings)
        tasks = [{"part": part, "reward": reward} for part in PARTS for reward in REWARDS]
        records = s.computed("parts.jsonl", tasks, partial(part_rows, settings=settings))
    found = {part: [row for r in records if r["part"] == part for row in r["rows"]] for part in PARTS}
    for part, rows in found.items():
        s.write_table(f"{part}.csv", rows)
    lower, upper, instead = ([Measured(**row) for row in found[name]] for name in ("cvar", "max", "objectives"))
    table = choices(lower, settings)
    header = (
        "reward",
        "goal",
        "n",
        "groups",
        "best_k",
        "error",
        "error_at_largest_k",
        "error_at_1/q",
        "error_of_gcvar",
    )
    s.write_table("best_k.csv", [dict(zip(header, row, strict=True)) for row in table])
    show(lower, table, settings, s.console)
    s.write_summary(
        settings,
        estimators=len(lower) + len(upper) + len(instead),
        largest_deviation=round(largest_deviation([*lower, *upper, *instead]), 3),
        digest=digest(lower, table),
        largest_noise_error=round(max(row.noise_error / row.noise for row in lower if row.noise > 0), 5),
    )
    draw(lower, settings, s.images / "cvar_estimators.png")
    draw_objectives(instead, s.images / "cvar_objectives.png")


if __name__ == "__main__":
    main()
