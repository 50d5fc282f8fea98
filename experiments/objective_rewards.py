"""Rewards of a running f against the exact ranking: how near does the wrapper for any algorithm come to the adapter?

The betting game of `ordergrad.envs`, CVaR of the worst fifth, whose optimum of 23.9 is known. Contenders:

    adapter      OrderGradPPO: f from the last 200 returns, a rollout at a time (telescoped)
    wrapper      PPO on VecObjectiveReward: f from the last 1,000 returns, a step at a time
    mean         PPO on the rewards as they are
    dqn wrapper  DQN on VecObjectiveReward, whose replay buffer keeps rewards of older f
    dqn          DQN on the rewards as they are

All of PPO have the same settings, as do both of DQN; rewards are divided by 16, the wealth at the beginning. Measure:
CVaR of the worst fifth of 4,096 fresh episodes of the greedy policy.

    python experiments/objective_rewards.py --results experiments/results/objective_rewards

Ctrl-C stops after the current run, `--resume` goes on. Needs `pip install ".[rl]"`. What the results mean:
docs/adapters/wrappers.md.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import study
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv

import ordergrad as og
from ordergrad.adapters.sb3 import OrderGradPPO
from ordergrad.envs import BettingGame, BettingGameVector
from ordergrad.wrappers.sb3 import VecObjectiveReward

OBJECTIVE = "cvar:0.2"
CONTENDERS = ("adapter", "wrapper", "mean", "dqn wrapper", "dqn")
WEALTH = 16.0
FRESH = 4096


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/objective_rewards")
    steps: int = field(default=20_000, metadata={"help": "steps of training"})
    seeds: int = field(default=3, metadata={"help": "seeds of each contender"})


class Scaled(gymnasium.RewardWrapper[Any, Any]):
    """The betting game in units of the wealth at the beginning."""

    def reward(self, reward: Any) -> float:
        return float(reward) / WEALTH


def train(contender: str, seed: int, steps: int) -> Any:
    """Return a trained model."""
    env: Any = DummyVecEnv([lambda: Scaled(BettingGame())] * 8)
    env.seed(seed)
    if "wrapper" in contender:
        env = VecObjectiveReward(env, OBJECTIVE)
    shared: dict[str, Any] = {"seed": seed, "device": "cpu", "gamma": 1.0, "policy_kwargs": {"net_arch": [64, 64]}}
    if "dqn" in contender:
        shared |= {"learning_rate": 5e-4, "buffer_size": 50_000, "learning_starts": 2000, "train_freq": 4}
        return DQN("MlpPolicy", env, target_update_interval=1000, exploration_fraction=0.5, **shared).learn(steps)
    shared |= {"learning_rate": 5e-4, "n_steps": 512, "batch_size": 512}
    if contender == "adapter":
        ranked: dict[str, Any] = {"credit": "telescoped", "cap": None}
        return OrderGradPPO("MlpPolicy", env, objective=OBJECTIVE, **ranked, **shared).learn(steps)
    return PPO("MlpPolicy", env, **shared).learn(steps)


def play(contender: str, seed: int, steps: int) -> study.Record:
    """Train, and return what the greedy policy achieves in fresh episodes."""
    torch.set_num_threads(1)
    model = train(contender, seed, steps)
    env = BettingGameVector(FRESH)
    observation, _ = env.reset(seed=10_000 + seed)
    returns, alive = np.zeros(FRESH), np.ones(FRESH, bool)
    while alive.any():
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        returns += alive * reward
        alive &= ~(terminated | truncated)
    return {"cvar": float(og.value(returns, OBJECTIVE)), "mean": float(returns.mean())}


def main(argv: list[str] | None = None) -> None:
    options = study.parse(Options, "Compare rewards of a running f with the exact ranking.", argv)
    settings = {"objective": OBJECTIVE, "steps": options.steps, "fresh": FRESH}
    with study.Study(__file__, options, argv) as s:
        s.open(settings)
        tasks = [{"contender": c, "seed": n, "steps": options.steps} for n in range(options.seeds) for c in CONTENDERS]
        records = s.computed("runs.jsonl", tasks, play)
        s.write_table("runs.csv", records)
        s.write_table("contenders.csv", study.intervals(records, ("contender",), ("cvar", "mean")))
        lead = study.paired(*(study.column(records, "cvar", contender=c) for c in ("wrapper", "adapter")))
        s.write_summary(settings, seeds=options.seeds, wrapper_less_adapter=study.rounded(lead))


if __name__ == "__main__":
    main()
