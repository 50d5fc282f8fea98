"""The pictures of the Countdown study."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import study

from ordergrad.runs.plots import new_figure, save, style


def mean_of(rows: Sequence[study.Record], contender: str, name: str, step: int | None = None) -> float:
    """Return the mean over the runs of the study, at the end or after a number of steps."""
    mine = [r for r in rows if r["contender"] == contender and r["part"] in ("study", "start")]
    found = [r[name] for r in mine if (r["last"] if step is None else r["step"] == step)]
    return float(np.mean(found)) if found else float("nan")


def line_of(index: int) -> dict[str, Any]:
    colour, dash = style(index + 1)
    return {"color": colour, "linestyle": dash, "linewidth": 1.8}


def draw_curves(rows: Sequence[study.Record], contenders: Sequence[str], path: Path) -> None:
    """Draw pass@k, and pass@k and pass^k less those of the start, for every contender."""
    figure, (left, middle, right) = new_figure(3, "Countdown, held-out problems")
    tries = {sign: [int(name[5:]) for name in rows[0] if name.startswith(f"pass{sign}")] for sign in "@^"}
    ks = tries["@"]
    left.plot(ks, [mean_of(rows, "start", f"pass@{k}") for k in ks], color="#555555", label="start")
    for index, name in enumerate(contenders):
        left.plot(ks, [mean_of(rows, name, f"pass@{k}") for k in ks], label=name, **line_of(index))
    left.set(xlabel="k", ylabel="pass@k", xscale="log", xticks=ks, xticklabels=ks, ylim=(0, None))
    left.minorticks_off()
    for axis, (sign, ks) in zip((middle, right), tries.items(), strict=True):
        for index, name in enumerate(contenders):
            measures = [f"pass{sign}{k}" for k in ks]
            axis.plot(ks, [mean_of(rows, name, m) - mean_of(rows, "start", m) for m in measures], **line_of(index))
        axis.axhline(0, color="#777777", linewidth=0.8)
        axis.set(xlabel="k", ylabel=f"pass{sign}k, less the start's", xscale="log", xticks=ks, xticklabels=ks)
        axis.minorticks_off()
    left.legend(frameon=False, fontsize=7)
    save(figure, path)


def draw_training(
    rows: Sequence[study.Record],
    records: Iterable[study.Record],
    contenders: Sequence[str],
    steps: Sequence[int],
    path: Path,
) -> None:
    """Draw pass@64 against pass@1 at the steps of the measurements, and the share of groups without a signal."""
    figure, (left, right) = new_figure(2, "Countdown, training")
    trained = [r for r in records if r["part"] == "study" and "no_signal" in r]
    begin = [mean_of(rows, "start", name) for name in ("pass@1", "pass@64")]
    for index, name in enumerate(contenders):
        points = [[mean_of(rows, name, measure, step) for measure in ("pass@1", "pass@64")] for step in steps]
        left.plot(*zip(begin, *points, strict=True), marker="o", markersize=3.5, label=name, **line_of(index))
        curves = [[float(x) for x in r["no_signal"]] for r in trained if r["contender"] == name]
        if curves:
            places = np.linspace(0, steps[-1], len(curves[0]) + 1)[1:]
            right.plot(places, np.mean(curves, axis=0), **line_of(index))
    left.set(xlabel="pass@1", ylabel="pass@64")
    right.set(xlabel="step", ylabel="groups without a signal", ylim=(0, 1))
    left.legend(frameon=False, fontsize=7)
    save(figure, path)


def draw_worth(rates: np.ndarray, worths: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw what a rise of the success rate is worth, relative to its largest value."""
    figure, (axis,) = new_figure(1, "What more success on a prompt is worth")
    for index, (name, values) in enumerate(worths.items()):
        axis.plot(rates, np.array(values) / max(values), label=name, **line_of(index))
    axis.set(xlabel="success rate of the prompt", ylabel="relative to its largest value", xlim=(0, 1), ylim=(0, 1.05))
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)
