"""OrderGrad as a criterion of pfhedge: what the criterion returns, and the study on a few steps."""

import json

import pytest
import torch
from studies import load, read

pytest.importorskip("pfhedge", reason="needs: pip install --no-deps pfhedge")


@pytest.fixture(scope="module")
def study():
    return load("hedging_pfhedge")


def test_the_criterion_is_minus_the_tail(study):
    profits = torch.arange(40.0).flip(0)
    tail = study.Tail("cvar:0.05")
    assert float(tail(profits)) == -0.5
    assert float(tail(profits, 1.0)) == 0.5
    assert float(tail.cash(profits)) == pytest.approx(0.5, abs=1e-4)
    torch.testing.assert_close(tail(profits), study.ExpectedShortfall(0.05)(profits))


def test_the_study_from_start_to_end(study, tmp_path):
    settings = study.Settings(days=3, paths=40, steps=2, seeds=2, tuning_seeds=(100,), fresh=60)
    arguments = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path), "--jobs", "1"]
    study.main(arguments, settings)
    runs = read(tmp_path / "runs.csv")
    assert [(r["contender"], r["seed"]) for r in runs] == [(c, str(seed)) for c in study.CRITERIA for seed in range(2)]
    ours, theirs = ([float(r["cvar:0.05"]) for r in runs if r["contender"] == c] for c in study.CRITERIA)
    lead = json.loads((tmp_path / "summary.json").read_text())["lead"]
    assert lead["value"] == pytest.approx((sum(ours) - sum(theirs)) / 2, abs=1e-3)
    before = (tmp_path / "runs.csv").read_text()
    study.main([*arguments, "--resume"], settings)
    assert (tmp_path / "runs.csv").read_text() == before
