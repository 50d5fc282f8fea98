"""The autonomous vehicle of Mead et al. (2025), written anew from the facts of the published code.

A car drives from (0, 0) to (4, 3) on a grid of roads. Each road costs a random amount that depends on its kind; the
goal pays 80. An episode ends there or after 32 roads. Observations are x, y and the return so far, divided by -64.

The map is remade by its rule: horizontal roads at height y are of kind y; vertical ones in the first column are of kind
3, others of kind 0 in the lowest row and 2 above, but the last of the second row of kind 1.

The published code masks moves out of the grid. Here the car turns round and takes the opposite road.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from capping.vector import SideBySide
from gymnasium import spaces

import ordergrad as og

COSTS = np.array([[1, 2, 18], [2, 4, 13], [4, 5, 11], [7, 7, 8]])
CHANCES = np.array([0.4, 0.3, 0.3])
MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0))
GOAL, LIMIT, SCALE = 80, 32, 64.0
TIE = 1e-7
"""The weight of the expected cost between policies with equal shortfalls."""


@dataclass(frozen=True)
class Roads:
    """A grid of junctions, numbered row by row from the start at (0, 0); the last is the goal.

    `kind` and `target` of every move from every junction, each (junctions, 4).
    """

    width: int
    kind: np.ndarray
    target: np.ndarray


def make_roads(horizontal: np.ndarray, vertical: np.ndarray) -> Roads:
    """Return the grid; the road to the right of (x, y) is of kind horizontal[y, x], the one up of vertical[y, x]."""
    height, width = len(horizontal), vertical.shape[1]
    kind, target = np.zeros((2, height * width, len(MOVES)), int)
    for y, x, move in product(range(height), range(width), range(len(MOVES))):
        dx, dy = MOVES[move]
        if not (0 <= x + dx < width and 0 <= y + dy < height):
            dx, dy = -dx, -dy
        roads = horizontal if dx else vertical
        kind[y * width + x, move] = roads[min(y, y + dy), min(x, x + dx)]
        target[y * width + x, move] = (y + dy) * width + x + dx
    return Roads(width, kind, target)


def published() -> Roads:
    vertical = np.full((3, 5), 2)
    vertical[0], vertical[1, -1], vertical[:, 0] = 0, 1, 3
    return make_roads(np.repeat(np.arange(4)[:, None], 4, axis=1), vertical)


class Vehicles(SideBySide):
    """Cars side by side; the last info of an episode has `reached`, the goal, and `safest`, roads of kind 3 only."""

    def __init__(self, count: int):
        self.roads = published()
        super().__init__(count, spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(len(MOVES)))

    def begin(self, seed: int | None) -> np.ndarray:
        self.rng = np.random.default_rng(seed)
        self.junction, self.steps, self.total = np.zeros((3, self.num_envs), int)
        self.safest = np.ones(self.num_envs, bool)
        return self._observe()

    def move(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, dict[str, Any]]]:
        kind = self.roads.kind[self.junction, actions]
        outcome = np.searchsorted(CHANCES.cumsum(), self.rng.random(self.num_envs), side="right")
        self.junction = self.roads.target[self.junction, actions]
        reached = self.junction == len(self.roads.kind) - 1
        rewards = GOAL * reached - COSTS[kind, outcome]
        self.safest &= kind == len(COSTS) - 1
        self.total += rewards
        self.steps += 1
        over, obs = reached | (self.steps >= LIMIT), self._observe()
        ended = {
            i: {"reached": reached[i], "safest": reached[i] and self.safest[i], "terminal_observation": obs[i]}
            for i in np.flatnonzero(over)
        }
        self.junction[over], self.steps[over], self.total[over], self.safest[over] = 0, 0, 0, True
        return self._observe(), rewards.astype(float), over, ended

    def _observe(self) -> np.ndarray:
        y, x = np.divmod(self.junction, self.roads.width)
        return np.column_stack([x, y, self.total / -SCALE]).astype(np.float32)


# The optimum --------------------------------------------------------------------------------------------------------


class Best(NamedTuple):
    """What a policy returns, with probabilities, and how often it drives each road, (junctions, 4)."""

    returns: np.ndarray
    chances: np.ndarray
    driven: np.ndarray

    def value(self, objective: str) -> float:
        return float(og.exact.value(self.returns, self.chances, objective))


@cache
def best(level: float) -> Best:
    """Return the best policy for CVaR at a level, even of those that remember everything; level 1 is the mean."""
    return best_on(published(), level)


def best_on(roads: Roads, level: float, limit: int = LIMIT, goal: int = GOAL) -> Best:
    """Solve CVaR = max over b of b - E[(b - R)+] / level by backward induction over junction, time and cost so far.

    Returns are whole numbers, and so is the best b. With u = b + cost so far, one recursion solves all b: at the end
    (b - R)+ is (u - goal)+ or u+.
    """
    most = int(COSTS.max()) * limit
    u = np.arange(-most, goal + most + 1)
    after = np.minimum(np.arange(len(u))[:, None, None] + COSTS, len(u) - 1)  # (u, kind, outcome)
    values, choices = np.tile(np.maximum(u, 0) + TIE * u, (len(roads.kind), 1)), list[np.ndarray]()
    for _ in range(limit):
        values[-1] = np.maximum(u - goal, 0) + TIE * u
        driven = values[:, after] @ CHANCES  # (junction at the end of the road, u, kind)
        of_moves = driven[roads.target, :, roads.kind]  # (junction, move, u)
        choices.append(of_moves.argmin(1))
        values = of_moves.min(1)
    b = u[: most + goal + 1]
    return _play(roads, choices[::-1], int(b[np.argmax(b - values[0, : len(b)] / level)]), most, goal)


def _play(roads: Roads, choices: list[np.ndarray], b: int, most: int, goal: int) -> Best:
    """Return what a policy does that begins with the threshold b."""
    chances = np.zeros(choices[0].shape)
    chances[0, b + most] = 1.0
    arrived, driven = np.zeros(chances.shape[1]), np.zeros(roads.kind.shape)
    for choice in choices:
        junction, u = np.nonzero(chances)
        move, chance = choice[junction, u], chances[junction, u]
        np.add.at(driven, (junction, move), chance)
        chances = np.zeros_like(chances)
        for costs, part in zip(COSTS[roads.kind[junction, move]].T, CHANCES, strict=True):
            np.add.at(chances, (roads.target[junction, move], u + costs), part * chance)
        arrived += chances[-1]
        chances[-1] = 0.0
    cost = np.arange(len(arrived)) - most - b
    found = np.concatenate([arrived, chances.sum(0)])
    kept = found > 0
    return Best(np.concatenate([goal - cost, -cost])[kept].astype(float), found[kept], driven)


def returns_of(kinds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the returns of a route to the goal along roads of these kinds, and their probabilities."""
    chances = np.ones(1)
    for kind in kinds:
        chances = np.convolve(chances, np.bincount(COSTS[kind], CHANCES))
    return GOAL - np.arange(len(chances), dtype=float), chances
