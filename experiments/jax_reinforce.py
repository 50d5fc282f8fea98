"""REINFORCE on ranks in JAX: training is one pure function of a seed, compiled whole and mapped over seeds.

The environment is `deep_sea`: a treasure that one sequence of actions reaches, and a small reward close by. The mean
settles for the small reward; the best of eight goes on looking.

    python experiments/jax_reinforce.py --objective mean
    python experiments/jax_reinforce.py --objective max@8

Everything is an array or a function of arrays: an environment is its functions `reset` and `step`, with gymnax's
arguments and results, a policy is a list of weights, an optimiser is optax's. So `jax.vmap` takes seeds, learning rates
or entropy coefficients alike, and `jax.jit` compiles the whole training with them.

Needs `pip install ".[jax,cli]" optax`. How to change it: docs/adapters/jax.md.

References:
    Williams (1992). Simple statistical gradient-following algorithms for connectionist reinforcement learning.
    Osband et al. (2019). Deep exploration via randomized value functions. JMLR 20. (the deep sea, without a decoy)
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import ordergrad as og
from ordergrad.train.llm_settings import stages
from ordergrad.weights import Baseline

Params = list[tuple[jax.Array, jax.Array]]
State = Any


# The environment ----------------------------------------------------------------------------------------------------


class Environment(NamedTuple):
    """An environment in pure functions, as gymnax has them, its parameters bound."""

    reset: Callable[[jax.Array], tuple[jax.Array, State]]  # key -> observation, state
    step: Callable[[jax.Array, State, jax.Array], tuple[jax.Array, State, jax.Array, jax.Array, dict[str, Any]]]
    observation: int  # length of an observation
    actions: int
    horizon: int  # no episode is longer


def deep_sea(
    depth: int, treasure: float = 10.0, decoy: float = 1.0, guide: float = 0.0, odds: float = 1.0
) -> Environment:
    """Return a dive of `depth` steps: every step goes down, and left or right.

    It starts at the left wall. Only by going right at every step does it end on the treasure, the outermost column: a
    uniform policy finds it once in 2^depth episodes. The small reward lies under the wall, where a quarter of its
    episodes end (depth 10).

    Args:
        depth: The number of steps.
        treasure: What the outermost column pays.
        decoy: What the column under the wall pays.
        guide: What the steps to the right pay together: a hint where it is positive, a price where it is negative.
        odds: The probability that the treasure is there.
    """

    def observe(row: jax.Array, column: jax.Array) -> jax.Array:
        return jax.nn.one_hot(row * depth + column, depth * depth)

    def reset(key: jax.Array) -> tuple[jax.Array, State]:
        state = jnp.zeros(2, jnp.int32)
        return observe(*state), state

    def step(key: jax.Array, state: State, action: jax.Array) -> tuple[Any, ...]:
        row, column = state[0] + 1, jnp.maximum(state[1] + 2 * action - 1, 0)
        done = row == depth
        found = column == depth
        if odds < 1:
            found &= jax.random.uniform(key) < odds
        reward = guide / depth * action + done * (found * treasure + (column == 0) * decoy)
        return observe(row, column), jnp.stack([row, column]).astype(state.dtype), reward, done, {}

    return Environment(reset, step, depth * depth, 2, depth)


# The policy ---------------------------------------------------------------------------------------------------------


def init(key: jax.Array, sizes: tuple[int, ...]) -> Params:
    """Return the weights of a network whose last layer is zero: the first policy is the uniform one."""
    pairs = list(pairwise(sizes))
    keys = jax.random.split(key, len(pairs))
    weights = [jax.random.normal(k, pair) / pair[0] ** 0.5 for k, pair in zip(keys, pairs, strict=True)]
    weights[-1] = jnp.zeros(pairs[-1])
    return [(w, jnp.zeros(w.shape[1])) for w in weights]


def apply(params: Params, observation: jax.Array) -> jax.Array:
    """Return the logits of the actions."""
    *hidden, (w, b) = params
    for weight, bias in hidden:
        observation = jnp.tanh(observation @ weight + bias)
    return observation @ w + b


# Episodes -----------------------------------------------------------------------------------------------------------


class Episodes(NamedTuple):
    """Whole episodes, padded to the horizon: shapes (episodes, horizon, ...) and, of the returns, (episodes,)."""

    obs_t: jax.Array
    a_t: jax.Array
    w_t: jax.Array  # 1 up to the last step of the episode, 0 after
    returns: jax.Array


def play(environment: Environment, params: Params, keys: jax.Array) -> Episodes:
    """Return one episode for each key."""
    return jax.vmap(partial(_play_one, environment, params))(keys)


def _play_one(environment: Environment, params: Params, key: jax.Array) -> Episodes:
    first, key = jax.random.split(key)

    def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        observation, state, alive = carry
        k1, k2 = jax.random.split(key)
        action = jax.random.categorical(k1, apply(params, observation))
        following, state, reward, done, _ = environment.step(k2, state, action)
        return (following, state, alive * (1.0 - done)), (observation, action, alive, alive * reward)

    start = (*environment.reset(first), jnp.ones(()))
    (_, _, alive), (obs, a, w, r) = jax.lax.scan(step, start, jax.random.split(key, environment.horizon))
    return Episodes(obs, a, w, jnp.where(alive > 0, jnp.nan, r.sum()))  # NaN: it has not ended


# Training -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What is static: it fixes shapes and the compiled program."""

    objective: str = "max@8"  # "max@8..mean" turns from the first into the second
    baseline: Baseline = "leave_one_out"
    episodes: int = 64
    updates: int = 1000
    hidden: tuple[int, ...] = ()  # none: with one-hot observations, a table of logits
    unit_scale: bool = False  # advantages divided by their root mean square


def policy_gradient_loss(logits_t: jax.Array, a_t: jax.Array, adv_t: jax.Array, w_t: jax.Array) -> jax.Array:
    """Return the sum over steps of -w A log pi(a): the arguments of rlax's function of this name, which averages."""
    log_pi_a_t = jnp.take_along_axis(jax.nn.log_softmax(logits_t), a_t[:, None], axis=1)[:, 0]
    return -jnp.sum(w_t * jax.lax.stop_gradient(adv_t) * log_pi_a_t)


def entropy_loss(logits_t: jax.Array, w_t: jax.Array) -> jax.Array:
    """Return minus the sum over steps of the policy's entropy."""
    return jnp.sum(w_t[:, None] * jax.nn.softmax(logits_t) * jax.nn.log_softmax(logits_t))


def loss(params: Params, episodes: Episodes, advantages: jax.Array, entropy: jax.Array) -> jax.Array:
    """Return the mean over episodes of -A log p(episode), its gradient exactly unbiased, less the entropy bonus."""
    logits_t = apply(params, episodes.obs_t)
    adv_t = jnp.broadcast_to(advantages[:, None], episodes.w_t.shape)
    policy = jax.vmap(policy_gradient_loss)(logits_t, episodes.a_t, adv_t, episodes.w_t)
    return jnp.mean(policy + entropy * jax.vmap(entropy_loss)(logits_t, episodes.w_t))


def advantages_at(settings: Settings, returns: jax.Array, t: jax.Array) -> jax.Array:
    """Return the advantages at the share t of training: those of a mixture are the mixture of its parts' advantages."""
    begin, end = (og.advantages(returns, o, baseline=settings.baseline) for o in stages(settings.objective))
    a = (1 - t) * begin + t * end
    return a / (jnp.sqrt(jnp.mean(a**2)) + 1e-8) if settings.unit_scale else a


def train(
    environment: Environment, settings: Settings, learning_rate: jax.Array, entropy: jax.Array, seed: jax.Array
) -> tuple[Params, dict[str, jax.Array]]:
    """Return the trained policy and, for every update, what its episodes were: a pure function, to map and compile."""
    sizes = (environment.observation, *settings.hidden, environment.actions)
    optimizer = optax.adam(learning_rate)
    first, key = jax.random.split(jax.random.key(seed))
    params = init(first, sizes)

    def update(carry: Any, x: tuple[jax.Array, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
        params, state = carry
        key, t = x
        episodes = play(environment, params, jax.random.split(key, settings.episodes))
        a = advantages_at(settings, episodes.returns, t)
        gradient = jax.grad(loss)(params, episodes, a, entropy)
        changes, state = optimizer.update(gradient, state, params)
        logits_t = apply(params, episodes.obs_t)
        metrics = {
            "mean": episodes.returns.mean(),
            "best": episodes.returns.max(),
            "entropy": -jax.vmap(entropy_loss)(logits_t, episodes.w_t).sum() / episodes.w_t.sum(),
        }
        return (optax.apply_updates(params, changes), state), metrics

    steps = jax.random.split(key, settings.updates), jnp.linspace(0.0, 1.0, settings.updates)
    (params, _), metrics = jax.lax.scan(update, (params, optimizer.init(params)), steps)
    return params, metrics


def train_seeds(
    environment: Environment, settings: Settings, learning_rate: jax.Array, entropy: jax.Array, seeds: jax.Array
) -> tuple[Params, dict[str, jax.Array]]:
    """Return all that `train` returns, with one more axis in front: the seeds, each with its rate and bonus.

    Raises:
        ValueError: The episodes of the first policy do not end, or K does not fit the episodes of an update.
    """
    first = init(jax.random.key(0), (environment.observation, *settings.hidden, environment.actions))
    keys = jax.random.split(jax.random.key(0), settings.episodes)
    returns = jax.jit(play, static_argnums=0)(environment, first, keys).returns
    if endless := int(jnp.isnan(returns).sum()):
        raise ValueError(
            f"every episode must end within horizon={environment.horizon} steps; got {endless} of {len(returns)} that "
            f"did not: raise the horizon, or end episodes at a time limit"
        )
    return _train_seeds(environment, settings, learning_rate, entropy, seeds)


@partial(jax.jit, static_argnums=(0, 1))
def _train_seeds(environment: Environment, settings: Settings, *of_each: jax.Array) -> tuple[Params, Any]:
    return jax.vmap(partial(train, environment, settings))(*of_each)


@partial(jax.jit, static_argnums=(0, 3))
def fresh_returns(environment: Environment, params: Params, seeds: jax.Array, episodes: int) -> jax.Array:
    """Return the returns of fresh episodes of every seed's policy, shape (seeds, episodes)."""
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), episodes))(seeds)
    return jax.vmap(lambda p, k: play(environment, p, k).returns)(params, keys)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Dive for the treasure on an objective of ranks, many seeds at once.")
    parser.add_argument("--objective", default=Settings.objective, help="an objective, or A..B for a schedule")
    parser.add_argument("--depth", type=int, default=8, help="steps of a dive")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--episodes", type=int, default=Settings.episodes, help="episodes of an update: the group")
    parser.add_argument("--updates", type=int, default=Settings.updates)
    parser.add_argument("--learning-rate", type=float, default=0.03)
    parser.add_argument("--entropy", type=float, default=0.0, help="coefficient of the entropy bonus")
    options = parser.parse_args(argv)
    settings = Settings(options.objective, episodes=options.episodes, updates=options.updates)
    environment = deep_sea(options.depth)
    rate, bonus = (jnp.full(options.seeds, x) for x in (options.learning_rate, options.entropy))
    try:
        params, metrics = train_seeds(environment, settings, rate, bonus, jnp.arange(options.seeds))
    except ValueError as error:
        raise SystemExit(f"Error: {error}") from None
    returns = np.asarray(fresh_returns(environment, params, 1_000_003 + jnp.arange(options.seeds), 4096))
    found = np.asarray(metrics["best"]) >= 10.0
    table = Table(title=f"{options.objective}, {options.seeds} seeds, fresh episodes", title_justify="left")
    for heading in ("seed", "mean", "max@8", "treasure", "first seen in update"):
        table.add_column(heading, justify="right")
    for seed, (own, seen) in enumerate(zip(returns, found, strict=True)):
        first = str(seen.argmax() + 1) if seen.any() else "never"
        cells = (f"{og.value(own, o):.2f}" for o in ("mean", "max@8"))
        table.add_row(str(seed), *cells, f"{(own >= 10.0).mean():.0%}", first)
    Console().print(table)


if __name__ == "__main__":
    main()
