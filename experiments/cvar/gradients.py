"""Gradients of the CVaR of a reward of a Gaussian policy: estimates on groups, expectations, exact values."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from scipy.stats import beta, norm

import ordergrad as og
from ordergrad.weights import scan

Array = Any
CLIFF = float(norm.ppf(0.97))
REWARDS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "heavy": lambda x: -np.exp(x),
    "cliff": lambda x: x - 5.0 * (x > CLIFF),
}


@dataclass(frozen=True)
class Group:
    """Groups sorted by reward: rewards (R, N), scores for mu and log sigma (R, N, 2)."""

    r: Array
    s: Array


def scores(z: Array) -> Array:
    """Return the derivatives of log p by mu and log sigma at mu = 0, log sigma = 0."""
    return np.stack([z, z * z - 1], axis=-1)


def our_gradients(group: Group, estimators: Sequence[tuple[str, str]]) -> Array:
    """Return mean(A * score) of every (objective, baseline), shape (R, 2, estimators), by one product.

    A is the centred running sum of slopes times gaps plus a common part; summed by parts against the scores, the
    gradient is linear in the slopes.
    """
    n = group.r.shape[1]
    gaps = np.diff(group.r, axis=1)
    mean = group.s.mean(axis=1, keepdims=True)
    above = np.cumsum((group.s - mean)[:, ::-1], axis=1)[:, ::-1][:, 1:]
    scans = [scan(og.parse(objective), n, baseline) for objective, baseline in estimators]  # type: ignore[arg-type]
    slopes, offsets = (np.stack([s[i] for s in scans], axis=-1) for i in (0, 1))
    totals = np.concatenate([s.total for s in scans])
    common = group.r[:, :1] * totals + gaps @ offsets
    weighted = np.moveaxis(above * gaps[..., None], 1, 2)
    return weighted @ slopes / n + mean[:, 0, :, None] * common[:, None, :]


def gcvar_gradients(group: Group, q: float) -> Array:
    """Return those of Tamar et al.: mean of (R - v) 1[R <= v] / q times the score, v the empirical q-quantile."""
    n = group.r.shape[1]
    worst = worst_of(n, q)
    weight = (group.r[:, :worst] - group.r[:, worst - 1 : worst]) / q
    return np.einsum("rm,rmk->rk", weight, group.s[:, :worst]) / n


def worst_of(n: int, q: float) -> int:
    """Return the rank of the empirical q-quantile."""
    return math.ceil(q * n - 1e-9)


# Expectations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """The reward's distribution on a fine grid of z, sorted by reward."""

    r: Array
    p: Array
    s: Array


@lru_cache(maxsize=6)
def grid(reward: str, cells: int = 4000) -> Grid:
    """Return cells of z by their midpoints, an edge at the cliff, with their exact probabilities."""
    edges = np.union1d(np.linspace(-9, 9, cells + 1), [0.0, CLIFF])
    z = (edges[1:] + edges[:-1]) / 2
    p = np.abs(np.diff(norm.cdf(-np.abs(edges))))  # the upper tail as precisely as the lower
    r = REWARDS[reward](z)
    order = np.argsort(r, kind="stable")
    return Grid(r[order], (p / p.sum())[order], scores(z[order]))


@cache
def exact_gradient(reward: str, objective: str) -> Array:
    """Return the gradient of an objective; without @K, of the population's.

    A finite K has a smooth spectrum, for which 4,000 cells are plenty; that of the population jumps.
    """
    on = grid(reward, 4000 if "@" in objective else 400_000)
    return (on.p * np.asarray(og.exact.advantages(on.r, on.p, objective))) @ on.s


def expected_gcvar(on: Grid, n: int, q: float) -> Array:
    """Return the expectation of GCVaR: given its quantile, the worse samples are independent draws from below it."""
    worst = worst_of(n, q)
    if worst < 2:
        return np.zeros(2)
    below = np.cumsum(on.p)
    chance = np.diff(beta.cdf(below, worst, n - worst + 1), prepend=0.0)
    middle = below - on.p / 2
    sums = np.cumsum(on.p[:, None] * on.r[:, None] * on.s, axis=0) - on.r[:, None] * np.cumsum(
        on.p[:, None] * on.s, axis=0
    )
    return (worst - 1) / (n * q) * (chance @ (sums / middle[:, None]))
