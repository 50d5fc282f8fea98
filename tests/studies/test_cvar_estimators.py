"""The comparison of CVaR gradient estimators: its expectations against closed forms, its estimates against og."""

import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import dblquad
from scipy.stats import norm
from studies import load, read

import ordergrad as og

study = load("cvar_estimators")
TINY = replace(study.QUICK, groups=(16,), levels=(0.1,), upper_groups=(4,), advised=(8,), simulated=2000)


@pytest.mark.parametrize("q", [0.01, 0.05, 0.25, 0.5])
def test_gradients_of_the_population_are_the_closed_forms(q):
    z = norm.ppf(q)
    linear = [1.0, -norm.pdf(z) / q]
    assert_allclose(study.exact_gradient("linear", f"cvar:{q}"), linear, rtol=2e-4)
    factor = -np.exp(0.5) / q
    heavy = [factor * norm.cdf(1 + z), factor * (norm.cdf(1 + z) + norm.pdf(1 + z))]
    assert_allclose(study.exact_gradient("heavy", f"cvar:{q}"), heavy, rtol=2e-4)


@pytest.mark.parametrize(
    ("objective", "spread"), [("mean", 0.0), ("max@2", np.pi**-0.5), ("min@3", -1.5 * np.pi**-0.5), ("median@5", 0.0)]
)
def test_gradients_at_a_comparison_size_are_expected_order_statistics(objective, spread):
    assert_allclose(study.exact_gradient("linear", objective), [1.0, spread], atol=1e-5)


def test_expected_gcvar_of_two_samples_in_the_tail():
    """N = 8, q = 1/4: the worst sample less the second worst, times the score, integrated over both."""
    n, q = 8, 0.25

    def density(x, y):
        return n * (n - 1) * norm.pdf(x) * norm.pdf(y) * norm.sf(y) ** (n - 2)

    expected = [
        dblquad(lambda x, y, s=s: density(x, y) * (x - y) * s(x), -6, 6, -6, lambda y: y, epsabs=1e-5)[0] / (n * q)
        for s in (lambda x: x, lambda x: x * x - 1)
    ]
    found = study.expected_gcvar(study.grid("linear", 40_000), n, q)
    assert_allclose(found, expected, atol=2e-4)
    assert found[0] == pytest.approx((2 - 1) / (n * q), abs=1e-4)


@pytest.mark.parametrize("reward", study.REWARDS)
def test_gradients_are_the_mean_of_advantages_times_scores(reward):
    (group,) = study.simulated_groups(reward, 9, replace(TINY, simulated=40))
    names = [
        pair for objective in ("cvar:0.3@5", "max@9", "mean", "mean-0.5*gini") for pair in study.allowed(objective, 9)
    ]
    found = study.our_gradients(group, names)
    for i, (objective, baseline) in enumerate(names):
        a = og.advantages(group.r, objective, baseline=baseline)
        assert_allclose(found[:, :, i], (a[..., None] * group.s).mean(axis=1), atol=1e-11 * np.abs(a).max())
    tail = study.gcvar_gradients(group, 0.3)
    threshold = np.sort(group.r, axis=1)[:, 2:3]
    weight = np.where(group.r <= threshold, group.r - threshold, 0.0) / 0.3
    assert_allclose(tail, (weight[..., None] * group.s).mean(axis=1), atol=1e-12)


def test_moments_are_those_of_the_simulated_gradients():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(500, 2, 1)) * np.array([[1.0], [3.0]])
    expected = np.array([[0.1], [-0.2]])
    sums = study.Sums(expected)
    for part in np.array_split(gradients, 3):
        sums.add(part)
    wanted = np.array([3.0, 4.0])
    (row,) = sums.measured("linear", "cvar:0.1", wanted, 8, [("cvar:0.1@4", "none")])
    apart = gradients[..., 0] - expected[:, 0]
    assert row.noise == pytest.approx(np.sqrt((apart**2).sum(axis=1).mean()) / 5)
    along = np.sqrt(((apart @ wanted / 5) ** 2).mean())
    assert row.snr == pytest.approx(float(expected[:, 0] @ wanted / 5) / along)
    assert row.bias == pytest.approx(np.linalg.norm(expected[:, 0] - wanted) / 5)


def test_advise_predicts_what_is_measured():
    settings = replace(TINY, advised=(16,), simulated=10_000)
    rows = [row for reward in ("linear", "cliff") for row in study.advised(reward, settings)]
    assert len({row["estimator"] for row in rows}) > 5
    for row in rows:
        assert row["predicted"] == pytest.approx(row["measured"], abs=6 * row["error"] + 0.02 * row["measured"])


def test_the_study_from_start_to_end(tmp_path):
    arguments = ["--out", str(tmp_path / "run"), "--results", str(tmp_path), "--images", str(tmp_path), "--jobs", "1"]
    study.main(arguments, TINY)
    rows = read(tmp_path / "cvar.csv")
    assert {row["reward"] for row in rows} == set(study.REWARDS)
    kinds = {(row["estimator"], row["baseline"]) for row in rows}
    assert {("cvar:0.1@15", "leave_one_out"), ("cvar:0.1@16", "k_minus_one"), ("mean", "leave_one_out")} <= kinds
    assert ("gcvar:0.1", "quantile") in kinds
    assert ("cvar:0.1@16", "leave_one_out") not in kinds
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["largest_deviation"] < 4.5
    for found in summary["digest"]["error of a batch, by tail samples"].values():
        assert all(values[2] >= 1 for name, values in found.items() if name.endswith("best"))
    cases, middle, least, largest = summary["digest"]["baselines over leave_one_out"]["none"]["variance"]
    assert cases == len(study.REWARDS) * (len(study.sizes(16)) - 1)
    assert 1 < least <= middle <= largest
    best = read(tmp_path / "best_k.csv")
    assert all(float(row["error"]) <= float(row["error_at_largest_k"]) for row in best)
    for name in ("cvar_estimators", "cvar_objectives"):
        assert matplotlib.image.imread(tmp_path / f"{name}.png").std() > 0.02

    with pytest.raises(SystemExit, match="already holds a run"):
        study.main(arguments, TINY)
    before = (tmp_path / "max.csv").read_text()
    records = (tmp_path / "run/parts.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run/parts.jsonl").write_text("".join(records[:4] + records[5:]))
    study.main([*arguments, "--resume"], TINY)
    assert (tmp_path / "max.csv").read_text() == before
