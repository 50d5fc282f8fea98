"""The guarded maze through Stable-Baselines3: the recipe of guarded_maze.py, its own loop replaced by PPO and A2C.

The maze is a vectorised environment of Stable-Baselines3 here, 400 episodes side by side. What samples the guards puts
the importance weight of an episode into its info, tempered as in the recipe; `OrderGradPPO` and `OrderGradA2C` take it
from there (``credit="episode"``). The schedule (objective, weights, entropy, step size) is a callback.

    python experiments/guarded_maze_sb3.py --results experiments/results/guarded_maze_sb3 --images docs/images
    python experiments/guarded_maze_sb3.py --only ppo --seeds 1

Needs `pip install "ordergrad[rl]"`. Results and what they mean: docs/studies/guarded_maze.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import guarded_maze as study
import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

import ordergrad as og
from ordergrad.adapters.sb3 import OrderGradA2C, OrderGradPPO
from ordergrad.envs import guarded_maze as maze
from ordergrad.train.progress import chosen_jobs, train_under_progress
from ordergrad.train.runs import METRICS, RunError, open_folder, read_metrics, run_folder, write_json

RESULT = "result.json"


@dataclass(frozen=True)
class Settings:
    """One training run. The defaults are the recipe, as far as an algorithm of Stable-Baselines3 goes."""

    maze: study.Settings = study.RECIPE  # objective, annealing, guards, weights; the rest is of no account here
    algorithm: str = "ppo"
    credit: str = "episode"
    steps: int = 3_000_000
    envs: int = 400
    rollout: int = 16
    epochs: int = 4
    batches: int = 4
    learning_rate: float = 0.01  # falls linearly to 0
    entropy: float = 0.005  # falls linearly to 0; per step, where the loop has 0.05 per episode
    clip: float = 0.5
    test_episodes: int = 20_000


PPO = Settings()
TRUE = study.TRUE_GUARD_PROBABILITY
VARIANTS: dict[str, tuple[str, Settings]] = {
    "ppo": ("PPO", PPO),
}


class Mazes(VecEnv):
    """Guarded mazes side by side; an episode that ends is replaced at once, by one with a guard drawn anew."""

    def __init__(self, n: int, settings: study.Settings, seed: int):
        super().__init__(n, spaces.Box(0.0, 1.0, (maze.SIZE, maze.SIZE), np.float32), spaces.Discrete(len(maze.MOVES)))
        self.settings, self.rng = settings, np.random.default_rng(seed)
        self.sampler = study.make_sampler(settings, seed)
        self.temper = 0.0  # exponent of the weights: t of the recipe

    def reset(self) -> np.ndarray:
        self.total, self.guard, self.ratio = np.zeros((3, self.num_envs))
        self.running = self.start(self.num_envs, np.arange(self.num_envs))
        return maze.observe(self.running.position)

    def start(self, n: int, rows: np.ndarray) -> maze.Episodes:
        guard, ratio = study.draw_guards(n, self.settings, self.sampler, self.rng)
        self.total[rows], self.guard[rows], self.ratio[rows] = 0.0, guard, ratio
        return maze.start_episodes(self.rng, n, guard=guard)

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        noise = study.NOISE * self.rng.standard_normal((self.num_envs, 2))
        reward, reached = maze.advance(self.running, self.actions, noise)
        self.total += reward
        late = (self.running.steps >= study.TIME_LIMIT) & ~reached
        done = reached | late
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        rows = np.flatnonzero(done)
        if len(rows):
            self.end(rows, late, infos)
            self.running.replace(done, self.start(len(rows), rows))
        return maze.observe(self.running.position), reward, done, infos

    def end(self, rows: np.ndarray, late: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Tell the trainer and the sampler of the episodes that end."""
        weight = study.importance_weights(self.ratio[rows], self.running.touched[rows], self.settings, self.temper)
        last = maze.observe(self.running.position[rows])
        for i, row in enumerate(rows):
            infos[row] = {"terminal_observation": last[i], "TimeLimit.truncated": bool(late[row])}
            if self.settings.guard_sampling != TRUE:
                infos[row]["ordergrad_weight"] = float(weight[i])
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
    """The recipe's schedule, and metrics of every rollout."""

    def __init__(self, settings: Settings, folder: Path, stop: Callable[[], bool], report: Callable[[Any], None]):
        super().__init__()
        self.settings, self.folder, self.stop, self.report = settings, folder, stop, report

    def _on_rollout_start(self) -> None:
        s, model, envs = self.settings, self.model, self.training_env
        progress = model.num_timesteps / s.steps
        t = min(1.0, progress / s.maze.ramp)
        model.rollout_buffer.objective = og.anneal("mean", s.maze.objective, t if s.maze.annealed else 1.0)
        model.ent_coef = s.entropy * (1 - progress)
        envs.set_attr("temper", t)

    def _on_step(self) -> bool:
        return not self.stop()

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        row = {"step": self.model.num_timesteps, "episodes": int(buffer.stats["total"])}
        row |= {"mean": round(float(buffer.ended.mean()), 3)} if len(buffer.ended) else {}
        sampler = self.training_env.get_attr("sampler")[0]
        row |= {} if sampler is None else {"guard": round(sampler.current.parameters[0], 3)}
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.report(row)


def build(s: Settings, seed: int) -> OrderGradPPO | OrderGradA2C:
    hidden = s.maze.hidden
    options: dict[str, Any] = {
        "credit": s.credit,
        "min_episodes": s.maze.episodes,
        "unit_scale": True,
        "n_steps": s.rollout,
        "learning_rate": lambda left: s.learning_rate * left,
        "max_grad_norm": s.clip,
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "policy_kwargs": {"net_arch": {"pi": [hidden, hidden], "vf": [hidden, hidden]}, "activation_fn": nn.Tanh},
        "seed": seed,
        "device": "cpu",
    }
    env = Mazes(s.envs, s.maze, seed)
    if s.algorithm == "a2c":
        return OrderGradA2C("MlpPolicy", env, use_rms_prop=False, **options)
    batch = s.envs * s.rollout // s.batches
    return OrderGradPPO("MlpPolicy", env, batch_size=batch, n_epochs=s.epochs, **options)


def sampler(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Actions drawn from the policy."""
    return lambda position: model.policy.predict(maze.observe(position), deterministic=False)[0]


def train(
    variants: Mapping[str, tuple[str, Settings]],
    variant: str,
    seed: int,
    folder: Path,
    stop: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
) -> bool:
    """Train and test one policy, unless that has been done; one that was stopped starts anew."""
    if (folder / RESULT).exists():
        return True
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).unlink(missing_ok=True)
    settings, begin = variants[variant][1], time.perf_counter()
    model = build(settings, seed)
    model.learn(settings.steps, Schedule(settings, folder, stop, report))
    if stop():
        return False
    seconds = time.perf_counter() - begin
    torch.manual_seed(seed)
    result = study.evaluate(sampler(model), settings.test_episodes, study.test_rng())
    record = {"variant": variant, "seed": seed, "settings": asdict(settings), "result": result, "seconds": seconds}
    write_json(folder / RESULT, record)
    return True
