"""Rewards of short rollouts in PyTorch, against the stream of the wrappers."""

import numpy as np
import pytest
import torch

from ordergrad.adapters.rollouts import RolloutRewards
from ordergrad.wrappers.running import ObjectiveRewards

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("objective", ["mean", "cvar:0.1", "max@4", "median"])
def test_they_are_those_of_a_step_at_a_time_with_the_f_of_the_rollout(objective):
    steps, envs = 8, 5
    batch, stream = RolloutRewards(envs, objective, discount=0.9), ObjectiveRewards(envs, objective, discount=0.9)
    for _ in range(6):
        rewards, ended = RNG.normal(size=(steps, envs)), RNG.random((steps, envs)) < 0.2
        got = batch(torch.tensor(rewards), torch.tensor(ended)).numpy()
        stream.transform.set_state(batch.transform.state())
        stream.transform.add = lambda returns: None  # f stands still
        expected = np.stack([stream.step(r, e) for r, e in zip(rewards, ended, strict=True)])
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_the_sample_is_the_returns_in_the_order_in_which_they_ended():
    batch, stream = RolloutRewards(4), ObjectiveRewards(4)
    for _ in range(5):
        rewards, ended = RNG.normal(size=(6, 4)), RNG.random((6, 4)) < 0.3
        batch(torch.tensor(rewards), torch.tensor(ended))
        for r, e in zip(rewards, ended, strict=True):
            stream.step(r, e)
    np.testing.assert_allclose(batch.transform.returns, stream.transform.returns)


def test_episodes_whose_beginning_was_not_seen_are_left_out_once():
    batch = RolloutRewards(2)
    batch.begin_in_the_middle(torch.tensor([True, False]))
    ended = torch.tensor([[True, True], [True, True]])
    batch(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), ended)
    assert batch.transform.returns.tolist() == [2, 3, 4]


def test_nothing_infinite_reaches_the_trainer():
    batch = RolloutRewards(2)
    shaped = batch(torch.tensor([[1.0, float("nan")], [1.0, 1.0]]), torch.tensor([[False, False], [True, True]]))
    assert shaped.isfinite().all()
    assert batch.stats() == {"value": 2.0, "episodes": 2, "nonfinite": 1}


def test_a_discount_outside_its_range_is_named():
    with pytest.raises(ValueError, match=r"discount must satisfy 0 < discount <= 1; got 1.5"):
        RolloutRewards(2, discount=1.5)
