r"""The distribution of any number of rewards in bounded memory.

Rewards are kept as (reward, mass) points. As long as few are distinct, which includes every 0/1 reward, the points are
exact. Beyond that, neighbours are merged into their mean, so that a point at level u holds at most a mass of about
$\frac{2\pi}{\delta} \sqrt{u(1-u)}$ of the whole: fine in both tails, where CVaR and extreme quantiles look. This is
a merging t-digest with $\delta = 2^{18}$.

References:
    Dunning and Ertl (2019). Computing extremely accurate quantiles using t-digests. arXiv 1902.04023. (scale k1)
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_POINTS = 1 << 18
_PENDING = 1 << 22


class Digest:
    """A running distribution of rewards.

    Attributes:
        exact: Whether every distinct reward is still its own point.

    Example:
        >>> rewards = Digest()
        >>> rewards.add(np.array([0.0, 1.0, 1.0, 1.0]))
        >>> rewards.points()
        (array([0., 1.]), array([0.25, 0.75]))
    """

    def __init__(self, points: int = _POINTS) -> None:
        self.exact = True
        self._limit = points
        self._x, self._mass = np.zeros(0), np.zeros(0)
        self._pending: list[tuple[Array, Array]] = []
        self._waiting = 0

    def add(self, rewards: Array, mass: Array | None = None) -> None:
        """Add rewards, each with mass 1 unless given."""
        self._pending.append(_distinct(rewards, mass))
        self._waiting += len(self._pending[-1][0])
        if self._waiting > max(_PENDING, 4 * self._limit):
            self._settle()

    def merge(self, other: "Digest") -> None:
        """Add another distribution."""
        self.exact &= other.exact
        for x, mass in [(other._x, other._mass), *other._pending]:
            self.add(x, mass)

    def points(self) -> tuple[Array, Array]:
        """Return the points: rewards in ascending order, and their probabilities."""
        self._settle()
        return self._x, self._mass / self._mass.sum()

    def _settle(self) -> None:
        if not self._pending:
            return
        xs, masses = zip((self._x, self._mass), *self._pending, strict=True)
        self._x, self._mass = _distinct(np.concatenate(xs), np.concatenate(masses))
        self._pending, self._waiting = [], 0
        if len(self._x) > self._limit:
            self.exact = False
            self._x, self._mass = _merged(self._x, self._mass, self._limit)


def levels(count: int = 401) -> Array:
    """Return levels from 0 to 1, dense at both ends: (1 - cos πt) / 2 for equally spaced t.

    Example:
        >>> levels(3)
        array([0. , 0.5, 1. ])
    """
    return (1 - np.cos(np.pi * np.arange(count) / (count - 1))) / 2


def _distinct(x: Array, mass: Array | None) -> tuple[Array, Array]:
    """Return the distinct values in ascending order, and the mass of each."""
    if mass is None:
        x = np.sort(x)
        starts = np.flatnonzero(np.diff(x, prepend=np.nan) != 0)
        return x[starts], np.diff(starts, append=len(x)).astype(np.float64)
    order = np.argsort(x, kind="stable")
    x, mass = x[order], mass[order]
    starts = np.flatnonzero(np.diff(x, prepend=np.nan) != 0)
    return x[starts], np.add.reduceat(mass, starts) if len(starts) else np.zeros(0)


def _merged(x: Array, mass: Array, limit: int) -> tuple[Array, Array]:
    """Return at most about `limit` / 2 points, neighbours merged into their mean."""
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    cell = np.floor(limit / (2 * np.pi) * np.arcsin(2 * np.minimum(middle, 1) - 1))
    starts = np.flatnonzero(np.diff(cell, prepend=np.nan) != 0)
    total = np.add.reduceat(mass, starts)
    return np.add.reduceat(x * mass, starts) / total, total
