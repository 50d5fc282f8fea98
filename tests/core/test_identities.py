"""What follows from the one-line formula: every identity that the design promises."""

import numpy as np
import pytest
from catalogue import ALL, OPEN, SIZED, at_size
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from strategies import groups, objectives

import ordergrad as og
from ordergrad.objectives import Max, Weights
from ordergrad.smoothing import smoothed

N = 7
GROUPS = groups(N, count=2)
OBJECTIVES = objectives(k_max=N - 1)
REWARDS = np.array([0.3, -1.7, 2.2, 0.3, 5.1, -0.4, 1.9])


def size(objective):
    """Return what an advantage's rounding error is relative to."""
    return 1 + sum(
        abs(c)
        * np.abs(part.rank_weights(N - 1 if part.comparison_size is None else int(np.ceil(part.comparison_size)))).sum()
        for c, part in objective.terms()
    )


def slack(rewards, objective):
    return 1e-12 * N * (1 + np.ptp(rewards)) * size(objective)


@given(GROUPS, OBJECTIVES)
def test_advantages_sum_to_zero_and_ties_are_equal(rewards, objective):
    a = og.advantages(rewards, objective)
    assert_allclose(a.sum(-1), 0, atol=slack(rewards, objective))
    for r, row in zip(rewards, a, strict=True):
        for value in set(r):
            assert np.ptp(row[r == value]) == 0


@given(GROUPS, OBJECTIVES)
def test_one_line(rewards, objective):
    """A = unsort(center(cumsum(N w(N-1) diff(sort(R)))))."""
    order = rewards.argsort(-1)
    a = np.zeros_like(rewards)
    steps = N * og.sample_weights(at_size(objective, N - 1), N - 1) * np.diff(np.sort(rewards))
    np.put_along_axis(a, order[:, 1:], steps.cumsum(-1), -1)
    a -= a.mean(-1, keepdims=True)
    assert_allclose(og.advantages(rewards, objective), a, atol=slack(rewards, objective))


@given(GROUPS, OBJECTIVES, st.randoms(use_true_random=False))
def test_order_does_not_matter(rewards, objective, random):
    shuffled = list(range(N))
    random.shuffle(shuffled)
    expected = og.advantages(rewards, objective)[:, shuffled]
    assert_allclose(og.advantages(rewards[:, shuffled], objective), expected, atol=slack(rewards, objective))
    assert_array_equal(og.value(rewards[:, shuffled], objective), og.value(rewards, objective))


@given(GROUPS.map(np.round), OBJECTIVES, st.integers(-4096, 4096), st.integers(-8, 8))
def test_shift_and_scale(rewards, objective, shift, power):
    """Exactly: the shift keeps whole rewards whole, the scale is a power of two."""
    a = og.advantages(rewards, objective)
    assert_array_equal(og.advantages(rewards + shift, objective), a)
    assert_array_equal(og.advantages(rewards * 2.0**power, objective), a * 2.0**power)
    v, mass = og.value(rewards, objective), float(og.value(np.ones(N), objective))
    assert_allclose(og.value(rewards + shift, objective), v + mass * shift, atol=5e3 * slack(rewards, objective))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 1e-300, 7.0, 1 / 3])
@pytest.mark.parametrize("objective", ALL, ids=str)
def test_equal_rewards_have_advantage_exactly_zero(objective, value):
    assert_array_equal(og.advantages(np.full((2, N), value), objective), 0)
    assert_array_equal(og.advantages(np.full((2, N), value), objective, where=np.arange(N) != 3), 0)


@pytest.mark.parametrize("spec", [s for s in [*SIZED, *OPEN] if (og.rank_weights(s, 6) >= 0).all()])
@given(rewards=GROUPS)
def test_monotone_for_nonnegative_weights(spec, rewards):
    a = og.advantages(rewards, spec)
    order = rewards.argsort(-1)
    assert (np.diff(np.take_along_axis(a, order, -1)) >= 0).all()


@pytest.mark.parametrize("k", range(1, N))
def test_the_mean_is_reinforce_leave_one_out(k):
    """For every K, and with the second baseline as well."""
    others = (REWARDS.sum() - REWARDS) / (N - 1)
    assert_allclose(og.advantages(REWARDS, "mean"), REWARDS - others, rtol=1e-13)
    assert_allclose(og.advantages(REWARDS, Weights(*[1 / k] * k)), REWARDS - others, rtol=1e-13)
    assert_allclose(og.advantages(REWARDS, "mean", baseline="k_minus_one"), REWARDS - others, rtol=1e-13)
    if k > 1:
        equal = og.advantages(REWARDS, Weights(*[1 / k] * k), baseline="k_minus_one")
        assert_allclose(equal, REWARDS - others, rtol=1e-12)


@pytest.mark.parametrize("k", range(2, N + 1))
def test_the_second_baseline_of_the_max_is_the_max_of_one_less(k):
    """Walder and Karkhanis' loo-1: K (E[max over subsets with i] - E[max of K-1 others])."""
    q = og.include_one(REWARDS, Max(k))
    others = [float(og.value(np.delete(REWARDS, i), Max(k - 1))) for i in range(N)]
    assert_allclose(og.advantages(REWARDS, Max(k), baseline="k_minus_one"), k * (q - others), rtol=1e-12, atol=1e-13)


@given(GROUPS, OBJECTIVES)
def test_jackknife(rewards, objective):
    """A = N (v - v_-i) at one K; se from the advantages, the delete-one jackknife of the value also where K is open."""
    a, v = og.advantages(rewards, objective), og.value(rewards, at_size(objective, N - 1))
    without = np.stack([og.value(np.delete(rewards, i, axis=-1), objective) for i in range(N)], axis=-1)
    tolerance = 10 * slack(rewards, objective)
    assert_allclose(a, N * (v[:, None] - without), atol=tolerance * 1e3)
    assert_allclose(without.mean(-1), v, atol=tolerance * 1e3)
    assert_allclose(og.leave_one_out(rewards, objective), without, atol=tolerance * 1e3)
    value, error = og.value_and_error(rewards, objective)
    assert_array_equal(value, og.value(rewards, objective))
    assert_array_equal(value, og.value(rewards, at_size(objective, N)))
    a = og.advantages(rewards, smoothed(objective))
    assert_allclose(error, np.sqrt((N - 1) / N**3 * (a**2).sum(-1)), rtol=1e-12)


@pytest.mark.parametrize("spec", [s for s in SIZED if len(og.parse(s).terms()) == 1])
def test_averages_with_and_without_a_sample(spec):
    """q_i = v + (N-K)/(NK) A_i for one whole K, and A = K (q - v_-i)."""
    alpha = og.rank_weights(spec)
    objective, k = Weights(*alpha), len(alpha)
    a, v = og.advantages(REWARDS, objective), og.value(REWARDS, objective)
    q = og.include_one(REWARDS, objective)
    assert_allclose(q, v + (N - k) / (N * k) * a, rtol=1e-12, atol=1e-12)
    assert_allclose(a, k * (q - og.leave_one_out(REWARDS, objective)), atol=1e-12)
    assert_allclose(a, og.advantages(REWARDS, spec), atol=1e-12)


@given(GROUPS, OBJECTIVES, OBJECTIVES, st.floats(-5, 5), st.sampled_from(["leave_one_out", "k_minus_one", "none"]))
def test_linear_in_the_objective(rewards, first, second, c, baseline):
    """Across different comparison sizes as well."""
    a, b = (og.advantages(rewards, o, baseline=baseline) for o in (first, second))
    got = og.advantages(rewards, first + c * second, baseline=baseline)
    scale = 10 * (1 + abs(c)) * (slack(rewards, first) + slack(rewards, second)) * (1 + np.abs(rewards).max())
    assert_allclose(got, a + c * b, atol=scale)


@pytest.mark.parametrize("objective", ALL, ids=str)
def test_degree_elevation_changes_nothing(objective):
    """One vector of weights at the largest size stands for the whole mixture."""
    objective = at_size(og.parse(objective), 4)
    for k in (4, 5, 6):
        single = Weights(*og.rank_weights(objective, k))
        for function in (og.advantages, og.value, og.leave_one_out):
            assert_allclose(function(REWARDS, single), function(REWARDS, objective), atol=1e-12)
        assert_allclose(og.spectrum(single, [0.1, 0.6]), og.spectrum(objective, [0.1, 0.6]), atol=1e-12)


@pytest.mark.parametrize("percent", [0, 25, 50, 99])
@pytest.mark.parametrize("form", ["max@{}", "cvar:0.3@{}", "top:2@{}", "maxrl@{}"])
def test_real_sizes_mix_two_whole_ones(form, percent):
    f = percent / 100
    below, above, mixed = (og.advantages(REWARDS, form.format(k)) for k in (3, 4, 3 + f))
    assert_allclose(mixed, (1 - f) * below + f * above, atol=1e-13)


@given(st.lists(st.booleans(), min_size=2, max_size=12).filter(any))
def test_maxrl_of_zero_one_rewards(successes):
    """(R - mean) / mean, the mixture of max@K / K over K = 1..N-1."""
    rewards = np.array(successes, float)
    expected = (rewards - rewards.mean()) / rewards.mean()
    assert_allclose(og.advantages(rewards, "maxrl"), expected, atol=1e-12)
    mixture = sum(og.advantages(rewards, Max(k)) / k for k in range(1, len(rewards)))
    assert_allclose(mixture, expected, atol=1e-12)


@given(GROUPS)
def test_maxrl_of_any_rewards_is_the_mixture(rewards):
    mixture = sum(og.advantages(rewards, Max(k)) / k for k in range(1, N))
    assert_allclose(og.advantages(rewards, "maxrl"), mixture, atol=1e-12 * N * (1 + np.ptp(rewards)))


@given(GROUPS, OBJECTIVES)
def test_advantages_are_a_transformation_of_the_reward(rewards, objective):
    """A = f(R) - mean f with f piecewise linear, slope N w_m(N-1) on gap m."""
    slopes = N * og.sample_weights(at_size(objective, N - 1), N - 1)
    for r, a in zip(rewards, og.advantages(rewards, objective), strict=True):
        knots = np.sort(r)
        heights = np.concatenate([[0], np.cumsum(slopes * np.diff(knots))])
        f = np.interp(r, *map(np.array, zip(*dict(zip(knots, heights, strict=True)).items(), strict=True)))
        assert_allclose(a, f - f.mean(), atol=slack(rewards, objective))


@given(GROUPS, st.integers(1, N - 1))
def test_mirrored_rewards_mirror_the_objective(rewards, k):
    """The lower tail of R is the upper tail of -R."""
    for low, high in [(f"min@{k}", f"max@{k}"), (f"bottom:1@{k}", f"top:1@{k}"), ("cvar:0.3", "uppercvar:0.3")]:
        lower, upper = og.advantages(rewards, low), -og.advantages(-rewards, high)
        assert_allclose(lower, upper, atol=1e-11 * (1 + np.ptp(rewards)))
    half = og.advantages(rewards, f"max@{k}") / 2 + og.advantages(rewards, f"min@{k}") / 2
    assert_allclose(og.advantages(rewards, f"midrange@{k}"), half, atol=1e-11 * (1 + np.ptp(rewards)))


def test_rank_advantages_times_weights_are_the_advantages():
    alpha = [0.5, -2.0, 1.0, 3.0]
    for baseline in ("leave_one_out", "k_minus_one", "none"):
        product = og.rank_advantages(REWARDS, 4, baseline=baseline) @ alpha
        assert_allclose(product, og.advantages(REWARDS, Weights(*alpha), baseline=baseline), atol=1e-12)
    assert_allclose(og.order_statistics(REWARDS, 4) @ alpha, og.value(REWARDS, Weights(*alpha)), atol=1e-12)
    assert_allclose(og.order_statistics(REWARDS, N), np.sort(REWARDS), rtol=1e-14)


def test_annealing_is_linear_in_progress():
    start, end = og.advantages(REWARDS, "mean"), og.advantages(REWARDS, "cvar:0.2")
    for t in (0, 0.1, 0.5, 1):
        got = og.advantages(REWARDS, og.anneal("mean", "cvar:0.2", t))
        assert_allclose(got, (1 - t) * start + t * end, atol=1e-13)


@pytest.mark.parametrize("baseline", ["leave_one_out", "k_minus_one", "none"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_rank_advantages_are_those_of_every_rank(baseline, axis):
    rewards = np.random.default_rng(0).normal(size=(7, 8, 9))
    got = og.rank_advantages(rewards, 5, axis=axis, baseline=baseline)
    masked = og.rank_advantages(rewards, 5, axis=axis, baseline=baseline, where=np.ones_like(rewards, bool))
    assert got.shape == masked.shape == (7, 8, 9, 5)
    some = np.random.default_rng(1).permuted(np.indices(rewards.shape)[axis] > 0, axis=axis)  # one less in each group
    partly = og.rank_advantages(rewards, 5, axis=axis, baseline=baseline, where=some)
    for j in range(5):
        expected = og.advantages(rewards, f"rank:{5 - j}@5", axis=axis, baseline=baseline, where=some)
        assert_allclose(partly[..., j], expected, atol=1e-12)
        expected = og.advantages(rewards, f"rank:{5 - j}@5", axis=axis, baseline=baseline)
        assert_allclose(got[..., j], expected, atol=1e-12)
        assert_allclose(masked[..., j], expected, atol=1e-12)


def test_rank_advantages_of_a_large_group():
    rewards = np.random.default_rng(1).normal(size=2000)
    got = og.rank_advantages(rewards, 1000)
    for column, spec in ((0, "min@1000"), (499, "rank:501@1000"), (999, "max@1000")):
        expected = og.advantages(rewards, spec)
        assert_allclose(got[:, column], expected, atol=1e-12 * np.abs(expected).max() + 1e-13)
    assert_allclose(got.mean(-1), og.advantages(rewards, "mean"), atol=1e-10)
