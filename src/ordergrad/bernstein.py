r"""Rank weights, sample weights and spectra: float64 mathematics on the host.

The statistic $T = \sum_j \alpha_j R_{(j:K)}$, averaged over all size-K subsets of n rewards, is
$\sum_m w_m R_{(m:n)}$ with

$$w_m(n) = \sum_j \alpha_j \binom{m-1}{j-1} \binom{n-m}{K-j} \Big/ \binom nK .$$

These are also the rank weights of size n with the same spectrum (degree elevation). The recurrences run outward from a
mode and add terms of one sign, so relative errors stay near rounding at any n.

References:
    David and Nagaraja (2003). Order Statistics, 3rd edition, Wiley.
    Walder and Karkhanis (2025). Pass@K Policy Optimization. arXiv 2505.15201 (the k-minus-one baseline for the max).
"""

from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["k_minus_one_weights", "log_binomial", "spectrum_of", "subset_weights", "weights_above"]

Array = NDArray[np.float64]


def subset_weights(alpha: Array, n: int) -> Array:
    """Return w(n) for rank weights of size K <= n."""
    k = len(alpha)
    if k == n:
        return alpha
    if k == n - 1:  # each subset leaves one reward out
        m = np.arange(1, n)
        return (np.append((n - m) * alpha, 0.0) + np.append(0.0, m * alpha)) / n
    starts = np.flatnonzero(np.diff(alpha, prepend=0.0))
    stops = np.append(starts[1:], k)
    passes = min(3 * len(starts), np.count_nonzero(alpha))
    if n > 64 * k and passes * n > 1e5 * k:
        return _interpolated_weights(alpha, n)
    total = np.zeros(n)
    if 3 * len(starts) < np.count_nonzero(alpha):
        for start, stop in zip(starts, stops, strict=True):
            if alpha[start] != 0:
                total += alpha[start] * _range_probabilities(int(start), int(stop), k, n)
    else:
        for j in np.flatnonzero(alpha):
            total += alpha[j] * _rank_probabilities(int(j) + 1, k, n)
    return total


def _rank_probabilities(j: int, k: int, n: int) -> Array:
    r"""Return $\binom{m-1}{j-1} \binom{n-m}{k-j} / \binom nk$ for m = 1..n: where rank j of a k-subset lies."""
    result = np.zeros(n)
    m = np.arange(j, n - k + j, dtype=np.float64)
    ratios = m / (m - j + 1) * ((n - m - (k - j)) / (n - m))
    mode = int(np.searchsorted(-ratios, -1.0))
    weights = np.empty(n - k + 1)
    weights[mode] = 1.0
    weights[mode + 1 :] = _running(np.multiply, ratios[mode:])
    weights[:mode] = _running(np.multiply, 1 / ratios[:mode][::-1])[::-1]
    result[j - 1 : n - k + j] = weights / weights.sum()
    return result


def _range_probabilities(start: int, stop: int, k: int, n: int) -> Array:
    """Return the sum of the rank probabilities over the ranks start+1..stop, by hypergeometric tails."""
    upper_start, lower_start = _tail_probabilities(start, k, n)
    upper_stop, lower_stop = _tail_probabilities(stop, k, n)
    share = np.where(upper_start < 0.5, upper_start - upper_stop, lower_stop - lower_start)
    return k / n * share


def _tail_probabilities(b: int, k: int, n: int) -> tuple[Array, Array]:
    """Return P(at least b), P(fewer than b) members among the m - 1 lower rewards, for a subset that contains m."""
    if b == 0:
        return np.ones(n), np.zeros(n)
    if b == k:
        return np.zeros(n), np.ones(n)
    position = _rank_probabilities(b, k - 1, n - 1)
    at_least, fewer = np.zeros(n), np.zeros(n)
    at_least[1:] = _running(np.add, position)
    fewer[:-1] = _running(np.add, position[::-1])[::-1]
    return at_least, fewer


_NODES = np.cos(np.pi * (np.arange(16) + 0.5) / 16)
_TO_COEFFICIENTS = np.cos(np.arange(16)[:, None] * np.arccos(_NODES)) * np.where(np.arange(16) == 0, 1, 2)[:, None] / 16
_CHECKS = np.array([-0.998, -0.61, 0.07, 0.55, 0.998])


def _interpolated_weights(alpha: Array, n: int) -> Array:
    """Return w(n) for n much larger than K: a polynomial of degree K - 1 in m, piecewise by Chebyshev interpolation.

    A piece is halved until the interpolant agrees with the weights to 1e-13 at five other points, relative to what
    the terms add up to without their signs; the K ranks at each end and pieces below 64 are computed one by one.
    """
    k = len(alpha)
    total = np.empty(n)
    for ends in (np.arange(1, k + 2), np.arange(n - k, n + 1)):
        total[ends - 1] = _weights_at(ends.astype(np.float64), alpha, n)[0]
    edges = np.linspace(k + 2, n - k, max(n >> 15, 16) + 1).astype(np.int64)  # a piece: the ranks first <= m < last
    first, last = edges[:-1], edges[1:]
    while len(first):
        short = last - first < 64
        for a, b in zip(first[short].tolist(), last[short].tolist(), strict=True):
            total[a - 1 : b - 1] = _weights_at(np.arange(a, b, dtype=np.float64), alpha, n)[0]
        first, last = first[~short], last[~short]
        centre, half = (first + last - 1) / 2, (last - 1 - first) / 2
        values, _ = _weights_at((centre[:, None] + half[:, None] * _NODES).ravel(), alpha, n)
        coefficients: Array = np.einsum("pi,ci->pc", values.reshape(-1, 16), _TO_COEFFICIENTS)
        exact, scale = _weights_at((centre[:, None] + half[:, None] * _CHECKS).ravel(), alpha, n)
        got = np.asarray(np.polynomial.chebyshev.chebval(_CHECKS, coefficients.T), dtype=np.float64)
        good = (np.abs(got.ravel() - exact) <= 1e-13 * scale).reshape(-1, 5).all(axis=1)
        for i in np.flatnonzero(good).tolist():
            place = (cast("Array", np.arange(first[i], last[i])) - centre[i]) / half[i]
            total[first[i] - 1 : last[i] - 1] = np.polynomial.chebyshev.chebval(place, coefficients[i])
        first, last = first[~good], last[~good]
        middle = (first + last) // 2
        first, last = np.concatenate([first, middle]), np.concatenate([middle, last])
    return total


def _weights_at(m: Array, alpha: Array, n: int, block: int = 1 << 20) -> tuple[Array, Array]:
    r"""Return $w_m(n)$ at some m, real but for the K at each end, and the same with the absolute terms.

    The probabilities $p_j \propto \binom{m-1}{j-1} \binom{n-m}{K-j}$ run outward from the mode and are divided by
    their sum, so no binomial coefficient is needed.
    """
    k = len(alpha)
    rows = max(block // k, 1)
    result = np.empty((2, len(m)))
    j = np.arange(1, k, dtype=np.float64)
    for at in range(0, len(m), rows):
        here = m[at : at + rows, None]
        with np.errstate(divide="ignore"):
            ratios = np.maximum(here - j, 0) / j * ((k - j) / np.maximum(n - here - k + j + 1, 0))
            rising = ratios >= 1
            above = np.cumprod(np.where(rising, 1, ratios), axis=1)
            below = np.cumprod(np.where(rising, 1 / ratios, 1)[:, ::-1], axis=1)[:, ::-1]
        p = np.ones((len(here), k))
        p[:, 1:] = above
        p[:, :-1] *= below
        result[:, at : at + rows] = np.einsum("aj,mj->am", np.stack([alpha, np.abs(alpha)]), p) / p.sum(axis=1)
    return k / n * result[0], k / n * result[1]


def _running(operation: np.ufunc, values: Array, block: int = 1024) -> Array:
    """Return the running product or sum in blocks, so that rounding errors grow with block + n/block, not with n."""
    n = len(values)
    if n <= block:
        return operation.accumulate(values)
    identity = float(operation.identity)  # type: ignore[arg-type]
    padded = np.full(-(-n // block) * block, identity)
    padded[:n] = values
    rows = operation.accumulate(padded.reshape(-1, block), axis=1)
    rows[1:] = operation(rows[1:], operation.accumulate(rows[:-1, -1])[:, None])
    return rows.ravel()[:n]


def k_minus_one_weights(alpha: Array) -> Array:
    r"""Return $\alpha'_m = ((K-m) \alpha_m + m \alpha_{m+1})/(K-1)$, the statistic of the k-minus-one baseline."""
    k = len(alpha)
    m = np.arange(1, k)
    return ((k - m) * alpha[:-1] + m * alpha[1:]) / (k - 1)


def weights_above(weights: Array) -> Array:
    """Return the sums of the weights above each gap: shape (n-1, ...)."""
    return np.cumsum(weights[::-1], axis=0)[::-1][1:]


def spectrum_of(alpha: Array, u: Array) -> Array:
    r"""Return $\sum_j \alpha_j b_{j,K}(u)$, the Bernstein polynomial that rank weights amount to.

    Args:
        alpha: Rank weights, shape (K,), or columns of them, (K, columns).
        u: Levels in [0, 1], any shape.

    Returns:
        An array of the shape of `u`, followed by the columns.
    """
    from scipy.special import xlog1py, xlogy

    k, flat, columns = len(alpha), u.reshape(-1, 1), alpha.reshape(len(alpha), -1)
    j = np.flatnonzero(columns.any(axis=1))
    log_choices = log_binomial(k - 1, j)
    parts = np.array_split(flat, -(-len(j) * len(flat) // (1 << 22)) or 1)  # of bounded memory
    densities = (np.exp(log_choices + xlogy(j, part) + xlog1py(k - 1 - j, -part)) for part in parts)
    found = [np.einsum("uj,jc->uc", density, columns[j]) for density in densities]  # without BLAS, as everywhere here
    return (k * np.concatenate(found)).reshape((*u.shape, *alpha.shape[1:]))


def log_binomial(n: ArrayLike, r: ArrayLike) -> Array:
    """Return the logarithm of n choose r, whole numbers; minus infinity for r > n."""
    from scipy.special import gammaln

    n, r = np.asarray(n), np.asarray(r)
    log = gammaln(n + 1) - gammaln(r + 1) - gammaln(np.maximum(n - r, 0) + 1)
    return np.where(r <= n, np.asarray(log, dtype=np.float64), -np.inf)
