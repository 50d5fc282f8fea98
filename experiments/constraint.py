"""The most return subject to a limit on the worst tenth of the costs: a multiplier against tuned weights.

A point with inertia runs to and fro past a hazard. Progress is paid, every step in the hazard costs 1, and the wind
differs from episode to episode and is not seen, so that costs have a tail. Wanted: the most return such that the mean
cost of the worst tenth of the episodes, `uppercvar:0.1`, does not exceed a limit. All contenders are one PPO with the
same network, batches and rate; what differs is what they make of the cost:

    free          nothing: the mean return
    penalty       the reward of a step less w times its cost
    tail penalty  the mean return less w times the worst tenth of the costs, by ranks
    mean limit    a multiplier that holds the mean cost to the limit, the usual constraint of safe RL
    tail limit    a multiplier that holds the worst tenth to the limit

All but the first have three settings to choose from, w or the gains of the multiplier. The one with the most return
among those that meet the limit is taken, on seeds apart from those of the study; if none does, the one with the lowest
tail.

    python experiments/constraint.py --results experiments/results/constraint --images docs/images

Ctrl-C stops, `--resume` goes on. Results and what they mean: docs/studies/constraint.md.

References:
    Stooke, Achiam and Abbeel (2020). Responsive Safety in Reinforcement Learning by PID Lagrangian Methods.
        arXiv 2007.03964.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import study
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import ordergrad as og
from ordergrad.adapters.constraint import Constraint, Multiplier
from ordergrad.adapters.episodes import EpisodeRanking
from ordergrad.adapters.sb3 import OrderGradPPO
from ordergrad.runs.plots import COLOURS, new_figure, save

TAIL = "uppercvar:0.1"
TUNING_SEED = 100
GAINS = ((1.0, 0.05), (0.3, 0.05), (0.0, 0.05))
MEASURES = ("return", "cost", TAIL)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Settings:
    """What is trained, and what is chosen from: weights of the cost, or gains kp and ki."""

    limit: float = 8.0
    choices: Mapping[str, tuple[tuple[float, ...], ...]] = field(
        default_factory=lambda: {
            "penalty": ((0.1,), (0.2,), (0.3,)),
            "tail penalty": ((0.05,), (0.15,), (0.45,)),
            "mean limit": GAINS,
            "tail limit": GAINS,
        }
    )
    tuning_seeds: int = 2
    seeds: int = 4
    steps: int = 200_000
    envs: int = 32
    rollout: int = 64
    batch_size: int = 512
    epochs: int = 5
    learning_rate: float = 1e-3  # falls linearly to 0
    gamma: float = 0.99
    gae_lambda: float = 0.95
    episodes: int = 1000  # fresh ones, for each policy


# The task -----------------------------------------------------------------------------------------------------------


class ShuttleRun(gym.Env[Array, Array]):
    """Run to and fro past a hazard, with inertia, in a wind whose strength is drawn for each episode and not seen.

    **Observation** (9): position, velocity, way to the goal and to the hazard's centre, and the cost so far.
    **Action** (2): acceleration. **Reward**: the way that the goal has come nearer, and 1 where it is reached, after
    which it is on the other side. **Cost**: 1 for each step that ends in the hazard. **End**: after 64 steps.
    """

    observation_space = spaces.Box(-10.0, 10.0, (9,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    length, radius, near = 64, 0.4, 0.15

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        draw = self.np_random
        strength = 0.01 * math.exp(0.7 * draw.standard_normal())
        self.wind: list[list[float]] = (strength * draw.standard_normal((self.length, 2))).tolist()
        self.centre: list[float] = draw.uniform(-0.3, 0.3, 2).tolist()
        self.goals: list[float] = draw.uniform(-0.5, 0.5, self.length + 1).tolist()
        self.place, self.speed = [-1.0, draw.uniform(-0.5, 0.5)], [0.0, 0.0]
        self.goal, self.cost, self.t = [1.0, self.goals.pop()], 0, 0
        return self._observe(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        before, push = math.dist(self.place, self.goal), action.tolist()
        for i in (0, 1):
            self.speed[i] = 0.8 * self.speed[i] + 0.02 * min(max(push[i], -1.0), 1.0) + self.wind[self.t][i]
            self.place[i] += self.speed[i]
        self.t += 1
        distance = math.dist(self.place, self.goal)
        reward = before - distance
        if distance < self.near:
            reward += 1.0
            self.goal = [-self.goal[0], self.goals.pop()]
        cost = int(math.dist(self.place, self.centre) < self.radius)
        self.cost += cost
        return self._observe(), reward, False, self.t == self.length, {"cost": cost, "total": self.cost}

    def _observe(self) -> Array:
        (x, y), (u, v) = self.place, self.speed
        ways = (self.goal[0] - x, self.goal[1] - y, self.centre[0] - x, self.centre[1] - y)
        return np.array((x, y, 10.0 * u, 10.0 * v, *ways, self.cost / 10.0), np.float32)


class Penalised(gym.Wrapper[Array, Array, Array, Array]):
    """The reward less a weight times the cost."""

    def __init__(self, env: gym.Env[Array, Array], weight: float):
        super().__init__(env)
        self.weight = weight

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward) - self.weight * info["cost"], terminated, truncated, info


def make_envs(count: int, seed: int, weight: float = 0.0) -> VecEnv:
    env = DummyVecEnv([lambda: Penalised(ShuttleRun(), weight)] * count)
    env.seed(int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1))
    return env


# Contenders ---------------------------------------------------------------------------------------------------------


class FixedWeight(Multiplier):
    """A multiplier that is a given weight of the cost, in the units of return and cost."""

    def __init__(self, constraint: Constraint, weight: float, of_return: EpisodeRanking):
        super().__init__(constraint)
        self.weight, self.of_return = weight, of_return

    def update(self, cost: float, scale: float) -> float:
        self.value = self.weight * scale / (self.of_return.stats["scale"] or 1.0)
        return self.value


def build(settings: Settings, method: str, numbers: Sequence[float], seed: int) -> OrderGradPPO:
    """Return an untrained model; the numbers are a weight or gains."""
    constraint = None
    if method == "tail penalty":
        constraint = Constraint(TAIL, limit=0.0)
    elif method in ("tail limit", "mean limit"):
        objective = TAIL if method == "tail limit" else "mean"
        constraint = Constraint(objective, settings.limit, kp=numbers[0], ki=numbers[1])
    model = OrderGradPPO(
        "MlpPolicy",
        make_envs(settings.envs, seed, numbers[0] if method == "penalty" else 0.0),
        objective="mean",
        credit="telescoped",
        constraint=constraint,
        n_steps=settings.rollout,
        batch_size=settings.batch_size,
        n_epochs=settings.epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        learning_rate=lambda left: settings.learning_rate * left,
        seed=seed,
        device="cpu",
    )
    if method == "tail penalty":
        buffer: Any = model.rollout_buffer
        buffer.multiplier = FixedWeight(buffer.multiplier.constraint, numbers[0], buffer.ranking)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def play(settings: Settings, method: str, numbers: Sequence[float], seed: int) -> study.Record:
    """Train one policy and return how its tail came about and what fresh episodes of it return and cost."""
    torch.set_num_threads(1)
    model = build(settings, method, numbers, seed)
    steps, tails, spent = list[int](), list[float](), list[int]()

    def watch(see: dict[str, Any], _: Any) -> bool:
        spent.extend(info["total"] for info, over in zip(see["infos"], see["dones"], strict=True) if over)
        if len(spent) >= max(2, settings.steps // settings.rollout // 20):
            steps.append(model.num_timesteps)
            tails.append(float(og.value(np.array(spent), TAIL)))
            spent.clear()
        return True

    model.learn(settings.steps, watch)
    returns, costs = fresh(model, settings.episodes, seed)
    found = {"return": float(returns.mean()), "cost": float(costs.mean()), TAIL: float(og.value(costs, TAIL))}
    return {**found, "steps": steps, "tails": study.rounded(tails)}


def fresh(model: OrderGradPPO, episodes: int, seed: int, count: int = 100) -> tuple[Array, Array]:
    """Return the returns and costs of fresh episodes of the policy, which acts at random as in training."""
    envs = make_envs(count, 10_000 + seed)
    returns, costs = np.zeros((2, -(-episodes // count), count))
    obs = envs.reset()
    for total, spent in zip(returns, costs, strict=True):
        for _ in range(ShuttleRun.length):
            obs, rewards, _, infos = envs.step(model.predict(obs, deterministic=False)[0])
            total += rewards
        spent += [info["total"] for info in infos]
    return returns.ravel(), costs.ravel()


# Results ------------------------------------------------------------------------------------------------------------


def choose(settings: Settings, tuning: Sequence[study.Record]) -> dict[str, Sequence[float]]:
    """Return the numbers of every contender: the most return among those that meet the limit in tuning."""

    def rank(row: study.Record) -> tuple[bool, float]:
        meets = row[TAIL] <= settings.limit
        return meets, row["return"] if meets else -row[TAIL]

    rows = tuned(settings, tuning)
    return {m: max((r for r in rows if r["method"] == m), key=rank)["numbers"] for m in settings.choices}


def tuned(settings: Settings, tuning: Sequence[study.Record]) -> list[study.Record]:
    """Return the means over the tuning seeds of every choice."""
    rows: list[study.Record] = []
    for method, choices in settings.choices.items():
        for numbers in choices:
            mine = [r for r in tuning if (r["method"], r["numbers"]) == (method, list(numbers))]
            means = {name: float(np.mean([r[name] for r in mine])) for name in MEASURES}
            rows.append({"method": method, "numbers": list(numbers), **means})
    return rows


def leads(runs: Sequence[study.Record]) -> list[study.Record]:
    """Return how far `tail limit` is ahead of each other contender in every measure, seed by seed."""
    others = [m for m in dict.fromkeys(r["method"] for r in runs) if m != "tail limit"]
    pairs = study.grid(against=others, measure=MEASURES)
    return [p | study.lead_of(runs, p["measure"], "method", "tail limit", p["against"]) for p in pairs]


def draw(
    settings: Settings, tuning: Sequence[study.Record], runs: Sequence[study.Record], path: Path, names: Sequence[str]
) -> None:
    """Draw return against tail, every seed and what was tried in tuning, and how the tails came about."""
    figure, (left, right) = new_figure(2, "The most return with a tail of the cost of at most 8")
    for name, colour in zip(names, COLOURS, strict=False):
        mine = [r for r in runs if r["method"] == name]
        left.scatter([r[TAIL] for r in mine], [r["return"] for r in mine], color=colour, s=30, label=name)
        tried = [r for r in tuned(settings, tuning) if r["method"] == name]
        left.plot([r[TAIL] for r in tried], [r["return"] for r in tried], color=colour, marker="x", lw=0.8, alpha=0.5)
        length = min(len(r["tails"]) for r in mine)
        curves = np.array([r["tails"][:length] for r in mine])
        right.plot(np.array(mine[0]["steps"][:length]) / 1000, curves.mean(axis=0), color=colour, lw=1.6)
    left.axvline(settings.limit, color="black", lw=0.8, ls=":")
    right.axhline(settings.limit, color="black", lw=0.8, ls=":")
    left.set(xlabel=f"cost, {TAIL}", ylabel="mean return", title="Fresh episodes; crosses: tuning")
    right.set(
        xlabel="thousands of environment steps", ylabel=f"cost, {TAIL}", title="Training episodes, mean of the seeds"
    )
    left.legend(frameon=False, fontsize=8)
    save(figure, path)


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/constraint")


def main(argv: Sequence[str] | None = None, settings: Settings | None = None) -> None:
    options = study.parse(Options, "Train on the most return subject to a limit on the tail of the cost.", argv)
    settings = settings or Settings()
    with study.Study(__file__, options, argv) as s:
        s.open(settings, may_change=("seeds",))
        make = partial(play, settings)
        tasks: list[dict[str, Any]] = [
            {"method": method, "numbers": numbers, "seed": TUNING_SEED + seed}
            for seed in range(settings.tuning_seeds)
            for method, choices in settings.choices.items()
            for numbers in choices
        ]
        tuning = s.computed("tuning.jsonl", tasks, make)
        chosen = {"free": [], **choose(settings, tuning)}
        tasks = [
            {"method": method, "numbers": numbers, "seed": seed}
            for seed in range(settings.seeds)
            for method, numbers in chosen.items()
        ]
        runs = s.computed("runs.jsonl", tasks, make)
    flat = ("method", "seed", *MEASURES)
    s.write_table("runs.csv", runs, flat)
    s.write_table("tuning.csv", [{**r, "numbers": " ".join(map(str, r["numbers"]))} for r in tuned(settings, tuning)])
    s.write_table("measures.csv", study.intervals(runs, ("method",), MEASURES))
    s.write_table("leads.csv", leads(runs))
    s.write_summary(
        settings, chosen=chosen, met={m: int(sum(study.column(runs, TAIL, method=m) <= settings.limit)) for m in chosen}
    )
    draw(settings, tuning, runs, s.images / "constraint.png", list(chosen))


if __name__ == "__main__":
    main()
