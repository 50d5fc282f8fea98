"""What the trainers of language models share: advantages of ragged batches, ties, groups without a signal."""

import itertools

import numpy as np
import pytest

import ordergrad as og
from ordergrad.adapters.completions import (
    batch_advantages,
    check_fits,
    completion_advantages,
    groups_with_signal,
    sessions,
    with_ties,
)

SIZES = [6, 5, 8]
GROUPS = [np.random.default_rng(i).normal(size=n) for i, n in enumerate(SIZES)]
FLAT = np.concatenate(GROUPS)
IDS = np.repeat(np.arange(3), SIZES)
EXPECTED = og.group_advantages(FLAT, IDS, "top:2@4")


@pytest.mark.parametrize("objective", ["top:2@4", "mean", "cvar:0.25", "maxrl"])
def test_completion_advantages_are_group_advantages(objective: str) -> None:
    order = np.random.default_rng(0).permutation(len(FLAT))
    found = completion_advantages(FLAT[order], IDS[order], objective)
    np.testing.assert_allclose(found, og.group_advantages(FLAT[order], IDS[order], objective), rtol=1e-12)


def test_group_ids_may_be_anything_hashable() -> None:
    for ids in ([("prompt", i) for i in IDS], [str(i) for i in IDS], np.array([f"u{i}" for i in IDS], dtype=object)):
        np.testing.assert_allclose(completion_advantages(FLAT, ids, "top:2@4"), EXPECTED, rtol=1e-12)


def test_unscorable_rewards_are_left_out_of_the_ranks() -> None:
    rewards = [*FLAT[:-3].tolist(), None, float("nan"), float("inf")]
    found = completion_advantages(rewards, IDS, "top:2@4")
    np.testing.assert_allclose(found[:-3], og.group_advantages(FLAT[:-3], IDS[:-3], "top:2@4"), rtol=1e-12)
    assert not found[-3:].any()


def test_small_groups() -> None:
    rewards, ids = [1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 1.0, 9.0], [0, 0, 0, 0, 0, 1, 1, 2]
    found = completion_advantages(rewards, ids, "top:2@4")
    assert found[:5].any()
    assert not found[5:].any()
    np.testing.assert_allclose(completion_advantages(rewards, ids, "top:2@4", small="shrink")[5:], 0)
    np.testing.assert_allclose(completion_advantages(rewards, ids, "cvar:0.5@4", small="shrink")[5:], [-1, 1, 0])
    assert not completion_advantages([1.0, 2.0], ["a", "b"], "max@1", small="shrink").any()
    assert len(completion_advantages([], [], "top:2@4")) == 0


def test_scale_divides_by_the_standard_deviation() -> None:
    grouped = completion_advantages(FLAT, IDS, "mean", scale="group")
    grpo = np.concatenate([(g - g.mean()) / (g.std(ddof=1) + 1e-6) for g in GROUPS])
    np.testing.assert_allclose(grouped, grpo, rtol=1e-5)
    batched = completion_advantages(FLAT, IDS, "top:2@4", scale="batch")
    np.testing.assert_allclose(batched, EXPECTED / np.sqrt((EXPECTED**2).sum() / (len(FLAT) - 3)), rtol=1e-5)
    assert not completion_advantages([1.0, 1.0, 1.0], [0, 0, 0], "mean", scale="group").any()
    with_nan = completion_advantages([*GROUPS[0], np.nan], [0] * 7, "mean", scale="group")
    np.testing.assert_allclose(with_nan[:6], grpo[:6], rtol=1e-5)


def test_errors() -> None:
    with pytest.raises(ValueError, match="k < the group size; got k=8, the group size=8 for max@8"):
        completion_advantages(FLAT, IDS, "max@8")
    with pytest.raises(ValueError, match="small must be one of zero, shrink"):
        completion_advantages(FLAT, IDS, "mean", small="error")
    with pytest.raises(ValueError, match="scale must be one of"):
        completion_advantages(FLAT, IDS, "mean", scale="std")
    with pytest.raises(ValueError, match="no known objective"):
        completion_advantages(FLAT, IDS, "avg")
    with pytest.raises(ValueError, match="objective must have a nonzero term"):
        completion_advantages(FLAT, IDS, "max@2-max@2")
    check_fits("max@7", 8, "n")


def test_a_group_that_lost_completions_is_no_wrong_setting() -> None:
    assert not completion_advantages([1.0, 2.0, 3.0], [0] * 3, "max@4", group_size=8).any()
    with pytest.raises(ValueError, match="k < n; got k=8, n=8"):
        completion_advantages([1.0, 2.0, 3.0], [0] * 3, "max@8", group_size=8, size_name="n")


# ------------------------------------------------------------------------------------------------- ties and the signal


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
@pytest.mark.parametrize("objective", ["mean", "max@2", "cvar:0.5", "maxrl"])
def test_rounding_is_no_signal(objective: str, scale: str) -> None:
    double = [0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2]
    single = np.array([0.1, 0.3, 0.3, 0.3], dtype=np.float32)
    single[0] = np.float32(0.7) - np.float32(0.4)
    assert len(set(double)) == 2
    assert len(set(single.tolist())) == 2
    for rewards in (double, np.array(double), single):
        assert not completion_advantages(rewards, [0] * 4, objective, scale=scale).any()
        assert groups_with_signal(rewards, [0] * 4, objective) == {0: False}


def test_ties_are_those_of_the_precision_in_which_rewards_came() -> None:
    close = np.array([1.0, 1.0 + 1e-7, 2.0])
    assert not np.array_equal(completion_advantages(close, [0] * 3, "mean")[:1], [0])
    a = completion_advantages(close, [0] * 3, "mean")
    assert a[0] != a[1]
    b = completion_advantages(close.astype(np.float32), [0] * 3, "mean")
    assert b[0] == b[1]


def test_ties_stay_within_their_group_and_leave_the_rest_alone() -> None:
    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=200), rng.integers(0, 20, 200)
    eps = float(np.finfo(float).eps)
    np.testing.assert_array_equal(with_ties(x, codes, 4 * eps * np.abs(x)), x)
    x = np.array([0.3, 0.1 + 0.2, np.inf, 5.0, -np.inf, np.nan, 0.0, -0.0])
    found = with_ties(x, np.zeros(8, dtype=np.int64), 4 * eps * np.abs(x))
    np.testing.assert_array_equal(found, [0.3, 0.3, np.inf, 5.0, -np.inf, np.nan, 0.0, 0.0])
    np.testing.assert_array_equal(with_ties(x[:2], np.array([0, 1]), 4 * eps * x[:2]), x[:2])
    assert len(with_ties(x[:0], np.zeros(0, dtype=np.int64), x[:0])) == 0


@pytest.mark.parametrize(
    ("rewards", "objective", "signal"),
    [
        ([1, 1, 1, 0], "max@2", False),
        ([1, 1, 0, 0], "max@2", True),
        ([1, 1, 1, 0], "mean", True),
        ([1, 0, 0, 0], "min@2", False),
        ([1, 1, 1, 0], "min@2", True),
        ([2, 2, 2, 2], "maxrl", False),
        ([1, 0, None, float("nan")], "max@2", False),
        ([1, 0], "max@2", False),
    ],
)
def test_groups_with_signal_go_by_the_advantages(rewards: list, objective: str, signal: bool) -> None:
    assert groups_with_signal(rewards, ["p"] * len(rewards), objective) == {"p": signal}
    a = completion_advantages(rewards, ["p"] * len(rewards), objective, group_size=4)
    assert bool(a.any()) == signal


def test_sessions_take_the_last_row() -> None:
    ranked, row_of = sessions(["b", "a", "b", "c", "a"], [1, 0, 0, 5, 1])
    assert ranked.tolist() == [0, 4, 3]
    assert row_of.tolist() == [0, 1, 0, 2, 1]
    ranked, row_of = sessions(["x", "y"])
    assert (ranked.tolist(), row_of.tolist()) == ([0, 1], [0, 1])


# Ranks among all of the batch


@pytest.mark.parametrize("objective", ["cvar:0.25", "max@7", "top:2@4", "mean"])
def test_ranks_among_the_batch_are_centred_within_each_prompt(objective: str) -> None:
    order = np.random.default_rng(0).permutation(len(FLAT))
    found = completion_advantages(FLAT[order], IDS[order], objective, group="batch")
    ranked = og.advantages(FLAT[order], objective)
    for prompt in range(3):
        mine = ranked[IDS[order] == prompt]
        others = (mine.sum() - mine) / (len(mine) - 1)
        np.testing.assert_allclose(found[IDS[order] == prompt], mine - others, atol=1e-12)
    if objective == "mean":  # the level of a prompt drops out
        expected = og.group_advantages(FLAT[order], IDS[order], "mean") * len(FLAT) / (len(FLAT) - 1)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_what_is_not_ranked_among_the_batch_changes_nothing() -> None:
    plain = completion_advantages(FLAT, IDS, "cvar:0.25@8", group="batch")
    rewards = np.array([*FLAT, -9.0, -8.0, np.nan])
    found = completion_advantages(rewards, [*IDS, "pad1", "pad2", 0], "cvar:0.25@8", group="batch")
    np.testing.assert_allclose(found, [*plain, 0, 0, 0], atol=1e-12)
    assert not completion_advantages([np.nan] * 4, [0, 0, 1, 1], "max@2", group="batch").any()
    assert len(completion_advantages([], [], "max@2", group="batch", small="shrink")) == 0
    with pytest.raises(ValueError, match="k < the completions of a batch; got k=19, the completions of a batch=19"):
        completion_advantages(FLAT, IDS, "max@19", group="batch")
    with pytest.raises(ValueError, match="group must be one of prompt, batch; got 'all'"):
        completion_advantages(FLAT, IDS, "mean", group="all")


def test_equal_rewards_of_a_prompt_have_no_signal_among_the_batch() -> None:
    rewards = np.array([0.1, 0.3 - 0.2, 0.1, 0.7, 0.7, 0.7, 0.2, 0.5, 0.9])
    found = completion_advantages(rewards, np.repeat([0, 1, 2], 3), "0.3*mean+0.7*cvar:0.3", group="batch")
    assert found[:6].tolist() == [0] * 6
    assert (found[6:] != 0).any()


def test_ranks_among_the_batch_are_consistent_for_the_mixture_over_prompts():
    """Every batch of a small case is enumerated: the bias against the exact gradient falls with the prompts."""
    rates = np.array([0.2, 0.9])  # two prompts that are equally likely, rewards 0 and 1, one logit each
    objective, n = "min@3", 3
    mixture = rates.mean()
    exact = 3 * mixture**2 * 0.5 * rates * (1 - rates)
    biases = []
    for prompts in (2, 3):
        gradient = np.zeros(2)
        for drawn in itertools.product((0, 1), repeat=prompts):
            for outcome in itertools.product((0.0, 1.0), repeat=prompts * n):
                rewards = np.array(outcome).reshape(prompts, n)
                p = rates[list(drawn)][:, None]
                chance = 0.5**prompts * np.where(rewards == 1, p, 1 - p).prod()
                a = batch_advantages(rewards.ravel(), np.repeat(range(prompts), n), objective).reshape(prompts, n)
                terms = (a * (rewards - p)).sum(1) / (prompts * n)
                np.add.at(gradient, list(drawn), chance * terms)
        biases.append(np.abs(gradient - exact).max() / np.abs(exact).max())
    assert biases[1] < 0.7 * biases[0]
    assert biases[0] < 1
