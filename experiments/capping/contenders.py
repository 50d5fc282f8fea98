"""The contenders of Return Capping's benchmark: one PPO; what differs is what it makes of the returns.

    mean          plain PPO on the mean
    annealed      OrderGradPPO on og.anneal("mean", objective, t), t from 0 to 1 over the first half of the steps
    at once       OrderGradPPO on the objective, cap=None
    falling       the same with cap="falling", the default: the mean first, then a cap that falls by itself
    capped        the same with a number: a return that is good enough
    floored       the same, the quantiles that f follows never below the number
    capping       Return Capping: f = min(R, C), C the running quantile but not below a number that the user gives
    jumping       the same, C the quantile of the last batch
    discard       CVaR-PPO: PPO on the worst share of the episodes
    reinforce     CVaR-PG: the policy gradient of the worst share, no critic
    cesor         CeSoR: the same, the share falling from 1, with conditions sought out by cross-entropy and weighted

References:
    Mead, Costen, Lacerda and Hawes (2025). Return Capping. ICML, arXiv 2504.20887.
    Greenberg, Chow, Ghavamzadeh and Mannor (2022). Efficient risk-averse reinforcement learning. NeurIPS 35. (CeSoR)
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import study
import torch
from maze.loop import SOFT, gcvar_advantages
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import ordergrad as og
from ordergrad.adapters.sb3 import OrderGradPPO, OrderGradRolloutBuffer
from ordergrad.runs.plots import draw_curve

OURS = ("at once", "falling", "capped")
POINTS = 40  # of a learning curve
QUANTILES = np.linspace(0.005, 0.995, 100)
WATCHED = ("mean", "cvar:0.2", "cvar:0.05")


@dataclass(frozen=True)
class Task:
    """One environment and what all contenders train with."""

    steps: int
    envs: int
    rollout: int
    batch_size: int
    epochs: int
    learning_rate: float
    recent: int  # training episodes of a point of the learning curve
    fresh: int  # episodes of the final policy
    cap: float  # what Return Capping is given: its cap never lies below
    normalize: bool  # observations by their running mean and standard deviation
    contenders: tuple[tuple[str, str], ...]  # method, objective
    gamma: float = 0.999  # of the critic
    gae_lambda: float = 0.95
    entropy: float = 0.0
    level: float = 0.2  # of the tail
    first_cap: float | None = None  # where the cap of Return Capping begins, if not at `cap`
    flags: tuple[str, ...] = ("right",)  # of the last info of an episode; their shares are reported

    @property
    def tail(self) -> str:
        return f"cvar:{self.level}"


# What is made of the returns ----------------------------------------------------------------------------------------


class CappingBuffer(OrderGradRolloutBuffer):
    """Return Capping: f(R) = min(R, C). After every batch C moves a part of the way to the batch's quantile.

    `minimum` is the user's number below which the cap never lies; it begins there, or at `first`.
    """

    def __init__(
        self, *args: Any, level: float, minimum: float, first: float | None = None, part: float = 0.2, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self.minimum, self.cap = minimum, minimum if first is None else first
        rank = self.ranking.advantages

        def advantages(returns: np.ndarray, weight: Any = None) -> np.ndarray:
            a = rank(returns, weight)
            if len(returns):
                self.cap = max(self.minimum, self.cap + part * (float(np.quantile(returns, level)) - self.cap))
            return a

        def telescoped(before: np.ndarray, after: np.ndarray) -> np.ndarray:
            return (np.minimum(after, self.cap) - np.minimum(before, self.cap)) / self.ranking.unit

        self.ranking.advantages, self.ranking.telescoped = advantages, telescoped  # type: ignore[method-assign]


class FlooredBuffer(OrderGradRolloutBuffer):
    """A cap of the user's below which the running quantiles never lie, as Return Capping's C does not."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        ranking, follow = self.ranking, self.ranking._follow

        def floored() -> None:
            follow()
            ranking._quantiles = np.maximum(ranking._quantiles, ranking._current_cap)

        ranking._follow = floored  # type: ignore[method-assign]


class DiscardBuffer(OrderGradRolloutBuffer):
    """CVaR-PPO: the steps of the worst share of the episodes, with their own rewards. Others are not trained on."""

    def __init__(self, *args: Any, level: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.level = level

    def _choose(self, chosen: np.ndarray, a: np.ndarray, critic: np.ndarray) -> None:
        worst = self._queue["total"] <= np.quantile(self._queue["total"], self.level)
        super()._choose(chosen & np.isin(self._stretch["episode"], self._queue["episode"][worst]), a, critic)


class ReinforceBuffer(OrderGradRolloutBuffer):
    """CVaR-PG: every step of an episode of the worst share has R less the quantile as its advantage, others 0."""

    def __init__(self, *args: Any, level: float, **kwargs: Any):
        super().__init__(*args, **kwargs)

        def ranked(returns: np.ndarray, weight: Any) -> np.ndarray:
            return np.minimum(returns - np.quantile(returns, level), 0.0) / level

        self.ranking._ranked = ranked  # type: ignore[method-assign]


class CesorBuffer(OrderGradRolloutBuffer):
    """CeSoR: weighted, and the share of the episodes falls from 1 to the level; `done` is the share of the training."""

    def __init__(self, *args: Any, level: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.done = 0.0

        def ranked(returns: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
            share = level + (1 - level) * max(0.0, 1 - self.done / SOFT)
            return gcvar_advantages(returns, np.ones(len(returns)) if weight is None else weight, share)

        self.ranking._ranked = ranked  # type: ignore[method-assign]


def in_buffer(kind: type[OrderGradRolloutBuffer], credit: str, task: Task, **settings: Any) -> dict[str, Any]:
    settings = {"level": task.level} | settings
    own = {"credit": credit, "rollout_buffer_class": kind, "rollout_buffer_kwargs": settings}
    return own | ({"objective": "mean"} if credit == "telescoped" else {"unit_scale": True})


PEERS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "at once": lambda _: {"credit": "telescoped", "cap": None},
    "annealed": lambda _: {"credit": "telescoped", "cap": None},
    "capped": lambda task: {"credit": "telescoped", "cap": task.cap},
    "floored": lambda task: {"credit": "telescoped", "cap": task.cap, "rollout_buffer_class": FlooredBuffer},
    "mean": lambda _: {"credit": "telescoped"},
    "falling": lambda _: {"credit": "telescoped", "cap": "falling"},
    "capping": lambda task: in_buffer(CappingBuffer, "telescoped", task, minimum=task.cap, first=task.first_cap),
    "jumping": lambda task: in_buffer(CappingBuffer, "telescoped", task, minimum=task.cap, part=1.0),
    "discard": lambda task: in_buffer(DiscardBuffer, "telescoped", task),
    "reinforce": lambda task: in_buffer(ReinforceBuffer, "episode", task),
    "cesor": lambda task: in_buffer(CesorBuffer, "episode", task),
}


# Runs ---------------------------------------------------------------------------------------------------------------


def build(task: Task, env: VecEnv, method: str, objective: str, seed: int) -> OrderGradPPO:
    own = {"objective": objective} | PEERS[method](task)
    model = OrderGradPPO(
        "MlpPolicy",
        env,
        min_episodes=24,
        n_steps=task.rollout,
        batch_size=task.batch_size,
        n_epochs=1 if own["credit"] == "episode" else task.epochs,
        gamma=task.gamma,
        gae_lambda=task.gae_lambda,
        ent_coef=task.entropy,
        learning_rate=lambda left: task.learning_rate * left,
        seed=seed,
        device="cpu",
        **own,
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def train_and_test(
    task: Task, envs: VecEnv, fresh_envs: VecEnv, method: str, objective: str, seed: int, shorten: int = 1
) -> study.Record:
    """Train one policy and return its learning curve and what fresh episodes of it return."""
    torch.set_num_threads(1)
    steps, recent = task.steps // shorten, list[float]()
    model = build(task, VecNormalize(envs, norm_reward=False) if task.normalize else envs, method, objective, seed)
    curve: list[list[float]] = []

    def watch(see: dict[str, Any], _: Any) -> bool:
        buffer: Any = model.rollout_buffer
        if method == "annealed":
            t = min(2 * model.num_timesteps / steps, 1.0)
            buffer.objective = og.anneal("mean", objective, t)
        if method == "cesor":
            buffer.done = model.num_timesteps / steps
        if see["n_steps"] == 0:  # the last rollout has been ranked
            recent.extend(buffer.ended.tolist())
            del recent[: -task.recent]
            if len(recent) > 20 and model.num_timesteps >= (len(curve) + 1) * steps / POINTS:
                level = buffer.stats.get("level", np.nan)
                curve.append([model.num_timesteps, *measures(np.array(recent), objective).values(), level])
        return True

    model.learn(steps, watch)
    returns, shares = fresh(model, fresh_envs, max(100, task.fresh // shorten), task.flags)
    columns = zip(*curve, strict=True) if curve else iter(())
    names = ("steps", *measures(np.ones(50), objective), "level")
    return {
        **measures(returns, objective),
        **shares,
        "curve": {name: [round(float(x), 3) for x in column] for name, column in zip(names, columns, strict=False)},
        "quantiles": [round(float(x), 3) for x in np.quantile(returns, QUANTILES)],
    }


def measures(returns: np.ndarray, objective: str) -> dict[str, float]:
    watched = dict.fromkeys((*WATCHED, objective))
    return {(o if o in WATCHED else "own"): float(og.value(returns, o)) for o in watched}


def fresh(
    model: OrderGradPPO, envs: VecEnv, episodes: int, flags: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, float]]:
    """Return the returns of fresh episodes, equally many of every environment, and the shares with each flag."""
    count = envs.num_envs
    each = -(-episodes // count)
    found: list[list[float]] = [[] for _ in range(count)]
    total, flagged, obs = np.zeros(count), dict.fromkeys(flags, 0), envs.reset()
    normal = model.get_vec_normalize_env()
    while min(map(len, found)) < each:
        actions, _ = model.predict(obs if normal is None else normal.normalize_obs(obs), deterministic=False)
        obs, rewards, over, infos = envs.step(actions)
        total += rewards
        for i in np.flatnonzero(over):
            if len(found[i]) < each:
                found[i].append(float(total[i]))
                for flag in flags:
                    flagged[flag] += bool(infos[i].get(flag))
            total[i] = 0.0
    return np.concatenate(found), {flag: n / (count * each) for flag, n in flagged.items()}


# Results ------------------------------------------------------------------------------------------------------------


def table(
    records: Sequence[study.Record], tasks: Mapping[str, Task], best: Callable[[str, str], float]
) -> list[study.Record]:
    """Return a row for every contender: means over seeds with intervals; best(env, objective) is the most possible."""
    rows: list[study.Record] = []
    for env, task in tasks.items():
        for method, objective in task.contenders:
            mine = [r for r in records if (r["env"], r["method"], r["objective"]) == (env, method, objective)]
            if not mine:
                continue
            row: study.Record = {"env": env, "method": method, "objective": objective, "seeds": len(mine)}
            for name in (*WATCHED, *task.flags):
                row[name], low, high = study.over_seeds([r[name] for r in mine])
                if name == task.tail:
                    row |= {"low": low, "high": high, "median seed": float(np.median([r[name] for r in mine]))}
            name = "own" if "own" in mine[0] else objective
            row["own objective"] = float(np.mean([r[name] for r in mine]))
            row["best possible"] = best(env, objective)
            rows.append(row)
    return rows


def leads(records: Sequence[study.Record], tasks: Mapping[str, Task]) -> list[study.Record]:
    """Return how far ours and Return Capping are ahead of the others in the tail, over the seeds that both have."""
    rows: list[study.Record] = []
    for env, task in tasks.items():
        found = {
            method: {
                r["seed"]: r[task.tail] for r in records if (r["env"], r["method"], r["objective"]) == (env, method, o)
            }
            for method, o in task.contenders
            if o in (task.tail, "mean")
        }
        for method, other in itertools.product((*OURS, "capping"), found):
            seeds = sorted(found.get(method, {}).keys() & found[other].keys())
            if other != method and seeds:
                lead = study.paired([found[method][i] for i in seeds], [found[other][i] for i in seeds])
                rows.append({"env": env, "method": method, "against": other, "seeds": len(seeds), **lead._asdict()})
    return rows


def draw(
    records: Sequence[study.Record],
    tasks: Mapping[str, Task],
    best: Callable[[str, str], float],
    path: Path,
    lowest: float | None = None,
) -> None:
    """Draw the learning curves on the tail and the mean, with bands over seeds, and what the final policies return.

    `lowest` is where the axis of the learning curves begins.
    """
    envs = [env for env in tasks if any(r["env"] == env for r in records)]
    figure, axes = plt.subplots(2, len(envs), figsize=(5.5 * len(envs), 7), squeeze=False)
    for (upper, lower), env in zip(axes.T, envs, strict=True):
        tail = tasks[env].tail
        for method, objective in tasks[env].contenders:
            mine = [r for r in records if (r["env"], r["method"], r["objective"]) == (env, method, objective)]
            if not mine or objective not in (tail, "mean"):
                continue
            length = min(len(r["curve"].get("steps", ())) for r in mine)
            curves = np.array([r["curve"][tail][:length] for r in mine])
            steps = mine[0]["curve"]["steps"][:length]
            bands = [study.over_seeds(curves[:, i]) for i in range(length)]
            index, values = list(PEERS).index(method), np.array(bands)
            draw_curve(upper, index, f"{method} ({len(mine)})", steps, values[:, 0], (values[:, 1], values[:, 2]))
            draw_curve(lower, index, "", QUANTILES, np.mean([r["quantiles"] for r in mine], axis=0))
        upper.axhline(best(env, tail), color="black", lw=0.8, ls=":")
        upper.set(
            title=env, xlabel="environment steps", ylabel=f"{tail} of recent training episodes", ylim=(lowest, None)
        )
        upper.legend(fontsize=8)
        lower.set(xlabel="quantile level", ylabel="return of the final policy", xlim=(0, 1))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
