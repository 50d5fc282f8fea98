"""Time and peak memory of ``ordergrad score``: ``python benchmarks/score.py FOLDER benchmarks/score.md``.

Makes logs of groups of 16 normal rewards in FOLDER (about 8 GB, removed afterwards), reads each in a process of its own
with the default objectives, and writes the table. ``scattered`` logs hold the first sample of every group, then the
second, and so on, the order that is hardest to group. Peak memory is the largest resident set of the process.

The peer is Polars, which reads the same log right afterwards: the mean, standard deviation, maximum and median of every
group, by its streaming engine. Ratios of times hold on a busy machine, where times do not.
"""

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

SIZE, BLOCK = 16, 1 << 20
SCHEMA = {"group": pl.Int64, "reward": pl.Float64}
CASES = [
    ("parquet", 10_000_000, False, ()),
    ("csv", 10_000_000, False, ()),
    ("jsonl", 10_000_000, False, ()),
    ("parquet", 10_000_000, True, ()),
    ("parquet", 10_000_000, False, ("-o", "max@4", "--advantages")),
    ("parquet", 100_000_000, False, ()),
    ("csv", 100_000_000, False, ()),
    ("parquet", 100_000_000, True, ()),
    ("parquet", 100_000_000, False, ("-o", "max@4", "--advantages")),
]
MEASURED = """
import resource, sys
sys.argv[0] = "ordergrad"
from ordergrad.commands.cli import app
try:
    app()
except SystemExit as end:
    assert not end.code
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


PEER = """
import sys
import polars as pl
log, x = sys.argv[1], pl.col("reward")
scan = {"parquet": pl.scan_parquet, "csv": pl.scan_csv, "jsonl": pl.scan_ndjson}[log.rsplit(".", 1)[1]]
table = scan(log).group_by("group").agg(x.mean(), x.std().alias("sd"), x.max().alias("max"), x.median().alias("median"))
print(table.collect(engine="streaming").height)
"""


def main(folder: Path, table: Path, largest: int, only: str) -> None:
    rows = []
    for kind, count, scattered, options in CASES:
        what = f"{kind}{', scattered groups' if scattered else ''}{', max@4 with advantages' if options else ''}"
        if count > largest or (only and what != only):
            continue
        log = folder / f"score-{count}{'-scattered' if scattered else ''}.{kind}"
        if not log.exists():
            make(log, count, scattered)
        with_advantages = folder / f"advantages.{kind}"
        extra = [*options, with_advantages, "--overwrite"] if options else []
        start = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", MEASURED, "score", log, *extra], capture_output=True, text=True, check=True
        )
        seconds, peak = time.perf_counter() - start, int(run.stdout.rsplit("PEAK", 1)[1])
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", PEER, log], capture_output=True, text=True, check=True)
        ratio = seconds / (time.perf_counter() - start)
        rows.append(
            f"| {what} | {count:,} | {log.stat().st_size / 1e9:.2f} GB | {seconds:.1f} s | {ratio:.1f} | "
            f"{peak / 1e9:.2f} GB |"
        )
        print(rows[-1], flush=True)
    for file in [*folder.glob("score-*"), *folder.glob("advantages.*")]:
        file.unlink()
    table.write_text("\n".join([*heading(), *rows]) + "\n")


def make(log: Path, count: int, scattered: bool) -> None:
    """Write a log."""
    rng = np.random.default_rng(0)

    def blocks():
        for start in range(0, count, BLOCK):
            rows = np.arange(start, min(start + BLOCK, count))
            group = rows % (count // SIZE) if scattered else rows // SIZE
            yield pl.DataFrame({"group": group, "reward": rng.normal(size=len(rows))})

    lazy = register_io_source(lambda *_: blocks(), schema=SCHEMA)
    {"parquet": lazy.sink_parquet, "csv": lazy.sink_csv, "jsonl": lazy.sink_ndjson}[log.suffix[1:]](log)


def heading() -> list[str]:
    names = [line for line in Path("/proc/cpuinfo").read_text().split("\n") if "model name" in line]
    cpu = names[0].split(":")[1].strip() if names else platform.machine()
    command = shlex.join(["benchmarks/score.py", "FOLDER", *sys.argv[2:]])
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "polars"))
    return [
        "# Reading reward logs",
        "",
        f"Written by `python {command}` on {datetime.now(UTC):%Y-%m-%d}: "
        f"{os.cpu_count()} cores of {cpu}, Python {platform.python_version()}, {packages}. `ordergrad score` with its "
        "six default objectives, start of Python included, on groups of 16; one run each. *times Polars*: over the "
        "time of Polars for four statistics of every group of the same log, right afterwards.",
        "",
        "| log | rows | size | time | times Polars | peak memory |",
        "|---|---:|---:|---:|---:|---:|",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--largest", type=int, default=100_000_000, help="leave out logs with more rows")
    parser.add_argument("--only", default="", help="the logs of this name alone, such as parquet")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.table, arguments.largest, arguments.only)
