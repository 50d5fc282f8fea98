"""Sample weights against exact fractions: relative error below 1e-12 at any size, in memory O(N)."""

import tracemalloc
from fractions import Fraction as F
from math import comb

import numpy as np
import pytest
import reference
from catalogue import SIZED
from hypothesis import given
from hypothesis import strategies as st

import ordergrad as og
from ordergrad import bernstein, weights
from ordergrad import objectives as o
from ordergrad.bernstein import subset_weights
from ordergrad.weights import components, scan, smallest_group

QUANTITIES = ["value", "include_one", "excluded", "leave_one_out", "k_minus_one", "none"]


def relative_error(got, expected):
    """Return the largest error relative to the exact value, which is 0 only where the weight is exactly 0."""
    assert len(got) == len(expected)
    assert all((g == 0) == (e == 0) for g, e in zip(got, expected, strict=True))
    return max(float(abs(F(float(g)) - e) / abs(e)) for g, e in zip(got, expected, strict=True) if e)


@pytest.mark.parametrize("n", range(1, 8))
def test_every_small_size(n):
    for k in range(1, n + 1):
        for j in range(k):
            alpha = np.eye(k)[j]
            assert (
                relative_error(subset_weights(alpha, n), reference.sample_weights(alpha.astype(int).tolist(), n))
                < 1e-14
            )


@pytest.mark.parametrize("n", [4, 5, 30, 200])
@pytest.mark.parametrize("spec", SIZED)
def test_catalogue(spec, n):
    """Signed terms can cancel, so their error is relative to the terms without signs."""
    parts = [(F(c), reference.fractions(alpha.tolist())) for c, alpha in components(og.parse(spec), n - 1)]
    for m, got in enumerate(og.sample_weights(spec, n).tolist(), 1):
        exact = sum(c * reference.sample_weight(alpha, m, n) for c, alpha in parts)
        scale = sum(abs(c) * reference.sample_weight([abs(a) for a in alpha], m, n) for c, alpha in parts)
        assert abs(F(got) - exact) <= F(1e-13) * scale


@pytest.mark.parametrize(
    ("k", "n"), [(4, 4096), (256, 4096), (1000, 1500), (64, 65), (500, 500), (999, 1000), (2, 3000)]
)
@pytest.mark.parametrize("shape", ["max", "min", "cvar", "uppercvar", "trimmed", "middle", "dense"])
def test_sampled_positions(shape, k, n):
    middle = (k + 1) // 2
    objective = {
        "max": o.Max(k),
        "min": o.Min(k),
        "cvar": o.CVaR(0.3, k),
        "uppercvar": o.UpperCVaR(0.05, k),
        "trimmed": o.Trimmed(0.125, k),
        "middle": o.Rank(middle, k),
        "dense": o.Exponential(3.0, k),
    }[shape]
    alpha = og.rank_weights(objective)
    exact = reference.fractions(alpha.tolist())
    weights = og.sample_weights(objective, n)
    positions = sorted({1, 2, k // 2 + 1, n // 3, n // 2, n - k + 1, n - 1, n})
    expected = [reference.sample_weight(exact, m, n) for m in positions]
    normal = [i for i, e in enumerate(expected) if e == 0 or e > F(1, 10**290)]  # smaller ones may underflow
    got = weights[np.array(positions) - 1]
    assert relative_error(got[normal], [expected[i] for i in normal]) < 1e-12
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(alpha.sum(), rel=1e-12)


@pytest.mark.parametrize("n", [12, 13, 64, 200, 4096, 200_000])
@pytest.mark.parametrize("order", [3, 8, 12])
def test_weights_of_lmoments(order, n):
    """They cancel, so their error is relative to the largest."""
    alpha = [F((-1) ** (order - j) * comb(order - 1, j - 1), order) for j in range(1, order + 1)]
    positions = sorted({1, 2, *(1 + n * i // 97 for i in range(0, 97, 6)), n // 2, n - 1, n})
    expected = np.array([float(reference.sample_weight(alpha, m, n)) for m in positions])
    got = og.sample_weights(o.LMoment(order), n)[np.array(positions) - 1]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("spec", "k"), [("max", 1000), ("min", 1000), ("top:3", 100), ("cvar:0.1", 100), ("rank:7", 64)]
)
def test_a_million_samples(spec, k):
    n = 10**6
    spec = f"{spec}@{k}"
    alpha = reference.fractions(og.rank_weights(spec).tolist())
    weights = og.sample_weights(spec, n)
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1, rel=1e-12)
    positions = [1, 1000, 30_000, 500_000, 970_000, 999_000, n - k // 2, n]
    expected = [reference.sample_weight(alpha, m, n) for m in positions]
    normal = [i for i, e in enumerate(expected) if e == 0 or e > F(1, 10**290)]
    assert len(normal) >= 4
    assert relative_error(weights[np.array(positions) - 1][normal], [expected[i] for i in normal]) < 1e-12


@pytest.mark.parametrize("spec", ["maxrl@256", "wang:0.5@256", "cvar:0.3@256"])
def test_memory_is_linear(spec):
    """Dense weights too never build the K x N table of all ranks."""
    objective, n = og.parse(spec), 200_000
    components(objective, 1)
    tracemalloc.start()
    og.sample_weights(objective, n)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 8 * n


@given(st.data())
def test_degree_elevation_changes_no_sample_weight(data):
    alpha = data.draw(st.lists(st.integers(-5, 5), min_size=1, max_size=5))
    n = data.draw(st.integers(len(alpha) + 1, 8))
    higher = reference.elevate(alpha)
    assert reference.sample_weights(alpha, n) == reference.sample_weights(higher, n)
    lower = subset_weights(np.array(alpha, float), n)
    np.testing.assert_allclose(subset_weights(np.array(higher, float), n), lower, atol=1e-13)
    raised = og.rank_weights(o.Weights(*alpha), len(higher))
    np.testing.assert_allclose(raised, np.array(higher, float), atol=1e-14)


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("spec", ["mean", "max@3", "cvar:0.3@2.5", "gini"])
def test_the_smallest_group_is_the_smallest(spec, quantity):
    """K for averages that include, K + 1 for averages that exclude a sample."""
    objective = og.parse(spec)
    k = {"mean": 1, "max@3": 3, "cvar:0.3@2.5": 3, "gini": 2}[spec]
    need = {"leave_one_out": k + 1, "excluded": k + 1, "k_minus_one": max(k, 2)}.get(quantity, k)
    assert smallest_group(objective, quantity) == need
    slopes, offset, total = scan(objective, need, quantity)
    assert slopes.shape == offset.shape == (need - 1,)
    assert total.shape == (1,)
    assert np.isfinite([*slopes, *offset, *total]).all()


def test_weights_are_computed_once():
    calls = []

    def phi(u):
        calls.append(len(u))
        return 2 * u

    first = og.advantages(np.arange(9.0), o.Spectrum(phi, 5))
    count = len(calls)
    np.testing.assert_array_equal(og.advantages(np.arange(9.0), o.Spectrum(phi, 5)), first)
    assert count == len(calls) > 0


def test_results_are_the_callers_own():
    """Writing into returned weights changes nothing later."""
    for make in (
        lambda: og.rank_weights("max@4"),
        lambda: og.sample_weights("max@4", 4),
        lambda: og.sample_weights("max@4", 9),
    ):
        before = make().copy()
        make()[:] = 7
        np.testing.assert_array_equal(make(), before)


@pytest.mark.parametrize("k", [40, 100])
@pytest.mark.parametrize("kind", ["wang:1", "maxrl", "cvar:0.05", "noise", "one rank"])
def test_interpolated_weights_equal_the_sum_over_ranks(kind, k):
    """Relative to the sum of the terms' sizes, for every rank whose terms do not underflow."""
    n = 64 * k + 1001
    if kind == "noise":
        alpha = np.random.default_rng(0).normal(size=k)
    elif kind == "one rank":
        alpha = np.eye(k)[k // 3]
    else:
        alpha = og.rank_weights(f"{kind}@{k}")
    expected, scale = np.zeros(n), np.zeros(n)
    for j in np.flatnonzero(alpha).tolist():
        probabilities = bernstein._rank_probabilities(j + 1, k, n)
        expected += alpha[j] * probabilities
        scale += abs(alpha[j]) * probabilities
    got = bernstein._interpolated_weights(alpha, n)
    ordinary = scale > 1e-290
    assert (np.abs(got - expected)[ordinary] / scale[ordinary]).max() < 1e-12
    assert (np.abs(got[~ordinary]) < 1e-280).all()


def test_many_ranks_of_a_large_group():
    """The mean of the ranks' weights is that of the mean, by the way that sums over ranks cannot go."""
    n = 300_000
    equal = bernstein._interpolated_weights(np.full(500, 1 / 500), n)
    assert np.abs(n * equal - 1).max() < 1e-12
    dense = og.sample_weights("wang:1@500", n)
    assert dense.sum() == pytest.approx(1, rel=1e-12)
    assert (np.diff(dense) < 0).all()


@pytest.mark.parametrize(
    ("spec", "n", "note"),
    [
        ("cvar:0.01", 8, "in groups of 8, cvar:0.01 is min@7"),
        ("mean-var:0.1+uppercvar:0.01", 4, "in groups of 4, uppercvar:0.01 is max@3, var:0.1 is min@3"),
        ("median", 2, "in groups of 2, median is the mean"),
        ("cvar:0.1", 11, "in groups of 11, cvar:0.1 is min@10"),
        ("cvar:0.1", 12, ""),
        ("quantile:0.01", 16, "in groups of 16, quantile:0.01 is min@15"),
        ("median", 3, ""),
        ("trimmed:0.1", 8, ""),
        ("mean+max@8", 16, ""),
        ("cvar:0.01@4", 8, ""),
    ],
)
def test_notes_on_levels_below_what_a_group_holds(spec, n, note):
    assert weights.level_note(spec, n) == note
    if note and "mean" not in note and len(note.split(",")) == 2:
        rewards = np.random.default_rng(0).normal(size=n)
        same = note.split(" is ")[1]
        np.testing.assert_allclose(og.advantages(rewards, spec), og.advantages(rewards, same), atol=1e-12)
