# ruff: noqa: RUF005
# pyright: basic, reportGeneralTypeIssues=false, reportArgumentType=false, reportPossiblyUnboundVariable=false, reportOperatorIssue=false
"""The scan of the estimators on a GPU: sort, scan, centre and unsort in one launch, compiled by Triton.

Groups up to `IN_A_THREAD` are sorted in the registers of one thread each: a network of compare-exchanges, the scan, and
the exchanges undone in reverse, which puts every result where its reward was. Larger ones share a warp or more: whole
numbers that hold the reward above and its position below are sorted (bitonic), scanned in parallel, and the results
written to their places. Either way every reward is read once and every result written once. Float32, groups of up to
`LARGEST`; the backend sorts anything else by PyTorch. Nothing waits for the device, no shape depends on data, so the
launch may be captured in a CUDA graph; compiled code sees it as one operator.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import triton
import triton.language as tl

Array = Any

IN_A_THREAD = 32
"""Largest group that one thread sorts in its registers."""

LARGEST = 2048
"""Largest group that fits a block."""


@triton.jit(
    do_not_specialize=["count"],
    do_not_specialize_on_alignment=["positions", "starts", "sizes", "row", "at", "groups"],
)
def _scan(
    x,
    mask,
    positions,
    starts,
    sizes,
    row,
    at,
    groups,
    slopes,
    offset,
    total,
    out,
    count,
    n,
    rows: tl.constexpr,
    width: tl.constexpr,
    full: tl.constexpr,
    masked: tl.constexpr,
    ragged: tl.constexpr,
    in_a_thread: tl.constexpr,
):
    member = tl.program_id(0) * rows + tl.arange(0, rows)
    here = member < count
    column = tl.arange(0, width)[None, :]
    if ragged:
        group = tl.load(groups + member, mask=here, other=0)
        size = tl.where(here, tl.load(sizes + group, mask=here, other=0), 0)
        start = tl.load(starts + group, mask=here, other=0)
        valid = column < size[:, None]
        place = tl.load(positions + start[:, None] + column, mask=valid, other=0)
    else:
        size = n
        start = member.to(tl.int64) * n
        valid = here[:, None] if full else here[:, None] & (column < n)
        place = start[:, None] + column
    inside = valid
    if masked:
        valid = inside & (tl.load(mask + place, mask=inside, other=0) != 0)
        size = tl.sum(valid.to(tl.int32), axis=1)
    reward = tl.load(x + place, mask=valid, other=float("inf"))
    if ragged:
        total += tl.load(row + group, mask=here, other=0)
        begin = tl.load(at + group, mask=here, other=0)
        slopes += begin
        offset += begin
    elif masked:
        total += size
        begin = (size - 1) * (size - 2) // 2
        slopes += begin
        offset += begin

    if in_a_thread:
        result = _scan_in_a_thread(reward, size, slopes, offset, total, rows, width, full and not masked)
        if masked:
            result = tl.where(valid, result, 0.0)
        target = place
    else:
        if ragged or masked:
            size, slopes, offset, total = size[:, None], slopes[:, None], offset[:, None], total[:, None]
        result, source = _scan_in_a_block(reward, valid, size, slopes, offset, total, column)
        if ragged:
            target = tl.load(positions + start[:, None] + source, mask=inside, other=0)
        else:
            target = start[:, None] + source
    tl.store(out + target, result, mask=inside)


@triton.jit
def _scan_in_a_thread(
    reward, size, slopes, offset, total, rows: tl.constexpr, width: tl.constexpr, filled: tl.constexpr
):
    """Return the scan of every row, each result where its reward is; what is not valid is +inf and gets anything."""
    values, swaps = _sort_columns(_columns(reward, rows, width), width)
    common = tl.load(total) * values[0]
    climb = tl.zeros((rows,), tl.float32)
    mean = climb
    climbs = (climb,)
    for m in tl.static_range(1, width):
        gap = values[m] - values[m - 1]
        if filled:
            climb += tl.load(slopes + (m - 1)) * gap
            common += tl.load(offset + (m - 1)) * gap
            mean += climb
        else:
            ranked = m < size
            gap = tl.where(ranked, gap, 0.0)
            climb += tl.load(slopes + (m - 1), mask=ranked, other=0.0) * gap
            common += tl.load(offset + (m - 1), mask=ranked, other=0.0) * gap
            mean += tl.where(ranked, climb, 0.0)
        climbs = climbs + (climb,)
    common -= mean * (1.0 / tl.maximum(size, 1))
    results = ()
    for m in tl.static_range(width):
        results = results + (climbs[m] + common,)
    return _rows(_unsort_columns(results, swaps, width), rows, width)


@triton.jit
def _columns(x, rows: tl.constexpr, width: tl.constexpr):
    """Return the columns of an array (rows, width), a tuple of vectors: a thread has its whole row in registers."""
    parts = (x,)
    for level in tl.static_range(_LEVELS):
        if width >> level > 1:
            halves = ()
            for i in tl.static_range(1 << level):
                left, right = tl.split(tl.permute(tl.reshape(parts[i], (rows, 2, width >> level + 1)), (0, 2, 1)))
                halves = halves + (left, right)
            parts = halves
    columns = ()
    for i in tl.static_range(width):
        columns = columns + (tl.reshape(parts[i], (rows,)),)
    return columns


@triton.jit
def _rows(columns, rows: tl.constexpr, width: tl.constexpr):
    """Return the array (rows, width) that has these columns."""
    parts = ()
    for i in tl.static_range(width):
        parts = parts + (tl.reshape(columns[i], (rows, 1)),)
    for level in tl.static_range(_LEVELS):
        if width >> level > 1:
            joined = ()
            for i in tl.static_range(width >> level + 1):
                both = tl.permute(tl.join(parts[2 * i], parts[2 * i + 1]), (0, 2, 1))
                joined = joined + (tl.reshape(both, (rows, 2 << level)),)
            parts = joined
    return parts[0]


@triton.jit
def _sort_columns(columns, width: tl.constexpr):
    """Return the columns in ascending order and which exchanges swapped them: Batcher's odd-even merge sort."""
    swaps = ()
    for merge in tl.static_range(_LEVELS):
        for step in tl.static_range(merge if width >> merge > 1 else -1, -1, -1):
            for i in tl.static_range(width - (1 << step)):
                if (i >> step & 1) == (step < merge) and (i >> merge + 1) == (i + (1 << step) >> merge + 1):
                    columns, swap = _exchange(columns, i, i + (1 << step))
                    swaps = swaps + (swap,)
    return columns, swaps


@triton.jit
def _unsort_columns(columns, swaps, width: tl.constexpr):
    """Return the columns with the exchanges undone, the last one first."""
    for merge in tl.static_range(_LEVELS - 1, -1, -1):
        for step in tl.static_range(merge + 1 if width >> merge > 1 else 0):
            for i in tl.static_range(width - (1 << step) - 1, -1, -1):
                if (i >> step & 1) == (step < merge) and (i >> merge + 1) == (i + (1 << step) >> merge + 1):
                    columns = _exchange_back(columns, swaps[len(swaps) - 1], i, i + (1 << step))
                    swaps = swaps[: len(swaps) - 1]
    return columns


@triton.jit
def _exchange(columns, i: tl.constexpr, j: tl.constexpr):
    """Put the smaller of two values at i, the larger at j > i, and say where that swapped them."""
    a, b = columns[i], columns[j]
    low = tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
    high = tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    return columns[:i] + (low,) + columns[i + 1 : j] + (high,) + columns[j + 1 :], a > b


@triton.jit
def _exchange_back(columns, swap, i: tl.constexpr, j: tl.constexpr):
    a, b = columns[i], columns[j]
    first, second = tl.where(swap, b, a), tl.where(swap, a, b)
    return columns[:i] + (first,) + columns[i + 1 : j] + (second,) + columns[j + 1 :]


_LEVELS = tl.constexpr(IN_A_THREAD.bit_length() - 1)


@triton.jit
def _scan_in_a_block(reward, valid, size, slopes, offset, total, column):
    """Return the scan of every row in ascending order of the rewards, 0 beyond `size`, and where each reward is."""
    bits = _ascending(reward.to(tl.int32, bitcast=True))
    bits = tl.where(valid, bits, 0x7FFFFFFF)
    key = tl.sort((bits.to(tl.int64) << 32) | column.to(tl.int64), dim=1)
    source = (key & 0xFFFFFFFF).to(tl.int32)
    bits = (key >> 32).to(tl.int32)
    _, before = tl.associative_scan((bits, tl.full(bits.shape, _NONE, tl.int32)), 1, _one_before)
    ordered = _ascending(bits).to(tl.float32, bitcast=True)
    before = _ascending(before).to(tl.float32, bitcast=True)

    ranked = column < size
    upper = ranked & (column > 0)
    gap = tl.where(upper, ordered - before, 0.0)
    climb = tl.cumsum(tl.load(slopes + (column - 1), mask=upper, other=0.0) * gap, axis=1)
    climb = tl.associative_scan(tl.where(upper & (gap == 0.0), float("nan"), climb), 1, _last_number)
    mean = tl.sum(tl.where(ranked, climb * (1.0 / tl.maximum(size, 1)), 0.0), axis=1)
    first = tl.where(ranked & (column == 0), tl.load(total) * ordered, 0.0)
    common = tl.sum(first + tl.load(offset + (column - 1), mask=upper, other=0.0) * gap, axis=1)
    return tl.where(ranked, climb + (common - mean)[:, None], 0.0), source


_NONE = tl.constexpr(-0x80000000)
"""No reward, as a key: that of one of the values that are no number."""


@triton.jit
def _ascending(bits):
    """Return whole numbers in the order of the floats that have these bits; and those bits of such numbers."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _one_before(last, before, next_last, next_before):
    """Of two neighbouring pieces of a row, each by its last value and the value before that: the same of both."""
    return next_last, tl.where(next_before == _NONE, last, next_before)


@triton.jit
def _last_number(a, b):
    return tl.where(b == b, b, a)


def variant(n: int, masked: bool, ragged: bool) -> tuple[dict[str, Any], int]:
    """Return what is compiled into the kernel for groups of up to n, and the warps of a block.

    A block holds as many groups as take the fewest instructions for each reward.
    """
    width = max(triton.next_power_of_2(n), 2)
    in_a_thread = width <= IN_A_THREAD
    rows, warps = (32, 1) if in_a_thread else (16, 4) if width == 64 else (1, max(width // 1024, 1))
    kinds = {"full": n == width and not ragged, "masked": masked, "ragged": ragged, "in_a_thread": in_a_thread}
    return {"rows": rows, "width": width, **kinds}, warps


def _launch(count: int, n: int, *arguments: Array, masked: bool, ragged: bool) -> None:
    fixed, warps = variant(n, masked, ragged)
    kernel = cast("Any", _scan)[(triton.cdiv(count, fixed["rows"]),)]
    kernel(*arguments, count, n, **fixed, num_warps=warps, enable_fp_fusion=True)


def _scan_rows(x: Array, mask: Array | None, slopes: Array, offset: Array, total: Array) -> Array:
    x = x.contiguous()
    n, out = x.shape[-1], torch.empty_like(x)
    if x.numel():
        count = x.numel() // n
        given = x if mask is None else mask.expand(x.shape).contiguous().view(torch.uint8)
        unused = (x,) * 6
        arrays = (x, given, *unused, slopes, offset, total, out)
        _launch(count, n, *arrays, masked=mask is not None, ragged=False)
    return out


_operator = torch.library.custom_op(
    "ordergrad::scan_groups",
    _scan_rows,
    mutates_args=(),
    schema="(Tensor x, Tensor? mask, Tensor slopes, Tensor offset, Tensor total) -> Tensor",
)


@_operator.register_fake
def _(x: Array, mask: Array | None, slopes: Array, offset: Array, total: Array) -> Array:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_operator.register_vmap
def _(info: Any, dims: Sequence[int | None], x: Array, mask: Array | None, *scans: Array) -> tuple[Array, int]:
    x = x.expand(info.batch_size, *x.shape) if dims[0] is None else x.movedim(dims[0], 0)
    if mask is not None:
        mask = mask.expand(x.shape) if dims[1] is None else mask.movedim(dims[1], 0)
    return _operator(x, mask, *scans), 0


def scan_groups(x: Array, mask: Array | None, slopes: Array, offset: Array, total: Array) -> Array:
    """Return the scan of every group, one along the last axis; what is masked gets 0.

    Args:
        x: Rewards, float32, shape (..., n), n at most `LARGEST`.
        mask: Valid rewards, of that shape; or None.
        slopes: The slopes of groups of n, shape (n-1,); with a mask those of 0..n valid rewards, one after the other.
        offset: Weights of the gaps in the part common to all samples, of the same shape.
        total: The weight of the smallest reward in the common part, shape () or (n+1,).
    """
    arguments = (x, mask, slopes.reshape(-1), offset.reshape(-1), total.reshape(-1))
    wrapped: Any = torch._C._functorch.is_functorch_wrapped_tensor  # type: ignore[attr-defined]
    if torch.compiler.is_compiling() or wrapped(x) or (mask is not None and wrapped(mask)):
        return _operator(*arguments)
    return _scan_rows(*arguments)


def scan_ragged(
    x: Array,
    positions: np.ndarray,
    sizes: np.ndarray,
    row: np.ndarray,
    at: np.ndarray,
    slopes: Array,
    offset: Array,
    total: Array,
) -> Array:
    """Return the scan of groups of any sizes within a flat array: one launch for every power of two among the sizes.

    Args:
        x: All rewards, float32, shape (M,).
        positions: The rewards of the first group, then of the second, ...: indices into `x`. Others get 0.
        sizes: Rewards in each group, at most `LARGEST`.
        row: The scan of each group: index into `total`.
        at: Where the slopes of each group begin in `slopes`.
        slopes: The slopes of all group sizes, one after the other.
        offset: Weights of the gaps in the part common to all samples, likewise.
        total: The weight of the smallest reward in the common part, for each group size.
    """
    x, out = x.contiguous(), torch.zeros_like(x, memory_format=torch.contiguous_format)
    starts = np.cumsum(sizes) - sizes
    octave = np.frexp(np.maximum(sizes, 1) - 0.5)[1]
    order = np.argsort(octave, kind="stable")
    *arrays, groups = _moved((positions, starts, sizes, row, at, order), x)
    bounds = np.flatnonzero(np.diff(octave[order], prepend=-1, append=64))
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        _launch(
            last - first,
            1 << int(octave[order[first]]),
            *(x, x, *arrays, groups[first:last], slopes, offset, total, out),
            masked=False,
            ragged=True,
        )
    return out


def _moved(arrays: Sequence[np.ndarray], like: Array) -> tuple[Array, ...]:
    """Return whole numbers from the host on the device of a tensor, by one copy that nothing waits for."""
    dtype = np.int32 if like.numel() < 1 << 31 else np.int64
    together = torch.from_numpy(np.concatenate(arrays, dtype=dtype, casting="same_kind"))
    if like.is_cuda:
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("group_ids are read on the host, so a CUDA graph cannot hold ragged groups; use where=")
        together = together.pin_memory().to(like.device, non_blocking=True)
    return together.split([len(array) for array in arrays])
