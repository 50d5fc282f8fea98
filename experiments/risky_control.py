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
    cvar:0.1 (default)   the same as OrderGradPPO trains on it by default: the mean first, then by a falling cap
    mean-c*variance      Tamar et al. (2012), the peer: the sampled gradient of mean and variance

Everything but the mean and the default is annealed: from the mean to itself over the first fifth of training.

1. *tune*: the weights c of Gini and variance, each from a small set and with a seed apart from those of the study: the
   one whose policy has the largest CVaR of the worst tenth;
2. *study*: every contender, five seeds, on hundreds or thousands of fresh episodes each;
3. *edge* (pendulum): a bonus that is worth the risk to some and not to others, three seeds;
4. *long* (lander): everything once more, twice as long, three seeds.

    python experiments/risky_control.py pendulum --results experiments/results/risky_control --images docs/images
    python experiments/risky_control.py lander --results experiments/results/risky_control --images docs/images

Ctrl-C stops, `--resume` goes on with the runs that are not finished. Needs `pip install "ordergrad[rl]"
"gymnasium[mujoco]"`. Results and what they mean: docs/studies/risky_control.md.

References:
    Luo, Liu, Poupart and Pan (2023). An alternative to variance: Gini deviation for risk-averse policy gradient.
        NeurIPS 36, arXiv 2307.08873.
    Tamar, Di Castro and Mannor (2012). Policy gradients with variance related risk criteria. ICML, arXiv 1206.6404.
"""

from __future__ import annotations

import json
import re
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
from rich.table import Table
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

import ordergrad as og
import ordergrad.envs
from ordergrad.adapters.episodes import EpisodeRanking
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
DEFAULT = f"{TAIL} (default)"
Start = Path | None
"""A checkpoint to begin with."""
VARIANCE = re.compile(r"mean-([\d.]+)\*variance")


@dataclass(frozen=True)
class Settings:
    """One task and how every contender is trained on it."""

    env_id: str
    env_args: dict[str, Any] = field(default_factory=dict)
    contenders: tuple[str, ...] = (
        "mean",
        "gini",
        TAIL,
        DEFAULT,
        "variance",
    )  # the weights are tuned
    weights: dict[str, tuple[float, ...]] = field(default_factory=dict)  # to choose from
    edge: tuple[float, ...] = ()  # bonuses
    longer: tuple[str, ...] = ()  # contenders that are trained twice as long, too
    seeds: int = 5
    edge_seeds: int = 3  # of the last two parts
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
        contenders=("mean", "gini", TAIL),
        weights={"gini": (1.0,)},
        longer=("mean", "gini", TAIL),
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


class MeanVarianceRanking(EpisodeRanking):
    """The peer: advantages of the mean less c times the variance of returns, from the same episodes.

    Tamar et al. (2012): the gradient of the variance is E[(R^2 - 2 E[R] R) grad log p]. Here E[R] is the average of the
    batch, and the baseline makes the advantages average to 0, so that an episode gets R - m - c ((R - m)^2 - s^2).
    """

    penalty = 0.0

    def _ranked(self, returns: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        n, apart = len(returns), returns - returns.mean()
        return (apart - self.penalty * (apart**2 - np.mean(apart**2))) * n / (n - 1)

    def _slopes(self, returns: np.ndarray) -> np.ndarray:
        n, apart = len(returns), np.sort(returns) - returns.mean()
        return (1 - self.penalty * (apart[:-1] + apart[1:])) * n / (n - 1)


class MeanVarianceBuffer(OrderGradRolloutBuffer):
    """The buffer of the peer."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        r = self.ranking
        self.ranking = MeanVarianceRanking("mean", r.credit, r.discount, r.min_episodes, r.unit_scale, r.patience)
        self.stats = self.ranking.stats


def penalty_of(contender: str) -> float | None:
    """Return the c of mean-c*variance; None for an objective of ranks."""
    match = VARIANCE.fullmatch(contender)
    return float(match[1]) if match else None


def objective_of(contender: str) -> str:
    """Return the objective of ranks that a contender is trained on."""
    return contender.removesuffix(" (default)")


def build(settings: Settings, contender: str, seed: int) -> OrderGradPPO:
    """Return an untrained model with its environments."""
    env = make_environments(settings, settings.envs)
    model = OrderGradPPO(
        "MlpPolicy",
        env,
        objective=TAIL if contender == DEFAULT else "mean",
        credit=settings.credit,
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
        if penalty is None and self.contender != DEFAULT:
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


def candidates(settings: Settings, name: str) -> tuple[str, ...]:
    """Return a contender with each of the weights to choose from."""
    return tuple(f"mean-{c:g}*{name}" for c in settings.weights.get(name, ())) or (name,)


def tuning_contenders(settings: Settings) -> tuple[str, ...]:
    """Return every candidate of the contenders that have several."""
    found = (candidates(settings, name) for name in settings.contenders)
    return tuple(c for several in found if len(several) > 1 for c in several)


def run_apart(settings: Settings, start: Start, contender: str, seed: int, *rest: Any) -> bool:
    return run(settings, start, contender, TUNING_SEED + seed, *rest)


def edge_settings(settings: Settings, bonus: float) -> Settings:
    return replace(settings, env_args=settings.env_args | {"bonus": bonus}, seeds=settings.edge_seeds)


def long_settings(settings: Settings) -> Settings:
    return replace(settings, steps=2 * settings.steps, seeds=settings.edge_seeds)


def calm_settings(settings: Settings) -> Settings:
    env_args = settings.env_args | {"bonus": 0.0, "noise": 0.0}
    return replace(settings, env_args=env_args, steps=settings.calm, seeds=1, annealed=0.0)


def run_task(s: study.Study, settings: Settings) -> dict[str, str]:
    """Train everything that is not there yet; return the contenders with their chosen weights by short name."""
    start: Start = None

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
    if several := tuning_contenders(settings):
        train_part("tune", replace(settings, seeds=1), several, run_apart)
    chosen = choose(settings, s.out)
    names = tuple(chosen.values())
    train_part("study", settings, names)
    for bonus in settings.edge:
        train_part(f"edge/{bonus:g}", edge_settings(settings, bonus), names)
    if settings.longer:
        train_part("long", long_settings(settings), [chosen[name] for name in settings.longer])
    return chosen


def shown(row: Mapping[str, Any], contender: str) -> str:
    return f"mean {row['mean']:7.1f}  {TAIL} {row[TAIL]:7.1f}  risky {row['risky']:4.0%}"


def tuning(settings: Settings, out: Path) -> list[dict[str, Any]]:
    """Return what came of every weight, with the seed of the tuning."""
    return [
        {"contender": c} | measure(read_episodes(run_folder(out / "tune", c, 0)), (c,))
        for c in tuning_contenders(settings)
    ]


def choose(settings: Settings, out: Path) -> dict[str, str]:
    """Return the string of each contender: its weight is the one with the largest CVaR in tuning."""
    tails = {row["contender"]: row[TAIL] for row in tuning(settings, out)}
    return {n: max(candidates(settings, n), key=lambda c: tails.get(c, 0.0)) for n in settings.contenders}


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
        return float(og.value(returns, objective_of(contender)))
    return float(returns.mean() - penalty * returns.var(ddof=1))


def measure(episodes: Episodes, contenders: Sequence[str]) -> dict[str, float]:
    """Return every measure of one policy: the contenders' values and what else there is to know."""
    returns, lengths, risky = episodes
    values = {name: value_of(returns, name) for name in dict.fromkeys(("mean", TAIL, *contenders))}
    return values | {
        "gini": float(og.value(returns, "gini")),
        "std": float(returns.std(ddof=1)),
        "risky": float(risky.mean()),
        "length": float(lengths.mean()),
    }


def measured(settings: Settings, chosen: Mapping[str, str], out: Path) -> list[dict[str, Any]]:
    """Return one record per run of the study, of the edge and of the longer training."""
    names = tuple(chosen.values())
    parts = {"study": (settings, names)}
    parts |= {f"edge/{bonus:g}": (edge_settings(settings, bonus), names) for bonus in settings.edge}
    if settings.longer:
        parts["long"] = long_settings(settings), tuple(chosen[name] for name in settings.longer)
    return [
        {"part": part, "bonus": its.env_args.get("bonus", 0.0), "contender": c, "seed": seed}
        | measure(read_episodes(run_folder(out / part, c, seed)), names)
        for part, (its, trained) in parts.items()
        for c in trained
        for seed in range(its.seeds)
    ]


def trained_in(records: Sequence[Mapping[str, Any]], part: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(record["contender"] for record in records if record["part"] == part))


def leads(records: Sequence[Mapping[str, Any]]) -> list[study.Record]:
    """Return, on each contender's own measure, its lead over every other one, seed by seed, with its interval."""
    rows: list[study.Record] = []
    for part in dict.fromkeys(record["part"] for record in records):
        for ours, theirs in permutations(trained_in(records, part), 2):
            found = study.paired(*(study.column(records, ours, part=part, contender=c) for c in (ours, theirs)))
            row = {"part": part, "measure_and_contender": ours, "against": theirs, "lead": found.value}
            rows.append(row | {"low": found.low, "high": found.high, "p": found.p})
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


def signals(settings: Settings, names: Sequence[str], out: Path) -> dict[str, float]:
    """Return how an episode's advantage is correlated with its risky share, under policies trained on the mean.

    It says how much an update of an objective of ranks can learn about the risky side; averaged over seeds.
    """
    found: dict[str, float] = {}
    for name in names:
        if penalty_of(name) is None:
            episodes = [read_episodes(folder) for folder in seeds_of(settings, out, "mean")]
            found[name] = float(
                np.mean([correlation(og.advantages(r, objective_of(name)), risky) for r, _, risky in episodes])
            )
    return found


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two samples, 0 if one of them is constant."""
    return 0.0 if a.std() == 0 or b.std() == 0 else float(np.corrcoef(a, b)[0, 1])


def summaries(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return every measure of every contender in every part, with its interval."""
    return {
        part: {
            c: {k: study.rounded(study.over_seeds(study.column(records, k, part=part, contender=c))) for k in names}
            for c in trained_in(records, part)
        }
        for part in dict.fromkeys(record["part"] for record in records)
    }


def measures(chosen: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("mean", *chosen, TAIL, "gini", "std", "risky", "length")))


def report(s: study.Study, settings: Settings, task: str, chosen: Mapping[str, str]) -> None:
    """Write and show the tables and pictures of one task."""
    out, names = s.out, tuple(chosen.values())
    records = measured(settings, chosen, out)
    s.write_table("runs.csv", records)
    if tuned := tuning(settings, out):
        s.write_table("tuning.csv", tuned, ("contender", "mean", TAIL, "gini", "std", "risky", "length"))
    s.write_table("leads.csv", leads(records))
    pooled = {c: np.concatenate([read_episodes(folder)[0] for folder in seeds_of(settings, out, c)]) for c in names}
    levels = np.concatenate([[0.001, 0.005], np.arange(1, 100) / 100, [0.995, 0.999]])
    quantiles = [{"level": float(q), **{c: float(np.quantile(pooled[c], q)) for c in names}} for q in levels]
    s.write_table("quantiles.csv", quantiles)
    metrics = {c: [metric_columns(read_metrics(f / METRICS)) for f in seeds_of(settings, out, c)] for c in names}
    s.write_table("curves.csv", curve_rows(metrics))
    extremes = {}
    if task == "pendulum":
        found = two_extremes(settings, names)
        extremes = {"extremes": {name: {k: round(found[name][k], 3) for k in measures(names)} for name in found}}
    parts = summaries(records, measures(names))
    s.write_summary(
        settings,
        chosen=dict(chosen),
        columns=["mean", "low", "high"],
        signals={name: round(x, 4) for name, x in signals(settings, names, out).items()},
        **extremes,
        **parts,
    )
    draw(task, names, quantiles, metrics, s.images / f"risky_{task}.png")
    if settings.edge:
        draw_edge(names, records, s.images / f"risky_{task}_edge.png")
    s.console.print(shown_parts(parts))


def seeds_of(settings: Settings, out: Path, contender: str) -> list[Path]:
    return [run_folder(out / "study", contender, seed) for seed in range(settings.seeds)]


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


def shown_parts(parts: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Table:
    table = Table(title="Fresh episodes; 95% intervals over seeds", title_justify="left")
    names = [k for k in next(iter(parts["study"].values())) if k != "gini"]
    for heading in ("part", "trained on", *names):
        table.add_column(heading, justify="left" if heading in ("part", "trained on") else "right")
    for part, contenders in parts.items():
        for c, found in contenders.items():
            table.add_row(part, c, *("{:.4g} [{:.4g}, {:.4g}]".format(*found[k]) for k in names))
    return table


@dataclass(frozen=True)
class Options(study.Options):
    task: str = field(default="", metadata={"positional": True, "choices": TASKS})
    out: Path | None = field(default=None, metadata={"help": "folder of the runs [runs/risky_control/TASK]"})
    results: Path | None = field(default=None, metadata={"help": "tables go to RESULTS/TASK [the folder of the runs]"})


def main(argv: list[str] | None = None) -> None:
    options = study.parse(Options, "Train risk-averse and mean-seeking policies in continuous control.", argv)
    settings = TASKS[options.task]
    out = options.out or Path("runs/risky_control") / options.task
    options = replace(options, out=out, results=options.results and options.results / options.task)
    with study.Study(__file__, options, argv) as s:
        s.open(settings, may_change=("edge", "edge_seeds", "longer"))
        chosen = run_task(s, settings)
    report(s, settings, options.task, chosen)


if __name__ == "__main__":
    main()
