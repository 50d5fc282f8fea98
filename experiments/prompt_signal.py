"""Signal per generated token: how much of what is sampled teaches anything, and a K for each prompt.

With rewards of 0 and 1 the advantages of a group depend on its number of successes alone, so everything about a prompt
with a known success rate is a finite sum. The success rates are those that the study of Countdown measured on held-out
problems, before training and after it with GRPO and with max@4.

A K for each prompt: max@K with K = 1/p rounded, from 1 to a largest K, p the true success rate of the prompt or that of
its last `memory` completions.

    python experiments/prompt_signal.py --results experiments/results/prompt_signal

Exact, seconds on one core. What the numbers mean: docs/studies/prompt_signal.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import study
from scipy.stats import binom

import ordergrad as og
from ordergrad.adapters.pass_rates import k_for_rate

N = 8
COUNTDOWN = Path(__file__).parent / "results" / "llm_countdown" / "runs.jsonl"
OBJECTIVES = ("mean", "max@4", "top:2@4", "maxrl", "min@4", "0.5*mean+0.5*min@4")
RULES = tuple((largest, memory) for largest in (N - 1, N // 2) for memory in (0, 8, 32))
"""The largest K, and the completions from which the success rate is estimated; 0: it is known."""
STATES = {"start": ("start", 0), "grpo": ("grpo", 300), "max@4": ("max@4", 300)}


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/prompt_signal")
    rates: Path = COUNTDOWN


def advantages_by_count(objective: str) -> Any:
    """Return the advantages of groups with 0 to N successes: shape (N + 1, N), the successes first."""
    return og.advantages((np.arange(N) < np.arange(N + 1)[:, None]).astype(float), objective)


def chances_of_k(p: Any, largest: int, memory: int) -> Any:
    """Return the chance of each K for prompts with success rates p, shape (prompts, largest)."""
    ks = np.arange(1, largest + 1)
    if not memory:
        return (k_for_rate(p, largest)[:, None] == ks).astype(float)
    counts = np.arange(memory + 1)
    return binom.pmf(counts, memory, p[:, None]) @ (k_for_rate(counts / memory, largest)[:, None] == ks)


def moments(objective: str, p: Any) -> dict[str, Any]:
    """Return for each prompt the chance of a signal, and mean and mean square of the update of its logit.

    The update is mean(A * score) over a group, the score of a completion in the logit being its reward less p.
    """
    a = advantages_by_count(objective)
    rewards = (np.arange(N) < np.arange(N + 1)[:, None]).astype(float)
    chances = binom.pmf(np.arange(N + 1), N, p[:, None])
    updates = np.stack([(a * (rewards - rate)).mean(1) for rate in p])
    return {
        "signal": chances @ (np.abs(a) > 1e-12).any(1),
        "update": (chances * updates).sum(1),
        "square": (chances * updates**2).sum(1),
    }


def measured(p: Any, found: Mapping[str, Any], tokens: float) -> dict[str, float]:
    """Return what a scheme gets out of one group of every prompt."""
    varied = float((1 - p**N - (1 - p) ** N).mean())
    signal = float(found["signal"].mean())
    noise = float((found["square"] - found["update"] ** 2).sum())
    weights = found["update"] / np.maximum(p * (1 - p), 1e-12)
    known = (p > 0) & (p < 1)
    rare, half = (float(weights[known & chosen].mean()) for chosen in (p <= 0.1, (p > 0.3) & (p < 0.7)))
    return {
        "signal": signal,
        "per 1000 tokens": 1000 * signal / (N * tokens),
        "groups generated for one": 1 / signal,
        "kept in vain": max(0.0, 1 - signal / varied),
        "signal to noise": float((found["update"] ** 2).sum()) / noise,
        "rare over even": rare / half,
    }


def by_prompt(p: Any, largest: int, memory: int) -> dict[str, Any]:
    """Return the moments of max@K with a K for each prompt."""
    chances = chances_of_k(p, largest, memory)
    each = [moments(f"max@{k}", p) for k in range(1, largest + 1)]
    return {name: sum(chances[:, i] * found[name] for i, found in enumerate(each)) for name in each[0]}


def rates_of(records: Sequence[Mapping[str, Any]], contender: str, step: int) -> tuple[Any, float]:
    """Return the success rates of all problems of all runs of a contender, and the mean length of answers."""
    mine = [r for r in records if (r["contender"], r["step"]) == (contender, step) and r["part"] in ("study", "start")]
    return np.concatenate([r["successes"] for r in mine]) / 64, float(np.mean([r["tokens"] for r in mine]))


def main(argv: list[str] | None = None) -> None:
    options = study.parse(Options, "Tabulate the signal of groups on measured success rates.", argv)
    with study.Study(__file__, options, argv) as s:
        s.open({"group size": N})
        records = study.read_records(options.rates)
        rows: list[study.Record] = []
        for state, (contender, step) in STATES.items():
            p, tokens = rates_of(records, contender, step)
            schemes = {name: moments(name, p) for name in OBJECTIVES}
            for largest, memory in RULES:
                known = f"last {memory}" if memory else "true rate"
                schemes[f"K to {largest} by {known}"] = by_prompt(p, largest, memory)
            rows += [{"state": state, "scheme": name, **measured(p, x, tokens)} for name, x in schemes.items()]
        s.write_table("signal.csv", rows)
        s.write_summary({"group size": N, "objectives": OBJECTIVES, "rules": RULES, "states": STATES})


if __name__ == "__main__":
    main()
