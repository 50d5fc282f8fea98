"""The dropped rule: the mean first, then a cap that falls by itself."""

import numpy as np
import pytest
import studies

FallingCapRanking = studies.load("falling_cap").FallingCapRanking


def level(ranking) -> float:
    """Return the share of the recent returns at and below the cap."""
    return float(np.mean(ranking._recent <= ranking.cap))


def test_the_mean_is_left_when_it_lowers_the_objective_and_the_cap_falls_while_that_holds():
    rng = np.random.default_rng(0)
    ranking = FallingCapRanking("cvar:0.2", "telescoped", pool=100)

    def play(mean, spread):
        ranking.advantages(rng.normal(mean, spread, size=100))
        return level(ranking)

    for update in range(4):
        assert play(update, 1.0) == 1.0
    assert play(10.0, 8.0) == play(10.0, 8.0) == 1.0  # a better mean, a worse tail, for a while
    levels = [play(10.0, 8.0) for _ in range(3)]
    assert next(share for share in levels if share < 1) == pytest.approx(0.5, abs=0.1)  # the cap is the mean
    falling = [play(10.0, 0.5) for _ in range(20)]
    assert ranking.approach.share == 1.0
    assert falling[-1] < 0.2
    for _ in range(30):
        rising = play(5.0, 2.0)  # worse than it was: nearly all returns are below the cap again
    assert ranking.approach.share == 0.0
    assert rising > 0.95


def test_the_mean_is_left_when_the_objective_no_longer_rises():
    rng = np.random.default_rng(0)
    ranking = FallingCapRanking("cvar:0.2", "telescoped", pool=100)
    left = None
    for update in range(40):
        ranking.advantages(rng.normal(min(update, 10), 1, size=50))
        if left is None and level(ranking) < 1:
            left = update
    assert left is not None
    assert 19 <= left <= 38  # half of all episodes without a rise


def test_the_mean_first_learns_where_the_tail_is_all_ties():
    rng = np.random.default_rng(0)
    ranking = FallingCapRanking("cvar:0.2", "telescoped")
    ranking.advantages(rng.choice([-1.0, 1.0], size=100))
    assert ranking.telescoped(-1.0, 1.0) > 0
