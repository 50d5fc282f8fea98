"""Gymnasium: environments whose rewards make any algorithm optimise an objective of episode returns.

    envs = gymnasium.make_vec("LunarLander-v3", num_envs=8)
    envs = VectorObjectiveReward(envs, "cvar:0.1")

A step is paid f(C_t) - f(C_{t-1}), C_t the return so far and f the transformation of `ordergrad.wrappers.running`; that
module says what is approximate. `info["true_reward"]` holds the environment's own reward and, at the end of an
episode, `info["true_return"]` its return and `info["true_truncated"]` whether it was cut short. Time limits are ends
like any other, so such a step is reported as terminated: no algorithm adds the value of what would come after it.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from typing import Any, SupportsFloat, TypeVar

import numpy as np

from ordergrad.extras import extra
from ordergrad.objectives import Objective
from ordergrad.wrappers.running import ObjectiveRewards, RunningTransform

with extra("envs"):
    import gymnasium
    from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

__all__ = ["ObjectiveReward", "VectorObjectiveReward"]

Observation = TypeVar("Observation")
Action = TypeVar("Action")


class ObjectiveReward(gymnasium.Wrapper[Observation, Action, Observation, Action]):
    """One environment with the rewards f(C_t) - f(C_{t-1}).

    Each wrapper has a sample of returns of its own. Environments in one process share one if they are given the same
    `RunningTransform`: `second.transform = first.transform`.

    Args:
        env: The environment.
        objective: What to optimise: an objective or its string.
        discount: The discount of the returns that are ranked.
        window: The number of recent episodes that f is made of.

    Example:
        >>> env = ObjectiveReward(gymnasium.make("CartPole-v1"), "cvar:0.2")
        >>> _ = env.reset(seed=0)
        >>> _, reward, _, _, info = env.step(0)  # 0 until two episodes have ended
        >>> reward, info["true_reward"]
        (0.0, 1.0)
    """

    def __init__(
        self,
        env: gymnasium.Env[Observation, Action],
        objective: str | Objective = "mean",
        *,
        discount: float = 1.0,
        window: int = 1000,
    ):
        super().__init__(env)
        self._rewards = ObjectiveRewards(1, objective, discount=discount, window=window)

    @property
    def transform(self) -> RunningTransform:
        """The function f; its objective may be assigned during training, its `state` saved."""
        return self._rewards.transform

    @transform.setter
    def transform(self, transform: RunningTransform) -> None:
        self._rewards.transform = transform

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. One that has not ended is left out of the sample."""
        self._rewards.reset()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        ended = bool(terminated or truncated)
        shaped = self._rewards.step(np.array([float(reward)]), np.array([ended]))
        info = info | {"true_reward": reward}
        if ended:
            info |= {"true_return": float(self._rewards.reached[0]), "true_truncated": truncated}
        return observation, float(shaped[0]), ended, False, info


class VectorObjectiveReward(VectorWrapper):
    """Environments side by side, with the rewards f(C_t) - f(C_{t-1}) and one sample of returns.

    The autoreset mode is that of the environment's metadata:

    - ``NEXT_STEP``: the step after the last one of an episode only resets; its reward is 0 and belongs to none.
    - ``SAME_STEP``: the last step resets, too; its reward belongs to the episode that ended.
    - ``DISABLED``: an episode begins with `reset(options={"reset_mask": mask})`, or with a reset of all.

    Args:
        env: The environments.
        objective: What to optimise: an objective or its string.
        discount: The discount of the returns that are ranked.
        window: The number of recent episodes that f is made of. Take at least twice the number of environments.

    Raises:
        ValueError: `env.metadata["autoreset_mode"]` is missing.

    Example:
        >>> envs = VectorObjectiveReward(gymnasium.make_vec("CartPole-v1", num_envs=2), "cvar:0.2")
        >>> _ = envs.reset(seed=0)
        >>> _, _, _, _, info = envs.step(np.array([0, 1]))
        >>> info["true_reward"]
        array([1., 1.], dtype=float32)
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        objective: str | Objective = "mean",
        *,
        discount: float = 1.0,
        window: int = 1000,
    ):
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                "env.metadata['autoreset_mode'] must be a gymnasium.vector.AutoresetMode, which says where episodes "
                f"begin; got {mode!r}"
            )
        self._next_step = mode is AutoresetMode.NEXT_STEP
        self._rewards = ObjectiveRewards(env.num_envs, objective, discount=discount, window=window)
        self._ended = np.zeros(env.num_envs, bool)

    @property
    def transform(self) -> RunningTransform:
        """The function f; its objective may be assigned during training, its `state` saved."""
        return self._rewards.transform

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start episodes, in all environments or those of `options["reset_mask"]`."""
        which = np.ones(self.num_envs, bool)
        if options is not None and "reset_mask" in options:
            which = np.array(options["reset_mask"], bool)
        self._rewards.reset(which)
        self._ended = self._ended & ~which
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take one step."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        ended = np.asarray(terminated) | np.asarray(truncated)
        idle = self._ended if self._next_step else None
        shaped = self._rewards.step(rewards, ended, idle)
        self._ended = ended.copy()
        infos = infos | {"true_reward": rewards, "_true_reward": np.ones(self.num_envs, bool)}
        if ended.any():
            infos |= {"true_return": np.where(ended, self._rewards.reached, 0.0), "_true_return": ended}
            infos |= {"true_truncated": truncated, "_true_truncated": ended}
        return observations, shaped, ended, np.zeros(self.num_envs, bool), infos
