"""OrderGrad: policy gradients beyond the mean.

A group of N rewards goes in, N advantages come out, and an unchanged policy-gradient step becomes an unbiased ascent
step on an order-statistic objective: CVaR, VaR, max@K, Top-m@K, trimmed mean, median, Gini, any rank weights.
"""

from ordergrad import exact, objectives
from ordergrad.estimators import (
    advantages,
    include_one,
    leave_one_out,
    order_statistics,
    rank_advantages,
    value,
    value_and_error,
)
from ordergrad.groups import group_advantages
from ordergrad.intervals import interval
from ordergrad.schedules import anneal
from ordergrad.spec import parse
from ordergrad.weights import rank_weights, sample_weights, spectrum

__version__ = "0.1.0"

__all__ = [
    "advantages",
    "anneal",
    "exact",
    "group_advantages",
    "include_one",
    "interval",
    "leave_one_out",
    "objectives",
    "order_statistics",
    "parse",
    "rank_advantages",
    "rank_weights",
    "sample_weights",
    "spectrum",
    "value",
    "value_and_error",
]
