"""Ours on a GPU against copying, sorting and what others compute: ``python benchmarks/gpu.py benchmarks/gpu.md``.

Two times of every call: on the device, from replays of a CUDA graph of many calls, and of a caller who issues calls one
after the other and waits for the last. All contenders take turns, so that a clock that changes changes for all.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import peers
import torch
import triton

import ordergrad as og
from ordergrad.backends import torch as backend

Call = Callable[[], object]

SHAPES = [(1024, 16), (65536, 8), (65536, 16), (32768, 32), (16384, 64), (4096, 256), (4096, 1024), (2048, 2048)]
TARGETS = SHAPES[2:7]
"""Where ours should take at most 1.5 times a copy, or no longer than a launch."""

OBJECTIVE = f"max@{peers.K}"
CALLS, ROUNDS = 20, 30


def contenders(x: torch.Tensor) -> dict[str, Call]:
    out, masked = torch.empty_like(x), torch.rand(x.shape, device=x.device) < 0.9
    compiled = torch.compile(lambda r: og.advantages(r, OBJECTIVE), fullgraph=True, dynamic=False)
    found: dict[str, Call] = {
        "launch": lambda: out[0, :1].fill_(0.0),
        "copy": lambda: out.copy_(x),
        "ours": lambda: og.advantages(x, OBJECTIVE),
        "ours, masked": lambda: og.advantages(x, OBJECTIVE, where=masked, small="zero"),
        "ours, compiled": lambda: compiled(x),
        "ours, PyTorch's sort": lambda: without_kernel(lambda: og.advantages(x, OBJECTIVE)),
        "torch.sort": lambda: torch.sort(x, dim=-1),
        "GRPO": lambda: peers.grpo(x),
        "RLOO": lambda: peers.rloo(x),
    }
    if x.shape[-1] <= 64:
        found["N x K matrices, vmap"] = lambda: peers.direct_vmap(x)
    return found


def without_kernel(function: Call) -> object:
    kernel, backend._cuda_kernel = backend._cuda_kernel, lambda x: None
    try:
        return function()
    finally:
        backend._cuda_kernel = kernel


def graph_of(call: Call) -> torch.cuda.CUDAGraph | None:
    """Return a graph of many calls; None for a call that cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(CALLS):
                call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph


def on_device(graph: torch.cuda.CUDAGraph) -> float:
    """Return microseconds of the device for one call of the graph."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return 1e3 * start.elapsed_time(end) / CALLS


def of_caller(call: Call) -> float:
    """Return microseconds from the first call to the end of the last, of one call."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - start) / CALLS


def check(x: torch.Tensor) -> None:
    """Compare with the estimators in float64 on the host, before anything is measured."""
    for options in ({}, {"where": torch.rand(x.shape, device=x.device) < 0.9, "small": "zero"}):
        host = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in options.items()}
        expected = og.advantages(x.cpu().double(), OBJECTIVE, **host)
        got = og.advantages(x, OBJECTIVE, **options).cpu().double()
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def measured(shape: tuple[int, int]) -> dict[str, tuple[list[float], list[float]]]:
    x = torch.randn(shape, device="cuda")
    check(x)
    calls = contenders(x)
    for call in calls.values():
        for _ in range(3):
            call()
    graphs = {name: graph_of(call) for name, call in calls.items()}
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            graph = graphs[name]
            if graph is not None:
                times[name][0].append(on_device(graph))
            times[name][1].append(of_caller(call))
    return times


def ragged() -> dict[str, list[float]]:
    """A million rewards in 100,000 groups of 3 to 17: ids and the order of rewards come from the host."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 18, 100_000)
    ids = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = torch.randn(len(ids), device="cuda")
    host = x.cpu()
    calls: dict[str, Call] = {
        "ours": lambda: og.group_advantages(x, ids, "max@2"),
        "ours, PyTorch's sort": lambda: without_kernel(lambda: og.group_advantages(x, ids, "max@2")),
        "ours, on the host": lambda: og.group_advantages(host, ids, "max@2"),
        "torch.sort": lambda: torch.sort(x),
    }
    for call in calls.values():
        call()
    return {name: [of_caller(call) for _ in range(3)] for name, call in calls.items()}


def spread(times: list[float]) -> str:
    if not times:
        return "–"
    low, _, high = statistics.quantiles(times, n=4)
    return f"{statistics.median(times):.1f} ({low:.1f} to {high:.1f})"


def page() -> Iterator[str]:
    yield "# Benchmarks on a GPU\n"
    yield (
        f"Written by `python benchmarks/gpu.py` on {date.today()}: {torch.cuda.get_device_name()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, triton {triton.__version__}. Microseconds of "
        f"a call, median and quartiles of {ROUNDS} rounds of {CALLS} calls, float32, {OBJECTIVE}. *Device*: from "
        "replays of a CUDA graph; – where a call cannot be captured. *Caller*: calls issued one after the other. "
        "Results were compared with those of the host in float64 first.\n"
    )
    tables = {shape: measured(shape) for shape in SHAPES}
    yield "| on the device | copy | launch | ours | ours / copy | at most 1.5 copies or a launch |"
    yield "|---|---:|---:|---:|---:|---|"
    for shape in TARGETS:
        copy, launch, ours = (statistics.median(tables[shape][name][0]) for name in ("copy", "launch", "ours"))
        met = "yes" if ours <= max(1.5 * copy, launch) else "no"
        yield f"| {shape} | {copy:.1f} | {launch:.1f} | {ours:.1f} | {ours / copy:.2f} | {met} |"
    for shape, times in tables.items():
        yield f"\n## {shape}\n\n| | device | caller |\n|---|---:|---:|"
        for name, (device, caller) in sorted(times.items(), key=lambda item: statistics.median(item[1][1])):
            yield f"| {name} | {spread(device)} | {spread(caller)} |"
    yield "\n## A million rewards in 100,000 groups of 3 to 17, shuffled\n\n| | caller |\n|---|---:|"
    for name, caller in ragged().items():
        yield f"| {name} | {spread(caller)} |"


def main(target: str) -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device; benchmarks/gpu_code.py counts instructions without one")
    Path(target).write_text("\n".join(page()) + "\n")
    print(Path(target).read_text())


if __name__ == "__main__":
    main(sys.argv[1])
