"""The candidates for a better tail: what their critics learn, and a small run from start to end."""

import numpy as np
import pytest
import studies
import torch


@pytest.fixture(scope="module")
def study():
    return studies.load("tail_candidates")


def collected(study, name, rollouts=1):
    """Return a model after its last rollout, with the steps of that rollout in order."""
    torch.set_num_threads(1)
    model = study.build(study.CANDIDATES[name], study.make_envs("bets", 256, 0), 0)
    buffer, kept = model.rollout_buffer, {}
    gae = buffer._gae

    def keep(rewards, last_values):
        kept.update(buffer._stretch, rewards=rewards)
        kept["advantages"], kept["targets"] = gae(rewards, last_values)
        kept["values"] = buffer._stretch["values"]
        return kept["advantages"], kept["targets"]

    buffer._gae = keep
    model.learn(8192 * rollouts)
    return model, kept


def test_the_loss_is_least_at_the_quantiles(study):
    rng, levels = np.random.default_rng(0), study.LEVELS
    sample = torch.tensor(rng.exponential(size=(400, study.QUANTILES)))
    right = torch.quantile(sample.flatten(), torch.tensor(levels)).repeat(400, 1)
    least = study.quantile_loss(right, sample)
    for place in (0, 10, 31):
        for step in (-0.2, 0.2):
            other = right.clone()
            other[:, place] += step
            assert study.quantile_loss(other, sample) > least
    apart = sample.numpy()[:, None, :] - right.numpy()[:, :, None]
    pinball = np.maximum(levels[:, None] * apart, (levels[:, None] - 1) * apart).mean()
    assert float(least) == pytest.approx(pinball)


def test_targets_are_the_return_that_is_left(study):
    model, kept = collected(study, "quantiles of returns")
    total = np.full(kept["gains"].shape, np.nan)
    for game in range(256):
        for end in np.flatnonzero(kept["ends"][:, game]):
            total[kept["episode"][:, game] == kept["episode"][end, game], game] = kept["total"][end, game]
    ended = ~np.isnan(total)
    assert 0.8 < ended.mean() < 1
    targets = kept["targets"] * study.UNIT
    expected = np.repeat((total - kept["before"])[ended][:, None], study.QUANTILES, axis=1)
    np.testing.assert_allclose(targets[ended], expected, atol=1e-3)
    going_on = ~kept["ends"][-1]
    last = model.policy.last * study.UNIT + kept["gains"][-1][:, None]
    np.testing.assert_allclose(targets[-1][going_on], last[going_on], rtol=1e-4)


def test_the_value_is_the_mean_of_f_over_the_quantiles(study):
    model, kept = collected(study, "quantiles of returns")
    ranking, before, seen = model.rollout_buffer.ranking, kept["before"], kept["seen"] * study.UNIT
    for t, game in ((0, 0), (7, 3), (31, 255)):
        c = before[t, game]
        worth = ranking.telescoped(np.full(study.QUANTILES, c), c + seen[t, game]).mean()
        assert kept["values"][t, game] == pytest.approx(worth)


def test_targets_of_f_are_what_is_left_of_it(study):
    _, kept = collected(study, "quantiles of f")
    t, game = next((t, g) for g in range(256) for t in range(20) if kept["starts"][t, g] and kept["ends"][t + 5, g])
    assert kept["targets"][t, game] == pytest.approx(kept["rewards"][t : t + 6, game].sum() * np.ones(study.QUANTILES))
    np.testing.assert_allclose(kept["values"], kept["seen"].mean(axis=-1), rtol=1e-4, atol=1e-5)


def test_the_quantile_gradient_pays_for_reaching_the_quantile(study):
    model, _ = collected(study, "quantile term")
    buffer, steps = model.rollout_buffer, 2
    games = buffer.n_envs
    quantiles = np.tile(np.linspace(-10, 10, study.QUANTILES), (steps, games, 1))
    left = np.zeros_like(quantiles)
    left[:, : games // 2] = -100.0  # one half of the episodes falls short
    buffer._stretch = {"starts": np.array([[True] * games, [False] * games]), "gains": np.zeros((steps, games))}
    a = buffer._quantile_gradient(left, quantiles)
    levels = a[0, games // 2 :]
    assert ((levels > 0) & (levels < 0.2)).all()
    assert 0.08 < levels.mean() < 0.12
    assert (a[0, : games // 2] < -0.8).all()
    np.testing.assert_allclose(a[1], a[0], atol=0.02)  # nothing was gained: the level is as it was
    buffer._stretch["gains"][:] = 3.0  # less is left to get, at a lower level
    assert (buffer._quantile_gradient(left, quantiles)[1, games // 2 :] < 0.12).all()


def test_a_small_run_is_resumed_and_reported(study, tmp_path):
    arguments = ["--out", str(tmp_path), "--jobs", "1", "--steps", "8192", "--episodes", "100"]
    study.main([*arguments, "--seeds", "1", "--contenders", "quantile term", "small groups, pool"])
    study.main([*arguments, "--seeds", "2", "--contenders", "quantile term", "--resume"])
    runs = studies.read(tmp_path / "runs.csv")
    assert [(r["contender"], r["seed"]) for r in runs] == [
        (name, str(seed)) for seed in (100, 101) for name in ("ours", "quantile term")
    ]
    ours, term = studies.read(tmp_path / "candidates.csv")
    values = {
        name: np.mean([float(r["cvar:0.2"]) for r in runs if r["contender"] == name])
        for name in ("ours", "quantile term")
    }
    assert float(term["cvar:0.2"]) == pytest.approx(values["quantile term"], abs=1e-3)
    assert float(term["ahead"]) == pytest.approx(values["quantile term"] - values["ours"], abs=1e-2)
    assert float(ours["ahead"]) == 0


def test_every_candidate_differs_from_ours(study):
    assert len(set(study.CANDIDATES.values())) == len(study.CANDIDATES)
    assert 4 * 1000 < study.CANDIDATES["pool of 4"].pool < study.CANDIDATES["pool of 16"].pool


def test_the_quantile_gradient_does_not_rest_at_the_best_policy(study):
    assert study.limit_of_quantile_gradient() == pytest.approx(22.6, abs=0.05)
    assert study.limit_of_quantile_gradient(0) == pytest.approx(23.88, abs=0.01)
