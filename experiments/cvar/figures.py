"""The pictures of the comparison of CVaR estimators."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cvar.gradients import REWARDS
from cvar.measured import BASELINES, Measured, curve, error_of, pick, size_of

from ordergrad.runs.plots import draw_curve, new_figure, save, style


def draw(rows: Sequence[Measured], levels: Sequence[float], n: int, path: Path) -> None:
    """Draw bias against K in the largest groups; in groups of n, noise by baseline and the error of batches."""
    figure, (left, middle, right) = new_figure(3, "The gradient of CVaR of a Gaussian reward")
    largest = max(row.n for row in rows)
    for index, q in enumerate(levels):
        mine = curve(rows, f"cvar:{q:g}", largest, "leave_one_out")
        draw_curve(left, index, f"q = {q:g}", [size_of(row) for row in mine], [row.bias for row in mine])
        theirs = sorted(pick(rows, reward="linear", estimator=f"gcvar:{q:g}"), key=size_of)
        theirs = [row for row in theirs if row.direction == row.direction]
        left.plot([row.n for row in theirs], [row.bias for row in theirs], "o", color=style(index)[0], markersize=4)
    left.plot([], [], "o", color="#555555", markersize=4, label="GCVaR at N")
    left.set(xscale="log", yscale="log", xlabel="comparison size K (GCVaR: group size N)", ylabel="relative bias")
    left.set(title="Bias: lines are ours, at any N")
    left.legend(frameon=False, fontsize=8)
    goal = "cvar:0.1"
    for index, baseline in enumerate(BASELINES):
        mine = curve(rows, goal, n, baseline)
        draw_curve(middle, index, baseline, [size_of(row) for row in mine], [row.noise for row in mine], marker="o")
    (theirs,) = pick(rows, reward="linear", estimator="gcvar:0.1", n=n)
    middle.plot([n], [theirs.noise], "D", color="#000000", markersize=6, label="GCVaR")
    middle.set(xscale="log", yscale="log", xlabel="comparison size K", ylabel="relative noise of one group")
    middle.set(title=f"Noise: {goal}, N = {n}")
    middle.legend(frameon=False, fontsize=8)
    mine = curve(rows, goal, n, "leave_one_out")
    for index, batch in enumerate((1, 4, 16, 64)):
        colour, errors = style(index)[0], [error_of(row, batch) for row in mine]
        draw_curve(right, index, f"{batch} group{'s' * (batch > 1)}", [size_of(row) for row in mine], errors)
        right.plot([n], [error_of(theirs, batch)], "D", color=colour, markersize=5)
        best = int(np.argmin(errors))
        right.plot([size_of(mine[best])], [errors[best]], "o", color=colour, markersize=7)
    right.plot([], [], "D", color="#555555", markersize=5, label="GCVaR")
    right.set(xscale="log", yscale="log", xlabel="comparison size K", ylabel="relative error of the batch")
    right.set(title=f"Error: {goal}, groups of {n}, best K marked")
    right.legend(frameon=False, fontsize=8)
    for axis in (left, middle, right):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axis.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g}%")
        axis.minorticks_off()
    right.set_yticks([0.05, 0.1, 0.2, 0.5, 1.0])
    right.set_ylim(0.8 * min(min(error_of(row, 64) for row in mine), 0.1), 1.0)
    middle.set_yticks([0.1, 0.2, 0.5, 1, 2, 5, 10])
    middle.set_ylim(0.8 * min(row.noise for row in mine), None)
    save(figure, path)


def draw_objectives(rows: Sequence[Measured], path: Path, goal: str = "cvar:0.1") -> None:
    """Draw direction against signal for the objectives one might take instead."""
    figure, axes = new_figure(len(REWARDS), f"On the way to {goal}, groups of 64")
    names = list(dict.fromkeys(row.estimator for row in pick(rows, goal=goal)))
    markers = "osD^vP*Xph<"
    for axis, reward in zip(axes, REWARDS, strict=True):
        for index, name in enumerate(names):
            (row,) = pick(rows, reward=reward, goal=goal, estimator=name)
            place, colour = ([row.snr], [row.direction]), style(index)[0]
            axis.plot(*place, markers[index], color=colour, markersize=7, label=name, alpha=0.85)
        axis.axhline(0.95, color="#777777", linewidth=0.8, linestyle="--")
        axis.set(xlabel="signal-to-noise ratio of one group", title=reward)
    axes[0].set_ylabel("direction (cosine with the goal's)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    save(figure, path)
