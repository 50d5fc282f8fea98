"""Thousands of copies of one small environment, stepped as tensors, for rsl_rl and skrl."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict


class Copies:
    """Episodes of `length` steps. An action above 0 is a stake of up to 1: it pays 0.1, or costs 3 one time in 60.

    The mean of 20 steps at full stake is 1.0 and their worst tenth about -2. Every fifth copy ends by time limit.
    """

    def __init__(self, num_envs: int, length: int = 20, device: str = "cpu"):
        self.num_envs, self.num_actions, self.device, self.cfg = num_envs, 1, device, {}
        self.max_episode_length = length
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long, device=device)
        self.timed = torch.arange(num_envs, device=device) % 5 == 0
        self.running = torch.zeros(num_envs, device=device)
        self.finished: list[float] = []

    def get_observations(self) -> Any:
        time = self.episode_length_buf / self.max_episode_length
        return TensorDict({"policy": torch.stack([torch.ones_like(time), time], 1)}, [self.num_envs])

    def step(self, actions: Any) -> Any:
        stake = actions[:, 0].clamp(0, 1)
        lost = torch.rand(self.num_envs, device=self.device) < 1 / 60
        rewards = stake * torch.where(lost, -3.0, 0.1)
        self.running += rewards
        self.episode_length_buf += 1
        ended = self.episode_length_buf >= self.max_episode_length
        self.finished += self.running[ended].tolist()
        self.running[ended] = 0.0
        self.episode_length_buf[ended] = 0
        return self.get_observations(), rewards, ended, {"time_outs": ended & self.timed}


class VectorCopies(gymnasium.vector.VectorEnv):
    """The same as a vector environment of Gymnasium."""

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int, length: int = 20):
        self.copies, self.num_envs = Copies(num_envs, length), num_envs
        self.single_observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        return self.copies.get_observations()["policy"].numpy(), {}

    def step(self, actions):
        observation, rewards, ended, extras = self.copies.step(torch.as_tensor(actions))
        limit = extras["time_outs"]
        return observation["policy"].numpy(), rewards.numpy(), (ended & ~limit).numpy(), limit.numpy(), {}
