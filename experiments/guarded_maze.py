"""The guarded maze: a mean-trained policy takes the short guarded way, a tail-trained one the long safe one.

A plain policy gradient on 400 episodes a batch, with the advantages of an OrderGrad objective. A tail objective alone
gets stuck here: as long as a policy seldom reaches the goal, its tail consists of timeouts whatever it does. The recipe
adds

1. *guard oversampling*: guards in 80% of the training episodes instead of 20%, or as often as a cross-entropy sampler
   finds them in the worst episodes (`ordergrad.conditions`);
2. *an annealed objective*: from the mean to the CVaR of the worst 5%, `og.anneal("mean", "cvar:0.05", t)`;
3. *tempered importance weights*: omega^t, so that early training simply sees more guards and late training is unbiased
   by them. A guard that was never met has not changed the episode, so such an episode has weight 1;
4. an entropy bonus that fades out, advantages in units of their usual spread, a clipped gradient, a fading step size.
   (The spread is a running mean: a batch divided by its own spread would count least when it holds a caught episode.)

`--study` leaves out one at a time. `--bound` computes by dynamic programming how good any policy could be.

    python experiments/guarded_maze.py --quick                  # mean against the recipe, under a minute on two cores
    python experiments/guarded_maze.py --study --results experiments/results/guarded_maze --images docs/images
    python experiments/guarded_maze.py --variant recipe --seed 3

Needs `pip install "ordergrad[rl]"`. Results and what they mean: docs/studies/guarded_maze.md.

References:
    Greenberg, Chow, Ghavamzadeh and Mannor (2022). Efficient Risk-Averse Reinforcement Learning. NeurIPS 35.
    Rockafellar and Uryasev (2000). Optimization of conditional value-at-risk. Journal of Risk 2. (the bound)
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from scipy.sparse import csr_array
from scipy.special import ndtr
from torch import nn

import ordergrad as og
from ordergrad.conditions import Bernoulli, ConditionSampler
from ordergrad.envs import guarded_maze as maze
from ordergrad.runs.folder import provenance

TRUE_GUARD_PROBABILITY = 0.2
NOISE = 0.2
TIME_LIMIT = 160
RISK = "cvar:0.05"
PUBLISHED = {"policy gradient": (4.2, -63.3), "CVaR policy gradient": (-32.0, -32.0), "CeSoR": (2.0, -6.7)}


@dataclass(frozen=True)
class Settings:
    """One training run. The defaults are the recipe."""

    objective: str = RISK
    annealed: bool = True  # from the mean to the objective, over `ramp` of the updates
    ramp: float = 0.65
    guard_sampling: float | None = 0.8  # probability of a guard in training; None: found by cross-entropy
    elite: float = 0.05  # share of the episodes that an update of the cross-entropy sampler rests on, at least
    weighting: str = "tempered"  # "tempered": omega^t, "full": omega, "none": 1
    only_if_met: bool = True  # weigh only episodes that touched the guard zone
    entropy: float = 0.05  # falls linearly to 0
    unit_spread: bool = True  # advantages divided by a running mean of their root mean square
    clip: float | None = 0.5
    decay: bool = True  # step size falls linearly to 0
    learning_rate: float = 0.02
    updates: int = 250
    episodes: int = 400
    hidden: int = 32
    test_episodes: int = 20_000


RECIPE = Settings()
VARIANTS: dict[str, tuple[str, Settings]] = {
    "recipe": ("the whole recipe", RECIPE),
    "cross-entropy": ("guards by cross-entropy", replace(RECIPE, guard_sampling=None)),
    "wide-elite": ("cross-entropy, worst 20%", replace(RECIPE, guard_sampling=None, elite=0.2)),
    "no-oversampling": ("guards at the true 20%", replace(RECIPE, guard_sampling=TRUE_GUARD_PROBABILITY)),
    "no-annealing": ("CVaR from the start", replace(RECIPE, annealed=False)),
    "full-weights": ("full weights at once", replace(RECIPE, weighting="full")),
    "no-weights": ("no weights", replace(RECIPE, weighting="none")),
    "all-weighted": ("unmet guards weighted", replace(RECIPE, only_if_met=False)),
    "no-entropy": ("no entropy bonus", replace(RECIPE, entropy=0.0)),
    "plain-adam": ("plain Adam", replace(RECIPE, unit_spread=False, clip=None, decay=False)),
    "longer": ("four times as long", replace(RECIPE, updates=1000)),
    "tail-alone": ("CVaR alone", replace(RECIPE, annealed=False, guard_sampling=TRUE_GUARD_PROBABILITY)),
    "mean": ("the mean", replace(RECIPE, objective="mean", guard_sampling=TRUE_GUARD_PROBABILITY)),
}

NAMES = {variant: what for variant, (what, _) in VARIANTS.items()}


# Episodes -----------------------------------------------------------------------------------------------------------


@dataclass
class Played:
    """A batch of finished episodes, and all their steps in one flat list."""

    returns: np.ndarray  # (episodes,)
    touched: np.ndarray  # the guard zone was touched
    reached: np.ndarray  # the goal was reached
    end: np.ndarray  # (episodes, 2)
    position: np.ndarray  # (steps, 2), before the step
    action: np.ndarray  # (steps,)
    episode: np.ndarray  # (steps,), which episode a step belongs to


def play(act: Callable[[np.ndarray], np.ndarray], guard: np.ndarray, rng: np.random.Generator) -> Played:
    """One episode for each entry of `guard`; whoever is done leaves the batch."""
    n = len(guard)
    returns, touched, reached, end = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool), np.zeros((n, 2))
    steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    running, who = maze.start_episodes(rng, n, guard=guard), np.arange(n)
    for _ in range(TIME_LIMIT):
        position, action = running.position.copy(), act(running.position)
        reward, done = maze.advance(running, action, NOISE * rng.standard_normal((len(who), 2)))
        steps.append((position, action, who))
        returns[who] += reward
        touched[who], reached[who], end[who] = running.touched, done, running.position
        if done.any():
            running, who = running[~done], who[~done]
        if len(who) == 0:
            break
    return Played(returns, touched, reached, end, *(np.concatenate(column) for column in zip(*steps, strict=True)))


def make_policy(hidden: int) -> nn.Sequential:
    policy = nn.Sequential(
        nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, len(maze.MOVES))
    )
    with torch.no_grad():  # start close to the uniform policy
        policy[-1].weight.mul_(0.1)
        policy[-1].bias.zero_()
    return policy


def log_probabilities(policy: nn.Module, position: np.ndarray) -> torch.Tensor:
    return torch.log_softmax(policy(torch.from_numpy(maze.observe(position)).flatten(1)), dim=1)


def sampler(policy: nn.Module, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """Actions drawn from the policy."""

    @torch.no_grad()
    def act(position: np.ndarray) -> np.ndarray:
        scores = log_probabilities(policy, position).numpy()
        return (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)

    return act


# Training -----------------------------------------------------------------------------------------------------------


def make_sampler(settings: Settings, seed: int) -> ConditionSampler | None:
    """What seeks out the conditions of the worst episodes, if the probability of a guard is not given."""
    if settings.guard_sampling is not None:
        return None
    reference = Bernoulli(TRUE_GUARD_PROBABILITY)
    return ConditionSampler(reference, seed=seed, tail=0.05, elite=settings.elite, every=settings.episodes)


def draw_guards(
    n: int, settings: Settings, sampler: ConditionSampler | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Guards for n episodes, and how much likelier each is under the true probability than under the sampled one."""
    if sampler is not None:
        return sampler.sample(n)
    p, q = TRUE_GUARD_PROBABILITY, settings.guard_sampling
    guard = rng.random(n) < q
    return guard, np.where(guard, p / q, (1 - p) / (1 - q))


def importance_weights(omega: np.ndarray, touched: np.ndarray, settings: Settings, t: float) -> np.ndarray:
    """The weights of episodes, tempered: 1 at t = 0, omega at t = 1."""
    if settings.only_if_met:
        omega = np.where(touched, omega, 1.0)
    return omega ** {"tempered": t, "full": 1.0, "none": 0.0}[settings.weighting]


def train(
    settings: Settings, seed: int, report: Callable[[int, str], None] = lambda update, text: None
) -> tuple[nn.Sequential, list[list[float]]]:
    """Train one policy; returns it and a row (mean, CVaR, share touching, share reaching, entropy) per update.

    With a cross-entropy sampler a row ends with the share of guards in what it seeks.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    policy = make_policy(settings.hidden)
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate)
    act, curve, scale, conditions = sampler(policy, rng), [], 0.0, make_sampler(settings, seed)

    for update in range(settings.updates):
        left = 1 - update / settings.updates
        t = min(1.0, update / (settings.ramp * settings.updates))

        # Episodes, more of them guarded than in truth.
        guard, ratio = draw_guards(settings.episodes, settings, conditions, rng)
        played = play(act, guard, rng)
        omega = importance_weights(ratio, played.touched, settings, t)
        if conditions is not None:
            conditions.report(guard, ratio, played.returns)

        # Advantages of the objective between the mean and the tail.
        objective = og.anneal("mean", settings.objective, t if settings.annealed else 1.0)
        advantage = og.advantages(played.returns, objective, sample_weight=omega)
        share = omega / omega.sum()
        spread = np.sqrt((share * advantage**2).sum())
        scale = spread if update == 0 else 0.9 * scale + 0.1 * spread
        if settings.unit_spread:
            advantage = advantage / (scale + 1e-8)

        # An ordinary policy-gradient step: every step of an episode carries the episode's advantage.
        log_p = log_probabilities(policy, played.position)
        chosen = log_p.gather(1, torch.from_numpy(played.action)[:, None])[:, 0]
        weight = torch.from_numpy((share * advantage)[played.episode]).float()
        entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
        loss = -(weight * chosen).sum() - settings.entropy * left * entropy
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (left if settings.decay else 1.0)
        optimizer.zero_grad()
        loss.backward()
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(policy.parameters(), settings.clip)
        optimizer.step()

        # What the batch says about the true guard probability: weights in full, whatever the training used.
        true_omega = importance_weights(ratio, played.touched, replace(settings, weighting="full"), t)
        mean, tail = (float(og.value(played.returns, o, sample_weight=true_omega)) for o in ("mean", RISK))
        curve.append([mean, tail, played.touched.mean(), played.reached.mean(), entropy.item()])
        if conditions is not None:
            curve[-1].append(conditions.current.parameters[0])
        report(update + 1, f"mean {mean:6.1f}  CVaR {tail:6.1f}  guard zone {played.touched.mean():4.0%}")
    return policy, curve


def evaluate(act: Callable[[np.ndarray], np.ndarray], episodes: int, rng: np.random.Generator) -> dict[str, float]:
    """Fresh episodes under the true guard probability."""
    chunks = [
        play(act, rng.random(min(10_000, episodes - begin)) < TRUE_GUARD_PROBABILITY, rng)
        for begin in range(0, episodes, 10_000)
    ]
    returns, touched, reached = (
        np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("returns", "touched", "reached")
    )
    tail, tail_error = og.value_and_error(returns, RISK)
    return {
        "mean": float(returns.mean()),
        "cvar": float(tail),
        "mean_error": float(returns.std(ddof=1) / np.sqrt(episodes)),
        "cvar_error": float(tail_error),
        "safe": float((reached & ~touched).mean()),
        "touched": float(touched.mean()),
        "reached": float(reached.mean()),
    }


def test_rng() -> np.random.Generator:
    """The same fresh episodes for every policy."""
    return np.random.default_rng(10_000_019)


# Many runs ----------------------------------------------------------------------------------------------------------


def run(variant: str, seed: int, settings: Settings, folder: Path, report: Callable[[int, str], None]) -> None:
    """Train and test one policy; the record appears in the folder only when all is done."""
    begin = time.perf_counter()
    policy, curve = train(settings, seed, report)
    seconds = time.perf_counter() - begin
    rng = test_rng()
    record = {
        "variant": variant,
        "seed": seed,
        "settings": asdict(settings),
        "result": evaluate(sampler(policy, rng), settings.test_episodes, rng),
        "seconds": round(seconds, 2),
        "curve": [[round(float(x), 4) for x in row] for row in curve],
    }
    path = record_path(folder, variant, seed)
    np.savez(path.with_suffix(".npz"), **{name: tensor.numpy() for name, tensor in policy.state_dict().items()})
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record))
    partial.replace(path)


def record_path(folder: Path, variant: str, seed: int) -> Path:
    return folder / f"{variant}-{seed}.json"


def load_policy(folder: Path, variant: str, seed: int) -> nn.Sequential:
    with np.load(record_path(folder, variant, seed).with_suffix(".npz")) as arrays:
        state = {name: torch.from_numpy(arrays[name]) for name in arrays}
    policy = make_policy(len(state["0.bias"]))
    policy.load_state_dict(state)
    return policy


_messages: Any = None


def _start_worker(messages: Any) -> None:
    global _messages
    _messages = messages
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means


def _work(job: tuple[str, int, Settings, Path]) -> tuple[str, int]:
    variant, seed, settings, folder = job
    run(variant, seed, settings, folder, lambda update, text: _messages.put((variant, seed, update, text)))
    return variant, seed


def run_all(jobs: list[tuple[str, int, Settings, Path]], processes: int, console: Console) -> None:
    """Run the jobs side by side and show how they fare."""
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(24),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
    )
    with (
        Progress(*columns, console=console) as progress,
        context.Pool(min(processes, len(jobs)), _start_worker, (messages,)) as pool,
    ):
        overall = progress.add_task("runs", total=len(jobs), text=f"0 of {len(jobs)}")
        lines: dict[tuple[str, int], Any] = {}
        results, finished = pool.imap_unordered(_work, jobs), 0
        while finished < len(jobs):
            try:
                done = results.next(timeout=0.1)
                finished += 1
                progress.update(overall, completed=finished, text=f"{finished} of {len(jobs)}")
                folder = jobs[0][3]
                result = json.loads(record_path(folder, *done).read_text())["result"]
                console.print(
                    f"{done[0]:>16} seed {done[1]}: mean {result['mean']:6.2f}  CVaR 5% {result['cvar']:7.2f}  "
                    f"safe way {result['safe']:4.0%}"
                )
                if done in lines:
                    progress.remove_task(lines.pop(done))
            except multiprocessing.TimeoutError:
                pass
            for variant, seed, update, text in _drain(messages):
                if (variant, seed) not in lines and update == 1:
                    total = next(job[2].updates for job in jobs if job[:2] == (variant, seed))
                    lines[variant, seed] = progress.add_task(f"{variant} seed {seed}", total=total, text="")
                if (variant, seed) in lines:
                    progress.update(lines[variant, seed], completed=update, text=text)


def _drain(messages: Any) -> Iterator[tuple[str, int, int, str]]:
    while True:
        try:
            yield messages.get_nowait()
        except queue.Empty:
            return


def still_to_do(
    runs: list[tuple[str, int]], folder: Path, resume: bool, overwrite: bool
) -> list[tuple[str, int, Settings, Path]]:
    """The jobs without a record; a record in the way is an error unless the caller said what to do with it."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for variant, seed in runs:
        settings, path = VARIANTS[variant][1], record_path(folder, variant, seed)
        if path.exists() and not overwrite:
            if not resume:
                raise SystemExit(f"{path} is a finished run: --resume keeps it, --overwrite trains it anew")
            if json.loads(path.read_text())["settings"] != asdict(settings):
                raise SystemExit(f"{path} was trained with other settings: --overwrite trains it anew")
            continue
        jobs.append((variant, seed, settings, folder))
    for variant, seed, *_ in jobs:
        record_path(folder, variant, seed).unlink(missing_ok=True)
    return jobs


# The best possible policy -------------------------------------------------------------------------------------------


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
    price = TRUE_GUARD_PROBABILITY * maze.GUARD_COST_UNIT * maze.GUARD_COST_MEAN
    fresh = touched = np.zeros(len(grid.goal))
    for step in reversed(range(TIME_LIMIT)):
        cost = 1.0 if step < maze.PAID_STEPS else 0.0
        fresh, touched = (np.where(grid.goal, maze.GOAL_REWARD, after - cost) for after in (fresh, touched))
        both = list(zip(grid.quiet, grid.touching, strict=True))
        fresh = np.max([quiet @ fresh + touching @ (touched - price) for quiet, touching in both], axis=0)
        touched = np.max([quiet @ touched + touching @ touched for quiet, touching in both], axis=0)
    return float(fresh[grid.start].mean())


def best_tail(grid: Grid, level: float = 0.05, thresholds: range = range(-8, 2)) -> tuple[float, int]:
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

    p, states = TRUE_GUARD_PROBABILITY, len(grid.goal)
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
        begin = time.perf_counter()
        grid = make_grid(per_cell)
        mean, (tail, threshold) = best_mean(grid), best_tail(grid)
        seconds = time.perf_counter() - begin
        bound["grids"].append({"per_cell": per_cell, "mean": mean, "cvar": tail, "value_at_risk": threshold})
        console.print(f"{per_cell:>2} points a cell: best mean {mean:.2f}, best CVaR 5% {tail:.2f} ({seconds:.0f} s)")
    for risk_aversion, touch_price in ((0.01, 2.5), (0.01, 10), (0.01, 15), (0.01, 30), (0.1, 10), (0.1, 25)):
        actions, rng = position_policy(grid, risk_aversion, touch_price), test_rng()
        result = evaluate(lambda position, actions=actions: actions[grid.nearest(position)], episodes, rng)
        bound["position_only"].append({"risk_aversion": risk_aversion, "touch_price": touch_price, **result})
        console.print(
            f"position only, risk aversion {risk_aversion:.2f}, touch price {touch_price:4.1f}: "
            f"mean {result['mean']:.2f}, CVaR 5% {result['cvar']:.2f}, touching {result['touched']:.2%}"
        )
    return bound


# Tables and pictures ------------------------------------------------------------------------------------------------

INK, GRID_LINE = "#2b2f36", "#dcdcd6"
COLOUR = {"mean": "#d55e00", "recipe": "#0072b2"}


def load_records(folder: Path, runs: list[tuple[str, int]]) -> list[dict[str, Any]]:
    order = list(VARIANTS)
    runs = sorted(runs, key=lambda run: (order.index(run[0]), run[1]))
    return [json.loads(record_path(folder, *run).read_text()) for run in runs]


def summarise(records: list[dict[str, Any]], names: dict[str, str] = NAMES) -> dict[str, dict[str, Any]]:
    """Median, smallest and largest of every measure over the seeds of each variant."""
    summary: dict[str, dict[str, Any]] = {}
    for variant in dict.fromkeys(record["variant"] for record in records):
        mine = [record for record in records if record["variant"] == variant]
        results = [record["result"] for record in mine]
        row: dict[str, Any] = {"what": names[variant], "seeds": len(results)}
        for name in ("mean", "cvar", "safe", "touched", "reached"):
            values = np.array([result[name] for result in results])
            row[name] = [round(float(x), 4) for x in (np.median(values), values.min(), values.max())]
        row["safe_seeds"] = sum(result["safe"] > 0.9 for result in results)
        row["guarded_seeds"] = sum(result["touched"] > 0.5 and result["reached"] > 0.9 for result in results)
        row["stuck_seeds"] = sum(result["reached"] < 0.1 for result in results)
        row["seconds"] = round(float(np.median([record["seconds"] for record in mine])), 1)
        summary[variant] = row
    return summary


def show_table(summary: dict[str, dict[str, Any]], console: Console) -> None:
    table = Table(title="Guarded maze, medians over seeds", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("training", no_wrap=True)
    for heading in ("mean", "CVaR 5%", "over seeds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("way of the seeds")
    for row in summary.values():
        tail, worst, best = row["cvar"]
        ways = {way: row[f"{way}_seeds"] for way in ("safe", "guarded", "stuck")}
        ways["mixed"] = row["seeds"] - sum(ways.values())
        way = ", ".join(f"{count} {way}" for way, count in ways.items() if count)
        table.add_row(row["what"], f"{row['mean'][0]:.2f}", f"{tail:.2f}", f"{worst:.1f} to {best:.1f}", way)
    console.print(table)


def median_seed(records: list[dict[str, Any]], variant: str) -> int:
    mine = sorted((r["result"]["cvar"], r["seed"]) for r in records if r["variant"] == variant)
    return mine[(len(mine) - 1) // 2][1]


def draw_maze(ax: Any) -> None:
    from matplotlib.patches import Rectangle

    first, last = maze.START_CELLS
    size = last - first + 1
    ax.add_patch(Rectangle((-0.5, -0.5), maze.SIZE, maze.SIZE, color="#faf9f5", zorder=0))
    ax.add_patch(Rectangle((first - 0.5, first - 0.5), size, size, color="#e8eef5", zorder=0.5))
    gx, gy = maze.GUARD_ZONE
    ax.add_patch(Rectangle((gx - 0.5, gy - 0.5), 1, 1, facecolor="#fbe3c3", edgecolor="#e69f00", hatch="////", lw=0))
    gx, gy = maze.GOAL
    ax.add_patch(Rectangle((gx - 0.5, gy - 0.5), 1, 1, color="#bfe5d6", zorder=0.5))
    for x, y in np.argwhere(maze.WALLS):
        ax.add_patch(Rectangle((x - 0.505, y - 0.505), 1.01, 1.01, color="#4a5160", lw=0, zorder=1))
    label = {"ha": "center", "va": "center", "fontsize": 8, "zorder": 5}
    ax.text(2, 0, "start", color="white", **label)
    ax.text(5, 0, "guard", color="#ffc861", weight="bold", **label)
    ax.text(7, 2, "goal", color="#7fe0bd", weight="bold", rotation=270, **label)
    ax.plot(2.4, 7, "X", color="black", mec="white", mew=0.6, ms=6, zorder=6)
    ax.text(2.7, 6.98, "caught by the guard", color="white", **(label | {"ha": "left"}))
    ax.set(xlim=(-0.5, 7.5), ylim=(-0.5, 7.5), xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)


def draw_ways(ax: Any, policy: nn.Module, colour: str, episodes: int = 60) -> None:
    """Episodes of a policy, and a cross wherever a guard caught one."""
    rng = np.random.default_rng(7)
    guard = rng.random(episodes) < TRUE_GUARD_PROBABILITY
    played = play(sampler(policy, rng), guard, rng)
    for i in range(episodes):
        way = np.vstack([played.position[played.episode == i], played.end[i : i + 1]])
        ax.plot(*way.T, color=colour, lw=0.9, alpha=0.4, zorder=2, solid_capstyle="round", solid_joinstyle="round")
        ax.plot(*way[0], "o", color=colour, ms=2.5, zorder=3)
        if guard[i] and played.touched[i]:
            points = np.vstack([(way[:-1] + way[1:]) / 2, way[1:]])  # midpoints and targets: the first in the zone
            order = np.concatenate([np.arange(len(way) - 1), np.arange(len(way) - 1) + 0.5])
            inside = (np.floor(points + 0.5) == maze.GUARD_ZONE).all(axis=1)
            first = points[np.where(inside, order, np.inf).argmin()]
            ax.plot(*first, "X", color="black", mec="white", mew=0.6, ms=6, zorder=6)


def draw_picture(path: Path, folder: Path, records: list[dict[str, Any]], episodes: int = 50_000) -> None:
    """Both policies on the map, and what their returns are distributed like."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK})
    figure = plt.figure(figsize=(10, 3.7), facecolor="white")
    maps = figure.add_gridspec(1, 2, left=0.005, right=0.625, top=0.86, bottom=0.02, wspace=0.05)
    plots = figure.add_gridspec(2, 1, left=0.69, right=0.985, top=0.86, bottom=0.14, hspace=0.5)
    titles = {"mean": "Trained on the mean", "recipe": "Trained on the worst 5%"}
    below = None
    for column, variant in enumerate(("mean", "recipe")):
        seed = median_seed(records, variant)
        policy, colour = load_policy(folder, variant, seed), COLOUR[variant]
        rng = test_rng()
        guard = rng.random(episodes) < TRUE_GUARD_PROBABILITY
        played = play(sampler(policy, rng), guard, rng)
        mean, tail, touched = played.returns.mean(), float(og.value(played.returns, RISK)), played.touched.mean()

        ax = figure.add_subplot(maps[column])
        draw_maze(ax)
        draw_ways(ax, policy, colour)
        ax.set_title(titles[variant], fontsize=11, color=colour, weight="bold", pad=16)
        way = f"{touched:.0%} take the short guarded way"
        if touched < 0.5:
            way = f"{(played.reached & ~played.touched).mean():.1%} take the long safe way"
        ax.text(0.5, 1.015, way, transform=ax.transAxes, ha="center", va="bottom", fontsize=9, color=INK)

        ax = figure.add_subplot(plots[column], sharex=below)
        below = ax
        bins = np.arange(-100, 20, 2) - 0.5
        share = np.full(episodes, 100 / episodes)
        ax.hist(played.returns.clip(-99.5), bins, weights=share, color=colour, alpha=0.9, log=True, zorder=2)
        ax.set(xlim=(-100, 18), ylim=(0.01, 100), yticks=[0.01, 1, 100], yticklabels=["0.01%", "1%", "100%"])
        ax.set_yticks([], minor=True)
        ax.grid(axis="y", color=GRID_LINE, lw=0.7)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(labelsize=8, colors=INK, length=2)
        ax.axvline(tail, color=INK, lw=1.1, ls=(0, (4, 2)), zorder=3)
        ax.axvline(mean, color=INK, lw=1.1, zorder=3)
        label = {"fontsize": 8.5, "transform": ax.get_xaxis_transform(), "color": INK, "va": "bottom", "ha": "right"}
        ax.text(tail + (0 if tail < -50 else -14), 1.03, f"worst 5%: {tail:.1f}", **label)
        ax.text(18, 1.03, f"mean {mean:.1f}", **label)
        if column == 0:
            ax.set_title("Share of episodes by return", fontsize=11, weight="bold", color=INK, pad=20, loc="left")
        else:
            ax.set_xlabel("return of an episode  (lowest bar: -100 and below)", fontsize=8.5)
    figure.savefig(path, dpi=180)
    plt.close(figure)


def draw_film(path: Path, folder: Path, records: list[dict[str, Any]]) -> None:
    """Both policies in the same episodes, drawn by the environment: same starts, same guards."""
    from PIL import Image, ImageDraw, ImageFont

    side, font, starts = 300, ImageFont.load_default(16), [(1, 2), (3, 1), (2, 3), (1, 1)]
    guards = [False, True, False, True]
    titles = {"mean": "trained on the mean", "recipe": "trained on the worst 5%"}
    policies = {variant: load_policy(folder, variant, median_seed(records, variant)) for variant in titles}
    film: list[Image.Image] = []
    for episode, (start, guard) in enumerate(zip(starts, guards, strict=True)):
        shots: dict[str, list[tuple[np.ndarray, float]]] = {variant: [] for variant in titles}
        for variant, policy in policies.items():
            env, rng = maze.GuardedMaze(render_mode="rgb_array"), np.random.default_rng(episode)
            _, info = env.reset(seed=20 + episode, options={"start": start, "guard": guard})
            act, total, over = sampler(policy, rng), 0.0, False
            shots[variant].append((env.render(), total))
            while not over:
                _, reward, terminated, truncated, info = env.step(act(info["position"][None])[0])
                total, over = total + reward, terminated or truncated
                shots[variant].append((env.render(), total))
        for i in range(max(map(len, shots.values())) + 6):
            frame = Image.new("RGB", (2 * side + 12, side + 26), "white")
            draw = ImageDraw.Draw(frame)
            for column, (variant, title) in enumerate(titles.items()):
                pixels, total = shots[variant][min(i, len(shots[variant]) - 1)]
                frame.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS), (312 * column, 26))
                draw.text((312 * column + 2, 3), f"{title}: return {total:.0f}", fill=COLOUR[variant], font=font)
            film.append(frame)
    sample = Image.new("RGB", (film[0].width, 4 * film[0].height))
    for i in range(4):
        sample.paste(film[(2 * i + 1) * len(film) // 8], (0, i * film[0].height))
    palette = sample.quantize(128, method=Image.Quantize.MAXCOVERAGE)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in film]
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=180, loop=0, optimize=True)


def draw_ablation(
    path: Path, records: list[dict[str, Any]], bound: dict[str, Any] | None, names: dict[str, str] = NAMES
) -> None:
    """Every seed of every variant as a dot, the median as a bar."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    variants = list(dict.fromkeys(record["variant"] for record in records))
    figure, axes = plt.subplots(1, 2, figsize=(10, 0.36 * len(variants) + 1.3), sharey=True, width_ratios=(1.6, 1))
    for ax, measure, title in zip(axes, ("cvar", "mean"), ("CVaR of the worst 5%", "mean return"), strict=True):
        for row, variant in enumerate(variants):
            values = np.array([r["result"][measure] for r in records if r["variant"] == variant])
            colour = COLOUR.get(variant, "#777d87")
            offset = 0.22 * np.linspace(-1, 1, len(values)) if len(values) > 1 else np.zeros(1)
            middle = float(np.median(values))
            ax.plot([middle] * 2, [row - 0.36, row + 0.36], color=colour, lw=3.5, alpha=0.35, zorder=2)
            ax.scatter(np.sort(values), row + offset, s=16, color=colour, lw=0, zorder=3)
            side = "right" if middle > -20 else "left"
            shift = (-8, -6) if side == "right" else (8, 6)  # away from the dots, which rise downwards
            style = {"fontsize": 8.5, "color": INK, "va": "center", "ha": side, "textcoords": "offset points"}
            style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            ax.annotate(f"{middle:.1f}", (middle, row), shift, **style, zorder=2.5)
        if bound is not None:
            best = bound["grids"][-1][measure]
            ax.axvline(best, color="#009e73", lw=1.4, zorder=2)
            ax.annotate(
                f"best possible {best:.1f}", (best, 1.0), (3, 3), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=8.5, color="#00795a", ha="center", va="bottom",
            )  # fmt: skip
        ax.set_xlabel(title, fontsize=9.5, color=INK)
        ax.grid(axis="x", color=GRID_LINE, lw=0.7)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(labelsize=9, colors=INK, length=0)
    axes[0].set_yticks(range(len(variants)), [names[variant] for variant in variants])
    axes[0].invert_yaxis()
    axes[0].set_xlim(-76, 0)
    axes[1].set_xlim(-35, 7)
    figure.tight_layout()
    figure.savefig(path, dpi=160)
    plt.close(figure)


def write_results(folder: Path, records: list[dict[str, Any]], bound: dict[str, Any] | None, command: str) -> None:
    """A summary with what is needed to make it again, a line per run, and every tenth update of each."""
    summary = {
        **provenance(command),
        "test_episodes": records[0]["settings"]["test_episodes"],
        "published": PUBLISHED,
        "columns": ["median", "smallest", "largest"],
        "variants": summarise(records),
        "bound": bound,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    with (folder / "runs.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = list(records[0]["result"])
        writer.writerow(["variant", "seed", *names, "seconds"])
        for record in records:
            numbers = [f"{record['result'][name]:.4f}" for name in names]
            writer.writerow([record["variant"], record["seed"], *numbers, record["seconds"]])
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["variant", "seed", "update", "mean", "cvar", "touched", "reached", "entropy", "guard"])
        for record in records:
            for update in range(0, len(record["curve"]), 10):
                numbers = [f"{x:.2f}" for x in record["curve"][update]]
                writer.writerow([record["variant"], record["seed"], update, *numbers, *[""] * (6 - len(numbers))])


# Command line -------------------------------------------------------------------------------------------------------


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train risk-averse policies in the guarded maze.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="the mean objective against the recipe, three seeds each")
    what.add_argument("--study", action="store_true", help="ten seeds, five of every ablation, and the bound")
    what.add_argument("--bound", action="store_true", help="only how good the best possible policy is")
    parser.add_argument("--variant", choices=VARIANTS, default="recipe", help="what a single run trains")
    parser.add_argument("--seed", type=int, default=0, help="seed of a single run")
    parser.add_argument("--seeds", type=int, help="number of seeds of --quick and --study (half of it for ablations)")
    parser.add_argument("--out", type=Path, help="folder of the runs [runs/guarded_maze...]")
    parser.add_argument("--results", type=Path, help="folder of the summary [the folder of the runs]")
    parser.add_argument("--images", type=Path, help="folder of the pictures [the folder of the runs]")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--resume", action="store_true", help="keep the finished runs in the folder")
    parser.add_argument("--overwrite", action="store_true", help="train finished runs anew")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    options, console = arguments(argv), Console()
    torch.set_num_threads(1)
    default = "guarded_maze_quick" if options.quick else "guarded_maze"
    folder: Path = options.out or Path("runs") / default
    results, images = options.results or folder, options.images or folder
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word not in ("--resume", "--overwrite")]
    command = " ".join(["python experiments/guarded_maze.py", *words])

    runs = [(options.variant, options.seed)]
    if options.quick:
        runs = [(variant, seed) for seed in range(options.seeds or 3) for variant in ("mean", "recipe")]
    elif options.study:
        most = options.seeds or 10
        runs = [(variant, seed) for seed in range((most + 1) // 2) for variant in VARIANTS]
        runs += [
            (variant, seed) for seed in range((most + 1) // 2, most) for variant in ("mean", "recipe", "cross-entropy")
        ]

    if not options.bound:
        jobs = still_to_do(runs, folder, options.resume, options.overwrite)
        try:
            run_all(jobs, options.processes, console)
        except KeyboardInterrupt:
            console.print(f"stopped; the finished runs are in {folder}, --resume goes on from there")
            raise SystemExit(130) from None
    bound = None
    if options.bound or options.study:
        path = folder / "bound.json"
        if path.exists() and options.resume and not options.bound:
            bound = json.loads(path.read_text())
        else:
            folder.mkdir(parents=True, exist_ok=True)
            bound = compute_bound(console)
            path.write_text(json.dumps(bound, indent=1) + "\n")
    if options.bound:
        return

    records = load_records(folder, runs)
    show_table(summarise(records), console)
    write_results(results, records, bound, command)
    if {"mean", "recipe"} <= {variant for variant, _ in runs}:
        images.mkdir(parents=True, exist_ok=True)
        draw_picture(images / "guarded_maze.png", folder, records)
        console.print(f"picture: {images / 'guarded_maze.png'}")
    if options.study:
        draw_film(images / "guarded_maze.gif", folder, records)
        draw_ablation(images / "guarded_maze_ablation.png", records, bound)
    console.print(f"results: {results / 'summary.json'}, {results / 'runs.csv'}")


if __name__ == "__main__":
    main()
