"""How the benchmarks measure."""

import time
from collections.abc import Callable
from typing import Any

from ordergrad.backends import host


def generic(function: Callable[[], Any]) -> Callable[[], Any]:
    """Return the same function with the kernel out of reach."""

    def call() -> Any:
        kernel, host.kernel = host.kernel, lambda: None
        try:
            return function()
        finally:
            host.kernel = kernel

    return call


def measure(benchmark: Any, function: Callable[[], Any], seconds: float = 0.4) -> Any:
    """Measure a function for about so many seconds, 3 rounds at least, each of at least 50 microseconds."""
    result = function()
    start = time.perf_counter()
    function()
    once = max(time.perf_counter() - start, 1e-7)
    iterations = max(int(5e-5 / once), 1)
    rounds = int(min(max(seconds / (once * iterations), 3), 500))
    benchmark.pedantic(function, rounds=rounds, iterations=iterations, warmup_rounds=min(rounds // 3, 3))
    return result
