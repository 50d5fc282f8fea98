"""The inverted pendulum with a risky half of the rail. Needs MuJoCo: `pip install "gymnasium[mujoco]"`."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportIncompatibleMethodOverride=false
# (Gymnasium leaves some types of its MuJoCo environments open, and lets others be inferred too narrowly)

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.utils import EzPickle

from ordergrad.envs.risky_region import RiskyPay

__all__ = ["RiskyPendulum"]

Observation = npt.NDArray[np.float64]


class RiskyPendulum(InvertedPendulumEnv):
    """Gymnasium's `InvertedPendulum-v5`, where every step that ends right of a threshold is paid at random.

    **Observation**, **actions** and **end** are those of `InvertedPendulum-v5`; the first coordinate of the observation
    is the cart's position. **Reward**: 1 for every step on which the pole stands, plus a `RiskyPay` if the cart is in
    the risky region, position > `threshold`. The noise is drawn at every step.

    The defaults are the published task: no bonus, a normal noise of standard deviation 10. There the mean does not care
    where the cart stands. With a bonus the mean prefers the risky side, and a measure of risk the other one.

    `info` holds `risky` (this step ended in the region) and `risky_share` (the share of the episode's steps that did).

    Args:
        threshold: The left end of the region. The cart starts within 0.01 of 0.
        bonus: Mean pay of a step in the region.
        noise: Its standard deviation.
        freedom: Degrees of freedom of its Student's t distribution; infinity for a normal one.
        **kwargs: Of `InvertedPendulum-v5`.

    Raises:
        ValueError: The threshold is not finite, or as `RiskyPay`.

    Example:
        >>> import gymnasium, ordergrad.envs
        >>> env = gymnasium.make("ordergrad/RiskyPendulum-v0", threshold=0.0, bonus=0.25, freedom=3.0)
        >>> _ = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step([3.0])
        >>> bool(observation[0] > 0), info["risky"], reward != 1.0
        (True, True, True)

    References:
        Luo, Liu, Poupart and Pan (2023), "An Alternative to Variance: Gini Deviation for Risk-averse Policy Gradient",
        NeurIPS 36, arXiv 2307.08873.
    """

    def __init__(
        self, threshold: float = 0.01, bonus: float = 0.0, noise: float = 10.0, freedom: float = math.inf, **kwargs: Any
    ) -> None:
        if not math.isfinite(threshold):
            raise ValueError(f"threshold must be finite; got {threshold}")
        self.threshold = threshold
        self.pay = RiskyPay(bonus, noise, freedom)
        self._steps = self._inside = 0
        super().__init__(**kwargs)
        EzPickle.__init__(self, threshold, bonus, noise, freedom, **kwargs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode."""
        self._steps = self._inside = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: npt.ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        observation, reward, terminated, truncated, plain = super().step(np.asarray(action))
        risky = bool(observation[0] > self.threshold)
        self._steps += 1
        self._inside += risky
        pay = self.pay.draw(self.np_random) if risky else 0.0
        info: dict[str, Any] = {**plain, "risky": risky, "risky_share": self._inside / self._steps}
        return observation, reward + pay, terminated, truncated, info
