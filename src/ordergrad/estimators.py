r"""Values and advantages of groups of rewards.

With the rewards of a group sorted, gaps $g_m = R_{(m+1)} - R_{(m)}$ and the sample weights w of a group of N - 1,

$$A_{(m+1)} - A_{(m)} = N \, w_m(N-1) \, g_m, \qquad \sum_i A_i = 0 ,$$

so that the loss ``-mean(A * logp)`` has exactly the unbiased gradient of the objective: sort, scan, centre, unsort.
Every other quantity here is the same scan with other weights (`ordergrad.weights.scan`). Because only gaps enter,
tied rewards get equal advantages, equal rewards exactly 0, and a constant added to all of them changes nothing.

References:
    Parmas et al. (2026). OrderGrad: Optimizing Beyond the Mean with Order-Statistic Policy Gradient Estimation.
        arXiv 2606.06096.
    Kool et al. (2019). Buy 4 REINFORCE samples, get a baseline for free! (the mean: leave-one-out advantages)
    Walder and Karkhanis (2025). Pass@K Policy Optimization. arXiv 2505.15201. (max@K, k-minus-one baseline)
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ordergrad.arrays import (
    Rewards,
    arrange,
    check_choice,
    check_fits,
    check_large,
    counts_on_host,
    fill_empty,
    fill_masked,
    finish,
    probabilities,
    restore,
    valid_counts,
    zero_masked,
)
from ordergrad.backends import Array, Backend, host_constants
from ordergrad.exact import advantages_under, value_under
from ordergrad.objectives import Objective, every_rank, whole_number
from ordergrad.schedules import Schedule
from ordergrad.spec import parse
from ordergrad.weights import Baseline, Quantity, Scan, open_k, scan, shrunk, smallest_group

__all__ = [
    "Small",
    "advantages",
    "include_one",
    "leave_one_out",
    "order_statistics",
    "padded_advantages",
    "ragged_advantages",
    "rank_advantages",
    "value",
    "value_and_error",
]

Small = Literal["error", "zero", "shrink"]
SmallValue = Literal["error", "nan", "shrink"]
_VALUES = ("value", "include_one", "excluded", "error")
_CENTRED = ("leave_one_out", "error")
_BASELINES, _SMALL, _SMALL_VALUE = get_args(Baseline), get_args(Small), get_args(SmallValue)


def advantages(
    rewards: Array,
    objective: str | Objective | Schedule,
    *,
    axis: int = -1,
    where: Array | None = None,
    sample_weight: Array | None = None,
    baseline: Baseline = "leave_one_out",
    small: Small = "error",
) -> Array:
    r"""Return the advantages A of every group: an unchanged policy-gradient step ascends the objective without bias.

    $A_i = K (q_i - b_i)$ with $q_i$ the average statistic of the size-K subsets that contain i. The baseline $b_i$ is
    the average over the subsets without i (``leave_one_out``; then the advantages of a group sum to zero), the
    average of the adjoint statistic over (K-1)-subsets without i (``k_minus_one``), or 0 (``none``). With all three
    the gradient of ``-mean(A * logp)`` is unbiased; nobody multiplies by K again.

    With `sample_weight`, the samples come from another distribution with importance weights ω: A is exact for the
    weighted empirical distribution $p = \omega/\sum\omega$ and centred under it, and the loss must weigh each sample
    by $N p_i$. Self-normalised, so consistent rather than unbiased. The K rewards are then drawn with replacement, so
    K may exceed N, and only a group without any weight is too small. Levels without @K still take K = N - 1, N the
    number of valid samples, and the time grows with N K.

    Args:
        rewards: A group of N rewards along `axis`, any number of groups: shape (..., N). Higher is better.
        objective: An objective or its string. Levels without @K take K = N - 1, N the number of valid samples.
        axis: The axis of the group.
        where: Mask of valid samples, broadcastable to `rewards`. Others get advantage 0.
        sample_weight: Importance weights, nonnegative, broadcastable to `rewards`. Only with ``leave_one_out``.
        baseline: What is subtracted; see above.
        small: A group with too few valid samples for K: ``error``, advantage ``zero``, or ``shrink``, the same
            objective at the largest K it allows; where that would be another objective (``top:2@4`` at K = 2,
            ``mean-gini`` at K = 1), the advantages are zero. Where a mask cannot be looked at without a
            synchronisation (compiled code, arrays on a device), ``error`` turns such groups into NaN.

    Returns:
        An array of the shape, dtype and device of `rewards` (integers: the default floating dtype), detached.

    Raises:
        ValueError: K does not fit N, shapes do not match, or the rewards are NaN, infinite or so large that the result
            or 2 N times their range overflows (checked for arrays in host memory outside compiled code).
        TypeError: The rewards are not real numbers, or `objective` is neither a string nor an objective.

    Example:
        >>> advantages([0.0, 1.0, 1.0, 5.0], "mean")
        array([-2.33333333, -1.        , -1.        ,  4.33333333])
        >>> advantages([0.0, 1.0, 1.0, 5.0], "max@2")
        array([-2.66666667, -2.66666667, -2.66666667,  8.        ])
    """
    check_choice("baseline", baseline, _BASELINES)
    check_choice("small", small, _SMALL)
    r = arrange(rewards, axis, where, detach=True)
    if isinstance(objective, Schedule):
        objective = objective.detached(r.ops)
    if sample_weight is None:
        return restore(r, _scan_samples(r, objective, baseline, small))
    if baseline != "leave_one_out":
        raise ValueError(f"sample_weight needs baseline='leave_one_out'; got baseline={baseline!r}")
    r = fill_masked(r)
    large = _may_overflow(r, objective)
    probs, empty = probabilities(r, sample_weight, small)
    a = advantages_under(r.ops, r.x, r.ops.detach(probs), objective, *_open_sizes(r, "leave_one_out"))
    a = fill_empty(r.ops, zero_masked(r, a), empty, 0.0)
    return restore(r, check_fits(r, a) if large else a)


def value(
    rewards: Array,
    objective: str | Objective | Schedule,
    *,
    axis: int = -1,
    where: Array | None = None,
    sample_weight: Array | None = None,
    small: SmallValue = "error",
) -> Array:
    r"""Return the estimate v of the objective for every group: $\sum_m w_m(N) R_{(m)}$, unbiased, differentiable.

    The average of the statistic over all size-K subsets (a U-statistic). Its gradient with respect to the rewards is
    the pathwise (reparameterised) gradient of the objective. With `sample_weight`, the value under the weighted
    empirical distribution, of which K rewards are drawn with replacement: K may exceed N, only a group without any
    weight is too small, and the time grows with N K.

    Args:
        rewards: A group of N rewards along `axis`, any number of groups: shape (..., N).
        objective: An objective or its string, K at most N. Levels without @K take K = N: the value is the sample
            statistic, such as the sample CVaR or the median.
        axis: The axis of the group.
        where: Mask of valid samples, broadcastable to `rewards`.
        sample_weight: Importance weights, nonnegative, broadcastable to `rewards`.
        small: A group with too few valid samples for K: ``error``, value ``nan``, or ``shrink``, the same objective
            at K = N. Where that would be another objective (``top:2@4`` of two rewards), the value is NaN.

    Returns:
        An array of shape (...), dtype and device of `rewards`.

    Raises:
        ValueError: K does not fit N, shapes do not match, or the rewards are NaN or infinite.
        TypeError: The rewards are not real numbers, or `objective` is neither a string nor an objective.

    Example:
        >>> float(value([0.0, 1.0, 0.0, 1.0], "max@2") * 6)
        5.0
    """
    r = fill_masked(arrange(rewards, axis, where))
    if sample_weight is None:
        v = _value_of_sorted(r, r.ops.sort(r.x), objective, small)
    else:
        check_choice("small", small, _SMALL_VALUE)
        large = _may_overflow(r, objective)
        probs, empty = probabilities(r, sample_weight, small)
        v = fill_empty(r.ops, value_under(r.ops, r.x, probs, objective, *_open_sizes(r, "value")), empty, 0.0)
        v = fill_empty(r.ops, check_fits(r, v) if large else v, empty, np.nan)
    return finish(r.ops, v, rewards)


def value_and_error(
    rewards: Array,
    objective: str | Objective | Schedule,
    *,
    axis: int = -1,
    where: Array | None = None,
    sample_weight: Array | None = None,
    small: SmallValue = "error",
) -> tuple[Array, Array]:
    r"""Return the value of every group and its standard error, $se^2 = \frac{N-1}{N^3} \sum_i A_i^2$.

    The advantages are the jackknife differences $A_i = N (v - v_{-i})$: this is the jackknife's error. For quantiles
    without @K (``median``, ``var:q``, ``quantile:q``, the ends of ``winsorized:p``) the jackknife is inconsistent: it
    rests on one gap between rewards, however many there are. There A is that of the Harrell-Davis estimator of the
    same quantile, which has the same large-sample error and a consistent jackknife, in sums as well.

    The error describes the sampling of the N rewards of one group, and is that of a large sample: for a confidence
    interval take `interval`. With `sample_weight`, $se^2 = \sum_i p_i^2 A_i^2$, where drawing with replacement does the
    smoothing. Value and error are differentiable in the rewards; where the error is 0 its derivative is given as 0.

    Args:
        rewards: A group of N rewards along `axis`, any number of groups: shape (..., N).
        objective: An objective or its string, K below N.
        axis: The axis of the group.
        where: Mask of valid samples, broadcastable to `rewards`.
        sample_weight: Importance weights, nonnegative, broadcastable to `rewards`.
        small: As in `value`.

    Returns:
        Two arrays of shape (...).

    Raises:
        ValueError: As `value`, and for K = N.

    Example:
        >>> v, se = value_and_error([1.0, 2.0, 3.0, 4.0], "mean")
        >>> float(v), float(se).__round__(6)
        (2.5, 0.645497)
    """
    v = value(rewards, objective, axis=axis, where=where, sample_weight=sample_weight, small=small)
    r = arrange(rewards, axis, where)
    ops = r.ops
    if sample_weight is not None:
        r = fill_masked(r)
        probs, empty = probabilities(r, sample_weight, small)
        a = advantages_under(ops, r.x, probs, objective, *_open_sizes(r, "leave_one_out"))
        return v, finish(ops, fill_empty(ops, _length(ops, probs * a), empty, np.nan), v)
    a = _scan_samples(r, objective, "error", small)
    n = r.n if r.n > 1 else np.nan  # one reward alone says nothing about its error
    if r.mask is not None:
        n = ops.xp.astype(valid_counts(r), a.dtype)
        n = ops.xp.where(n > 1, n, n - n + ops.xp.nan)
    return v, finish(ops, ((n - 1) / n**3) ** 0.5 * _length(ops, a), rewards)


def include_one(
    rewards: Array,
    objective: str | Objective | Schedule,
    *,
    axis: int = -1,
    where: Array | None = None,
    small: SmallValue = "error",
) -> Array:
    r"""Return $q_i$, for every sample the average of the statistic over the size-K subsets that contain it.

    $q_i = v + \frac{N-K}{NK} A_i$; additive over the terms of a mixture. Differentiable.

    Args:
        rewards: A group of N rewards along `axis`, any number of groups: shape (..., N).
        objective: An objective or its string, K at most N. Levels without @K take K = N - 1, as in `advantages`.
        axis: The axis of the group.
        where: Mask of valid samples, broadcastable to `rewards`. Others get 0.
        small: As in `value`.

    Returns:
        An array of the shape, dtype and device of `rewards`.

    Raises:
        ValueError: As `value`.

    Example:
        >>> include_one([0.0, 1.0, 5.0], "max@2")
        array([3., 3., 5.])
    """
    r = arrange(rewards, axis, where)
    return restore(r, _scan_samples(r, objective, "include_one", small))


def leave_one_out(
    rewards: Array,
    objective: str | Objective | Schedule,
    *,
    axis: int = -1,
    where: Array | None = None,
    small: SmallValue = "error",
) -> Array:
    r"""Return $v_{-i}$, for every sample the value of the group without it: $v - A_i/N$. Differentiable.

    Args:
        rewards: A group of N rewards along `axis`, any number of groups: shape (..., N).
        objective: An objective or its string, K below N.
        axis: The axis of the group.
        where: Mask of valid samples, broadcastable to `rewards`. Others get 0.
        small: As in `value`.

    Returns:
        An array of the shape, dtype and device of `rewards`.

    Raises:
        ValueError: As `value`, and for K = N.

    Example:
        >>> leave_one_out([0.0, 1.0, 5.0], "max@2")
        array([5., 5., 1.])
    """
    r = arrange(rewards, axis, where)
    return restore(r, _scan_samples(r, objective, "excluded", small))


def order_statistics(rewards: Array, k: int, *, axis: int = -1, where: Array | None = None) -> Array:
    r"""Return unbiased estimates of the expected order statistics $E[R_{(1:K)}], \dots, E[R_{(K:K)}]$. Differentiable.

    Args:
        rewards: A group of N rewards along `axis`, any number of groups: shape (..., N).
        k: The comparison size K, at most N.
        axis: The axis of the group.
        where: Mask of valid samples, broadcastable to `rewards`.

    Returns:
        An array of shape (..., K), ascending ranks.

    Raises:
        ValueError: As `value`.

    Example:
        >>> order_statistics([1.0, 2.0, 3.0], 2) * 3
        array([4., 8.])
    """
    r = fill_masked(arrange(rewards, axis, where))
    ordered = r.ops.sort(r.x)
    if r.mask is None:
        return finish(r.ops, _checked_common(r, ordered[..., None, :], _rank_scans(r, k, "value"), None), rewards)
    ranks = [_value_of_sorted(r, ordered, rank, "error") for rank in every_rank(k)]
    return finish(r.ops, r.ops.xp.stack(ranks, axis=-1), rewards)


def rank_advantages(
    rewards: Array, k: int, *, axis: int = -1, where: Array | None = None, baseline: Baseline = "leave_one_out"
) -> Array:
    r"""Return the advantages of every rank j = 1..K: those of any rank weights α are their product with α.

    Args:
        rewards: A group of N rewards along `axis`, any number of groups: shape (..., N).
        k: The comparison size K.
        axis: The axis of the group.
        where: Mask of valid samples, broadcastable to `rewards`.
        baseline: As in `advantages`.

    Returns:
        An array of shape (..., N, K), ascending ranks last, detached.

    Raises:
        ValueError: As `advantages`.

    Example:
        >>> rank_advantages([0.0, 1.0, 5.0], 2) @ [0.0, 1.0] - advantages([0.0, 1.0, 5.0], "max@2")
        array([0., 0., 0.])
    """
    check_choice("baseline", baseline, _BASELINES)
    r = arrange(rewards, axis, where, detach=True)
    ops, xp = r.ops, r.ops.xp
    if r.mask is not None:
        a = xp.stack([_scan_samples(r, rank, baseline, "error") for rank in every_rank(k)], axis=-1)
    else:
        scans = _rank_scans(r, k, baseline)
        large = _may_overflow(r, None)
        ordered, order = ops.sort_with_order(r.x)
        climb = ops.cumulate(scans.slopes * ops.gaps(ordered)[..., None, :])
        ascending = ops.centred(climb) + _common(r, ordered[..., None, :], scans)
        ascending = check_fits(r, ascending, scans.total) if large else ascending
        a = xp.stack([ops.unsort(ascending[..., j, :], order) for j in range(k)], axis=-1)
    return finish(ops, a if r.axis == -1 else ops.moveaxis(a, -2, r.axis - 1 if r.axis < 0 else r.axis), rewards)


def ragged_advantages(
    ops: Backend,
    flat: Array,
    positions: NDArray[np.int64],
    sizes: NDArray[np.int64],
    objective: str | Objective,
    baseline: Baseline,
    small: Small,
) -> Array | None:
    """Return the advantages of groups of any sizes from a fused kernel, or None without one or if a sum may overflow.

    Args:
        ops: The backend of `flat`.
        flat: All rewards, shape (M,).
        positions: The rewards of the first group, then of the second, ...: indices into `flat`. Others get 0.
        sizes: The number of rewards in each group.
        objective: An objective or its string.
        baseline: As in `advantages`.
        small: As in `advantages`.
    """
    check_choice("baseline", baseline, _BASELINES)
    check_choice("small", small, _SMALL)
    try:
        scans = _by_count(objective, sizes, baseline, small)
    except _TooSmallError:
        return None
    return _fused_ragged(ops, ops.detach(flat), positions, sizes, scans)


def padded_advantages(
    ops: Backend,
    x: Array,
    sizes: NDArray[np.int64],
    objective: str | Objective,
    baseline: Baseline,
    small: Small,
) -> Array:
    """Return the advantages of groups that fill the first `sizes` columns of the rows of `x`; the others get 0."""
    n = x.shape[-1]
    filled = ops.asarray(np.arange(n) < sizes[:, None], x)
    r = Rewards(ops, ops.detach(x), n, filled, sizes, given=x, axis=-1)
    return restore(r, _scan_samples(r, objective, baseline, small))


# The scan: sort, multiply the gaps by slopes, add up, centre, unsort


def _scan_samples(
    r: Rewards, objective: str | Objective | Schedule, quantity: Quantity, small: Small | SmallValue
) -> Array:
    """Return a quantity of every sample, from a fused kernel where there is one."""
    if isinstance(objective, Schedule):
        return objective.mix(r.ops, lambda end: _scan_samples(r, end, quantity, small))
    scans = _scans(r, objective, quantity, small)
    ops, masked = r.ops, r.mask is not None
    fused = ops.fused(r.x, r.mask, *scans) if isinstance(scans, Scan) else _fused_by_count(r, scans)
    if fused is not None:
        return fused
    if masked:
        r = fill_masked(r)
    large = _may_overflow(r, objective)
    ordered, order = ops.sort_with_order(r.x)
    climb = ops.cumulate(_each(r, scans, "slopes") * ops.gaps(ordered))
    if not masked:
        a = ops.unsort(ops.centred(climb), order)
    else:
        a = ops.unsort(climb, order)
        n = ops.xp.clip(ops.xp.astype(valid_counts(r), a.dtype), 1, r.n)
        a = a - (ops.total(zero_masked(r, a)) / n)[..., None]
    if quantity not in _CENTRED:
        a = a + _common(r, ordered, scans)
    elif masked:
        a = a + _each(r, scans, "total")  # 0, or NaN for a group that is too small, even without a gap
    if large:
        a = check_fits(r, a, _each(r, scans, "total"))
    return zero_masked(r, a) if masked else a


def _value_of_sorted(r: Rewards, ordered: Array, objective: str | Objective | Schedule, small: SmallValue) -> Array:
    """Return the value of groups whose rewards ascend."""
    if isinstance(objective, Schedule):
        return objective.mix(r.ops, lambda end: _value_of_sorted(r, ordered, end, small))
    return _checked_common(r, ordered, _scans(r, objective, "value", small), objective)


def _common(r: Rewards, ordered: Array, scans: "Scan | _ByCount | _Table") -> Array:
    """Return the part of a quantity that all samples of a group have in common, (..., n) -> (..., 1)."""
    gaps = r.ops.gaps(ordered)
    return _each(r, scans, "total") * ordered[..., :1] + r.ops.total(_each(r, scans, "offset") * gaps)[..., None]


def _checked_common(
    r: Rewards, ordered: Array, scans: "Scan | _ByCount | _Table", objective: str | Objective | None
) -> Array:
    large, common = _may_overflow(r, objective), _common(r, ordered, scans)
    common = check_fits(r, common, _each(r, scans, "total")) if large else common
    return r.ops.total(common)  # of one value: an index would make a NumPy array without an axis of a number


def _length(ops: Backend, a: Array) -> Array:
    """Return the root of the sum of squares, without overflow; its derivative at 0 is 0, not infinite."""
    xp = ops.xp
    unit = xp.max(xp.abs(ops.detach(a)), axis=-1)
    unit = xp.where(unit > 0, unit, xp.ones_like(unit))
    square = ops.total((a / unit[..., None]) ** 2)
    return unit * xp.where(square == 0, square, xp.sqrt(xp.where(square == 0, xp.ones_like(square), square)))


def _may_overflow(r: Rewards, objective: str | Objective | Schedule | None) -> bool:
    """Check rewards, and return whether a result may overflow by their size or by the objective's factors.

    False where looking at them would synchronise or trace.
    """
    magnitude = r.ops.magnitude(r.x)
    if magnitude is None:
        return False
    if not magnitude < 1e18:  # no sum overflows in any dtype below that
        check_large(r, magnitude)
        return True
    if objective is None:
        return False
    if isinstance(objective, Schedule):
        return _is_scaled_up(objective.start) or _is_scaled_up(objective.end)
    return _is_scaled_up(objective if isinstance(objective, str) else parse(objective))


@lru_cache(maxsize=1024)
def _is_scaled_up(objective: str | Objective) -> bool:
    """Return whether the coefficients of an objective let results of not so large rewards overflow."""
    return sum(abs(coefficient) for coefficient, _ in parse(objective).terms()) > 1e6


# Which scan is whose: one for all groups, one for each number of valid samples, or all numbers where it is not known


class _ByCount(NamedTuple):
    """The scans of groups of different sizes, on the host in float64; `row` is the scan of each group."""

    slopes: tuple[NDArray[np.float64], ...]
    offset: tuple[NDArray[np.float64], ...]
    total: NDArray[np.float64]
    row: NDArray[np.int64]


class _Table(NamedTuple):
    """The scans of 0..n valid samples where the host cannot look at the mask.

    Slopes and offset are each a `_piece` for every count, one after the other: `pieces` has for either where that of a
    count begins, the gap of its first number, and the number of its last one; shape (6, n + 1).
    """

    slopes: Array
    offset: Array
    total: Array
    pieces: Array


def _scans(
    r: Rewards, objective: str | Objective, quantity: Quantity, small: Small | SmallValue
) -> Scan | _ByCount | _Table:
    if not isinstance(objective, (str, Objective)):  # pyright: ignore[reportUnnecessaryIsInstance]
        objective = parse(objective)
    if r.mask is None:
        try:
            return r.ops.constants(_scan, r.x, objective, r.n, quantity, small)
        except _TooSmallError as error:
            raise ValueError(f"{error} (rewards shape {tuple(r.x.shape)})") from None
    counts = counts_on_host(r)
    if counts is None and r.ops.fuses_masked(r.x):
        return r.ops.constants(_triangle, r.x, objective, r.n, quantity, small)
    if counts is None:
        return r.ops.constants(_table, r.x, objective, r.n, quantity, small)
    if small == "error":
        need, least = smallest_group(parse(objective), quantity), int(counts.min(initial=r.n))
        if least < need:
            raise ValueError(
                f"where must leave at least {need} valid samples in every group for {objective}; got a group with "
                f"{least} (rewards shape {tuple(r.x.shape)}); small='shrink' would accept it"
            )
    return _by_count(objective, counts, quantity, small)


def _by_count(
    objective: str | Objective, counts: NDArray[np.int64], quantity: Quantity, small: Small | SmallValue
) -> _ByCount:
    """Return the scans of groups with these numbers of samples, each cached by its number."""
    found = np.bincount(counts.reshape(-1))
    distinct = np.flatnonzero(found).tolist()
    scans = [host_constants(_scan, objective, n, quantity, small) for n in distinct]
    slopes, offset, total = zip(*scans, strict=True) if scans else ((), (), ())
    return _ByCount(slopes, offset, np.array(total, np.float64).reshape(-1), (np.cumsum(found > 0) - 1)[counts])


def _rank_scans(r: Rewards, k: int, quantity: Quantity) -> Scan:
    """Return the scans of every rank of k, stacked: slopes and offset (k, n - 1), total (k, 1)."""
    try:
        return r.ops.constants(_stacked_scans, r.x, whole_number("k", k), r.n, quantity)
    except _TooSmallError as error:
        raise ValueError(f"{error} (rewards shape {tuple(r.x.shape)})") from None


def _stacked_scans(k: int, n: int, quantity: Quantity) -> Scan:
    return Scan(*map(np.stack, zip(*(_scan(rank, n, quantity, "error") for rank in every_rank(k)), strict=True)))


def _fused_by_count(r: Rewards, scans: _ByCount | _Table) -> Array | None:
    """Return the scan of every masked group from a fused kernel; None without one, or where a sum may overflow."""
    if isinstance(scans, _Table):
        return None
    mask = r.ops.on_host(r.mask) if r.sizes is None and r.ops.on_host(r.x) is not None else None
    if mask is None:
        return None
    flat, sizes = r.ops.xp.reshape(r.x, (-1,)), np.count_nonzero(mask, axis=-1).reshape(-1)
    out = _fused_ragged(r.ops, flat, np.flatnonzero(mask), sizes, scans)
    return None if out is None else r.ops.xp.reshape(out, r.x.shape)


def _fused_ragged(
    ops: Backend, flat: Array, positions: NDArray[np.int64], sizes: NDArray[np.int64], scans: _ByCount
) -> Array | None:
    lengths = np.array([len(slopes) for slopes in scans.slopes], np.int64)
    row = scans.row.reshape(-1)
    at = (np.cumsum(lengths) - lengths)[row]
    slopes, offset = np.concatenate(scans.slopes or ([],)), np.concatenate(scans.offset or ([],))
    return ops.fused_ragged(flat, positions, sizes, row, at, slopes, offset, scans.total)


def _each(r: Rewards, scans: Scan | _ByCount | _Table, part: Literal["slopes", "offset", "total"]) -> Array:
    """Return slopes, offset or total for all groups or, with a mask, stacked for each, shape (..., n - 1 or 1)."""
    found = getattr(scans, part)
    if isinstance(scans, Scan):
        return found
    ops = r.ops
    if isinstance(scans, _ByCount):
        table = found[:, None] if part == "total" else _padded(found, r.n - 1)
        return ops.cast(ops.asarray(table[scans.row], r.x), r.x)
    counts = valid_counts(r)
    if part == "total":
        index = counts[..., None]
    else:
        row = 0 if part == "slopes" else 3
        begin, first, last = (_picked(ops, scans.pieces[row + i, :], counts)[..., None] for i in range(3))
        gaps = ops.asarray(np.arange(r.n - 1), r.x)
        index = begin + ops.xp.minimum(ops.xp.maximum(gaps - first, ops.xp.zeros_like(first)), last)
    return _picked(ops, found, index)


def _picked(ops: Backend, values: Array, index: Array) -> Array:
    return ops.xp.reshape(ops.xp.take(values, ops.xp.reshape(index, (-1,)), axis=0), index.shape)


def _padded(vectors: Sequence[NDArray[np.float64]], length: int) -> NDArray[np.float64]:
    table = np.zeros((len(vectors), length))
    for row, vector in zip(table, vectors, strict=True):
        row[: len(vector)] = vector
    return table


def _open_sizes(r: Rewards, quantity: Quantity) -> tuple[tuple[int, ...], Array | None]:
    """Return the comparison sizes that open levels take, and which of them each group takes."""
    if r.mask is None:
        return (open_k(r.n, quantity),), None
    counts = counts_on_host(r)
    if counts is None:
        distinct, index = range(r.n + 1), valid_counts(r)
    else:
        found, places = np.unique(counts, return_inverse=True)
        distinct, index = found.tolist(), r.ops.asarray(places.reshape(counts.shape), r.x)
    return tuple(open_k(max(count, 1), quantity) for count in distinct), index


class _TooSmallError(ValueError):
    """A group has too few samples for the comparison size."""


def _scan(objective: str | Objective, n: int, quantity: Quantity, small: Small | SmallValue) -> Scan:
    """Return the scan of a quantity for groups of n; for smaller groups than it needs, as `small` says."""
    objective = parse(objective)
    if quantity in _VALUES:
        check_choice("small", small, _SMALL_VALUE)
    need = smallest_group(objective, quantity)
    if n >= need:
        return scan(objective, n, quantity)
    fitting = shrunk(objective, n, quantity) if small == "shrink" else None
    if fitting is not None:
        return scan(fitting, n, quantity)
    if small == "error":
        k = objective.largest_size
        if quantity == "k_minus_one" and k <= n:
            raise _TooSmallError(f"N must satisfy N >= 2 for baseline='k_minus_one'; got N={n}")
        bound = "1 <= k < N" if k < need else "1 <= k <= N"
        raise _TooSmallError(f"k must satisfy {bound}; got k={k}, N={n} for {objective}")
    return _filled_scan(n, np.nan if small == "nan" or quantity in _VALUES else 0.0)


def _triangle(objective: str | Objective, n: int, quantity: Quantity, small: Small | SmallValue) -> Scan:
    """Return the scans of groups of 0..n samples, one after the other; NaN for groups that are too small."""
    scans = (_scan_or_nan(objective, m, quantity, small) for m in range(n + 1))
    return Scan(*map(np.concatenate, zip(*scans, strict=True)))


def _table(objective: str | Objective, n: int, quantity: Quantity, small: Small | SmallValue) -> _Table:
    """Return the parts of a `_Table`; NaN for groups that are too small."""
    rises, common, total = list[_Piece](), list[_Piece](), list[NDArray[np.float64]]()
    for m in range(n + 1):
        slopes, offset, whole = _scan_or_nan(objective, m, quantity, small)
        rises.append(_piece(slopes))
        common.append(_piece(offset[:0] if quantity in _CENTRED else offset))
        total.append(whole)
    parts = _joined(rises), _joined(common)
    return _Table(parts[0][0], parts[1][0], np.concatenate(total), np.concatenate([parts[0][1], parts[1][1]]))


_Piece = tuple[int, NDArray[np.float64]]


def _piece(vector: NDArray[np.float64]) -> _Piece:
    """Return a vector without what repeats its first or last number, and the place where that begins.

    A tail objective has few different slopes, so that those of n groups take O(n) numbers.
    """
    if not len(vector):
        return 0, np.zeros(1)
    differs = vector[1:] != vector[:-1]
    if math.isnan(vector[0]) or not differs.any():
        return 0, vector[:1].copy()
    start = int(differs.argmax())
    return start, vector[start : len(vector) - int(differs[::-1].argmax())].copy()


def _joined(pieces: Sequence[_Piece]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the vectors of pieces one after the other, and the places of each as `_Table.pieces` has them."""
    first, vectors = zip(*pieces, strict=True)
    lengths = np.array([len(vector) for vector in vectors])
    return np.concatenate(vectors), np.stack([np.cumsum(lengths) - lengths, np.array(first), lengths - 1])


def _scan_or_nan(objective: str | Objective, n: int, quantity: Quantity, small: Small | SmallValue) -> Scan:
    try:
        return _scan(objective, n, quantity, small)
    except _TooSmallError:
        return _filled_scan(n, np.nan)


def _filled_scan(n: int, fill: float) -> Scan:
    return Scan(np.full(max(n - 1, 0), fill), np.full(max(n - 1, 0), fill), np.full(1, fill))
