"""Environment steps per second of OrderGradPPO in every credit mode against plain PPO, taking turns in one run.

The learning rate is 0, so that all contenders play the same policy and their episodes cost the same; everything else
is that of `ordergrad train rl`. Each round lets every contender collect and train on one rollout, in changing order.
The time is that of the processor for this process and its one thread, which other work does not move.
"""

import time
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from ordergrad.adapters.sb3 import OrderGradPPO

ENVS, ROLLOUT = 16, 256
ROUNDS = 25  # rollouts of 256 steps hold 1 or 2 ends of Pendulum's episodes of 200: 32 in 25 rollouts
CONTENDERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "PPO": (PPO, {}),
    **{
        f"OrderGradPPO, {credit}": (OrderGradPPO, {"objective": "cvar:0.1", "credit": credit})
        for credit in ("episode", "terminal", "telescoped")
    },
}


def make(name: str, env_id: str) -> Any:
    cls, options = CONTENDERS[name]
    env = make_vec_env(env_id, ENVS, seed=0)
    model = cls(
        "MlpPolicy",
        env,
        n_steps=ROLLOUT,
        batch_size=256,
        n_epochs=6,
        learning_rate=0.0,
        seed=0,
        device="cpu",
        **options,
    )
    model.learn(2 * ENVS * ROLLOUT)
    return model


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_throughput(benchmark: Any, env_id: str) -> None:
    torch.set_num_threads(1)
    models = {name: make(name, env_id) for name in CONTENDERS}
    steps = ENVS * ROLLOUT
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}

    def round_of_all() -> None:
        names = list(models)
        first = len(seconds["PPO"]) % len(names)
        for name in names[first:] + names[:first]:
            start = time.process_time()
            models[name].learn(steps, reset_num_timesteps=False)
            seconds[name].append(time.process_time() - start)

    benchmark.group, benchmark.name = "SB3 throughput", env_id
    benchmark.pedantic(round_of_all, rounds=ROUNDS, warmup_rounds=0)
    times = {name: np.array(column) for name, column in seconds.items()}
    for name, column in times.items():
        shares = times["PPO"] / column
        benchmark.extra_info[name] = {
            "steps per second": float(steps / column.mean()),
            "share": float(times["PPO"].mean() / column.mean()),
            "quartiles": np.quantile(shares, [0.25, 0.75]).tolist(),
        }
