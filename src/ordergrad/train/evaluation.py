"""What trained policies are worth: fresh episodes, and the value of every objective under every policy."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import value_and_error
from ordergrad.train.runs import RunError, write_csv

__all__ = ["Value", "fresh_episodes", "read_returns", "values_of", "write_returns"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """The value of one objective under the policies trained on another.

    Attributes:
        trained: The objective that was trained.
        evaluated: The objective that was measured.
        value: The mean over seeds of the unbiased estimate from each seed's episodes.
        low: Lower end of the 95% confidence interval.
        high: Upper end.
        seeds: Number of seeds. The interval is Student's over seeds; with one seed it covers the sampling of
            episodes only (normal, jackknife error).
        by_seed: The estimate for each seed.
    """

    trained: str
    evaluated: str
    value: float
    low: float
    high: float
    seeds: int
    by_seed: tuple[float, ...]


def fresh_episodes(
    policy: Any,
    env_id: str,
    env_args: Mapping[str, Any],
    episodes: int,
    seed: int,
    *,
    envs: int = 50,
    longest: int = 100_000,
) -> tuple[Array, Array]:
    """Return the returns and lengths of whole episodes of a policy that acts at random as in training.

    Every environment plays the same number of episodes: taking those that end first would favour short ones.

    Args:
        policy: A Stable-Baselines3 policy.
        env_id: The environment.
        env_args: Its keyword arguments.
        episodes: How many; rounded up to a multiple of the environments.
        seed: Of the environments and of the actions.
        envs: Environments that run side by side.
        longest: The number of steps after which an episode counts as one that never ends.

    Returns:
        Two arrays of shape (at least `episodes`,).

    Raises:
        RunError: An episode does not end.
    """
    import torch

    envs = min(envs, episodes)
    each = -(-episodes // envs)
    vector = gym.make_vec(env_id, num_envs=envs, vectorization_mode="sync", **env_args)
    returns, lengths = np.zeros((envs, each)), np.zeros((envs, each), int)
    finished, total, length = np.zeros(envs, int), np.zeros(envs), np.zeros(envs, int)
    resetting = np.zeros(envs, bool)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        obs, _ = vector.reset(seed=seed)
        while (finished < each).any():
            actions, _ = policy.predict(obs, deterministic=False)
            obs, rewards, terminated, truncated, _ = vector.step(actions)
            total += np.where(resetting, 0.0, rewards)
            length += ~resetting
            if length.max() > longest:
                raise RunError(
                    f"an episode has not ended after {longest} steps; limit it: --env-arg max_episode_steps=N"
                )
            ended = (terminated | truncated) & ~resetting
            counted = np.flatnonzero(ended & (finished < each))
            returns[counted, finished[counted]], lengths[counted, finished[counted]] = total[counted], length[counted]
            finished[counted] += 1
            total[ended], length[ended] = 0.0, 0
            resetting = ended if _resets_next_step(vector) else np.zeros(envs, bool)
    vector.close()
    return returns.ravel(), lengths.ravel()


def _resets_next_step(vector: Any) -> bool:
    """Return whether the step after an episode's last one is spent on the reset."""
    return str(vector.metadata.get("autoreset_mode", "NextStep")).lower().replace("_", "").endswith("nextstep")


def write_returns(path: Path, returns: Array, lengths: Array) -> None:
    """Write the episodes of an evaluation."""
    write_csv(path, ("return", "length"), zip(returns.tolist(), lengths.tolist(), strict=True))


def read_returns(path: Path) -> Array:
    """Return the returns of an evaluation."""
    with path.open(newline="") as file:
        return np.array([float(row["return"]) for row in csv.DictReader(file)])


def values_of(returns: Mapping[str, Sequence[Array]], objectives: Sequence[str]) -> list[Value]:
    """Return the value of every objective under every trained policy, with 95% confidence intervals.

    Args:
        returns: For each trained objective, the returns of fresh episodes for each of its seeds.
        objectives: What to measure.

    Example:
        >>> [entry] = values_of({"mean": [np.array([1.0, 3.0]), np.array([2.0, 4.0])]}, ["mean"])
        >>> entry.value, round(entry.low, 2), round(entry.high, 2)
        (2.5, -3.85, 8.85)
    """
    from scipy.stats import t

    table: list[Value] = []
    for trained, groups in returns.items():
        for objective in objectives:
            pairs = [value_and_error(group, objective) for group in groups]
            by_seed = np.array([float(v) for v, _ in pairs])
            s = len(by_seed)
            half = (
                float(t.ppf(0.975, s - 1) * by_seed.std(ddof=1) / np.sqrt(s))
                if s > 1
                else 1.959963984540054 * float(pairs[0][1])
            )
            centre = float(by_seed.mean())
            table.append(Value(trained, objective, centre, centre - half, centre + half, s, tuple(by_seed.tolist())))
    return table
