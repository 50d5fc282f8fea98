"""The study of the hopper: its bodies, and a small run from start to end."""

import numpy as np
import pytest
import studies

pytest.importorskip("mujoco")
pytestmark = pytest.mark.filterwarnings("ignore:.*mini-batch size.*:UserWarning")


@pytest.fixture(scope="module")
def study():
    return studies.load("hopper")


def test_every_episode_has_its_own_body(study):
    env = study.UnknownBody(study.gym.make("Hopper-v5"))
    mass, friction = env.own[0].copy(), env.own[2].copy()
    model = env.unwrapped.model
    loads = []
    for seed in (0, None, None, 0):
        _, info = env.reset(seed=seed)
        loads.append(info["load"])
        np.testing.assert_allclose(model.body_mass, mass * info["load"])
        np.testing.assert_allclose(model.geom_friction[:, 0], friction * info["grip"])
        assert 0.4 <= info["grip"] <= 1
        assert env.step(env.action_space.sample())[4]["load"] == info["load"]
    assert loads[0] == loads[3] != loads[1] != loads[2]


def test_the_fresh_episodes_are_equally_many_of_every_environment(study):
    env = study.VecNormalize(study.make_envs(2, 0), norm_reward=False)
    env.reset()
    model = study.build("mean", env, 0)
    returns, lengths, conditions = study.fresh(model, env, 40, 5)
    assert len(returns) == len(lengths) == len(conditions) == 60
    assert len(np.unique(conditions[:, 0])) == 60


def test_a_small_run_is_resumed_and_reported(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "SETTINGS", study.SETTINGS | {"envs": 4, "rollout": 64, "epochs": 1})
    arguments = ["--out", str(tmp_path), "--jobs", "1", "--steps", "1024", "--episodes", "30"]
    study.main([*arguments, "--seeds", "1"])
    study.main([*arguments, "--seeds", "2", "--resume"])
    runs = studies.read(tmp_path / "runs.csv")
    assert len(runs) == 2 * 5
    assert [r["contender"] for r in runs[:3]] == list(study.FIXED)
    assert len({r["mean"] for r in runs}) > 5
    (row,) = (
        r for r in studies.read(tmp_path / "contenders.csv") if r["contender"] == "mean" and r["measure"] == "cvar:0.1"
    )
    values = [float(r["cvar:0.1"]) for r in runs if r["contender"] == "mean"]
    assert float(row["value"]) == pytest.approx(np.mean(values), rel=1e-3)
    tuned = {r["contender"]: float(r["cvar:0.1"]) for r in studies.read(tmp_path / "tuning.csv")}
    for name in study.WEIGHTS:
        best = max(study.candidates(name), key=tuned.get)
        assert best in {r["contender"] for r in runs}
    assert (tmp_path / "hopper.png").stat().st_size > 10_000
