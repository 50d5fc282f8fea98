"""The presets of the authors' reference code as its README describes them, and what docs/migration.md says of them."""

import re
from itertools import combinations
from math import ceil, comb
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import beta

import ordergrad as og

PAGE = Path(__file__).parents[2] / "docs/migration.md"
X = np.array([0.3, -1.0, 2.0, 0.7, 1.1, -0.2, 0.3, 4.0, -3.0])


def top_first(preset: str, k: int) -> np.ndarray:
    """Return the weights of a preset, the best rank first, from its description in the README of the reference code."""
    name, _, number = preset.partition(":")
    m = int(number) if number.isdigit() else 0
    q = float(number or 0)
    j = np.arange(1, k + 1)  # 1 is the best
    tail = ceil(q * k - 1e-9)
    match name:
        case "ReMax":
            return 1.0 * (j == 1)
        case "ReMin":
            return 1.0 * (j == k)
        case "TopM":
            return (j <= m) / m
        case "BotM":
            return (j > k - m) / m
        case "Rank":
            return 1.0 * (j == m)
        case "TopBot" | "MidrangeM":
            return ((j <= m) / m + (j > k - m) / m) / 2
        case "Median":
            return (abs(j - (k + 1) / 2) < 0.75) / (1 + (k % 2 == 0))
        case "TrimM":
            return ((j > m) & (j <= k - m)) / (k - 2 * m)
        case "WinsorizedM":
            return ((j > m) & (j <= k - m)) / k + m / k * ((j == m + 1) | (j == k - m))
        case "UpperTailMean":
            return (j <= tail) / tail
        case "LowerTailMean":
            return (j > k - tail) / tail
        case "Quantile":  # rank j lies at (j - 1/2) / k from the top; linear between neighbours
            return np.array([np.interp(q, (j - 0.5) / k, 1.0 * (j == i)) for i in j])
        case "HarrellDavis":
            law = beta((k + 1) * q, (k + 1) * (1 - q))
            return law.cdf(j / k) - law.cdf((j - 1) / k)
    raise AssertionError(preset)


PRESETS = [
    ("ReMax", "max@{k}"),
    ("ReMin", "min@{k}"),
    ("TopM:2", "top:2@{k}"),
    ("BotM:3", "bottom:3@{k}"),
    ("Rank:2", "rank:2@{k}"),
    ("TopBot:2", "topbottom:2@{k}"),
    ("MidrangeM:1", "topbottom:1@{k}"),
    ("Median", "median@{k}"),
    ("TrimM:1", "trimmed:{1/k}@{k}"),
    ("WinsorizedM:1", "winsorized:{1/k}@{k}"),
    ("LowerTailMean:0.3", "bottom:{ceil(0.3*k)}@{k}"),
    ("UpperTailMean:0.3", "top:{ceil(0.3*k)}@{k}"),
    ("Quantile:0.3", "quantile:0.7@{k}"),
    ("HarrellDavis:0.3", "quantile:0.7:harrelldavis@{k}"),
]


def at(form: str, k: int) -> str:
    return re.sub(r"\{(.*?)\}", lambda match: str(eval(match[1], {"k": k, "ceil": ceil})), form)


@pytest.mark.parametrize("k", [5, 8])
@pytest.mark.parametrize(("preset", "ours"), PRESETS, ids=[preset for preset, _ in PRESETS])
def test_presets_have_these_rank_weights(preset, ours, k) -> None:
    assert_allclose(og.rank_weights(at(ours, k)), top_first(preset, k)[::-1], atol=1e-12)


def test_the_page_lists_every_preset() -> None:
    text = PAGE.read_text()
    for preset, _ in PRESETS:
        assert f"`{preset.split(':')[0]}" in text


@pytest.mark.parametrize("k", [3, 5])
def test_the_gini_mean_difference_does_not_depend_on_k(k) -> None:
    """Their weights at size k are the sample estimator, whose expectation is the same objective."""
    j = np.arange(1, k + 1)
    assert_allclose(og.rank_weights("gini", k), 2 * (2 * j - k - 1) / (k * (k - 1)), atol=1e-12)


def reference_lmoment(k: int, r: int) -> np.ndarray:
    """Return their weights of LMoment:r, worst rank first: (1/r) sum_m (-1)^m C(r-1, m) / C(r-1+m, m) beta_(r-1-m)."""
    total = np.zeros(k)
    for m in range(r):
        t = r - m
        moment = np.array([comb(j - 1, t - 1) / comb(k - 1, t - 1) for j in range(1, k + 1)]) / k
        total += (-1) ** m * comb(r - 1, m) / comb(r - 1 + m, m) * moment
    return total / r


def test_their_l_moments_are_not_those_of_hosking() -> None:
    k = 6
    assert_allclose(reference_lmoment(k, 1), og.rank_weights("mean", k))
    assert_allclose(4 * reference_lmoment(k, 2), og.rank_weights("lmoment:2", k), atol=1e-12)
    theirs, ours = reference_lmoment(k, 3), og.rank_weights("lmoment:3", k)
    assert theirs @ ours / np.linalg.norm(theirs) / np.linalg.norm(ours) < 0.9


@pytest.mark.parametrize(("preset", "ours"), PRESETS[:6])
def test_advantages_are_k_times_theirs(preset, ours) -> None:
    """Theirs by brute force: the mean over subsets with a sample minus the mean over those without."""
    k = 4
    alpha = top_first(preset, k)[::-1]
    theirs = []
    for i in range(len(X)):
        with_i = [np.sort(X[list(s)]) @ alpha for s in combinations(range(len(X)), k) if i in s]
        without = [np.sort(X[list(s)]) @ alpha for s in combinations(range(len(X)), k) if i not in s]
        theirs.append(np.mean(with_i) - np.mean(without))
    assert_allclose(og.advantages(X, at(ours, k)), k * np.array(theirs), atol=1e-12)
    got = og.advantages(X, og.objectives.Weights(*top_first(preset, k)[::-1]))
    assert_allclose(got, k * np.array(theirs), atol=1e-12)


def test_real_sizes_mix_their_neighbours_instead_of_gamma_functions() -> None:
    ours = og.advantages(X, "max@2.5")
    assert_allclose(ours, (og.advantages(X, "max@2") + og.advantages(X, "max@3")) / 2, atol=1e-13)
