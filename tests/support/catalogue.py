"""Every objective there is, at small sizes, with its rank weights from first principles in exact fractions."""

from dataclasses import replace
from fractions import Fraction as F
from math import ceil, floor

import numpy as np

from ordergrad import objectives as o
from ordergrad.objectives import Mixture, Objective


def _three_bumps(u):
    return 1 + np.cos(3 * u)


SIZED = [
    "mean",
    "gini",
    "lmoment:1",
    "lmoment:3",
    "weights:-1:2:0.5",
    "max@3",
    "max@2.25",
    "min@3",
    "top:2@3",
    "bottom:2@3",
    "rank:2@3",
    "topbottom:1@3",
    "topbottom:2@3",
    "midrange@3",
    "cvar:0.4@3",
    "cvar:0.4@2.5",
    "uppercvar:0.4@3",
    "range:0.2:0.7@3",
    "var:0.3@3",
    "quantile:0.3@3",
    "quantile:0.3:weibull@3",
    "quantile:0.3:blom@3",
    "quantile:0.3:harrelldavis@3",
    "median@3",
    "trimmed:0.2@3",
    "winsorized:0.2@3",
    "maxrl@3",
    "wang:0.5@3",
    "power:2.5@3",
    "exponential:-1@3",
    "0.7*mean+0.3*max@3",
    "mean-0.5*gini",
    "cvar:0.4@3-2*max@2",
]
"""Objective strings with a comparison size of at most 3; every name occurs."""

OPEN = [
    "cvar:0.4",
    "uppercvar:0.4",
    "range:0.2:0.7",
    "var:0.3",
    "quantile:0.3",
    "quantile:0.3:harrelldavis",
    "median",
    "trimmed:0.2",
    "winsorized:0.2",
    "maxrl",
    "wang:-0.5",
    "power:0.5",
    "exponential:1",
    "0.5*mean+0.5*cvar:0.4",
]
"""Objectives that leave the comparison size to the group."""

SPECTRA = [o.Spectrum(_three_bumps, 3), o.Spectrum(np.sin), o.Mean() - 0.5 * o.Spectrum(_three_bumps)]

ALL = [*SIZED, *OPEN, *SPECTRA]


def at_size(objective: Objective, k: int) -> Objective:
    """Return the objective with the levels that leave their comparison size open at size k."""
    parts = [(c, replace(part, k=k) if part.comparison_size is None else part) for c, part in objective.terms()]
    return Mixture(tuple(parts))


def between(lo: F, hi: F, k: int) -> list[F]:
    """Shares of the intervals [(j-1)/k, j/k] in [lo, hi]."""
    return [max(min(F(j, k), hi) - max(F(j - 1, k), lo), F(0)) / (hi - lo) for j in range(1, k + 1)]


def unit(rank: int, k: int) -> list[F]:
    return [F(j == rank) for j in range(1, k + 1)]


def interpolated(position: F, k: int) -> list[F]:
    """Weight on the two ranks around a real position in 1..k."""
    position = min(max(position, F(1)), F(k))
    low = floor(position)
    high = ceil(position)
    f = position - low
    return [(1 - f) * (j == low) + f * (j == high and high > low) for j in range(1, k + 1)]


def mean_of(first: int, last: int, k: int) -> list[F]:
    return [F(first <= j <= last) / (last - first + 1) for j in range(1, k + 1)]


def winsorized(p: F, k: int) -> list[F]:
    """Values outside [p, 1-p] replaced by those at the boundary ranks."""
    boundary = floor(k * p) + 1
    inside = [(1 - 2 * p) * w for w in between(p, 1 - p, k)]
    return [w + p * (j == boundary) + p * (j == k + 1 - boundary) for j, w in enumerate(inside, 1)]
