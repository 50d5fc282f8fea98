"""The study of intervals: its truths, its rows, and that docs/intervals.md shows what it found."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from studies import load, read

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments/results/interval_coverage"
study = load("interval_coverage")
TINY = replace(study.Settings(), sizes=(16,), repetitions=200)


@pytest.mark.parametrize(
    ("name", "objective", "truth"),
    [
        ("normal", "mean", 0.0),
        ("normal", "max@8", 1.423600306),
        ("normal", "cvar:0.25", -1.271106),
        ("normal", "gini", 2 / math.sqrt(math.pi)),
        ("normal", "var:0.05", -1.644854),
        ("t3", "gini", None),
        ("0/1 at 5%", "max@8", 1 - 0.95**8),
    ],
)
def test_truths(name, objective, truth):
    found = study.og.exact.value(*study.DISTRIBUTIONS[name].outcomes(), objective)
    if truth is None:
        u = np.random.default_rng(0).standard_t(3, (4_000_000, 2))
        truth = np.abs(u[:, 0] - u[:, 1]).mean()
    assert float(found) == pytest.approx(truth, rel=3e-3 if name == "t3" else 1e-4, abs=1e-6)


def test_a_row_adds_up():
    rewards = np.random.default_rng(0).standard_normal((200, 16))
    row = study.measure("normal", 16, "cvar:0.25", rewards, TINY)
    assert row["covered"] + row["above"] + row["below"] == pytest.approx(1)
    assert 0.85 < row["covered"] <= 1
    assert 0.5 < row["error_ratio"] < 1.5
    none = study.measure("normal", 16, "var:0.05", rewards, TINY)
    assert math.isnan(none["covered"])
    assert none["error_covered"] > 0.5
    assert "has no 95% interval" in none["reason"]


def test_maritz_and_jarrett_is_the_bootstrap_of_an_order_statistic():
    rng = np.random.default_rng(1)
    x = np.sort(rng.standard_normal(15))
    again = np.sort(rng.choice(x, (100_000, 15)), axis=1)[:, 7].std()
    assert study.maritz_jarrett(x[None], "median")[0] == pytest.approx(again, rel=0.02)


def test_the_page_shows_the_committed_table():
    rows = read(RESULTS / "intervals.csv")
    assert {row["objective"] for row in rows} == set(study.OBJECTIVES)
    shown = (RESULTS / "coverage.md").read_text()
    assert shown in (ROOT / "docs/intervals.md").read_text()
    found = {(row["distribution"], row["n"], row["objective"]): row["covered"] for row in rows}
    names = re.findall(r"(normal|t3), (\d+)", shown.splitlines()[0])
    for line in shown.splitlines()[2:]:
        objective, *cells = re.findall(r"[^|\s`]+", line)
        for (name, n), cell in zip(names, cells, strict=True):
            expected = found[name, n, objective]
            assert (cell == "none") == (expected == "nan")
            assert cell == "none" or float(cell) == pytest.approx(float(expected), abs=6e-4)  # both are rounded


def test_committed_coverage_is_what_the_page_promises():
    rows = read(RESULTS / "intervals.csv")
    for row in rows:
        if row["covered"] == "nan" or row["n"] == "16":
            continue
        if row["distribution"] == "normal":
            assert float(row["covered"]) >= 0.93, row
        elif row["distribution"] == "t3":
            assert float(row["covered"]) >= 0.88, row
        else:
            assert float(row["covered"]) >= 0.95, row
