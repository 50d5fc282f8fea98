"""Each related method of docs/papers.md from its own formula, compared with ours; every test that the page names."""

import ast
import re
from itertools import combinations, product
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from reference import fractions, statistic
from strategies import groups

import ordergrad as og
from ordergrad.objectives import CVaR, Spectrum, UpperCVaR

ROOT = Path(__file__).parents[2]
N = 6
ZERO_ONE = st.lists(st.booleans(), min_size=3, max_size=10)


def test_every_test_that_the_page_names_exists() -> None:
    text = (ROOT / "docs/papers.md").read_text()
    named = re.findall(r"`(test_\w+)`\]\(\.\./tests/(\w+/test_\w+\.py)\)", text)
    assert len(named) >= 15
    for function, file in named:
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (function, file)
    own = {node.name for node in ast.parse(Path(__file__).read_text()).body if isinstance(node, ast.FunctionDef)}
    shown = {function for function, _ in named}
    assert {name for name in own if name.startswith("test_")} - shown == {"test_every_test_that_the_page_names_exists"}


@given(groups(N, count=1))
def test_grpo_is_the_mean_divided_by_the_standard_deviation_of_the_group(rewards) -> None:
    (r,) = rewards
    if np.ptp(r) < 1e-6:
        return
    grpo = (r - r.mean()) / r.std(ddof=1)
    assert_allclose(og.advantages(r, "mean") / r.std(ddof=1), N / (N - 1) * grpo, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("spec", ["max@{}", "bottom:1@{}", "topbottom:1@{}"])
def test_advantages_leave_two_out(k, spec) -> None:
    """K/(N-1) times the sum over j of E[T(S' + i) - T(S' + j)], S' of the others: antisymmetric, hence centred."""
    rewards = fractions([0.5, -1.25, 3.0, 0.5, 2.0, -0.75])
    alpha = fractions(og.rank_weights(spec.format(k)))
    expected = []
    for i in range(N):
        total = 0
        for j in set(range(N)) - {i}:
            rest = [rewards[m] for m in range(N) if m not in (i, j)]
            subsets = list(combinations(rest, k - 1))
            swaps = (statistic(alpha, [*s, rewards[i]]) - statistic(alpha, [*s, rewards[j]]) for s in subsets)
            total += sum(swaps) / len(subsets)
        expected.append(k * total / (N - 1))
    assert sum(expected) == 0
    got = og.advantages([float(r) for r in rewards], spec.format(k))
    assert_allclose(got, [float(e) for e in expected], rtol=1e-12, atol=1e-13)


@given(ZERO_ONE, st.integers(1, 9))
def test_pass_at_k_training_is_max_at_k_divided_by_a_standard_deviation(successes, k) -> None:
    """Chen et al. (2025): advantages of successes and failures from the mean and deviation of pass@k over subsets."""
    n, failures = len(successes), len(successes) - sum(successes)
    if k >= n:
        return
    mean = 1 - comb(failures, k) / comb(n, k)
    sigma = np.sqrt(mean * (1 - mean))
    if sigma < 1e-9:
        return
    good = (1 - mean) / sigma
    bad = (1 - mean - comb(failures - 1, k - 1) / comb(n - 1, k - 1)) / sigma if failures else 0.0
    theirs = np.where(successes, good, bad)
    ours = og.advantages(np.array(successes, float), f"max@{k}")
    assert_allclose(theirs, (n - k) / (n * k * sigma) * ours, rtol=1e-9, atol=1e-12)


@given(groups(N, count=1))
def test_the_best_less_the_second_best_is_max_at_n_with_the_second_baseline(rewards) -> None:
    """Tang et al. (2025), `grpo_passk` of verl: the best of a group gets its lead, all others nothing."""
    (r,) = rewards
    theirs = np.zeros(N)
    second, best = np.sort(r)[-2:]
    theirs[np.argmax(r)] = best - second
    ours = og.advantages(r, f"max@{N}", baseline="k_minus_one")
    assert_allclose(theirs, ours / N, atol=1e-12 * (1 + np.abs(r).max()))


def gcvar(rewards, q):
    """Tamar, Glassner and Mannor (2015): (R - ν) 1{R <= ν} / q, ν the empirical q-quantile, times the score."""
    ordered = np.sort(rewards)
    nu = ordered[int(np.ceil(q * len(rewards) - 1e-12)) - 1]
    return np.where(rewards <= nu, rewards - nu, 0) / q


def dsr(rewards, q):
    """Petersen et al. (2021): (R - R_q) 1{R >= R_q} / q, R_q the empirical (1-q)-quantile, times the score."""
    return -gcvar(-np.asarray(rewards), q)


@pytest.mark.parametrize("worst", [1, 2, 4])
@given(rewards=groups(N, count=1))
def test_gcvar_is_cvar_without_the_centre(worst, rewards) -> None:
    """At q = worst/(N-1): the same function of the reward, (N-1)/N times ours, plus one number for the whole batch."""
    (r,), q = rewards, worst / (N - 1)
    apart = gcvar(r, q) - (N - 1) / N * og.advantages(r, CVaR(q))
    assert_allclose(apart, apart.mean(), atol=1e-9 * (1 + np.ptp(r)))
    assert apart.mean() <= 1e-9 * (1 + np.ptp(r))


@pytest.mark.parametrize("best", [1, 2, 4])
@given(rewards=groups(N, count=1))
def test_risk_seeking_policy_gradient_is_the_upper_cvar_without_the_centre(best, rewards) -> None:
    """Deep symbolic regression, the mirror image of GCVaR."""
    (r,), q = rewards, best / (N - 1)
    apart = dsr(r, q) - (N - 1) / N * og.advantages(r, UpperCVaR(q))
    assert_allclose(apart, apart.mean(), atol=1e-9 * (1 + np.ptp(r)))
    assert apart.mean() >= -1e-9 * (1 + np.ptp(r))


def expected_gradient(weights, outcomes, probs, n):
    """The expectation over all batches of the mean of weight times score, for the logits of a softmax policy."""
    total = np.zeros(len(probs))
    for draw in product(range(len(probs)), repeat=n):
        index = np.array(draw)
        scores = np.eye(len(probs))[index] - probs
        total += probs[index].prod() * (weights(outcomes[index])[:, None] * scores).mean(0)
    return total


def test_that_number_depends_on_the_batch_and_makes_gcvar_biased() -> None:
    outcomes, probs, n, q = np.array([-2.0, 0.0, 1.0]), np.array([0.2, 0.5, 0.3]), 5, 0.5
    true = probs * og.exact.advantages(outcomes, probs, CVaR(q, n - 1))
    ours = expected_gradient(lambda r: og.advantages(r, CVaR(q, n - 1)), outcomes, probs, n)
    assert_allclose(ours, true, atol=1e-12)
    theirs = expected_gradient(lambda r: gcvar(r, q), outcomes, probs, n)
    population = probs * og.exact.advantages(outcomes, probs, CVaR(q))
    for target in (true, population):
        cosine = theirs @ target / np.linalg.norm(theirs) / np.linalg.norm(target)
        assert cosine < 0.999


def test_soft_risk_is_a_schedule_of_the_level() -> None:
    """CeSoR trains CVaR at a level that falls from 1 (the mean) to its own: each step is one of our objectives."""
    rewards = np.array([0.3, -1.7, 2.2, 0.4, 5.1, -0.4])
    assert_allclose(og.advantages(rewards, CVaR(1.0)), og.advantages(rewards, "mean"), atol=1e-14)
    levels = np.linspace(1.0, 0.2, 9)
    values = [float(og.value(rewards, CVaR(q))) for q in levels]
    assert (np.diff(values) < 0).all()


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_retry_objectives_are_the_expected_best_of_m(m) -> None:
    """ReMax with a whole number m of retries: E[max] over every sequence of m draws."""
    outcomes, probs = np.array([-1.0, 0.5, 2.0]), np.array([0.5, 0.3, 0.2])
    expected = sum(probs[list(d)].prod() * outcomes[list(d)].max() for d in product(range(3), repeat=m))
    assert float(og.exact.value(outcomes, probs, f"max@{m}")) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("m", [1.2, 2, 2.5, 4])
def test_advantages_of_retry_policies_are_the_exact_ones(m) -> None:
    """RePPO: the improvement over m - 1 draws, E[(q - max)+] = the sum of F^(m-1) over the gaps below q, centred."""
    q, probs = np.array([-1.0, 0.5, 2.0, 2.25]), np.array([0.4, 0.3, 0.2, 0.1])
    improvement = np.array([0.0, *np.cumsum(np.cumsum(probs)[:-1] ** (m - 1) * np.diff(q))])
    if m == 2:
        assert_allclose(improvement, [sum(p * max(a - b, 0) for b, p in zip(q, probs, strict=True)) for a in q])
    theirs = improvement - probs @ improvement
    spectrum = Spectrum(lambda u: m * u ** (m - 1))
    assert_allclose(og.exact.advantages(q, probs, spectrum) / m, theirs, atol=1e-12)
    if m == int(m):
        assert_allclose(og.exact.advantages(q, probs, f"max@{m}") / m, theirs, atol=1e-12)


@given(groups(N, count=1))
def test_gini_deviation_is_half_of_the_gini_mean_difference(rewards) -> None:
    """Luo et al. (2023): D = E|X - X'| / 2, the integral of (2u - 1) Q(u)."""
    (r,) = rewards
    pairs = [abs(a - b) for a, b in combinations(r, 2)]
    assert float(og.value(r, "gini")) / 2 == pytest.approx(np.mean(pairs) / 2, rel=1e-9, abs=1e-9)
    u = np.linspace(0, 1, 11)
    assert_allclose(og.spectrum("gini", u) / 2, 2 * u - 1, atol=1e-12)
    penalised = og.advantages(r, "mean") - 0.3 * og.advantages(r, "gini") / 2
    assert_allclose(og.advantages(r, "mean-0.15*gini"), penalised, atol=1e-9 * (1 + np.ptp(r)))
