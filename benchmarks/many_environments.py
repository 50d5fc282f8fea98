"""Throughput of the PPO of rsl_rl and of skrl with and without the ranking, in 4,096 environments.

    python benchmarks/many_environments.py > benchmarks/many_environments.md

Copies of a small environment, stepped as tensors: next to a simulator the ranking's share is smaller still. Plain PPO
and OrderGradPPO take turns, an update at a time, on one thread. What counts is its processor time, which other work on
the machine changes less; the medians of the steps per second and of the ratios are shown, and the quartiles of these.
"""

import contextlib
import datetime
import io
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests/support"))
from copies import Copies, VectorCopies
from rsl_rl.runners import OnPolicyRunner
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from skrl.trainers.torch import SequentialTrainer
from torch import nn

from ordergrad.adapters.skrl import OrderGradPPO

ENVS, STEPS, LENGTH, ROUNDS = 4096, 24, 200, 15
OBJECTIVE, WIDTHS, EPOCHS, MINIBATCHES = "cvar:0.1", [128, 128], 5, 4
NETWORK = {"class_name": "rsl_rl.models.MLPModel", "hidden_dims": WIDTHS, "activation": "elu"}
Update = Callable[[], Any]


def of_rsl_rl(ranked: bool) -> Update:
    algorithm: dict[str, Any] = {"num_learning_epochs": EPOCHS, "num_mini_batches": MINIBATCHES}
    algorithm |= {"class_name": "rsl_rl.algorithms:PPO"}
    if ranked:
        algorithm |= {"class_name": "ordergrad.adapters.rsl_rl:OrderGradPPO", "objective": OBJECTIVE}
    config = {
        "num_steps_per_env": STEPS,
        "save_interval": 10**9,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": NETWORK | {"distribution_cfg": {"class_name": "rsl_rl.modules.GaussianDistribution"}},
        "critic": dict(NETWORK),
        "algorithm": algorithm,
    }
    runner = OnPolicyRunner(_spread(Copies(ENVS, LENGTH)), config, device="cpu")
    return lambda: runner.learn(1)


class Policy(GaussianMixin, Model):
    def __init__(self, observations: Any, actions: Any):
        Model.__init__(self, observation_space=observations, action_space=actions, device="cpu")
        GaussianMixin.__init__(self)
        self.net, self.log_std = _network(), nn.Parameter(torch.zeros(1))

    def compute(self, inputs: Any, role: str) -> Any:
        return self.net(inputs["observations"]), {"log_std": self.log_std}


class Value(DeterministicMixin, Model):
    def __init__(self, observations: Any, actions: Any):
        Model.__init__(self, observation_space=observations, action_space=actions, device="cpu")
        DeterministicMixin.__init__(self)
        self.net = _network()

    def compute(self, inputs: Any, role: str) -> Any:
        return self.net(inputs["observations"]), {}


def of_skrl(ranked: bool) -> Update:
    vector = VectorCopies(ENVS, LENGTH)
    _spread(vector.copies)
    env = wrap_env(vector, wrapper="gymnasium", verbose=False)
    spaces = env.observation_space, env.action_space
    folder = tempfile.mkdtemp()
    cfg = PPO_CFG(
        rollouts=STEPS,
        learning_epochs=EPOCHS,
        mini_batches=MINIBATCHES,
        experiment={"directory": folder, "write_interval": 0, "checkpoint_interval": 0},
    )
    agent = (OrderGradPPO if ranked else PPO)(
        models={"policy": Policy(*spaces), "value": Value(*spaces)},
        memory=RandomMemory(memory_size=STEPS, num_envs=ENVS, device="cpu"),
        observation_space=spaces[0],
        action_space=spaces[1],
        device="cpu",
        cfg=cfg,
        **({"objective": OBJECTIVE} if ranked else {}),
    )
    settings = {"timesteps": STEPS, "headless": True, "disable_progressbar": True, "close_environment_at_exit": False}
    return SequentialTrainer(env=env, agents=agent, cfg=settings).train


def _network() -> nn.Sequential:
    first, second = WIDTHS
    return nn.Sequential(nn.Linear(2, first), nn.ELU(), nn.Linear(first, second), nn.ELU(), nn.Linear(second, 1))


def _spread(copies: Copies) -> Copies:
    """Let episodes end at every step of a rollout, not all at once."""
    copies.episode_length_buf = torch.randint(LENGTH, (ENVS,))
    return copies


def _speed(update: Update) -> float:
    before = time.process_time()
    update()
    return ENVS * STEPS / (time.process_time() - before)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[str] = []
    for name, made in (("rsl_rl", of_rsl_rl), ("skrl", of_skrl)):
        with contextlib.redirect_stdout(io.StringIO()):
            plain, ranked = made(False), made(True)
            plain()
            ranked()
            speeds = [(_speed(plain), _speed(ranked)) for _ in range(ROUNDS)]
        ratios = [b / a for a, b in speeds]
        low, median, high = statistics.quantiles(ratios, n=4)
        medians = [statistics.median(x) for x in zip(*speeds, strict=True)]
        rows.append(f"| {name} | {medians[0]:,.0f} | {medians[1]:,.0f} | {median:.2f} ({low:.2f} to {high:.2f}) |")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "rsl-rl-lib", "skrl"))
    print(f"{ENVS:,} environments, rollouts of {STEPS} steps, {EPOCHS} epochs, objective {OBJECTIVE},", end=" ")
    print("on a CPU, one thread;")
    print(f"{os.cpu_count()} cores, {platform.machine()}, {versions}, {datetime.date.today().isoformat()}.\n")
    print(f"| | PPO, steps per CPU second | OrderGradPPO | ratio, median of {ROUNDS} turns (quartiles) |")
    print("|---|--:|--:|--:|", *rows, sep="\n")
    print(f"\nLoad of the machine at the end: {os.getloadavg()[0]:.1f}, this benchmark included.")


if __name__ == "__main__":
    main()
