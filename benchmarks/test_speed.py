"""Ours, on every backend and kernel, against sorting, copying, and what others compute.

`make bench` runs everything in one process, so that the ratios in the table are of one machine at one time.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import peers
import pytest
import torch
from measuring import generic, measure

import ordergrad as og
from ordergrad.kernels import cpu
from ordergrad.spec import parse
from ordergrad.weights import scan

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
OBJECTIVE = f"max@{peers.K}"


@pytest.fixture(autouse=True)
def all_cores() -> None:
    torch.set_num_threads(cpu.default_threads())


def rewards_of(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def contenders(x: np.ndarray, objective: str = OBJECTIVE) -> dict[str, Callable[[], Callable[[], Any]]]:
    """What is measured by name, each as a function that prepares it."""
    t = torch.from_numpy(x)

    def compiled() -> Callable[[], Any]:
        torch._dynamo.reset()
        run = torch.compile(lambda r: og.advantages(r, objective), fullgraph=True, dynamic=False)
        return lambda: run(t)

    def jitted() -> Callable[[], Any]:
        device, run = jax.numpy.asarray(x), jax.jit(lambda r: og.advantages(r, objective))
        return lambda: run(device).block_until_ready()

    ids = np.repeat(np.arange(len(x)), x.shape[-1])
    return {
        "ours, NumPy, kernel": lambda: lambda: og.advantages(x, objective),
        "ours, NumPy": lambda: generic(lambda: og.advantages(x, objective)),
        "ours, PyTorch, kernel": lambda: lambda: og.advantages(t, objective),
        "ours, PyTorch": lambda: generic(lambda: og.advantages(t, objective)),
        "ours, PyTorch compiled": compiled,
        "ours, JAX jitted": jitted,
        "copy": lambda: x.copy,
        "np.sort": lambda: lambda: np.sort(x, axis=-1),
        "np.argsort": lambda: lambda: np.argsort(x, axis=-1),
        "GRPO": lambda: lambda: peers.grpo(t),
        "RLOO": lambda: lambda: peers.rloo(t),
        "verl grpo_passk": lambda: lambda: peers.grpo_passk(t.ravel(), ids),
        "PKPO": lambda: lambda: peers.pkpo(x),
        "MaxPO": lambda: lambda: peers.maxpo(x),
        "N x K matrices, loop": lambda: lambda: peers.direct_loop(t),
        "N x K matrices, vmap": lambda: lambda: peers.direct_vmap(t),
    }


ALL = list(contenders(rewards_of((2, 8))))
FAST = [name for name in ALL if "loop" not in name and "vmap" not in name and name not in ("verl grpo_passk", "MaxPO")]
SORTS = [
    "ours, NumPy, kernel",
    "ours, NumPy",
    "ours, PyTorch, kernel",
    "ours, PyTorch",
    "copy",
    "np.sort",
    "np.argsort",
]
CASES = [
    *((f"(1024, 16) {dtype}", (1024, 16), dtype, OBJECTIVE, ALL) for dtype in ("float32",)),
    *((f"(65536, 16) {dtype}", (65536, 16), dtype, OBJECTIVE, FAST) for dtype in ("float32", "float64")),
    *((f"(16384, 64) {dtype}", (16384, 64), dtype, OBJECTIVE, FAST) for dtype in ("float32", "float64")),
    ("(4096, 1024) float32", (4096, 1024), "float32", "cvar:0.1@64", SORTS),
    *((f"one group of 10^6, {dtype}", (1, 10**6), dtype, "cvar:0.1@64", SORTS) for dtype in ("float32", "float64")),
]


@pytest.mark.parametrize(
    ("title", "shape", "dtype", "objective", "name"),
    [pytest.param(*case[:4], name, id=f"{case[0]}-{name}") for case in CASES for name in case[4]],
)
def test_advantages(benchmark: Any, title: str, shape: tuple[int, ...], dtype: str, objective: str, name: str) -> None:
    benchmark.group, benchmark.name = f"advantages, {title}", name
    x = rewards_of(shape, dtype)
    result = measure(benchmark, contenders(x, objective)[name]())
    if name.startswith(("ours", "PKPO", "MaxPO", "N x K")):
        expected = og.advantages(x.astype(np.float64), objective)
        np.testing.assert_allclose(np.asarray(result), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("side", ["kernel alone", "ours, NumPy, kernel", "ours, PyTorch, kernel", "ours, NumPy"])
def test_one_small_call(benchmark: Any, side: str) -> None:
    benchmark.group, benchmark.name = "one call, (1, 16) float32", side
    x = rewards_of((1, 16))
    if side == "kernel alone":
        slopes, offset, total = (np.array(c, np.float32) for c in scan(parse(OBJECTIVE), 16, "leave_one_out"))
        flat, out, network = x.reshape(-1), np.empty(16, np.float32), cpu._network(16)

        def call() -> float:
            return cpu._lanes(flat, out, 16, network, slopes.copy(), offset.copy(), total.reshape(1), 0, 1)
    else:
        call = contenders(x)[side]()
    measure(benchmark, call)


RAGGED = ["ours, NumPy, kernel", "ours, NumPy", "ours, PyTorch, kernel", "ours, PyTorch", "np.sort", "np.argsort"]


@pytest.mark.parametrize("name", RAGGED)
@pytest.mark.parametrize("most", [17, 2000])
def test_ragged_groups(benchmark: Any, most: int, name: str) -> None:
    """A million rewards, shuffled, in 100,000 groups of 3 to 17 or in 1,000 of 3 to 2000."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, most + 1, 100_000 if most == 17 else 1000)
    ids = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = rewards_of((len(ids),))
    benchmark.group, benchmark.name = f"a million rewards in {len(sizes):,} groups of 3 to {most}, shuffled", name
    if name.startswith("np."):
        call: Callable[[], Any] = lambda: getattr(np, name[3:])(x)  # noqa: E731
    else:
        own = torch.from_numpy(x) if "PyTorch" in name else x
        call = lambda: og.group_advantages(own, ids, "max@2")  # noqa: E731
        call = call if name.endswith("kernel") else generic(call)
    measure(benchmark, call)


HUGE = """
import json, re, sys, time
import numpy as np
import ordergrad as og
import ordergrad.kernels.cpu

n, dtype, objective = int(sys.argv[1]), sys.argv[2], sys.argv[3]
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
rewards = np.random.default_rng(0).standard_normal(n, np.dtype(dtype))
og.advantages(np.arange(200, dtype=dtype), "mean")
before, start = peak(), time.perf_counter()
og.advantages(rewards, objective)
first, middle = time.perf_counter() - start, peak()
times = []
for _ in range(5):
    start = time.perf_counter()
    og.advantages(rewards, objective)
    times.append(time.perf_counter() - start)
start = time.perf_counter()
np.argsort(rewards)
print(json.dumps({"first call": first, "later calls": sorted(times)[2], "np.argsort": time.perf_counter() - start,
                  "rewards, MB": rewards.nbytes / 1e6, "peak beyond them, MB": (middle - before) / 1e6}))
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("objective", ["cvar:0.05@1000", "wang:1@1000"])
def test_a_huge_group(benchmark: Any, objective: str, dtype: str) -> None:
    """N = 10^7 in a process of its own, whose largest memory is the one measured."""
    benchmark.group, benchmark.name = "one group of 10^7", f"{objective}, {dtype}"
    command = [sys.executable, "-c", HUGE, str(10**7), dtype, objective]
    run = benchmark.pedantic(lambda: subprocess.run(command, capture_output=True, text=True, check=True), rounds=1)
    benchmark.extra_info.update(json.loads(run.stdout))


CURVES = ["ours, NumPy, kernel", "ours, NumPy", "np.sort", "np.argsort", "copy", "GRPO", "PKPO"]


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("n", [8, *(1 << b for b in range(4, 21, 2))])
def test_curve_of_sizes(benchmark: Any, n: int, name: str) -> None:
    """About a million rewards in groups of N."""
    benchmark.group, benchmark.name = f"curve, groups of {n}", name
    benchmark.extra_info.update(curve="size", at=n)
    measure(benchmark, contenders(rewards_of(((1 << 20) // n, n)))[name](), 0.1)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("count", [1 << b for b in range(0, 17, 2)])
def test_curve_of_counts(benchmark: Any, count: int, name: str) -> None:
    """Groups of 16."""
    benchmark.group, benchmark.name = f"curve, {count} groups", name
    benchmark.extra_info.update(curve="count", at=count)
    measure(benchmark, contenders(rewards_of((count, 16)))[name](), 0.1)
