"""The return so far in the observation, of one environment and of many."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from walk import Walk

from ordergrad.envs import ReturnSoFar, VectorReturnSoFar


def test_the_last_entry_is_the_sum_of_the_rewards_of_the_episode():
    env = ReturnSoFar(Walk(), scale=4.0)
    obs, _ = env.reset(seed=0)
    total = 0.0
    for _ in range(50):
        assert obs in env.observation_space
        assert obs[-1] == pytest.approx(total / 4)
        obs, reward, terminated, truncated, _ = env.step(1)
        total += reward
        if terminated or truncated:
            assert obs[-1] == pytest.approx(total / 4)
            obs, _ = env.reset()
            total = 0.0


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_many_environments_have_each_their_own(mode):
    env = VectorReturnSoFar(SyncVectorEnv([Walk] * 5, autoreset_mode=mode), scale=4.0)
    obs, _ = env.reset(seed=0)
    total, ended = np.zeros(5), np.zeros(5, bool)
    for _ in range(60):
        assert obs in env.observation_space
        np.testing.assert_allclose(obs[:, -1], total / 4, rtol=1e-5, atol=1e-6)
        obs, rewards, terminated, truncated, infos = env.step(np.ones(5, int))
        total = np.where(ended, 0.0, total + rewards)
        done = terminated | truncated
        if mode == AutoresetMode.SAME_STEP:
            for i in np.flatnonzero(done):
                assert infos["final_obs"][i][-1] == pytest.approx(total[i] / 4, rel=1e-5)
            total[done] = 0.0
        else:
            ended = done


def test_bad_input_is_an_error():
    with pytest.raises(ValueError, match="observations must be vectors"):
        ReturnSoFar(gymnasium.make("FrozenLake-v1"), scale=1.0)
    with pytest.raises(ValueError, match="scale must be positive and finite; got 0"):
        ReturnSoFar(Walk(), scale=0)
    with pytest.raises(ValueError, match="Disabled"):
        VectorReturnSoFar(SyncVectorEnv([Walk] * 2, autoreset_mode=AutoresetMode.DISABLED), scale=1.0)
