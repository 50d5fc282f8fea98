"""A peer of risk-averse objectives: PPO on the mean less c times the variance of the returns of the same episodes.

References:
    Tamar, Di Castro and Mannor (2012). Policy gradients with variance related risk criteria. ICML, arXiv 1206.6404.
"""

import re
from typing import Any

import numpy as np

from ordergrad.adapters.episodes import EpisodeRanking
from ordergrad.adapters.sb3 import OrderGradRolloutBuffer

VARIANCE = re.compile(r"mean-([\d.]+)\*variance")


def penalty_of(contender: str) -> float | None:
    """Return the c of mean-c*variance; None for an objective of ranks."""
    match = VARIANCE.fullmatch(contender)
    return float(match[1]) if match else None


class MeanVarianceRanking(EpisodeRanking):
    """The peer: advantages of the mean less c times the variance of returns, from the same episodes.

    Tamar et al. (2012): the gradient of the variance is E[(R^2 - 2 E[R] R) grad log p]. Here E[R] is the average of the
    batch, and the baseline makes the advantages average to 0, so that an episode gets R - m - c ((R - m)^2 - s^2).
    """

    penalty = 0.0

    def _ranked(self, returns: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        n, apart = len(returns), returns - returns.mean()
        return (apart - self.penalty * (apart**2 - np.mean(apart**2))) * n / (n - 1)

    def _slopes(self, returns: np.ndarray) -> np.ndarray:
        n, apart = len(returns), np.sort(returns) - returns.mean()
        return (1 - self.penalty * (apart[:-1] + apart[1:])) * n / (n - 1)


class MeanVarianceBuffer(OrderGradRolloutBuffer):
    """The buffer of the peer."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        r = self.ranking
        self.ranking = MeanVarianceRanking("mean", r.credit, r.discount, r.min_episodes, r.unit_scale, r.patience)
        self.stats = self.ranking.stats
