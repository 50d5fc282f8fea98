"""Reward logs, one row per sample, read piece by piece.

Every piece holds the needed columns, typed. Rows that cannot be used are located by their line in a text file, by their
row in a Parquet file.
"""

# pyright: reportUnknownMemberType=false

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ordergrad.runs.errors import UserError
from ordergrad.score.parsing import Parsed, csv_header, json_object, parse_csv, parse_jsonl, parse_parquet

__all__ = ["SUFFIXES", "BrokenRow", "BrokenRows", "Columns", "Piece", "found_columns", "log_files", "read", "usable"]

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet")
_LISTED, _KEPT = 10, 1000


@dataclass(frozen=True)
class Columns:
    """The names of the columns of a log.

    Attributes:
        group: The group of a sample: text, a number, or anything nested such as chat messages. None makes all rows
            one group.
        reward: Its reward.
        mask: Whether it counts: true or false.
        weight: Its importance weight, nonnegative.
        step: A number; the same group id at another step is another group.
    """

    group: str | None = "group"
    reward: str = "reward"
    mask: str | None = None
    weight: str | None = None
    step: str | None = None

    def by_role(self) -> dict[str, str]:
        """Return the names that are given, by what they are for."""
        roles = {"group": self.group, "reward": self.reward, "mask": self.mask, "weight": self.weight}
        return {role: name for role, name in (roles | {"step": self.step}).items() if name is not None}


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be used.

    Attributes:
        file: Its file.
        place: ``line`` in a text file, ``row`` in a Parquet file.
        number: Which, from 1.
        reason: Why.
    """

    file: str
    place: str
    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, {self.place} {self.number}: {self.reason}"


@dataclass
class BrokenRows:
    """The rows of a log that cannot be used: all are counted, the first thousand located.

    Attributes:
        skip: Whether to leave them out; otherwise the first ones end the reading.
        count: How many.
        first: The first of them.
    """

    skip: bool = False
    count: int = 0
    first: list[BrokenRow] = field(default_factory=list[BrokenRow])

    def add(self, problems: Sequence[BrokenRow], more: int = 0) -> None:
        """Record located rows, and the number of others.

        Raises:
            UserError: There are any and `skip` is false.
        """
        self.count += len(problems) + more
        self.first.extend(problems[: _KEPT - len(self.first)])
        if self.count and not self.skip:
            listed = "\n  ".join(map(str, self.first[:_LISTED]))
            rest = "\n  ..." if self.count > _LISTED else ""
            raise UserError(
                f"the log has rows that cannot be used; the first:\n  {listed}{rest}\n"
                "--skip-broken leaves such rows out and counts them"
            )


@dataclass(frozen=True)
class Piece:
    """Some consecutive rows of a file.

    Attributes:
        rows: The number of rows that could be parsed.
        good: The rows that can be used and are not masked: ``row`` (position among the parsed rows of the piece),
            ``group`` (text), ``reward``, and ``weight`` and ``step`` where the log has them.
        masked: The number of masked rows.
        done: The share of the file that has been read with this piece.
        whole: Reads the parsed rows again, for writing: all columns, or for JSONL the column ``line``.
    """

    rows: int
    good: pl.DataFrame
    masked: int
    done: float
    whole: Callable[[], pl.DataFrame]


def log_files(argument: str) -> list[Path]:
    """Return the files of a log: a file, all logs in a folder, or all that match a pattern.

    Raises:
        UserError: There is none, or it is of another kind.
    """
    path = Path(argument)
    if not argument:
        files = list[Path]()
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    elif path.exists():
        files = [path]
    else:
        root = Path(path.anchor or ".")
        files = sorted(root.glob(str(path.relative_to(path.anchor)))) if set("*?[") & set(argument) else []
    if not files:
        raise UserError(f"FILE must be a log, a folder of logs or a pattern that matches some; {argument!r} is none")
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            raise UserError(f"FILE must end in one of {', '.join(SUFFIXES)}; got {file}")
    return files


def found_columns(file: Path) -> list[str]:
    """Return the names of the columns of a file; for JSONL the keys of its first hundred objects.

    Raises:
        UserError: The file cannot be read, or is empty.
    """
    try:
        if file.suffix.lower() == ".parquet":
            names = list(pl.read_parquet_schema(file))
        elif file.suffix.lower() == ".csv":
            names = csv_header(file)[0]
        else:
            with file.open("rb") as lines:
                heads = [head for _, head in zip(range(100), lines, strict=False)]
            objects = [found for found in map(json_object, heads) if isinstance(found, dict)]
            names = list(dict.fromkeys(key for found in objects for key in found))
    except (OSError, pl.exceptions.PolarsError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not names:
        if file.suffix.lower() in (".jsonl", ".ndjson") and file.stat().st_size:
            raise UserError(f"{file} must hold one JSON object a line; none of the first hundred lines is one")
        raise UserError(f"{file} holds no rows")
    return names


def read(file: Path, columns: Columns, problems: BrokenRows) -> Iterator[Piece]:
    """Yield the rows of a file, piece by piece.

    Args:
        file: A JSONL, CSV or Parquet file.
        columns: The names of its columns; all of them exist.
        problems: Takes note of the rows that cannot be used.

    Raises:
        UserError: The file cannot be read, a column has an unusable type, or rows are broken and not skipped.
    """
    roles = columns.by_role()
    parsers = {".parquet": parse_parquet, ".csv": parse_csv}
    try:
        for raw in parsers.get(file.suffix.lower(), parse_jsonl)(file, roles):
            yield _piece(raw, file, roles, problems)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def _piece(raw: Parsed, file: Path, roles: dict[str, str], problems: BrokenRows) -> Piece:
    """Return the usable rows, and record the others."""
    frame = raw.frame.with_row_index("row")
    good, reasons, masked = usable(frame, roles, str(file))
    broken = reasons.is_not_null()
    found = [BrokenRow(str(file), raw.place, number, reason) for number, reason in raw.problems]
    count = int(broken.sum())
    if count:
        where = broken.arg_true()[:_KEPT]
        places = raw.numbers()[where.to_numpy()].tolist()
        found += [
            BrokenRow(str(file), raw.place, number, reason)
            for number, reason in zip(places, reasons[where].to_list(), strict=True)
        ]
        found.sort(key=lambda problem: problem.number)
    if found:
        problems.add(found, more=count + len(raw.problems) - len(found))
    left_out = int(masked.sum())
    kept = pl.DataFrame([frame["row"], *good.values()])
    kept = kept.filter(~broken & ~masked) if count or left_out else kept
    return Piece(frame.height, kept, left_out, raw.done, raw.whole)


def usable(
    frame: pl.DataFrame, roles: Mapping[str, str], source: str
) -> tuple[dict[str, pl.Series], pl.Series, pl.Series]:
    """Return the columns that a score needs, why rows cannot be used, null where they can, and which are masked.

    Args:
        frame: Rows as they came, the columns named by their roles: see `Columns.by_role`.
        roles: The name of each column in the log, for messages.
        source: Where the rows come from, for messages.

    Raises:
        UserError: A column has an unusable type.

    Example:
        >>> rows = pl.DataFrame({"reward": ["1", "x", "2"], "mask": ["true", "true", "false"]})
        >>> good, reasons, masked = usable(rows, {"reward": "score", "mask": "keep"}, "log.csv")
        >>> reasons.to_list(), masked.to_list()
        ([None, 'score is not a number: x', None], [False, False, True])
    """
    good: dict[str, pl.Series] = {}
    reasons = pl.Series("reason", [None], dtype=pl.String).extend_constant(None, frame.height)[1:]
    masked = pl.Series("masked", [False]).extend_constant(False, frame.height)[1:]
    if "mask" in roles:
        truth, _ = _numbers(frame["mask"], source, roles["mask"])
        masked = (truth == 0).fill_null(False)
        neither = ~(masked | (truth == 1).fill_null(False))
        reasons = _note(reasons, neither, f"{roles['mask']} is neither true nor false", frame["mask"])
    for role in ("reward", "weight", "step"):
        if role not in roles:
            continue
        values, missing = _numbers(frame[role], source, roles[role])
        good[role] = values.alias(role)
        reasons = _note(reasons, missing, f"{roles[role]} is missing")
        reasons = _note(reasons, values.is_null(), f"{roles[role]} is not a number", frame[role])
        reasons = _note(reasons, ~values.is_finite(), f"{roles[role]} is not finite", frame[role])
        if role == "weight":
            reasons = _note(reasons, values < 0, f"{roles[role]} is negative", frame[role])
    if "group" in roles:
        good["group"] = _text(frame["group"], source, roles["group"]).alias("group")
        empty = good["group"].is_null() | (good["group"] == "")
        reasons = _note(reasons, empty, f"{roles['group']} is missing")
    return good, reasons.set(masked, None), masked


def _note(reasons: pl.Series, where: pl.Series, text: str, shown: pl.Series | None = None) -> pl.Series:
    """Return the reasons with one more, for rows that have none yet; it shows what came."""
    where = where.fill_null(False) & reasons.is_null()
    if not where.any():
        return reasons
    came = None if shown is None else shown.cast(pl.String).str.slice(0, 40).fill_null("")
    reason = pl.lit(text) if came is None else pl.format("{}: {}", pl.lit(text), came)
    return pl.select(pl.when(where).then(reason).otherwise(reasons)).to_series()


def _numbers(values: pl.Series, source: str, name: str) -> tuple[pl.Series, pl.Series]:
    """Return a column as float64, null where it is no number, and where it is missing."""
    missing = values.is_null()
    if values.dtype == pl.String:
        values = values.str.strip_chars()
        missing = missing | (values == "").fill_null(False)
        numbers = values.cast(pl.Float64, strict=False)
        if (numbers.is_null() & ~missing).any():
            words = values.str.to_lowercase()
            truth = pl.when(words == "true").then(1.0).when(words == "false").then(0.0)
            numbers = pl.select(pl.coalesce(numbers, truth)).to_series()
        return numbers, missing
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean or values.dtype == pl.Null):
        raise UserError(f"{source}: column {name} must hold numbers; it holds {values.dtype}")
    return values.cast(pl.Float64), missing


def _text(values: pl.Series, source: str, name: str) -> pl.Series:
    """Return a column as text; lists and objects, such as chat messages, as JSON."""
    if values.dtype == pl.Binary:
        raise UserError(f"{source}: column {name} must hold text or numbers; it holds {values.dtype}")
    if values.dtype.is_nested():
        encoded = pl.struct(values).struct.json_encode()
        return pl.select(pl.when(values.is_not_null()).then(encoded)).to_series()
    return values.cast(pl.String)
