"""The study of robust Bayesian optimisation: its problems, its regret, and all of it."""

import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import torch
from botorch.acquisition.risk_measures import CVaR, Expectation
from botorch.test_functions import SixHumpCamel
from studies import load, read

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def study():
    return load("robust_bo")


@pytest.fixture
def tiny(study):
    return replace(
        study.Settings(),
        seeds=2,
        first=4,
        evaluations=6,
        perturbations=6,
        posterior_samples=8,
        restarts=1,
        raw_samples=8,
        true_perturbations=64,
        grid=11,
    )


def test_the_problems_are_the_published_ones(study):
    x = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = SixHumpCamel(negate=True, bounds=[(-3.0, 3.0), (-2.0, 2.0)]).double()
    torch.testing.assert_close(
        study.camel(x), theirs(torch.tensor([6.0, 4.0], dtype=torch.float64) * x - torch.tensor([3.0, 2.0]))
    )
    # Bertsimas et al. (2010), section 4.1: the minimum is -20.8, at (2.8, 4.0)
    best = torch.tensor([(2.8 + 0.95) / 4.15, (4.0 + 0.45) / 4.85], dtype=torch.float64)
    assert float(study.polynomial(best)) == pytest.approx(20.8, abs=0.1)


@pytest.mark.parametrize("problem", ["polynomial", "camel"])
def test_no_input_is_better_than_the_optimum(study, problem):
    """And the robust optimum of the polynomial is not where its highest value is."""
    settings = replace(study.Settings(), grid=41, true_perturbations=512)
    best, place = study.optimum(problem, settings)
    x = torch.rand(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(study.true_risk(problem, x, settings).max()) <= best
    assert float(study.true_risk(problem, torch.tensor([place], dtype=torch.float64), settings)) == pytest.approx(best)
    others = study.other_optima(problem, settings)
    assert all(other["cvar"] < best for other in others.values())
    if problem == "polynomial":
        assert others["value"]["cvar"] < best - 10
        assert np.linalg.norm(np.array(place) - [0.9, 0.92]) > 0.5


def test_the_contenders_measure_different_tails(study):
    settings = study.Settings()
    assert study.ours(settings) == study.OURS
    samples = torch.arange(16.0, dtype=torch.float64)[None, :, None]
    found = {c: float(study.risk_measure(c, settings)(samples)) for c in (study.OURS, study.THEIRS, study.NEUTRAL)}
    assert found[study.OURS] == pytest.approx((0 + 1 + 2 + 0.2 * 3) / 3.2)
    assert found[study.THEIRS] == pytest.approx(1.5)  # the mean of four
    assert found[study.NEUTRAL] == pytest.approx(7.5)
    assert isinstance(study.risk_measure(study.THEIRS, settings), CVaR)
    assert isinstance(study.risk_measure(study.NEUTRAL, settings), Expectation)


def test_the_study_from_start_to_end(study, tiny, tmp_path):
    out, results, images = tmp_path / "runs", tmp_path / "results", tmp_path / "images"
    arguments = ["--out", str(out), "--results", str(results), "--images", str(images), "--jobs", "1"]
    study.main(arguments, tiny)
    rows = [row for row in read(results / "evaluations.csv") if row["regret"]]
    assert len(rows) == 2 * 4 * 2 * 3
    assert all(float(row["regret"]) > -1e-6 for row in rows)
    first = [
        row["regret"] for row in rows if row["problem"] == "camel" and row["seed"] == "0" and row["evaluations"] == "4"
    ]
    assert len(set(first)) == 1  # the same first design for all
    summary = json.loads((results / "summary.json").read_text())
    assert summary["regret"]["camel"][study.OURS]["lead of ours at the end"] == [0, 0, 0, 1]
    assert matplotlib.image.imread(images / "robust_bo.png").std() > 0.02
    alone = ["--problems", "camel", "--out", str(out), "--results", str(tmp_path / "alone"), "--resume", "--jobs", "1"]
    study.main(alone, tiny)
    again = json.loads((tmp_path / "alone" / "summary.json").read_text())["regret"]
    assert again == {"camel": summary["regret"]["camel"]}
    with pytest.raises(SystemExit, match="already holds a run"):
        study.main(arguments, tiny)


def test_a_stopped_run_goes_on_where_it_was(study, tiny, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    quiet = {"stop": lambda: False, "report": lambda row: None}
    assert study.run(tiny, "polynomial", study.OURS, 0, whole, **quiet)
    steps = iter([False] * 5 + [True])
    assert not study.run(tiny, "polynomial", study.OURS, 0, parts, lambda: next(steps), lambda row: None)
    assert study.run(tiny, "polynomial", study.OURS, 0, parts, **quiet)
    assert (parts / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
