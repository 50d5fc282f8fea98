"""What an objective weighs: numbers, a drawing for the terminal, and figures."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ordergrad.objectives import Elementary, Level, Objective
from ordergrad.spec import parse
from ordergrad.weights import level_note, open_k, rank_weights, sample_weights, spectrum

Array = NDArray[np.float64]
_LARGEST = 10_000
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#777777"


@dataclass(frozen=True)
class Explanation:
    """The numbers behind an objective at one group size.

    Attributes:
        objective: The objective.
        n: The group size N.
        k: The comparison size that levels without @K take in advantages, and at least the largest one named.
        terms: For every term its coefficient, its string and the first sentence about it.
        alpha: Rank weights at comparison size k, ascending ranks, shape (k,).
        w: Sample weights of the value, shape (n,); levels without @K take K = n there.
        mass: Pairs (share of the absolute spectrum, level u below which it lies).
        risks: For each reward distribution its name, the finite-K objective, and the population risk that the
            objective is named after (None if it is not named after one).
        note: A sentence on levels that the group cannot hold, such as ``cvar:0.01`` in groups of 8; often empty.
    """

    objective: Objective
    n: int
    k: int
    terms: tuple[tuple[float, str, str], ...]
    alpha: Array
    w: Array
    mass: tuple[tuple[float, float], ...]
    risks: tuple[tuple[str, float, float | None], ...]
    note: str


def explain(objective: str | Objective, n: int | None = None) -> Explanation:
    """Return what an objective weighs in a group of n rewards.

    Args:
        objective: An objective or its string.
        n: The group size, up to 10,000; default 16, or twice the largest comparison size if that is more.

    Raises:
        ValueError: The comparison size does not fit the group, or the group is too large.

    Example:
        >>> explain("cvar:0.25", 9).alpha
        array([0.5, 0.5, 0. , 0. , 0. , 0. , 0. , 0. ])
    """
    objective = parse(objective)
    named = objective.largest_size
    twice = "" if n is not None else f", twice the size of {objective}"
    n = max(16, 2 * named) if n is None else n
    if n > _LARGEST:
        raise ValueError(f"n must satisfy n <= {_LARGEST} to be explained; got n={n}{twice}")
    if named > n >= 1:
        raise ValueError(f"k must satisfy 1 <= k <= n; got k={named}, n={n}")
    w = sample_weights(objective, n)
    k = max(named, open_k(n, "leave_one_out")) if objective.is_open else named
    u = (np.arange(20_000) + 0.5) / 20_000
    share = np.cumsum(np.abs(spectrum(objective, u, k=k)))
    return Explanation(
        objective=objective,
        n=n,
        k=k,
        terms=tuple((c, str(part), (inspect.getdoc(type(part)) or "").split("\n")[0]) for c, part in objective.terms()),
        alpha=rank_weights(objective, k),
        w=w,
        mass=tuple((part, float(np.interp(part, share / share[-1], u))) for part in _SHARES if share[-1] > 0),
        risks=_risks(objective, k),
        note=level_note(objective, n),
    )


def compare(objectives: Sequence[str | Objective], n: int | None = None) -> list[Explanation]:
    """Return what several objectives weigh in a group of one size, as `explain`.

    Example:
        >>> [result.k for result in compare(["mean", "max@12", "median"])]
        [1, 12, 23]
    """
    n = max(explain(objective).n for objective in objectives) if n is None else n
    return [explain(objective, n) for objective in objectives]


def shares(objective: str | Objective, k: int) -> tuple[float, float, float]:
    """Return the weight of the worst tenth of outcomes, of those between, and of the best tenth.

    Example:
        >>> shares("mean", 1)
        (0.1, 0.8, 0.1)
    """
    u = (np.arange(20_000) + 0.5) / 20_000
    phi = spectrum(objective, u, k=k) / len(u)
    cut = len(u) // 10
    parts = (phi[:cut], phi[cut:-cut], phi[-cut:])
    return cast("tuple[float, float, float]", tuple(round(float(part.sum()), 6) + 0.0 for part in parts))


def _risks(objective: Objective, k: int) -> tuple[tuple[str, float, float | None], ...]:
    """Return the finite-K objective and its population risk, for a normal and for a heavy-tailed reward."""
    from scipy.stats import norm, t

    logit = np.linspace(-36, 36, 4001)
    u = 1 / (1 + np.exp(-logit))
    du = u * (1 - u) * (logit[1] - logit[0])
    edges = 1 / (1 + np.exp(-np.linspace(-36, 36, 400_000)))
    between = (edges[1:] + edges[:-1]) / 2
    levels = [(c, part) for c, part in objective.terms() if _is_level(part)]
    rows: list[tuple[str, float, float | None]] = []
    for name, law in (("normal, sd 1", norm()), ("Student t, 3 df", t(3))):
        quantiles, fine = np.asarray(law.ppf(u), np.float64), np.asarray(law.ppf(between), np.float64)
        finite = float(np.sum(quantiles * du * spectrum(objective, u, k=k)))
        population: float | None = finite if levels else None
        for c, part in levels:
            own = float(np.sum(quantiles * du * spectrum(part, u, k=k)))
            limit = float(np.sum(fine * np.diff(part.cumulative(edges))))
            population = (population or 0.0) + c * (limit - own)
        rows.append((name, finite, population))
    return tuple(rows)


def _is_level(part: Elementary) -> bool:
    """Return whether an objective of any comparison size is named after a population functional."""
    return isinstance(part, Level) and part.has_population


def draw(objective: str | Objective, k: int, width: int = 64, height: int = 10) -> str:
    """Return the spectrum as text: one column per level of u, blocks of eighths.

    Example:
        >>> print(draw("max@3", 3, width=8, height=2))
           2.6 │     ▁▄█
             0 │ ▁▂▃▆███
               └────────
                u=0    1
    """
    u = (np.arange(width) + 0.5) / width
    phi = spectrum(objective, u, k=k)
    top, bottom = max(float(phi.max()), 0.0), min(float(phi.min()), 0.0)
    step = (top - bottom) / height or 1.0
    rows_below = math.ceil(-bottom / step - 1e-9)
    lines: list[str] = []
    for row in range(math.ceil(top / step - 1e-9) - 1, -rows_below - 1, -1):
        cells = [_cell(value / step - row, row >= 0) for value in phi]
        edge = (row + 1) * step if row > 0 or (row == 0 and rows_below) else row * step
        label = f"{edge:.2g}" if row in (math.ceil(top / step - 1e-9) - 1, -rows_below) else ""
        if row == 0 and not rows_below:
            label = "0"
        lines.append(f"{label:>6} │{''.join(cells)}")
    axis = "u=0" + "1".rjust(width - 3)
    return "\n".join([*lines, " " * 7 + "└" + "─" * width, " " * 8 + axis])


def spark(objective: str | Objective, k: int, width: int = 20) -> str:
    """Return the spectrum as one line of text, scaled to its largest value; negative weights hang from the top.

    Example:
        >>> spark("max@3", 3, width=8)
        '  ▁▂▃▄▆█'
    """
    phi = spectrum(objective, (np.arange(width) + 0.5) / width, k=k)
    scaled = phi / (np.abs(phi).max() or 1.0)
    return "".join(_cell(value if value >= 0 else 1 + value, bool(value >= 0)) for value in scaled.tolist())


def _cell(excess: float, above_axis: bool) -> str:
    """Return the block for a bar that fills the cell up to `excess` (from below, or from the axis above it)."""
    filled = min(max(excess if above_axis else 1 - excess, 0.0), 1.0)
    return (" ▁▂▃▄▅▆▇█" if above_axis else " ▔▔▔▀▀▀▀█")[round(filled * 8)]


def save_figure(explanation: Explanation, path: Path) -> None:
    """Write the picture: the spectrum with its population limit, and the weights of a sorted group."""
    from matplotlib.figure import Figure

    objective, k, n = explanation.objective, explanation.k, explanation.n
    picture: Any = Figure(figsize=(9.0, 3.6), layout="constrained", dpi=150)
    left, right = picture.subplots(1, 2)
    u = np.linspace(0, 1, 801)
    phi = spectrum(objective, u, k=k)
    left.fill_between(u, phi, color=_BLUE, alpha=0.25, linewidth=0)
    left.plot(u, phi, color=_BLUE, linewidth=2, label=f"comparison size {k}")
    limit = population_spectrum(objective, u)
    if limit is not None:
        left.plot(u, limit, color=_ORANGE, linewidth=1.5, linestyle="--", label="population")
    left.axhline(0, color=_GREY, linewidth=0.8)
    left.set(xlim=(0, 1), xlabel="quantile level u of the reward (0 = worst)", ylabel="spectrum φ(u)")
    left.set_title("What the objective weighs", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    rank = np.arange(1, n + 1)
    if n <= 64:
        right.bar(rank, explanation.w, color=_BLUE, width=0.8)
    else:
        right.fill_between(rank, explanation.w, step="mid", color=_BLUE, alpha=0.8)
    right.axhline(0, color=_GREY, linewidth=0.8)
    right.set(xlabel=f"rank in a group of {n} (1 = worst)", ylabel="sample weight")
    right.set_title("Weight of each reward in the value", loc="left", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    picture.suptitle(str(objective), fontsize=12, fontweight="bold", x=0.01, ha="left")
    picture.savefig(path)


def save_comparison(explanations: Sequence[Explanation], path: Path) -> None:
    """Write one picture of several objectives at one group size."""
    from ordergrad.runs import plots

    u = np.linspace(0, 1, 801)
    weights = {str(found.objective): (spectrum(found.objective, u, k=found.k), found.w) for found in explanations}
    plots.save(plots.spectra(weights, f"Groups of {explanations[0].n}"), path)


def population_spectrum(objective: Objective, u: Array) -> Array | None:
    """Return the spectrum with every level at its population limit, None where there is no such function."""
    levels = [part for _, part in objective.terms() if _is_level(part)]
    if not levels:
        return None
    total = np.zeros_like(u)
    try:
        for c, part in objective.terms():
            total += c * spectrum(part.at(None) if part in levels else part, u)
    except ValueError:
        return None
    return np.where(np.isfinite(total), total, np.nan)
