"""The rows of a log as whole groups, in bounded memory.

Logs are usually written group after group. `contiguous` relies on it: it holds one piece of a file, the group that may
continue in the next piece, and a 128-bit fingerprint of every group so far. If a group reappears after others, it
raises, and `partitioned` reads the log again: it spreads the rows, 24 bytes each and more with weights, steps and
positions, over temporary files by their group's fingerprint, and then takes those one by one.
"""

# pyright: reportUnknownMemberType=false

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Array = NDArray[Any]
_PARTS = 64
_OPTIONAL = ("weight", "step", "unit", "position", "length", "format")


class ScatteredError(Exception):
    """The rows of a group are not contiguous."""


@dataclass(frozen=True)
class Groups:
    """Whole groups, one after the other.

    Attributes:
        keys: Their fingerprints, shape (groups, 2).
        sizes: The number of rows of each.
        rewards: The rewards of all rows, group after group.
        extra: Other columns of the rows, where known: ``weight``, ``step``, ``unit`` (the group without its step),
            ``position`` (of the row in the log), ``length``, ``format``.
    """

    keys: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    rewards: NDArray[np.float64]
    extra: dict[str, Array]


def fingerprints(frame: pl.DataFrame) -> pl.DataFrame:
    """Return rows with the fingerprint of their group, columns ``key0`` and ``key1``, instead of its name.

    The name is the text ``group`` and the ``step``, where there are such columns; without either all are one group.
    """
    name = frame.select(column for column in ("group", "step") if column in frame.columns)
    if not name.width:
        return frame.with_columns(key0=pl.lit(0, pl.UInt64), key1=pl.lit(0, pl.UInt64))
    keys = [name.hash_rows(1).alias("key0"), name.hash_rows(2).alias("key1")]
    if name.width == 2:
        keys.append(frame.select("group").hash_rows(1).alias("unit"))
    return frame.with_columns(keys).drop("group", strict=False)


def contiguous(frames: Iterable[pl.DataFrame]) -> Iterator[Groups]:
    """Yield the groups of rows that come group after group: ``key0``, ``key1``, ``reward``, optional columns.

    Raises:
        ScatteredError: A group is not contiguous; some groups may have been yielded already.
    """
    pending: list[pl.DataFrame] = []
    seen: list[Array] = []
    count = checked = 1
    for frame in frames:
        if len(frame) == 0:
            continue
        begins = _begins(frame)
        if pending and _key(frame, 0) == _key(pending[-1], -1):
            begins = begins[1:]
        if len(begins) == 0:
            pending.append(frame)
            continue
        held, last = sum(map(len, pending)), int(begins[-1])
        edges = np.concatenate([np.zeros(min(held, 1), np.int64), begins + held])
        whole = pl.concat([*pending, frame[:last]])
        pending = [frame[last:]]
        if len(edges) > 1:
            groups = _groups(whole, edges)
            seen.append(groups.keys)
            count += len(groups.sizes)
            if count >= 2 * checked:
                seen, checked = [_all_different(seen)], count
            yield groups
    if pending:
        rest = pl.concat(pending)
        groups = _groups(rest, np.array([0, len(rest)]))
        _all_different([*seen, groups.keys])
        yield groups


def partitioned(frames: Iterable[pl.DataFrame]) -> Iterator[Groups]:
    """Yield the groups of rows in any order, through temporary files; rows keep their order within a group."""
    with tempfile.TemporaryDirectory(prefix="ordergrad-") as place, ExitStack() as stack:
        files = [stack.enter_context((Path(place) / f"{part}.bin").open("w+b")) for part in range(_PARTS)]
        dtype = np.dtype([])
        for frame in frames:
            names = ["key0", "key1", "reward", *(name for name in _OPTIONAL if name in frame.columns)]
            dtype = np.dtype([(name, frame[name].to_numpy().dtype) for name in names])
            rows = np.empty(len(frame), dtype)
            for name in names:
                rows[name] = frame[name].to_numpy()
            part = (rows["key0"] % _PARTS).astype(np.uint8)
            order = np.argsort(part, kind="stable")
            ends = np.cumsum(np.bincount(part, minlength=_PARTS))
            for file, some in zip(files, np.split(rows[order], ends[:-1]), strict=True):
                file.write(some.tobytes())
        for file in files:
            file.seek(0)
            rows = np.frombuffer(file.read(), dtype)
            file.close()
            if len(rows):
                frame = pl.DataFrame({name: rows[name] for name in dtype.names or ()})
                frame = frame.sort("key0", "key1", maintain_order=True)
                yield _groups(frame, np.append(_begins(frame), len(frame)))


def _begins(rows: pl.DataFrame) -> NDArray[np.int64]:
    """Return the positions where a group begins."""
    key0, key1 = rows["key0"].to_numpy(), rows["key1"].to_numpy()
    changes = (key0[1:] != key0[:-1]) | (key1[1:] != key1[:-1])
    return np.flatnonzero(np.concatenate([np.ones(min(len(rows), 1), bool), changes]))


def _groups(rows: pl.DataFrame, edges: NDArray[np.int64]) -> Groups:
    keys = np.stack([rows["key0"].to_numpy()[edges[:-1]], rows["key1"].to_numpy()[edges[:-1]]], axis=1)
    extra = {name: rows[name].to_numpy() for name in _OPTIONAL if name in rows.columns}
    return Groups(keys, np.diff(edges), rows["reward"].to_numpy(), extra)


def _key(rows: pl.DataFrame, index: int) -> tuple[int, int]:
    return rows["key0"][index], rows["key1"][index]


def _all_different(keys: list[Array]) -> Array:
    """Return keys together, or raise `ScatteredError` if two are the same."""
    every = np.concatenate(keys)
    ordered = np.sort(every[:, 0])
    doubtful = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(doubtful):
        alike = every[np.isin(every[:, 0], doubtful)]
        if len(np.unique(alike, axis=0)) < len(alike):
            raise ScatteredError
    return every
