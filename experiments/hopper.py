"""A hopper whose mass and grip differ from episode to episode and are not shown: who hops well under the bad ones?

    python experiments/hopper.py --out runs/hopper --results experiments/results/hopper --images docs/images

MuJoCo's `Hopper-v5`. Every episode multiplies all masses by exp(0.3 z), z standard normal, and the friction of foot and
floor by a factor uniform between 0.4 and 1. All contenders are one PPO, the Stable-Baselines3 adapter with telescoped
credit, with the same network, batches and learning rate; what differs is what they make of the returns:

    mean                  plain PPO on the mean
    cvar:0.1              OrderGradPPO on the objective, cap=None
    cvar:0.1 falling      the same with cap="falling", the default: the mean first, then a cap that falls by itself
    mean-c*gini           the mean less c times the mean difference of two episodes
    mean-c*variance       Tamar et al. (2012), the peer, in the same code

c is chosen by the CVaR of the worst tenth, of two values each, with a seed that is not among those of the study.
`--contenders` and `--seeds` choose runs; with `--resume` the same folder takes more of them.
Needs `pip install ".[rl]" "gymnasium[mujoco]"`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import study
import torch
from mean_variance import MeanVarianceBuffer, penalty_of
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import ordergrad as og
from ordergrad.adapters.sb3 import OrderGradPPO, OrderGradRolloutBuffer

TAIL = "cvar:0.1"
FALLING = f"{TAIL} falling"
FIXED = ("mean", TAIL, FALLING)
CONTENDERS = (*FIXED, "gini", "variance")
WEIGHTS = {"gini": (0.5, 1.0), "variance": (0.0003, 0.001)}
TUNING_SEED = 100
MEASURES = ("mean", TAIL, "cvar:0.05", "length", "heavy", "slippery")
QUANTILES = np.linspace(0.005, 0.995, 100)
SETTINGS = {"steps": 150_000, "envs": 8, "rollout": 512, "batch_size": 128, "epochs": 8, "learning_rate": 5e-4}
SETTINGS |= {"episodes": 300, "weights": WEIGHTS}


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/hopper")
    contenders: tuple[str, ...] = field(
        default=CONTENDERS, metadata={"choices": CONTENDERS, "help": "train only these"}
    )
    seeds: int = field(default=3, metadata={"help": "train the first so many seeds"})
    steps: int = field(default=SETTINGS["steps"], metadata={"help": "environment steps of a training"})
    episodes: int = field(default=SETTINGS["episodes"], metadata={"help": "fresh episodes of each policy"})


# Environment --------------------------------------------------------------------------------------------------------


def make_envs(count: int, seed: int) -> DummyVecEnv:
    env = DummyVecEnv([lambda: UnknownBody(gym.make("Hopper-v5"))] * count)
    env.seed(seed)
    return env


class UnknownBody(gym.Wrapper):
    """Begin every episode with another mass and grip of the hopper, ``info["load"]`` and ``info["grip"]``."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        model = self.unwrapped.model
        self.own = model.body_mass.copy(), model.body_inertia.copy(), model.geom_friction[:, 0].copy()
        self.condition: dict[str, float] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.np_random = np.random.default_rng(seed)
        load, grip = float(np.exp(0.3 * self.np_random.normal())), float(self.np_random.uniform(0.4, 1.0))
        model, (mass, inertia, friction) = self.unwrapped.model, self.own
        model.body_mass[:], model.body_inertia[:] = mass * load, inertia * load
        model.geom_friction[:, 0] = friction * grip
        self.condition = {"load": load, "grip": grip}
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, info | self.condition

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, info | self.condition


# Runs ---------------------------------------------------------------------------------------------------------------


def build(contender: str, env: VecNormalize, seed: int) -> OrderGradPPO:
    penalty = penalty_of(contender)
    model = OrderGradPPO(
        "MlpPolicy",
        env,
        objective="mean" if penalty is not None else contender.removesuffix(" falling"),
        credit="telescoped",
        min_episodes=24,
        n_steps=SETTINGS["rollout"],
        batch_size=SETTINGS["batch_size"],
        n_epochs=SETTINGS["epochs"],
        learning_rate=lambda left: SETTINGS["learning_rate"] * left,
        cap="falling" if contender == FALLING else None,
        rollout_buffer_class=OrderGradRolloutBuffer if penalty is None else MeanVarianceBuffer,
        seed=seed,
        device="cpu",
    )
    if penalty is not None:
        model.rollout_buffer.ranking.penalty = penalty  # type: ignore[attr-defined]
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def play(contender: str, seed: int, steps: int, episodes: int) -> study.Record:
    """Train one policy and return its learning curve and what fresh episodes of it return."""
    torch.set_num_threads(1)
    env = VecNormalize(make_envs(SETTINGS["envs"], seed), norm_reward=False)
    model = build(contender, env, seed)
    recent: list[float] = []
    curve: list[tuple[int, float, float]] = []

    def watch(see: dict[str, Any], _: Any) -> bool:
        if see["n_steps"] == 0:  # the last rollout has been ranked
            recent.extend(model.rollout_buffer.ended.tolist())  # type: ignore[attr-defined]
            del recent[:-200]
            if len(recent) > 20 and model.num_timesteps >= (len(curve) + 1) * steps / 40:
                curve.append((model.num_timesteps, float(np.mean(recent)), float(og.value(recent, TAIL))))
        return True

    model.learn(steps, watch)
    returns, lengths, conditions = fresh(model, env, episodes, 10_000 + seed)
    heavy, slippery = conditions[:, 0] > 1.3, conditions[:, 1] < 0.5
    return {
        **{name: float(og.value(returns, name)) for name in ("mean", TAIL, "cvar:0.05", "gini")},
        "std": float(returns.std(ddof=1)),
        "length": float(lengths.mean()),
        "heavy": float(returns[heavy].mean()) if heavy.any() else float("nan"),
        "slippery": float(returns[slippery].mean()) if slippery.any() else float("nan"),
        "curve": [[step, round(m, 1), round(tail, 1)] for step, m, tail in curve],
        "quantiles": [round(float(q), 1) for q in np.quantile(returns, QUANTILES)],
    }


def fresh(model: OrderGradPPO, seen: VecNormalize, episodes: int, seed: int) -> tuple[np.ndarray, ...]:
    """Return returns, lengths and (load, grip) of episodes, equally many of each environment."""
    count = min(30, episodes)
    each = -(-episodes // count)
    envs = make_envs(count, seed)
    found: list[list[tuple[float, float, float, float]]] = [[] for _ in range(count)]
    total, length, obs = np.zeros(count), np.zeros(count), envs.reset()
    while min(map(len, found)) < each:
        actions, _ = model.predict(seen.normalize_obs(obs), deterministic=False)
        obs, rewards, over, infos = envs.step(actions)
        total, length = total + rewards, length + 1
        for i in np.flatnonzero(over):
            if len(found[i]) < each:
                found[i].append((float(total[i]), float(length[i]), infos[i]["load"], infos[i]["grip"]))
            total[i] = length[i] = 0.0
    envs.close()
    rows = np.concatenate(found)
    return rows[:, 0], rows[:, 1], rows[:, 2:]


# Results ------------------------------------------------------------------------------------------------------------


def candidates(name: str) -> list[str]:
    return [f"mean-{c:g}*{name}" for c in WEIGHTS[name]]


def leads(records: Sequence[study.Record]) -> list[study.Record]:
    """Return how far each contender is ahead of the mean, over the seeds that both have."""
    rows: list[study.Record] = []
    for contender in dict.fromkeys(r["contender"] for r in records):
        if contender != "mean":
            for name in ("mean", TAIL):
                theirs = study.column(records, name, contender="mean")
                lead = study.paired(study.column(records, name, contender=contender), theirs)
                rows.append({"contender": contender, "against": "mean", "measure": name, **lead._asdict()})
    return rows


def draw(records: Sequence[study.Record], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for contender in dict.fromkeys(r["contender"] for r in records):
        mine = [r for r in records if r["contender"] == contender]
        length = min(len(r["curve"]) for r in mine)
        curves = np.array([r["curve"][:length] for r in mine])
        bands = [study.over_seeds(curves[:, i, 2]) for i in range(length)]
        (line,) = left.plot(curves[0, :, 0], [b.value for b in bands], label=contender)
        left.fill_between(curves[0, :, 0], [b.low for b in bands], [b.high for b in bands], alpha=0.12, lw=0)
        right.plot(QUANTILES, np.mean([r["quantiles"] for r in mine], axis=0), color=line.get_color())
    left.set(xlabel="environment steps", ylabel=f"{TAIL} of the last 200 training episodes")
    left.legend(fontsize=8, title="trained on", frameon=False)
    right.set(xlabel="quantile level (0: worst episode)", ylabel="return of the final policies", xlim=(0, 1))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None, make: Callable[..., study.Record] = play) -> None:
    options = study.parse(Options, "A hopper of unknown mass and grip.", argv)
    settings = SETTINGS | {"steps": options.steps, "episodes": options.episodes}
    length = {"steps": options.steps, "episodes": options.episodes}
    with study.Study(__file__, options, argv) as s:
        s.open(settings)
        weighed = [name for name in WEIGHTS if name in options.contenders]
        trials = [{"contender": c, "seed": TUNING_SEED, **length} for name in weighed for c in candidates(name)]
        tuned = s.computed("tuning.jsonl", trials, make) if trials else []
        best = [max((r for r in tuned if r["contender"] in candidates(n)), key=lambda r: r[TAIL]) for n in weighed]
        contenders = [*(c for c in FIXED if c in options.contenders), *(r["contender"] for r in best)]
        runs = [{"contender": c, "seed": seed, **length} for seed in range(options.seeds) for c in contenders]
        records = s.computed("runs.jsonl", runs, make)
    columns = ("contender", "seed", *MEASURES, "gini", "std")
    if tuned:
        s.write_table("tuning.csv", tuned, columns)
    s.write_table("runs.csv", records, columns)
    s.write_table("contenders.csv", study.intervals(records, ("contender",), MEASURES))
    s.write_table("leads.csv", leads(records))
    draw(records, s.images / "hopper.png")
    s.write_summary(settings, contenders=list(contenders))


if __name__ == "__main__":
    main()
