"""The wrappers of Gymnasium and Stable-Baselines3, with real vector environments and algorithms."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector import VectorEnv as GymVectorEnv
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from walk import Gamble, Walk

from ordergrad.wrappers.gymnasium import ObjectiveReward, VectorObjectiveReward
from ordergrad.wrappers.sb3 import VecObjectiveReward

torch.set_num_threads(1)


# Gymnasium ----------------------------------------------------------------------------------------------------------


def episodes_of(walks):
    return sorted(total for walk in walks for total in walk.finished)


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_the_sample_is_the_returns_of_whole_episodes(mode):
    walks = [Walk() for _ in range(4)]
    inner = SyncVectorEnv([lambda w=w: w for w in walks], autoreset_mode=AutoresetMode[mode])
    envs = VectorObjectiveReward(inner, "cvar:0.2")
    envs.reset(seed=0)
    envs.action_space.seed(0)
    seen, begun = [], 0
    for _ in range(60):
        resets = envs._ended.copy() if mode == "NEXT_STEP" else np.zeros(4, bool)
        _, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
        assert not truncated.any()
        assert (rewards[resets] == 0).all()
        if terminated.any():
            assert (infos["_true_return"] == terminated).all()
            seen += infos["true_return"][terminated].tolist()
            begun += int(infos["true_truncated"][terminated].sum())
    assert len(seen) > 20
    assert 0 < begun < len(seen)
    np.testing.assert_allclose(sorted(seen), episodes_of(walks), rtol=1e-5)
    np.testing.assert_allclose(envs.transform.returns, seen)


def test_without_autoreset_an_episode_begins_with_the_reset_of_its_mask():
    walks = [Walk() for _ in range(4)]
    envs = VectorObjectiveReward(
        SyncVectorEnv([lambda w=w: w for w in walks], autoreset_mode=AutoresetMode.DISABLED), "cvar:0.2"
    )
    envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(60):
        _, _, terminated, _, _ = envs.step(envs.action_space.sample())
        if terminated.any():
            envs.reset(options={"reset_mask": terminated})
    np.testing.assert_allclose(sorted(envs.transform.returns), episodes_of(walks), rtol=1e-5)
    envs.reset()
    assert (envs._rewards.running == 0).all()


def test_the_mean_leaves_everything_but_time_limits_as_it_was():
    make = lambda: SyncVectorEnv([lambda: Walk()] * 3)  # noqa: E731
    plain, wrapped = make(), VectorObjectiveReward(make(), "mean")
    plain.action_space.seed(0)
    assert (plain.reset(seed=1)[0] == wrapped.reset(seed=1)[0]).all()
    wrapped.transform.add([0.0, 1.0])
    for _ in range(40):
        action = plain.action_space.sample()
        a, b = plain.step(action), wrapped.step(action)
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_allclose(a[1], b[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(a[2] | a[3], b[2])
        np.testing.assert_array_equal(a[1], b[4]["true_reward"])


def test_processes_of_their_own_share_one_sample():
    envs = VectorObjectiveReward(AsyncVectorEnv([Gamble] * 2, context="spawn"), "cvar:0.5")
    try:
        envs.reset(seed=0)
        for _ in range(6):
            envs.step(np.array([0, 1]))
        assert envs.transform.total == 4
        assert envs.transform.returns[::2].tolist() == [1.0, 1.0]
    finally:
        envs.close()


def test_an_unknown_autoreset_mode_is_an_error():
    class Silent(GymVectorEnv):
        metadata: ClassVar = {}
        num_envs = 2

    with pytest.raises(ValueError, match=r"autoreset_mode'\] must be a gymnasium.vector.AutoresetMode.*got None"):
        VectorObjectiveReward(Silent())


def test_single_environments_may_share_a_sample():
    first, second = ObjectiveReward(Gamble(), "cvar:0.5"), ObjectiveReward(Gamble(), "cvar:0.5")
    second.transform = first.transform
    for env in (first, second):
        env.reset(seed=0)
        env.step(0)
        _, _, terminated, truncated, info = env.step(0)
        assert (terminated, truncated, info["true_return"]) == (True, False, 1.0)
    assert first.transform.returns.tolist() == [1, 1]


def test_an_episode_that_is_reset_in_the_middle_is_left_out():
    env = ObjectiveReward(Gamble(), "cvar:0.5")
    env.reset(seed=0)
    env.step(0)
    env.reset()
    env.step(0)
    env.step(0)
    assert env.transform.returns.tolist() == [1]


# Stable-Baselines3 --------------------------------------------------------------------------------------------------


def gambles(n=8, objective="mean", **kwargs):
    env = DummyVecEnv([Gamble] * n)
    env.seed(0)
    return VecObjectiveReward(env, objective, **kwargs)


def test_infos_hold_the_true_rewards_and_hide_time_limits():
    walks = [Walk(end="truncated") for _ in range(2)]
    inner = DummyVecEnv([lambda w=w: w for w in walks])
    inner.seed(0)
    env = VecObjectiveReward(VecMonitor(inner), "cvar:0.2")
    env.reset()
    ends = []
    for _ in range(60):
        _, _, dones, infos = env.step([env.action_space.sample() for _ in range(2)])
        for done, info in zip(dones, infos, strict=True):
            assert "TimeLimit.truncated" not in info
            if done:
                assert info["true_truncated"]
                assert info["true_return"] == pytest.approx(info["episode"]["r"], abs=1e-4)
                ends.append(info["true_return"])
    np.testing.assert_allclose(env.transform.returns, ends)


@pytest.mark.parametrize(("objective", "risky"), [("mean", True), ("cvar:0.2", False)])
def test_plain_ppo_learns_what_the_objective_prefers(objective, risky):
    model = PPO(
        "MlpPolicy",
        gambles(16, objective),
        n_steps=32,
        batch_size=256,
        n_epochs=4,
        learning_rate=0.01,
        gamma=1.0,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [8]},
    )
    model.learn(16 * 32 * 10)
    first = model.policy.obs_to_tensor(np.array([[1.0, 0.0]], np.float32))[0]
    share = model.policy.get_distribution(first).distribution.probs[0, 1].item()
    assert share > 0.8 if risky else share < 0.2


def test_vec_normalize_and_algorithms_off_policy_run_around_it():
    env = VecNormalize(gambles(2, "cvar:0.2"))
    model = DQN("MlpPolicy", env, learning_starts=10, buffer_size=200, device="cpu", policy_kwargs={"net_arch": [8]})
    model.learn(60)
    walk = VecObjectiveReward(DummyVecEnv([lambda: Walk(continuous=True)]), "cvar:0.2")
    model = SAC("MlpPolicy", walk, learning_starts=10, buffer_size=200, device="cpu", policy_kwargs={"net_arch": [8]})
    model.learn(30)
    assert walk.transform.total > 0


def test_a2c_goes_on_with_a_saved_sample():
    env = gambles(4, "cvar:0.2")
    A2C("MlpPolicy", env, device="cpu").learn(80)
    again = gambles(4, "cvar:0.2")
    again.transform.set_state(env.transform.state())
    np.testing.assert_array_equal(env.transform.returns, again.transform.returns)


# sb3-contrib --------------------------------------------------------------------------------------------------------


def test_recurrent_ppo_learns_with_the_wrapper():
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.RecurrentPPO(
        "MlpLstmPolicy",
        gambles(4, "cvar:0.2"),
        n_steps=16,
        batch_size=64,
        n_epochs=1,
        seed=0,
        device="cpu",
        policy_kwargs={"lstm_hidden_size": 8},
    )
    model.learn(64)
    assert model.get_env().transform.total > 10


def test_maskable_ppo_learns_with_the_wrapper():
    contrib = pytest.importorskip("sb3_contrib")

    class Masked(Gamble):
        def action_masks(self):
            return np.array([True, self.steps == 0])

    env = VecObjectiveReward(DummyVecEnv([Masked] * 4), "cvar:0.2")
    model = contrib.MaskablePPO("MlpPolicy", env, n_steps=16, batch_size=64, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    assert env.transform.total == 32


@pytest.mark.parametrize(("objective", "risky"), [("mean", True), ("cvar:0.2", False)])
def test_trpo_learns_what_the_objective_prefers(objective, risky):
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.TRPO(
        "MlpPolicy",
        gambles(16, objective),
        n_steps=32,
        batch_size=256,
        target_kl=0.05,
        gamma=1.0,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [8]},
    )
    model.learn(16 * 32 * 15)
    first = model.policy.obs_to_tensor(np.array([[1.0, 0.0]], np.float32))[0]
    share = model.policy.get_distribution(first).distribution.probs[0, 1].item()
    assert share > 0.8 if risky else share < 0.2
