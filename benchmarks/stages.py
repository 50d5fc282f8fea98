"""Where the time of the CPU kernel goes, on one thread: ``python benchmarks/stages.py > benchmarks/stages.md``.

A stage is what a call takes longer with it than without: the kernel is run on networks of no exchange, and on all.
"""

import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from typing import Any

import numpy as np

from ordergrad.kernels import cpu


def fastest(function: Callable[[], Any], rounds: int = 30) -> float:
    """Return the least of some times, in milliseconds: the stages are differences, and noise only adds."""
    times: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def lanes(count: int, n: int, dtype: str) -> dict[str, float]:
    x = np.random.default_rng(0).normal(size=count * n).astype(dtype)
    out, scan = np.empty_like(x), (np.ones(n - 1, dtype), np.zeros(n - 1, dtype), np.zeros(1, dtype))
    network = cpu._network(n)
    without = fastest(lambda: cpu._lanes(x, out, n, network[:0], *scan, 0, count))
    whole = fastest(lambda: cpu._lanes(x, out, n, network, *scan, 0, count))
    return {
        "load, scan, store": without,
        "network and back": whole - without,
        "np.sort": fastest(lambda: np.sort(x.reshape(count, n), axis=-1)),
    }


def keys(n: int, dtype: str) -> dict[str, float]:
    x = np.random.default_rng(0).normal(size=n).astype(dtype)
    one, none = np.full(1, n), np.zeros(1, np.int64)
    buffer, values, out = np.empty((1, n), np.int64), np.empty((1, n), dtype), np.empty_like(x)
    bits = 32 if dtype == "float32" else (n - 1).bit_length()
    if dtype == "float32":
        make = lambda: cpu._keys_of_float32(x.view(np.int32), None, none, one, none, buffer)  # noqa: E731
        read = lambda: cpu._values_of_float32(buffer, values.view(np.int32))  # noqa: E731
    else:
        make = lambda: cpu._keys_of_float64(x, None, none, one, none, bits, buffer, buffer.view(np.float64))  # noqa: E731
        read = lambda: cpu._values_of_float64(x, None, none, one, none, bits, buffer, values)  # noqa: E731
    scan = (np.ones(n - 1, dtype), np.zeros(n - 1, dtype), np.zeros(1, dtype))
    stages = {"keys": fastest(make)}
    unsorted = buffer.copy()

    def sort() -> None:
        buffer[...] = unsorted
        buffer.sort(axis=1)

    stages["sort of the keys"] = fastest(sort)
    stages["values"] = fastest(read)
    place = lambda: cpu._place(None, none, one, none, none, none, bits, buffer, values, *scan, out)  # noqa: E731
    stages["scan, scatter"] = fastest(place)
    stages["np.sort"], stages["np.argsort"] = fastest(lambda: np.sort(x)), fastest(lambda: np.argsort(x))
    return stages


def simd() -> list[str]:
    """Return the SIMD extensions that NumPy found beyond its baseline."""
    return np.show_config(mode="dicts")["SIMD Extensions"]["found"]


def main() -> None:
    print("# Stages of the CPU kernel\n")
    print(
        f"Written from `python benchmarks/stages.py` on {date.today()}: one core of a machine ({platform.machine()}) "
        f"with NumPy's SIMD features {', '.join(simd())}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"numba {version('numba')}. Milliseconds, the fastest of 30.\n"
    )
    for title, stages in {
        **{f"({c}, {n}) {d}": lanes(c, n, d) for c, n in ((65536, 16), (16384, 64)) for d in ("float32", "float64")},
        **{f"one group of 10^6, {d}": keys(10**6, d) for d in ("float32", "float64")},
    }.items():
        print(f"| {title} | {' | '.join(stages)} |\n|---|{'---:|' * len(stages)}")
        print(f"| | {' | '.join(f'{t:.2f}' for t in stages.values())} |\n")


if __name__ == "__main__":
    sys.exit(main())
