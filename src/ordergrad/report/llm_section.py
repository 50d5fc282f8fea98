"""What a report says of runs of `ordergrad train llm`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import value
from ordergrad.objectives import Weights
from ordergrad.report import charts
from ordergrad.runs.folder import EVALUATION, METRICS, read_metrics, run_folder
from ordergrad.runs.statistics import interval, metric_columns, pass_at_k, powers_of_two, read_successes
from ordergrad.runs.tables import Cell, Section, Table, common, highest, interval_text
from ordergrad.spec import parse
from ordergrad.train.llm_settings import GRPO, stages
from ordergrad.weights import open_k, rank_weights

__all__ = ["SHARED", "Models", "load", "section", "together"]

Array = NDArray[Any]
SHARED = ("data", "reward", "samples", "eval_problems", "success")
"""The settings that runs must have in common to be drawn together."""

_CURVES = {
    "reward": "reward",
    "entropy": "entropy",
    "completions/mean_length": "length of a completion",
    "frac_reward_zero_std": "share of prompts with equal rewards",
    "ordergrad/value": "value of the objective",
}


@dataclass(frozen=True)
class Contender:
    """The models trained on one objective, one for each seed.

    Attributes:
        objective: The objective's string, GRPO, or empty for the model that all started from.
        successes: For each evaluated seed the successes on each held-out problem, and the completions of each.
        metrics: The steps and metrics of each seed that was trained.
    """

    objective: str
    successes: tuple[tuple[Array, int], ...]
    metrics: tuple[tuple[Array, Mapping[str, Array]], ...]

    @property
    def weighed(self) -> str:
        """The objective that has a spectrum, of a schedule the last one; empty if there is none."""
        return "" if self.objective == GRPO else stages(self.objective)[1]


@dataclass(frozen=True)
class Models:
    """Runs on one task.

    Attributes:
        settings: The settings, of several folders those that they share.
        contenders: The models of each objective by name.
        notes: What is missing.
    """

    settings: Mapping[str, Any]
    contenders: Mapping[str, Contender]
    notes: tuple[str, ...]


def load(folder: Path, settings: Mapping[str, Any]) -> Models:
    """Return what the folder of a run holds so far."""
    contenders: dict[str, Contender] = {}
    notes: list[str] = []
    for name, start in (("warm start", "warm-start"), ("base model", "base")):
        if (folder / start / EVALUATION).exists():
            contenders[name] = Contender("", (read_successes(folder / start / EVALUATION),), ())
    for name in settings["objectives"]:
        folders = [run_folder(folder, name, seed) for seed in range(settings["seeds"])]
        rows = [read_metrics(path / METRICS) for path in folders]
        evaluated = [path / EVALUATION for path in folders if (path / EVALUATION).exists()]
        if not any(rows) and not evaluated:
            notes.append(f"{name}: not started yet, or the folder has no more than the settings of it.")
        else:
            notes += [
                f"Unfinished: {name}, seed {seed}, is at step {run[-1]['step'] if run else 0:,} of "
                f"{settings['steps']:,} and not evaluated yet."
                for seed, (path, run) in enumerate(zip(folders, rows, strict=True))
                if not (path / EVALUATION).exists()
            ]
        metrics = tuple(metric_columns(run) for run in rows if run)
        contenders[name] = Contender(name, tuple(read_successes(path) for path in evaluated), metrics)
    return Models(settings, contenders, tuple(notes))


def together(runs: Mapping[str, Models]) -> Models:
    """Return several runs as one; they have the same settings `SHARED`."""
    contenders = {f"{name} · {run}": c for run, models in runs.items() for name, c in models.contenders.items()}
    return Models(common([run.settings for run in runs.values()]), contenders, ())


def section(title: str, models: Models, command: str | None) -> Section:
    """Return the section of a report."""
    settings, contenders = models.settings, models.contenders
    drawn: list[charts.Chart | None] = []
    curves = _pass_curves(contenders)
    if any(c.successes for c in contenders.values()):
        text = (
            f"Held-out problems, completions sampled at temperature 1; bands are 95% intervals ({_spread(contenders)})."
        )
        drawn.append(charts.k_curves("pass-at-k", "pass@k", curves, "pass@k", text))
        rates = {name: _solve_rates(c) for name, c in contenders.items()}
        drawn.append(
            charts.distribution("solve-rates", rates, "share of a problem's completions that succeed", "problems")
        )
        functions = {name: _zero_one_quantiles(sample) for name, sample in rates.items()}
        k = open_k(int(settings["samples"]), "leave_one_out")
        weighed = {name: (parse(c.weighed), k) for name, c in contenders.items() if c.weighed}
        drawn.append(charts.quantiles("quantiles", functions, weighed, "success of a completion, 0 or 1"))
    metrics = {name: c.metrics for name, c in contenders.items()}
    caption = "Training completions: the mean over seeds, and the band from the lowest to the highest."
    for key, label in _CURVES.items():
        renamed = {
            n: [(steps, {label: columns.get(key, np.zeros(0))}) for steps, columns in seeds if key in columns]
            for n, seeds in metrics.items()
        }
        drawn.append(
            charts.metric_curves(f"learning-{key.replace('/', '-')}", renamed, label, "optimiser steps", caption)
        )
    tables = [table for table in (_objectives_table(models), _pass_table(contenders, curves)) if table]
    return Section(
        title=title,
        subtitle=f"train llm · {settings['data']}",
        notes=models.notes,
        contenders=tuple(contenders),
        charts=tuple(chart for chart in drawn if chart is not None),
        tables=tuple(tables),
        command=command,
        facts=_facts(settings, contenders),
    )


def _facts(settings: Mapping[str, Any], contenders: Mapping[str, Contender]) -> tuple[tuple[str, str], ...]:
    """Return what the runs are about, as far as all of them agree."""
    trained = sum(bool(c.objective) for c in contenders.values())
    model = settings.get("model")
    facts = [
        ("task", str(settings["data"])),
        ("model", "different ones" if model is None else str(model or "the small one that comes with the task")),
        ("models", f"{trained} objectives" + (f" × {settings['seeds']} seeds" if "seeds" in settings else "")),
    ]
    if {"steps", "prompts"} <= settings.keys():
        size = f"{settings['prompts']} prompts × {settings['samples']} completions"
        facts.append(("training", f"{settings['steps']:,} steps of {size}"))
    if "eval_samples" in settings:
        facts.append(("evaluation", f"{settings['eval_problems']:,} problems × {settings['eval_samples']} completions"))
    return tuple(facts)


def _pass_curves(contenders: Mapping[str, Contender]) -> dict[str, tuple[list[int], Array]]:
    curves: dict[str, tuple[list[int], Array]] = {}
    for name, contender in contenders.items():
        ks = powers_of_two(min((samples for _, samples in contender.successes), default=0))
        curves[name] = ks, pass_at_k(contender.successes, ks) if ks else np.zeros((0, 3))
    return curves


def _solve_rates(contender: Contender) -> Array:
    return np.concatenate([*(successes / samples for successes, samples in contender.successes), np.zeros(0)])


def _zero_one_quantiles(rates: Array) -> tuple[Array, Array]:
    """Return the quantile function of successes and failures pooled: a step at 1 - their rate."""
    if not len(rates):
        return np.zeros(0), np.zeros(0)
    fails = 1 - float(rates.mean())
    return np.array([0.0, fails, fails, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])


def _objectives_table(models: Models) -> Table | None:
    """Return the value of every objective that was trained, and of the mean, under every model."""
    contenders, k = models.contenders, open_k(int(models.settings["samples"]), "leave_one_out")
    watched = dict.fromkeys(("mean", *(c.weighed for c in contenders.values() if c.weighed)))
    values: dict[tuple[str, str], tuple[float, float, float]] = {}
    for name, contender in contenders.items():
        for objective in watched:
            alpha = rank_weights(parse(objective).closed(k))
            if contender.successes and all(len(alpha) <= n for _, n in contender.successes):
                runs = [np.asarray(value(_outcomes(*pair), Weights(*alpha))) for pair in contender.successes]
                values[name, objective] = interval(runs)
    if not values:
        return None
    best = {o: highest(v[0] for (_, other), v in values.items() if other == o) for _, o in values}
    rows = tuple(
        (Cell(name, name), *(_cell(values.get((name, o)), best.get(o), 1.0) for o in watched)) for name in contenders
    )
    return Table(
        "Every objective under every model",
        ("trained on", *watched),
        rows,
        f"The mean over held-out problems of the unbiased estimate from each problem's successes ± half of its 95% "
        f"interval ({_spread(contenders)}). Levels without @K at K = {k}, as in training. "
        "The highest of each column is marked; where intervals overlap the order may be chance.",
    )


def _outcomes(successes: Array, samples: int) -> Array:
    return (np.arange(samples) < successes[:, None]).astype(np.float64)


def _pass_table(contenders: Mapping[str, Contender], curves: Mapping[str, tuple[list[int], Array]]) -> Table | None:
    ks = sorted({k for own, _ in curves.values() for k in own})
    if not ks:
        return None
    found = {(name, k): tuple(row) for name, (own, curve) in curves.items() for k, row in zip(own, curve, strict=True)}
    best = {k: highest(row[0] for (_, other), row in found.items() if other == k) for k in ks}
    rows = tuple((Cell(name, name), *(_cell(found.get((name, k)), best[k], 100.0) for k in ks)) for name in contenders)
    return Table(
        "pass@k in percent",
        ("trained on", *(f"k={k}" for k in ks)),
        rows,
        f"± half of the 95% interval ({_spread(contenders)}).",
    )


def _cell(row: Sequence[float] | None, best: float | None, scale: float) -> Cell:
    if row is None:
        return Cell("–")
    middle, low, high = row
    text = interval_text(scale * middle, scale * low, scale * high, 4 if scale == 1 else 3)
    return Cell(text, middle, middle == best)


def _spread(contenders: Mapping[str, Contender]) -> str:
    several = any(len(c.successes) > 1 for c in contenders.values())
    return "Student's over seeds; over problems where there is one seed" if several else "over problems"
