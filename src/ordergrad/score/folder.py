"""The folder that ``ordergrad score ... --out OUT`` writes.

```
OUT/
  config.json        kind "score", the exact command, settings and package versions
  results.json       everything below as one object
  findings.csv       log, kind, text, advice (where there are any)
  values.csv         log, objective, value, error, low, high, groups, units, too_small
  signal.csv         log, objective, groups, too_small, no_signal, low, high, effective, effective_share, rows
  outcomes.csv       log, outcome, value, error, low, high, groups, units (where rewards are successes)
  curves.csv         log, curve, k, value, error, low, high, groups, units
  tails.csv          log, statistic, value
  quantiles.csv      log, u, reward
  steps.csv          log, step, objective, value, error, low, high, groups (where the logs have steps)
  entropy.csv        log, step, value, error, groups (where the logs have steps)
  generated.csv      log, objective, value, error, low, high, groups, units (where the logs have lengths or texts)
  formats.csv        log, value, error, low, high, groups, units (where the logs say whether the format is right)
  comparisons.csv    log, against, objective, difference, error, low, high, p_value, method, pairs
  broken.csv         log, file, place, number, reason (the first broken rows, where any were skipped)
```

``log`` is the name of a log, unique in the folder. ``low`` and ``high`` are the ends of the 95% interval, over
``units``: prompts, where groups are of the same prompts at several steps (see `ordergrad.score.means`). A number that
is not known (the error of a value without groups) is null in JSON and empty in CSV.

- ``values``: the mean over groups of the unbiased estimate of each group; ``groups`` is how many were large enough,
  ``too_small`` how many were not. Objectives without @K take K = N of each group. With one group the error is
  the jackknife's.
- ``signal``: the gradient under each objective, and under ``grpo``. ``no_signal`` is the share of groups with all
  advantages zero, ``effective`` the mean over the other groups of (Σ|A|)² / ΣA², ``effective_share`` the same ratio
  over all rows together, divided by their number ``rows``.
- ``outcomes``: the shares of groups that ``never`` and ``always`` pass.
- ``curves``: ``curve`` is ``pass`` (pass@k, one of k tries passes), ``all`` (pass^k, all of them do) or ``max``
  (max@k); k = 1, 2, 4, ... up to the largest group's size, and to 1024, or those of ``-k``. The first two only where
  rewards have two values, success and failure.
- ``tails``: statistics of all rewards pooled, groups aside, by their objective string (``cvar:0.05``, ``var:0.05``,
  ``median``, ``uppercvar:0.05``, ...).
- ``quantiles``: the quantile function of all rewards pooled, ascending u from 0 (smallest) to 1 (largest); the levels
  are dense at both ends.
- ``entropy``: the mean entropy of the rewards in a group, in bits, by step.
- ``generated``: the share of what was generated, in ``lengths`` (tokens or characters), that is in groups with all
  advantages zero.
- ``formats``: the share of failures, rewards below ``success`` without the part for the format, with a wrong format.
- ``comparisons``: each log against the first, ``difference`` = log - against. Both logs at the same K, which
  ``objective`` names: without @K it is the largest that the usual (median) group of every log allows. ``method`` is
  ``paired`` (over the ``pairs`` of prompts in both, each the mean over its steps), ``welch`` (no ids in common),
  ``jackknife`` (a log of one group) or ``none`` (a log has no group that is large enough).

``results.json`` is one object, which ``--json`` prints: ``objectives``, ``success`` (the threshold of pass@k),
``logs``, ``comparisons``, ``broken`` and ``findings``. Each of ``logs`` has ``log`` (its name), ``files``, ``read_as``
(in words), the numbers of ``rows`` that were read, ``used`` (ranked), ``masked`` (by --mask or --where) and ``broken``
ones, ``groups``, their ``smallest`` and ``largest`` size, the ``mean``, ``sd``, ``min`` and ``max`` of all used
rewards, ``exact_quantiles`` (whether the pooled distribution was kept whole), ``scattered`` (whether groups were not
contiguous), ``lengths`` (``tokens``, ``characters`` or null), and the rows of the tables as objects: ``values``,
``signal``, ``outcomes``, ``curves``, ``tails``, ``quantiles``, ``steps``, ``entropy``, ``generated``, ``formats``.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import open_folder, write_json, write_rows
from ordergrad.runs.tables import json_values
from ordergrad.score.findings import findings
from ordergrad.score.logs import Reading
from ordergrad.score.summary import Summary

_OF_LOGS = (
    *("values", "signal", "outcomes", "curves", "tails", "quantiles"),
    *("steps", "entropy", "generated", "formats"),
)
_OF_ALL = ("comparisons", "findings", "broken")
_FILES = {".lock", "config.json", "results.json", *(f"{name}.csv" for name in (*_OF_LOGS, *_OF_ALL))}


def check_folder(out: Path, *, overwrite: bool) -> None:
    """Check, before any work, that a score may be written to a folder.

    Raises:
        UserError: The folder holds a score already and `overwrite` is false, holds something else, or cannot be made.
    """
    above = next(path for path in out.absolute().parents if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"{out} cannot be written: {above} is not a writable folder; choose another --out")
    held = {path.name for path in out.iterdir()} if out.is_dir() else set[str]()
    if (out.exists() and not out.is_dir()) or held - _FILES:
        raise UserError(f"{out} exists and is not the folder of a score; choose another --out")
    if held and not overwrite:
        raise UserError(f"{out} already holds a score; add --overwrite to replace it, or choose another --out")


def results_of(
    logs: Sequence[tuple[Reading, Summary]],
    objectives: Sequence[str],
    success: float,
    comparisons: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the content of ``results.json``; unknown numbers are None."""
    broken = [{"log": reading.log.name} | asdict(row) for reading, _ in logs for row in reading.problems.first]
    entries = [
        {
            "log": reading.log.name,
            "files": list(map(str, reading.log.files)),
            "read_as": reading.log.read_as,
            "rows": reading.rows,
            "masked": reading.masked,
            "broken": reading.problems.count,
            "scattered": reading.scattered,
            "lengths": _lengths(reading),
            **summary.about(),
            **summary.tables(),
        }
        for reading, summary in logs
    ]
    content = {"objectives": list(objectives), "success": success, "logs": entries}
    content = json_values(content | {"comparisons": list(comparisons), "broken": broken})
    return content | {"findings": [asdict(finding) for finding in findings(content)]}


def _lengths(reading: Reading) -> str | None:
    """Return what the lengths of a log count, None if it has none."""
    paths = {role for roles in reading.log.roles for role in roles.paths}
    return "tokens" if "length" in paths else "characters" if "text" in paths else None


def write_score(out: Path, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Write the results to a folder that `check_folder` allows, replacing an older one."""
    if out.exists():
        shutil.rmtree(out)
    open_folder(out, settings, kind="score", resume=False)
    for name in _OF_LOGS:
        rows = [{"log": log["log"]} | row for log in results["logs"] for row in log[name]]
        write_rows(out / f"{name}.csv", rows)
    for name in _OF_ALL:
        write_rows(out / f"{name}.csv", results[name])
    write_json(out / "results.json", results)
