"""The return so far in the observation: what a policy and a critic need to know for a tail objective.

The best next action under a tail objective depends on what has been earned already: after a good start there is less
to lose [1]. Where the rest of the observation does not show it, these wrappers add it.

References:
    [1] Bäuerle and Ott (2011), "Markov decision processes with average-value-at-risk criteria", Mathematical Methods of
        Operations Research 74.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportIncompatibleMethodOverride=false, reportMissingTypeArgument=false, reportUnknownParameterType=false
# (Gymnasium leaves the types of its vector environments open)

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

__all__ = ["ReturnSoFar", "VectorReturnSoFar"]

Floats = npt.NDArray[Any]


def _extended(space: spaces.Space[Any], scale: float) -> spaces.Box:
    """Return the flat space with one more entry."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"observations must be vectors (a Box of one axis), or be flattened before; got {space}")
    if not 0 < scale < np.inf:
        raise ValueError(f"scale must be positive and finite; got {scale}")
    low, high = np.append(space.low, -np.inf), np.append(space.high, np.inf)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


class ReturnSoFar(gymnasium.Wrapper[npt.NDArray[np.float32], Any, Floats, Any]):
    """Append the sum of the episode's rewards so far, divided by a scale, to the observation.

    Args:
        env: An environment whose observations are vectors.
        scale: About the size of a return.

    Raises:
        ValueError: The observations are no vectors, or the scale is not positive.

    Example:
        >>> env = ReturnSoFar(gymnasium.make("CartPole-v1"), scale=500.0)
        >>> float(env.reset(seed=0)[0][-1]), float(env.step(0)[0][-1] * 500)
        (0.0, 1.0)
    """

    def __init__(self, env: gymnasium.Env[Floats, Any], scale: float):
        super().__init__(env)
        self.observation_space = _extended(env.observation_space, scale)
        self.scale, self._total = scale, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Start an episode."""
        self._total = 0.0
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_total(observation), info

    def step(self, action: Any) -> tuple[npt.NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._total += float(reward)
        return self._with_total(observation), reward, terminated, truncated, info

    def _with_total(self, observation: Floats) -> npt.NDArray[np.float32]:
        return np.append(observation, self._total / self.scale).astype(np.float32)


class VectorReturnSoFar(gymnasium.vector.VectorWrapper):
    """The same for a vector environment; heeds its autoreset mode.

    Args:
        env: A vector environment whose single observations are vectors.
        scale: About the size of a return.

    Raises:
        ValueError: As `ReturnSoFar`, or the autoreset mode is disabled.

    Example:
        >>> env = VectorReturnSoFar(gymnasium.make_vec("CartPole-v1", 2), scale=500.0)
        >>> _ = env.reset(seed=0)
        >>> (env.step(np.array([0, 1]))[0][:, -1] * 500).tolist()
        [1.0, 1.0]
    """

    def __init__(self, env: gymnasium.vector.VectorEnv[Any, Any, Any], scale: float):
        super().__init__(env)
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        if self._mode == AutoresetMode.DISABLED:
            raise ValueError("the vector environment must reset by itself; got autoreset_mode=Disabled")
        self.single_observation_space = _extended(env.single_observation_space, scale)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.scale = scale
        self._total, self._ended = np.zeros(env.num_envs), np.zeros(env.num_envs, np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Reset every episode."""
        observations, infos = self.env.reset(seed=seed, options=options)
        self._total[:], self._ended[:] = 0.0, False
        return self._with_total(observations), infos

    def step(self, actions: Any) -> tuple[npt.NDArray[np.float32], Floats, Floats, Floats, dict[str, Any]]:
        """Take one step in every episode."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self._total = np.where(self._ended, 0.0, self._total + rewards)
        ended = terminated | truncated
        if self._mode == AutoresetMode.SAME_STEP:
            if "final_obs" in infos:
                final = infos["final_obs"].copy()
                for i in np.flatnonzero(ended):
                    final[i] = np.append(final[i], self._total[i] / self.scale).astype(np.float32)
                infos = infos | {"final_obs": final}
            self._total[ended] = 0.0
        else:
            self._ended = ended
        return self._with_total(observations), rewards, terminated, truncated, infos

    def _with_total(self, observations: Floats) -> npt.NDArray[np.float32]:
        return np.column_stack([observations, self._total / self.scale]).astype(np.float32)
