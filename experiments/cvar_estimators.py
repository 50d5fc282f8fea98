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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import study
from cvar.figures import draw, draw_objectives
from cvar.gradients import REWARDS, Group, exact_gradient, expected_gcvar, gcvar_gradients, grid, our_gradients, scores
from cvar.measured import BASELINES, Measured, Sums, curve, error_of, pick, size_of

import ordergrad as og
from ordergrad.advise.advice import advise
from ordergrad.advise.rewards import Prompts, Rewards
from ordergrad.advise.words import read_goal
from ordergrad.weights import smallest_group

Array = Any


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


def others(q: float) -> tuple[str, ...]:
    """Return objectives that someone who wants cvar:q might train on instead; all sizes fit groups of 64."""
    whole = math.ceil(1 / q)
    return (
        *("mean", f"cvar:{q:g}@63", f"cvar:{q:g}@{2 * whole}", f"cvar:{q:g}@{whole}", f"min@{whole}"),
        *(f"cvar:{2 * q:g}@63", f"0.5*mean+0.5*cvar:{q:g}@63", f"var:{q:g}@63"),
        *("mean-0.5*gini", "wang:0.5@63", "wang:1.5@63"),
    )


# Measuring ----------------------------------------------------------------------------------------------------------


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
        goals = [f"cvar:{q:g}" for q in settings.levels]
        pairs = [[pair for k in sizes(n) for pair in allowed(f"{goal}@{k}", n)] for goal in goals]
        wanted = [(goal, [*own, ("mean", "leave_one_out")]) for goal, own in zip(goals, pairs, strict=True)]
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
                row = {"reward": reward, "goal": goal, "n": n, "estimator": candidate.objective}
                row |= {"baseline": candidate.baseline, "advised": int(candidate == advice.best)}
                row |= {"predicted": candidate.snr, "measured": found, "error": error}
                row |= {"direction": candidate.direction, "gaussian_snr": ours.snr}
                rows.append(row | {"gaussian_direction": ours.direction})
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


def choices(
    rows: Sequence[Measured], settings: Settings, batches: Sequence[int] = (1, 4, 16, 64)
) -> list[study.Record]:
    """Return for every reward, level, N and batch the best K and its error, those of two plain rules, and GCVaR's.

    The rules are K = N - 1, and the smallest K of the grid that is at least 1/q.
    """
    table: list[study.Record] = []
    for reward, q, n in product(REWARDS, settings.levels, settings.groups):
        goal = f"cvar:{q:g}"
        ours = curve(rows, goal, n, "leave_one_out", reward)
        plain = next((row for row in ours if size_of(row) >= 1 / q), ours[-1])
        (tail,) = pick(rows, reward=reward, estimator=f"gcvar:{q:g}", n=n)
        for batch in batches:
            best = min(ours, key=lambda row: error_of(row, batch))
            row = {"reward": reward, "goal": goal, "n": n, "groups": batch, "best_k": size_of(best)}
            rules = {"error": best, "error_at_largest_k": ours[-1], "error_at_1/q": plain, "error_of_gcvar": tail}
            table.append(row | {name: error_of(rule, batch) for name, rule in rules.items()})
    return table


TAIL_SAMPLES = (3.0, 10.0, 30.0, 100.0, 300.0, math.inf)


def digest(rows: Sequence[Measured], table: Sequence[study.Record]) -> dict[str, Any]:
    """Return what all cases say together, as cases with medians and extremes."""
    own = {(r.reward, r.goal, r.n, size_of(r)): r for r in rows if r.baseline == "leave_one_out" and "@" in r.estimator}
    names = {
        "largest K over best": ("error_at_largest_k", "error"),
        "1/q over best": ("error_at_1/q", "error"),
        "gcvar over largest K": ("error_of_gcvar", "error_at_largest_k"),
    }
    rules: dict[str, Any] = {}
    for low, high in zip((0.0, *TAIL_SAMPLES), TAIL_SAMPLES, strict=False):
        inside = [r for r in table if low <= level(r["goal"]) * r["n"] * r["groups"] < high]
        rules[f"below {high:g}"] = {
            name: middle_and_ends([r[one] / r[other] for r in inside]) for name, (one, other) in names.items() if inside
        }
    tails: dict[str, Any] = {}
    for low, high in ((1.0, 3.0), (3.0, 10.0), (10.0, 30.0), (30.0, math.inf)):
        theirs = [r for r in rows if r.estimator.startswith("gcvar") and r.noise > 0]
        found = [r for r in theirs if low < level(r.goal) * r.n <= high]
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
        by_size = [x / size_of(r) for x, r in zip(ratio, found, strict=True)]
        others_over[baseline] = {
            "variance": middle_and_ends(ratio),
            "better by 1%": sum(x < 0.99 for x in ratio),
            "variance over K": [*middle_and_ends(by_size), round(float(np.quantile(by_size, 0.75)), 4)],
        }
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


def show(rows: Sequence[Measured], table: Sequence[study.Record], n: int, s: study.Study, goal: str) -> None:
    cells = [
        (
            *(row.reward, row.estimator, row.baseline, f"{row.bias:.3f}", f"{row.direction:.4f}"),
            *(f"{row.noise:.3f} ± {row.noise_error:.3f}", f"{row.snr:.3f}"),
        )
        for row in pick(rows, goal=goal, n=n)
    ]
    headings = ("reward", "estimator", "baseline", "bias", "direction", "noise", "SNR")
    s.show(f"{goal}, N = {n}: relative to the population's gradient", headings, cells, left=3)
    best = study.with_digits(row for row in table if row["goal"] == goal)
    headings = ("reward", "goal", "N", "groups", "best K", "error", "K = N - 1", "K = 1/q", "GCVaR")
    s.show("Best K by N and groups in a batch", headings, best, left=2)


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
        tasks = study.grid(part=PARTS, reward=REWARDS)
        records = s.computed("parts.jsonl", tasks, partial(part_rows, settings=settings))
    found = {part: [row for r in records if r["part"] == part for row in r["rows"]] for part in PARTS}
    for part, rows in found.items():
        s.write_table(f"{part}.csv", rows)
    lower, upper, instead = ([Measured(**row) for row in found[name]] for name in ("cvar", "max", "objectives"))
    table = choices(lower, settings)
    s.write_table("best_k.csv", table)
    n = 64 if 64 in settings.groups else settings.groups[-1]
    show(lower, table, n, s, "cvar:0.1")
    s.write_summary(
        settings,
        estimators=len(lower) + len(upper) + len(instead),
        largest_deviation=round(max(row.deviation for row in (*lower, *upper, *instead)), 3),
        digest=digest(lower, table),
        largest_noise_error=round(max(row.noise_error / row.noise for row in lower if row.noise > 0), 5),
    )
    draw(lower, settings.levels, n, s.images / "cvar_estimators.png")
    draw_objectives(instead, s.images / "cvar_objectives.png")


if __name__ == "__main__":
    main()
