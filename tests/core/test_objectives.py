"""Objectives: rank weights against first principles, spectra, limits, arithmetic."""

import pickle
from fractions import Fraction as F
from math import comb

import numpy as np
import pytest
from catalogue import ALL, OPEN, SIZED, at_size, between, interpolated, mean_of, unit, winsorized
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import integrate, special
from strategies import elementary, objectives

import ordergrad as og
from ordergrad import objectives as o
from ordergrad.objectives import Objective
from ordergrad.spec import names

LEVELS = st.integers(1, 39).map(lambda i: F(i, 40))
SIZES = st.integers(1, 12)


def check(objective, k, expected):
    assert_allclose(og.rank_weights(objective, k), [float(w) for w in expected], rtol=1e-12, atol=1e-15)


def test_the_catalogue_of_the_tests_is_complete():
    assert {part.name for spec in SIZED for _, part in og.parse(spec).terms()} == set(names())


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_ranks_that_are_counted(k):
    check(f"max@{k}", k, unit(k, k))
    check(f"min@{k}", k, unit(1, k))
    check(f"midrange@{k}", k, [(a + b) / 2 for a, b in zip(unit(1, k), unit(k, k), strict=True)])
    check("mean", k, [F(1, k)] * k)
    check(f"maxrl@{k}", k, [F(1, k + 1 - j) for j in range(1, k + 1)])
    for m in range(1, k + 1):
        top, bottom = mean_of(k + 1 - m, k, k), mean_of(1, m, k)
        check(f"top:{m}@{k}", k, top)
        check(f"bottom:{m}@{k}", k, bottom)
        check(f"rank:{m}@{k}", k, unit(k + 1 - m, k))
        check(f"topbottom:{m}@{k}", k, [(a + b) / 2 for a, b in zip(top, bottom, strict=True)])


@given(LEVELS, SIZES)
def test_tail_means_share_the_boundary_rank(q, k):
    lower = between(F(0), q, k)
    check(f"cvar:{float(q)}", k, lower)
    check(f"uppercvar:{float(q)}", k, lower[::-1])
    check("cvar:1", k, [F(1, k)] * k)


@given(LEVELS, LEVELS, SIZES)
def test_range_is_the_mean_between_levels(a, b, k):
    lo, hi = (min(a, b), max(a, b)) if a != b else (F(0), a)
    check(f"range:{float(lo)}:{float(hi)}", k, between(lo, hi, k))


@given(LEVELS, SIZES)
def test_quantiles_interpolate_between_positions(q, k):
    check(f"quantile:{float(q)}", k, interpolated(q * k + F(1, 2), k))
    check(f"quantile:{float(q)}:weibull", k, interpolated(q * (k + 1), k))
    check(f"quantile:{float(q)}:blom", k, interpolated(q * (k + F(1, 4)) + F(3, 8), k))
    check("median", k, interpolated(F(k + 1, 2), k))
    rank = next(j for j in range(1, k + 1) if F(j, k) >= q)
    check(f"var:{float(q)}", k, unit(rank, k))


@given(LEVELS.filter(lambda p: p < F(1, 2)), SIZES)
def test_robust_means(p, k):
    check(f"trimmed:{float(p)}", k, between(p, 1 - p, k))
    check(f"winsorized:{float(p)}", k, winsorized(p, k))


@pytest.mark.parametrize("r", [1, 2, 3, 4, 9])
def test_lmoment_weights(r):
    check(f"lmoment:{r}", r, [F((-1) ** (r - j) * comb(r - 1, j - 1), r) for j in range(1, r + 1)])
    check("gini", 2, [F(-1), F(1)])


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("q", [5e-324, 1e-300, 1e-13])
def test_tiny_levels_weigh_the_last_rank(q, k):
    for spec in (f"var:{q!r}", f"cvar:{q!r}", f"quantile:{q!r}"):
        check(spec, k, unit(1, k))
    check(f"uppercvar:{q!r}", k, unit(k, k))
    check(f"trimmed:{q!r}", k, between(F(q), 1 - F(q), k))
    check(f"winsorized:{q!r}", k, winsorized(F(q), k))


@pytest.mark.parametrize("k", [2, 4, 5])
def test_narrow_ranges_weigh_the_ranks_around_them(k):
    check("range:0.5:0.500000002", k, unit(k // 2 + 1, k))
    middle = [(a + b) / 2 for a, b in zip(unit((k + 1) // 2, k), unit(k // 2 + 1, k), strict=True)]
    for spec in ("trimmed:0.499999999", "winsorized:0.499999999"):
        assert_allclose(og.rank_weights(spec, k), [float(w) for w in middle], atol=1e-6)


@pytest.mark.parametrize("gamma", [1e-9, 0.5, 3.0, 700.0, 1000.0, 1e6])
def test_exponential_spectra_of_opposite_signs_mirror_each_other(gamma):
    u = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    falling, rising = o.Exponential(gamma), o.Exponential(-gamma)
    assert_allclose(rising.density(u), falling.density(1 - u), rtol=1e-13)
    assert_allclose(rising.cumulative(u), 1 - falling.cumulative(1 - u), rtol=1e-13, atol=1e-15)
    assert_allclose(rising.rank_weights(4), falling.rank_weights(4)[::-1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("order", range(1, 13))
def test_spectra_of_lmoments_are_legendre_polynomials(order):
    u = np.linspace(0, 1, 101)
    assert_allclose(og.spectrum(o.LMoment(order), u), special.eval_sh_legendre(order - 1, u), atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "largest", "is_open"),
    [
        ("mean", 1, False),
        ("cvar:0.1", 1, True),
        ("max@2.5", 3, False),
        ("max@8-mean+median", 8, True),
        ("gini", 2, False),
        ("mean-mean", 1, False),
    ],
)
def test_the_sizes_that_an_objective_names(spec, largest, is_open):
    assert (og.parse(spec).largest_size, og.parse(spec).is_open) == (largest, is_open)


@pytest.mark.parametrize("spec", ["wang:0", "power:1", "cvar:1", "uppercvar:1"])
def test_spectra_of_the_mean_under_other_names(spec):
    assert_allclose(og.spectrum(spec, [0.0, 0.5, 1.0 - 1e-9]), 1, rtol=1e-12)


@pytest.mark.parametrize(
    "spec", ["wang:0.7", "wang:-0.7", "power:2.5", "power:0.5", "exponential:3", "exponential:-3", "cvar:0.35"]
)
def test_distortions_spread_their_spectrum_over_the_ranks(spec):
    part = og.parse(spec)
    expected = [integrate.quad(lambda u: float(part.density(np.array(u))), j / 5, (j + 1) / 5)[0] for j in range(5)]
    assert_allclose(og.rank_weights(spec, 5), expected, rtol=1e-6)


@pytest.mark.parametrize("spec", [s for s in OPEN if "+" not in s and s != "maxrl"])
def test_population_spectrum_is_a_distribution_of_mass_one(spec):
    part = og.parse(spec)
    phi = part.cumulative(np.linspace(0, 1, 201))
    assert phi[0] == 0
    assert phi[-1] == pytest.approx(1, abs=1e-12)
    assert (np.diff(phi) >= -1e-15).all()


@pytest.mark.parametrize("spec", ["cvar:0.4", "uppercvar:0.4", "range:0.2:0.7", "trimmed:0.2", "wang:0.5"])
@pytest.mark.parametrize("u", [0.03, 0.31, 0.55, 0.97])
def test_density_is_the_derivative_of_the_cumulative_spectrum(spec, u):
    part = og.parse(spec)
    h = 1e-6
    slope = (part.cumulative(np.array(u + h)) - part.cumulative(np.array(u - h))) / (2 * h)
    assert float(part.density(np.array(u))) == pytest.approx(float(slope), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("spec", SIZED)
def test_spectrum_is_the_mixture_of_beta_densities(spec):
    u = np.linspace(0, 1, 11)
    alpha = og.rank_weights(spec)
    k = len(alpha)
    beta = [k * comb(k - 1, j) * u**j * (1 - u) ** (k - 1 - j) for j in range(k)]
    assert_allclose(og.spectrum(spec, u), alpha @ beta, rtol=1e-12, atol=1e-13)


def test_spectrum_of_large_comparison_sizes_is_finite_and_has_mass_one():
    u = np.linspace(0, 1, 2001)
    assert np.trapezoid(og.spectrum("cvar:0.1@1000", u), u) == pytest.approx(1, abs=1e-3)
    assert float(og.spectrum("max@1e6", 1.0)) == pytest.approx(1e6)


@pytest.mark.parametrize("spec", [s for s in OPEN if s != "maxrl"])
def test_finite_sizes_tend_to_the_population(spec):
    """J(K) of a uniform reward is sum alpha_j j/(K+1); the population value is 1 - integral of Phi."""
    objective = og.parse(spec)
    k = 4000
    finite = og.rank_weights(at_size(objective, k)) @ np.arange(1, k + 1) / (k + 1)
    u = np.linspace(0, 1, 20001)
    phi = sum(c * (part.cumulative(u) if part.comparison_size is None else u) for c, part in objective.terms())
    assert finite == pytest.approx(1 - np.trapezoid(phi, u), abs=2e-3)


def test_best_fit_of_a_spectrum():
    polynomial = o.Spectrum(lambda u: 1 + 2 * u - 3 * u**2)  # of either sign, and of degree 2: a perfect fit
    assert_allclose(og.spectrum(at_size(polynomial, 3), [0.0, 0.3, 1.0]), [1, 1.33, 0], atol=1e-9)
    step = og.rank_weights(o.Spectrum(lambda u: (u < 0.25) / 0.25, k=20))
    assert (step >= 0).all()
    assert step.sum() == pytest.approx(1, abs=1e-6)
    assert_allclose(og.rank_weights(o.Spectrum(lambda u: u**0, k=4)), [0.25] * 4)


def _aversion(u):
    return np.where(u < 0.01, 20.0, np.where(u < 0.10, 5.0, 0.35 / 0.9))


SHAPES = {
    "two steps down": (_aversion, 1.0),
    "one step down": (lambda u: np.where(u < 0.1, 10.0, 0.0), 1.0),
    "smooth down": (lambda u: 3 * np.exp(-3 * u) / -np.expm1(-3), 1.0),
    "unbounded down": (lambda u: 0.5 / np.sqrt(u), 1.0),
    "constant": (lambda u: 0 * u + 2, 2.0),
    "cubic up": (lambda u: 4 * u**3, 1.0),
    "step up": (lambda u: np.where(u > 0.7, 5.0, 1.0), 2.2),
    "of either sign, up": (lambda u: np.where(u > 0.5, 1.0, -1.0), 0.0),
    "of either sign, down": (lambda u: 1 - 3 * u**2, 0.0),
    "zero": (lambda u: 0 * u, 0.0),
    "bump": (lambda u: np.where(np.abs(u - 0.5) < 0.2, 2.5, 0.0), 1.0),
}


@pytest.mark.parametrize("k", [1, 2, 3, 8, 33, 64, 65, 100, 399, 2000])
@pytest.mark.parametrize("name", SHAPES)
def test_fits_keep_the_shape_and_the_mass_of_a_spectrum(name, k):
    function, mass = SHAPES[name]
    alpha = og.rank_weights(o.Spectrum(function), k)
    assert alpha.sum() == pytest.approx(mass, abs=2e-3)
    slack = 1e-9 * np.abs(alpha).max()
    if "down" in name or name in ("constant", "zero"):
        assert (np.diff(alpha) <= slack).all()
    if "up" in name or name in ("constant", "zero"):
        assert (np.diff(alpha) >= -slack).all()
    if "either sign" not in name:
        assert (alpha >= -slack).all()


@pytest.mark.parametrize("k", [3, 10, 64, 65, 400, 3000])
def test_polynomials_stay_exact_at_every_size(k):
    """Of Bernstein coefficients of their own shape: max@3 and min@3 are degree elevations of the fit for K = 3."""
    for function, spec in ((lambda u: 3 * u**2, "max@3"), (lambda u: 3 * (1 - u) ** 2, "min@3")):
        fit = o.Spectrum(function, k)
        u = np.linspace(0, 1, 21)
        assert_allclose(og.spectrum(fit, u), og.spectrum(spec, u), atol=1e-9)
        assert og.rank_weights(fit).sum() == pytest.approx(1, rel=1e-11)
    signed = o.Spectrum(lambda u: 1 + 2 * u - 3 * u**2, k)
    assert_allclose(og.spectrum(signed, [0.0, 0.3, 1.0]), [1, 1.33, 0], atol=1e-6)


@pytest.mark.parametrize("k", [100, 200, 1000])
def test_steps_between_ranks_are_tail_means(k):
    step = o.Spectrum(lambda u: np.where(u < 0.1, 10.0, 0.0), k)
    assert_allclose(og.rank_weights(step), og.rank_weights(f"cvar:0.1@{k}"), atol=2e-8)


@pytest.mark.parametrize("n", [17, 64, 400])
@given(seed=st.integers(0, 10**6))
def test_a_mean_preserving_spread_never_raises_a_risk_averse_value(n, seed):
    rng = np.random.default_rng(seed)
    rewards = np.sort(rng.normal(size=n))
    low, high = np.sort(rng.choice(n, 2, replace=False))
    spread = rewards.copy()
    spread[[low, high]] += np.array([-1, 1]) * rng.exponential()
    averse = o.Spectrum(_aversion)
    assert og.value(spread, averse) <= og.value(rewards, averse) + 1e-9


def test_a_fit_is_nearer_to_the_population_than_its_increments():
    """The page's example: 399 normal rewards compared."""
    k, u = 399, (np.arange(5000) + 0.5) / 5000
    quantiles = special.ndtri(u) / len(u)
    population = _aversion(u) @ quantiles
    tails = np.interp(np.arange(k + 1) / k, [0, 0.01, 0.1, 1], [0, 0.2, 0.65, 1])

    def value(alpha):
        return float(og.spectrum(o.Weights(*alpha), u) @ quantiles)

    fitted, increments = value(og.rank_weights(o.Spectrum(_aversion), k)), value(np.diff(tails))
    assert abs(fitted - population) < abs(increments - population)
    assert fitted == pytest.approx(population, abs=0.011)


@pytest.mark.parametrize("function", [np.poly1d([3, 0, 0]), np.polynomial.Polynomial([0, 0, 3])])
def test_spectra_that_cannot_be_hashed(function):
    rewards = [1.0, 5.0, -2.0, 0.0, 3.0]
    spectrum = o.Spectrum(function)
    assert float(og.value(rewards, spectrum)) == pytest.approx(float(og.value(rewards, "max@3")), rel=1e-9)
    assert_allclose(og.advantages(rewards, spectrum), og.advantages(rewards, "max@3"), atol=1e-8)
    assert spectrum == o.Spectrum(function)
    assert hash(spectrum) == hash(o.Spectrum(function))
    assert spectrum != o.Spectrum(function, 3)
    assert spectrum != o.Spectrum(np.poly1d([3, 0, 0]))
    assert spectrum - spectrum == o.Mean() - o.Mean()
    assert o.Spectrum(np.sin) == o.Spectrum(np.sin)
    assert o.Spectrum(np.sin) != o.Spectrum(np.cos)


def test_best_fit_is_the_least_squares_solution():
    """The error is orthogonal to every Beta density that the bound leaves free."""
    k = 6
    spectrum = o.Spectrum(lambda u: np.exp(2 * u), k=k)
    nodes, mass = np.polynomial.legendre.leggauss(40)
    u, mass = (nodes + 1) / 2, mass / 2
    error = og.spectrum(spectrum, u) - np.exp(2 * u)
    alpha = og.rank_weights(spectrum)
    inner = [np.sum(mass * error * special.binom(k - 1, j) * u**j * (1 - u) ** (k - 1 - j)) for j in range(k)]
    assert_allclose(np.array(inner)[alpha > 0], 0, atol=1e-9)
    assert (np.array(inner) >= -1e-9).all()


@given(st.integers(1, 5), st.integers(0, 8), st.integers(0, 99))
def test_real_sizes_mix_their_neighbours(low, extra, percent):
    f = percent / 100
    k, size = low + f, low + 1 + extra
    below, above = og.rank_weights(f"max@{low}", size), og.rank_weights(f"max@{low + 1}", size)
    assert_allclose(og.rank_weights(o.Max(k), size), (1 - f) * below + f * above, atol=1e-12)


def test_sums_merge_and_cancel():
    assert og.parse("max@8+max@8") == 2 * o.Max(8)
    assert og.parse("max@8-max@8+mean") == o.Mean()
    assert str(o.Max(8) - o.Max(8)) == "0*mean"
    assert (o.Max(2) + o.Min(2)) * 0.5 == 0.5 * o.Max(2) + 0.5 * o.Min(2)
    assert -o.Mean() == o.Mean() * -1
    assert og.anneal("mean", "max@4", 0) == o.Mean()
    assert og.anneal("mean", "max@4", 1) == o.Max(4)
    assert og.anneal("mean", "max@4", 0.25) == 0.75 * o.Mean() + 0.25 * o.Max(4)


def test_division_and_sum():
    assert o.Mean() / 2 == 0.5 * o.Mean()
    assert (o.Mean() + o.Max(2)) / np.float64(4) == 0.25 * o.Mean() + 0.25 * o.Max(2)
    assert sum([o.Mean(), o.Max(2)]) == o.Mean() + o.Max(2)
    assert sum([o.Mean()]) == o.Mean()
    with pytest.raises(ValueError, match="divisor must not be 0"):
        o.Mean() / 0
    for wrong in (lambda: o.Mean() / "2", lambda: o.Mean() / o.Max(2), lambda: 2 / o.Mean(), lambda: 1 + o.Mean()):
        with pytest.raises(TypeError):
            wrong()


@given(st.lists(st.tuples(st.floats(-100, 100).filter(bool), elementary(6)), min_size=2, max_size=5), st.randoms())
def test_sums_do_not_depend_on_the_order_of_their_terms(terms, random):
    first = o.combine(*terms)
    random.shuffle(terms)
    second = o.combine(*terms)
    assert first == second
    assert hash(first) == hash(second)
    assert (str(first), repr(first)) == (str(second), repr(second))
    assert o.Mixture(first.terms()[::-1]).terms() == first.terms()
    rewards = np.random.default_rng(0).normal(size=9)
    np.testing.assert_array_equal(og.advantages(rewards, first), og.advantages(rewards, second))


def test_sums_in_two_orders():
    assert o.Mean() + o.Max(2) == o.Max(2) + o.Mean()
    assert str(o.Max(2) - o.Mean()) == str(-o.Mean() + o.Max(2)) == "max@2-mean"
    phi, psi = o.Spectrum(lambda u: 2 * u), o.Spectrum(lambda u: 2 - 2 * u)
    assert phi + psi == psi + phi


@given(objectives())
def test_reprs_evaluate(objective):
    """With ``from ordergrad.objectives import *``."""
    assert eval(repr(objective), {name: getattr(o, name) for name in o.__all__}) == objective


def test_reprs_of_numpy_numbers_evaluate():
    for objective in (o.Max(np.int64(3)), o.CVaR(np.float64(0.1), np.float32(4)), o.Weights(np.float32(1), 0)):
        assert "np." not in repr(objective)
        assert eval(repr(objective), vars(o)) == objective


KINDS = {"fixed": "mean gini lmoment weights", "counting": "max min top bottom rank topbottom midrange"}


@pytest.mark.parametrize("spec", [*SIZED, *OPEN])
def test_kinds_know_what_a_comparison_size_is(spec):
    for _, part in og.parse(spec).terms():
        kind = next((kind for kind, words in KINDS.items() if part.name in words.split()), "level")
        assert part.kind == kind
        moved = part.at(5)
        assert moved.comparison_size == (part.comparison_size if kind == "fixed" else 5)
        assert part.at(part.comparison_size) == part
        if kind == "level":
            assert part.at(None).comparison_size is None
            assert part.at(None).at(3) == part.at(3)


def test_a_zero_objective_has_zero_advantages():
    assert_allclose(og.advantages([1.0, 2.0, 4.0], "max@2-max@2"), 0)


@pytest.mark.parametrize("other", [1, "mean", None, [1.0]])
def test_only_objectives_add_and_only_numbers_multiply(other):
    with pytest.raises(TypeError):
        o.Mean() + other
    with pytest.raises(TypeError):
        other - o.Mean()
    if other != 1:
        with pytest.raises(TypeError):
            o.Mean() * other


@given(objectives())
def test_objectives_are_hashable_picklable_and_frozen(objective: Objective):
    copy = pickle.loads(pickle.dumps(objective))
    assert copy == objective
    assert hash(copy) == hash(objective)
    with pytest.raises(AttributeError):
        objective.k = 2


@pytest.mark.parametrize("size", [np.int64(3), np.int32(3), np.float64(3.0), 3.0])
def test_numpy_numbers_are_numbers(size):
    objective = o.Max(size)
    assert objective == o.Max(3)
    assert hash(objective) == hash(o.Max(3))
    assert str(objective) == "max@3"
    assert_allclose(og.advantages([0.0, 1.0, 3.0, 7.0], objective), og.advantages([0.0, 1.0, 3.0, 7.0], "max@3"))
    assert og.parse(str(o.Top(np.int64(2), size))) == o.Top(2, 3)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: o.Max(0), "k must satisfy k >= 1; got k=0"),
        (lambda: o.Max(0.5), "k must satisfy k >= 1"),
        (lambda: o.Max(float("nan")), "k must be finite"),
        (lambda: o.Max(float("inf")), "k must be finite"),
        (lambda: o.Top(0, 4), "m must satisfy m >= 1; got m=0"),
        (lambda: o.Top(5, 4), "m must satisfy 1 <= m <= k; got m=5, k=4"),
        (lambda: o.Rank(4, 3.5), "j must satisfy 1 <= j <= k"),
        (lambda: o.CVaR(0.0), "q must satisfy 0 < q <= 1; got q=0"),
        (lambda: o.CVaR(1.5), "q must satisfy 0 < q <= 1; got q=1.5"),
        (lambda: o.Quantile(1.0), "q must satisfy 0 < q < 1"),
        (lambda: o.Quantile(0.5, "nearest"), "method must be one of hazen, weibull, blom, harrelldavis; got 'nearest'"),
        (lambda: o.Range(0.5, 0.5), "0 <= lo < hi <= 1"),
        (lambda: o.Range(0.25, 0.25000000000000006), "hi - lo must be at least 1e-9"),
        (lambda: o.Trimmed(0.49999999999999994), "1 - 2 p must be at least 1e-9"),
        (lambda: o.Winsorized(0.49999999999999994), "1 - 2 p must be at least 1e-9"),
        (lambda: o.Trimmed(0.5), "p must satisfy 0 <= p < 0.5"),
        (lambda: o.Winsorized(-0.1), "p must satisfy 0 <= p < 0.5"),
        (lambda: o.Power(0.0), "gamma must satisfy gamma > 0"),
        (lambda: o.Exponential(0.0), "gamma must not be 0"),
        (lambda: o.LMoment(0), "order must satisfy order >= 1"),
        (lambda: o.LMoment(13), "order must satisfy 1 <= order <= 12, beyond which weights cancel; got order=13"),
        (lambda: o.Weights(), "at least one rank weight"),
        (lambda: o.Weights(1.0, float("nan")), "weights must be finite"),
        (lambda: float("inf") * o.Mean(), "factor must be finite"),
        (lambda: og.anneal("mean", "max@2", 1.5), "t must satisfy 0 <= t <= 1; got t=1.5"),
        (lambda: og.rank_weights("cvar:0.5"), "k is needed"),
        (lambda: og.rank_weights("max@4", 3), "k must be at least the comparison size 4"),
        (lambda: og.sample_weights("max@4", 3), "k must satisfy 1 <= k <= n; got k=4, n=3"),
        (lambda: og.sample_weights("mean", 0), "n must satisfy n >= 1; got n=0"),
        (lambda: og.spectrum("mean", [0.5, 1.5]), "u must satisfy 0 <= u <= 1"),
        (lambda: og.spectrum("median", 0.5), "give a comparison size: median@K"),
    ],
)
def test_bad_numbers_are_value_errors(make, text):
    with pytest.raises(ValueError, match=text.replace("(", r"\(")):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: o.Max("3"),
        lambda: o.Max(True),
        lambda: o.Top(1.5, 4),
        lambda: o.LMoment(2.0),
        lambda: o.CVaR("0.1"),
        lambda: o.Spectrum(3.0),
        lambda: o.Weights("a"),
        lambda: og.anneal("mean", "max@2", "0.5"),
        lambda: og.anneal("mean", "max@2", None),
        lambda: og.rank_weights("cvar:0.1", 2.5),
        lambda: og.sample_weights("max@3", 4.0),
    ],
)
def test_wrong_types_are_type_errors(make):
    with pytest.raises(TypeError):
        make()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: og.anneal("mean", "max@2", "0.5"), "t must be a real number; got '0.5'"),
        (lambda: og.rank_weights("cvar:0.1", 2.5), "k must be a whole number; got 2.5"),
        (lambda: og.sample_weights("max@3", 4.0), "n must be a whole number; got 4.0"),
    ],
)
def test_type_errors_name_the_number(make, text):
    with pytest.raises(TypeError, match=text):
        make()


@pytest.mark.parametrize("objective", ALL, ids=str)
def test_sample_weights_of_every_objective_sum_to_its_mass(objective):
    assert og.sample_weights(objective, 6).sum() == pytest.approx(og.rank_weights(objective, 6).sum(), rel=1e-12)
