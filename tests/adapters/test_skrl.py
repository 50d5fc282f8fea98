"""The adapter for skrl, with its own trainer in hundreds of copies of an environment."""

from typing import Any

import numpy as np
import pytest
import torch
from copies import VectorCopies

pytest.importorskip("skrl")
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from skrl.trainers.torch import SequentialTrainer

from ordergrad.adapters.skrl import OrderGradPPO

pytestmark = pytest.mark.filterwarnings("ignore")


class Policy(GaussianMixin, Model):
    def __init__(self, observations, actions):
        Model.__init__(self, observation_space=observations, action_space=actions, device="cpu")
        GaussianMixin.__init__(self)
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ELU(), torch.nn.Linear(16, 1))
        self.log_std = torch.nn.Parameter(torch.full((1,), -0.7))

    def compute(self, inputs, role):
        return self.net(inputs["observations"]), {"log_std": self.log_std}


class Value(DeterministicMixin, Model):
    def __init__(self, observations, actions):
        Model.__init__(self, observation_space=observations, action_space=actions, device="cpu")
        DeterministicMixin.__init__(self)
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ELU(), torch.nn.Linear(16, 1))

    def compute(self, inputs, role):
        return self.net(inputs["observations"]), {}


def agent(num_envs=256, cls: Any = OrderGradPPO, rollouts=8, memory_size=8, directory="", cfg=None, **kwargs):
    torch.manual_seed(0)
    env = wrap_env(VectorCopies(num_envs), wrapper="gymnasium", verbose=False)
    models = {
        "policy": Policy(env.observation_space, env.action_space),
        "value": Value(env.observation_space, env.action_space),
    }
    settings = {
        "rollouts": rollouts,
        "learning_epochs": 2,
        "mini_batches": 4,
        "learning_rate": 1e-2,
        "discount_factor": 1.0,
        "experiment": {"directory": str(directory), "write_interval": 0, "checkpoint_interval": 0},
    }
    made = cls(
        models=models,
        memory=RandomMemory(memory_size=memory_size, num_envs=num_envs, device="cpu"),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device="cpu",
        cfg=PPO_CFG(**(settings | (cfg or {}))),
        **kwargs,
    )
    return made, env


def train(made, env, steps):
    settings = {"timesteps": steps, "headless": True, "disable_progressbar": True, "close_environment_at_exit": False}
    SequentialTrainer(env=env, agents=made, cfg=settings).train()


@pytest.mark.parametrize(("objective", "high"), [("mean", True), ("cvar:0.1", False)])
def test_it_learns_what_the_objective_prefers(objective, high, tmp_path):
    made, env = agent(1024, objective=objective, directory=tmp_path)
    train(made, env, 320)
    observation = env.unwrapped.copies.get_observations()["policy"]
    stake = float(made.policy.net(observation).clamp(0, 1).mean())
    assert stake > 0.7 if high else stake < 0.2


def test_the_true_returns_of_whole_episodes_are_ranked_whatever_the_shaper(tmp_path):
    shaper = lambda rewards, *args, **kwargs: rewards * 0.01  # noqa: E731
    made, env = agent(32, objective="cvar:0.1", window=10_000, directory=tmp_path, cfg={"rewards_shaper": shaper})
    train(made, env, 80)
    np.testing.assert_allclose(made.rewards.transform.returns, env.unwrapped.copies.finished, atol=1e-5)
    assert float(made.memory.get_tensor_by_name("rewards").abs().max()) <= 0.04


def test_with_the_mean_and_no_time_limits_it_is_ppo(tmp_path):
    weights = []
    for cls in (OrderGradPPO, PPO):
        made, env = agent(16, cls, rollouts=25, memory_size=25, directory=tmp_path)
        env.unwrapped.copies.timed[:] = False
        torch.manual_seed(1)
        train(made, env, 75)
        weights.append(torch.cat([p.detach().ravel() for p in made.policy.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)


def test_checkpoints_keep_the_sample(tmp_path):
    made, env = agent(16, objective="cvar:0.1", directory=tmp_path)
    train(made, env, 48)
    path = str(tmp_path / "agent.pt")
    made.save(path)
    again, _ = agent(16, objective="cvar:0.1", directory=tmp_path)
    again.load(path)
    np.testing.assert_array_equal(again.rewards.transform.returns, made.rewards.transform.returns)


def test_settings_that_would_change_the_ranking_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"time_limit_bootstrap must be False"):
        agent(4, directory=tmp_path, cfg={"time_limit_bootstrap": True})
    with pytest.raises(ValueError, match=r"memory_size must be the rollouts of the configuration, 8; got 16"):
        agent(4, memory_size=16, directory=tmp_path)
