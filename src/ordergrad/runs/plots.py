"""Figures of runs; colours (Okabe and Ito) and line styles are distinct for colour-blind readers too.

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

from ordergrad.runs.folder import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ((), (5, 1.5), (1.5, 1.2), (6, 1.5, 1.5, 1.5))
"""Lengths of dashes and gaps, in line widths."""

_BINS = 40


def return_distributions(returns: Mapping[str, Array], title: str = "") -> "Figure":
    """Return a figure of the returns of fresh episodes: histograms, and quantile functions (the tails at full size)."""
    figure, (left, right) = new_figure(2, title)
    draw_histogram(left, returns)
    draw_quantiles(right, returns)
    left.set(xlabel="return of an episode", ylabel="share of episodes", title="Distribution")
    right.set(xlabel="quantile level (0: worst episode)", ylabel="return", title="Quantile function")
    _legend(right, "trained on")
    return figure


def learning_curves(
    runs: Mapping[str, Sequence[tuple[Array, Mapping[str, Array]]]], metrics: Sequence[str], title: str = ""
) -> "Figure":
    """Return a figure of metrics over training: the mean over seeds, and a band from the lowest to the highest seed.

    The runs are, for each objective and seed, the steps and the metrics there. Each metric has its panel.
    """
    figure, panels = new_figure(len(metrics), title)
    for metric, panel in zip(metrics, panels, strict=True):
        draw_metric(panel, runs, metric)
        panel.set(xlabel="environment steps", title=metric)
    panels[0].set_ylabel("over the last 100 episodes")
    _legend(panels[-1], "trained on")
    return figure


def pass_curves(curves: Mapping[str, Array], ks: Sequence[int], title: str = "") -> "Figure":
    """Return a figure of pass@k and its 95% interval, shape (len(ks), 3), over the number of tries k."""
    figure, (panel,) = new_figure(1, title)
    draw_pass_curves(panel, {name: (ks, curve) for name, curve in curves.items()})
    panel.set(xlabel="tries k", ylabel="pass@k", ylim=(0, None))
    figure.set_figwidth(6.4)
    figure.legend(title="trained on", loc="outside right upper", frameon=False, fontsize=9, alignment="left")
    return figure


def spectra(weights: Mapping[str, tuple[Array, Array]], title: str = "") -> "Figure":
    """Return a figure of what objectives weigh: spectra at equally spaced levels from 0 to 1, and sample weights."""
    figure, (left, right) = new_figure(2, title)
    for index, (objective, (phi, w)) in enumerate(weights.items()):
        colour, dash = style(index)
        left.plot(np.linspace(0, 1, len(phi)), phi, color=colour, linestyle=dash, linewidth=2, label=objective)
        right.plot(np.arange(1, len(w) + 1), w, color=colour, linestyle=dash, linewidth=1.5, marker="o", markersize=3.5)
    for panel in (left, right):
        panel.axhline(0, color="#777777", linewidth=0.8)
    left.set(xlim=(0, 1), xlabel="quantile level u of the reward (0 = worst)", title="Spectrum φ(u)")
    right.set(xlabel="rank in the group (1 = worst)", title="Weight of each reward in the value")
    _legend(left, "objective")
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure by replacing the file atomically; the format follows from the name."""
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:])


def draw_histogram(axis: "Axes", samples: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Draw histograms on common bins; return the bins' edges and for each sample the share of its values in them."""
    finite = {name: values[np.isfinite(values)] for name, values in samples.items()}
    everything = np.concatenate(list(finite.values()))
    edges = np.histogram_bin_edges(everything, bins=_BINS) if len(everything) else np.linspace(0, 1, _BINS + 1)
    shares: dict[str, Array] = {}
    for index, (name, values) in enumerate(finite.items()):
        colour, dash = style(index)
        if not len(values):
            continue
        shares[name] = np.histogram(values, edges)[0] / len(values)
        mark = f"series-{index}"
        axis.stairs(shares[name], edges, color=colour, fill=True, alpha=0.18, gid=mark)
        axis.stairs(shares[name], edges, color=colour, linestyle=dash, linewidth=1.8, label=name, gid=mark)
    return edges, shares


def draw_quantiles(axis: "Axes", samples: Mapping[str, Array]) -> None:
    """Draw the quantile function of each sample, every one of its values a point."""
    for index, (name, values) in enumerate(samples.items()):
        finite = np.sort(values[np.isfinite(values)])
        if len(finite):
            draw_curve(axis, index, name, (np.arange(len(finite)) + 0.5) / len(finite), finite)
    axis.set_xlim(0, 1)


def draw_curve(
    axis: "Axes", index: int, name: str, x: Array, y: Array, band: tuple[Array, Array] | None = None, marker: str = ""
) -> None:
    """Draw one curve in the colour and style of its index, with a band around it if there is one.

    The parts carry the identifier ``series-INDEX``, which an SVG file keeps.
    """
    colour, dash = style(index)
    mark = f"series-{index}"
    if band is not None:
        axis.fill_between(x, *band, color=colour, alpha=0.18, linewidth=0, gid=mark)
    axis.plot(x, y, color=colour, linestyle=dash, linewidth=2, marker=marker, markersize=3, label=name, gid=mark)


def draw_metric(
    axis: "Axes", runs: Mapping[str, Sequence[tuple[Array, Mapping[str, Array]]]], metric: str
) -> dict[str, tuple[Array, Array]]:
    """Draw a metric over training, the mean over seeds and their range; return the steps and curves of each run."""
    drawn: dict[str, tuple[Array, Array]] = {}
    for index, (name, seeds) in enumerate(runs.items()):
        grid, curves = on_one_grid([(steps, columns[metric]) for steps, columns in seeds if metric in columns])
        if not len(grid):
            continue
        band = (curves.min(axis=0), curves.max(axis=0)) if len(curves) > 1 else None
        draw_curve(axis, index, name, grid, curves.mean(axis=0), band)
        drawn[name] = grid, curves
    axis.xaxis.set_major_formatter(_steps)
    return drawn


def draw_pass_curves(axis: "Axes", curves: Mapping[str, tuple[Sequence[int], Array]]) -> None:
    """Draw curves over the numbers of tries k, on a scale that doubles: values and intervals, shape (len(ks), 3)."""
    for index, (name, (ks, curve)) in enumerate(curves.items()):
        if len(ks):
            draw_curve(axis, index, name, np.asarray(ks), curve[:, 0], (curve[:, 1], curve[:, 2]), "o")
    axis.set_xscale("log", base=2)
    ticks = sorted({k for ks, _ in curves.values() for k in ks})
    axis.set_xticks(ticks, [str(k) for k in ticks])
    axis.minorticks_off()


def tidy(axis: "Axes") -> None:
    """Leave out the frame's upper and right side, and draw a faint grid behind everything."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)


def style(index: int) -> tuple[str, Any]:
    """Return the colour and the line style of the index-th curve."""
    dashes = DASHES[index % len(DASHES)]
    return COLOURS[index % len(COLOURS)], (0, dashes) if dashes else "-"


def on_one_grid(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return common steps (where all curves are known) and the curves there, shape (curves, steps)."""
    known = [(steps[np.isfinite(values)], values[np.isfinite(values)]) for steps, values in curves]
    if not known or any(len(steps) == 0 for steps, _ in known):
        return np.zeros(0), np.zeros((0, 0))
    first, last = max(steps[0] for steps, _ in known), min(steps[-1] for steps, _ in known)
    grid = known[0][0]
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.array([np.interp(grid, steps, values) for steps, values in known])


def new_figure(panels: int, title: str = "") -> "tuple[Figure, list[Axes]]":
    """Return a figure with panels side by side, and the panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * panels, 3.6), dpi=150, layout="constrained")
    axes: list[Any] = list(np.ravel(figure.subplots(1, panels, squeeze=False)))
    for axis in axes:
        tidy(axis)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure, axes


def _legend(axis: "Axes", title: str) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(title=title, frameon=False, fontsize=9, alignment="left")


def _steps(x: float, _: object) -> str:
    return f"{x / 1e6:g}M" if abs(x) >= 1e6 else f"{x / 1e3:g}k" if abs(x) >= 1e3 else f"{x:g}"
