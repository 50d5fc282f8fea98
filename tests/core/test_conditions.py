"""Sampled conditions: exact weights and tails by enumeration, the published code, resuming, the wrapper."""

import importlib
import json
import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

import ordergrad as og
from ordergrad.conditions import Bernoulli, Beta, Categorical, ConditionSampler, Exponential, Independent, Normal
from ordergrad.envs import GuardedMaze, SampledConditions

P = (0.5, 0.3, 0.15, 0.05)
OUTCOMES = np.arange(4)
RETURNS = np.array([1.0, -2.0, 0.5, -10.0])
FAMILIES = [
    (Bernoulli(0.3), stats.bernoulli(0.3).logpmf),
    (Categorical(P), stats.rv_discrete(values=(OUTCOMES, P)).logpmf),
    (Exponential(2.5), stats.expon(scale=2.5).logpdf),
    (Normal(-1.0, 0.5), stats.norm(-1.0, 0.5).logpdf),
    (Beta(2.0, 5.0), stats.beta(2.0, 5.0).logpdf),
    (Beta(1.0, 1.0), stats.uniform.logpdf),
]
NAMES = [type(family).__name__ for family, _ in FAMILIES]


def at(current, reference=None, **settings):
    """A sampler that has moved to `current`."""
    reference = Categorical(P) if reference is None else reference
    sampler = ConditionSampler(reference, seed=0, **settings)
    sampler.current = current
    return sampler


# Weights ------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.floats(0.05, 1), st.sampled_from(["mean", "cvar:0.2@5"])
)
def test_weighted_expectations_are_those_of_the_reference(q, share, objective):
    """By enumeration: under the mixture m, E[omega] = 1, and p = omega m, so every objective is that of p."""
    q = np.array(q) / np.sum(q)
    omega = at(Categorical(tuple(q)), reference_share=share).weights(OUTCOMES)
    mixture = share * np.array(P) + (1 - share) * q
    assert omega @ mixture == pytest.approx(1, rel=1e-12)
    assert (omega <= 1 / share * (1 + 1e-12)).all()
    assert (omega * RETURNS) @ mixture == pytest.approx(RETURNS @ P, rel=1e-12)
    # a batch in the exact proportions of m, each outcome once with its mass as a further weight
    v = og.value(RETURNS, objective, sample_weight=omega * mixture)
    assert float(v) == pytest.approx(float(og.exact.value(RETURNS, P, objective)), rel=1e-9)
    a = og.advantages(RETURNS, objective, sample_weight=omega * mixture)
    assert_allclose(a, og.exact.advantages(RETURNS, P, objective), atol=1e-9)


def test_weights_are_exactly_one_before_the_sampler_has_moved():
    for family, _ in FAMILIES:
        values, weight = ConditionSampler(family, seed=0).sample(50)
        assert len(values) == 50
        assert (weight == 1).all()


def test_conditions_come_from_the_mixture():
    sampler = at(Categorical((0.0, 0.0, 0.1, 0.9)), reference_share=0.25)
    values, weight = sampler.sample(40_000)
    mixture = 0.25 * np.array(P) + 0.75 * np.array((0.0, 0.0, 0.1, 0.9))
    counts = np.bincount(values, minlength=4)
    assert stats.chisquare(counts, mixture * len(values)).pvalue > 1e-3
    assert_allclose(weight, (np.array(P) / mixture)[values], rtol=1e-12)
    assert weight.mean() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("family", "log_density"), FAMILIES, ids=NAMES)
def test_families_have_the_densities_of_scipy_and_sample_them(family, log_density):
    x = family.sample(4000, np.random.default_rng(1))
    assert x.shape == (4000,)
    assert_allclose(family.log_density(x), log_density(x), rtol=1e-9, atol=1e-12)
    fitted = family.fit(x, np.ones(4000))
    assert_allclose(fitted.parameters, family.parameters, rtol=0.15)
    assert family.at(family.parameters) == family


@pytest.mark.parametrize(("family", "log_density"), FAMILIES, ids=NAMES)
def test_fits_have_the_largest_weighted_likelihood(family, log_density):
    rng = np.random.default_rng(2)
    x, weight = family.sample(200, rng), rng.random(200)
    fitted = family.fit(x, weight)

    def likelihood(member):
        return weight @ member.log_density(x)

    best = likelihood(fitted)
    assert best > likelihood(family)
    for index, number in enumerate(fitted.parameters):
        for step in (-1e-3, 1e-3):
            numbers = list(fitted.parameters)
            numbers[index] = number + step
            if isinstance(family, Categorical):  # stay on the simplex
                numbers[(index + 1) % 4] -= step
            assert likelihood(fitted.at(numbers)) < best


def test_fits_of_a_single_condition_stay_proper():
    for family in (Exponential(2.0), Normal(0.0, 3.0), Beta(1.0, 1.0)):
        fitted = family.fit(np.zeros(3), np.array([0.0, 1.0, 0.0]))
        assert np.isfinite(fitted.parameters).all()
        assert np.isfinite(fitted.log_density(fitted.sample(5, np.random.default_rng(0)))).all()


def test_conditions_that_round_to_the_ends_of_the_interval_have_the_weight_of_their_neighbours():
    ends, inside = np.array([0.0, 1.0]), np.array([5e-324, 1 - 2.0**-53])
    for p, q in ((Beta(0.5, 0.5), Beta(0.3, 0.3)), (Beta(0.5, 0.5), Beta(2.0, 2.0)), (Beta(2.0, 2.0), Beta(0.5, 0.5))):
        sampler = at(p, q)
        assert_allclose(sampler.weights(ends), sampler.weights(inside), rtol=1e-12, atol=1e-15)
    own = at(Beta(0.5, 0.5), Beta(0.5, 0.5))
    assert_allclose(own.weights(ends), 1, rtol=1e-12)


def test_impossible_conditions_weigh_nothing_or_are_an_error():
    sampler = at(Categorical((0.5, 0.5)), Categorical((1.0, 0.0)))
    assert_allclose(sampler.weights([0, 1]), [1 / (0.2 + 0.8 * 0.5), 0.0])
    for family, outside in ((Exponential(1.0), -1.0), (Beta(2.0, 2.0), 1.5)):
        with pytest.raises(ValueError, match="conditions must be possible under"):
            ConditionSampler(family, seed=0).weights([0.5, outside])


# Updates ------------------------------------------------------------------------------------------------------------


def tail_of(returns, p, level):
    """The distribution of the outcomes in the lower tail, by taking mass from the bottom up."""
    tail, left = np.zeros(len(p)), level
    for value in np.unique(returns):
        here = returns == value
        taken = min(left, p[here].sum())
        tail[here] = p[here] * taken / p[here].sum()
        left -= taken
    return tail / level


@given(
    st.lists(st.integers(-2, 2), min_size=4, max_size=4),
    st.sampled_from([0.05, 0.1, 0.5, 1.0]),
    st.permutations(range(4)),
)
def test_an_update_moves_to_the_conditions_of_the_tail(returns, tail, order):
    """Exactly, ties included, whatever the order of the episodes and wherever they were drawn from."""
    returns, order = np.array(returns, float), np.array(order)
    sampler = at(Categorical((0.1, 0.2, 0.3, 0.4)), tail=tail, elite=1e-9, every=4)
    assert sampler.report(OUTCOMES[order], np.array(P)[order] * 7, returns[order])
    assert_allclose(sampler.current.parameters, tail_of(returns, np.array(P), tail), atol=1e-12)
    assert sampler.updates == 1


def test_an_elite_share_reaches_further_than_a_small_tail():
    """Of eight episodes the lowest two, half: at least four, whatever their weight."""
    returns, conditions = np.arange(8.0), np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    for elite, expected in ((0.125, 1.0), (0.5, 0.75), (1.0, 3 / 8)):
        sampler = at(Bernoulli(0.5), Bernoulli(0.5), tail=0.01, elite=elite, every=8)
        sampler.report(conditions, np.ones(8), returns)
        assert sampler.current.probability == pytest.approx(expected)


def test_equal_returns_lead_back_to_the_reference():
    sampler = at(Bernoulli(0.9), Bernoulli(0.2), every=2)
    mixture = 0.2 * 0.2 + 0.8 * 0.9
    counts = np.repeat([True, False], [int(1000 * mixture), 1000 - int(1000 * mixture)])
    sampler.report(counts, sampler.weights(counts), np.zeros(1000))
    assert sampler.current.probability == pytest.approx(0.2, rel=1e-9)


def test_it_finds_the_tail_of_exponential_conditions_in_several_updates():
    """Returns fall with c ~ Exponential(1): the mean of c above its 99% quantile is 1 + log(100)."""
    sampler = ConditionSampler(Exponential(1.0), seed=3, tail=0.01, elite=0.1, every=4000)
    for _ in range(8):
        c, weight = sampler.sample(4000)
        sampler.report(c, weight, -c)
    assert sampler.current.mean == pytest.approx(1 + math.log(100), rel=0.1)
    c, weight = sampler.sample(4000)
    error = og.value_and_error(-c, "cvar:0.01", sample_weight=weight)[1]
    plain = og.value_and_error(-sampler.reference.sample(4000, np.random.default_rng(0)), "cvar:0.01")[1]
    assert error < 0.5 * plain
    assert float(og.value(-c, "cvar:0.01", sample_weight=weight)) == pytest.approx(-1 - math.log(100), rel=0.05)


def test_several_conditions_at_once():
    reference = Independent((Bernoulli(0.1), Normal(0.0, 1.0), Beta(1.0, 1.0)))
    sampler = ConditionSampler(reference, seed=0, tail=0.05, every=2000)
    for _ in range(6):
        c, weight = sampler.sample(2000)
        assert c.shape == (2000, 3)
        sampler.report(c, weight, -5 * c[:, 0] - c[:, 1])
    flag, mean, sd, a, b = sampler.current.parameters
    assert flag > 0.9
    assert mean > 0.5
    assert sd < 1
    assert a == pytest.approx(1, abs=0.3)  # of no consequence for the returns
    assert b == pytest.approx(1, abs=0.3)
    assert weight.mean() == pytest.approx(1, abs=0.15)


def test_inertia_keeps_some_of_the_old():
    sampler = at(Bernoulli(0.5), Bernoulli(0.5), inertia=0.75, every=4)
    sampler.report([True, False, False, False], np.ones(4), [-1.0, 0.0, 0.0, 0.0])
    assert sampler.current.probability == pytest.approx(0.75 * 0.5 + 0.25 * 1.0)


@pytest.fixture(scope="module")
def published():
    """The package of Greenberg et al."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape sequence of its own
        return importlib.import_module("cross_entropy_method")


@pytest.mark.parametrize("tail", [0.05, 0.2])
def test_updates_agree_with_the_published_package(published, tail):
    """On the same samples and weights, without ties; it interpolates quantiles: tails differ by an episode."""

    class Published(published.CEM):
        def pdf(self, x, phi):
            return math.exp(-x / phi) / phi

        def update_sample_distribution(self, samples, weights):
            return np.average(samples, weights=weights)

    n, rng = 2000, np.random.default_rng(4)
    theirs = Published(1.0, batch_size=n, ref_alpha=tail, min_batch_update=0.1, n_orig_per_batch=0)
    ours = ConditionSampler(Exponential(1.0), seed=0, tail=tail, elite=0.1, every=n)
    for _ in range(4):
        assert ours.current.mean == pytest.approx(theirs.sample_dist[-1], rel=0.01)
        c = rng.exponential(theirs.sample_dist[-1], n)
        returns = -c + rng.normal(size=n)
        weight = np.array([theirs.get_weight(x) for x in c])
        for x, w, r in zip(c, weight, returns, strict=True):
            theirs.update_sample(x, w, False)
            theirs.update(r)
        ours.report(c, weight, returns)
    assert ours.current.mean > 1.5


def test_episodes_wait_for_enough_others_and_non_finite_ones_are_left_out():
    sampler = ConditionSampler(Bernoulli(0.5), seed=0, every=5)
    assert not sampler.report([True, False], [1, 1], [0.0, np.nan])
    assert not sampler.report([True, True, True], [1, 1, 1], [0.0, 0.0, -np.inf])
    assert sampler.nonfinite == 2
    assert sampler.report([False, False], [1, 1], [-1.0, -1.0])
    assert sampler.current.probability == 0
    assert not sampler.report(np.ones(5, bool), np.zeros(5), np.zeros(5))  # nothing known of the reference


# Repeating and resuming ---------------------------------------------------------------------------------------------


def play(sampler, rounds):
    drawn = []
    for _ in range(rounds):
        c, weight = sampler.sample(37)
        sampler.report(c, weight, -np.abs(c - 1).reshape(37, -1).sum(1))
        drawn.append(c)
    return np.concatenate(drawn)


@pytest.mark.parametrize(
    "reference",
    [*[family for family, _ in FAMILIES], Independent((Bernoulli(0.1), Normal(0.0, 1.0)))],
    ids=[*NAMES, "Independent"],
)
def test_seeds_repeat_and_states_resume_exactly(reference):
    def make(seed=5):
        return ConditionSampler(reference, seed=seed)

    whole = play(make(), 8)
    assert (whole == play(make(), 8)).all()
    assert (whole != play(make(6), 8)).any()
    first = make()
    begun = play(first, 4)
    state = json.loads(json.dumps(first.state()))
    second = make(seed=99)
    second.restore(state)
    assert (np.concatenate([begun, play(second, 4)]) == whole).all()
    assert second.updates > first.updates > 0
    assert second.current.parameters != reference.parameters


@pytest.mark.parametrize("told", [0, 3])
def test_a_state_resumes_after_a_report_of_non_finite_returns_alone(told):
    first = ConditionSampler(Independent((Bernoulli(0.1), Normal(0.0, 1.0))), seed=0, every=10)
    for returns in ([np.nan] * 3, list(range(told))):
        first.report(*first.sample(len(returns)), returns)
    second = ConditionSampler(first.reference, seed=1, every=10)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.nonfinite == 3
    for sampler in (first, second):
        assert sampler.report(*sampler.sample(10), np.arange(10.0))
    assert second.current == first.current


def test_a_state_of_another_kind_is_an_error():
    state = ConditionSampler(Bernoulli(0.5), seed=0).state()
    with pytest.raises(ValueError, match="2 parameters; got 1"):
        ConditionSampler(Normal(0.0, 1.0), seed=0).restore(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bernoulli(1.5), r"probability must lie in \[0, 1\]; got 1.5"),
        (lambda: Bernoulli(math.nan), "probability must lie"),
        (lambda: Categorical((0.5, 0.4)), "nonnegative numbers of sum 1"),
        (lambda: Exponential(0.0), "mean must be positive and finite; got 0.0"),
        (lambda: Normal(math.inf, 1.0), "mean must be finite"),
        (lambda: Normal(0.0, -1.0), "sd must be positive"),
        (lambda: Beta(1.0, 0.0), "b must be positive"),
        (lambda: Independent(()), "at least one distribution"),
        (lambda: ConditionSampler(Bernoulli(0.5), seed=0, tail=0.0), "0 < tail <= 1; got 0.0"),
        (lambda: ConditionSampler(Bernoulli(0.5), seed=0, elite=1.5), "0 < elite <= 1; got 1.5"),
        (lambda: ConditionSampler(Bernoulli(0.5), seed=0, reference_share=0.0), "0 < reference_share <= 1"),
        (lambda: ConditionSampler(Bernoulli(0.5), seed=0, inertia=1.0), "0 <= inertia < 1; got 1.0"),
        (lambda: ConditionSampler(Bernoulli(0.5), seed=0, every=0), "every must be at least 1; got 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_reports():
    sampler = ConditionSampler(Bernoulli(0.5), seed=0)
    with pytest.raises(ValueError, match=r"one row for each episode; got shapes \(2,\), \(3,\) and \(2,\)"):
        sampler.report([True, False], np.ones(3), np.zeros(2))
    for bad in (-1.0, np.nan):
        with pytest.raises(ValueError, match=f"weight must be finite and nonnegative; got {bad}"):
            sampler.report([True, False], [1.0, bad], np.zeros(2))
    with pytest.raises(ValueError, match=r"conditions of Bernoulli\(.*\) must have shape \(n,\); got \(2, 3\)"):
        sampler.report(np.ones((2, 3)), np.ones(2), np.zeros(2))
    pair = ConditionSampler(Independent((Bernoulli(0.5), Exponential(1.0))), seed=0)
    for shape in ((2,), (2, 3)):
        with pytest.raises(ValueError, match=r"conditions must have shape \(n, 2\); got \(2,"):
            pair.report(np.ones(shape), np.ones(2), np.zeros(2))


@pytest.mark.parametrize(
    ("reference", "bad"),
    [
        (Categorical((0.5, 0.5)), (7, -1, 0.5, np.nan)),
        (Bernoulli(0.5), (7, 0.3, -1, np.nan)),
        (Exponential(1.0), (-1.0, np.nan, np.inf)),
        (Beta(1.0, 1.0), (1.5, np.nan)),
        (Normal(0.0, 1.0), (np.nan, np.inf)),
    ],
)
def test_reports_of_conditions_that_cannot_have_been_drawn(reference, bad):
    """They are an error before anything is taken in."""
    sampler = ConditionSampler(reference, seed=0, every=3)
    for condition in bad:
        with pytest.raises(ValueError, match=rf"conditions must be possible under {type(reference).__name__}.*; got"):
            sampler.report([0.0, 1.0, condition], np.ones(3), np.zeros(3))
        with pytest.raises(ValueError, match="conditions must be possible under"):
            sampler.weights([0.0, condition])
    assert sampler.report(sampler.sample(3).values, np.ones(3), np.zeros(3))


# The wrapper --------------------------------------------------------------------------------------------------------


class Bandit(gym.Env):
    """Two steps; the return is minus what the environment was set to."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)
    load = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.options = 0, options
        return np.zeros(1, np.float32), {"load": self.load}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), -self.load / 2, self.steps == 2, False, {}


def test_the_wrapper_sets_conditions_and_reports_whole_episodes():
    told = []
    sampler = ConditionSampler(Exponential(1.0), seed=0, every=10)
    report = sampler.report
    sampler.report = lambda *row: told.append(row) or report(*row)
    env = SampledConditions(Bandit(), sampler, lambda env, load: setattr(env, "load", float(load)))
    for episode in range(40):
        _, info = env.reset(seed=episode if episode < 2 else None)
        assert info["load"] == env.unwrapped.load
        weight = info["ordergrad_weight"]
        _, _, _, _, info = env.step(0)
        if episode == 7:
            continue  # broken off
        _, _, terminated, _, info = env.step(0)
        assert terminated
        assert info["ordergrad_weight"] == weight
        [[load], [reported], [total]] = told[-1]
        assert (load, reported) == (env.unwrapped.load, weight)
        assert total == pytest.approx(-load)
    assert len(told) == 39
    assert sampler.updates == 3
    assert sampler.current.mean > 1.2


def test_the_wrapper_passes_options_on():
    sampler = ConditionSampler(Bernoulli(0.5), seed=0)
    env = SampledConditions(Bandit(), sampler, lambda env, guard: {"guard": bool(guard)})
    env.reset(options={"start": 3})
    assert env.unwrapped.options["start"] == 3
    assert isinstance(env.unwrapped.options["guard"], bool)
    env = SampledConditions(GuardedMaze(), sampler, lambda env, guard: {"guard": bool(guard)})
    guards = [env.reset(seed=episode)[1]["guard"] for episode in range(20)]
    assert 0 < sum(guards) < 20
