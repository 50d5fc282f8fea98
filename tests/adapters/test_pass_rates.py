"""A K for each prompt from its running pass rate: against the library's advantages, and by enumeration."""

import itertools
import json

import numpy as np
import pytest

import ordergrad as og
from ordergrad.adapters.pass_rates import PassRates, advantages_by_k, k_for_rate, largest_k, prompt_key


def test_k_is_the_rounded_inverse_of_the_rate():
    assert [int(k_for_rate(rate, 7)) for rate in (0.0, 1 / 8, 0.15, 0.3, 0.5, 0.7, 1.0)] == [7, 7, 7, 3, 2, 1, 1]
    assert k_for_rate(np.array([0.0, 0.01, 0.9]), 1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("small", ["zero", "shrink"])
@pytest.mark.parametrize("masked", [False, True])
def test_advantages_are_those_of_each_k(masked, small):
    rng = np.random.default_rng(0)
    rewards, k = rng.normal(size=(7, 6)), np.array([1, 5, 2, 2, 1, 4, 3])
    where = rng.random((7, 6)) < 0.6 if masked else None
    found = advantages_by_k(rewards, k, where=where, small=small)
    for i in range(7):
        mask = None if where is None else where[i]
        assert found[i].tolist() == og.advantages(rewards[i], f"max@{k[i]}", where=mask, small=small).tolist()


@pytest.mark.parametrize("p", [0.2, 0.6])
def test_the_gradient_given_the_past_is_that_of_the_chosen_k(p):
    """Every second group of three is enumerated after every first one: K is chosen before it is seen."""
    outcomes = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    chances = np.where(outcomes == 1, p, 1 - p).prod(1)
    chosen = set()
    for first in outcomes:
        rates = PassRates(window=3)
        rates.record(["x"], first[None])
        k = rates.k(["x"] * len(outcomes), largest=2)
        chosen.add(int(k[0]))
        gradient = chances @ (advantages_by_k(outcomes, k) * (outcomes - p)).mean(1)
        assert gradient == pytest.approx(k[0] * (1 - p) ** (k[0] - 1) * p * (1 - p), abs=1e-12)
    assert chosen == {1, 2}


def test_the_latest_completions_count():
    rates = PassRates(window=4)
    assert rates.k(["a", "b"], 9).tolist() == [1, 1]
    assert rates.known(["a"]).tolist() == [False]
    rates.record(["a", "b"], np.array([[1, 1, 0], [np.nan, np.nan, np.nan]]))
    assert rates.known(["a", "b"]).tolist() == [True, False]
    assert rates.k(["a", "b"], 9).tolist() == [2, 1]  # 2 of 3
    rates.record(["a"], np.array([[0, 0, np.nan]]))
    assert rates.state_dict() == {"a": "1000"}
    rates.record(["a"], np.array([[0, 0, 0]]))
    assert rates.k(["a"], 9).tolist() == [9]
    rates.record(["b", "b"], np.array([[0, 1], [1, 1]]))  # twice in one batch
    assert rates.state_dict()["b"] == "0111"


def test_the_state_survives_json():
    rates, other = PassRates(5), PassRates(5)
    rates.record(["a", "b"], np.array([[True, False], [False, False]]))
    other.load_state_dict(json.loads(json.dumps(rates.state_dict())))
    assert other.k(["a", "b", "c"], 4).tolist() == rates.k(["a", "b", "c"], 4).tolist() == [2, 4, 1]
    other.record(["a"], np.array([[0, 0]]))
    assert rates.state_dict()["a"] == "10"


def test_prompts_are_known_by_their_text():
    assert prompt_key("1 + 1 =") == "b261ce713230de72493e209ac7b72b29"
    conversation = [{"role": "user", "content": "1 + 1 ="}]
    assert prompt_key(conversation) == prompt_key([{"content": "1 + 1 =", "role": "user"}]) != prompt_key("1 + 1 =")
    with pytest.raises(TypeError, match="k_window takes prompts of text only: Object of type object"):
        prompt_key([{"role": "user", "content": [{"type": "image", "image": object()}]}])


@pytest.mark.parametrize("objective", ["mean", "max@2.5", "2*max@4", "max@4+mean", "min@4", "maxrl"])
def test_only_max_at_k_has_a_largest_k(objective):
    with pytest.raises(ValueError, match="k_window needs the objective max@K with a whole K"):
        largest_k(og.parse(objective))
    assert largest_k(og.parse("1*max@4")) == 4


@pytest.mark.parametrize(("window", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_the_window_is_a_whole_number(window, error):
    with pytest.raises(error, match="k_window"):
        PassRates(window)
