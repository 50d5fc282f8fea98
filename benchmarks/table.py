"""Turn the JSON of a benchmark run into the committed table: ``python benchmarks/table.py RUN.json TABLE.md``."""

import json
import os
import platform
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path


def main(source: str, target: str) -> None:
    run = json.loads(Path(source).read_text())
    groups: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for bench in run["benchmarks"]:
        groups[bench["group"]][bench["name"]] = bench["stats"]
    cpu = run["machine_info"].get("cpu", {}).get("brand_raw", platform.machine())
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "jax"))
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make bench` on {run['datetime'][:10]}: {os.cpu_count()} cores of {cpu}, "
        f"Python {platform.python_version()}, {packages}. Medians of one call; the ratio is ours against the peer in "
        "the same run.",
        "",
        "| what | peer | median, peer | median, ours | interquartile range, ours | ratio |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for group, sides in groups.items():
        own = sides.pop("ours")
        name, peer = next(iter(sides.items()), ("none", None))
        ratio = f"{own['median'] / peer['median']:.2g}" if peer else ""
        lines.append(
            f"| {group} | {name} | {_time(peer['median']) if peer else ''} | {_time(own['median'])} "
            f"| {_time(own['iqr'])} | {ratio} |"
        )
    Path(target).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


if __name__ == "__main__":
    main(*sys.argv[1:])
