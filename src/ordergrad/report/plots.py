"""Figures of training runs; colours (Okabe and Ito) and line styles are distinct for colour-blind readers too.

References:
    Okabe and Ito (2008). Color Universal Design: how to make figures and presentations that are friendly to
        colorblind people.
"""

# pyright: reportUnknownMemberType=false

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["learning_curves", "new_figure", "pass_curves", "return_distributions", "save", "spectra", "style"]

Array = NDArray[Any]
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


def return_distributions(returns: Mapping[str, Array], title: str = "") -> "Figure":
    """Return a figure of the returns of fresh episodes: histograms, and quantile functions (the tails at full size).

    Args:
        returns: For each objective the returns of all its policies' episodes.
        title: Above the figure.
    """
    figure, (left, right) = new_figure(2, title)
    everything = np.concatenate(list(returns.values()))
    everything = everything[np.isfinite(everything)]
    edges = np.histogram_bin_edges(everything, bins=40) if len(everything) else np.linspace(0, 1, 41)
    for index, (objective, values) in enumerate(returns.items()):
        colour, dash = style(index)
        finite = np.sort(values[np.isfinite(values)])
        density = np.histogram(finite, edges)[0] / max(len(finite), 1)
        left.stairs(density, edges, color=colour, fill=True, alpha=0.18)
        left.stairs(density, edges, color=colour, linestyle=dash, linewidth=1.8, label=objective)
        levels = (np.arange(len(finite)) + 0.5) / max(len(finite), 1)
        right.plot(levels, finite, color=colour, linestyle=dash, linewidth=2, label=objective)
    left.set(xlabel="return of an episode", ylabel="share of episodes", title="Distribution")
    right.set(xlabel="quantile level (0: worst episode)", ylabel="return", title="Quantile function", xlim=(0, 1))
    _legend(right, "trained on")
    return figure


def learning_curves(
    runs: Mapping[str, Sequence[tuple[Array, Mapping[str, Array]]]], metrics: Sequence[str], title: str = ""
) -> "Figure":
    """Return a figure of metrics over training: the mean over seeds, and a band from the lowest to the highest seed.

    Args:
        runs: For each objective, for each seed, the steps and the metrics at those steps.
        metrics: Which to show, one panel each.
        title: Above the figure.
    """
    figure, panels = new_figure(len(metrics), title)
    for metric, panel in zip(metrics, panels, strict=True):
        for index, (objective, seeds) in enumerate(runs.items()):
            colour, dash = style(index)
            grid, curves = _on_one_grid([(steps, columns[metric]) for steps, columns in seeds])
            if not len(grid):
                continue
            if len(curves) > 1:
                panel.fill_between(grid, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0)
            panel.plot(grid, curves.mean(axis=0), color=colour, linestyle=dash, linewidth=2, label=objective)
        panel.set(xlabel="environment steps", title=metric)
        panel.xaxis.set_major_formatter(_steps)
    panels[0].set_ylabel("over the last 100 episodes")
    _legend(panels[-1], "trained on")
    return figure


def pass_curves(curves: Mapping[str, Array], ks: Sequence[int], title: str = "") -> "Figure":
    """Return a figure of pass@k over the number of tries k, with the bands of the confidence intervals.

    Args:
        curves: For each objective pass@k and the ends of its interval, shape (len(ks), 3).
        ks: The numbers of tries.
        title: Above the figure.
    """
    figure, (panel,) = new_figure(1, title)
    for index, (objective, curve) in enumerate(curves.items()):
        colour, dash = style(index)
        panel.fill_between(ks, curve[:, 1], curve[:, 2], color=colour, alpha=0.15, linewidth=0)
        panel.plot(
            ks, curve[:, 0], color=colour, linestyle=dash, linewidth=2, marker="o", markersize=3, label=objective
        )
    panel.set_xscale("log", base=2)
    panel.set_xticks(list(ks), [str(k) for k in ks])
    panel.set(xlabel="tries k", ylabel="pass@k", ylim=(0, None))
    _legend(panel, "trained on")
    return figure


def spectra(weights: Mapping[str, tuple[Array, Array]], title: str = "") -> "Figure":
    """Return a figure of what several objectives weigh: their spectra, and the weights of a sorted group.

    Args:
        weights: For each objective its spectrum at equally spaced levels from 0 to 1, and its sample weights.
        title: Above the figure.
    """
    figure, (left, right) = _figure(2, title)
    for index, (objective, (phi, w)) in enumerate(weights.items()):
        colour, dash = _style(index)
        left.plot(np.linspace(0, 1, len(phi)), phi, color=colour, linestyle=dash, linewidth=2, label=objective)
        right.plot(np.arange(1, len(w) + 1), w, color=colour, linestyle=dash, linewidth=1.5, marker="o", markersize=3.5)
    for panel in (left, right):
        panel.axhline(0, color="#777777", linewidth=0.8)
    left.set(xlim=(0, 1), xlabel="quantile level u of the reward (0 = worst)", title="Spectrum φ(u)")
    right.set(xlabel="rank in the group (1 = worst)", title="Weight of each reward in the value")
    _legend(left, "objective")
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure; the format follows from the name."""
    figure.savefig(path)


def new_figure(panels: int, title: str = "") -> "tuple[Figure, list[Axes]]":
    """Return a figure with panels side by side, and the panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * panels, 3.6), dpi=150, layout="constrained")
    axes: list[Any] = list(np.ravel(figure.subplots(1, panels, squeeze=False)))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure, axes


def style(index: int) -> tuple[str, Any]:
    """Return the colour and the dashes of the curve with this number."""
    return _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]


def _legend(axis: "Axes", title: str) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(title=title, frameon=False, fontsize=9, alignment="left")


def _steps(x: float, _: object) -> str:
    return f"{x / 1e6:g}M" if abs(x) >= 1e6 else f"{x / 1e3:g}k" if abs(x) >= 1e3 else f"{x:g}"


def _on_one_grid(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return common steps (where all curves are known) and the curves there, shape (curves, steps)."""
    known = [(steps[np.isfinite(values)], values[np.isfinite(values)]) for steps, values in curves]
    if not known or any(len(steps) == 0 for steps, _ in known):
        return np.zeros(0), np.zeros((0, 0))
    first, last = max(steps[0] for steps, _ in known), min(steps[-1] for steps, _ in known)
    grid = known[0][0]
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.array([np.interp(grid, steps, values) for steps, values in known])
