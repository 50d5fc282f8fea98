"""The benchmark of Return Capping (Mead et al. 2025): who reaches the best tail in the same number of steps?

    python experiments/return_capping.py --out runs/return_capping --results experiments/results/return_capping \
        --images docs/images

Two tasks of the paper, written anew: the betting game, whose optimum is known, and the lunar lander with a windfall of
high variance on its right. The contenders are those of capping/contenders.py: one PPO with the same network, each with
the settings that are best for it.

`--seeds`, `--tasks`, `--methods` and `--objectives` choose runs; with `--resume` the same folder takes more of them.
The tables hold whatever is finished. `--tune` tries every candidate for the settings with every contender on other
seeds. The task `long` is the lander for 1,500,000 steps, the task `untuned` the lander with the first of its
candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import study
from capping.contenders import PEERS, QUANTILES, Task, draw, leads, table, train_and_test
from capping.vector import SideBySide
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import ordergrad as og
from ordergrad.envs import BettingGameVector, ReturnSoFar
from ordergrad.envs.betting_game import best_value, returns_of_best

TAIL = "cvar:0.2"
FIRST = Task(1_000_000, 256, 32, 1024, 8, 1e-3, 4000, 20_000, -16.0, True, (
    ("at once", TAIL), ("mean", "mean"), ("capping", TAIL), ("falling", TAIL), ("discard", TAIL), ("reinforce", TAIL),
    ("at once", "var:0.2"), ("at once", "median"), ("at once", "max@8"),
))  # fmt: skip
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
UNTUNED = Task(600_000, 16, 256, 256, 6, 5e-4, 200, 500, 250.0, False, (
    ("at once", TAIL), ("capped", TAIL), ("mean", "mean"), ("capping", TAIL), ("annealed", TAIL), ("falling", TAIL),
))  # fmt: skip
LANDER_SETTINGS = {
    "untuned": UNTUNED,
    "entropy": replace(UNTUNED, gae_lambda=0.98, entropy=0.01),
    "long rollouts": replace(UNTUNED, rollout=1024, batch_size=64, epochs=4, learning_rate=3e-4, gae_lambda=0.98,
                             entropy=0.01),
    "small batches": replace(UNTUNED, envs=8, rollout=512, batch_size=64, epochs=10),
    "small batches, normalized": replace(UNTUNED, envs=8, rollout=512, batch_size=64, epochs=10, normalize=True),
    "fast, normalized": replace(UNTUNED, batch_size=128, epochs=10, learning_rate=1e-3, normalize=True, entropy=0.003),
    "fast, normalized, gamma 0.99": replace(UNTUNED, batch_size=128, epochs=10, learning_rate=1e-3, normalize=True,
                                            entropy=0.003, gamma=0.99),
}  # fmt: skip
SETTINGS = {"bets": GAME_SETTINGS, "lander": LANDER_SETTINGS}
"""Candidates for the settings of each game; `--tune` compares them."""
TUNED_ON = (100,)
CHOSEN = {
    "bets": {
        "at once": "fast",
        "mean": "small groups, fast, undiscounted",
        "capping": "more passes, fast, undiscounted",
        "falling": "faster, undiscounted",
        "discard": "first",
        "reinforce": "faster, undiscounted",
    },
    "lander": dict.fromkeys(
        ("at once", "capped", "mean", "capping", "annealed", "falling"), "fast, normalized, gamma 0.99"
    ),
}
"""For each method the candidate with the best tail on the other seeds."""
LONG = replace(UNTUNED, steps=1_500_000, contenders=(("capped", TAIL), ("mean", "mean"), ("capping", TAIL)))
FIRST_TRY = replace(UNTUNED, contenders=(("at once", TAIL), ("mean", "mean"), ("capping", TAIL), ("falling", TAIL)))
TASKS = {"bets": FIRST, "lander": UNTUNED, "long": LONG, "untuned": FIRST_TRY}
"""Whom to train for how long."""


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


class Games(SideBySide):
    """Betting games side by side."""

    def __init__(self, count: int):
        self.games = BettingGameVector(count, autoreset_mode=AutoresetMode.SAME_STEP)
        super().__init__(count, self.games.single_observation_space, self.games.single_action_space)

    def begin(self, seed: int | None) -> np.ndarray:
        return self.games.reset(seed=seed)[0]

    def move(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, dict[str, Any]]]:
        obs, rewards, over, _, info = self.games.step(actions)
        return obs, rewards, over, {i: {"terminal_observation": info["final_obs"][i]} for i in np.flatnonzero(over)}


def make_envs(task: str, count: int, seed: int) -> VecEnv:
    env: VecEnv = Games(count) if task == "bets" else DummyVecEnv([make_lander] * count)
    env.seed(int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1))
    return env


def make_lander() -> gym.Env[Any, Any]:
    return ReturnSoFar(gym.make("ordergrad/WindfallLander-v0"), scale=256.0)


# Runs ---------------------------------------------------------------------------------------------------------------


def settings_of(env: str, method: str, objective: str) -> str:
    """Return the settings of a run: those with the best tail, the first of them for objectives that are no tail."""
    candidates = SETTINGS["bets" if env == "bets" else "lander"]
    if env == "untuned" or objective not in (TAIL, "mean"):
        return next(iter(candidates))
    return CHOSEN["bets" if env == "bets" else "lander"][method]


def finished_runs(folder: Path) -> list[study.Record]:
    """Return the runs with the settings that were chosen; a folder may hold others, from before that."""
    records = study.read_records(folder / "runs.jsonl")
    return [r for r in records if r["settings"] == settings_of(r["env"], r["method"], r["objective"])]


def play(env: str, method: str, objective: str, seed: int, settings: str, shorten: int = 1) -> study.Record:
    """Train one policy and return its learning curve and what fresh episodes of it return."""
    task = replace(SETTINGS["bets" if env == "bets" else "lander"][settings], steps=TASKS[env].steps)
    envs, fresh_envs = make_envs(env, task.envs, seed), make_envs(env, 50, 10_000 + seed)
    return train_and_test(task, envs, fresh_envs, method, objective, seed, shorten)


def tasks_of(options: Options) -> list[study.Record]:
    """Return the runs, the most telling first: seed by seed, and of each the contenders in their order."""
    return [
        run | {"seed": seed, "settings": settings_of(**run), "shorten": options.shorten}
        for seed in range(options.seeds)
        for run in wanted(options)
    ]


def tuning_tasks(options: Options) -> list[study.Record]:
    """Return the runs that compare the candidate settings: of every contender for the tail on every other seed."""
    return [
        run | {"seed": seed, "settings": settings, "shorten": options.shorten}
        for run in wanted(options)
        if run["objective"] in (TAIL, "mean")
        for seed in TUNED_ON
        for settings in SETTINGS[run["env"]]
    ]


def wanted(options: Options) -> list[study.Record]:
    return [
        {"env": env, "method": method, "objective": objective}
        for env in options.tasks
        for method, objective in TASKS[env].contenders
        if method in (options.methods or PEERS) and objective in (options.objectives or (objective,))
    ]


def best_settings(tried: Sequence[study.Record]) -> list[tuple[str, str, str, float]]:
    """Return the settings with the best mean over seeds of each task and method, and that mean."""
    tails = dict[tuple[str, str], dict[str, list[float]]]()
    for r in tried:
        tails.setdefault((r["env"], r["method"]), {}).setdefault(r["settings"], []).append(r[TAIL])
    means = {kind: {name: float(np.mean(x)) for name, x in found.items()} for kind, found in tails.items()}
    return [(*kind, max(of, key=of.__getitem__), round(max(of.values()), 2)) for kind, of in means.items()]


# Results ------------------------------------------------------------------------------------------------------------


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


def best_possible(env: str, objective: str) -> float:
    return best_value(objective) if env == "bets" else float("nan")


def others(records: Sequence[study.Record]) -> list[study.Record]:
    """Return what ours reaches of other objectives of the betting game, beside the policies trained on the mean.

    Those are valued by the quantiles of their returns that are kept, each an equal share.
    """
    equal = np.full(len(QUANTILES), 1 / len(QUANTILES))
    bets = [r for r in records if r["env"] == "bets"]
    peers = {r["seed"]: np.array(r["quantiles"]) for r in bets if r["method"] == "mean"}
    rows: list[study.Record] = []
    for method, objective in FIRST.contenders:
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


def main(argv: Sequence[str] | None = None) -> None:
    options = study.parse(Options, "Return Capping's benchmark.", argv)
    with study.Study(__file__, options, argv) as s:
        s.open({"shorten": options.shorten})
        if options.tune:
            s.computed("tuning.jsonl", tuning_tasks(options), play)
            tried = study.read_records(s.out / "tuning.jsonl")
            columns = ("env", "method", "settings", "seed", "mean", TAIL, "cvar:0.05", "right")
            s.write_table("tuning.csv", tried, columns)
            s.show("Mean over seeds", ("task", "method", "settings", TAIL), best_settings(tried), left=3)
            return
        if not options.finished:
            s.computed("runs.jsonl", tasks_of(options), play)
    records = finished_runs(s.out)
    rows = table(records, TASKS, best_possible)
    s.write_table("contenders.csv", rows)
    s.write_table("runs.csv", records, ("env", "method", "objective", "seed", "mean", TAIL, "cvar:0.05", "right"))
    if ahead := leads(records, TASKS):
        s.write_table("leads.csv", ahead)
    if found := others(records):
        s.write_table("others.csv", found)
    s.write_table("caps.csv", caps())
    draw(records, {env: TASKS[env] for env in SETTINGS}, best_possible, s.images / "return_capping.png")
    chosen = {
        env: {method: study.as_dict(SETTINGS[env][name]) for method, name in CHOSEN[env].items()} for env in CHOSEN
    }
    s.write_summary(chosen, contenders=rows)


if __name__ == "__main__":
    main()
