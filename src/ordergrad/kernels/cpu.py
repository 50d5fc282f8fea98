"""The scan of the estimators on a CPU: sort, scan, centre and unsort fused, compiled by Numba.

Groups of up to `LANES_UP_TO` rewards are sorted `LANES` at a time, one group per SIMD lane, by Batcher's network
(1968), which notes in which lanes each exchange took place; the scan runs in the lanes too, and the exchanges in
reverse order put the results in their places. Larger groups are sorted by NumPy's SIMD sort, as whole numbers of 64
bits that hold the reward above and its position below:

* float32: all 32 bits of the reward, in an order-preserving form, and 32 bits of position;
* float64: as many upper bits of reward - smallest reward as the position leaves free. Rewards that agree in them may
  come out in the wrong order; an insertion sort puts them right, or an argsort if they are many.

Only gaps between neighbours enter, and they and all sums are computed in float64, so every order among ties gives the
same result. Threads are plain Python threads around compiled code that does not hold the interpreter's lock: safe to
call from several threads and after a fork, unlike the threading layers of Numba.

References:
    Batcher (1968). Sorting networks and their applications. AFIPS Spring Joint Computer Conference.
"""

import os
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial, reduce
from queue import SimpleQueue
from typing import Any, NamedTuple, cast

import numpy as np
from numba import njit, types
from numba.core import cgutils as numba_cgutils
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]

LANES = 32
"""Groups sorted side by side: two AVX-512 registers of float32, so that one does not wait for the other's exchange."""

LANES_UP_TO = 128
"""Largest group that a network sorts; above, NumPy's sort is faster."""

PART = 1 << 15
"""Rewards in one piece of work of a thread; less than two pieces are not worth a second thread."""

WINDOW = 1 << 10
"""Groups that are looked through for some of equal size."""

_TILE = 8
cgutils: Any = numba_cgutils
ir: Any = cgutils.ir


compiler_lock = global_compiler_lock
"""Held by whoever compiles; a fork must wait for it."""


class _Cache(FunctionCache):
    """What was compiled before, in a folder that only saves time: it may be unreadable, damaged or full."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with suppress(Exception):
            return cast("Any", super()).load_overload(sig, target_context)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):
            cast("Any", super()).save_overload(sig, data)


def _compiled(function: Any) -> Any:
    """Compile at the first call, or load what was compiled before, where there is a folder to keep it in."""
    compiled: Any = cast(Any, njit)(nogil=True, error_model="numpy")(function)
    with suppress(RuntimeError):
        compiled._cache = _Cache(function)
    return compiled


class Scans(NamedTuple):
    """The scans of one or several group sizes, one after the other.

    Attributes:
        slopes: The slope of each gap.
        offset: The weight of each gap in the part common to all samples.
        total: The weight of the smallest reward in the common part, one number for each scan.
    """

    slopes: Array
    offset: Array
    total: Array


class Layout(NamedTuple):
    """Groups of any sizes within a flat array of rewards.

    Attributes:
        positions: The rewards of the first group, then of the second, ...: indices into the flat array.
        sizes: Rewards in each group.
        row: The scan of each group: index into `Scans.total`.
        at: Where the slopes of each group begin in `Scans.slopes`.
    """

    positions: Array
    sizes: Array
    row: Array
    at: Array


@lru_cache(maxsize=1)
def default_threads() -> int:
    """Return the number of threads for NumPy arrays: OMP_NUM_THREADS at first use, else the cores allowed."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    if setting.isdecimal() and int(setting) > 0:
        return int(setting)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def scan_groups(x: Array, scans: Scans, threads: int) -> Array | None:
    """Return the scan of every row of a (groups, n) array, or None where a sum may overflow.

    Args:
        x: Rewards, float32 or float64, contiguous, n >= 2.
        scans: One scan for groups of n.
        threads: The number of threads to use at most.
    """
    count, n = x.shape
    out = np.empty_like(x)
    flat, result = x.reshape(-1), out.reshape(-1)
    if n <= LANES_UP_TO:
        step = LANES * max(1, PART // (LANES * n))
        task = partial(_lanes, flat, result, n, _network(n), *scans)
        sums = _spread(lambda first, last: task(first, last), count, step, threads)
    else:
        each, row = cast("Array", np.arange(count)), np.zeros(count, np.int64)
        task = partial(_by_keys, flat, result, None, each * n, np.full(count, n), row, row, each, scans)
        sums = _spread(task, count, max(1, PART // n), threads)
    return out if sums == 0 else None


def scan_ragged(x: Array, layout: Layout, scans: Scans, threads: int) -> Array | None:
    """Return the scan of every group of a flat array, 0 where no group has a reward; None where a sum may overflow.

    Args:
        x: All rewards, float32 or float64, contiguous, one axis.
        layout: Where the groups are.
        scans: The scans of all group sizes.
        threads: The number of threads to use at most.
    """
    positions, sizes, row, at = layout
    out = np.zeros_like(x) if len(positions) < len(x) else np.empty_like(x)
    starts = np.cumsum(sizes) - sizes
    small = _by_size(np.flatnonzero((sizes > 0) & (sizes <= LANES_UP_TO)), sizes, WINDOW)
    large = _by_size(np.flatnonzero(sizes > LANES_UP_TO), sizes, len(sizes))
    networks, network_at = _networks(int(sizes[small].max()) if len(small) else 1)
    shared = (x, out, positions, starts, sizes, row, at)
    step = LANES * max(1, PART * max(len(small), 1) // (LANES * max(int(sizes[small].sum()), 1)))
    task = partial(_ragged_lanes, *shared, small, networks, network_at, *scans)
    sums = _spread(lambda first, last: task(first, last), len(small), step, threads)
    bounds = _parts(sizes[large])
    by_keys = partial(_by_keys, *shared, large, scans)

    def parts(first: int, last: int) -> float:
        return sum(by_keys(*bounds[i]) for i in range(first, last))

    sums += _spread(parts, len(bounds), 1, threads)
    return out if sums == 0 else None


def _by_size(groups: Array, sizes: Array, window: int) -> Array:
    """Return the groups ordered by size within each window of so many: equal sizes side by side, memory nearby."""
    keys = (np.arange(len(groups)) // window << 40) + sizes[groups]
    return groups[np.argsort(keys, kind="stable")]


def _parts(sizes: Array) -> list[tuple[int, int]]:
    """Return ranges of ascending sizes, each padded to its largest below `PART` rewards, or one group alone."""
    bounds: list[tuple[int, int]] = []
    first = 0
    while first < len(sizes):
        last = first + max(1, PART // int(sizes[first]))
        while last > first + 1 and int(sizes[min(last, len(sizes)) - 1]) * (last - first) > PART:
            last = first + max(1, (last - first) * 3 // 4)
        last = min(last, len(sizes))
        bounds.append((first, last))
        first = last
    return bounds


# Threads


def _spread(task: Callable[[int, int], float], count: int, step: int, threads: int) -> float:
    """Return the sum of a task over the ranges of `step` that make up `count`, this thread and helpers taking turns."""
    if count <= step or threads == 1:
        return task(0, count) if count else 0.0
    todo = list(range(0, count, step))[::-1]
    parts, done = len(todo), SimpleQueue[float | Exception]()

    def work() -> None:
        while todo:
            try:
                first = todo.pop()
            except IndexError:
                break
            try:
                done.put(task(first, min(first + step, count)))
            except Exception as error:
                done.put(error)

    queue = _helpers(threads - 1)
    for _ in range(min(threads, parts) - 1):
        queue.put(work)
    work()
    total = 0.0
    for _ in range(parts):
        result = done.get()
        if isinstance(result, Exception):
            raise result
        total += result
    return total


_waiting: dict[int, tuple[SimpleQueue[Callable[[], None]], list[int]]] = {}
"""The queue that the helpers of a process take work from, and the helpers: after a fork there are none yet."""


def _helpers(count: int) -> SimpleQueue[Callable[[], None]]:
    """Return the queue of so many helper threads; without locks, which a signal handler might find held."""
    queue, helpers = _waiting.setdefault(os.getpid(), (SimpleQueue(), []))
    with suppress(RuntimeError):  # no help while the interpreter shuts down
        while len(helpers) < count:
            helpers.append(start_new_thread(_help, (queue,)))
    return queue


def _help(queue: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        queue.get()()


# Networks


@lru_cache(maxsize=256)
def _network(n: int) -> NDArray[np.uint32]:
    """Return the comparisons of Batcher's odd-even merge sort of n items, shape (comparisons, 2)."""
    pairs: list[tuple[int, int]] = []
    p = 1
    while p < n:
        k = p
        while k:
            for j in range(k % p, n - k, 2 * k):
                pairs += [
                    (i + j, i + j + k) for i in range(min(k, n - j - k)) if (i + j) // (2 * p) == (i + j + k) // (2 * p)
                ]
            k //= 2
        p *= 2
    return np.array(pairs, np.uint32).reshape(-1, 2)


@lru_cache(maxsize=LANES_UP_TO)
def _networks(largest: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return the networks for 0..largest items, one after the other, and where each begins."""
    each = [_network(n) for n in range(largest + 1)]
    return np.concatenate(each), np.cumsum([0, *map(len, each)])


# Operations on the lanes: row i of a buffer holds the i-th smallest reward of LANES groups


def _row(context: Any, builder: Any, kind: Any, array: Any, index: Any, lanes: int) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    pointer = builder.gep(data, [index], inbounds=True)
    return builder.bitcast(pointer, ir.VectorType(data.type.pointee, lanes).as_pointer())


def _load(builder: Any, pointer: Any) -> Any:
    value = builder.load(pointer)
    value.align = 4
    return value


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, pointer).align = 4


def _size(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _splat(builder: Any, value: Any) -> Any:
    vector = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    vector = builder.insert_element(vector, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _rows_at(context: Any, builder: Any, kind: Any, keys: Any, rows: Any) -> tuple[list[Any], list[Any]]:
    """Return pointers to some rows as whole numbers, and what is in them."""
    pointers: list[Any] = []
    for row in rows:
        pointer = _row(context, builder, kind, keys, builder.mul(row, _size(LANES)), LANES)
        bits = ir.VectorType(ir.IntType(kind.dtype.bitwidth), LANES)
        pointers.append(builder.bitcast(pointer, bits.as_pointer()))
    return pointers, [_load(builder, pointer) for pointer in pointers]


def _swap(builder: Any, swap: Any, pointers: Any, rows: Any) -> None:
    """Store two rows, swapped in some lanes: by exclusive or, since what a masked store has put is slow to load."""
    a, b = rows
    difference = builder.select(swap, builder.xor(a, b), ir.Constant(a.type, [0] * LANES))
    for pointer, row in zip(pointers, rows, strict=True):
        _store(builder, builder.xor(row, difference), pointer)


@intrinsic
def _exchange(typing: Any, keys: Any, swaps: Any, step: Any, low: Any, high: Any) -> Any:
    """Order rows `low` and `high` in every lane, and note in swaps[step] in which lanes they changed places."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        keys, swaps, step, *rows = arguments
        pointers, (a, b) = _rows_at(context, builder, signature.args[0], keys, rows)
        numbers = ir.VectorType(context.get_value_type(signature.args[0].dtype), LANES)
        swap = builder.fcmp_ordered("<", builder.bitcast(b, numbers), builder.bitcast(a, numbers))
        _swap(builder, swap, pointers, (a, b))
        data = context.make_array(signature.args[1])(context, builder, swaps).data
        builder.store(builder.bitcast(swap, ir.IntType(LANES)), builder.gep(data, [step], inbounds=True))
        return context.get_dummy_value()

    return types.void(keys, swaps, types.uintp, types.uintp, types.uintp), generate


@intrinsic
def _exchange_back(typing: Any, keys: Any, swaps: Any, step: Any, low: Any, high: Any) -> Any:
    """Undo the `_exchange` of the same step."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        keys, swaps, step, *rows = arguments
        pointers, contents = _rows_at(context, builder, signature.args[0], keys, rows)
        data = context.make_array(signature.args[1])(context, builder, swaps).data
        bits = builder.load(builder.gep(data, [step], inbounds=True))
        _swap(builder, builder.bitcast(bits, ir.VectorType(ir.IntType(1), LANES)), pointers, contents)
        return context.get_dummy_value()

    return types.void(keys, swaps, types.uintp, types.uintp, types.uintp), generate


@intrinsic
def _transpose(typing: Any, x: Any, start: Any, stride: Any, y: Any, at: Any, step: Any) -> Any:
    """Copy 8 rows of 8 numbers, `stride` apart in x from `start` on, to 8 columns, `step` apart in y from `at` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, start, stride, y, at, step = arguments
        rows: list[Any] = []
        for r in range(_TILE):
            index = builder.add(start, builder.mul(stride, _size(r)))
            rows.append(_load(builder, _row(context, builder, signature.args[0], x, index, _TILE)))
        for d in (1, 2, 4):
            low = [_TILE + p - d if p & d else p for p in range(_TILE)]
            high = [_TILE + p if p & d else p + d for p in range(_TILE)]
            chosen = [ir.Constant(ir.VectorType(ir.IntType(32), _TILE), which) for which in (low, high)]
            for r in range(_TILE):
                if not r & d:
                    a, b = rows[r], rows[r + d]
                    rows[r], rows[r + d] = (builder.shuffle_vector(a, b, which) for which in chosen)
        for r, row in enumerate(rows):
            index = builder.add(at, builder.mul(step, _size(r)))
            _store(builder, row, _row(context, builder, signature.args[3], y, index, _TILE))
        return context.get_dummy_value()

    return types.void(x, types.uintp, types.uintp, y, types.uintp, types.uintp), generate


def _climb(typing: Any, keys: Any, n: Any, slopes: Any, offset: Any, at: Any, sizes: Any) -> Any:
    """Turn sorted keys into the scan, centred or with the common part; return a sum that is 0 if no sum overflows.

    That is the rule of `ordergrad.arrays`: 2 n times the range of the rewards must fit their dtype.

    The rows of `slopes` and `offset` are numbers from `at` on, the same in all lanes; or, where `sizes` is an array
    of the group size in each lane, rows of lanes.
    """
    wide = ir.VectorType(ir.DoubleType(), LANES)
    ragged = isinstance(sizes, types.Array)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        keys, n, slopes, offset, at, sizes = arguments
        kind, _, kind_slopes, kind_offset, _, kind_sizes = signature.args
        narrow = ir.VectorType(context.get_value_type(kind.dtype), LANES)
        zero, two = (ir.Constant(wide, [number] * LANES) for number in (0.0, 2.0))

        def widen(value: Any) -> Any:
            target = wide if isinstance(value.type, ir.VectorType) else ir.DoubleType()
            return value if value.type == target else builder.fpext(value, target)

        def rounded(value: Any) -> Any:
            return value if narrow == wide else builder.fptrunc(value, narrow)

        def row(index: Any) -> Any:
            return _row(context, builder, kind, keys, builder.mul(index, _size(LANES)), LANES)

        def weight(kind: Any, array: Any, index: Any) -> Any:
            if ragged:
                return widen(
                    _load(builder, _row(context, builder, kind, array, builder.mul(index, _size(LANES)), LANES))
                )
            data = context.make_array(kind)(context, builder, array).data
            return _splat(builder, widen(builder.load(builder.gep(data, [builder.add(at, index)], inbounds=True))))

        if ragged:
            size = _load(builder, _row(context, builder, kind_sizes, sizes, _size(0), LANES))
        else:
            size = _splat(builder, builder.uitofp(n, ir.DoubleType()))
        lowest = widen(_load(builder, row(_size(0))))
        before, climb, total = (cgutils.alloca_once_value(builder, v) for v in (lowest, zero, zero))
        first = _row(context, builder, kind, keys, builder.mul(n, _size(LANES)), LANES)  # the total weights
        common = cgutils.alloca_once_value(builder, builder.fmul(widen(_load(builder, first)), lowest))
        _store(builder, rounded(zero), row(_size(0)))
        with cgutils.for_range(builder, builder.sub(n, _size(1))) as loop:
            pointer = row(builder.add(loop.index, _size(1)))
            key = widen(_load(builder, pointer))
            inside = None
            if ragged:
                rank = builder.uitofp(builder.add(loop.index, _size(1)), ir.DoubleType())
                inside = builder.fcmp_ordered("<", _splat(builder, rank), size)
                key = builder.select(inside, key, builder.load(before))
            gap = builder.fsub(key, builder.load(before))
            builder.store(key, before)
            here = builder.fadd(builder.load(climb), builder.fmul(weight(kind_slopes, slopes, loop.index), gap))
            builder.store(here, climb)
            counted = here if inside is None else builder.select(inside, here, zero)
            builder.store(builder.fadd(builder.load(total), counted), total)
            share = builder.fmul(weight(kind_offset, offset, loop.index), gap)
            builder.store(builder.fadd(builder.load(common), share), common)
            _store(builder, rounded(here), pointer)
        shift = builder.fsub(builder.load(common), builder.fdiv(builder.load(total), size))
        with cgutils.for_range(builder, n) as loop:
            pointer = row(loop.index)
            _store(builder, rounded(builder.fadd(widen(_load(builder, pointer)), shift)), pointer)
        spread = builder.fmul(builder.fmul(builder.fsub(builder.load(before), lowest), size), two)
        ends = [widen(rounded(end)) for end in (shift, builder.load(climb), spread)]
        finite = reduce(builder.fadd, (builder.fsub(end, end) for end in ends))
        result = ir.Constant(ir.DoubleType(), 0.0)
        for lane in range(LANES):
            result = builder.fadd(result, builder.extract_element(finite, ir.Constant(ir.IntType(32), lane)))
        return result

    return types.float64(keys, types.uintp, slopes, offset, types.uintp, sizes), generate


_climb_lanes = cast("Any", intrinsic(_climb))


@_compiled
def _sort_lanes(network: Array, first: int, last: int, keys: Array, swaps: Array) -> None:
    for p in range(np.uintp(first), np.uintp(last)):
        _exchange(keys, swaps, p - np.uintp(first), np.uintp(network[p, 0]), np.uintp(network[p, 1]))  # type: ignore[call-arg]


@_compiled
def _unsort_lanes(network: Array, first: int, last: int, keys: Array, swaps: Array) -> None:
    for step in range(np.uintp(last - first)):
        p = np.uintp(last) - step - np.uintp(1)
        _exchange_back(keys, swaps, p - np.uintp(first), np.uintp(network[p, 0]), np.uintp(network[p, 1]))  # type: ignore[call-arg]


@_compiled
def _aligned(count: int, like: Array) -> Array:
    """Return a buffer that starts at a cache line."""
    buffer = np.empty(count + 64 // like.itemsize, like.dtype)
    return buffer[(-buffer.ctypes.data % 64) // like.itemsize :]


@_compiled
def _lanes(
    x: Array, out: Array, n: int, network: Array, slopes: Array, offset: Array, total: Array, first: int, last: int
) -> float:
    """Scan groups of n, one after the other in `x`, from the `first` to before the `last`."""
    lanes, tile, size = np.uintp(LANES), np.uintp(_TILE), np.uintp(n)
    keys, swaps = _aligned((n + 1) * LANES, x), np.empty(len(network), np.uint32)
    tiled = size - size % tile
    finite = 0.0
    for group in range(first, last, LANES):
        width = np.uintp(min(LANES, last - group))
        base = np.uintp(group) * size
        if width == lanes:
            for i in range(np.uintp(0), tiled, tile):
                for lane in range(np.uintp(0), lanes, tile):
                    _transpose(x, base + lane * size + i, size, keys, i * lanes + lane, lanes)  # type: ignore[call-arg]
            for i in range(tiled, size):
                for lane in range(lanes):
                    keys[i * lanes + lane] = x[base + lane * size + i]
        else:
            for i in range(size):
                for lane in range(lanes):
                    keys[i * lanes + lane] = x[base + min(lane, width - np.uintp(1)) * size + i]
        for lane in range(lanes):
            keys[size * lanes + lane] = total[0]
        _sort_lanes(network, 0, len(network), keys, swaps)
        finite += _climb_lanes(keys, size, slopes, offset, np.uintp(0), None)
        _unsort_lanes(network, 0, len(network), keys, swaps)
        if width == lanes:
            for i in range(np.uintp(0), tiled, tile):
                for lane in range(np.uintp(0), lanes, tile):
                    _transpose(keys, i * lanes + lane, lanes, out, base + lane * size + i, size)  # type: ignore[call-arg]
        for i in range(tiled if width == lanes else np.uintp(0), size):
            for lane in range(width):
                out[base + lane * size + i] = keys[i * lanes + lane]
    return finite


@_compiled
def _ragged_lanes(
    x: Array,
    out: Array,
    positions: Array,
    starts: Array,
    sizes: Array,
    row: Array,
    at: Array,
    order: Array,
    networks: Array,
    network_at: Array,
    slopes: Array,
    offset: Array,
    total: Array,
    first: int,
    last: int,
) -> float:
    """Scan the groups order[first:last], best with neighbours of equal size."""
    lanes, largest = np.uintp(LANES), np.uintp(0)
    for g in range(first, last):
        largest = max(largest, np.uintp(sizes[order[g]]))
    keys = _aligned(int(largest + np.uintp(1)) * LANES, x)
    swaps = np.empty(network_at[largest + np.uintp(1)] - network_at[largest], np.uint32)
    own_slopes, own_offset = _aligned(int(largest) * LANES, slopes), _aligned(int(largest) * LANES, offset)
    own_sizes = _aligned(LANES, np.empty(0, np.float64))
    finite = 0.0
    for block in range(first, last, LANES):
        width = min(LANES, last - block)
        most, same = np.uintp(0), True
        for g in range(block, block + width):
            most = max(most, np.uintp(sizes[order[g]]))
        for lane in range(lanes):
            group = order[block + min(lane, np.uintp(width - 1))]
            size, start = np.uintp(sizes[group]), np.uintp(starts[group])
            own_sizes[lane] = size
            same &= size == most and at[group] == at[order[block]]
            keys[most * lanes + lane] = total[row[group]]
            for i in range(size):
                keys[i * lanes + lane] = x[positions[start + i]]
            for i in range(size, most):
                keys[i * lanes + lane] = np.inf
        _sort_lanes(networks, network_at[most], network_at[most + np.uintp(1)], keys, swaps)
        if same:
            finite += _climb_lanes(keys, most, slopes, offset, np.uintp(at[order[block]]), None)
        else:
            for lane in range(lanes):
                group = order[block + min(lane, np.uintp(width - 1))]
                gaps, begin = np.uintp(sizes[group] - 1), np.uintp(at[group])
                for i in range(most - np.uintp(1)):
                    own_slopes[i * lanes + lane] = slopes[begin + i] if i < gaps else 0.0
                    own_offset[i * lanes + lane] = offset[begin + i] if i < gaps else 0.0
            finite += _climb_lanes(keys, most, own_slopes, own_offset, np.uintp(0), own_sizes)
        _unsort_lanes(networks, network_at[most], network_at[most + np.uintp(1)], keys, swaps)
        for lane in range(np.uintp(width)):
            group = order[block + int(lane)]
            start = np.uintp(starts[group])
            for i in range(np.uintp(sizes[group])):
                out[positions[start + i]] = keys[i * lanes + lane]
    return finite


# Groups larger than a network


def _by_keys(
    x: Array,
    out: Array,
    positions: Array | None,
    starts: Array,
    sizes: Array,
    row: Array,
    at: Array,
    order: Array,
    scans: Scans,
    first: int,
    last: int,
) -> float:
    """Scan the groups order[first:last], whose sizes ascend, by sorting whole numbers."""
    groups = order[first:last]
    width = int(sizes[groups[-1]])
    keys = np.empty((len(groups), width), np.int64)
    values = np.empty(keys.shape, x.dtype)
    bits = 32 if x.dtype == np.float32 else max(width - 1, 1).bit_length()
    if x.dtype == np.float32:
        _keys_of_float32(x.view(np.int32), positions, starts, sizes, groups, keys)
        keys.sort(axis=1)
        _values_of_float32(keys, values.view(np.int32))
        wrong = np.zeros(len(groups), np.bool_)
    else:
        _keys_of_float64(x, positions, starts, sizes, groups, bits, keys, keys.view(np.float64))
        keys.sort(axis=1)
        wrong = _values_of_float64(x, positions, starts, sizes, groups, bits, keys, values)
    for r in np.flatnonzero(wrong).tolist():
        start, size = int(starts[groups[r]]), int(sizes[groups[r]])
        own = x[start : start + size] if positions is None else x[positions[start : start + size]]
        keys[r, :size] = np.argsort(own)
        values[r, :size] = own[keys[r, :size]]
    return _place(positions, starts, sizes, row, at, groups, bits, keys, values, *scans, out)


@_compiled
def _keys_of_float32(
    x: Array, positions: Array | None, starts: Array, sizes: Array, groups: Array, keys: Array
) -> None:
    """Fill the keys of each group from the bits of the rewards; the largest numbers behind it."""
    for r in range(len(groups)):
        start, size = np.uintp(starts[groups[r]]), np.uintp(sizes[groups[r]])
        for i in range(size):
            bits = x[start + i] if positions is None else x[positions[start + i]]
            keys[r, i] = (np.int64(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))) << np.int64(32)) | np.int64(
                i
            )
        for i in range(size, np.uintp(keys.shape[1])):
            keys[r, i] = np.int64(0x7FFFFFFFFFFFFFFF)


@_compiled
def _values_of_float32(keys: Array, values: Array) -> None:
    """Fill in the bits of the sorted rewards."""
    for r in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            bits = np.int32(keys[r, i] >> np.int64(32))
            values[r, i] = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@_compiled
def _keys_of_float64(
    x: Array, positions: Array | None, starts: Array, sizes: Array, groups: Array, bits: int, keys: Array, floats: Array
) -> None:
    """Fill the keys of each group from the upper bits of reward - smallest reward; `floats` is a view of `keys`."""
    for r in range(len(groups)):
        start, size = np.uintp(starts[groups[r]]), np.uintp(sizes[groups[r]])
        lowest = np.inf
        for i in range(size):
            value = x[start + i] if positions is None else x[positions[start + i]]
            floats[r, i] = value
            lowest = min(lowest, value)
        for i in range(size):
            floats[r, i] -= lowest
        for i in range(size):
            keys[r, i] = ((keys[r, i] >> np.int64(bits)) << np.int64(bits)) | np.int64(i)
        for i in range(size, np.uintp(keys.shape[1])):
            keys[r, i] = np.int64(0x7FFFFFFFFFFFFFFF)


@_compiled
def _values_of_float64(
    x: Array, positions: Array | None, starts: Array, sizes: Array, groups: Array, bits: int, keys: Array, values: Array
) -> Array:
    """Fill in the sorted rewards, neighbours put right; return in which groups that took more than 4 moves a reward."""
    mask = (np.int64(1) << np.int64(bits)) - np.int64(1)
    wrong = np.zeros(len(groups), np.bool_)
    for r in range(len(groups)):
        start, size = np.uintp(starts[groups[r]]), sizes[groups[r]]
        for i in range(size):
            place = start + np.uintp(keys[r, i] & mask)
            values[r, i] = x[place] if positions is None else x[positions[place]]
        left = 4 * size
        for i in range(1, size):
            value, key = values[r, i], keys[r, i]
            j = i
            while j > 0 and values[r, j - 1] > value and left > 0:
                values[r, j], keys[r, j] = values[r, j - 1], keys[r, j - 1]
                j -= 1
                left -= 1
            values[r, j], keys[r, j] = value, key
        wrong[r] = left == 0
    return wrong


@_compiled
def _place(
    positions: Array | None,
    starts: Array,
    sizes: Array,
    row: Array,
    at: Array,
    groups: Array,
    bits: int,
    keys: Array,
    values: Array,
    slopes: Array,
    offset: Array,
    total: Array,
    out: Array,
) -> float:
    """Scan sorted groups and put the results in their places; return a sum that is 0 if no sum overflows."""
    mask = (np.int64(1) << np.int64(bits)) - np.int64(1)
    finite = 0.0
    limit = np.finfo(out.dtype).max
    for r in range(len(groups)):
        group = groups[r]
        start, size, begin = np.uintp(starts[group]), np.uintp(sizes[group]), np.uintp(at[group])
        lowest = np.float64(values[r, 0])
        before, climb, sums, common = lowest, 0.0, 0.0, float(total[row[group]]) * lowest
        for i in range(size):
            value = np.float64(values[r, i])
            if i > 0:
                gap = value - before
                climb += slopes[begin + i - np.uintp(1)] * gap
                common += offset[begin + i - np.uintp(1)] * gap
            sums += climb
            before = value
            place = start + np.uintp(keys[r, i] & mask)
            out[place if positions is None else np.uintp(positions[place])] = climb
        shift = common - sums / size
        finite += shift - shift if 2.0 * size * (before - lowest) <= limit else np.nan
        for i in range(size):
            out[start + i if positions is None else np.uintp(positions[start + i])] += shift
        for i in (np.uintp(0), size - np.uintp(1)):
            place = start + np.uintp(keys[r, i] & mask)
            end = out[place if positions is None else np.uintp(positions[place])]
            finite += end - end
    return finite
