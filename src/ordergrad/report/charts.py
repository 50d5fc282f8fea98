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
    """Return a sample with a given quantile function, of which every value is one of the given ones.

    Args:
        u: Ascending levels.
        values: The quantiles there.
        count: The size of the sample.

    Example:
        >>> resampled(np.array([0.0, 0.5, 1.0]), np.array([1.0, 2.0, 3.0]), 4)
        array([1., 2., 2., 3.])
    """
    between = (u[1:] + u[:-1]) / 2
    return values[np.searchsorted(between, (np.arange(count) + 0.5) / count)]


def distribution(name: str, samples: Mapping[str, Array], what: str, unit: str) -> Chart:
    """Return histograms on common bins.

    Args:
        name: Of the chart's files.
        samples: The values of each contender.
        what: What a value is, such as "return of an episode".
        unit: What is counted, such as "episodes".
    """
    figure, (axis,) = _figure(1)
    edges, shares = draw_histogram(axis, samples)
    axis.set(xlabel=what, ylabel=f"share of {unit}")
    _legend(figure, axis)
    rows = [
        (label, *edges[i : i + 2].tolist(), float(share)) for label, s in shares.items() for i, share in enumerate(s)
    ]
    return Chart(
        name, "Distribution", f"Histograms of the {what}.", figure, ("contender", "from", "to", "share"), tuple(rows)
    )


def quantiles(
    name: str, functions: Mapping[str, tuple[Array, Array]], weighed: Mapping[str, Weighed], what: str
) -> Chart:
    """Return quantile functions, with the spectrum of each contender's objective beneath.

    Args:
        name: Of the chart's files.
        functions: For each contender levels u and the quantiles there.
        weighed: The objectives that have a spectrum; a contender's own has its name and its colour.
        what: What a value is.
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
        texts = ", ".join(dict.fromkeys(_sized(*pair) for pair in weighed.values()))
        caption += f" Beneath, how much each objective weighs that level: J = ∫ φ(u) Q(u) du, for {texts}."
    _legend(figure, *panels)
    return Chart(
        name,
        "Quantile function" + (" and spectrum" if weighed else ""),
        caption,
        figure,
        ("contender", "curve", "u", "value"),
        tuple(rows),
    )


def _sized(objective: Objective, k: int) -> str:
    return f"{objective} at K = {k}" if objective.is_open else str(objective)


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
    """Return curves over the number of tries k with 95% intervals.

    Args:
        name: Of the chart's files.
        title: Above it.
        curves: For each contender the k, and the values with the ends of their intervals, shape (len(ks), 3).
        what: What a value is, such as "pass@k".
        caption: A sentence below it.
    """
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
    """Return curves over steps with bands, the 95% intervals.

    Args:
        name: Of the chart's files.
        title: Above it.
        curves: For each contender the steps, the values and the ends of their intervals, shape (steps, 4).
        what: What a value is.
        caption: A sentence below it.
    """
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
