"""The lunar lander with a risky half of the ground. Needs Box2D: `pip install "ordergrad[rl]"`."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false, reportOptionalMemberAccess=false
# (Gymnasium leaves some types of its Box2D environments open, and lets others be inferred too narrowly)

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.envs.box2d.lunar_lander import LunarLander
from gymnasium.utils import EzPickle

from ordergrad.envs.risky_region import RiskyPay

__all__ = ["RiskyLander"]

Observation = npt.NDArray[np.float32]


class RiskyLander(LunarLander):
    """Gymnasium's `LunarLander-v3`, where coming to rest right of a threshold is paid at random.

    **Observation**, **actions** and **end** are those of `LunarLander-v3`; the first coordinate of the observation is
    the position, 0 in the middle of the landing pad. **Reward**: as there (100 for coming to rest), plus a `RiskyPay`
    for coming to rest in the risky region, position > `threshold`.

    The defaults are the published task: the middle of the pad parts the ground, no bonus, a normal noise of standard
    deviation 90. There the mean does not care on which side the lander rests.

    `info` holds `landed` (the lander has come to rest), `risky` (in the region) and `risky_share`, the same as 1.0 or
    0.0.

    Args:
        threshold: The left end of the region, between -1 and 1.
        bonus: Mean pay of a landing in the region.
        noise: Its standard deviation.
        freedom: Degrees of freedom of its Student's t distribution; infinity for a normal one.
        **kwargs: Of `LunarLander-v3`, such as `continuous=True`.

    Raises:
        ValueError: The threshold does not lie between -1 and 1, or as `RiskyPay`.

    Example:
        >>> import gymnasium, ordergrad.envs
        >>> env = gymnasium.make("ordergrad/RiskyLander-v0", bonus=20.0, freedom=3.0)
        >>> _ = env.reset(seed=0)
        >>> env.step(0)[4]
        {'landed': False, 'risky': False, 'risky_share': 0.0}

    References:
        Luo, Liu, Poupart and Pan (2023), "An Alternative to Variance: Gini Deviation for Risk-averse Policy Gradient",
        NeurIPS 36, arXiv 2307.08873.
    """

    def __init__(
        self, threshold: float = 0.0, bonus: float = 0.0, noise: float = 90.0, freedom: float = math.inf, **kwargs: Any
    ) -> None:
        if not -1.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must lie in [-1, 1]; got {threshold}")
        self.threshold = threshold
        self.pay = RiskyPay(bonus, noise, freedom)
        super().__init__(**kwargs)
        EzPickle.__init__(self, threshold, bonus, noise, freedom, **kwargs)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        observation, reward, terminated, truncated, _ = super().step(action)
        landed = not self.lander.awake
        risky = bool(landed and observation[0] > self.threshold)
        pay = self.pay.draw(self.np_random) if risky else 0.0
        info: dict[str, Any] = {"landed": landed, "risky": risky, "risky_share": float(risky)}
        return observation, float(reward) + pay, terminated, truncated, info
