"""The risky regions of continuous control: their rules, their noise and their Gymnasium interface."""

import math
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import ordergrad.envs  # noqa: F401 (registers the environments)
from ordergrad.envs.risky_region import RiskyPay

PENDULUM, LANDER = "ordergrad/RiskyPendulum-v0", "ordergrad/RiskyLander-v0"
PLAIN = {PENDULUM: "InvertedPendulum-v5", LANDER: "LunarLander-v3"}
DRAWS = 200_000


def play(env, actions, seed):
    """Return observations, rewards and infos of one episode of fixed actions, or less."""
    env.reset(seed=seed)
    steps = []
    for action in actions:
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            break
    observations, rewards, _, _, infos = zip(*steps, strict=True)
    return np.array(observations), np.array(rewards), infos


# The pay ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [3.0, 5.0, math.inf])
def test_the_pay_has_its_mean_and_standard_deviation(freedom):
    pay, rng = RiskyPay(bonus=2.0, noise=10.0, freedom=freedom), np.random.default_rng(0)
    draws = np.array([pay.draw(rng) for _ in range(DRAWS)])
    assert abs(draws.mean() - 2.0) < 5 * 10 / DRAWS**0.5
    assert abs(draws.std() - 10.0) < (1.0 if freedom < 5 else 0.15)  # at 3 degrees there is no fourth moment
    # The quartiles of Student's t in units of its standard deviation: exact where the variance is hard to estimate.
    quartile = {3.0: 0.7649 / 3**0.5, 5.0: 0.7267 / (5 / 3) ** 0.5, math.inf: 0.6745}[freedom]
    assert np.quantile(draws, [0.25, 0.75]) == pytest.approx([2 - 10 * quartile, 2 + 10 * quartile], abs=0.15)


def test_a_pay_without_noise_is_its_bonus():
    assert RiskyPay(bonus=-1.5, noise=0.0, freedom=3.0).draw(np.random.default_rng(0)) == -1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bonus": math.nan}, "bonus must be finite; got nan"),
        ({"bonus": math.inf}, "bonus must be finite; got inf"),
        ({"noise": -1.0}, "noise must be finite and at least 0; got -1.0"),
        ({"noise": math.nan}, "noise must be finite and at least 0; got nan"),
        ({"freedom": 2.0}, "freedom must be greater than 2, or the noise has no variance; got 2.0"),
        ({"freedom": math.nan}, "freedom must be greater than 2"),
    ],
)
@pytest.mark.parametrize("name", [PENDULUM, LANDER])
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make(name, **arguments)


@pytest.mark.parametrize(("name", "threshold"), [(PENDULUM, math.inf), (LANDER, 1.5), (LANDER, math.nan)])
def test_bad_thresholds_are_named(name, threshold):
    with pytest.raises(ValueError, match=f"threshold must .*; got {threshold}"):
        gymnasium.make(name, threshold=threshold)


# The interface ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PENDULUM, LANDER])
def test_gymnasium_finds_no_fault(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for known in ("infinity", "symmetric and normalized", "builtin type"):  # of the plain environments
            warnings.filterwarnings("ignore", message=f".*{known}.*")
        check_env(gymnasium.make(name).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("name", [PENDULUM, LANDER])
def test_an_environment_survives_pickling(name):
    env = pickle.loads(pickle.dumps(gymnasium.make(name, threshold=0.25, bonus=1.0, noise=2.0, freedom=4.0).unwrapped))
    assert (env.threshold, env.pay) == (0.25, RiskyPay(1.0, 2.0, 4.0))


def test_the_lander_takes_continuous_actions():
    assert gymnasium.make(LANDER, continuous=True).action_space.shape == (2,)


@pytest.mark.parametrize("name", [PENDULUM, LANDER])
def test_without_noise_and_bonus_it_is_the_plain_environment(name):
    risky, plain = gymnasium.make(name, noise=0.0), gymnasium.make(PLAIN[name])
    plain.action_space.seed(0)
    actions = [plain.action_space.sample() for _ in range(300)]
    for ours, theirs in zip(play(risky, actions, 3)[:2], play(plain, actions, 3)[:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", [PENDULUM, LANDER])
def test_a_seed_fixes_the_noise(name):
    env = gymnasium.make(name, threshold=-1.0, freedom=3.0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(300)]
    np.testing.assert_array_equal(play(env, actions, 5)[1], play(env, actions, 5)[1])


# The pendulum -------------------------------------------------------------------------------------------------------


def test_the_pendulum_pays_at_random_right_of_the_threshold_only():
    env = gymnasium.make(PENDULUM, threshold=0.0, bonus=0.5)
    for seed, push in ((0, 3.0), (1, -3.0), (2, 0.3)):
        observations, rewards, infos = play(env, [[push]] * 40, seed)
        right = observations[:, 0] > 0.0
        assert [info["risky"] for info in infos] == right.tolist()
        survived = np.array([info["reward_survive"] for info in infos])
        np.testing.assert_array_equal(rewards != survived, right)
        shares = np.cumsum(right) / np.arange(1, len(right) + 1)
        assert [info["risky_share"] for info in infos] == pytest.approx(shares.tolist())


def test_the_share_begins_anew_with_every_episode():
    env = gymnasium.make(PENDULUM, threshold=0.0)
    assert play(env, [[3.0]] * 40, 0)[2][-1]["risky_share"] > 0.5
    assert play(env, [[-3.0]] * 3, 1)[2][-1]["risky_share"] <= 1 / 3


def test_the_bonus_of_the_pendulum_is_paid_at_every_step_of_the_region():
    env = gymnasium.make(PENDULUM, threshold=-1.5, bonus=0.5, noise=0.0)
    _, rewards, infos = play(env, [[0.0]] * 40, 0)
    assert rewards.tolist() == [info["reward_survive"] + 0.5 for info in infos]


# The lander ---------------------------------------------------------------------------------------------------------


def landing(threshold, seed, **arguments):
    """Return the end of an episode of Gymnasium's own heuristic pilot, and the last reward."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    env = gymnasium.make(LANDER, threshold=threshold, **arguments)
    observation, _ = env.reset(seed=seed)
    while True:
        observation, reward, terminated, truncated, info = env.step(heuristic(env.unwrapped, observation))
        if not terminated and not truncated:
            assert not info["landed"]
            assert info["risky_share"] == 0.0
        else:
            return observation, reward, info


def test_the_lander_pays_for_coming_to_rest_in_the_region():
    observation, reward, info = landing(1.0, 0)
    assert info == {"landed": True, "risky": False, "risky_share": 0.0}
    assert reward == 100
    place = float(observation[0])
    _, reward, info = landing(place - 0.01, 0, bonus=7.0, noise=0.0)
    assert info == {"landed": True, "risky": True, "risky_share": 1.0}
    assert reward == 107
    assert landing(place + 0.01, 0, bonus=7.0)[1] == 100
    assert landing(place - 0.01, 0)[1] not in (100, 107)


def test_a_crash_on_the_risky_side_is_paid_no_noise():
    env = gymnasium.make(LANDER, threshold=-1.0)
    _, rewards, infos = play(env, [0] * 1000, 0)
    assert rewards[-1] == -100
    assert not infos[-1]["risky"]
