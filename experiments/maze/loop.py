"""A policy-gradient loop for the guarded maze that trains one policy per seed, all of them side by side.

Every seed has its own random numbers, so a policy does not depend on which others are trained with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import ordergrad as og
from ordergrad.conditions import Bernoulli, ConditionSampler
from ordergrad.envs import guarded_maze as maze

TRUE_GUARDS = 0.2
NOISE = 0.2
TIME_LIMIT = 160
LEVEL = 0.05
TAIL = f"cvar:{LEVEL}"
SOFT = 0.8  # share of the updates in which the level of CeSoR falls to LEVEL

Act = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Actions for positions (m, 2), the index of the policy that acts in each row, and a uniform number per row."""


@dataclass(frozen=True)
class Settings:
    """How a policy is trained."""

    objective: str = "annealed"  # "mean", "cvar", "annealed" (from the mean to CVaR), "gcvar" or "cesor"
    guards: float | None = 0.5  # probability of a guard in training; None: found by cross-entropy
    weights: str = "tempered"  # "none": 1, "tempered": omega^t, "full": omega, "likelihood": that of unmet guards too
    learning_rate: float = 0.02
    entropy: float = 0.2  # coefficient of the entropy bonus, falls linearly to 0
    steady: bool = True  # advantages in units of their running spread, gradient clipped, step size falling to 0
    patience: int = 30  # a policy that reaches the goal in under 5% of the episodes of so many batches is given up
    ramp: float = 0.65  # share of the updates after which t = 1
    updates: int = 250
    episodes: int = 400
    hidden: int = 32
    test_episodes: int = 20_000


# Episodes -----------------------------------------------------------------------------------------------------------


@dataclass
class Played:
    """A batch of finished episodes, and all their steps in one flat list."""

    returns: np.ndarray  # (episodes,)
    touched: np.ndarray  # the guard zone was touched
    reached: np.ndarray  # the goal was reached
    end: np.ndarray  # (episodes, 2)
    position: np.ndarray  # (steps, 2), before the step
    action: np.ndarray  # (steps,)
    episode: np.ndarray  # (steps,), which episode a step belongs to


def play(act: Act, guards: Sequence[np.ndarray], rngs: Sequence[np.random.Generator]) -> list[Played]:
    """Play one episode for each entry of guards[i], under policy i and with the random numbers of rngs[i]."""
    counts = [len(guard) for guard in guards]
    started = [maze.start_episodes(rng, len(guard), guard=guard) for guard, rng in zip(guards, rngs, strict=True)]
    running = maze.Episodes(**{name: np.concatenate([vars(s)[name] for s in started]) for name in vars(started[0])})
    policy = np.arange(len(counts)).repeat(counts)

    n = len(policy)
    returns, touched, reached, end = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool), np.zeros((n, 2))
    steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    who = np.arange(n)
    for _ in range(TIME_LIMIT):
        left = np.bincount(policy[who], minlength=len(rngs))
        uniform = np.concatenate([rng.random(n) for rng, n in zip(rngs, left, strict=True)])
        noise = np.concatenate([rng.standard_normal((n, 2)) for rng, n in zip(rngs, left, strict=True)])
        position, action = running.position.copy(), act(running.position, policy[who], uniform)
        reward, done = maze.advance(running, action, NOISE * noise)
        steps.append((position, action, who))
        returns[who] += reward
        touched[who], reached[who], end[who] = running.touched, done, running.position
        if done.any():
            running, who = running[~done], who[~done]
        if len(who) == 0:
            break

    position, action, episode = (np.concatenate(column) for column in zip(*steps, strict=True))
    played, first = [], 0
    for n in counts:
        mine, rows = slice(first, first + n), np.flatnonzero((episode >= first) & (episode < first + n))
        batch = (returns[mine], touched[mine], reached[mine], end[mine])
        played.append(Played(*batch, position[rows], action[rows], episode[rows] - first))
        first += n
    return played


ONES = np.ones((len(maze.MOVES), 1), np.float32)  # a product with it sums over actions, much faster than sum(axis=1)


class Policy:
    """A network 64-hidden-hidden-4 with tanh, its gradient by hand: for so small a network that is quickest."""

    def __init__(self, hidden: int, rng: np.random.Generator):
        sizes = [(64, hidden), (hidden, hidden), (hidden, len(maze.MOVES))]
        ends = np.cumsum([(n + 1) * m for n, m in sizes])
        self.parameters = np.empty(ends[-1], np.float32)
        self.layers = self.views(self.parameters, sizes)
        for layer, (n, _) in zip(self.layers, sizes, strict=True):
            layer[:] = rng.uniform(-1, 1, layer.shape) / np.sqrt(n)
        self.layers[-1][:-1] *= 0.1  # start close to the uniform policy
        self.layers[-1][-1] = 0.0

    @staticmethod
    def views(flat: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The weights of every layer, its biases in the last row, as views of one vector."""
        ends = np.cumsum([(n + 1) * m for n, m in sizes])
        return [part.reshape(-1, m) for part, (_, m) in zip(np.split(flat, ends[:-1]), sizes, strict=True)]

    def forward(self, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Both hidden layers and the log probabilities of the actions."""
        one, two, three = self.layers
        first = np.tanh(seen @ one[:-1] + one[-1])
        second = np.tanh(first @ two[:-1] + two[-1])
        scores = second @ three[:-1] + three[-1]
        return first, second, scores - np.log(np.exp(scores) @ ONES)

    def gradient(self, seen: np.ndarray, action: np.ndarray, weight: np.ndarray, entropy: float) -> np.ndarray:
        """The gradient of sum(weight * log p(action)) + entropy * (mean entropy of the policy)."""
        first, second, log_p = self.forward(seen)
        p = np.exp(log_p)
        scores = -p * (weight[:, None] + entropy / len(p) * (log_p - (p * log_p) @ ONES))
        scores[np.arange(len(p)), action] += weight
        gradient = np.empty_like(self.parameters)
        parts = self.views(gradient, [(len(layer) - 1, layer.shape[1]) for layer in self.layers])
        for layer, part, below in zip(self.layers[::-1], parts[::-1], (second, first, seen), strict=True):
            part[:-1], part[-1] = below.T @ scores, scores.sum(axis=0)
            if below is not seen:
                scores = (scores @ layer[:-1].T) * (1 - below**2)
        return gradient


def look(position: np.ndarray) -> np.ndarray:
    """What a policy sees: the map of the environment, flat."""
    return maze.observe(position).reshape(len(position), -1)


def acting(policies: Sequence[Policy]) -> Act:
    """Actions drawn from the policies as they are at the time of the call."""

    def act(position: np.ndarray, policy: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        seen, borders = look(position), np.searchsorted(policy, np.arange(len(policies) + 1))
        parts = [one.forward(seen[i:j])[-1] for one, i, j in zip(policies, borders[:-1], borders[1:], strict=True)]
        upto = np.exp(np.concatenate(parts)).cumsum(axis=1)
        return (uniform[:, None] >= upto[:, :-1]).sum(axis=1)

    return act


# Training -----------------------------------------------------------------------------------------------------------


def make_sampler(guards: float | None, episodes: int, seed: int) -> ConditionSampler | None:
    """The sampler that seeks out the conditions of the worst episodes, if the guard probability is not given."""
    if guards is not None:
        return None
    return ConditionSampler(Bernoulli(TRUE_GUARDS), seed=seed, tail=LEVEL, elite=LEVEL, every=episodes)


def draw_guards(
    n: int, guards: float | None, sampler: ConditionSampler | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Guards for n episodes, and the likelihood ratio of each: its true probability over the sampled one."""
    if sampler is not None:
        return sampler.sample(n)
    guard = rng.random(n) < guards
    return guard, np.where(guard, TRUE_GUARDS / guards, (1 - TRUE_GUARDS) / (1 - guards))


def importance_weights(ratio: np.ndarray, touched: np.ndarray, weights: str, t: float) -> np.ndarray:
    """Weights of episodes. A guard that was never met has not changed the episode, which then has weight 1."""
    if weights == "likelihood":
        return ratio
    return np.where(touched, ratio, 1.0) ** {"none": 0.0, "tempered": t, "full": 1.0}[weights]


def advantages(returns: np.ndarray, objective: str, done: float, t: float, omega: np.ndarray) -> np.ndarray:
    """Advantages of episodes after a share `done` of the updates, t of the way from the mean to CVaR."""
    if objective in ("gcvar", "cesor"):
        return gcvar_advantages(returns, omega, LEVEL if objective == "gcvar" else soft_level(done))
    chosen = {"mean": "mean", "cvar": TAIL, "annealed": og.anneal("mean", TAIL, t)}[objective]
    return og.advantages(returns, chosen, sample_weight=omega)


def soft_level(done: float) -> float:
    """The level of CeSoR (Greenberg et al. 2022): from all episodes to the tail."""
    return LEVEL + (1 - LEVEL) * max(0.0, 1 - done / SOFT)


def gcvar_advantages(returns: np.ndarray, omega: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """GCVaR (Tamar et al. 2015): the shortfall below the value at risk, for episodes of the tail only."""
    order = returns.argsort()
    below = (omega[order] / omega.sum()).cumsum()
    value_at_risk = returns[order][min(np.searchsorted(below, level), len(returns) - 1)]
    return np.minimum(returns - value_at_risk, 0.0) / level


class Adam:
    """Gradient ascent with Adam's step."""

    def __init__(self, size: int):
        self.mean, self.square, self.steps = np.zeros(size), np.zeros(size), 0

    def step(self, gradient: np.ndarray, learning_rate: float) -> np.ndarray:
        self.steps += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient**2 - self.square)
        square = self.square / (1 - 0.999**self.steps)
        return learning_rate * self.mean / (1 - 0.9**self.steps) / (np.sqrt(square) + 1e-8)


class Learner:
    """One policy in training."""

    def __init__(self, settings: Settings, seed: int):
        self.settings, self.rng = settings, np.random.default_rng(seed)
        self.policy = Policy(settings.hidden, self.rng)
        self.adam = Adam(len(self.policy.parameters))
        self.sampler = make_sampler(settings.guards, settings.episodes, seed)
        self.spread: float | None = None  # running root mean square of the advantages
        self.idle = 0  # batches since one in which 5% of the episodes reached the goal

    @property
    def given_up(self) -> bool:
        return self.idle >= self.settings.patience

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        return draw_guards(self.settings.episodes, self.settings.guards, self.sampler, self.rng)

    def learn(self, played: Played, guard: np.ndarray, ratio: np.ndarray, update: int) -> None:
        """An ordinary policy-gradient step: every step of an episode carries the episode's advantage."""
        settings = self.settings
        self.idle = 0 if played.reached.mean() >= 0.05 else self.idle + 1
        done = update / settings.updates
        left, t = 1 - done, min(1.0, done / settings.ramp)
        if self.sampler is not None:
            self.sampler.report(guard, ratio, played.returns)
        omega = importance_weights(ratio, played.touched, settings.weights, t)
        share = omega / omega.sum()
        advantage = advantages(played.returns, settings.objective, done, t, omega)
        if settings.steady:
            # A running spread: divided by its own, a batch would count least when it holds a caught episode.
            spread = float(np.sqrt((share * advantage**2).sum()))
            self.spread = spread if self.spread is None else 0.9 * self.spread + 0.1 * spread
            advantage = advantage / (self.spread + 1e-8)
        weight = (share * advantage)[played.episode].astype(np.float32)
        gradient = self.policy.gradient(look(played.position), played.action, weight, settings.entropy * left)
        if settings.steady:
            gradient *= min(1.0, 0.5 / (np.linalg.norm(gradient) + 1e-6))
        self.policy.parameters += self.adam.step(gradient, settings.learning_rate * (left if settings.steady else 1.0))


def train(
    settings: Settings, seeds: Sequence[int], report: Callable[[int], None] = lambda update: None
) -> list[Learner]:
    """Train one policy per seed."""
    learners = [Learner(settings, seed) for seed in seeds]
    for update in range(settings.updates):
        active = [learner for learner in learners if not learner.given_up]
        if not active:
            break
        drawn = [learner.draw() for learner in active]
        act = acting([learner.policy for learner in active])
        batches = play(act, [guard for guard, _ in drawn], [learner.rng for learner in active])
        for learner, played, (guard, ratio) in zip(active, batches, drawn, strict=True):
            learner.learn(played, guard, ratio, update)
        report(update + 1)
    return learners


# Evaluation ---------------------------------------------------------------------------------------------------------


def test_rng() -> np.random.Generator:
    """The same fresh episodes for every policy."""
    return np.random.default_rng(10_000_019)


def evaluate(act: Act, episodes: int, rng: np.random.Generator) -> dict[str, Any]:
    """Fresh episodes of one policy under the true guard probability."""
    chunks: list[Played] = []
    for first in range(0, episodes, 5000):
        chunks += play(act, [rng.random(min(5000, episodes - first)) < TRUE_GUARDS], [rng])
    returns, touched, reached = (
        np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("returns", "touched", "reached")
    )
    tail, tail_error = og.value_and_error(returns, TAIL)
    return {
        "mean": float(returns.mean()),
        "cvar": float(tail),
        "mean_error": float(returns.std(ddof=1) / np.sqrt(episodes)),
        "cvar_error": float(tail_error),
        "safe": float((reached & ~touched).mean()),
        "touched": float(touched.mean()),
        "reached": float(reached.mean()),
    }
