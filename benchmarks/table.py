"""Turn the JSON of a benchmark run into the committed table and plot: ``table.py RUN.json TABLE.md``."""

import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

KERNEL = "ours, NumPy, kernel"
Group = dict[str, dict[str, Any]]

TARGETS = [
    ("(1024, 16) float32", "N x K matrices, vmap", 1 / 20),
    ("(1024, 16) float32", "N x K matrices, loop", 1 / 200),
    ("(65536, 16) float32", "np.sort", 2),
    ("(65536, 16) float64", "np.sort", 2),
    ("(16384, 64) float32", "np.sort", 2),
    ("(16384, 64) float64", "np.sort", 2),
    ("one group of 10^6, float32", "np.argsort", 1.3),
    ("one group of 10^6, float64", "np.argsort", 1.3),
]
"""Advantages, the peer, and the largest ratio of our time to its."""


STYLES = {
    KERNEL: ("-", "#D55E00"),
    "ours, NumPy": ("--", "#D55E00"),
    "np.sort": ("-", "#0072B2"),
    "np.argsort": ("--", "#0072B2"),
    "copy": (":", "#000000"),
    "GRPO": ("-.", "#009E73"),
    "PKPO": ("-.", "#CC79A7"),
}


def main(source: str, target: str) -> None:
    run = json.loads(Path(source).read_text())
    groups: dict[str, Group] = defaultdict(dict)
    for bench in run["benchmarks"]:
        groups[bench["group"]][bench["name"]] = bench["stats"] | bench["extra_info"]
    table = Path(target)
    plot = table.with_name("curves.png")
    table.write_text("\n".join([*header(run), *targets(groups), *pairs(groups), *many(groups), *huge(groups), ""]))
    curves(groups, plot)
    print(table.read_text())


def header(run: dict[str, Any]) -> Iterator[str]:
    cpu = run["machine_info"].get("cpu", {}).get("brand_raw", platform.machine())
    names = ("numpy", "numba", "torch", "jax")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    yield from (
        "# Benchmarks",
        "",
        f"Written by `make bench` on {run['datetime'][:10]}: {os.cpu_count()} cores of {cpu}, "
        f"Python {platform.python_version()}, {packages}. Times of one call, medians unless said otherwise; every "
        "ratio is of two medians in the same run. What the contenders compute is in [peers.py](peers.py); how ours is "
        "built, and what limits it, in [docs/performance.md](../docs/performance.md).",
        "",
        "![Time against group size and number of groups](curves.png)",
        "",
    )


def targets(groups: dict[str, Group]) -> Iterator[str]:
    yield from (
        "| ours, NumPy with the kernel | against | time of ours / peer | wanted at most | |",
        "|---|---|---:|---:|---|",
    )
    for title, peer, bound in TARGETS:
        sides = groups[f"advantages, {title}"]
        ratio = sides[KERNEL]["median"] / sides[peer]["median"]
        yield f"| {title} | {peer} | {ratio:.2g} | {bound:.2g} | {'yes' if ratio <= bound else 'no'} |"
    call = groups["one call, (1, 16) float32"]
    over = call[KERNEL]["median"] - call["kernel alone"]["median"]
    verdict = "yes" if over <= 15e-6 else "no"
    yield f"| one call, (1, 16) float32 | the kernel alone | {time(over)} more | {time(15e-6)} | {verdict} |"
    spent = groups["import"]["import ordergrad"]["median"] - groups["import"]["python"]["median"]
    verdict = "yes" if spent <= 0.15 else "no"
    yield f"| `import ordergrad` | an empty program | {time(spent)} more | {time(0.15)} | {verdict} |"
    yield ""


def pairs(groups: dict[str, Group]) -> Iterator[str]:
    yield from (
        "| what | peer | median, peer | median, ours | interquartile range, ours | ratio |",
        "|---|---|---:|---:|---:|---:|",
    )
    for title, sides in groups.items():
        if "ours" not in sides:
            continue
        own = sides["ours"]
        name, peer = next(((n, s) for n, s in sides.items() if n != "ours"), ("none", None))
        ratio = f"{own['median'] / peer['median']:.2g}" if peer else ""
        yield (
            f"| {title} | {name} | {time(peer['median']) if peer else ''} | {time(own['median'])} "
            f"| {time(own['iqr'])} | {ratio} |"
        )
    yield ""


def many(groups: dict[str, Group]) -> Iterator[str]:
    for title, sides in groups.items():
        if KERNEL not in sides or title.startswith("curve"):
            continue
        yield from (f"## {title[0].upper()}{title[1:]}", "")
        yield from ("| | median | fastest | interquartile range | times ours |", "|---|---:|---:|---:|---:|")
        for name, stats in sorted(sides.items(), key=lambda side: side[1]["median"]):
            ratio = stats["median"] / sides[KERNEL]["median"]
            times = " | ".join(time(stats[key]) for key in ("median", "min", "iqr"))
            yield f"| {name} | {times} | {ratio:.2g} |"
        yield ""


def huge(groups: dict[str, Group]) -> Iterator[str]:
    sides = groups["one group of 10^7"]
    columns = ["first call", "later calls", "np.argsort", "rewards, MB", "peak beyond them, MB"]
    yield from ("## One group of 10^7", "")
    yield "The first call makes the weights. The peak is the largest resident memory of the process, less that before."
    yield from ("", f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}")
    for name, stats in sides.items():
        cells = [f"{stats[c]:.0f}" if "MB" in c else time(stats[c]) for c in columns]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def curves(groups: dict[str, Group], target: Path) -> None:
    """Draw the time against the group size, and against the number of groups."""
    points: dict[str, dict[str, list[tuple[int, float]]]] = {"size": defaultdict(list), "count": defaultdict(list)}
    for title, sides in groups.items():
        if title.startswith("curve"):
            for name, stats in sides.items():
                points[stats["curve"]][name].append((stats["at"], stats["median"]))
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    labels = ("group size N, about a million rewards, float32", "number of groups of 16, float32")
    for axis, kind, label in zip(axes, points, labels, strict=True):
        for name, (style, colour) in STYLES.items():
            x, y = zip(*sorted(points[kind][name]), strict=True)
            axis.loglog(x, [1e3 * t for t in y], style, color=colour, label=name, linewidth=1.8)
        axis.set(xlabel=label, ylabel="time of a call, ms")
        axis.grid(alpha=0.25)
    axes[1].legend(frameon=False, fontsize=9)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    main(*sys.argv[1:])
