"""Files of logs as plain streams: decompressed, in UTF-8, their kind told by what they hold.

Kinds are ``parquet``, ``csv``, ``lines`` (JSON, one object a line), ``document`` (one JSON value), ``numpy``, ``zip``.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, cast

import polars as pl

from ordergrad.runs.errors import UserError

Kind = Literal["parquet", "csv", "lines", "document", "numpy", "zip"]
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".npy", ".npz", ".eval", *_COMPRESSED)
_MAGIC: tuple[tuple[bytes, Callable[[IO[bytes]], IO[bytes]]], ...] = (
    (b"\x1f\x8b", lambda stream: cast("IO[bytes]", gzip.GzipFile(fileobj=stream))),
    (b"BZh", lambda stream: cast("IO[bytes]", bz2.BZ2File(stream))),
    (b"\xfd7zXZ", lambda stream: cast("IO[bytes]", lzma.LZMAFile(stream))),  # noqa: SIM115
    (b"\x28\xb5\x2f\xfd", lambda stream: _zstandard(stream)),
)
_START, _HEAD, _DOCUMENT, _LONGEST = 1 << 16, 100, 1 << 30, 1 << 28


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    ``before`` counts the lines before the first record, the header among them; ``decimal_comma`` are the columns whose
    numbers have one.
    """

    names: tuple[str, ...]
    separator: str
    before: int
    decimal_comma: frozenset[str]


@dataclass(frozen=True)
class Head:
    """The beginning of a file: its columns (of JSON lines the keys of the first hundred) and first hundred rows.

    Values of CSV files are text. ``start`` is the first line of a text file.
    """

    file: Path
    kind: Kind
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    start: str = ""
    dialect: Dialect | None = None

    def values(self, column: str) -> list[Any]:
        """Return the values of a column that are known."""
        return [row[column] for row in self.rows if row.get(column) is not None]

    def document(self) -> Any:
        """Return the JSON value that the file is."""
        with open_text(self.file) as stream:
            text = stream.read(_DOCUMENT)
        try:
            return json.loads(text)
        except ValueError as error:
            raise UserError(f"{self.file} is not JSON: {error}") from error


def suffix_of(file: Path) -> str:
    """Return the suffix of a file, in lower case, that of its compression aside.

    Example:
        >>> suffix_of(Path("rewards.jsonl.gz"))
        '.jsonl'
    """
    suffix = file.suffix.lower()
    return suffix_of(file.with_suffix("")) if suffix in _COMPRESSED else suffix


def decoded(raw: IO[bytes]) -> IO[bytes]:
    """Return a stream of text as UTF-8 without a byte order mark, decompressed; the stream itself if it is that."""
    begin = raw.read(6)
    raw.seek(0)
    stream: IO[bytes] = raw
    for magic, opened in _MAGIC:
        if begin.startswith(magic):
            stream = opened(raw)
            begin = stream.read(4)
            stream.seek(0)
            break
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return cast("IO[bytes]", codecs.EncodedFile(stream, "utf-8", "utf-16"))
    if begin.startswith(codecs.BOM_UTF8):
        stream.read(3)
    return stream


@contextmanager
def open_text(file: Path) -> Generator[IO[bytes]]:
    """Open a text file as UTF-8, decompressed."""
    with file.open("rb") as raw:
        yield decoded(raw)


def spooled() -> Path:
    """Return a temporary file with what comes on standard input, deleted at the end of the process."""
    spool = tempfile.NamedTemporaryFile(prefix="ordergrad-stdin-")  # noqa: SIM115
    shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.flush()
    _SPOOLS.append(spool)
    return Path(spool.name)


_SPOOLS: list[Any] = []


def head(file: Path) -> Head:
    """Return the beginning of a file.

    Raises:
        UserError: It cannot be read, or holds nothing.
    """
    try:
        about = file.stat()
        return _head(file, about.st_mtime_ns, about.st_size)
    except (OSError, EOFError, lzma.LZMAError, pl.exceptions.PolarsError, csv.Error, UnicodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


@lru_cache(maxsize=4096)
def _head(file: Path, _changed: int, _size: int) -> Head:
    kind = _kind(file)
    if kind == "parquet":
        frame = pl.scan_parquet(file).head(_HEAD).collect()
        return Head(file, kind, tuple(frame.columns), tuple(frame.to_dicts()))
    if kind == "lines":
        return _lines_head(file)
    return _csv_head(file) if kind == "csv" else Head(file, kind, (), ())


def _kind(file: Path) -> Kind:
    """Return the kind of a file by its first bytes; its suffix only decides between JSON lines and CSV if both fit."""
    with file.open("rb") as raw:
        magic = raw.read(6)
    if magic.startswith(b"PAR1") or suffix_of(file) == ".parquet":
        return "parquet"
    if magic == b"\x93NUMPY" or (magic.startswith(b"PK") and suffix_of(file) == ".npz"):
        return "numpy"
    if magic.startswith(b"PK"):
        return "zip"
    suffix = suffix_of(file)
    with open_text(file) as stream:
        first, second = stream.readline(_LONGEST), stream.readline(_LONGEST)
    if suffix in (".csv", ".tsv") or not first.lstrip().startswith((b"{", b"[")):
        return "lines" if suffix in (".jsonl", ".ndjson") else "csv"
    if suffix in (".jsonl", ".ndjson") and first.strip() not in (b"{", b"[") and first.lstrip().startswith(b"{"):
        return "lines"
    return "lines" if second.strip() and isinstance(json_object(first), dict) else "document"


def _lines_head(file: Path) -> Head:
    with open_text(file) as stream:
        lines = list(islice(stream, _HEAD))
    rows = tuple(found for found in map(json_object, lines) if isinstance(found, dict))
    if not rows:
        if not any(map(bytes.strip, lines)):
            raise UserError(f"{file} holds no rows")
        raise UserError(f"{file} must hold one JSON object a line; none of the first hundred lines is one")
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Head(file, "lines", columns, rows, lines[0].decode(errors="replace").strip())


def _csv_head(file: Path) -> Head:
    with open_text(file) as stream:
        lines = stream.read(_START).decode(errors="replace").splitlines(keepends=True)
    if not any(map(str.strip, lines)):
        raise UserError(f"{file} holds no rows")
    before = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines) - 1)
    text = "".join(lines[before:])
    separator = _separator(lines[before : before + 20], suffix_of(file))
    csv.field_size_limit(1 << 28)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    names = tuple(next(reader))
    end = before + reader.line_num
    try:
        records = [record for record in islice(reader, _HEAD) if len(record) == len(names)]
    except csv.Error:
        records = []
    rows = tuple({name: text or None for name, text in zip(names, record, strict=True)} for record in records)
    commas = frozenset(name for name in names if _decimal_comma([row[name] for row in rows]))
    return Head(file, "csv", names, rows, lines[0].strip(), Dialect(names, separator, end, commas))


def _separator(lines: Sequence[str], suffix: str) -> str:
    """Return what separates fields: the most frequent in the header, of those that come as often in the other lines."""
    if suffix == ".tsv":
        return "\t"
    counts = {mark: [line.count(mark) for line in lines if line.strip()] for mark in ",;\t|"}
    return max(counts, key=lambda mark: (counts[mark][0] > 0 and len(set(counts[mark])) == 1, counts[mark][0]))


def _decimal_comma(values: Sequence[str | None]) -> bool:
    """Return whether numbers have a decimal comma: digits, one comma, digits, and not always three of them."""
    known = [value.strip() for value in values if value]
    forms = [re.fullmatch(r"[+-]?\d+(?:,(\d+))?(?:[eE][+-]?\d+)?%?", value) for value in known]
    parts = [form[1] for form in forms if form and form[1]]
    return all(forms) and any(len(part) != 3 for part in parts)


def json_object(line: bytes) -> dict[str, Any] | str:
    """Return the object on a line, or why there is none; NaN and Infinity are read, the first of equal keys counts."""
    try:
        found = json.loads(line, object_pairs_hook=lambda pairs: dict(pairs) | dict(reversed(pairs)))
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}"
    except UnicodeDecodeError:
        return "not UTF-8"
    except RecursionError:
        return "JSON nested too deeply"
    return cast("dict[str, Any]", found) if isinstance(found, dict) else "not a JSON object"


def json_text(value: Any) -> str | None:
    """Return a value of an object as the text of a cell: lists and objects as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _zstandard(stream: IO[bytes]) -> IO[bytes]:
    """Return what a Zstandard stream holds, decompressed in memory: Polars reads it as a table of lines."""
    lines = pl.read_csv(stream.read(), has_header=False, separator="\x01", quote_char=None, schema={"line": pl.String})
    return io.BytesIO(("\n".join(lines["line"].fill_null("").to_list()) + "\n").encode())
