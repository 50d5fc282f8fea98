"""The study of the signal of groups: its sums against simulation, and the whole in small."""

import json

import numpy as np
import pytest
from studies import load, read

import ordergrad as og

study = load("prompt_signal")


@pytest.mark.parametrize("objective", ["mean", "max@4", "0.5*mean+0.5*min@4"])
def test_moments_are_those_of_simulated_groups(objective):
    p = np.array([0.1, 0.7])
    rewards = (np.random.default_rng(0).random((40_000, 2, study.N)) < p[:, None]).astype(float)
    a = og.advantages(rewards, objective)
    updates = (a * (rewards - p[:, None])).mean(-1)
    found = study.moments(objective, p)
    assert found["signal"] == pytest.approx((np.abs(a) > 1e-12).any(-1).mean(0), abs=0.01)
    assert found["update"] == pytest.approx(updates.mean(0), rel=0.05)
    assert found["square"] == pytest.approx((updates**2).mean(0), rel=0.05)


def test_k_is_the_inverse_of_the_success_rate():
    assert study.k_for_rate(np.array([0.0, 0.1, 0.3, 0.5, 0.9]), 7).tolist() == [7, 7, 3, 2, 1]
    chances = study.chances_of_k(np.array([0.3, 0.9]), 4, 8)
    assert chances.sum(1) == pytest.approx([1, 1])
    estimates = np.random.default_rng(0).binomial(8, 0.3, 40_000) / 8
    drawn = np.bincount(study.k_for_rate(estimates, 4), minlength=5)[1:] / 40_000
    assert chances[0] == pytest.approx(drawn, abs=0.01)
    assert study.by_prompt(np.array([1.0, 0.9]), 7, 0)["update"] == pytest.approx(
        study.moments("mean", np.array([1.0, 0.9]))["update"]
    )


def test_the_study_from_start_to_end(tmp_path):
    rates = tmp_path / "rates.jsonl"
    lines = [
        {"part": part, "contender": name, "step": step, "tokens": 9.0, "successes": [0, 3, 30, 64]}
        for part, name, step in (("start", "start", 0), ("study", "grpo", 300), ("study", "max@4", 300))
    ]
    rates.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = str(tmp_path / "results")
    study.main(["--rates", str(rates), "--out", str(tmp_path / "runs"), "--results", folder, "--images", folder])
    rows = read(tmp_path / "results" / "signal.csv")
    assert len(rows) == 3 * (len(study.OBJECTIVES) + len(study.RULES))
    mean = next(row for row in rows if row["scheme"] == "mean")
    share = np.mean([1 - p**8 - (1 - p) ** 8 for p in (0, 3 / 64, 30 / 64, 1)])
    assert float(mean["signal"]) == pytest.approx(share, rel=1e-4)
    assert float(mean["per 1000 tokens"]) == pytest.approx(1000 * share / 72, rel=1e-4)
    assert float(mean["rare over even"]) == pytest.approx(1, rel=1e-4)
