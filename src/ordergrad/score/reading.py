"""Reward logs, one row per sample, read piece by piece.

Every piece holds the needed columns, typed. Rows that cannot be used are located by their line in a text file, by their
row in a Parquet file.
"""

# pyright: reportUnknownMemberType=false

import lzma
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ordergrad.runs.errors import UserError
from ordergrad.score.columns import Roles
from ordergrad.score.files import head
from ordergrad.score.parsing import Parsed, parse_csv, parse_frame, parse_jsonl, parse_parquet
from ordergrad.score.values import usable

Load = Callable[[Path], pl.DataFrame]
_LISTED, _KEPT = 10, 1000
_PARSERS = {"parquet": parse_parquet, "csv": parse_csv, "lines": parse_jsonl}


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be used: a ``line`` of a text file or a ``row`` of a Parquet file, numbered from 1."""

    file: str
    place: str
    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, {self.place} {self.number}: {self.reason}"


@dataclass
class BrokenRows:
    """The rows of a log that cannot be used: all are counted, the first thousand located.

    Unless they are skipped, the first ones end the reading.
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


def read(file: Path, roles: Roles, problems: BrokenRows, load: Load | None = None) -> Iterator[Piece]:
    """Yield the rows of a file, piece by piece; `problems` collects those that cannot be used.

    Raises:
        UserError: The file cannot be read, a column has an unusable type, or rows are broken and not skipped.
    """
    try:
        if load is not None:
            parsed = parse_frame(load(file), roles.paths)
        else:
            parsed = _PARSERS[head(file).kind](file, roles.paths)
        for raw in parsed:
            yield _piece(raw, file, roles, problems)
    except (OSError, EOFError, lzma.LZMAError, UnicodeError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def _piece(raw: Parsed, file: Path, roles: Roles, problems: BrokenRows) -> Piece:
    """Return the usable ones of parsed rows, and record the others."""
    frame = raw.frame.with_row_index("row")
    good, reasons, masked = usable(frame, roles, str(file))
    broken = reasons.is_not_null()
    count, left_out, numbered = int(broken.sum()), int(masked.sum()), list(raw.problems)
    if count:
        where = broken.arg_true()[:_KEPT]
        numbered += zip(raw.numbers()[where.to_numpy()].tolist(), reasons[where].to_list(), strict=True)
    if numbered:
        found = [BrokenRow(str(file), raw.place, number, reason) for number, reason in sorted(numbered)]
        problems.add(found, more=count + len(raw.problems) - len(found))
    kept = pl.DataFrame([frame["row"], *good.values()])
    kept = kept.filter(~broken & ~masked) if count or left_out else kept
    if kept["reward"].dtype.is_nested():
        kept = kept.drop("length", "format", strict=False).explode("reward")
    return Piece(frame.height, kept, left_out, raw.done, raw.whole)
