r"""Known rewards and probabilities: values and advantages without any sampling error.

Outcomes with rewards r and probabilities p, K independent draws. With the outcomes sorted by reward, $F_t$ the
probability of the t lowest, gaps $g_t = r_{(t+1)} - r_{(t)}$, spectrum φ and $\Phi = \int \varphi$,

$$J = \Phi(1) \, r_{(1)} + \sum_t (\Phi(1) - \Phi(F_t)) \, g_t, \qquad
  A_{(t+1)} - A_{(t)} = \varphi(F_t) \, g_t, \qquad \sum_i p_i A_i = 0 .$$

The derivative of J with respect to the logits of a softmax policy is $p_i A_i$. Here, where there is no group, a level
objective without @K is its population functional: ``cvar:0.05`` is the CVaR of the distribution.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
    Acerbi (2002). Spectral measures of risk. Journal of Banking and Finance 26(7).
"""

import math

import numpy as np
from numpy.typing import NDArray

from ordergrad.backend import Array, Backend, backend_of
from ordergrad.objectives import Elementary, Objective, combine, every_rank
from ordergrad.spec import parse
from ordergrad.weights import components, subset_weights

__all__ = ["advantages", "advantages_under", "order_statistics", "value", "value_under"]

_CHUNK = 1 << 22


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
    return ops.cast(value_under(ops, r, p, objective, None), rewards)


def advantages(rewards: Array, probs: Array, objective: str | Objective, *, axis: int = -1) -> Array:
    r"""Return the exact advantages A of the outcomes: $p_i A_i$ is the derivative of J by the i-th logit.

    $A_{(t+1)} - A_{(t)} = \varphi(F_t) g_t$ with $\sum_i p_i A_i = 0$. The expected policy-gradient step with these
    advantages is exactly the gradient of J. Detached.

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
    a = advantages_under(ops, ops.detach(r), ops.detach(p), objective, None)
    return ops.cast(ops.moveaxis(a, -1, axis), rewards)


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
    ranks = [value(rewards, probs, rank, axis=axis) for rank in every_rank(k)]
    return backend_of(rewards).xp.stack(ranks, axis=-1)


def value_under(ops: Backend, rewards: Array, probs: Array, objective: str | Objective, k: int | None) -> Array:
    """Return J over the last axis; open levels take the comparison size `k`, None for the population."""
    ordered, order = ops.sort_with_order(rewards)
    level = ops.cumulate(ops.take(probs, order))[..., 1:-1]
    mass, above = _upper_mass(ops, objective, k, level)
    return mass * ordered[..., 0] + ops.total(above * ops.gaps(ordered))


def advantages_under(ops: Backend, rewards: Array, probs: Array, objective: str | Objective, k: int | None) -> Array:
    """Return the advantages over the last axis; open levels take the comparison size `k`, None for the population."""
    ordered, order = ops.sort_with_order(rewards)
    weights = ops.take(probs, order)
    level = ops.cumulate(weights)[..., 1:-1]
    a = ops.cumulate(_density(ops, objective, k, level) * ops.gaps(ordered))
    return ops.unsort(a - ops.total(weights * a)[..., None], order)


def _density(ops: Backend, objective: str | Objective, k: int | None, level: Array) -> Array:
    """Return φ at the levels."""
    open_terms, sized, k = _split(ops, objective, k)
    background, *terms = ops.constants(_density_terms, level, sized, k)
    return sum((c * part.density(level) for c, part in open_terms), background + _bernstein(ops, level, *terms))


def _upper_mass(ops: Backend, objective: str | Objective, k: int | None, level: Array) -> tuple[Array, Array]:
    """Return Φ(1), and Φ(1) - Φ at the levels."""
    open_terms, sized, k = _split(ops, objective, k)
    mass, background, *terms = ops.constants(_mass_terms, level, sized, k)
    above = background + _bernstein(ops, level, *terms)
    for c, part in open_terms:
        full = c * part.cumulative(np.ones(()))
        mass, above = mass + full, above + (full - c * part.cumulative(level))
    return mass, above


def _split(
    ops: Backend, objective: str | Objective, k: int | None
) -> tuple[list[tuple[float, Elementary]], str | Objective, int | None]:
    """Return the terms that stand for the population, the rest of the objective, and the size that open levels take."""
    if k is not None or ops.xp is not np:
        return [], objective, k
    terms = parse(objective).terms()
    open_terms = [(c, part) for c, part in terms if part.comparison_size is None]
    return open_terms, combine(*((c, part) for c, part in terms if part.comparison_size is not None)), 1


def _density_terms(objective: str | Objective, k: int | None) -> tuple[NDArray[np.float64], ...]:
    """Return background, coefficients, powers, degree and log binomials of the Bernstein polynomial φ."""
    alpha = _common_weights(objective, k)
    return _bernstein_terms(len(alpha) * alpha)


def _mass_terms(objective: str | Objective, k: int | None) -> tuple[NDArray[np.float64], ...]:
    """Return Φ(1), then background, coefficients, powers, degree and log binomials of Φ(1) - Φ."""
    alpha = _common_weights(objective, k)
    above = np.append(np.cumsum(alpha[::-1])[::-1], 0.0)
    return np.asarray(above[0]), *_bernstein_terms(above)


def _common_weights(objective: str | Objective, k: int | None) -> NDArray[np.float64]:
    """Return the rank weights at the largest comparison size in the objective, `k` for open levels."""
    objective = parse(objective)
    parts = [part for _, part in objective.terms()]
    if k is None and any(part.comparison_size is None for part in parts):
        raise ValueError(
            f"a level without @K stands for the population, which needs NumPy arrays; got {objective}: "
            "give a comparison size, @K"
        )
    sizes = [math.ceil((k or 1) if part.comparison_size is None else part.comparison_size) for part in parts]
    pairs = components(objective, k or 1)
    return sum((c * subset_weights(alpha, max(sizes)) for c, alpha in pairs), np.zeros(max(sizes, default=1)))


def _bernstein_terms(coefficients: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Split Bernstein coefficients into their most frequent value and the terms that differ from it."""
    values, counts = np.unique(coefficients, return_counts=True)
    background = values[np.argmax(counts)]
    power = np.flatnonzero(coefficients != background)
    degree = len(coefficients) - 1
    from scipy.special import gammaln

    log_binomial = gammaln(degree + 1) - gammaln(power + 1) - gammaln(degree - power + 1)
    return tuple(map(np.asarray, (background, coefficients[power] - background, power, degree, log_binomial)))


def _bernstein(
    ops: Backend, level: Array, coefficients: Array, power: Array, degree: Array, log_binomial: Array
) -> Array:
    """Return the sum of the Bernstein terms at the levels, in slices of bounded memory."""
    xp, tiny = ops.xp, 1e-30
    u = xp.clip(level, tiny, 1 - float(xp.finfo(level.dtype).eps) / 2)[..., None]
    log_u, log_v = xp.log(u), xp.log1p(-u)
    total = 0 * level
    step = max(1, _CHUNK // max(math.prod(level.shape), 1))
    for start in range(0, coefficients.shape[0], step):
        part = slice(start, min(start + step, coefficients.shape[0]))
        terms = xp.exp(log_binomial[part] + power[part] * log_u + (degree - power[part]) * log_v)
        total = total + ops.total(terms * coefficients[part])
    return total


def _prepare(rewards: Array, probs: Array, axis: int) -> tuple[Backend, Array, Array]:
    ops = backend_of(rewards)
    r = ops.floating(rewards)
    p = ops.floating(ops.asarray(probs, r))
    back = axis if axis < 0 else axis - max(r.ndim, p.ndim)
    if min(r.ndim, p.ndim) < -back or r.shape[back] != p.shape[back] or r.shape[back] == 0:
        raise ValueError(
            f"rewards and probs must have the same positive length along axis {axis}; got shapes {tuple(r.shape)} and "
            f"{tuple(p.shape)}"
        )
    if ops.is_finite(r) is False:
        raise ValueError(f"rewards must be finite; got NaN or infinite values (rewards shape {tuple(r.shape)})")
    r, p = ops.xp.broadcast_arrays(r, p) if ops.xp is np else (r + 0 * p, p + 0 * r)
    r, p = ops.moveaxis(r, axis, -1), ops.moveaxis(p, axis, -1)
    if ops.is_finite(p) is not None:
        sums = ops.total(p)
        if not (bool(ops.xp.all(p >= 0)) and bool(ops.xp.all(abs(sums - 1) < 1e-4))):
            raise ValueError(f"probs must be nonnegative with sum 1 along axis {axis}; got sums {sums}")
    return ops, r, p
