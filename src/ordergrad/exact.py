r"""Known rewards and probabilities: values and advantages without any sampling error.

Outcomes with rewards r and probabilities p, K independent draws. With the outcomes sorted by reward, $F_t$ the
probability of the t lowest, gaps $g_t = r_{(t+1)} - r_{(t)}$, spectrum φ and $\Phi = \int \varphi$,

$$J = \Phi(1) \, r_{(1)} + \sum_t (\Phi(1) - \Phi(F_t)) \, g_t, \qquad
  A_{(t+1)} - A_{(t)} = \varphi(F_t) \, g_t, \qquad \sum_i p_i A_i = 0 .$$

The derivative of J with respect to the logits of a softmax policy is $p_i A_i$. Here, where there is no group, a level
objective without @K is its population functional: ``cvar:0.05`` is the CVaR of the distribution. A level that $F_t$
misses by rounding alone is reached: ``var:0.8`` of ten equal outcomes is the eighth.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
    Acerbi (2002). Spectral measures of risk. Journal of Banking and Finance 26(7).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ordergrad.arrays import floating_beside, is_finite, whole_axis
from ordergrad.backends import Array, Backend, backend_of
from ordergrad.bernstein import log_binomial, subset_weights
from ordergrad.objectives import Elementary, Objective, combine, whole_number
from ordergrad.schedules import Schedule
from ordergrad.spec import parse
from ordergrad.weights import components, neighbouring_sizes

__all__ = [
    "Sizes",
    "advantages",
    "advantages_under",
    "include_one",
    "order_statistics",
    "value",
    "value_under",
]

_CHUNK, _TINY = 1 << 22, 1e-30

Sizes = tuple[int, ...] | None
"""The comparison sizes that open levels take, of each distribution the one in its `row`, the first without rows; None
for the population."""


def value(rewards: Array, probs: Array, objective: str | Objective, *, axis: int = -1) -> Array:
    r"""Return the exact objective J of a distribution with finitely many outcomes.

    $J = \Phi(1) r_{(1)} + \sum_t (\Phi(1) - \Phi(F_t)) g_t$, differentiable in rewards and, for a given K, in probs.

    Args:
        rewards: Rewards of the outcomes, shape (..., m).
        probs: Their probabilities along `axis`, nonnegative, of sum 1; broadcastable to `rewards`.
        objective: An objective or its string; a level without @K stands for the population (NumPy arrays only).
        axis: The axis of the outcomes.

    Returns:
        An array of shape (...).

    Raises:
        ValueError: Wrong shapes, NaN or infinite rewards, or probabilities that are no distribution.

    Example:
        >>> float(value([0.0, 1.0], [0.75, 0.25], "max@2"))
        0.4375
        >>> float(value([-10.0, 1.0], [0.05, 0.95], "cvar:0.1"))
        -4.5
    """
    ops, r, p = _prepare(rewards, probs, axis)
    return ops.cast(value_under(ops, r, p, objective), rewards)


def advantages(rewards: Array, probs: Array, objective: str | Objective, *, axis: int = -1) -> Array:
    r"""Return the exact advantages A of the outcomes: $p_i A_i$ is the derivative of J by the i-th logit.

    $A_{(t+1)} - A_{(t)} = \varphi(F_t) g_t$ with $\sum_i p_i A_i = 0$. The expected policy-gradient step with these
    advantages is exactly the gradient of J. Detached.

    An outcome of probability 0 beyond all others gets an infinite advantage where φ is infinite at that end
    (``wang:0.5`` at the worst, ``power:0.5`` at the best); the others do not notice it.

    Args:
        rewards: Rewards of the outcomes, shape (..., m).
        probs: Their probabilities along `axis`, nonnegative, of sum 1; broadcastable to `rewards`.
        objective: An objective or its string; a level without @K stands for the population (NumPy arrays only).
        axis: The axis of the outcomes.

    Returns:
        An array of the shape of `rewards` (broadcast with `probs`).

    Raises:
        ValueError: Wrong shapes, NaN or infinite rewards, or probabilities that are no distribution.

    Example:
        >>> advantages([0.0, 1.0], [0.75, 0.25], "max@2")
        array([-0.375,  1.125])
    """
    ops, r, p = _prepare(rewards, probs, axis)
    a = advantages_under(ops, ops.detach(r), ops.detach(p), objective)
    return ops.cast(ops.moveaxis(a, -1, axis), rewards)


def include_one(rewards: Array, probs: Array, objective: str | Objective, *, axis: int = -1) -> Array:
    r"""Return $q_i$, for every outcome the expected statistic when it is one of the K draws.

    $q_i = J + A_i / K$ for one comparison size K; additive over the terms of a mixture. A level without @K stands for
    the population, of which one draw changes nothing: $q_i = J$. Differentiable as `value` is.

    Args:
        rewards: Rewards of the outcomes, shape (..., m).
        probs: Their probabilities along `axis`, nonnegative, of sum 1; broadcastable to `rewards`.
        objective: An objective or its string; a level without @K stands for the population (NumPy arrays only).
        axis: The axis of the outcomes.

    Returns:
        An array of the shape of `rewards` (broadcast with `probs`).

    Example:
        >>> include_one([0.0, 1.0], [0.75, 0.25], "max@2")
        array([0.25, 1.  ])
    """
    ops, r, p = _prepare(rewards, probs, axis)
    objective = parse(objective)
    of_one = combine(*(term for c, part in objective.terms() for term in _per_draw(c, part)))
    q = value_under(ops, r, p, objective)[..., None] + advantages_under(ops, r, p, of_one)
    return ops.cast(ops.moveaxis(q, -1, axis), rewards)


def _per_draw(coefficient: float, part: Elementary) -> list[tuple[float, Objective]]:
    """Return a term over its comparison size; a real size is that of its two neighbours."""
    k = part.comparison_size
    if k is None:
        return []
    if part.kind == "fixed":
        return [(coefficient / k, part)]
    return [(coefficient * share / size, part.at(size)) for share, size in neighbouring_sizes(k)]


def order_statistics(rewards: Array, probs: Array, k: int, *, axis: int = -1) -> Array:
    r"""Return the exact expected order statistics $E[R_{(1:K)}], \dots, E[R_{(K:K)}]$ of K independent draws.

    Args:
        rewards: Rewards of the outcomes, shape (..., m).
        probs: Their probabilities along `axis`, nonnegative, of sum 1; broadcastable to `rewards`.
        k: The number of draws K.
        axis: The axis of the outcomes.

    Returns:
        An array of shape (..., K), ascending.

    Example:
        >>> order_statistics([0.0, 1.0], [0.5, 0.5], 3)
        array([0.125, 0.5  , 0.875])
    """
    ops, r, p = _prepare(rewards, probs, axis)
    ordered, order = ops.sort_with_order(ops.wide(r))
    level = _levels(ops, ops.take(p, order), "mean", (1,))
    climb = ops.cumulate(_fewer_steps(ops, level, ops.gaps(ordered), whole_number("k", k)))[..., 1:]
    return ops.cast(ordered[..., :1] + climb, rewards)


def _fewer_steps(ops: Backend, level: Array, gaps: Array, k: int) -> Array:
    r"""Return $\sum_t \binom ki F_t^i (1-F_t)^{k-i} g_t$ for i = 0..k-1, in slices of bounded memory.

    That is the expected length of the gaps with exactly i of k draws below, the mean difference of neighbouring ranks.
    """
    xp = ops.xp
    every, log_choices = ops.constants(_binomials, level, k)
    log_u, log_v = _logarithms(ops, level)
    step = max(1, _CHUNK // max(math.prod(level.shape), 1))
    parts: list[Array] = []
    for start in range(0, k, step):
        i = every[start : start + step]
        chance = xp.exp(log_choices[start : start + step, None] + i[:, None] * log_u + (k - i)[:, None] * log_v)
        parts.append(ops.total(chance * gaps[..., None, :]))
    return xp.concat(parts, axis=-1)


def _binomials(k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    i = np.arange(float(k))
    return i, log_binomial(k, i)


def _logarithms(ops: Backend, level: Array) -> tuple[Array, Array]:
    """Return log u and log(1 - u) of levels (..., n), finite, shape (..., 1, n)."""
    u = ops.xp.clip(level, _TINY, 1 - float(ops.xp.finfo(level.dtype).eps) / 2)[..., None, :]
    return ops.xp.log(u), ops.xp.log1p(-u)


def value_under(
    ops: Backend,
    rewards: Array,
    probs: Array,
    objective: str | Objective | Schedule,
    sizes: Sizes = None,
    row: Array | None = None,
) -> Array:
    """Return J over the last axis; open levels take the comparison size that `sizes` has at `row`, see `Sizes`."""
    if isinstance(objective, Schedule):
        return objective.mix(ops, lambda end: value_under(ops, rewards, probs, end, sizes, row))
    ordered, order = ops.sort_with_order(ops.wide(rewards))
    mass, above = _upper_mass(ops, objective, sizes, row, _levels(ops, ops.take(probs, order), objective, sizes))
    return ops.cast(mass * ordered[..., 0] + ops.total(above * ops.gaps(ordered)), rewards)


def advantages_under(
    ops: Backend,
    rewards: Array,
    probs: Array,
    objective: str | Objective | Schedule,
    sizes: Sizes = None,
    row: Array | None = None,
) -> Array:
    """Return the advantages over the last axis; open levels take a comparison size as in `value_under`.

    The steps beyond all probability, where a spectrum may be infinite, are left out of what has some.
    """
    if isinstance(objective, Schedule):
        return objective.mix(ops, lambda end: advantages_under(ops, rewards, probs, end, sizes, row))
    xp = ops.xp
    ordered, order = ops.sort_with_order(ops.wide(rewards))
    weights, gaps = ops.take(probs, order), ops.gaps(ordered)
    level, none = _levels(ops, weights, objective, sizes), xp.zeros_like(gaps)
    steps = xp.where(gaps > 0, _density(ops, objective, sizes, row, level), none) * gaps
    low, high = level <= 0, level >= 1
    a = ops.cumulate(xp.where(low | high, none, steps))
    a = a - ops.total(ops.wide(weights) * a)[..., None]
    beyond = ops.cumulate(xp.where(high, steps, none)) - _from_above(ops, xp.where(low, steps, none))
    return ops.cast(ops.unsort(a + beyond, order), rewards)


def _levels(ops: Backend, probs: Array, objective: str | Objective, sizes: Sizes) -> Array:
    """Return the probability below each gap, in [0, 1]: 1 where none is above, however the sum is rounded.

    Those of the population keep the dtype, from which it follows what counts as a level that is reached.
    """
    level = ops.xp.clip(ops.cumulate(ops.wide(probs))[..., 1:-1], 0, 1)
    if sizes is None and ops.xp is np and parse(objective).is_open:
        level = ops.cast(level, probs)
    return ops.xp.where(_from_above(ops, probs)[..., 1:-1] > 0, level, ops.xp.ones_like(level))


def _from_above(ops: Backend, x: Array) -> Array:
    """Return the sums of what is at and above each place, (..., n) -> (..., n + 1)."""
    return ops.xp.flip(ops.cumulate(ops.xp.flip(x, axis=-1)), axis=-1)


def _density(ops: Backend, objective: str | Objective, sizes: Sizes, row: Array | None, level: Array) -> Array:
    """Return φ at the levels."""
    open_terms, sized, sizes = _split(ops, objective, sizes)
    phi = _bernstein(ops, level, row, ops.constants(_density_terms, level, sized, sizes))
    return sum((c * part.density(level) for c, part in open_terms), phi)


def _upper_mass(
    ops: Backend, objective: str | Objective, sizes: Sizes, row: Array | None, level: Array
) -> tuple[Array, Array]:
    """Return Φ(1), and Φ(1) - Φ at the levels."""
    open_terms, sized, sizes = _split(ops, objective, sizes)
    mass, *terms = ops.constants(_mass_terms, level, sized, sizes)
    mass, above = _at(ops, mass, row), _bernstein(ops, level, row, terms)
    for c, part in open_terms:
        full = c * part.cumulative(np.ones(()))
        mass, above = mass + full, above + (full - c * part.cumulative(level))
    return mass, above


def _split(
    ops: Backend, objective: str | Objective, sizes: Sizes
) -> tuple[list[tuple[float, Elementary]], str | Objective, Sizes]:
    """Return the terms that stand for the population, the rest of the objective, and the sizes of its open levels."""
    if not isinstance(objective, (str, Objective)):  # pyright: ignore[reportUnnecessaryIsInstance]
        objective = parse(objective)
    if sizes is not None or ops.xp is not np:
        return [], objective, sizes
    terms = parse(objective).terms()
    open_terms = [(c, part) for c, part in terms if part.comparison_size is None]
    return open_terms, combine(*((c, part) for c, part in terms if part.comparison_size is not None)), (1,)


def _density_terms(objective: str | Objective, sizes: Sizes) -> tuple[NDArray[np.float64], ...]:
    """Return the Bernstein terms of φ, a row for each size."""
    return _bernstein_terms([len(alpha) * alpha for alpha in _common_weights(objective, sizes)])


def _mass_terms(objective: str | Objective, sizes: Sizes) -> tuple[NDArray[np.float64], ...]:
    """Return Φ(1), then the Bernstein terms of Φ(1) - Φ, a row for each size."""
    above = [np.append(np.cumsum(alpha[::-1])[::-1], 0.0) for alpha in _common_weights(objective, sizes)]
    return np.array([row[0] for row in above]), *_bernstein_terms(above)


def _common_weights(objective: str | Objective, sizes: Sizes) -> list[NDArray[np.float64]]:
    """Return, for each size that open levels take, the rank weights at the largest one in the objective."""
    objective = parse(objective)
    if sizes is None and objective.is_open:
        raise ValueError(
            f"a level without @K stands for the population, which needs NumPy arrays; got {objective}: "
            "give a comparison size, @K"
        )
    rows: list[NDArray[np.float64]] = []
    for k in sizes or (1,):
        common = max(objective.largest_size, k if objective.is_open else 1)
        pairs = components(objective, k)
        rows.append(sum((c * subset_weights(alpha, common) for c, alpha in pairs), np.zeros(common)))
    return rows


def _bernstein_terms(rows: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], ...]:
    """Split rows of Bernstein coefficients into their most frequent value and the terms that differ from it.

    Returns:
        The background of each row, the excess of its terms over it, the power of each term, the degree of each row,
        and the logarithms of the binomial coefficients, minus infinity beyond the degree.
    """
    background, degree = np.empty(len(rows)), np.array([len(row) - 1 for row in rows])
    excess = np.zeros((len(rows), int(degree.max()) + 1))
    for i, row in enumerate(rows):
        values, counts = np.unique(row, return_counts=True)
        background[i] = values[np.argmax(counts)]
        excess[i, : len(row)] = row - background[i]
    power = np.flatnonzero(excess.any(axis=0))
    terms = background, excess[:, power], power, degree, log_binomial(degree[:, None], power)
    return tuple(np.asarray(term, np.float64) for term in terms)


def _bernstein(ops: Backend, level: Array, row: Array | None, terms: Sequence[Array]) -> Array:
    """Return the sums of the Bernstein terms at the levels, in slices of bounded memory."""
    xp = ops.xp
    background, excess, power, degree, log_choices = terms
    background, excess, degree, log_choices = (_at(ops, a, row) for a in (background, excess, degree, log_choices))
    u = xp.clip(level, _TINY, 1 - float(xp.finfo(level.dtype).eps) / 2)[..., None]
    log_u, log_v = xp.log(u), xp.log1p(-u)
    total = background[..., None] + 0 * level
    step = max(1, _CHUNK // max(math.prod(level.shape), 1))
    for start in range(0, power.shape[0], step):
        part = slice(start, min(start + step, power.shape[0]))
        rest = degree[..., None, None] - power[part]
        pieces = xp.exp(log_choices[..., None, part] + power[part] * log_u + rest * log_v)
        total = total + ops.total(pieces * excess[..., None, part])
    return total


def _at(ops: Backend, table: Array, row: Array | None) -> Array:
    """Return the rows of a table, shape (..., columns); its only one if `row` is None."""
    if row is None:
        return ops.xp.reshape(table, table.shape[1:])  # Dynamo would take table[0] for a number, and fail
    flat = ops.xp.take(table, ops.xp.reshape(row, (-1,)), axis=0)
    return ops.xp.reshape(flat, (*row.shape, *table.shape[1:]))


def _prepare(rewards: Array, probs: Array, axis: int) -> tuple[Backend, Array, Array]:
    ops = backend_of(rewards)
    r = ops.floating(rewards)
    p = floating_beside("probs", probs, r, ops)
    axis, ndim = whole_axis(axis), max(r.ndim, p.ndim)
    if ndim > 0 and not -ndim <= axis < ndim:
        raise ValueError(f"axis must satisfy {-ndim} <= axis < {ndim}; got axis={axis}")
    back = axis if axis < 0 else axis - ndim
    if min(r.ndim, p.ndim) < -back or r.shape[back] != p.shape[back] or r.shape[back] == 0:
        raise ValueError(
            f"rewards and probs must have the same positive length along axis {axis}; got shapes {tuple(r.shape)} and "
            f"{tuple(p.shape)}"
        )
    if is_finite(ops, r) is False:
        raise ValueError(f"rewards must be finite; got NaN or infinite values (rewards shape {tuple(r.shape)})")
    r, p = ops.xp.broadcast_arrays(r, p) if ops.xp is np else (r + 0 * p, p + 0 * r)
    r, p = ops.moveaxis(r, axis, -1), ops.moveaxis(p, axis, -1)
    if is_finite(ops, p) is not None:
        sums = ops.total(p)
        if not (bool(ops.xp.all(p >= 0)) and bool(ops.xp.all(abs(sums - 1) < 1e-4))):
            raise ValueError(
                f"probs must be nonnegative with sum 1 along axis {axis}; got sums from {float(ops.xp.min(sums))} to "
                f"{float(ops.xp.max(sums))} and a smallest probability of {float(ops.xp.min(p))}"
            )
    return ops, r, p
