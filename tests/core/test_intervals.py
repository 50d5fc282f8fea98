"""Intervals and errors: closed forms, coverage, and the reasons where there is no interval."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import ordergrad as og
from ordergrad.intervals import influence_interval, influence_values
from ordergrad.smoothing import smoothed

REPETITIONS = 2000
QUANTILES = ["median", "quantile:0.3", "var:0.3", "quantile:0.3:weibull", "quantile:0.3:harrelldavis"]


def normal(n: int, repetitions: int = REPETITIONS) -> np.ndarray:
    return np.random.default_rng([0, n]).standard_normal((repetitions, n))


def covered(rewards: np.ndarray, objective: str, truth: float, **options) -> float:
    low, high = og.interval(rewards, objective, **options)
    return float(((low <= truth) & (truth <= high)).mean())


# Coverage


@pytest.mark.parametrize("n", [64, 256])
@pytest.mark.parametrize(
    ("objective", "truth"),
    [("mean", 0.0), ("median", 0.0), ("trimmed:0.1", 0.0), ("cvar:0.25", -stats.norm.pdf(stats.norm.ppf(0.25)) / 0.25)],
)
def test_intervals_of_normal_rewards_cover(objective, truth, n):
    assert 0.92 <= covered(normal(n), objective, truth) <= 0.985


@pytest.mark.parametrize(
    ("objective", "truth"), [("max@8", 1.4236), ("min@8", -1.4236), ("gini", 2 / math.sqrt(math.pi))]
)
def test_the_truth_at_a_named_k_is_that_of_k(objective, truth):
    assert 0.92 <= covered(normal(64), objective, truth) <= 0.985


@pytest.mark.parametrize("p", [0.05, 0.5, 0.98])
@pytest.mark.parametrize("objective", ["mean", "max@8", "min@8", "gini", "mean-0.5*gini", "cvar:0.25", "median"])
def test_intervals_of_zero_one_rewards_are_never_below_their_level(objective, p):
    rewards = (np.random.default_rng(1).random((REPETITIONS, 32)) < p) * 1.0
    truth = float(og.exact.value([0.0, 1.0], [1 - p, p], objective))
    assert covered(rewards, objective, truth, bounds=(0, 1)) >= 0.945


@pytest.mark.parametrize("objective", QUANTILES)
def test_errors_of_quantiles_are_consistent(objective):
    """Within 8% of the standard deviation at N = 400; the plain jackknife is off by 40% at every N."""
    for n, apart in ((64, 0.15), (400, 0.08)):
        x = normal(n)
        value, error = og.value_and_error(x, objective)
        assert math.sqrt((error**2).mean()) == pytest.approx(value.std(), rel=apart)
        assert error.std() / error.mean() < 0.35


@pytest.mark.parametrize("objective", ["winsorized:0.1", "0.5*mean+0.5*median", "mean-0.3*var:0.2"])
def test_errors_of_what_contains_quantiles_are_consistent(objective):
    x = normal(256)
    value, error = og.value_and_error(x, objective)
    assert math.sqrt((error**2).mean()) == pytest.approx(value.std(), rel=0.06)
    assert np.mean(np.abs(value - og.exact.value(*discrete_normal(), objective)) < 1.96 * error) > 0.92


def discrete_normal() -> tuple[np.ndarray, np.ndarray]:
    u = (np.arange(100_000) + 0.5) / 100_000
    return stats.norm.ppf(u), np.full(len(u), 1e-5)


@pytest.mark.parametrize("objective", ["mean", "max@4", "cvar:0.25", "trimmed:0.1", "lmoment:3", "median@5"])
def test_other_errors_stay_those_of_the_jackknife(objective):
    x = normal(20, 5)
    a = og.advantages(x, objective)
    assert_allclose(og.value_and_error(x, objective)[1], np.sqrt(19 / 20**3 * (a**2).sum(-1)), rtol=1e-12)


# Closed forms


def test_quantiles_lie_between_two_order_statistics():
    """Ranks of Conover's tables: the median of 100 lies between the 40th and the 61st."""
    assert og.interval(np.arange(1.0, 101.0), "median") == (40, 61)
    n, q = 50, 0.3
    low, high = og.interval(np.arange(1.0, n + 1), f"var:{q}")
    assert stats.binom.cdf(low - 1, n, q) <= 0.025 < stats.binom.cdf(low, n, q)
    assert stats.binom.sf(high - 1, n, q) <= 0.025 < stats.binom.sf(high - 2, n, q)


def test_a_scaled_quantile_has_a_scaled_interval():
    x = normal(64, 3)
    low, high = og.interval(x, "median")
    assert_allclose(og.interval(x, "-2*median"), (-2 * high, -2 * low))


def test_zero_one_rewards_have_the_interval_of_clopper_and_pearson():
    x = np.repeat([0.0, 1.0], [13, 3])
    expected = stats.binomtest(3, 16).proportion_ci(0.95, "exact")
    assert_allclose(og.interval(x, "mean"), expected)
    assert_allclose(og.interval(x, "max@4"), 1 - (1 - np.array(expected)) ** 4)
    assert_allclose(og.interval(2 - 5 * x, "min@4"), 2 - 5 * (1 - (1 - np.array(expected))[::-1] ** 4))


def test_equal_rewards_have_an_interval_within_bounds_only():
    low, high = og.interval(np.zeros(16), "max@8", bounds=(0, 1))
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (8 / 16))
    low, high = og.interval(np.full(16, 0.5), "mean", bounds=(0, 2))
    share = 1 - 0.025 ** (1 / 16)
    assert_allclose((low, high), (0.5 - 0.5 * share, 0.5 + 1.5 * share))
    with pytest.raises(ValueError, match=r"rewards must not all be equal; got a group of 16 times 0\.5"):
        og.interval(np.full(16, 0.5), "mean")


def test_a_curved_objective_covers_its_extreme():
    low, high = og.interval(np.repeat([0.0, 1.0], 50), "gini")
    assert low < 0.495
    assert 0.5 <= high < 0.5005


def test_ties_that_hide_every_influence_leave_no_interval_of_length_zero():
    x = np.repeat([0.0, 0.5, 1.0], [6, 5, 5])
    assert og.value_and_error(x, "cvar:0.2")[1] == 0
    low, high = og.interval(x, "cvar:0.2")
    assert low == 0 < high < 0.5
    assert og.interval(np.repeat([0.0, 0.5, 1.0], [600, 200, 200]), "cvar:0.2") == (0, 0)


def test_symmetric_influence_gives_students_interval():
    influence = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, -3.0, 3.0])
    low, high = influence_interval(1.0, influence, 0.9)
    t = stats.t.ppf(0.95, 6) * influence.std(ddof=1) / math.sqrt(7)
    assert_allclose((low, high), (1 - t, 1 + t), rtol=1e-5)


def test_a_tail_has_the_longer_side_outside():
    x = normal(64, 200)
    low, high = og.interval(x, "cvar:0.1")
    value = og.value(x, "cvar:0.1")
    assert np.mean(value - low > high - value) > 0.99


def test_influence_values_of_clusters_give_the_interval_of_cluster_means():
    rng = np.random.default_rng(3)
    prompts = rng.standard_normal((40, 1)) + 0.1 * rng.standard_normal((40, 8))
    influence = influence_values(prompts.ravel(), "mean").reshape(40, 8).sum(axis=1) * 40 / prompts.size
    assert_allclose(influence, prompts.mean(axis=1) - prompts.mean())
    clustered = influence_interval(float(prompts.mean()), influence)
    assert_allclose(clustered, og.interval(prompts.mean(axis=1), "mean"))
    assert np.ptp(clustered) > 2 * np.ptp(og.interval(prompts.ravel(), "mean"))


@pytest.mark.parametrize("objective", ["mean", "cvar:0.2", "median", "max@4", "mean-0.5*gini"])
def test_intervals_shift_and_scale_with_the_rewards(objective):
    x = normal(40, 6)
    mass = float(og.exact.value([1.0], [1.0], objective))
    low, high = og.interval(x, objective)
    assert_allclose(og.interval(3 * x + 7, objective), (3 * low + 7 * mass, 3 * high + 7 * mass), rtol=1e-9)


# Shapes, libraries, errors


def test_groups_lie_along_the_axis():
    x = normal(30, 4).reshape(2, 2, 30)
    low, high = og.interval(x, "cvar:0.2")
    assert low.shape == high.shape == (2, 2)
    assert_array_equal(og.interval(np.moveaxis(x, -1, 0), "cvar:0.2", axis=0), (low, high))
    one = og.interval(x[1, 0], "cvar:0.2")
    assert_allclose(one, (low[1, 0], high[1, 0]))


MASKED = ["mean", "median", "cvar:0.25", "max@4", "mean-0.5*gini", "var:0.3"]


@pytest.mark.parametrize("objective", MASKED)
@pytest.mark.parametrize("kind", ["normal", "zero_one"])
def test_masked_groups_have_the_interval_of_their_valid_samples(objective, kind):
    x = normal(40, 12).reshape(3, 4, 40)
    x = x if kind == "normal" else (x > 0.5) * 1.0
    options = {} if kind == "normal" else {"bounds": (0, 1)}
    where = np.arange(40) < np.array([[40, 39, 20, 20], [30, 12, 40, 25], [11, 13, 20, 40]])[..., None]
    where = np.random.default_rng(0).permuted(where, axis=-1)
    low, high = og.interval(np.where(where, x, np.nan), objective, where=where, **options)
    for place in np.ndindex(3, 4):
        expected = og.interval(x[place][where[place]], objective, **options)
        assert_allclose((low[place], high[place]), expected, rtol=1e-12)
    assert_array_equal(
        og.interval(np.moveaxis(x, -1, 0), objective, axis=0, where=np.moveaxis(where, -1, 0), **options), (low, high)
    )
    everywhere = og.interval(x, objective, where=np.ones(40, dtype=bool), **options)
    assert_array_equal(everywhere, og.interval(x, objective, **options))


@pytest.mark.parametrize(
    ("sizes", "objective", "options", "message"),
    [
        ([9, 4, 9, 3], "max@4", {}, "^group 3: k must satisfy 1 <= k < N; got k=4, N=3"),
        ([9, 9, 0, 9], "mean", {}, "^group 2: where must leave at least one valid sample in every group; got none"),
        ([90, 80, 71, 72], "var:0.05", {}, r"^group 2: var:0\.05 has no 95% interval in a group of N=71"),
        ([9, 8, 8, 9], "mean", {"bounds": (-1, 80)}, "^group 3: rewards must lie within bounds"),
    ],
)
def test_errors_name_the_group(sizes, objective, options, message):
    x = np.arange(90.0) + np.array([0, 0, 0, 79])[:, None]
    where = np.arange(90) < np.array(sizes)[:, None]
    with pytest.raises(ValueError, match=message):
        og.interval(x, objective, where=where, **options)
    with pytest.raises(ValueError, match=message.replace("^group ", "^group 0, ")):
        og.interval(x[None], objective, where=where, **options)


def test_masks_of_intervals_are_checked():
    with pytest.raises(TypeError, match="where must be a mask of bools; got dtype int64"):
        og.interval(np.arange(4.0), "mean", where=[1, 1, 1, 0])
    with pytest.raises(ValueError, match="where must be broadcastable to rewards"):
        og.interval(np.arange(4.0), "mean", where=[True, False])
    with pytest.raises(ValueError, match="rewards must be finite"):
        og.interval(np.array([0.0, np.nan, 1.0, 2.0]), "mean", where=[True, True, False, True])


def test_tensors_and_arrays_in_host_memory_are_taken():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax.numpy")
    x = normal(30, 2)
    expected = og.interval(x, "max@4")
    assert_allclose(og.interval(torch.tensor(x, requires_grad=True), "max@4"), expected)
    assert_allclose(og.interval(jnp.asarray(x), "max@4"), expected, rtol=1e-5)
    where = np.arange(30) < 20
    expected = og.interval(x[:, :20], "max@4")
    assert_allclose(og.interval(torch.tensor(x), "max@4", where=torch.from_numpy(where)), expected)
    assert_allclose(og.interval(jnp.asarray(x), "max@4", where=where), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("rewards", "objective", "options", "message"),
    [
        (np.arange(16.0), "var:0.05", {}, r"var:0\.05 has no 95% interval in a group of N=16: .* it needs N >= 72"),
        (np.arange(16.0), "quantile:0.95", {}, "lies above that quantile; it needs N >= 72"),
        (np.arange(16.0), "cvar:0.05", {}, "cvar:0.05 has no interval in a group of N=16"),
        (np.arange(16.0), "uppercvar:0.05", {}, "one reward, that of rank 16"),
        (np.arange(16.0), "maxrl", {}, "maxrl has no finite population value"),
        (np.arange(4.0), "max@4", {}, "k must satisfy 1 <= k < N; got k=4, N=4"),
        (np.arange(16.0), "mean", {"level": 1.0}, "level must satisfy 0 < level < 1; got level=1"),
        (np.arange(16.0), "mean", {"bounds": (0, 1)}, r"rewards must lie within bounds=\(0, 1\)"),
        (np.arange(16.0), "mean", {"bounds": (1, 0)}, r"bounds must be .*; got bounds=\(1, 0\)"),
        (np.array([0.0, np.nan]), "mean", {}, "rewards must be finite"),
        (np.zeros((2, 0)), "mean", {}, r"at least one sample along axis -1; got shape \(2, 0\)"),
    ],
)
def test_reasons(rewards, objective, options, message):
    with pytest.raises(ValueError, match=message):
        og.interval(rewards, objective, **options)


def test_bounds_give_extreme_quantiles_an_interval():
    x = normal(16, 3)
    low, high = og.interval(x, "var:0.05", bounds=(-10, 10))
    assert_array_equal(low, -10)
    assert (high < 0.5).all()


def test_bounds_limit_intervals_of_averages():
    x = np.clip(normal(8, 50) / 2 + 0.9, 0, 1)
    assert (og.interval(x, "mean")[1] > 1).any()
    low, high = og.interval(x, "mean", bounds=(0, 1))
    assert (high <= 1).all()
    assert (low >= 0).all()


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("median", "quantile:0.5:harrelldavis"),
        ("median@5", "median@5"),
        ("var:0.1-max@4", "quantile:0.1:harrelldavis-max@4"),
        ("var:1", "var:1"),
        ("winsorized:0", "winsorized:0"),
    ],
)
def test_only_open_quantiles_are_smoothed(objective, expected):
    assert smoothed(og.parse(objective)) == og.parse(expected)


def test_a_smoothed_winsorized_mean_is_the_same_objective():
    x = normal(4000, 3)
    smooth = smoothed(og.parse("winsorized:0.1"))
    assert_allclose(og.value(x, smooth), og.value(x, "winsorized:0.1"), atol=2e-3)
