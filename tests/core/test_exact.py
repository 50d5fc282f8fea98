"""Known rewards and probabilities against enumeration of all draws, and population levels against their definition."""

from fractions import Fraction as F

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import integrate, stats

import ordergrad as og
from ordergrad.objectives import Spectrum, Weights


@st.composite
def distributions(draw):
    """Return integer rewards, with ties, and probabilities in 16ths, zeros included."""
    m = draw(st.integers(1, 4))
    rewards = draw(st.lists(st.integers(-5, 5), min_size=m, max_size=m))
    cuts = sorted(draw(st.lists(st.integers(0, 16), min_size=m - 1, max_size=m - 1)))
    return rewards, [F(b - a, 16) for a, b in zip([0, *cuts], [*cuts, 16], strict=True)]


@given(distributions(), st.lists(st.integers(-5, 5), min_size=1, max_size=4))
def test_enumeration_of_all_draws(distribution, alpha):
    rewards, probs = distribution
    p = [float(x) for x in probs]
    value = reference.exact_value(alpha, rewards, probs)
    a = [float(x) for x in reference.exact_advantages(alpha, rewards, probs)]
    assert float(og.exact.value(rewards, p, Weights(*alpha))) == pytest.approx(float(value), abs=1e-12)
    got = og.exact.advantages(rewards, p, Weights(*alpha))
    assert_allclose(got, a, atol=1e-11)
    assert got @ p == pytest.approx(0, abs=1e-12)
    units = np.eye(len(alpha), dtype=int).tolist()
    expected = [float(reference.exact_value(unit, rewards, probs)) for unit in units]
    assert_allclose(og.exact.order_statistics(rewards, p, len(alpha)), expected, atol=1e-12)


@given(distributions(), st.lists(st.integers(-5, 5), min_size=1, max_size=4))
def test_include_one_fixes_one_draw(distribution, alpha):
    rewards, probs = distribution
    p = [float(x) for x in probs]
    value = reference.exact_value(alpha, rewards, probs)
    expected = [float(value + a / len(alpha)) for a in reference.exact_advantages(alpha, rewards, probs)]
    assert_allclose(og.exact.include_one(rewards, p, Weights(*alpha)), expected, atol=1e-11)


def test_include_one_adds_over_terms_and_sizes():
    r, p = np.array([3.0, -1.0, 0.5]), np.array([0.2, 0.5, 0.3])
    q = lambda spec: og.exact.include_one(r, p, spec)  # noqa: E731
    assert_allclose(q("mean"), r, atol=1e-14)
    assert_allclose(q("max@2.25"), 0.75 * q("max@2") + 0.25 * q("max@3"), atol=1e-14)
    assert_allclose(q("2*mean-0.5*gini+cvar:0.4@3"), 2 * r - 0.5 * q("gini") + q("cvar:0.4@3"), atol=1e-14)
    assert_allclose(q("cvar:0.4"), np.full(3, og.exact.value(r, p, "cvar:0.4")), atol=1e-15)
    table = og.exact.include_one(np.stack([r, r]).T, p[:, None], "max@2", axis=0)
    assert_allclose(table, np.stack([q("max@2")] * 2).T, atol=1e-15)


@pytest.mark.parametrize("k", [1, 7, 512])
def test_order_statistics_of_many_outcomes_are_those_of_every_rank(k):
    rng = np.random.default_rng(k)
    rewards, probs = rng.normal(size=(2, 300)), rng.dirichlet(np.full(300, 0.3), size=2)
    got = og.exact.order_statistics(rewards, probs, k)
    assert got.shape == (2, k)
    assert (np.diff(got) >= 0).all()
    for j in sorted({1, k // 2 + 1, k}):
        assert_allclose(got[:, k - j], og.exact.value(rewards, probs, f"rank:{j}@{k}"), atol=1e-11)
    assert_allclose(got.mean(-1), og.exact.value(rewards, probs, "mean"), atol=1e-11)


@given(distributions())
def test_mixtures_and_real_sizes(distribution):
    rewards, probs = distribution
    p = [float(x) for x in probs]
    value = lambda spec: float(og.exact.value(rewards, p, spec))  # noqa: E731
    assert value("max@2.25") == pytest.approx(0.75 * value("max@2") + 0.25 * value("max@3"), abs=1e-12)
    assert value("0.5*mean-2*min@3") == pytest.approx(0.5 * value("mean") - 2 * value("min@3"), abs=1e-12)
    assert value("maxrl@3") == pytest.approx(sum(value(f"max@{k}") / k for k in (1, 2, 3)), abs=1e-12)


QUANTILE_LEVELS = [0.05, 0.1, 0.3, 0.5, 0.62, 0.9]


@pytest.mark.parametrize("q", QUANTILE_LEVELS)
def test_population_levels(q):
    """The tail mean splits the outcome at the boundary; the quantile is the smallest value that reaches q."""
    rewards, probs = np.array([3.0, -10.0, 1.0, 7.0]), np.array([0.3, 0.1, 0.4, 0.2])
    r, p = np.sort(rewards), probs[np.argsort(rewards)]
    cdf = np.cumsum(p)

    def mean_between(lo, hi):
        below = np.concatenate([[0], cdf[:-1]])
        mass = np.clip(np.minimum(cdf, hi) - np.maximum(below, lo), 0, None)
        return mass @ r / (hi - lo)

    quantile = r[np.searchsorted(cdf, q - 1e-12)]
    value = lambda spec: float(og.exact.value(rewards, probs, spec))  # noqa: E731
    assert value(f"cvar:{q}") == pytest.approx(mean_between(0, q), rel=1e-12)
    assert value(f"uppercvar:{q}") == pytest.approx(mean_between(1 - q, 1), rel=1e-12)
    if q < 0.5:
        assert value(f"trimmed:{q}") == pytest.approx(mean_between(q, 1 - q), rel=1e-12)
        assert value(f"range:{q}:0.75") == pytest.approx(mean_between(q, 0.75), rel=1e-12)
    if abs(cdf - q).min() > 1e-9:
        assert value(f"var:{q}") == quantile
        assert value(f"quantile:{q}") == quantile


def test_population_levels_of_a_tie_at_the_level():
    assert float(og.exact.value([0.0, 1.0], [0.5, 0.5], "var:0.5")) == 0
    assert float(og.exact.value([0.0, 1.0], [0.5, 0.5], "cvar:0.5")) == 0
    assert float(og.exact.value([0.0, 1.0], [0.5, 0.5], "median@2")) == 0.5


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("m", [3, 7, 10, 19, 100])
def test_levels_on_the_boundary_of_equal_outcomes(m, dtype):
    """Sums of 1/m are not exact: the jump belongs to the outcome that reaches the level in fractions."""
    r, p = np.arange(m, dtype=dtype), np.full(m, 1 / m, dtype)
    uniform = [F(1, m)] * m
    tolerance = 1e-9 if dtype is np.float64 else 1e-4

    def value(spec):
        return float(og.exact.value(r, p, spec))

    def quantile(q):
        return next(i for i in range(m) if sum(uniform[: i + 1]) >= q)

    for j in range(1, m):
        q, level = F(j, m), j / m
        assert quantile(q) == j - 1
        assert value(f"var:{level!r}") == value(f"quantile:{level!r}") == j - 1
        if 2 * j < m:
            middle = F(sum(range(j, m - j)), m) + q * (quantile(q) + quantile(1 - q))
            # mass p at the p-quantile, which the rounding of the level must not move, and what lies between
            assert value(f"winsorized:{level!r}") == pytest.approx(float(middle), abs=tolerance * m)
        a = og.exact.advantages(r, p, f"cvar:{level!r}")
        assert_allclose(np.diff(a)[j - 1 :], 0, atol=tolerance)
        assert_allclose(np.diff(a)[: j - 1], m / j, rtol=tolerance)
    if m % 2 == 0:
        assert value("median") == m // 2 - 1


@pytest.mark.parametrize(
    "spec", ["wang:0.5", "wang:-0.5", "power:0.5", "maxrl", "mean-0.5*wang:0.5", "cvar:0.3", "max@3"]
)
@pytest.mark.parametrize("where", [0, 2, 4])
def test_outcomes_of_probability_zero_change_nothing_for_the_others(spec, where):
    """Also at the ends, where a spectrum may be infinite."""
    r, p = np.array([-1.0, 0.5, 2.0, 5.0]), np.array([0.1, 0.2, 0.3, 0.4])
    more = {0: -7.0, 2: 1.0, 4: 9.0}[where]
    rewards, probs = np.insert(r, where, more), np.insert(p, where, 0.0)
    kept = probs > 0
    a = og.exact.advantages(rewards, probs, spec)
    assert_allclose(a[kept], og.exact.advantages(r, p, spec), atol=1e-13)
    assert not np.isnan(a).any()
    if spec != "maxrl":
        assert float(og.exact.value(rewards, probs, spec)) == pytest.approx(
            float(og.exact.value(r, p, spec)), rel=1e-13
        )
    infinite = {("wang:0.5", 0): -np.inf, ("wang:-0.5", 4): np.inf, ("power:0.5", 4): np.inf, ("maxrl", 4): np.inf}
    infinite["mean-0.5*wang:0.5", 0] = np.inf
    if (spec, where) in infinite:
        assert a[~kept] == infinite[spec, where]
    else:
        assert np.isfinite(a).all()


@pytest.mark.parametrize("m", [9, 10, 49])
@pytest.mark.parametrize("spec", ["power:0.5", "wang:0.5", "wang:-0.5", "exponential:2"])
def test_probabilities_that_sum_to_one_but_for_rounding(m, spec):
    p = np.append(np.full(m, 1 / m), 0.0)
    assert float(og.exact.value(np.arange(m + 1.0), p, spec)) == pytest.approx(
        float(og.exact.value(np.arange(float(m)), p[:-1], spec)), rel=1e-13
    )
    a = og.exact.advantages(np.arange(m + 1.0), p, spec)
    assert_allclose(a[:-1], og.exact.advantages(np.arange(float(m)), p[:-1], spec), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("wang:0.8", -0.8),
        ("cvar:0.1", -stats.norm.pdf(stats.norm.ppf(0.1)) / 0.1),
        ("uppercvar:0.1", stats.norm.pdf(stats.norm.ppf(0.1)) / 0.1),
        ("max@2", 1 / np.sqrt(np.pi)),
        ("gini", 2 / np.sqrt(np.pi)),
        ("var:0.25", stats.norm.ppf(0.25)),
        ("trimmed:0.1", 0.0),
        ("lmoment:4", 0.1226017195 / np.sqrt(np.pi)),
    ],
)
def test_normal_rewards_on_a_fine_grid(spec, expected):
    m = 20_000
    rewards = stats.norm.ppf((np.arange(m) + 0.5) / m)
    assert float(og.exact.value(rewards, np.full(m, 1 / m), spec)) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("spec", ["exponential:2", "power:3", "power:0.7", "cvar:0.2@8", "midrange@4", "maxrl@6"])
def test_value_is_the_integral_of_spectrum_times_quantiles(spec):
    """J = integral of phi(u) Q(u) du with Q(u) = u^2."""
    m = 5000
    levels = (np.arange(m) + 0.5) / m
    value = og.exact.value(levels**2, np.full(m, 1 / m), spec)
    expected = integrate.quad(lambda u: float(og.spectrum(spec, u)) * u * u, 0, 1, limit=200)[0]
    assert float(value) == pytest.approx(expected, abs=1e-5)


def test_population_spectrum_from_a_function():
    phi = Spectrum(lambda u: 3 * u**2)
    rewards, probs = [0.0, 1.0, 4.0], [0.25, 0.25, 0.5]
    assert float(og.exact.value(rewards, probs, phi)) == pytest.approx(float(og.exact.value(rewards, probs, "max@3")))
    assert_allclose(og.exact.advantages(rewards, probs, phi), og.exact.advantages(rewards, probs, "max@3"))


@pytest.mark.parametrize("k", [50, 1000, 20_000])
def test_large_comparison_sizes_stay_exact(k):
    """max@K of two outcomes is 1 - (1-p)^K, advantages K (1-p)^(K-1) apart."""
    p = 2.0 / k
    probs = [1 - p, p]
    expected = -np.expm1(k * np.log1p(-p))
    assert float(og.exact.value([0.0, 1.0], probs, f"max@{k}")) == pytest.approx(expected, rel=1e-9)
    gap = np.diff(og.exact.advantages([0.0, 1.0], probs, f"max@{k}"))
    assert float(gap[0]) == pytest.approx(k * (1 - p) ** (k - 1), rel=1e-9)


def test_axes_and_broadcasting():
    rng = np.random.default_rng(0)
    rewards, probs = rng.normal(size=(3, 4, 2)), np.array([0.1, 0.2, 0.3, 0.4])
    by_row = [[og.exact.value(rewards[i, :, j], probs, "max@3") for j in range(2)] for i in range(3)]
    assert_allclose(og.exact.value(rewards, probs[:, None], "max@3", axis=1), by_row)
    a = og.exact.advantages(rewards, probs[:, None], "max@3", axis=1)
    assert a.shape == rewards.shape
    assert_allclose(a[1, :, 1], og.exact.advantages(rewards[1, :, 1], probs, "max@3"))
    assert og.exact.order_statistics(rewards, probs[:, None], 3, axis=1).shape == (3, 2, 3)
    several = np.stack([probs, probs[::-1]])
    assert og.exact.advantages(np.arange(4.0), several, "mean").shape == (2, 4)


@pytest.mark.parametrize(
    ("rewards", "probs", "text"),
    [
        ([0.0, 1.0], [0.5, 0.4], "sum 1"),
        ([0.0, 1.0], [1.5, -0.5], "nonnegative .* got sums from 1.0 to 1.0 and a smallest probability of -0.5"),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.6]], "got sums from 1.0 to 1.1 and"),
        ([0.0, 1.0], [0.2, 0.3, 0.5], r"shapes \(2,\) and \(3,\)"),
        ([0.0, np.nan], [0.5, 0.5], "finite"),
        ([0.0, np.inf], [0.5, 0.5], "finite"),
        ([0.0, 1.0], [np.nan, 0.5], "nonnegative with sum 1"),
        (1.0, 1.0, "same positive length"),
        ([], [], "positive length"),
    ],
)
def test_bad_distributions(rewards, probs, text):
    for function in (og.exact.value, og.exact.advantages):
        with pytest.raises(ValueError, match=text):
            function(rewards, probs, "mean")


@pytest.mark.parametrize("probs", [["a", "b"], [1j, 1], None])
def test_probabilities_that_are_not_numbers(probs):
    for function in (og.exact.value, og.exact.advantages):
        with pytest.raises(TypeError, match="probs must be real numbers; got an array of dtype"):
            function([0.0, 1.0], probs, "mean")
        with pytest.raises(ValueError, match="axis must satisfy -1 <= axis < 1; got axis=1"):
            function([0.0, 1.0], [0.5, 0.5], "mean", axis=1)
        with pytest.raises(TypeError, match=r"axis must be a whole number; got 0\.5"):
            function([0.0, 1.0], [0.5, 0.5], "mean", axis=0.5)
        with pytest.raises(TypeError, match="objective must be a string or an Objective; got list"):
            function([0.0, 1.0], [0.5, 0.5], ["mean"])


def test_open_levels_need_numpy():
    import torch

    with pytest.raises(ValueError, match=r"needs NumPy arrays; got cvar:0\.1: give a comparison size"):
        og.exact.value(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), "cvar:0.1")
    with pytest.raises(ValueError, match="no finite population value"):
        og.exact.value([0.0, 1.0], [0.5, 0.5], "maxrl")
    with pytest.raises(ValueError, match="not a function"):
        og.exact.advantages([0.0, 1.0], [0.5, 0.5], "median")


@pytest.mark.parametrize("q", [0.05, 0.1, 0.3, 0.7, 0.95])
def test_levels_of_float32_probabilities_are_reached_but_for_rounding(q):
    rewards, probs = np.array([0.0, 1.0], np.float32), np.array([q, 1 - q], np.float32)
    assert og.exact.value(rewards, probs, f"var:{q}") == 0
    assert_allclose(og.exact.advantages(rewards, probs, f"cvar:{q}"), 0, atol=1e-6)
