"""Time to make the sample weights of an objective from scratch, against a plain O(n K) table of log-binomials."""

from typing import Any

import numpy as np
import pytest
from scipy.special import gammaln

from ordergrad.bernstein import subset_weights
from ordergrad.objectives import Objective
from ordergrad.spec import parse

CASES = [
    ("cvar:0.1@256", 4096),
    ("wang:1@256", 4096),
    ("max@8", 64),
    ("cvar:0.05@1000", 1_000_000),
]


def fresh(objective: Objective, n: int) -> np.ndarray:
    (_, part), *_ = objective.terms()
    return subset_weights(part.rank_weights(int(part.comparison_size or n)), n)


def log_binomial_table(objective: Objective, n: int) -> np.ndarray:
    (_, part), *_ = objective.terms()
    alpha = part.rank_weights(int(part.comparison_size or n))
    k = len(alpha)
    m, j = np.arange(1, n + 1)[:, None], np.arange(1, k + 1)

    def log_choose(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.where((b >= 0) & (b <= a), gammaln(a + 1) - gammaln(b + 1) - gammaln(a - b + 1), -np.inf)

    return np.exp(log_choose(m - 1, j - 1) + log_choose(n - m, k - j) - log_choose(np.array(n), np.array(k))) @ alpha


@pytest.mark.parametrize(
    ("text", "n", "side"),
    [
        (text, n, side) for text, n in CASES for side in ("table", "ours") if side == "ours" or n <= 4096
    ],  # O(n K) memory
)
def test_sample_weights(benchmark: Any, text: str, n: int, side: str) -> None:
    objective = parse(text)
    benchmark.group = f"sample weights, {text}, n={n}"
    benchmark.name = side
    weights = benchmark(fresh if side == "ours" else log_binomial_table, objective, n)
    assert weights.sum() == pytest.approx(1.0, abs=1e-8)
