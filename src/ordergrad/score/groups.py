r"""The value of every objective in a group of rewards, and statistics of its advantages.

For the rewards of a group and the advantages A of an objective (`ordergrad.advantages`),

* the value is the unbiased estimate of `ordergrad.value`;
* the group has *no signal* if every advantage is zero: a policy-gradient step would not see it;
* the *effective number* of samples that carry the gradient is $(\sum_i |A_i|)^2 / \sum_i A_i^2$: N if all advantages
  have one size, 2 if a single pair of samples carries everything.

``grpo`` stands for GRPO's advantages, $(R_i - \bar R) / (s + 10^{-4})$ with s the standard deviation of the group
(ddof 1), as in TRL.

The same function serves `ordergrad score`, which gives it many groups at a time, and ``map_groups`` of Ray Data.

References:
    Shao et al. (2024). DeepSeekMath. arXiv 2402.03300. (GRPO)
    Kish (1965). Survey Sampling, Wiley. (the effective number)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import advantages, value
from ordergrad.objectives import Objective
from ordergrad.runs.statistics import powers_of_two
from ordergrad.spec import parse
from ordergrad.weights import Baseline, Quantity, Scan, scan, smallest_group

Array = NDArray[Any]
_GRPO_EPSILON = 1e-4
_CELLS, _CACHED, _LARGEST_K = 1 << 22, 4096, 1024


@dataclass(frozen=True)
class GroupScores:
    """The numbers of G groups, O objectives and C comparison sizes; NaN where a group is too small.

    Attributes:
        sizes: Number of samples, shape (G,).
        values: The value of each objective, (G, O).
        sums: Σ|A| under each objective and under GRPO, (G, O + 1).
        squares: ΣA² likewise.
        best: max@k for k = 1, 2, 4, ..., (G, C).
        passed: pass@k, (G, C).
        reliable: pass^k, the chance that all of k tries pass, (G, C).
    """

    sizes: Array
    values: Array
    sums: Array
    squares: Array
    best: Array
    passed: Array
    reliable: Array


def powers(largest: int) -> list[int]:
    """Return 1, 2, 4, ... up to the largest group's size, and to 1024.

    Example:
        >>> powers(12)
        [1, 2, 4, 8]
    """
    return powers_of_two(min(max(largest, 1), _LARGEST_K))


def score_groups(
    rewards: Array,
    sizes: Array,
    objectives: Sequence[str | Objective],
    *,
    success: float = 1.0,
    weights: Array | None = None,
    ks: Sequence[int] | None = None,
) -> GroupScores:
    """Return the scores of every group under every objective.

    Args:
        rewards: The rewards of all groups, group after group, shape (M,).
        sizes: The size of each group, of sum M.
        objectives: Objectives or their strings. Levels without @K take K = N of each group for values and N - 1 for
            advantages.
        success: A reward of at least this much counts as a success in pass@k.
        weights: Importance weights of the samples, shape (M,).
        ks: The comparison sizes of max@k and pass@k; default `powers` of the largest group's size.

    Example:
        >>> scores = score_groups(np.array([0.0, 1.0, 1.0, 1.0]), np.array([2, 2]), ["mean"])
        >>> scores.values[:, 0], scores.sums[:, 0], scores.passed[:, 1]
        (array([0.5, 1. ]), array([2., 0.]), array([1., 1.]))
    """
    parsed = tuple(map(parse, objectives))
    counts = tuple(powers(int(sizes.max(initial=1))) if ks is None else ks)
    g, o, c = len(sizes), len(parsed), len(counts)
    scores = GroupScores(sizes, *(np.full((g, width), np.nan) for width in (o, o + 1, o + 1, c, c, c)))
    for members, rows in by_size(sizes):
        x = rewards[rows]
        if weights is None:
            _score_sorted(np.sort(x, axis=1), parsed, counts, success, scores, members)
        else:
            _score_weighted(x, weights[rows], parsed, counts, success, scores, members)
    return scores


def by_size(sizes: Array) -> Iterator[tuple[Array, Array]]:
    """Yield, for groups of one size n > 0 at a time, which they are and where their samples are, shape (groups, n).

    Example:
        >>> [(members.tolist(), rows.tolist()) for members, rows in by_size(np.array([1, 2, 1]))]
        [([0, 2], [[0], [3]]), ([1], [[1, 2]])]
    """
    starts = np.cumsum(sizes) - sizes
    for n in np.unique(sizes[sizes > 0]).tolist():
        members = np.flatnonzero(sizes == n)
        step = max(1, _CELLS // n)
        for first in range(0, len(members), step):
            some = members[first : first + step]
            yield some, starts[some, None] + np.arange(n)


def advantages_of(
    rewards: Array,
    sizes: Array,
    objectives: Sequence[str | Objective],
    *,
    weights: Array | None = None,
    baseline: Baseline = "leave_one_out",
) -> Array:
    """Return the advantages of all samples under every objective, NaN in groups that are too small: shape (M, O).

    The arguments are as for `score_groups`, the baseline as for `ordergrad.advantages`.

    Example:
        >>> advantages_of(np.array([0.0, 2.0, 5.0]), np.array([2, 1]), ["mean"])
        array([[-2.], [ 2.], [nan]])
    """
    table = np.full((len(rewards), len(objectives)), np.nan)
    for _, rows in by_size(sizes):
        for column, objective in enumerate(map(parse, objectives)):
            if rows.shape[1] >= smallest_group(objective, baseline):
                weight = None if weights is None else weights[rows]
                table[rows, column] = advantages(rewards[rows], objective, sample_weight=weight, baseline=baseline)
    return table


def outcome_entropy(rewards: Array, sizes: Array) -> Array:
    r"""Return the entropy of the rewards in each group in bits, $-\sum_v p_v \log_2 p_v$ over its distinct rewards.

    Example:
        >>> outcome_entropy(np.array([0.0, 1.0, 1.0, 1.0]), np.array([2, 2]))
        array([1., 0.])
    """
    entropy = np.full(len(sizes), np.nan)
    for members, rows in by_size(sizes):
        n = rows.shape[1]
        ordered = np.sort(rewards[rows], axis=1)
        begins = np.concatenate([np.ones((len(rows), 1), bool), np.diff(ordered, axis=1) > 0], axis=1)
        at = np.flatnonzero(begins)
        share = np.diff(np.append(at, begins.size)) / n
        entropy[members] = np.bincount(at // n, -share * np.log2(share), len(rows)) + 0.0
    return entropy


def _weights(objective: Objective, quantity: Quantity, n: int) -> Scan:
    """Return the weights of a quantity, kept for groups of moderate size."""
    return (_kept_scan if n <= _CACHED else scan)(objective, n, quantity)


_kept_scan = lru_cache(maxsize=4096)(scan)


def _score_sorted(
    ordered: Array, objectives: tuple[Objective, ...], ks: tuple[int, ...], success: float, out: GroupScores, at: Array
) -> None:
    """Fill in the scores of groups of one size whose rewards are sorted."""
    n = ordered.shape[1]
    gaps, lowest = np.diff(ordered, axis=1), ordered[:, 0]
    for column, objective in enumerate(objectives):
        if n >= smallest_group(objective, "value"):
            weights = _weights(objective, "value", n)
            out.values[at, column] = weights.total * lowest + np.einsum("gm,m->g", gaps, weights.offset)
        if n >= smallest_group(objective, "leave_one_out"):
            _add_signal(_climb(_weights(objective, "leave_one_out", n).slopes * gaps), column, out, at)
    passes = np.count_nonzero(ordered >= success, axis=1)
    for column, k in enumerate(ks):
        if k <= n:
            upper = _weights(parse(f"max@{k}"), "value", n).offset
            out.best[at, column] = lowest + np.einsum("gm,m->g", gaps, upper)
            one = np.concatenate([[0.0], upper[::-1], [1.0]])
            out.passed[at, column], out.reliable[at, column] = one[passes], 1 - one[n - passes]
    if n > 1:
        centred = ordered - ordered.mean(axis=1, keepdims=True)
        centred[gaps.max(axis=1) == 0] = 0
        spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / (n - 1))
        _add_signal(centred / (spread + _GRPO_EPSILON), len(objectives), out, at)


def _climb(steps: Array) -> Array:
    """Return centred running sums that start at a common level."""
    a = np.zeros((len(steps), steps.shape[1] + 1))
    np.cumsum(steps, axis=1, out=a[:, 1:])
    a -= a.mean(axis=1, keepdims=True)
    return a


def _add_signal(a: Array, column: int, out: GroupScores, at: Array) -> None:
    out.sums[at, column] = np.abs(a).sum(axis=1)
    out.squares[at, column] = np.einsum("gi,gi->g", a, a)


def _score_weighted(
    x: Array,
    weights: Array,
    objectives: tuple[Objective, ...],
    ks: tuple[int, ...],
    success: float,
    out: GroupScores,
    at: Array,
) -> None:
    """Fill in the scores of groups of one size with importance weights; those of weight zero stay NaN."""
    some = weights.sum(axis=1) > 0
    x, weights, at, n = x[some], weights[some], at[some], x.shape[1]
    share = n * weights / weights.sum(axis=1, keepdims=True)
    for column, objective in enumerate(objectives):
        if n >= smallest_group(objective, "value"):
            out.values[at, column] = value(x, objective, sample_weight=weights)
        if n >= smallest_group(objective, "leave_one_out"):
            _add_signal(share * advantages(x, objective, sample_weight=weights), column, out, at)
    if n > 1:
        mean = (share * x).mean(axis=1, keepdims=True)
        spread = np.sqrt((share * (x - mean) ** 2).sum(axis=1, keepdims=True) / (n - 1))
        centred = np.where(np.ptp(x, axis=1, keepdims=True) > 0, x - mean, 0)
        _add_signal(share * centred / (spread + _GRPO_EPSILON), len(objectives), out, at)
    for column, k in enumerate(ks):
        if k <= n:
            out.best[at, column] = value(x, f"max@{k}", sample_weight=weights)
            passes = (x >= success).astype(float)
            out.passed[at, column] = value(passes, f"max@{k}", sample_weight=weights)
            out.reliable[at, column] = value(passes, f"min@{k}", sample_weight=weights)
