"""Return Capping's guarded mazes: their rules, the best that is possible, and a small run from start to end."""

import dataclasses
import json

import numpy as np
import pytest
import studies

from ordergrad.envs import guarded_maze as maze

LEFT, RIGHT, DOWN, UP = range(4)
SHORT = [RIGHT] * 5 + [UP]
SAFE = [UP] * 5 + [RIGHT] * 5 + [DOWN] * 4


@pytest.fixture(scope="module")
def study():
    return studies.load("capping_mazes")


@pytest.fixture(scope="module")
def mazes(study):
    from capping import mazes

    return mazes


def walked(mazes, kind, way, count=2000, seed=0):
    """Return the returns and last infos of episodes that go one way."""
    env = mazes.Mazes(kind, count)
    env.seed(seed)
    obs = env.reset()
    total = np.zeros(count)
    assert (obs[:, 1 * 8 + 1] == 1).all()
    assert (obs[:, -1] == 0).all()
    for action in way:
        obs, rewards, over, infos = env.step(np.full(count, action))
        total += rewards
        if not over.any():
            np.testing.assert_allclose(obs[:, -1] * mazes.SCALE, total, rtol=1e-5)
    return total, over, infos


def test_the_short_way_through_the_grid_pays_a_normal_number_and_the_safe_way_does_not(mazes):
    total, over, infos = walked(mazes, "grid", SHORT)
    assert over.all()
    assert infos[0]["reached"]
    assert not infos[0]["safe"]
    assert total.mean() == pytest.approx(4, abs=3)
    assert total.std() == pytest.approx(30, rel=0.1)
    total, over, infos = walked(mazes, "grid", SAFE)
    assert over.all()
    assert infos[0]["safe"]
    assert (total == -4).all()


def test_every_visit_of_the_guarded_cell_pays_and_a_step_against_a_wall_does_not(mazes):
    total, *_ = walked(mazes, "grid", [RIGHT] * 4 + [LEFT, RIGHT, DOWN, DOWN])
    assert total.mean() == pytest.approx(-8, abs=4)
    assert total.std() == pytest.approx(30 * np.sqrt(2), rel=0.1)


def test_the_grid_has_one_wall_more_than_the_maze(mazes):
    total, over, _ = walked(mazes, "grid", [UP] * 3 + [RIGHT, UP, UP])  # (2, 5) stops it at (2, 4)
    assert (total == -6).all()
    assert not over.any()
    assert (mazes.GRID_WALLS ^ maze.WALLS).sum() == 1


def test_steps_beyond_32_are_free_unless_they_are_charged(mazes):
    wait = [LEFT] * 160
    for kind, expected in (("maze", -32), ("charged", -160)):
        total, over, infos = walked(mazes, kind, wait, count=50)
        assert over.all()
        assert not infos[0]["reached"]
        assert (total == expected).all()
    total, over, _ = walked(mazes, "grid", [LEFT] * 500, count=5)
    assert over.all()
    assert (total == -32).all()


def test_a_guard_is_there_in_a_twentieth_of_the_episodes_and_costs_64_once(mazes):
    env = mazes.Mazes("maze", 20_000)
    env.seed(0)
    env.reset()
    assert env.episodes.guard.mean() == pytest.approx(0.05, abs=0.005)
    env.episodes.position[:] = (4, 1)
    guard, total = env.episodes.guard.copy(), np.zeros(20_000)
    for action in (RIGHT, LEFT, RIGHT):
        _, rewards, _, _ = env.step(np.full(20_000, action))
        total += rewards
    seen = total < -32
    assert (total[seen] == -67).mean() > 0.95  # a few reach the goal
    assert total.min() == -67
    assert not seen[~guard].any()
    assert seen[guard].mean() > 0.95


def test_sampled_guards_have_their_weights(mazes, study):
    sampler = study.ConditionSampler(study.Bernoulli(0.05), seed=0, tail=0.05, elite=0.05, every=400)
    env = mazes.Mazes("maze", 500, sampler)
    env.seed(0)
    env.reset()
    rng, weight, guard = np.random.default_rng(0), [], []
    for _ in range(600):
        before = env.episodes.guard.copy()
        _, _, over, infos = env.step(rng.integers(4, size=500))
        weight += [infos[i]["ordergrad_weight"] for i in np.flatnonzero(over)]
        guard += before[over].tolist()
    weight, guard = np.array(weight), np.array(guard)
    assert sampler.updates > 2
    assert weight.mean() == pytest.approx(1, abs=0.1)
    assert (weight * guard).mean() == pytest.approx(0.05, abs=0.02)


def test_what_is_possible_is_attained_and_not_surpassed(mazes):
    assert mazes.best_values("grid", 0.2) == (-4, 4)
    coarse = mazes.best_values("maze", 0.05, 5)
    assert coarse == pytest.approx((-5.2, 6.8), abs=0.5)
    assert mazes.best_values("charged", 0.05, 5)[0] <= coarse[0] + 1e-9
    assert mazes.best_values("maze", 1.0, 5)[0] == pytest.approx(coarse[1])


def test_the_published_curve_begins_where_every_step_is_charged(study):
    found = {kind: study.at_random(kind, 1000) for kind in ("maze", "charged")}
    assert found["maze"]["worst"] >= -96
    assert found["charged"]["cvar:0.05"] == pytest.approx(-180, abs=12)


@pytest.mark.filterwarnings("ignore:every advantage was zero")
def test_floored_quantiles_stay_at_the_number_and_others_begin_below(study):
    from capping.contenders import build

    task = dataclasses.replace(study.TASKS["grid"], epochs=1)
    lowest = {}
    for method in ("capped", "floored"):
        model = build(task, study.Mazes("grid", 64), method, "cvar:0.2", 0)
        model.learn(10_000)
        lowest[method] = model.rollout_buffer.ranking._quantiles.min()
    assert lowest["capped"] < study.MINIMUM == lowest["floored"]


def test_a_small_run_is_resumed_and_reported(study, tmp_path, monkeypatch):
    monkeypatch.setattr("capping.contenders.POINTS", 2)
    monkeypatch.setattr(study, "SETTINGS", {"plain": {}, "entropy": {"entropy": 0.01}})
    monkeypatch.setattr(study, "TUNED", ("capping",))
    for env in ("grid", "maze"):
        monkeypatch.setitem(study.TASKS, env, dataclasses.replace(study.TASKS[env], steps=25_000, fresh=100, epochs=1))
    monkeypatch.setattr(study, "best_possible", lambda env, objective: -5.2)
    monkeypatch.setattr(study, "LIMITS", {"maze": 160})
    arguments = ["--out", str(tmp_path), "--jobs", "1", "--tasks", "maze"]
    study.main([*arguments, "--seeds", "1", "--methods", "at once", "cesor"])
    study.main([*arguments, "--seeds", "2", "--methods", "at once", "--resume"])
    records = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [(r["method"], r["seed"]) for r in records] == [("at once", 0), ("cesor", 0), ("at once", 1)]
    tried = studies.read(tmp_path / "tuning.csv")
    assert [row["settings"] for row in tried] == ["plain", "entropy"]
    rows = {r["method"]: r for r in studies.read(tmp_path / "contenders.csv")}
    assert (rows["at once"]["seeds"], rows["cesor"]["seeds"]) == ("2", "1")
    assert float(rows["at once"]["best possible"]) == -5.2
    assert {r["against"] for r in studies.read(tmp_path / "leads.csv")} == {"cesor"}
    assert (tmp_path / "capping_mazes.png").stat().st_size > 5_000
    study.main([*arguments, "--resume", "--finished"])


def test_seeds_are_counted_by_their_way(study):
    shares = [(1.0, 1.0), (0.6, 0.9), (0.1, 0.9), (0.0, 0.2)]
    records = [{"env": "grid", "method": "mean", "safe": safe, "reached": reached} for safe, reached in shares]
    records.append({"env": "maze", "method": "mean", "safe": 1.0, "reached": 1.0})
    found = study.ways(records, {"env": "grid", "method": "mean", "cvar:0.2": -9.0})
    assert found == {"value": -9.0, "safe seeds": 2, "short seeds": 1, "stuck seeds": 1}


def test_contenders_have_their_own_best_settings(study):
    found = {"capping": (-9, -5), "falling": (-3, -5), "capped": (-7, -8), "at once": (-60, -30)}
    tried = [
        {"method": method, "settings": settings, "cvar:0.2": value}
        for method, values in found.items()
        for settings, value in zip(("plain", "slow"), values, strict=True)
    ]
    chosen = study.choose(tried)
    assert (chosen["capping"], chosen["falling"], chosen["mean"]) == ("slow", "plain", "slow")
    assert (chosen["capped"], chosen["floored"], chosen["jumping"]) == ("plain", "plain", "slow")


def test_the_tables_follow_from_the_runs(study):
    folder = studies.FOLDER / "results" / "capping_mazes"
    lines = {name: (folder / f"{name}.jsonl").read_text().splitlines() for name in ("tuning", "runs")}
    tried, records = ([json.loads(line) for line in found] for found in lines.values())
    chosen = study.choose(tried)
    assert {(r["settings"], r["seed"]) for r in tried} == {(name, study.TUNED_ON) for name in study.SETTINGS}
    assert not any(r["seed"] == study.TUNED_ON for r in records)
    records = [r for r in records if r["settings"] == chosen[r["method"]]]
    expected = studies.read(folder / "contenders.csv")
    rows = study.table(records, study.TASKS, lambda env, objective: 0.0)
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        row = row | study.ways(records, row)
        for column in (
            "seeds",
            "mean",
            "cvar:0.2",
            "cvar:0.05",
            "low",
            "high",
            "safe seeds",
            "short seeds",
            "stuck seeds",
        ):
            assert float(other[column]) == pytest.approx(row[column], rel=1e-3, abs=1e-3)
