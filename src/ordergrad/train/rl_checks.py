"""Checks of the settings of `ordergrad train rl`, before any work."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (Gymnasium leaves many of its types open)

import difflib
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

import ordergrad.envs
from ordergrad.adapters.episodes import weighs_lower_tail
from ordergrad.objectives import Objective
from ordergrad.runs.errors import UserError
from ordergrad.runs.settings import check_settings
from ordergrad.spec import parse
from ordergrad.train.rl_model import find_environment
from ordergrad.train.rl_settings import RLSettings
from ordergrad.weights import check_nonzero, smallest_group

gym.register_envs(ordergrad.envs)
_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_SMALLEST_IMAGE = 36  # what the convolutions of Stable-Baselines3 need


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
    if settings.cap is not None:
        if settings.credit != "telescoped" or settings.anneal:
            raise UserError(
                "cap needs credit telescoped and no annealing; got "
                f"credit {settings.credit} and anneal {settings.anneal:g}"
            )
        if not any(map(weighs_lower_tail, same)):
            raise UserError(
                f"cap needs an objective of the lower tail, such as cvar:0.1; got {', '.join(settings.objectives)}"
            )
    if settings.steps < settings.envs * settings.rollout:
        raise UserError(
            f"steps must be at least {settings.envs * settings.rollout} (one rollout: --envs x --rollout); got "
            f"{settings.steps}"
        )
    find_environment(settings.env_id)
    env = _make(settings)
    try:
        check_spaces(env)
        if settings.normalize and all(map(is_image_space, _parts(env.observation_space))):
            raise UserError("normalize is not for images, which are divided by 255 anyway: leave it out")
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


def check_spaces(env: gym.Env[Any, Any]) -> None:
    """Check that PPO and A2C can take the observations and actions of an environment.

    Raises:
        UserError: They cannot; the message says which wrapper helps.
    """
    observation, action = env.observation_space, env.action_space
    parts = _parts(observation)
    if not all(isinstance(part, _SPACES) for part in parts):
        raise UserError(
            "observations must be arrays (Box, Discrete, MultiDiscrete, MultiBinary) or a Dict of arrays; got "
            f"{observation}: {_flattening(observation)}"
        )
    if not isinstance(action, _SPACES):
        raise UserError(
            f"actions must be Box, Discrete, MultiDiscrete or MultiBinary for PPO and A2C, not "
            f"{type(action).__name__}: register the environment with gymnasium.wrappers.TransformAction(env, "
            "function, space), where function makes an action of the environment from one of the space"
        )
    if not parts or any(0 in (part.shape or ()) for part in parts):
        raise UserError(f"observations must hold at least one number; got the space {observation}")
    if problem := _unfit_names(observation) or next(filter(None, map(_unfit_observation, parts)), ""):
        raise UserError(f"observations {problem}: register the environment with gymnasium.wrappers.FlattenObservation")
    _check_actions(action)


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    """Return the spaces of a dictionary, or the space itself."""
    return list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]


def _unfit_names(space: spaces.Space[Any]) -> str:
    """Return what keeps PyTorch from naming a module after each observation of a dictionary; empty if nothing does."""
    try:
        torch.nn.ModuleDict({name: torch.nn.Flatten() for name in getattr(space, "spaces", {})})
    except (KeyError, TypeError) as error:
        return f"need other names ({error})"
    return ""


def _unfit_observation(space: spaces.Space[Any]) -> str:
    """Return what keeps Stable-Baselines3 from taking arrays as they are; empty if nothing does."""
    if np.any(getattr(space, "start", 0)):
        return f"must count from 0; got {space}"
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim > 1:
        return f"of MultiDiscrete must have one dimension; got shape {space.shape}"
    if isinstance(space, spaces.Box) and space.shape == ():
        return "must have at least one dimension; got shape ()"
    if is_image_space(space):
        height, width = sorted(space.shape or ())[1:]  # without the channels
        if min(height, width) < _SMALLEST_IMAGE:
            return f"that are images must be {_SMALLEST_IMAGE} pixels wide and high at least; got shape {space.shape}"
    return ""


def _check_actions(space: spaces.Space[Any]) -> None:
    if isinstance(space, spaces.Box) and not space.is_bounded():
        raise UserError(
            "continuous actions need finite bounds: register the environment with gymnasium.wrappers.TransformAction("
            f"env, lambda action: action, gymnasium.spaces.Box(-1, 1, {space.shape}))"
        )
    start: Any = getattr(space, "start", 0)
    flat = isinstance(space, spaces.Box) or len(space.shape or ()) < 2
    if flat and not np.any(start):
        return
    function = "action" if flat else f"action.reshape{space.shape}"
    if np.any(start):
        function += f" + {np.array(start).tolist()}"
    if isinstance(space, spaces.Discrete):
        plain = f"Discrete({space.n})"
    else:
        sizes: Any = getattr(space, "nvec", np.zeros(0)).ravel().tolist()
        plain = f"MultiDiscrete({sizes})" if sizes else f"MultiBinary({np.prod(space.shape or ())})"
    raise UserError(
        f"discrete actions must have at most one dimension and count from 0; got {space}: register the environment "
        f"with gymnasium.wrappers.TransformAction(env, lambda action: {function}, gymnasium.spaces.{plain})"
    )


def _flattening(observation: spaces.Space[Any]) -> str:
    """Return how to make an array of observations that are none."""
    if _holds_arrays(observation):
        return "register the environment with gymnasium.wrappers.FlattenObservation"
    if isinstance(observation, spaces.Dict):
        arrays = [name for name, space in observation.spaces.items() if _holds_arrays(space)]
        if arrays:
            filtered = f"gymnasium.wrappers.FilterObservation(env, {arrays})"
            fits = all(isinstance(observation[name], _SPACES) for name in arrays)
            if not fits or any(_unfit_observation(observation[name]) for name in arrays):
                filtered = f"gymnasium.wrappers.FlattenObservation({filtered})"
            return f"register the environment with {filtered}"
    return (
        "register the environment with gymnasium.wrappers.TransformObservation(env, function, space), where function "
        "makes an array of the space from an observation"
    )


def _holds_arrays(space: spaces.Space[Any]) -> bool:
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else getattr(space, "spaces", None)
    return isinstance(space, _SPACES) if parts is None else all(_holds_arrays(part) for part in parts)
