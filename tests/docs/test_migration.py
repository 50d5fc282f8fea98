"""Ours against the numbers that the authors' code returned (support/reference_numbers.py), and docs/migration.md."""

import json
import re
from math import ceil, floor
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

import ordergrad as og

PAGE = Path(__file__).parents[2] / "docs/migration.md"
THEIRS = json.loads((Path(__file__).parent / "reference_numbers.json").read_text())
X, OUTCOMES, PROBS = (np.array(THEIRS[name]) for name in ("rewards", "outcomes", "probs"))

PRESETS = {
    "ReMax": "max@{k}",
    "ReMin": "min@{k}",
    "TopM:2": "top:2@{k}",
    "BotM:3": "bottom:3@{k}",
    "Rank:2": "rank:2@{k}",
    "TopBot:2": "topbottom:2@{k}",
    "MidrangeM:1": "topbottom:1@{k}",
    "Median": "median@{k}",
    "TrimM:1": "trimmed:{1/k}@{k}",
    "WinsorizedM:1": "winsorized:{1/k}@{k}",
    "LowerTailMean:0.3": "bottom:{ceil(0.3*k)}@{k}",
    "UpperTailMean:0.3": "top:{ceil(0.3*k)}@{k}",
    "RangeLowerTailMean:0.2:0.7": "range:{floor(0.2*k)/k}:{ceil(0.7*k)/k}@{k}",
    "RangeUpperTailMean:0.2:0.7": "range:{1-ceil(0.7*k)/k}:{1-floor(0.2*k)/k}@{k}",
    "TrimmedMeanFrac:0.2:0.7": "range:{1-ceil(0.7*k)/k}:{1-floor(0.2*k)/k}@{k}",
    "Quantile:0.3": "quantile:0.3@{k}",
    "QuantileHazen:0.3": "quantile:0.3:hazen@{k}",
    "QuantileWeibull:0.3": "quantile:0.3:weibull@{k}",
    "QuantileBlom:0.3": "quantile:0.3:blom@{k}",
    "TopQuantile:0.3": "quantile:0.7@{k}",
    "TopQuantileHazen:0.3": "quantile:0.7:hazen@{k}",
    "TopQuantileWeibull:0.3": "quantile:0.7:weibull@{k}",
    "TopQuantileBlom:0.3": "quantile:0.7:blom@{k}",
    "HarrellDavis:0.3": "quantile:0.3:harrelldavis@{k}",
    "LMoment:1": "mean",
}
OTHERS = ("GiniMeanDifference", "GMD", "LMoment:2", "LMoment:3")
"""Presets whose weights need more than a line."""

CALLS = {
    "lstat": lambda o, k: og.value(X, o),
    "lstat_advantage": lambda o, k: og.advantages(X, o) / k,
    "lstat_inclusion": lambda o, k: og.include_one(X, o),
    "lstat_leave_one_out": lambda o, k: og.leave_one_out(X, o),
    "lstat_weight_by_rank": lambda o, k: og.sample_weights(o, len(X)),
    "lstat_known_rp": lambda o, k: og.exact.value(OUTCOMES, PROBS, o),
    "lstat_advantage_known_rp": lambda o, k: og.exact.advantages(OUTCOMES, PROBS, o) / k,
    "orderstats": lambda o, k: og.order_statistics(X, k),
    "orderstats_advantage": lambda o, k: og.rank_advantages(X, k) / k,
    "orderstats_known_rp": lambda o, k: og.exact.order_statistics(OUTCOMES, PROBS, k),
}
"""Ours for their calls; o is the objective."""

WITHOUT = {
    "lstat_inclusion_known_rp": lambda o, k: (
        og.exact.value(OUTCOMES, PROBS, o) + CALLS["lstat_advantage_known_rp"](o, k)
    ),
    "orderstats_inclusion": lambda o, k: np.stack(
        [og.include_one(X, f"rank:{k + 1 - j}@{k}") for j in range(1, k + 1)], axis=-1
    ),
    "orderstats_leave_one_out": lambda o, k: np.stack(
        [og.leave_one_out(X, f"rank:{k + 1 - j}@{k}") for j in range(1, k + 1)], axis=-1
    ),
}
"""Their calls that have no function of their own here."""


def at(form: str, k: int) -> str:
    return re.sub(r"\{(.*?)\}", lambda match: str(eval(match[1], {"k": k, "ceil": ceil, "floor": floor})), form)


def preset(name: str, k: int) -> np.ndarray:
    return np.array(THEIRS["weights"][name][str(k)])


@pytest.mark.parametrize("k", [5, 8, 10])
@pytest.mark.parametrize(("name", "ours"), PRESETS.items(), ids=PRESETS)
def test_presets_have_these_rank_weights(name, ours, k):
    assert_allclose(og.rank_weights(at(ours, k), k), preset(name, k), atol=1e-12)


def test_every_preset_is_compared_and_on_the_page():
    assert {*PRESETS, *OTHERS} == set(THEIRS["weights"])
    text = PAGE.read_text()
    for name in THEIRS["weights"]:
        assert f"`{name.split(':')[0]}" in text


@pytest.mark.parametrize("k", [5, 8, 10])
def test_the_gini_mean_difference_is_the_same_objective_at_every_k(k):
    for name in ("GiniMeanDifference", "GMD"):
        assert_allclose(og.rank_weights("gini", k), preset(name, k), atol=1e-12)


@pytest.mark.parametrize("k", [5, 8, 10])
def test_their_l_moments_are_not_those_of_hosking(k):
    assert_allclose(4 * preset("LMoment:2", k), og.rank_weights("lmoment:2", k), atol=1e-12)
    theirs, ours = preset("LMoment:3", k), og.rank_weights("lmoment:3", k)
    assert theirs @ ours / np.linalg.norm(theirs) / np.linalg.norm(ours) < 0.9
    assert abs(ours.sum()) < 1e-12
    assert theirs.sum() > 0.05  # not invariant under a shift


def test_vectors_begin_with_the_best_rank():
    assert_allclose(og.rank_weights(og.objectives.Weights(*[0.5, 0.3, 0.2, 0.0][::-1])), THEIRS["vector"])


@pytest.mark.parametrize("case", THEIRS["calls"])
def test_calls_return_the_same(case):
    name, k = case.split(", ")
    objective = at(PRESETS[name], int(k))
    compared = {**CALLS, **WITHOUT}
    for call, theirs in THEIRS["calls"][case].items():
        assert_allclose(compared[call](objective, int(k)), theirs, atol=1e-12, err_msg=call)


@pytest.mark.parametrize("k", THEIRS["ranks"])
def test_calls_of_ranks_return_the_same(k):
    compared = {**CALLS, **WITHOUT}
    for call, theirs in THEIRS["ranks"][k].items():
        assert_allclose(compared[call](None, int(k)), theirs, atol=1e-12, err_msg=call)


def test_every_call_is_on_the_page():
    text = PAGE.read_text()
    found = [*THEIRS["calls"]["TopM:2, 4"], *THEIRS["ranks"]["3"]]
    assert {*CALLS, *WITHOUT} == set(found)
    for call in found:
        assert f"`{call}(" in text, call
    assert THEIRS["commit"][:7] in text


def test_real_sizes_differ():
    """Ours mix their neighbours; theirs is no expectation of a maximum: below the mean, and 0 with the best reward."""
    theirs = THEIRS["real"]["ReMax, 2.5"]
    assert_allclose(
        og.advantages(X, "max@2.5"), (og.advantages(X, "max@2") + og.advantages(X, "max@3")) / 2, atol=1e-13
    )
    exact = og.exact.value(OUTCOMES, PROBS, "max@2.5")
    assert og.exact.value(OUTCOMES, PROBS, "max@2") < exact < og.exact.value(OUTCOMES, PROBS, "max@3")
    assert theirs["lstat_known_rp"] < PROBS @ OUTCOMES
    assert theirs["lstat_weight_by_rank"][-1] == 0
    assert theirs["lstat_inclusion"][int(np.argmax(X))] == 0


def test_a_large_constant_changes_nothing():
    """In float32, where a common constant of 2^20 moves their advantages by 0.15."""
    x = np.float32([0.25, -1.0, 2.0, 0.75, 1.0, -0.25, 0.5, 4.0])
    assert_allclose(og.advantages(x + np.float32(2**20), "top:2@4"), og.advantages(x, "top:2@4"), rtol=1e-6)
    assert THEIRS["edges"]["largest_change_of_an_advantage_by_adding_2_to_the_20"] > 0.1
    assert og.value(np.zeros((2, 8)), "top:2@4").shape == (2,)
    assert THEIRS["edges"]["shape_2_8"] == "x must be shape (8,)"
