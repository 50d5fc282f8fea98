"""The estimators are unbiased: summed over every possible batch, not sampled.

A softmax policy over m outcomes with rewards r draws N of them. The expectation of the estimated gradient over all
m^N batches must be the exact gradient p * A, which in turn must be the derivative of the exact objective.
"""

from itertools import product

import numpy as np
import pytest
from catalogue import ALL, OPEN, SIZED, at_size
from numpy.testing import assert_allclose

import ordergrad as og
from ordergrad.objectives import Weights

PROBS = np.array([0.5, 0.2, 0.3])
REWARDS = {"distinct": [1.0, -2.0, 0.5], "tied": [1.0, 0.0, 1.0], "equal": [2.0, 2.0, 2.0]}
BASELINES = ["leave_one_out", "k_minus_one", "none"]


def batches(n, probs=PROBS):
    """Return all batches of n draws, (m^n, n), and their probabilities."""
    draws = np.array(list(product(range(len(probs)), repeat=n)))
    return draws, probs[draws].prod(axis=1)


def scores(draws, probs=PROBS):
    """Return the gradients of log p of the draws by the logits, one more axis of length m."""
    return np.eye(len(probs))[draws] - probs


def expected_gradient(rewards, objective, n, **options):
    """Return the expectation of mean_i A_i grad log p(x_i) over all batches."""
    draws, probability = batches(n)
    a = og.advantages(np.array(rewards)[draws], objective, **options)
    return np.einsum("b,bn,bnm->m", probability, a, scores(draws)) / n


@pytest.mark.parametrize("rewards", REWARDS.values(), ids=REWARDS)
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("objective", ALL, ids=str)
def test_expected_gradient_is_the_exact_gradient(objective, baseline, rewards):
    n = 5
    exact = PROBS * og.exact.advantages(rewards, PROBS, at_size(og.parse(objective), n - 1))
    assert_allclose(expected_gradient(rewards, objective, n, baseline=baseline), exact, atol=1e-13)


@pytest.mark.parametrize("baseline", ["k_minus_one", "none"])
@pytest.mark.parametrize("spec", ["max@4", "top:2@4", "cvar:0.3@4", "median@4", "lmoment:4", "0.5*mean+0.5*max@3.5"])
def test_comparison_sizes_as_large_as_the_group(spec, baseline):
    exact = PROBS * og.exact.advantages(REWARDS["distinct"], PROBS, spec)
    assert_allclose(expected_gradient(REWARDS["distinct"], spec, 4, baseline=baseline), exact, atol=1e-13)


@pytest.mark.parametrize("objective", ALL, ids=str)
def test_expected_value_is_the_exact_value(objective):
    n = 5
    for rewards in REWARDS.values():
        draws, probability = batches(n)
        expected = probability @ og.value(np.array(rewards)[draws], objective)
        exact = og.exact.value(rewards, PROBS, at_size(og.parse(objective), n))
        assert expected == pytest.approx(float(exact), abs=1e-13)


def test_expected_order_statistics_are_the_exact_ones():
    draws, probability = batches(4)
    rewards = np.array(REWARDS["distinct"])
    expected = probability @ og.order_statistics(rewards[draws], 3)
    assert_allclose(expected, og.exact.order_statistics(rewards, PROBS, 3), atol=1e-14)


def test_expected_rank_advantages_give_every_rank():
    draws, probability = batches(4)
    rewards = np.array(REWARDS["distinct"])
    a = og.rank_advantages(rewards[draws], 3)
    expected = np.einsum("b,bnk,bnm->km", probability, a, scores(draws)) / 4
    exact = [PROBS * og.exact.advantages(rewards, PROBS, Weights(*unit)) for unit in np.eye(3)]
    assert_allclose(expected, exact, atol=1e-14)


def test_masks_that_do_not_depend_on_the_draw_keep_it_unbiased():
    """Five draws of which three count: unbiased with 1/3 in place of 1/5."""
    draws, probability = batches(5)
    rewards = np.array(REWARDS["distinct"])
    mask = np.array([True, False, True, True, False])
    a = og.advantages(rewards[draws], "max@2", where=mask)
    expected = np.einsum("b,bn,bnm->m", probability, a, scores(draws)) / 3
    assert_allclose(expected, PROBS * og.exact.advantages(rewards, PROBS, "max@2"), atol=1e-14)


def softmax(logits):
    e = np.exp(logits - logits.max())
    return e / e.sum()


LOGITS = np.array([0.3, -1.1, 0.8, 0.0])
OUTCOMES = np.array([2.0, -1.0, 0.5, 2.0])


@pytest.mark.parametrize("spec", [*SIZED, *(f"{s}@7" for s in OPEN if "+" not in s)])
def test_exact_gradient_is_the_finite_difference(spec):
    h = 1e-3
    steps = np.eye(4)
    j = [[float(og.exact.value(OUTCOMES, softmax(LOGITS + s * h * e), spec)) for s in (-2, -1, 1, 2)] for e in steps]
    difference = np.array(j) @ [1 / 12, -8 / 12, 8 / 12, -1 / 12] / h
    p = softmax(LOGITS)
    assert_allclose(p * og.exact.advantages(OUTCOMES, p, spec), difference, atol=1e-9)


@pytest.mark.parametrize("spec", [*SIZED, "cvar:0.3@50", "wang:1@50"])
def test_exact_gradient_is_the_derivative_by_autodiff(spec):
    import jax
    import torch

    p = softmax(LOGITS)
    exact = p * og.exact.advantages(OUTCOMES, p, spec)

    logits = torch.tensor(LOGITS, requires_grad=True)
    og.exact.value(torch.tensor(OUTCOMES), logits.softmax(0), spec).backward()
    assert_allclose(logits.grad.numpy(), exact, rtol=1e-9, atol=1e-12)

    gradient = jax.grad(lambda x: og.exact.value(jax.numpy.asarray(OUTCOMES), jax.nn.softmax(x), spec))(LOGITS)
    assert_allclose(np.asarray(gradient), exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("spec", ["mean", "cvar:0.3@3", "max@3"])
def test_pathwise_gradient_of_the_value_is_unbiased(spec):
    """Rewards theta * r: the derivative of E[value] by theta is the expectation of the derivative."""
    import torch

    draws, probability = batches(4)
    theta = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    v = og.value(theta * torch.tensor(REWARDS["distinct"], dtype=torch.float64)[draws], spec)
    (torch.tensor(probability) @ v).backward()
    assert theta.grad.item() == pytest.approx(float(og.exact.value(REWARDS["distinct"], PROBS, spec)), rel=1e-12)
