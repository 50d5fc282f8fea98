"""Return Capping's autonomous vehicle: who finds the roads of certain cost in the same number of steps?

    python experiments/capping_vehicle.py --out runs/capping_vehicle --results experiments/results/capping_vehicle \
        --images docs/images

The environment is that of capping/vehicle.py, the contenders are those of capping/contenders.py. Each tries all
settings on other seeds first, and then trains with its own best ones. With `--resume` the same folder takes more seeds,
and with `--finished` the tables are of whatever is finished.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import study
from capping.contenders import WATCHED, Task, draw, leads, table, train_and_test
from capping.vehicle import Vehicles, best, published, returns_of
from return_capping import best_settings

import ordergrad as og

TAIL = "cvar:0.2"
FIRST = Task(
    steps=500_000,
    envs=128,
    rollout=32,
    batch_size=1024,
    epochs=8,
    learning_rate=1e-3,
    recent=1000,
    fresh=10_000,
    cap=-384.0,
    first_cap=0.0,
    normalize=True,
    contenders=(
        ("mean", "mean"),
        ("capping", TAIL),
        ("falling", TAIL),
        ("at once", TAIL),
        ("discard", TAIL),
        ("reinforce", TAIL),
    ),
    flags=("safest", "reached"),
)
FAST = replace(FIRST, learning_rate=3e-3)
SETTINGS = {
    "first": FIRST,
    "fast": FAST,
    "entropy": replace(FIRST, entropy=0.1),
    "fast, entropy": replace(FAST, entropy=0.03),
    "fast, undiscounted": replace(FAST, gamma=1.0, gae_lambda=1.0),
}
TUNED_ON = (100, 101)
OBJECTIVES = dict(FIRST.contenders)
MEASURES = ("method", "settings", "seed", *WATCHED, *FIRST.flags)
POLICIES = {"mean": 1.0, "cvar:0.2": 0.2, "cvar:0.05": 0.05}


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/capping_vehicle")
    seeds: int = field(default=8, metadata={"help": "train the first so many seeds"})
    finished: bool = field(default=False, metadata={"help": "train nothing, write the results of what is finished"})
    shorten: int = field(default=1, metadata={"help": "divide all numbers of steps and episodes"})


def play(method: str, settings: str, seed: int, shorten: int = 1) -> study.Record:
    """Train one policy and return its learning curve and what fresh episodes of it return."""
    task, objective = SETTINGS[settings], OBJECTIVES[method]
    envs, fresh_envs = Vehicles(task.envs), Vehicles(50)
    envs.seed(seed)
    fresh_envs.seed(10_000 + seed)
    found = train_and_test(task, envs, fresh_envs, method, objective, seed, shorten)
    return {"env": "vehicle", "objective": objective, **found}


def choose(tried: Sequence[study.Record]) -> dict[str, str]:
    """Return the settings with the best tail on the other seeds, for each contender."""
    return {method: settings for _, method, settings, _ in best_settings(tried)}


def optimum() -> list[study.Record]:
    """Return what the best policy of each objective is worth."""
    return [{"best": name} | {o: best(level).value(o) for o in WATCHED} for name, level in POLICIES.items()]


def routes() -> list[study.Record]:
    """Return what the routes of seven roads are worth, the best tail first: up (U) and right (R), the roads' kinds."""
    roads, rows = published(), list[study.Record]()
    for ups in combinations(range(7), 3):
        junction, route, kinds = 0, "", list[int]()
        for i in range(7):
            move = 0 if i in ups else 1
            route += "UR"[move]
            kinds.append(int(roads.kind[junction, move]))
            junction = roads.target[junction, move]
        values = {o: float(og.exact.value(*returns_of(kinds), o)) for o in WATCHED}
        rows.append({"route": route, "kinds": "-".join(map(str, kinds))} | values)
    return sorted(rows, key=lambda row: -row[TAIL])


def best_possible(env: str, objective: str) -> float:
    return best(POLICIES[objective]).value(objective)


def main(argv: Sequence[str] | None = None) -> None:
    options = study.parse(Options, "Return Capping's autonomous vehicle.", argv)
    with study.Study(__file__, options, argv) as s:
        s.open({"shorten": options.shorten})
        if not options.finished:
            every = study.grid(seed=TUNED_ON, settings=SETTINGS, method=OBJECTIVES, shorten=[options.shorten])
            chosen = choose(s.computed("tuning.jsonl", every, play))
            every = study.grid(seed=range(options.seeds), method=OBJECTIVES, shorten=[options.shorten])
            s.computed("runs.jsonl", [run | {"settings": chosen[run["method"]]} for run in every], play)
    tried, records = study.read_records(s.out / "tuning.jsonl"), study.read_records(s.out / "runs.jsonl")
    s.write_table("tuning.csv", tried, MEASURES)
    s.write_table("runs.csv", records, MEASURES)
    s.write_table("optimum.csv", optimum())
    s.write_table("routes.csv", routes())
    tasks, chosen = {"vehicle": FIRST}, choose(tried)
    rows = table(records, tasks, best_possible)
    s.write_table("contenders.csv", rows)
    if ahead := leads(records, tasks):
        s.write_table("leads.csv", ahead)
    draw(records, tasks, best_possible, s.images / "capping_vehicle.png", lowest=5.0)
    s.write_summary({method: study.as_dict(SETTINGS[name]) for method, name in chosen.items()}, contenders=rows)


if __name__ == "__main__":
    main()
