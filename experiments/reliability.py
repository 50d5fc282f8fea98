"""Reliability: what min@k, CVaR and their mixtures pay for at each success rate, and how often they have a signal.

For rewards of 0 and 1 everything is exact: the objective of a prompt is a function J(p) of its success rate p, and an
update is worth J'(p) to that prompt, times p (1 - p) in its logit. The share of groups without a signal is a sum over
the binomial distribution of successes. Ranking among all of a batch (`group="batch"`) is only consistent: its bias is
found by enumerating every batch of a small case.

    python experiments/reliability.py --results experiments/results/reliability --images docs/images

Seconds on one core, no randomness. What the numbers mean: docs/reliability.md.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import study
from scipy.stats import binom

import ordergrad as og
from ordergrad.adapters.completions import batch_advantages

OBJECTIVES = (
    *("mean", "max@4", "min@2", "min@4", "cvar:0.25@7", "0.5*mean+0.5*min@4", "0.9*mean+0.1*min@4", "bottom:2@4"),
)
RATES = (0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98)
N = 8


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/reliability")
    prompts: tuple[int, ...] = field(default=(2, 3, 4), metadata={"help": "prompts of the batches that are enumerated"})


def worth(objective: str, p: float, n: int = N) -> float:
    """Return J'(p): what the update on a group of n pays, on average, for a small rise of the success rate."""
    outcomes = (np.arange(n) < np.arange(n + 1)[:, None]).astype(float)
    score = (outcomes - p) / (p * (1 - p))
    return float(binom.pmf(np.arange(n + 1), n, p) @ (og.advantages(outcomes, objective) * score).mean(1))


def no_signal(objective: str, p: float, n: int = N) -> float:
    """Return the share of groups of n whose advantages are all zero."""
    outcomes = (np.arange(n) < np.arange(n + 1)[:, None]).astype(float)
    idle = (og.advantages(outcomes, objective) == 0).all(1)
    return float(binom.pmf(np.arange(n + 1), n, p) @ idle)


def climb(objective: str, p: float, steps: int = 200, rate: float = 0.5) -> float:
    """Return where gradient ascent on the logit of one prompt's success rate leads: where an objective starves."""
    logit = np.log(p / (1 - p))
    for _ in range(steps):
        now = 1 / (1 + np.exp(-logit))
        logit += rate * worth(objective, float(np.clip(now, 1e-9, 1 - 1e-9))) * now * (1 - now)
    return float(1 / (1 + np.exp(-logit)))


def batch_bias(objective: str, rates: Sequence[float], n: int, prompts: int) -> list[float]:
    """Return the relative bias of the gradient of each prompt's logit, by enumeration of every batch.

    The exact gradient is that of K independent draws from the mixture over equally likely prompts.
    """
    values, k = np.array(rates), int(objective.removeprefix("min@"))
    exact = k * values.mean() ** (k - 1) * values * (1 - values) / len(values)
    outcomes = np.array(list(itertools.product((0.0, 1.0), repeat=prompts * n))).reshape(-1, prompts, n)
    owner = np.repeat(np.arange(prompts), n)
    advantages = np.array([batch_advantages(batch.ravel(), owner, objective) for batch in outcomes])
    advantages = advantages.reshape(outcomes.shape)
    gradient = np.zeros(len(values))
    for drawn in itertools.product(range(len(values)), repeat=prompts):
        p = values[list(drawn)][:, None]
        chance = np.where(outcomes == 1, p, 1 - p).prod((1, 2)) / len(values) ** prompts
        terms = (advantages * (outcomes - p)).sum(2) / (prompts * n)
        np.add.at(gradient, list(drawn), chance @ terms)
    return (gradient / exact - 1).tolist()


def draw(path: Path) -> None:
    """Draw what a rise of the success rate is worth, and the share of groups without a signal."""
    from ordergrad.runs.plots import draw_curve, new_figure, save

    figure, (left, right) = new_figure(2, "Reliability: rewards of 0 and 1, groups of 8")
    rates = np.linspace(0.01, 0.99, 99)
    for index, objective in enumerate(OBJECTIVES[:7]):
        draw_curve(left, index, objective, rates, [worth(objective, p) * p * (1 - p) for p in rates])
        draw_curve(right, index, objective, rates, [no_signal(objective, p) for p in rates])
    left.set(xlabel="success rate p of a prompt", ylabel="gradient in the logit of p", ylim=(0, None))
    right.set(xlabel="success rate p of a prompt", ylabel="groups without a signal", ylim=(0, 1))
    left.legend(frameon=False, fontsize=8)
    save(figure, path)


def main(argv: list[str] | None = None) -> None:
    options = study.parse(Options, "Tabulate what reliability objectives pay for.", argv)
    with study.Study(__file__, options, argv) as s:
        rows: list[dict[str, Any]] = study.grid(objective=OBJECTIVES, p=RATES)
        for row in rows:
            pays, p = worth(**row), row["p"]
            found = {
                "worth": pays,
                "gradient": pays * p * (1 - p),
                "no_signal": no_signal(**row),
                "after": climb(**row),
            }
            row |= found
        s.write_table("objectives.csv", rows)
        biases = [
            {"prompts": prompts, "rate": rate, "bias": bias}
            for prompts in options.prompts
            for rate, bias in zip((0.2, 0.9), batch_bias("min@3", (0.2, 0.9), 3, prompts), strict=True)
        ]
        s.write_table("batch_bias.csv", biases)
        s.write_summary({"objectives": OBJECTIVES, "rates": RATES, "group size": N})
        draw(s.images / "reliability.png")


if __name__ == "__main__":
    main()
