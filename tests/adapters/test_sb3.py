"""The Stable-Baselines3 adapter against the reference gradient and against true returns."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from walk import Walk

import ordergrad as og
from ordergrad.adapters.sb3 import OrderGradA2C, OrderGradPPO, OrderGradRolloutBuffer, RecordRewards
from ordergrad.conditions import Bernoulli, ConditionSampler
from ordergrad.envs import SampledConditions

torch.set_num_threads(1)


def make(n_envs=4, **kwargs):
    env = DummyVecEnv([lambda: Walk(**kwargs)] * n_envs)
    env.seed(3)
    return env


def make_model(cls=OrderGradPPO, env=None, n_steps=32, **kwargs):
    env = make() if env is None else env
    settings: dict[str, Any] = {"n_steps": n_steps, "seed": 1, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}
    if cls in (OrderGradPPO, OrderGradA2C):
        settings |= {"credit": "episode"}  # exact, so that gradients can be compared
    if issubclass(cls, PPO):
        settings |= {"n_epochs": 1, "batch_size": n_steps * env.num_envs}
    return cls("MlpPolicy", env, **(settings | kwargs))


class Spy(BaseCallback):
    """Keep what one rollout of the algorithm saw: observations, actions, true rewards and ends, per step."""

    def __init__(self):
        super().__init__()
        self.rows: list[tuple[Any, ...]] = []

    def _on_step(self):
        see = self.locals
        obs = see["obs_tensor"].clone()
        self.rows.append((obs, torch.as_tensor(see["actions"]), see["rewards"].copy(), see["dones"].copy()))
        return True


class Ended(BaseCallback):
    """Keep the returns that the buffer saw end in each rollout."""

    def __init__(self):
        super().__init__()
        self.rollouts: list[Any] = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.rollouts.append(self.model.rollout_buffer.ended)


def episodes_of(rows, n_envs):
    """Return the complete episodes as (observations, actions, return)."""
    done = []
    for env in range(n_envs):
        obs, actions, total = [], [], 0.0
        for o, a, r, d in rows:
            obs.append(o[env])
            actions.append(a[env])
            total += float(r[env])
            if d[env]:
                done.append((torch.stack(obs), torch.stack(actions), total))
                obs, actions, total = [], [], 0.0
    return done


def policy_gradient(model, loss):
    model.policy.optimizer.zero_grad()
    loss.backward()
    return torch.cat(
        [
            p.grad.flatten()
            for name, p in model.policy.named_parameters()
            if p.grad is not None and "value" not in name and "vf" not in name
        ]
    )


def one_step(model):
    """Return the gradient of the policy in the only step of an update, and what the rollout saw."""
    spy, grads = Spy(), []
    step = model.policy.optimizer.step

    def capture(*args, **kwargs):
        grads.append(
            torch.cat(
                [
                    p.grad.flatten().clone()
                    for name, p in model.policy.named_parameters()
                    if p.grad is not None and "value" not in name and "vf" not in name
                ]
            )
        )

    model.policy.optimizer.step = capture  # the policy stays as it was
    model.learn(32 * 4, callback=spy)
    model.policy.optimizer.step = step
    [gradient] = grads
    return gradient, spy.rows


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("objective", ["mean", "cvar:0.2", "0.7*mean+0.3*max@8", "mean-0.5*gini"])
@pytest.mark.parametrize("cls", [OrderGradPPO, OrderGradA2C])
def test_one_step_is_the_reference_gradient(cls, objective, continuous):
    model = make_model(cls, make(continuous=continuous), objective=objective, max_grad_norm=1e9)
    gradient, rows = one_step(model)
    episodes = episodes_of(rows, 4)
    returns = np.array([e[2] for e in episodes])
    assert len(episodes) > 8
    if objective == "mean":
        a = returns - (returns.sum() - returns) / (len(returns) - 1)  # REINFORCE with leave-one-out baseline
    else:
        a = og.advantages(returns, objective)
    log_probs = [model.policy.evaluate_actions(o, u)[1].sum() for o, u, _ in episodes]
    loss = -torch.stack([torch.tensor(x) * lp for x, lp in zip(a, log_probs, strict=True)]).mean()
    reference = policy_gradient(model, loss)
    scalar = len(episodes) / sum(len(o) for o, _, _ in episodes)
    torch.testing.assert_close(gradient, (scalar * reference).to(gradient.dtype), rtol=2e-4, atol=2e-5)


def transformation(returns, objective):
    """Return f, from its definition: slope N w_m(N-1) between sorted returns, the end slopes beyond them."""
    knots = np.sort(returns)
    n = len(knots)
    slopes = n * og.sample_weights(objective, n - 1)

    def f(x):
        below, above = min(x, knots[0]) - knots[0], max(x, knots[-1]) - knots[-1]
        inside = sum(
            slope * (np.clip(x, low, high) - low) for slope, low, high in zip(slopes, knots, knots[1:], strict=False)
        )
        return slopes[0] * below + inside + slopes[-1] * above

    return f


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("objective", ["mean", "cvar:0.2@10", "0.7*mean+0.3*max@8"])
@pytest.mark.parametrize("credit", ["terminal", "telescoped"])
@pytest.mark.parametrize("cls", [OrderGradPPO, OrderGradA2C])
def test_one_step_with_a_critic_is_the_reference_gradient(cls, credit, objective, continuous):
    """With gamma = lambda = 1 and a critic of 0 the credit of a step is what f gains from it to the episode's end.

    Terminal: f(R) - mean f for every step of a complete episode, nothing for others. Telescoped: f(R) - f(C_t), C_t the
    return before the step, and of an unfinished episode up to where it is. The scalar is 1/S, S the steps of all.
    """
    exact: dict[str, Any] = {"gamma": 1.0, "gae_lambda": 1.0, "unit_scale": False, "normalize_advantage": False}
    exact |= {"cap": None}
    model = make_model(
        cls, make(continuous=continuous), objective=objective, credit=credit, max_grad_norm=1e9, vf_coef=0.0, **exact
    )
    torch.nn.init.zeros_(model.policy.value_net.weight)
    gradient, rows = one_step(model)
    returns = np.array([e[2] for e in episodes_of(rows, 4)])
    f = transformation(returns, objective)
    mean = np.mean([f(r) for r in returns])
    terms = []
    for env in range(4):
        before, steps = 0.0, []
        for index, (obs, actions, rewards, dones) in enumerate(rows):
            log_prob = model.policy.evaluate_actions(obs[env][None], actions[env][None])[1].sum()
            steps.append((before, log_prob))
            before += float(rewards[env])
            if dones[env] or index == len(rows) - 1:
                if credit == "telescoped":
                    terms += [(f(before) - f(c)) * lp for c, lp in steps]
                elif dones[env]:
                    terms += [(f(before) - mean) * lp for _, lp in steps]
                before, steps = 0.0, []
    reference = policy_gradient(model, -torch.stack(terms).sum() / (32 * 4))
    assert reference.norm() > 0.01
    torch.testing.assert_close(gradient, reference.to(gradient.dtype), rtol=2e-4, atol=2e-5)


class Weighted(Walk):
    """A walk whose episodes carry an importance weight."""

    def __init__(self, weight=None, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight or (lambda env: 0.25 + env.drawn)

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed, options=options)
        self.drawn = float(self.np_random.random())
        return obs, info

    def step(self, action):
        *others, info = super().step(action)
        return *others, info | {"ordergrad_weight": self.weight(self)}


def make_weighted(**kwargs):
    env = DummyVecEnv([lambda: Weighted(**kwargs)] * 4)
    env.seed(3)
    return env


class Weights(BaseCallback):
    """Keep the weights of the episodes that ended, environment by environment."""

    def __init__(self):
        super().__init__()
        self.ended: list[list[float]] = [[], [], [], []]

    def _on_step(self):
        for env, done in enumerate(self.locals["dones"]):
            if done:
                self.ended[env].append(self.locals["infos"][env]["ordergrad_weight"])
        return True


@pytest.mark.parametrize("objective", ["mean", "cvar:0.2", "0.7*mean+0.3*max@8"])
@pytest.mark.parametrize("cls", [OrderGradPPO, OrderGradA2C])
def test_one_step_with_importance_weights_is_the_weighted_reference_gradient(cls, objective):
    """E p_i A_i for episode i, with p = omega / sum omega and A that of the weighted distribution."""
    model, weights = make_model(cls, make_weighted(), objective=objective, max_grad_norm=1e9), Weights()
    learn = model.learn
    model.learn = lambda steps, callback: learn(steps, [callback, weights])
    gradient, rows = one_step(model)
    episodes = episodes_of(rows, 4)
    returns, omega = np.array([e[2] for e in episodes]), np.concatenate(weights.ended)
    p = omega / omega.sum()
    k = len(returns) - 1
    a = og.exact.advantages(returns, p, "cvar:0.2@" + str(k) if objective == "cvar:0.2" else objective)
    log_probs = [model.policy.evaluate_actions(o, u)[1].sum() for o, u, _ in episodes]
    steps = sum(len(o) for o, _, _ in episodes)
    terms = [torch.tensor(len(p) * x * y) * lp for x, y, lp in zip(p, a, log_probs, strict=True)]
    reference = policy_gradient(model, -torch.stack(terms).sum() / steps)
    assert reference.norm() > 0.01
    torch.testing.assert_close(gradient, reference.to(gradient.dtype), rtol=2e-4, atol=2e-5)
    expected = float(og.value(returns, objective, sample_weight=omega))
    assert model.rollout_buffer.stats["value"] == pytest.approx(expected, rel=1e-9)


def test_weights_of_one_are_no_weights():
    """Then the estimator is the unbiased one."""
    model = make_model(env=make_weighted(weight=lambda env: 1), objective="cvar:0.5", learning_rate=0.0)
    model.learn(128)
    expected = og.advantages(model.rollout_buffer.ended, "cvar:0.5")
    np.testing.assert_allclose(
        np.unique(model.rollout_buffer.advantages.round(4)), np.unique(expected.round(4)), atol=2e-4
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_episodes_with_weights_that_are_none_are_left_out_and_counted(bad):
    env = make_weighted(weight=lambda env: bad if env.drawn < 0.2 else 1 + env.drawn)
    model = make_model(env=env, objective="cvar:0.3")
    with pytest.warns(UserWarning, match="a weight that is not positive and finite"):
        model.learn(128 * 3)
    stats = model.rollout_buffer.stats
    assert stats["nonfinite"] > 0
    finished = sum(len(e.unwrapped.finished) for e in env.envs)
    assert stats["nonfinite"] + stats["total"] == finished
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())


@pytest.mark.parametrize("credit", ["terminal", "telescoped"])
def test_weights_with_a_critic_are_an_error_at_the_first_episode(credit):
    model = make_model(env=make_weighted(), credit=credit)
    with pytest.raises(ValueError, match=rf"\['ordergrad_weight'\] needs credit='episode'.*got credit='{credit}'"):
        model.learn(128)
    assert model.num_timesteps < 128


def test_training_under_sampled_conditions():
    """The whole way: a sampler, the wrapper, weights in the ranking, and conditions that move to the bad ones."""
    sampler = ConditionSampler(Bernoulli(0.05), seed=0, every=50)

    def apply(env, storm):
        env.rewards = (lambda env, r: r - 20) if storm else None

    env = DummyVecEnv([lambda: SampledConditions(Walk(mean_length=3.0), sampler, apply)] * 4)
    env.seed(3)
    model = make_model(env=env, objective="cvar:0.1", n_steps=64, learning_rate=0.0)
    model.learn(64 * 4 * 6)
    assert sampler.updates > 5
    assert sampler.current.probability > 0.7
    assert model.rollout_buffer.stats["nonfinite"] == 0


@pytest.mark.parametrize("credit", ["episode", "terminal", "telescoped"])
def test_ranked_returns_are_those_of_monitor(credit):
    env = VecNormalize(VecMonitor(make(mean_length=10.0)))
    model, seen = make_model(env=env, credit=credit, learning_rate=0.0), []

    def keep(see, _):
        seen.extend(info["episode"]["r"] for info in see["infos"] if "episode" in info)
        return True

    ended = Ended()
    model.learn(32 * 4 * 5, callback=[ended, keep])
    np.testing.assert_allclose(sorted(np.concatenate(ended.rollouts)), sorted(seen), atol=1e-4)
    assert len(model.ep_info_buffer) == min(len(seen), 100)
    assert model.ep_info_buffer[-1]["r"] == pytest.approx(seen[-1])


@pytest.mark.parametrize("credit", ["episode", "terminal", "telescoped"])
def test_the_unit_is_the_spread_of_the_returns_so_far_times_the_steepest_slope(credit):
    a, ended = {}, Ended()
    for unit in (False, True):
        model = make_model(
            objective="cvar:0.3", credit=credit, unit_scale=unit, learning_rate=0.0, gae_lambda=1.0, gamma=1.0
        )
        torch.nn.init.zeros_(model.policy.value_net.weight)
        model.learn(128 * 2, callback=ended)
        a[unit] = model.rollout_buffer.advantages
    apart = np.concatenate([returns - returns.mean() for returns in ended.rollouts[:2]])
    np.testing.assert_allclose(a[True] * np.sqrt(np.mean(apart**2)) / 0.3, a[False], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("credit", ["episode", "terminal", "telescoped"])
@pytest.mark.parametrize("normalize", [False, True])
def test_true_returns_are_ranked_whole_whatever_the_time_limits_and_scaling(credit, normalize):
    env = make(mean_length=10.0, end="truncated")
    singles = [e.unwrapped for e in env.envs]
    model = make_model(env=VecNormalize(env) if normalize else env, credit=credit, learning_rate=0.0, min_episodes=3)
    ended = Ended()
    model.learn(32 * 4 * 6, callback=ended)
    ranked = np.concatenate(ended.rollouts)
    np.testing.assert_allclose(sorted(ranked), sorted(np.concatenate([e.finished for e in singles])), rtol=1e-9)
    assert model.rollout_buffer.stats["abandoned"] == 0


def test_every_step_of_every_episode_is_trained_on_once_with_its_rank():
    env = make(mean_length=10.0)
    model = make_model(env=env, objective="cvar:0.5", learning_rate=0.0, min_episodes=4)
    spy, batches = Spy(), []
    train = model.train

    def keep():
        buffer = model.rollout_buffer
        if buffer.ready:
            batches.append((buffer.observations.copy(), buffer.advantages.copy(), buffer.stats.copy()))
        train()

    model.train = keep
    model.learn(32 * 4 * 8, callback=spy)
    episodes = episodes_of(spy.rows, 4)
    trained = np.concatenate([b[0] for b in batches])
    waiting = int(model.rollout_buffer.stats["waiting"])
    complete = sum(len(o) for o, _, _ in episodes)
    assert len(np.unique(trained, axis=0)) == len(trained)
    assert sum(b[2]["episodes"] for b in batches) + waiting == len(episodes)
    assert len(trained) <= complete
    assert any(b[2]["stale"] > 0 for b in batches)  # episodes that began before the last update
    if not waiting:
        assert len(trained) == complete
    by_first = {tuple(o[0].tolist()): o for o, _, _ in episodes}
    for obs, a, stats in batches:
        starts = [tuple(x) for x in obs.tolist() if tuple(x) in by_first]
        assert len(starts) == stats["episodes"]
        lookup = {tuple(x): y for x, y in zip(obs.tolist(), a, strict=True)}
        per_episode = [[lookup[tuple(x)] for x in by_first[s].tolist()] for s in starts]
        assert all(len(set(values)) == 1 for values in per_episode)
        np.testing.assert_allclose(np.sum([v[0] for v in per_episode]), 0, atol=1e-4)


def test_incomplete_episodes_wait_and_nothing_is_trained_meanwhile():
    model = make_model(env=make(mean_length=1e9), patience=100)
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(32 * 4 * 2)
    assert model.rollout_buffer.stats["open"] == 32 * 4 * 2
    assert not model.rollout_buffer.ready
    for old, new in zip(before, model.policy.parameters(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("credit", ["episode", "terminal", "telescoped"])
def test_episodes_that_never_end_are_reported_not_fatal(credit):
    model = make_model(env=make(mean_length=1e9), patience=2, credit=credit)
    with pytest.warns(UserWarning, match=r"only 0 episodes ended in 64 steps.*raise n_steps|more steps wait"):
        model.learn(32 * 4 * 5)
    assert model.rollout_buffer.stats["episodes"] == 0


def test_k_above_the_number_of_episodes_waits_then_shrinks():
    model = make_model(objective="max@12", n_steps=16)
    model.learn(16 * 4 * 6)
    assert model.rollout_buffer.stats["shrunk"] == 0
    model = make_model(objective="max@3000", n_steps=16, patience=2)
    with pytest.warns(UserWarning, match="needs 3001"):
        model.learn(16 * 4 * 4)  # ranked every two rollouts
    assert model.rollout_buffer.stats["shrunk"] == 2


@pytest.mark.parametrize("credit", ["episode", "terminal", "telescoped"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_returns_are_left_out_and_counted(credit, bad):
    env = make(rewards=lambda env, r: bad if env.steps == 3 and env.state[0] > 1 else r)
    model = make_model(env=env, credit=credit, vf_coef=0.5)
    with pytest.warns(UserWarning, match="NaN or infinite return.*check the rewards of the environment"):
        model.learn(128 * 3)
    finished = np.concatenate([e.unwrapped.finished for e in env.envs])
    assert model.rollout_buffer.stats["nonfinite"] == np.sum(~np.isfinite(finished)) > 0
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())


@pytest.mark.parametrize("credit", ["episode", "terminal", "telescoped"])
def test_rewards_that_are_all_nan_change_nothing_and_are_counted(credit):
    env = make(rewards=lambda env, r: np.nan)
    model = make_model(env=env, credit=credit, patience=2)
    before = [p.clone() for p in model.policy.parameters()]
    with pytest.warns(UserWarning, match="an episode ended with a NaN|only 0 episodes ended in 64 steps") as warned:
        model.learn(128 * 6)
    assert len(warned) == 2
    finished = sum(len(e.unwrapped.finished) for e in env.envs)
    stats = model.rollout_buffer.stats
    assert finished - stats["abandoned"] <= stats["nonfinite"] <= finished
    assert stats["nonfinite"] > 20
    for old, new in zip(before, model.policy.parameters(), strict=True):
        assert torch.equal(old, new)


def test_telescoped_rewards_add_up_to_the_transformed_return():
    """With gamma = lambda = 1 and a critic of 0, the advantage at an episode's first step is f(R) - f(0)."""
    unscaled: dict[str, Any] = {"unit_scale": False, "gamma": 1.0, "gae_lambda": 1.0, "learning_rate": 0.0}
    model = make_model(credit="telescoped", cap=None, objective="cvar:0.4", **unscaled)
    torch.nn.init.zeros_(model.policy.value_net.weight)
    spy = Spy()
    model.learn(128, callback=spy)
    episodes = episodes_of(spy.rows, 4)
    a = og.advantages(np.array([e[2] for e in episodes]), "cvar:0.4")
    first = dict(
        zip(map(tuple, model.rollout_buffer.observations.tolist()), model.rollout_buffer.advantages, strict=True)
    )
    got = np.array([first[tuple(o[0].tolist())] for o, _, _ in episodes])
    np.testing.assert_allclose(got - got.mean(), a, atol=1e-4)


def test_telescoped_mean_is_ppo():
    """For the mean the telescoped rewards are the rewards times N/(N-1), and GAE is that of Stable-Baselines3."""
    ours = make_model(env=make(end="terminated"), credit="telescoped", learning_rate=0.0, unit_scale=False)
    ours.learn(128)
    n = ours.rollout_buffer.stats["episodes"]
    theirs = make_model(PPO, env=make(end="terminated"), learning_rate=0.0)
    kept = []
    theirs.train = lambda: kept.append((theirs.rollout_buffer.rewards.copy(), theirs.rollout_buffer.values.copy()))
    theirs.learn(128)
    buffer = theirs.rollout_buffer
    buffer.rewards = kept[0][0] * np.float32(n / (n - 1))
    last = theirs.policy.predict_values(torch.as_tensor(theirs._last_obs)).detach()
    buffer.compute_returns_and_advantage(last, theirs._last_episode_starts)
    np.testing.assert_allclose(ours.rollout_buffer.advantages.reshape(32, 4), buffer.advantages, atol=2e-4)
    np.testing.assert_allclose(ours.rollout_buffer.returns.reshape(32, 4), buffer.returns, atol=2e-4)


def test_terminal_reward_is_the_advantage():
    unscaled: dict[str, Any] = {"unit_scale": False, "gamma": 1.0, "gae_lambda": 1.0, "learning_rate": 0.0}
    model = make_model(credit="terminal", objective="max@4", **unscaled)
    torch.nn.init.zeros_(model.policy.value_net.weight)
    spy = Spy()
    model.learn(128, callback=spy)
    episodes = episodes_of(spy.rows, 4)
    a = og.advantages(np.array([e[2] for e in episodes]), "max@4")
    step = dict(
        zip(map(tuple, model.rollout_buffer.observations.tolist()), model.rollout_buffer.advantages, strict=True)
    )
    for (obs, _, _), expected in zip(episodes, a, strict=True):
        np.testing.assert_allclose([step[tuple(o)] for o in obs.tolist()], expected, atol=1e-5)


def test_discounted_returns_can_be_ranked():
    model = make_model(discount=0.5, learning_rate=0.0)
    spy = Spy()
    model.learn(128, callback=spy)
    expected, power, total = [], np.ones(4), np.zeros(4)
    for _, _, rewards, dones in spy.rows:
        total, power = total + power * rewards, power / 2
        expected += list(total[dones])
        total[dones], power[dones] = 0, 1
    np.testing.assert_allclose(model.rollout_buffer.ended, expected)


def test_plain_ppo_with_the_buffer_and_the_callback():
    settings = {"rollout_buffer_class": OrderGradRolloutBuffer, "rollout_buffer_kwargs": {"objective": "cvar:0.2"}}
    model = make_model(PPO, normalize_advantage=False, **settings)
    model.learn(128, callback=RecordRewards())
    assert model.rollout_buffer.stats["episodes"] > 5
    with pytest.raises(RuntimeError, match="callback=RecordRewards"):
        make_model(PPO, **settings).learn(128)


def test_a_rollout_broken_off_leaves_no_wrong_returns():
    env = make(mean_length=12.0)
    model = make_model(env=env, learning_rate=0.0)
    model.learn(128, callback=lambda see, _: see["n_steps"] < 20)  # a user's callback stops it
    model.learn(128 * 3, reset_num_timesteps=False)
    finished = np.concatenate([e.unwrapped.finished for e in env.envs])
    assert all(np.isclose(finished, r).any() for r in model.rollout_buffer.ended)
    abandoned = model.rollout_buffer.stats["abandoned"]
    model.learn(128)  # resets the environments
    assert model.rollout_buffer.stats["abandoned"] >= abandoned


def test_an_episode_cut_by_a_new_learn_is_never_ranked():
    model = make_model(env=make(mean_length=1e9))
    model.learn(128)
    model.learn(128)
    assert model.rollout_buffer.stats["abandoned"] == 4
    assert model.rollout_buffer.stats["open"] == 128


def test_saving_and_loading(tmp_path):
    env = make()
    model = make_model(
        env=env, objective="0.5*mean+0.5*cvar:0.25", credit="telescoped", min_episodes=5, unit_scale=True
    )
    model.learn(128)
    model.save(tmp_path / "model")
    loaded = OrderGradPPO.load(tmp_path / "model", env=env, device="cpu")
    assert str(loaded.rollout_buffer.objective) == "0.5*mean+0.5*cvar:0.25"
    ranking = loaded.rollout_buffer.ranking
    assert (ranking.credit, ranking.min_episodes) == ("telescoped", 5)
    assert (loaded.normalize_advantage, loaded.vf_coef) == (True, 0.5)
    for old, new in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(old, new)
    loaded.learn(128)
    assert loaded.rollout_buffer.stats["episodes"] > 5


def test_loading_keeps_a_scheduled_objective_and_the_counts(tmp_path):
    model = make_model(objective="mean", unit_scale=True)
    model.learn(128)
    model.rollout_buffer.objective = "cvar:0.3"
    model.learn(128, reset_num_timesteps=False)
    model.save(tmp_path / "model")
    loaded = OrderGradPPO.load(tmp_path / "model", env=make(), device="cpu")
    assert str(loaded.rollout_buffer.objective) == "cvar:0.3"
    before, after = model.rollout_buffer.stats, loaded.rollout_buffer.stats
    assert before["total"] > 10
    assert (after["total"], after["scale"]) == (before["total"], before["scale"])
    assert loaded.rollout_buffer.ranking.unit == pytest.approx(before["scale"] / 0.3)
    loaded.learn(128, reset_num_timesteps=False)
    assert after["total"] == before["total"] + after["episodes"]


def test_loading_takes_arguments_anew_and_keeps_the_others(tmp_path):
    path = tmp_path / "model"
    make_model(objective="max@4", min_episodes=5, discount=0.9, gamma=0.8).save(path)

    def loaded(**kwargs):
        model = OrderGradPPO.load(path, env=make(), device="cpu", **kwargs)
        ranking = model.rollout_buffer.ranking
        kept = (ranking.min_episodes, ranking.discount, model.gamma)
        return model, (str(ranking.objective), ranking.credit, ranking.unit_scale, model.vf_coef), kept

    assert loaded()[1:] == (("max@4", "episode", False, 0.0), (5, 0.9, 0.8))
    assert loaded(objective="cvar:0.3")[1:] == (("cvar:0.3", "episode", False, 0.0), (5, 0.9, 0.8))
    model, changed, kept = loaded(objective="cvar:0.3", credit="telescoped", patience=7)
    assert (changed, kept) == (("cvar:0.3", "telescoped", True, 0.5), (5, 0.9, 0.8))
    assert (model.normalize_advantage, model.rollout_buffer.ranking.patience) == (True, 7)
    model.learn(128)
    assert model.rollout_buffer.stats["episodes"] > 5
    model.save(path)
    assert loaded()[1:] == (("cvar:0.3", "telescoped", True, 0.5), (5, 0.9, 0.8))
    assert loaded(credit="terminal", vf_coef=0.2, gamma=0.7)[1:] == (("cvar:0.3", "terminal", True, 0.2), (5, 0.9, 0.7))
    assert loaded(rollout_buffer_kwargs={"min_episodes": 9})[2] == (9, 0.9, 0.8)
    with pytest.raises(ValueError, match="did you mean 'cvar'"):
        loaded(objective="cvr:0.3")
    with pytest.raises(ValueError, match="rollout_buffer_kwargs must not hold objective"):
        loaded(objective="mean", rollout_buffer_kwargs={"objective": "cvar:0.3"})


def test_arguments_of_the_algorithm_may_go_by_position():
    model = OrderGradPPO("MlpPolicy", make(), 1e-5, 64, 32, objective="cvar:0.2", device="cpu")
    assert (model.learning_rate, model.n_steps, model.batch_size) == (1e-5, 64, 32)
    assert OrderGradA2C("MlpPolicy", make(), 1e-5, 64, device="cpu").n_steps == 64
    with pytest.raises(ValueError, match="rollout_buffer_kwargs must not hold objective"):
        make_model(objective="mean", rollout_buffer_kwargs={"objective": "cvar:0.1"})


def test_a_schedule_may_change_the_objective():
    model = make_model()

    def schedule(see, _):
        see["self"].rollout_buffer.objective = og.anneal("mean", "cvar:0.1", see["self"].num_timesteps / 10_000)
        return True

    model.learn(128, callback=schedule)
    assert "cvar" in str(model.rollout_buffer.objective)


def test_bad_input_is_an_error_before_training():
    with pytest.raises(ValueError, match="did you mean 'cvar'"):
        make_model(objective="cvr:0.1")
    with pytest.raises(ValueError, match="objective must have a nonzero term"):
        make_model(objective="max@4-max@4")
    with pytest.raises(ValueError, match="credit must be one of episode, terminal, telescoped"):
        make_model(credit="step")
    for name in ("min_episodes", "patience", "pool"):
        for number in ("4", -3, 0, 2.5, True, None):
            with pytest.raises(ValueError, match=f"{name} must be a positive whole number; got {number!r}"):
                make_model(**{name: number})
        assert make_model(**{name: np.int64(4)})
    for discount in (0.0, 1.1, np.nan, "0.5"):
        with pytest.raises(ValueError, match=f"0 < discount <= 1; got {discount!r}"):
            make_model(discount=discount)
    box = spaces.Box(0, 1, (1,))
    with pytest.raises(ValueError, match="FlattenObservation"):
        OrderGradRolloutBuffer(4, spaces.Tuple((box, box)), box)


# Steps that wait -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:more steps wait")
def test_episodes_of_forty_rollouts_are_ranked_and_two_rollouts_wait_at_most():
    env = make(mean_length=300.0)
    model = make_model(env=env, n_steps=8, learning_rate=0.0, patience=200)
    rows = []

    def watch(see, _):
        rows.append(len(see["rollout_buffer"]._stretch.get("clock", ())))
        return True

    model.learn(8 * 4 * 300, callback=watch)
    finished = np.concatenate([e.unwrapped.finished for e in env.envs])
    assert max(rows) == 16
    stats = model.rollout_buffer.stats
    assert stats["total"] + stats["waiting"] == len(finished) > 20
    assert stats["abandoned"] == 0


@pytest.mark.filterwarnings("ignore:more steps wait")
def test_the_kept_steps_of_a_long_episode_have_the_weight_of_all():
    """For the constant gradient of 1 per step, A times the length of the episode is what all its steps add up to."""
    sums, lengths = [], []
    for seed in range(40):
        np.random.seed(seed)  # noqa: NPY002
        buffer = OrderGradRolloutBuffer(4, spaces.Box(0, 1, (1,)), spaces.Discrete(2), n_envs=2, device="cpu")
        length = 30
        for rollout in range(8):
            buffer.reset()
            for t in range(4):
                step = rollout * 4 + t
                start = np.array([step in (0, length), step in (0, length)])
                buffer.observe(np.array([1.0, 0.0]) * (step == 0))
                zeros = torch.zeros(2)
                buffer.add(np.zeros((2, 1)), np.zeros((2, 1)), np.zeros(2), start, zeros, zeros)
            buffer.compute_returns_and_advantage(torch.zeros(2), np.array([False, False]))
            if buffer.ready:
                sums.append(buffer.advantages[buffer.advantages > 0].sum())
                lengths.append(len(buffer.advantages))
    assert len(sums) == 40
    assert max(lengths) <= 2 * 12  # two waiting rollouts and the present one, of two environments
    assert np.mean(sums) == pytest.approx(30, rel=0.1)


def test_the_best_episodes_are_long_and_are_learned():
    """An episode of ten rollouts returns 60 if its first action is 1, otherwise it ends at once."""

    class Choose(Walk):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.long = None
            return np.zeros(2, np.float32), {}

        def step(self, action):
            if self.long is None:
                self.long, self.steps = int(action) == 1, 0
            self.steps += 1
            return np.ones(2, np.float32), 1.0, self.steps >= (60 if self.long else 2), False, {}

    env = DummyVecEnv([Choose] * 8)
    env.seed(0)
    model = make_model(env=env, n_steps=8, learning_rate=3e-2, n_epochs=4)

    def probability():
        with torch.no_grad():
            return float(model.policy.get_distribution(torch.zeros(1, 2)).distribution.probs[0, 1])

    before = probability()
    with pytest.warns(UserWarning, match="No episode is left out"):
        model.learn(8 * 8 * 60)
    assert probability() > before + 0.2
