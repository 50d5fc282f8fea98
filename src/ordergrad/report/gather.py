"""The folders of runs, read into the sections of a report."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ordergrad.report import llm_section, rl_section, score_section
from ordergrad.report.content import Section
from ordergrad.runs.errors import UserError
from ordergrad.runs.tables import Table, text
from ordergrad.train import llm_results, rl_results

_CONFIG = "config.json"
_HINT = "give the folder that `ordergrad train` or `ordergrad score` wrote (its --out)"


@dataclass(frozen=True)
class Kind:
    """How the folders of one command are read, and how what they hold is joined and becomes a section.

    Runs are joined only if their `shared` settings are the same.
    """

    load: Callable[[Path, Mapping[str, Any]], Any]
    together: Callable[[Mapping[str, Any]], Any]
    section: Callable[[str, Any, str | None], Section]
    shared: tuple[str, ...] = ()


_KINDS = {
    "train rl": Kind(rl_results.load, rl_results.together, rl_section.section, rl_results.SHARED),
    "train llm": Kind(llm_results.load, llm_results.together, llm_section.section, llm_results.SHARED),
    "score": Kind(score_section.load, score_section.together, score_section.section),
}


@dataclass(frozen=True)
class Run:
    """The folder of a run, read: the command that made it, such as ``train rl``, its settings, and what it holds.

    The exact command line is None in folders of earlier versions.
    """

    kind: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str | None
    content: Any


def open_run(folder: Path) -> Run:
    """Read the folder of a run, finished or not.

    Raises:
        UserError: It is not the folder of a run, or its files are damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; {_HINT}")
    config = folder / _CONFIG
    if not config.exists():
        raise UserError(f"{folder} is not the folder of a run: it has no {_CONFIG}; {_HINT}")
    try:
        content = json.loads(config.read_text())
        settings, versions = dict(content["settings"]), dict(content["versions"])
        kind = str(content.get("kind") or ("train rl" if "env_id" in settings else "train llm"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{config} is not the configuration of a run ({type(error).__name__}: {error}); {_HINT}"
        ) from error
    if kind not in _KINDS:
        raise UserError(f"{config} is of the kind {kind!r}; known are {', '.join(_KINDS)}")
    try:
        loaded = _KINDS[kind].load(folder, settings)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"a file in {folder} is damaged ({type(error).__name__}: {error})") from error
    return Run(kind, settings, versions, content.get("command"), loaded)


def sections(runs: Mapping[str, Run]) -> list[Section]:
    """Return the sections of runs by name: of comparable runs together, then of each."""
    found: list[Section] = []
    for kind in dict.fromkeys(run.kind for run in runs.values()):
        group = {name: run for name, run in runs.items() if run.kind == kind}
        if len(group) > 1:
            found.append(_together(group))
    return found + [_KINDS[run.kind].section(name, run.content, run.command) for name, run in runs.items()]


def side_by_side(runs: Mapping[str, Run]) -> list[Table]:
    """Return the settings of the runs of each kind and the versions of all, one column for each run."""
    kinds = list(dict.fromkeys(run.kind for run in runs.values()))
    tables: list[Table] = []
    for kind in kinds:
        of_kind = "" if len(kinds) == 1 else f" of {kind}"
        group = {name: run.settings for name, run in runs.items() if run.kind == kind}
        settings = {name: {key: _text(value) for key, value in own.items()} for name, own in group.items()}
        keys = dict.fromkeys(key for own in settings.values() for key in own)
        differ = [key for key in keys if len({own.get(key) for own in settings.values()}) > 1]
        if differ:
            tables.append(_beside(f"Settings{of_kind} that differ", "setting", settings, differ))
        tables.append(_beside(f"Settings{of_kind}", "setting", settings, keys))
    versions = {name: run.versions for name, run in runs.items()}
    return [
        *tables,
        _beside("Versions", "version", versions, dict.fromkeys(key for v in versions.values() for key in v)),
    ]


def _beside(title: str, what: str, by_run: Mapping[str, Mapping[str, str]], keys: Iterable[str]) -> Table:
    """Return a table with a column for each run, in which differences are marked."""
    rows = tuple(
        {what: key, "run": run, "value": values.get(key, "–")} for key in keys for run, values in by_run.items()
    )
    caption = "Marked: not the same in all runs." if len(by_run) > 1 else ""
    table = Table(title, (text(what), text("run"), text("value")), rows, caption)
    return table.pivot(what, "run", "value", marks="differences")


def _together(group: Mapping[str, Run]) -> Section:
    runs = list(group.values())
    title, kind = "Together: " + ", ".join(group), _KINDS[runs[0].kind]
    found = {key: dict.fromkeys(_text(run.settings.get(key)) for run in runs) for key in kind.shared}
    apart = [f"{key} ({', '.join(values)})" for key, values in found.items() if len(values) > 1]
    if apart:
        note = f"Not drawn together: these runs differ in {'; '.join(apart)}. Each has a section of its own."
        return Section(title, "not drawn in one picture", (note,))
    return kind.section(title, kind.together({name: run.content for name, run in group.items()}), None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
