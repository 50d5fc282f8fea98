"""The advantages that others compute, for the maximum of K where they are of that kind; all take (groups, N) rewards.

Those of Walder and Karkhanis, of MaxPO and of the direct implementation are the same numbers as ours, which
`test_speed.py` checks before it measures; GRPO, RLOO and verl's pass@k estimator are other objectives.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import cache
from math import comb

import numpy as np
import torch

K = 4


def grpo(rewards: torch.Tensor) -> torch.Tensor:
    """Shao et al. (2024): the mean subtracted, divided by the standard deviation."""
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)


def rloo(rewards: torch.Tensor) -> torch.Tensor:
    """Kool et al. (2019): the mean of the others subtracted."""
    n = rewards.shape[-1]
    return rewards - (rewards.sum(-1, keepdim=True) - rewards) / (n - 1)


def grpo_passk(rewards: torch.Tensor, ids: np.ndarray) -> torch.Tensor:
    """Chen et al. (2025) the way verl computes it: by prompt id, the best sample gets its lead over the second best.

    A loop over samples collects the groups, another over groups writes the advantages, divided by the deviation.
    """
    advantages = torch.zeros_like(rewards)
    groups: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(ids):
        groups[prompt].append(i)
    for members in groups.values():
        own = torch.stack([rewards[i] for i in members])
        best, where = torch.topk(own, 2)
        advantages[members[int(where[0])]] = (best[0] - best[1]) / (own.std() + 1e-6)
    return advantages


@cache
def binomials(n: int, k: int, dtype: type = np.float32) -> np.ndarray:
    """C(0, k), ..., C(n-1, k)."""
    return np.array([comb(m, k) for m in range(n)], np.float64).astype(dtype)


def pkpo(rewards: np.ndarray) -> np.ndarray:
    """Walder and Karkhanis (2025), O(N log N): include-one averages minus leave-one-out ones, by prefix sums."""
    n = rewards.shape[-1]
    order = np.argsort(rewards, axis=-1)
    r = np.take_along_axis(rewards, order, axis=-1)
    with_later = np.zeros_like(r)
    with_later[..., 1:] = binomials(n - 1, K - 2) * r[..., 1:]  # j is the largest of a subset that holds an earlier i
    after = np.cumsum(with_later[..., ::-1], axis=-1)[..., ::-1] - with_later
    include = (binomials(n, K - 1) * r + after) / comb(n - 1, K - 1)
    largest = binomials(n, K - 1) * r
    before = np.cumsum(largest, axis=-1) - largest
    shifted = np.zeros_like(r)
    shifted[..., 1:] = binomials(n - 1, K - 1) * r[..., 1:]
    later = np.cumsum(shifted[..., ::-1], axis=-1)[..., ::-1] - shifted
    advantages = np.empty_like(r)
    np.put_along_axis(advantages, order, K * (include - (before + later) / comb(n - 1, K)), axis=-1)
    return advantages


def maxpo(rewards: np.ndarray) -> np.ndarray:
    """Takashiro et al. (2026), O(N²): for every pair, subsets with i and not j against those with j and not i."""
    n = rewards.shape[-1]
    order = np.argsort(rewards, axis=-1)
    r = np.take_along_axis(rewards, order, axis=-1)
    own, own_shifted = binomials(n, K - 1), np.append(np.float32(0), binomials(n - 1, K - 1))
    weight = np.append(np.float32(0), binomials(n - 1, K - 2))  # of a later one that is the largest
    weight_shifted = np.append(np.zeros(2, np.float32), binomials(n - 2, K - 2))
    from_here = np.cumsum((weight * r)[..., ::-1], axis=-1)[..., ::-1]
    after = from_here - weight * r
    shifted = weight_shifted * r
    after_shifted = np.cumsum(shifted[..., ::-1], axis=-1)[..., ::-1] - shifted
    lower = (own_shifted * r + after_shifted)[..., :, None]  # j < i: all that is above j moves down a rank
    upper = (own * r + after)[..., :, None] - from_here[..., None, :] + after_shifted[..., None, :]
    pairs = np.where(np.arange(n)[:, None] > np.arange(n), lower, upper) / comb(n - 2, K - 1)
    difference = pairs - np.swapaxes(pairs, -1, -2)
    np.einsum("...ii->...i", difference)[...] = 0
    advantages = np.empty_like(r)
    np.put_along_axis(advantages, order, K / (n - 1) * difference.sum(-1), axis=-1)
    return advantages


@cache
def weight_matrix(n: int) -> torch.Tensor:
    """The N x K weights of the K order statistics of a subset."""
    rows = [[comb(m, j) * comb(n - 1 - m, K - 1 - j) / comb(n, K) for j in range(K)] for m in range(n)]
    return torch.tensor(rows, dtype=torch.float32)


def direct(rewards: torch.Tensor) -> torch.Tensor:
    """One group: its K expected order statistics, and those without each sample, by the weight matrices."""
    n = len(rewards)
    alpha = torch.nn.functional.one_hot(torch.tensor(K - 1), K).float()
    ordered, order = rewards.sort()
    others = torch.arange(n - 1) + (torch.arange(n - 1) >= torch.arange(n)[:, None]).long()
    value = ordered @ weight_matrix(n) @ alpha
    without = ordered[others] @ weight_matrix(n - 1) @ alpha
    return torch.zeros_like(rewards).scatter(0, order, n * (value - without))


def direct_loop(rewards: torch.Tensor) -> torch.Tensor:
    return torch.stack([direct(group) for group in rewards])


direct_vmap: Callable[[torch.Tensor], torch.Tensor] = torch.vmap(direct)
