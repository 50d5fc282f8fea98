"""How good a policy of the guarded maze could be, by dynamic programming on a grid of positions.

References:
    Rockafellar and Uryasev (2000). Optimization of conditional value-at-risk. Journal of Risk 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from maze.loop import LEVEL, NOISE, TIME_LIMIT, TRUE_GUARDS, evaluate, test_rng
from rich.console import Console
from scipy.sparse import csr_array
from scipy.special import ndtr

from ordergrad.envs import guarded_maze as maze


@dataclass
class Grid:
    """The maze on a grid of positions, with the noise rounded to the grid: a finite Markov decision process."""

    per_cell: int
    position: np.ndarray  # (states, 2)
    index: np.ndarray  # (side, side): state at a grid point, -1 in walls
    quiet: list[csr_array]  # for each action, transitions that leave the guard zone untouched
    touching: list[csr_array]  # for each action, transitions that touch it
    goal: np.ndarray
    start: np.ndarray

    def nearest(self, position: np.ndarray) -> np.ndarray:
        x, y = np.rint(position * self.per_cell).astype(int).T
        return self.index[x, y]


def make_grid(per_cell: int) -> Grid:
    """Odd numbers of points per cell put the cell borders midway between grid points. The rules are the maze's own."""
    side = 7 * per_cell + 1
    points = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2) / per_cell
    cell = np.floor(points + 0.5).astype(int)
    free = ~maze.WALLS[cell[:, 0], cell[:, 1]]
    position, index = points[free], np.full(side * side, -1)
    index[free] = np.arange(free.sum())
    index = index.reshape(side, side)

    reach = np.arange(-per_cell, per_cell + 1)  # five standard deviations
    mass = ndtr((reach + 0.5) / per_cell / NOISE) - ndtr((reach - 0.5) / per_cell / NOISE)
    noise = np.stack(np.meshgrid(reach, reach, indexing="ij"), axis=-1).reshape(-1, 2) / per_cell
    probability = np.outer(mass, mass).ravel()
    noise, probability = noise[probability > 1e-9], probability[probability > 1e-9]
    probability /= probability.sum()

    grid = Grid(per_cell, position, index, [], [], np.zeros(0), np.zeros(0))
    states, outcomes = len(position), len(noise)
    for action in range(len(maze.MOVES)):
        n = states * outcomes
        moved = maze.Episodes(
            position.repeat(outcomes, axis=0), np.zeros(n, bool), np.zeros(n), np.zeros(n, bool), np.zeros(n, int)
        )
        maze.advance(moved, np.full(n, action), np.tile(noise, (states, 1)))
        origin, target = np.arange(states).repeat(outcomes), grid.nearest(moved.position)
        weight = np.tile(probability, states)
        for chosen, matrices in ((~moved.touched, grid.quiet), (moved.touched, grid.touching)):
            entries = (weight[chosen], (origin[chosen], target[chosen]))
            matrices.append(csr_array(entries, shape=(states, states)))
    grid.goal = (np.floor(position + 0.5) == maze.GOAL).all(axis=1)
    first, last = maze.START_CELLS
    cells = np.array([(x, y) for x in range(first, last + 1) for y in range(first, last + 1)])
    grid.start = grid.nearest(cells.astype(float))
    return grid


def best_mean(grid: Grid) -> float:
    """The largest mean of any policy, by backward induction over (position, time, whether the zone was touched).

    An untouched agent knows nothing of the guard, so a first touch costs the expected price.
    """
    price = TRUE_GUARDS * maze.GUARD_COST_UNIT * maze.GUARD_COST_MEAN
    fresh = touched = np.zeros(len(grid.goal))
    for step in reversed(range(TIME_LIMIT)):
        cost = 1.0 if step < maze.PAID_STEPS else 0.0
        fresh, touched = (np.where(grid.goal, maze.GOAL_REWARD, after - cost) for after in (fresh, touched))
        both = list(zip(grid.quiet, grid.touching, strict=True))
        fresh = np.max([quiet @ fresh + touching @ (touched - price) for quiet, touching in both], axis=0)
        touched = np.max([quiet @ touched + touching @ touched for quiet, touching in both], axis=0)
    return float(fresh[grid.start].mean())


def best_tail(grid: Grid, level: float = LEVEL, thresholds: range = range(-8, 2)) -> tuple[float, int]:
    """The largest CVaR of any policy whatever, even one that remembers everything, and its value at risk.

    CVaR = max over b of b - E[(b - R)+] / level, so for each threshold b the smallest expected shortfall is wanted.
    Before the zone is touched the reward so far is a function of time, afterwards also of the guard's cost C, which
    shifts b: the state is (position, time, untouched or the shifted threshold). Shortfalls at thresholds between the
    integers are interpolated; above 16, the largest return, they are linear. The cost is integrated exactly.
    """
    low, high = thresholds[0], int(maze.GOAL_REWARD)
    shifted, b = np.arange(low, high + 1), np.array(thresholds)
    mean_cost = maze.GUARD_COST_UNIT * maze.GUARD_COST_MEAN
    caught, beyond = np.zeros((len(shifted), len(b))), np.exp(-(high - b) / mean_cost) * mean_cost
    for j, threshold in enumerate(b):  # E[shortfall at b + C] as a sum over the integers
        for k in range(high - threshold):
            here = np.exp(-k / mean_cost)
            upper = here * (mean_cost - (mean_cost + 1) * np.exp(-1 / mean_cost))
            caught[threshold - low + k, j] += here * (1 - np.exp(-1 / mean_cost)) - upper
            caught[threshold - low + k + 1, j] += upper
        caught[-1, j] += np.exp(-(high - threshold) / mean_cost)

    p, states = TRUE_GUARDS, len(grid.goal)
    worst = -float(maze.PAID_STEPS)
    known = np.tile(np.maximum(shifted - worst, 0.0), (states, 1))
    fresh = np.tile(np.maximum(b - worst, 0.0), (states, 1))
    for step in reversed(range(TIME_LIMIT)):
        home = maze.GOAL_REWARD - min(step, maze.PAID_STEPS)
        known = np.where(grid.goal[:, None], np.maximum(shifted - home, 0.0), known)
        fresh = np.where(grid.goal[:, None], np.maximum(b - home, 0.0), fresh)
        met = (1 - p) * known[:, : len(b)] + p * (known @ caught + beyond)
        both = list(zip(grid.quiet, grid.touching, strict=True))
        fresh = np.min([quiet @ fresh + touching @ met for quiet, touching in both], axis=0)
        known = np.min([quiet @ known + touching @ known for quiet, touching in both], axis=0)
    tail = b - fresh[grid.start].mean(axis=0) / level
    return float(tail.max()), int(b[tail.argmax()])


def position_policy(grid: Grid, risk_aversion: float, touch_price: float) -> np.ndarray:
    """A policy that sees nothing but the position, as the trained ones: actions for each state.

    It minimises E[exp(risk_aversion * steps)], where a step that touches the guard zone counts as `touch_price` more.
    """
    step, price = np.exp(risk_aversion), np.expm1(risk_aversion * touch_price)
    value = np.full(len(grid.goal), np.exp(60 * risk_aversion))
    actions = np.zeros(len(grid.goal), int)
    for _ in range(160):
        after = np.where(grid.goal, 1.0, value) * step
        costs = [q @ after + t @ (after * (1 + price)) for q, t in zip(grid.quiet, grid.touching, strict=True)]
        actions, value = np.argmin(costs, axis=0), np.min(costs, axis=0)
    return actions


def compute_bound(console: Console, spacings: tuple[int, ...] = (7, 11, 15), episodes: int = 100_000) -> dict[str, Any]:
    """Upper ends by dynamic programming, and policies of the position alone that are simulated in the true maze."""
    bound: dict[str, Any] = {"test_episodes": episodes, "grids": [], "position_only": []}
    for per_cell in spacings:
        grid = make_grid(per_cell)
        mean, (tail, threshold) = best_mean(grid), best_tail(grid)
        bound["grids"].append({"per_cell": per_cell, "mean": mean, "cvar": tail, "value_at_risk": threshold})
        console.print(f"{per_cell:>2} points a cell: best mean {mean:.2f}, best CVaR 5% {tail:.2f}")
    for risk_aversion, touch_price in ((0.01, 2.5), (0.01, 10), (0.01, 15), (0.01, 30), (0.1, 10), (0.1, 25)):
        actions, rng = position_policy(grid, risk_aversion, touch_price), test_rng()
        result = evaluate(lambda position, *_, actions=actions: actions[grid.nearest(position)], episodes, rng)
        bound["position_only"].append({"risk_aversion": risk_aversion, "touch_price": touch_price, **result})
        console.print(
            f"position only, risk aversion {risk_aversion:.2f}, touch price {touch_price:4.1f}: "
            f"mean {result['mean']:.2f}, CVaR 5% {result['cvar']:.2f}, touching {result['touched']:.2%}"
        )
    return bound
