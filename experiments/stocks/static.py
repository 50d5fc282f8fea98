"""Long-only weights that minimise a measure of the sample: by gradient steps, by skfolio's convex solver, by SciPy."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import optimize, stats
from skfolio import RiskMeasure, measures
from skfolio.optimization import MeanRisk

import ordergrad as og

Array = np.ndarray


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
    cvar, gini = RiskMeasure.CVAR, RiskMeasure.GINI_MEAN_DIFFERENCE
    tail, quantile = f"cvar:{level}@{n}", f"var:{between!r}@"

    def moment(r: Array) -> float:
        return float(stats.lmoment(r, order=4, standardize=False))

    return [
        Static(f"CVaR {level:.0%}", tail, tail, lambda r: float(measures.cvar(r, beta=1 - level)), cvar),
        Static("Gini mean difference", "gini", "gini", lambda r: float(measures.gini_mean_difference(r)), gini),
        Static(
            *(f"VaR {level:.0%}", f"{quantile}{n}", f"{quantile}{n // 4}"),
            *(lambda r: float(measures.value_at_risk(r, beta=1 - level)), None),
        ),
        Static("fourth L-moment", "lmoment:4", "lmoment:4", moment, None),
    ]


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
