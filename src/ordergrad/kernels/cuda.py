# pyright: basic, reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportArgumentType=false
"""The scan of the estimators on a GPU: sort, scan, centre and unsort in one launch, compiled by Triton.

A program holds several groups, or one large one, in a block: it reads every reward once, sorts whole numbers that hold
the reward above and its position below (bitonic), scans, and writes every result once to its place. Float32, groups of
up to `LARGEST`; the backend sorts anything else by PyTorch. Nothing waits for the device, no shape depends on data, so
the launch may be captured in a CUDA graph; compiled code sees it as one operator.

Ties get the very same result: a parallel sum adds in another order at every position, so each position takes the sum
at the first of its equals.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import triton
import triton.language as tl

__all__ = ["LARGEST", "scan_groups", "scan_ragged"]

Array = Any

LARGEST = 2048
"""Largest group that fits a block."""

_BLOCK = 1024


@triton.jit
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
    masked: tl.constexpr,
    ragged: tl.constexpr,
):
    member = tl.program_id(0) * rows + tl.arange(0, rows)
    here = member < count
    column = tl.arange(0, width)[None, :]
    if ragged:
        group = tl.load(groups + member, mask=here, other=0)
        size = tl.where(here, tl.load(sizes + group, mask=here, other=0), 0)
        start = tl.load(starts + group, mask=here, other=0)
        inside = column < size[:, None]
        place = tl.load(positions + start[:, None] + column, mask=inside, other=0)
    else:
        size = tl.where(here, n, 0)
        inside = column < size[:, None]
        place = member.to(tl.int64)[:, None] * n + column
    reward = tl.load(x + place, mask=inside, other=0.0)
    valid = inside
    if masked:
        valid = inside & (tl.load(mask + place, mask=inside, other=0) != 0)
        size = tl.sum(valid.to(tl.int32), axis=1)
    if ragged:
        which = tl.load(row + group, mask=here, other=0)
        begin = tl.load(at + group, mask=here, other=0)
    elif masked:
        which = size
        begin = size * (n - 1)
    else:
        which = tl.zeros_like(size)
        begin = tl.zeros_like(size)

    bits = reward.to(tl.int32, bitcast=True)
    bits = tl.where(valid, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF)
    key = tl.sort((bits.to(tl.int64) << 32) | column.to(tl.int64), dim=1)
    source = (key & 0xFFFFFFFF).to(tl.int32)
    bits = (key >> 32).to(tl.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)

    ranked = column < size[:, None]
    upper = ranked & (column > 0)
    lower = tl.gather(ordered, tl.broadcast_to(tl.maximum(column - 1, 0), (rows, width)), axis=1)
    gap = tl.where(upper, ordered - lower, 0.0)
    weight = begin[:, None] + column - 1
    climb = tl.cumsum(tl.load(slopes + weight, mask=upper, other=0.0) * gap, axis=1)
    first_equal = tl.associative_scan(tl.where(gap == 0.0, 0, column + tl.zeros_like(source)), 1, _larger)
    climb = tl.gather(climb, first_equal, axis=1)
    mean = tl.sum(tl.where(ranked, climb, 0.0), axis=1) / tl.maximum(size, 1).to(tl.float32)
    lowest = tl.sum(tl.where(ranked & (column == 0), ordered, 0.0), axis=1)
    common = tl.load(total + which, mask=here, other=0.0) * lowest
    common += tl.sum(tl.load(offset + weight, mask=upper, other=0.0) * gap, axis=1)
    result = tl.where(ranked, climb + (common - mean)[:, None], 0.0)

    if ragged:
        target = tl.load(positions + start[:, None] + source, mask=inside, other=0)
    else:
        target = member.to(tl.int64)[:, None] * n + source
    tl.store(out + target, result, mask=inside)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


def _launch(count: int, width: int, *arguments: Array, masked: bool, ragged: bool) -> None:
    width = max(triton.next_power_of_2(width), 2)
    rows = max(_BLOCK // width, 1)
    warps = min(max(rows * width // 256, 4), 16)
    kernel = cast("Any", _scan)[(triton.cdiv(count, rows),)]
    kernel(*arguments, rows=rows, width=width, masked=masked, ragged=ragged, num_warps=warps, enable_fp_fusion=True)


def _scan_rows(x: Array, mask: Array | None, slopes: Array, offset: Array, total: Array) -> Array:
    x = x.contiguous()
    n, out = x.shape[-1], torch.empty_like(x)
    if x.numel():
        count = x.numel() // n
        given = x if mask is None else mask.expand(x.shape).contiguous().view(torch.uint8)
        unused = (x,) * 6
        arrays = (x, given, *unused, slopes, offset, total, out)
        _launch(count, n, *arrays, count, n, masked=mask is not None, ragged=False)
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
        slopes: The slopes of groups of n, shape (n-1,); with a mask those of 0..n valid rewards, shape (n+1, n-1).
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
    moved = [torch.from_numpy(array).to(x.device) for array in (positions, starts, sizes, row, at, order)]
    bounds = np.flatnonzero(np.diff(octave[order], prepend=-1, append=64))
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        groups, width = moved[5][first:last], 1 << int(octave[order[first]])
        arrays = (x, x, *moved[:5], groups, slopes, offset, total, out)
        _launch(last - first, width, *arrays, last - first, 0, masked=False, ragged=True)
    return out
