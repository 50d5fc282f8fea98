"""The guarded maze through Stable-Baselines3: the mean against the annealed objective, with PPO instead of the loop.

The maze is a vectorised environment of Stable-Baselines3 here, 400 episodes side by side. It puts the importance weight
of an episode into its info, tempered as in the loop; `OrderGradPPO` takes it from there (``credit="episode"``). The
rest of the schedule (objective, entropy, step size) is a callback.

    python experiments/guarded_maze_sb3.py --results experiments/results/guarded_maze_sb3
    python experiments/guarded_maze_sb3.py --seeds 1

Needs `pip install ".[rl]"`. Results and what they mean: docs/studies/guarded_maze.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import study
import torch
from guarded_maze import show_table, summarise
from gymnasium import spaces
from maze.loop import (
    NOISE,
    TAIL,
    TIME_LIMIT,
    Act,
    draw_guards,
    evaluate,
    importance_weights,
    make_sampler,
    test_rng,
)
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

import ordergrad as og
from ordergrad.adapters.sb3 import OrderGradPPO
from ordergrad.envs import guarded_maze as maze

OBJECTIVES, GUARDS = ("mean", "annealed"), 0.5


@dataclass(frozen=True)
class Settings:
    """How a policy is trained."""

    episodes: int = 100_000  # in all, as many as the loop has
    most_steps: int = 3_000_000  # where a policy is stuck
    envs: int = 400
    min_episodes: int = 400  # an update at every so many that have ended
    rollout: int = 16
    batch: int = 1600
    epochs: int = 4
    hidden: int = 32
    learning_rate: float = 0.005  # falls linearly to 0
    entropy: float = 0.0005  # falls linearly to 0; beside a mean over steps, the loop's beside one over episodes
    ramp: float = 0.65
    test_episodes: int = 20_000


class Mazes(VecEnv):
    """Guarded mazes side by side; an episode that ends is replaced at once, by one with a guard drawn anew."""

    def __init__(self, n: int, guards: float | None, seed: int):
        super().__init__(n, spaces.Box(0.0, 1.0, (maze.SIZE, maze.SIZE), np.float32), spaces.Discrete(len(maze.MOVES)))
        self.guards, self.rng = guards, np.random.default_rng(seed)
        self.sampler = make_sampler(guards, 400, seed)
        self.temper = 0.0  # exponent of the weights: t of the schedule

    def reset(self) -> np.ndarray:
        self.total, self.guard, self.ratio = np.zeros((3, self.num_envs))
        self.running = self.start(self.num_envs, np.arange(self.num_envs))
        return maze.observe(self.running.position)

    def start(self, n: int, rows: np.ndarray) -> maze.Episodes:
        guard, ratio = draw_guards(n, self.guards, self.sampler, self.rng)
        self.total[rows], self.guard[rows], self.ratio[rows] = 0.0, guard, ratio
        return maze.start_episodes(self.rng, n, guard=guard)

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        noise = NOISE * self.rng.standard_normal((self.num_envs, 2))
        reward, reached = maze.advance(self.running, self.actions, noise)
        self.total += reward
        late = (self.running.steps >= TIME_LIMIT) & ~reached
        done = reached | late
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        rows = np.flatnonzero(done)
        if len(rows):
            self.end(rows, late, infos)
            self.running.replace(done, self.start(len(rows), rows))
        return maze.observe(self.running.position), reward, done, infos

    def end(self, rows: np.ndarray, late: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Tell the trainer and the sampler of the episodes that end."""
        weight = importance_weights(self.ratio[rows], self.running.touched[rows], "tempered", self.temper)
        last = maze.observe(self.running.position[rows])
        for i, row in enumerate(rows):
            infos[row] = {"terminal_observation": last[i], "TimeLimit.truncated": bool(late[row])}
            infos[row]["ordergrad_weight"] = float(weight[i])  # 1 where guards are as frequent as in truth
        if self.sampler is not None:
            self.sampler.report(self.guard[rows].astype(bool), self.ratio[rows], self.total[rows])

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self, method_name)(*args, **kwargs)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class Schedule(BaseCallback):
    """Objective, weights, entropy bonus and step size as functions of the share of the episodes played."""

    def __init__(self, objective: str, settings: Settings):
        super().__init__()
        self.objective, self.settings, self.progress = objective, settings, 0.0

    def _on_training_start(self) -> None:
        rate = self.settings.learning_rate
        self.model.lr_schedule = lambda _: rate * (1 - self.progress)

    def _on_rollout_start(self) -> None:
        s, model = self.settings, self.model
        by_episodes, by_steps = model.rollout_buffer.stats["total"] / s.episodes, model.num_timesteps / s.most_steps
        self.progress = min(1.0, max(by_episodes, by_steps))
        t = min(1.0, self.progress / s.ramp)
        model.rollout_buffer.objective = og.anneal("mean", TAIL, t) if self.objective == "annealed" else "mean"
        model.ent_coef = s.entropy * (1 - self.progress)
        self.training_env.set_attr("temper", t)

    def _on_step(self) -> bool:
        return self.progress < 1


def build(guards: float | None, seed: int, s: Settings) -> OrderGradPPO:
    return OrderGradPPO(
        "MlpPolicy",
        Mazes(s.envs, guards, seed),
        credit="episode",
        min_episodes=s.min_episodes,
        unit_scale=True,
        n_steps=s.rollout,
        batch_size=s.batch,
        n_epochs=s.epochs,
        policy_kwargs={"net_arch": {"pi": [s.hidden] * 2, "vf": [s.hidden] * 2}, "activation_fn": nn.Tanh},
        seed=seed,
        device="cpu",
    )


def acting(model: Any) -> Act:
    """Actions drawn from the policy."""
    return lambda position, *_: model.policy.predict(maze.observe(position), deterministic=False)[0]


def train(objective: str, guards: float | None, seed: int, settings: Settings = Settings()) -> study.Record:
    """Train and test one policy."""
    torch.set_num_threads(1)
    model = build(guards, seed, settings)
    model.learn(settings.most_steps, Schedule(objective, settings))
    return {**evaluate(acting(model), settings.test_episodes, test_rng()), "steps": model.num_timesteps}


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/guarded_maze_sb3")
    seeds: int = field(default=5, metadata={"help": "policies of each objective"})


def main(argv: Sequence[str] | None = None) -> None:
    options = study.parse(Options, "Train risk-averse policies in the guarded maze with PPO.", argv)
    with study.Study(__file__, options, argv) as s:
        s.open(Settings())
        cells = [{"objective": objective, "guards": GUARDS} for objective in OBJECTIVES]
        tasks = [cell | {"seed": seed} for seed in range(options.seeds) for cell in cells]
        records = s.computed("runs.jsonl", tasks, train)
    several = [[r for r in records if r["objective"] == objective] for objective in OBJECTIVES]
    summaries = [
        summarise(cell | {"weights": "tempered", "runs": runs}) for cell, runs in zip(cells, several, strict=True)
    ]
    show_table(summaries, s.console)
    s.write_table("runs.csv", records)
    s.write_summary(Settings(), cells=summaries)


if __name__ == "__main__":
    main()
