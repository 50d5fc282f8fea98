"""Logs of many tools: one reader each, which recognises its files by their columns, first bytes or names."""

from dataclasses import replace

from ordergrad.score.files import Head
from ordergrad.score.formats.episodes import (
    read_backtest,
    read_episodes,
    read_problems,
    read_rllib,
    read_sb3,
    read_trackers,
)
from ordergrad.score.formats.evaluations import read_humaneval, read_inspect, read_lm_eval, read_openai_evals
from ordergrad.score.formats.plan import NoLogError, Plan, Reader
from ordergrad.score.formats.tables import as_table, load_rows, read_array, read_table
from ordergrad.score.formats.traces import read_traces
from ordergrad.score.formats.training import read_skyrl, read_trl, read_verifiers, read_verl

__all__ = ["NoLogError", "Plan", "recognise"]

_TOOLS: tuple[Reader, ...] = (  # the first that recognises a file reads it
    *(read_trl, read_skyrl, read_verl, read_traces, read_verifiers),
    *(read_lm_eval, read_inspect, read_humaneval, read_openai_evals),
    *(read_sb3, read_rllib, read_episodes, read_problems, read_trackers),
)
_ANY: tuple[Reader, ...] = (read_array, read_table, read_backtest)


def recognise(head: Head, *, tools_only: bool = False) -> tuple[Head, Plan | None]:
    """Return the head of a file as a table, and how to read it, None if it is not recognised.

    Args:
        head: Its beginning.
        tools_only: Whether to leave out generic tables.

    Raises:
        NoLogError: It holds no samples.
    """
    plan = _first(_TOOLS, head)
    if plan is not None or tools_only:
        return head, plan
    if head.kind != "document":
        return head, _first(_ANY, head)
    table, plan = as_table(head)
    if plan is not None:
        return table, plan
    plan = _first((*_TOOLS, *_ANY), table) or None
    return table, plan and replace(plan, load=plan.load or load_rows)


def _first(readers: tuple[Reader, ...], head: Head) -> Plan | None:
    return next((plan for plan in (reader(head) for reader in readers) if plan is not None), None)
