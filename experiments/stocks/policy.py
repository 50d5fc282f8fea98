"""A policy that sets the weights of stocks once a period, and what they return after costs."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

Array = np.ndarray
YEAR = 252


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


def policy_weights(policy: Policy, returns: Array, begin: int, end: int, every: int) -> Array:
    """Return the weights that a policy sets at each period between two days."""
    with torch.no_grad():
        return policy(cut(returns, begin, end, every).seen).double().numpy()
