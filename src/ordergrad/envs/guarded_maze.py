"""The guarded maze: a short way with a rare, heavy cost against a long, safe one [1].

An agent starts in the lower left of a small maze and walks to a goal behind a wall. The short way leads through a zone
that is guarded in one episode out of five, and being seen there costs 32 on average, twice what the goal pays. Even so
the short way has the larger mean return (3.5 against 2.1); the long one has by far the larger CVaR 5%. Which way a
policy learns also depends on how often training meets a guard.

The dynamics are three pure functions on a batch of episodes, `start_episodes`, `advance` and `observe`, in NumPy. The
vector environment wraps them, the single environment is a batch of one, and a training loop may call them directly.

Map, with y upward (`#` wall, `!` guard zone, `G` goal, `s` start cells):

    y=7  ########
         #......#
         #..###.#       the wall at x 3..5, y 5 and x 5, y 2..5
         #....#.#
         #sss.#.#
         #sss.#G#
         #sss.!.#
    y=0  ########
         x=0    7

References:
    [1] Greenberg, Chow, Ghavamzadeh and Mannor (2022), "Efficient Risk-Averse Reinforcement Learning", NeurIPS 35,
        arXiv 2205.05138. The facts of the maze follow its section 5 and appendix.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, SupportsIndex

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

__all__ = ["Episodes", "GuardedMaze", "GuardedMazeVector", "advance", "observe", "start_episodes"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

SIZE = 8
"""Cells along each side; the centre of cell (x, y) is the point (x, y), so positions lie in [0, 7]."""

GOAL = (6, 2)
GUARD_ZONE = (5, 1)
START_CELLS = (1, 3)
"""First and last start cell, the same in x and y."""

MOVES = np.array([(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)])
"""What actions 0 to 3 add to the position: left, right, down, up."""

GOAL_REWARD = 16.0
GUARD_COST_UNIT = 16.0
"""A touch costs this times an exponential variable with mean `GUARD_COST_MEAN`."""
GUARD_COST_MEAN = 2.0
PAID_STEPS = 32
"""Steps that cost 1 each; later ones are free."""


def _walls() -> Bools:
    walls = np.zeros((SIZE, SIZE), dtype=np.bool_)
    walls[[0, -1], :] = walls[:, [0, -1]] = True
    walls[3:6, 5] = walls[5, 2:6] = True
    walls.flags.writeable = False
    return walls


WALLS = _walls()
"""`WALLS[x, y]` tells whether cell (x, y) is a wall."""


@dataclass
class Episodes:
    """A batch of n running episodes; every field has n rows."""

    position: Floats
    """Where each agent stands, (n, 2), as (x, y)."""
    guard: Bools
    """Whether a guard is present in this episode. Hidden from the agent."""
    guard_cost: Floats
    """What the guard takes if it is present and sees the agent."""
    touched: Bools
    """Whether the guard zone has been touched so far."""
    steps: Ints
    """Steps taken so far."""

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, rows: Any) -> "Episodes":
        """The chosen rows as a batch of their own, copied: `episodes[~finished]` drops what is finished."""
        return Episodes(**{name: np.atleast_1d(field[rows]).copy() for name, field in vars(self).items()})

    def replace(self, rows: Bools, other: "Episodes") -> None:
        """Overwrite the chosen rows with those of `other`, one for each true entry of `rows`."""
        for name, field in vars(self).items():
            field[rows] = getattr(other, name)


def start_episodes(
    rng: np.random.Generator,
    n: int,
    *,
    guard_probability: float = 0.2,
    guard: npt.ArrayLike | None = None,
    start: npt.ArrayLike | None = None,
) -> Episodes:
    """Begin n episodes.

    The generator is asked for the same numbers whatever is given, so that a condition can be changed and all else kept.

    Args:
        rng: Source of the start cells, the guards and their costs.
        n: Number of episodes.
        guard_probability: Probability that a guard is present.
        guard: Presence of the guard instead of a draw; one bool, or one per episode. With guards drawn at another
            probability q, an episode's importance weight is p/q with a guard and (1-p)/(1-q) without.
        start: Start position (x, y) instead of a draw; one, or one per episode.

    Raises:
        ValueError: If `guard` or `start` has the wrong shape, or a start position lies outside the map or in a wall.
    """
    position = rng.integers(START_CELLS[0], START_CELLS[1], size=(n, 2), endpoint=True).astype(np.float64)
    present = rng.random(n) < guard_probability
    cost = GUARD_COST_UNIT * rng.exponential(GUARD_COST_MEAN, size=n)
    if guard is not None:
        present = _checked_guard(guard, n)
    if start is not None:
        position = _checked_start(start, n)
    return Episodes(position, present, cost, np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.int64))


def advance(episodes: Episodes, action: npt.ArrayLike, noise: Floats) -> tuple[Floats, Bools]:
    r"""Move every agent once, in place.

    The target is \(\operatorname{clip}(s + d_a + \varepsilon, 0, 7)\). The move happens unless the cell of the target
    or of the midpoint between s and the target is a wall. The guard zone is touched if either of the two lies in it.
    A step costs 1 while fewer than 32 have been taken and nothing later; the step into the goal pays 16 instead.

    Args:
        episodes: The batch of n episodes, changed in place.
        action: One of 0 left, 1 right, 2 down, 3 up for each episode, (n,).
        noise: The epsilon above, (n, 2).

    Returns:
        The rewards, (n,), and whether the goal was reached, (n,).
    """
    target = np.clip(episodes.position + MOVES[np.asarray(action)] + noise, 0.0, SIZE - 1.0)
    target_cell, middle_cell = _cell(target), _cell((episodes.position + target) / 2)
    free = ~(WALLS[target_cell] | WALLS[middle_cell])
    touches = _inside(target_cell, GUARD_ZONE) | _inside(middle_cell, GUARD_ZONE)
    caught = touches & ~episodes.touched & episodes.guard
    reached = free & _inside(target_cell, GOAL)

    step_reward = np.where(episodes.steps < PAID_STEPS, -1.0, 0.0)
    reward = np.where(reached, GOAL_REWARD, step_reward) - episodes.guard_cost * caught
    episodes.position[free] = target[free]
    episodes.touched |= touches
    episodes.steps += 1
    return reward, reached


def observe(position: Floats) -> npt.NDArray[np.float32]:
    """Spread each position bilinearly over its four cells of an otherwise empty map.

    Args:
        position: Positions, (n, 2).

    Returns:
        Maps, (n, 8, 8), indexed by [x, y]: at most four positive entries, which sum to 1.
    """
    low = np.minimum(position.astype(np.int64), SIZE - 2)
    high_share = position - low
    maps = np.zeros((len(position), SIZE, SIZE), dtype=np.float32)
    row, (x, y) = np.arange(len(position)), low.T
    (right, up), (left, down) = high_share.T, (1.0 - high_share).T
    maps[row, x, y] = left * down
    maps[row, x, y + 1] = left * up
    maps[row, x + 1, y] = right * down
    maps[row, x + 1, y + 1] = right * up
    return maps


def _cell(point: Floats) -> tuple[Ints, Ints]:
    x, y = np.floor(point + 0.5).astype(np.int64).T
    return x, y


def _inside(cell: tuple[Ints, Ints], place: tuple[int, int]) -> Bools:
    return (cell[0] == place[0]) & (cell[1] == place[1])


def _checked_guard(guard: npt.ArrayLike, n: int) -> Bools:
    present = np.asarray(guard)
    if present.dtype != np.bool_ or present.shape not in ((), (n,)):
        raise ValueError(
            f"guard must be one bool or an array of {n} bools; got dtype {present.dtype}, shape {present.shape}"
        )
    return np.broadcast_to(present, (n,)).copy()


def _checked_start(start: npt.ArrayLike, n: int) -> Floats:
    position = np.asarray(start, dtype=np.float64)
    if position.shape not in ((2,), (n, 2)):
        raise ValueError(f"start must be one position (x, y) or an array of shape ({n}, 2); got shape {position.shape}")
    position = np.broadcast_to(position, (n, 2)).copy()
    inside = np.all((position >= 0) & (position <= SIZE - 1), axis=1)  # NaN is not inside
    allowed = inside & ~WALLS[_cell(np.where(inside[:, None], position, 0.0))]
    if not allowed.all():
        raise ValueError(
            f"start must lie in [0, {SIZE - 1}] x [0, {SIZE - 1}] and outside the walls; got {position[~allowed][0]}"
        )
    return position


class _Maze:
    """What the single and the vector environment share: the arguments, the batch of episodes and the drawing."""

    def _configure(
        self, num_envs: int, guard_probability: float, noise: float, max_episode_steps: int, render_mode: str | None
    ) -> None:
        if not 0.0 <= guard_probability <= 1.0:
            raise ValueError(f"guard_probability must lie in [0, 1]; got {guard_probability}")
        if not 0.0 <= noise < np.inf:
            raise ValueError(f"noise must be finite and at least 0; got {noise}")
        if max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1; got {max_episode_steps}")
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1; got {num_envs}")
        if render_mode not in (None, *_RENDER_MODES):
            raise ValueError(f"render_mode must be None or one of {_RENDER_MODES}; got {render_mode!r}")
        self.guard_probability = guard_probability
        self.noise = noise
        self.max_episode_steps = max_episode_steps
        self._count = num_envs
        self._mode = render_mode
        self._episodes: Episodes | None = None
        self._trails: list[list[Floats]] = [[] for _ in range(num_envs)]

    def _start(self, rng: np.random.Generator, rows: Bools, options: dict[str, Any] | None = None) -> None:
        """Start a new episode in the chosen rows."""
        options = options or {}
        if unknown := set(options) - {"guard", "start"}:
            raise ValueError(f"options must have no other keys than 'guard' and 'start'; got {sorted(unknown)}")
        started = start_episodes(
            rng,
            int(rows.sum()),
            guard_probability=self.guard_probability,
            guard=options.get("guard"),
            start=options.get("start"),
        )
        if self._episodes is None:
            self._episodes = started
        else:
            self._episodes.replace(rows, started)
        if self._mode == "rgb_array":
            for i in np.flatnonzero(rows):
                self._trails[i] = [self._episodes.position[i].copy()]

    def _move(self, rng: np.random.Generator, action: npt.NDArray[Any], rows: Bools) -> tuple[Floats, Bools, Bools]:
        """Move the chosen rows; rewards, terminations and truncations of all, zero and false for the others."""
        episodes = self._running()
        if action.shape != (self._count,) or action.dtype.kind not in "iu" or action.min() < 0 or action.max() > 3:
            raise ValueError(
                f"action must be an integer from 0 to 3 for each of {self._count} episodes; "
                f"got {action!r} of shape {action.shape}"
            )
        moving = episodes[rows]
        reward, terminated = np.zeros(self._count), np.zeros(self._count, dtype=np.bool_)
        reward[rows], terminated[rows] = advance(
            moving, action[rows], self.noise * rng.standard_normal((len(moving), 2))
        )
        episodes.replace(rows, moving)
        truncated = rows & ~terminated & (episodes.steps >= self.max_episode_steps)
        if self._mode == "rgb_array":
            for i in np.flatnonzero(rows):
                self._trails[i].append(episodes.position[i].copy())
        return reward, terminated, truncated

    def _running(self) -> Episodes:
        if self._episodes is None:
            raise gymnasium.error.ResetNeeded("call reset() before step() or render()")
        return self._episodes

    def _frames(self) -> list[Any]:
        """One drawing for each episode, as text or as an image."""
        episodes = self._running()
        if self._mode == "ansi":
            return [_as_text(p, bool(g)) for p, g in zip(episodes.position, episodes.guard, strict=True)]
        return [_as_image(np.array(t), bool(g)) for t, g in zip(self._trails, episodes.guard, strict=True)]


class GuardedMaze(_Maze, gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """One guarded maze; see the module for the rules.

    **Observation**: `Box(0, 1, (8, 8))`, the position spread bilinearly over its four cells, indexed by [x, y]. Whether
    a guard is present cannot be seen. **Actions**: 0 left, 1 right, 2 down, 3 up. **Reward**: -1 a step for the first
    32 steps, then 0; 16 for the step into the goal instead; minus 16 times an exponential variable with mean 2 for the
    first touch of the guard zone while a guard is present. **End**: the goal, or truncation after `max_episode_steps`.

    `reset` takes two options. `guard` (bool) sets the presence of the guard, so that conditions can be sampled with a
    probability of one's own. `start` is the start position (x, y).

    `info` holds `guard` (present in this episode), `guard_touched` (the guard zone was touched) and `position`.

    Args:
        guard_probability: Probability that a guard is present in an episode.
        noise: Standard deviation of the Gaussian noise on each coordinate of a move.
        max_episode_steps: Steps after which an episode is truncated. `gymnasium.make` adds its own limit on top, which
            can only be shorter.
        render_mode: None, "rgb_array" or "ansi".

    Example:
        >>> import gymnasium, ordergrad.envs
        >>> env = gymnasium.make("ordergrad/GuardedMaze-v0", render_mode="ansi")
        >>> observation, info = env.reset(seed=0, options={"guard": True, "start": (3, 1)})
        >>> print(env.render())
        ########
        #......#
        #..###.#
        #....#.#
        #....#.#
        #....#G#
        #..A.!.#
        ########

    References:
        Greenberg et al. (2022), "Efficient Risk-Averse Reinforcement Learning", NeurIPS 35, arXiv 2205.05138.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 10}  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        guard_probability: float = 0.2,
        noise: float = 0.2,
        max_episode_steps: int = 160,
        render_mode: str | None = None,
    ) -> None:
        self._configure(1, guard_probability, noise, max_episode_steps, render_mode)
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (SIZE, SIZE), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(MOVES))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Start an episode; see the class for the options."""
        super().reset(seed=seed)
        self._start(self.np_random, np.ones(1, dtype=np.bool_), options)
        return observe(self._running().position)[0], self._info()

    def step(
        self, action: SupportsIndex | npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take one step."""
        reward, terminated, truncated = self._move(
            self.np_random, np.atleast_1d(np.asarray(action)), np.ones(1, dtype=np.bool_)
        )
        observation = observe(self._running().position)[0]
        return observation, float(reward[0]), bool(terminated[0]), bool(truncated[0]), self._info()

    def render(self) -> Any:
        """The maze as a (512, 512, 3) image with the way so far, or as text; None without a render mode."""
        return None if self.render_mode is None else self._frames()[0]

    def _info(self) -> dict[str, Any]:
        episodes = self._running()
        return {
            "guard": bool(episodes.guard[0]),
            "guard_touched": bool(episodes.touched[0]),
            "position": episodes.position[0].copy(),
        }


class GuardedMazeVector(_Maze, gymnasium.vector.VectorEnv[npt.NDArray[np.float32], npt.NDArray[np.int64], Any]):
    """A batch of guarded mazes that move together; the rules, options and infos of `GuardedMaze`.

    The step after an episode's end resets it, ignores the action and pays 0 (next-step autoreset).
    The options may hold one value for all episodes or one for each; episodes started by autoreset draw their own.

    Args:
        num_envs: Number of episodes side by side.
        guard_probability: Probability that a guard is present in an episode.
        noise: Standard deviation of the Gaussian noise on each coordinate of a move.
        max_episode_steps: Steps after which an episode is truncated.
        render_mode: None, "rgb_array" or "ansi".

    Example:
        >>> import gymnasium, numpy as np, ordergrad.envs
        >>> envs = gymnasium.make_vec("ordergrad/GuardedMaze-v0", 4, vectorization_mode="vector_entry_point")
        >>> _, info = envs.reset(seed=0, options={"guard": np.array([True, False, True, False])})
        >>> info["guard"].tolist()
        [True, False, True, False]
    """

    metadata: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        guard_probability: float = 0.2,
        noise: float = 0.2,
        max_episode_steps: int = 160,
        render_mode: str | None = None,
    ) -> None:
        self._configure(num_envs, guard_probability, noise, max_episode_steps, render_mode)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = gymnasium.spaces.Box(0.0, 1.0, (SIZE, SIZE), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(len(MOVES))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)  # pyright: ignore[reportUnknownMemberType]
        self._finished = np.zeros(num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Reset every episode; see `GuardedMaze` for the options."""
        super().reset(seed=seed)
        self._start(self.np_random, np.ones(self.num_envs, dtype=np.bool_), options)
        self._finished[:] = False
        return observe(self._running().position), self._info()

    def step(self, actions: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], Floats, Bools, Bools, dict[str, Any]]:
        """Take one step in every episode; reset those that the last step ended."""
        anew = self._finished
        reward, terminated, truncated = self._move(self.np_random, np.asarray(actions), ~anew)
        if anew.any():
            self._start(self.np_random, anew)
        self._finished = terminated | truncated
        return observe(self._running().position), reward, terminated, truncated, self._info()

    def render(self) -> tuple[Any, ...] | None:
        """One drawing for each episode; None without a render mode."""
        return None if self.render_mode is None else tuple(self._frames())

    def _info(self) -> dict[str, Any]:
        episodes, every = self._running(), np.ones(self.num_envs, dtype=np.bool_)
        values = {"guard": episodes.guard, "guard_touched": episodes.touched, "position": episodes.position}
        return {name: value.copy() for name, value in values.items()} | {f"_{name}": every for name in values}


# Drawing ------------------------------------------------------------------------------------------------------------

_RENDER_MODES = ("rgb_array", "ansi")
_PIXELS = 64  # per cell


def _as_text(position: Floats, guard: bool) -> str:
    """Rows from the top; the guard zone is `!` with a guard in it and `?` without."""
    symbols = np.where(WALLS, "#", ".")
    symbols[GUARD_ZONE] = "!" if guard else "?"
    symbols[GOAL] = "G"
    x, y = _cell(position)
    symbols[x, y] = "A"
    return "\n".join("".join(row) for row in symbols.T[::-1])


def _as_image(trail: Floats, guard: bool) -> npt.NDArray[np.uint8]:
    """The map, the way walked so far and the agent, (512, 512, 3)."""
    image = _map_image(guard).copy()
    for begin, end in pairwise(trail):
        _paint(image, begin, end, radius=0.045, colour=(86, 130, 190))
    _paint(image, trail[0], trail[0], radius=0.10, colour=(86, 130, 190))
    _paint(image, trail[-1], trail[-1], radius=0.27, colour=(255, 255, 255))
    _paint(image, trail[-1], trail[-1], radius=0.21, colour=(20, 72, 145))
    return image.round().astype(np.uint8)


def _map_image(guard: bool) -> Floats:
    cell_colours = np.full((SIZE, SIZE, 3), (250.0, 249.0, 245.0))
    cell_colours[START_CELLS[0] : START_CELLS[1] + 1, START_CELLS[0] : START_CELLS[1] + 1] = (232, 240, 249)
    cell_colours[WALLS] = (66, 74, 88)
    cell_colours[GOAL] = (186, 226, 203)
    cell_colours[GUARD_ZONE] = (252, 219, 181)
    image = cell_colours.transpose(1, 0, 2)[::-1].repeat(_PIXELS, axis=0).repeat(_PIXELS, axis=1)
    _paint(image, np.array(GOAL), np.array(GOAL), radius=0.32, colour=(255, 255, 255))
    _paint(image, np.array(GOAL), np.array(GOAL), radius=0.24, colour=(0, 140, 95))
    if guard:
        zone = np.array(GUARD_ZONE, dtype=np.float64)
        for sign in (-1.0, 1.0):
            _paint(image, zone - 0.22 * np.array((1, sign)), zone + 0.22 * np.array((1, sign)), 0.07, (205, 75, 15))
    return image


def _paint(
    image: Floats, begin: npt.NDArray[Any], end: npt.NDArray[Any], radius: float, colour: tuple[int, int, int]
) -> None:
    """Blend a line with round ends into the image, antialiased, in cell coordinates; a disc if both ends meet."""
    low, high = np.minimum(begin, end) - radius, np.maximum(begin, end) + radius
    columns = _pixels_between(low[0], high[0])
    rows = _pixels_between(SIZE - 1 - high[1], SIZE - 1 - low[1])
    x = (columns[None, :] + 0.5) / _PIXELS - 0.5
    y = SIZE - 1 - ((rows[:, None] + 0.5) / _PIXELS - 0.5)
    along = np.asarray(end - begin, dtype=np.float64)
    share = ((x - begin[0]) * along[0] + (y - begin[1]) * along[1]) / max(float(along @ along), 1e-12)
    share = share.clip(0.0, 1.0)
    distance = np.hypot(x - begin[0] - share * along[0], y - begin[1] - share * along[1])
    cover = ((radius - distance) * _PIXELS + 0.5).clip(0.0, 1.0)[..., None]
    patch = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    patch += cover * (np.array(colour) - patch)


def _pixels_between(low: float, high: float) -> Ints:
    first = max(int((low + 0.5) * _PIXELS) - 1, 0)
    last = min(int((high + 0.5) * _PIXELS) + 1, SIZE * _PIXELS - 1)
    return np.arange(first, last + 1)
