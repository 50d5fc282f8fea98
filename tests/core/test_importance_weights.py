"""Importance weights: the weighted empirical distribution, exactly."""

from fractions import Fraction as F
from itertools import product

import numpy as np
import pytest
from catalogue import ALL, at_size
from hypothesis import given
from hypothesis import strategies as st
from libraries import EAGER, library
from numpy.testing import assert_allclose
from strategies import groups

import ordergrad as og

N = 6
REWARDS = np.array([0.5, -1.0, 2.0, 0.5, 3.0, -0.25])
WEIGHTS = st.lists(st.integers(0, 5), min_size=N, max_size=N).filter(any).map(np.array)
SOME = ["mean", "max@3", "cvar:0.4", "gini", "0.7*mean-0.3*max@2.5"]


@pytest.mark.parametrize("objective", ALL, ids=str)
def test_agrees_with_the_exact_values_of_the_weighted_distribution(objective):
    weight = np.array([0.5, 2.0, 0.0, 1.0, 0.25, 1.25])
    probs = weight / weight.sum()
    whole, sized = (at_size(og.parse(objective), k) for k in (N, N - 1))
    assert_allclose(
        og.value(REWARDS, objective, sample_weight=weight), og.exact.value(REWARDS, probs, whole), atol=1e-12
    )
    a = og.advantages(REWARDS, objective, sample_weight=weight)
    assert_allclose(a, og.exact.advantages(REWARDS, probs, sized), atol=1e-12)
    assert a @ probs == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("objective", ALL, ids=str)
def test_uniform_weights_have_the_spectrum_as_slopes(objective):
    """A_(m+1) - A_(m) = phi(m/N) g_m, centred."""
    sized = at_size(og.parse(objective), N - 1)
    a = og.advantages(REWARDS, objective, sample_weight=np.ones(N))[REWARDS.argsort()]
    slopes = og.spectrum(sized, np.arange(1, N) / N)
    assert_allclose(np.diff(a), slopes * np.diff(np.sort(REWARDS)), atol=1e-12)
    assert a.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("spec", SOME)
@given(rewards=groups(N), weight=WEIGHTS)
def test_whole_weights_are_copies(spec, rewards, weight):
    """A sample of weight 3 is three samples of weight 1, and weight 0 is none."""
    spec = spec.replace("cvar:0.4", "cvar:0.4@4")
    rewards = rewards[0]
    copies = np.repeat(rewards, weight)
    scale = 1e-12 * (1 + np.abs(rewards).max())
    v = og.value(copies, spec, sample_weight=np.ones(len(copies)))
    assert_allclose(og.value(rewards, spec, sample_weight=weight), v, atol=scale)
    a = og.advantages(rewards, spec, sample_weight=weight)
    each = og.advantages(copies, spec, sample_weight=np.ones(len(copies)))
    assert_allclose(np.repeat(a, weight), each, atol=10 * scale)


@pytest.mark.parametrize("spec", SOME)
def test_zero_weights_and_masks_ignore_a_sample(spec):
    """Whatever its reward is; the mask makes its advantage 0 as well."""
    spec = spec.replace("cvar:0.4", "cvar:0.4@4")
    weight = np.array([1.0, 2.0, 0.0, 1.5, 1.0, 0.5])
    kept = weight > 0
    alone = og.advantages(REWARDS[kept], spec, sample_weight=weight[kept])
    for other in (-100.0, 0.0, 0.7, 1e6):
        rewards = np.where(kept, REWARDS, other)
        assert_allclose(og.advantages(rewards, spec, sample_weight=weight)[kept], alone, atol=1e-12)
        value = og.value(REWARDS[kept], spec, sample_weight=weight[kept])
        assert_allclose(og.value(rewards, spec, sample_weight=weight), value, atol=1e-12)
    rewards = np.where(kept, REWARDS, np.nan)
    masked = og.advantages(rewards, spec, sample_weight=np.where(kept, weight, 9.0), where=kept)
    assert_allclose(masked[kept], alone, atol=1e-12)
    assert masked[~kept] == 0


@pytest.mark.parametrize("objective", ALL, ids=str)
def test_open_levels_take_the_valid_samples_of_their_own_group(objective):
    """However far a group is padded, and whatever the sizes of the groups beside it."""
    rng = np.random.default_rng(3)
    sizes = np.array([4, 5, 9, 4, 12])
    for width in (12, 30):
        mask = np.arange(width) < sizes[:, None]
        rewards, weight = rng.normal(size=mask.shape), rng.uniform(0, 2, size=mask.shape)
        options = {"where": mask, "sample_weight": weight}
        a = og.advantages(rewards, objective, **options)
        v, error = og.value_and_error(rewards, objective, **options)
        assert_allclose(og.value(rewards, objective, **options), v, rtol=1e-14)
        assert (a[~mask] == 0).all()
        for row, n in enumerate(sizes):
            probs = weight[row, :n] / weight[row, :n].sum()
            whole, sized = (at_size(og.parse(objective), k) for k in (n, n - 1))
            alone = og.exact.advantages(rewards[row, :n], probs, sized)
            assert_allclose(a[row, :n], alone, atol=1e-11 * (1 + np.abs(alone).max()))
            assert float(v[row]) == pytest.approx(float(og.exact.value(rewards[row, :n], probs, whole)), rel=1e-9)
            assert float(error[row]) == pytest.approx(np.sqrt((probs * alone) @ (probs * alone)), rel=1e-9)


def test_equal_weights_in_padded_groups_by_hand():
    """The mean of the worst half of 4 rewards drawn from 0, 1, 2, 5 with replacement."""
    draws = [sorted(draw) for draw in product([0, 1, 2, 5], repeat=4)]
    expected = F(sum(d[0] + d[1] for d in draws), 2 * len(draws))
    for n in (4, 8, 100):
        rewards, mask = np.zeros(n), np.arange(n) < 4
        rewards[:4] = [0, 1, 2, 5]
        got = og.value(rewards, "cvar:0.5", where=mask, sample_weight=np.ones(n))
        assert float(got) == pytest.approx(float(expected), rel=1e-14)


def test_ragged_groups_with_weights_equal_groups_alone():
    rng = np.random.default_rng(1)
    ids = rng.permutation(np.repeat(np.arange(40), rng.integers(2, 40, 40)))
    rewards, weight, mask = rng.normal(size=len(ids)), rng.uniform(0, 2, size=len(ids)), rng.random(len(ids)) < 0.8
    for spec in ("cvar:0.3", "maxrl", "max@3"):
        for where in (None, mask):
            a = og.group_advantages(rewards, ids, spec, where=where, sample_weight=weight, small="zero")
            for g in range(40):
                own = ids == g
                options = {} if where is None else {"where": where[own]}
                alone = og.advantages(rewards[own], spec, sample_weight=weight[own], small="zero", **options)
                assert_allclose(a[own], alone, atol=1e-11)


@pytest.mark.parametrize("small", ["zero", "shrink"])
def test_groups_without_any_weight(small):
    """As small groups without weights: advantages 0, values and errors NaN; the others do not notice."""
    rewards = np.array([[1.0, 2.0, 4.0], [5.0, 3.0, 0.0], [1.0, 0.0, 2.0]])
    weight = np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    mask = np.array([[True] * 3, [True] * 3, [True, True, False]])
    a = og.advantages(rewards, "cvar:0.5", sample_weight=weight, where=mask, small=small)
    assert_allclose(a[0], og.advantages(rewards[0], "cvar:0.5", sample_weight=weight[0]))
    assert (a[1:] == 0).all()
    v, error = og.value_and_error(
        rewards, "cvar:0.5", sample_weight=weight, where=mask, small="nan" if small == "zero" else small
    )
    assert float(v[0]) == pytest.approx(float(og.value(rewards[0], "cvar:0.5", sample_weight=weight[0])))
    assert np.isfinite(error[0])
    assert np.isnan(v[1:]).all()
    assert np.isnan(error[1:]).all()
    with pytest.raises(ValueError, match="got a group of weights 0; small='shrink' would accept it"):
        og.advantages(rewards, "cvar:0.5", sample_weight=weight, where=mask)


def test_more_rewards_compared_than_sampled():
    """K draws with replacement: max@9 of three rewards, of which 9 draws miss the best with probability (1 - p)^9."""
    weight = np.array([1.0, 2.0, 1.0])
    v = og.value([0.0, 0.0, 1.0], "max@9", sample_weight=weight)
    assert float(v) == pytest.approx(1 - 0.75**9, rel=1e-14)
    a = og.advantages([0.0, 0.0, 1.0], "max@9", sample_weight=weight)
    assert_allclose(np.diff(a), [0, 9 * 0.75**8], rtol=1e-13)


@given(groups(N), WEIGHTS, st.integers(-20, 20))
def test_only_ratios_of_weights_matter(rewards, weight, power):
    a = og.advantages(rewards, "cvar:0.4", sample_weight=weight)
    assert_allclose(og.advantages(rewards, "cvar:0.4", sample_weight=weight * 2.0**power), a, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize(("n", "spec"), [(256, "cvar:0.1"), (4096, "max@1000"), (4096, "max@4000"), (4096, "wang:0.5")])
def test_float32_is_rounded_but_not_accumulated(name, n, spec):
    """Levels near 1 to a power of thousands: they need more digits than the rewards."""
    lib, rng = library(name), np.random.default_rng(0)
    rewards, weight = rng.normal(size=n).astype(np.float32), rng.uniform(0.5, 1.5, size=n).astype(np.float32)
    small = lib.array(rewards, "float32"), lib.array(weight, "float32")
    probs = (weight / weight.sum()).astype(np.float32)
    expected = og.advantages(rewards.astype(float), spec, sample_weight=weight.astype(float))
    got = og.advantages(small[0], spec, sample_weight=small[1])
    assert got.dtype == small[0].dtype
    assert np.abs(lib.numpy(got) - expected).max() < 1e-6 * np.abs(expected).max()
    value, error = og.value_and_error(small[0], spec, sample_weight=small[1])
    exact = og.value_and_error(rewards.astype(float), spec, sample_weight=weight.astype(float))
    assert value.dtype == error.dtype == small[0].dtype
    assert_allclose([float(value), float(error)], [float(x) for x in exact], rtol=1e-6)
    if "@" in spec:
        got = og.exact.value(small[0], lib.array(probs, "float32"), spec)
        assert got.dtype == small[0].dtype
        exact = og.exact.value(rewards.astype(float), probs.astype(float), spec)
        assert float(got) == pytest.approx(float(exact), rel=1e-6)


def test_whole_numbers_keep_the_default_dtype():
    import torch

    ones = torch.ones(6)
    for function in (og.advantages, og.value):
        assert function(torch.arange(6), "max@3", sample_weight=ones).dtype == torch.float32
    assert all(part.dtype == torch.float32 for part in og.value_and_error(torch.arange(6), "mean", sample_weight=ones))
    assert og.exact.value(torch.arange(6), ones / 6, "max@3").dtype == torch.float32
    assert og.exact.advantages(torch.arange(6), ones / 6, "max@3").dtype == torch.float32


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e308, 1.7e308])
def test_weights_of_any_size(size):
    expected = og.advantages(REWARDS, "max@3", sample_weight=np.ones(N))
    assert_allclose(og.advantages(REWARDS, "max@3", sample_weight=np.full(N, size)), expected, rtol=1e-13)
    groups = np.stack([np.full(N, size), np.zeros(N)])
    found = og.advantages(np.stack([REWARDS, REWARDS]), "max@3", sample_weight=groups, small="zero")
    assert_allclose(found, [expected, np.zeros(N)], rtol=1e-13)


def test_the_mean_is_the_self_normalised_mean():
    weight = np.array([1.0, 2.0, 0.5, 1.5, 1.0, 0.0])
    mean = weight @ REWARDS / weight.sum()
    v, se = og.value_and_error(REWARDS, "mean", sample_weight=weight)
    assert float(v) == pytest.approx(mean, rel=1e-14)
    assert_allclose(og.advantages(REWARDS, "mean", sample_weight=weight), REWARDS - mean, atol=1e-14)
    assert float(se) == pytest.approx(np.sqrt(weight**2 @ (REWARDS - mean) ** 2) / weight.sum(), rel=1e-12)


@pytest.mark.parametrize("spec", ["mean", "max@3", "cvar:0.4@5", "gini"])
def test_consistent_under_another_sampling_distribution(spec):
    """Drawn in the proportions of q, weighted with p/q, the limit is the exact gradient under p: no bias is left."""
    outcomes, p = np.array([1.0, -2.0, 0.5]), np.array([0.5, 0.2, 0.3])
    counts = np.array([2, 5, 3])  # N q of a sample that has exactly the proportions of q
    draws = np.repeat(np.arange(3), counts)
    weight = (p / (counts / counts.sum()))[draws]
    a = og.advantages(outcomes[draws], spec, sample_weight=weight)
    scores = np.eye(3)[draws] - p
    gradient = (weight / weight.sum() * a) @ scores
    assert_allclose(gradient, p * og.exact.advantages(outcomes, p, spec), atol=1e-14)
    assert float(og.value(outcomes[draws], spec, sample_weight=weight)) == pytest.approx(
        float(og.exact.value(outcomes, p, spec)), abs=1e-14
    )
