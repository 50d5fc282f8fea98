"""Samples that trainers of language models log: TRL, verl, SkyRL, verifiers and prime-rl."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np

from ordergrad.score.columns import Columns
from ordergrad.score.files import Head
from ordergrad.score.formats.plan import NoLogError, Plan, number


def read_trl(head: Head) -> Plan | None:
    """``log_completions``: step, prompt, completion, one column for each reward function, extras, advantage.

    Extra columns may be numbers too. Rewards come first, and advantages rise with their sum, which distinguishes them.
    """
    if not {"step", "prompt", "completion", "advantage"} <= set(head.columns):
        return None
    first, last = head.columns.index("completion") + 1, head.columns.index("advantage")
    numeric = [
        name
        for name in head.columns[first:last]
        if head.values(name) and all(isinstance(value, (int, float)) for value in head.values(name))
    ]
    groups = {m: _groups(head, numeric[:m]) for m in range(1, len(numeric) + 1)}
    kept = [m for m, pairs in groups.items() if _proportional(pairs)] or [m for m, p in groups.items() if _rises(p)]
    if not kept:
        raise NoLogError(
            f"{head.file} is a log of TRL, and its advantages do not rise with the sum of its numbers "
            f"({', '.join(numeric) or 'none'}). Name the reward by --reward, for instance --reward "
            f"{'+'.join(numeric[:2]) or 'COLUMN'}; a weighted sum is --reward 0.5*a+b"
        )
    count = min(kept)
    while count < max(kept) and any(word in numeric[count].lower() for word in ("reward", "score")):
        count += 1
    left = numeric[count:]
    note = f"{', '.join(left)}: numbers that are no part of the advantages" if left else ""
    columns = Columns("prompt", "+".join(numeric[:count]), step="step", partial=True)
    return Plan("TRL", columns, note=note)


def _groups(head: Head, names: list[str]) -> list[list[tuple[float, float]]]:
    """Return the sums of rewards and the advantages of every group."""
    groups: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in head.rows:
        parts = [row[name] for name in names if row[name] is not None and row[name] == row[name]]
        if parts and row["advantage"] is not None:
            groups[f"{row['step']} {row['prompt']}"].append((sum(parts), row["advantage"]))
    return [sorted(pairs) for pairs in groups.values()]


def _proportional(groups: list[list[tuple[float, float]]]) -> bool:
    """Return whether the advantages of every group are its rewards, shifted and scaled, as GRPO's are."""
    for pairs in groups:
        x, a = np.array(pairs).T
        x, a = x - x.mean(), a - a.mean()
        if np.abs(a * np.abs(x).max() - x * np.abs(a).max()).max() > 1e-3 * np.abs(x).max() * np.abs(a).max() + 1e-9:
            return False
    return bool(groups)


def _rises(groups: list[list[tuple[float, float]]]) -> bool:
    """Return whether advantages rise with the rewards of every group, as those of most objectives do."""
    for pairs in groups:
        for (low, a), (high, b) in pairwise(pairs):
            slack = 1e-4 * max(1.0, abs(a), abs(b))
            if b < a - slack or (high - low < 1e-9 and abs(a - b) > slack):
                return False
    return bool(groups)


def read_verl(head: Head) -> Plan | None:
    """``rollout_data_dir`` and validation dumps: one file for each step. ``uid`` differs between samples in places."""
    if not {"input", "output", "score"} <= set(head.columns):
        return None
    return Plan("verl", Columns("input", "score", step="step" if "step" in head.columns else None))


def read_skyrl(head: Head) -> Plan | None:
    """Evaluations: one file for each data source, beside their averages."""
    if head.columns and all(name.startswith("eval/") for name in head.columns):
        raise NoLogError(f"{head.file} holds averages of an evaluation by SkyRL, no samples; give the folder it is in")
    if not {"input_prompt", "output_response", "score"} <= set(head.columns):
        return None
    group = "input_prompt+data_source" if "data_source" in head.columns else "input_prompt"
    return Plan("SkyRL", Columns(group, "score", lists="sum"))


def read_verifiers(head: Head) -> Plan | None:
    """``results.jsonl`` of verifiers, and the rollouts of prime-rl with nested rewards."""
    names = set(head.columns)
    if {"example_id", "reward"} <= names:
        return Plan("verifiers", Columns("example_id", "reward"))
    if not head.rows or "rewards" not in names or not isinstance(head.rows[0]["rewards"], dict):
        return None
    group = next((name for name in ("group_id", "example_id", "task") if name in names), None)
    if group is None:
        return None
    first: dict[str, Any] = head.rows[0]["rewards"]
    if {"score", "weight"} <= set(first):
        return Plan("prime-rl", Columns(group, "rewards.score"))
    parts = [name for name, part in first.items() if isinstance(part, dict) and "score" in part]
    if not parts:
        return None
    weights = {name: number(first[name].get("weight")) for name in parts}
    terms = [
        f"rewards.{name}.score" if weight in (None, 1) else f"{weight:g}*rewards.{name}.score"
        for name, weight in weights.items()
    ]
    return Plan("prime-rl", Columns(group, "+".join(terms)))
