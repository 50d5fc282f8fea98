"""Exploration: a small reward close by, a large one far off. Does max@K find what the mean does not?

The deep sea of `jax_reinforce.py`, a table of logits for a policy, 1,000 updates of 64 episodes. Contenders differ in
their advantages only; one has an entropy bonus. In parts, each a set of blocks of runs that JAX trains side by side:

1. *tune*: every contender at every learning rate (the bonus at every coefficient too) on seeds apart from those of the
   study; it gets what is best for the objective it ends on, and among equals the larger mean;
2. *study*: every contender, twenty seeds, dives of ten steps;
3. *where it ends*: other depths and reward scales at the same settings, and, tuned anew, rewards of one kind only, a
   reward on the way, a treasure that is seldom there, and plain gradient steps instead of Adam;
4. *car*: MountainCarContinuous, where standing still is the decoy, with `ppo.py`.

    python experiments/exploration.py --results experiments/results/exploration --images docs/images

Ctrl-C stops after the current block, `--resume` goes on. Needs `pip install "ordergrad[studies]"`. Results and what
they mean: docs/studies/exploration.md.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
    Nishimori et al. (2026). Emergence of Exploration in Policy Gradient Reinforcement Learning via Retrying.
        arXiv 2606.00151.
    Walder and Karkhanis (2025). Pass@K Policy Optimization. arXiv 2505.15201. (max@K with the k-minus-one baseline)
"""

import argparse
import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from jax_reinforce import Environment, Settings, deep_sea, fresh_returns, train_seeds
from ppo import Args, make_envs, play
from ppo import train as train_ppo
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from scipy.stats import binomtest

import ordergrad as og
from ordergrad.report.plots import draw_curve, new_figure, save, style
from ordergrad.train.evaluation import write_returns
from ordergrad.train.llm_settings import stages
from ordergrad.train.measures import interval, read_returns
from ordergrad.train.progress import train_under_progress
from ordergrad.train.runs import EVALUATION, METRICS, RunError, open_folder, run_folder, write_csv

BEST_OF = "max@16"  # the measure of what can be found in a few tries
FOUND = 0.05  # a policy has found the treasure if so many of its episodes end there
TREASURE = 10.0


@dataclass(frozen=True)
class Contender:
    """What takes part: an objective, or a schedule of two, perhaps with an entropy bonus."""

    objective: str
    baseline: og.estimators.Baseline = "leave_one_out"
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
FEW = ("mean", "mean + bonus", "max@4", "max@16", "max@16..mean")
NO_BONUS = ("mean", "max@4", "max@16", "max@16..mean")
CAR = ("mean", "max@8", "max@8..mean")


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    updates: int = 1000
    episodes: int = 64
    seeds: int = 20
    tuning_seeds: int = 8
    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    plain_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)  # of plain gradient steps
    bonuses: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    depth: int = 10
    depths: tuple[int, ...] = (6, 8, 12, 14)
    scales: tuple[float, ...] = (0.1, 10.0)
    fresh: int = 4096
    car_seeds: int = 5
    car_updates: int = 40
    car_episodes: int = 16
    car_rates: tuple[float, ...] = (1e-3, 3e-3)
    car_fresh: int = 96


SIZES = {"study": Size(), "large": Size(seeds=50, tuning_seeds=20, car_seeds=20, car_updates=100)}


@dataclass(frozen=True)
class Task:
    """An environment, who dives in it, and where the settings come from."""

    environment: Environment
    contenders: tuple[str, ...]
    unit: float = 1.0  # of the rewards
    optimizer: str = "adam"
    settings_of: str = ""  # the task whose tuned settings are used; empty: tuned on this one


def tasks(size: Size) -> dict[str, Task]:
    d = size.depth
    found = {"main": Task(deep_sea(d), tuple(CONTENDERS))}
    found |= {f"depth {n}": Task(deep_sea(n), FEW, settings_of="main") for n in size.depths}
    found |= {
        f"rewards x {c:g}": Task(deep_sea(d, TREASURE * c, c), FEW, unit=c, settings_of="main") for c in size.scales
    }
    return found | {
        "no decoy": Task(deep_sea(d, decoy=0.0), FEW),
        "reward on the way": Task(deep_sea(d, treasure=0.0, decoy=0.0, guide=TREASURE), FEW),
        "rare treasure": Task(deep_sea(d // 2, odds=0.05), FEW),
        "plain steps": Task(deep_sea(d), NO_BONUS, optimizer="sgd"),
    }


# Blocks of runs -----------------------------------------------------------------------------------------------------


def block_path(out: Path, part: str, task: str, name: str) -> Path:
    return out / part / task.replace(" ", "-") / f"{name.replace(' ', '').replace(':', '-')}.npz"


def run_block(
    path: Path, task: Task, name: str, size: Size, settings: Sequence[tuple[float, float]], seeds: Sequence[int]
) -> None:
    """Train a contender with every pair of learning rate and bonus on every seed; the file appears when all is done."""
    contender = CONTENDERS[name]
    static = Settings(contender.objective, contender.baseline, size.episodes, size.updates, optimizer=task.optimizer)
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


def tuning_grid(task: Task, name: str, size: Size) -> list[tuple[float, float]]:
    rates = size.plain_rates if task.optimizer == "sgd" else size.rates
    return list(product(rates, size.bonuses if CONTENDERS[name].bonus else (0.0,)))


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


def train_blocks(size: Size, out: Path, console: Console) -> None:
    every = tasks(size)
    jobs = [("tune", t, c) for t, task in every.items() if not task.settings_of for c in task.contenders]
    jobs += [("study", t, c) for t, task in every.items() for c in task.contenders]
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("deep sea", total=len(jobs))
        for part, name, contender in jobs:
            progress.update(bar, description=f"{part}: {name}, {contender}")
            path, task = block_path(out, part, name, contender), every[name]
            if not path.exists():
                if part == "tune":
                    settings, seeds = tuning_grid(task, contender, size), range(100, 100 + size.tuning_seeds)
                else:
                    settings, seeds = [tuned(out, task.settings_of or name, contender)], range(size.seeds)
                run_block(path, task, contender, size, settings, seeds)
            progress.advance(bar)


# The car ------------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Ctrl-C was pressed."""


def car_run(
    size: Size, rates: Mapping[str, float], first: int, objective: str, seed: int, folder: Path, stop: Any, report: Any
) -> bool:
    """Train and evaluate one policy of MountainCarContinuous."""
    if (folder / EVALUATION).exists():
        return True
    begin, end = stages(objective)
    args = Args(
        "MountainCarContinuous-v0",
        end,
        begin if begin != end else "",
        first + seed,
        episodes=size.car_episodes,
        updates=size.car_updates,
        learning_rate=rates[objective],
        normalize=True,
    )

    def log(folder: Path, row: dict[str, float]) -> None:
        with (folder / METRICS).open("a") as file:
            file.write(json.dumps({"step": row["update"]} | {name: float(x) for name, x in row.items()}) + "\n")
        report({"step": row["update"], "mean": float(row["mean"])})
        if stop():
            raise Stopped

    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).unlink(missing_ok=True)
    envs = make_envs(args)
    try:
        policy = train_ppo(args, envs, folder, log)
        envs.update_running_mean = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1_000_003 + seed)
            rounds = -(-size.car_fresh // size.car_episodes)
            fresh = [play(envs, policy, args, 1_000_003 + seed if i == 0 else None) for i in range(rounds)]
    except Stopped:
        return False
    finally:
        envs.close()
    returns = np.concatenate([one.returns for one in fresh])
    lengths = np.concatenate([np.bincount(one.episode, minlength=size.car_episodes) for one in fresh])
    write_returns(folder / EVALUATION, returns, lengths)
    return True


def car_returns(folder: Path, contender: str, seeds: int) -> list[np.ndarray]:
    return [read_returns(run_folder(folder, contender, seed) / EVALUATION) for seed in range(seeds)]


def train_cars(size: Size, out: Path, jobs: int, console: Console) -> None:
    shown = lambda row, contender: f"mean {row['mean']:.1f}"  # noqa: E731
    for rate in size.car_rates:
        run = partial(car_run, size, dict.fromkeys(CAR, rate), 100)
        if not train_under_progress(run, CAR, 1, size.car_updates, out / f"car-tune/{rate:g}", jobs, console, shown):
            raise KeyboardInterrupt
    run = partial(car_run, size, car_rates(size, out), 0)
    if not train_under_progress(run, CAR, size.car_seeds, size.car_updates, out / "car", jobs, console, shown):
        raise KeyboardInterrupt


def car_rates(size: Size, out: Path) -> dict[str, float]:
    def aimed(contender: str, rate: float) -> float:
        [returns] = car_returns(out / f"car-tune/{rate:g}", contender, 1)
        return float(og.value(returns, stages(contender)[1]))

    return {c: max(size.car_rates, key=partial(aimed, c)) for c in CAR}


# What came out ------------------------------------------------------------------------------------------------------


def measured(size: Size, out: Path) -> list[dict[str, Any]]:
    """Return one record per run of the study."""
    records: list[dict[str, Any]] = []
    for name, task in tasks(size).items():
        for contender in task.contenders:
            rate, bonus = tuned(out, task.settings_of or name, contender)
            with np.load(block_path(out, "study", name, contender)) as block:
                returns, seen = block["returns"][0], block["seen"][0]
            for seed, own in enumerate(returns):
                scaled = own / task.unit
                records.append(
                    {
                        "task": name,
                        "contender": contender,
                        "seed": seed,
                        "learning_rate": rate,
                        "bonus": bonus,
                        "mean": float(scaled.mean()),
                        BEST_OF: float(og.value(scaled, BEST_OF)),
                        "nothing": float((scaled < 0.5).mean()),
                        "decoy": float(((scaled > 0.5) & (scaled < 1.5)).mean()),
                        "treasure": float((scaled >= 0.999 * TREASURE).mean()),
                        "first_seen": int(seen[seed]),
                    }
                )
    return records


def column(records: Sequence[Mapping[str, Any]], task: str, contender: str, name: str) -> np.ndarray:
    return np.array([r[name] for r in records if r["task"] == task and r["contender"] == contender], float)


def over_seeds(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of one value a seed, and its 95% interval."""
    return interval([np.array([value]) for value in values])


def share(hits: np.ndarray) -> tuple[float, float, float]:
    """Return a share of seeds and its 95% interval (Clopper and Pearson)."""
    found = binomtest(int(hits.sum()), len(hits)).proportion_ci()
    return float(hits.mean()), float(found.low), float(found.high)


def cell(records: Sequence[Mapping[str, Any]], task: str, contender: str) -> dict[str, list[float]]:
    """Return what one contender did in one task: each measure with its interval."""
    of = partial(column, records, task, contender)
    found = {"found": share(of("treasure") > FOUND), "settled": share(of("treasure") > 0.5)}
    found |= {name: over_seeds(of(name)) for name in ("mean", BEST_OF, "nothing", "decoy", "treasure")}
    return {name: [round(x, 4) for x in values] for name, values in found.items()}


def leads(records: Sequence[Mapping[str, Any]], size: Size) -> list[tuple[Any, ...]]:
    """Return the lead of every contender over the mean and over the bonus, seed by seed, with its interval."""
    rows: list[tuple[Any, ...]] = []
    for task, against in product(tasks(size), ("mean", "mean + bonus")):
        contenders = tasks(size)[task].contenders
        for contender, name in product(contenders, ("mean", BEST_OF)):
            if contender != against and against in contenders:
                ours, theirs = (column(records, task, c, name) for c in (contender, against))
                rows.append((task, contender, against, name, *(round(x, 4) for x in over_seeds(ours - theirs))))
    return rows


def tuning_rows(size: Size, out: Path) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for name, task in tasks(size).items():
        for contender in task.contenders if not task.settings_of else ():
            with np.load(block_path(out, "tune", name, contender)) as block:
                for (rate, bonus), own in zip(block["settings"], block["returns"], strict=True):
                    aimed = float(og.value(own, stages(CONTENDERS[contender].objective)[1]).mean())
                    hits = ((own >= 0.999 * TREASURE).mean(axis=1) > FOUND).mean()
                    row = (name, contender, f"{rate:g}", f"{bonus:g}", f"{aimed:.4g}", f"{own.mean():.4g}")
                    rows.append((*row, f"{hits:.3g}"))
    return rows


def car_rows(size: Size, out: Path) -> list[tuple[Any, ...]]:
    """Return for each policy of the car its mean, best of 8 and the share of episodes that arrive."""
    return [
        (c, seed, f"{own.mean():.4g}", f"{og.value(own, 'max@8'):.4g}", f"{(own > 0).mean():.4g}")
        for c in CAR
        for seed, own in enumerate(car_returns(out / "car", c, size.car_seeds))
    ]


def report(size: Size, out: Path, results: Path, images: Path, command: str, console: Console) -> None:
    """Write and show the tables and pictures."""
    results.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    records = measured(size, out)
    rounded = [[f"{x:.5g}" if isinstance(x, float) else x for x in r.values()] for r in records]
    write_csv(results / "runs.csv", tuple(records[0]), rounded)
    header = ("task", "contender", "learning_rate", "bonus", "aim", "mean", "found")
    write_csv(results / "tuning.csv", header, tuning_rows(size, out))
    header = ("task", "contender", "against", "measure", "lead", "low", "high")
    write_csv(results / "differences.csv", header, leads(records, size))
    write_csv(results / "car.csv", ("contender", "seed", "mean", "max@8", "arrived"), car_rows(size, out))
    cells = {t: {c: cell(records, t, c) for c in task.contenders} for t, task in tasks(size).items()}
    summary = {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine(), "system": platform.system()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("ordergrad", "numpy", "jax", "optax", "torch", "gymnasium")},
        },
        "size": asdict(size),
        "columns": ["mean over seeds", "low", "high"],
        "tasks": cells,
        "car": {
            "learning_rates": car_rates(size, out),
            **{c: car_cell(car_returns(out / "car", c, size.car_seeds)) for c in CAR},
        },
    }
    (results / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    show(cells, summary["car"], console)
    draw(size, out, records, cells, images / "exploration.png")
    draw_car(size, out, images / "exploration_car.png")
    console.print(f"results: {results}/summary.json, *.csv; pictures: {images}/exploration*.png")


def car_cell(returns: Sequence[np.ndarray]) -> dict[str, list[float]]:
    found = {
        "found": share(np.array([(own > 0).mean() > 0.5 for own in returns])),
        "mean": over_seeds(np.array([own.mean() for own in returns])),
        "max@8": over_seeds(np.array([float(og.value(own, "max@8")) for own in returns])),
    }
    return {name: [round(x, 4) for x in values] for name, values in found.items()}


def show(cells: Mapping[str, Any], car: Mapping[str, Any], console: Console) -> None:
    table = Table(title="Twenty seeds unless said; 95% intervals", title_justify="left")
    for heading in ("task", "trained on", "found it", "mean", BEST_OF, "treasure"):
        table.add_column(heading, justify="left" if heading in ("task", "trained on") else "right")
    for task, own in cells.items():
        for contender, c in own.items():
            spread = (f"{c[name][0]:.2f} ± {(c[name][2] - c[name][1]) / 2:.2f}" for name in ("mean", BEST_OF))
            table.add_row(task, contender, f"{c['found'][0]:.0%}", *spread, f"{c['treasure'][0]:.0%}")
    for contender in CAR:
        c = car[contender]
        spread = (f"{c[name][0]:.1f} ± {(c[name][2] - c[name][1]) / 2:.1f}" for name in ("mean", "max@8"))
        table.add_row("car (max@8)", contender, f"{c['found'][0]:.0%}", *spread, "")
    console.print(table)


def draw(size: Size, out: Path, records: Sequence[Mapping[str, Any]], cells: Mapping[str, Any], path: Path) -> None:
    """Draw training, where the final episodes end, and the share of seeds that find the treasure by depth."""
    figure, (left, middle, right) = new_figure(3, "")
    for index, contender in enumerate(FEW):
        with np.load(block_path(out, "study", "main", contender)) as block:
            curve = block["mean"][0]
        steps = 1 + 10 * np.arange(curve.shape[1])
        draw_curve(left, index, contender, steps, curve.mean(axis=0))
    left.set(xlabel="update", ylabel="mean return, average over seeds", title="Training")
    left.legend(frameon=False, fontsize=8)
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


def draw_car(size: Size, out: Path, path: Path) -> None:
    """Draw every run of the car over training, and the quantiles of the final episodes."""
    figure, (left, right) = new_figure(2, "MountainCarContinuous")
    for index, contender in enumerate(CAR):
        colour, dash = style(index)
        for seed in range(size.car_seeds):
            lines = (run_folder(out / "car", contender, seed) / METRICS).read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            label = contender if seed == 0 else None
            x, y = [row["step"] for row in rows], [row["mean"] for row in rows]
            left.plot(x, y, color=colour, linestyle=dash, linewidth=1.3, label=label)
        returns = np.sort(np.concatenate(car_returns(out / "car", contender, size.car_seeds)))
        draw_curve(right, index, contender, (np.arange(len(returns)) + 0.5) / len(returns), returns)
    left.set(xlabel="update", ylabel="mean return of the update's episodes", title="Training, every seed")
    right.set(xlabel="quantile level", ylabel="return", title="Final policies, all episodes", xlim=(0, 1))
    left.legend(frameon=False, fontsize=8)
    save(figure, path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Search for a far treasure on objectives of ranks.")
    parser.add_argument("--size", choices=SIZES, default="study")
    parser.add_argument("--out", type=Path, help="folder of the runs [runs/exploration-SIZE]")
    parser.add_argument("--results", type=Path, help="folder of the tables [the folder of the runs]")
    parser.add_argument("--images", type=Path, help="folder of the pictures [the folder of the runs]")
    parser.add_argument("--jobs", type=int, default=1, help="runs of the car side by side")
    parser.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    options = parser.parse_args(argv)
    console, size = Console(highlight=False), SIZES[options.size]
    out: Path = options.out or Path("runs") / f"exploration-{options.size}"
    command = f"python experiments/exploration.py --size {options.size}"
    try:
        open_folder(out, asdict(size), kind="study", resume=options.resume)
        train_blocks(size, out, console)
        train_cars(size, out, options.jobs, console)
    except RunError as error:
        raise SystemExit(f"Error: {error}") from None
    except KeyboardInterrupt:
        console.print(f"Stopped; what is there is in {out}. Continue by the same command with --resume.")
        raise SystemExit(130) from None
    report(size, out, options.results or out, options.images or out, command, console)


if __name__ == "__main__":
    main()
