"""The study of portfolios: its definitions are skfolio's, its trading is right, nothing looks ahead, all of it runs."""

import importlib
import itertools
import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from skfolio import measures
from studies import load, read

import ordergrad as og
from ordergrad.runs.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def study():
    return load("portfolio")


@pytest.fixture
def stocks(study):
    """The package beside the script."""
    return importlib.import_module("stocks")


@pytest.fixture
def small(study):
    """Settings for two years of four stocks."""
    return replace(
        study.Settings(),
        days=120,
        steps=60,
        starts=2,
        generations=20,
        seeds=2,
        train=126,
        test=42,
        window=100,
        policy_steps=11,
        resamples=20,
    )


def market(days=480, stocks=4, seed=0):
    rng = np.random.default_rng(seed)
    returns = 0.01 * rng.standard_t(4, (days, stocks)) * [1, 1.5, 2, 1] + 0.005 * rng.standard_normal((days, 1))
    index = pd.bdate_range("2001-01-01", periods=days, name="date")
    return pd.DataFrame(returns, index=index, columns=[f"S{i}" for i in range(stocks)])


# Definitions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [37, 100, 1000])  # with and without a whole number of days in the tail
@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
def test_the_samples_own_measures_are_objectives_at_k_equal_to_n(study, stocks, n, level):
    returns = np.random.default_rng(n).standard_t(3, n)
    for static in study.statics(level, n):
        x = torch.from_numpy(returns)
        assert float(stocks.static.risk_of(static, x, static.objective)) == pytest.approx(
            static.measure(returns), rel=1e-12
        )
    assert -float(og.value(returns, f"cvar:{level}@{n}")) == pytest.approx(measures.cvar(returns, beta=1 - level))
    assert float(og.value(returns, "gini")) == pytest.approx(measures.gini_mean_difference(returns))
    assert 2 * float(og.value(returns, "lmoment:2")) == pytest.approx(measures.gini_mean_difference(returns))


def test_where_the_two_vars_differ(study):
    """A tail of exactly five days: skfolio's VaR is the sixth worst day, the lower quantile of returns the fifth."""
    returns = np.sort(np.random.default_rng(0).standard_normal(100))
    assert -measures.value_at_risk(returns, beta=0.95) == returns[5]
    assert og.value(returns, "var:0.05@100") == returns[4]
    static = next(s for s in study.statics(0.05, 100) if s.title.startswith("VaR"))
    assert float(og.value(returns, static.objective)) == pytest.approx(returns[5])


def test_gradient_ascent_finds_the_convex_optimum(study):
    table = study.load(None).iloc[-250:, :8]
    sample = table.to_numpy(copy=True)
    for static in study.statics(0.05, 250)[:2]:
        ours, _ = study.descend(static, sample, 1000)
        optimum, _ = study.convex_optimum(static, table, 0.05)
        gap = static.measure(sample @ ours) / static.measure(sample @ optimum) - 1
        assert -1e-5 < gap < 1e-3, static.title
        assert ours.min() >= 0
        assert ours.sum() == pytest.approx(1)


def test_a_trained_threshold_gives_the_samples_cvar(study):
    """At its best threshold the bound of Rockafellar and Uryasev is the sample's CVaR."""
    returns = torch.from_numpy(0.01 * np.random.default_rng(0).standard_t(4, 1000))
    capped = study.Capped(0.05).double()
    optimizer = torch.optim.Adam(capped.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (-100 * capped(returns)).backward()
        optimizer.step()
    exact = float(og.value(returns, "cvar:0.05"))
    assert exact - 1e-4 < capped(returns).item() <= exact + 1e-12


# Trading ------------------------------------------------------------------------------------------------------------


def test_trading_day_by_day(study):
    rng = np.random.default_rng(0)
    returns, weights = 0.05 * rng.standard_normal((11, 3)), rng.dirichlet(np.ones(3), 3)
    worth, held, expected = 1.0, np.zeros(3), []
    for day in range(11):
        before = worth
        if day % 4 == 0:
            target = weights[day // 4]
            worth -= 0.01 * np.abs(target * worth - held).sum()
            held = target * worth
        held = held * (1 + returns[day])
        worth = held.sum()
        expected.append(worth / before - 1)
    got = study.traded(torch.from_numpy(weights), torch.from_numpy(returns), 4, 0.01)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    free = study.traded(torch.from_numpy(weights), torch.from_numpy(returns), 4, 0.01, entry=False)
    assert free[0] - got[0] == pytest.approx(0.01 * (1 + weights[0] @ returns[0]))


def test_turnover(study):
    """From all in one stock to all in the other: everything is sold, everything bought."""
    weights = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert study.turnover(weights, np.zeros((252, 2)), 126) == pytest.approx(2, rel=1e-4)


# Nothing looks ahead ------------------------------------------------------------------------------------------------


def changed_after(returns, day):
    other = returns.copy()
    other[day:] = np.random.default_rng(99).normal(0, 0.1, other[day:].shape)
    return other


def test_features_see_nothing_of_their_day_or_later(stocks):
    returns = market().to_numpy(copy=True)
    days = np.arange(260, 400, 21)
    seen = stocks.policy.features(returns, days)
    assert np.isfinite(seen).all()
    for place, day in enumerate(days):
        np.testing.assert_array_equal(
            stocks.policy.features(changed_after(returns, day), days)[: place + 1], seen[: place + 1]
        )
        before = stocks.policy.features(changed_after(returns, day - 1), days)
        assert np.abs(before[place] - seen[place]).max() > 1e-3


def test_training_and_weights_do_not_look_ahead(study, small):
    returns = market().to_numpy(copy=True)
    begin, middle, end = study.folds(returns, small)[0]
    changed = changed_after(returns, middle)
    policies = [study.fit_policy("cvar:0.1", r, begin, middle, 3, small)[0] for r in (returns, changed)]
    for ours, theirs in zip(*(p.state_dict().values() for p in policies), strict=True):
        assert torch.equal(ours, theirs)
    late = middle + small.every
    weights = [
        study.policy_weights(policies[0], r, middle, end, small.every) for r in (returns, changed_after(returns, late))
    ]
    np.testing.assert_array_equal(weights[0][:2], weights[1][:2])  # those of `late` are set before its first return
    assert np.abs(policies[0](study.cut(returns, begin, middle, 21).seen).detach().numpy().std(axis=0)).max() > 0


def test_refitted_portfolios_do_not_look_ahead(study, small):
    table = market()
    first = study.folds(table.to_numpy(), small)[0][1]
    changed = pd.DataFrame(changed_after(table.to_numpy(copy=True), first + 21), table.index, table.columns)
    for name in (study.VARIANCE, study.CVAR):
        ours, theirs = (study.refitted(name, t.iloc[: first + 63], small) for t in (table, changed))
        np.testing.assert_array_equal(ours[:2], theirs[:2])
        assert np.abs(ours[2] - theirs[2]).max() > 1e-4


def test_folds_follow_one_another(study):
    settings = study.Settings()
    found = study.folds(np.zeros((8312, 20)), settings)
    assert all(middle - begin == settings.train for begin, middle, _ in found)
    assert all(end == middle for (_, _, end), (_, middle, _) in itertools.pairwise(found))
    assert found[0][0] == study.YEAR
    assert found[-1][2] == 8312
    assert settings.test % settings.every == 0


def test_blocks_are_neighbouring_days(study):
    places = study.circular_blocks(100, 10, 50)
    assert places.shape == (50, 100)
    steps = np.diff(places.reshape(50, 10, 10), axis=2) % 100
    assert (steps == 1).all()
    assert set(places.ravel()) == set(range(100))


# Data ---------------------------------------------------------------------------------------------------------------


def test_tables_of_ones_own(study, tmp_path):
    table = market(30)
    table.to_csv(tmp_path / "returns.csv")
    table.to_parquet(tmp_path / "returns.parquet")
    for name in ("returns.csv", "returns.parquet"):
        pd.testing.assert_frame_equal(study.load(tmp_path / name), table, check_freq=False, check_names=False)
    assert study.load(None).shape == (8312, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(S1="a lot"), "must be numbers; not so: S1"),
        (lambda t: t.assign(S2=[np.nan, *t["S2"][1:]]), "missing or infinite returns in S2"),
        (lambda t: 100 + 100 * t.cumsum(), "look like prices or percent"),
        (lambda t: 0 * t - 1.5, "above -1"),
        (lambda t: t.iloc[::-1], "must increase"),
        (lambda t: t[["S0"]], "at least two of returns"),
        (lambda t: t.set_index("S0"), "must hold dates"),
    ],
)
def test_bad_tables_are_errors(study, tmp_path, change, message):
    change(market(30)).to_csv(tmp_path / "bad.csv")
    with pytest.raises(UserError, match=message):
        study.load(tmp_path / "bad.csv")


def test_bad_files_are_errors(study, tmp_path, capsys):
    with pytest.raises(SystemExit, match="does not exist"):
        study.main(["--data", str(tmp_path / "none.csv"), "--out", str(tmp_path / "out")])
    (tmp_path / "returns.xlsx").write_text("")
    with pytest.raises(SystemExit, match=r"must be a \.csv or \.parquet file; got returns\.xlsx"):
        study.main(["--data", str(tmp_path / "returns.xlsx"), "--out", str(tmp_path / "out")])
    market(300).to_csv(tmp_path / "short.csv")
    with pytest.raises(SystemExit, match="needs at least 3276 days of returns; got 300"):
        study.main(["--data", str(tmp_path / "short.csv"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


# All of it ----------------------------------------------------------------------------------------------------------


def test_the_study_from_start_to_end(study, small, tmp_path):
    market().to_csv(tmp_path / "returns.csv")
    out, results, images = tmp_path / "runs", tmp_path / "results", tmp_path / "images"
    arguments = ["--data", str(tmp_path / "returns.csv"), "--out", str(out), "--jobs", "1"]
    arguments += ["--results", str(results), "--images", str(images)]
    study.main(arguments, small)
    runs = read(results / "runs.csv")
    names = [*small.objectives, *(study.FIXED + name for name in small.objectives[:2])]
    assert {run["portfolio"] for run in runs} == {study.EQUAL, study.VARIANCE, study.CVAR, *names}
    assert sum(run["portfolio"] == "cvar:0.05" for run in runs) == 2
    tested = market().iloc[378:].to_numpy(copy=True)
    equal = np.full((len(tested) // 21 + 1, 4), 0.25)
    daily = study.traded(torch.from_numpy(equal), torch.from_numpy(tested), 21, 0.001).numpy()
    found = next(run for run in runs if run["portfolio"] == study.EQUAL)
    assert float(found["cvar"]) == pytest.approx(measures.cvar(daily, beta=0.95), rel=1e-4)
    static = read(results / "static.csv")
    gaps = {row["measure"]: float(row["gap"]) for row in static if row["gap"]}
    assert gaps.keys() == {s.title for s in study.statics(0.05, 120)}
    assert -1e-6 < gaps["CVaR 5%"] < 0.05
    assert -1e-6 < gaps["Gini mean difference"] < 0.05
    summary = json.loads((results / "summary.json").read_text())
    assert summary["data"]["stocks"] == 4
    assert matplotlib.image.imread(images / "portfolio.png").std() > 0.02
    with pytest.raises(SystemExit, match="already holds a run"):
        study.main(arguments, small)
    before = (results / "runs.csv").read_text()
    study.main([*arguments, "--resume"], small)
    assert (results / "runs.csv").read_text() == before
    study.main([*arguments, "--resume", "--add", "threshold:0.05"], small)
    assert sorted((results / "runs.csv").read_text().split()) == sorted(before.split())
    leads = read(results / "policies.csv")
    assert [row["measure"] for row in leads] == list(study.MEASURES)
    assert all(float(row["low"]) <= float(row["lead"]) <= float(row["high"]) for row in leads)
