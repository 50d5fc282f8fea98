"""Returns of episodes and of strategies: Stable-Baselines3, RLlib, back-tests, and the runs of this package."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
import math
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from ordergrad.score.columns import Columns
from ordergrad.score.files import Head, head, json_object, open_text
from ordergrad.score.formats.plan import NoLogError, Plan, number

_RLLIB = ("episode_reward_mean", "env_runners/episode_return_mean", "env_runners/episode_reward_mean")
_STRATEGY = re.compile(r"strategy|strat|returns?|ret|pnl|p&l|portfolio|daily_returns?", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{4}/\d\d/\d\d|\d{8}$")


def read_sb3(head: Head) -> Plan | None:
    """Monitor files: a comment with JSON, then r, l, t for each episode; ``evaluations.npz``: results by timestep."""
    if head.kind == "csv" and {"r", "l", "t"} <= set(head.columns) and head.start.startswith("#{"):
        return Plan("Stable-Baselines3 Monitor", Columns(None, "r"), note="episodes of the whole training")
    if head.kind != "numpy" or head.file.suffix.lower() != ".npz":
        return None
    with np.load(head.file) as arrays:
        if not {"timesteps", "results"} <= set(arrays.files):
            return None
    return Plan("Stable-Baselines3 evaluations", Columns(None, "result", step="timesteps"), _evaluations)


def _evaluations(file: Path) -> pl.DataFrame:
    with np.load(file) as arrays:
        steps, results = arrays["timesteps"], arrays["results"].reshape(len(arrays["timesteps"]), -1)
    return pl.DataFrame({"timesteps": np.repeat(steps, results.shape[1]), "result": results.ravel().astype(np.float64)})


def read_rllib(head: Head) -> Plan | None:
    """``progress.csv`` and ``result.json``: means over the episodes of an iteration, and sometimes the episodes.

    ``hist_stats`` holds as many episodes as means are smoothed over, so a row repeats episodes of earlier ones: only
    the last row counts.
    """
    if "training_iteration" not in head.columns:
        return None
    if any(_episodes(row) for row in head.rows):
        note = "the episodes of the last iteration; those of earlier ones may be the same"
        return Plan("RLlib", Columns(None, "episode_return"), _last_episodes, note=note)
    found = [name for name in head.columns if name in _RLLIB]
    nested = head.rows[0].get("env_runners") if head.rows else None
    if not found and not (isinstance(nested, dict) and "episode_return_mean" in nested):
        return None
    raise NoLogError(
        f"{head.file} is a log of RLlib with means over the episodes of each iteration "
        f"({found[0] if found else 'env_runners.episode_return_mean'}). Means have no tail and are no episodes: log "
        "the return of each episode by a callback (on_episode_end), or keep hist_stats in result.json"
    )


def _episodes(row: dict[str, Any]) -> list[float]:
    """Return the returns of the episodes that a row of RLlib holds."""
    for part in (row, row.get("env_runners"), row.get("sampler_results")):
        stats = part.get("hist_stats") if isinstance(part, dict) else None
        if isinstance(stats, dict):
            found = stats.get("episode_reward") or stats.get("episode_return")
            if isinstance(found, list):
                return cast("list[float]", found)
    for name, value in row.items():
        if re.search(r"hist_stats/episode_(reward|return)$", name) and isinstance(value, str) and value.startswith("["):
            return cast("list[float]", json.loads(value))
    return []


def _last_episodes(file: Path) -> pl.DataFrame:
    if head(file).kind == "lines":
        with open_text(file) as stream:
            rows = [row for row in map(json_object, stream) if isinstance(row, dict)]
    else:
        rows = pl.read_csv(file, infer_schema_length=0).tail(1).to_dicts()
    last = next(row for row in reversed(rows) if _episodes(row))
    return pl.DataFrame({"episode_return": np.array(_episodes(last), np.float64)})


def read_trackers(head: Head) -> Plan | None:
    """Exports of Weights & Biases, MLflow and TensorBoard hold one number for each step, never samples."""
    names = set(head.columns)
    wandb = {"_step", "_runtime", "_timestamp"} & names or ("Step" in names and any(" - " in name for name in names))
    mlflow = {"key", "value", "step", "timestamp"} <= names or any(name.startswith("metrics.") for name in names)
    tensorboard = {"Wall time", "Step", "Value"} <= names
    tool = "Weights & Biases" if wandb else "MLflow" if mlflow else "TensorBoard" if tensorboard else None
    if tool is None:
        return None
    raise NoLogError(
        f"{head.file} looks like an export of {tool}, with one number for each step. Means over a batch have no tail "
        "and no groups; log every sample (TRL: log_completions=True, verl: trainer.rollout_data_dir). If its rows are "
        "samples, name the columns by --group and --reward"
    )


def read_episodes(head: Head) -> Plan | None:
    """``evaluation.csv`` of `ordergrad train rl`: one row for each episode. Seeds are groups."""
    if head.kind != "csv" or head.columns != ("return", "length"):
        return None

    def load(file: Path) -> pl.DataFrame:
        return pl.read_csv(file).with_columns(seed=pl.lit(file.parent.name))

    return Plan("ordergrad train rl", Columns("seed", "return"), load)


def read_problems(head: Head) -> Plan | None:
    """``evaluation.csv`` of `ordergrad train llm`: successes of each held-out problem."""
    if head.kind != "csv" or not {"problem", "successes", "samples"} <= set(head.columns):
        return None
    return Plan("ordergrad train llm", Columns("problem", "passed"), _passed)


def _passed(file: Path) -> pl.DataFrame:
    rows = pl.read_csv(file).select("problem", pl.int_ranges("samples").alias("place"), "successes").explode("place")
    return rows.drop_nulls("place").select("problem", passed=pl.col("place") < pl.col("successes"))


def read_backtest(head: Head) -> Plan | None:
    """A table with dates and returns of a strategy, one a row, no groups."""
    if head.kind not in ("csv", "parquet") or len(head.rows) < 2:
        return None
    dates = [name for name in head.columns if all(_DATE.match(str(value)) for value in head.values(name) or [""])]
    commas = head.dialect.decimal_comma if head.dialect else frozenset[str]()
    numbers = {
        name: [number(v.replace(",", ".") if name in commas and isinstance(v, str) else v) for v in head.values(name)]
        for name in head.columns
        if name not in dates
    }
    numeric = [name for name, values in numbers.items() if values and None not in values]
    named = [name for name in numeric if _STRATEGY.fullmatch(name.strip())]
    if not dates or len(named if named else numeric) != 1:
        return None
    column = (named or numeric)[0]
    values = np.array(numbers[column], dtype=np.float64)
    steps = np.abs(np.diff(values)).mean()
    if (values > 0).all() and steps < 0.2 * values.std() + 1e-12 and not math.isclose(values.std(), 0):
        raise NoLogError(
            f"{head.file}: {column!r} looks like a price or the value of a portfolio, not like returns; save its "
            "changes (pct_change) instead"
        )
    return Plan("returns by date", Columns(None, column))
