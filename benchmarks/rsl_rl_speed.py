"""Throughput of rsl_rl's PPO with and without the ranking.

    python benchmarks/rsl_rl_speed.py [DEVICE] > benchmarks/rsl_rl.md

4,096 copies of a small environment, stepped as tensors: next to a simulator the ranking's share is smaller still. Both
algorithms take turns, a few updates at a time; the medians of their steps per second are compared.
"""

import contextlib
import io
import os
import platform
import statistics
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests/support"))
from copies import Copies
from rsl_rl.runners import OnPolicyRunner

ENVS, STEPS, LENGTH, UPDATES, ROUNDS = 4096, 24, 200, 1, 7
NETWORK = {"class_name": "rsl_rl.models.MLPModel", "hidden_dims": [128, 128], "activation": "elu"}
ALGORITHMS = {
    "PPO": {"class_name": "rsl_rl.algorithms:PPO"},
    "OrderGradPPO": {"class_name": "ordergrad.adapters.rsl_rl:OrderGradPPO", "objective": "cvar:0.1"},
}


def runner(algorithm: dict[str, Any], device: str) -> OnPolicyRunner:
    config = {
        "num_steps_per_env": STEPS,
        "save_interval": 10**9,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": NETWORK | {"distribution_cfg": {"class_name": "rsl_rl.modules.GaussianDistribution"}},
        "critic": dict(NETWORK),
        "algorithm": dict(algorithm),
    }
    return OnPolicyRunner(Copies(ENVS, LENGTH, device), config, device=device)


def updated(made: OnPolicyRunner, device: str) -> float:
    """Return the steps per second of a few updates."""
    before = time.perf_counter()
    made.learn(UPDATES, init_at_random_ep_len=False)
    if device != "cpu":
        torch.cuda.synchronize()
    return ENVS * STEPS * UPDATES / (time.perf_counter() - before)


def main() -> None:
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    speeds: dict[str, list[float]] = {name: [] for name in ALGORITHMS}
    with contextlib.redirect_stdout(io.StringIO()):
        made = {name: runner(algorithm, device) for name, algorithm in ALGORITHMS.items()}
        for name in ALGORITHMS:
            made[name].learn(1, init_at_random_ep_len=True)
        for _ in range(ROUNDS):
            for name in ALGORITHMS:
                speeds[name].append(updated(made[name], device))
    versions = f"PyTorch {torch.__version__}, rsl-rl-lib {metadata.version('rsl-rl-lib')}"
    print(f"rsl_rl, {ENVS:,} environments, rollouts of {STEPS} steps, on {device}, one thread;")
    print(f"{os.cpu_count()} cores, {platform.machine()}, {versions}.\n")
    print("| algorithm | steps/s, median of 7 | of PPO |\n|---|--:|--:|")
    for name, found in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(found, speeds["PPO"], strict=True))
        print(f"| {name} | {statistics.median(found):,.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
