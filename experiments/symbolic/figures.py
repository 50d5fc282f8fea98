"""The pictures of the study of symbolic regression."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import study
from matplotlib.figure import Figure

from ordergrad.runs.plots import draw_curve, new_figure, save, style, tidy


def draw_recovery(
    needed: Mapping[str, np.ndarray], problems: Mapping[str, Mapping[str, Any]], budget: int, path: Path
) -> None:
    """Draw the share of runs that have recovered their function, over expressions; and by problem with intervals.

    `needed` are, for each contender, the expressions that every run took, infinite where it did not recover.
    """
    figure, (left, right) = new_figure(2, f"Nguyen-1 to 12, recovery within {budget:,} expressions")
    figure.set_size_inches(12, 4)
    for index, (contender, taken) in enumerate(needed.items()):
        colour, dash = style(index)
        ordered = np.sort(taken[np.isfinite(taken)])
        shares = np.arange(1, len(ordered) + 1) / max(1, len(taken))
        x, y = [1000, *ordered, budget], [0, *shares, *(shares[-1:] if len(shares) else [0])]
        left.step(x, y, where="post", color=colour, linestyle=dash, linewidth=1.8, label=contender)
        for place, row in enumerate(problems.values()):
            if contender in row:
                found, at = row[contender], place + (index - (len(needed) - 1) / 2) * 0.16
                right.plot([at, at], found["interval"], color=colour, linewidth=1.2, alpha=0.6)
                right.plot(at, found["recovered"] / found["runs"], "o", color=colour, markersize=4)
    left.set(xscale="log", xlim=(1000, budget), ylim=(0, 1))
    left.set(xlabel="expressions evaluated", ylabel="runs that recovered")
    left.legend(frameon=False, fontsize=9)
    right.set(xlabel="Nguyen problem", ylabel="recovery rate, 95% Wilson interval", ylim=(-0.03, 1.03))
    right.set_xticks(range(len(problems)), [p.removeprefix("Nguyen-") for p in problems])
    save(figure, path)


def draw_limits(rows: Sequence[study.Record], problems: Sequence[str], contenders: Sequence[str], path: Path) -> None:
    """Draw how the policies narrow on the hard problems: medians over the runs that are still searching."""
    panels = (("top", "95% quantile of the reward"), ("distinct", "distinct expressions"))
    panels += (("length", "tokens of an expression"), ("solution_logp", "log-probability of a solution"))
    figure = Figure(figsize=(13, 2.9 * len(problems)), dpi=150, layout="constrained")
    axes = figure.subplots(len(problems), len(panels), squeeze=False)
    for line, problem in zip(axes, problems, strict=True):
        for axis, (name, label) in zip(line, panels, strict=True):
            tidy(axis)
            for index, contender in enumerate(contenders):
                mine = [row for row in rows if (row["problem"], row["contender"]) == (problem, contender)]
                steps, values = study.column(mine, "expressions"), study.column(mine, name)
                enough = min(2, len({row["seed"] for row in mine}))
                shared = [step for step in np.unique(steps) if (steps == step).sum() >= enough]
                medians = [np.median(values[steps == step]) for step in shared]
                draw_curve(axis, index, contender, np.array(shared) / 1000, np.array(medians))
            axis.set(xlabel="thousand expressions", title=label if problem == problems[0] else "")
        line[0].set_ylabel(problem)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    save(figure, path)
