"""The guarded maze: is it the objective or the training distribution that finds the safe way?

A mean-trained policy takes the short way past a guard that is there in 20% of the episodes; a policy trained on the
worst 5% should take the long, safe one. A tail objective alone gets stuck, since as long as a policy seldom reaches the
goal its tail consists of timeouts whatever it does. Two remedies are crossed here:

- the *objective*: the mean, CVaR 5%, the two annealed from one to the other by `og.anneal`, and GCVaR;
- the *training distribution*: guards in 20% to 80% of the training episodes, or as often as a cross-entropy sampler
  (`ordergrad.conditions`) finds them in the worst ones, with importance weights or without.

CeSoR, which is GCVaR at a level that falls from 1, with cross-entropy sampling and likelihood ratios, runs beside them.
Everything else is equal, and so is the effort: every objective has its learning rate and entropy bonus chosen from the
same four settings on seeds of their own.

    python experiments/guarded_maze.py --quick     # mean against annealed objective, guards in half of the episodes
    python experiments/guarded_maze.py --results experiments/results/guarded_maze --images docs/images
    python experiments/guarded_maze.py --bound --results experiments/results/guarded_maze

Needs `pip install ".[rl]"`. Results and what they mean: docs/studies/guarded_maze.md.

References:
    Greenberg, Chow, Ghavamzadeh and Mannor (2022). Efficient Risk-Averse Reinforcement Learning. NeurIPS 35. (CeSoR)
    Tamar, Glassner and Mannor (2015). Optimizing the CVaR via sampling. AAAI. (GCVaR)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import study
from maze.bound import compute_bound
from maze.figures import COLOURS, draw_factorial, draw_film, draw_policies
from maze.loop import TRUE_GUARDS, Learner, Policy, Settings, acting, evaluate, test_rng, train
from rich import box
from rich.console import Console
from rich.table import Table

from ordergrad.runs.folder import provenance, write_json

Cell = dict[str, Any]
"""Settings of the runs that are compared, the same for all seeds."""

OBJECTIVES = {"mean": "the mean", "annealed": "mean, annealed to CVaR 5%", "cvar": "CVaR 5%", "gcvar": "GCVaR 5%"}
TUNED = (*OBJECTIVES, "cesor")
GUARDS = (0.5, TRUE_GUARDS, 0.8, None, 0.35, 0.65)
SEEDS, TUNING_SEEDS = range(10), range(100, 105)
TUNING = [{"learning_rate": rate, "entropy": entropy} for rate in (0.01, 0.02) for entropy in (0.05, 0.2)]
PARTS: dict[str, Cell] = {
    "full weights from the start": {"weights": "full"},
    "no entropy bonus": {"entropy": 0.0},
    "no scaling, clipping, decay": {"steady": False},
}


# Runs ---------------------------------------------------------------------------------------------------------------


def train_cell(seeds: Sequence[int], **settings: Any) -> study.Record:
    """Train and test one policy per seed."""
    chosen = replace(Settings(), **settings)
    return {"runs": [tested(one, seed) for seed, one in zip(seeds, train(chosen, seeds), strict=True)]}


def tested(learner: Learner, seed: int) -> study.Record:
    episodes = learner.settings.test_episodes // (10 if learner.given_up else 1)
    result = evaluate(acting([learner.policy]), episodes, test_rng())
    sought = None if learner.sampler is None else learner.sampler.current.parameters[0]
    return {"seed": seed, **result, "sought": sought, "given_up": learner.given_up}


def tune_cell(**settings: Any) -> study.Record:
    return train_cell(TUNING_SEEDS, **settings)


def study_cell(**settings: Any) -> study.Record:
    return train_cell(SEEDS, **settings)


def tuning_cells() -> list[Cell]:
    return [
        {"objective": objective, "guards": 0.5, "weights": "none"} | setting
        for setting in TUNING
        for objective in TUNED
    ]


def choose(records: Sequence[study.Record]) -> dict[str, Cell]:
    """The setting of each objective with the most safe seeds; among equals the one with the best mean CVaR."""

    def merit(record: study.Record) -> tuple[int, float]:
        runs = record["runs"]
        return sum(way(run) == "safe" for run in runs), float(np.mean([run["cvar"] for run in runs]))

    best = {o: max((r for r in records if r["objective"] == o), key=merit) for o in TUNED}
    return {objective: {name: record[name] for name in TUNING[0]} for objective, record in best.items()}


def factorial(chosen: Mapping[str, Cell]) -> list[Cell]:
    """Objectives, guards and weights crossed, the most informative cells first; at the true rate all weights are 1."""
    arms = [("none", guards) for guards in GUARDS] + [
        ("tempered", guards) for guards in GUARDS if guards != TRUE_GUARDS
    ]
    return [
        {"objective": objective, "guards": guards, "weights": weights} | chosen[objective] | {"steady": True}
        for weights, guards in arms
        for objective in OBJECTIVES
    ]


def study_cells(chosen: Mapping[str, Cell]) -> list[Cell]:
    """The factorial, CeSoR, and the annealed objective with a part of the loop changed."""
    cell = {"objective": "annealed", "guards": 0.5, "weights": "tempered"} | chosen["annealed"] | {"steady": True}
    cesor = {"objective": "cesor", "guards": None, "weights": "likelihood"} | chosen["cesor"] | {"steady": True}
    return [*factorial(chosen), cesor, *(cell | part for part in PARTS.values())]


# Results ------------------------------------------------------------------------------------------------------------


def way(run: Mapping[str, Any]) -> str:
    """What a policy does in most of its episodes."""
    if run["safe"] > 0.9:
        return "safe"
    if run["reached"] < 0.1:
        return "stuck"
    return "guarded" if run["touched"] > 0.5 and run["reached"] > 0.9 else "mixed"


def summarise(record: study.Record) -> study.Record:
    """A cell's settings, the ways of its seeds, and means over seeds with 95% intervals."""
    cell, runs = {name: value for name, value in record.items() if name != "runs"}, record["runs"]
    ways = [way(run) for run in runs]
    counts = {name: ways.count(name) for name in ("safe", "guarded", "mixed", "stuck")}
    means = {
        name: study.rounded(study.over_seeds([run[name] for run in runs]))
        for name in ("mean", "cvar", "safe", "touched")
    }
    safe = study.rounded(study.share([name == "safe" for name in ways]))
    return cell | {"seeds": len(runs), "ways": counts, "safe_seeds": safe} | means


def show_table(cells: Sequence[study.Record], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("guards", "weights", "objective"):
        table.add_column(heading, no_wrap=True)
    for heading in ("mean", "CVaR 5%"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("seeds")
    for cell in sorted(cells, key=lambda cell: (cell["weights"], cell["guards"] or 1)):
        guards = "sought" if cell["guards"] is None else f"{cell['guards']:.0%}"
        ways = ", ".join(f"{count} {name}" for name, count in cell["ways"].items() if count)
        numbers = (f"{cell['mean'][0]:.1f}", f"{cell['cvar'][0]:.1f}")
        table.add_row(guards, cell["weights"], cell["objective"], *numbers, ways)
    console.print(table)


def median_policy(record: study.Record) -> Policy:
    """The policy of the seed with the median CVaR, trained again."""
    runs = sorted(record["runs"], key=lambda run: run["cvar"])
    settings = {name: value for name, value in record.items() if name not in ("runs", "seeds")}
    return train(replace(Settings(), **settings), [runs[(len(runs) - 1) // 2]["seed"]])[0].policy


def compared(records: Sequence[study.Record]) -> dict[str, tuple[Policy, str]]:
    """Both policies of the pictures, trained on the same distribution: a title, the policy and its colour."""
    titles = {"mean": "Trained on the mean", "annealed": "Trained on the worst 5%"}
    policies: dict[str, tuple[Policy, str]] = {}
    for objective, title in titles.items():
        record = next(r for r in records if (r["objective"], r["guards"], r["weights"]) == (objective, 0.5, "tempered"))
        policies[title] = median_policy(record), COLOURS[objective]
    return policies


# Command line -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/guarded_maze")
    quick: bool = field(default=False, metadata={"help": "the mean against the annealed objective, three seeds each"})
    finished: bool = field(default=False, metadata={"help": "with --resume: tables and pictures of what is done"})
    bound: bool = field(default=False, metadata={"help": "only how good the best possible policy is"})


def quick(s: study.Study) -> None:
    """Both objectives under the same training distribution: guards in half of the episodes."""
    (s.out / "quick.jsonl").unlink(missing_ok=True)
    cells = [
        {"objective": objective, "guards": 0.5, "weights": "tempered", "seeds": [seed]}
        for seed in SEEDS[:3]
        for objective in ("mean", "annealed")
    ]
    found = s.computed("quick.jsonl", cells, train_cell)
    pairs = [[r for r in found if r["objective"] == objective] for objective in ("mean", "annealed")]
    records = [same[0] | {"runs": [r["runs"][0] for r in same]} for same in pairs]
    show_table([summarise(record) for record in records], s.console)
    draw_policies(s.images / "guarded_maze.png", compared(records))
    s.console.print(f"picture: {s.images / 'guarded_maze.png'}")


def main(argv: Sequence[str] | None = None) -> None:
    options = study.parse(Options, "Train risk-averse policies in the guarded maze.", argv)
    if options.quick and options.out == Options.out:
        options = replace(options, out=Path("runs/guarded_maze_quick"))
    with study.Study(__file__, options, argv) as s:
        if options.quick:
            return quick(s)
        if options.bound:
            write_json(s.results / "bound.json", provenance(s.command) | compute_bound(s.console))
            return None
        s.open(Settings())
        tuning = s.computed("tuning.jsonl", tuning_cells(), tune_cell)
        todo = study_cells(choose(tuning))
        if options.finished:
            done = {study.key_of(record, todo[0]) for record in study.read_records(s.out / "runs.jsonl")}
            todo = [cell for cell in todo if study.key_of(cell, cell) in done]
        records = s.computed("runs.jsonl", todo, study_cell)
    cells = [summarise(record) for record in records]
    show_table(cells, s.console)
    for name, several in (("tuning.csv", tuning), ("runs.csv", records)):
        s.write_table(name, [{k: v for k, v in r.items() if k != "runs"} | run for r in several for run in r["runs"]])
    s.write_summary(Settings(), chosen=choose(tuning), cells=cells)
    crossed = [cell for cell in cells if {name: cell[name] for name in todo[0]} in factorial(choose(tuning))]
    draw_factorial(s.images / "guarded_maze_factorial.png", crossed, OBJECTIVES)
    policies = compared(records)
    draw_policies(s.images / "guarded_maze.png", policies)
    draw_film(s.images / "guarded_maze.gif", policies)
    return None


if __name__ == "__main__":
    main()
