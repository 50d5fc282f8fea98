"""The study of pathwise against likelihood-ratio gradients: what it computes is right, and all of it runs."""

import json
from dataclasses import replace

import jax
import matplotlib.image
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from studies import load, read

import ordergrad as og


@pytest.fixture
def study():
    return load("pathwise")


@pytest.mark.parametrize("objective", ["mean", "gini", "max@8", "cvar:0.1@15", "median@4"])
def test_the_truth_of_a_linear_reward_is_its_closed_form(study, objective):
    """J = mu sum(alpha) + sigma c, with c the objective of a standard normal."""
    settings = study.Settings(mu=0.5, sigma=2.0)
    total = og.rank_weights(objective).sum()
    c = quad(lambda z: og.spectrum(objective, norm.cdf(z)) * z * norm.pdf(z), -9, 9, limit=200)[0]
    for gradient in study.true_gradient("linear", objective, settings):
        np.testing.assert_allclose(gradient, [total, c], atol=2e-5)


@pytest.mark.parametrize("shape", ["linear", "peak", "rugged", "step"])
def test_derivatives_of_the_rewards(study, shape):
    function, derivative, _ = study.SHAPES[shape]
    x = np.linspace(-3, 3, 101)
    np.testing.assert_allclose(derivative(x), (function(x + 1e-6) - function(x - 1e-6)) / 2e-6, atol=1e-7, rtol=1e-5)


def test_the_pendulum_keeps_its_energy_and_knows_its_derivative(study):
    angles = np.array([1.6, 1.2])
    with jax.enable_x64(True):
        coarse, fine = (float(study.tip_height(angles, 2.0, step)) for step in (0.02, 0.005))
        slope = jax.jacfwd(lambda a: study.tip_height(a, 2.0, 0.02))(angles)
        for axis in range(2):
            step = 1e-6 * np.eye(2)[axis]
            up, down = (float(study.tip_height(angles + sign * step, 2.0, 0.02)) for sign in (1, -1))
            assert slope[axis] == pytest.approx((up - down) / 2e-6, rel=1e-5)
    assert coarse == pytest.approx(fine, abs=1e-3)
    assert (
        coarse < float(-2 * np.cos(angles[0]) - np.cos(angles[1])) + np.cos(0) * 2
    )  # no higher than the energy allows


def test_both_gradients_are_unbiased_and_one_can_be_without_noise(study):
    settings = study.Settings(samples=1 << 15)
    samples = study.drawn("linear", 16, settings, np.random.default_rng(0))
    for objective in ("mean", "max@4", "cvar:0.1@15"):
        truth = study.true_gradient("linear", objective, settings)[0]
        ours, theirs = study.pathwise(samples, objective), study.likelihood_ratio(samples, objective)
        assert np.abs(study.away(ours, truth)).max() < 4
        assert np.abs(study.away(theirs, truth)).max() < 4
        np.testing.assert_allclose(ours[:, 0], 1, atol=1e-12)  # a shift moves every rank alike
        assert theirs[:, 0].std() > 0.1


def test_gradients_next_to_nothing_are_not_compared(study):
    samples = study.drawn("step", 16, study.Settings(samples=1 << 8), np.random.default_rng(0))
    assert np.isnan([*study.compare(samples, "cvar:0.1@8", 4, np.array([1e-8, 1e-8])).values()]).all()
    assert np.isfinite([*study.compare(samples, "mean", 4, np.array([0.1, 0.1])).values()]).all()


def test_the_ratio_of_variances_is_pooled_and_lies_in_its_interval(study):
    """Where the variance comes from few groups, the ratios of small batches are on average far too small."""
    rng = np.random.default_rng(0)
    rare = (rng.random((4096, 2)) < 0.002) * rng.standard_normal((4096, 2)) * 100
    plain = rng.standard_normal((4096, 2))
    found = study.variance_ratio(rare, plain, 128)
    pooled = rare.var(axis=0).sum() / plain.var(axis=0).sum()
    assert found.value == pytest.approx(pooled)
    assert found.low < pooled < found.high
    assert found.low < 20 < found.high


def test_where_the_likelihood_ratio_takes_over(study):
    def row(k, low):
        return {"problem": "peak", "n": 16, "objective": "max", "k": k, "low": low}

    assert study.crossing([row(2, 0.1), row(4, 1.2), row(8, 0.9), row(15, 3.0)], "peak", 16, "max") == "15"
    assert study.crossing([row(15, 4.0), row(2, 0.1), row(4, 1.2), row(8, 2.0)], "peak", 16, "max") == "4"
    assert study.crossing([row(2, 0.1)], "peak", 16, "max") == "none"


def test_the_study_from_start_to_end(study, tmp_path, monkeypatch):
    for shape in ("rugged", "step"):
        monkeypatch.delitem(study.SHAPES, shape)
    settings = replace(
        study.Settings(),
        samples=1 << 10,
        chaotic_samples=1 << 9,
        blocks=4,
        sizes=(4, 8),
        horizons=(0.2,),
        quadrature=200_001,
    )
    out, results, images = tmp_path / "runs", tmp_path / "results", tmp_path / "images"
    monkeypatch.setattr(study, "Settings", lambda **_: settings)
    arguments = ["--quick", "--out", str(out), "--results", str(results), "--images", str(images), "--jobs", "1"]
    study.main(arguments)
    rows = read(results / "ratios.csv")
    assert len(rows) == 3 * sum(len(study.objectives(n)) for n in (4, 8))
    linear = [r for r in rows if r["problem"] == "linear" and r["n"] == "8"]
    assert all(float(r["ratio"]) < 1 for r in linear)
    peak = {r["k"]: float(r["ratio"]) for r in rows if (r["problem"], r["n"], r["objective"]) == ("peak", "8", "max")}
    assert peak["7"] > 3 * peak["2"]
    summary = json.loads((results / "summary.json").read_text())
    assert summary["comparisons_with_the_truth"] == 2 * len(rows) // 3
    assert matplotlib.image.imread(images / "pathwise.png").std() > 0.02
    assert summary["command"].startswith("python experiments/pathwise.py --quick --out ")
    with pytest.raises(SystemExit, match="already holds a run"):
        study.main(arguments)
    before = (results / "ratios.csv").read_text()
    records = (out / "parts.jsonl").read_text().splitlines(keepends=True)
    (out / "parts.jsonl").write_text("".join(records[:2]))
    study.main([*arguments, "--resume"])
    assert (results / "ratios.csv").read_text() == before
