"""The study of a limit on the tail of the cost: the task, the contenders, and a small run from start to end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import studies
import torch


@pytest.fixture(scope="module")
def study():
    return studies.load("constraint")


@pytest.fixture
def small(study):
    return replace(
        study.Settings(), tuning_seeds=1, seeds=2, steps=512, envs=4, rollout=64, batch_size=64, epochs=1, episodes=100
    )


def test_the_task_pays_for_progress_and_counts_the_steps_in_the_hazard(study):
    env = study.ShuttleRun()
    observation, _ = env.reset(seed=1)
    start, cost, inside, over = np.linalg.norm(observation[4:6]), 0, 0, False
    total, goals = 0.0, 0
    while not over:
        way = observation[4:6]
        observation, reward, _, over, info = env.step(way / np.linalg.norm(way))  # straight on
        total += reward
        goals += reward > 0.5
        inside += np.linalg.norm(observation[6:8]) < env.radius
        cost += info["cost"]
        assert observation[8] == pytest.approx(cost / 10)
    assert goals >= 2
    assert cost == inside == info["total"] > 0
    assert total > goals + start


def test_the_penalty_is_taken_off_the_reward(study):
    plain, penalised = (study.make_envs(2, 0, weight) for weight in (0.0, 0.5))
    plain.reset(), penalised.reset()
    costs = 0
    for _ in range(60):
        action = np.tile(np.float32([1.0, 0.0]), (2, 1))
        _, a, _, infos = plain.step(action)
        _, b, _, _ = penalised.step(action)
        cost = np.array([info["cost"] for info in infos])
        np.testing.assert_allclose(a - b, 0.5 * cost, atol=1e-6)
        costs += cost.sum()
    assert costs > 0


def test_a_fixed_weight_is_in_the_units_of_return_and_cost(study, small):
    torch.set_num_threads(1)
    model = study.build(small, "tail penalty", (0.3,), 0).learn(512)
    buffer = model.rollout_buffer
    expected = 0.3 * buffer.cost_ranking.stats["scale"] / buffer.ranking.stats["scale"]
    assert buffer.multiplier.value == pytest.approx(expected)
    assert buffer.stats["lambda"] == pytest.approx(expected)


def test_the_choice_has_the_most_return_among_those_that_meet_the_limit(study):
    settings = replace(study.Settings(), choices={"a": ((1,), (2,), (3,)), "b": ((1,), (2,))}, limit=8.0)
    measured = {("a", 1): (5, 9), ("a", 2): (4, 7), ("a", 3): (3, 6), ("b", 1): (9, 20), ("b", 2): (5, 15)}
    tuning = [
        {"method": m, "numbers": [n], "return": r + shift, "cost": 1.0, study.TAIL: tail}
        for (m, n), (r, tail) in measured.items()
        for shift in (-0.5, 0.5)
    ]
    assert study.choose(settings, tuning) == {"a": [2], "b": [2]}


def test_a_small_run_from_start_to_end(study, small, tmp_path):
    study.main(["--out", str(tmp_path), "--jobs", "1"], small)
    runs = studies.read(tmp_path / "runs.csv")
    assert [r["method"] for r in runs[:5]] == ["free", *small.choices]
    assert len(runs) == 10
    assert len(studies.read(tmp_path / "tuning.csv")) == 12
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["met"].keys() == summary["chosen"].keys()
    assert (tmp_path / "constraint.png").stat().st_size > 10_000
    study.main(["--out", str(tmp_path), "--jobs", "1", "--resume"], small)
