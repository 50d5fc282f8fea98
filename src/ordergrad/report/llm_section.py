"""The section of a report on runs of `ordergrad train llm`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.report import charts
from ordergrad.report.content import Section
from ordergrad.runs.contenders import Contender, pooled
from ordergrad.spec import parse
from ordergrad.train.llm_results import Models, objective_table, pass_table
from ordergrad.weights import open_k

Array = NDArray[Any]
_CURVES = {
    "reward": "reward",
    "entropy": "entropy",
    "completions/mean_length": "length of a completion",
    "frac_reward_zero_std": "share of prompts with equal rewards",
    "ordergrad/value": "value of the objective",
}


def section(title: str, models: Models, command: str | None) -> Section:
    """Return the section of a report."""
    settings, contenders = models.settings, models.contenders
    drawn: list[charts.Chart | None] = []
    curves = models.pass_curves()
    if any(c.evaluations for c in contenders.values()):
        text = f"Held-out problems, completions sampled at temperature 1; bands are 95% intervals ({models.spread})."
        drawn.append(charts.k_curves("pass-at-k", "pass@k", curves, "pass@k", text))
        rates = {name: pooled([good / n for good, n in c.evaluations]) for name, c in contenders.items()}
        what = "share of a problem's completions that succeed"
        drawn.append(charts.distribution("solve-rates", rates, what, "problems"))
        functions = {name: _zero_one_quantiles(sample) for name, sample in rates.items()}
        k = open_k(int(settings["samples"]), "leave_one_out")
        weighed = {name: (parse(objective), k) for name, objective in models.weighed.items()}
        drawn.append(charts.quantiles("quantiles", functions, weighed, "success of a completion, 0 or 1"))
    metrics = {name: c.metrics for name, c in contenders.items()}
    caption = "Training completions: the mean over seeds, and the band from the lowest to the highest."
    for key, label in _CURVES.items():
        renamed = {
            name: [(steps, {label: columns[key]}) for steps, columns in seeds if key in columns]
            for name, seeds in metrics.items()
        }
        file = f"learning-{key.replace('/', '-')}"
        drawn.append(charts.metric_curves(file, renamed, label, "optimiser steps", caption))
    return Section(
        title=title,
        subtitle=f"train llm · {settings['data']}",
        notes=models.notes,
        contenders=tuple(contenders),
        charts=tuple(chart for chart in drawn if chart is not None),
        tables=tuple(table for table in (objective_table(models), pass_table(models)) if table.rows),
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


def _zero_one_quantiles(rates: Array) -> tuple[Array, Array]:
    """Return the quantile function of successes and failures pooled: a step at 1 - their rate."""
    if not len(rates):
        return np.zeros(0), np.zeros(0)
    fails = 1 - float(rates.mean())
    return np.array([0.0, fails, fails, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])
