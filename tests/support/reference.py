"""The definitions of DESIGN section 1, word for word: slow, exact fractions, nothing shared with the package."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, product
from math import comb

Numbers = Sequence[Fraction]


def fractions(values) -> list[Fraction]:
    """Return the exact values of numbers (floats are binary fractions)."""
    return [Fraction(v) for v in values]


def statistic(alpha: Numbers, rewards: Numbers) -> Fraction:
    """T(S) = sum_j alpha_j R_(j:K)."""
    return sum((a * r for a, r in zip(alpha, sorted(rewards), strict=True)), Fraction(0))


def average(values: Numbers) -> Fraction:
    return sum(values, Fraction(0)) / len(values)


def value(alpha: Numbers, rewards: Numbers) -> Fraction:
    """The average of T over all subsets of size K."""
    return average([statistic(alpha, subset) for subset in combinations(rewards, len(alpha))])


def include_one(alpha: Numbers, rewards: Numbers) -> list[Fraction]:
    """For every i the average of T over the subsets of size K that contain i."""
    n, k = len(rewards), len(alpha)
    return [
        average([statistic(alpha, [rewards[j] for j in s]) for s in combinations(range(n), k) if i in s])
        for i in range(n)
    ]


def leave_one_out(alpha: Numbers, rewards: Numbers) -> list[Fraction]:
    """For every i the average of T over the subsets of size K that do not contain i."""
    return [value(alpha, [*rewards[:i], *rewards[i + 1 :]]) for i in range(len(rewards))]


def adjoint(alpha: Numbers) -> list[Fraction]:
    """The rank weights of size K - 1 of the second baseline."""
    k = len(alpha)
    return [((k - m) * alpha[m - 1] + m * alpha[m]) / Fraction(k - 1) for m in range(1, k)]


def elevate(alpha: Numbers) -> list[Fraction]:
    """The same objective with one more reward compared."""
    k = len(alpha)
    padded = [Fraction(0), *alpha, Fraction(0)]
    return [((k + 1 - j) * padded[j] + (j - 1) * padded[j - 1]) / Fraction(k + 1) for j in range(1, k + 2)]


def advantages(alpha: Numbers, rewards: Numbers, baseline: str) -> list[Fraction]:
    """K times (include-one average minus baseline)."""
    if baseline == "k_minus_one" and len(alpha) == 1:
        alpha = elevate(alpha)  # K = 1 has no smaller statistic; the same objective with K = 2 has one
    with_i = include_one(alpha, rewards)
    match baseline:
        case "leave_one_out":
            without_i = leave_one_out(alpha, rewards)
        case "k_minus_one":
            without_i = leave_one_out(adjoint(alpha), rewards)
        case "none":
            without_i = [Fraction(0)] * len(rewards)
    return [len(alpha) * (q - b) for q, b in zip(with_i, without_i, strict=True)]


def sample_weights(alpha: Numbers, n: int) -> list[Fraction]:
    """w_m(n) = sum_j alpha_j C(m-1, j-1) C(n-m, K-j) / C(n, K), m = 1..n."""
    return [sample_weight(alpha, m, n) for m in range(1, n + 1)]


def sample_weight(alpha: Numbers, m: int, n: int) -> Fraction:
    k = len(alpha)
    counts = (a * comb(m - 1, j - 1) * comb(n - m, k - j) for j, a in enumerate(alpha, 1) if a)
    return sum(counts, Fraction(0)) / comb(n, k)


def exact_value(alpha: Numbers, rewards: Numbers, probs: Numbers) -> Fraction:
    """E[T] over every one of the m^K sequences of draws."""
    total = Fraction(0)
    for draws in product(range(len(rewards)), repeat=len(alpha)):
        probability = Fraction(1)
        for i in draws:
            probability *= probs[i]
        total += probability * statistic(alpha, [rewards[i] for i in draws])
    return total


def exact_advantages(alpha: Numbers, rewards: Numbers, probs: Numbers) -> list[Fraction]:
    """K (E[T | first draw is i] - E[T]): the score-function gradient of E[T], one outcome at a time."""
    k, mean = len(alpha), exact_value(alpha, rewards, probs)
    conditional = [Fraction(0)] * len(rewards)
    for i in range(len(rewards)):
        for draws in product(range(len(rewards)), repeat=k - 1):
            probability = Fraction(1)
            for d in draws:
                probability *= probs[d]
            conditional[i] += probability * statistic(alpha, [rewards[i], *(rewards[d] for d in draws)])
    return [k * (c - mean) for c in conditional]
