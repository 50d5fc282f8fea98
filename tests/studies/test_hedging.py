"""The study of hedging: the market and the accounts are right, nothing looks ahead, and all of it runs."""

import json
import math
import sys
from dataclasses import replace

import matplotlib.image
import pytest
import torch
from studies import FOLDER, load, read

import ordergrad as og


@pytest.fixture
def study():
    return load("hedging")


@pytest.fixture
def small(study):
    return replace(
        study.Settings(),
        days=4,
        batches=(40, 60),
        tested=(40,),
        steps=3,
        hidden=4,
        rates=(0.01, 0.03),
        seeds=2,
        tuning_seeds=1,
        tuning_paths=200,
        paths=400,
    )


def test_profit_day_by_day(study, small):
    log_prices = study.simulate(small, study.stream(0, "evaluation"), 5)
    hold = study.delta(small, 0.3)
    prices, holdings = log_prices.exp(), hold(log_prices)
    for path in range(5):
        cash, held = study.price(small), 0.0
        for day in range(small.days):
            target = float(holdings[day, path])
            now = float(prices[day, path])
            cash -= (target - held) * now + small.cost * abs(target - held) * now
            held = target
        last = float(prices[-1, path])
        cash += held * last * (1 - small.cost) - max(last - 1, 0)
        assert float(study.profit(hold, log_prices, small)[path]) == pytest.approx(100 * cash, abs=1e-4)


def test_without_costs_the_delta_hedge_breaks_even_and_the_more_often_the_closer(study):
    def errors(days):
        settings = replace(study.Settings(), days=days, cost=0.0)
        return study.measured(study.delta(settings, settings.volatility), 1, 20_000, 0, settings)[0]

    rare, often = errors(10), errors(90)
    assert abs(often["mean"]) < 0.01
    assert often["std"] == pytest.approx(rare["std"] / 3, rel=0.1)


def test_lelands_volatility_pays_for_the_costs_of_the_delta(study):
    settings = study.Settings()
    found = study.references(replace(settings, paths=4000))
    assert study.leland(replace(settings, cost=0.0)) == settings.volatility
    assert found["Leland"]["cvar:0.05"] > found["delta"]["cvar:0.05"] > found["no hedge"]["cvar:0.05"]


def test_holdings_do_not_look_ahead_and_depend_on_what_was_held(study, small):
    networks = study.Networks([0, 1], small)
    log_prices = study.simulate(small, study.stream(0, "evaluation"), 3)[:, None].expand(-1, 2, -1)
    later = log_prices.clone()
    later[2:] += 0.1
    ours, theirs = networks(log_prices), networks(later)
    torch.testing.assert_close(ours[:2], theirs[:2])
    assert (ours[2:] - theirs[2:]).abs().min() > 1e-5
    before = log_prices.clone()
    before[0] += 0.1
    assert (networks(before)[1] - ours[1]).abs().min() > 1e-6


def test_a_seed_is_the_same_alone_and_beside_others(study, small):
    both, alone = (study.train("threshold", 40, 0.03, 10, seeds, small) for seeds in ([0, 1], [1]))
    for ours, theirs in zip(both.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours[1:], theirs)


def test_criteria(study, small):
    profits = torch.randn(2, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = og.value(profits, "cvar:0.05")
    torch.testing.assert_close(study.worst(profits, 0.05), exact)  # 20 of 400 paths: no fraction
    at_best = study.Threshold(0.05, profits.quantile(0.05, dim=-1), 10)
    torch.testing.assert_close(at_best(profits), exact)
    assert (study.Threshold(0.05, profits.quantile(0.2, dim=-1), 10)(profits) < exact).all()
    a = 0.5
    torch.testing.assert_close(study.entropic(profits, a), -(-a * profits).exp().mean(-1).log() / a)
    shifted = study.mean_deviation(profits + 3, 2.0) - study.mean_deviation(profits, 2.0)
    torch.testing.assert_close(shifted, torch.full_like(shifted, 3))


def test_a_fraction_of_a_path_is_all_that_sorting_misses(study):
    """Of 64 paths 5% are 3.2: the fourth worst has a fifth of the weight of each of the first three."""
    profits = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sort().values
    ours = (profits[:3].sum() + 0.2 * profits[3]) / 3.2
    torch.testing.assert_close(og.value(profits, "cvar:0.05"), ours)
    torch.testing.assert_close(study.worst(profits, 0.05), profits[:3].mean())


def test_without_pfhedge_it_says_what_is_missing(study, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pfhedge", None)
    monkeypatch.setitem(sys.modules, "pfhedge.nn", None)
    with pytest.raises(SystemExit, match="pip install --no-deps pfhedge"):
        study.main(["--out", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()


def test_the_study_from_start_to_end(study, small, tmp_path):
    out, results, images = tmp_path / "runs", tmp_path / "results", tmp_path / "images"
    names = [name for name in study.CONTENDERS if name != "pfhedge"]
    arguments = ["--out", str(out), "--results", str(results), "--images", str(images), "--jobs", "1"]
    arguments += ["--contenders", *names]
    study.main(arguments, small)
    runs = read(results / "runs.csv")
    assert [run["contender"] for run in runs] == [name for name in names for _ in range(2)]
    assert all(float(run["cvar:0.01"]) <= float(run["cvar:0.05"]) <= float(run["mean"]) for run in runs)
    summary = json.loads((results / "summary.json").read_text())
    assert len(summary["chosen"]) == len(names)
    assert len(read(results / "tuning.csv")) == 4 * sum(len(study.CONTENDERS[name]) for name in names)
    assert matplotlib.image.imread(images / "hedging.png").std() > 0.02
    before = (results / "leads.csv").read_text()
    study.main([*arguments, "--resume"], small)
    assert (results / "leads.csv").read_text() == before


def test_the_committed_tables_follow_from_the_runs(study):
    folder = FOLDER / "results" / "hedging"
    runs = study.study.read_table(folder / "runs.csv")
    for name, rows in (
        ("measures.csv", study.study.intervals(runs, ("batch", "contender"), study.MEASURES)),
        ("leads.csv", study.leads(runs)),
    ):
        expected = study.study.read_table(folder / name)
        assert len(rows) == len(expected)
        for row, other in zip(rows, expected, strict=True):
            for key, value in other.items():
                close = pytest.approx(value, rel=1e-3, abs=1e-3) if isinstance(value, (int, float)) else value
                assert row[key] == close, (name, key)


def test_the_page_states_the_committed_measures(study):
    folder = FOLDER / "results" / "hedging"
    page = (FOLDER.parent / "docs" / "studies" / "hedging.md").read_text().splitlines()
    table, leads = (study.study.read_table(folder / f"{name}.csv") for name in ("measures", "leads"))
    rows = []
    for batch, contender in dict.fromkeys((r["batch"], r["contender"]) for r in table):
        mine = [r for r in table if (r["batch"], r["contender"]) == (batch, contender)]
        cells = ["{value:.2f} [{low:.2f}, {high:.2f}]".format(**r) for r in mine]
        rows.append(f"| {batch} | `{contender}` | {' | '.join(cells)} |")
    mine = [r for r in leads if r["measure"] == "cvar:0.05"]
    rows += ["| `{against}` | {lead:.3f} [{low:.3f}, {high:.3f}] | {p:.2f} |".format(**r) for r in mine]
    assert not set(rows) - set(page)


def test_the_premium(study):
    assert study.price(study.Settings()) == pytest.approx(0.4 * 0.2 * math.sqrt(30 / 252), rel=0.01)
