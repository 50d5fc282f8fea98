"""What the adapters for reinforcement learning share: the unit of f, whatever the objective."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

import ordergrad as og
from ordergrad.adapters.episodes import EpisodeRanking, steepest_slope
from ordergrad.adapters.sb3 import OrderGradPPO

torch.set_num_threads(1)


@pytest.mark.parametrize("q", [0.05, 0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_largest_slope_of_f_is_the_same_at_every_step_of_a_schedule(q, t):
    returns = np.random.default_rng(0).normal(size=400)
    ranking = EpisodeRanking(og.anneal("mean", f"cvar:{q}", t), "telescoped")
    ranking.advantages(returns)
    x = np.sort(returns)
    rises = ranking.telescoped(returns, x[:-1], x[1:]) / np.diff(x)
    assert rises.max() == pytest.approx(1 / returns.std(), rel=0.01)


@pytest.mark.parametrize(
    "objective", ["mean", "cvar:0.2", "median", "var:0.1", "max@8", "trimmed:0.1", "mean-0.5*gini"]
)
def test_the_unit_has_the_scale_of_the_returns(objective):
    returns = np.random.default_rng(0).normal(size=400)
    scaled = {}
    for factor in (1.0, 100.0):
        ranking = EpisodeRanking(objective, "telescoped")
        scaled[factor] = ranking.advantages(factor * returns)
    np.testing.assert_allclose(scaled[1.0], scaled[100.0])
    assert 0.02 < np.sqrt(np.mean(scaled[1.0] ** 2)) < 2


def test_objectives_of_one_level_have_a_finite_slope():
    assert steepest_slope(og.parse("median")) == pytest.approx(4.48, abs=0.01)
    assert steepest_slope(og.parse("max@64")) == 64
    assert steepest_slope(og.parse("0.25*mean")) == 0.25


class Follow(gym.Env):
    """Thirty steps; the reward is 1 less the squared distance of the action from the number shown."""

    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def _observe(self):
        self.shown = self.np_random.uniform(-1, 1)
        return np.array([self.shown, self.steps / 30], np.float32)

    def step(self, action):
        reward = 1.0 - float(action[0] - self.shown) ** 2
        self.steps += 1
        return self._observe(), reward, self.steps >= 30, False, {}


def test_a_converged_policy_survives_the_change_of_objective():
    """The critic's targets keep their scale, so that nothing is unlearned while it catches up."""
    model = OrderGradPPO(
        "MlpPolicy",
        make_vec_env(Follow, 16, seed=0),
        objective="mean",
        credit="telescoped",
        n_steps=60,
        batch_size=240,
        n_epochs=5,
        learning_rate=3e-3,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [16], "log_std_init": -0.5},
    )
    losses: list[float] = []
    means: list[float] = []

    def update(objective):
        model.rollout_buffer.objective = objective
        model.learn(16 * 60, reset_num_timesteps=False)
        losses.append(model.logger.name_to_value["train/value_loss"])
        means.append(float(np.mean(model.rollout_buffer.ended)))

    for _ in range(40):
        update("mean")
    for t in np.linspace(0.1, 1, 15):
        update(og.anneal("mean", "cvar:0.05", t))
    assert means[39] > 20
    assert min(means[40:]) > means[39] - 2
    assert max(losses[40:]) < 2 * max(losses[20:40])
