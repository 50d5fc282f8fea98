"""The section of a report on runs of `ordergrad train rl`."""

import numpy as np

from ordergrad.report import charts
from ordergrad.report.content import Section
from ordergrad.runs.contenders import pooled
from ordergrad.score.digest import levels
from ordergrad.spec import parse
from ordergrad.train.rl_results import Policies, value_table
from ordergrad.weights import open_k


def section(title: str, policies: Policies, command: str | None) -> Section:
    """Return the section of a report."""
    settings, contenders = policies.settings, policies.contenders
    returns = {name: pooled(contender.evaluations) for name, contender in contenders.items()}
    drawn: list[charts.Chart | None] = []
    if any(len(sample) for sample in returns.values()):
        u = levels()
        functions = {name: (u, charts.quantiles_of(sample[np.isfinite(sample)], u)) for name, sample in returns.items()}
        sizes = {name: open_k(n, "leave_one_out") for name, n in policies.ranked.items()}
        weighed = {name: (parse(c.objective), sizes[name]) for name, c in contenders.items()}
        drawn.append(charts.distribution("returns", returns, "return of an episode", "episodes"))
        drawn.append(charts.quantiles("quantiles", functions, weighed, "return of an episode"))
    metrics = {name: c.metrics for name, c in contenders.items()}
    caption = (
        "Over the last 100 episodes of training: the mean over seeds, and the band from the lowest to the highest."
    )
    for index, metric in enumerate((*policies.watched, "length")):
        file = f"learning-{index}-{_slug(metric)}"
        drawn.append(charts.metric_curves(file, metrics, metric, "environment steps", caption))
    table = value_table(policies)
    seeds = f" × {settings['seeds']} seeds" if "seeds" in settings else ""
    return Section(
        title=title,
        subtitle=f"train rl · {settings['env_id']}",
        notes=policies.notes,
        contenders=tuple(contenders),
        charts=tuple(chart for chart in drawn if chart is not None),
        tables=(table,) if table.rows else (),
        command=command,
        facts=(
            ("environment", str(settings["env_id"])),
            ("policies", f"{len(contenders)} objectives{seeds}"),
            ("training", f"{settings['steps']:,} steps each" if "steps" in settings else "of different length"),
            ("evaluation", f"{sum(map(len, returns.values())):,} fresh episodes"),
        ),
    )


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in ".@" else "-" for c in text).strip("-")
