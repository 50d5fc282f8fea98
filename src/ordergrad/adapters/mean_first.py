"""A cap on the returns that needs no number from the user: the mean first, then a cap that falls by itself."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import value_and_error
from ordergrad.objectives import Objective

Array = NDArray[Any]


class MeanFirst:
    r"""Trains on the mean while that raises the objective; then a cap falls while the objective holds.

    Below the cap f rises with the objective's steepest slope, above it with its own: f of ``cvar:q`` is that of the
    returns min(R, C) where the cap C is above the q-quantile, and that of the mean where C is infinite. Such a cap has
    the gradient of ``cvar:p`` at the level p = F(C), which falls as fast as the policy improves.

    The cap is infinite until the objective has not risen, by more than a standard error, for half of all episodes and
    at least two pools of them. Then it is the mean return reached, and moves towards the value of the objective, at a
    speed that would take as many episodes as the mean was trained on. While the objective is worse than it was by two
    standard errors, the cap moves back, by a twentieth of the way at a time.

    Args:
        pool: The number of recent episodes.

    References:
        Mead et al. (2025). Return Capping. arXiv 2504.20887. (the running quantile, not below a number of the user's)
    """

    def __init__(self, pool: int):
        self.patience = 2 * pool
        self.episodes, self.since, self.left = 0, 0, 0
        self.value: float | None = None
        self.error = self.top = self.share = 0.0

    def look(self, recent: Array, count: int, objective: Objective) -> None:
        """Take the recent returns, the last `count` of them new."""
        self.episodes += count
        if len(recent) < min(self.patience // 2, self.episodes):
            return
        estimate, deviation = (float(x) for x in value_and_error(recent, objective, small="shrink"))
        change = math.inf if self.value is None else estimate - self.value
        noise = math.hypot(deviation, self.error)
        self.since += count
        if change > noise:
            self.value, self.error, self.since = estimate, deviation, 0
        fallen = change < -2 * noise
        if self.left:
            step = count / self.left
            self.share = max(self.share - min(step, 0.05), 0.0) if fallen else min(self.share + step, 1.0)
        elif self.since > max(self.patience, self.episodes // 2):
            self.left, self.top = self.episodes, float(np.mean(recent))

    @property
    def cap(self) -> float:
        """The cap."""
        if not self.left or self.value is None:
            return math.inf
        return self.top + self.share * (min(self.value, self.top) - self.top)
