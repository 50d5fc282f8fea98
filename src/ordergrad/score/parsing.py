"""Parsers of log files: JSONL, CSV and Parquet in pieces of bounded size, with the place of every row.

Polars parses. Only blocks of text that it refuses are read again with the standard library, which knows the line of
what is wrong.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ordergrad.runs.errors import UserError
from ordergrad.score.columns import Path as ColumnPath
from ordergrad.score.files import Dialect, decoded, head, json_object, json_text

_BLOCK, _ROWS, _LINES, _LONGEST = 1 << 24, 1 << 20, 1000, 1 << 28
Paths = dict[str, ColumnPath]


@dataclass(frozen=True)
class Parsed:
    """Rows as they were parsed, before anyone looks at what they hold.

    Attributes:
        frame: The columns that matter, by what they are for.
        place: ``line`` in a text file, ``row`` in a Parquet file.
        done: The share of the file that has been read with them.
        numbers: Returns the line or row of each, from 1.
        whole: Reads the rows again with all columns; for JSONL the lines, as the column ``line``.
        problems: The lines or rows between them that could not be parsed, and why.
    """

    frame: pl.DataFrame
    place: str
    done: float
    numbers: Callable[[], NDArray[np.int64]]
    whole: Callable[[], pl.DataFrame]
    problems: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


# Tables


def parse_parquet(file: Path, roles: Paths) -> Iterator[Parsed]:
    """Yield the rows of a Parquet file."""
    lazy = pl.scan_parquet(file)
    yield from _parse_lazy(lazy, roles, lazy.select(pl.len()).collect().item())


def parse_frame(frame: pl.DataFrame, roles: Paths) -> Iterator[Parsed]:
    """Yield the rows of a table in memory."""
    yield from _parse_lazy(frame.lazy(), roles, frame.height)


def _parse_lazy(lazy: pl.LazyFrame, roles: Paths, total: int) -> Iterator[Parsed]:
    schema = lazy.collect_schema()
    for start in range(0, total, _ROWS):
        part = lazy.slice(start, _ROWS)
        frame = part.select(_at(path, schema).alias(role) for role, path in roles.items()).collect()
        done = (start + frame.height) / total
        yield Parsed(frame, "row", done, _numbered(start + 1, frame.height), part.collect)


def _at(path: ColumnPath, schema: Mapping[str, Any] | None = None) -> pl.Expr:
    """Return a column, or a field of its objects, structs or JSON text."""
    column, *keys = path
    expression, kind = pl.col(column), None if schema is None else schema[column]
    for i, key in enumerate(keys):
        if not isinstance(kind, pl.Struct):
            inside = "".join("[" + json.dumps(key) + "]" for key in keys[i:])
            return expression.str.json_path_match(f"${inside}")
        expression = expression.struct.field(key)
        kind = {field.name: field.dtype for field in kind.fields}[key]
    return expression


def _numbered(first: int, count: int) -> Callable[[], NDArray[np.int64]]:
    return lambda: np.arange(first, first + count)


# Text


def _blocks(file: Path, quoted: bool) -> Iterator[tuple[bytes, int, float]]:
    """Yield whole records in blocks, with the line on which each begins and the share of the file read by then."""
    rest, line = b"", 1
    with file.open("rb") as raw:
        stream, size = decoded(raw), max(file.stat().st_size, 1)
        ahead = stream.read(_BLOCK)
        while ahead:
            data, ahead = rest + ahead, stream.read(_BLOCK)
            cut = data.rfind(b"\n") + 1 if ahead else len(data)
            odd = data.count(b'"', 0, cut) % 2 if quoted and ahead else 0
            while cut and odd:  # a line end within quotes
                before = data.rfind(b"\n", 0, cut - 1) + 1
                odd ^= data.count(b'"', before, cut) % 2
                cut = before
            if len(data) - cut > _LONGEST:
                raise UserError(f"{file}: what begins on line {line} does not end within {_LONGEST >> 20} MiB")
            rest = data[cut:]
            if cut:
                unread = len(ahead) + len(rest) if stream is raw else 0
                yield data[:cut], line, (raw.tell() - unread) / size
                line += data.count(b"\n", 0, cut)


def _frame(columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


# JSON lines


def parse_jsonl(file: Path, roles: Paths) -> Iterator[Parsed]:
    """Yield the objects of a JSONL file, values as text."""
    for block, line, done in _blocks(file, quoted=False):
        yield _json_block(block, line, done, roles)


def _json_block(block: bytes, line: int, done: float, roles: Paths) -> Parsed:
    frame = _json_frame(block, roles)
    if frame is not None and frame.height == block.count(b"\n") + (not block.endswith(b"\n")):
        return Parsed(frame, "line", done, _numbered(line, frame.height), lambda: _as_lines(_split(block)))
    lines = _split(block)
    frames: list[pl.DataFrame] = []
    kept: list[int] = []
    problems: list[tuple[int, str]] = []
    for start in range(0, len(lines), _LINES):
        part = [i for i in range(start, min(start + _LINES, len(lines))) if lines[i].strip()]
        frame = _json_frame(b"\n".join(lines[i] for i in part), roles) if part else None
        if frame is not None and frame.height == len(part):
            frames.append(frame)
            kept += part
            continue
        rows: list[list[str | None]] = []
        for i in part:
            found = json_object(lines[i])
            if isinstance(found, str):
                problems.append((line + i, found))
            else:
                rows.append([json_text(_within(found, path)) for path in roles.values()])
                kept.append(i)
        frames.append(_frame(list(roles), rows))
    every = pl.concat(frames) if frames else _frame(list(roles), [])
    numbers: Callable[[], NDArray[np.int64]] = lambda: line + np.array(kept, np.int64)  # noqa: E731
    return Parsed(every, "line", done, numbers, lambda: _as_lines([lines[i] for i in kept]), problems)


def _json_frame(block: bytes, roles: Paths) -> pl.DataFrame | None:
    """Return the columns as text, or None where Polars refuses a line."""
    columns = dict.fromkeys(path[0] for path in roles.values())
    try:
        frame = pl.read_ndjson(io.BytesIO(block), schema=dict.fromkeys(columns, pl.String))
    except pl.exceptions.PolarsError:
        return None
    return frame.select(_at(path).alias(role) for role, path in roles.items())


def _within(found: Any, path: ColumnPath) -> Any:
    for key in path:
        found = cast("dict[str, Any]", found).get(key) if isinstance(found, dict) else None
    return found


def _split(block: bytes) -> list[bytes]:
    return block.removesuffix(b"\n").split(b"\n")


def _as_lines(lines: Sequence[bytes]) -> pl.DataFrame:
    return pl.DataFrame({"line": [line.strip().decode() for line in lines]}, schema={"line": pl.String})


# CSV


def parse_csv(file: Path, roles: Paths) -> Iterator[Parsed]:
    """Yield the records of a CSV file, values as text."""
    form = cast("Dialect", head(file).dialect)
    twice = [name for name in form.names if form.names.count(name) > 1]
    if twice:
        raise UserError(f"{file} has several columns of the name {twice[0]}")
    for block, line, done in _blocks(file, quoted=True):
        if line == 1:
            block, line = b"".join(block.split(b"\n", form.before)[form.before :]), form.before + 1
        if block.strip():
            yield _csv_block(block, line, done, form, roles)


def _csv_block(block: bytes, line: int, done: float, form: Dialect, roles: Paths) -> Parsed:
    frame = _csv_frame(block, form)
    if frame is not None:
        numbers: Callable[[], NDArray[np.int64]] = lambda: _csv_rows(block, line, form)[1]  # noqa: E731
        problems: list[tuple[int, str]] = []
    else:
        rows, places, problems = _csv_rows(block, line, form)
        frame, numbers = _frame(form.names, rows), lambda: places
    by_role = frame.select(_at(path).alias(role) for role, path in roles.items())
    return Parsed(by_role, "line", done, numbers, lambda: frame, problems)


def _csv_frame(block: bytes, form: Dialect) -> pl.DataFrame | None:
    """Return all columns as text, or None where Polars refuses a record or may have filled one up."""
    if block.count(b'"') % 2:
        return None
    try:
        text = dict.fromkeys(form.names, pl.String)
        frame = pl.read_csv(io.BytesIO(block), has_header=False, schema=text, separator=form.separator)
    except pl.exceptions.PolarsError:
        return None
    width = len(form.names)
    separators = block.count(form.separator.encode())
    whole = width > 1 and b'"' not in block and separators == frame.height * (width - 1)
    return frame if whole or not frame[form.names[-1]].null_count() else None


def _csv_rows(block: bytes, line: int, form: Dialect) -> tuple[list[list[str | None]], NDArray[np.int64], list[Any]]:
    """Return the records of a block, the line on which each begins, and what is wrong with the others."""
    csv.field_size_limit(_LONGEST)
    text, width = block.decode(errors="surrogateescape"), len(form.names)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=form.separator, strict=True)
    rows: list[list[str | None]] = []
    places: list[int] = []
    problems: list[tuple[int, str]] = []
    while True:
        place = line + reader.line_num
        try:
            record = next(reader)
        except StopIteration:
            return rows, np.array(places, np.int64), problems
        except csv.Error as error:
            unclosed = "unexpected end" in str(error)
            reason = "a quote is never closed; nothing after it was read" if unclosed else f"not CSV: {error}"
            problems.append((place, reason))
            continue
        if not record:
            continue
        if len(record) != width:
            problems.append((place, f"{len(record)} fields where the header has {width}"))
        elif any("\udc80" <= character <= "\udcff" for text in record for character in text if not text.isascii()):
            problems.append((place, "not UTF-8"))
        else:
            rows.append([text or None for text in record])
            places.append(place)
