"""Pictures of the guarded maze: policies on the map, a film of them, and what the factorial found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from maze.loop import TAIL, TRUE_GUARDS, Policy, acting, play, test_rng
from PIL import Image, ImageDraw, ImageFont

import ordergrad as og
from ordergrad.envs import guarded_maze as maze

INK, GRID_LINE = "#2b2f36", "#dcdcd6"
COLOURS = {"mean": "#d55e00", "annealed": "#0072b2", "cvar": "#009e73", "gcvar": "#cc79a7"}
MARKERS = {"mean": "o", "annealed": "s", "cvar": "^", "gcvar": "v"}
GUARD_LABELS = {0.2: "20%\n(truth)", 0.35: "35%", 0.5: "50%", 0.65: "65%", 0.8: "80%", None: "cross-\nentropy"}


# The factorial ------------------------------------------------------------------------------------------------------


def draw_factorial(path: Path, cells: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    """Share of safe seeds and CVaR against the guard rate in training, a curve per objective with 95% intervals."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    arms = {"none": "training episodes unweighted", "tempered": "tempered importance weights"}
    for column, (arm, title) in enumerate(arms.items()):
        for measure, ax in zip(("safe_seeds", "cvar"), axes[:, column], strict=True):
            for i, objective in enumerate(names):
                draw_line(ax, cells, objective, arm, measure, 0.12 * (i - 1.5), names[objective])
            ax.set_xlim(-0.5, len(GUARD_LABELS) - 0.5)
            ax.set_xticks(range(len(GUARD_LABELS)), list(GUARD_LABELS.values()))
            ax.grid(axis="y", color=GRID_LINE, lw=0.7)
            ax.spines[["top", "right"]].set_visible(False)
        axes[0, column].set(title=title, ylim=(-0.03, 1.03))
        axes[1, column].set(xlabel="training episodes with a guard", ylim=(-72, 0))
    axes[0, 0].set_ylabel("share of seeds on the safe way")
    axes[1, 0].set_ylabel("CVaR 5%, mean over seeds")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(names), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_line(
    ax: Axes, cells: Sequence[Mapping[str, Any]], objective: str, arm: str, measure: str, shift: float, label: str
) -> None:
    """One curve; without oversampling all weights are 1, so the point at the truth is in both arms."""
    style = {"color": COLOURS[objective], "marker": MARKERS[objective], "ms": 5, "capsize": 2, "elinewidth": 1}
    points: list[tuple[float, float, float, float]] = []
    for x, guards in enumerate(GUARD_LABELS):
        weights = "none" if guards == TRUE_GUARDS else arm
        for cell in cells:
            if (cell["objective"], cell["guards"], cell["weights"]) == (objective, guards, weights):
                value, low, high = cell[measure]
                points.append((x + shift, value, value - low, high - value))
    fixed = [point for point in points if point[0] < len(GUARD_LABELS) - 1.5]
    for part, line in ((fixed, "-"), (points[len(fixed) :], "none")):
        if part:
            x, y, below, above = np.array(part).T
            ax.errorbar(x, y, [below, above], lw=1.6, ls=line, label=label if line == "-" else None, **style)


# Policies on the map ------------------------------------------------------------------------------------------------


def draw_maze(ax: Axes) -> None:
    first, last = maze.START_CELLS
    size = last - first + 1
    ax.add_patch(Rectangle((-0.5, -0.5), maze.SIZE, maze.SIZE, color="#faf9f5", zorder=0))
    ax.add_patch(Rectangle((first - 0.5, first - 0.5), size, size, color="#e8eef5", zorder=0.5))
    gx, gy = maze.GUARD_ZONE
    ax.add_patch(Rectangle((gx - 0.5, gy - 0.5), 1, 1, facecolor="#fbe3c3", edgecolor="#e69f00", hatch="////", lw=0))
    gx, gy = maze.GOAL
    ax.add_patch(Rectangle((gx - 0.5, gy - 0.5), 1, 1, color="#bfe5d6", zorder=0.5))
    for x, y in np.argwhere(maze.WALLS):
        ax.add_patch(Rectangle((x - 0.505, y - 0.505), 1.01, 1.01, color="#4a5160", lw=0, zorder=1))
    label = {"ha": "center", "va": "center", "fontsize": 8, "zorder": 5}
    ax.text(2, 0, "start", color="white", **label)
    ax.text(5, 0, "guard", color="#ffc861", weight="bold", **label)
    ax.text(7, 2, "goal", color="#7fe0bd", weight="bold", rotation=270, **label)
    ax.plot(2.4, 7, "X", color="black", mec="white", mew=0.6, ms=6, zorder=6)
    ax.text(2.7, 6.98, "caught by the guard", color="white", **(label | {"ha": "left"}))
    ax.set(xlim=(-0.5, 7.5), ylim=(-0.5, 7.5), xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)


def draw_ways(ax: Axes, policy: Policy, colour: str, episodes: int = 60) -> None:
    """Episodes of a policy, and a cross wherever a guard caught one."""
    rng = np.random.default_rng(7)
    guard = rng.random(episodes) < TRUE_GUARDS
    (played,) = play(acting([policy]), [guard], [rng])
    for i in range(episodes):
        way = np.vstack([played.position[played.episode == i], played.end[i : i + 1]])
        ax.plot(*way.T, color=colour, lw=0.9, alpha=0.4, zorder=2, solid_capstyle="round", solid_joinstyle="round")
        ax.plot(*way[0], "o", color=colour, ms=2.5, zorder=3)
        if guard[i] and played.touched[i]:
            points = np.vstack([(way[:-1] + way[1:]) / 2, way[1:]])  # midpoints and targets: the first in the zone
            order = np.concatenate([np.arange(len(way) - 1), np.arange(len(way) - 1) + 0.5])
            inside = (np.floor(points + 0.5) == maze.GUARD_ZONE).all(axis=1)
            first = points[np.where(inside, order, np.inf).argmin()]
            ax.plot(*first, "X", color="black", mec="white", mew=0.6, ms=6, zorder=6)


def draw_policies(path: Path, policies: Mapping[str, tuple[Policy, str]], episodes: int = 50_000) -> None:
    """Two policies on the map, and how their returns are distributed: a title and a colour for each."""
    figure = Figure(figsize=(10, 3.7), facecolor="white")
    maps = figure.add_gridspec(1, 2, left=0.005, right=0.625, top=0.86, bottom=0.02, wspace=0.05)
    plots = figure.add_gridspec(2, 1, left=0.69, right=0.985, top=0.86, bottom=0.14, hspace=0.5)
    below = None
    for column, (title, (policy, colour)) in enumerate(policies.items()):
        rng = test_rng()
        (played,) = play(acting([policy]), [rng.random(episodes) < TRUE_GUARDS], [rng])
        touched = played.touched.mean()
        ax = figure.add_subplot(maps[column])
        draw_maze(ax)
        draw_ways(ax, policy, colour)
        ax.set_title(title, fontsize=11, color=colour, weight="bold", pad=16)
        way = f"{touched:.0%} take the short guarded way"
        if touched < 0.1:
            way = f"{(played.reached & ~played.touched).mean():.1%} take the long safe way"
        ax.text(0.5, 1.015, way, transform=ax.transAxes, ha="center", va="bottom", fontsize=9, color=INK)
        below = figure.add_subplot(plots[column], sharex=below)
        draw_returns(below, played.returns, colour)
        if column == 0:
            below.set_title("Share of episodes by return", fontsize=11, weight="bold", color=INK, pad=20, loc="left")
        else:
            below.set_xlabel("return of an episode  (lowest bar: -100 and below)", fontsize=8.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=180)


def draw_returns(ax: Axes, returns: np.ndarray, colour: str) -> None:
    mean, tail = returns.mean(), float(og.value(returns, TAIL))
    bins, share = np.arange(-100, 20, 2) - 0.5, np.full(len(returns), 100 / len(returns))
    ax.hist(returns.clip(-99.5), bins, weights=share, color=colour, alpha=0.9, log=True, zorder=2)
    ax.set(xlim=(-100, 18), ylim=(0.01, 100), yticks=[0.01, 1, 100], yticklabels=["0.01%", "1%", "100%"])
    ax.set_yticks([], minor=True)
    ax.grid(axis="y", color=GRID_LINE, lw=0.7)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(labelsize=8, colors=INK, length=2)
    ax.axvline(tail, color=INK, lw=1.1, ls=(0, (4, 2)), zorder=3)
    ax.axvline(mean, color=INK, lw=1.1, zorder=3)
    label = {"fontsize": 8.5, "transform": ax.get_xaxis_transform(), "color": INK, "va": "bottom", "ha": "right"}
    ax.text(tail + (0 if tail < -50 else -14), 1.03, f"worst 5%: {tail:.1f}", **label)
    ax.text(18, 1.03, f"mean {mean:.1f}", **label)


def draw_film(path: Path, policies: Mapping[str, tuple[Policy, str]]) -> None:
    """Two policies in the same episodes, drawn by the environment: same starts, same guards."""
    side, font, starts = 300, ImageFont.load_default(16), [(3, 1), (1, 2), (3, 2), (2, 1)]
    film: list[Image.Image] = []
    for episode, (start, guard) in enumerate(zip(starts, [True, False, False, True], strict=True)):
        shots = [filmed(policy, episode, {"start": start, "guard": guard}) for policy, _ in policies.values()]
        for i in range(max(map(len, shots)) + 6):
            frame = Image.new("RGB", (2 * side + 12, side + 26), "white")
            draw = ImageDraw.Draw(frame)
            for column, (title, (_, colour)) in enumerate(policies.items()):
                pixels, total = shots[column][min(i, len(shots[column]) - 1)]
                frame.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS), (312 * column, 26))
                draw.text((312 * column + 2, 3), f"{title}: return {total:.0f}", fill=colour, font=font)
            film.append(frame)
    sample = Image.new("RGB", (film[0].width, 4 * film[0].height))
    for i in range(4):
        sample.paste(film[(2 * i + 1) * len(film) // 8], (0, i * film[0].height))
    palette = sample.quantize(128, method=Image.Quantize.MAXCOVERAGE)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in film]
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=180, loop=0, optimize=True)


def filmed(policy: Policy, episode: int, options: dict[str, Any]) -> list[tuple[np.ndarray, float]]:
    """The frames of an episode, each with the return so far."""
    env, rng, act = maze.GuardedMaze(render_mode="rgb_array"), np.random.default_rng(episode), acting([policy])
    _, info = env.reset(seed=143 + episode, options=options)  # guards of average cost, about 30
    shots, total, over = [(env.render(), 0.0)], 0.0, False
    while not over:
        action = act(info["position"][None], np.zeros(1, int), rng.random(1))[0]
        _, reward, terminated, truncated, info = env.step(action)
        total, over = total + reward, terminated or truncated
        shots.append((env.render(), total))
    return shots
