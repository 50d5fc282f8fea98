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

Ctrl-C stops, `--resume` goes on. Needs `pip install ".[studies]"`. Results and what they mean:
docs/studies/pathwise.md.

References:
    Mohamed et al. (2020). Monte Carlo gradient estimation in machine learning. JMLR 21.
    Parmas et al. (2018). PIPPS: Flexible model-based policy search robust to the curse of chaos. ICML.
    Metz et al. (2021). Gradients are not all you need. arXiv 2111.05803.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import study
import torch
from scipy import stats
from scipy.special import ndtr

import ordergrad as og
from ordergrad.runs.plots import draw_curve, new_figure, save

jax.config.update("jax_enable_x64", True)

Array = np.ndarray
MEASURES = ("ratio", "low", "high", "pathwise", "likelihood", "z_pathwise", "z_likelihood")
SMALLEST = 1e-4  # length of a gradient worth estimating; the rewards vary by about 1


@dataclass(frozen=True)
class Settings:
    """How many samples, and what is compared."""

    samples: int = 1 << 18  # for each group size, in groups
    chaotic_samples: int = 1 << 18
    blocks: int = 128  # of groups, for the intervals
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


def compare(samples: Samples, objective: str, blocks: int, truth: Array | None) -> dict[str, float]:
    """Return the ratio of the variances with its interval, both noise-to-signal ratios, both distances from the truth.

    The variance is summed over the parameters and pooled over all groups; the interval is a bootstrap over blocks of
    groups. Noise to signal is its root over the length of the true gradient; the distance is in standard errors, the
    largest over the parameters. Without a truth, both averages together stand for it. Where the true gradient is next
    to nothing all are NaN: it comes from groups too rare to be sampled.
    """
    if truth is not None and np.linalg.norm(truth) < SMALLEST:
        return dict.fromkeys(MEASURES, math.nan)
    both = pathwise(samples, objective), likelihood_ratio(samples, objective)
    if truth is None:
        truth = (both[0].mean(axis=0) + both[1].mean(axis=0)) / 2
    size = max(float(np.linalg.norm(truth)), 1e-12)
    noise = [float(np.sqrt(gradients.var(axis=0, ddof=1).sum())) / size for gradients in both]
    distance = [float(np.max(np.abs(away(gradients, truth)))) for gradients in both]
    return dict(zip(MEASURES, (*variance_ratio(*both, blocks), *noise, *distance), strict=True))


def variance_ratio(ours: Array, theirs: Array, blocks: int) -> study.Estimate:
    """Return the variance of our gradients over that of theirs, shapes (groups, parameters), with a 95% interval.

    Averages of ratios of small batches would be biased: with heavy tails most batches miss the rare large gradients.
    """
    apart = [((g - g.mean(axis=0)) ** 2).sum(axis=1) for g in (ours, theirs)]
    sums = [np.array([part.sum() for part in np.array_split(squares, blocks)]) for squares in apart]

    def ratio(a: Array, b: Array, axis: int = -1) -> Array:
        return a.sum(axis=axis) / b.sum(axis=axis)

    found = stats.bootstrap(sums, ratio, paired=True, n_resamples=2000, method="percentile", rng=0).confidence_interval
    return study.Estimate(float(ratio(*sums)), float(found.low), float(found.high))


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


def compared(problem: str, settings: Settings) -> study.Record:
    """Return one row for every group size and objective."""
    rows: list[study.Record] = []
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
            found = compare(samples, objective, settings.blocks, truth)
            rows.append({"problem": problem, "n": n, "objective": kind, "k": k, **found})
    return {"rows": rows}


def of(rows: Sequence[study.Record], **fixed: Any) -> list[study.Record]:
    """Return the rows with some values, by comparison size."""
    found = [row for row in rows if all(row[name] == value for name, value in fixed.items())]
    return sorted(found, key=lambda row: row["k"])


def crossing(rows: Sequence[study.Record], problem: str, n: int, kind: str) -> str:
    """Return from which K on the likelihood ratio has the smaller variance for good, beyond its interval."""
    lost = ""
    for row in of(rows, problem=problem, n=n, objective=kind):
        lost = (lost or str(row["k"])) if row["low"] > 1 else ""
    return lost or "none"


def ratios(rows: Sequence[study.Record], settings: Settings) -> Iterator[Sequence[str]]:
    """Yield the cells of the table that is shown: for the largest groups, a row an objective, a column a problem."""
    n = settings.sizes[-1]
    for kind, k in dict.fromkeys((row["objective"], row["k"]) for row in of(rows, n=n)):
        every = of(rows, n=n, objective=kind, k=k)
        name = kind if kind in ("mean", "gini") else f"{kind}@{k}"
        yield name, *(f"{row['ratio']:.3g}" for p in problems(settings) for row in of(every, problem=p))


def draw(rows: Sequence[study.Record], settings: Settings, path: Path) -> None:
    """Draw the ratio of the variances over K, for the largest groups."""
    n = settings.sizes[-1]
    figure, axes = new_figure(3, f"Variance: pathwise over likelihood ratio, groups of N = {n}")
    titles = {"max": "max@K", "cvar:0.1": "cvar:0.1@K", "median": "median@K"}
    for axis, (kind, title) in zip(axes, titles.items(), strict=True):
        for index, problem in enumerate(problems(settings)):
            mine = of([row for row in of(rows, problem=problem, n=n) if row["objective"] in (kind, "mean")])
            k, ratio, low, high = (study.column(mine, name) for name in ("k", "ratio", "low", "high"))
            draw_curve(axis, index, problem, k, ratio, (low, high))
        axis.axhline(1, color="#777777", linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel="comparison size K (K = 1: the mean)", title=title)
        ticks = [1, 2, 4, 8, 16, 32, 64, 128, 256]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    axes[0].set_ylabel("above 1: the likelihood ratio is better")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    save(figure, path)


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/pathwise")
    quick: bool = field(default=False, metadata={"help": "a quarter of the samples"})


def main(argv: list[str] | None = None) -> None:
    options = study.parse(Options, "Compare pathwise and likelihood-ratio gradients of rank objectives.", argv)
    settings = Settings(samples=1 << 16, chaotic_samples=1 << 16) if options.quick else Settings()
    with study.Study(__file__, options, argv) as s:
        s.open(settings)
        tasks = [{"problem": problem} for problem in problems(settings)]
        records = s.computed("parts.jsonl", tasks, partial(compared, settings=settings))
    rows = [row for record in records for row in record["rows"]]
    title = f"Variance of the pathwise gradient over that of the likelihood ratio, N = {settings.sizes[-1]}"
    s.show(title, ("objective", *problems(settings)), ratios(rows, settings))
    s.write_table("ratios.csv", rows)
    distances = [[row[f"z_{name}"] for name in ("pathwise", "likelihood")] for row in rows if row["problem"] in SHAPES]
    s.write_summary(
        settings,
        largest_distance_from_the_truth_in_standard_errors=study.rounded(np.nanmax(distances, axis=0)),
        comparisons_with_the_truth=int(np.isfinite(np.array(distances)[:, 0]).sum()),
        likelihood_ratio_better_from_k={
            f"{problem}, N={n}": {kind: crossing(rows, problem, n, kind) for kind in ("max", "cvar:0.1", "median")}
            for problem in problems(settings)
            for n in settings.sizes
        },
    )
    draw(rows, settings, s.images / "pathwise.png")


if __name__ == "__main__":
    main()
