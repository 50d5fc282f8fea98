"""Other people's formulas for special cases: SciPy, NumPy, and two published estimators."""

from math import comb

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import ordergrad as og
from ordergrad.objectives import CVaR, LMoment, Max, Quantile, Trimmed, VaR, Winsorized

RNG = np.random.default_rng(2)
SAMPLES = [RNG.normal(size=9), RNG.exponential(size=20), RNG.integers(0, 3, size=15).astype(float)]
LEVELS = [0.03, 0.1, 0.25, 0.5, 0.77, 0.95]


@pytest.mark.parametrize("sample", SAMPLES, ids=len)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_scipy_lmoment(sample, order):
    if not hasattr(stats, "lmoment"):
        pytest.skip("needs SciPy 1.15")
    expected = stats.lmoment(sample, order, standardize=False)
    assert float(og.value(sample, LMoment(order))) == pytest.approx(expected, rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("sample", SAMPLES, ids=len)
@pytest.mark.parametrize("q", LEVELS)
def test_numpy_quantiles(sample, q):
    """With K = N the value is the estimator itself."""
    k = len(sample)
    for method, theirs in [("hazen", "hazen"), ("weibull", "weibull"), ("blom", "normal_unbiased")]:
        expected = np.quantile(sample, q, method=theirs)
        assert float(og.value(sample, Quantile(q, method, k))) == pytest.approx(expected, rel=1e-11, abs=1e-12)
    expected = np.quantile(sample, q, method="inverted_cdf")
    assert float(og.value(sample, VaR(q, k))) == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert float(og.value(sample, f"median@{k}")) == pytest.approx(np.median(sample), rel=1e-12)


@pytest.mark.parametrize("sample", SAMPLES, ids=len)
@pytest.mark.parametrize("q", LEVELS)
def test_scipy_harrell_davis(sample, q):
    got = float(og.value(sample, Quantile(q, "harrelldavis", len(sample))))
    assert got == pytest.approx(float(stats.mstats.hdquantiles(sample, [q])[0]), rel=1e-10, abs=1e-13)
    if hasattr(stats, "quantile"):
        assert got == pytest.approx(float(stats.quantile(sample, q, method="harrell-davis")), rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("sample", SAMPLES, ids=len)
def test_scipy_trimmed_and_winsorized_means_at_whole_counts(sample):
    k = len(sample)
    for count in range(1, (k - 1) // 2 + 1):
        p = count / k
        trimmed = float(og.value(sample, Trimmed(p, k)))
        assert trimmed == pytest.approx(stats.trim_mean(np.sort(sample), p + 1e-12), rel=1e-11)
        limits = (p + 1e-12, p + 1e-12)
        expected = float(stats.mstats.winsorize(sample, limits=limits).mean())
        assert float(og.value(sample, Winsorized(p, k))) == pytest.approx(expected, rel=1e-11)
        worst = np.sort(sample)[:count].mean()
        assert float(og.value(sample, CVaR(p, k))) == pytest.approx(worst, rel=1e-11)


OPEN_ORACLES = {
    "median": np.median,
    "quantile:0.3": lambda r: np.quantile(r, 0.3, method="hazen"),
    "quantile:0.3:weibull": lambda r: np.quantile(r, 0.3, method="weibull"),
    "quantile:0.3:blom": lambda r: np.quantile(r, 0.3, method="normal_unbiased"),
    "quantile:0.3:harrelldavis": lambda r: float(stats.mstats.hdquantiles(r, [0.3])[0] if len(r) > 1 else r[0]),
    "var:0.3": lambda r: np.quantile(r, 0.3, method="inverted_cdf"),
    "cvar:0.3": lambda r: np.minimum(r - (v := np.quantile(r, 0.3, method="inverted_cdf")), 0).mean() / 0.3 + v,
    "uppercvar:0.3": lambda r: np.maximum(r - (v := np.quantile(r, 0.7, method="inverted_cdf")), 0).mean() / 0.3 + v,
    "range:0:1": np.mean,
}
"""Sample statistics; the tail means by the minimisation formula of Rockafellar and Uryasev."""


@pytest.mark.parametrize("n", [*range(1, 13), 29, 100, 257, 1000])
@pytest.mark.parametrize("spec", OPEN_ORACLES)
def test_open_levels_are_the_sample_statistic(spec, n):
    sample = np.random.default_rng(n).normal(size=n)
    expected = pytest.approx(float(OPEN_ORACLES[spec](sample)), rel=1e-10, abs=1e-12)
    assert float(og.value(sample, spec)) == expected
    assert float(np.sort(sample) @ og.sample_weights(spec, n)) == expected
    padded = np.append(sample, [np.nan, 7.0])
    assert float(og.value(padded, spec, where=np.arange(n + 2) < n)) == expected
    if n > 1:
        assert float(og.value_and_error(sample, spec)[0]) == expected
        for i in (0, n - 1):
            left = float(OPEN_ORACLES[spec](np.delete(sample, i)))
            assert float(og.leave_one_out(sample, spec)[i]) == pytest.approx(left, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("n", [10, 20, 50, 200])
def test_open_trimmed_and_winsorized_means_at_whole_counts(n):
    sample = np.random.default_rng(n).standard_t(2, size=n)
    assert float(og.value(sample, "trimmed:0.1")) == pytest.approx(stats.trim_mean(sample, 0.1), rel=1e-11)
    expected = float(stats.mstats.winsorize(sample, limits=(0.1, 0.1)).mean())
    assert float(og.value(sample, "winsorized:0.1")) == pytest.approx(expected, rel=1e-11)


def test_a_single_outlier_leaves_robust_values_alone():
    assert float(og.value([1, 2, 3, 10, 100], "median")) == 3
    assert float(og.value([0] * 9 + [1e9], "trimmed:0.1")) == 0


def test_gini_mean_difference_is_the_average_of_all_pairs():
    sample = SAMPLES[0]
    pairs = np.abs(sample[:, None] - sample).sum() / (len(sample) * (len(sample) - 1))
    assert float(og.value(sample, "gini")) == pytest.approx(pairs, rel=1e-12)


@pytest.mark.parametrize("n", [1, 5, 16, 200])
def test_pass_at_k(n):
    """1 - C(n-c, k) / C(n, k) for c successes in n tries (Chen et al. 2021)."""
    for k in sorted({1, min(2, n), n // 2 + 1, n}):
        for c in range(0, n + 1, max(1, n // 8)):
            expected = 1 - comb(n - c, k) / comb(n, k)
            rewards = np.arange(n) < c
            assert float(og.value(rewards, Max(k))) == pytest.approx(expected, abs=1e-12)


def pkpo_binary_weights(successes, n, k):
    """Rewards of arXiv 2505.15201, theorem 2: k/n for a success, k/n times rho(n-1, c, k-1) for a failure."""
    c = sum(successes)
    rho = 1 - comb(n - 1 - c, k - 1) / comb(n - 1, k - 1) if c < n else None
    return np.array([k / n if success else k / n * rho for success in successes])


def pkpo_weights(rewards, k):
    """Transformed rewards s of arXiv 2505.15201, section 3: row sums of m_ij g(x_j) over sorted samples, 1-based."""
    n = len(rewards)
    order = np.argsort(rewards, kind="stable")
    g = np.asarray(rewards, float)[order]
    s = np.zeros(n)
    for i in range(1, n + 1):
        if i >= k:
            s[order[i - 1]] += comb(i - 1, k - 1) / comb(n, k) * g[i - 1]
        for j in range(i + 1, n + 1):
            if j >= k and k >= 2:
                s[order[i - 1]] += comb(j - 2, k - 2) / comb(n, k) * g[j - 1]
    return s


@pytest.mark.parametrize(("n", "k"), [(4, 1), (4, 2), (7, 3), (7, 7), (16, 8)])
def test_pass_at_k_policy_optimization(n, k):
    """Their s_i multiplies the summed score; our A_i the mean score: A without baseline is N s."""
    rewards = np.random.default_rng(n * k).integers(0, 5, size=n) / 4
    a = og.advantages(rewards, Max(k), baseline="none")
    assert_allclose(a, n * pkpo_weights(rewards, k), rtol=1e-12, atol=1e-14)
    for c in range(n + 1):
        successes = [i < c for i in range(n)]
        a = og.advantages(successes, Max(k), baseline="none")
        assert_allclose(a, n * pkpo_binary_weights(successes, n, k), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("n", "k"), [(4, 2), (7, 3), (16, 8)])
def test_pass_at_k_policy_optimization_leave_one_out(n, k):
    """Their two baselines, with the leave-one-out values written out."""
    rewards = np.random.default_rng(n + k).normal(size=n)
    s = pkpo_weights(rewards, k)

    def max_at(k, r):
        r = np.sort(r)
        return sum(comb(i, k - 1) * r[i] for i in range(k - 1, len(r))) / comb(len(r), k)

    loo = [k / n * max_at(k, np.delete(rewards, i)) for i in range(n)]
    loo_minus_one = [k / n * max_at(k - 1, np.delete(rewards, i)) for i in range(n)]
    assert_allclose(og.advantages(rewards, Max(k)), n * (s - loo), rtol=1e-11, atol=1e-12)
    second = og.advantages(rewards, Max(k), baseline="k_minus_one")
    assert_allclose(second, n * (s - loo_minus_one), rtol=1e-11, atol=1e-12)


SIZES = [1, 2, 4, 8, 16, 64]


def toy_objective(theta, k):
    """max@k of g(x) = x^2 on [0, 1], 0 elsewhere, x ~ N(theta, 0.1): the integral of 1 - F(g)^k over g."""
    x = np.linspace(0, 1, 2001)
    below = 1 - (stats.norm.cdf(1, theta, 0.1) - stats.norm.cdf(x, theta, 0.1))
    return np.trapezoid((1 - below**k) * 2 * x, x)


def toy_grid(theta, count=4001):
    """Return rewards and probabilities of the toy problem on a fine grid of x, and the scores d log p / d theta."""
    x = np.linspace(theta - 0.6, theta + 0.6, count)
    density = np.exp(-(((x - theta) / 0.1) ** 2) / 2)
    return np.where((x >= 0) & (x <= 1), x**2, 0), density / density.sum(), (x - theta) / 0.1**2


@pytest.mark.parametrize("theta", [0.3, 0.8, 1.05])
@pytest.mark.parametrize("k", SIZES)
def test_toy_problem_value_and_gradient(theta, k):
    rewards, probs, score = toy_grid(theta)
    objective = Max(k)
    assert float(og.exact.value(rewards, probs, objective)) == pytest.approx(toy_objective(theta, k), abs=5e-4)
    h = 1e-3
    expected = (toy_objective(theta + h, k) - toy_objective(theta - h, k)) / (2 * h)
    gradient = (probs * score) @ og.exact.advantages(rewards, probs, objective)
    assert gradient == pytest.approx(expected, abs=0.02, rel=0.01)


def test_toy_problem_optimum_moves_up_with_the_comparison_size():
    """The optimum found by our own gradients, k by k, is the one of the closed form, and grows with k."""
    thetas = np.linspace(0.7, 1.1, 201)
    best = []
    for k in SIZES:
        slopes = []
        for theta in thetas:
            rewards, probs, score = toy_grid(theta, 1201)
            slopes.append((probs * score) @ og.exact.advantages(rewards, probs, Max(k)))
        ascent = np.array(slopes) > 0
        crossing = int(np.argmin(ascent))
        assert ascent[:crossing].all()
        assert not ascent[crossing:].any()
        best.append(thetas[crossing])
        closed = thetas[np.argmax([toy_objective(theta, k) for theta in thetas])]
        assert best[-1] == pytest.approx(closed, abs=0.006)
    assert (np.diff(best) > 0).all()
