"""Stable-Baselines3: a vector environment whose rewards make any algorithm optimise an objective of episode returns.

    env = VecObjectiveReward(make_vec_env("CartPole-v1", 8), "cvar:0.1")
    model = SAC("MlpPolicy", env)

`OrderGradPPO` and `OrderGradA2C` (`ordergrad.adapters.sb3`) rank the episodes of a rollout. This wrapper approximates
that, as `ordergrad.wrappers.running` describes, for other algorithms: RecurrentPPO, MaskablePPO, TRPO, SAC, TQC, DQN.
``Monitor`` and ``VecMonitor`` belong inside of it, where they log the true returns, and ``VecNormalize`` around it.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (Stable-Baselines3 leaves many of its types open)

from typing import Any

import numpy as np

from ordergrad.extras import extra
from ordergrad.objectives import Objective
from ordergrad.wrappers.running import ObjectiveRewards, RunningTransform

with extra("rl"):
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

__all__ = ["VecObjectiveReward"]


class VecObjectiveReward(VecEnvWrapper):
    """A vector environment with the rewards f(C_t) - f(C_{t-1}) and one sample of returns.

    Each info holds ``true_reward`` and, at the end of an episode, ``true_return`` and ``true_truncated``. Time limits
    are ends like any other, so ``TimeLimit.truncated`` is taken out: no algorithm adds the value of what would
    follow. An ``EvalCallback`` wants an environment without this wrapper.

    Args:
        venv: The vector environment.
        objective: What to optimise: an objective or its string.
        discount: The discount of the returns that are ranked.
        window: The number of recent episodes that f is made of. Take at least twice the number of environments.

    Example:
        >>> from stable_baselines3.common.env_util import make_vec_env
        >>> env = VecObjectiveReward(make_vec_env("CartPole-v1", 2), "cvar:0.2")
        >>> _ = env.reset()
        >>> _, _, _, infos = env.step([0, 1])
        >>> infos[0]["true_reward"]
        1.0
    """

    def __init__(self, venv: VecEnv, objective: str | Objective = "mean", *, discount: float = 1.0, window: int = 1000):
        super().__init__(venv)
        self._rewards = ObjectiveRewards(venv.num_envs, objective, discount=discount, window=window)

    @property
    def transform(self) -> RunningTransform:
        """The function f; its objective may be assigned during training, its `state` saved."""
        return self._rewards.transform

    def reset(self) -> Any:
        """Start episodes in all environments."""
        self._rewards.reset()
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Finish a step."""
        observations, rewards, dones, infos = self.venv.step_wait()
        shaped = self._rewards.step(rewards, dones)
        own: list[dict[str, Any]] = []
        for i, info in enumerate(infos):
            info = {key: entry for key, entry in info.items() if key != "TimeLimit.truncated"}
            own.append(info | {"true_reward": float(rewards[i])})
        for i in np.flatnonzero(dones):
            own[i]["true_return"] = float(self._rewards.reached[i])
            own[i]["true_truncated"] = bool(infos[i].get("TimeLimit.truncated", False))
        return observations, shaped, dones, own
