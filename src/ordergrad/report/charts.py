"""The charts of a report, each one panel wide, so that they stack on a phone."""

# pyright: reportUnknownMemberType=false

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.objectives import Objective
from ordergrad.report.content import Chart
from ordergrad.runs.plots import draw_curve, draw_histogram, draw_metric, draw_pass_curves, tidy
from ordergrad.score.digest import levels
from ordergrad.weights import spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Weighed = tuple[Objective, int]
"""An objective, and the comparison size of its levels without @K."""


def quantiles_of(sample: Array, u: Array) -> Array:
    """Return the quantile function of a sample at levels u: the i-th smallest of n values at (i - 1/2) / n."""
    return np.quantile(sample, u, method="hazen") if len(sample) else np.zeros(0)


def resampled(u: Array, values: Array, count: int = 4000) -> Array:
    """Return a sample with the given quantiles at ascending levels u, every value one of them.

    Example:
        >>> resampled(np.array([0.0, 0.5, 1.0]), np.array([1.0, 2.0, 3.0]), 4)
        array([1., 2., 2., 3.])
    """
    between = (u[1:] + u[:-1]) / 2
    return values[np.searchsorted(between, (np.arange(count) + 0.5) / count)]


def distribution(name: str, samples: Mapping[str, Array], what: str, unit: str) -> Chart:
    """Return histograms on common bins: `what` is a value ("return of an episode"), `unit` what counts ("episodes")."""
    figure, (axis,) = _figure(1)
    edges, shares = draw_histogram(axis, samples)
    axis.set(xlabel=what, ylabel=f"share of {unit}")
    _legend(figure, axis)
    bins = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    rows = [(label, *bins[i], share) for label, column in shares.items() for i, share in enumerate(column.tolist())]
    header = ("contender", "from", "to", "share")
    return Chart(name, "Distribution", f"Histograms of the {what}.", figure, header, tuple(rows))


def quantiles(
    name: str, functions: Mapping[str, tuple[Array, Array]], weighed: Mapping[str, Weighed], what: str
) -> Chart:
    """Return quantile functions, each levels u and the quantiles there, with the spectra of the objectives beneath.

    The objective of a contender has its name and its colour.
    """
    names = list(dict.fromkeys([*functions, *weighed]))
    figure, panels = _figure(2 if weighed else 1)
    rows: list[tuple[Any, ...]] = []
    for index, label in enumerate(names):
        u, values = functions.get(label, (np.zeros(0), np.zeros(0)))
        if len(values):
            draw_curve(panels[0], index, label, u, values)
            rows += [(label, "quantile", *pair) for pair in zip(u.tolist(), values.tolist(), strict=True)]
        if label in weighed:
            objective, k = weighed[label]
            grid = levels(201)
            phi = spectrum(objective, grid, k=k)
            draw_curve(panels[-1], index, label, grid, phi)
            rows += [(label, "spectrum", *pair) for pair in zip(grid.tolist(), phi.tolist(), strict=True)]
    panels[0].set(ylabel=what, xlim=(0, 1))
    panels[-1].set_xlabel("quantile level u (0: worst)")
    caption = f"The {what} at each level u, from the worst to the best."
    if weighed:
        panels[-1].set(ylabel="spectrum φ(u)", xlim=(0, 1))
        panels[-1].axhline(0, color="#777777", linewidth=0.8)
        texts = [
            f"{objective} at K = {k}" if objective.is_open else str(objective) for objective, k in weighed.values()
        ]
        listed = ", ".join(dict.fromkeys(texts))
        caption += f" Beneath, how much each objective weighs that level: J = ∫ φ(u) Q(u) du, for {listed}."
    _legend(figure, *panels)
    title = "Quantile function" + (" and spectrum" if weighed else "")
    return Chart(name, title, caption, figure, ("contender", "curve", "u", "value"), tuple(rows))


def metric_curves(
    name: str, runs: Mapping[str, Sequence[tuple[Array, Mapping[str, Array]]]], metric: str, x: str, caption: str
) -> Chart | None:
    """Return a metric over training, the mean over seeds and the band of all seeds; None if nothing was recorded."""
    figure, (axis,) = _figure(1)
    drawn = draw_metric(axis, runs, metric)
    if not drawn:
        return None
    axis.set(xlabel=x, ylabel=metric)
    _legend(figure, axis)
    rows: list[tuple[Any, ...]] = []
    for label, (grid, curves) in drawn.items():
        stack = (curves.mean(0), curves.min(0), curves.max(0))
        rows += [(label, *map(float, row)) for row in zip(grid, *stack, strict=True)]
    header = ("contender", "step", "mean", "lowest_seed", "highest_seed")
    return Chart(name, f"Learning curve: {metric}", caption, figure, header, tuple(rows))


def k_curves(
    name: str, title: str, curves: Mapping[str, tuple[Sequence[int], Array]], what: str, caption: str
) -> Chart:
    """Return curves over the numbers of tries k: values with the ends of their 95% intervals, shape (len(ks), 3)."""
    figure, (axis,) = _figure(1)
    draw_pass_curves(axis, curves)
    axis.set(xlabel="tries k", ylabel=what)
    if what == "pass@k":
        axis.set_ylim(bottom=0)
    _legend(figure, axis)
    rows = [
        (label, k, *map(float, row)) for label, (ks, curve) in curves.items() for k, row in zip(ks, curve, strict=True)
    ]
    return Chart(name, title, caption, figure, ("contender", "k", "value", "low", "high"), tuple(rows))


def step_curves(name: str, title: str, curves: Mapping[str, Array], what: str, caption: str) -> Chart:
    """Return curves over steps: the steps, the values and the ends of their 95% intervals, shape (steps, 4)."""
    figure, (axis,) = _figure(1)
    for index, (label, table) in enumerate(curves.items()):
        steps, middle, low, high = table.T
        draw_curve(axis, index, label, steps, middle, (low, high), "o" if len(steps) < 12 else "")
    axis.set(xlabel="step", ylabel=what)
    _legend(figure, axis)
    rows = [(label, *map(float, row)) for label, table in curves.items() for row in table]
    return Chart(name, title, caption, figure, ("contender", "step", "value", "low", "high"), tuple(rows))


def _figure(panels: int) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.4 if panels == 1 else 4.6), dpi=150, layout="constrained")
    ratios = [1.0] if panels == 1 else [3.0, 2.0]
    axes: list[Any] = list(np.ravel(figure.subplots(panels, 1, squeeze=False, sharex=True, height_ratios=ratios)))
    for axis in axes:
        tidy(axis)
    return figure, axes


def _legend(figure: "Figure", *axes: "Axes") -> None:
    named = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if named:
        figure.legend(list(named.values()), list(named), loc="outside lower left", ncols=2, frameon=False, fontsize=8)
