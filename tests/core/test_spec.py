"""Objective strings: exact round trip, suggestions, and nothing accepted that is not in the grammar."""

import re

import pytest
from catalogue import OPEN, SIZED
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import objectives

import ordergrad as og
from ordergrad import objectives as o
from ordergrad.objectives import Mixture
from ordergrad.spec import names


@given(objectives())
@settings(max_examples=300)
def test_round_trip(objective):
    text = str(objective)
    parsed = og.parse(text)
    assert parsed == objective
    assert str(parsed) == text


@pytest.mark.parametrize("text", [*SIZED, *OPEN])
def test_round_trip_of_the_catalogue(text):
    assert str(og.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("max@8", o.Max(8)),
        ("max@8.0", o.Max(8)),
        ("max@2.5", o.Max(2.5)),
        ("cvar:.1@16", o.CVaR(0.1, 16)),
        ("cvar:1e-3", o.CVaR(0.001)),
        ("2e-1*mean", 0.2 * o.Mean()),
        ("-mean", -o.Mean()),
        ("-mean+2*max@4", Mixture(((-1.0, o.Mean()), (2.0, o.Max(4))))),
        ("wang:-0.5", o.Wang(-0.5)),
        ("wang:+0.5", o.Wang(0.5)),
        ("weights:-1:1e2", o.Weights(-1, 100)),
        ("quantile:0.5:hazen", o.Quantile(0.5)),
        ("lmoment:3", o.LMoment(3)),
        ("topbottom:2@8", o.TopBottom(2, 8)),
    ],
)
def test_reading(text, objective):
    assert og.parse(text) == objective


def test_an_objective_is_returned_as_it_is():
    objective = o.Max(3) + o.Mean()
    assert og.parse(objective) is objective


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("maxx@8", "max"),
        ("CVaR:0.1", "cvar"),
        ("trimed:0.1", "trimmed"),
        ("means", "mean"),
        ("top_bottom:1@4", "topbottom"),
    ],
)
def test_unknown_names_get_a_suggestion(text, suggestion):
    with pytest.raises(ValueError, match=rf"did you mean '{suggestion}'\?"):
        og.parse(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("pass@8", "pass@8 is max@8 of rewards that are 0 or 1"),
        ("mean-0.5*Pass@1e2", "pass@1e2 is max@1e2"),
        ("grpo", "GRPO is 'mean' with scale='group' in the TRL, verl and SkyRL adapters"),
        ("max@4..mean", "A..B is a schedule of `train llm`, elsewhere use anneal(A, B, t)"),
        ("mean..max@4", "A..B is a schedule"),
        ("maxrl..", "A..B is a schedule"),
        ("pass^8", "pass^8 is min@8 of rewards that are 0 or 1"),
        ("avar:0.1", "did you mean 'cvar:0.1'?"),
        ("tvar:0.1@16", "did you mean 'cvar:0.1@16'?"),
        ("mean+ES:0.1", "did you mean 'cvar:0.1'?"),
        ("expected_shortfall:0.05", "did you mean 'cvar:0.05'?"),
        ("best@8", "did you mean 'max@8'?"),
        ("best:2@8", "did you mean 'top:2@8'?"),
        ("bon@4", "did you mean 'max@4'?"),
        ("worst@8", "did you mean 'min@8'?"),
        ("worst:2@8", "did you mean 'bottom:2@8'?"),
        ("iqm", "did you mean 'range:0.25:0.75'?"),
        ("avg@8", "did you mean 'mean'?"),
        ("mean-0.5*std", "did you mean 'gini'?"),
        ("cvar", "of the form cvar:q[@k], such as cvar:0.1"),
        ("mean-var", "of the form var:q[@k], such as var:0.1: the value at risk. Spreads are gini and lmoment:2"),
    ],
)
def test_names_of_other_places_are_explained(text, hint):
    with pytest.raises(ValueError, match=re.escape(hint)):
        og.parse(text)


@pytest.mark.parametrize("text", ["zzz@3", "mean+zzz:1"])
def test_unknown_names_list_the_known_ones(text):
    with pytest.raises(ValueError, match=f"names no known objective: 'zzz'; known: {', '.join(names())}$"):
        og.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got ''"),
        ("+", "unreadable from"),
        ("mean mean", "unreadable from ' mean'"),
        ("max@8 9", "unreadable"),
        ("1 0*mean", "unreadable"),
        ("mean max@3", "unreadable from"),
        ("mean+", "unreadable"),
        ("0.5mean", "unreadable"),
        ("max@", "of the form max@k"),
        ("max@-3", "of the form max@k"),
        ("mean*2", "unreadable"),
        ("cvar:nan", "of the form cvar:q"),
        ("cvar:inf", "of the form cvar:q"),
        ("max", "of the form max@k"),
        ("max:3", "of the form max@k"),
        ("max:3@4", "of the form max@k"),
        ("median:5", "of the form median"),
        ("cvar:0.1:16", "of the form cvar:q"),
        ("quantile:0.5:hazen:8", "of the form quantile:q"),
        ("cvar@16", "of the form cvar:q"),
        ("mean:1", "of the form mean"),
        ("mean@3", "mean takes no @K"),
        ("gini@2", "gini takes no @K"),
        ("lmoment:3@3", "lmoment takes no @K"),
        ("weights:1:2@2", "weights takes no @K"),
        ("weights", "at least one rank weight"),
        ("top:2.5@4", "of the form top:m@k"),
        ("top:5@4", "1 <= m <= k; got m=5, k=4"),
        ("max@0", "k must satisfy k >= 1"),
        ("cvar:0", "0 < q <= 1; got q=0"),
        ("cvar:1.5@8", "0 < q <= 1; got q=1.5"),
        ("range:0.9:0.1", "0 <= lo < hi <= 1"),
        ("quantile:0.5:nearest", "method must be one of"),
        ("quantile:hazen", "of the form quantile:q"),
        ("spectrum", "no known objective"),
        ("max@1e400", "finite"),
    ],
)
def test_what_is_not_an_objective(text, message):
    with pytest.raises(ValueError, match=message.replace("*", r"\*").replace("+", r"\+")) as error:
        og.parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text", ["1e400*mean", "1e308*mean+1e308*mean"])
def test_coefficients_are_finite(text):
    with pytest.raises(ValueError, match="coefficient must be finite; got coefficient=inf"):
        og.parse(text)


@pytest.mark.parametrize(
    "text",
    ["0.7*mean + 0.3*max@8 ", " 0.7 * mean+0.3*max @ 8", "0.7*mean\n+ 0.3*max@8", "\t0.3*max@8 +0.7*mean"],
)
def test_blanks_are_ignored(text):
    assert og.parse(text) == 0.7 * o.Mean() + 0.3 * o.Max(8)
    assert og.parse("- 2 * cvar : 0.1 @ 16") == -2 * o.CVaR(0.1, 16)


@pytest.mark.parametrize("k", [10**15, 10**17, 10**17 + 1, 2**63 - 1, 1e17, 1e300, 123456789.5])
def test_large_numbers_round_trip(k):
    for objective in (o.Max(k), o.Rank(1, k), o.CVaR(0.1, k), o.Mean() + 3 * o.Min(k)):
        assert og.parse(str(objective)) == objective
    assert og.parse(str(o.Weights(k, -k))) == o.Weights(k, -k)
    assert og.parse(str(k * o.Mean())) == k * o.Mean()
    if isinstance(k, int):
        assert str(o.Max(k)) == f"max@{k}"
        assert og.parse(f"max@{k}").k == k


@pytest.mark.parametrize("thing", [None, 3, 0.5, b"mean", ["mean"], o.Mean])
def test_what_is_neither_string_nor_objective(thing):
    with pytest.raises(TypeError, match="objective must be a string or an Objective"):
        og.parse(thing)


@given(st.text(alphabet="maxcvr:@.+-*0123456789e _\n", max_size=12))
@settings(max_examples=200)
def test_any_text_is_an_objective_or_a_value_error(text):
    try:
        objective = og.parse(text)
    except ValueError:
        return
    assert og.parse(str(objective)) == objective
