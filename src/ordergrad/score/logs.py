"""A whole log: its files read piece by piece into a summary, and its advantages written beside its rows."""

# pyright: reportUnknownMemberType=false

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ordergrad.extras import extra
from ordergrad.runs.errors import UserError
from ordergrad.score.groups import advantages_of
from ordergrad.score.summary import Summary
from ordergrad.weights import Baseline

with extra("score"):
    import polars as pl

    from ordergrad.score.grouping import Groups, ScatteredError, contiguous, fingerprints, partitioned
    from ordergrad.score.opening import Log
    from ordergrad.score.reading import BrokenRows, read

Array = NDArray[Any]
Result = TypeVar("Result")


@dataclass
class Reading:
    """The state of reading a log: the numbers of rows that could be parsed and of masked ones, and the broken rows.

    ``scattered`` says whether groups were not contiguous.
    """

    log: Log
    problems: BrokenRows
    scattered: bool = False
    rows: int = 0
    masked: int = 0


class RowStore:
    """A table of numbers in a temporary file, NaN where nothing was put.

    Attributes:
        width: The number of columns.

    Example:
        >>> with RowStore(1) as store:
        ...     store.put(np.array([3, 1]), np.array([[3.0], [1.0]]))
        ...     store.get(0, 5).ravel()
        array([nan,  1., nan,  3., nan])
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._file = tempfile.TemporaryFile(prefix="ordergrad-")  # noqa: SIM115
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, rows: Array, table: Array) -> None:
        """Put in some rows, in any order."""
        first, last = int(rows.min()), int(rows.max())
        self._grow(last + 1)
        shape = (last + 1 - first, self.width)
        mapped = np.memmap(self._file, np.float64, "r+", first * self.width * 8, shape)
        mapped[rows - first] = table

    def get(self, start: int, stop: int) -> Array:
        """Return consecutive rows."""
        self._grow(stop)
        self._file.seek(start * self.width * 8)
        return np.frombuffer(self._file.read((stop - start) * self.width * 8)).reshape(-1, self.width)

    def _grow(self, rows: int) -> None:
        if rows > self._rows:
            self._file.seek(0, 2)
            self._file.write(np.full((rows - self._rows, self.width), np.nan).tobytes())
            self._file.flush()
            self._rows = rows


def read_log(
    log: Log,
    use: Callable[[Reading, Iterator[Groups]], Result],
    *,
    skip_broken: bool = False,
    positions: bool = False,
    report: Callable[[int, float], None] = lambda rows, done: None,
) -> tuple[Reading, Result]:
    """Read the groups of a log and return the result of `use`.

    Args:
        log: The log.
        use: Consumes the groups. If a group turns out not to be contiguous, its result is discarded and it is called
            again.
        skip_broken: Whether to leave out rows that cannot be used.
        positions: Whether the groups hold the positions of their rows in the log.
        report: Called with the number of rows read so far and the share of the log.

    Raises:
        UserError: The log cannot be read, has no rows, or has broken rows that are not skipped.
    """
    reading = Reading(log, BrokenRows(skip_broken))
    try:
        result = use(reading, contiguous(_frames(reading, report, positions)))
    except ScatteredError:
        reading = Reading(log, BrokenRows(skip_broken), scattered=True)
        result = use(reading, partitioned(_frames(reading, report, positions)))
    if not (reading.rows or reading.problems.count):
        raise UserError(f"{log.name} holds no rows")
    return reading, result


def score_log(
    log: Log,
    objectives: Sequence[str],
    *,
    success: float = 1.0,
    skip_broken: bool = False,
    keep: bool = False,
    ks: Sequence[int] | None = None,
    store: RowStore | None = None,
    baseline: Baseline = "leave_one_out",
    report: Callable[[int, float], None] = lambda rows, done: None,
) -> tuple[Reading, Summary]:
    """Return how a log was read, and what it says about objectives.

    Args:
        log: The log.
        objectives: Their strings.
        success: A reward of at least this much counts as a success in pass@k.
        skip_broken: Whether to leave out rows that cannot be used.
        keep: Whether to keep the values of every group, to compare logs.
        ks: The comparison sizes of pass@k, pass^k and max@k; default powers of two.
        store: Takes the advantages of every row under every objective.
        baseline: Of those advantages.
        report: Called with the number of rows read so far and the share of the log.

    Raises:
        UserError: The log cannot be read, or has broken rows that are not skipped.
    """

    def use(reading: Reading, groups: Iterator[Groups]) -> Summary:
        summary = Summary(objectives, success, keep, ks)
        for some in groups:
            weights, steps, units = (some.extra.get(name) for name in ("weight", "step", "unit"))
            first = np.cumsum(some.sizes) - some.sizes
            step, unit = (None if column is None else column[first] for column in (steps, units))
            right = some.extra.get("format")
            summary.add(
                some.rewards,
                some.sizes,
                weights=weights,
                steps=step,
                keys=some.keys,
                units=unit,
                lengths=some.extra.get("length"),
                answers=None if right is None else (some.rewards - log.roles[0].format_share * right, right),
            )
            if store is not None:
                table = advantages_of(some.rewards, some.sizes, objectives, weights=weights, baseline=baseline)
                store.put(some.extra["position"], table)
        return summary

    return read_log(log, use, skip_broken=skip_broken, positions=store is not None, report=report)


def _frames(reading: Reading, report: Callable[[int, float], None], positions: bool) -> Iterator[pl.DataFrame]:
    """Yield the rows of a log that count, with fingerprints, and count the others."""
    files = reading.log.files
    for index, file in enumerate(files):
        for piece in read(file, reading.log.roles[index], reading.problems, reading.log.load):
            rows = fingerprints(piece.good)
            if positions:
                rows = rows.with_columns(position=pl.col("row").cast(pl.Int64) + reading.rows)
            reading.rows += piece.rows
            reading.masked += piece.masked
            yield rows.drop("row")
            report(reading.rows, (index + piece.done) / len(files))


def write_advantages(log: Log, objectives: Sequence[str], store: RowStore, out: Path) -> int:
    """Write the rows of a log with their advantages, and return their number.

    The columns are called ``advantage(OBJECTIVE)``. Rows without an advantage, because they are masked, broken or in
    too small a group, have none there; lines that could not be parsed are left out. The kind of the file is the log's.
    """
    names = [f"advantage({objective})" for objective in objectives]
    rows = 0

    def frames() -> Iterator[pl.DataFrame]:
        nonlocal rows
        for file, roles in zip(log.files, log.roles, strict=True):
            for piece in read(file, roles, BrokenRows(skip=True), log.load):
                frame = piece.whole()
                table = store.get(rows, rows + len(frame))
                rows += len(frame)
                columns = [pl.Series(name, column).fill_nan(None) for name, column in zip(names, table.T, strict=True)]
                yield frame.with_columns(columns)

    part = out.with_name(out.name + ".part")
    try:
        if out.suffix.lower() == ".parquet":
            schema = dict(pl.read_parquet_schema(log.files[0])) | dict.fromkeys(names, pl.Float64())
            _write_parquet(frames(), schema, part)
        else:
            _write_text(frames(), names, out.suffix.lower() == ".csv", part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return rows


def _write_text(frames: Iterator[pl.DataFrame], names: Sequence[str], as_csv: bool, out: Path) -> None:
    with out.open("wb") as stream:
        for index, frame in enumerate(frames):
            if as_csv:
                frame.write_csv(stream, include_header=index == 0)
            elif len(frame):
                lines = frame.select(_with_fields(names)).to_series()
                stream.write(("\n".join(lines.to_list()) + "\n").encode())


def _write_parquet(frames: Iterator[pl.DataFrame], schema: dict[str, Any], out: Path) -> None:
    from polars.io.plugins import register_io_source

    def source(*_: Any) -> Iterator[pl.DataFrame]:
        return frames

    register_io_source(source, schema=schema).sink_parquet(out)


def _with_fields(names: Sequence[str]) -> pl.Expr:
    """Return JSON objects, one a line, with more fields at their end."""
    head = pl.col("line").str.strip_suffix("}").str.strip_chars_end()
    fields: list[pl.Expr] = []
    for index, name in enumerate(names):
        comma = pl.lit(", ") if index else pl.when(head == "{").then(pl.lit("")).otherwise(pl.lit(", "))
        number = pl.col(name).cast(pl.String).fill_null("null")
        fields += [comma, pl.lit(json.dumps(name) + ": "), number]
    return pl.concat_str([head, *fields, pl.lit("}")])
