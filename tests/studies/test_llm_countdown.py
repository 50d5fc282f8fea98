"""The study of pass@k on Countdown, every part of it, on a model that learns nothing in so few steps."""

import json

import matplotlib.image
import numpy as np
import pytest
from studies import load, read

from ordergrad import exact
from ordergrad.train.llm_settings import LLMSettings

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def study(monkeypatch):
    module = load("llm_countdown")
    settings = LLMSettings(
        module.CONTENDERS,
        seeds=2,
        steps=4,
        prompts=2,
        samples=8,
        warm_steps=3,
        eval_problems=4,
        eval_samples=4,
        width=8,
        layers=1,
    )
    monkeypatch.setitem(module.SIZES, "small", module.Size(settings, rates=(3e-4, 1e-3), length_penalty=0.005))
    return module


def test_the_study_from_start_to_end(study, tmp_path):
    out, results, images = tmp_path / "runs", tmp_path / "results", tmp_path / "images"
    arguments = ["--out", str(out), "--results", str(results), "--images", str(images), "--jobs", "1"]
    study.main(arguments)
    runs = read(results / "runs.csv")
    assert len(runs) == sum(map(len, study.PARTS.values())) * 2
    tuning = read(results / "tuning.csv")
    assert {(row["contender"], float(row["learning_rate"])) for row in tuning} == {
        (contender, rate) for contender in study.CONTENDERS for rate in (3e-4, 1e-3)
    }
    summary = json.loads((results / "summary.json").read_text())
    for contender in study.CONTENDERS:
        chosen = [row for row in tuning if row["contender"] == contender]
        best = max(chosen, key=lambda row: (float(row["aim"]), float(row["learning_rate"])))
        assert summary["rates"][contender] == float(best["learning_rate"])
        values = [float(row["pass@1"]) for row in runs if row["contender"] == contender and row["part"] == "study"]
        assert summary["study"][contender]["pass@1"][0] == pytest.approx(np.mean(values), abs=1e-4)
    assert {row["against"] for row in read(results / "differences.csv")} == {"grpo", "mean"}
    shares = {row["contender"]: [float(x) for x in list(row.values())[1:]] for row in read(results / "worth.csv")}
    assert shares["max@4"] == pytest.approx([4 * (1 - p) ** 3 for p in (0, 0.05, 0.2, 0.5, 0.8, 0.95, 1)], abs=1e-3)
    for name in ("", "_training", "_length", "_worth"):
        assert matplotlib.image.imread(images / f"llm_countdown{name}.png").std() > 0.02

    with pytest.raises(SystemExit, match="already holds a run"):
        study.main(arguments)
    before = (results / "runs.csv").read_text()
    study.main([*arguments, "--resume"])
    assert (results / "runs.csv").read_text() == before


def test_a_contender_is_tuned_for_what_it_optimises(study):
    assert study.aim("grpo") == study.aim("mean") == study.aim("max@4..mean") == "reward"
    assert study.aim("top:2@4") == "ordergrad/value"
    metrics = [{"reward": float(i)} for i in range(12)]
    assert study.last_part(metrics, "reward") == 10.5


@pytest.mark.parametrize("contender", ["mean", "max@4", "top:2@4", "maxrl"])
def test_the_worth_of_success_is_the_derivative_of_the_objective(study, contender):
    objective = "maxrl@7" if contender == "maxrl" else contender
    for p in (0.05, 0.4, 0.9):
        up, down = (exact.value([0.0, 1.0], [1 - q, q], objective) for q in (p + 1e-6, p - 1e-6))
        assert study.worth(contender, p, 8) == pytest.approx((up - down) / 2e-6, rel=1e-6)
