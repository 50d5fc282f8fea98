"""The study of rewards from a running f: it runs and goes on."""

import json
from pathlib import Path

import pytest
from studies import load, read

ROOT = Path(__file__).parents[2]
study = load("objective_rewards")


def test_it_runs_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FRESH", 64)
    monkeypatch.setattr(study, "CONTENDERS", ("adapter", "wrapper"))
    arguments = ["--out", str(tmp_path), "--steps", "4096", "--seeds", "1", "--jobs", "1"]
    study.main(arguments)
    first = (tmp_path / "runs.csv").read_text()
    study.main([*arguments, "--resume"])
    assert (tmp_path / "runs.csv").read_text() == first
    assert json.loads((tmp_path / "summary.json").read_text())["seeds"] == 1


def test_the_page_shows_the_committed_results():
    page = (ROOT / "docs/adapters/wrappers.md").read_text()
    rows = read(ROOT / "experiments/results/objective_rewards/contenders.csv")
    assert len(rows) == 10
    for row in rows:
        if row["measure"] == "cvar":
            value, low, high = (float(row[name]) for name in ("value", "low", "high"))
            assert f"| {value:.1f} [{low:.1f}, {high:.1f}] |" in page, row


@pytest.mark.parametrize("contender", ["wrapper", "dqn wrapper"])
def test_only_the_wrappers_transform_rewards(contender):
    model = study.train(contender, 0, 64 if contender == "wrapper" else 32)
    assert type(model.get_env()).__name__ == "VecObjectiveReward"
