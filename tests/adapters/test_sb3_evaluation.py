"""Evaluation by the objective during training."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from walk import Gamble

import ordergrad as og
from ordergrad.adapters import sb3_evaluation
from ordergrad.adapters.sb3 import OrderGradPPO
from ordergrad.adapters.sb3_evaluation import ObjectiveEvalCallback

torch.set_num_threads(1)


def gambles(n=4):
    env = VecMonitor(DummyVecEnv([Gamble] * n))
    env.seed(0)
    return env


def model(cls=PPO, **kwargs):
    return cls("MlpPolicy", gambles(), n_steps=16, batch_size=64, seed=0, device="cpu", **kwargs)


@pytest.mark.parametrize("cls", [PPO, OrderGradPPO])
def test_it_evaluates_at_its_interval_and_keeps_the_best(cls, tmp_path):
    callback = ObjectiveEvalCallback(
        gambles(), "cvar:0.2", eval_freq=100, n_eval_episodes=20, best_model_save_path=tmp_path / "best"
    )
    model(cls).learn(320, callback=callback)
    assert [step for step, _, _ in callback.evaluations] == [100, 200, 300]
    assert (tmp_path / "best/best_model.zip").exists()
    assert callback.best in [(value, error) for _, value, error in callback.evaluations]


def test_only_more_than_the_error_is_better_and_patience_ends_training(monkeypatch):
    returns = iter([np.arange(10.0), np.arange(10.0) + 0.1, np.arange(10.0) + 50, *[np.arange(10.0)] * 9])
    monkeypatch.setattr(sb3_evaluation, "evaluate_policy", lambda *_, **__: (next(returns).tolist(), []))
    callback = ObjectiveEvalCallback(gambles(), "cvar:0.3", eval_freq=4, n_eval_episodes=10, patience=2)
    trained = model().learn(320, callback=callback)
    assert trained.num_timesteps == 20
    value, error = og.value_and_error(np.arange(10.0) + 50, "cvar:0.3")
    assert callback.best == pytest.approx((float(value), float(error)))


def test_too_few_episodes_are_an_error():
    with pytest.raises(ValueError, match="n_eval_episodes must be at least 9 for max@8; got 5"):
        ObjectiveEvalCallback(gambles(), "max@8", n_eval_episodes=5)
