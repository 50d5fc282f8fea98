"""Portfolios on rank objectives: the convex optimum by gradient ascent, and a policy that no convex solver can train.

Twenty stocks of the S&P 500, daily from 1990 to 2022, as they ship inside skfolio (a sample of survivors).

1. *static*: long-only weights that minimise the CVaR, the VaR, the Gini mean difference or the fourth L-moment of the
   sample, by gradient steps on the weights through `og.value`. CVaR and Gini against the optimum of skfolio's convex
   solver, the other two, which are not convex, against SciPy's SLSQP and differential evolution;
2. *policy*: a small network that looks at each stock's recent returns and sets the weights once a month, trained on
   `mean-0.1*gini` or `cvar:0.05` of daily returns after costs, walk-forward: trained on ten years, tested on the next
   two, and so on. Against equal weights, minimum variance and minimum CVaR of skfolio, refitted every month.

    python experiments/portfolio.py --results experiments/results/portfolio --images docs/images
    python experiments/portfolio.py --data returns.csv      # or .parquet: a column of dates, one a stock

Ctrl-C stops, `--resume` goes on. Needs `pip install "ordergrad[studies]"`. Results and what they mean:
docs/studies/portfolio.md.

References:
    Rockafellar and Uryasev (2000). Optimization of conditional value-at-risk. Journal of Risk 2.
    Yitzhaki (1982). Stochastic dominance, mean variance, and Gini's mean difference. AER 72.
    DeMiguel et al. (2009). Optimal versus naive diversification. Review of Financial Studies 22. (equal weights)
    Politis and Romano (1992). A circular block-resampling procedure for stationary data. (the intervals)
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy import optimize
from torch import nn

import ordergrad as og
from ordergrad.runs.console import chosen_jobs, ending_resumable, train_under_progress
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import (
    METRICS,
    open_folder,
    provenance,
    read_metrics,
    run_folder,
    write_csv,
    write_json,
)
from ordergrad.runs.plots import new_figure, save, style
from ordergrad.runs.statistics import interval

try:
    from skfolio import RiskMeasure, measures
    from skfolio.datasets import load_sp500_dataset
    from skfolio.model_selection import WalkForward
    from skfolio.optimization import MeanRisk
    from skfolio.preprocessing import prices_to_returns
except ImportError as error:
    raise SystemExit(f'Error: the study needs skfolio: pip install "ordergrad[studies]" ({error})') from None

Array = np.ndarray
YEAR = 252
FIXED = "fixed "  # before an objective: the same weights in every period


@dataclass(frozen=True)
class Settings:
    """The whole study."""

    days: int = 1000  # of the static part, the last ones; for all of them the convex Gini would take long
    level: float = 0.05
    steps: int = 2000
    starts: int = 8  # of SLSQP
    generations: int = 1000  # of differential evolution

    objectives: tuple[str, ...] = ("mean-0.1*gini", "cvar:0.05")
    seeds: int = 10
    train: int = 10 * YEAR
    test: int = 2 * YEAR
    every: int = 21  # days between changes of the weights
    cost: float = 0.001  # of what is traded
    window: int = 1000  # days that the convex portfolios are fitted on
    hidden: int = 16
    policy_steps: int = 300
    policy_rate: float = 0.01
    decay: float = 0.01
    validation: float = 0.25  # the last part of the training days decides when to stop
    resamples: int = 2000
    block: int = 63


# Data ---------------------------------------------------------------------------------------------------------------


def load(path: Path | None) -> pd.DataFrame:
    """Return daily returns, one column a stock, indexed by date.

    Raises:
        UserError: The file is missing, or is not a table of returns.
    """
    if path is None:
        return prices_to_returns(load_sp500_dataset())
    if not path.exists():
        raise UserError(f"--data {path} does not exist")
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix not in readers:
        raise UserError(f"--data must be a .csv or .parquet file; got {path.name}")
    table = readers[path.suffix](path)
    if not isinstance(table.index, pd.DatetimeIndex):
        if table.shape[1] < 3:
            raise UserError(
                f"{path} must have a column of dates and at least two of returns; got {list(table.columns)}"
            )
        try:
            table = table.set_index(pd.to_datetime(table.iloc[:, 0], format="ISO8601")).iloc[:, 1:]
        except (ValueError, TypeError) as error:
            first = f"{table.columns[0]!r} (such as {table.iloc[0, 0]!r})"
            raise UserError(f"the first column of {path} must hold dates, YEAR-MONTH-DAY; got {first}") from error
    words = [str(name) for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    if words:
        raise UserError(f"all columns of {path} after the dates must be numbers; not so: {', '.join(words)}")
    gaps = [str(name) for name in table.columns if not np.isfinite(table[name]).all()]
    if gaps:
        raise UserError(f"{path} has missing or infinite returns in {', '.join(gaps)}; fill or drop them first")
    if not table.index.is_monotonic_increasing or table.index.has_duplicates:
        raise UserError(f"the dates of {path} must increase from row to row")
    if float(table.to_numpy().min()) <= -1 or float(table.abs().median().median()) > 0.5:
        raise UserError(
            f"{path} must hold simple returns (0.01 for 1%), above -1; the values look like prices or percent"
        )
    return table.astype(float)


def check_length(days: int, settings: Settings) -> None:
    need = YEAR + settings.train + settings.test
    if days < max(need, settings.days, settings.window + YEAR):
        raise UserError(
            f"the study needs at least {max(need, settings.days, settings.window + YEAR)} days of returns; got {days}"
        )


# Static weights -----------------------------------------------------------------------------------------------------


class Static(NamedTuple):
    """One measure that is to be small: as an objective to ascend, and as skfolio's or SciPy's function of returns."""

    title: str
    objective: str  # {n}: the number of days, so that it is the sample's own measure
    smooth: str  # what the first half of the steps ascends
    measure: Callable[[Array], float]
    convex: Any  # skfolio's risk measure, if its optimum is a convex problem


def statics(level: float, n: int) -> list[Static]:
    """Return the measures, in the definitions of skfolio: exact equalities, which the tests check."""
    between = (math.floor(level * n + 1e-9) + 0.5) / n  # skfolio's VaR leaves at most the level below, ours at least
    return [
        Static(
            f"CVaR {level:.0%}",
            f"cvar:{level}@{n}",
            f"cvar:{level}@{n}",
            lambda r: float(measures.cvar(r, beta=1 - level)),
            RiskMeasure.CVAR,
        ),
        Static(
            "Gini mean difference",
            "gini",
            "gini",
            lambda r: float(measures.gini_mean_difference(r)),
            RiskMeasure.GINI_MEAN_DIFFERENCE,
        ),
        Static(
            f"VaR {level:.0%}",
            f"var:{between!r}@{n}",
            f"var:{between!r}@{n // 4}",
            lambda r: float(measures.value_at_risk(r, beta=1 - level)),
            None,
        ),
        Static("fourth L-moment", "lmoment:4", "lmoment:4", fourth_l_moment, None),
    ]


def fourth_l_moment(returns: Array) -> float:
    from scipy.stats import lmoment

    return float(lmoment(returns, order=4, standardize=False))


def risk_of(static: Static, returns: torch.Tensor, objective: str) -> torch.Tensor:
    value = og.value(returns, objective)
    return value if static.convex is RiskMeasure.GINI_MEAN_DIFFERENCE or "moment" in objective else -value


def descend(static: Static, returns: Array, steps: int) -> tuple[Array, float]:
    """Minimise a measure over long-only weights; returns the best weights and the seconds it took.

    Adam on the logits of the weights, from equal weights, its step falling to nothing; the best weights met are kept.
    """
    clock = time.perf_counter()
    x = torch.from_numpy(returns)
    assets = x.shape[1]
    logits = torch.zeros(assets, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1, betas=(0.9, 0.99))
    best, weights = math.inf, np.full(assets, 1 / assets)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps) ** 2
        now = torch.softmax(logits, 0)
        objective = static.smooth if step < steps // 2 else static.objective
        risk = risk_of(static, x @ now, objective)
        if objective == static.objective and risk.item() < best:
            best, weights = risk.item(), now.detach().numpy().copy()
        optimizer.zero_grad()
        risk.backward()
        optimizer.step()
    return weights, time.perf_counter() - clock


def convex_optimum(static: Static, returns: pd.DataFrame, level: float) -> tuple[Array, float]:
    clock = time.perf_counter()
    model = MeanRisk(risk_measure=static.convex, cvar_beta=1 - level).fit(returns)
    return np.asarray(model.weights_), time.perf_counter() - clock


def slsqp(static: Static, returns: Array, starts: int, seed: int = 0) -> tuple[Array, float]:
    """Return the best of SciPy's SLSQP from equal weights and from random ones, with its numerical gradients."""
    clock, assets = time.perf_counter(), returns.shape[1]
    rng = np.random.default_rng(seed)
    firsts = [np.full(assets, 1 / assets), *rng.dirichlet(np.ones(assets), starts - 1)]
    found = [
        optimize.minimize(
            lambda w: 100 * static.measure(returns @ w),
            first,
            method="SLSQP",
            bounds=[(0, 1)] * assets,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        )
        for first in firsts
    ]
    every = [np.clip(result.x, 0, None) / np.clip(result.x, 0, None).sum() for result in found]
    return min(every, key=lambda w: static.measure(returns @ w)), time.perf_counter() - clock


def evolved(static: Static, returns: Array, generations: int, seed: int = 0) -> tuple[Array, float]:
    """Return what SciPy's differential evolution finds, over positive numbers divided by their sum."""
    clock, assets = time.perf_counter(), returns.shape[1]

    def risk(x: Array) -> float:
        return static.measure(returns @ (x / x.sum()))

    found = optimize.differential_evolution(
        risk, [(1e-6, 1)] * assets, maxiter=generations, popsize=10, tol=0, rng=seed, polish=False
    )
    return found.x / found.x.sum(), time.perf_counter() - clock


# Trading ------------------------------------------------------------------------------------------------------------


def traded(weights: torch.Tensor, returns: torch.Tensor, every: int, cost: float, entry: bool = True) -> torch.Tensor:
    """Return daily returns after costs of weights set every so many days, held in between; differentiable.

    Args:
        weights: What is held from the start of each period on, shape (periods, stocks).
        returns: Daily returns of the stocks, shape (days, stocks); the last period may be short.
        every: Days of a period.
        cost: Share of what is bought or sold, taken from the first day of the period.
        entry: Whether the first purchase costs too.
    """
    days, assets = returns.shape
    periods = len(weights)
    padded = torch.cat([returns, returns.new_zeros(periods * every - days, assets)]).reshape(periods, every, assets)
    grown = weights[:, None] * (1 + padded).cumprod(1)
    worth = grown.sum(-1)
    daily = worth / torch.cat([worth.new_ones(periods, 1), worth[:, :-1]], dim=1) - 1
    drifted = grown[:, -1] / worth[:, -1:]
    before = torch.cat([weights[:1] if not entry else torch.zeros_like(weights[:1]), drifted[:-1]])
    paid = cost * (weights - before).abs().sum(-1)
    first = (1 + daily[:, :1]) * (1 - paid[:, None]) - 1
    return torch.cat([first, daily[:, 1:]], dim=1).reshape(-1)[:days]


def turnover(weights: Array, returns: Array, every: int) -> float:
    """Return what is bought and sold in a year, as a share of the portfolio."""
    free = traded(torch.from_numpy(weights), torch.from_numpy(returns), every, 0.0, entry=False)
    paid = traded(torch.from_numpy(weights), torch.from_numpy(returns), every, 1e-6, entry=False)
    return float((free - paid).sum() / 1e-6) * YEAR / len(returns)


# The policy ---------------------------------------------------------------------------------------------------------


def features(returns: Array, days: Array) -> Array:
    """Return what the policy sees at the close of the day before each of `days`, shape (days, stocks, features).

    Of each stock, over the last month, quarter and year: the sum of its returns in units of their spread, the spread
    relative to that of all stocks, and (quarter, year) how much it moves with the average of all. Then the spread of
    that average over the month relative to the year. All from returns before the day, none from the day itself.
    """
    table = pd.DataFrame(returns)
    market = pd.Series(returns.mean(axis=1))
    columns: list[Array] = []
    for window in (21, 63, YEAR):
        rolling = table.rolling(window)
        spread = rolling.std().clip(lower=1e-4)  # some prices of the early nineties stand still for a month
        columns.append((rolling.sum() / (spread * math.sqrt(window))).to_numpy())
        columns.append(np.log(spread.div(spread.mean(axis=1), axis=0)).to_numpy())
        if window > 21:
            columns.append(rolling.cov(market).div(market.rolling(window).var(), axis=0).to_numpy() - 1)
    calm = np.log(market.rolling(21).std() / market.rolling(YEAR).std()).to_numpy()
    columns.append(np.repeat(calm[:, None], returns.shape[1], axis=1))
    return np.stack(columns, axis=-1)[days - 1]


class Policy(nn.Module):
    """One score a stock, from its own features by a network that all stocks share and a number of its own."""

    def __init__(self, inputs: int, assets: int, hidden: int, conditioned: bool = True) -> None:
        super().__init__()
        self.conditioned = conditioned
        self.score = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.own = nn.Parameter(torch.zeros(assets))

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        score = self.score(seen if self.conditioned else torch.zeros_like(seen))[..., 0]
        return torch.softmax(score + self.own, dim=-1)


class Window(NamedTuple):
    """A stretch of days cut into periods, what is seen before each, and the daily returns of the stretch."""

    seen: torch.Tensor
    returns: torch.Tensor


def cut(returns: Array, begin: int, end: int, every: int) -> Window:
    days = np.arange(begin, end, every)
    return Window(torch.from_numpy(features(returns[:end], days)).float(), torch.from_numpy(returns[begin:end]).float())


def fit_policy(
    objective: str, returns: Array, begin: int, end: int, seed: int, settings: Settings, conditioned: bool = True
) -> tuple[Policy, dict[str, float]]:
    """Train on the days from `begin` to `end`; returns the policy that was best in validation, and its values.

    The last part of the days is kept for deciding when to stop. Nothing from `end` on is looked at. Unconditioned, the
    features are zeros, and the weights the same in every period.
    """
    split = end - math.ceil(settings.validation * (end - begin) / settings.every) * settings.every
    parts = {"training": cut(returns, begin, split, settings.every)}
    parts["validation"] = cut(returns, split, end, settings.every)
    torch.manual_seed(seed)
    policy = Policy(parts["training"].seen.shape[-1], returns.shape[1], settings.hidden, conditioned)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.policy_rate, weight_decay=settings.decay)

    def value(part: str) -> torch.Tensor:
        daily = traded(policy(parts[part].seen), parts[part].returns, settings.every, settings.cost)
        return og.value(daily, objective)

    best, kept = {"validation": -math.inf}, policy.state_dict()
    for step in range(settings.policy_steps):
        loss = -100 * value("training")
        if step % 5 == 0:
            with torch.no_grad():
                now = float(value("validation"))
            if now > best["validation"]:
                best = {"validation": now, "training": -loss.item() / 100, "stopped": step}
                kept = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy.load_state_dict(kept)
    return policy, best


def policy_weights(policy: Policy, returns: Array, begin: int, end: int, every: int) -> Array:
    """Return the weights that a policy sets at each period between two days."""
    with torch.no_grad():
        return policy(cut(returns, begin, end, every).seen).double().numpy()


def folds(returns: Array, settings: Settings) -> list[tuple[int, int, int]]:
    """Return first training day, first test day, and the end of the test of every fold, by skfolio's WalkForward.

    The first year is left out: the features need it.
    """
    cv = WalkForward(train_size=settings.train, test_size=settings.test, reduce_test=True)
    return [
        (int(train[0]) + YEAR, int(test[0]) + YEAR, int(test[-1]) + 1 + YEAR)
        for train, test in cv.split(returns[YEAR:])
    ]


def walk(
    data: Path | None, settings: Settings, objective: str, seed: int, folder: Path, stop: Any, report: Any
) -> bool:
    """Train and test one policy on every fold; one file of weights a fold, so that it can go on after a stop."""
    torch.set_num_threads(1)
    returns = load(data).to_numpy(copy=True)
    folder.mkdir(parents=True, exist_ok=True)
    conditioned = not objective.startswith(FIXED)
    done = len(read_metrics(folder / METRICS))
    for number, (begin, middle, end) in enumerate(folds(returns, settings)[done:], done + 1):
        if stop():
            return False
        policy, values = fit_policy(objective.removeprefix(FIXED), returns, begin, middle, seed, settings, conditioned)
        np.save(weights_path(folder, number), policy_weights(policy, returns, middle, end, settings.every))
        row = {"step": number, **values}
        with (folder / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")
        report(row)
    return True


def weights_path(folder: Path, fold: int) -> Path:
    return folder / f"weights-{fold}.npy"


# What others do -----------------------------------------------------------------------------------------------------

EQUAL, VARIANCE, CVAR = "equal weights", "minimum variance", "minimum CVaR"


def refitted(name: str, returns: pd.DataFrame, settings: Settings, advance: Callable[[], None]) -> Array:
    """Return the weights of one of skfolio's portfolios, refitted before every period of the test on the last days."""
    begin, end = folds(returns.to_numpy(), settings)[0][1], len(returns)
    risk = RiskMeasure.VARIANCE if name == VARIANCE else RiskMeasure.CVAR
    rows: list[Array] = []
    for day in range(begin, end, settings.every):
        model = MeanRisk(risk_measure=risk, cvar_beta=1 - settings.level)
        rows.append(np.asarray(model.fit(returns.iloc[day - settings.window : day]).weights_))
        advance()
    return np.array(rows)


def benchmarks(returns: pd.DataFrame, settings: Settings, out: Path, console: Console) -> dict[str, Array]:
    """Return the weights of the portfolios to compare with, computed where they are not there yet."""
    periods = math.ceil((len(returns) - folds(returns.to_numpy(), settings)[0][1]) / settings.every)
    found = {EQUAL: np.full((periods, returns.shape[1]), 1 / returns.shape[1])}
    with Progress(console=console) as progress:
        for name in (VARIANCE, CVAR):
            path = out / f"{name.replace(' ', '-')}.npy"
            if not path.exists():
                task = progress.add_task(name, total=periods)
                weights = refitted(name, returns, settings, lambda task=task: progress.advance(task))
                np.save(path, weights)
            found[name] = np.load(path)
    return found


def walked(out: Path, objective: str, seed: int) -> Array:
    """Return the weights of a policy over all folds."""
    folder = run_folder(out, objective, seed)
    return np.concatenate([np.load(weights_path(folder, row["step"])) for row in read_metrics(folder / METRICS)])


# What came out ------------------------------------------------------------------------------------------------------

MEASURES = ("mean", "cvar", "gini", "utility", "sharpe", "drawdown")


def measured(daily: Array, level: float) -> dict[str, float]:
    """Return skfolio's measures of daily returns: a year's mean, daily CVaR and Gini, Sharpe ratio, drawdown."""
    mean, gini = float(measures.mean(daily)), float(measures.gini_mean_difference(daily))
    return {
        "mean": YEAR * mean,
        "cvar": float(measures.cvar(daily, beta=1 - level)),
        "gini": gini,
        "utility": mean - 0.1 * gini,
        "sharpe": math.sqrt(YEAR) * mean / float(measures.standard_deviation(daily)),
        "drawdown": float(measures.max_drawdown(measures.get_drawdowns(daily, compounded=True))),
    }


def resampled(daily: Array, places: Array, level: float) -> Array:
    """Return mean, CVaR, Gini and utility of resampled days, shape (resamples, 4)."""
    rows: list[Array] = []
    for begin in range(0, len(places), 200):
        sample = daily[places[begin : begin + 200]]
        mean, gini = sample.mean(axis=1), og.value(sample, "gini")
        tail = -og.value(sample, f"cvar:{level}@{sample.shape[1]}")
        rows.append(np.stack([YEAR * mean, tail, gini, mean - 0.1 * gini], axis=1))
    return np.concatenate(rows)


def circular_blocks(days: int, block: int, resamples: int, seed: int = 0) -> Array:
    """Return the days of every resample: blocks of neighbouring days, the first after the last."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, days, (resamples, math.ceil(days / block)))
    return ((starts[:, :, None] + np.arange(block)) % days).reshape(resamples, -1)[:, :days]


def compare(daily: dict[str, list[Array]], settings: Settings) -> list[tuple[Any, ...]]:
    """Return every contender's difference to those that are not trained, and to fixed weights, with intervals.

    The same resampled days for all; a policy's measure is the average over its seeds.
    """
    days = len(daily[EQUAL][0])
    places = circular_blocks(days, settings.block, settings.resamples)
    drawn = {
        name: np.mean([resampled(x, places, settings.level) for x in runs], axis=0) for name, runs in daily.items()
    }
    whole = np.arange(days)[None]
    actual = {
        name: np.mean([resampled(x, whole, settings.level)[0] for x in runs], axis=0) for name, runs in daily.items()
    }
    rows: list[tuple[Any, ...]] = []
    for against in (EQUAL, VARIANCE, CVAR, *(name for name in daily if name.startswith(FIXED))):
        for name in daily:
            if name == against:
                continue
            low, high = np.quantile(drawn[name] - drawn[against], [0.025, 0.975], axis=0)
            for place, measure in enumerate(MEASURES[:4]):
                lead = actual[name][place] - actual[against][place]
                rows.append((name, against, measure, *(f"{x:.5g}" for x in (lead, low[place], high[place]))))
    return rows


def static_rows(returns: pd.DataFrame, settings: Settings, console: Console) -> list[tuple[Any, ...]]:
    """Return measure, days, method, value of the measure and seconds, for the last days and for all of them."""
    rows: list[tuple[Any, ...]] = []
    for days in dict.fromkeys((settings.days, len(returns))):
        table = returns.iloc[-days:]
        sample = table.to_numpy(copy=True)
        for static in statics(settings.level, days):
            found = {"og.value": descend(static, sample, settings.steps)}
            if static.convex is RiskMeasure.CVAR or (static.convex is not None and days == settings.days):
                found["convex (skfolio)"] = convex_optimum(static, table, settings.level)
            elif static.convex is None and days == settings.days:
                found["SLSQP"] = slsqp(static, sample, settings.starts)
                found["differential evolution"] = evolved(static, sample, settings.generations)
            for method, (weights, seconds) in found.items():
                value = static.measure(sample @ weights)
                rows.append((static.title, days, method, f"{value:.8g}", f"{seconds:.2f}"))
                console.print(f"{days} days, {static.title}, {method}: {value:.6f} in {seconds:.1f} s")
    return rows


def static_part(returns: pd.DataFrame, settings: Settings, out: Path, console: Console) -> list[list[str]]:
    path = out / "static.csv"
    if not path.exists():
        torch.set_num_threads(1)
        rows = static_rows(returns, settings, console)
        write_csv(path, ("measure", "days", "method", "value", "seconds"), rows)
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


def gaps(rows: list[list[str]]) -> list[tuple[str, ...]]:
    """Return the rows with the gap to the best of the other methods: positive where gradient ascent is worse."""
    found: list[tuple[str, ...]] = []
    for measure, days, method, value, seconds in rows:
        others = [float(r[3]) for r in rows if r[:2] == [measure, days] and r[2] != "og.value"]
        gap = f"{float(value) / min(others) - 1:.3g}" if method == "og.value" and others else ""
        found.append((measure, days, method, value, seconds, gap))
    return found


def report(returns: pd.DataFrame, settings: Settings, out: Path, results: Path, images: Path, command: str,
           fixed: dict[str, Array], rows: list[list[str]], console: Console) -> None:  # fmt: skip
    """Write and show the tables and pictures."""
    results.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    begin = folds(returns.to_numpy(), settings)[0][1]
    tested = returns.iloc[begin:]
    held: dict[str, list[Array]] = {name: [weights] for name, weights in fixed.items()}
    for objective in settings.objectives:
        held[FIXED + objective] = [walked(out, FIXED + objective, 0)]
        held[objective] = [walked(out, objective, seed) for seed in range(settings.seeds)]
    daily = {
        name: [
            traded(
                torch.from_numpy(w), torch.from_numpy(tested.to_numpy(copy=True)), settings.every, settings.cost
            ).numpy()
            for w in runs
        ]
        for name, runs in held.items()
    }
    records = [
        {
            "portfolio": name,
            "seed": seed,
            **measured(daily[name][seed], settings.level),
            "turnover": turnover(runs[seed], tested.to_numpy(copy=True), settings.every),
            "largest_weight": float(runs[seed].max(axis=1).mean()),
        }
        for name, runs in held.items()
        for seed in range(len(runs))
    ]
    names = tuple(records[0])
    write_csv(
        results / "runs.csv", names, [[f"{x:.5g}" if isinstance(x, float) else x for x in r.values()] for r in records]
    )
    write_csv(results / "static.csv", ("measure", "days", "method", "value", "seconds", "gap"), gaps(rows))
    leads = compare(daily, settings)
    write_csv(results / "differences.csv", ("portfolio", "against", "measure", "lead", "low", "high"), leads)
    training = [
        (objective, seed, row["step"], *(f"{row[name]:.5g}" for name in ("training", "validation")), row["stopped"])
        for objective, seeds in trained(settings)
        for seed in range(seeds)
        for row in read_metrics(run_folder(out, objective, seed) / METRICS)
    ]
    write_csv(results / "training.csv", ("objective", "seed", "fold", "training", "validation", "stopped"), training)
    summary = {
        **provenance(command),
        "settings": asdict(settings),
        "data": {"days": len(returns), "stocks": returns.shape[1], "first": str(returns.index[0].date()),
                 "last": str(returns.index[-1].date()), "tested_from": str(tested.index[0].date())},
        "columns": ["mean over seeds", "low", "high"],
        "portfolios": {
            name: {
                key: [round(x, 6) for x in over_seeds([r[key] for r in records if r["portfolio"] == name])]
                for key in names[2:]
            }
            for name in held
        },
    }  # fmt: skip
    write_json(results / "summary.json", summary)
    show(summary["portfolios"], console)
    draw(daily, tested.index, leads, images / "portfolio.png")
    console.print(
        f"results: {results}/summary.json, static.csv, runs.csv, differences.csv; picture: {images}/portfolio.png"
    )


def over_seeds(values: Sequence[float]) -> tuple[float, ...]:
    """Return the mean of one value a seed and its 95% interval; of one value, itself."""
    return interval([np.array([value]) for value in values]) if len(values) > 1 else (values[0],) * 3


def show(portfolios: dict[str, dict[str, list[float]]], console: Console) -> None:
    table = Table(
        title="Out of sample, after costs (mean and traded: a year; CVaR and Gini: a day)", title_justify="left"
    )
    for heading in ("portfolio", "mean", "CVaR", "Gini", "Sharpe", "drawdown", "traded"):
        name = heading == "portfolio"
        table.add_column(heading, justify="left" if name else "right", no_wrap=name)
    for name, found in portfolios.items():
        cells = [found[key][0] for key in ("mean", "cvar", "gini", "sharpe", "drawdown", "turnover")]
        texts = [f"{100 * x:.2f}%" for x in cells[:3]] + [
            f"{cells[3]:.2f}",
            f"{100 * cells[4]:.0f}%",
            f"{cells[5]:.1f}",
        ]
        table.add_row(name, *texts)
    console.print(table)


def draw(daily: dict[str, list[Array]], dates: Any, leads: list[tuple[Any, ...]], path: Path) -> None:
    """Draw what a dollar became, and the leads over equal weights with their intervals."""
    figure, axes = new_figure(3, "Out of sample, after costs")
    for index, (name, runs) in enumerate(daily.items()):
        worth = np.array([np.cumprod(1 + run) for run in runs])
        colour, dash = style(index)
        if len(runs) > 1:
            axes[0].fill_between(dates, worth.min(0), worth.max(0), color=colour, alpha=0.15, linewidth=0)
        axes[0].plot(dates, np.exp(np.log(worth).mean(0)), color=colour, linestyle=dash, linewidth=1.2, label=name)
    axes[0].set(yscale="log", title="worth of 1")
    axes[0].legend(frameon=False, fontsize=7)
    names = [name for name in daily if name != EQUAL]
    for axis, measure, title in zip(axes[1:], ("cvar", "mean"), ("CVaR 5% a day", "mean return a year"), strict=True):
        for row, name in enumerate(names):
            lead, low, high = next([100 * float(x) for x in r[3:]] for r in leads if r[:3] == (name, EQUAL, measure))
            colour, _ = style(row + 1)
            axis.plot([low, high], [row, row], color=colour, linewidth=2)
            axis.plot([lead], [row], "o", color=colour, markersize=6)
        axis.axvline(0, color="#777777", linewidth=0.8)
        axis.set(
            title=f"{title}: difference to equal weights", xlabel="percentage points", ylim=(len(names) - 0.5, -0.5)
        )
        axis.set_yticks(range(len(names)), names if measure == "cvar" else [""] * len(names), fontsize=8)
    save(figure, path)


# Command line -------------------------------------------------------------------------------------------------------


def trained(settings: Settings) -> list[tuple[str, int]]:
    """Return what is trained, and with how many seeds: fixed weights have nothing random."""
    return [
        *((name, settings.seeds) for name in settings.objectives),
        *((FIXED + name, 1) for name in settings.objectives),
    ]


def shown(row: Any, objective: str) -> str:
    return f"validation {row['validation']:.5f}"


def study(settings: Settings, data: Path | None, out: Path, results: Path, images: Path, jobs: int | None,
          resume: bool, command: str) -> None:  # fmt: skip
    console = Console(highlight=False)
    with ending_resumable(out, console):
        jobs = chosen_jobs(jobs, settings.seeds * len(settings.objectives))
        returns = load(data)
        check_length(len(returns), settings)
        asked = {**asdict(settings), "data": None if data is None else str(data)}
        open_folder(out, asked, kind="study", resume=resume)
        rows = static_part(returns, settings, out, console)
        fixed = benchmarks(returns, settings, out, console)
        for seeds in (settings.seeds, 1):
            names = [name for name, n in trained(settings) if n == seeds or (seeds == 1 and name.startswith(FIXED))]
            work = partial(walk, data, settings)
            steps = len(folds(returns.to_numpy(), settings))
            if not train_under_progress(work, names, seeds, steps, out, jobs, console, shown):
                raise KeyboardInterrupt
    report(returns, settings, out, results, images, command, fixed, rows, console)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Portfolios on rank objectives, against convex optima and out of sample."
    )
    parser.add_argument("--data", type=Path, help="daily returns, .csv or .parquet [stocks of the S&P 500, in skfolio]")
    parser.add_argument("--quick", action="store_true", help="two seeds, fewer steps, three folds")
    parser.add_argument("--out", type=Path, default=Path("runs/portfolio"), help="folder of the runs")
    parser.add_argument("--results", type=Path, help="folder of the tables [the folder of the runs]")
    parser.add_argument("--images", type=Path, help="folder of the pictures [the folder of the runs]")
    parser.add_argument("--jobs", type=int, help="runs side by side [one per processor]")
    parser.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    options = parser.parse_args(argv)
    settings = Settings()
    if options.quick:
        settings = replace(settings, days=300, steps=500, seeds=2, test=1848, policy_steps=50, resamples=200)
    command = (
        "python experiments/portfolio.py" + " --quick" * options.quick + f" --data {options.data}" * bool(options.data)
    )
    out: Path = options.out
    study(
        settings,
        options.data,
        out,
        options.results or out,
        options.images or out,
        options.jobs,
        options.resume,
        command,
    )


if __name__ == "__main__":
    main()
