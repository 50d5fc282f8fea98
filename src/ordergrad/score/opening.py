"""From what a command names to logs: files, the tool that wrote them, their columns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ordergrad.runs.errors import UserError
from ordergrad.score.columns import Columns, Roles, resolve, split_sum
from ordergrad.score.files import SUFFIXES, Head, head, spooled, suffix_of
from ordergrad.score.formats import NoLogError, Plan, recognise
from ordergrad.score.formats.tables import (
    default_step,
    load_rows,
    unknown,
    usual_format,
    usual_group,
    usual_length,
    usual_reward,
)
from ordergrad.score.reading import Load
from ordergrad.score.settings import LogSettings, ScoreSettings

_TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Log:
    """A log that can be read: the columns of each of its files, the tool that wrote it, and how.

    ``load`` turns a file that is not a table into one; ``note`` is what else a reader of the numbers should know.
    """

    name: str
    files: list[Path]
    columns: Columns
    roles: list[Roles]
    tool: str = "a table"
    load: Load | None = None
    note: str = ""

    @property
    def read_as(self) -> str:
        """How it was read, in words."""
        note = f" ({self.note})" if self.note else ""
        return f"read as {self.tool}: {self.columns.text()}{note}"


def open_logs(arguments: Sequence[str], settings: LogSettings) -> list[Log]:
    """Return the logs that a command names, their files and columns checked.

    Raises:
        UserError: A file cannot be read, is not a log or lacks a column, or a log is named twice.
    """
    if len(set(arguments)) < len(arguments):
        raise UserError("each log may be given once")
    short = [Path(argument).name or argument for argument in arguments]
    names = short if len(set(short)) == len(short) else arguments
    found: list[Log] = []
    for name, argument in zip(names, arguments, strict=True):
        found += _opened("standard input" if argument == "-" else name, log_files(argument), settings)
    return found


def log_files(argument: str) -> list[Path]:
    """Return the files of a log: a file, the logs in a folder, all files that match a pattern, or standard input (-).

    If a folder holds logs of a known tool, only those are taken.

    Raises:
        UserError: No file was found, or the folder has logs of several tools.
    """
    path = Path(argument)
    if argument == "-":
        return [spooled()]
    if argument and path.exists():
        files = _in_folder(path) if path.is_dir() else [path]
    else:
        pattern = str(path.relative_to(path.anchor))
        files = sorted(Path(path.anchor or ".").glob(pattern)) if set("*?[") & set(argument) else []
    if not files:
        raise UserError(f"FILE must be a log, a folder of logs or a pattern that matches some; {argument!r} is none")
    return files


def _in_folder(folder: Path) -> list[Path]:
    tools: dict[str, list[Path]] = {}
    tables: list[Path] = []
    refused: list[NoLogError] = []
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        table = suffix_of(file) in _TABLES
        try:
            _, plan = recognise(head(file), tools_only=True)
        except NoLogError as error:
            refused.append(error)
            continue
        except UserError:
            if table:
                raise
            continue
        if plan is not None:
            tools.setdefault(plan.tool, []).append(file)
        elif table:
            tables.append(file)
    if len(tools) > 1:
        found = "; ".join(f"{tool}: {files[0]}{' ...' if files[1:] else ''}" for tool, files in tools.items())
        raise UserError(f"{folder} holds logs of several tools; give one of them ({found})")
    files = next(iter(tools.values()), tables)
    if not files and refused:
        raise refused[0]
    return files


def _opened(name: str, files: list[Path], settings: LogSettings) -> list[Log]:
    """Return the logs that files are: one, or one for each file or part where the tool keeps them apart."""
    table, plan = _plan(files[0], settings)
    columns, parts = plan.columns, plan.parts
    if {part.partition("=")[0] for part in parts} & {asked.partition("=")[0] for asked in settings.where or ()}:
        parts = ()
    columns = _asked(columns, table_of(files[0], plan.load) if plan.load else table, settings)
    groups = plan.apart(files) if plan.apart else {name: files}
    logs: list[Log] = []
    for key, some in groups.items():
        own = key if len(groups) > 1 else name
        for part in parts or ("",):
            narrowed = replace(columns, where=(*columns.where, part)) if part else columns
            label = f"{own} [{part.partition('=')[2]}]" if part else own
            logs.append(open_log(label, some, narrowed, plan))
    return logs


def _plan(file: Path, settings: LogSettings) -> tuple[Head, Plan]:
    """Return how to read a file, by what it is and what was asked for."""
    named = settings.reward is not None and (settings.group is not None or settings.ungrouped)
    try:
        table, plan = recognise(head(file))
    except NoLogError:
        if not (named and head(file).columns):
            raise
        table, plan = head(file), None
    if plan is not None:
        return table, plan
    reward = settings.reward or usual_reward(table)
    group = None if settings.ungrouped else settings.group or usual_group(table)
    asked = settings.reward or settings.group or settings.ungrouped or settings.lists != "recognised"
    if not asked or reward is None or (group is None and not settings.ungrouped):
        raise UserError(unknown(table))
    load = load_rows if table.kind == "document" else None
    return table, Plan("a table", Columns(group, reward, step=None if group is None else default_step(table)), load)


def _asked(columns: Columns, table: Head, settings: LogSettings) -> Columns:
    """Return the recognised columns, overridden by those that were asked for."""
    if settings.ungrouped:
        columns = replace(columns, group=None, step=None)
    elif settings.group is not None:
        names = [name for _, name in split_sum(settings.group, table.columns)]
        step = columns.step or default_step(table)
        if len(names) > 1 and step in names and settings.step is None:
            columns = replace(columns, step=step)
            names.remove(step)
        columns = replace(columns, group="+".join(names))
    if settings.reward is not None:
        columns = replace(columns, reward=settings.reward)
    if settings.step is not None:
        columns = replace(columns, step=settings.step or None)
    if isinstance(settings, ScoreSettings) and columns.group is not None:
        length = usual_length(table) if settings.length is None else settings.length or None
        form = usual_format(table) if settings.format is None else settings.format or None
        columns = replace(columns, length=length, format=form)
    lists = columns.lists if settings.lists == "recognised" else settings.lists
    where = (*columns.where, *(settings.where or ()))
    return replace(columns, mask=settings.mask, weight=settings.weight, where=where, lists=lists)


def open_log(name: str, files: Sequence[Path], columns: Columns, plan: Plan | None = None) -> Log:
    """Return a log whose files all have the columns that are asked for.

    Raises:
        UserError: A file lacks a column, or the files are of different kinds.
    """
    kinds = sorted({head(file).kind for file in files})
    if len(kinds) > 1:
        raise UserError(f"{name} holds files of different kinds: {', '.join(kinds)}")
    plan = plan or Plan("a table", columns)
    roles = [resolve(columns, table_of(file, plan.load)) for file in files]
    return Log(name, list(files), columns, roles, plan.tool, plan.load, plan.note)


def table_of(file: Path, load: Load | None) -> Head:
    """Return the head of the table that a file is read as."""
    if load is None:
        return head(file)
    frame = load(file)
    return Head(file, "parquet", tuple(frame.columns), tuple(frame.head(100).to_dicts()))
