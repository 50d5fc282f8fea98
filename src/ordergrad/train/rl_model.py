"""The models of `ordergrad train rl`: how they are built, saved, restored, loaded and exported."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownLambdaType=false
# (Gymnasium and Stable-Baselines3 leave many of their types open)

import random
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.preprocessing import is_image_space

import ordergrad.envs
from ordergrad.adapters.episodes import weighs_lower_tail
from ordergrad.adapters.sb3 import OrderGradA2C, OrderGradPPO
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import CHECKPOINT, read_checkpoint, read_settings, replacing, run_folder, write_checkpoint
from ordergrad.runs.settings import restored
from ordergrad.spec import parse
from ordergrad.train.observations import NormalizedExtractor, NormalizedParts
from ordergrad.train.rl_settings import RLSettings, widths

gym.register_envs(ordergrad.envs)  # here and in every process that trains
Array = NDArray[Any]


def seed_of(seed: int, *purpose: int) -> int:
    """Return a seed for one purpose (an evaluation, the environments after a step), distinct from all others."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0] >> 1)


def build(settings: RLSettings, objective: str, seed: int, step: int = 0) -> OrderGradPPO | OrderGradA2C:
    """Return an untrained model with its environments, seeded for a run that is at `step`."""
    env = make_vec_env(lambda: gym.make(settings.env_id, **settings.env_args), settings.envs)
    rate = settings.learning_rate
    same = ("credit", "discount", "min_episodes", "gamma", "gae_lambda")
    options: dict[str, Any] = {name: getattr(settings, name) for name in same}
    options |= {"objective": objective, "unit_scale": True, "seed": seed, "device": "cpu"}
    options |= {"n_steps": settings.rollout, "ent_coef": settings.entropy}
    options["learning_rate"] = lambda remaining: rate * remaining
    if settings.cap is not None and weighs_lower_tail(parse(objective)):
        options["cap"] = settings.cap
    several = isinstance(env.observation_space, spaces.Dict)
    image = is_image_space(env.observation_space)
    policy = "MultiInputPolicy" if several else "CnnPolicy" if image else "MlpPolicy"
    network: dict[str, Any] = {}
    if settings.network is not None:
        network["net_arch"] = widths(settings.network)
    if settings.normalize:
        network["features_extractor_class"] = NormalizedParts if several else NormalizedExtractor
    options["policy_kwargs"] = network
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


def trained(out: Path, objective: str | None = None, seed: int = 0) -> OrderGradPPO | OrderGradA2C:
    """Return the model of a run of `ordergrad train rl`, with the weights of its latest checkpoint.

    The objective is one of the run's, as it was written, by default the first.

    Raises:
        UserError: It is not the folder of a run, has no checkpoint of them, or the checkpoint is damaged.
    """
    settings = settings_of_run(out)
    objective = objective or settings.objectives[0]
    path = run_folder(out, objective, seed) / CHECKPOINT
    if not path.exists():
        known = f"objectives {', '.join(settings.objectives)}, seeds 0 to {settings.seeds - 1}"
        raise UserError(f"{path} does not exist: objective and seed must be those of a run in {out} ({known})")
    model = build(settings, objective, seed)
    load_policy(model, read_checkpoint(path)[0])
    return model


def find_environment(env_id: str) -> None:
    """Make a module of the working folder importable, for an environment such as ``my_envs:Name-v0``.

    Processes that train find it then, too.
    """
    folder = str(Path.cwd())
    if ":" in env_id and folder not in sys.path:
        sys.path.insert(0, folder)


def settings_of_run(out: Path) -> RLSettings:
    """Return the settings of a run of `ordergrad train rl`.

    Raises:
        UserError: It is not the folder of one.
    """
    settings = restored(RLSettings, read_settings(out, "train rl"))
    find_environment(settings.env_id)
    return settings


def export(model: OrderGradPPO | OrderGradA2C, path: Path) -> None:
    """Write a model as one of plain PPO or A2C, for `PPO.load` or `A2C.load` of Stable-Baselines3.

    It predicts the same actions, and continues training on the mean. `OrderGradPPO.load(path, objective=...)` reads it,
    too. With normalised observations, loading needs OrderGrad, which has the class of the first layer.
    """
    with replacing(path) as file:
        BaseAlgorithm.save(model, file, exclude=("rollout_buffer_class", "rollout_buffer_kwargs", "_ranking"))


def save(model: OrderGradPPO | OrderGradA2C, path: Path) -> None:
    """Write a checkpoint: weights, optimiser state, random generators, counters."""
    buffer: Any = model.rollout_buffer
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
        "ranking": buffer.ranking.state(),
        "optimizer": optimizer["param_groups"],
        "numpy": {"position": numpy_state["state"]["pos"], "gauss": [numpy_state["has_gauss"], numpy_state["gauss"]]},
        "python": [version, list(words), gauss],
    }
    write_checkpoint(path, tensors, state)


def restore(model: OrderGradPPO | OrderGradA2C, tensors: dict[str, Array], state: dict[str, Any]) -> None:
    """Load a checkpoint into a model."""
    buffer: Any = model.rollout_buffer
    load_policy(model, tensors)
    slots: dict[int, dict[str, Any]] = {}
    for name, array in tensors.items():
        if name.startswith("optimizer/"):
            _, index, slot = name.split("/")
            slots.setdefault(int(index), {})[slot] = torch.tensor(array)
    model.policy.optimizer.load_state_dict({"state": slots, "param_groups": state["optimizer"]})
    model.num_timesteps = state["step"]
    model._n_updates = state["updates"]  # pyright: ignore[reportPrivateUsage]
    buffer.ranking.set_state(state["ranking"])
    torch.set_rng_state(torch.tensor(tensors["random/torch"]))
    of_numpy = state["numpy"]
    np.random.set_state(("MT19937", tensors["random/numpy"], of_numpy["position"], *of_numpy["gauss"]))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def load_policy(model: OrderGradPPO | OrderGradA2C, tensors: dict[str, Array]) -> None:
    """Load the weights of a checkpoint into the policy of a model."""
    weights = {n.removeprefix("policy/"): torch.tensor(x) for n, x in tensors.items() if n.startswith("policy/")}
    model.policy.load_state_dict(weights)
