"""Graded rewards with hard prompts: what ranking among all of a batch does to the worst completions of all.

One prompt in ten is hard: its rewards are low and rise with the effort of the answer, where effort costs the others a
little. The policy is a softmax over eight efforts, linear in a noisy sign of how hard the prompt is, so that it can
tell the hard prompts apart (*seen*), or hardly (*hidden*). Batches of 32 prompts x 8 completions, everything equal but
the advantages; the rewards that are measured are those of ten thousand fresh prompts.

    python experiments/hard_prompts.py --results experiments/results/hard_prompts --images docs/images

A minute on one core. What the numbers mean: docs/reliability.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import study

import ordergrad as og
from ordergrad.adapters.completions import batch_advantages

EFFORTS = np.arange(8)
NOISE = {"seen": 0.15, "hidden": 0.6}
CONTENDERS = {
    "mean": ("mean", "prompt"),
    "min@4": ("min@4", "prompt"),
    "cvar:0.25": ("cvar:0.25", "prompt"),
    "cvar:0.1, batch": ("cvar:0.1", "batch"),
    "0.5*mean+0.5*cvar:0.1, batch": ("0.5*mean+0.5*cvar:0.1", "batch"),
}
MEASURES = ("mean", "worst tenth", "hard prompts", "easy prompts", "effort, hard", "effort, easy")


@dataclass(frozen=True)
class Settings:
    """What is trained and how it is measured."""

    steps: int = 1500
    prompts: int = 32
    samples: int = 8
    share: float = 0.1
    rate: float = 0.02
    fresh: int = 10_000


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/hard_prompts")
    seeds: int = field(default=10, metadata={"help": "seeds of each contender"})


def drawn(rng: Any, count: int, share: float, noise: float) -> tuple[Any, Any]:
    """Return whether each prompt is hard, and what the policy sees of it."""
    hard = rng.random(count) < share
    return hard, np.stack([np.ones(count), hard + noise * rng.normal(size=count)], 1)


def rewards_of(rng: Any, hard: Any, effort: Any) -> Any:
    """Return rewards: easy prompts 1 less 0.02 for each unit of effort, hard ones -1 and 0.2 more for each unit."""
    easy = 1 - 0.02 * effort + 0.1 * rng.normal(size=effort.shape)
    return np.where(hard[:, None], -1 + 0.2 * effort + 0.3 * rng.normal(size=effort.shape), easy)


def sampled(rng: Any, weights: Any, seen: Any, count: int) -> tuple[Any, Any]:
    """Return efforts of `count` answers to each prompt, and the probabilities of all efforts."""
    logits = seen @ weights
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    draws = rng.random((len(seen), count, 1))
    return np.minimum((draws > p.cumsum(1)[:, None]).sum(2), len(EFFORTS) - 1), p


def train(settings: Settings, visible: str, contender: str, seed: int) -> dict[str, float]:
    """Train one policy with Adam and measure it on fresh prompts."""
    rng, (objective, group) = np.random.default_rng(seed), CONTENDERS[contender]
    weights, first, second = (np.zeros((2, len(EFFORTS))) for _ in range(3))
    owner = np.repeat(np.arange(settings.prompts), settings.samples)
    for step in range(1, settings.steps + 1):
        hard, seen = drawn(rng, settings.prompts, settings.share, NOISE[visible])
        effort, p = sampled(rng, weights, seen, settings.samples)
        rewards = rewards_of(rng, hard, effort)
        among = group == "batch"
        a = batch_advantages(rewards.ravel(), owner, objective) if among else og.advantages(rewards, objective)
        a = a.reshape(rewards.shape)
        scores = np.eye(len(EFFORTS))[effort] - p[:, None]
        gradient = np.einsum("pd,pn,pna->da", seen, a, scores) / a.size
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weights += settings.rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    fresh = np.random.default_rng(1_000_003 + seed)
    hard, seen = drawn(fresh, settings.fresh, settings.share, NOISE[visible])
    effort, _ = sampled(fresh, weights, seen, 1)
    rewards = rewards_of(fresh, hard, effort)[:, 0]
    found = (rewards.mean(), og.value(rewards, "cvar:0.1"), rewards[hard].mean(), rewards[~hard].mean())
    return dict(zip(MEASURES, map(float, (*found, effort[hard].mean(), effort[~hard].mean())), strict=True))


def draw(rows: list[Mapping[str, Any]], path: Path) -> None:
    """Draw the mean reward against the mean of the worst tenth, one point for each seed."""
    from ordergrad.runs.plots import new_figure, save, style

    figure, axes = new_figure(2, "Graded rewards, one prompt in ten is hard")
    for axis, visible in zip(axes, NOISE, strict=True):
        for index, name in enumerate(CONTENDERS):
            mine = [row for row in rows if row["contender"] == name and row["visible"] == visible]
            x, y = ([row[measure] for row in mine] for measure in ("mean", "worst tenth"))
            axis.scatter(x, y, color=style(index)[0], marker="os^Dv"[index], s=26, alpha=0.8, label=name)
        axis.set(xlabel="mean reward", ylabel="mean of the worst tenth", title=f"hard prompts {visible}")
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)


def main(argv: list[str] | None = None, settings: Settings = Settings()) -> None:
    options = study.parse(Options, "Rank graded rewards among the prompts of a batch.", argv)
    with study.Study(__file__, options, argv) as s:
        s.open(settings)
        tasks = study.grid(visible=NOISE, contender=CONTENDERS, seed=range(options.seeds))
        rows = s.computed("runs.jsonl", tasks, partial(train, settings))
        s.write_table("runs.csv", rows)
        s.write_table("intervals.csv", study.intervals(rows, ("visible", "contender"), MEASURES))
        s.write_summary(settings, seeds=options.seeds)
        draw(rows, s.images / "hard_prompts.png")


if __name__ == "__main__":
    main()
