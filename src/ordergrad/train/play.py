"""Episodes of a trained policy, one of which is chosen by its rank and shown or recorded.

The seed determines an episode, so that the chosen one can be played again with pictures.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (Gymnasium and Stable-Baselines3 leave many of their types open)

import importlib.util
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import replacing
from ordergrad.train.rl_model import seed_of
from ordergrad.train.rl_settings import RLSettings

Frame = NDArray[np.uint8]
_FORMATS = (".gif", ".mp4")
_PICTURES, _FASTEST = 600, 50  # of a film, and a second of it
_LONGEST = 100_000  # steps after which an episode counts as one that never ends


@dataclass(frozen=True)
class Episode:
    """An episode: its number from 0, the seed that determines it, its return and its steps."""

    number: int
    seed: int
    total: float
    length: int


def played(
    policy: Any, settings: RLSettings, episodes: int, seed: int, greedy: bool, report: Callable[[], None]
) -> list[Episode]:
    """Return so many episodes of a policy, their seeds derived from one; `report` is called after each.

    A greedy policy takes its likeliest action, instead of drawing one as in training.
    """
    env = gym.make(settings.env_id, **settings.env_args)
    found: list[Episode] = []
    for number in range(episodes):
        own = seed_of(seed, 3, number)
        total, length = play(policy, env, own, greedy)
        found.append(Episode(number, own, total, length))
        report()
    env.close()
    return found


def play(
    policy: Any, env: gym.Env[Any, Any], seed: int, greedy: bool, shown: Callable[[], None] = lambda: None
) -> tuple[float, int]:
    """Play one episode and return its return and its length; `shown` is called after the reset and after each step.

    Raises:
        UserError: The episode does not end.
    """
    total, length, over = 0.0, 0, False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        observation, _ = env.reset(seed=seed)
        shown()
        while not over:
            action, _ = policy.predict(observation, deterministic=greedy)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, length, over = total + float(reward), length + 1, bool(terminated or truncated)
            shown()
            if length > _LONGEST:
                raise UserError(f"an episode has not ended after {_LONGEST} steps: train with a time limit")
    return total, length


def choose(episodes: Sequence[Episode], which: str) -> Episode:
    """Return the ``worst``, the ``median`` (of an even number the lower one) or the ``best`` episode.

    Raises:
        UserError: No return is finite.

    Example:
        >>> episodes = [Episode(i, i, total, 5) for i, total in enumerate((3.0, 1.0, 2.0, 9.0))]
        >>> [choose(episodes, which).total for which in ("worst", "median", "best")]
        [1.0, 2.0, 9.0]
    """
    ranked = sorted((e for e in episodes if np.isfinite(e.total)), key=lambda episode: episode.total)
    if not ranked:
        raise UserError("no episode has a finite return: check the rewards of the environment")
    return ranked[{"worst": 0, "median": (len(ranked) - 1) // 2, "best": -1}[which]]


def check_file(path: Path) -> None:
    """Check that a recording can be written.

    Raises:
        UserError: The ending is not that of a format, the folder does not exist, or a package is missing.
    """
    if path.suffix.lower() not in _FORMATS:
        raise UserError(f"--record must end in {' or '.join(_FORMATS)}; got {path}")
    if not path.parent.is_dir():
        raise UserError(f"--record must lie in an existing folder; got {path}")
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError("recording .mp4 needs imageio-ffmpeg: pip install imageio-ffmpeg, or record a .gif")


def show(policy: Any, settings: RLSettings, episode: Episode, greedy: bool) -> float:
    """Play an episode again in a window and return its return."""
    env = _rendering(settings, "human")
    try:
        return play(policy, env, episode.seed, greedy)[0]
    finally:
        env.close()


def record(policy: Any, settings: RLSettings, episode: Episode, greedy: bool, path: Path, size: int) -> float:
    """Play an episode again, write it as a film, ``.gif`` or ``.mp4``, and return its return.

    A film has at most 600 pictures (of longer episodes, every other one or fewer), their longer side at most `size`.
    """
    from PIL import Image

    env = _rendering(settings, "rgb_array")
    pictures: list[Image.Image] = []
    seen = itertools.count()
    rate = float(env.metadata.get("render_fps") or 30)
    every = max(math.ceil(episode.length / _PICTURES), math.ceil(rate / _FASTEST))

    def keep() -> None:
        if next(seen) % every == 0:
            drawn: Any = env.render()
            picture = Image.fromarray(np.asarray(drawn, np.uint8))
            picture.thumbnail((size, size))
            pictures.append(picture)

    try:
        total, _ = play(policy, env, episode.seed, greedy, keep)
    finally:
        env.close()
    (_write_gif if path.suffix.lower() == ".gif" else _write_mp4)(path, pictures, rate / every)
    return total


def check_mode(settings: RLSettings, mode: str) -> None:
    """Check that the environment of a run can be seen: in a window, ``human``, or as pictures, ``rgb_array``.

    Raises:
        UserError: It cannot.
    """
    env = gym.make(settings.env_id, **settings.env_args)
    modes: Any = env.metadata.get("render_modes") or ()
    env.close()
    if mode not in modes:
        what = "opens no window" if mode == "human" else "draws no pictures"
        raise UserError(f"{settings.env_id} {what}: its render_modes are {', '.join(modes) or 'none'}, without {mode}")


def _rendering(settings: RLSettings, mode: str) -> gym.Env[Any, Any]:
    options: dict[str, Any] = settings.env_args | {"render_mode": mode}
    return gym.make(settings.env_id, **options)


def _write_gif(path: Path, pictures: list[Any], rate: float) -> None:
    with replacing(path) as file:
        first, *others = pictures
        first.save(file, "GIF", save_all=True, append_images=others, duration=round(1000 / rate), loop=0)


def _write_mp4(path: Path, pictures: list[Any], rate: float) -> None:
    from imageio_ffmpeg import write_frames  # pyright: ignore

    temporary = path.with_name(f".{path.stem}.part.mp4")
    try:
        film: Any = write_frames(str(temporary), pictures[0].size, fps=rate, macro_block_size=2)  # pyright: ignore[reportArgumentType]
        film.send(None)
        for picture in pictures:
            film.send(picture.tobytes())
        film.close()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
