"""The guarded maze through Stable-Baselines3: its environment, its schedule, and the study in small."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from studies import load, read

from ordergrad.envs import guarded_maze as maze

# batches this small hold few whole episodes
pytestmark = pytest.mark.filterwarnings("ignore:more steps wait for the end of their episodes:UserWarning")


@pytest.fixture(scope="module")
def script():
    torch.set_num_threads(1)
    load("guarded_maze")  # which the other imports
    return load("guarded_maze_sb3")


@pytest.fixture(scope="module")
def tiny(script):
    few = {"episodes": 50, "most_steps": 9000, "envs": 20, "min_episodes": 20, "batch": 80, "hidden": 8}
    return replace(script.Settings(), **few, test_episodes=60)


@pytest.mark.parametrize("guards", [0.2, 0.8, None])
def test_the_environment_pays_ends_and_weighs_as_the_maze(script, guards):
    envs, rng = script.Mazes(60, guards, seed=1), np.random.default_rng(2)
    envs.temper = 0.5
    observation = envs.reset()
    total, length, ended, weights = np.zeros(60), np.zeros(60, int), [], set()
    for _ in range(400):
        guard, touched, cost = envs.guard.copy(), envs.running.touched.copy(), envs.running.guard_cost.copy()
        ratio, started = envs.ratio.copy(), envs.running.steps.copy()
        assert (started == length).all()
        np.testing.assert_allclose(observation.sum(axis=(1, 2)), 1, rtol=1e-6)
        observation, reward, done, infos = envs.step(rng.integers(0, 4, 60))
        total, length = total + reward, length + 1
        for i in np.flatnonzero(done):
            late = infos[i]["TimeLimit.truncated"]
            assert late == (length[i] == 160 and reward[i] != maze.GOAL_REWARD)
            ended.append(total[i])
            weight = infos[i]["ordergrad_weight"]
            weights.add(round(weight, 6))
            if touched[i]:
                assert weight == pytest.approx(ratio[i] ** 0.5)
                price = cost[i] if guard[i] else 0.0
                assert total[i] + price == pytest.approx(
                    maze.GOAL_REWARD * (not late) - min(length[i] - (not late), 32), abs=1e-9
                )
            assert infos[i]["terminal_observation"].shape == (8, 8)
        assert all(not infos[i] for i in np.flatnonzero(~done))
        total[done], length[done] = 0.0, 0
    assert len(ended) > 100
    if guards == 0.2:
        assert weights == {1.0}
    if guards == 0.8:
        assert {0.5, 1.0} <= weights
        assert weights <= {0.5, 1.0, 2.0}
    if guards is None:
        assert envs.sampler.state()["waiting"]


def test_a_small_study_writes_its_results_and_resumes(script, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "train", partial(script.train, settings=tiny))
    arguments = ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "results"), "--jobs", "1", "--seeds", "1"]
    script.main(arguments)
    rows = read(tmp_path / "results" / "runs.csv")
    assert [row["objective"] for row in rows] == ["mean", "annealed"]
    assert all(float(row["cvar"]) <= float(row["mean"]) for row in rows)
    summary = json.loads((tmp_path / "results" / "summary.json").read_text())
    assert [cell["seeds"] for cell in summary["cells"]] == [1, 1]
    assert summary["command"].endswith("--seeds 1")

    with pytest.raises(SystemExit, match="add --resume to continue it, or choose another --out"):
        script.main(arguments)
    monkeypatch.setattr(script, "train", None)  # nothing is trained anew
    script.main([*arguments, "--resume"])
    assert read(tmp_path / "results" / "runs.csv") == rows


def test_the_schedule_anneals_objective_weights_entropy_and_step_size(script, tiny, monkeypatch):
    model, seen = script.build(0.8, 0, tiny), []
    schedule = script.Schedule("annealed", tiny)
    train = model.train

    def keep():
        train()
        buffer, rate = model.rollout_buffer, model.policy.optimizer.param_groups[0]["lr"]
        seen.append((schedule.progress, str(buffer.objective), model.env.temper, model.ent_coef, rate))

    monkeypatch.setattr(model, "train", keep)
    model.learn(tiny.most_steps, schedule)
    assert seen[0][:4] == (0.0, "mean", 0.0, tiny.entropy)
    progress, objective, temper, entropy, _ = seen[-1]
    assert 0 < progress < 1
    assert temper == pytest.approx(min(1.0, progress / 0.65))
    assert "cvar:0.05" in objective
    assert entropy == pytest.approx(tiny.entropy * (1 - progress))
    trained = [rate for *_, rate in seen if rate != 0.0003]  # that of PPO until the first update
    assert trained[0] > trained[-1] > 0
    assert model.num_timesteps <= tiny.most_steps + tiny.envs * tiny.rollout
