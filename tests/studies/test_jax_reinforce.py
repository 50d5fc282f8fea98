"""The JAX example: its gradient against every possible batch, seeds side by side against seeds alone."""

from itertools import product
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from studies import load

import ordergrad as og


@pytest.fixture(scope="module")
def example():
    return load("jax_reinforce")


def dive(environment, actions):
    """Return the observations and the return of a sequence of actions."""
    key, seen, total = jax.random.key(0), [], 0.0
    observation, state = environment.reset(key)
    for number, action in enumerate(actions, 1):
        seen.append(observation)
        observation, state, reward, done, _ = environment.step(key, state, jnp.asarray(action))
        total += float(reward)
        assert bool(done) == (number == environment.horizon)
    return jnp.stack(seen), total


def policy(example, environment, hidden=()):
    """Return weights of a policy that is not uniform."""
    params = example.init(jax.random.key(3), (environment.observation, *hidden, environment.actions))
    shapes, build = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(shapes))
    return build.unflatten([0.7 * jax.random.normal(k, w.shape) for k, w in zip(keys, shapes, strict=True)])


@pytest.mark.parametrize("baseline", ["leave_one_out", "k_minus_one"])
@pytest.mark.parametrize("objective", ["mean", "max@3", "top:2@3", "cvar:0.4@3", "0.5*mean+0.5*max@2.5"])
def test_the_expected_gradient_is_the_exact_one_over_every_batch_of_episodes(example, objective, baseline):
    """Four dives of two steps: 4^4 batches. Cosine 1 and scalar 1 with the derivative of the exact objective."""
    environment = example.deep_sea(2, treasure=3.0, decoy=1.0, guide=0.5)
    every = list(product([0, 1], repeat=2))
    seen, returns = zip(*(dive(environment, actions) for actions in every), strict=True)
    obs, actions, returns = jnp.stack(seen), jnp.array(every), jnp.array(returns)
    assert len(set(returns.tolist())) == 4
    params = policy(example, environment, hidden=(3,))

    def probabilities(params):
        log_pi = jax.nn.log_softmax(example.apply(params, obs))
        return jnp.exp(jnp.take_along_axis(log_pi, actions[..., None], axis=-1)[..., 0].sum(axis=1))

    def one(params, chosen):
        episodes = example.Episodes(obs[chosen], actions[chosen], jnp.ones((4, 2)), returns[chosen])
        settings = example.Settings(objective, baseline)
        return example.loss(params, episodes, example.advantages_at(settings, returns[chosen], 0.3), 0.0)

    batches = jnp.array(list(product(range(4), repeat=4)))
    weight = probabilities(params)[batches].prod(axis=1)
    gradients = jax.jit(jax.vmap(jax.grad(one), (None, 0)))(params, batches)
    expected = jax.tree.map(lambda g: jnp.tensordot(weight, g, 1), gradients)
    exact = jax.grad(lambda p: -og.exact.value(returns, probabilities(p), objective))(params)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(exact)) > 0.01
    for got, wanted in zip(jax.tree.leaves(expected), jax.tree.leaves(exact), strict=True):
        assert_allclose(got, wanted, atol=1e-12)


def test_a_schedule_ascends_the_annealed_objective(example):
    returns = jnp.asarray(np.random.default_rng(0).normal(size=8))
    got = example.advantages_at(example.Settings("max@4..mean"), returns, jnp.asarray(0.25))
    assert_allclose(got, og.advantages(returns, og.anneal("max@4", "mean", 0.25)), atol=1e-13)


def test_seeds_side_by_side_equal_seeds_alone(example):
    environment = example.deep_sea(3, odds=0.5)
    settings = example.Settings("max@4", episodes=8, updates=20, hidden=(4,))
    rates, bonuses, seeds = jnp.array([0.01, 0.1]), jnp.array([0.0, 0.2]), jnp.array([4, 9])
    together = example.train_seeds(environment, settings, rates, bonuses, seeds)
    for i in range(2):
        alone = jax.jit(example.train, static_argnums=(0, 1))(environment, settings, rates[i], bonuses[i], seeds[i])
        for many, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            assert_allclose(many[i], one, rtol=1e-9, atol=1e-12)
    assert not np.allclose(together[1]["mean"][0], together[1]["mean"][1])


def test_the_deep_sea_by_all_its_dives(example):
    depth = 6
    environment = example.deep_sea(depth, treasure=7.0, decoy=2.0, guide=-0.6)
    ends = []
    for actions in product([0, 1], repeat=depth):
        column = 0
        for action in actions:
            column = column + 1 if action else max(0, column - 1)
        prize = {0: 2.0, depth: 7.0}.get(column, 0.0)
        assert dive(environment, actions)[1] == pytest.approx(prize - 0.1 * sum(actions), abs=1e-6)
        ends.append(column)
    assert ends.count(depth) == 1
    assert ends.count(0) == comb(depth, depth // 2)


def test_a_treasure_that_is_there_now_and_then(example):
    environment = example.deep_sea(1, treasure=10.0, decoy=0.0, odds=0.25)
    right = [(jnp.zeros((1, 2)), jnp.array([-30.0, 30.0]))]
    returns = np.asarray(example.play(environment, right, jax.random.split(jax.random.key(1), 20_000)).returns)
    assert set(returns) == {0.0, 10.0}
    assert (returns == 10.0).mean() == pytest.approx(0.25, abs=0.02)


def lives(example, horizon, chance=0.5):
    """Return an environment that pays 1 a step and ends by chance."""

    def step(key, state, action):
        done = jax.random.bernoulli(key, chance)
        return jnp.ones(1), state + 1, jnp.ones(()), done, {}

    return example.Environment(lambda key: (jnp.ones(1), jnp.zeros((), int)), step, 1, 2, horizon)


def test_what_comes_after_an_episode_does_not_count(example):
    environment = lives(example, 60)
    episodes = example.play(environment, policy(example, environment), jax.random.split(jax.random.key(0), 500))
    lengths = np.asarray(episodes.w_t.sum(axis=1))
    assert_allclose(episodes.returns, lengths)
    assert 1.7 < lengths.mean() < 2.3
    assert (np.diff(np.asarray(episodes.w_t), axis=1) <= 0).all()
    params = policy(example, environment)
    changed = episodes._replace(a_t=jnp.where(episodes.w_t > 0, episodes.a_t, 1 - episodes.a_t))
    a = og.advantages(episodes.returns, "max@4")
    assert_allclose(example.loss(params, episodes, a, 0.1), example.loss(params, changed, a, 0.1), rtol=1e-12)


def test_episodes_that_do_not_end_are_an_error_before_training(example):
    with pytest.raises(ValueError, match=r"within horizon=3 steps; got \d+ of 64 that did not: raise the horizon"):
        example.train_seeds(lives(example, 3), example.Settings(), jnp.ones(1), jnp.zeros(1), jnp.arange(1))


def test_it_learns_and_prints_what(example, capsys):
    example.main(["--objective", "max@4", "--depth", "3", "--seeds", "2", "--updates", "150"])
    out = capsys.readouterr().out
    rows = [line.split("│") for line in out.splitlines() if line.startswith("│")]
    assert len(rows) == 2
    assert all(float(row[3]) == pytest.approx(10.0, abs=0.1) for row in rows)


def test_a_comparison_size_that_does_not_fit_is_an_error(example):
    with pytest.raises(SystemExit, match="k must satisfy"):
        example.main(["--objective", "max@8", "--episodes", "8", "--depth", "3", "--seeds", "1"])
