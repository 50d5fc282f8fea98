"""The benchmark of Return Capping (Mead et al. 2025): who reaches the best tail in the same number of steps?

    python experiments/return_capping.py --out runs/return_capping --results experiments/results/return_capping \
        --images docs/images

Two tasks of the paper, written anew: the betting game, whose optimum is known, and the lunar lander with a windfall of
high variance on its right. All contenders are one PPO with the same network; what differs is what they make of the
returns, and the settings that are best for it:

    mean          plain PPO on the mean
    annealed      OrderGradPPO on og.anneal("mean", objective, t), t from 0 to 1 over the first half of the steps
    at once       OrderGradPPO on the objective, cap=None
    falling       the same with cap="falling", the default: the mean first, then a cap that falls by itself
    capped        the same with cap=250: a return that is good enough
    capping       Return Capping: f = min(R, C), C the running quantile but not below a number that the user gives
    discard       CVaR-PPO: PPO on the worst fifth of the episodes
    reinforce     CVaR-PG: the policy gradient of the worst fifth, no critic

`--seeds`, `--tasks`, `--methods` and `--objectives` choose runs; with `--resume` the same folder takes more of them.
The tables hold whatever is finished. `--tune` tries every candidate for the settings with every contender on other
seeds; each is then trained with the best of them. The task `long` is the lander for 1,500,000 steps, the task
`untuned` the lander with the first of its candidates.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import study
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import ordergrad as og
from ordergrad.adapters.sb3 import OrderGradPPO, OrderGradRolloutBuffer
from ordergrad.envs import BettingGameVector, ReturnSoFar
from ordergrad.envs.betting_game import best_value, returns_of_best

LEVEL = 0.2
TAIL = f"cvar:{LEVEL}"
OURS = ("at once", "falling", "capped")
POINTS = 40  # of a learning curve
QUANTILES = np.linspace(0.005, 0.995, 100)


@dataclass(frozen=True)
class Settings:
    """What a policy trains with, whatever is made of its returns."""

    envs: int
    rollout: int
    batch_size: int
    epochs: int
    learning_rate: float
    normalize: bool  # observations by their running mean and standard deviation
    gamma: float = 0.999  # of the critic
    gae_lambda: float = 0.95
    entropy: float = 0.0


@dataclass(frozen=True)
class Task:
    """One environment, the candidates for the settings, and whom to train for how long."""

    steps: int
    recent: int  # training episodes of a point of the learning curve
    fresh: int  # episodes of the final policy
    cap: float  # what Return Capping is given: its cap never lies below
    contenders: tuple[tuple[str, str], ...]  # method, objective
    candidates: dict[str, Settings]
    chosen: dict[str, str]  # for each method the candidate that was best on other seeds
    tuned_on: tuple[int, ...] = (100,)


FIRST = Settings(256, 32, 1024, 8, 1e-3, normalize=True)
UNDISCOUNTED = replace(FIRST, learning_rate=2e-3, gamma=1.0, gae_lambda=1.0)
GAME_SETTINGS = {
    "first": FIRST,
    "fast": replace(FIRST, learning_rate=2e-3),
    "undiscounted": replace(UNDISCOUNTED, learning_rate=1e-3),
    "fast, undiscounted": UNDISCOUNTED,
    "faster, undiscounted": replace(UNDISCOUNTED, learning_rate=4e-3),
    "small groups, fast, undiscounted": replace(UNDISCOUNTED, envs=128, batch_size=512),
    "more passes, fast, undiscounted": replace(UNDISCOUNTED, epochs=16),
}
BETS = Task(1_000_000, 4000, 20_000, -16.0, (
    ("at once", TAIL), ("mean", "mean"), ("capping", TAIL), ("falling", TAIL), ("discard", TAIL), ("reinforce", TAIL),
    ("at once", "var:0.2"), ("at once", "median"), ("at once", "max@8"),
), GAME_SETTINGS, dict.fromkeys(("at once", "mean", "capping", "falling", "discard", "reinforce"), "first"), (100, 101),
)  # fmt: skip
UNTUNED = Settings(16, 256, 256, 6, 5e-4, normalize=False)
FAST = replace(UNTUNED, batch_size=128, epochs=10, learning_rate=1e-3, normalize=True, entropy=0.003)
LANDER_SETTINGS = {
    "untuned": UNTUNED,
    "entropy": replace(UNTUNED, gae_lambda=0.98, entropy=0.01),
    "long rollouts": Settings(16, 1024, 64, 4, 3e-4, normalize=False, gae_lambda=0.98, entropy=0.01),
    "small batches": replace(UNTUNED, envs=8, rollout=512, batch_size=64, epochs=10),
    "small batches, normalized": replace(UNTUNED, envs=8, rollout=512, batch_size=64, epochs=10, normalize=True),
    "fast, normalized": FAST,
    "fast, normalized, gamma 0.99": replace(FAST, gamma=0.99),
}
LANDER = Task(600_000, 200, 500, 250.0, (
    ("at once", TAIL), ("capped", TAIL), ("mean", "mean"), ("capping", TAIL), ("annealed", TAIL), ("falling", TAIL),
), LANDER_SETTINGS, dict.fromkeys(
    ("at once", "capped", "mean", "capping", "annealed", "falling"), "fast, normalized, gamma 0.99"
))  # fmt: skip
LONG = replace(LANDER, steps=1_500_000, contenders=(("capped", TAIL), ("mean", "mean"), ("capping", TAIL)))
FIRST_TRY = replace(
    LANDER,
    contenders=(("at once", TAIL), ("mean", "mean"), ("capping", TAIL), ("falling", TAIL)),
    chosen=dict.fromkeys(LANDER.chosen, "untuned"),
)
TASKS = {"bets": BETS, "lander": LANDER, "long": LONG, "untuned": FIRST_TRY}


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/return_capping")
    tasks: tuple[str, ...] = field(
        default=("bets", "lander"), metadata={"help": "bets, lander, long, untuned", "choices": list(TASKS)}
    )
    methods: tuple[str, ...] = field(default=(), metadata={"help": "train only these for now [all]"})
    objectives: tuple[str, ...] = field(default=(), metadata={"help": "train on these only, for now [all]"})
    seeds: int = field(default=5, metadata={"help": "train the first so many seeds"})
    finished: bool = field(default=False, metadata={"help": "train nothing, write the results of what is finished"})
    tune: bool = field(default=False, metadata={"help": "try the candidate settings on other seeds instead"})
    shorten: int = field(default=1, metadata={"help": "divide all numbers of steps and episodes"})


# Environments -------------------------------------------------------------------------------------------------------


class Games(VecEnv):
    """Betting games side by side, as Stable-Baselines3 wants them."""

    def __init__(self, count: int):
        self.games = BettingGameVector(count, autoreset_mode=AutoresetMode.SAME_STEP)
        super().__init__(count, self.games.single_observation_space, self.games.single_action_space)
        self._infos: list[dict[str, Any]] = [{} for _ in range(count)]

    def reset(self) -> Any:
        seed, self._seeds = self._seeds[0], [None] * self.num_envs
        return self.games.reset(seed=seed)[0]

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        obs, rewards, over, _, info = self.games.step(self.actions)
        infos = self._infos
        if over.any():
            infos = [{"terminal_observation": info["final_obs"][i]} if over[i] else {} for i in range(self.num_envs)]
        return obs, rewards, over, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.games, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def make_envs(task: str, count: int, seed: int) -> VecEnv:
    env: VecEnv = Games(count) if task == "bets" else DummyVecEnv([make_lander] * count)
    env.seed(int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1))
    return env


def make_lander() -> gym.Env[Any, Any]:
    return ReturnSoFar(gym.make("ordergrad/WindfallLander-v0"), scale=256.0)


# Peers --------------------------------------------------------------------------------------------------------------


class CappingBuffer(OrderGradRolloutBuffer):
    """Return Capping: f(R) = min(R, C). After every batch C moves a fifth of the way to the batch's quantile.

    `minimum` is the user's number below which the cap never lies, and where it begins.
    """

    def __init__(self, *args: Any, minimum: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.minimum = self.cap = minimum
        rank = self.ranking.advantages

        def advantages(returns: np.ndarray, weight: Any = None) -> np.ndarray:
            a = rank(returns, weight)
            if len(returns):
                self.cap = max(self.minimum, self.cap + 0.2 * (float(np.quantile(returns, LEVEL)) - self.cap))
            return a

        def telescoped(before: np.ndarray, after: np.ndarray) -> np.ndarray:
            return (np.minimum(after, self.cap) - np.minimum(before, self.cap)) / self.ranking.unit

        self.ranking.advantages, self.ranking.telescoped = advantages, telescoped  # type: ignore[method-assign]


class DiscardBuffer(OrderGradRolloutBuffer):
    """CVaR-PPO: the steps of the worst fifth of the episodes, with their own rewards. The others are not trained on."""

    def _choose(self, chosen: np.ndarray, a: np.ndarray, critic: np.ndarray) -> None:
        worst = self._queue["total"] <= np.quantile(self._queue["total"], LEVEL)
        super()._choose(chosen & np.isin(self._stretch["episode"], self._queue["episode"][worst]), a, critic)


class ReinforceBuffer(OrderGradRolloutBuffer):
    """CVaR-PG: every step of an episode of the worst fifth has R less the quantile as its advantage, others 0."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)

        def ranked(returns: np.ndarray, weight: Any) -> np.ndarray:
            return np.minimum(returns - np.quantile(returns, LEVEL), 0.0) / LEVEL

        self.ranking._ranked = ranked  # type: ignore[method-assign]


PEERS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "at once": lambda _: {"credit": "telescoped", "cap": None},
    "annealed": lambda _: {"credit": "telescoped", "cap": None},
    "capped": lambda task: {"credit": "telescoped", "cap": task.cap},
    "mean": lambda _: {"credit": "telescoped"},
    "falling": lambda _: {"credit": "telescoped", "cap": "falling"},
    "capping": lambda task: {
        "credit": "telescoped",
        "objective": "mean",
        "rollout_buffer_class": CappingBuffer,
        "rollout_buffer_kwargs": {"minimum": task.cap},
    },
    "discard": lambda _: {"credit": "telescoped", "objective": "mean", "rollout_buffer_class": DiscardBuffer},
    "reinforce": lambda _: {"credit": "episode", "rollout_buffer_class": ReinforceBuffer, "unit_scale": True},
}


# Runs ---------------------------------------------------------------------------------------------------------------


def build(task: Task, settings: Settings, env: VecEnv, method: str, objective: str, seed: int) -> OrderGradPPO:
    own = {"objective": objective} | PEERS[method](task)
    model = OrderGradPPO(
        "MlpPolicy",
        env,
        min_episodes=24,
        n_steps=settings.rollout,
        batch_size=settings.batch_size,
        n_epochs=1 if method == "reinforce" else settings.epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        ent_coef=settings.entropy,
        learning_rate=lambda left: settings.learning_rate * left,
        seed=seed,
        device="cpu",
        **own,
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def play(env: str, method: str, objective: str, seed: int, settings: str, shorten: int = 1) -> study.Record:
    """Train one policy and return its learning curve and what fresh episodes of it return."""
    torch.set_num_threads(1)
    task = TASKS[env]
    chosen = task.candidates[settings]
    steps, recent = task.steps // shorten, list[float]()
    envs = make_envs(env, chosen.envs, seed)
    if chosen.normalize:
        envs = VecNormalize(envs, norm_reward=False)
    model = build(task, chosen, envs, method, objective, seed)
    curve: list[list[float]] = []

    def watch(see: dict[str, Any], _: Any) -> bool:
        if method == "annealed":
            t = min(2 * model.num_timesteps / steps, 1.0)
            model.rollout_buffer.objective = og.anneal("mean", objective, t)  # type: ignore[attr-defined]
        if see["n_steps"] == 0:  # the last rollout has been ranked
            recent.extend(model.rollout_buffer.ended.tolist())  # type: ignore[attr-defined]
            del recent[: -task.recent]
            if len(recent) > 20 and model.num_timesteps >= (len(curve) + 1) * steps / POINTS:
                level = model.rollout_buffer.stats.get("level", np.nan)  # type: ignore[attr-defined]
                curve.append([model.num_timesteps, *measures(np.array(recent), objective).values(), level])
        return True

    model.learn(steps, watch)
    returns, right = fresh(model, env, max(100, task.fresh // shorten), seed)
    columns = zip(*curve, strict=True) if curve else iter(())
    names = ("steps", *measures(np.ones(50), objective), "level")
    return {
        **measures(returns, objective),
        "right": right,
        "curve": {name: [round(float(x), 3) for x in column] for name, column in zip(names, columns, strict=False)},
        "quantiles": [round(float(x), 3) for x in np.quantile(returns, QUANTILES)],
    }


def measures(returns: np.ndarray, objective: str) -> dict[str, float]:
    watched = dict.fromkeys(("mean", TAIL, "cvar:0.05", objective))
    return {("own" if o not in ("mean", TAIL, "cvar:0.05") else o): float(og.value(returns, o)) for o in watched}


def fresh(model: OrderGradPPO, env: str, episodes: int, seed: int) -> tuple[np.ndarray, float]:
    """Return the returns of fresh episodes, equally many of every environment, and the share that ended right."""
    count = 50
    each = -(-episodes // count)
    envs = make_envs(env, count, 10_000 + seed)
    found: list[list[float]] = [[] for _ in range(count)]
    total, right, obs = np.zeros(count), 0, envs.reset()
    normal = model.get_vec_normalize_env()
    while min(map(len, found)) < each:
        actions, _ = model.predict(obs if normal is None else normal.normalize_obs(obs), deterministic=False)
        obs, rewards, over, infos = envs.step(actions)
        total += rewards
        for i in np.flatnonzero(over):
            if len(found[i]) < each:
                found[i].append(float(total[i]))
                right += bool(infos[i].get("right"))
            total[i] = 0.0
    return np.concatenate(found), right / (count * each)


def tasks_of(options: Options) -> list[dict[str, Any]]:
    """Return the runs, the most telling first: seed by seed, and of each the contenders in their order."""
    return [
        run(options, env, method, objective, seed, TASKS[env].chosen[method])
        for seed in range(options.seeds)
        for env in options.tasks
        for method, objective in wanted(options, env)
    ]


def tuning_tasks(options: Options) -> list[dict[str, Any]]:
    """Return the runs that compare the candidate settings: of every contender for the tail on every other seed."""
    return [
        run(options, env, method, objective, seed, settings)
        for env in options.tasks
        for seed in TASKS[env].tuned_on
        for method, objective in wanted(options, env)
        if objective in (TAIL, "mean")
        for settings in TASKS[env].candidates
    ]


def wanted(options: Options, env: str) -> list[tuple[str, str]]:
    return [
        (method, objective)
        for method, objective in TASKS[env].contenders
        if method in (options.methods or PEERS) and objective in (options.objectives or (objective,))
    ]


def run(options: Options, env: str, method: str, objective: str, seed: int, settings: str) -> dict[str, Any]:
    return {
        "env": env,
        "method": method,
        "objective": objective,
        "seed": seed,
        "settings": settings,
        "shorten": options.shorten,
    }


def chosen_of(record: study.Record) -> str:
    return TASKS[record["env"]].chosen[record["method"]]


# Results ------------------------------------------------------------------------------------------------------------


def best_settings(tried: Sequence[study.Record]) -> list[tuple[str, str, str, float]]:
    """Return the settings with the best mean over seeds of each task and method, and that mean."""
    tails = dict[tuple[str, str], dict[str, list[float]]]()
    for r in tried:
        tails.setdefault((r["env"], r["method"]), {}).setdefault(r["settings"], []).append(r[TAIL])
    means = {kind: {name: float(np.mean(x)) for name, x in found.items()} for kind, found in tails.items()}
    return [(*kind, max(of, key=of.__getitem__), round(max(of.values()), 2)) for kind, of in means.items()]


def caps() -> list[study.Record]:
    """Return what the best policy of the betting game for other utilities than the tail's is worth, exactly.

    ``cap``: the utility min(R, C). ``floor``: min(R, C) + slope * max(R - C, 0), C chosen best.
    """
    rows: list[study.Record] = []
    for cap in (16, 24, 34, 48, 64, 80, 100, 128, 160, 240):
        returns, chances = returns_of_best(lambda r, c=cap: np.minimum(r, c))
        value = float(og.exact.value(returns, chances, TAIL))
        rows.append({"utility": "cap", "number": float(cap), TAIL: value, "mean": float(returns @ chances)})
    for slope in (0.01, 0.02, 0.05, 0.1, 0.2):
        best = {"utility": "floor", "number": slope, TAIL: -np.inf, "mean": 0.0}
        for cap in range(0, 104, 8):
            returns, chances = returns_of_best(lambda r, c=cap, s=slope: np.minimum(r, c) + s * np.maximum(r - c, 0))
            if (value := float(og.exact.value(returns, chances, TAIL))) > best[TAIL]:
                best |= {TAIL: value, "mean": float(returns @ chances)}
        rows.append(best)
    return rows


def table(records: Sequence[study.Record]) -> list[study.Record]:
    """Return a row for every contender: means over seeds with intervals."""
    rows: list[study.Record] = []
    for env, task in TASKS.items():
        for method, objective in task.contenders:
            mine = [r for r in records if (r["env"], r["method"], r["objective"]) == (env, method, objective)]
            if not mine:
                continue
            row: study.Record = {"env": env, "method": method, "objective": objective, "seeds": len(mine)}
            for name in ("mean", TAIL, "cvar:0.05", "right"):
                row[name], low, high = study.over_seeds([r[name] for r in mine])
                if name == TAIL:
                    row |= {"low": low, "high": high, "median seed": float(np.median([r[name] for r in mine]))}
            name = "own" if "own" in mine[0] else objective
            row["own objective"] = float(np.mean([r[name] for r in mine]))
            row["best possible"] = best_value(objective) if env == "bets" else float("nan")
            rows.append(row)
    return rows


def leads(records: Sequence[study.Record]) -> list[study.Record]:
    """Return how far each way of ours is ahead of the others in the tail, over the seeds that both have."""
    rows: list[study.Record] = []
    for env, task in TASKS.items():
        found = {
            method: {r["seed"]: r[TAIL] for r in records if (r["env"], r["method"], r["objective"]) == (env, method, o)}
            for method, o in task.contenders
            if o in (TAIL, "mean")
        }
        for ours, other in itertools.product(OURS, found):
            seeds = sorted(found.get(ours, {}).keys() & found[other].keys())
            if other != ours and seeds:
                lead = study.paired([found[ours][i] for i in seeds], [found[other][i] for i in seeds])
                rows.append({"env": env, "ours": ours, "against": other, "seeds": len(seeds), **lead._asdict()})
    return rows


def others(records: Sequence[study.Record]) -> list[study.Record]:
    """Return what ours reaches of other objectives of the betting game, beside the policies trained on the mean.

    Those are valued by the quantiles of their returns that are kept, each an equal share.
    """
    equal = np.full(len(QUANTILES), 1 / len(QUANTILES))
    bets = [r for r in records if r["env"] == "bets"]
    peers = {r["seed"]: np.array(r["quantiles"]) for r in bets if r["method"] == "mean"}
    rows: list[study.Record] = []
    for method, objective in BETS.contenders:
        mine = {
            r["seed"]: r["own"] for r in bets if (r["method"], r["objective"]) == (method, objective) and "own" in r
        }
        if seeds := sorted(mine.keys() & peers.keys()):
            theirs = [float(og.exact.value(peers[i], equal, objective)) for i in seeds]
            row: study.Record = {"objective": objective, "seeds": len(seeds), "best possible": best_value(objective)}
            for name, values in (("ours", [mine[i] for i in seeds]), ("mean", theirs)):
                row[name], row[f"{name} low"], row[f"{name} high"] = study.over_seeds(values)
            rows.append(row | study.paired([mine[i] for i in seeds], theirs)._asdict())
    return rows


def draw(records: Sequence[study.Record], path: Path) -> None:
    envs = [env for env in ("bets", "lander") if any(r["env"] == env for r in records)]
    figure, axes = plt.subplots(2, len(envs), figsize=(5.5 * len(envs), 7), squeeze=False)
    for (upper, lower), env in zip(axes.T, envs, strict=True):
        for method, objective in TASKS[env].contenders:
            mine = [r for r in records if (r["env"], r["method"], r["objective"]) == (env, method, objective)]
            if not mine or objective not in (TAIL, "mean"):
                continue
            length = min(len(r["curve"].get("steps", ())) for r in mine)
            curves = np.array([r["curve"][TAIL][:length] for r in mine])
            steps = mine[0]["curve"]["steps"][:length]
            bands = [study.over_seeds(curves[:, i]) for i in range(length)]
            (line,) = upper.plot(
                steps, [b.value for b in bands], label=f"{method} ({len(mine)})", color=f"C{list(PEERS).index(method)}"
            )
            upper.fill_between(steps, [b.low for b in bands], [b.high for b in bands], alpha=0.15, lw=0)
            lower.plot(QUANTILES, np.mean([r["quantiles"] for r in mine], axis=0), color=line.get_color())
        if env == "bets":
            upper.axhline(best_value(TAIL), color="black", lw=0.8, ls=":")
        upper.set(title=env, xlabel="environment steps", ylabel=f"{TAIL} of recent training episodes")
        upper.legend(fontsize=8)
        lower.set(xlabel="quantile level", ylabel="return of the final policy", xlim=(0, 1))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    options = study.parse(Options, "Return Capping's benchmark.", argv)
    with study.Study(__file__, options, argv) as s:
        s.open({"shorten": options.shorten})
        if options.tune:
            tried = s.computed("tuning.jsonl", tuning_tasks(options), play)
            s.write_table(
                "tuning.csv", tried, ("env", "method", "settings", "seed", "mean", TAIL, "cvar:0.05", "right")
            )
            s.show("Mean over seeds", ("task", "method", "settings", TAIL), best_settings(tried), left=3)
            return
        if not options.finished:
            s.computed("runs.jsonl", tasks_of(options), play)
    records = [r for r in study.read_records(s.out / "runs.jsonl") if r["settings"] == chosen_of(r)]
    rows = table(records)
    s.write_table("contenders.csv", rows)
    s.write_table("runs.csv", records, ("env", "method", "objective", "seed", "mean", TAIL, "cvar:0.05", "right"))
    if ahead := leads(records):
        s.write_table("leads.csv", ahead)
    if found := others(records):
        s.write_table("others.csv", found)
    s.write_table("caps.csv", caps())
    draw(records, s.images / "return_capping.png")
    s.write_summary({name: study.as_dict(TASKS[name]) for name in options.tasks}, contenders=rows)


if __name__ == "__main__":
    main()
