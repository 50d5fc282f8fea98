"""The study of graded rewards with hard prompts: its task, and every part of it in small."""

import matplotlib.image
import numpy as np
import pytest
from studies import load, read

study = load("hard_prompts")


def test_the_task_is_as_described():
    rng = np.random.default_rng(0)
    hard, seen = study.drawn(rng, 40_000, 0.1, 0.6)
    assert hard.mean() == pytest.approx(0.1, abs=0.01)
    assert seen[hard, 1].mean() - seen[~hard, 1].mean() == pytest.approx(1, abs=0.05)
    effort = np.full((len(hard), 1), 5)
    rewards = study.rewards_of(rng, hard, effort)
    assert rewards[hard].mean() == pytest.approx(0.0, abs=0.02)
    assert rewards[~hard].mean() == pytest.approx(0.9, abs=0.01)
    weights = np.zeros((2, 8))
    weights[0, 3], weights[1, 7] = 1.0, 2.0
    drawn, p = study.sampled(rng, weights, np.ones((1, 2)), 40_000)
    assert np.bincount(drawn[0], minlength=8) / 40_000 == pytest.approx(p[0], abs=0.01)


def test_ranking_in_the_batch_pays_for_hidden_hard_prompts():
    settings = study.Settings(steps=400, fresh=4000)
    tails = {name: study.train(settings, "hidden", name, 0)["worst tenth"] for name in study.CONTENDERS}
    assert tails["cvar:0.1, batch"] > max(tails[name] for name in ("mean", "min@4", "cvar:0.25")) + 0.1


def test_the_study_from_start_to_end(tmp_path):
    arguments = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path), "--images", str(tmp_path)]
    study.main([*arguments, "--jobs", "1", "--seeds", "2"], study.Settings(steps=3, fresh=50))
    assert len(read(tmp_path / "runs.csv")) == 2 * len(study.CONTENDERS) * 2
    assert {row["measure"] for row in read(tmp_path / "intervals.csv")} == set(study.MEASURES)
    assert matplotlib.image.imread(tmp_path / "hard_prompts.png").std() > 0.02
