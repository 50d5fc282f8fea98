"""Return Capping's two guarded mazes: who finds the safe way in the same number of steps?

    python experiments/capping_mazes.py --out runs/capping_mazes --results experiments/results/capping_mazes \
        --images docs/images

The environments are those of capping/mazes.py, the contenders those of capping/contenders.py. First those of `TUNED`
try all settings in the grid, on another seed; in both mazes each then trains with its own best ones, the ablation
`floored` with those of `capped`, and the others with those of Return Capping. `--seeds`, `--tasks` and `--methods`
choose runs; with `--resume` the same folder takes more of them, and with `--finished` the tables are of whatever is
finished. Runs with other `--settings` than the chosen ones are in runs.csv only.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import study
from capping.contenders import WATCHED, Task, leads, table, train_and_test
from capping.mazes import GUARDS, LIMITS, Mazes, best_values

import ordergrad as og
from ordergrad.conditions import Bernoulli, ConditionSampler

TUNED = ("capping", "falling", "capped", "at once")
METHODS = ("mean", *TUNED, "jumping", "floored", "cesor", "discard", "reinforce")
TUNED_ON = 100
SETTINGS: dict[str, dict[str, float]] = {
    "plain": {},
    "entropy": {"entropy": 0.01},
    "more entropy": {"entropy": 0.05},
}
MINIMUM = -25.6
"""The cap of Return Capping never lies below, and it is the one of `capped`: -0.1 in the unit of the published code, as
in its example."""


def task_of(steps: int, level: float, methods: Sequence[str] = METHODS) -> Task:
    return Task(
        steps=steps,
        envs=128,
        rollout=64,
        batch_size=1024,
        epochs=8,
        learning_rate=1e-3,
        recent=1000,
        fresh=2500,
        cap=MINIMUM,
        normalize=False,
        contenders=tuple((method, "mean" if method == "mean" else f"cvar:{level}") for method in methods),
        level=level,
        flags=("safe", "reached"),
    )


TASKS = {
    "grid": task_of(200_000, 0.2, [m for m in METHODS if m != "cesor"]),
    "maze": task_of(600_000, 0.05),
}


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/capping_mazes")
    tasks: tuple[str, ...] = field(
        default=("grid", "maze"), metadata={"help": ", ".join(TASKS), "choices": list(TASKS)}
    )
    methods: tuple[str, ...] = field(default=METHODS, metadata={"help": "train only these for now", "choices": METHODS})
    settings: str = field(default="", metadata={"help": "others than the chosen", "choices": SETTINGS})
    seeds: int = field(default=5, metadata={"help": "train the first so many seeds"})
    finished: bool = field(default=False, metadata={"help": "train nothing, write the results of what is finished"})
    shorten: int = field(default=1, metadata={"help": "divide all numbers of steps and episodes"})


# Runs ---------------------------------------------------------------------------------------------------------------


def play(env: str, method: str, settings: str, seed: int, cap: float = MINIMUM, shorten: int = 1) -> study.Record:
    """Train one policy and return its learning curve and what fresh episodes of it return."""
    task = replace(TASKS[env], cap=cap, **SETTINGS[settings])
    if method in ("cesor", "reinforce"):  # without a critic, steps wait for the end of their episode
        task = replace(task, envs=task.envs // 4, rollout=task.rollout * 4)
    sampler = None
    if method == "cesor":
        sampler = ConditionSampler(Bernoulli(GUARDS), seed=seed, tail=task.level, elite=task.level, every=400)
    envs, fresh_envs = Mazes(env, task.envs, sampler), Mazes(env, 50)
    envs.seed(seed)
    fresh_envs.seed(10_000 + seed)
    return train_and_test(task, envs, fresh_envs, method, dict(task.contenders)[method], seed, shorten)


def tuning_tasks(shorten: int) -> list[dict[str, Any]]:
    return [
        {"env": "grid", "method": method, "settings": settings, "seed": TUNED_ON, "shorten": shorten}
        for settings in SETTINGS
        for method in TUNED
    ]


def choose(tried: Sequence[study.Record]) -> dict[str, str]:
    """Return the settings with the best tail in the grid, for each contender."""
    chosen: dict[str, str] = {}
    for method in METHODS:
        tuned = "capped" if method == "floored" else method
        mine = [r for r in tried if r["method"] == (tuned if tuned in TUNED else "capping")]
        chosen[method] = max(mine, key=lambda r: r[TASKS["grid"].tail])["settings"]
    return chosen


def tasks_of(options: Options, chosen: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the runs, the most telling first: the mean and the tuned contenders, seed by seed."""
    for group in (("mean", *TUNED), METHODS[1 + len(TUNED) :]):
        for seed, env in itertools.product(range(options.seeds), options.tasks):
            for method, objective in TASKS[env].contenders:
                if method in group and method in options.methods:
                    yield {
                        "env": env,
                        "method": method,
                        "objective": objective,
                        "settings": options.settings or chosen[method],
                        "seed": seed,
                        "shorten": options.shorten,
                    }


def run(objective: str, **task: Any) -> study.Record:
    return play(**task)


# Results ------------------------------------------------------------------------------------------------------------


def at_random(kind: str, episodes: int = 4000) -> study.Record:
    """Return what a policy has that steps at random, as an untrained one does nearly."""
    mazes, rng = Mazes(kind, episodes), np.random.default_rng(0)
    mazes.seed(0)
    mazes.reset()
    returns, total = np.full(episodes, np.nan), np.zeros(episodes)
    while np.isnan(returns).any():
        _, rewards, over, _ = mazes.step(rng.integers(4, size=episodes))
        total += rewards
        first = over & np.isnan(returns)
        returns[first] = total[first]
    return {"maze": kind, "worst": float(returns.min())} | {o: float(og.value(returns, o)) for o in WATCHED}


def ways(records: Sequence[study.Record], row: study.Record) -> study.Record:
    """Return the tail of a contender, and how many seeds go the safe way, the short one and nowhere mostly."""
    mine = [r for r in records if (r["env"], r["method"]) == (row["env"], row["method"])]
    safe, arriving = sum(r["safe"] > 0.5 for r in mine), sum(r["reached"] > 0.5 for r in mine)
    tail = row[TASKS[row["env"]].tail]
    return {"value": tail, "safe seeds": safe, "short seeds": arriving - safe, "stuck seeds": len(mine) - arriving}


def best_possible(env: str, objective: str) -> float:
    return best_values(env, TASKS[env].level)[objective == "mean"]


def main(argv: Sequence[str] | None = None) -> None:
    options = study.parse(Options, "Return Capping's guarded mazes.", argv)
    with study.Study(__file__, options, argv) as s:
        s.open({"shorten": options.shorten})
        if not options.finished:
            tried = s.computed("tuning.jsonl", tuning_tasks(options.shorten), play)
            s.computed("runs.jsonl", list(tasks_of(options, choose(tried))), run)
    tried, records = study.read_records(s.out / "tuning.jsonl"), study.read_records(s.out / "runs.jsonl")
    measures = (*WATCHED, "safe", "reached")
    s.write_table("tuning.csv", tried, ("env", "method", "settings", "seed", *measures))
    s.write_table("runs.csv", records, ("env", "method", "settings", "seed", *measures))
    chosen = choose(tried)
    records = [r for r in records if r["settings"] == chosen[r["method"]]]
    rows = [row | ways(records, row) for row in table(records, TASKS, best_possible)]
    s.write_table("contenders.csv", rows)
    if ahead := leads(records, TASKS):
        s.write_table("leads.csv", ahead)
    s.write_table("at_random.csv", [at_random(kind) for kind in LIMITS])
    draw(records, s.images / "capping_mazes.png")
    s.write_summary({name: study.as_dict(TASKS[name]) for name in options.tasks}, candidates=SETTINGS, contenders=rows)


def draw(records: Sequence[study.Record], path: Path) -> None:
    """Draw learning curves: the tail of recent training episodes, a thin line for every seed and their median."""
    envs = [env for env in TASKS if any(r["env"] == env for r in records)]
    figure, axes = plt.subplots(1, len(envs), figsize=(6.5 * len(envs), 4.2), squeeze=False)
    for ax, env in zip(axes[0], envs, strict=True):
        tail = TASKS[env].tail
        for i, method in enumerate(METHODS):
            curves = [r["curve"] for r in records if (r["env"], r["method"]) == (env, method) and r["curve"]]
            if not curves:
                continue
            steps = np.array(curves[0]["steps"])
            heights = [np.interp(steps, c["steps"], c[tail]) for c in curves]
            ax.plot(steps, np.transpose(heights), color=f"C{i}", lw=0.5, alpha=0.3)
            ax.plot(steps, np.median(heights, axis=0), color=f"C{i}", lw=2, label=method)
        ax.axhline(best_possible(env, tail), color="black", lw=0.8, ls=":")
        ax.set(title=env, xlabel="environment steps", ylabel=f"{tail} of recent training episodes")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.set_major_locator(plt.MaxNLocator(5))
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
