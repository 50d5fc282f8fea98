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

Ctrl-C stops, `--resume` goes on. Needs `pip install ".[studies]"`. Results and what they mean:
docs/studies/portfolio.md.

References:
    Rockafellar and Uryasev (2000). Optimization of conditional value-at-risk. Journal of Risk 2.
    Yitzhaki (1982). Stochastic dominance, mean variance, and Gini's mean difference. AER 72.
    DeMiguel et al. (2009). Optimal versus naive diversification. Review of Financial Studies 22. (equal weights)
    Politis and Romano (1992). A circular block-resampling procedure for stationary data. (the intervals)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import study
import torch

import ordergrad as og
from ordergrad.runs.errors import UserError

try:
    from skfolio import RiskMeasure, measures
    from skfolio.model_selection import WalkForward
    from skfolio.optimization import MeanRisk
    from stocks.figures import draw
    from stocks.policy import YEAR, Capped, Policy, cut, policy_weights, traded, turnover
    from stocks.returns import load
    from stocks.static import convex_optimum, descend, evolved, slsqp, statics
except ImportError as error:
    raise SystemExit(f'Error: the study needs skfolio: pip install ".[studies]" ({error})') from None

Array = np.ndarray
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


def check_length(days: int, settings: Settings) -> None:
    need = max(YEAR + settings.train + settings.test, settings.days, settings.window + YEAR)
    if days < need:
        raise UserError(f"the study needs at least {need} days of returns; got {days}")


# The policy walks forward -------------------------------------------------------------------------------------------


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


def folds(returns: Array, settings: Settings) -> list[tuple[int, int, int]]:
    """Return first training day, first test day, and the end of the test of every fold, by skfolio's WalkForward.

    The first year is left out: the features need it.
    """
    cv = WalkForward(train_size=settings.train, test_size=settings.test, reduce_test=True)
    days = ((train[0], test[0], test[-1] + 1) for train, test in cv.split(returns[YEAR:]))
    return [(int(first) + YEAR, int(middle) + YEAR, int(end) + YEAR) for first, middle, end in days]


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
    folded = [study.grid(objective=[name], seed=range(n), fold=range(1, count + 1)) for name, n in seeds.items()]
    return [task for tasks in folded for task in tasks]


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

    def averages(places: Array) -> dict[str, Array]:
        level = settings.level
        return {name: np.mean([resampled(x, places, level) for x in runs], axis=0) for name, runs in daily.items()}

    drawn = averages(circular_blocks(days, settings.block, settings.resamples))
    actual = averages(np.arange(days)[None])
    rows: list[study.Record] = []
    for against in (EQUAL, VARIANCE, CVAR, *(name for name in daily if name.startswith((FIXED, CAPPED)))):
        for name in daily:
            if name != against:
                ends = np.quantile(drawn[name] - drawn[against], [0.025, 0.975], axis=0)
                found = np.vstack([actual[name] - actual[against], ends]).T.tolist()
                row = {"portfolio": name, "against": against}
                for measure, each in zip(MEASURES[:4], found, strict=True):
                    rows.append({**row, "measure": measure, **dict(zip(("lead", "low", "high"), each, strict=True))})
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
    portfolios: dict[str, Any] = {}
    for row in study.intervals(records, ("portfolio",), tuple(records[0])[2:]):
        found = study.rounded([row["value"], row["low"], row["high"]], 6)
        portfolios.setdefault(row["portfolio"], {})[row["measure"]] = found
    formats = {"mean": ".2%", "cvar": ".2%", "gini": ".2%", "sharpe": ".2f", "drawdown": ".0%", "turnover": ".1f"}
    headings = ("portfolio", "mean", "CVaR", "Gini", "Sharpe", "drawdown", "traded")
    cells = (
        [name, *(format(found[key][0], text) for key, text in formats.items())] for name, found in portfolios.items()
    )
    s.show("Out of sample, after costs (mean and traded: a year; CVaR and Gini: a day)", headings, cells)
    dates = {"first": returns.index[0], "last": returns.index[-1], "tested_from": tested.index[0]}
    data = {"days": len(returns), "stocks": returns.shape[1]} | {k: str(day.date()) for k, day in dates.items()}
    s.write_summary(settings, data=data, columns=["mean over seeds", "low", "high"], portfolios=portfolios)
    draw(daily, tested.index, leads, EQUAL, s.images / "portfolio.png")


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
        found = study.lead_of(records, measure, "portfolio", theirs, ours)
        rows.append({"portfolio": theirs, "against": ours, "measure": measure, **found})
    return rows


def add_policies(s: study.Study, settings: Settings, returns: pd.DataFrame, policies: Sequence[study.Record]) -> None:
    """Add policies to the table of runs that is there, and compare them seed by seed."""
    market = torch.from_numpy(returns.iloc[folds(returns.to_numpy(), settings)[0][1] :].to_numpy(copy=True))
    new = run_records({name: runs_of(policies, name) for name in settings.objectives}, market, settings)
    old = [r for r in study.read_table(s.results / "runs.csv") if r["portfolio"] not in settings.objectives]
    s.write_table("runs.csv", [*old, *new])
    s.write_table("policies.csv", policy_leads([*old, *new], settings))
    s.write_summary(settings, "added.json")


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
        others = s.computed("refitted.jsonl", study.grid(portfolio=(VARIANCE, CVAR)), partial(refitted_record, **fixed))
        policies = s.computed("policies.jsonl", walks(settings, len(returns)), partial(walked, **fixed))
    report(s, settings, returns, cases, held_weights(policies, others), policies)


if __name__ == "__main__":
    main()
