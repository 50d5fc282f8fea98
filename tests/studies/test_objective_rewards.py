"""The study of rewards from a running f: it runs and goes on."""

import json

import pytest
from studies import load

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


@pytest.mark.parametrize("contender", ["wrapper", "dqn wrapper"])
def test_only_the_wrappers_transform_rewards(contender):
    model = study.train(contender, 0, 64 if contender == "wrapper" else 32)
    assert type(model.get_env()).__name__ == "VecObjectiveReward"
