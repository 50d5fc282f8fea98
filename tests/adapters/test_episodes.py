"""What the adapters for reinforcement learning share: the unit of f, whatever the objective."""

import json
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

import ordergrad as og
from ordergrad.adapters.episodes import EpisodeRanking, steepest_slope, thinned
from ordergrad.adapters.sb3 import OrderGradPPO

torch.set_num_threads(1)


@pytest.mark.parametrize("q", [0.05, 0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_largest_slope_of_f_is_the_same_at_every_step_of_a_schedule(q, t):
    returns = np.random.default_rng(0).normal(size=400)
    ranking = EpisodeRanking(og.anneal("mean", f"cvar:{q}", t), "telescoped")
    ranking.advantages(returns)
    x = np.sort(returns)
    rises = ranking.telescoped(x[:-1], x[1:]) / np.diff(x)
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


# The pool, and a cap ------------------------------------------------------------------------------------------------


def test_a_small_group_is_ranked_against_the_recent_episodes():
    rng = np.random.default_rng(0)
    ranking = EpisodeRanking("cvar:0.1", "telescoped", pool=60, unit_scale=False)
    earlier = rng.normal(size=100)
    ranking.advantages(earlier)
    group = rng.normal(size=5)
    ranking.advantages(group)
    recent = np.concatenate([earlier, group])[-60:]
    x = np.linspace(-4, 4, 50)
    expected = np.interp(x, np.sort(recent), _f(recent)) + np.minimum(x - recent.min(), 0) * _slope(recent)
    np.testing.assert_allclose(ranking.telescoped(np.full(50, recent.min()), x), expected)
    assert ranking.need == 2


def _slope(returns):
    return len(returns) * og.sample_weights("cvar:0.1", len(returns) - 1)[0]


def _f(returns):
    x = np.sort(returns)
    slopes = len(x) * og.sample_weights("cvar:0.1", len(x) - 1)
    return np.concatenate([[0.0], np.cumsum(slopes * np.diff(x))])


@pytest.mark.parametrize("cap", [5.0, "falling"])
def test_a_ranking_goes_on_where_it_was_kept(cap):
    rng = np.random.default_rng(0)
    groups = [rng.normal(min(i, 8), 1, size=60) for i in range(24)]
    whole = EpisodeRanking("cvar:0.2", "telescoped", pool=100, cap=cap)
    for group in groups:
        whole.advantages(group)
    first, second = (EpisodeRanking("cvar:0.2", "telescoped", pool=100, cap=cap) for _ in range(2))
    for group in groups[:15]:
        first.advantages(group)
    second.set_state(json.loads(json.dumps(first.state())))
    for group in groups[15:]:
        second.advantages(group)
    assert second.stats == whole.stats
    np.testing.assert_array_equal(second.telescoped(0.0, groups[0]), whole.telescoped(0.0, groups[0]))


def test_a_cap_is_for_the_lower_tail_also_when_a_schedule_begins_elsewhere():
    returns = np.random.default_rng(0).normal(size=100)
    for objective in ("mean", "median"):
        capped, free = (EpisodeRanking("cvar:0.2", "telescoped", cap=cap) for cap in (0.0, None))
        for ranking in (capped, free):
            ranking.objective = objective
            ranking.advantages(returns)
        np.testing.assert_array_equal(capped.telescoped(0.0, returns), free.telescoped(0.0, returns))


@pytest.mark.parametrize("credit", ["episode", "terminal", "telescoped"])
def test_five_updates_without_a_difference_are_warned_of_once(credit):
    """Blackjack: returns of -1, 0 and 1, of which more than a fifth are -1."""
    rng = np.random.default_rng(0)
    ranking = EpisodeRanking("cvar:0.2", credit)
    groups = [rng.choice([-1.0, 0.0, 1.0], p=[0.5, 0.1, 0.4], size=700) for _ in range(8)]
    for group in groups[:4]:
        ranking.advantages(group)
    with pytest.warns(UserWarning, match="every advantage was zero in 5 updates.* all equal, -1 at worst"):
        ranking.advantages(groups[4])
    for group in groups[5:]:
        ranking.advantages(group)  # warnings are errors


@pytest.mark.parametrize("cap", [-9.0, -0.5, 0.7, 9.0])
def test_f_is_capped_at_the_running_quantile_but_not_below_the_users_number(cap):
    """Return Capping: f is that of min(R, C), C the cap or the running quantile, whichever is higher."""
    rng = np.random.default_rng(0)
    ranking = EpisodeRanking("cvar:0.1", "telescoped", pool=400, cap=cap, unit_scale=False)
    quantile = None
    for returns in (rng.normal(mean, 1, size=400) for mean in (-5, 0, 8, 0)):
        ranking.advantages(returns)
        of_group = float(np.quantile(returns, 0.1))
        quantile = of_group if quantile is None else quantile + 0.2 * (of_group - quantile)
        bound = max(cap, quantile)
        x = np.linspace(bound - 3, bound + 3, 50)
        steep = _slope(returns)
        expected = steep * (np.minimum(x, bound) - bound)
        np.testing.assert_allclose(ranking.telescoped(np.full(50, bound), x), expected, atol=0.05 * steep)
        assert ranking.stats["level"] == np.mean(returns <= cap)


@pytest.mark.parametrize("older", [True, False])
def test_a_number_takes_over_from_a_checkpoint_without_running_quantiles(older):
    returns = np.random.default_rng(0).normal(size=200)
    before = EpisodeRanking("cvar:0.2", "telescoped", cap="falling")
    before.advantages(returns)
    state = before.state()
    if older:
        del state["quantiles"]
    after, fresh = (EpisodeRanking("cvar:0.2", "telescoped", cap=0.5) for _ in range(2))
    after.set_state(state)
    fresh.advantages(returns)
    x = np.linspace(-4, 4, 20)
    np.testing.assert_allclose(after.telescoped(x[:-1], x[1:]), fresh.telescoped(x[:-1], x[1:]))


def test_another_pool_begins_the_running_quantile_anew():
    returns = np.random.default_rng(0).normal(size=100)
    before, after = (EpisodeRanking("cvar:0.2", "telescoped", pool=pool, cap=-9.0) for pool in (100, 50))
    before.advantages(returns + 5.0)
    after.set_state(before.state())
    after.advantages(returns)
    fresh = EpisodeRanking("cvar:0.2", "telescoped", pool=50, cap=-9.0)
    fresh.advantages(returns)
    x = np.linspace(-4, 4, 20)
    np.testing.assert_allclose(after.telescoped(x[:-1], x[1:]), fresh.telescoped(x[:-1], x[1:]))


@pytest.mark.parametrize(
    ("cap", "options", "message"),
    [
        (np.inf, {}, "cap must be a finite return, 'falling' or None; got inf"),
        ("rising", {}, "cap must be a finite return, 'falling' or None; got 'rising'"),
        (1.0, {"credit": "episode"}, "cap must go with credit='telescoped'"),
        (1.0, {"objective": "max@4"}, "got cap=1.0, credit='telescoped', objective='max@4'"),
    ],
)
def test_a_cap_that_does_nothing_is_an_error(cap, options, message):
    settings = {"objective": "cvar:0.1", "credit": "telescoped"} | options
    with pytest.raises(ValueError, match=re.escape(message)):
        EpisodeRanking(**settings, cap=cap)


def test_equal_returns_are_no_reason_to_warn():
    """A policy that always reaches the most."""
    ranking = EpisodeRanking("cvar:0.2")
    for _ in range(8):
        ranking.advantages(np.full(40, 500.0))  # warnings are errors


@pytest.mark.parametrize("most", [1, 3, 8])
def test_thinned_steps_stand_for_all_in_expectation(most):
    starts = np.random.default_rng(0).random(4000)
    weights = np.array([1.0, 1, 1, 1, 1, 5, 1, 1, 1, 2])
    total = np.zeros(10)
    for start in starts:
        kept, share = thinned(weights, most, start)
        assert len(kept) == len(set(kept)) == most
        assert (share >= weights[kept] - 1e-9).all()
        total[kept] += share
    np.testing.assert_allclose(total / 4000, weights, atol=5 * 15 / 4000**0.5 / most**0.5)


def test_thinned_pieces_of_different_lengths_stand_for_all_in_expectation():
    starts = np.random.default_rng(0).random(4000)
    weights, lengths = np.array([1.0, 4, 1, 1, 2, 1, 1]), np.array([8, 2, 1, 8, 5, 8, 3])
    total, steps = np.zeros(7), []
    for start in starts:
        kept, share = thinned(weights, 12, start, lengths)
        assert (share >= weights[kept] - 1e-9).all()
        total[kept] += share
        steps.append(lengths[kept].sum())
    np.testing.assert_allclose(total / 4000, weights, atol=0.25)
    assert np.mean(steps) == pytest.approx(12, abs=0.3)
    assert max(steps) <= 12 + 2 * lengths.max()
