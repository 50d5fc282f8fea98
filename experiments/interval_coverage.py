r"""Coverage of confidence intervals and standard errors: every objective of the README, four group sizes.

For each objective, N and distribution, many groups of N independent rewards. How often

* `og.interval` contains the objective (for a level without @K, that of the population), how often it lies above and
  below it, and how long it is, relative to 2 * 1.96 standard deviations of the value;
* value +- 1.96 standard errors of `og.value_and_error` contains it, and the root mean square of the error over the
  standard deviation of the value.

A second table compares three errors of quantiles: that of `og.value_and_error` (the jackknife of the Harrell-Davis
estimator), Maritz and Jarrett's, and the plain jackknife.

    python experiments/interval_coverage.py --results experiments/results/interval_coverage
    python experiments/interval_coverage.py --quick

What came out and what to expect: docs/intervals.md.

References:
    Maritz and Jarrett (1978). A note on estimating the variance of the sample median. JASA 73(361).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import study
from scipy.special import betainc, ndtri, stdtrit

import ordergrad as og

Array = Any
OBJECTIVES = (
    *("mean", "max@8", "top:2@4", "rank:2@8", "maxrl", "maxrl@8"),
    *("cvar:0.05", "cvar:0.1", "cvar:0.25", "var:0.05", "var:0.1", "bottom:2@8", "min@8"),
    *("uppercvar:0.1", "range:0.25:0.75", "median", "quantile:0.3", "quantile:0.3:weibull", "quantile:0.3:blom"),
    *("quantile:0.3:harrelldavis", "trimmed:0.1", "winsorized:0.1", "midrange@8", "topbottom:2@8"),
    *("gini", "mean-0.5*gini", "lmoment:3", "wang:0.5", "power:2", "exponential:3", "weights:0:0:1:1"),
    *("0.7*mean+0.3*max@8", "0.5*mean+0.5*median"),
)
QUANTILES = ("median", "quantile:0.3", "var:0.1")


class Distribution(NamedTuple):
    draw: Callable[[np.random.Generator, tuple[int, int]], Array]
    outcomes: Callable[[], tuple[Array, Array]]
    bounds: tuple[float, float] | None


def cells(quantile: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Return outcomes and probabilities of a symmetric distribution cut finely, most finely in its tails."""
    edge = np.linspace(-40, 40, 400_001)
    below, middle = np.exp(-np.logaddexp(0, edge)), (edge[1:] + edge[:-1]) / 2
    p = np.where(middle < 0, np.diff(below[::-1]), -np.diff(below))
    tail = quantile(np.exp(-np.logaddexp(0, np.abs(middle))))
    return np.where(middle < 0, tail, -tail), p / p.sum()


def zero_one(p: float) -> Distribution:
    return Distribution(
        lambda rng, shape: (rng.random(shape) < p).astype(float),
        lambda: (np.array([0.0, 1.0]), np.array([1 - p, p])),
        (0.0, 1.0),
    )


DISTRIBUTIONS = {
    "normal": Distribution(lambda rng, shape: rng.standard_normal(shape), lambda: cells(ndtri), None),
    "t3": Distribution(
        lambda rng, shape: rng.standard_t(3, shape), lambda: cells(lambda u: np.asarray(stdtrit(3, u))), None
    ),
    "0/1 at 5%": zero_one(0.05),
    "0/1 at 50%": zero_one(0.5),
}


@dataclass(frozen=True)
class Settings:
    sizes: tuple[int, ...] = (16, 64, 256, 1000)
    repetitions: int = 4000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/interval_coverage")
    quick: bool = field(default=False, metadata={"help": "two group sizes, 400 groups each"})


SHARES = ("covered", "above", "below", "length", "error_covered", "error_ratio")


def measure(name: str, n: int, objective: str, rewards: Array, settings: Settings) -> study.Record:
    """Return a row of the table: NaN where there is no interval, for the `reason`, or no error."""
    distribution = DISTRIBUTIONS[name]
    row: study.Record = {"distribution": name, "n": n, "objective": objective}
    row |= {**dict.fromkeys(SHARES, math.nan), "reason": ""}
    try:
        truth = float(og.exact.value(*distribution.outcomes(), objective))
    except ValueError as reason:
        return row | {"reason": str(reason)}
    value, error = og.value_and_error(rewards, objective)
    deviation = value.std()
    row["error_covered"] = (np.abs(value - truth) <= 1.96 * error).mean()
    if deviation > 0:
        row["error_ratio"] = math.sqrt((error**2).mean()) / deviation
    try:
        low, high = og.interval(rewards, objective, level=settings.level, bounds=distribution.bounds)
    except ValueError as reason:
        return row | {"reason": str(reason)}
    row["above"], row["below"] = (low > truth).mean(), (high < truth).mean()
    row["covered"] = 1 - row["above"] - row["below"]
    if deviation > 0:
        row["length"] = (high - low).mean() / (2 * 1.96 * deviation)
    return row


def run(settings: Settings) -> list[study.Record]:
    rows: list[study.Record] = []
    for name, distribution in DISTRIBUTIONS.items():
        for n in settings.sizes:
            rng = np.random.default_rng([settings.seed, n])
            rewards = np.sort(distribution.draw(rng, (settings.repetitions, n)), axis=-1)
            rows += [measure(name, n, objective, rewards, settings) for objective in OBJECTIVES]
            print(f"{name}, N = {n}: done")
    return rows


def maritz_jarrett(x: Array, objective: str) -> Array:
    """Return their error of the order statistic at the place that the objective weighs, of sorted groups."""
    n = x.shape[-1]
    rank = og.rank_weights(objective, k=n) @ np.arange(1, n + 1)
    w = np.diff(betainc(rank, n + 1 - rank, np.arange(n + 1) / n))
    centre = x @ w
    return np.sqrt(((x - centre[:, None]) ** 2) @ w)


def plain_jackknife(x: Array, objective: str) -> Array:
    n = x.shape[-1]
    return np.sqrt((n - 1) / n**3 * (og.advantages(x, objective) ** 2).sum(axis=-1))


ERRORS: dict[str, Callable[[Array, str], Array]] = {
    "value_and_error": lambda x, objective: og.value_and_error(x, objective)[1],
    "Maritz-Jarrett": maritz_jarrett,
    "plain jackknife": plain_jackknife,
}


def quantile_errors(settings: Settings) -> list[study.Record]:
    """Return how each error does for normal rewards: ratio as in the other table, variation and coverage."""
    rows: list[study.Record] = []
    for n in settings.sizes:
        x = np.sort(np.random.default_rng([settings.seed, n]).standard_normal((settings.repetitions, n)), axis=-1)
        for objective in QUANTILES:
            value = og.value(x, objective)
            truth = float(og.exact.value(*DISTRIBUTIONS["normal"].outcomes(), objective))
            for kind, error_of in ERRORS.items():
                error = error_of(x, objective)
                ratio = math.sqrt((error**2).mean()) / value.std()
                covered = (np.abs(value - truth) <= 1.96 * error).mean()
                rows.append({"n": n, "objective": objective, "error": kind, "ratio": round(ratio, 4)})
                rows[-1] |= {"variation": round(error.std() / error.mean(), 4), "covered": covered}
    return rows


def table(rows: list[study.Record], settings: Settings) -> str:
    """Return the coverage for the continuous distributions in Markdown."""
    names = ("normal", "t3")
    found = {(row["distribution"], row["n"], row["objective"]): row["covered"] for row in rows}
    head = ["objective", *(f"{name}, {n}" for name in names for n in settings.sizes)]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for objective in OBJECTIVES:
        cells = [found[name, n, objective] for name in names for n in settings.sizes]
        lines.append([f"`{objective}`", *("none" if math.isnan(c) else f"{c:.3f}" for c in cells)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(argv: list[str] | None = None) -> None:
    options = study.parse(Options, "Coverage of intervals and errors of every objective.", argv)
    settings = Settings(sizes=(16, 64), repetitions=400) if options.quick else Settings()
    clock = time.perf_counter()
    with study.Study(__file__, options, argv) as s:
        rows = run(settings)
        written = [{c: str(round(float(x), 4)) if isinstance(x, float) else x for c, x in r.items()} for r in rows]
        s.write_table("intervals.csv", written)
        s.write_table("quantile_errors.csv", quantile_errors(settings))
        (s.results / "coverage.md").write_text(table(rows, settings))
        s.write_summary(settings, seconds=round(time.perf_counter() - clock))


if __name__ == "__main__":
    main()
