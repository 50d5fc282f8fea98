"""Episodes of verifiers and prime-rl: ``traces.jsonl``, one episode a line with the traces of its agents.

A sample is the trace of an agent that is trained. Its reward is the sum of ``rewards``, each a score with a weight, of
which those that could not be computed are missing. Before verifiers 0.3 a line is one trace, and ``rewards`` are
weighted numbers.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl

from ordergrad.score.columns import Columns
from ordergrad.score.files import Head, json_object, open_text
from ordergrad.score.formats.plan import NoLogError, Plan

Object = dict[str, Any]
_SCHEMA = {
    "task": pl.String(),
    "step": pl.Int64(),
    "reward": pl.Float64(),
    "tokens": pl.Int64(),
    "ok": pl.Boolean(),
    "agent": pl.String(),
    "trainable": pl.Boolean(),
}


def read_traces(head: Head) -> Plan | None:
    """Return the plan of a file of episodes: group = task and, in training, the step; traces that failed do not count.

    prime-rl writes ``rollouts/step_N/{train,eval}/{all,effective}/traces.jsonl``: training and evaluation are logs of
    their own, and the effective episodes, those that a step trained on, are a part of all.
    """
    first = head.rows[0] if head.rows else {}
    if not isinstance(first.get("task"), dict) or not isinstance(first.get("traces", first.get("nodes")), list):
        return None
    rows = [row for episode in head.rows for row in _samples(episode)]
    if not any(row["reward"] is not None for row in rows):
        raise NoLogError(f"{head.file} holds episodes without rewards")
    names = list(dict.fromkeys(name for row in rows if row["trainable"] for name in row if name not in _SCHEMA))
    note = f"reward = the weighted sum of {', '.join(names)}" if len(names) > 1 else ""
    where = ("ok=true", "trainable=true") if any(not row["trainable"] for row in rows) else ("ok=true",)
    step = "step" if any(row["step"] is not None for row in rows) else None
    columns = Columns("task", "reward", step=step, where=where)
    return Plan("prime-rl" if step else "verifiers", columns, _load, _by_kind, note=note)


def _by_kind(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of training and of evaluation, without effective episodes where all are there."""
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kind, subset = file.absolute().parts[-3:-1]
        every = file.absolute().parent.with_name("all") / file.name
        if subset == "effective" and every in {other.absolute() for other in files}:
            continue
        kinds.setdefault(kind if subset in ("all", "effective") else "", []).append(file)
    return kinds


def _load(file: Path) -> pl.DataFrame:
    with open_text(file) as stream:
        rows = [row for line in stream if line.strip() for row in _rows(json_object(line))]
    names = dict.fromkeys(name for row in rows for name in row if name not in _SCHEMA)
    return pl.DataFrame(rows, schema=_SCHEMA | dict.fromkeys(names, pl.Float64()))


def _rows(found: Object | str) -> list[Object]:
    """Return the samples of a line; of one that is no episode a row without a reward, which is reported as broken."""
    if isinstance(found, dict) and "task" in found:
        return _samples(found)
    return [dict.fromkeys(_SCHEMA) | {"ok": True, "trainable": True}]


def _samples(episode: Object) -> list[Object]:
    """Return one row for each trace of an episode."""
    return [_sample(episode, trace) for trace in cast("list[Object]", episode.get("traces", [episode]))]


def _sample(episode: Object, trace: Object) -> Object:
    task = cast("Object", trace.get("task") or episode["task"])
    env = cast("Object", episode.get("env") or {})
    key = task.get("key") or task.get("hash") or json.dumps(task.get("data", task), sort_keys=True)
    rewards = cast("Object", trace.get("rewards") or {}).items()
    parts = {name: part if isinstance(part, dict) else {"score": part} for name, part in rewards if part is not None}
    agent = cast("Object", trace.get("agent") or {})
    work = cast("Object", cast("Object", episode.get("run") or {}).get("work") or {})
    return {
        "task": f"{env.get('name') or env.get('id') or ''}/{key}".removeprefix("/"),
        "step": work.get("step"),
        "reward": sum(part["score"] * part.get("weight", 1.0) for part in parts.values()) if parts else None,
        "tokens": trace.get("num_output_tokens"),
        "ok": bool(trace.get("ok", not (trace.get("errors") or trace.get("error")))),
        "agent": agent.get("name"),
        "trainable": agent.get("trainable", True),
    } | {f"rewards.{name}": part["score"] for name, part in parts.items()}
