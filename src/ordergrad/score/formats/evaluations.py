"""Samples of evaluations: lm-eval, inspect_ai, HumanEval, EvalPlus and OpenAI evals."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import polars as pl

from ordergrad.runs.errors import UserError
from ordergrad.score.columns import Columns
from ordergrad.score.files import Head, head, json_object, open_text
from ordergrad.score.formats.plan import NoLogError, Plan, by_file, number, text_table

_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}


def read_lm_eval(head: Head) -> Plan | None:
    """``samples_TASK_DATE.jsonl``: one row for each document and filter, so every filter is a log of its own."""
    if not {"doc_id", "resps", "target"} <= set(head.columns):
        return None
    known = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
    listed = head.rows[0].get("metrics")
    names = listed if isinstance(listed, list) else [name for name in head.columns if not name.endswith("_hash")]
    metrics = [n for n in cast("list[str]", names) if n not in known and number(head.rows[0].get(n)) is not None]
    if not metrics:
        raise NoLogError(f"{head.file} is a log of lm-eval without a metric that is one number for each document")
    filters = _distinct(head.file, "filter") if "filter" in head.columns else []
    parts = tuple(f"filter={name}" for name in filters) if len(filters) > 1 else ()
    note = f"also {', '.join(metrics[1:])}, by --reward" if metrics[1:] else ""
    return Plan("lm-eval", Columns("doc_id", metrics[0]), apart=by_file, parts=parts, note=note)


def _distinct(file: Path, key: str) -> list[str]:
    """Return the distinct texts under a key of JSON lines."""
    found: dict[str, None] = {}
    with open_text(file) as stream:
        for line in stream:
            row = json_object(line)
            if isinstance(row, dict) and isinstance(row.get(key), str):
                found[row[key]] = None
    return list(found)


def read_inspect(head: Head) -> Plan | None:
    """A log of inspect_ai, ``.eval`` or ``.json``: every scorer is a log of its own."""
    if head.kind == "zip":
        with zipfile.ZipFile(head.file) as archive:
            found = any(name.startswith("samples/") for name in archive.namelist())
    else:
        document = head.document() if head.kind == "document" else None
        found = isinstance(document, dict) and {"eval", "samples"} <= document.keys()
    if not found:
        return None
    rows = _inspect_rows(head.file)
    scorers = list(dict.fromkeys(row["scorer"] for row in rows if row["scorer"] is not None))
    if not scorers:
        raise NoLogError(f"{head.file} is a log of inspect_ai without scores")
    parts = tuple(f"scorer={name}" for name in scorers) if len(scorers) > 1 else ()
    return Plan("inspect_ai", Columns("id", "value"), lambda file: text_table(_inspect_rows(file)), by_file, parts)


def _inspect_rows(file: Path) -> list[dict[str, Any]]:
    """Return one row for each sample, epoch and scorer: id, epoch, scorer, value."""
    rows: list[dict[str, Any]] = []
    for sample in _inspect_samples(file):
        about = {"id": sample.get("id"), "epoch": sample.get("epoch")}
        scores = cast("dict[str, Any]", sample.get("scores") or {})
        for scorer, score in scores.items():
            value = score.get("value") if isinstance(score, dict) else score
            parts = cast("dict[str, Any]", value) if isinstance(value, dict) else {"": value}
            for name, part in parts.items():
                part = _LETTERS.get(part, part) if isinstance(part, str) else part
                rows.append(about | {"scorer": f"{scorer}.{name}" if name else scorer, "value": part})
        if not scores:
            rows.append(about | {"scorer": None, "value": None})
    return rows


def _inspect_samples(file: Path) -> Iterator[dict[str, Any]]:
    if not zipfile.is_zipfile(file):
        yield from head(file).document()["samples"] or []
        return
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("samples/") and name.endswith(".json"):
                try:
                    yield json.loads(archive.read(name))
                except NotImplementedError as error:
                    raise UserError(
                        f"{file} is compressed in a way that Python's zipfile cannot read ({error}); "
                        "`inspect log convert --to json` makes a file that can be read"
                    ) from error


def read_humaneval(head: Head) -> Plan | None:
    """``*_results.jsonl`` of HumanEval: task_id, passed; ``*_eval_results.json`` of EvalPlus: status by task."""
    if {"task_id", "passed"} <= set(head.columns):
        return Plan("HumanEval", Columns("task_id", "passed"), apart=by_file)
    if head.kind != "document":
        return None
    document = head.document()
    if not (isinstance(document, dict) and isinstance(document.get("eval"), dict)):
        return None
    results = [result for tries in document["eval"].values() if isinstance(tries, list) for result in tries]
    if not results or not all(isinstance(result, dict) and "base_status" in result for result in results):
        return None
    plus = any(result.get("plus_status") is not None for result in results)
    note = "passed: base and plus tests" if plus else "passed: base tests, no plus tests were run"
    return Plan("EvalPlus", Columns("task_id", "passed"), _evalplus, by_file, note=note)


def _evalplus(file: Path) -> pl.DataFrame:
    tasks = cast("dict[str, list[dict[str, Any]]]", head(file).document()["eval"])
    rows = [
        {"task_id": task, "base_status": result["base_status"], "plus_status": result.get("plus_status")}
        for task, tries in tasks.items()
        for result in tries
    ]
    plus = any(row["plus_status"] is not None for row in rows)
    passed = [{row["base_status"], row["plus_status"] if plus else "pass"} == {"pass"} for row in rows]
    return text_table([row | {"passed": good} for row, good in zip(rows, passed, strict=True)])


def read_openai_evals(head: Head) -> Plan | None:
    """Events of OpenAI evals: of the type match with data.correct, or metrics with one number."""
    if not {"sample_id", "type", "data"} <= set(head.columns):
        return None
    kinds = {row.get("type") for row in head.rows}
    data = next((row["data"] for row in head.rows if row.get("type") == "metrics"), None)
    names = [name for name, value in data.items() if number(value) is not None] if isinstance(data, dict) else []
    if "match" in kinds or len(names) == 1:
        name, kind = ("correct", "match") if "match" in kinds else (names[0], "metrics")
        return Plan("OpenAI evals", Columns("sample_id", f"data.{name}", where=(f"type={kind}",)), apart=by_file)
    found = f"its metrics are {', '.join(names)}" if names else f"its events are {', '.join(map(str, kinds))}"
    raise NoLogError(
        f"{head.file} is a log of OpenAI evals, and {found}; name one by --reward data.NAME --where type=TYPE"
    )
