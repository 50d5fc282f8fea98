"""The mean first, then a cap that falls by itself."""

import numpy as np
import pytest

import ordergrad as og
from ordergrad.adapters.episodes import EpisodeRanking


def test_the_mean_is_left_when_it_lowers_the_objective_and_the_cap_falls_while_that_holds():
    rng = np.random.default_rng(0)
    ranking = EpisodeRanking("cvar:0.2", "telescoped", pool=100, cap="falling")

    def play(mean, spread):
        ranking.advantages(rng.normal(mean, spread, size=100))
        return ranking.stats["level"]

    for update in range(4):
        assert play(update, 1.0) == 1.0
    assert play(10.0, 8.0) == play(10.0, 8.0) == 1.0  # a better mean, a worse tail, for a while
    levels = [play(10.0, 8.0) for _ in range(3)]
    assert next(share for share in levels if share < 1) == pytest.approx(0.5, abs=0.1)  # the cap is the mean
    falling = [play(10.0, 0.5) for _ in range(20)]
    assert ranking._approach.share == 1.0
    assert falling[-1] < 0.2
    for _ in range(30):
        rising = play(5.0, 2.0)  # worse than it was: nearly all returns are below the cap again
    assert ranking._approach.share == 0.0
    assert rising > 0.95


def test_the_mean_is_left_when_the_objective_no_longer_rises():
    rng = np.random.default_rng(0)
    ranking = EpisodeRanking("cvar:0.2", "telescoped", pool=100, cap="falling")
    left = None
    for update in range(40):
        ranking.advantages(rng.normal(min(update, 10), 1, size=50))
        if left is None and ranking.stats["level"] < 1:
            left = update
    assert left is not None
    assert 19 <= left <= 38  # half of all episodes without a rise


def test_the_mean_first_learns_where_the_tail_is_all_ties():
    rng = np.random.default_rng(0)
    ranking = EpisodeRanking("cvar:0.2", "telescoped", cap="falling")
    ranking.advantages(rng.choice([-1.0, 1.0], size=100))
    assert ranking.telescoped(-1.0, 1.0) > 0


@pytest.mark.parametrize("objective", ["mean", "max@4", "median", "var:0.2"])
def test_other_objectives_than_those_of_the_lower_tail_know_no_cap(objective):
    ranking = EpisodeRanking(objective, "telescoped", cap="falling")
    ranking.advantages(np.random.default_rng(0).normal(size=100))
    assert "level" not in ranking.stats


@pytest.mark.parametrize("cap", [-0.5, 0.0, 0.7, 9.0, np.inf])
def test_under_a_cap_f_is_that_of_capped_returns(cap):
    returns = np.random.default_rng(0).normal(size=400)
    ranking = EpisodeRanking("cvar:0.1", "telescoped", pool=400, cap="falling", unit_scale=False)
    ranking.advantages(returns)
    ranking._approach = type("Cap", (), {"cap": cap})()
    level = np.quantile(returns, 0.1)
    x = np.random.default_rng(1).uniform(-2, 2, size=100)
    got = ranking.telescoped(np.full(100, max(level, -1.0)), x) / 10
    np.testing.assert_allclose(got, np.minimum(x, max(cap, level)) - max(level, -1.0), atol=0.03)


def test_a_schedule_ends_a_falling_cap():
    ranking = EpisodeRanking("cvar:0.2", "telescoped", cap="falling")
    ranking.objective = "cvar:0.2"
    assert ranking.cap == "falling"
    ranking.objective = og.anneal("mean", "cvar:0.2", 0.5)
    ranking.advantages(np.random.default_rng(0).normal(size=100))
    assert "level" not in ranking.stats


def test_a_kept_state_stays_as_it_was():
    ranking = EpisodeRanking("cvar:0.2", "telescoped", pool=100, cap="falling")
    ranking.advantages(np.arange(100.0))
    kept = ranking.state()
    before = dict(kept["approach"])
    ranking.advantages(np.arange(100.0) + 50)
    assert kept["approach"] == before != ranking.state()["approach"]
