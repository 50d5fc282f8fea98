"""Risky regions of continuous control: what the mean, its Gini and variance penalties and CVaR make of them.

Two tasks in the style of Luo et al. (2023):

- *pendulum*: balance a pole on a cart (MuJoCo). Right of the middle every step is paid better, and at random, with
  heavy tails: the mean should go there, a measure of risk should not.
- *lander*: land on the moon (Box2D). Coming to rest right of the middle of the pad is paid at random, on average
  nothing: the mean does not care, a measure of risk does.

All contenders begin with the same policy, one that balances or lands (learned without noise, or by imitating the pilot
that comes with Gymnasium), and meet the same PPO and settings; they differ in how returns become advantages:

    mean                 the returns themselves
    mean-c*gini          the mean less c times the mean difference of two episodes
    cvar:0.1             the mean of the worst tenth of the episodes
    cvar:0.1 (at once)   the same from the first step on (cap=None)
    mean-c*variance      Tamar et al. (2012), the peer: the sampled gradient of mean and variance

Everything but the mean and the last is annealed: from the mean to itself over the first fifth of training.

1. *tune*: the weights c of Gini and variance, two each, with a seed apart from those of the study: the one whose
   policy has the larger CVaR of the worst tenth;
2. *study*: every contender and seed, on hundreds or thousands of fresh episodes each;
3. *edge* (pendulum): a bonus that is worth the risk to some and not to others, three seeds.

    python experiments/risky_control.py pendulum --results experiments/results/risky_control --images docs/images
    python experiments/risky_control.py lander --results experiments/results/risky_control --images docs/images

Ctrl-C stops, `--resume` goes on with the runs that are not finished. Needs `pip install ".[rl]"
"gymnasium[mujoco]"`. Results and what they mean: docs/studies/risky_control.md.

References:
    Luo, Liu, Poupart and Pan (2023). An alternative to variance: Gini deviation for risk-averse policy gradient.
        NeurIPS 36, arXiv 2307.08873.
    Tamar, Di Castro and Mannor (2012). Policy gradients with variance related risk criteria. ICML, arXiv 1206.6404.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import study
import torch
from mean_variance import MeanVarianceBuffer, penalty_of
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

import ordergrad as og
import ordergrad.envs
from ordergrad.adapters.sb3 import OrderGradPPO, OrderGradRolloutBuffer
from ordergrad.runs.folder import (
    CHECKPOINT,
    EVALUATION,
    METRICS,
    read_checkpoint,
    read_metrics,
    run_folder,
    write_checkpoint,
    write_csv,
)
from ordergrad.runs.plots import draw_curve, draw_metric, new_figure, save, style
from ordergrad.runs.statistics import metric_columns
from ordergrad.train.rl_model import load_policy, seed_of

TUNING_SEED = 100
TAIL = "cvar:0.1"
AT_ONCE = f"{TAIL} (at once)"
CONTENDERS = ("mean", "gini", TAIL, AT_ONCE, "variance")


@dataclass(frozen=True)
class Settings:
    """One task and how every contender is trained on it."""

    env_id: str
    env_args: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, tuple[float, ...]] = field(default_factory=dict)  # of Gini and variance, to choose from
    edge: tuple[float, ...] = ()  # bonuses
    seeds: int = 5
    edge_seeds: int = 3
    steps: int = 240_000
    calm: int = 0  # steps of training on the mean without noise that lead to the policy all contenders begin with
    imitated: int = 0  # or episodes of Gymnasium's heuristic pilot, which that policy has learned to imitate
    annealed: float = 0.2  # share of the steps over which the mean turns into the objective
    credit: str = "telescoped"
    envs: int = 64
    rollout: int = 100
    min_episodes: int = 48
    learning_rate: float = 3e-3  # falls linearly to 0
    batch_size: int = 640
    epochs: int = 6
    gamma: float = 0.99
    gae_lambda: float = 0.95
    entropy: float = 0.0
    episodes: int = 2000  # fresh ones, for each policy


TASKS = {
    "pendulum": Settings(
        "ordergrad/RiskyPendulum-v0",
        {"max_episode_steps": 50, "bonus": 1.0, "freedom": 3.0},
        weights={"gini": (0.5, 1.0), "variance": (0.01, 0.03)},
        edge=(2.0,),
        calm=100_000,
    ),
    "lander": Settings(
        "ordergrad/RiskyLander-v0",
        {"max_episode_steps": 500},
        weights={"gini": (0.5, 1.0), "variance": (0.003, 0.01)},
        imitated=200,
        steps=300_000,
        rollout=128,
        min_episodes=24,
        learning_rate=7e-4,
        batch_size=512,
        epochs=4,
        gamma=0.999,
        gae_lambda=0.98,
        episodes=500,
    ),
}


# Training -----------------------------------------------------------------------------------------------------------


def build(settings: Settings, contender: str, seed: int) -> OrderGradPPO:
    """Return an untrained model with its environments."""
    env = make_environments(settings, settings.envs)
    model = OrderGradPPO(
        "MlpPolicy",
        env,
        objective=TAIL if contender == AT_ONCE else "mean",
        credit=settings.credit,
        cap=None,
        min_episodes=settings.min_episodes,
        unit_scale=True,
        rollout_buffer_class=OrderGradRolloutBuffer if penalty_of(contender) is None else MeanVarianceBuffer,
        n_steps=settings.rollout,
        batch_size=settings.batch_size,
        n_epochs=settings.epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        ent_coef=settings.entropy,
        learning_rate=lambda remaining: settings.learning_rate * remaining,
        seed=seed,
        device="cpu",
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    env.seed(seed_of(seed, 1))
    return model


def make_environments(settings: Settings, count: int) -> VecNormalize:
    """Return environments with normalised observations; returns stay what they are."""
    env = make_vec_env(
        lambda: gym.make(settings.env_id, disable_env_checker=True, **settings.env_args),
        count,
        monitor_kwargs={"info_keywords": ("risky_share",)},
    )
    return VecNormalize(env, norm_reward=False)


class Recorder(BaseCallback):
    """Turn the mean into the contender, write metrics after every rollout, and stop where asked."""

    def __init__(self, settings: Settings, contender: str, folder: Path, stop: Any, report: Any):
        super().__init__()
        self.settings, self.contender, self.folder, self.stop, self.report = settings, contender, folder, stop, report
        self.stopped = False

    def _on_rollout_start(self) -> None:
        buffer: Any = self.model.rollout_buffer
        annealing = self.settings.annealed * self.settings.steps
        t = min(1.0, self.num_timesteps / annealing) if annealing else 1.0
        penalty = penalty_of(self.contender)
        if penalty is None and self.contender != AT_ONCE:
            buffer.objective = og.anneal("mean", self.contender, t) if t < 1 else og.parse(self.contender)
        elif penalty is not None:
            buffer.ranking.penalty = t * penalty
        self.stopped = self.stop()

    def _on_step(self) -> bool:
        return not self.stopped

    def _on_rollout_end(self) -> None:
        recent = list(self.model.ep_info_buffer)
        if len(recent) < 2:
            return
        returns = np.array([episode["r"] for episode in recent])
        row = {
            "step": self.num_timesteps,
            "mean": float(returns.mean()),
            TAIL: float(og.value(returns, TAIL, small="shrink")),
            "risky": float(np.mean([episode["risky_share"] for episode in recent])),
            "length": float(np.mean([episode["l"] for episode in recent])),
        }
        row = {name: float(f"{x:.5g}") if name != "step" else x for name, x in row.items()}
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.report(row)


def save_start(model: OrderGradPPO, path: Path) -> None:
    """Write what a contender begins with: the policy's weights and how observations are normalised."""
    seen = model.get_vec_normalize_env().obs_rms
    tensors = {f"policy/{name}": x.numpy(force=True) for name, x in model.policy.state_dict().items()}
    write_checkpoint(path, tensors | {"seen/mean": seen.mean, "seen/var": seen.var}, {"count": seen.count})


def load_start(model: OrderGradPPO, path: Path) -> None:
    tensors, state = read_checkpoint(path)
    load_policy(model, tensors)
    seen = model.get_vec_normalize_env().obs_rms
    seen.mean, seen.var, seen.count = tensors["seen/mean"], tensors["seen/var"], state["count"]


def imitate(settings: Settings, path: Path, passes: int = 20, batch: int = 512) -> None:
    """Write a policy that has learned, by maximum likelihood, to do what Gymnasium's heuristic pilot does."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    model = build(settings, "mean", TUNING_SEED)
    env = gym.make(settings.env_id, disable_env_checker=True, **settings.env_args)
    rows: list[tuple[np.ndarray, int]] = []
    for episode in range(settings.imitated):
        observation, _ = env.reset(seed=seed_of(TUNING_SEED, 3, episode))
        ended = False
        while not ended:
            rows.append((observation, heuristic(env.unwrapped, observation)))
            observation, _, terminated, truncated, _ = env.step(rows[-1][1])
            ended = terminated or truncated
    env.close()
    observations, actions = np.array([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
    normalizer = model.get_vec_normalize_env()
    normalizer.obs_rms.update(observations)
    inputs = torch.as_tensor(normalizer.normalize_obs(observations))
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=1e-3)
    for _ in range(passes):
        for index in torch.randperm(len(inputs)).split(batch):
            _, log_probability, _ = model.policy.evaluate_actions(inputs[index], actions[index])
            optimizer.zero_grad()
            (-log_probability.mean()).backward()
            optimizer.step()
    model.get_env().close()
    save_start(model, path)


def run(
    settings: Settings, start: Path | None, contender: str, seed: int, folder: Path, stop: Any, report: Any
) -> bool:
    """Train and test one policy, unless that is done, and return whether it is; a run that was stopped begins anew."""
    if (folder / EVALUATION).exists():
        return True
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).unlink(missing_ok=True)
    model = build(settings, contender, seed)
    if start is not None:
        load_start(model, start)
    recorder = Recorder(settings, contender, folder, stop, report)
    try:
        model.learn(settings.steps, recorder)
    finally:
        model.get_env().close()
    if not recorder.stopped:
        save_start(model, folder / CHECKPOINT)
        write_csv(folder / EVALUATION, ("return", "length", "risky"), fresh_episodes(model, settings, seed))
    return not recorder.stopped


def fresh_episodes(model: OrderGradPPO, settings: Settings, seed: int) -> list[tuple[float, int, float]]:
    """Return return, length and risky share of episodes in which the policy acts at random, as in training."""
    env = make_environments(settings, min(100, settings.episodes))
    env.training, env.obs_rms = False, model.get_vec_normalize_env().obs_rms
    env.seed(seed_of(seed, 2))
    ended: list[tuple[float, int, float]] = []

    def watch(found: dict[str, Any], _: Any) -> None:
        if found["done"]:
            episode = found["info"]["episode"]
            ended.append((episode["r"], episode["l"], episode["risky_share"]))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, 2))
        evaluate_policy(model.policy, env, settings.episodes, deterministic=False, callback=watch)
    env.close()
    return ended


# The parts ----------------------------------------------------------------------------------------------------------


def candidates(settings: Settings, name: str) -> list[str]:
    """Return a contender with each of the weights to choose from."""
    return [f"mean-{c:g}*{name}" for c in settings.weights[name]]


def run_apart(settings: Settings, start: Path | None, contender: str, seed: int, *rest: Any) -> bool:
    return run(settings, start, contender, TUNING_SEED + seed, *rest)


def calm_settings(settings: Settings) -> Settings:
    env_args = settings.env_args | {"bonus": 0.0, "noise": 0.0}
    return replace(settings, env_args=env_args, steps=settings.calm, seeds=1, annealed=0.0)


def parts(settings: Settings) -> dict[str, Settings]:
    """Return the settings of the study and of every bonus of the edge."""
    edges = {
        f"edge/{bonus:g}": replace(settings, env_args=settings.env_args | {"bonus": bonus}, seeds=settings.edge_seeds)
        for bonus in settings.edge
    }
    return {"study": settings} | edges


def run_task(s: study.Study, settings: Settings, taking_part: Sequence[str]) -> list[str]:
    """Train everything that is not there yet; return the contenders with their chosen weights."""
    start: Path | None = None

    def train_part(part: str, its: Settings, contenders: Sequence[str], run_one: Callable[..., bool] = run) -> None:
        s.train(partial(run_one, its, start), contenders, its.seeds, its.steps, shown, part)

    if settings.imitated:
        start = s.out / "start" / CHECKPOINT
        s.console.print(f"[bold]start[/]: a policy that imitates the heuristic pilot in {settings.imitated} episodes")
        if not start.exists():
            imitate(settings, start)
    elif settings.calm:
        train_part("start", calm_settings(settings), ("mean",), run_apart)
        start = run_folder(s.out / "start", "mean", 0) / CHECKPOINT
    weighed = [c for name in settings.weights for c in candidates(settings, name)]
    train_part("tune", replace(settings, seeds=1), weighed, run_apart)
    tails = {c: tuning_row(s.out, c)[TAIL] for c in weighed}
    chosen = {name: max(candidates(settings, name), key=tails.__getitem__) for name in settings.weights}
    contenders = [chosen.get(name, name) for name in CONTENDERS if name in taking_part]
    for part, its in parts(settings).items():
        train_part(part, its, contenders)
    return contenders


def tuning_row(out: Path, contender: str) -> study.Record:
    return {"contender": contender} | measure(read_episodes(run_folder(out / "tune", contender, 0)), ())


def shown(row: Mapping[str, Any], contender: str) -> str:
    return f"mean {row['mean']:7.1f}  {TAIL} {row[TAIL]:7.1f}  risky {row['risky']:4.0%}"


# What came out ------------------------------------------------------------------------------------------------------

Episodes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Returns, lengths and risky shares."""


def read_episodes(folder: Path) -> Episodes:
    returns, lengths, risky = np.loadtxt(folder / EVALUATION, delimiter=",", skiprows=1, ndmin=2).T
    return returns, lengths, risky


def value_of(returns: np.ndarray, contender: str) -> float:
    """Return what a contender maximises, estimated without bias."""
    penalty = penalty_of(contender)
    if penalty is None:
        return float(og.value(returns, TAIL if contender == AT_ONCE else contender))
    return float(returns.mean() - penalty * returns.var(ddof=1))


def measure(episodes: Episodes, contenders: Sequence[str]) -> dict[str, float]:
    """Return every measure of one policy, as the tables have it: the contenders' values and what else to know."""
    returns, lengths, risky = episodes
    found = {name: value_of(returns, name) for name in dict.fromkeys(("mean", TAIL, *contenders))}
    found |= {
        "gini": float(og.value(returns, "gini")),
        "std": float(returns.std(ddof=1)),
        "risky": float(risky.mean()),
        "length": float(lengths.mean()),
    }
    return {name: float(study.short(x)) for name, x in found.items()}


def measured(settings: Settings, names: Sequence[str], out: Path) -> list[study.Record]:
    """Return one record per run of the study and of the edge."""
    return [
        {"part": part, "bonus": its.env_args.get("bonus", 0.0), "contender": c, "seed": seed}
        | measure(read_episodes(run_folder(out / part, c, seed)), names)
        for part, its in parts(settings).items()
        for c in names
        for seed in range(its.seeds)
    ]


def contenders_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(record["contender"] for record in records))


def leads(records: Sequence[Mapping[str, Any]]) -> list[study.Record]:
    """Return, on each contender's own measure, its lead over every other one, seed by seed, with its interval."""
    rows: list[study.Record] = []
    for part in dict.fromkeys(record["part"] for record in records):
        for ours, theirs in permutations(contenders_of(records), 2):
            found = study.lead_of(records, ours, "contender", ours, theirs, part=part)
            rows.append({"part": part, "measure_and_contender": ours, "against": theirs, **found})
    return rows


def two_extremes(settings: Settings, names: Sequence[str], draws: int = 100_000) -> dict[str, dict[str, float]]:
    """Return the measures of two ideal policies of the pendulum, which always or never stand on the risky side."""
    steps, rng = settings.env_args["max_episode_steps"], np.random.default_rng(0)
    pay: Any = gym.make(settings.env_id, **settings.env_args).unwrapped
    freedom, noise, bonus = pay.pay.freedom, pay.pay.noise, pay.pay.bonus
    unit = noise * np.sqrt((freedom - 2) / freedom)
    total = sum(unit * rng.standard_t(freedom, draws) for _ in range(steps)) + steps * (1 + bonus)
    full, none = np.full(draws, float(steps)), np.zeros(draws)
    return {
        "always": measure((np.asarray(total), full, none + 1), names),
        "never": measure((full, full, none), names),
    }


def summaries(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return every measure of every contender in every part, with its interval."""
    return {
        part: {
            c: {k: study.rounded(study.over_seeds(study.column(records, k, part=part, contender=c))) for k in names}
            for c in contenders_of(records)
        }
        for part in dict.fromkeys(record["part"] for record in records)
    }


def measures(chosen: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("mean", *chosen, TAIL, "gini", "std", "risky", "length")))


def report(s: study.Study, settings: Settings, task: str, names: Sequence[str]) -> None:
    """Write and show the tables and pictures of one task."""
    records = measured(settings, names, s.out)
    tuned = [tuning_row(s.out, c) for name in settings.weights for c in candidates(settings, name)]
    s.write_table("runs.csv", records)
    s.write_table("tuning.csv", tuned)
    s.write_table("leads.csv", leads(records))
    folders = {c: [run_folder(s.out / "study", c, seed) for seed in range(settings.seeds)] for c in names}
    pooled = {c: np.concatenate([read_episodes(folder)[0] for folder in folders[c]]) for c in names}
    levels = np.concatenate([[0.001, 0.005], np.arange(1, 100) / 100, [0.995, 0.999]])
    quantiles = [{"level": float(q), **{c: float(np.quantile(pooled[c], q)) for c in names}} for q in levels]
    s.write_table("quantiles.csv", quantiles)
    metrics = {c: [metric_columns(read_metrics(folder / METRICS)) for folder in folders[c]] for c in names}
    s.write_table("curves.csv", curve_rows(metrics))
    extremes = two_extremes(settings, names) if task == "pendulum" else {}
    found = summaries(records, measures(names))
    s.write_summary(
        settings,
        contenders=names,
        columns=["mean", "low", "high"],
        extremes={name: {k: round(x, 3) for k, x in extremes[name].items()} for name in extremes},
        **found,
    )
    draw(task, names, quantiles, metrics, s.images / f"risky_{task}.png")
    if settings.edge:
        draw_edge(names, records, s.images / f"risky_{task}_edge.png")
    shown_parts(s, found)


def curve_rows(metrics: Mapping[str, Sequence[tuple[Any, Mapping[str, Any]]]]) -> list[study.Record]:
    return [
        {"contender": c, "seed": seed, "step": int(step)}
        | {name: float(columns[name][i]) for name in ("mean", TAIL, "risky")}
        for c, runs in metrics.items()
        for seed, (steps, columns) in enumerate(runs)
        for i, step in enumerate(steps)
    ]


def draw(task: str, names: Sequence[str], quantiles: Sequence[study.Record], metrics: Any, path: Path) -> None:
    """Draw the distributions of returns and how they came about."""
    titles = {"pendulum": "Risky pendulum", "lander": "Risky lander"}
    figure, (left, middle, right) = new_figure(3, titles[task])
    for index, name in enumerate(names):
        draw_curve(left, index, name, study.column(quantiles, "level"), study.column(quantiles, name))
    draw_metric(middle, metrics, "risky")
    draw_metric(right, metrics, TAIL)
    share = {"pendulum": "steps on the risky side", "lander": "landings on the risky side"}[task]
    left.set(xlim=(0, 1), xlabel="quantile level (0: worst episode)", title="Returns of fresh episodes")
    middle.set(ylim=(0, 1), xlabel="environment steps", title=f"Share of {share}")
    right.set(xlabel="environment steps", title=f"{TAIL} of the last 100 episodes")
    left.legend(title="trained on", frameon=False, fontsize=8, alignment="left")
    save(figure, path)


def draw_edge(names: Sequence[str], records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw what every policy does where the risky side is paid more, beside the study."""
    figure, panels = new_figure(2, "What a bonus on the risky side does")
    bonuses = sorted({record["bonus"] for record in records})
    for panel, name in zip(panels, ("risky", "mean"), strict=True):
        for place, contender in enumerate(names):
            for shift, (bonus, marker) in enumerate(zip(bonuses, "o^sD", strict=False)):
                found = [r[name] for r in records if r["bonus"] == bonus and r["contender"] == contender]
                x = np.full(len(found), place + 0.3 * (shift - (len(bonuses) - 1) / 2))
                label = f"bonus {bonus:g}" if place == 0 else None
                panel.scatter(x, found, color=style(place)[0], marker=marker, s=36, alpha=0.75, label=label)
        panel.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=7)
    panels[0].set(title="Share of steps on the risky side, each seed", ylim=(0, 1))
    panels[1].set(title="Mean return, each seed")
    panels[1].legend(frameon=False, fontsize=9)
    save(figure, path)


def shown_parts(s: study.Study, found: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> None:
    names = [k for k in next(iter(found["study"].values())) if k != "gini"]
    lines = [
        [part, contender, *("{:.4g} [{:.4g}, {:.4g}]".format(*cells[k]) for k in names)]
        for part, contenders in found.items()
        for contender, cells in contenders.items()
    ]
    s.show("Fresh episodes; 95% intervals over seeds", ("part", "trained on", *names), lines, left=2)


@dataclass(frozen=True)
class Options(study.Options):
    task: str = field(default="", metadata={"positional": True, "choices": TASKS})
    out: Path | None = field(default=None, metadata={"help": "folder of the runs [runs/risky_control/TASK]"})
    results: Path | None = field(default=None, metadata={"help": "tables go to RESULTS/TASK [the folder of the runs]"})
    seeds: int = field(default=5, metadata={"help": "seeds of the study"})
    contenders: tuple[str, ...] = field(
        default=CONTENDERS, metadata={"choices": CONTENDERS, "help": "train only these"}
    )


def main(argv: list[str] | None = None) -> None:
    options = study.parse(Options, "Train risk-averse and mean-seeking policies in continuous control.", argv)
    settings = replace(TASKS[options.task], seeds=options.seeds)
    out = options.out or Path("runs/risky_control") / options.task
    options = replace(options, out=out, results=options.results and options.results / options.task)
    with study.Study(__file__, options, argv) as s:
        s.open(settings, may_change=("edge", "edge_seeds", "seeds"))
        contenders = run_task(s, settings, options.contenders)
    report(s, settings, options.task, contenders)


if __name__ == "__main__":
    main()
