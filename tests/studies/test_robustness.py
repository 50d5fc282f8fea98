"""The study of corrupted rewards: its corruptions, its bandit, its environment, and all of it on a few steps."""

import json
from dataclasses import replace

import gymnasium
import matplotlib.image
import numpy as np
import pytest
from numpy.testing import assert_allclose
from stable_baselines3.common.running_mean_std import RunningMeanStd
from studies import load, read

from ordergrad.runs.folder import EVALUATION, METRICS, read_metrics

study = load("robustness")
BANDIT = replace(study.Bandit(), seeds=4, updates=6, sizes=(0.0, 30.0), shares=(0.0, 0.05))
CARTPOLE = replace(study.CartPole(), seeds=2, steps=512, envs=4, rollout=64, epochs=1, min_episodes=4, episodes=6)


@pytest.mark.parametrize(("kind", "signs"), [("both", {-30, 0, 30}), ("up", {0, 30}), ("decoy", {0, 30})])
def test_corruptions(kind, signs):
    rng = np.random.default_rng(0)
    arms = rng.integers(0, 10, size=(200, 100))
    apart = study.corrupted(rng, arms, np.zeros(arms.shape), kind, 0.05, 30.0)
    assert set(np.unique(apart)) == signs
    if kind == "decoy":
        assert (apart[arms > 0] == 0).all()
        assert abs((apart[arms == 0] != 0).mean() - 0.05) < 0.02
    else:
        assert abs((apart != 0).mean() - 0.05) < 0.006


def test_clipping_is_that_of_vecnormalize():
    rng = np.random.default_rng(1)
    clip, theirs = study.Clipping(1.0, seeds=1), RunningMeanStd(shape=())
    for _ in range(30):
        rewards = rng.normal(1, 3, size=(1, 16))
        found = clip(rewards)
        theirs.update(rewards[0])
    expected = np.clip(rewards / np.sqrt(theirs.var + 1e-8), -1, 1)
    assert_allclose(found, expected, rtol=1e-4)
    assert np.abs(found).max() == 1


@pytest.mark.parametrize("contender", study.BANDIT)
def test_every_contender_learns_the_clean_bandit(contender):
    settings = replace(BANDIT, seeds=3, updates=300)
    ends, path = study.train_bandit(contender, "both", 0.0, 0.0, settings)
    assert ends.min() > 0.85
    assert (path < ends).all()


def test_which_arm_an_objective_prefers():
    """The mean of the decoy is share x size; the median does not move by more than its share of the noise."""
    settings = study.Bandit()
    rows = {(r["objective"], r["share"]): (r["best_arm"], r["decoy"]) for r in study.preferred(settings)}
    for share in settings.shares:
        best, decoy = rows["mean", share]
        assert best == pytest.approx(1.0)
        assert decoy == pytest.approx(30 * share, abs=1e-6)
    best, decoy = rows["median", 0.1]
    assert abs(decoy) < 0.1 < best
    assert rows["trimmed:0.1", 0.1][1] < 1 < rows["winsorized:0.1", 0.1][1]
    assert rows["trimmed:0.1", 0.2][1] > 1


@pytest.mark.parametrize("graded", [True, False])
def test_corrupted_episodes(graded):
    env = study.Corrupted(gymnasium.make("CartPole-v1"), graded=graded, share=0.3, size=5000.0, seed=3)
    outliers = []
    env.action_space.seed(0)
    for seed in range(200):
        env.reset(seed=seed)
        rewards, done = [], False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            rewards.append(reward)
            done = terminated or truncated
        assert set(rewards[:-1]) == ({0.0} if graded else {1.0})
        outliers.append(rewards[-1] - (len(rewards) if graded else 1.0))
    assert set(outliers) == {-5000.0, 0.0, 5000.0}
    assert abs(np.count_nonzero(outliers) / 200 - 0.3) < 0.12


def test_a_run_stops_and_is_done_once(tmp_path):
    part, settings = study.PARTS["graded"], CARTPOLE
    assert not study.run(part, settings, "median", 0, tmp_path, lambda: True, lambda row: None)
    assert not tmp_path.joinpath(METRICS).exists()
    seen = []
    assert not study.run(part, settings, "median", 0, tmp_path, lambda: len(seen) > 0, seen.append)
    assert len(seen) == 1
    assert not (tmp_path / EVALUATION).exists()
    assert study.run(part, settings, "median", 0, tmp_path, lambda: False, seen.append)
    assert [row["step"] for row in read_metrics(tmp_path / METRICS)] == [256, 512]
    before = (tmp_path / EVALUATION).read_text()
    assert study.run(part, settings, "median", 0, tmp_path, lambda: False, seen.append)
    assert len(seen) == 3
    assert (tmp_path / EVALUATION).read_text() == before


@pytest.mark.parametrize("graded", [True, False])
def test_returns_clipped_to_their_range(graded):
    part = replace(study.PARTS["graded"], graded=graded)
    model = study.build(study.RANGE, part, replace(CARTPOLE, share=1.0), 0)
    env = model.get_env()
    env.reset()
    rewards = np.array([env.step(np.zeros(CARTPOLE.envs, int))[1] for _ in range(100)])
    assert set(np.unique(rewards)) <= {0, 1, 500}
    assert 500 in rewards


def test_the_study_from_start_to_end(tmp_path):
    arguments = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path), "--images", str(tmp_path), "--jobs", "1"]
    study.main(arguments, BANDIT, CARTPOLE)
    rows, runs = read(tmp_path / "cartpole.csv"), read(tmp_path / "runs.csv")
    for name, part in study.PARTS.items():
        mine = [row for row in rows if row["part"] == name]
        assert {row["trained"] for row in mine} == set(part.contenders)
        for row in mine:
            own = [float(r[row["measure"]]) for r in runs if (r["part"], r["trained"]) == (name, row["trained"])]
            assert len(own) == CARTPOLE.seeds
            assert float(row["value"]) == pytest.approx(np.mean(own), rel=1e-3)
    means = {(row["part"], row["trained"]): float(row["value"]) for row in rows if row["measure"] == "mean"}
    leads = read(tmp_path / "leads.csv")
    assert {(r["part"], r["trained"]) for r in leads if r["against"] == "mean"} == means.keys() - {
        (part, "mean") for part in study.PARTS
    }
    for row in leads:
        expected = means[row["part"], row["trained"]] - means[row["part"], row["against"]]
        assert float(row["lead"]) == pytest.approx(expected, abs=0.02)
    bandit = read(tmp_path / "bandit.csv")
    assert len(bandit) == len(study.BANDIT) * len(study.scenarios(BANDIT))
    assert json.loads((tmp_path / "cartpole.json").read_text())["settings"]["steps"] == 512
    assert json.loads((tmp_path / "bandit.json").read_text())["settings"]["updates"] == 6
    for name in ("robustness", "robustness_bandit"):
        assert matplotlib.image.imread(tmp_path / f"{name}.png").std() > 0.02

    with pytest.raises(SystemExit, match="already holds a run"):
        study.main(arguments, BANDIT, CARTPOLE)
    before = (tmp_path / "cartpole.csv").read_text()
    study.main([*arguments, "--resume", "--only", "cartpole"], BANDIT, CARTPOLE)
    assert (tmp_path / "cartpole.csv").read_text() == before
    command = json.loads((tmp_path / "cartpole.json").read_text())["command"]
    assert command.endswith("--resume --only cartpole")
    before = (tmp_path / "runs.csv").read_text()
    study.main([*arguments[2:], "--out", str(tmp_path / "added"), "--contenders", study.RANGE], BANDIT, CARTPOLE)
    assert sorted((tmp_path / "runs.csv").read_text().split()) == sorted(before.split())
