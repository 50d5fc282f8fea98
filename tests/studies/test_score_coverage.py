"""The study of the intervals of `ordergrad score`: its rows, and that docs/commands/coverage.md shows what it found."""

from pathlib import Path

import pytest
from studies import load, read

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments/results/score_coverage"
study = load("score_coverage")


def test_the_truths_are_those_of_the_beta_distribution():
    for law in study.LAWS:
        mean, best, worst = study.expectations(law)
        assert mean == pytest.approx(law.a / (law.a + law.b), rel=0.02)
        assert worst < mean < best


def test_a_row_adds_up():
    rows = study.coverage(study.LAWS[5], 3)
    assert len(rows) == 15
    assert all(0 <= row["covered"] <= 1 and row["half"] >= 0 for row in rows)
    half = {(row["objective"], row["interval"]): row["half"] for row in rows}
    assert half["mean", "Student over groups"] < half["mean", "Student over prompts"] / 2


def test_the_page_shows_the_results():
    page = (ROOT / "docs/commands/coverage.md").read_text()
    rows = read(RESULTS / "coverage.csv")
    found = {(row["log"], row["objective"]): row["covered"] for row in rows if row["interval"] == "ordergrad score"}
    for law in study.LAWS:
        cells = next(line for line in page.splitlines() if line.startswith(f"| {law.name} |")).split("|")
        for cell, objective in zip((cells[2], cells[5], cells[6]), study.OBJECTIVES, strict=True):
            assert float(cell) == pytest.approx(float(found[law.name, objective]))
            assert float(cell) >= 0.92
