"""The picture of the study of portfolios."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import study

from ordergrad.runs.plots import new_figure, save, style

Array = np.ndarray


def draw(
    daily: Mapping[str, Sequence[Array]], dates: Any, leads: Sequence[study.Record], against: str, path: Path
) -> None:
    """Draw what a dollar became, and the leads over one portfolio with their intervals."""
    figure, axes = new_figure(3, "Out of sample, after costs")
    for index, (name, runs) in enumerate(daily.items()):
        worth = np.array([np.cumprod(1 + run) for run in runs])
        colour, dash = style(index)
        if len(runs) > 1:
            axes[0].fill_between(dates, worth.min(0), worth.max(0), color=colour, alpha=0.15, linewidth=0)
        axes[0].plot(dates, np.exp(np.log(worth).mean(0)), color=colour, linestyle=dash, linewidth=1.2, label=name)
    axes[0].set(yscale="log", title="worth of 1")
    axes[0].legend(frameon=False, fontsize=7)
    names = [name for name in daily if name != against]
    for axis, measure, title in zip(axes[1:], ("cvar", "mean"), ("CVaR 5% a day", "mean return a year"), strict=True):
        for row, name in enumerate(names):
            (found,) = (r for r in leads if (r["portfolio"], r["against"], r["measure"]) == (name, against, measure))
            lead, low, high = (100 * found[key] for key in ("lead", "low", "high"))
            colour, _ = style(row + 1)
            axis.plot([low, high], [row, row], color=colour, linewidth=2)
            axis.plot([lead], [row], "o", color=colour, markersize=6)
        axis.axvline(0, color="#777777", linewidth=0.8)
        axis.set(title=f"{title}: difference to {against}", xlabel="percentage points", ylim=(len(names) - 0.5, -0.5))
        axis.set_yticks(range(len(names)), names if measure == "cvar" else [""] * len(names), fontsize=8)
    save(figure, path)
