"""The study of corrupted rewards: its contenders, its corruptions and graders, and all of it on a few updates."""

import json

import gymnasium
import matplotlib.image
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar
from stable_baselines3.common.running_mean_std import RunningMeanStd
from studies import load, read

study = load("robustness")
TINY = study.Settings(
    bandit_seeds=2, bandit_updates=2, seeds=3, tuning_seeds=2, parser_updates=3, cartpole_updates=2, fresh=3
)


@pytest.mark.parametrize(("kind", "signs"), [("both", {-30, 0, 30}), ("up", {0, 30}), ("decoy", {0, 30})])
def test_corruptions(kind, signs):
    rng = np.random.default_rng(0)
    arms = rng.integers(0, 10, size=(200, 100))
    apart = study.corrupted(rng, arms, kind, 0.05, 1e6) - study.ARMS[arms]
    hit = np.abs(apart) > 1e5
    assert set(np.sign(apart[hit])) == {np.sign(x) for x in signs} - {0}
    if kind == "decoy":
        assert not hit[arms > 0].any()
        assert abs(hit[arms == 0].mean() - 0.05) < 0.02
    else:
        assert abs(hit.mean() - 0.05) < 0.006
    assert apart[~hit].std() == pytest.approx(study.NOISE, rel=0.03)


def test_clipping_is_that_of_vecnormalize():
    rng = np.random.default_rng(1)
    signal, theirs = study.Signal("sd:1", seeds=1), RunningMeanStd(shape=())
    for _ in range(30):
        rewards = rng.normal(1, 3, size=(1, 16))
        found = signal(rewards)
        theirs.update(rewards[0])
    clipped = np.clip(rewards / np.sqrt(theirs.var + 1e-8), -1, 1)
    assert_allclose(found, (clipped - clipped.mean()) * 16 / 15, rtol=1e-3)


def test_huber_scores_are_those_of_the_least_huber_loss():
    z = np.random.default_rng(0).standard_t(2, size=(1, 40))

    def loss(middle):
        apart = np.abs(z[0] - middle)
        return np.where(apart < 1.5, apart**2 / 2, 1.5 * apart - 1.5**2 / 2).sum()

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10}).x
    scores = study.huber(z, 1.5)
    assert_allclose(scores[0], np.clip(z[0] - best, -1.5, 1.5), atol=1e-5)
    assert scores.sum() == pytest.approx(0, abs=1e-8)


def test_signals_that_bound_an_outlier():
    """One reward goes off: what it does to the advantages of the others."""
    rewards = np.random.default_rng(0).normal(size=(1, 32))
    off = rewards.copy()
    off[0, 5] += 1e6
    others = np.arange(32) != 5

    def change(contender):
        known = (-5.0, 5.0)
        before, after = (study.Signal(contender, 1, known)(x)[0, others] for x in (rewards, off))
        return np.abs(before - after).max()

    assert change("mean") > 1e4
    assert change("mad") > 1e4
    for contender in ("range", "huber:1", "trimmed:0.1", "winsorized:0.1", "median"):
        assert change(contender) < 3, contender


def test_a_unit_of_zero_is_one():
    rewards = np.array([[0.0, 0.0, 0.0, -4.0]])
    assert_allclose(study.Signal("mad", 1)(rewards), study.Signal("mean", 1)(rewards))
    assert_allclose(study.Signal("huber:1", 1)(np.full((2, 5), 7.0)), 0)


@pytest.mark.parametrize("contender", study.BANDIT)
def test_every_contender_learns_the_clean_bandit(contender):
    draw = study.partial(study.corrupted, kind="both", share=0.0, size=0.0)
    signal = study.Signal(contender, 3)
    ends, path = study.train_bandit(draw, study.ARMS, signal, 0.05, 300, np.random.default_rng(0))
    assert ends.min() > 0.85
    assert (path < ends).all()


@pytest.mark.parametrize(
    ("text", "last", "first"),
    [
        (" 12. 3 plus 1,024 is", 1024, 12),
        (" 12\n3 plus 4 is 7", 12, 12),
        ("? It is 7.5", 7.5, None),
        (" many", 0, None),
    ],
)
def test_what_the_parser_reads(text, last, first):
    assert study.last_number(text) == last
    assert study.pretrained.number_of(text) == first


def test_the_completions_are_those_of_the_prompts():
    records = study.study.read_records(study.COMPLETIONS)
    rewards, right = study.graded()
    ways = len(study.prompts(2, 3))
    assert rewards.shape == right.shape == (ways, len(records) * len(records[0]["texts"][0]))
    assert (rewards <= 0).all()
    text, answer = records[1]["texts"][2][3], records[1]["a"] + records[1]["b"]
    assert rewards[2, len(records[0]["texts"][0]) + 3] == -abs(study.last_number(text) - answer)
    assert 0 < ((right == 1) & (rewards < 0)).mean() < 1


def test_episodes_are_those_of_cartpole():
    """The lengths of a policy that cannot be mistaken, and the gradient of log p of a longer one."""
    rng = np.random.default_rng(0)
    always_right = np.array([[0.0, 0.0, 0.0, 0.0]])
    lengths, _ = study.play(always_right, 400, rng)
    env = gymnasium.make("CartPole-v1")
    env.action_space.seed(0)
    expected = []
    for seed in range(400):
        env.reset(seed=seed)
        steps, ended = 0, False
        while not ended:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            steps, ended = steps + 1, terminated or truncated
        expected.append(steps)
    assert lengths.mean() == pytest.approx(np.mean(expected), rel=0.12)
    lengths, score = study.play(np.array([[0.5, 1.0, 3.0, 2.0]]), 50, rng)
    assert lengths.max() <= study.LONGEST
    assert lengths.mean() > 300
    assert np.abs(score.mean(axis=(0, 1)) / score.std(axis=(0, 1))).max() < 0.6


def test_what_episodes_are_paid():
    rng, length = np.random.default_rng(0), np.full((2, 2000), 50.0)
    gain = np.array([[0.1], [100.0]])
    assert_allclose(study.paid("clean", length, gain, rng), length)
    outliers = study.paid("outliers", length, gain, rng) - length
    assert set(np.unique(outliers)) == {-5000.0, 0.0, 5000.0}
    assert abs((outliers != 0).mean() - 0.05) < 0.015
    read_off = study.paid("sensor", length, gain, rng)
    usual = read_off == gain * length
    assert abs((~usual).mean() - 0.05) < 0.015
    assert np.abs(read_off[~usual]).min() > 32768 - 100 * 50
    assert np.abs(read_off).max() <= 50 * 32768


def test_everybody_has_four_settings():
    for name in study.NUMBERS:
        found = study.candidates(name)
        assert len(found) == 4
        assert {study.kind(c) for c in found} == {name}


def test_the_study_from_start_to_end(tmp_path):
    arguments = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path), "--images", str(tmp_path), "--jobs", "1"]
    study.main(arguments, TINY)
    runs, rows, leads = (read(tmp_path / f"{name}.csv") for name in ("runs", "parts", "leads"))
    assert len(runs) == len(study.PARTS) * len(study.NUMBERS) * TINY.seeds
    means = {(r["part"], r["trained"]): float(r["value"]) for r in rows}
    for (part, name), value in means.items():
        own = [float(r["clean"]) for r in runs if (r["part"], r["trained"]) == (part, name)]
        assert value == pytest.approx(np.mean(own), rel=1e-3)
    for row in leads:
        expected = means[row["part"], row["trained"]] - means[row["part"], row["against"]]
        assert float(row["lead"]) == pytest.approx(expected, abs=0.02)
    tuned = read(tmp_path / "tuning.csv")
    assert len(tuned) == 3 * 4 * len(study.NUMBERS)
    for row in runs:
        source = "outliers" if row["part"] == "clean" else row["part"]
        tries = [r for r in tuned if r["part"] == source and study.kind(r) == row["trained"]]
        best = max(tries, key=lambda r: float(r["clean"]))
        assert float(best["clean"]) == max(float(r["clean"]) for r in tries)
        chosen = next(r for r in tries if (r["contender"], r["rate"]) == (row["setting"], row["rate"]))
        assert float(chosen["clean"]) == float(best["clean"])
    assert len(read(tmp_path / "bandit.csv")) == len(study.BANDIT) * len(study.scenarios())
    assert json.loads((tmp_path / "summary.json").read_text())["settings"]["seeds"] == 3
    for name in ("robustness", "robustness_bandit"):
        assert matplotlib.image.imread(tmp_path / f"{name}.png").std() > 0.02

    with pytest.raises(SystemExit, match="already holds a run"):
        study.main(arguments, TINY)
    before = (tmp_path / "runs.csv").read_text()
    study.main([*arguments, "--resume"], TINY)
    assert (tmp_path / "runs.csv").read_text() == before
