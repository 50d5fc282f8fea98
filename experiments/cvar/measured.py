"""What is measured of an estimator in simulated groups, relative to the gradient that is wanted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any
BASELINES = ("leave_one_out", "k_minus_one", "none")


@dataclass(frozen=True)
class Measured:
    """One estimator in groups of n, relative to the gradient of its goal.

    Attributes:
        goal: The objective whose gradient is wanted, without limit on K.
        estimator: Its objective with K, or ``gcvar:q``, whose baseline is the empirical quantile.
        bias: Length of the difference of its expectation from the goal's gradient.
        direction: The cosine of the two.
        noise: Root of the total variance.
        noise_error: Standard error of the noise.
        snr: Mean over standard deviation along the goal's gradient.
        deviation: How many standard errors the simulated mean is from the expectation, the larger of two components.
    """

    reward: str
    goal: str
    n: int
    estimator: str
    baseline: str
    bias: float
    direction: float
    noise: float
    noise_error: float
    snr: float
    deviation: float


class Sums:
    """Running moments of gradients around their expectation: (2, estimators)."""

    def __init__(self, expected: Array):
        self.expected, self.count = expected, 0
        self.first, self.square = np.zeros_like(expected), np.zeros((2, *expected.shape))
        self.cross = np.zeros(expected.shape[1])
        self.length, self.length2 = np.zeros(expected.shape[1]), np.zeros(expected.shape[1])

    def add(self, gradients: Array) -> None:
        apart = gradients - self.expected
        self.count += len(apart)
        self.first += apart.sum(axis=0)
        squares = (apart**2).sum(axis=1)
        self.square[0] += (apart**2).sum(axis=0)
        self.cross += (apart[:, 0] * apart[:, 1]).sum(axis=0)
        self.length += squares.sum(axis=0)
        self.length2 += (squares**2).sum(axis=0)

    def measured(
        self, reward: str, goal: str, wanted: Array, n: int, names: Sequence[tuple[str, str]]
    ) -> list[Measured]:
        size = float(np.linalg.norm(wanted))
        unit = wanted / size
        rows: list[Measured] = []
        for i, (estimator, baseline) in enumerate(names):
            mean, variance = self.expected[:, i], self.square[0, :, i] / self.count
            total, spread = self.length[i] / self.count, self.length2[i] / self.count
            along = unit**2 @ variance + 2 * unit[0] * unit[1] * self.cross[i] / self.count
            noise, length = math.sqrt(total), float(np.linalg.norm(mean))
            error = math.sqrt(max(spread - total**2, 0.0) / self.count) / (2 * noise) if noise > 0 else 0.0
            gap = np.abs(self.first[:, i] / self.count) / np.sqrt(np.maximum(variance, 1e-300) / self.count)
            rows.append(
                Measured(
                    *(reward, goal, n, estimator, baseline),
                    bias=float(np.linalg.norm(mean - wanted)) / size,
                    direction=float(mean @ unit) / length if length > 0 else math.nan,
                    noise=noise / size,
                    noise_error=error / size,
                    snr=float(mean @ unit) / math.sqrt(along) if along > 0 else math.nan,
                    deviation=float(gap.max()) if noise > 0 else 0.0,
                )
            )
        return rows


def pick(rows: Sequence[Measured], **fixed: Any) -> list[Measured]:
    return [row for row in rows if all(getattr(row, name) == value for name, value in fixed.items())]


def size_of(row: Measured) -> int:
    """Return the comparison size of an estimator; that of GCVaR is the group."""
    return int(row.estimator.split("@")[1]) if "@" in row.estimator else row.n


def error_of(row: Measured, batch: int) -> float:
    """Return the relative root mean square error of a batch of groups."""
    return math.sqrt(row.bias**2 + row.noise**2 / batch)


def curve(rows: Sequence[Measured], goal: str, n: int, baseline: str, reward: str = "linear") -> list[Measured]:
    """Return our estimators of one goal, group size and baseline, by comparison size."""
    found = [row for row in pick(rows, reward=reward, goal=goal, n=n, baseline=baseline) if "@" in row.estimator]
    return sorted(found, key=size_of)
