"""Fresh episodes of a trained policy, and the file that keeps them."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import write_csv

Array = NDArray[Any]


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

    Every one of the environments plays the same number of episodes, at least so many in all: taking those that end
    first would favour short ones.

    Raises:
        UserError: An episode has not ended after the longest number of steps.
    """
    import torch

    envs = min(envs, episodes)
    each = -(-episodes // envs)
    vector = gym.make_vec(env_id, num_envs=envs, vectorization_mode="sync", **env_args)
    returns, lengths = np.zeros((envs, each)), np.zeros((envs, each), int)
    finished, total, length = np.zeros(envs, int), np.zeros(envs), np.zeros(envs, int)
    resetting, autoreset = np.zeros(envs, bool), str(vector.metadata.get("autoreset_mode", "NextStep"))
    next_step = autoreset.lower().replace("_", "").endswith("nextstep")  # the step after the last one is the reset
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        obs, _ = vector.reset(seed=seed)
        while (finished < each).any():
            actions, _ = policy.predict(obs, deterministic=False)
            obs, rewards, terminated, truncated, _ = vector.step(actions)
            total += np.where(resetting, 0.0, rewards)
            length += ~resetting
            if length.max() > longest:
                raise UserError(
                    f"an episode has not ended after {longest} steps; limit it: --env-arg max_episode_steps=N"
                )
            ended = (terminated | truncated) & ~resetting
            counted = np.flatnonzero(ended & (finished < each))
            returns[counted, finished[counted]], lengths[counted, finished[counted]] = total[counted], length[counted]
            finished[counted] += 1
            total[ended], length[ended] = 0.0, 0
            resetting = ended & next_step
    vector.close()
    return returns.ravel(), lengths.ravel()


def write_returns(path: Path, returns: Array, lengths: Array) -> None:
    """Write the episodes of an evaluation."""
    write_csv(path, ("return", "length"), zip(returns.tolist(), lengths.tolist(), strict=True))
