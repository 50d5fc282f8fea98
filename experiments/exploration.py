"""Exploration: a small reward close by, a large one far off. Does max@K find what the mean does not?

The deep sea of `jax_reinforce.py`, a table of logits for a policy, 1,000 updates of 64 episodes. Contenders differ in
their advantages only; one has an entropy bonus. In parts, each a set of blocks of runs that JAX trains side by side:

1. *tune*: every contender at every learning rate (the bonus at every coefficient too) on seeds apart from those of the
   study; it gets what is best for the objective it ends on, and among equals the larger mean;
2. *study*: every contender, sixteen seeds, dives of ten steps;
3. *where it ends*: other depths and reward scales at the same settings, and, tuned anew, rewards of one kind only, a
   reward on the way, and a treasure that is seldom there;
4. *Gymnasium*, with `ppo.py`: FrozenLake where holes pay a little, one beside the start, or the map as it comes.

    python experiments/exploration.py --results experiments/results/exploration --images docs/images
    python experiments/exploration.py --add "unit scale" --results experiments/results/exploration  # into what is there

Ctrl-C stops after the current block, `--resume` goes on. Needs `pip install ".[studies]"`. Results and what
they mean: docs/studies/exploration.md.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
    Nishimori et al. (2026). Emergence of Exploration in Policy Gradient Reinforcement Learning via Retrying.
        arXiv 2606.00151.
    Walder and Karkhanis (2025). Pass@K Policy Optimization. arXiv 2505.15201. (max@K with the k-minus-one baseline)
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import study
import torch
from jax_reinforce import Environment, Settings, deep_sea, fresh_returns, train_seeds
from ppo import Args, make_envs, play
from ppo import train as train_ppo
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import ordergrad as og
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import EVALUATION, METRICS, read_metrics, run_folder
from ordergrad.runs.plots import draw_curve, new_figure, save, style
from ordergrad.runs.statistics import read_returns
from ordergrad.train.evaluation import write_returns
from ordergrad.train.llm_settings import stages
from ordergrad.weights import Baseline

BEST_OF = "max@16"  # the measure of what can be found in a few tries
FOUND = 0.05  # a policy has found the treasure if so many of its episodes end there
TREASURE = 10.0


@dataclass(frozen=True)
class Contender:
    """What takes part: an objective, or a schedule of two, perhaps with an entropy bonus."""

    objective: str
    baseline: Baseline = "leave_one_out"
    bonus: bool = False


CONTENDERS = {
    "mean": Contender("mean"),
    "mean + bonus": Contender("mean", bonus=True),
    "max@2": Contender("max@2"),
    "max@4": Contender("max@4"),
    "max@8": Contender("max@8"),
    "max@16": Contender("max@16"),
    "max@16, k-1": Contender("max@16", "k_minus_one"),
    "top:2@16": Contender("top:2@16"),
    "max@16..mean": Contender("max@16..mean"),
}
GYM = ("mean", "mean + bonus", "max@16", "max@16..mean")
FEW = ("mean", "mean + bonus", "max@4", "max@16", "max@16..mean")
RESCALED = ("mean + bonus", "max@16", "max@16..mean")


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    updates: int = 1000
    episodes: int = 64
    seeds: int = 16
    tuning_seeds: int = 5
    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    bonuses: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    depth: int = 10
    depths: tuple[int, ...] = (6, 8, 12, 14)
    scales: tuple[float, ...] = (0.1, 10.0)
    fresh: int = 4096
    lake_seeds: int = 5
    lake_tuning_seeds: int = 2
    lake_rates: tuple[float, ...] = (1e-3, 3e-3)
    lake_bonuses: tuple[float, ...] = (0.03, 0.3)
    lake_updates: int = 60
    lake_fresh: int = 256


SIZES = {"study": Size(), "large": Size(seeds=50, tuning_seeds=20, lake_seeds=30, lake_tuning_seeds=10)}


@dataclass(frozen=True)
class Task:
    """An environment, who dives in it, and where the settings come from."""

    environment: Environment
    contenders: tuple[str, ...]
    unit: float = 1.0  # of the rewards
    settings_of: str = ""  # the task whose tuned settings are used; empty: tuned on this one
    unit_scale: bool = False  # of the advantages


def tasks(size: Size) -> dict[str, Task]:
    d = size.depth
    settings: dict[str, Any] = {"settings_of": "main"}
    found = {"main": Task(deep_sea(d), tuple(CONTENDERS))}
    found |= {f"depth {n}": Task(deep_sea(n), FEW, **settings) for n in size.depths}
    found["no decoy"] = Task(deep_sea(d, decoy=0.0), FEW)
    found["reward on the way"] = Task(deep_sea(d, treasure=0.0, decoy=0.0, guide=TREASURE), FEW)
    found["unit scale"] = Task(deep_sea(d), ("mean + bonus",), unit_scale=True)
    for scale in size.scales:
        scaled = deep_sea(d, TREASURE * scale, scale)
        found[f"rewards x {scale:g}"] = Task(scaled, RESCALED, scale, **settings)
        found[f"rewards x {scale:g}, unit scale"] = Task(scaled, ("mean + bonus",), scale, "unit scale", True)
    found["rare treasure"] = Task(deep_sea(d // 2, odds=0.05), FEW)
    return found


# Blocks of runs -----------------------------------------------------------------------------------------------------


def block_path(out: Path, part: str, task: str, name: str) -> Path:
    return out / part / task.replace(" ", "-") / f"{name.replace(' ', '').replace(':', '-')}.npz"


def run_block(
    path: Path, task: Task, name: str, size: Size, settings: Sequence[tuple[float, float]], seeds: Sequence[int]
) -> None:
    """Train a contender with every pair of learning rate and bonus on every seed; the file appears when all is done."""
    contender = CONTENDERS[name]
    static = Settings(contender.objective, contender.baseline, size.episodes, size.updates, (), task.unit_scale)
    rates, bonuses = (jnp.repeat(jnp.array(column), len(seeds)) for column in zip(*settings, strict=True))
    every = jnp.tile(jnp.array(seeds), len(settings))
    params, metrics = train_seeds(task.environment, static, rates, bonuses, every)
    returns = np.asarray(fresh_returns(task.environment, params, 1_000_003 + every, size.fresh))
    shape = (len(settings), len(seeds), -1)
    best = np.asarray(metrics["best"])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".part")
    with partial_path.open("wb") as file:
        np.savez_compressed(
            file,
            settings=np.array(settings),
            returns=returns.reshape(shape),
            mean=np.asarray(metrics["mean"])[:, ::10].reshape(shape),
            entropy=np.asarray(metrics["entropy"])[:, ::10].reshape(shape),
            seen=first_seen(best, TREASURE * task.unit).reshape(shape[:2]),
        )
    partial_path.replace(path)


def first_seen(best: np.ndarray, treasure: float) -> np.ndarray:
    """Return the update in which each run first met the treasure, 0 for never."""
    seen = best >= 0.999 * treasure
    return np.where(seen.any(axis=1), seen.argmax(axis=1) + 1, 0)


def grid(name: str, rates: Sequence[float], bonuses: Sequence[float]) -> list[tuple[float, float]]:
    """Return the pairs of learning rate and bonus that are tried for a contender."""
    return list(product(rates, bonuses if CONTENDERS[name].bonus else (0.0,)))


def tuned(out: Path, task: str, name: str) -> tuple[float, float]:
    """Return the learning rate and bonus that are best for what a contender ends on, of equals the larger mean."""
    with np.load(block_path(out, "tune", task, name)) as block:
        settings, returns = block["settings"], block["returns"]
    aim = stages(CONTENDERS[name].objective)[1]
    values = [(og.value(own, aim).mean(), own.mean()) for own in returns]
    top = max(value for value, _ in values)
    good = [i for i, (value, _) in enumerate(values) if value >= top - 0.01 * abs(top)]
    rate, bonus = settings[max(good, key=lambda i: values[i][1])]
    return float(rate), float(bonus)


def train_blocks(every: Mapping[str, Task], size: Size, out: Path, console: Console) -> None:
    parts = [(("study",) if task.settings_of else ("tune", "study"), name) for name, task in every.items()]
    jobs = [(part, name, c) for each, name in parts for part in each for c in every[name].contenders]
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("deep sea", total=len(jobs))
        for part, name, contender in jobs:
            progress.update(bar, description=f"{part}: {name}, {contender}")
            path, task = block_path(out, part, name, contender), every[name]
            if not path.exists():
                if part == "tune":
                    settings, seeds = grid(contender, size.rates, size.bonuses), range(100, 100 + size.tuning_seeds)
                else:
                    settings, seeds = [tuned(out, task.settings_of or name, contender)], range(size.seeds)
                run_block(path, task, contender, size, settings, seeds)
            progress.advance(bar)


# Gymnasium ----------------------------------------------------------------------------------------------------------


TITLES = {"decoy-lake": "FrozenLake with a hole beside the start", "lake": "FrozenLake 8x8 as it comes"}
LAKE_WITH_A_DECOY = ["SFFFFFFF", "HFFFFFFF", *["FFFFFFFF"] * 5, "FFFFFFFG"]


@dataclass(frozen=True)
class GymTask:
    """An environment of Gymnasium, how it is trained, and what counts as having found its goal."""

    args: Args
    contenders: tuple[str, ...]
    seeds: int
    goal: float  # a return beyond it
    settings_of: str = ""  # the task whose tuned settings are used
    tuning_seeds: int = 0
    rates: tuple[float, ...] = ()
    bonuses: tuple[float, ...] = ()

    def grid(self, name: str) -> list[tuple[float, float]]:
        return grid(name, self.rates, self.bonuses)


def gym_tasks(size: Size) -> dict[str, GymTask]:
    ice = {"is_slippery": False, "reward_schedule": [TREASURE, 1, 0], "max_episode_steps": 24}
    lake = Args("FrozenLake8x8-v1", json.dumps(ice), episodes=64, updates=size.lake_updates)
    decoy = replace(lake, env_id="FrozenLake-v1", env_args=json.dumps(ice | {"desc": LAKE_WITH_A_DECOY}))
    tuning = (size.lake_tuning_seeds, size.lake_rates, size.lake_bonuses)
    return {
        "decoy-lake": GymTask(decoy, GYM, size.lake_seeds, 1.5, "", *tuning),
        "lake": GymTask(lake, GYM, size.lake_seeds, 1.5, "decoy-lake"),
    }


class Stopped(Exception):
    """Ctrl-C was pressed."""


def gym_run(
    task: GymTask,
    fresh: int,
    settings: Mapping[str, tuple[float, float]],
    first: int,
    name: str,
    seed: int,
    folder: Path,
    stop: Any,
    report: Any,
) -> bool:
    """Train and evaluate one policy with the single-file PPO."""
    if (folder / EVALUATION).exists():
        return True
    begin, end = stages(CONTENDERS[name].objective)
    rate, bonus = settings[name]
    anneal_from = begin if begin != end else ""
    args = replace(task.args, objective=end, anneal_from=anneal_from, seed=first + seed)
    args = replace(args, learning_rate=rate, entropy=bonus)

    def log(folder: Path, row: dict[str, float]) -> None:
        row = {"step": row["update"]} | {key: float(x) for key, x in row.items()}
        with (folder / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")
        report(row)
        if stop():
            raise Stopped

    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).unlink(missing_ok=True)
    envs = make_envs(args)
    try:
        policy = train_ppo(args, envs, folder, log)
        torch.manual_seed(1_000_003 + args.seed)
        rounds = range(-(-fresh // args.episodes))
        played = [play(envs, policy, args, 1_000_003 + args.seed if i == 0 else None) for i in rounds]
    except Stopped:
        return False
    finally:
        envs.close()
    lengths = [np.bincount(one.episode, minlength=args.episodes) for one in played]
    write_returns(folder / EVALUATION, np.concatenate([one.returns for one in played]), np.concatenate(lengths))
    return True


def gym_returns(folder: Path, name: str, seeds: int) -> list[np.ndarray]:
    return [read_returns(run_folder(folder, name, seed) / EVALUATION) for seed in range(seeds)]


def tuned_gym(size: Size, out: Path, key: str) -> dict[str, tuple[float, float]]:
    """Return for each contender the learning rate and bonus that are best for what it ends on."""
    task = gym_tasks(size)[key]

    def aimed(name: str, setting: tuple[float, float]) -> float:
        folder = out / f"gym-tune/{key}/{setting[0]:g}-{setting[1]:g}"
        aim = stages(CONTENDERS[name].objective)[1]
        return float(np.mean([og.value(own, aim) for own in gym_returns(folder, name, task.tuning_seeds)]))

    if task.settings_of:
        return tuned_gym(size, out, task.settings_of)
    return {name: max(task.grid(name), key=partial(aimed, name)) for name in task.contenders}


def train_gym(s: study.Study, size: Size) -> None:
    def train(task: GymTask, names: Sequence[str], seeds: int, settings: Any, first: int, part: str) -> None:
        run = partial(gym_run, task, size.lake_fresh, settings, first)
        s.train(run, names, seeds, task.args.updates, lambda row, name: f"mean {row['mean']:.2f}", part)

    for key, task in gym_tasks(size).items():
        for setting in sorted({s for name in task.contenders for s in task.grid(name)}):
            names = [name for name in task.contenders if setting in task.grid(name)]
            part = f"gym-tune/{key}/{setting[0]:g}-{setting[1]:g}"
            train(task, names, task.tuning_seeds, dict.fromkeys(names, setting), 100, part)
        train(task, task.contenders, task.seeds, tuned_gym(size, s.out, key), 0, f"gym/{key}")


# What came out ------------------------------------------------------------------------------------------------------


def measured(every: Mapping[str, Task], out: Path) -> list[dict[str, Any]]:
    """Return one record per run of the study."""
    records: list[dict[str, Any]] = []
    for name, task in every.items():
        for contender in task.contenders:
            rate, bonus = tuned(out, task.settings_of or name, contender)
            with np.load(block_path(out, "study", name, contender)) as block:
                returns, seen = block["returns"][0], block["seen"][0]
            for seed, own in enumerate(returns / task.unit):
                row = {"task": name, "contender": contender, "seed": seed, "learning_rate": rate, "bonus": bonus}
                numbers = {"mean": own.mean(), BEST_OF: og.value(own, BEST_OF), "nothing": (own < 0.5).mean()}
                numbers |= {"decoy": ((own > 0.5) & (own < 1.5)).mean(), "treasure": (own >= 0.999 * TREASURE).mean()}
                row |= {measure: float(x) for measure, x in numbers.items()}
                records.append(row | {"first_seen": int(seen[seed])})
    return records


def leads(records: Sequence[Mapping[str, Any]]) -> list[study.Record]:
    """Return the lead of every contender over the mean and over the bonus, seed by seed, with its interval."""
    rows: list[study.Record] = []
    taking_part = list(dict.fromkeys((r["task"], r["contender"]) for r in records))
    for (task, contender), against, name in product(taking_part, ("mean", "mean + bonus"), ("mean", BEST_OF)):
        if contender != against and (task, against) in taking_part:
            found = study.lead_of(records, name, "contender", contender, against, task=task)
            rows.append({"task": task, "contender": contender, "against": against, "measure": name, **found})
    return rows


def tuning_rows(every: Mapping[str, Task], out: Path) -> list[study.Record]:
    rows: list[study.Record] = []
    for name, task in every.items():
        for contender in task.contenders if not task.settings_of else ():
            with np.load(block_path(out, "tune", name, contender)) as block:
                of_each = zip(block["settings"], block["returns"], block["seen"], strict=True)
                for (rate, bonus), own, met in of_each:
                    row = {"task": name, "contender": contender, "learning_rate": float(rate), "bonus": float(bonus)}
                    row["aim"] = float(og.value(own, stages(CONTENDERS[contender].objective)[1]).mean())
                    row["mean"] = float(own.mean())
                    row["found"] = float(((own >= 0.999 * TREASURE).mean(axis=1) > FOUND).mean())
                    rows.append(row | {"seen": float((met > 0).mean())})
    return rows


def gym_measured(size: Size, out: Path) -> list[study.Record]:
    """Return for each policy its settings, its mean, its best of 16 and the share of episodes that reach the goal."""
    rows: list[study.Record] = []
    for key, task in gym_tasks(size).items():
        for name, (rate, bonus) in tuned_gym(size, out, key).items():
            for seed, own in enumerate(gym_returns(out / "gym" / key, name, task.seeds)):
                row = {"task": key, "contender": name, "seed": seed, "learning_rate": rate, "bonus": bonus}
                row |= {"mean": float(own.mean()), BEST_OF: float(og.value(own, BEST_OF))}
                rows.append(row | {"goal": float((own > task.goal).mean())})
    return rows


def cells_of(records: Sequence[Mapping[str, Any]], reached: str, measures: Sequence[str]) -> dict[str, Any]:
    """Return for every task and contender the seeds that found what is to be `reached`, and measures with intervals."""
    cells: dict[str, Any] = {}
    for task, contender in dict.fromkeys((r["task"], r["contender"]) for r in records):
        of = partial(study.column, records, task=task, contender=contender)
        found = {"found": study.share(of(reached) > FOUND)}
        if reached == "treasure":
            found["settled"] = study.share(of(reached) > 0.5)
        found |= {name: study.over_seeds(of(name)) for name in (*measures, reached)}
        cells.setdefault(task, {})[contender] = {name: study.rounded(values) for name, values in found.items()}
    return cells


def report(s: study.Study, size: Size) -> None:
    """Write and show the tables and pictures."""
    records, gym_records = measured(tasks(size), s.out), gym_measured(size, s.out)
    s.write_table("runs.csv", records)
    s.write_table("tuning.csv", tuning_rows(tasks(size), s.out))
    s.write_table("differences.csv", leads(records))
    s.write_table("gym.csv", gym_records)
    cells = cells_of(records, "treasure", ("mean", BEST_OF, "nothing", "decoy"))
    gyms = cells_of(gym_records, "goal", ("mean", BEST_OF))
    for every, reached in ((cells, "treasure"), (gyms, "goal")):
        headings = ("task", "trained on", "found by", "mean", BEST_OF, reached)
        s.show("95% intervals over seeds", headings, shown(every, reached), left=2)
    s.write_summary(size, columns=["mean over seeds", "low", "high"], tasks=cells, gym=gyms)
    draw(size, s.out, cells, s.images / "exploration.png")
    draw_gym(size, s.out, s.images / "exploration_gym.png")


def add(s: study.Study, size: Size, every: Mapping[str, Task]) -> None:
    """Add the runs of some tasks to the tables that are there."""

    def merged(name: str, new: Sequence[study.Record]) -> list[study.Record]:
        rows = [row for row in study.read_table(s.results / name) if row["task"] not in every]
        s.write_table(name, [*rows, *new])
        return [*rows, *new]

    records = merged("runs.csv", measured(every, s.out))
    merged("tuning.csv", tuning_rows(every, s.out))
    s.write_table("differences.csv", leads(records))
    mine = [record for record in records if record["task"] in every]
    cells = cells_of(mine, "treasure", ("mean", BEST_OF, "nothing", "decoy"))
    s.write_summary(size, "added.json", columns=["mean over seeds", "low", "high"], tasks=cells)


def shown(cells: Mapping[str, Any], reached: str) -> Iterator[Sequence[str]]:
    for task, own in cells.items():
        for name, c in own.items():
            spread = ("{:.2f} [{:.2f}, {:.2f}]".format(*c[key]) for key in ("mean", BEST_OF))
            yield task, name, f"{c['found'][0]:.0%}", *spread, f"{c[reached][0]:.0%}"


def draw(size: Size, out: Path, cells: Mapping[str, Any], path: Path) -> None:
    """Draw training, where the final episodes end, and the share of seeds that find the treasure by depth."""
    figure, (left, middle, right) = new_figure(3, "")
    for index, contender in enumerate(FEW):
        with np.load(block_path(out, "study", "main", contender)) as block:
            curve = block["mean"][0]
        steps = 1 + 10 * np.arange(curve.shape[1])
        draw_curve(left, index, contender, steps, curve.mean(axis=0))
    left.set(xlabel="update", ylabel="mean return, average over seeds", title="Training", ylim=(0, 13.5))
    left.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    names = list(CONTENDERS)[::-1]
    edge = np.zeros(len(names))
    for kind, colour in (("treasure", "#0072B2"), ("decoy", "#E69F00"), ("nothing", "#BBBBBB")):
        values = np.array([cells["main"][name][kind][0] for name in names])
        middle.barh(names, values, left=edge, color=colour, label=kind)
        edge += values
    middle.set(xlim=(0, 1), xlabel="share of fresh episodes, all seeds", title="Where episodes end")
    middle.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, -0.34))
    middle.grid(visible=False)
    depths = {size.depth: "main"} | {n: f"depth {n}" for n in size.depths}
    for index, contender in enumerate(FEW):
        points = np.array([cells[depths[n]][contender]["found"] for n in sorted(depths)])
        draw_curve(right, index, contender, np.array(sorted(depths)), points[:, 0], (points[:, 1], points[:, 2]), "o")
    right.set(xlabel="depth (uniform chance 1 in 2^depth)", ylabel="share of seeds that found it", ylim=(-0.03, 1.03))
    right.set(title="How sparse", xticks=sorted(depths))
    save(figure, path)


def draw_gym(size: Size, out: Path, path: Path) -> None:
    """Draw the mean return of every run over training."""
    every = gym_tasks(size)
    figure, axes = new_figure(len(every), "")
    for axis, (key, task) in zip(axes, every.items(), strict=True):
        for name in task.contenders:
            colour, dash = style(FEW.index(name))
            runs = [read_metrics(run_folder(out / "gym" / key, name, seed) / METRICS) for seed in range(task.seeds)]
            curves = np.array([[row["mean"] for row in rows] for rows in runs])
            steps = np.arange(1, curves.shape[1] + 1)
            axis.plot(steps, curves.T, color=colour, linewidth=0.6, alpha=0.35)
            axis.plot(steps, curves.mean(axis=0), color=colour, linestyle=dash, linewidth=2.2, label=name)
        axis.set(xlabel="update", ylabel="mean return of the update's episodes", title=TITLES[key])
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)


@dataclass(frozen=True)
class Options(study.Options):
    size: str = field(default="study", metadata={"choices": SIZES})
    out: Path | None = field(default=None, metadata={"help": "folder of the runs [runs/exploration-SIZE]"})
    add: str = field(
        default="",
        metadata={"help": "only tasks whose name ends so, into the tables that are there, such as 'unit scale'"},
    )


def main(argv: list[str] | None = None) -> None:
    options = study.parse(Options, "Search for a far treasure on objectives of ranks.", argv)
    options, size = replace(options, out=options.out or Path(f"runs/exploration-{options.size}")), SIZES[options.size]
    with study.Study(__file__, options, argv) as s:
        s.open(size)
        every = {name: task for name, task in tasks(size).items() if name.endswith(options.add)}
        if not every:
            raise UserError(f"--add must be the end of a task's name; got {options.add!r}, of {', '.join(tasks(size))}")
        train_blocks(every, size, s.out, s.console)
        if options.add:
            return add(s, size, every)
        train_gym(s, size)
    report(s, size)
    return None


if __name__ == "__main__":
    main()
