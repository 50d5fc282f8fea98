"""Environments that are played side by side in NumPy, as Stable-Baselines3 wants them."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv


class SideBySide(VecEnv):
    """Subclasses begin all episodes in `begin` and move all in `move`, which begins ended ones anew."""

    def __init__(self, count: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]):
        super().__init__(count, observation_space, action_space)
        self._nothing: list[dict[str, Any]] = [{} for _ in range(count)]

    def begin(self, seed: int | None) -> np.ndarray:
        """Return the first observations."""
        raise NotImplementedError

    def move(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, dict[str, Any]]]:
        """Return observations, rewards, whether episodes ended, and the infos of those that did."""
        raise NotImplementedError

    def reset(self) -> Any:
        seed, self._seeds = self._seeds[0], [None] * self.num_envs
        return self.begin(seed)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        obs, rewards, over, ended = self.move(self._actions)
        infos = [ended.get(i, {}) for i in range(self.num_envs)] if ended else self._nothing
        return obs, rewards, over, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs
