"""The study of risky regions, every part of it, with policies that learn nothing in so few steps; and the peer."""

import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from studies import load, read

from ordergrad.adapters.episodes import EpisodeRanking

peer = load("mean_variance")
pytestmark = pytest.mark.filterwarnings("ignore:.*mini-batch size.*:UserWarning")

TINY = {"envs": 8, "edge_seeds": 2, "episodes": 24, "epochs": 1, "batch_size": 200, "annealed": 0.0}


@pytest.fixture
def study(monkeypatch):
    module = load("risky_control")
    tasks = {
        "pendulum": {"steps": 800, "rollout": 50, "min_episodes": 12, "edge": (0.0,), "calm": 400},
        "lander": {"steps": 2400, "rollout": 150, "min_episodes": 4, "imitated": 2},
    }
    for name, sizes in tasks.items():
        monkeypatch.setitem(module.TASKS, name, replace(module.TASKS[name], **TINY, **sizes))
    return module


@pytest.mark.parametrize("task", ["pendulum", "lander"])
def test_the_study_from_start_to_end(study, tmp_path, task):
    out, results, images = tmp_path / "runs", tmp_path / "results", tmp_path / "images"
    arguments = [task, "--out", str(out), "--results", str(results), "--images", str(images), "--jobs", "1"]
    arguments += ["--seeds", "2"]
    study.main(arguments)
    settings, results = study.TASKS[task], results / task
    runs = read(results / "runs.csv")
    assert len(runs) == 2 * 5 * (1 + len(settings.edge))
    assert {row["part"] for row in runs} == ({"study", "edge/0"} if task == "pendulum" else {"study"})

    summary = json.loads((results / "summary.json").read_text())
    contenders = summary["contenders"]
    assert [contenders[0], *contenders[2:4]] == ["mean", "cvar:0.1", study.AT_ONCE]
    tuned = {row["contender"]: float(row["cvar:0.1"]) for row in read(results / "tuning.csv")}
    for name, chosen in (("gini", contenders[1]), ("variance", contenders[4])):
        assert chosen == max(study.candidates(settings, name), key=tuned.get)
    for contender in contenders:
        values = [float(row["mean"]) for row in runs if row["contender"] == contender and row["part"] == "study"]
        assert summary["study"][contender]["mean"][0] == pytest.approx(np.mean(values), rel=1e-4)
        folders = [study.run_folder(out / "study", contender, seed) for seed in range(2)]
        returns = np.concatenate([study.read_episodes(folder)[0] for folder in folders])
        middle = next(row for row in read(results / "quantiles.csv") if float(row["level"]) == 0.5)
        assert float(middle[contender]) == pytest.approx(np.median(returns), rel=1e-4)
    leads = read(results / "leads.csv")
    ours, theirs = (
        np.array([float(r["mean"]) for r in runs if r["part"] == "study" and r["contender"] == c])
        for c in ("mean", "cvar:0.1")
    )
    lead = next(row for row in leads if row["measure_and_contender"] == "mean" and row["against"] == "cvar:0.1")
    assert float(lead["lead"]) == pytest.approx(np.mean(ours - theirs), abs=0.05)
    assert len([row for row in leads if row["part"] == "study"]) == 5 * 4
    assert len({row["seed"] for row in read(results / "curves.csv")}) == 2
    for name in ("", "_edge") if settings.edge else ("",):
        assert matplotlib.image.imread(images / f"risky_{task}{name}.png").std() > 0.02

    with pytest.raises(SystemExit, match="already holds a run"):
        study.main(arguments)
    before = (results / "runs.csv").read_text()
    study.main([*arguments, "--resume"])
    assert (results / "runs.csv").read_text() == before


def test_every_contender_begins_with_the_start_and_ends_elsewhere(study, tmp_path):
    settings = study.TASKS["lander"]
    study.imitate(settings, tmp_path / "start")
    model = study.build(settings, "cvar:0.1", 0)
    study.load_start(model, tmp_path / "start")
    study.save_start(model, tmp_path / "again")
    first, again = (study.read_checkpoint(tmp_path / name) for name in ("start", "again"))
    assert first[1] == again[1]
    for name, array in first[0].items():
        np.testing.assert_array_equal(array, again[0][name])
    study.run(settings, tmp_path / "start", "cvar:0.1", 0, tmp_path / "run", lambda: False, lambda _: None)
    last, _ = study.read_checkpoint(tmp_path / "run" / study.CHECKPOINT)
    moved = [name for name, array in first[0].items() if (array != last[name]).any()]
    assert len(moved) > len(first[0]) / 2


def test_the_imitation_does_what_the_pilot_does(study, tmp_path):
    from gymnasium.envs.box2d.lunar_lander import heuristic

    settings = replace(study.TASKS["lander"], imitated=20)
    study.imitate(settings, tmp_path / "start")
    model = study.build(settings, "mean", 0)
    study.load_start(model, tmp_path / "start")
    env = study.gym.make(settings.env_id)
    observation, _ = env.reset(seed=1)
    same = []
    for _ in range(100):
        action = heuristic(env.unwrapped, observation)
        normalised = model.get_vec_normalize_env().normalize_obs(observation)
        same.append(int(model.predict(normalised, deterministic=True)[0]) == action)
        observation, _, ended, _, _ = env.step(action)
        if ended:
            break
    assert np.mean(same) > 0.6


def test_a_calm_pendulum_has_neither_bonus_nor_noise(study):
    calm = study.calm_settings(study.TASKS["pendulum"])
    assert (calm.env_args["bonus"], calm.env_args["noise"], calm.steps) == (0.0, 0.0, 400)


def test_a_run_that_is_stopped_is_no_finished_run(study, tmp_path):
    settings = study.TASKS["pendulum"]
    assert not study.run(settings, None, "mean", 0, tmp_path, lambda: True, lambda _: None)
    assert not (tmp_path / study.EVALUATION).exists()
    rows = []
    assert study.run(settings, None, "mean", 0, tmp_path, lambda: False, rows.append)
    assert rows[-1]["step"] == 800
    returns, lengths, risky = study.read_episodes(tmp_path)
    assert len(returns) == settings.episodes
    assert ((risky >= 0) & (risky <= 1)).all()
    assert ((lengths >= 1) & (lengths <= 50)).all()


def test_the_peer_is_the_sampled_gradient_of_mean_and_variance():
    """Tamar et al. (2012), equation for the gradient of the variance, with the batch's own mean, and a baseline."""
    returns = np.random.default_rng(0).standard_t(3, size=40)
    ranking = peer.MeanVarianceRanking(credit="telescoped", unit_scale=False)
    ranking.penalty = 0.3
    a = ranking.advantages(returns)
    score = np.random.default_rng(1).normal(size=(40, 5))  # grad log p of each episode
    score -= score.mean(axis=0)  # then every baseline is the same
    of_mean = (returns[:, None] * score).mean(axis=0)
    of_variance = (returns[:, None] ** 2 * score).mean(axis=0) - 2 * returns.mean() * of_mean
    np.testing.assert_allclose((a[:, None] * score).mean(axis=0), (of_mean - 0.3 * of_variance) * 40 / 39)
    assert a.sum() == pytest.approx(0, abs=1e-12)
    telescoped = ranking.telescoped(np.full(40, returns[0]), returns)
    np.testing.assert_allclose(telescoped, a - a[0])


def test_without_a_penalty_the_peer_is_the_mean():
    returns = np.random.default_rng(0).normal(size=30)
    ours, mean = peer.MeanVarianceRanking(credit="telescoped"), EpisodeRanking("mean", credit="telescoped")
    np.testing.assert_allclose(ours.advantages(returns), mean.advantages(returns))
    steps = returns, returns - 1.0, returns + 2.0
    np.testing.assert_allclose(ours.telescoped(*steps[1:]), mean.telescoped(*steps[1:]))


def test_the_peer_is_what_is_trained_and_annealed(study, tmp_path):
    settings = replace(study.TASKS["pendulum"], annealed=0.5)
    model = study.build(settings, "mean-0.4*variance", 0)
    recorder = study.Recorder(settings, "mean-0.4*variance", tmp_path, lambda: False, lambda _: None)
    model.learn(settings.steps, recorder)
    ranking = model.rollout_buffer.ranking
    assert isinstance(ranking, peer.MeanVarianceRanking)
    assert ranking.penalty == 0.4
    assert ranking.stats["total"] > 0
    assert model.rollout_buffer.stats is ranking.stats
    assert type(study.build(settings, "cvar:0.1", 0).rollout_buffer.ranking) is EpisodeRanking


def test_values_of_contenders(study):
    returns = np.array([1.0, 2.0, 4.0])
    assert study.value_of(returns, "mean-0.5*variance") == pytest.approx(7 / 3 - 0.5 * np.var(returns, ddof=1))
    assert study.value_of(returns, "mean-0.5*gini") == pytest.approx(7 / 3 - 0.5 * 2)


def test_the_ideal_policies_of_the_pendulum(study):
    settings = replace(study.TASKS["pendulum"], env_args={"max_episode_steps": 40, "bonus": 0.5, "freedom": np.inf})
    with pytest.raises(ValueError, match="finite"):
        study.two_extremes(replace(settings, env_args=settings.env_args | {"noise": np.inf}), ("mean",))
    settings = replace(settings, env_args=settings.env_args | {"freedom": 400.0})  # all but normal
    ideal = study.two_extremes(settings, ("mean-gini",), draws=50_000)
    assert [ideal["never"][name] for name in ("mean", "mean-gini")] == pytest.approx([40, 40])
    spread = 10 * 40**0.5
    assert ideal["always"]["mean"] == pytest.approx(60, abs=5 * spread / 50_000**0.5)
    assert ideal["always"]["gini"] == pytest.approx(2 * spread / np.pi**0.5, rel=0.02)
