"""The two guarded mazes of Mead et al. (2025), written anew from the facts of the published code.

`grid`: the walls of `ordergrad.envs.guarded_maze` and one more at (2, 5), no noise, one start at (1, 1). A step costs 1
while fewer than 32 have been taken; the step into the goal pays 10 more. Every step into the cell (5, 1), on the short
way, pays 30 times a standard normal number. An episode ends after 500 steps. The short way has 6 steps, the safe 14.

`maze`: the guarded maze with one start at (1, 1), a guard in 5% of the episodes, and 64 as the cost of being seen.
`charged`: the same, but each of up to 160 steps costs 1.

Observations are the position, spread over the cells of the map, and the return so far.
"""

from functools import cache
from typing import Any

import numpy as np
from capping.vector import SideBySide
from gymnasium import spaces
from maze.bound import make_grid

from ordergrad.adapters.episodes import WEIGHT
from ordergrad.conditions import ConditionSampler
from ordergrad.envs import guarded_maze as maze

START = (1, 1)
SCALE = 32.0
"""The return so far is shown in this unit."""
GUARDS = 0.05
GUARD_COST = 64.0
NOISE = 0.2
GRID_WALLS = maze.WALLS.copy()
GRID_WALLS[2, 5] = True
GRID_GOAL = 10.0
GRID_SPREAD = 30.0
LIMITS = {"grid": 500, "maze": 160, "charged": 160}


def advance_grid(episodes: maze.Episodes, action: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move every agent of the grid once, in place; return the rewards and whether the goal was reached.

    A step against a wall stays where it is. `noise` are standard normal numbers, (n,).
    """
    target = episodes.position + maze.MOVES[action]
    cell = tuple(target.astype(np.int64).T)
    free = ~GRID_WALLS[cell]
    visits = free & (target == maze.GUARD_ZONE).all(axis=1)
    reached = free & (target == maze.GOAL).all(axis=1)
    reward = np.where(episodes.steps < maze.PAID_STEPS, -1.0, 0.0) + GRID_GOAL * reached + GRID_SPREAD * noise * visits
    episodes.position[free] = target[free]
    episodes.touched |= visits
    episodes.steps += 1
    return reward, reached


class Mazes(SideBySide):
    """Mazes side by side; the last info of an episode has `reached`, the goal, and `safe`, without the guarded cell.

    With a `sampler` of guards, the infos also hold the importance weight of the episode.
    """

    def __init__(self, kind: str, count: int, sampler: ConditionSampler | None = None):
        self.kind, self.sampler = kind, sampler
        space = spaces.Box(-np.inf, np.inf, (maze.SIZE**2 + 1,), np.float32)
        super().__init__(count, space, spaces.Discrete(len(maze.MOVES)))

    def begin(self, seed: int | None) -> np.ndarray:
        self.rng = np.random.default_rng(seed)
        self.total, self.weight = np.zeros(self.num_envs), np.ones(self.num_envs)
        self.episodes = self._start(np.ones(self.num_envs, bool))
        return self._observe()

    def move(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, dict[str, Any]]]:
        episodes, late = self.episodes, self.episodes.steps >= maze.PAID_STEPS
        if self.kind == "grid":
            rewards, reached = advance_grid(episodes, actions, self.rng.standard_normal(self.num_envs))
        else:
            rewards, reached = maze.advance(episodes, actions, NOISE * self.rng.standard_normal((self.num_envs, 2)))
            if self.kind == "charged":
                rewards = rewards - (late & ~reached)
        self.total += rewards
        over = reached | (episodes.steps >= LIMITS[self.kind])
        obs, ended = self._observe(), {}
        if over.any():
            ended = {i: self._info(i, bool(reached[i]), obs[i]) for i in np.flatnonzero(over)}
            if self.sampler is not None:
                self.sampler.report(episodes.guard[over], self.weight[over], self.total[over])
            self.total[over] = 0.0
            episodes.replace(over, self._start(over))
            obs = self._observe()
        return obs, rewards, over, ended

    def _start(self, rows: np.ndarray) -> maze.Episodes:
        guard = None
        if self.sampler is not None:
            guard, self.weight[rows] = self.sampler.sample(int(rows.sum()))[:2]
        episodes = maze.start_episodes(self.rng, int(rows.sum()), guard_probability=GUARDS, guard=guard, start=START)
        episodes.guard_cost[:] = GUARD_COST
        return episodes

    def _info(self, i: int, reached: bool, obs: np.ndarray) -> dict[str, Any]:
        safe = reached and not bool(self.episodes.touched[i])
        info = {"reached": reached, "safe": safe, "terminal_observation": obs}
        return info if self.sampler is None else info | {WEIGHT: float(self.weight[i])}

    def _observe(self) -> np.ndarray:
        cells = maze.observe(self.episodes.position).reshape(self.num_envs, -1)
        return np.column_stack([cells, self.total / SCALE]).astype(np.float32)


@cache
def best_values(kind: str, level: float, per_cell: int = 11) -> tuple[float, float]:
    """Return the largest CVaR and the largest mean of any policy, even one that remembers everything.

    Grid: before its first visit of the guarded cell a policy sees nothing random, and afterwards it can expect no more
    than what the visit paid and 4; by Jensen's inequality its CVaR is at most that of 4 + 30 N(0, 1), far below the -4
    of the safe way, and a mixture of the two has no more than the better, since CVaR is convex in the distribution.

    Mazes: backward induction over position, time and whether the cell was touched, for every threshold b of CVaR =
    max over b of b - E[(b - R)+] / level. Returns are whole numbers, and so is the best b. Positions and noise are
    rounded to `per_cell` points a cell.
    """
    if kind == "grid":
        return GRID_GOAL - 14, GRID_GOAL - 6
    grid, limit = make_grid(per_cell), LIMITS[kind]
    start = grid.nearest(np.array([START], float))
    paid = limit if kind == "charged" else maze.PAID_STEPS
    b = np.arange(-paid, int(maze.GOAL_REWARD) + 1)
    moves = list(zip(grid.quiet, grid.touching, strict=True))
    states = len(grid.goal)
    shortfall = fresh = np.tile(np.maximum(b + paid, 0.0), (states, 1))  # touched without a guard; untouched
    mean = fresh_mean = np.full(states, -float(paid))
    for step in reversed(range(limit)):
        home = maze.GOAL_REWARD - min(step, paid)
        at_home = np.maximum(b - home, 0.0)
        shortfall, fresh = (np.where(grid.goal[:, None], at_home, after) for after in (shortfall, fresh))
        mean, fresh_mean = (np.where(grid.goal, home, after) for after in (mean, fresh_mean))
        # Seen, a policy is below every threshold, so that its shortfall is linear in what it still gets.
        met = (1 - GUARDS) * shortfall + GUARDS * (b + GUARD_COST - mean[:, None])
        met_mean = mean - GUARDS * GUARD_COST
        fresh = np.min([quiet @ fresh + touching @ met for quiet, touching in moves], axis=0)
        shortfall = np.min([(quiet + touching) @ shortfall for quiet, touching in moves], axis=0)
        fresh_mean = np.max([quiet @ fresh_mean + touching @ met_mean for quiet, touching in moves], axis=0)
        mean = np.max([(quiet + touching) @ mean for quiet, touching in moves], axis=0)
    return float((b - fresh[start[0]] / level).max()), float(fresh_mean[start[0]])
