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

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import study
import torch
from rich.table import Table
from scipy import optimize
from torch import nn

import ordergrad as og
from ordergrad.runs.errors import UserError
from ordergrad.runs.plots import new_figure, save, style

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
CAPPED = "threshold:"  # Rockafellar and Uryasev's CVaR at a level, with a trained threshold


@dataclass(frozen=True)
class Settings:
    """The whole study."""

    days: int = 1000  # of the static part, the last ones; for all of them the convex Gini would take long
    level: float = 0.05
    steps: int = 2000
    starts: int = 8  # of SLSQP
    generations: int = 1000  # of differential evolution

    objectives: tuple[str, ...] = ("mean-0.1*gini", "cvar:0.05", f"{CAPPED}0.05")
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


@cache
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


class Capped(nn.Module):
    """The largest lower bound of CVaR that a threshold gives (Rockafellar and Uryasev, 2000); ours needs none."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level
        self.percent = nn.Parameter(torch.zeros(()))

    def forward(self, daily: torch.Tensor) -> torch.Tensor:
        threshold = self.percent / 100
        return threshold - (threshold - daily).clamp(min=0).mean() / self.level


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
    groups: list[Any] = [{"params": policy.parameters()}]
    measure = aim = partial(og.value, objective=objective.replace(CAPPED, "cvar:"))
    if objective.startswith(CAPPED):
        aim = Capped(float(objective.removeprefix(CAPPED)))
        groups.append({"params": aim.parameters(), "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=settings.policy_rate, weight_decay=settings.decay)

    def daily(part: str) -> torch.Tensor:
        return traded(policy(parts[part].seen), parts[part].returns, settings.every, settings.cost)

    best, kept = {"validation": -math.inf}, policy.state_dict()
    for step in range(settings.policy_steps):
        training = daily("training")
        if step % 5 == 0:
            with torch.no_grad():
                now = float(measure(daily("validation")))
            if now > best["validation"]:
                best = {"validation": now, "training": measure(training).item(), "stopped": step}
                kept = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
        optimizer.zero_grad()
        (-100 * aim(training)).backward()
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


def walked(objective: str, seed: int, fold: int, data: Path | None, settings: Settings) -> study.Record:
    """Train a policy on one fold; return the weights it sets in the test, and its values."""
    torch.set_num_threads(1)
    returns = load(data).to_numpy(copy=True)
    begin, middle, end = folds(returns, settings)[fold - 1]
    conditioned = not objective.startswith(FIXED)
    policy, values = fit_policy(objective.removeprefix(FIXED), returns, begin, middle, seed, settings, conditioned)
    return {**values, "weights": policy_weights(policy, returns, middle, end, settings.every).tolist()}


def walks(settings: Settings, days: int) -> list[dict[str, Any]]:
    """Return every objective, seed and fold; fixed weights have nothing random, so one seed."""
    seeds = dict.fromkeys(settings.objectives, settings.seeds)
    seeds |= {FIXED + name: 1 for name in settings.objectives if not name.startswith(CAPPED)}
    count = len(folds(np.empty((days, 1)), settings))
    return [
        {"objective": name, "seed": seed, "fold": fold}
        for name, n in seeds.items()
        for seed in range(n)
        for fold in range(1, count + 1)
    ]


# What others do -----------------------------------------------------------------------------------------------------

EQUAL, VARIANCE, CVAR = "equal weights", "minimum variance", "minimum CVaR"


def refitted(portfolio: str, returns: pd.DataFrame, settings: Settings) -> Array:
    """Return the weights of one of skfolio's portfolios, refitted before every period of the test on the last days."""
    begin, end = folds(returns.to_numpy(), settings)[0][1], len(returns)
    risk = RiskMeasure.VARIANCE if portfolio == VARIANCE else RiskMeasure.CVAR
    rows: list[Array] = []
    for day in range(begin, end, settings.every):
        model = MeanRisk(risk_measure=risk, cvar_beta=1 - settings.level)
        rows.append(np.asarray(model.fit(returns.iloc[day - settings.window : day]).weights_))
    return np.array(rows)


def refitted_record(portfolio: str, data: Path | None, settings: Settings) -> study.Record:
    return {"weights": refitted(portfolio, load(data), settings).tolist()}


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


def compare(daily: dict[str, list[Array]], settings: Settings) -> list[study.Record]:
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
    rows: list[study.Record] = []
    for against in (EQUAL, VARIANCE, CVAR, *(name for name in daily if name.startswith((FIXED, CAPPED)))):
        for name in daily:
            if name == against:
                continue
            low, high = np.quantile(drawn[name] - drawn[against], [0.025, 0.975], axis=0)
            for place, measure in enumerate(MEASURES[:4]):
                lead = actual[name][place] - actual[against][place]
                interval = {"lead": float(lead), "low": float(low[place]), "high": float(high[place])}
                rows.append({"portfolio": name, "against": against, "measure": measure, **interval})
    return rows


def static_case(measure: str, days: int, data: Path | None, settings: Settings) -> study.Record:
    """Return for each method the value it reaches on the last days, and the seconds it took."""
    torch.set_num_threads(1)
    table = load(data).iloc[-days:]
    sample = table.to_numpy(copy=True)
    static = next(static for static in statics(settings.level, days) if static.title == measure)
    found = {"og.value": descend(static, sample, settings.steps)}
    if static.convex is RiskMeasure.CVAR or (static.convex is not None and days == settings.days):
        found["convex (skfolio)"] = convex_optimum(static, table, settings.level)
    elif static.convex is None and days == settings.days:
        found["SLSQP"] = slsqp(static, sample, settings.starts)
        found["differential evolution"] = evolved(static, sample, settings.generations)
    return {"methods": {name: [static.measure(sample @ weights), s] for name, (weights, s) in found.items()}}


def static_rows(cases: Sequence[study.Record]) -> list[study.Record]:
    """Return a row a method, with the gap to the best of the others: positive where gradient ascent is worse."""
    rows: list[study.Record] = []
    for case in cases:
        others = [value for name, (value, _) in case["methods"].items() if name != "og.value"]
        for name, (value, seconds) in case["methods"].items():
            gap = f"{value / min(others) - 1:.3g}" if name == "og.value" and others else ""
            row = {"measure": case["measure"], "days": case["days"], "method": name}
            rows.append(row | {"value": f"{value:.8g}", "seconds": f"{seconds:.2f}", "gap": gap})
    return rows


def held_weights(policies: Sequence[study.Record], others: Sequence[study.Record]) -> dict[str, list[Array]]:
    """Return the weights of every portfolio, for each of its seeds, over all periods of the test."""
    peers = {record["portfolio"]: [np.array(record["weights"])] for record in others}
    held = {EQUAL: [np.full_like(next(iter(peers.values()))[0], 1 / len(others[0]["weights"][0]))], **peers}
    for name in sorted({r["objective"] for r in policies}, key=lambda name: (name.removeprefix(FIXED), len(name))):
        held[name] = runs_of(policies, name)
    return held


def runs_of(policies: Sequence[study.Record], objective: str) -> list[Array]:
    """Return the weights of one objective's policies over all folds, for each seed."""
    mine = [r for r in policies if r["objective"] == objective]
    seeds = sorted({r["seed"] for r in mine})
    return [np.concatenate([r["weights"] for r in mine if r["seed"] == seed]) for seed in seeds]


def report(
    s: study.Study,
    settings: Settings,
    returns: pd.DataFrame,
    cases: Sequence[study.Record],
    held: dict[str, list[Array]],
    policies: Sequence[study.Record],
) -> None:
    """Write and show the tables and pictures."""
    tested = returns.iloc[folds(returns.to_numpy(), settings)[0][1] :]
    market = torch.from_numpy(tested.to_numpy(copy=True))
    daily = {
        name: [traded(torch.from_numpy(w), market, settings.every, settings.cost).numpy() for w in runs]
        for name, runs in held.items()
    }
    records = run_records(held, market, settings)
    leads = compare(daily, settings)
    s.write_table("runs.csv", records)
    s.write_table("policies.csv", policy_leads(records, settings))
    s.write_table("static.csv", static_rows(cases))
    s.write_table("differences.csv", leads)
    s.write_table("training.csv", policies, ("objective", "seed", "fold", "training", "validation", "stopped"))
    portfolios = {
        name: {
            key: study.rounded(study.over_seeds(study.column(records, key, portfolio=name)), 6)
            for key in tuple(records[0])[2:]
        }
        for name in held
    }
    s.console.print(portfolio_table(portfolios))
    dates = {"first": returns.index[0], "last": returns.index[-1], "tested_from": tested.index[0]}
    data = {"days": len(returns), "stocks": returns.shape[1]} | {k: str(day.date()) for k, day in dates.items()}
    s.write_summary(settings, data=data, columns=["mean over seeds", "low", "high"], portfolios=portfolios)
    draw(daily, tested.index, leads, s.images / "portfolio.png")


def run_records(held: Mapping[str, Sequence[Array]], market: torch.Tensor, settings: Settings) -> list[study.Record]:
    """Return one record per portfolio and seed: its measures out of sample."""
    records: list[study.Record] = []
    for name, runs in held.items():
        for seed, weights in enumerate(runs):
            daily = traded(torch.from_numpy(weights), market, settings.every, settings.cost).numpy()
            record = {"portfolio": name, "seed": seed, **measured(daily, settings.level)}
            record["turnover"] = turnover(weights, market.numpy(), settings.every)
            records.append(record | {"largest_weight": float(weights.max(axis=1).mean())})
    return records


def policy_leads(records: Sequence[study.Record], settings: Settings) -> list[study.Record]:
    """Return how the trained threshold differs from our CVaR in the same network, seed by seed."""
    ours, theirs = f"cvar:{settings.level}", f"{CAPPED}{settings.level}"
    rows: list[study.Record] = []
    for measure in MEASURES if any(r["portfolio"] == theirs for r in records) else ():
        found = study.paired(*(study.column(records, measure, portfolio=name) for name in (theirs, ours)))
        row = {"portfolio": theirs, "against": ours, "measure": measure, "lead": found.value}
        rows.append(row | {"low": found.low, "high": found.high, "p": found.p})
    return rows


def add_policies(s: study.Study, settings: Settings, returns: pd.DataFrame, policies: Sequence[study.Record]) -> None:
    """Add policies to the table of runs that is there, and compare them seed by seed."""
    market = torch.from_numpy(returns.iloc[folds(returns.to_numpy(), settings)[0][1] :].to_numpy(copy=True))
    new = run_records({name: runs_of(policies, name) for name in settings.objectives}, market, settings)
    old = [r for r in study.read_table(s.results / "runs.csv") if r["portfolio"] not in settings.objectives]
    s.write_table("runs.csv", [*old, *new])
    s.write_table("policies.csv", policy_leads([*old, *new], settings))
    s.write_summary(settings, "added.json")


def portfolio_table(portfolios: Mapping[str, Mapping[str, list[float]]]) -> Table:
    title = "Out of sample, after costs (mean and traded: a year; CVaR and Gini: a day)"
    table = Table(title=title, title_justify="left")
    for heading in ("portfolio", "mean", "CVaR", "Gini", "Sharpe", "drawdown", "traded"):
        name = heading == "portfolio"
        table.add_column(heading, justify="left" if name else "right", no_wrap=name)
    formats = {"mean": ".2%", "cvar": ".2%", "gini": ".2%", "sharpe": ".2f", "drawdown": ".0%", "turnover": ".1f"}
    for name, found in portfolios.items():
        table.add_row(name, *(format(found[key][0], text) for key, text in formats.items()))
    return table


def draw(daily: dict[str, list[Array]], dates: Any, leads: Sequence[study.Record], path: Path) -> None:
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
            (found,) = (r for r in leads if (r["portfolio"], r["against"], r["measure"]) == (name, EQUAL, measure))
            lead, low, high = (100 * found[key] for key in ("lead", "low", "high"))
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


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/portfolio")
    data: Path | None = field(default=None, metadata={"help": "daily returns, .csv or .parquet [S&P 500, in skfolio]"})
    add: tuple[str, ...] = field(
        default=(), metadata={"help": "train policies on these objectives only, and add them to the results there"}
    )
    quick: bool = field(default=False, metadata={"help": "two seeds, fewer steps, three folds"})


def main(argv: list[str] | None = None, settings: Settings | None = None) -> None:
    options = study.parse(Options, "Portfolios on rank objectives, against convex optima and out of sample.", argv)
    settings = settings or Settings()
    if options.quick:
        settings = replace(settings, days=300, steps=500, seeds=2, test=1848, policy_steps=50, resamples=200)
    with study.Study(__file__, options, argv) as s:
        returns = load(options.data)
        check_length(len(returns), settings)
        s.open({**study.as_dict(settings), "data": None if options.data is None else str(options.data)})
        fixed = {"data": options.data, "settings": settings}
        if options.add:
            settings = replace(settings, objectives=options.add)
            tasks = [t for t in walks(settings, len(returns)) if not t["objective"].startswith(FIXED)]
            add_policies(s, settings, returns, s.computed("policies.jsonl", tasks, partial(walked, **fixed)))
            return
        tasks = [
            {"measure": static.title, "days": days}
            for days in dict.fromkeys((settings.days, len(returns)))
            for static in statics(settings.level, days)
        ]
        cases = s.computed("static.jsonl", tasks, partial(static_case, **fixed))
        others = s.computed(
            "refitted.jsonl", [{"portfolio": name} for name in (VARIANCE, CVAR)], partial(refitted_record, **fixed)
        )
        policies = s.computed("policies.jsonl", walks(settings, len(returns)), partial(walked, **fixed))
    report(s, settings, returns, cases, held_weights(policies, others), policies)


if __name__ == "__main__":
    main()
