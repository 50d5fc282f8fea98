"""The lunar lander of Return Capping: the same ground in every episode, and a windfall for ending on its right.

Needs Box2D: `pip install "ordergrad[rl]"`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false
# (Gymnasium leaves some types of its Box2D environments open, and lets others be inferred too narrowly)

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.envs.box2d.lunar_lander import LunarLander
from gymnasium.utils import EzPickle

__all__ = ["WindfallLander"]

Observation = npt.NDArray[np.float32]


class WindfallLander(LunarLander):
    """Gymnasium's `LunarLander-v3` on one ground, where an episode that ends right of the middle is paid at random.

    **Observation**, **actions** and **end** are those of `LunarLander-v3`, and every episode has the ground and the
    first push of its seed `ground`. **Reward**: as there, plus a normal windfall when the lander comes to rest,
    crashes or leaves at a position > 0. The mean return prefers the right side, its lower tail the left.

    `info["right"]` says whether the episode ended there.

    Args:
        windfall: Mean of the windfall.
        noise: Its standard deviation.
        ground: Seed of every reset of the lander. A reset's own seed is that of the windfalls.
        **kwargs: Of `LunarLander-v3`.

    Example:
        >>> import gymnasium, ordergrad.envs
        >>> env = gymnasium.make("ordergrad/WindfallLander-v0")
        >>> bool((env.reset(seed=0)[0] == env.reset(seed=1)[0]).all())
        True

    References:
        Mead, Costen, Lacerda and Hawes (2025), "Return Capping: Sample Efficient CVaR Policy Gradient Optimisation",
        ICML, arXiv 2504.20887.
    """

    def __init__(self, windfall: float = 70.0, noise: float = 100.0, ground: int = 4, **kwargs: Any) -> None:
        self.windfall, self.noise, self.ground = windfall, noise, ground
        self._chance = np.random.default_rng()
        super().__init__(**kwargs)
        EzPickle.__init__(self, windfall, noise, ground, **kwargs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode."""
        if seed is not None:
            self._chance = np.random.default_rng(seed)
        return super().reset(seed=self.ground, options=options)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        observation, reward, terminated, truncated, _ = super().step(action)
        right = bool(terminated and observation[0] > 0)
        windfall = self._chance.normal(self.windfall, self.noise) if right else 0.0
        return observation, float(reward) + windfall, terminated, truncated, {"right": right}
