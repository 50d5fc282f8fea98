"""Train a policy on one objective and seed: training, checkpoints, resuming, evaluation.

A run resumes from its latest checkpoint with the same weights, optimiser state and random generators. A checkpoint
cannot hold the state of the environments: they start new episodes from a seed derived from the run's seed and the
step, so that resuming is reproducible.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (Stable-Baselines3 leaves many of its types open)

import time
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from ordergrad.estimators import value
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import (
    CHECKPOINT,
    EVALUATION,
    METRICS,
    append_metrics,
    read_checkpoint,
    read_metrics,
    trim_metrics,
)
from ordergrad.runs.parallel import Report, ShouldStop
from ordergrad.runs.statistics import read_returns
from ordergrad.schedules import anneal
from ordergrad.spec import parse
from ordergrad.train.evaluation import fresh_episodes, write_returns
from ordergrad.train.observations import learn_scale, watch
from ordergrad.train.rl_model import build, load_policy, restore, save, seed_of
from ordergrad.train.rl_settings import RLSettings, watched

_WINDOW = 100  # episodes that metrics are of


def run(settings: RLSettings, objective: str, seed: int, folder: Path, stop: ShouldStop, report: Report) -> bool:
    """Train and evaluate one run; return whether it has finished. Arguments as of `train`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks: more threads only wait for each other
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is out of date")  # Gymnasium has said so when settings were checked
            finished = train(settings, objective, seed, folder, stop=stop, report=report) and not stop()
            if finished:
                evaluate(settings, objective, seed, folder)
        return finished
    finally:
        torch.set_num_threads(threads)


def train(
    settings: RLSettings,
    objective: str,
    seed: int,
    folder: Path,
    *,
    stop: ShouldStop = lambda: False,
    report: Report = lambda row: None,
    checkpoints: int = 20,
) -> bool:
    """Train the policy of one run, from its checkpoint if there is one; return whether it has reached its steps.

    It writes metrics, and so many checkpoints spread evenly over the steps. If `stop` is true after an update, training
    ends with a checkpoint; `report` gets the metrics of every update.

    Raises:
        UserError: Its checkpoint is damaged.
    """
    path = folder / CHECKPOINT
    tensors, state = read_checkpoint(path) if path.exists() else ({}, {})
    step = int(state.get("step", 0))
    trim_metrics(folder / METRICS, step)
    if step >= settings.steps:
        return True
    (folder / EVALUATION).unlink(missing_ok=True)
    model = build(settings, objective, seed, step)
    if state:
        restore(model, tensors, state)
    folder.mkdir(parents=True, exist_ok=True)
    recorder = _Recorder(folder, settings, objective, checkpoints, stop, report)
    try:
        model.learn(settings.steps - step, recorder, reset_num_timesteps=False)
    finally:
        if model.env is not None:
            model.env.close()
    if not recorder.stopping:
        learn_scale(model.policy)
        recorder.update()
        save(model, path)
    return not recorder.stopping


def evaluate(settings: RLSettings, objective: str, seed: int, folder: Path) -> None:
    """Evaluate a trained policy on fresh episodes, unless the run already has enough.

    Environment seeds depend only on the run's seed, so policies of different objectives meet the same ones.

    Raises:
        UserError: Its checkpoint is damaged, or its episodes do not end.
    """
    path = folder / EVALUATION
    if path.exists() and len(read_returns(path)) >= settings.episodes:
        return
    model = build(settings, objective, seed)
    load_policy(model, read_checkpoint(folder / CHECKPOINT)[0])
    of_env = settings.env_id, settings.env_args
    returns, lengths = fresh_episodes(model.policy, *of_env, settings.episodes, seed_of(seed, 2))
    if model.env is not None:
        model.env.close()
    write_returns(path, returns, lengths)


class _Recorder(BaseCallback):
    """Write metrics after every update and checkpoints at intervals; stop on request."""

    def __init__(
        self, folder: Path, settings: RLSettings, objective: str, checkpoints: int, stop: ShouldStop, report: Report
    ):
        super().__init__()
        self.folder, self.settings, self.watched = folder, settings, watched(settings.objectives)
        self.stop, self.report = stop, report
        self.objective, self.annealing = parse(objective), settings.anneal * settings.steps
        self.spacing = -(-settings.steps // checkpoints)
        self.stopping = False
        *_, earlier = {"episodes": 0, "seconds": 0.0, "best": None}, *read_metrics(folder / METRICS)
        self.episodes, self.seconds, self.best = int(earlier["episodes"]), float(earlier["seconds"]), earlier["best"]
        self.returns: deque[float] = deque(maxlen=_WINDOW)
        self.lengths: deque[int] = deque(maxlen=_WINDOW)
        self.started = time.perf_counter()
        self.written = self.saved = -1

    def _on_training_start(self) -> None:
        self.written = self.saved = self.model.num_timesteps

    def _on_rollout_start(self) -> None:
        learn_scale(self.model.policy)
        watch(self.model.policy, True)
        step = self.model.num_timesteps
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        progress = step / self.annealing if self.annealing else 1.0
        buffer.objective = self.objective if progress >= 1 else anneal("mean", self.objective, progress)
        if step == self.written:
            return
        self.update()
        self.stopping = self.stop()
        if self.stopping or step // self.spacing > self.saved // self.spacing:
            save(self.model, self.folder / CHECKPOINT)  # type: ignore[arg-type]
            self.saved = step

    def _on_step(self) -> bool:
        return not self.stopping

    def _on_rollout_end(self) -> None:
        watch(self.model.policy, False)
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        finite = buffer.ended[np.isfinite(buffer.ended)]
        self.returns.extend(finite.tolist())
        self.lengths.extend(buffer.lengths.tolist())
        self.episodes += len(buffer.ended)
        self._check_ends(buffer.ranking.patience * buffer.buffer_size)
        if len(finite):
            top = _number(finite.max()) or 0.0
            self.best = top if self.best is None else max(self.best, top)

    def _check_ends(self, most: int) -> None:
        """Stop a run in which no episode has ended and no time limit will end one."""
        steps = self.model.num_timesteps // self.training_env.num_envs
        if self.episodes == 0 and steps >= most and self.training_env.get_attr("spec")[0].max_episode_steps is None:
            raise UserError(
                f"no episode of {self.settings.env_id} has ended in {steps} steps of {self.training_env.num_envs} "
                f"environments, and returns are known only when one ends: limit their length by --env-arg "
                f"max_episode_steps=N, or raise --rollout ({self.settings.rollout} now) if they are longer than that"
            )

    def update(self) -> None:
        """Write the metrics of the last update."""
        model: Any = self.model
        self.written = model.num_timesteps
        recent = np.array(self.returns)
        stats: dict[str, Any] = model.rollout_buffer.stats
        logged = model.logger.name_to_value
        row: dict[str, Any] = {
            "step": model.num_timesteps,
            "episodes": self.episodes,
            **{text: _number(value(recent, text, small="shrink")) for text in self.watched if len(recent) > 1},
            "best": self.best,
            "length": _number(np.mean(self.lengths)) if self.lengths else None,
            "ranked": stats["episodes"],
            **{name: stats[name] for name in ("waiting", "nonfinite", "abandoned", "shrunk")},
        }
        for name in ("entropy_loss", "approx_kl", "clip_fraction", "value_loss", "explained_variance"):
            if f"train/{name}" in logged:
                row[name] = _number(logged[f"train/{name}"])
        row["seconds"] = round(self.seconds + time.perf_counter() - self.started, 2)
        append_metrics(self.folder / METRICS, row)
        self.report(row)


def _number(x: Any) -> float | None:
    number = float(x)
    return float(f"{number:.6g}") if np.isfinite(number) else None
