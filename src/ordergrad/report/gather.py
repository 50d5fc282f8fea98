"""The folders of runs, read into the sections of a report."""

import json
from collections.abc import Callable, Mapping, Sequence
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
    """How the runs of one command are read and shown.

    Attributes:
        load: Reads the content of a folder.
        together: Joins the contents of several.
        section: Returns the section of a content.
        shared: The settings that runs must share to be joined.
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
class Source:
    """Where a run came from.

    Attributes:
        kind: The command that made it, such as ``train rl``.
        settings: Its settings.
        versions: The versions of its packages.
        command: The exact command line; None in folders of earlier versions.
    """

    kind: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str | None


@dataclass(frozen=True)
class Run:
    """The folder of a run, read.

    Attributes:
        folder: The folder.
        source: Where it came from.
        content: What it holds.
    """

    folder: Path
    source: Source
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
    return Run(folder, Source(kind, settings, versions, content.get("command")), loaded)


def sections(runs: Mapping[str, Run]) -> list[Section]:
    """Return the sections of runs by name: of comparable runs together, then of each."""
    found: list[Section] = []
    for kind in dict.fromkeys(run.source.kind for run in runs.values()):
        group = {name: run for name, run in runs.items() if run.source.kind == kind}
        if len(group) > 1:
            found += _together(group)
    return found + [
        _KINDS[run.source.kind].section(name, run.content, run.source.command) for name, run in runs.items()
    ]


def side_by_side(runs: Mapping[str, Run]) -> list[Table]:
    """Return the settings of the runs of each kind and the versions of all, one column for each run."""
    kinds = list(dict.fromkeys(run.source.kind for run in runs.values()))
    tables: list[Table] = []
    for kind in kinds:
        settings = {
            name: {key: _text(value) for key, value in run.source.settings.items()}
            for name, run in runs.items()
            if run.source.kind == kind
        }
        of_kind = "" if len(kinds) == 1 else f" of {kind}"
        differ = _differing(settings)
        if differ:
            tables.append(_beside(f"Settings{of_kind} that differ", "setting", differ))
        tables.append(_beside(f"Settings{of_kind}", "setting", settings))
    return [*tables, _beside("Versions", "version", {name: run.source.versions for name, run in runs.items()})]


def _beside(title: str, what: str, by_run: Mapping[str, Mapping[str, str]]) -> Table:
    """Return a table with a column for each run, in which differences are marked."""
    keys = dict.fromkeys(key for values in by_run.values() for key in values)
    rows = tuple(
        {what: key, "run": run, "value": values.get(key, "–")} for key in keys for run, values in by_run.items()
    )
    caption = "Marked: not the same in all runs." if len(by_run) > 1 else ""
    table = Table(title, (text(what), text("run"), text("value")), rows, caption)
    return table.pivot(what, "run", "value", marks="differences")


def _differing(by_run: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return the values that are not the same in all runs."""
    keys = dict.fromkeys(key for values in by_run.values() for key in values)
    differ = [key for key in keys if len({values.get(key) for values in by_run.values()}) > 1]
    return (
        {run: {key: values[key] for key in differ if key in values} for run, values in by_run.items()} if differ else {}
    )


def _together(group: Mapping[str, Run]) -> Sequence[Section]:
    sources = [run.source for run in group.values()]
    title, kind = "Together: " + ", ".join(group), _KINDS[sources[0].kind]
    found = {key: dict.fromkeys(_text(source.settings.get(key)) for source in sources) for key in kind.shared}
    apart = [f"{key} ({', '.join(values)})" for key, values in found.items() if len(values) > 1]
    if apart:
        note = f"Not drawn together: these runs differ in {'; '.join(apart)}. Each has a section of its own."
        return [Section(title, "not drawn in one picture", (note,))]
    return [kind.section(title, kind.together({name: run.content for name, run in group.items()}), None)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
