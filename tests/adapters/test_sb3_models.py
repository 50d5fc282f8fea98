"""Stable-Baselines3: dictionaries of observations, and models that began as plain PPO."""

import io

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from walk import Gamble, Walk

from ordergrad.adapters.sb3 import OrderGradA2C, OrderGradPPO, OrderGradRolloutBuffer

torch.set_num_threads(1)
CREDITS = ["episode", "terminal", "telescoped"]


class Parts(gymnasium.ObservationWrapper):
    """The walk's observation in parts of several kinds and dtypes."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict(
            {
                "first": spaces.Box(-10, 10, (1,), np.float32),
                "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
                "second": spaces.Box(-10, 10, (1, 1), np.float64),
                "sign": spaces.Discrete(2),
            }
        )

    def observation(self, observation):
        image = np.full((36, 36, 1), int(abs(observation[0]) * 20), np.uint8)
        second = observation[1:].reshape(1, 1).astype(np.float64)
        return {"first": observation[:1], "image": image, "second": second, "sign": int(observation[0] > 0)}


def dictionaries(n=4):
    env = DummyVecEnv([lambda: Parts(Walk())] * n)
    env.seed(3)
    return env


@pytest.mark.parametrize("cls", [OrderGradPPO, OrderGradA2C])
@pytest.mark.parametrize("credit", CREDITS)
def test_dictionaries_of_observations_train(cls, credit):
    model = cls("MultiInputPolicy", dictionaries(), objective="cvar:0.2", credit=credit, n_steps=32, device="cpu")
    model.learn(256)
    assert model.rollout_buffer.stats["episodes"] > 5


def test_the_policy_trains_on_the_observations_that_it_saw():
    model = OrderGradPPO("MultiInputPolicy", dictionaries(), n_steps=16, seed=0, device="cpu", learning_rate=0.0)
    model.learn(128)
    (batch,) = list(model.rollout_buffer.get(None))
    observations = batch.observations
    assert observations["image"].dtype == torch.uint8
    assert set(observations["sign"].unique().tolist()) == {0, 1}
    first = observations["first"][:, 0]
    assert torch.equal((first > 0).float(), observations["sign"].float().ravel())
    assert torch.equal((first.abs() * 20).to(torch.uint8), observations["image"][:, 0, 0, 0])
    _, log_prob, _ = model.policy.evaluate_actions(observations, batch.actions.long().flatten())
    torch.testing.assert_close(log_prob, batch.old_log_prob)


def test_normalised_dictionaries_train():
    env = VecNormalize(dictionaries(), norm_obs_keys=["first", "second"])
    OrderGradPPO("MultiInputPolicy", env, objective="cvar:0.2", n_steps=32, device="cpu").learn(128)


def test_tuples_are_an_error():
    space = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2)))
    with pytest.raises(ValueError, match="observation_space must not be a Tuple"):
        OrderGradRolloutBuffer(8, space, spaces.Discrete(2))


@pytest.mark.parametrize(("plain", "ours"), [(PPO, OrderGradPPO), (A2C, OrderGradA2C)])
def test_a_plain_model_goes_on_with_an_objective(plain, ours, tmp_path):
    env = DummyVecEnv([Gamble] * 4)
    model = plain("MlpPolicy", env, n_steps=32, seed=0, device="cpu").learn(128)
    model.save(tmp_path / "plain.zip")
    ranked = ours.load(tmp_path / "plain.zip", env=env, objective="cvar:0.2", device="cpu")
    fresh = ours("MlpPolicy", env, objective="cvar:0.2", n_steps=32, device="cpu")
    for name in ("vf_coef", "normalize_advantage", "n_steps", "gamma", "learning_rate"):
        expected = getattr(fresh if name in ("vf_coef", "normalize_advantage", "n_steps") else model, name)
        assert getattr(ranked, name) == expected, name
    for a, b in zip(model.policy.parameters(), ranked.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    ranked.learn(128)
    assert ranked.rollout_buffer.stats["episodes"] == 64


def test_what_a_plain_model_gets_may_be_chosen_and_is_saved():
    env = DummyVecEnv([Gamble] * 4)
    file = io.BytesIO()
    PPO("MlpPolicy", env, n_steps=32, device="cpu").save(file)
    file.seek(0)
    model = OrderGradPPO.load(file, env=env, objective="max@4", credit="telescoped", vf_coef=0.3, device="cpu")
    assert (model.vf_coef, model.normalize_advantage) == (0.3, True)
    assert model.rollout_buffer.ranking.unit_scale
    again = io.BytesIO()
    model.save(again)
    again.seek(0)
    assert str(OrderGradPPO.load(again, env=env, device="cpu").rollout_buffer.objective) == "max@4"
