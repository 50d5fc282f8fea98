"""Pathwise or likelihood ratio: which gradient of an objective of ranks has the smaller variance, and from which K on.

Where a reward is a differentiable function of what was sampled, an objective has two unbiased gradients. The pathwise
one differentiates the value through the sort, `og.value(rewards(theta, noise), objective)`. The likelihood-ratio one
needs no derivative of the reward, `og.advantages(rewards, objective)` times the gradient of log p(x; theta). Here both
are computed from the same groups of N samples, for many objectives, K and N, and compared by their variance:

1. *location and scale*: x = mu + sigma * noise, rewards of four shapes of x. The true gradient is computed by
   quadrature, so that it is seen that neither is biased;
2. *double pendulum*: the height of the tip after some seconds, over normally distributed starting angles whose means
   are the parameters. The longer, the more chaotic.

    python experiments/pathwise.py --results experiments/results/pathwise --images docs/images

Ctrl-C stops, `--resume` goes on. Needs `pip install "ordergrad[studies]"`. Results and what they mean:
docs/studies/pathwise.md.

References:
    Mohamed et al. (2020). Monte Carlo gradient estimation in machine learning. JMLR 21.
    Parmas et al. (2018). PIPPS: Flexible model-based policy search robust to the curse of chaos. ICML.
    Metz et al. (2021). Gradients are not all you need. arXiv 2111.05803.
"""

import argparse
import csv
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy.special import ndtr

import ordergrad as og
from ordergrad.runs.console import ending_resumable
from ordergrad.runs.folder import open_folder, provenance, write_csv, write_json
from ordergrad.runs.plots import new_figure, save, style
from ordergrad.runs.statistics import interval

jax.config.update("jax_enable_x64", True)

Array = np.ndarray
SMALLEST = 1e-4  # length of a gradient worth estimating; the rewards vary by about 1
HEADER = (
    "problem",
    "n",
    "objective",
    "k",
    "ratio",
    "low",
    "high",
    "pathwise",
    "likelihood",
    "z_pathwise",
    "z_likelihood",
)


@dataclass(frozen=True)
class Settings:
    """How many samples, and what is compared."""

    samples: int = 1 << 18  # for each group size, in groups
    chaotic_samples: int = 1 << 18
    batches: int = 32  # of groups, for the intervals
    sizes: tuple[int, ...] = (16, 64, 256)
    mu: float = 0.0
    sigma: float = 1.0
    quadrature: int = 400_001
    horizons: tuple[float, ...] = (1.0, 2.0, 4.0)  # seconds
    time_step: float = 0.02
    angles: tuple[float, float] = (1.6, 1.2)
    spread: float = 0.2  # of the starting angles


def objectives(n: int) -> list[tuple[str, int, str]]:
    """Return kind, K and objective for a group of n: powers of two below n, and n - 1 for those of levels."""
    ks = [k for k in (2, 4, 8, 16, 32, 64, 128, 256) if k < n] + [n - 1]
    found = [("mean", 1, "mean"), ("gini", 2, "gini")]
    found += [("max", k, f"max@{k}") for k in ks]
    found += [("cvar:0.1", k, f"cvar:0.1@{k}") for k in ks]
    return found + [("median", k, f"median@{k}") for k in ks]


class Samples(NamedTuple):
    """Groups of samples: rewards (groups, n), and two vectors a sample, (groups, n, parameters)."""

    rewards: Array
    slope: Array  # the derivative of the reward with respect to the parameters, the noise held fixed
    score: Array  # the derivative of log p of the sample with respect to the parameters


# Both gradients -----------------------------------------------------------------------------------------------------


def pathwise(samples: Samples, objective: str) -> Array:
    """Return the pathwise gradient of every group, shape (groups, parameters)."""
    rewards = torch.from_numpy(samples.rewards).requires_grad_()
    (weights,) = torch.autograd.grad(og.value(rewards, objective).sum(), rewards)
    return np.einsum("gn,gnp->gp", weights.numpy(), samples.slope)


def likelihood_ratio(samples: Samples, objective: str) -> Array:
    """Return the likelihood-ratio gradient of every group, shape (groups, parameters)."""
    advantages = og.advantages(samples.rewards, objective)
    return np.einsum("gn,gnp->gp", advantages, samples.score) / samples.rewards.shape[1]


def compare(samples: Samples, objective: str, batches: int, truth: Array | None) -> tuple[float, ...]:
    """Return the ratio of the variances with its interval, both noise-to-signal ratios, both distances from the truth.

    The variance is summed over the parameters. Noise to signal is its root over the length of the true gradient; the
    distance is in standard errors, the largest over the parameters. Without a truth, both averages together stand for
    it. Where the true gradient is next to nothing all are NaN: it comes from groups too rare to be sampled.
    """
    if truth is not None and np.linalg.norm(truth) < SMALLEST:
        return (math.nan,) * 7
    ours, theirs = pathwise(samples, objective), likelihood_ratio(samples, objective)
    variances = [
        [part.var(axis=0, ddof=1).sum() for part in np.array_split(gradients, batches)] for gradients in (ours, theirs)
    ]
    logs = np.log(np.maximum(variances[0], 1e-300)) - np.log(variances[1])
    ratio, low, high = np.exp(interval([np.array([x]) for x in logs]))
    if truth is None:
        truth = (ours.mean(axis=0) + theirs.mean(axis=0)) / 2
    size = max(float(np.linalg.norm(truth)), 1e-12)
    noise = [float(np.sqrt(gradients.var(axis=0, ddof=1).sum())) / size for gradients in (ours, theirs)]
    distance = [float(np.max(np.abs(away(gradients, truth)))) for gradients in (ours, theirs)]
    return float(ratio), float(low), float(high), *noise, *distance


def away(gradients: Array, truth: Array) -> Array:
    """Return how many standard errors the average of the gradients is from the truth; rounding does not count."""
    error = gradients.std(axis=0, ddof=1) / np.sqrt(len(gradients))
    return (gradients.mean(axis=0) - truth) / np.maximum(error, 1e-9)


# Location and scale -------------------------------------------------------------------------------------------------

SHAPES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array], str]] = {
    "linear": (lambda x: x, np.ones_like, "x"),
    "peak": (lambda x: -((x - 1) ** 2), lambda x: -2 * (x - 1), "-(x-1)^2"),
    "rugged": (lambda x: x + 0.25 * np.sin(20 * x), lambda x: 1 + 5 * np.cos(20 * x), "x + sin(20x)/4"),
    "step": (
        lambda x: 0.5 * (1 + np.tanh(10 * (x - 1.5))),
        lambda x: 5 / np.cosh(np.clip(10 * (x - 1.5), -300, 300)) ** 2,
        "a smooth step at 1.5",
    ),
}


def drawn(shape: str, n: int, settings: Settings, rng: np.random.Generator) -> Samples:
    """Return groups of n samples; the parameters are mu and sigma."""
    function, derivative, _ = SHAPES[shape]
    noise = rng.standard_normal((settings.samples // n, n))
    x = settings.mu + settings.sigma * noise
    slope = derivative(x)[..., None] * np.stack([np.ones_like(noise), noise], axis=-1)
    score = np.stack([noise, noise**2 - 1], axis=-1) / settings.sigma
    return Samples(function(x), slope, score)


@cache
def true_gradient(shape: str, objective: str, settings: Settings) -> tuple[Array, Array]:
    """Return the gradient by quadrature over a fine grid of the noise, in both ways: they must agree."""
    function, derivative, _ = SHAPES[shape]
    edges = np.linspace(-9, 9, settings.quadrature + 1)
    noise = (edges[1:] + edges[:-1]) / 2
    probabilities = np.where(edges[1:] < 0, ndtr(edges[1:]) - ndtr(edges[:-1]), ndtr(-edges[:-1]) - ndtr(-edges[1:]))
    probabilities = probabilities / probabilities.sum()
    x = settings.mu + settings.sigma * noise
    both = np.stack([np.ones_like(noise), noise])
    score = np.stack([noise, noise**2 - 1]) / settings.sigma
    rewards = function(x)
    by_score = score @ (probabilities * og.exact.advantages(rewards, probabilities, objective))
    torch_rewards = torch.from_numpy(rewards).requires_grad_()
    og.exact.value(torch_rewards, torch.from_numpy(probabilities), objective).backward()
    assert torch_rewards.grad is not None
    return (both * derivative(x)) @ torch_rewards.grad.numpy(), by_score


# Double pendulum ----------------------------------------------------------------------------------------------------


def tip_height(angles: jax.Array, horizon: float, time_step: float) -> jax.Array:
    """Return the height of the tip of a double pendulum, from rest; unit lengths and masses, Runge-Kutta of order 4."""
    jnp, gravity = jax.numpy, 9.81

    def motion(state: jax.Array) -> jax.Array:
        one, two, w1, w2 = state
        gap = one - two
        share = 3 - jnp.cos(2 * gap)
        pull = w2**2 + w1**2 * jnp.cos(gap)
        a1 = -3 * gravity * jnp.sin(one) - gravity * jnp.sin(one - 2 * two) - 2 * jnp.sin(gap) * pull
        pull = 2 * w1**2 + 2 * gravity * jnp.cos(one) + w2**2 * jnp.cos(gap)
        return jnp.stack([w1, w2, a1 / share, 2 * jnp.sin(gap) * pull / share])

    def step(state: jax.Array, _: None) -> tuple[jax.Array, None]:
        a = motion(state)
        b = motion(state + time_step / 2 * a)
        c = motion(state + time_step / 2 * b)
        d = motion(state + time_step * c)
        return state + time_step / 6 * (a + 2 * b + 2 * c + d), None

    state = jnp.concatenate([angles, jnp.zeros(2)])
    state, _ = jax.lax.scan(step, state, None, length=round(horizon / time_step))
    return -jnp.cos(state[0]) - jnp.cos(state[1])


def swung(horizon: float, settings: Settings, rng: np.random.Generator) -> Samples:
    """Return all samples as one group; the parameters are the means of the starting angles."""
    noise = rng.standard_normal((settings.chaotic_samples, 2))
    angles = np.array(settings.angles) + settings.spread * noise

    def height(a: jax.Array) -> jax.Array:
        return tip_height(a, horizon, settings.time_step)

    def both(a: jax.Array) -> tuple[jax.Array, jax.Array]:  # forward mode: two parameters, many steps
        return height(a), jax.jacfwd(height)(a)

    rewards, slope = jax.jit(jax.vmap(both))(angles)
    return Samples(np.array(rewards)[None], np.array(slope)[None], noise[None] / settings.spread)


def grouped(samples: Samples, n: int) -> Samples:
    return Samples(*(array.reshape(-1, n, *array.shape[2:]) for array in samples))


# All of it ----------------------------------------------------------------------------------------------------------


def problems(settings: Settings) -> list[str]:
    return [*SHAPES, *(f"pendulum {horizon:g} s" for horizon in settings.horizons)]


def part_path(out: Path, problem: str) -> Path:
    return out / f"{problem.replace(' ', '-')}.csv"


def run_part(problem: str, settings: Settings, advance: Callable[[], None]) -> list[tuple[Any, ...]]:
    """Return one row for every group size and objective."""
    rows: list[tuple[Any, ...]] = []
    rng = np.random.default_rng([17, problems(settings).index(problem)])
    chaotic = swung(float(problem.split()[1]), settings, rng) if problem not in SHAPES else None
    for n in settings.sizes:
        samples = drawn(problem, n, settings, rng) if chaotic is None else grouped(chaotic, n)
        for kind, k, objective in objectives(n):
            truth = None
            if chaotic is None:
                truth, by_score = true_gradient(problem, objective, settings)
                if np.linalg.norm(truth - by_score) > 1e-5 + 1e-3 * np.linalg.norm(truth):
                    raise AssertionError(
                        f"the quadrature is too coarse for {problem}, {objective}: {truth}, {by_score}"
                    )
            found = compare(samples, objective, settings.batches, truth)
            rows.append((problem, n, kind, k, *(f"{x:.4g}" for x in found)))
            advance()
    return rows


def run_all(settings: Settings, out: Path, console: Console) -> list[dict[str, str]]:
    left = [problem for problem in problems(settings) if not part_path(out, problem).exists()]
    each = sum(len(objectives(n)) for n in settings.sizes)
    with Progress(console=console) as progress:
        for problem in left:
            task = progress.add_task(problem, total=each)
            rows = run_part(problem, settings, lambda task=task: progress.advance(task))
            write_csv(part_path(out, problem), HEADER, rows)
    rows = []
    for problem in problems(settings):
        with part_path(out, problem).open(newline="") as file:
            rows += list(csv.DictReader(file))
    return rows


def crossing(rows: list[dict[str, str]], problem: str, n: int, kind: str) -> str:
    """Return from which K on the likelihood ratio has the smaller variance for good, beyond its interval."""
    mine = [r for r in rows if r["problem"] == problem and int(r["n"]) == n and r["objective"] == kind]
    lost = ""
    for row in sorted(mine, key=lambda row: int(row["k"])):
        lost = (lost or row["k"]) if float(row["low"]) > 1 else ""
    return lost or "none"


def show(rows: list[dict[str, str]], settings: Settings, console: Console) -> None:
    n = settings.sizes[-1]
    table = Table(title=f"Variance of the pathwise gradient over that of the likelihood ratio, N = {n}")
    names = list(dict.fromkeys((row["objective"], int(row["k"])) for row in rows if int(row["n"]) == n))
    for heading in ("objective", *problems(settings)):
        table.add_column(heading)
    for kind, k in names:
        cells = [
            next(
                r["ratio"] for r in rows if (r["problem"], int(r["n"]), r["objective"], int(r["k"])) == (p, n, kind, k)
            )
            for p in problems(settings)
        ]
        table.add_row(kind if kind in ("mean", "gini") else f"{kind}@{k}", *cells)
    console.print(table)


def draw(rows: list[dict[str, str]], settings: Settings, path: Path) -> None:
    """Draw the ratio of the variances over K, for the largest groups."""
    n = settings.sizes[-1]
    figure, axes = new_figure(3, f"Variance: pathwise over likelihood ratio, groups of N = {n}")
    for axis, (kind, title) in zip(
        axes, (("max", "max@K"), ("cvar:0.1", "cvar:0.1@K"), ("median", "median@K")), strict=True
    ):
        for index, problem in enumerate(problems(settings)):
            mine = [
                r for r in rows if r["problem"] == problem and int(r["n"]) == n and r["objective"] in (kind, "mean")
            ]
            mine.sort(key=lambda row: int(row["k"]))
            k, ratio, low, high = (np.array([float(row[c]) for row in mine]) for c in ("k", "ratio", "low", "high"))
            colour, dash = style(index)
            axis.fill_between(k, low, high, color=colour, alpha=0.18, linewidth=0)
            axis.plot(k, ratio, color=colour, linestyle=dash, linewidth=1.8, label=problem)
        axis.axhline(1, color="#777777", linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel="comparison size K (K = 1: the mean)", title=title)
        axis.set_xticks([1, 2, 4, 8, 16, 32, 64, 128, 256], ["1", "2", "4", "8", "16", "32", "64", "128", "256"])
        axis.minorticks_off()
    axes[0].set_ylabel("above 1: the likelihood ratio is better")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    save(figure, path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare pathwise and likelihood-ratio gradients of rank objectives.")
    parser.add_argument("--quick", action="store_true", help="a quarter of the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/pathwise"), help="folder of the run")
    parser.add_argument("--results", type=Path, help="folder of the tables [the folder of the run]")
    parser.add_argument("--images", type=Path, help="folder of the pictures [the folder of the run]")
    parser.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    options = parser.parse_args(argv)
    settings = Settings(samples=1 << 16, chaotic_samples=1 << 16) if options.quick else Settings()
    command = " ".join(["python experiments/pathwise.py", *["--quick"] * options.quick])
    out: Path = options.out
    study(settings, out, options.results or out, options.images or out, options.resume, command)


def study(settings: Settings, out: Path, results: Path, images: Path, resume: bool, command: str) -> None:
    console = Console(highlight=False)
    clock = time.perf_counter()
    with ending_resumable(out, console):
        open_folder(out, asdict(settings), kind="study", resume=resume)
        rows = run_all(settings, out, console)
    results.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    write_csv(results / "ratios.csv", HEADER, [[row[name] for name in HEADER] for row in rows])
    distances = np.array(
        [[float(row["z_pathwise"]), float(row["z_likelihood"])] for row in rows if row["problem"] in SHAPES]
    )
    summary = {
        **provenance(command),
        "settings": asdict(settings),
        "seconds": round(time.perf_counter() - clock),
        "largest_distance_from_the_truth_in_standard_errors": np.nanmax(distances, axis=0).tolist(),
        "comparisons_with_the_truth": int(np.isfinite(distances[:, 0]).sum()),
        "likelihood_ratio_better_from_k": {
            f"{problem}, N={n}": {kind: crossing(rows, problem, n, kind) for kind in ("max", "cvar:0.1", "median")}
            for problem in problems(settings)
            for n in settings.sizes
        },
    }
    write_json(results / "summary.json", summary)
    show(rows, settings, console)
    draw(rows, settings, images / "pathwise.png")
    console.print(f"results: {results}/summary.json, ratios.csv; picture: {images}/pathwise.png")


if __name__ == "__main__":
    main()
