"""The throughput of Stable-Baselines3 as a table, from a benchmark run: ``sb3_table.py RUN.json SB3.md``."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

WANTED = 0.95


def main(source: str, target: str) -> None:
    run = json.loads(Path(source).read_text())
    benches = [bench for bench in run["benchmarks"] if bench["group"] == "SB3 throughput"]
    if not benches:
        raise SystemExit(f"{source} holds no run of benchmarks/test_sb3.py")
    Path(target).write_text("\n".join([*header(run), *rows(benches), ""]))
    print(Path(target).read_text())


def header(run: dict[str, Any]) -> Iterator[str]:
    cpu = run["machine_info"].get("cpu", {}).get("brand_raw", platform.machine())
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "stable-baselines3", "gymnasium"))
    yield from (
        "# Throughput of the Stable-Baselines3 adapter",
        "",
        f"Written from `python -m pytest benchmarks/test_sb3.py --benchmark-enable --benchmark-only` on "
        f"{run['datetime'][:10]}: one of {os.cpu_count()} cores of {cpu}, Python {platform.python_version()}, "
        f"{packages}. Environment steps per second of processor time of the whole of `learn`, collecting and training, "
        "with the settings of `ordergrad train rl`; all contenders take turns in one process with one thread. The "
        "share is that of plain PPO's over all rounds; in brackets, the quartiles of single rounds. With `episode` "
        "credit a round trains on the episodes that ended in it: in Pendulum one or two of each environment, hence "
        "their width.",
        "",
        f"| environment | trainer | steps per second | share of plain PPO | at least {WANTED:.0%} |",
        "|---|---|---:|---:|---|",
    )


def rows(benches: list[dict[str, Any]]) -> Iterator[str]:
    for bench in benches:
        for name, found in bench["extra_info"].items():
            low, high = found["quartiles"]
            share = "" if name == "PPO" else f"{found['share']:.1%} [{low:.1%}, {high:.1%}]"
            verdict = "" if name == "PPO" else "yes" if found["share"] >= WANTED else "no"
            yield f"| {bench['name']} | {name} | {found['steps per second']:,.0f} | {share} | {verdict} |"


if __name__ == "__main__":
    main(*sys.argv[1:])
