"""The betting game with its optimum, and the lander with a windfall on its right."""

import pickle
from itertools import product

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import ordergrad as og
import ordergrad.envs
from ordergrad.envs import betting_game
from ordergrad.envs.betting_game import BettingGameVector, best_value

BETS, LANDER = "ordergrad/BettingGame-v0", "ordergrad/WindfallLander-v0"


def test_the_interface_is_gymnasiums():
    check_env(gymnasium.make(BETS).unwrapped, skip_render_check=True)  # the lander's own generator never changes


@pytest.mark.parametrize("env_id", [BETS, LANDER])
def test_a_seed_fixes_the_chance_events(env_id):
    def rewards(seed):
        env = gymnasium.make(env_id)
        env.reset(seed=seed)
        got = []
        for _ in range(3):
            done = False
            while not done:
                _, reward, terminated, truncated, _ = env.step(4 if env_id == BETS else 3)
                got.append(reward)
                done = terminated or truncated
            env.reset()
        return got

    assert rewards(1) == rewards(1)
    assert rewards(1) != rewards(2)


def test_returns_of_bets_are_the_final_wealth_less_16_and_bets_stop_at_256():
    env = gymnasium.make(BETS)
    for seed in range(30):
        env.reset(seed=seed)
        total, rounds, done = 0.0, 0, False
        while not done:
            obs, reward, done, truncated, _ = env.step(8)
            total, rounds = total + reward, rounds + 1
            assert obs.tolist() == pytest.approx([(total + 16) / 256, rounds / 6])
            assert not truncated
        assert total in (-16.0, 240.0)  # four wins in a row, or ruin
        assert rounds <= 4


def test_bets_are_won_with_probability_088():
    env = BettingGameVector(2000)
    env.reset(seed=0)
    rewards = np.concatenate([env.step(np.full(2000, 1))[1] for _ in range(6)])
    assert abs(np.mean(rewards > 0) - 0.88) < 5 * (0.88 * 0.12 / 12000) ** 0.5


def test_the_vector_game_restarts_at_the_step_after_the_last_and_plays_the_same_rules():
    env = BettingGameVector(500)
    obs, _ = env.reset(seed=3)
    rng = np.random.default_rng(0)
    wealth, rounds, ended = np.full(500, 16.0), np.zeros(500), np.zeros(500, bool)
    for _ in range(40):
        actions = rng.integers(9, size=500)
        obs, reward, terminated, truncated, _ = env.step(actions)
        stake = np.minimum(wealth * actions / 8, 256 - wealth)
        assert (np.abs(reward) == np.where(ended, 0, stake)).all()
        wealth, rounds = np.where(ended, 16, wealth + reward), np.where(ended, 0, rounds + 1)
        assert (terminated == (~ended & ((rounds == 6) | (wealth == 0) | (wealth == 256)))).all()
        assert not truncated.any()
        np.testing.assert_allclose(obs, np.stack([wealth / 256, rounds / 6], 1), rtol=1e-6)
        ended = terminated


def test_the_vector_game_can_restart_in_the_same_step():
    next_step, same = BettingGameVector(50), BettingGameVector(50, autoreset_mode=AutoresetMode.SAME_STEP)
    for env in (next_step, same):
        env.reset(seed=5)
    for _ in range(3):  # no game ends before the fourth round with half stakes
        a, b = next_step.step(np.full(50, 4)), same.step(np.full(50, 4))
        assert (a[0] == b[0]).all()
    for _ in range(3):
        obs, _, over, _, info = same.step(np.full(50, 4))
    assert over.any()
    assert (obs[over] == [16 / 256, 0]).all()
    assert (info["final_obs"][over, 1] > 0.6).all()
    with pytest.raises(ValueError, match="autoreset_mode must be NextStep or SameStep"):
        BettingGameVector(2, autoreset_mode=AutoresetMode.DISABLED)


# The optimum --------------------------------------------------------------------------------------------------------


def test_the_optima_of_the_betting_game():
    assert best_value("cvar:0.2") == pytest.approx(23.883, abs=1e-3)
    assert best_value("cvar:1") == pytest.approx(best_value("mean"), abs=1e-3)
    assert best_value("cvar:0.05") < best_value("cvar:0.2") < best_value("mean")
    assert (best_value("var:0.2"), best_value("median")) == (112.0, 240.0)
    assert best_value("max@8") > 239.9
    with pytest.raises(ValueError, match=r"objective must be mean, cvar:q, var:q, median or max@K; got gini"):
        best_value("gini")


def test_the_optimum_is_that_of_enumerated_policies_of_two_rounds(monkeypatch):
    """Two rounds leave 9 x 9 x 9 policies, whose exact return distributions can be written down."""
    monkeypatch.setattr(betting_game, "ROUNDS", 2)
    betting_game._tree.cache_clear()
    best: dict[str, float] = {}
    p = betting_game.WIN_PROBABILITY
    for first, after_win, after_loss in product(range(9), repeat=3):
        returns, chances = [], []
        for won, second in ((True, after_win), (False, after_loss)):
            wealth = 16 + (2 if won else -2) * first
            for again in (True, False):
                returns.append(wealth + (1 if again else -1) * wealth * second / 8 - 16)
                chances.append((p if won else 1 - p) * (p if again else 1 - p))
        for objective in ("mean", "cvar:0.2", "cvar:0.05", "max@8"):
            value = float(og.exact.value(np.array(returns), np.array(chances), objective))
            best[objective] = max(best.get(objective, -np.inf), value)
    try:
        for objective, value in best.items():
            assert best_value(objective) == pytest.approx(value, abs=2e-3), objective
    finally:
        betting_game._tree.cache_clear()


# The lander ---------------------------------------------------------------------------------------------------------


def play(env, actions):
    total = 0.0
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        total += reward
        if terminated or truncated:
            return total, obs, info
    raise AssertionError("the episode has not ended")


def test_the_ground_and_the_first_push_are_those_of_one_seed():
    plain, ours = gymnasium.make("LunarLander-v3"), gymnasium.make(LANDER)
    assert (plain.reset(seed=4)[0] == ours.reset(seed=9)[0]).all()
    assert (plain.reset(seed=4)[0] == ours.reset()[0]).all()
    for action in (0, 1, 2, 3, 2, 2):
        want, got = plain.step(action), ours.step(action)
        assert (want[0] == got[0]).all()
        assert want[1] == got[1]


@pytest.mark.parametrize(("action", "right"), [(1, False), (3, True)])
def test_the_windfall_is_paid_at_an_end_on_the_right_alone(action, right):
    totals, env = [], gymnasium.make(LANDER)
    plain = gymnasium.make("LunarLander-v3")
    plain.reset(seed=4)
    base, obs, _ = play(plain, [action] * 999)
    assert (obs[0] > 0) == right
    env.reset(seed=0)
    for _ in range(200):
        total, _, info = play(env, [action] * 999)
        assert info["right"] == right
        totals.append(total - base)
        env.reset()
    if right:
        assert abs(np.mean(totals) - 70) < 5 * 100 / 200**0.5
        assert 80 < np.std(totals) < 120
    else:
        assert np.abs(totals).max() < 1e-9


def test_a_lander_can_be_sent_to_another_process():
    env = pickle.loads(pickle.dumps(gymnasium.make(LANDER, windfall=3.0).unwrapped))
    assert env.windfall == 3.0
