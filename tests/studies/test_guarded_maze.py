"""The study of the guarded maze: its loop, its cells, and its bound."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from studies import load, read

from ordergrad.envs import guarded_maze

UP, RIGHT = 3, 1


@pytest.fixture(scope="module")
def script():
    return load("guarded_maze")


@pytest.fixture(scope="module")
def loop(script):
    from maze import loop

    return loop


@pytest.fixture(scope="module")
def tiny(loop):
    return loop.Settings(updates=3, episodes=40, test_episodes=60)


def up_then_right(position, policy, uniform):
    return np.where(position[:, 1] < 5.5, UP, RIGHT)


def test_episodes_end_at_the_goal_or_the_time_limit(loop):
    (played,) = loop.play(up_then_right, [np.zeros(7, bool)], [np.random.default_rng(0)])
    assert len(played.position) == len(played.action) == len(played.episode)
    assert np.bincount(played.episode).max() <= loop.TIME_LIMIT
    assert (played.returns[~played.reached] == -32).all()


def test_a_batch_does_not_depend_on_what_is_played_beside_it(loop):
    policies = [loop.Policy(8, np.random.default_rng(seed)) for seed in range(3)]
    guards = [np.random.default_rng(seed).random(20 + seed) < 0.5 for seed in range(3)]
    together = loop.play(loop.acting(policies), guards, [np.random.default_rng(seed) for seed in range(3)])
    (alone,) = loop.play(loop.acting(policies[1:2]), guards[1:2], [np.random.default_rng(1)])
    for name, value in vars(alone).items():
        np.testing.assert_array_equal(vars(together[1])[name], value)


@pytest.mark.parametrize("guards", [0.5, None])
@pytest.mark.parametrize("objective", ["mean", "cvar", "annealed", "gcvar", "cesor"])
def test_a_policy_does_not_depend_on_the_seeds_trained_beside_it(loop, tiny, objective, guards):
    settings = replace(tiny, objective=objective, guards=guards)
    several, (alone,) = loop.train(settings, [3, 4]), loop.train(settings, [4])
    np.testing.assert_array_equal(several[1].policy.parameters, alone.policy.parameters)
    assert (several[0].policy.parameters != alone.policy.parameters).any()
    assert np.isfinite(alone.policy.parameters).all()


def test_the_gradient_is_that_of_autograd(loop):
    rng = np.random.default_rng(0)
    policy = loop.Policy(32, rng)
    seen, action = loop.look(rng.uniform(1, 6, (50, 2))), rng.integers(0, 4, 50)
    weight = rng.normal(size=50).astype(np.float32)
    layers = [torch.tensor(layer, dtype=torch.float64, requires_grad=True) for layer in policy.layers]
    hidden = torch.tensor(seen, dtype=torch.float64)
    for layer in layers[:-1]:
        hidden = torch.tanh(hidden @ layer[:-1] + layer[-1])
    log_p = torch.log_softmax(hidden @ layers[-1][:-1] + layers[-1][-1], dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
    ((torch.tensor(weight) * log_p[range(50), action]).sum() + 0.3 * entropy).backward()
    wanted = np.concatenate([layer.grad.numpy().ravel() for layer in layers])
    np.testing.assert_allclose(policy.gradient(seen, action, weight, 0.3), wanted, atol=1e-5)


def test_the_step_is_that_of_adam(loop):
    rng, parameter = np.random.default_rng(0), torch.zeros(5, dtype=torch.float64, requires_grad=True)
    ours, theirs = loop.Adam(5), torch.optim.Adam([parameter], lr=0.1, maximize=True)
    moved = np.zeros(5)
    for _ in range(4):
        gradient = rng.normal(size=5)
        moved += ours.step(gradient, 0.1)
        parameter.grad = torch.tensor(gradient)
        theirs.step()
    np.testing.assert_allclose(moved, parameter.detach().numpy(), rtol=1e-6)


def test_gcvar_is_the_shortfall_of_the_tail(loop):
    returns = np.arange(100.0)[::-1]
    advantage = loop.gcvar_advantages(returns, np.ones(100))
    assert (advantage[:-4] == 0).all()
    np.testing.assert_allclose(advantage[-4:], [-20, -40, -60, -80])
    doubled = loop.gcvar_advantages(np.arange(3.0), np.array([0.02, 0.04, 0.94]))
    np.testing.assert_allclose(doubled, [-20, 0, 0])


def test_the_level_of_cesor_falls_from_all_episodes_to_the_tail(loop):
    returns, ones = np.arange(100.0), np.ones(100)
    np.testing.assert_allclose(loop.advantages(returns, "cesor", 0.0, 0.0, ones), returns - 99)
    half = loop.advantages(returns, "cesor", 0.4, 0.6, ones)  # level 0.525
    np.testing.assert_allclose(half, np.minimum(returns - 52, 0) / 0.525)
    for done in (0.8, 0.99):
        got = loop.advantages(returns, "cesor", done, 1.0, ones)
        np.testing.assert_allclose(got, loop.gcvar_advantages(returns, ones))


def test_a_policy_that_never_arrives_is_given_up(loop, tiny, monkeypatch):
    played = []
    monkeypatch.setattr(loop.maze, "GOAL", (0, 0))  # in a wall
    learners = loop.train(replace(tiny, updates=9, patience=4), [0, 1], played.append)
    assert played == [1, 2, 3, 4]
    assert all(learner.given_up for learner in learners)


def test_weights_are_one_for_guards_that_were_never_met(loop):
    guard, ratio = loop.draw_guards(1000, 0.8, None, np.random.default_rng(0))
    np.testing.assert_allclose(ratio, np.where(guard, 0.25, 4))
    ratio, touched = np.array([0.25, 0.25, 4, 4]), np.array([True, False, True, False])
    for weights, t, power in [("full", 0.3, 1), ("tempered", 0.0, 0), ("tempered", 0.5, 0.5), ("none", 0.7, 0)]:
        wanted = np.array([0.25, 1, 4, 1]) ** power
        np.testing.assert_allclose(loop.importance_weights(ratio, touched, weights, t), wanted)
    np.testing.assert_array_equal(loop.importance_weights(ratio, touched, "likelihood", 0.1), ratio)


def test_cross_entropy_samples_guards_of_the_worst_episodes(loop):
    sampler, rng = loop.make_sampler(None, 400, 0), np.random.default_rng(0)
    assert loop.make_sampler(0.5, 400, 0) is None
    guard, ratio = loop.draw_guards(400, None, sampler, rng)
    assert 40 < guard.sum() < 120
    assert (ratio == 1).all()
    sampler.report(guard, ratio, np.where(guard, -40.0, 0.0))
    guard, ratio = loop.draw_guards(400, None, sampler, rng)
    assert guard.mean() > 0.7
    np.testing.assert_allclose(ratio[guard], 0.2 / (0.2 * 0.2 + 0.8))


def cell_of(objective, safe, cvar, **settings):
    runs = [
        {"seed": i, "safe": s, "touched": 1 - s, "reached": 1.0, "mean": 2.0, "cvar": c}
        for i, (s, c) in enumerate(zip(safe, cvar, strict=True))
    ]
    return {"objective": objective, "guards": 0.5, "weights": "none", "steady": True, **settings, "runs": runs}


def test_settings_are_chosen_by_safe_seeds_then_cvar(script):
    records = []
    for objective in script.TUNED:
        for setting, safe, cvar in zip(
            script.TUNING, [(0, 1), (1, 1), (1, 1), (0, 0)], [(0, 0), (-6, -6), (-5, -5), (9, 9)], strict=True
        ):
            records.append(cell_of(objective, safe, cvar, **setting))
    assert script.choose(records) == dict.fromkeys(script.TUNED, script.TUNING[2])


def test_every_cell_is_run_once(script):
    cells = script.study_cells(dict.fromkeys(script.TUNED, script.TUNING[0]))
    assert len({json.dumps(cell, sort_keys=True) for cell in cells}) == len(cells) == 4 * (6 + 5) + 1 + 3
    assert not set(script.SEEDS) & set(script.TUNING_SEEDS)


def test_summary_counts_ways_and_keeps_intervals_in_range(script):
    summary = script.summarise(cell_of("mean", (1, 1, 0, 0), (-5, -6, -66, -67)))
    assert summary["ways"] == {"safe": 2, "guarded": 2, "mixed": 0, "stuck": 0}
    share, low, high = summary["safe_seeds"]
    assert 0 < low < share == 0.5 < high < 1
    tail, low, high = summary["cvar"]
    assert -67 <= low < tail == -36 < high <= -5


def test_a_small_study_writes_its_results_and_resumes(script, tiny, tmp_path, monkeypatch):
    cells = [{"objective": o, "guards": 0.5, "weights": "tempered"} for o in ("mean", "annealed")]
    monkeypatch.setattr(script, "Settings", lambda: tiny)
    monkeypatch.setattr(script, "SEEDS", range(2))
    monkeypatch.setattr(script, "draw_policies", partial(script.draw_policies, episodes=500))
    monkeypatch.setattr(guarded_maze, "GuardedMaze", partial(guarded_maze.GuardedMaze, max_episode_steps=5))
    monkeypatch.setattr(script, "TUNING_SEEDS", range(100, 101))
    monkeypatch.setattr(script, "study_cells", lambda chosen: [cell | chosen[cell["objective"]] for cell in cells])
    arguments = ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "results"), "--jobs", "1"]
    arguments += ["--images", str(tmp_path / "images")]
    script.main(arguments)
    rows = read(tmp_path / "results" / "runs.csv")
    assert [(row["objective"], row["seed"]) for row in rows] == [
        ("mean", "0"),
        ("mean", "1"),
        ("annealed", "0"),
        ("annealed", "1"),
    ]
    assert len(read(tmp_path / "results" / "tuning.csv")) == len(script.TUNING) * len(script.TUNED)
    summary = json.loads((tmp_path / "results" / "summary.json").read_text())
    assert summary["cells"][0]["mean"][0] == pytest.approx(np.mean([float(row["mean"]) for row in rows[:2]]), abs=1e-3)
    for name in ("guarded_maze_factorial.png", "guarded_maze.png", "guarded_maze.gif"):
        assert (tmp_path / "images" / name).stat().st_size > 10_000

    with pytest.raises(SystemExit):
        script.main(arguments)
    monkeypatch.setattr(script, "train_cell", None)  # nothing is trained anew
    script.main([*arguments, "--resume"])
    assert read(tmp_path / "results" / "runs.csv") == rows


def test_bound_on_a_coarse_grid(script):
    from maze import bound

    grid = bound.make_grid(3)
    for quiet, touching in zip(grid.quiet, grid.touching, strict=True):
        np.testing.assert_allclose((quiet + touching).sum(axis=1), 1)
    mean = bound.best_mean(grid)
    tail, threshold = bound.best_tail(grid, thresholds=range(-4, 1))
    assert 2 < mean < 6
    assert -8 < tail < threshold <= 0
    assert bound.best_tail(grid, level=1.0, thresholds=range(14, 17))[0] == pytest.approx(mean, abs=1e-9)
