"""Small environments that the tests of several adapters share."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Walk(gym.Env):
    """Episodes of random length; the reward depends on state and action. Ends by termination or truncation."""

    observation_space = spaces.Box(-10, 10, (2,), np.float32)

    def __init__(self, continuous=False, mean_length=6.0, end="both", rewards=None):
        self.action_space = spaces.Box(-1, 1, (2,), np.float32) if continuous else spaces.Discrete(3)
        self.mean_length, self.end, self.rewards = mean_length, end, rewards
        self.finished: list[float] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=2).astype(np.float32)
        self.total, self.steps = 0.0, 0
        return self.state, {}

    def step(self, action):
        self.state = (0.5 * self.state + self.np_random.normal(size=2)).astype(np.float32)
        reward = float(self.state[0] * np.sum(action) + self.state[1])
        if self.rewards is not None:
            reward = self.rewards(self, reward)
        reward = float(np.float32(reward))
        self.total += reward
        self.steps += 1
        stop = bool(self.np_random.random() < 1 / self.mean_length)
        truncated = stop and (self.end == "truncated" or (self.end == "both" and self.np_random.random() < 0.5))
        if stop:
            self.finished.append(self.total)
        return self.state, reward, stop and not truncated, truncated, {}


class Gamble(gym.Env):
    """Two steps of safe (0: reward 0.5) or risky (1: 2, or -2 one time in four, so 1 on average)."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        risky = -2.0 if self.np_random.random() < 0.25 else 2.0
        return self._observation(), risky if int(action) else 0.5, self.steps == 2, False, {}

    def _observation(self):
        return np.array([1.0, self.steps / 2], np.float32)
