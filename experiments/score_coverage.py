"""Coverage of the intervals of `ordergrad score` on logs of 0/1 rewards: how often they hold the expectation.

Logs are drawn from prompts whose success rates are beta distributed (or all the same). Five intervals of the mean,
pass@4 and the mean of the worst tenth:

* `ordergrad score`'s;
* the same with C - 1 degrees of freedom, C the number of prompts;
* that with the jackknife over prompts (CR3) as its error;
* Student's over prompts, the steps of each averaged;
* Student's over groups, as if the groups of a prompt at several steps were of different prompts.

    python experiments/score_coverage.py --results experiments/results/score_coverage
    python experiments/score_coverage.py --repetitions 100
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import study
from scipy.stats import t

import ordergrad as og
from ordergrad.score.means import bounded_interval
from ordergrad.score.summary import Summary

OBJECTIVES = ("mean", "max@4", "cvar:0.1@8")
INTERVALS = (
    *("ordergrad score", "C - 1 degrees of freedom", "jackknife over prompts"),
    *("Student over prompts", "Student over groups"),
)


class Law(NamedTuple):
    """A law of logs: prompts, tries of each at a step, steps, and the beta distribution of success rates."""

    name: str
    prompts: int
    tries: int
    steps: int
    a: float
    b: float


LAWS = (
    Law("3%, one rate", 40, 8, 1, 3e5, 97e5),
    Law("3%, rates differ", 40, 8, 1, 0.3, 9.7),
    Law("3%, rates differ much", 40, 8, 1, 0.1, 3.2),
    Law("1%, rates differ", 40, 8, 1, 0.1, 9.9),
    Law("27%", 40, 8, 1, 0.4, 1.1),
    Law("27%, 20 steps", 40, 8, 20, 0.4, 1.1),
    Law("3%, 20 steps", 40, 8, 20, 0.3, 9.7),
    Law("97%", 40, 8, 1, 9.7, 0.3),
    Law("20%, 10 prompts", 10, 8, 1, 0.4, 1.6),
    Law("20%, 300 prompts", 300, 16, 1, 0.4, 1.6),
)


def expectations(law: Law) -> list[float]:
    """Return the exact value of every objective over prompts."""
    rates = np.random.default_rng(0).beta(law.a, law.b, size=200_000)
    p = np.stack([1 - rates, rates], axis=-1)
    return [float(np.mean(og.exact.value(np.array([0.0, 1.0]), p, objective))) for objective in OBJECTIVES]


def student(values: Any) -> tuple[float, float]:
    """Return the 95% interval of a mean."""
    half = float(t.ppf(0.975, len(values) - 1)) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def bounded(values: Any, rewards: int, jackknife: bool) -> tuple[float, float]:
    """Return the interval of `ordergrad score` with C - 1 degrees of freedom, from the values of C prompts."""
    c = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(c) * math.sqrt(c / (c - 1) if jackknife else 1)
    return bounded_interval(float(values.mean()), error, c, rewards, (0.0, 1.0))


def coverage(law: Law, repetitions: int) -> list[study.Record]:
    """Return coverage and mean half-length of every interval of every objective."""
    truth = expectations(law)
    hits = np.zeros((len(OBJECTIVES), len(INTERVALS)))
    lengths = np.zeros_like(hits)
    at, prompt = np.divmod(np.arange(law.steps * law.prompts), law.prompts)
    sizes = np.full(len(at), law.tries)
    for seed in range(repetitions):
        rng = np.random.default_rng([seed, LAWS.index(law)])
        rate = rng.beta(law.a, law.b, size=law.prompts)
        x = (rng.random((law.steps, law.prompts, law.tries)) < rate[:, None]).astype(float)
        summary = Summary(OBJECTIVES)
        summary.add(x.ravel(), sizes, steps=at.astype(float), units=prompt.astype(np.uint64))
        for j, row in enumerate(summary.tables()["values"]):
            values = og.value(x, row["objective"])
            by_prompt = values.mean(axis=0)
            ends = (
                (row["low"], row["high"]),
                *(bounded(by_prompt, x.size, jackknife) for jackknife in (False, True)),
                *(student(by_prompt), student(values.ravel())),
            )
            for i, (low, high) in enumerate(ends):
                hits[j, i] += low <= truth[j] <= high
                lengths[j, i] += (high - low) / 2
    rows = study.grid(log=[law.name], objective=OBJECTIVES, interval=INTERVALS)
    for row, covered, half in zip(rows, hits.flat, lengths.flat, strict=True):
        row |= {"covered": round(covered / repetitions, 3), "half": round(half / repetitions, 4)}
    return rows


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/score_coverage")
    repetitions: int = field(default=1000, metadata={"help": "logs of each law"})


def main(argv: list[str] | None = None) -> None:
    options = study.parse(Options, "Coverage of the intervals of ordergrad score.", argv)
    clock, settings = time.perf_counter(), {"laws": [law._asdict() for law in LAWS], "repetitions": options.repetitions}
    with study.Study(__file__, options, argv) as s:
        rows = [row for law in LAWS for row in coverage(law, options.repetitions)]
        s.write_table("coverage.csv", rows)
        shown = [(r["log"], r["objective"], r["covered"], r["half"]) for r in rows if r["interval"] == INTERVALS[0]]
        s.show("95% intervals of ordergrad score", ("log", "objective", "covered", "half-length"), shown, left=2)
        s.write_summary(settings, seconds=round(time.perf_counter() - clock))


if __name__ == "__main__":
    main()
