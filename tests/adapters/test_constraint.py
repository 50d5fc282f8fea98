"""A limit on an objective of the cost: the multiplier, the advantages, and a bandit whose optimum is known."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import ordergrad as og
from ordergrad.adapters.constraint import Constraint, Multiplier, step_costs
from ordergrad.adapters.sb3 import OrderGradA2C, OrderGradPPO

torch.set_num_threads(1)

TOPS = (1.0, 4.0, 20.0)  # of the cost of each arm, uniform from 0


class Bandit(gym.Env):
    """Three arms: the better the return, the longer the cost's tail. `steps` equal parts of it, one arm in each."""

    observation_space = spaces.Box(0.0, 1.0, (1,))
    action_space = spaces.Discrete(3)
    rewards = (1.0, 2.0, 3.0)

    def __init__(self, steps=1, with_cost=True, tops=TOPS):
        self.steps, self.with_cost, self.tops, self.t = steps, with_cost, tops, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        info = {"cost": self.np_random.uniform() * self.tops[action] / self.steps} if self.with_cost else {}
        return np.zeros(1, np.float32), self.rewards[action] / self.steps, self.t == self.steps, False, info


def make_model(cls=OrderGradPPO, n_envs=8, n_steps=32, env=None, **kwargs):
    if env is None:
        env = DummyVecEnv([Bandit] * n_envs)
    env.seed(3)
    settings = {"n_steps": n_steps, "seed": 1, "device": "cpu", "credit": "episode", "policy_kwargs": {"net_arch": []}}
    if cls is OrderGradPPO:
        settings |= {"batch_size": n_steps * env.num_envs, "n_epochs": 4, "learning_rate": 0.01}
    return cls("MlpPolicy", env, **(settings | kwargs))


def probabilities(model):
    return model.policy.get_distribution(torch.zeros(1, 1)).distribution.probs.detach().numpy().ravel()


def worst_tenth(p):
    """Return the mean of the worst tenth of the bandit's cost."""
    costs = np.concatenate([np.linspace(0.0, top, 4001) for top in TOPS])
    mass = np.repeat(p / 4001, 4001)
    order = np.argsort(-costs)
    before = np.cumsum(mass[order]) - mass[order]
    return float(np.clip(0.1 - before, 0.0, mass[order]) @ costs[order] / 0.1)


@pytest.mark.parametrize("credit", ["episode", "terminal", "telescoped"])
def test_the_tail_of_the_cost_meets_the_limit_that_the_unconstrained_optimum_breaks(credit):
    assert worst_tenth(np.array([0.0, 0.0, 1.0])) == pytest.approx(19.0, abs=0.1)
    assert worst_tenth(np.array([0.0, 1.0, 0.0])) == pytest.approx(3.8, abs=0.1)
    model = make_model(credit=credit, constraint=Constraint("uppercvar:0.1", limit=5.0)).learn(25_000)
    p = probabilities(model)
    assert 3.0 < worst_tenth(p) < 6.0
    assert p[1] > 0.7  # the mean cost alone, at most 5, would allow the third arm in 3 of 8 episodes
    assert model.rollout_buffer.stats["lambda"] > 0


def test_a_limit_that_does_not_bind_leaves_the_optimum():
    model = make_model(constraint=Constraint("uppercvar:0.1", limit=40.0)).learn(20_000)
    assert probabilities(model)[2] > 0.9
    assert model.rollout_buffer.stats["lambda"] == 0


@pytest.mark.parametrize("cls", [OrderGradPPO, OrderGradA2C])
def test_the_advantage_is_that_of_the_return_less_that_of_the_cost(cls):
    constraint = Constraint("uppercvar:0.25", limit=2.0, kp=1.0, ki=0.5, kd=0.25)
    model = make_model(cls, n_envs=2, n_steps=16, objective="cvar:0.5", constraint=constraint)
    seen = []

    def keep(local, _):
        seen.append((local["rewards"].copy(), [info["cost"] for info in local["infos"]]))
        return True

    model.learn(32, callback=keep)
    returns, costs = (np.array(x).T.ravel() for x in zip(*seen, strict=True))
    scale = costs.std()
    cost = float(og.value(costs, "uppercvar:0.25"))
    error = (cost - 2.0) / scale
    multiplier = 1.5 * error
    buffer = model.rollout_buffer
    assert buffer.stats["cost"] == pytest.approx(cost)
    assert buffer.stats["lambda"] == pytest.approx(multiplier)
    a = og.advantages(returns, "cvar:0.5") / (2 * returns.std())
    a_cost = og.advantages(costs, "uppercvar:0.25") / (4 * scale)
    expected = (2 * a - multiplier * 4 * a_cost) / (2 + 4 * multiplier)
    np.testing.assert_allclose(np.sort(buffer.advantages.ravel()), np.sort(expected), atol=1e-5)


class Weighted(Bandit):
    """Every other episode comes with a third of the weight."""

    def step(self, action):
        obs, reward, over, truncated, info = super().step(action)
        return obs, reward, over, truncated, info | {"ordergrad_weight": 1.5 if self.np_random.random() < 0.5 else 0.5}


def test_return_and_cost_are_those_of_the_weighted_episodes():
    model = make_model(
        env=DummyVecEnv([Weighted] * 2),
        n_steps=16,
        objective="cvar:0.5",
        constraint=Constraint("uppercvar:0.25", limit=2.0, kp=1.0, ki=0.5),
    )
    seen = []

    def keep(local, _):
        seen.append(
            [
                (r, info["cost"], info["ordergrad_weight"])
                for r, info in zip(local["rewards"], local["infos"], strict=True)
            ]
        )
        return True

    model.learn(32, callback=keep)
    returns, costs, weights = np.array(seen).transpose(2, 1, 0).reshape(3, -1)
    buffer = model.rollout_buffer
    cost = float(og.value(costs, "uppercvar:0.25", sample_weight=weights))
    assert buffer.stats["cost"] == pytest.approx(cost)
    assert cost != pytest.approx(float(og.value(costs, "uppercvar:0.25")))
    multiplier = 1.5 * (cost - 2.0) / costs.std()
    assert buffer.stats["lambda"] == pytest.approx(multiplier)
    share = len(weights) * weights / weights.sum()
    a = share * og.advantages(returns, "cvar:0.5", sample_weight=weights) / (2 * returns.std())
    a_cost = share * og.advantages(costs, "uppercvar:0.25", sample_weight=weights) / (4 * costs.std())
    expected = (2 * a - multiplier * 4 * a_cost) / (2 + 4 * multiplier)
    np.testing.assert_allclose(np.sort(buffer.advantages.ravel()), np.sort(expected), atol=1e-5)


def test_costs_come_from_processes_of_their_own():
    env = SubprocVecEnv([Bandit] * 2, start_method="spawn")
    try:
        model = make_model(env=env, n_steps=16, constraint=Constraint("uppercvar:0.25", limit=2.0)).learn(64)
        assert model.rollout_buffer.stats["cost"] > 0
        assert model.rollout_buffer.stats["lambda"] > 0
    finally:
        env.close()


def test_costs_add_up_over_the_steps_of_an_episode_with_the_discount():
    env = DummyVecEnv([lambda: Bandit(steps=3)])
    model = make_model(env=env, n_steps=16, discount=0.5, constraint=Constraint("mean", limit=0.0))
    seen = []

    def keep(local, _):
        seen.append(local["infos"][0]["cost"])
        return True

    model.learn(16, callback=keep)
    costs = np.array(seen)[:15].reshape(5, 3) @ [1.0, 0.5, 0.25]
    assert model.rollout_buffer.stats["cost"] == pytest.approx(costs.mean())


def test_the_multiplier_follows_the_pid_rule():
    m = Multiplier(Constraint("mean", limit=1.0, kp=0.5, ki=0.1, kd=2.0))
    assert m.update(3.0, scale=2.0) == pytest.approx(0.5 + 0.1)
    assert m.update(5.0, scale=2.0) == pytest.approx(0.5 * 2 + 0.1 * 3 + 2.0)  # rises by 1
    assert m.update(3.0, scale=2.0) == pytest.approx(0.5 + 0.1 * 4)  # a fall is not rewarded
    assert m.update(-99.0, scale=2.0) == 0.0
    assert m.update(3.0, scale=0.0) == pytest.approx(2.0 * 50.0)  # no wind-up below 0; the error is 0
    assert m.update(3.0, scale=0.0) == 0.0


def test_save_and_load_keep_the_multiplier_and_the_ranking_of_the_cost(tmp_path):
    model = make_model(constraint=Constraint("uppercvar:0.1", limit=5.0)).learn(2000)
    model.save(tmp_path / "model")
    loaded = OrderGradPPO.load(tmp_path / "model", env=model.get_env())
    assert loaded.rollout_buffer.state() == model.rollout_buffer.state()
    assert loaded.rollout_buffer.multiplier.value > 0
    stricter = OrderGradPPO.load(
        tmp_path / "model", env=model.get_env(), constraint=Constraint("uppercvar:0.1", limit=4.0)
    )
    assert stricter.rollout_buffer.multiplier.constraint.limit == 4.0
    assert stricter.rollout_buffer.multiplier.state() == model.rollout_buffer.multiplier.state()
    free = OrderGradPPO.load(tmp_path / "model", env=model.get_env(), constraint=None)
    assert free.rollout_buffer.multiplier is None


def test_an_environment_without_cost_is_an_error_at_the_first_step():
    model = make_model(env=DummyVecEnv([lambda: Bandit(with_cost=False)]), constraint=Constraint("mean", limit=1.0))
    with pytest.raises(ValueError, match=r"needs info\['cost'\] at every step; environment 0 returned"):
        model.learn(64)
    assert model.num_timesteps == 1


def test_an_episode_with_a_nonfinite_cost_is_left_out():
    env = DummyVecEnv([lambda: Bandit(tops=(np.nan,) * 3), Bandit])
    model = make_model(env=env, n_steps=8, constraint=Constraint("mean", limit=1.0))
    with pytest.warns(UserWarning, match="infinite return or cost"):
        model.learn(16)
    assert model.rollout_buffer.stats["nonfinite"] == 8
    assert np.isfinite(model.rollout_buffer.advantages).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "cvar:0.1"}, "must not weigh low costs most.*uppercvar"),
        ({"limit": float("nan")}, "limit must be a finite number; got nan"),
        ({"limit": "25"}, "limit must be a finite number; got '25'"),
        ({"kp": -1.0}, "kp must be a finite number of at least 0; got -1.0"),
        ({"kd": float("inf")}, "kd must be"),
        ({"kp": 0.0, "ki": 0.0}, "kp or ki must be positive"),
        ({"objective": "uppercvr:0.1"}, "uppercvr"),
    ],
)
def test_wrong_settings_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        Constraint(**({"objective": "uppercvar:0.1", "limit": 25.0} | settings))


def test_costs_are_read_in_the_order_of_the_environments():
    assert step_costs([{"cost": 2}, {"cost": np.float32(0.5)}]) == [2.0, 0.5]
    with pytest.raises(ValueError, match="environment 1 returned 'price'"):
        step_costs([{"cost": 2}, {"price": 1}])
