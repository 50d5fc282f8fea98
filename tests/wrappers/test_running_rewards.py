"""Rewards from a running sample of returns, against the advantages of the same sample."""

import json

import numpy as np
import pytest

import ordergrad as og
from ordergrad.wrappers.running import ObjectiveRewards, RunningTransform

RNG = np.random.default_rng(0)
RETURNS = RNG.normal(size=60)


@pytest.mark.parametrize(
    "objective", ["mean", "cvar:0.1", "max@4", "mean-0.5*gini", "0.7*mean+0.3*max@8", "cvar:0.2@16"]
)
def test_f_has_the_differences_of_the_advantages_and_the_steepest_slope_1(objective):
    f = RunningTransform(objective)
    f.add(RETURNS)
    a, heights = og.advantages(RETURNS, objective), f(RETURNS)
    order = np.argsort(RETURNS)
    slopes = np.diff(a[order]) / np.diff(RETURNS[order])
    unit = np.abs(slopes).max()
    np.testing.assert_allclose(heights - heights.mean(), a / unit, atol=1e-9)
    rise = np.diff(heights[order]) / np.diff(RETURNS[order])
    assert np.abs(rise).max() == pytest.approx(1)


def test_the_mean_leaves_rewards_as_they_are():
    rewards = ObjectiveRewards(3, "mean")
    rewards.transform.add([0.0, 1.0])
    for _ in range(50):
        given, ended = RNG.normal(size=3), RNG.random(3) < 0.2
        np.testing.assert_allclose(rewards.step(given, ended), given, atol=1e-12)


def test_f_goes_on_with_its_end_slopes():
    f = RunningTransform("cvar:0.5")
    f.add(RETURNS)
    low, high = RETURNS.min(), RETURNS.max()
    assert f(np.array(low - 3)) == pytest.approx(-3)
    assert f(np.array(high + 3)) == f(np.array(high))


def test_the_rewards_of_an_episode_sum_to_f_of_its_return():
    rewards = ObjectiveRewards(1, "cvar:0.2", discount=0.9)
    rewards.transform.add(RETURNS)
    given = RNG.normal(size=10)
    total = float(np.sum(given * 0.9 ** np.arange(10)))
    got = [rewards.step(given[t : t + 1], np.array([t == 9]))[0] for t in range(10)]
    after = RunningTransform("cvar:0.2")
    after.add(RETURNS)
    before = float(after(np.array(total)) - after(np.array(0.0)))
    assert rewards.reached[0] == pytest.approx(total)
    assert rewards.transform.returns[-1] == pytest.approx(total)
    assert sum(got) == pytest.approx(before, abs=0.05)  # f has moved a little, by the last of 61 episodes
    assert rewards.running[0] == 0


def test_an_environment_that_only_resets_gets_nothing_and_keeps_its_discount():
    rewards = ObjectiveRewards(2, "mean", discount=0.5)
    rewards.transform.add([0.0, 1.0])
    no, idle = np.zeros(2, bool), np.array([True, False])
    assert rewards.step(np.array([7.0, 1.0]), no, idle).tolist() == [0, 1]
    assert rewards.step(np.array([1.0, 1.0]), no).tolist() == [1, 0.5]


def test_returns_that_are_not_finite_are_left_out_and_earn_nothing():
    rewards = ObjectiveRewards(2, "mean")
    rewards.transform.add([0.0, 1.0])
    no, yes = np.zeros(2, bool), np.ones(2, bool)
    assert rewards.step(np.array([np.nan, 1.0]), no).tolist() == [0, 1]
    assert rewards.step(np.array([1.0, np.inf]), yes).tolist() == [0, 0]
    assert (rewards.transform.nonfinite, rewards.transform.total) == (2, 4)
    assert rewards.transform.returns.tolist() == [0, 1]
    assert rewards.step(np.array([1.0, 1.0]), no).tolist() == [1, 1]


def test_the_sample_holds_the_last_episodes_and_all_that_end_together():
    f = RunningTransform("mean", window=3)
    f.add([1.0, 2.0])
    f.add([3.0, 4.0])
    assert f.returns.tolist() == [2, 3, 4]
    f.add(np.arange(5.0))
    assert f.returns.tolist() == [0, 1, 2, 3, 4]


def test_a_small_sample_shrinks_the_comparison_size_and_never_changes_the_objective():
    f = RunningTransform("max@8")
    assert f(np.array([0.0, 5.0])).tolist() == [0, 0]
    f.add([0.0, 1.0, 2.0, 3.0, 4.0])
    other = RunningTransform("max@4")
    other.add([0.0, 1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(f(RETURNS), other(RETURNS))
    assert f.value == pytest.approx(og.value(np.arange(5.0), "max@5"))
    gini = RunningTransform("gini")
    gini.add([0.0, 1.0])
    assert gini(np.array([0.0, 5.0])).tolist() == [0, 0]


def test_a_new_objective_counts_at_once():
    f = RunningTransform("mean")
    f.add(RETURNS)
    before = f(RETURNS)
    f.objective = og.anneal("mean", "cvar:0.1", 0.5)
    assert not np.allclose(before, f(RETURNS))
    f.objective = "mean"
    np.testing.assert_array_equal(before, f(RETURNS))


def test_the_state_is_json_and_restores_the_same_rewards():
    f, g = RunningTransform("cvar:0.1", window=20), RunningTransform("cvar:0.1", window=20)
    f.add(RETURNS)
    f.add([np.nan])
    g.set_state(json.loads(json.dumps(f.state())))
    np.testing.assert_array_equal(f(RETURNS), g(RETURNS))
    assert (g.total, g.nonfinite) == (61, 1)


def test_rewards_keep_their_dtype_and_whole_numbers_become_floats():
    rewards = ObjectiveRewards(1, "cvar:0.5")
    no = np.zeros(1, bool)
    assert rewards.step(np.ones(1, np.float32), no).dtype == np.float32
    assert rewards.step(np.ones(1, int), no).dtype == np.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"discount": 0.0}, r"discount must satisfy 0 < discount <= 1; got 0.0"),
        ({"window": 1}, r"window must be at least 2; got 1"),
        ({"objective": "max@4-max@4"}, r"objective must have a nonzero term"),
        ({"objective": "cvr:0.1"}, r"cvr"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveRewards(2, **arguments)
