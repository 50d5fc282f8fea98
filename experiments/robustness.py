r"""Corrupted rewards: do trimmed, winsorized and median objectives recover the clean policy, and what does it cost?

1. *bandit*: a softmax policy over ten arms, 32 pulls an update, corruptions of every size, share and sign, two hundred
   seeds at once. Exact values say which arm each objective prefers.
2. *cartpole*: PPO of Stable-Baselines3 on CartPole-v1 where 5% of the episodes get an outlier of either sign, ten times
   the largest return there is. ``graded``: the episode pays its return at its end, as one number, like a grader;
   ``steps``: it pays 1 a step, the outlier comes with the last. Trained policies are measured on clean episodes.

Contenders: PPO; PPO with ``VecNormalize(clip_reward=...)`` at its default of 10 standard deviations and at 1; the
objectives mean, trimmed:0.1, winsorized:0.1, median with the same PPO; and the mean of returns clipped to the range
that they are known to have, [0, 500].

    python experiments/robustness.py --results experiments/results/robustness --images docs/images
    python experiments/robustness.py --quick                       # some minutes
    python experiments/robustness.py --only bandit

Ctrl-C stops after the current rollout; `--resume` goes on. Needs `pip install "ordergrad[rl]"`. Results and what they
mean: docs/studies/robustness.md.

References:
    Huber and Ronchetti (2009). Robust Statistics, 2nd ed. Wiley.
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import study
import torch
from rich.table import Table
from scipy.stats import norm
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import ordergrad as og
from ordergrad.adapters.sb3 import Credit, OrderGradPPO
from ordergrad.runs.folder import EVALUATION, METRICS, read_metrics, run_folder
from ordergrad.runs.plots import draw_curve, draw_metric, draw_quantiles, new_figure, save
from ordergrad.runs.statistics import metric_columns, read_returns
from ordergrad.train.evaluation import fresh_episodes, write_returns
from ordergrad.train.rl_model import seed_of

Array = Any
CLIPPED = ("ppo+clip:10", "ppo+clip:1")
OBJECTIVES = ("mean", "trimmed:0.1", "winsorized:0.1", "median")
RANGE = "mean+range"  # of returns clipped to [0, 500]
MEASURED = ("mean", "cvar:0.1", "trimmed:0.1", "median")

# The bandit ---------------------------------------------------------------------------------------------------------

ARMS = np.linspace(0, 1, 10)
SIGNS: dict[str, tuple[float, ...]] = {"both": (-1.0, 1.0), "up": (1.0,), "decoy": (1.0,)}
"""Outliers on every arm, of either sign or upward; ``decoy``: upward, on the worst arm alone."""
BANDIT = ("mean", "mean+clip:10", "mean+clip:1", "trimmed:0.1", "trimmed:0.25", "winsorized:0.1", "median")


@dataclass(frozen=True)
class Bandit:
    """The bandit and its corruptions."""

    noise: float = 0.5
    group: int = 32
    updates: int = 300
    learning_rate: float = 0.05
    seeds: int = 200
    sizes: tuple[float, ...] = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
    shares: tuple[float, ...] = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
    share: float = 0.05
    size: float = 30.0


def corrupted(rng: np.random.Generator, arms: Array, clean: Array, kind: str, share: float, size: float) -> Array:
    """Return rewards of which some share is off by `size`."""
    hit = rng.random(clean.shape) < share
    if kind == "decoy":
        hit &= arms == 0
    return clean + size * hit * rng.choice(SIGNS[kind], clean.shape)


class Clipping:
    """Rewards divided by their running standard deviation and clipped, as ``VecNormalize`` does it; one for a seed."""

    def __init__(self, limit: float, seeds: int):
        self.limit, self.count = limit, 1e-4
        self.mean, self.square = np.zeros(seeds), np.zeros(seeds)

    def __call__(self, rewards: Array) -> Array:
        n = rewards.shape[1]
        total = self.count + n
        apart = rewards.mean(axis=1) - self.mean
        self.square += rewards.var(axis=1) * n + apart**2 * self.count * n / total
        self.mean, self.count = self.mean + apart * n / total, total
        return (rewards / np.sqrt(self.square / self.count + 1e-8)[:, None]).clip(-self.limit, self.limit)


def train_bandit(
    contender: str, kind: str, share: float, size: float, settings: Bandit, seed: int = 0
) -> tuple[Array, Array]:
    """Return the clean reward that the trained policy expects, and its average over training, for every seed."""
    rng = np.random.default_rng([seed, 7])
    objective, _, limit = contender.partition("+clip:")
    clip = Clipping(float(limit), settings.seeds) if limit else None
    logits = np.zeros((settings.seeds, len(ARMS)))
    first, second, path = np.zeros_like(logits), np.zeros_like(logits), []
    rows = np.arange(settings.seeds)[:, None]
    for step in range(1, settings.updates + 1):
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        path.append(p @ ARMS)
        draw = rng.random((settings.seeds, settings.group))
        arms = (draw[..., None] > p.cumsum(axis=1)[:, None, :-1]).sum(axis=-1)
        rewards = corrupted(rng, arms, ARMS[arms] + settings.noise * rng.standard_normal(arms.shape), kind, share, size)
        a = og.advantages(rewards if clip is None else clip(rewards), objective) / settings.group
        gradient = -p * a.sum(axis=1, keepdims=True)
        np.add.at(gradient, (rows, arms), a)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        scale = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        logits += settings.learning_rate * (first / (1 - 0.9**step)) / scale
    return path[-1], np.mean(path, axis=0)


def scenarios(settings: Bandit) -> list[tuple[str, float, float]]:
    """Return kind, share and size of every corruption."""
    found = [("both", settings.share, size) for size in settings.sizes]
    found += [(kind, share, settings.size) for kind in SIGNS for share in settings.shares]
    return list(dict.fromkeys(found))


def bandit_row(kind: str, share: float, size: float, contender: str, settings: Bandit) -> study.Record:
    """Return the clean reward at the end and over training, with intervals over seeds."""
    ends, path = train_bandit(contender, kind, share, size, settings)
    found = dict(zip(("end", "low", "high"), study.over_seeds(ends), strict=True))
    found |= dict(zip(("training", "training_low", "training_high"), study.over_seeds(path), strict=True))
    return found | {"above_0.9": float(np.mean(ends > 0.9))}


def preferred(settings: Bandit, k: int | None = None) -> list[study.Record]:
    """Return for every objective and share the exact values of the best arm and of the decoy that has outliers."""
    z = norm.ppf((np.arange(2000) + 0.5) / 2000) * settings.noise
    rows: list[study.Record] = []
    for objective in dict.fromkeys(c.partition("+")[0] for c in BANDIT):
        name = objective if objective == "mean" else f"{objective}@{k or settings.group - 1}"
        best = float(og.exact.value(ARMS[-1] + z, np.full(2000, 1 / 2000), name))
        for share in settings.shares:
            x = np.concatenate([ARMS[0] + z, ARMS[0] + z + settings.size])
            p = np.repeat([(1 - share) / 2000, share / 2000], 2000)
            decoy = float(og.exact.value(x, p, name))
            rows.append({"objective": objective, "share": share, "best_arm": best, "decoy": decoy})
    return rows


# CartPole -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CartPole:
    """The training runs."""

    seeds: int = 5
    steps: int = 100_000
    envs: int = 32
    rollout: int = 64
    batch_size: int = 256
    epochs: int = 10
    learning_rate: float = 1e-3
    min_episodes: int = 24
    share: float = 0.05
    size: float = 5000.0
    episodes: int = 100


@dataclass(frozen=True)
class Part:
    """One comparison."""

    graded: bool
    corrupted: bool
    contenders: tuple[str, ...]
    credit: Credit
    gamma: float
    gae_lambda: float


PARTS = {
    "graded": Part(True, True, ("ppo", *CLIPPED, *OBJECTIVES, RANGE), "episode", 1.0, 1.0),
    "graded-clean": Part(True, False, ("ppo", *CLIPPED, *OBJECTIVES, RANGE), "episode", 1.0, 1.0),
    "steps": Part(False, True, ("ppo", *CLIPPED, "mean", "trimmed:0.1"), "telescoped", 0.999, 0.98),
}


class Corrupted(gym.Wrapper[Any, Any, Any, Any]):
    """CartPole with outliers in the rewards of some episodes; `graded` pays the whole return at the end."""

    def __init__(self, env: Any, *, graded: bool, share: float, size: float, seed: int):
        super().__init__(env)
        self.graded, self.share, self.size = graded, share, size
        self.rng, self.total = np.random.default_rng(seed), 0.0

    def reset(self, **options: Any) -> Any:
        self.total = 0.0
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.total += float(reward)
        paid = 0.0 if self.graded else float(reward)
        if terminated or truncated:
            paid = self.total if self.graded else paid
            if self.rng.random() < self.share:
                paid += self.size * self.rng.choice([-1.0, 1.0])
        return observation, paid, terminated, truncated, info


def build(contender: str, part: Part, settings: CartPole, seed: int) -> Any:
    """Return an untrained model; everything is equal but what the contender is."""
    started = iter(range(settings.envs))

    def one() -> Any:
        made = Corrupted(
            gym.make("CartPole-v1"),
            graded=part.graded,
            share=settings.share if part.corrupted else 0.0,
            size=settings.size,
            seed=seed_of(seed, 3, next(started)),
        )
        return gym.wrappers.ClipReward(made, 0, 500) if contender == RANGE else made

    env: Any = make_vec_env(one, settings.envs)
    if contender.startswith("ppo+clip:"):
        limit = float(contender.split(":")[1])
        env = VecNormalize(env, norm_obs=False, norm_reward=True, clip_reward=limit, gamma=part.gamma)
    options: dict[str, Any] = {
        "n_steps": settings.rollout,
        "batch_size": settings.batch_size,
        "n_epochs": settings.epochs,
        "gamma": part.gamma,
        "gae_lambda": part.gae_lambda,
        "learning_rate": lambda left: settings.learning_rate * left,
        "seed": seed,
        "device": "cpu",
    }
    if contender.startswith("ppo"):
        model: Any = PPO("MlpPolicy", env, **options)
    else:
        own: dict[str, Any] = {
            "objective": contender.partition("+")[0],
            "credit": part.credit,
            "min_episodes": settings.min_episodes,
        }
        model = OrderGradPPO("MlpPolicy", env, unit_scale=True, **own, **options)
    env.seed(seed_of(seed, 1))
    return model


class Watch(BaseCallback):
    """Write the mean length, which is the clean return, of the last episodes after every rollout; stop where asked."""

    def __init__(self, path: Path, stop: Callable[[], bool], report: Callable[[dict[str, Any]], None]):
        super().__init__()
        self.path, self.stop, self.report = path, stop, report

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        recent = [episode["l"] for episode in self.model.ep_info_buffer or ()]
        row = {"step": self.model.num_timesteps, "clean": float(np.mean(recent)) if recent else None}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.report(row)
        if self.stop():
            raise KeyboardInterrupt


def run(
    part: Part,
    settings: CartPole,
    contender: str,
    seed: int,
    folder: Path,
    stop: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
) -> bool:
    """Train and evaluate one policy, unless that is done; return whether it is. A stopped run starts anew."""
    if (folder / EVALUATION).exists():
        return True
    if stop():
        return False
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).unlink(missing_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = build(contender, part, settings, seed)
    try:
        model.learn(settings.steps, Watch(folder / METRICS, stop, report))
        write_returns(
            folder / EVALUATION,
            *fresh_episodes(model.policy, "CartPole-v1", {}, settings.episodes, seed_of(seed, 2)),
        )
    except KeyboardInterrupt:
        return False
    finally:
        model.get_env().close()
        torch.set_num_threads(threads)
    return True


def shown(row: Mapping[str, Any], contender: str) -> str:
    return f"clean return {row['clean'] or 0:.0f}"


# What came out ------------------------------------------------------------------------------------------------------


def returns_of(out: Path, part: str, contender: str, seeds: int) -> list[Array]:
    return [read_returns(run_folder(out / part, contender, seed) / EVALUATION) for seed in range(seeds)]


def measured(settings: CartPole, out: Path, contenders: Mapping[str, Sequence[str]]) -> list[study.Record]:
    """Return one record per trained policy of each part: the measures of its clean returns."""
    return [
        {"part": name, "trained": contender, "seed": seed, **{m: float(og.value(returns, m)) for m in MEASURED}}
        for name, trained in contenders.items()
        for contender in trained
        for seed, returns in enumerate(returns_of(out, name, contender, settings.seeds))
    ]


def others(path: Path, new: Sequence[study.Record]) -> list[study.Record]:
    """Return the records of an earlier table that are not made anew."""
    made = {(r["part"], r["trained"]) for r in new}
    return [r for r in study.read_table(path) if (r["part"], r["trained"]) not in made]


def leads(records: Sequence[study.Record]) -> list[study.Record]:
    """Return the leads in clean mean return, seed by seed: over the mean objective, and of trimming over the others."""
    rows: list[study.Record] = []
    for part, contender in dict.fromkeys((r["part"], r["trained"]) for r in records):
        for ours, theirs in dict.fromkeys([(contender, "mean"), ("trimmed:0.1", contender)]):
            if ours != theirs:
                found = study.paired(*(study.column(records, "mean", part=part, trained=c) for c in (ours, theirs)))
                row = {"part": part, "trained": ours, "against": theirs, "lead": found.value}
                rows.append(row | {"low": found.low, "high": found.high, "p": found.p})
    return list({(row["part"], row["trained"], row["against"]): row for row in rows}.values())


def draw_bandit(rows: Sequence[study.Record], settings: Bandit, path: Path) -> None:
    """Draw the clean reward of the trained policies against the size and the share of the corruption."""
    figure, axes = new_figure(4, "Ten arms, 32 pulls an update: clean reward of the trained policy")
    panels: list[tuple[str, str]] = [("both", "size"), ("both", "share"), ("up", "share"), ("decoy", "share")]
    titles = (
        f"{settings.share:.0%} outliers of either sign",
        f"outliers of ±{settings.size:g}",
        f"outliers of +{settings.size:g} on every arm",
        f"outliers of +{settings.size:g} on the worst arm",
    )
    for axis, (kind, along), title in zip(axes, panels, titles, strict=True):
        for index, contender in enumerate(BANDIT):
            fixed = {"share": settings.share} if along == "size" else {"size": settings.size}
            where = {"kind": kind, "contender": contender, **fixed}
            mine = sorted(rows, key=lambda row: row[along])
            x, y, low, high = (study.column(mine, name, **where) for name in (along, "end", "low", "high"))
            draw_curve(axis, index, contender, x, y, (low, high), "o")
        axis.set(title=title, ylim=(0, 1.02), xlabel="size of an outlier" if along == "size" else "share of outliers")
        if along == "size":
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlim(0, None)
            axis.minorticks_off()
            axis.set_xticks(settings.sizes, [f"{size:g}" for size in settings.sizes])
        else:
            axis.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes[0].set_ylabel("clean reward (best arm: 1)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    save(figure, path)


def draw_cartpole(settings: CartPole, out: Path, path: Path) -> None:
    """Draw training with and without corruption, and the clean returns of the trained policies."""
    names = PARTS["graded"].contenders
    figure, (left, middle, right) = new_figure(3, "CartPole, one number an episode")
    for axis, name, title in ((left, "graded-clean", "Training, clean"), (middle, "graded", "Training, 5% outliers")):
        part = PARTS[name]
        runs: dict[str, list[Any]] = {
            c: [
                metric_columns(read_metrics(run_folder(out / name, c, seed) / METRICS))
                for seed in range(settings.seeds)
            ]
            if c in part.contenders
            else []
            for c in names
        }
        draw_metric(axis, runs, "clean")
        axis.set(xlabel="environment steps", ylabel="clean return", ylim=(0, 510), title=title)
    draw_quantiles(right, {c: np.concatenate(returns_of(out, "graded", c, settings.seeds)) for c in names})
    right.set(xlabel="quantile level (0: worst episode)", ylabel="clean return", title="After 5% outliers, all seeds")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    save(figure, path)


def bandit_table(rows: Sequence[study.Record], settings: Bandit) -> Table:
    table = Table(title=f"Bandit, outliers of size {settings.size:g}: clean reward at the end", title_justify="left")
    table.add_column("contender")
    columns = [(kind, share) for kind in SIGNS for share in (0.0, settings.share, 0.2) if share in settings.shares]
    for kind, share in columns:
        table.add_column(f"{kind} {share:.0%}", justify="right")
    cells = {tuple(row[key] for key in ("contender", "kind", "share", "size")): row for row in rows}
    for contender in BANDIT:
        found = (cells[contender, kind, share, settings.size] for kind, share in columns)
        table.add_row(contender, *(f"{row['end']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in found))
    return table


def shown_cartpole(rows: Sequence[study.Record], part: str) -> Table:
    table = Table(title=f"CartPole, {part}: clean returns, 95% intervals over seeds", title_justify="left")
    for heading in ("trained on", *MEASURED):
        table.add_column(heading, justify="left" if heading == "trained on" else "right")
    for contender in PARTS[part].contenders:
        mine = [row for row in rows if (row["part"], row["trained"]) == (part, contender)]
        table.add_row(contender, *(f"{row['value']:.0f} [{row['low']:.0f}, {row['high']:.0f}]" for row in mine))
    return table


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/robustness")
    only: str = field(default="", metadata={"choices": ("bandit", "cartpole"), "help": "one of the two"})
    contenders: tuple[str, ...] = field(
        default=(), metadata={"help": "train these on CartPole, and add them to the results that are there [all]"}
    )
    quick: bool = field(default=False, metadata={"help": "fewer seeds and steps"})


def main(argv: list[str] | None = None, bandit: Bandit | None = None, cartpole: CartPole | None = None) -> None:
    options = study.parse(Options, "Train on corrupted rewards, measure on clean ones.", argv)
    bandit, cartpole = bandit or Bandit(), cartpole or CartPole()
    if options.quick:
        bandit = replace(bandit, seeds=20, updates=150)
        cartpole = replace(cartpole, seeds=2, steps=16_384, episodes=100)
    with study.Study(__file__, options, argv) as s:
        s.open({"bandit": asdict(bandit), "cartpole": asdict(cartpole)})
        if options.only != "cartpole":
            names = ("kind", "share", "size")
            cases = [dict(zip(names, case, strict=True)) for case in scenarios(bandit)]
            tasks = [{**case, "contender": contender} for case in cases for contender in BANDIT]
            rows = s.computed("bandit.jsonl", tasks, partial(bandit_row, settings=bandit))
            report_bandit(s, rows, bandit)
            s.write_summary(bandit, "bandit.json")
        if options.only != "bandit":
            chosen = {
                name: [c for c in p.contenders if c in (options.contenders or p.contenders)]
                for name, p in PARTS.items()
            }
            for name, contenders in chosen.items():
                if contenders:
                    s.train(
                        partial(run, PARTS[name], cartpole), contenders, cartpole.seeds, cartpole.steps, shown, name
                    )
            new = measured(cartpole, s.out, chosen)
            report_cartpole(s, [*others(s.results / "runs.csv", new), *new])
            s.write_summary(cartpole, "cartpole_added.json" if options.contenders else "cartpole.json")
            if not options.contenders:
                draw_cartpole(cartpole, s.out, s.images / "robustness.png")


def report_bandit(s: study.Study, rows: Sequence[study.Record], settings: Bandit) -> None:
    s.write_table("bandit.csv", rows)
    s.write_table("preferred.csv", preferred(settings))
    draw_bandit(rows, settings, s.images / "robustness_bandit.png")
    s.console.print(bandit_table(rows, settings))


def report_cartpole(s: study.Study, records: Sequence[study.Record]) -> None:
    rows = study.intervals(records, ("part", "trained"), MEASURED)
    s.write_table("runs.csv", records)
    s.write_table("cartpole.csv", rows)
    s.write_table("leads.csv", leads(records))
    for part in PARTS:
        s.console.print(shown_cartpole(rows, part))


if __name__ == "__main__":
    main()
