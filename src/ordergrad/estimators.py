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

from typing import Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from ordergrad.backend import Array, Backend, backend_of, is_finite
from ordergrad.exact import advantages_under, floating_beside, value_under, whole_axis
from ordergrad.objectives import Objective, every_rank
from ordergrad.schedules import Schedule
from ordergrad.spec import parse
from ordergrad.weights import Baseline, Quantity, open_k, scan, shrunk, smallest_group

__all__ = [
    "Small",
    "advantages",
    "filled_columns",
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
        where: Mask of valid samples, broadcastable to `rewards`. Others get advantage 0, whatever their reward.
        sample_weight: Importance weights, nonnegative, broadcastable to `rewards`. Only with ``leave_one_out``.
        baseline: What is subtracted; see above.
        small: A group with too few valid samples for K: ``error``, advantage ``zero``, or ``shrink``, the same
            objective at the largest K it allows; where that would be another objective (``top:2@4`` at K = 2,
            ``mean-gini`` at K = 1), the advantages are zero. Where a mask cannot be looked at without a
            synchronisation (compiled code, arrays on a device), ``error`` turns such groups into NaN.

    Returns:
        An array of the shape, dtype and device of `rewards` (integers: the default floating dtype), detached.

    Raises:
        ValueError: K does not fit N, shapes do not match, or the rewards are NaN or infinite (checked for arrays in
            host memory outside compiled code).
        TypeError: The rewards are not real numbers, or `objective` is neither a string nor an objective.

    Example:
        >>> advantages([0.0, 1.0, 1.0, 5.0], "mean")
        array([-2.33333333, -1.        , -1.        ,  4.33333333])
        >>> advantages([0.0, 1.0, 1.0, 5.0], "max@2")
        array([-2.66666667, -2.66666667, -2.66666667,  8.        ])
    """
    _check_choice("baseline", baseline, _BASELINES)
    _check_choice("small", small, _SMALL)
    group = _arrange(rewards, axis, where, detach=True)
    if isinstance(objective, Schedule):
        objective = objective.detached(group.ops)
    if sample_weight is None:
        return _restore(group, rewards, axis, _scanned(group, objective, baseline, small))
    if baseline != "leave_one_out":
        raise ValueError(f"sample_weight needs baseline='leave_one_out'; got baseline={baseline!r}")
    group = _filled(group)
    probs, empty = _probabilities(group, sample_weight, axis, small)
    a = advantages_under(group.ops, group.x, group.ops.detach(probs), objective, *_open_sizes(group, "leave_one_out"))
    return _restore(group, rewards, axis, _emptied(group.ops, _zeroed(group, a), empty, 0.0))


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
    group = _filled(_arrange(rewards, axis, where))
    if sample_weight is not None:
        _check_choice("small", small, _SMALL_VALUE)
        probs, empty = _probabilities(group, sample_weight, axis, small)
        v = value_under(group.ops, group.x, probs, objective, *_open_sizes(group, "value"))
        return group.ops.cast(_emptied(group.ops, v, empty, np.nan), rewards)
    return group.ops.cast(_valued(group, group.ops.sort(group.x), objective, small), rewards)


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
    group = _arrange(rewards, axis, where)
    ops = group.ops
    if sample_weight is not None:
        group = _filled(group)
        probs, empty = _probabilities(group, sample_weight, axis, small)
        a = advantages_under(ops, group.x, probs, objective, *_open_sizes(group, "leave_one_out"))
        error = _root(ops, ops.total((probs * a) ** 2))
        return v, ops.cast(_emptied(ops, error, empty, np.nan), v)
    a = _scanned(group, objective, "error", small)
    n = group.n if group.n > 1 else np.nan  # one reward alone says nothing about its error
    if group.mask is not None:
        n = ops.xp.astype(_counts(group), a.dtype)
        n = ops.xp.where(n > 1, n, n - n + ops.xp.nan)
    return v, ops.cast(_root(ops, (n - 1) / n**3 * ops.total(a * a)), rewards)


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
    group = _arrange(rewards, axis, where)
    return _restore(group, rewards, axis, _scanned(group, objective, "include_one", small))


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
    group = _arrange(rewards, axis, where)
    return _restore(group, rewards, axis, _scanned(group, objective, "excluded", small))


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
    group = _filled(_arrange(rewards, axis, where))
    ordered = group.ops.sort(group.x)
    ranks = [_valued(group, ordered, rank, "error") for rank in every_rank(k)]
    return group.ops.cast(group.ops.xp.stack(ranks, axis=-1), rewards)


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
    ranks = [advantages(rewards, rank, axis=axis, where=where, baseline=baseline) for rank in every_rank(k)]
    return backend_of(rewards).xp.stack(ranks, axis=-1)


def filled_columns(n: int, sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of n columns are filled in rows of so many, shape (len(sizes), n)."""
    return cast("NDArray[np.int64]", np.arange(n)) < sizes[:, None]


def ragged_advantages(
    ops: Backend,
    flat: Array,
    positions: NDArray[np.int64],
    sizes: NDArray[np.int64],
    objective: str | Objective,
    baseline: Baseline,
    small: Small,
) -> Array | None:
    """Return the advantages of groups of any sizes in a fused kernel, or None where there is none or a value is bad.

    Args:
        ops: The backend of `flat`.
        flat: All rewards, shape (M,).
        positions: The rewards of the first group, then of the second, ...: indices into `flat`. Others get 0.
        sizes: The number of rewards in each group.
        objective: An objective or its string.
        baseline: As in `advantages`.
        small: As in `advantages`.
    """
    _check_choice("baseline", baseline, _BASELINES)
    _check_choice("small", small, _SMALL)
    if ops.fused_ragged is None:
        return None
    counts = np.bincount(sizes)
    distinct = np.flatnonzero(counts)
    try:
        scans = [ops.constants(_scan, flat, objective, n, baseline, small) for n in distinct.tolist()]
    except _TooSmallError:
        return None
    slopes, offset, total = zip(*scans, strict=True)
    begin = np.cumsum(np.maximum(distinct - 1, 0)) - np.maximum(distinct - 1, 0)
    row = (np.cumsum(counts > 0) - 1)[sizes]
    weights = ops.xp.concat(slopes), ops.xp.concat(offset), ops.xp.stack(total)
    return ops.fused_ragged(ops.detach(flat), positions, sizes, row, begin[row], *weights)


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
    group = _Group(ops, ops.detach(x), n, ops.asarray(filled_columns(n, sizes), x), sizes)
    return _restore(group, x, -1, _scanned(group, objective, baseline, small))


class _Group(NamedTuple):
    """Rewards on the last axis, in the computing dtype, and which are valid: `sizes` of them if the host knows."""

    ops: Backend
    x: Array
    n: int
    mask: Array | None
    sizes: NDArray[np.int64] | None = None


def _arrange(rewards: Array, axis: int, where: Array | None, detach: bool = False) -> _Group:
    ops = backend_of(rewards)
    x = ops.floating(rewards)
    axis = axis if axis.__class__ is int else whole_axis(axis)
    if x.ndim > 0 and not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"axis must satisfy {-x.ndim} <= axis < {x.ndim}; got axis={axis} (rewards shape {tuple(x.shape)})"
        )
    if x.ndim == 0 or x.shape[axis] == 0:
        raise ValueError(f"rewards must hold at least one sample along axis {axis}; got shape {tuple(x.shape)}")
    x = ops.detach(x) if detach else x
    n = len(range(x.shape[axis]))  # a plain int also where compilers make sizes symbolic
    mask = None
    if where is not None:
        mask = _beside("where", ops.asarray(where, x), x, ops, axis)
        if not ops.xp.isdtype(mask.dtype, "bool"):
            raise TypeError(f"where must be a mask of bools; got dtype {mask.dtype}")
    if axis != -1:
        x = ops.moveaxis(x, axis, -1)
    return _Group(ops, x, n, mask)


def _counts(group: _Group) -> Array:
    """Return the number of valid samples of each group."""
    if group.sizes is not None:
        return group.ops.asarray(group.sizes, group.x)
    xp = group.ops.xp
    return xp.sum(xp.astype(group.mask, xp.int32), axis=-1)


def _filled(group: _Group) -> _Group:
    """Return the group with masked rewards equal to the highest valid one of their group, checked to be finite."""
    ops, x, _, mask, _ = group
    if mask is not None:
        zero = ops.xp.zeros_like(x)
        highest = ops.xp.max(ops.xp.where(mask, x, zero - ops.xp.inf), axis=-1, keepdims=True)
        x = ops.xp.where(mask, x, ops.xp.where(_counts(group)[..., None] > 0, highest, zero))
    magnitude = ops.magnitude(x)
    if magnitude is not None and not magnitude < 1e18:  # finite sums of differences in any dtype below that
        _check_finite(ops, x)
    return group._replace(x=x)


def _check_finite(ops: Backend, x: Array) -> None:
    """Check that rewards are finite and as many of their largest difference as there are in a group can be added up."""
    if is_finite(ops, x) is False:
        raise ValueError(f"rewards must be finite; got NaN or infinite values (rewards shape {tuple(x.shape)})")
    half = ops.xp.max(x / 2, axis=-1) - ops.xp.min(x / 2, axis=-1)
    if not bool(ops.xp.all(half <= float(ops.xp.finfo(x.dtype).max) / x.shape[-1] / 4)):
        raise ValueError(
            f"rewards must lie closer together, or sums of their differences overflow {x.dtype}; got rewards from "
            f"{float(ops.xp.min(x))} to {float(ops.xp.max(x))} (rewards shape {tuple(x.shape)})"
        )


def _beside(name: str, array: Array, x: Array, ops: Backend, axis: int) -> Array:
    """Return an array broadcast to the rewards, the group's axis last."""
    try:
        array = ops.xp.broadcast_to(array, x.shape)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be broadcastable to rewards; got shape {tuple(array.shape)} (rewards shape {tuple(x.shape)})"
        ) from error
    return array if axis == -1 else ops.moveaxis(array, axis, -1)


def _probabilities(
    group: _Group, sample_weight: Array, axis: int, small: Small | SmallValue
) -> tuple[Array, Array | None]:
    """Return sample weights of sum 1 in every group, zero where masked; and which groups have none, if allowed."""
    ops, x = group.ops, group.x
    unmoved = x if axis == -1 else ops.moveaxis(x, -1, axis)
    weight = _beside("sample_weight", floating_beside("sample_weight", sample_weight, x, ops), unmoved, ops, axis)
    weight = ops.wide(weight)
    if group.mask is not None:
        weight = ops.xp.where(group.mask, weight, ops.xp.zeros_like(weight))
    largest = ops.detach(ops.xp.max(weight, axis=-1, keepdims=True))
    finite = is_finite(ops, weight)
    if finite is not None:
        _check_weights(ops, weight, largest[..., 0], finite, small)
    weight = weight / ops.xp.where(largest > 0, largest, ops.xp.ones_like(largest))  # whose sum does not overflow
    total = ops.total(weight)
    if small == "error":
        return weight / total[..., None], None
    empty = total == 0
    return weight / ops.xp.where(empty, ops.xp.ones_like(total), total)[..., None], empty


def _check_weights(ops: Backend, weight: Array, largest: Array, finite: bool, small: Small | SmallValue) -> None:
    got = None
    if not finite:
        got = "got NaN or infinite weights"
    elif bool(ops.xp.any(weight < 0)):
        got = f"got a weight of {float(ops.xp.min(weight))}"
    elif small == "error" and bool(ops.xp.any(largest <= 0)):
        got = "got a group of weights 0; small='shrink' would accept it"
    if got is not None:
        raise ValueError(
            f"sample_weight must be finite and nonnegative, with a positive sum in every group; {got} "
            f"(rewards shape {tuple(weight.shape)})"
        )


def _emptied(ops: Backend, a: Array, empty: Array | None, fill: float) -> Array:
    """Return an array of values, or of one for each sample, with what stands for groups without any weight."""
    if empty is None:
        return a
    empty = empty if empty.ndim == a.ndim else empty[..., None]
    return ops.xp.where(empty, ops.xp.zeros_like(a) + fill, a)


def _open_sizes(group: _Group, quantity: Quantity) -> tuple[tuple[int, ...], Array | None]:
    """Return the comparison sizes that open levels take, and which of them each group takes."""
    if group.mask is None:
        return (open_k(group.n, quantity),), None
    distinct, index = group.ops.counts(group.mask, group.sizes)
    return tuple(open_k(max(count, 1), quantity) for count in distinct), _counts(group) if index is None else index


def _scanned(
    group: _Group, objective: str | Objective | Schedule, quantity: Quantity, small: Small | SmallValue
) -> Array:
    """Return a quantity of every sample: sort, scan, centre, unsort; in a fused kernel where there is one."""
    ops = group.ops
    if isinstance(objective, Schedule):
        return objective.mix(ops, lambda end: _scanned(group, end, quantity, small))
    plan = _plan(group, objective, quantity, small)
    fused = ops.fused(group.x, group.mask, *plan)
    if fused is not None:
        return fused
    group = _filled(group)
    ordered, order = ops.sort_with_order(group.x)
    slopes, offset, total = _of_each(group, plan)
    climb = ops.cumulate(slopes * ops.gaps(ordered))
    if group.mask is None:
        a = ops.unsort(climb - ops.mean(climb), order)
    else:
        a = ops.unsort(climb, order)
        sums = ops.total(_zeroed(group, a))
        a = a - (sums / ops.xp.clip(ops.xp.astype(_counts(group), a.dtype), 1, group.n))[..., None]
    if quantity not in ("leave_one_out", "error"):
        a = a + _common(ops, ordered, offset, total)[..., None]
    elif group.mask is not None:
        a = a + total[..., None]  # 0, or NaN for a group that is too small, however many gaps it has
    return _zeroed(group, a)


def _zeroed(group: _Group, a: Array) -> Array:
    """Return an array with 0 where the samples are masked."""
    return a if group.mask is None else group.ops.xp.where(group.mask, a, group.ops.xp.zeros_like(a))


def _valued(group: _Group, ordered: Array, objective: str | Objective | Schedule, small: SmallValue) -> Array:
    """Return the value of sorted groups."""
    if isinstance(objective, Schedule):
        return objective.mix(group.ops, lambda end: _valued(group, ordered, end, small))
    _, offset, total = _of_each(group, _plan(group, objective, "value", small))
    return _common(group.ops, ordered, offset, total)


def _common(ops: Backend, ordered: Array, offset: Array, total: Array) -> Array:
    return total * ordered[..., 0] + ops.total(offset * ops.gaps(ordered))


def _root(ops: Backend, square: Array) -> Array:
    """Return the square root, with derivative 0 instead of infinity at 0: equal rewards have no error to change."""
    one = ops.xp.ones_like(square)
    return ops.xp.where(square == 0, square, ops.xp.sqrt(ops.xp.where(square == 0, one, square)))


def _restore(group: _Group, rewards: Array, axis: int, a: Array) -> Array:
    return group.ops.cast(a if axis == -1 else group.ops.moveaxis(a, -1, axis), rewards)


class _Plan(NamedTuple):
    """Slopes, offset and total: one scan for all groups; or the rows, and which is each group's."""

    slopes: Array
    offset: Array
    total: Array
    rows: Array | None


def _plan(group: _Group, objective: str | Objective, quantity: Quantity, small: Small | SmallValue) -> _Plan:
    """Return the scan of all groups, or one for each number of valid samples."""
    ops, x, n, mask, sizes = group
    if not isinstance(objective, (str, Objective)):  # pyright: ignore[reportUnnecessaryIsInstance]
        objective = parse(objective)
    if mask is None:
        try:
            slopes, offset, total = ops.constants(_scan, x, objective, n, quantity, small)
        except _TooSmallError as error:
            raise ValueError(f"{error} (rewards shape {tuple(x.shape)})") from None
        return _Plan(slopes, offset, total, None)
    distinct, index = ops.counts(mask, sizes)
    if small == "error" and index is not None:
        need = smallest_group(parse(objective), quantity)
        if distinct[0] < need:
            raise ValueError(
                f"where must leave at least {need} valid samples in every group for {objective}; got a group with "
                f"{distinct[0]} (rewards shape {tuple(x.shape)}); small='shrink' would accept it"
            )
    slopes, offset, total = ops.constants(_table, x, objective, n, quantity, small, distinct)
    return _Plan(slopes, offset, total, index)


def _of_each(group: _Group, plan: _Plan) -> tuple[Array, Array, Array]:
    """Return slopes, offset and total for all groups, or stacked for each."""
    *tables, index = plan
    if group.mask is not None:
        xp, index = group.ops.xp, _counts(group) if index is None else index
        flat = xp.reshape(index, (-1,))
        tables = [xp.reshape(xp.take(table, flat, axis=0), (*index.shape, *table.shape[1:])) for table in tables]
    slopes, offset, total = tables
    return slopes, offset, total


def _check_choice(name: str, got: str, choices: tuple[str, ...]) -> None:
    if got not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {got!r}")


class _TooSmallError(ValueError):
    """A group has too few samples for the comparison size."""


def _scan(
    objective: str | Objective, n: int, quantity: Quantity, small: Small | SmallValue
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the scan of a quantity for groups of n; for smaller groups than it needs, what `small` says."""
    objective = parse(objective)
    if quantity in _VALUES:
        _check_choice("small", small, _SMALL_VALUE)
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
    fill = np.nan if small == "nan" or quantity in _VALUES else 0.0
    return np.full(max(n - 1, 0), fill), np.full(max(n - 1, 0), fill), fill


def _table(
    objective: str | Objective, n: int, quantity: Quantity, small: Small | SmallValue, counts: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the scans for groups with each number of valid samples, padded to n, stacked."""
    slopes, offset, total = np.zeros((len(counts), n - 1)), np.zeros((len(counts), n - 1)), np.zeros(len(counts))
    for row, count in enumerate(counts):
        gaps = slice(0, max(count - 1, 0))
        try:
            slopes[row, gaps], offset[row, gaps], total[row] = _scan(objective, count, quantity, small)
        except _TooSmallError:
            slopes[row], offset[row], total[row] = np.nan, np.nan, np.nan
    return slopes, offset, total
