"""Advantages of a (64, 16) float32 batch against the same transformation written by hand in native calls.

The peer knows the weights beforehand, checks nothing and serves one backend: it is what a user would write for one
objective. `make bench` runs both in one process and writes the table of ratios.
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from measuring import generic

import ordergrad as og
import ordergrad.kernels.cpu
from ordergrad.spec import parse
from ordergrad.weights import scan

OBJECTIVE = "top:2@4"
REWARDS = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
SLOPES = scan(parse(OBJECTIVE), 16, "leave_one_out").slopes.astype(np.float32)


def numpy_by_hand(rewards: np.ndarray) -> np.ndarray:
    order = np.argsort(rewards, axis=-1)
    ordered = np.take_along_axis(rewards, order, axis=-1)
    climbed = np.zeros_like(ordered)
    np.cumsum(SLOPES * np.diff(ordered, axis=-1), axis=-1, out=climbed[..., 1:])
    climbed -= climbed.mean(axis=-1, keepdims=True)
    advantages = np.empty_like(climbed)
    np.put_along_axis(advantages, order, climbed, axis=-1)
    return advantages


def torch_by_hand(rewards: Any) -> Any:
    ordered, order = rewards.sort(-1)
    climbed = torch.nn.functional.pad((torch.from_numpy(SLOPES) * ordered.diff()).cumsum(-1), (1, 0))
    climbed = climbed - climbed.mean(-1, keepdim=True)
    return torch.empty_like(climbed).scatter_(-1, order, climbed)


def jax_by_hand(rewards: Any) -> Any:
    order = jax.numpy.argsort(rewards, axis=-1)
    ordered = jax.numpy.take_along_axis(rewards, order, axis=-1)
    climbed = jax.numpy.pad(jax.numpy.cumsum(SLOPES * jax.numpy.diff(ordered), axis=-1), [(0, 0), (1, 0)])
    climbed = climbed - climbed.mean(-1, keepdims=True)
    return jax.numpy.take_along_axis(climbed, jax.numpy.argsort(order, axis=-1), axis=-1)


def ours(rewards: Any) -> Any:
    return og.advantages(rewards, OBJECTIVE)


def call_of(name: str, side: str) -> Callable[[], Any]:
    torch.set_num_threads(1)
    by_hand = {"numpy": numpy_by_hand, "torch": torch_by_hand, "jax": jax_by_hand}[name.split("-")[0]]
    function = ours if side == "ours" else by_hand
    rewards: Any = REWARDS
    if name.startswith("torch"):
        rewards = torch.from_numpy(REWARDS)
        if name.endswith("compiled"):
            function = torch.compile(function, fullgraph=True)
    elif name.startswith("jax"):
        rewards = jax.numpy.asarray(REWARDS)
        jitted = jax.jit(function)

        def function(x: Any) -> Any:
            return jitted(x).block_until_ready()

    call = lambda: function(rewards)  # noqa: E731
    return call if side == "by hand" or name.endswith("kernel") else generic(call)


@pytest.mark.parametrize("side", ["by hand", "ours"])
@pytest.mark.parametrize("name", ["numpy", "numpy-kernel", "torch", "torch-kernel", "torch-compiled", "jax-jitted"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_advantages_of_64_groups_of_16(benchmark: Any, name: str, side: str) -> None:
    benchmark.group = f"advantages, (64, 16) float32, {name}"
    benchmark.name = side
    result = benchmark.pedantic(call_of(name, side), warmup_rounds=20, rounds=200, iterations=50)
    np.testing.assert_allclose(np.asarray(result), numpy_by_hand(REWARDS), atol=1e-5)


FIRST_CALL = """
import sys, time
import jax
import numpy as np
import ordergrad as og

x = jax.numpy.asarray(np.random.default_rng(0).normal(size=(4, 4096)).astype(np.float32))
arguments = (x, x > -1) if sys.argv[1] == "ours" else (x,)
call = jax.jit(lambda rewards, mask=None: og.advantages(rewards, "cvar:0.1", where=mask))
jax.jit(lambda rewards: rewards + 1)(x).block_until_ready()
start = time.perf_counter()
call(*arguments).block_until_ready()
print(time.perf_counter() - start)
"""


@pytest.mark.parametrize("side", ["no mask", "ours"])
def test_first_call_under_jit_with_a_mask(benchmark: Any, side: str) -> None:
    """Weights, tracing and compiling, each time in a process of its own."""
    benchmark.group, benchmark.name = "first call under jax.jit with a mask, (4, 4096) float32, cvar:0.1", side
    times: list[float] = []

    def first_call() -> None:
        command = [sys.executable, "-c", FIRST_CALL, side]
        times.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

    benchmark.pedantic(first_call, rounds=5)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
    benchmark.extra_info.update(median=median, iqr=high - low)
