"""The benchmark of Return Capping: its peers, and a small run from start to end."""

import json

import numpy as np
import pytest
import studies
import torch


@pytest.fixture(scope="module")
def study():
    return studies.load("return_capping")


def trained(study, method, objective="cvar:0.2", steps=8192 * 3):
    """Return a model with the batches that it was trained on: kept buffers of one update each."""
    from capping import contenders

    torch.set_num_threads(1)
    model, kept = contenders.build(study.FIRST, study.make_envs("bets", 256, 0), method, objective, 0), []
    train = model.train

    def keep():
        buffer = model.rollout_buffer
        kept.append((buffer.observations.copy(), buffer.advantages.copy(), buffer.returns.copy(), buffer.ended.copy()))
        train()

    model.train = keep
    model.learn(steps)
    return model, kept


def test_games_are_played_as_stable_baselines3_wants_them(study):
    env = study.make_envs("bets", 64, 0)
    obs = env.reset()
    total, rng = np.zeros(64), np.random.default_rng(0)
    for _ in range(60):
        obs, rewards, over, infos = env.step(rng.integers(9, size=64))
        total += rewards
        for i in range(64):
            assert ("terminal_observation" in infos[i]) == over[i]
            wealth = infos[i]["terminal_observation"][0] if over[i] else obs[i, 0]
            assert wealth * 256 - 16 == pytest.approx(total[i], abs=1e-4)
        total[over] = 0.0
        assert (obs[over] == [16 / 256, 0]).all()


def test_discarding_trains_on_the_worst_fifth_of_the_episodes(study):
    _, kept = trained(study, "discard", steps=8192)
    (obs, _, _, ended), full = kept[0], 8192
    worst = int(np.sum(ended <= np.quantile(ended, 0.2)))
    starts = int(np.sum(obs[:, 1] == 0))
    assert starts == worst
    assert len(obs) < 0.6 * full


def test_the_policy_gradient_of_the_worst_fifth_has_returns_less_the_quantile(study):
    model, kept = trained(study, "reinforce", steps=8192)
    _, a, _, ended = kept[0]
    a = a * model.rollout_buffer.ranking.unit
    expected = np.minimum(ended - np.quantile(ended, 0.2), 0) / 0.2
    assert np.unique(a.round(2)) == pytest.approx(np.unique(expected.round(2)), abs=0.02)
    assert model.n_epochs == 1


def test_capping_follows_the_quantile_and_pays_nothing_above_the_cap(study):
    model, kept = trained(study, "capping")
    buffer, cap = model.rollout_buffer, -16.0
    for *_, ended in kept:
        cap = max(-16.0, cap + 0.2 * (np.quantile(ended, 0.2) - cap))
    assert buffer.cap == pytest.approx(cap)
    unit = buffer.ranking.unit
    assert unit == buffer.stats["scale"]  # the slope is 1
    x = np.array([-16.0, cap - 1, cap, cap + 1, 240.0])
    got = buffer.ranking.telescoped(np.full(5, -16.0), x) * unit
    np.testing.assert_allclose(got, np.minimum(x, cap) + 16)


def test_a_small_run_is_resumed_and_reported(study, tmp_path, monkeypatch):
    monkeypatch.setattr("capping.contenders.POINTS", 2)
    arguments = ["--out", str(tmp_path), "--shorten", "50", "--jobs", "1", "--tasks", "bets"]
    study.main([*arguments, "--seeds", "1", "--objectives", "cvar:0.2"])
    study.main(
        [*arguments, "--seeds", "2", "--methods", "at once", "mean", "--objectives", "cvar:0.2", "mean", "--resume"]
    )
    records = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    runs = [(r["method"], r["objective"], r["seed"]) for r in records]
    assert len(runs) == len(set(runs)) == 5 + 3
    rows = studies.read(tmp_path / "contenders.csv")
    by_method = {r["method"]: r for r in rows}
    assert by_method["at once"]["seeds"] == "2"
    assert float(by_method["at once"]["best possible"]) == pytest.approx(23.883, abs=1e-3)
    ours = [r for r in records if r["method"] == "at once"]
    assert float(by_method["at once"]["cvar:0.2"]) == pytest.approx(np.mean([r["cvar:0.2"] for r in ours]), abs=1e-3)
    assert (tmp_path / "return_capping.png").stat().st_size > 10_000
    study.main([*arguments, "--resume", "--finished"])


def test_a_cap_above_the_quantile_costs_little_and_a_slope_above_it_much(study):
    rows = study.caps()
    cap = {r["number"]: r["cvar:0.2"] for r in rows if r["utility"] == "cap"}
    floor = {r["number"]: r["cvar:0.2"] for r in rows if r["utility"] == "floor"}
    assert cap[34] == pytest.approx(23.88, abs=0.01)
    assert min(cap[c] for c in (34, 48, 64, 80)) > 20
    assert cap[240] == -16.0
    assert max(v for s, v in floor.items() if s >= 0.05) < 17


def test_the_lander_shows_the_return_so_far(study):
    env = study.make_envs("lander", 2, 0)
    env.reset()
    obs, rewards, _, _ = env.step(np.array([0, 2]))
    np.testing.assert_allclose(obs[:, -1] * 256, rewards, rtol=1e-4)


def test_the_tables_follow_from_the_runs(study):
    folder = studies.FOLDER / "results" / "return_capping"
    records = study.finished_runs(folder)
    for rows, name in (
        (study.table(records, study.TASKS, study.best_possible), "contenders"),
        (study.others(records), "others"),
    ):
        expected = studies.read(folder / f"{name}.csv")
        assert len(rows) == len(expected)
        for row, other in zip(rows, expected, strict=True):
            for column, value in row.items():
                if isinstance(value, float):
                    assert float(other[column]) == pytest.approx(value, rel=1e-3, abs=1e-3, nan_ok=True)


def test_the_best_policies_have_their_values_beside_other_objectives(study):
    quantiles = [float(q) for q in np.repeat([-16.0, 100.0], 50)]
    shared = {"env": "bets", "seed": 0, "quantiles": quantiles}
    records = [{"method": "mean", "objective": "mean"} | shared, {"method": "at once", "objective": "var:0.2"} | shared]
    records[1]["own"] = 90.0
    (row,) = study.others(records)
    assert (row["ours"], row["mean"], row["value"], row["best possible"]) == (90.0, -16.0, 106.0, 112.0)


def test_every_contender_has_the_settings_that_were_best_on_other_seeds(study):
    tried = studies.read(studies.FOLDER / "results" / "return_capping" / "tuning.csv")
    tried = [row | {"cvar:0.2": float(row["cvar:0.2"])} for row in tried]
    for env, method, settings, _ in study.best_settings(tried):
        mine = [row for row in tried if (row["env"], row["method"]) == (env, method)]
        assert {(row["settings"], row["seed"]) for row in mine} == {
            (name, str(seed)) for name in study.SETTINGS[env] for seed in study.TUNED_ON
        }
        assert not set(study.TUNED_ON) & set(range(study.Options().seeds))
        assert study.CHOSEN[env][method] == settings


def test_the_best_settings_have_the_best_mean_over_seeds(study):
    tails = {("a", 1): 3.0, ("a", 2): 0.0, ("b", 1): 1.0, ("b", 2): 2.5}
    tried = [
        {"env": "bets", "method": "mean", "settings": name, "seed": seed, "cvar:0.2": tail}
        for (name, seed), tail in tails.items()
    ]
    assert study.best_settings(tried) == [("bets", "mean", "b", 1.75)]


def test_tuning_tries_every_candidate_with_every_contender(study, tmp_path):
    arguments = ["--out", str(tmp_path), "--shorten", "100", "--jobs", "1", "--tune", "--tasks", "bets"]
    study.main([*arguments, "--methods", "mean", "at once"])
    rows = studies.read(tmp_path / "tuning.csv")
    assert len(rows) == len(study.GAME_SETTINGS) * len(study.TUNED_ON) * 2


def test_the_log_of_the_published_code_is_read(study):
    published = studies.load("capping_published")
    line = "[DEBUG] - {'num_env_steps': 3000, 'num_env_eps': 518, 'CVaR/CVaR: 0.05': np.float64(-16.0), "
    line += "'CVaR/CVaR: 0.2': np.float64(-1e-05), 'CVaR/CVaR: 1.0': 88.25, 'Policy/Return Cap': np.float64(0.5)}"
    (row,) = published.batches(f"[INFO] - 3000/6000\n{line}\n")
    assert row == {"steps": 3000, "episodes": 518, "cvar:0.2": -1e-05, "cvar:0.05": -16, "mean": 88.25, "cap": 0.5}
    assert published.best_possible(0.88) == pytest.approx(study.best_possible("bets", "cvar:0.2"))
    assert published.best_possible(0.8) == pytest.approx(6.892, abs=1e-3)
