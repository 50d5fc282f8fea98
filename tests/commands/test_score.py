"""`ordergrad score`: streaming equals computing at once, broken rows are located, and the command as a user runs it."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

import ordergrad as og
from ordergrad.commands.cli import app
from ordergrad.intervals import influence_interval
from ordergrad.report import score_section
from ordergrad.runs.contenders import GRPO
from ordergrad.runs.errors import UserError
from ordergrad.score import digest, folder, grouping, logs, means, opening, parsing
from ordergrad.score.columns import Columns, resolve
from ordergrad.score.comparison import compare
from ordergrad.score.digest import Digest
from ordergrad.score.files import head
from ordergrad.score.groups import advantages_of, score_groups
from ordergrad.score.logs import Reading, RowStore, score_log, write_advantages
from ordergrad.score.opening import log_files, open_log, open_logs
from ordergrad.score.reading import BrokenRows, read
from ordergrad.score.settings import LogSettings
from ordergrad.score.summary import Moments, Summary

OBJECTIVES = ["mean", "max@4", "top:2@4", "maxrl", "cvar:0.3", "median", "mean-0.5*gini"]


def command(*arguments):
    result = CliRunner().invoke(app, ["score", *map(str, arguments)], env={"COLUMNS": "160", "TERM": "dumb"})
    return result.exit_code, result.output


def ragged(seed=0, groups=60, largest=9):
    """Return rewards with ties, of groups of many sizes, and the ids."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest, size=groups)
    return rng.integers(0, 5, size=sizes.sum()) / 4, sizes, np.repeat([f"p{i}" for i in range(groups)], sizes)


def write_log(path, columns):
    frame = pl.DataFrame(columns)
    {".jsonl": frame.write_ndjson, ".csv": frame.write_csv, ".parquet": frame.write_parquet}[path.suffix](path)
    return path


def scored(path, objectives=OBJECTIVES, columns=None, **options):
    columns = columns or Columns()
    if columns.step is None and "step" in head(path).columns:
        columns = replace(columns, step="step")
    return score_log(open_log("log", [path], columns), objectives, **options)


def assert_same(tables, others):
    for name, rows in tables.items():
        assert len(rows) == len(others[name]), name
        for row, other in zip(rows, others[name], strict=True):
            assert row.keys() == other.keys()
            for key in row:
                same = row[key] == other[key]
                assert same or np.isclose(row[key], other[key], rtol=1e-9, atol=1e-12, equal_nan=True), (name, key)


# Groups


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_of_groups_are_those_of_the_library(weighted):
    rewards, sizes, _ = ragged()
    weights = np.random.default_rng(1).exponential(size=len(rewards)) if weighted else None
    scores = score_groups(rewards, sizes, OBJECTIVES, weights=weights)
    ends = np.cumsum(sizes)
    for g, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        x, n = rewards[start:end], end - start
        options = {} if weights is None else {"sample_weight": weights[start:end]}
        share = np.ones(n) if weights is None else n * weights[start:end] / weights[start:end].sum()
        for j, objective in enumerate(OBJECTIVES):
            needed = {"max@4": 4, "top:2@4": 4, "mean-0.5*gini": 2}.get(objective, 1)
            expected = og.value(x, objective, **options) if n >= needed else np.nan
            np.testing.assert_allclose(scores.values[g, j], expected, atol=1e-12)
            if n > needed:
                a = share * og.advantages(x, objective, **options)
                np.testing.assert_allclose(scores.sums[g, j], np.abs(a).sum(), atol=1e-12)
                np.testing.assert_allclose(scores.squares[g, j], (a**2).sum(), atol=1e-12)
            else:
                assert np.isnan(scores.sums[g, j])
        if n > 1 and not weighted:
            a = (x - x.mean()) / (x.std(ddof=1) + 1e-4)
            np.testing.assert_allclose(scores.sums[g, -1], np.abs(a).sum(), atol=1e-12)
        for j, k in enumerate([1, 2, 4, 8]):
            fits = k <= n
            best = og.value(x, f"max@{k}", **options) if fits else np.nan
            passed = og.value((x >= 1) * 1.0, f"max@{k}", **options) if fits else np.nan
            np.testing.assert_allclose(scores.best[g, j], best, atol=1e-12)
            np.testing.assert_allclose(scores.passed[g, j], passed, atol=1e-12)


def test_no_signal_is_exact():
    rewards = np.array([0.1, 0.1, 0.1, 0.7, 0.7, 0.3, 0.3, 1.0])
    scores = score_groups(rewards, np.array([3, 5]), ["mean", "max@2", "min@3"])
    assert (scores.squares[0, [0, 1, 3]] == 0).all()  # equal rewards: no advantage anywhere, GRPO's neither
    assert (scores.squares[1] > 0).all()
    only_low_differ = np.array([0.0, 0.5, 1.0, 1.0, 1.0])
    assert score_groups(only_low_differ, np.array([5]), ["max@3", "max@2"]).squares[0, 0] == 0
    assert score_groups(only_low_differ, np.array([5]), ["max@3", "max@2"]).squares[0, 1] > 0


def test_pass_at_k_is_the_closed_form():
    rewards = np.array([1.0, 0, 0, 0, 1, 1, 1, 0])
    passed = score_groups(rewards, np.array([4, 4]), ["mean"]).passed
    expected = [[1 - math.comb(4 - c, k) / math.comb(4, k) for k in (1, 2, 4)] for c in (1, 3)]
    np.testing.assert_allclose(passed, expected, atol=1e-14)
    every = score_groups(rewards, np.array([4, 4]), ["mean"]).reliable
    expected = [[math.comb(c, k) / math.comb(4, k) for k in (1, 2, 4)] for c in (1, 3)]
    np.testing.assert_allclose(every, expected, atol=1e-14)


def test_advantages_of_ragged_groups():
    rewards, sizes, ids = ragged()
    table = advantages_of(rewards, sizes, ["mean", "max@4"], baseline="k_minus_one")
    small = np.repeat(sizes, sizes) < 4
    assert np.isnan(table[small, 1]).all()
    expected = og.group_advantages(rewards[~small], ids[~small], "max@4", baseline="k_minus_one")
    np.testing.assert_allclose(table[~small, 1], expected, atol=1e-12)


# Totals


def test_the_error_respects_groups():
    rewards, sizes, ids = ragged(groups=200)
    summary = Summary(["mean", "max@4"])
    summary.add(rewards, sizes)
    for row, objective, need in zip(summary.tables()["values"], ["mean", "max@4"], [1, 4], strict=True):
        values = [og.value(rewards[ids == i], objective) for i in dict.fromkeys(ids) if (ids == i).sum() >= need]
        assert row["groups"] == len(values)
        assert row["too_small"] == 200 - len(values)
        assert row["value"] == pytest.approx(np.mean(values))
        assert row["error"] == pytest.approx(stats.sem(values))
        low, high = influence_interval(np.mean(values), np.array(values) - np.mean(values))
        assert (row["low"], row["high"]) == pytest.approx((float(low), float(high)))


@pytest.mark.parametrize("weighted", [False, True])
def test_one_group_has_the_jackknife_error(weighted):
    x = np.random.default_rng(0).normal(size=50)
    w = np.random.default_rng(1).exponential(size=50) if weighted else None
    summary = Summary(["cvar:0.2"])
    summary.add(x, np.array([50]), weights=w)
    v, error = og.value_and_error(x, "cvar:0.2", sample_weight=w)
    row = summary.tables()["values"][0]
    assert (row["value"], row["error"]) == pytest.approx((float(v), float(error)))
    curves = {(row["curve"], row["k"]): row["error"] for row in summary.tables()["curves"]}
    for k in (1, 2, 4, 8, 16, 32):
        assert curves["max", k] == pytest.approx(float(og.value_and_error(x, f"max@{k}", sample_weight=w)[1]))
    summary.add(x, np.array([50]), weights=w)
    assert summary.tables()["curves"][0]["error"] == pytest.approx(0)  # two equal groups


def test_the_interval_of_one_group_is_that_of_the_library():
    x = np.random.default_rng(0).normal(size=200)
    summary = Summary(["median", "cvar:0.2", "max@8"])
    summary.add(x, np.array([200]))
    for row in summary.tables()["values"]:
        assert (row["low"], row["high"]) == pytest.approx(og.interval(x, row["objective"]))


def passes(prompts=40, steps=1, each=8, seed=0, a=0.4, b=1.1):
    """Return successes of the same prompts at several steps, the steps and the prompts, and sizes of groups."""
    rng = np.random.default_rng(seed)
    rate = rng.beta(a, b, size=prompts)
    x = (rng.random((steps, prompts, each)) < rate[:, None]).astype(float)
    at, prompt = np.divmod(np.arange(steps * prompts), prompts)
    return x, at.astype(float), prompt.astype(np.uint64), np.full(steps * prompts, each)


@pytest.mark.parametrize("pieces", [1, 7])
def test_errors_are_clustered_by_prompt_over_steps(monkeypatch, pieces):
    """The same prompts at 20 steps are 40 prompts, not 800 independent groups."""
    monkeypatch.setattr(means, "_KEPT", 100)
    x, steps, prompts, sizes = passes(steps=20)
    flat, summary = x.reshape(-1, 8), Summary(["mean", "max@4"])
    for part in np.array_split(np.arange(len(flat)), pieces):
        summary.add(flat[part].ravel(), sizes[part], steps=steps[part], units=prompts[part])
    for row in summary.tables()["values"]:
        by_prompt = og.value(x, row["objective"]).mean(axis=0)
        assert (row["groups"], row["units"]) == (800, 40)
        assert row["error"] == pytest.approx(stats.sem(by_prompt))
        half = (row["high"] - row["low"]) / 2
        assert half == pytest.approx(stats.t.ppf(0.975, 39) * stats.sem(by_prompt), rel=0.08)
    alone = Summary(["mean"])
    alone.add(flat.ravel(), sizes, steps=steps)
    assert alone.tables()["values"][0]["error"] < 0.3 * row["error"]  # what groups of their own would have given


def test_intervals_where_successes_are_rare():
    """Student's interval covers 91% here with one success rate for all prompts, and 87% where rates differ."""
    for a, b in ((0.1, 3.2), (3000.0, 97000.0)):
        hits = []
        for seed in range(400):
            x, _, _, sizes = passes(seed=seed, a=a, b=b)
            summary = Summary(["mean"])
            summary.add(x.ravel(), sizes)
            row = summary.tables()["values"][0]
            assert row["low"] < row["high"]
            hits.append(row["low"] <= a / (a + b) <= row["high"])
        assert np.mean(hits) > 0.9


def test_no_success_is_not_certainty():
    summary = Summary(["mean", "max@4", "gini"])
    summary.add(np.zeros(320), np.full(40, 8))
    rows = summary.tables()["values"]
    assert (rows[0]["low"], rows[1]["low"]) == (0, 0)
    assert rows[0]["high"] == pytest.approx(1 - 0.025 ** (1 / 40))
    assert math.isnan(rows[2]["high"])  # weights of both signs: no bounds
    constant = Summary(["mean"])
    constant.add(np.full(320, 0.37), np.full(40, 8))
    assert math.isnan(constant.tables()["values"][0]["high"])  # nothing is known of other rewards


def test_pass_curves_are_of_successes_only():
    x, _, _, sizes = passes()
    summary = Summary(["mean"], ks=[1, 3, 8, 50])
    summary.add(x.ravel(), sizes)
    rows = {(row["curve"], row["k"]): row for row in summary.tables()["curves"]}
    assert {k for _, k in rows} == {1, 3, 8}
    flat = x.reshape(-1, 8)
    for k in (1, 3, 8):
        assert rows["pass", k]["value"] == pytest.approx(og.value(flat, f"max@{k}").mean())
        assert rows["all", k]["value"] == pytest.approx(og.value(flat, f"min@{k}").mean())
        assert 0 <= rows["all", k]["low"] <= rows["all", k]["value"] <= rows["all", k]["high"] <= 1
    graded = Summary(["mean"])
    graded.add(np.random.default_rng(0).normal(size=320), sizes)
    assert {row["curve"] for row in graded.tables()["curves"]} == {"max"}


def test_signal_table():
    summary = Summary(["mean"])
    summary.add(np.array([0.0, 0, 1, 1, 1, 1, 0, 0, 0, 1]), np.array([2, 4, 4]))
    mean, _ = summary.tables()["signal"]
    a = [og.advantages(x, "mean") for x in ([0.0, 0], [1.0, 1, 1, 1], [0.0, 0, 0, 1])]
    assert mean["no_signal"] == pytest.approx(np.mean([not np.any(x) for x in a]))


def test_the_effective_number():
    summary = Summary(["mean"])
    summary.add(np.array([0.0, 0, 0, 1, 2, 2]), np.array([4, 2]))
    mean, grpo = summary.tables()["signal"]
    a = np.array([-1, -1, -1, 3]) / 3
    number = np.abs(a).sum() ** 2 / (a**2).sum()
    assert mean["effective"] == pytest.approx(number)  # 3 of 4: the group without signal does not count
    assert mean["effective_share"] == pytest.approx(number / 6)
    assert grpo["objective"] == GRPO
    assert grpo["effective"] == pytest.approx(number)


def test_moments_do_not_depend_on_the_pieces():
    table = np.random.default_rng(0).normal(5, 1, size=(100, 2))
    table[::7, 1] = np.nan
    moments = Moments(2)
    for part in np.array_split(table, 9):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, np.nanmean(table, axis=0))
    np.testing.assert_allclose(moments.error(), stats.sem(table, nan_policy="omit"), rtol=1e-12)


def test_tails_and_quantiles_of_all_rewards():
    x = np.random.default_rng(0).normal(size=1000)
    summary = Summary(["mean"])
    summary.add(x, np.full(100, 10))
    tables = summary.tables()
    tails = {row["statistic"]: row["value"] for row in tables["tails"]}
    assert tails["cvar:0.05"] == pytest.approx(np.sort(x)[:50].mean())
    assert tails["var:0.1"] == pytest.approx(np.quantile(x, 0.1, method="inverted_cdf"))
    assert tails["uppercvar:0.1"] == pytest.approx(np.sort(x)[-100:].mean())
    u, q = np.array([(row["u"], row["reward"]) for row in tables["quantiles"]]).T
    assert (q[0], q[-1]) == (x.min(), x.max())
    np.testing.assert_allclose(q, np.quantile(x, u, method="inverted_cdf"))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60), st.integers(1, 5))
def test_a_distribution_of_few_rewards_is_exact(rewards, pieces):
    running = Digest()
    for part in np.array_split(np.array(rewards, float), pieces):
        other = Digest()
        other.add(part)
        running.merge(other)
    x, p = running.points()
    values, counts = np.unique(rewards, return_counts=True)
    np.testing.assert_array_equal(x, values)
    np.testing.assert_allclose(p, counts / len(rewards))
    assert running.exact


@pytest.mark.parametrize("law", [stats.norm(), stats.t(2), stats.uniform()])
def test_a_merged_distribution_is_close(monkeypatch, law):
    monkeypatch.setattr(digest, "_PENDING", 5_000)
    x = law.rvs(100_000, random_state=0)
    running = Digest(1 << 11)
    for part in np.array_split(x, 40):
        running.add(part)
    points, p = running.points()
    assert not running.exact
    assert len(points) < 1 << 11
    assert points @ p == pytest.approx(x.mean(), abs=1e-9 * np.abs(x).max())
    for q in (0.001, 0.01, 0.3, 0.5, 0.99):
        found = float(og.exact.value(points, p, f"var:{q}"))
        level = (x <= found).mean()
        assert level == pytest.approx(q, abs=5e-3 * math.sqrt(q * (1 - q)) + 1e-5)
        own = float(og.exact.value(points, p, f"cvar:{q}"))
        assert own == pytest.approx(np.sort(x)[: int(q * len(x))].mean(), rel=5e-3)


# Streams


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("block", [64, 1 << 24])
def test_a_stream_is_the_same_as_all_at_once(tmp_path, monkeypatch, suffix, scattered, block):
    monkeypatch.setattr(parsing, "_BLOCK", block)
    monkeypatch.setattr(parsing, "_ROWS", max(block // 16, 1))
    rewards, sizes, ids = ragged()
    order = np.random.default_rng(3).permutation(len(ids)) if scattered else np.arange(len(ids))
    path = write_log(
        tmp_path / f"log{suffix}", {"text": ['a, "b"\nc'] * len(ids), "group": ids[order], "reward": rewards[order]}
    )
    found, summary = scored(path)
    whole = Summary(OBJECTIVES)
    whole.add(rewards, sizes)
    assert found.scattered == scattered
    assert found.rows == len(ids)
    assert summary.about() == pytest.approx(whole.about())
    assert_same(summary.tables(), whole.tables())


def test_a_group_may_come_back_late(monkeypatch, tmp_path):
    monkeypatch.setattr(parsing, "_ROWS", 8)
    ids = [*np.repeat(np.arange(100), 4), 0]
    path = write_log(tmp_path / "log.parquet", {"group": ids, "reward": np.arange(401) % 3})
    found, summary = scored(path, ["mean"])
    assert found.scattered
    assert summary.about()["largest"] == 5
    assert summary.groups == 100


def test_colliding_fingerprints_are_told_apart():
    keys = np.array([[1, 1], [1, 2], [3, 3]], np.uint64)
    assert len(grouping._all_different([keys])) == 3
    with pytest.raises(grouping.ScatteredError):
        grouping._all_different([keys, keys[1:2]])


def test_steps_are_part_of_the_group(tmp_path):
    columns = {"group": ["a", "a", "a", "a"], "reward": [0.0, 1.0, 4.0, 5.0], "step": [1, 1, 2, 2]}
    path = write_log(tmp_path / "log.csv", columns)
    _, summary = scored(path, ["mean"])
    assert summary.groups == 2
    assert [(row["step"], row["value"], row["groups"]) for row in summary.tables()["steps"]] == [
        (1, 0.5, 1),
        (2, 4.5, 1),
    ]
    _, without = score_log(open_log("log", [path], Columns()), ["mean"])
    assert without.groups == 1
    _, ungrouped = score_log(open_log("log", [path], Columns(group=None)), ["mean"])
    assert (ungrouped.groups, ungrouped.used) == (1, 4)


def test_masks_and_weights(tmp_path):
    columns = {"group": ["a"] * 3 + ["b"] * 3, "reward": [0.0, 1, math.nan, 2, 3, 4]}
    columns |= {"keep": [True, True, False, True, True, True], "w": [1.0, 3, 1, 1, 1, 2]}
    path = write_log(tmp_path / "log.parquet", columns)
    found, summary = scored(path, ["mean"], Columns(mask="keep", weight="w"))
    assert (found.masked, found.problems.count, summary.used) == (1, 0, 5)
    assert summary.tables()["values"][0]["value"] == pytest.approx((0.75 + 3.25) / 2)


# Reading


BROKEN_JSON = (
    b'{"group": 1, "reward": 1}\n{"group": "a", "rew\n\n{"group": 2, "reward": NaN}\n{"group": 2, "reward": "x"}\n'
    b'{"reward": 1}\n{"group": "q", "reward": true, "loss": NaN}\n[1]\n{"group": "\xff", "reward": 1}\n'
    b'{"group": 1, "reward": 1e999}\n{"group": "z", "reward": " 0.25 "}'
)
BROKEN_CSV = (
    b'group,reward,text\na,1,x\nb,2\nc,3,"q\n,""u"\n\nd,,x\n"",5,\ne,6,x,y\nf,abc,z\n'
    b'g, 7 ,\xff\nh,8,"x"z\ni,9,\nj,inf,x\n'
)


@pytest.mark.parametrize("block", [16, 1 << 24])
@pytest.mark.parametrize(
    ("name", "content", "good", "broken"),
    [
        (
            "log.jsonl",
            BROKEN_JSON,
            [("1", 1.0), ("q", 1.0), ("z", 0.25)],
            {
                2: "not JSON",
                4: "reward is not finite: NaN",
                5: "reward is not a number: x",
                6: "group is missing",
                8: "not a JSON object",
                9: "not UTF-8",
                10: "reward is not finite",
            },
        ),
        (
            "log.csv",
            BROKEN_CSV,
            [("a", 1.0), ("c", 3.0), ("i", 9.0)],
            {
                3: "2 fields where the header has 3",
                7: "reward is missing",
                8: "group is missing",
                9: "4 fields where the header has 3",
                10: "reward is not a number: abc",
                11: "not UTF-8",
                12: "not CSV",
                14: "reward is not finite: inf",
            },
        ),
    ],
)
def test_broken_rows_of_text_are_located(tmp_path, monkeypatch, block, name, content, good, broken):
    monkeypatch.setattr(parsing, "_BLOCK", block)
    path = tmp_path / name
    path.write_bytes(content)
    problems = BrokenRows(skip=True)
    pieces = list(read(path, resolve(Columns(), head(path)), problems))
    assert [row for piece in pieces for row in piece.good.select("group", "reward").rows()] == good
    assert problems.count == len(broken)
    assert {problem.number for problem in problems.first} == set(broken)
    for problem in problems.first:
        assert problem.reason.startswith(broken[problem.number])
        assert problem.place == "line"
    assert pieces[-1].done == 1
    with pytest.raises(UserError, match=r"log\.\w+, line \d+: .*\n--skip-broken leaves such rows out"):
        list(read(path, resolve(Columns(), head(path)), BrokenRows()))


def test_a_broken_last_line_without_an_end_is_listed_with_the_others(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"group": 1, "reward": NaN}\n{"group": 1, "reward": 1}\n{"group": 1, "rew')
    with pytest.raises(
        UserError, match=r"line 1: .*\n.*line 3: not JSON: Unterminated string starting at character 14\n"
    ):
        list(read(path, resolve(Columns(), head(path)), BrokenRows()))


def test_broken_rows_of_parquet_are_located(tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "_ROWS", 2)
    columns = {"group": [1, 1, None, 2, 2], "reward": [1.0, math.nan, 2, None, 4], "w": [1.0, 1, 1, 1, -1]}
    path = write_log(tmp_path / "log.parquet", columns)
    problems = BrokenRows(skip=True)
    pieces = list(read(path, resolve(Columns(weight="w"), head(path)), problems))
    assert [row for piece in pieces for row in piece.good.rows()] == [(0, 1.0, 1.0, "1")]
    assert [(p.place, p.number) for p in problems.first] == [("row", number) for number in (2, 3, 4, 5)]
    assert [p.reason.split(":")[0] for p in problems.first] == [
        "reward is not finite",
        "group is missing",
        "reward is missing",
        "w is negative",
    ]


def test_a_quote_that_never_closes(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('group,reward,text\na,1,x\nb,2,"y\nc,3,z\n')
    problems = BrokenRows(skip=True)
    assert [row for piece in read(path, resolve(Columns(), head(path)), problems) for row in piece.good.rows()] == [
        (0, 1.0, "a")
    ]
    assert [(p.number, p.reason) for p in problems.first] == [(3, "a quote is never closed; nothing after it was read")]


def test_columns_and_files(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("\ufeffprompt,score\na,1\n", encoding="utf-8")
    assert list(head(path).columns) == ["prompt", "score"]
    with pytest.raises(UserError, match=r"has no column 'group'; it has prompt, score\. Name the right one by --group"):
        open_log("log", [path], Columns())
    (tmp_path / "b.csv").write_text("prompt,prompt\n1,2\n")
    with pytest.raises(UserError, match="several columns of the name prompt"):
        scored(tmp_path / "b.csv", columns=Columns(group=None, reward="prompt"))
    assert log_files(str(tmp_path)) == sorted(tmp_path.iterdir())
    assert log_files(str(tmp_path / "l*.csv")) == [path]
    with pytest.raises(UserError, match=r"'nowhere\.csv' is none"):
        log_files("nowhere.csv")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no rows"):
        head(tmp_path / "empty.jsonl")
    (tmp_path / "whole.jsonl").write_text('{\n "group": 1,\n "reward": 1\n}\n')
    with pytest.raises(UserError, match="is a JSON document, and no table of samples: it is an object with group, re"):
        open_logs([str(tmp_path / "whole.jsonl")], LogSettings())
    (tmp_path / "head.csv").write_text("group,reward\n")
    with pytest.raises(UserError, match="log holds no rows"):
        scored(tmp_path / "head.csv")
    (tmp_path / "bad.parquet").write_bytes(b"abc")
    with pytest.raises(UserError, match="cannot be read"):
        head(tmp_path / "bad.parquet")
    for name, columns in (
        ("group", {"group": [b"a"], "reward": [1.0]}),
        ("reward", {"group": [1], "reward": [{"score": 1.0}]}),
    ):
        with pytest.raises(UserError, match=f"column {name} must hold"):
            scored(write_log(tmp_path / "nested.parquet", columns))


def test_booleans_and_numbers_as_text(tmp_path):
    path = write_log(tmp_path / "log.jsonl", {"group": [1, 1, 1], "reward": ["true", "False", "1e-1"]})
    assert scored(path, ["mean"])[1].about()["mean"] == pytest.approx(1.1 / 3)
    flags = write_log(tmp_path / "flags.parquet", {"group": [1, 1], "reward": [True, False]})
    assert scored(flags, ["mean"])[1].about()["mean"] == 0.5


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_chat_messages_name_a_group(tmp_path, suffix):
    chats = [[{"role": "user", "content": text}] for text in ("one", "two", "one", None)]
    path = write_log(tmp_path / f"log{suffix}", {"prompt": [*chats, None], "reward": [0.0, 1.0, 2.0, 3.0, 4.0]})
    found, summary = scored(path, ["mean"], Columns(group="prompt"), skip_broken=True)
    assert (summary.groups, summary.about()["largest"], found.problems.count) == (3, 2, 1)


# Comparison


def test_logs_with_the_same_groups_are_paired():
    rng = np.random.default_rng(0)
    level = rng.normal(size=50)
    keys = np.stack([np.arange(50), np.arange(50)], axis=1).astype(np.uint64)
    logs = []
    for shift in (0.0, 0.1):
        log = Summary(["mean"], keep=True)
        rows = rng.permutation(50)
        log.add((level[rows, None] + shift + rng.normal(size=(50, 4)) / 4).ravel(), np.full(50, 4), keys=keys[rows])
        logs.append((log, np.argsort(rows)))
    (first, order0), (second, order1) = logs
    a, b = first.kept[0][1][order0, 0], second.kept[0][1][order1, 0]
    [row] = compare(first, second)
    test = stats.ttest_rel(b, a)
    assert (row["method"], row["pairs"]) == ("paired", 50)
    assert row["p_value"] == pytest.approx(test.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(test.confidence_interval())
    assert row["difference"] == pytest.approx((b - a).mean())


def test_prompts_are_paired_over_their_steps():
    logs, by_prompt = [], []
    for seed, steps in ((0, 4), (1, 3)):
        x, at, prompts, sizes = passes(seed=5, steps=steps)
        x = np.maximum(x, np.random.default_rng(seed).random(x.shape) < 0.1 * seed)
        log = Summary(["mean"], keep=True)
        log.add(x.ravel(), sizes, steps=at + 10 * seed, units=prompts, keys=np.zeros((len(sizes), 2), np.uint64))
        logs.append(log)
        by_prompt.append(x.mean(axis=(0, 2)))
    [row] = compare(*logs)
    test = stats.ttest_rel(by_prompt[1], by_prompt[0])
    assert (row["method"], row["pairs"]) == ("paired", 40)
    assert (row["low"], row["high"]) == pytest.approx(test.confidence_interval())


def test_logs_with_other_groups_are_compared_by_welch():
    rng = np.random.default_rng(0)
    logs = []
    for index, count in enumerate((30, 40)):
        log = Summary(["mean"], keep=True)
        keys = (np.arange(count)[:, None] + 100 * index + np.zeros(2)).astype(np.uint64)
        log.add(rng.normal(index, 1 + index, size=count), np.ones(count, int), keys=keys)
        logs.append(log)
    [row] = compare(*logs)
    test = stats.ttest_ind(logs[1].kept[0][1][:, 0], logs[0].kept[0][1][:, 0], equal_var=False)
    assert row["method"] == "welch"
    assert row["p_value"] == pytest.approx(test.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(test.confidence_interval())


def test_logs_of_one_group_are_compared_by_jackknife():
    rng = np.random.default_rng(0)
    logs, found = [], []
    for _ in range(2):
        log, x = Summary(["cvar:0.2"], keep=True), rng.normal(size=100)
        log.add(x, np.array([100]), keys=np.zeros((1, 2), np.uint64))
        logs.append(log)
        found.append(og.value_and_error(x, "cvar:0.2"))
    [row] = compare(*logs)
    assert row["method"] == "jackknife"
    assert row["difference"] == pytest.approx(float(found[1][0] - found[0][0]))
    assert row["error"] == pytest.approx(math.hypot(found[0][1], found[1][1]))
    assert row["p_value"] == pytest.approx(2 * stats.norm.sf(abs(row["difference"]) / row["error"]))


def tries_log(path, size, groups=400, seed=0):
    """Write 0/1 rewards of prompts whose success rates do not depend on the size of the group."""
    rate = np.random.default_rng(seed).beta(0.5, 2, size=groups)
    reward = np.random.default_rng([seed, size]).random((groups, size)) < rate[:, None]
    columns = {"group": np.repeat(np.arange(groups), size), "reward": reward.astype(int).ravel()}
    return write_log(path, columns), reward.astype(float)


def test_groups_of_different_size_are_compared_on_the_same_objective(tmp_path):
    """MaxRL and levels take K from the group, so those of 8 and of 16 tries are other objectives."""
    short, a = tries_log(tmp_path / "n8.jsonl", 8)
    long, b = tries_log(tmp_path / "n16.jsonl", 16)
    out = tmp_path / "out"
    named = ["-o", "mean", "-o", "maxrl", "-o", "0.5*mean+0.5*cvar:0.4"]
    code, output = command(short, long, *named, "--out", out)
    assert code == 0, output
    assert "maxrl@8" in output
    assert "objectives without @K are compared at one K" in output
    rows = json.loads((out / "results.json").read_text())["comparisons"]
    assert [row["objective"] for row in rows] == ["mean", "maxrl@8", "0.5*mean+0.5*cvar:0.4@8"]
    for row in rows:
        test = stats.ttest_rel(og.value(b, row["objective"]), og.value(a, row["objective"]))
        assert (row["method"], row["pairs"]) == ("paired", 400)
        assert row["p_value"] == pytest.approx(test.pvalue)
        assert row["p_value"] > 0.01
        assert (row["low"], row["high"]) == pytest.approx(test.confidence_interval())
    apart = og.value(b, "maxrl") - og.value(a, "maxrl")
    assert stats.ttest_1samp(apart, 0).pvalue < 1e-10  # what comparing the columns of the values would have said


def test_a_few_small_groups_do_not_lower_the_comparison_size(tmp_path):
    path, _ = tries_log(tmp_path / "a.jsonl", 8, groups=20)
    rows = path.read_text().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_text("".join(rows[7:]))  # one group of one
    code, output = command(path, tmp_path / "b.jsonl", "-o", "median", "--out", tmp_path / "out")
    assert code == 0, output
    [row] = json.loads((tmp_path / "out" / "results.json").read_text())["comparisons"]
    assert (row["objective"], row["pairs"], row["difference"]) == ("median@8", 19, 0)
    assert "median: averaged over groups at K = N of their own, 1 to 8" in " ".join(output.split())


def test_logs_of_groups_of_one_size_are_read_once(two_logs, monkeypatch):
    reads = []
    own = logs.score_log
    monkeypatch.setattr(
        logs, "score_log", lambda log, *args, **named: reads.append(log.name) or own(log, *args, **named)
    )
    code, output = command(two_logs / "before.jsonl", two_logs / "after.csv", "-o", "median")
    assert code == 0, output
    assert "median@8" in output
    assert reads == ["before.jsonl", "after.csv"]


def test_groups_too_small_to_be_compared(tmp_path):
    short, _ = tries_log(tmp_path / "short.jsonl", 2, groups=10)
    long, _ = tries_log(tmp_path / "long.jsonl", 8, groups=10)
    code, output = command(short, long, "-o", "max@4", "--out", tmp_path / "out")
    assert code == 0, output
    [row] = json.loads((tmp_path / "out" / "results.json").read_text())["comparisons"]
    assert row["method"] == "none"
    assert row["low"] is row["difference"] is row["p_value"] is None
    [line] = [line for line in output.splitlines() if "groups too small" in line]
    assert " to " not in line


# Advantages


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("scattered", [False, True])
def test_advantages_beside_the_rows(tmp_path, monkeypatch, suffix, scattered):
    monkeypatch.setattr(parsing, "_BLOCK", 256)
    monkeypatch.setattr(parsing, "_ROWS", 16)
    rewards, sizes, ids = ragged()
    order = np.random.default_rng(3).permutation(len(ids)) if scattered else np.arange(len(ids))
    rewards, ids, sizes = rewards[order], ids[order], np.repeat(sizes, sizes)[order]
    path = write_log(tmp_path / f"log{suffix}", {"group": ids, "reward": rewards, "text": ['say "x, y"'] * len(ids)})
    out = tmp_path / f"out{suffix}"
    log = open_log("log", [path], Columns())
    with RowStore(2) as store:
        score_log(log, ["mean", "top:2@4"], store=store)
        assert write_advantages(log, ["mean", "top:2@4"], store, out) == len(ids)
    frame = {".jsonl": pl.read_ndjson, ".csv": pl.read_csv, ".parquet": pl.read_parquet}[suffix](out)
    assert frame.columns == ["group", "reward", "text", "advantage(mean)", "advantage(top:2@4)"]
    assert frame["text"].to_list() == ['say "x, y"'] * len(ids)
    assert frame["reward"].to_list() == pytest.approx(rewards)
    for objective, need in (("mean", 2), ("top:2@4", 5)):
        found = frame[f"advantage({objective})"].cast(pl.Float64).fill_null(math.nan).to_numpy()
        big = sizes >= need
        np.testing.assert_allclose(found[big], og.group_advantages(rewards[big], ids[big], objective), atol=1e-12)
        assert np.isnan(found[~big]).all()


def test_rows_without_an_advantage_stay(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"group": 1, "reward": 0}\n{"group": 1, "reward": "?", "x": "y"}\noops\n{}\n{"group": 1, "reward": 1}\n'
    )
    out = tmp_path / "out.jsonl"
    code, output = command(path, "-o", "mean", "--skip-broken", "--advantages", out)
    assert code == 0, output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["advantage(mean)"] for row in rows] == [-1, None, None, 1]
    assert rows[1]["x"] == "y"
    assert "3 rows could not be used" in output
    assert "line 3: not JSON" in output


# Findings, prompts


def results(*summaries, objectives=("mean", "max@4")):
    """Return the content of results.json of logs named a, b, ..."""
    log = opening.Log("", [], Columns(), [])
    pairs = [(Reading(replace(log, name=name), BrokenRows()), s) for name, s in zip("ab", summaries, strict=False)]
    return folder.results_of(pairs, objectives, 1.0, [])


def kinds(summary, **options):
    return {finding["kind"]: finding for finding in results(summary, **options)["findings"]}


def test_findings_are_made_of_what_is_true():
    x, _, _, sizes = passes(prompts=200, a=0.3, b=0.6)
    summary = Summary(["mean", "max@4"])
    summary.add(x.ravel(), sizes)
    found = kinds(summary)
    assert {"never", "always", "tries", "reliability"} <= set(found)
    share = (x[0].max(axis=1) == 0).mean()
    assert found["never"]["text"].startswith(f"{share:.0%} (")
    assert "in 8 tries" in found["never"]["text"]


def test_no_finding_within_the_interval():
    """One prompt of eight that never passes, steps that differ by chance: nothing to say."""
    x = np.tile([0.0, 1, 0, 1, 0, 1, 1, 0], (8, 1))
    x[0] = 0
    summary = Summary(["mean"])
    summary.add(x.ravel(), np.full(8, 8))
    assert "never" not in kinds(summary, objectives=("mean",))
    x, steps, prompts, sizes = passes(steps=5)
    summary = Summary(["mean"])
    summary.add(x.ravel(), sizes, steps=steps, units=prompts)
    assert "steps" not in kinds(summary, objectives=("mean",))
    x[4] = np.maximum(x[4], np.random.default_rng(0).random(x[4].shape) < 0.5)
    later = Summary(["mean"])
    later.add(x.ravel(), sizes, steps=steps, units=prompts)
    text = kinds(later, objectives=("mean",))["steps"]["text"]
    assert text.startswith("mean rose from 0.")
    assert "at step 4 (change +0." in text


def test_groups_of_one_are_found():
    summary = Summary(["mean"])
    summary.add(np.arange(10.0), np.ones(10, int))
    assert "--group names the wrong column" in kinds(summary, objectives=("mean",))["groups"]["advice"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_prompts_to_keep_drop_and_resample(tmp_path, suffix):
    rewards = {"hard": [0] * 8, "easy": [1] * 8, "mixed": [0, 1] * 4, "few": [1, 1]}
    rows = [(prompt, step, r) for step in (1, 2) for prompt, values in rewards.items() for r in values]
    path = write_log(tmp_path / "log.csv", dict(zip(("group", "step", "reward"), zip(*rows, strict=True), strict=True)))
    out = tmp_path / f"prompts{suffix}"
    code, output = command(path, "--prompts", out)
    assert code == 0, output
    assert "2 to keep, 1 to resample, 1 to drop" in output
    read_ = pl.read_csv if suffix == ".csv" else pl.read_ndjson
    table = {row["prompt"]: row for row in read_(out).to_dicts()}
    assert {prompt: row["action"] for prompt, row in table.items()} == {
        "hard": "resample",
        "easy": "drop",
        "mixed": "keep",
        "few": "keep",
    }
    assert (table["hard"]["samples"], table["hard"]["group_size"], table["mixed"]["group_size"]) == (16, 64, 8)
    assert command(path, "--prompts", out)[0] == 2  # it exists
    assert command(path, "--ungrouped", "--prompts", out, "--overwrite")[0] == 2


# The command


def test_json_is_all_that_is_printed(two_logs):
    result = CliRunner().invoke(app, ["score", str(two_logs / "before.jsonl"), "--json", "-k", "1,3"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert set(content) == {"objectives", "success", "logs", "comparisons", "broken", "findings"}
    assert {row["k"] for row in content["logs"][0]["curves"]} == {1, 3}
    assert content["logs"][0]["read_as"] == "read as a table: group = group, reward = reward"
    result = CliRunner().invoke(app, ["score", str(two_logs / "before.jsonl"), "--quiet"])
    assert (result.exit_code, result.output) == (0, "")
    result = CliRunner().invoke(app, ["score", "nowhere.jsonl", "--json"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert command(two_logs / "before.jsonl", "-k", "1,x")[0] == 2


@pytest.fixture(scope="module")
def two_logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    rng = np.random.default_rng(0)
    rate = rng.beta(0.5, 2, size=80)
    for name, shift in (("before.jsonl", 0.0), ("after.csv", 0.15)):
        reward = (rng.random((80, 8)) < np.minimum(rate + shift, 1)[:, None]).astype(int)
        write_log(folder / name, {"group": np.repeat(np.arange(80), 8), "reward": reward.ravel()})
    return folder


def test_the_command_from_start_to_end(two_logs, tmp_path):
    out = tmp_path / "score"
    arguments = (two_logs / "before.jsonl", two_logs / "after.csv", "-o", "max@4", "-o", "mean", "--out", out)
    code, output = command(*arguments)
    assert code == 0, output
    for text in ("640 rows, 80 groups of 8", "no signal", "pass@k", "paired, 80", "grpo", "cvar:0.05"):
        assert text in output
    names = {path.name for path in out.iterdir()} - {".lock"}
    tables = {"values", "signal", "outcomes", "curves", "tails", "quantiles", "comparisons", "findings"}
    assert names == {"config.json", "results.json", *(f"{name}.csv" for name in tables)}
    config = json.loads((out / "config.json").read_text())
    assert config["kind"] == "score"
    assert config["settings"]["objectives"] == ["max@4", "mean"]
    assert config["versions"]["polars"]
    results = json.loads((out / "results.json").read_text())
    values = list(csv.DictReader((out / "values.csv").read_text().splitlines()))
    assert [row["log"] for row in values] == ["before.jsonl"] * 2 + ["after.csv"] * 2
    assert float(values[0]["value"]) == results["logs"][0]["values"][0]["value"]
    curves = {(row["curve"], row["k"]): row["value"] for row in results["logs"][0]["curves"]}
    assert values[0]["value"] == str(curves["pass", 4])
    assert results["comparisons"][0]["p_value"] < 0.01
    code, output = command(*arguments)
    assert code == 2
    assert "already holds a score; add --overwrite" in " ".join(output.split())
    code, output = command(*arguments, "--overwrite")
    assert code == 0, output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "mox@2"), "did you mean 'max'?"),
        (("--success", "nan"), "success must be finite; got nan"),
        (("--group", "prompt"), "has no column 'prompt'; it has group, reward"),
        (("--baseline", "some"), "baseline must be one of leave_one_out"),
        (("--advantages", "x.csv"), "must end in .jsonl, like the log"),
        (("--advantages", "no/such/x.jsonl"), "must lie in an existing folder"),
    ],
)
def test_the_command_refuses_bad_input(two_logs, arguments, message):
    code, output = command(two_logs / "before.jsonl", *arguments)
    assert code == 2
    assert message in " ".join(output.split())


def test_the_command_keeps_what_is_not_its_own(two_logs, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    code, output = command(two_logs / "after.csv", "--out", tmp_path, "--overwrite")
    assert code == 2
    assert "is not the folder of a score" in " ".join(output.split())
    assert (tmp_path / "thesis.txt").exists()
    code, output = command(two_logs / "after.csv", "--out", tmp_path / "thesis.txt" / "score")
    assert code == 2
    assert "thesis.txt is not a writable folder" in " ".join(output.split())
    assert "objective" not in output  # nothing has been read
    log = two_logs / "after.csv"
    assert command(log, "--advantages", log, "--overwrite")[0] == 2
    assert command(log, log)[0] == 2
    assert command(log, two_logs / "before.jsonl", "--advantages", tmp_path / "a.csv")[0] == 2


def test_too_small_groups_are_reported(tmp_path):
    path = write_log(tmp_path / "log.csv", {"group": [1, 1, 1, 2, 3], "reward": [1, 0, 1, 1, 0]})
    code, output = command(path, "-o", "max@2", "-o", "max@9")
    assert code == 0, output
    rows = {line.split()[1]: line.split() for line in output.splitlines() if "max@" in line and "│" in line}
    assert "1" in rows["max@2"]
    assert rows["max@9"].count("3") == 1  # no group is large enough
    _, summary = scored(path, ["max@2", "max@9"])
    assert [row["too_small"] for row in summary.tables()["values"]] == [2, 3]


def test_tables_fit_eighty_columns(two_logs, tmp_path):
    big = write_log(tmp_path / "big.csv", {"group": [1, 1, 2, 2, 3], "reward": [-1e6, 12345.678, 3e6, 2e6, 0.0]})
    for path, option, small in ((two_logs / "before.jsonl", "max@4", False), (big, "max@2", True)):
        result = CliRunner().invoke(app, ["score", str(path), "-o", option], env={"COLUMNS": "80", "TERM": "dumb"})
        assert result.exit_code == 0, result.output
        assert "…" not in result.output
        assert "e+0" not in result.output
        assert ("small" in result.output) == small
        assert not [line for line in result.output.splitlines() if line.endswith("± │")]


def test_a_log_without_usable_rows(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("group,reward\na,x\n")
    code, output = command(path, "--skip-broken", "--out", tmp_path / "out")
    assert code == 0, output
    assert "no groups" in output
    assert json.loads((tmp_path / "out" / "results.json").read_text())["logs"][0]["mean"] is None


def test_the_section_of_a_report(tmp_path):
    """Findings first; one curve where pass@k and max@k are the same; bands over steps; no mark within the intervals."""
    x, steps, prompts, _ = passes(prompts=60, steps=3, a=0.3, b=0.6)
    rows = zip(np.repeat(steps, 8).tolist(), np.repeat(prompts, 8).tolist(), x.ravel().tolist(), strict=True)
    columns = dict(zip(("step", "group", "reward"), map(list, zip(*rows, strict=True)), strict=True))
    path = write_log(tmp_path / "a.jsonl", columns)
    other = write_log(tmp_path / "b.jsonl", columns | {"reward": list(reversed(columns["reward"]))})
    code, output = command(path, other, "-o", "mean", "-o", "max@4", "--out", tmp_path / "out")
    assert code == 0, output
    scored_ = score_section.load(tmp_path / "out", {})
    section = score_section.section("a", scored_, None)
    assert section.notes[0].startswith("a.jsonl: ")
    assert "have no success in 8 tries" in section.notes[0]
    names = [chart.name for chart in section.charts]
    assert {"pass-at-k", "all-at-k", "steps-0", "steps-1"} <= set(names)
    assert "max-at-k" not in names
    chart = section.charts[names.index("steps-0")]
    assert chart.header == ("contender", "step", "value", "low", "high")
    assert all(low < value < high for _, _, value, low, high in chart.rows)
    assert not any(cell.marked for row in section.tables[0].cells() for cell in row)
