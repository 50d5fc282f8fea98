"""Every estimator against enumeration of subsets in exact fractions: N up to 7, all K, signed weights, ties."""

from fractions import Fraction as F

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import ordergrad as og
from ordergrad.objectives import Weights

BASELINES = ["leave_one_out", "k_minus_one", "none"]
INTEGERS = st.integers(-9, 9)


@st.composite
def problems(draw, n_max=7, n_min=1, below=0):
    """Return integer rewards with ties and K signed rank weights, K at most N - below."""
    n = draw(st.integers(max(n_min, 1 + below), n_max))
    k = draw(st.integers(1, n - below))
    rewards = draw(st.lists(st.integers(-3, 3) | st.integers(-50, 50), min_size=n, max_size=n))
    return rewards, draw(st.lists(INTEGERS, min_size=k, max_size=k))


def close(got, expected):
    expected = np.array(expected, dtype=np.float64)
    assert got.shape == expected.shape
    assert_allclose(got, expected, rtol=1e-12, atol=1e-11)


@given(problems())
@settings(max_examples=80)
def test_value(problem):
    rewards, alpha = problem
    close(og.value(rewards, Weights(*alpha)), reference.value(alpha, rewards))
    close(og.include_one(rewards, Weights(*alpha)), reference.include_one(alpha, rewards))


@given(problems(below=1))
@settings(max_examples=80)
def test_leave_one_out(problem):
    rewards, alpha = problem
    close(og.leave_one_out(rewards, Weights(*alpha)), reference.leave_one_out(alpha, rewards))


@pytest.mark.parametrize("baseline", BASELINES)
@given(data=st.data())
@settings(max_examples=80)
def test_advantages(data, baseline):
    """The second baseline and none work for K = N too."""
    below, least = {"leave_one_out": (1, 2), "k_minus_one": (0, 2), "none": (0, 1)}[baseline]
    rewards, alpha = data.draw(problems(below=below, n_min=least))
    expected = reference.advantages(reference.fractions(alpha), reference.fractions(rewards), baseline)
    close(og.advantages(rewards, Weights(*alpha), baseline=baseline), expected)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("n", range(2, 8))
def test_every_rank_of_every_size(n, baseline):
    rewards = [3, -1, 4, 1, -5, 9, 3][:n]
    for k in range(1, n if baseline == "leave_one_out" else n + 1):
        ranks = og.rank_advantages(rewards, k, baseline=baseline)
        assert ranks.shape == (n, k)
        for j in range(k):
            unit = [F(i == j) for i in range(k)]
            close(ranks[:, j], reference.advantages(unit, reference.fractions(rewards), baseline))


@pytest.mark.parametrize("n", range(1, 8))
def test_order_statistics(n):
    rewards = [3, -1, 4, 1, -5, 9, 3][:n]
    for k in range(1, n + 1):
        units = np.eye(k, dtype=int).tolist()
        close(og.order_statistics(rewards, k), [reference.value(unit, rewards) for unit in units])


@pytest.mark.parametrize("baseline", BASELINES)
@given(data=st.data())
def test_mixtures_add_over_sizes(data, baseline):
    """Coefficients 1/2 and -3 of statistics of two sizes."""
    rewards, alpha = data.draw(problems(below=1, n_min=2))
    beta = data.draw(st.lists(INTEGERS, min_size=1, max_size=len(rewards) - 1))
    exact = [
        reference.advantages(reference.fractions(w), reference.fractions(rewards), baseline) for w in (alpha, beta)
    ]
    mixture = 0.5 * Weights(*alpha) - 3 * Weights(*beta)
    close(og.advantages(rewards, mixture, baseline=baseline), [a / 2 - 3 * b for a, b in zip(*exact, strict=True)])


def test_two_samples_do_for_the_mean_and_not_for_more():
    close(og.advantages([1, 5], "mean"), [-4, 4])
    with pytest.raises(ValueError, match="k must satisfy 1 <= k < N; got k=2, N=2"):
        og.advantages([1, 5], "max@2")
    close(og.advantages([1, 5], "max@2", baseline="k_minus_one"), [0, 8])
    close(og.advantages([7], "mean", baseline="none"), [7])


def masked_rows(draw, n=6):
    """Return three groups of n integers with masks that leave 3..n of them, and signed weights of size 1 or 2."""
    rewards = np.array(draw(st.lists(INTEGERS, min_size=3 * n, max_size=3 * n)), float).reshape(3, n)
    sizes = draw(st.lists(st.integers(3, n), min_size=3, max_size=3))
    mask = np.array([draw(st.permutations([i < size for i in range(n)])) for size in sizes])
    return rewards, mask, draw(st.lists(INTEGERS, min_size=1, max_size=2))


@pytest.mark.parametrize("garbage", [0.0, np.nan, np.inf, -np.inf, 1e30])
@given(data=st.data())
@settings(max_examples=15)
def test_masks_leave_the_group_of_valid_samples(data, garbage):
    """Whatever the masked rewards are."""
    rewards, mask, alpha = masked_rows(data.draw)
    rewards[~mask] = garbage
    objective = Weights(*alpha)

    def rows(function):
        out = np.zeros(rewards.shape)
        for i, m in enumerate(mask):
            out[i, m] = np.array(function(reference.fractions(rewards[i, m])), float)
        return out

    for baseline in BASELINES:
        got = og.advantages(rewards, objective, where=mask, baseline=baseline)
        close(got, rows(lambda r, b=baseline: reference.advantages(reference.fractions(alpha), r, b)))
    close(og.include_one(rewards, objective, where=mask), rows(lambda r: reference.include_one(alpha, r)))
    close(og.leave_one_out(rewards, objective, where=mask), rows(lambda r: reference.leave_one_out(alpha, r)))
    valid = [reference.fractions(r[m]) for r, m in zip(rewards, mask, strict=True)]
    close(og.value(rewards, objective, where=mask), [reference.value(alpha, r) for r in valid])
    for got, r in zip(og.order_statistics(rewards, 3, where=mask), valid, strict=True):
        close(got, [reference.value(unit, r) for unit in np.eye(3, dtype=int).tolist()])
    v, se = og.value_and_error(rewards, objective, where=mask)
    plain = [og.value_and_error(r[m], objective) for r, m in zip(rewards, mask, strict=True)]
    close(v, [p[0] for p in plain])
    close(se, [p[1] for p in plain])


@given(st.data())
def test_open_levels_take_each_groups_own_size(data):
    rewards, mask, _ = masked_rows(data.draw)
    got = og.advantages(rewards, "cvar:0.4", where=mask)
    for row, r, m in zip(got, rewards, mask, strict=True):
        close(row[m], og.advantages(r[m], f"cvar:0.4@{m.sum() - 1}"))


@given(st.data())
def test_ragged_groups(data):
    """Flat rewards in any order, groups of 2..6."""
    sizes = data.draw(st.lists(st.integers(3, 6), min_size=1, max_size=4))
    ids = data.draw(st.permutations([g for g, size in enumerate(sizes) for _ in range(size)]))
    rewards = data.draw(st.lists(INTEGERS, min_size=len(ids), max_size=len(ids)))
    alpha = data.draw(st.lists(INTEGERS, min_size=1, max_size=2))
    for baseline in BASELINES:
        expected = np.zeros(len(ids))
        for g in range(len(sizes)):
            rows = [i for i, own in enumerate(ids) if own == g]
            members = [F(rewards[i]) for i in rows]
            expected[rows] = np.array(reference.advantages(reference.fractions(alpha), members, baseline), float)
        close(og.group_advantages(rewards, ids, Weights(*alpha), baseline=baseline), expected)


@given(problems(below=1, n_min=2))
def test_standard_error_is_the_jackknife(problem):
    rewards, alpha = problem
    n = len(rewards)
    v, se = og.value_and_error(rewards, Weights(*alpha))
    without = reference.leave_one_out(reference.fractions(alpha), reference.fractions(rewards))
    center = reference.average(without)
    variance = F(n - 1, n) * sum((w - center) ** 2 for w in without)
    close(v, reference.value(alpha, rewards))
    assert float(se) == pytest.approx(float(variance) ** 0.5, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"where": np.array([True])}])
@pytest.mark.parametrize("small", ["nan", "shrink"])
def test_one_reward_says_nothing_about_its_error(small, options):
    _, error = og.value_and_error([3.0], "mean", small=small, **options)
    assert np.isnan(error)
