"""Small environments of several agents for RLlib; an agent's policy is its name up to the dash."""

import itertools

import numpy as np
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv

SEEDS = itertools.count()


class Gamblers(MultiAgentEnv):
    """Two bold agents and a careful one gamble as in `walk.Gamble`, side by side; one stops a step earlier."""

    def __init__(self):
        super().__init__()
        self.agents = self.possible_agents = ["bold-1", "bold-2", "careful"]
        self.observation_spaces = {agent: spaces.Box(0, 1, (2,), np.float32) for agent in self.agents}
        self.action_spaces = {agent: spaces.Discrete(2) for agent in self.agents}
        self.random = np.random.default_rng(next(SEEDS))
        self.finished: dict[str, list[float]] = {"bold": [], "careful": []}

    def reset(self, *, seed=None, options=None):
        self.steps, self.total = 0, dict.fromkeys(self.possible_agents, 0.0)
        return dict.fromkeys(self.possible_agents, self._observation()), {}

    def step(self, action_dict):
        self.steps += 1
        rewards = {}
        for agent, action in action_dict.items():
            risky = -2.0 if self.random.random() < 0.25 else 2.0
            rewards[agent] = risky if action else 0.5
            self.total[agent] += rewards[agent]
        over = self.steps == 2
        ended = {agent: over or agent == "bold-2" for agent in action_dict}
        for agent in action_dict:
            if ended[agent]:
                self.finished[agent.split("-")[0]].append(self.total[agent])
        observations = dict.fromkeys(action_dict, self._observation())
        return observations, rewards, ended | {"__all__": over}, {"__all__": False}, {}

    def _observation(self):
        return np.array([1.0, self.steps / 2], np.float32)


class Turns(MultiAgentEnv):
    """Two agents act in turn; every move pays both, once they have moved. Ends at random."""

    def __init__(self):
        super().__init__()
        self.agents = self.possible_agents = ["bold", "careful"]
        self.observation_spaces = {agent: spaces.Box(-10, 10, (2,), np.float32) for agent in self.agents}
        self.action_spaces = {agent: spaces.Discrete(2) for agent in self.agents}
        self.random = np.random.default_rng(next(SEEDS))
        self.finished: dict[str, list[float]] = {"bold": [], "careful": []}

    def reset(self, *, seed=None, options=None):
        self.steps, self.total = 0, {}
        return {"bold": self._observation()}, {}

    def step(self, action_dict):
        (agent,) = action_dict
        self.total.setdefault(agent, 0.0)
        self.steps += 1
        rewards = {moved: float(np.float32(self.random.normal())) for moved in self.total}
        for moved, reward in rewards.items():
            self.total[moved] += reward
        over = self.steps > 3 and bool(self.random.random() < 0.1)
        if over:
            for moved, total in self.total.items():
                self.finished[moved].append(total)
        following = "careful" if agent == "bold" else "bold"
        observations = (
            {moved: self._observation() for moved in self.total} if over else {following: self._observation()}
        )
        return observations, rewards, {"__all__": over}, {"__all__": False}, {}

    def _observation(self):
        return self.random.normal(size=2).astype(np.float32)
