"""Episodes under sampled conditions: a wrapper that starts each with a draw of a `ConditionSampler`."""

from collections.abc import Callable
from typing import Any, SupportsFloat, TypeVar

import gymnasium

from ordergrad.conditions import ConditionSampler

__all__ = ["SampledConditions"]

Observation = TypeVar("Observation")
Action = TypeVar("Action")
Apply = Callable[[gymnasium.Env[Any, Any], Any], dict[str, Any] | None]


class SampledConditions(gymnasium.Wrapper[Observation, Action, Observation, Action]):
    """Start every episode under a condition drawn from a sampler, and tell the sampler how it ended.

    `info["ordergrad_weight"]` holds the importance weight of the running episode, which `OrderGradPPO` and
    `OrderGradA2C` take into account. Episodes that are reset before their end are not reported.

    Environments in one process may share one sampler. Give those in processes of their own (``SubprocVecEnv``)
    samplers with different seeds: each adapts from the episodes of its own process.

    Args:
        env: The environment.
        sampler: Where conditions come from.
        apply: Given the unwrapped environment and a condition before every reset, sets it there, or returns options
            for the reset.

    Example:
        >>> from ordergrad.conditions import Bernoulli, ConditionSampler
        >>> from ordergrad.envs import GuardedMaze
        >>> sampler = ConditionSampler(Bernoulli(0.2), seed=0)
        >>> env = SampledConditions(GuardedMaze(), sampler, lambda env, guard: {"guard": bool(guard)})
        >>> _, info = env.reset(seed=0)
        >>> info["guard"], info["ordergrad_weight"]
        (False, 1.0)
    """

    def __init__(self, env: gymnasium.Env[Observation, Action], sampler: ConditionSampler, apply: Apply):
        super().__init__(env)
        self.sampler, self.apply = sampler, apply
        self._condition: Any = None
        self._weight, self._return = 1.0, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a condition and start an episode under it."""
        values, weight = self.sampler.sample(1)
        self._condition, self._weight, self._return = values[0], float(weight[0]), 0.0
        own = self.apply(self.env.unwrapped, self._condition)
        merged = options if own is None else {**(options or {}), **own}
        observation, info = self.env.reset(seed=seed, options=merged)
        return observation, info | {"ordergrad_weight": self._weight}

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one step; the last one of an episode reports its return."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._return += float(reward)
        if (terminated or truncated) and self._condition is not None:
            self.sampler.report([self._condition], [self._weight], [self._return])
            self._condition = None
        return observation, reward, terminated, truncated, info | {"ordergrad_weight": self._weight}
