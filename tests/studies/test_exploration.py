"""The study of exploration, every part of it once, on runs too short to find anything."""

import json
from dataclasses import replace

import gymnasium as gym
import matplotlib.image
import numpy as np
import pytest
from studies import load, read


@pytest.fixture(scope="module")
def study():
    """The study with the fewest contenders that still have every part, each of which compiles anew."""
    return load("exploration")


@pytest.fixture
def small(study, monkeypatch):
    size = study.Size(
        updates=10,
        episodes=8,
        seeds=4,  # as many runs as tuning has, which saves compiling
        tuning_seeds=2,
        rates=(0.01, 0.3),
        bonuses=(0.1,),
        depth=2,
        depths=(1,),
        fresh=40,
        lake_seeds=2,
        lake_tuning_seeds=1,
        lake_rates=(1e-3, 1e-2),
        lake_bonuses=(0.1,),
        lake_updates=2,
        lake_fresh=64,
    )
    every, gyms = study.tasks(size), study.gym_tasks(size)
    few = ("mean", "mean + bonus")
    monkeypatch.setitem(study.SIZES, "study", size)
    monkeypatch.setattr(study, "FEW", few)
    monkeypatch.setattr(study, "CONTENDERS", {name: study.CONTENDERS[name] for name in few})
    kept = {"main": few, "depth 1": few}
    monkeypatch.setattr(
        study, "tasks", lambda size: {name: replace(every[name], contenders=c) for name, c in kept.items()}
    )
    gyms = {key: replace(task, contenders=("mean", "mean + bonus")) for key, task in gyms.items()}
    monkeypatch.setattr(study, "gym_tasks", lambda size: gyms)
    return size


def test_the_study_from_start_to_end(study, small, tmp_path):
    out, results, images = tmp_path / "runs", tmp_path / "results", tmp_path / "images"
    arguments = ["--out", str(out), "--results", str(results), "--images", str(images), "--jobs", "1"]
    study.main(arguments)
    runs = read(results / "runs.csv")
    assert len(runs) == 4 * (2 + 2)
    for row in runs:
        assert float(row["nothing"]) + float(row["decoy"]) + float(row["treasure"]) == pytest.approx(1.0, abs=1e-4)
        assert float(row["mean"]) == pytest.approx(float(row["decoy"]) + 10 * float(row["treasure"]), abs=1e-3)
    tuning = read(results / "tuning.csv")
    for contender in ("mean", "mean + bonus"):
        rows = [row for row in tuning if row["task"] == "main" and row["contender"] == contender]
        best = max(rows, key=lambda row: float(row["mean"]))
        chosen = {row["learning_rate"] for row in runs if row["contender"] == contender}
        assert chosen == {best["learning_rate"]}
    summary = json.loads((results / "summary.json").read_text())
    treasure = [float(r["treasure"]) for r in runs if r["task"] == "main" and r["contender"] == "mean"]
    assert summary["tasks"]["main"]["mean"]["treasure"][0] == pytest.approx(np.mean(treasure), abs=1e-4)
    assert {row["contender"] for row in read(results / "differences.csv")} == {"mean", "mean + bonus"}
    gym = read(results / "gym.csv")
    assert [(row["task"], row["contender"]) for row in gym[::2]] == [
        ("decoy-lake", "mean"),
        ("decoy-lake", "mean + bonus"),
        ("lake", "mean"),
        ("lake", "mean + bonus"),
    ]
    assert {row["bonus"] for row in gym} == {"0.1", "0"}
    for name in ("exploration", "exploration_gym"):
        assert matplotlib.image.imread(images / f"{name}.png").std() > 0.02

    with pytest.raises(SystemExit, match="already holds a run"):
        study.main(arguments)
    before = (results / "runs.csv").read_text(), (results / "gym.csv").read_text()
    study.main([*arguments, "--resume"])
    assert before == ((results / "runs.csv").read_text(), (results / "gym.csv").read_text())
    study.main([*arguments, "--resume", "--add", "depth 1"])
    assert sorted(before[0].splitlines()) == sorted((results / "runs.csv").read_text().splitlines())
    assert list(json.loads((results / "added.json").read_text())["tasks"]) == ["depth 1"]
    with pytest.raises(SystemExit, match="--add must be the end of a task's name"):
        study.main([*arguments, "--resume", "--add", "depth 7"])


def test_shares_and_their_intervals(study):
    share, low, high = study.study.share(np.array([True] * 9 + [False]))
    assert share == 0.9
    assert 0.55 < low < 0.56  # Clopper and Pearson (1934): 0.5550 and 0.9975
    assert 0.997 < high < 0.998


def test_the_first_sight_of_the_treasure(study):
    best = np.array([[0.0, 10.0, 10.0], [1.0, 1.0, 1.0], [10.0, 0.0, 0.0]])
    assert study.first_seen(best, 10.0).tolist() == [2, 0, 1]


@pytest.mark.parametrize(("key", "chance"), [("decoy-lake", 9.27e-4), ("lake", 7.52e-5)])
def test_how_seldom_a_uniform_policy_reaches_the_goal_of_a_lake(study, key, chance):
    args = study.gym_tasks(study.Size())[key].args
    with gym.make(args.env_id, **json.loads(args.env_args)) as env:
        limit, moves, start = env.spec.max_episode_steps, env.unwrapped.P, env.reset()[0]
    at, reached = {start: 1.0}, 0.0
    for _ in range(limit):
        following = {}
        for place, probability in at.items():
            for [(_, end, reward, done)] in moves[place].values():
                if done:
                    reached += probability / 4 * (reward == study.TREASURE)
                else:
                    following[end] = following.get(end, 0.0) + probability / 4
        at = following
    assert reached == pytest.approx(chance, rel=1e-3)


def test_among_equals_the_larger_mean_is_tuned_for(study, tmp_path):
    path = study.block_path(tmp_path, "tune", "main", "max@8")
    path.parent.mkdir(parents=True)
    returns = np.zeros((3, 2, 100))
    returns[0, :, :50], returns[1, :, :90], returns[2, :, :1] = 10.0, 10.0, 10.0
    with path.open("wb") as file:
        np.savez(file, settings=np.array([[0.1, 0.0], [0.2, 0.0], [0.3, 0.0]]), returns=returns)
    assert study.tuned(tmp_path, "main", "max@8") == (0.2, 0.0)
