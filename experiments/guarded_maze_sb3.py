"""The guarded maze through Stable-Baselines3: the recipe of guarded_maze.py, its own loop replaced by PPO.

The maze is a vectorised environment of Stable-Baselines3 here, 400 episodes side by side. Whatever samples the guards
puts the importance weight of an episode into its info, tempered as in the recipe; `OrderGradPPO` takes it from there
(``credit="episode"``). The rest of the schedule (objective, entropy, step size) is a callback.

    python experiments/guarded_maze_sb3.py --results experiments/results/guarded_maze_sb3 --images docs/images
    python experiments/guarded_maze_sb3.py --only recipe --seeds 1

Needs `pip install "ordergrad[rl]"`. Results and what they mean: docs/studies/guarded_maze.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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
from ordergrad.adapters.sb3 import OrderGradPPO
from ordergrad.envs import guarded_maze as maze
from ordergrad.runs.console import chosen_jobs, ending_resumable, train_under_progress
from ordergrad.runs.folder import (
    METRICS,
    open_folder,
    provenance,
    read_metrics,
    run_folder,
    write_csv,
    write_json,
)

RESULT = "result.json"


@dataclass(frozen=True)
class Settings:
    """One training run. The defaults are the recipe, as far as PPO goes."""

    maze: study.Settings = study.RECIPE  # objective, annealing, guards, weights; the rest is of no account here
    episodes: int = 100_000  # in all, as many as the loop has
    most_steps: int = 3_000_000  # where a policy is stuck
    envs: int = 400
    rollout: int = 16
    batch: int = 1600
    epochs: int = 4
    learning_rate: float = 0.005  # falls linearly to 0
    entropy: float = (
        0.0005  # falls linearly to 0; beside a mean over steps, where the loop's is beside one over episodes
    )
    test_episodes: int = 20_000


RECIPE = Settings()


def with_maze(**changes: Any) -> Settings:
    return replace(RECIPE, maze=replace(study.RECIPE, **changes))


VARIANTS: dict[str, tuple[str, Settings]] = {
    "recipe": ("PPO, the recipe", RECIPE),
    "cross-entropy": ("PPO, guards by cross-entropy", with_maze(guard_sampling=None)),
    "longer": ("PPO, the recipe, twice as long", replace(RECIPE, episodes=200_000, most_steps=6_000_000)),
    "mean": ("PPO, the mean objective", with_maze(objective="mean", guard_sampling=study.TRUE_GUARD_PROBABILITY)),
}
NAMES = {variant: what for variant, (what, _) in VARIANTS.items()}


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
    """The recipe's schedule, and metrics of every rollout."""

    def __init__(self, settings: Settings, folder: Path, stop: Callable[[], bool], report: Callable[[Any], None]):
        super().__init__()
        self.settings, self.folder, self.stop, self.report = settings, folder, stop, report
        self.progress = 0.0

    def _on_training_start(self) -> None:
        rate = self.settings.learning_rate
        self.model.lr_schedule = lambda _: rate * (1 - self.progress)

    def _on_rollout_start(self) -> None:
        s, model, envs = self.settings, self.model, self.training_env
        by_episodes, by_steps = model.rollout_buffer.stats["total"] / s.episodes, model.num_timesteps / s.most_steps
        self.progress = progress = min(1.0, max(by_episodes, by_steps))
        t = min(1.0, progress / s.maze.ramp)
        model.rollout_buffer.objective = og.anneal("mean", s.maze.objective, t if s.maze.annealed else 1.0)
        model.ent_coef = s.entropy * (1 - progress)
        envs.set_attr("temper", t)

    def _on_step(self) -> bool:
        return self.progress < 1 and not self.stop()

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        row = {"step": int(buffer.stats["total"]), "env_steps": self.model.num_timesteps}
        row |= {"mean": round(float(buffer.ended.mean()), 3)} if len(buffer.ended) else {}
        sampler = self.training_env.get_attr("sampler")[0]
        row |= {} if sampler is None else {"guard": round(sampler.current.parameters[0], 3)}
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.report(row)


def build(s: Settings, seed: int) -> OrderGradPPO:
    layers = [s.maze.hidden, s.maze.hidden]
    return OrderGradPPO(
        "MlpPolicy",
        Mazes(s.envs, s.maze, seed),
        min_episodes=s.maze.episodes,
        unit_scale=True,
        n_steps=s.rollout,
        batch_size=s.batch,
        n_epochs=s.epochs,
        policy_kwargs={"net_arch": {"pi": layers, "vf": layers}, "activation_fn": nn.Tanh},
        seed=seed,
        device="cpu",
    )


def sampler(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Actions drawn from the policy."""
    return lambda position: model.policy.predict(maze.observe(position), deterministic=False)[0]


def train(variant: str, seed: int, folder: Path, stop: Callable[[], bool], report: Callable[[Any], None]) -> bool:
    """Train and test one policy, unless that has been done; one that was stopped starts anew."""
    if (folder / RESULT).exists():
        return True
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).unlink(missing_ok=True)
    settings, begin = VARIANTS[variant][1], time.perf_counter()
    model = build(settings, seed)
    model.learn(settings.most_steps, Schedule(settings, folder, stop, report))
    if stop():
        return False
    seconds = round(time.perf_counter() - begin, 1)
    result = study.evaluate(sampler(model), settings.test_episodes, study.test_rng())
    record = {"variant": variant, "seed": seed, "steps": model.num_timesteps, "seconds": seconds, "result": result}
    write_json(folder / RESULT, record)
    return True


def shown(row: Any, variant: str) -> str:
    return f"mean {row['mean']:6.1f}" if "mean" in row else ""


# Results ------------------------------------------------------------------------------------------------------------


def summarise(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The study's own summary, and the steps of each variant."""
    summary = study.summarise(records, NAMES)
    for variant, row in summary.items():
        row["steps"] = int(np.median([record["steps"] for record in records if record["variant"] == variant]))
    return summary


def write_results(folder: Path, out: Path, records: list[dict[str, Any]], command: str) -> None:
    """A summary with what is needed to make it again, a line per run, and every tenth rollout of each."""
    summary = {
        **provenance(command),
        "settings": asdict(RECIPE),
        "columns": ["median", "smallest", "largest"],
        "variants": summarise(records),
    }
    write_json(folder / "summary.json", summary)
    names = list(records[0]["result"])
    rows = [
        (r["variant"], r["seed"], *(f"{r['result'][name]:.4f}" for name in names), r["steps"], r["seconds"])
        for r in records
    ]
    write_csv(folder / "runs.csv", ("variant", "seed", *names, "steps", "seconds"), rows)
    curves = [
        (r["variant"], r["seed"], row["step"], row["env_steps"], row.get("mean", ""), row.get("guard", ""))
        for r in records
        for row in read_metrics(run_folder(out, r["variant"], r["seed"]) / METRICS)[::10]
    ]
    write_csv(folder / "curves.csv", ("variant", "seed", "episodes", "steps", "mean", "guard"), curves)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train risk-averse policies in the guarded maze with PPO.")
    parser.add_argument("--only", choices=VARIANTS, nargs="+", default=list(VARIANTS), help="variants to train [all]")
    parser.add_argument("--seeds", type=int, default=5, help="policies of each variant")
    parser.add_argument("--out", type=Path, default=Path("runs/guarded_maze_sb3"), help="folder of the runs")
    parser.add_argument("--results", type=Path, help="folder of the tables [the folder of the runs]")
    parser.add_argument("--images", type=Path, help="folder of the picture [the folder of the runs]")
    parser.add_argument("--jobs", type=int, help="runs side by side [one per processor]")
    parser.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    options = parser.parse_args(argv)
    console, settings = Console(highlight=False), {name: asdict(VARIANTS[name][1]) for name in options.only}
    command = "python experiments/guarded_maze_sb3.py"
    if options.only != list(VARIANTS):
        command += f" --only {' '.join(options.only)}"
    if options.seeds != 5:
        command += f" --seeds {options.seeds}"
    with ending_resumable(options.out, console):
        jobs = chosen_jobs(options.jobs, options.seeds * len(options.only))
        open_folder(options.out, settings | {"seeds": options.seeds}, kind="study", resume=options.resume)
        episodes = max(VARIANTS[name][1].episodes for name in options.only)
        if not train_under_progress(train, options.only, options.seeds, episodes, options.out, jobs, console, shown):
            raise KeyboardInterrupt
    folders = [run_folder(options.out, name, seed) for name in options.only for seed in range(options.seeds)]
    records = [json.loads((folder / RESULT).read_text()) for folder in folders]
    study.show_table(summarise(records), console)
    results, images = options.results or options.out, options.images or options.out
    write_results(results, options.out, records, command)
    images.mkdir(parents=True, exist_ok=True)
    study.draw_ablation(images / "guarded_maze_sb3.png", records, None, NAMES)
    console.print(f"results: {results / 'summary.json'}, {results / 'runs.csv'}")


if __name__ == "__main__":
    main()
