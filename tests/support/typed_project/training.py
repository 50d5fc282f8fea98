"""A user's project: what mypy and pyright, both strict, say about the installed package.

The lines with ``type: ignore`` are wrong on purpose: a checker that does not object to one of them fails.
"""

import numpy as np
import torch
from numpy.typing import NDArray

import ordergrad as og
from ordergrad import objectives


def loss(rewards: torch.Tensor, log_probs: torch.Tensor, progress: float) -> torch.Tensor:
    objective = og.anneal("mean", "cvar:0.05", progress)
    advantages: torch.Tensor = og.advantages(rewards, objective, baseline="leave_one_out", small="shrink")
    return -(advantages * log_probs).mean()


def tail(returns: NDArray[np.float64]) -> tuple[float, float]:
    low, high = og.interval(returns, objectives.CVaR(0.1), level=0.9)
    return low.item(), high.item()


mixed: objectives.Objective = 0.5 * og.parse("mean") + 0.5 * objectives.Max(k=4)
weights: NDArray[np.float64] = og.rank_weights(mixed, k=8)
value, error = og.value_and_error(np.arange(16.0), mixed)
grouped = og.group_advantages(np.arange(6.0), ["a", "a", "a", "b", "b", "b"], "max@2")
known = og.exact.value(np.arange(3.0), np.full(3, 1 / 3), mixed)

og.advantages(np.arange(8.0), "mean", baseline="loo")  # type: ignore
og.advantages(np.arange(8.0), 4)  # type: ignore
og.advantages(np.arange(8.0), "mean", 0)  # type: ignore
objectives.Max("4")  # type: ignore
