"""Rules that choose a baseline: their noise against enumeration, the rules against their definitions."""

import json
from dataclasses import replace
from itertools import product

import matplotlib.image
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from studies import load, read

import ordergrad as og

study = load("baseline_choice")
TINY = replace(study.QUICK, groups=(4,), simulated=400, draws=50, blocks=5)


def mixture(rewards, objective, b):
    loo, kmo = (og.advantages(rewards, objective, baseline=name) for name in ("leave_one_out", "k_minus_one"))
    return (1 - b) * loo + b * kmo


def gradients(outcomes, p, objective, n, b):
    """Every batch's gradient by the logits of a softmax policy over the outcomes, and its probability."""
    draws = np.array(list(product(range(len(p)), repeat=n)))
    a = mixture(outcomes[draws], objective, b)
    scores = np.eye(len(p))[draws] - p
    return (a[..., None] * scores).mean(axis=1), p[draws].prod(axis=1)


def total_variance(outcomes, p, objective, n, b):
    g, chance = gradients(outcomes, p, objective, n, b)
    mean = chance @ g
    return float(chance @ ((g - mean) ** 2).sum(axis=1))


@pytest.mark.parametrize("b", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("objective", ["max@2", "cvar:0.5@3", "gini"])
def test_mixtures_are_unbiased(objective, b):
    outcomes, p = np.array([0.0, 1.0, 3.0]), np.array([0.5, 0.3, 0.2])
    g, chance = gradients(outcomes, p, objective, 4, b)
    assert_allclose(chance @ g, p * og.exact.advantages(outcomes, p, objective), atol=1e-14)


@pytest.mark.parametrize("b", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("objective", ["max@2", "max@3", "top:2@3"])
def test_narrow_noise_is_that_of_a_policy_of_two_outcomes(objective, b):
    outcomes, p = np.array([0.0, 1.0]), np.array([0.7, 0.3])
    at = study.groups(p, 4, TINY)
    noise = study.moments(outcomes, p, objective, at)["narrow"].noise(at.chance, b)
    assert noise * 2 * p.prod() == pytest.approx(total_variance(outcomes, p, objective, 4, b), rel=1e-12)


def test_free_noise_is_the_limit_of_policies_of_many_outcomes():
    outcomes, p = np.array([0.0, 1.0]), np.array([0.7, 0.3])
    at = study.groups(p, 3, TINY)
    free = study.moments(outcomes, p, "max@2", at)["free"].noise(at.chance, 0.4)
    apart = []
    for copies in (1, 4, 16):
        many, q = np.repeat(outcomes, copies), np.repeat(p / copies, copies)
        apart.append(abs(total_variance(many, q, "max@2", 3, 0.4) - free))
    assert apart[0] > 3 * apart[1] > 9 * apart[2]
    assert apart[2] < 0.05 * free


@pytest.mark.parametrize("objective", ["max@2", "max@3", "cvar:0.4@3", "gini", "median@4"])
def test_redraw_replaces_the_sample_by_one_of_the_others(objective):
    rewards = np.random.default_rng(1).normal(size=6)
    n, k = 6, int(objective[-1]) if "@" in objective else 2
    q = og.include_one(rewards, objective)
    others = np.zeros(n)
    for i in range(n):
        for j in set(range(n)) - {i}:
            others[i] += og.include_one(np.where(np.arange(n) == i, rewards[j], rewards), objective)[i] / (n - 1)
    assert_allclose(mixture(rewards, objective, (k - 1) / (n - 1)), k * (q - others), atol=1e-12)


def test_the_same_rewards_want_different_baselines():
    """0/1 rewards with p = 1/2, max@4 in groups of 8: no mixture serves both kinds of scores."""
    cells = [cell for cell in study.measure("bernoulli:0.5", 8, TINY) if cell.objective == "max@4"]
    free, narrow = sorted(cells, key=lambda cell: cell.geometry)
    assert free.kmo_over_loo > 1.5
    assert narrow.kmo_over_loo < 0.4
    assert study.irreconcilable(cells) == [(free, narrow)]
    for cell in cells:
        low, high = study.as_good(cell)
        assert cell.ratio["leave_one_out" if cell.kmo_over_loo > 1 else "k_minus_one"] == 1
        assert low <= cell.best <= high


def test_quadratics_of_a_baseline_are_the_noise_of_the_estimates():
    at = study.binary(8, 4, 0.5)
    cells = [cell for cell in study.measure("bernoulli:0.5", 8, TINY) if cell.objective == "max@4"]
    loo, kmo = (study.given(name, at) for name in ("leave_one_out", "k_minus_one"))
    for cell, noise in zip(sorted(cells, key=lambda cell: cell.geometry), (at.free, at.narrow), strict=True):
        assert cell.kmo_over_loo == pytest.approx(noise(kmo) / noise(loo), rel=1e-12)


@pytest.mark.parametrize(("n", "k", "p"), [(4, 2, 0.5), (4, 2, 0.9), (8, 4, 0.9)])
def test_no_baseline_beats_the_bound_and_one_meets_it(n, k, p):
    at = study.binary(n, k, p)
    bound = study.least_ratio(at)
    given = [study.given(name, at) for name in ("leave_one_out", "k_minus_one")]
    better = [min(f(b) for b in given) for f in (at.free, at.narrow)]

    def ratios(b):
        return np.array([f(b) / least for f, least in zip((at.free, at.narrow), better, strict=True)])

    constraint = {"type": "ineq", "fun": lambda x: x[-1] - ratios(x[:-1])}
    start = np.append(given[0], ratios(given[0]).max())
    found = minimize(lambda x: x[-1], start, constraints=constraint, method="SLSQP", options={"maxiter": 1000})
    assert ratios(found.x[:-1]).max() == pytest.approx(bound, rel=2e-3)
    rng = np.random.default_rng(0)
    for _ in range(100):
        assert ratios(found.x[:-1] + 0.05 * rng.normal(size=n)).max() >= bound * (1 - 1e-9)


def test_the_fitted_share_minimises_what_it_is_fitted_to():
    x, p = study.law("normal")
    at = study.groups(p, 4, replace(TINY, simulated=500))
    m = study.moments(x, p, "max@3", at)["free"]
    b = -(at.chance @ m.cross) / (at.chance @ m.difference)
    assert all(m.noise(at.chance, b) <= m.noise(at.chance, other) for other in (0.0, 1.0, b - 0.1, b + 0.1))
    assert study.fitted(m, at, 100_000, replace(TINY, draws=5)) == pytest.approx(b, abs=0.05)


def test_the_study_from_start_to_end(tmp_path):
    arguments = ["--out", str(tmp_path / "run"), "--results", str(tmp_path), "--images", str(tmp_path), "--jobs", "1"]
    study.main(arguments, TINY)
    cells = read(tmp_path / "cells.csv")
    assert {cell["law"] for cell in cells} == set(study.LAWS)
    for cell in cells:
        assert min(float(cell["leave_one_out"]), float(cell["k_minus_one"])) == 1
    for row in read(tmp_path / "rules.csv"):
        assert 0 <= int(row["worse"]) <= int(row["cells"])
    assert all(float(row["least_worse_ratio"]) > 0 for row in read(tmp_path / "bounds.csv"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert 0 < summary["irreconcilable"] < summary["pairs"]
    assert matplotlib.image.imread(tmp_path / "baseline_choice.png").std() > 0.02

    with pytest.raises(SystemExit, match="already holds a run"):
        study.main(arguments, TINY)
    before = (tmp_path / "cells.csv").read_text()
    records = (tmp_path / "run/cells.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run/cells.jsonl").write_text("".join(records[1:]))
    study.main([*arguments, "--resume"], TINY)
    assert (tmp_path / "cells.csv").read_text() == before
