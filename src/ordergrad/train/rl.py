"""Train a policy on one objective and seed: checks, training, checkpoints, resuming.

A run resumes from its latest checkpoint with the same weights, optimiser state and random generators. A checkpoint
cannot hold the state of the environments: they start new episodes from a seed derived from the run's seed and the
step, so that resuming is reproducible.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownLambdaType=false
# (Gymnasium and Stable-Baselines3 leave many of their types open)

import difflib
import json
import random
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.preprocessing import is_image_space

import ordergrad.envs
from ordergrad.adapters.sb3 import OrderGradA2C, OrderGradPPO
from ordergrad.estimators import value
from ordergrad.objectives import Objective
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import (
    CHECKPOINT,
    EVALUATION,
    METRICS,
    read_checkpoint,
    read_metrics,
    run_folder,
    trim_metrics,
    write_checkpoint,
)
from ordergrad.runs.settings import check_settings
from ordergrad.runs.statistics import read_returns
from ordergrad.schedules import anneal
from ordergrad.spec import parse
from ordergrad.train.evaluation import fresh_episodes, write_returns
from ordergrad.train.rl_settings import RLSettings, watched
from ordergrad.weights import check_nonzero, smallest_group

__all__ = ["build", "check", "evaluate", "load_policy", "restore", "run", "save", "seed_of", "train", "trained"]

gym.register_envs(ordergrad.envs)  # here and in every process that trains
Array = NDArray[Any]
_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check(settings: RLSettings) -> RLSettings:
    """Check settings before training: objectives, numbers, the environment and its spaces.

    Returns:
        The settings, with the version of the environment filled in.

    Raises:
        UserError: A setting is wrong; the message says how to fix it.
    """
    check_settings(settings)
    same: dict[Objective, str] = {}
    for text in settings.objectives:
        try:
            objective = parse(text)
            check_nonzero(objective)
        except ValueError as error:
            raise UserError(str(error)) from error
        if objective in same:
            raise UserError(f"each objective once; {same[objective]} and {text} are the same")
        same[objective] = text
        need = smallest_group(objective, "leave_one_out")
        if need > settings.envs * settings.rollout:
            raise UserError(
                f"{text} compares {need - 1} episodes and needs {need} to end between updates, but a rollout of "
                f"{settings.envs} environments x {settings.rollout} steps has {settings.envs * settings.rollout} "
                "steps in all: lower K, or raise --rollout or --envs"
            )
        if need > settings.episodes:
            raise UserError(f"{text} needs {need} episodes to be evaluated; raise --episodes ({settings.episodes} now)")
    if settings.steps < settings.envs * settings.rollout:
        raise UserError(
            f"steps must be at least {settings.envs * settings.rollout} (one rollout: --envs x --rollout); got "
            f"{settings.steps}"
        )
    folder = str(Path.cwd())
    if ":" in settings.env_id and folder not in sys.path:  # my_envs:Name-v0, for the processes that train, too
        sys.path.insert(0, folder)
    env = _make(settings)
    try:
        _check_spaces(env)
    finally:
        env.close()
    module, colon, name = settings.env_id.rpartition(":")
    return replace(settings, env_id=f"{module}{colon}{name if env.spec is None else env.spec.id}")


def _make(settings: RLSettings) -> gym.Env[Any, Any]:
    try:
        return gym.make(settings.env_id, **settings.env_args)
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"{settings.env_id} needs more packages: {error}") from error
    except gym.error.UnregisteredEnv as error:
        names = list(gym.registry)
        bare = {name.rsplit("/", 1)[-1].lower(): name for name in reversed(names)}
        close = difflib.get_close_matches(settings.env_id.rsplit("/", 1)[-1].lower(), bare, n=3)
        hint = f"; did you mean {' or '.join(bare[name] for name in close)}?" if close else ""
        raise UserError(
            f"{settings.env_id!r} is no registered Gymnasium environment{hint} "
            "(module:Name-v0 imports the module that registers it)"
        ) from error
    except Exception as error:  # environments raise any kind
        raise UserError(f"{settings.env_id} cannot be made: {type(error).__name__}: {error}") from error


def _check_spaces(env: gym.Env[Any, Any]) -> None:
    observation, action = env.observation_space, env.action_space
    if not isinstance(observation, _SPACES):
        raise UserError(
            f"observations must be arrays (Box, Discrete, MultiDiscrete, MultiBinary), not "
            f"{type(observation).__name__}: {_flattening(observation)}"
        )
    if not isinstance(action, _SPACES):
        raise UserError(
            f"actions must be Box, Discrete, MultiDiscrete or MultiBinary for PPO and A2C, not "
            f"{type(action).__name__}: register the environment with gymnasium.wrappers.TransformAction(env, "
            "function, space), where function makes an action of the environment from one of the space"
        )
    if isinstance(action, spaces.Box) and not action.is_bounded():
        raise UserError(
            "continuous actions need finite bounds: register the environment with gymnasium.wrappers.TransformAction("
            f"env, lambda action: action, gymnasium.spaces.Box(-1, 1, {action.shape}))"
        )


def _flattening(observation: spaces.Space[Any]) -> str:
    """Return how to make an array of observations that are none."""
    if _holds_arrays(observation):
        return "register the environment with gymnasium.wrappers.FlattenObservation"
    if isinstance(observation, spaces.Dict):
        arrays = [name for name, space in observation.spaces.items() if _holds_arrays(space)]
        if arrays:
            return (
                "register the environment with gymnasium.wrappers.FlattenObservation("
                f"gymnasium.wrappers.FilterObservation(env, {arrays}))"
            )
    return (
        "register the environment with gymnasium.wrappers.TransformObservation(env, function, space), where function "
        "makes an array of the space from an observation"
    )


def _holds_arrays(space: spaces.Space[Any]) -> bool:
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else getattr(space, "spaces", None)
    return isinstance(space, _SPACES) if parts is None else all(_holds_arrays(part) for part in parts)


def seed_of(seed: int, *purpose: int) -> int:
    """Return a seed for one purpose (an evaluation, the environments after a step), distinct from all others."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0] >> 1)


def build(settings: RLSettings, objective: str, seed: int, step: int = 0) -> OrderGradPPO | OrderGradA2C:
    """Return an untrained model with its environments, seeded for a run that is at `step`."""
    env = make_vec_env(lambda: gym.make(settings.env_id, **settings.env_args), settings.envs)
    rate = settings.learning_rate
    options: dict[str, Any] = {
        "objective": objective,
        "credit": settings.credit,
        "discount": settings.discount,
        "min_episodes": settings.min_episodes,
        "unit_scale": True,
        "n_steps": settings.rollout,
        "gamma": settings.gamma,
        "gae_lambda": settings.gae_lambda,
        "ent_coef": settings.entropy,
        "learning_rate": lambda remaining: rate * remaining,
        "seed": seed,
        "device": "cpu",
    }
    policy = "CnnPolicy" if is_image_space(env.observation_space) else "MlpPolicy"
    if settings.algo == "a2c":
        model = OrderGradA2C(policy, env, **options)
    else:
        size = settings.envs * settings.rollout
        batch = size // max(1, round(size / settings.batch_size))  # a divisor: the buffer splits evenly anyway
        batch = batch if size % batch == 0 else size
        model = OrderGradPPO(policy, env, batch_size=batch, n_epochs=settings.epochs, **options)
        model.batch_size = min(settings.batch_size, size)
    model.set_logger(Logger(folder=None, output_formats=[]))
    env.seed(seed_of(seed, 1, step))  # the algorithm's own seeding gives neighbouring seeds the same environments
    return model


def trained(out: Path, objective: str, seed: int = 0) -> OrderGradPPO | OrderGradA2C:
    """Return the model of a run of `ordergrad train rl`, with the weights of its latest checkpoint.

    Args:
        out: The folder of the run.
        objective: One of its objectives, as it was written.
        seed: One of its seeds.

    Raises:
        UserError: There is no checkpoint of them, or it is damaged.
    """
    path = run_folder(out, objective, seed) / CHECKPOINT
    if not path.exists():
        raise UserError(f"{path} does not exist: objective and seed must be those of a run in {out}")
    content = json.loads((out / "config.json").read_text())["settings"]
    settings = RLSettings(**content | {"objectives": tuple(content["objectives"])})
    model = build(settings, objective, seed)
    load_policy(model, read_checkpoint(path)[0])
    return model


def run(
    settings: RLSettings,
    objective: str,
    seed: int,
    folder: Path,
    stop: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
) -> bool:
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
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
    checkpoints: int = 20,
) -> bool:
    """Train the policy of one run, from its checkpoint if there is one; write metrics and checkpoints.

    Args:
        settings: What to train.
        objective: One of its objectives.
        seed: One of its seeds.
        folder: Where the run's files are.
        stop: Called after each update; if true, training ends with a checkpoint.
        report: Called with the metrics of every update.
        checkpoints: Number of checkpoints, spread evenly over the steps.

    Returns:
        Whether the run has reached its number of steps.

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
    returns, lengths = fresh_episodes(
        model.policy, settings.env_id, settings.env_args, settings.episodes, seed_of(seed, 2)
    )
    if model.env is not None:
        model.env.close()
    write_returns(path, returns, lengths)


def save(model: OrderGradPPO | OrderGradA2C, path: Path) -> None:
    """Write a checkpoint: weights, optimiser state, random generators, counters."""
    tensors = {f"policy/{name}": tensor.numpy(force=True) for name, tensor in model.policy.state_dict().items()}
    optimizer = model.policy.optimizer.state_dict()
    for index, slots in optimizer["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(x).numpy(force=True) for name, x in slots.items()}
    tensors["random/torch"] = torch.get_rng_state().numpy()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 (the generator that minibatches are drawn from)
    tensors["random/numpy"] = numpy_state["state"]["key"]
    version, words, gauss = random.getstate()
    state = {
        "step": model.num_timesteps,
        "updates": model._n_updates,  # pyright: ignore[reportPrivateUsage]
        "ranking": _buffer(model).ranking.state(),
        "optimizer": optimizer["param_groups"],
        "numpy": {
            "position": numpy_state["state"]["pos"],
            "gauss": [numpy_state["has_gauss"], numpy_state["gauss"]],
        },
        "python": [version, list(words), gauss],
    }
    write_checkpoint(path, tensors, state)


def restore(model: OrderGradPPO | OrderGradA2C, tensors: dict[str, Array], state: dict[str, Any]) -> None:
    """Load a checkpoint into a model."""
    load_policy(model, tensors)
    slots: dict[int, dict[str, Any]] = {}
    for name, array in tensors.items():
        if name.startswith("optimizer/"):
            _, index, slot = name.split("/")
            slots.setdefault(int(index), {})[slot] = torch.tensor(array)
    model.policy.optimizer.load_state_dict({"state": slots, "param_groups": state["optimizer"]})
    model.num_timesteps = state["step"]
    model._n_updates = state["updates"]  # pyright: ignore[reportPrivateUsage]
    _buffer(model).ranking.set_state(state["ranking"])
    torch.set_rng_state(torch.tensor(tensors["random/torch"]))
    np.random.set_state(  # noqa: NPY002
        {
            "bit_generator": "MT19937",
            "state": {"key": tensors["random/numpy"], "pos": state["numpy"]["position"]},
            "has_gauss": state["numpy"]["gauss"][0],
            "gauss": state["numpy"]["gauss"][1],
        }
    )
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def load_policy(model: OrderGradPPO | OrderGradA2C, tensors: dict[str, Array]) -> None:
    """Load the weights of a checkpoint into the policy of a model."""
    weights = {n.removeprefix("policy/"): torch.tensor(x) for n, x in tensors.items() if n.startswith("policy/")}
    model.policy.load_state_dict(weights)


def _buffer(model: OrderGradPPO | OrderGradA2C) -> Any:
    return model.rollout_buffer


class _Recorder(BaseCallback):
    """Write metrics after every update and checkpoints at intervals; stop on request."""

    def __init__(
        self,
        folder: Path,
        settings: RLSettings,
        objective: str,
        checkpoints: int,
        stop: Callable[[], bool],
        report: Callable[[dict[str, Any]], None],
        window: int = 100,
    ):
        super().__init__()
        self.folder, self.settings, self.watched = folder, settings, watched(settings.objectives)
        self.stop, self.report = stop, report
        self.objective, self.annealing = parse(objective), settings.anneal * settings.steps
        self.spacing = -(-settings.steps // checkpoints)
        self.stopping = False
        earlier = read_metrics(folder / METRICS)
        self.episodes = int(earlier[-1]["episodes"]) if earlier else 0
        self.seconds = float(earlier[-1]["seconds"]) if earlier else 0.0
        self.best = earlier[-1]["best"] if earlier else None
        self.returns: deque[float] = deque(maxlen=window)
        self.lengths: deque[int] = deque(maxlen=window)
        self.started = time.perf_counter()
        self.written = self.saved = -1

    def _on_training_start(self) -> None:
        self.written = self.saved = self.model.num_timesteps

    def _on_rollout_start(self) -> None:
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
            "waiting": stats["waiting"],
            "nonfinite": stats["nonfinite"],
            "abandoned": stats["abandoned"],
            "shrunk": stats["shrunk"],
        }
        for name in ("entropy_loss", "approx_kl", "clip_fraction", "value_loss", "explained_variance"):
            if f"train/{name}" in logged:
                row[name] = _number(logged[f"train/{name}"])
        row["seconds"] = round(self.seconds + time.perf_counter() - self.started, 2)
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.report(row)


def _number(x: Any) -> float | None:
    number = float(x)
    return float(f"{number:.6g}") if np.isfinite(number) else None
