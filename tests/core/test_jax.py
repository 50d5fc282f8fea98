"""What is JAX's own: static objectives under jit, gradients, sharding, 32-bit mode."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import ordergrad as og
from ordergrad import objectives as o

jnp = jax.numpy

REWARDS = np.array([[0.5, -1.0, 2.0, 0.25, 3.0, -0.5], [1.0, 1.5, 0.0, -0.125, 1.25, 7.0]])
SOME = ["mean", "max@3", "cvar:0.4", "lmoment:3", "0.7*mean-0.3*max@2.5"]


@pytest.mark.parametrize("as_string", [True, False])
def test_objectives_are_static_arguments(as_string):
    run = jax.jit(og.advantages, static_argnames=("objective", "baseline", "axis", "small"))
    for spec in [*SOME, *SOME]:
        objective = spec if as_string else og.parse(spec)
        for baseline in ("leave_one_out", "none"):
            got = run(jnp.asarray(REWARDS), objective=objective, baseline=baseline)
            assert_allclose(got, og.advantages(REWARDS, spec, baseline=baseline), atol=1e-13)


def test_an_annealed_objective_under_jit():
    run = jax.jit(og.advantages, static_argnums=1)
    for t in (0.0, 0.25, 0.5, 1.0):
        objective = og.anneal("mean", "cvar:0.25", t)
        assert_allclose(run(REWARDS, objective), og.advantages(REWARDS, objective), atol=1e-13)


@pytest.mark.parametrize("spec", SOME)
def test_gradients(spec):
    """Of the value: its sample weights. Of the advantages: none."""
    gradient = jax.jit(jax.grad(lambda r: og.value(r, spec).sum()))(jnp.asarray(REWARDS))
    for row, g in zip(REWARDS, np.asarray(gradient), strict=True):
        weights = sum(
            c * og.sample_weights(part if part.comparison_size else o.CVaR(0.4, 5), 6)
            for c, part in og.parse(spec).terms()
        )
        assert_allclose(g[row.argsort()], weights, atol=1e-14)
    assert_allclose(jax.grad(lambda r: (og.advantages(r, spec) ** 2).sum())(jnp.asarray(REWARDS)), 0)
    weighted = jax.grad(lambda w: (og.advantages(REWARDS_J, spec, sample_weight=w) ** 2).sum())
    assert_allclose(weighted(jnp.ones(6)), 0)


REWARDS_J = jnp.asarray(REWARDS)


def test_derivatives_by_finite_differences():
    from jax.test_util import check_grads

    def check(function, at, order=1):
        check_grads(jax.jit(function), (at,), order=order)

    check(lambda r: og.value(r, "cvar:0.4"), REWARDS_J, order=2)
    check(lambda r: og.value_and_error(r, "max@3")[1], REWARDS_J)
    check(lambda r: og.value(r, "max@3", sample_weight=jnp.arange(1.0, 7.0)), REWARDS_J)
    check(lambda z: og.exact.value(REWARDS_J[0], jax.nn.softmax(z), "max@3"), REWARDS_J[1])


@pytest.mark.parametrize("spec", ["cvar:0.4", "0.7*mean-0.3*max@2.5", "max@6"])
def test_second_derivatives(spec):
    """Forward over reverse, reverse over reverse and forward over forward; mapped and compiled; K up to N."""

    def bent(x):
        return x + 0.1 * x**3

    def function(x):
        if "@6" in spec:
            return og.value(bent(x), spec)
        v, error = og.value_and_error(bent(x), spec)
        return v - 0.5 * error

    expected = np.array([hessian_by_hand(row, spec) for row in REWARDS])
    assert np.abs(expected).max() > 0.01
    ways = (jax.hessian(function), jax.jacrev(jax.jacrev(function)), jax.jacfwd(jax.jacfwd(function)))
    for second in ways:
        assert_allclose(jax.jit(jax.vmap(second))(REWARDS_J), expected, atol=1e-12)
    assert_allclose(jax.vmap(ways[0])(REWARDS_J), expected, atol=1e-12)


def hessian_by_hand(x, spec):
    """The Hessian of v - error/2 of y = x + x^3/10, with v = w.y and error = |Ay|, linear in the sorted rewards."""
    rank = x.argsort().argsort()
    slope, curve = 1 + 0.3 * x**2, 0.6 * x
    tails = [og.value((np.arange(6) >= m).astype(float), spec) for m in range(6)]  # weight of the ranks from m on
    weights = -np.diff(np.append(tails, 0.0))[rank]
    hessian = np.diag(weights * curve)
    if "@6" in spec:
        return hessian
    steps = np.array([og.advantages((np.arange(6) >= m).astype(float), spec) for m in range(1, 6)])  # of unit gaps
    linear = np.zeros((6, 6))
    for m, advantage in enumerate(steps, 1):
        linear[:, rank == m] += advantage[rank][:, None]
        linear[:, rank == m - 1] -= advantage[rank][:, None]
    linear *= np.sqrt(5 / 6**3)
    a = linear @ (x + 0.1 * x**3)
    error = np.sqrt(a @ a)
    gradient = linear.T @ a / error
    inner = linear.T @ linear / error - np.outer(gradient, gradient) / error
    return hessian - 0.5 * (inner * np.outer(slope, slope) + np.diag(gradient * curve))


def test_equal_rewards_have_an_error_of_zero_and_a_derivative_of_zero():
    x = jnp.full((2, 5), 0.3)
    for options in ({}, {"where": np.arange(5) < 4}, {"sample_weight": jnp.arange(1.0, 6.0)}):
        for transform in (lambda f: f, jax.jit):
            gradient = transform(jax.grad(lambda r, o=options: og.value_and_error(r, "cvar:0.5@3", **o)[1].sum()))(x)
            assert_allclose(gradient, 0)


def test_vmap_over_several_axes_and_masks():
    masks = np.arange(6) != np.array([[1], [4]])
    got = jax.vmap(lambda r, m: og.advantages(r, "max@3", where=m))(REWARDS_J, masks)
    assert_allclose(got, og.advantages(REWARDS, "max@3", where=masks), atol=1e-13)
    columns = jax.vmap(lambda x: og.advantages(x, "max@3", axis=0), in_axes=1, out_axes=1)
    stacked = np.stack([REWARDS.T, -REWARDS.T], 1)
    assert_allclose(columns(jnp.asarray(stacked)), og.advantages(stacked, "max@3", axis=0), atol=1e-13)


def test_sharded_groups_stay_sharded():
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((1,), ("groups",), axis_types=(kind,))
        sharding = NamedSharding(mesh, PartitionSpec("groups"))
        with jax.set_mesh(mesh):
            x = jax.device_put(REWARDS_J, sharding)
            for run in (og.advantages, jax.jit(og.advantages, static_argnums=1)):
                got = run(x, "cvar:0.4")
                assert got.sharding.is_equivalent_to(sharding, 2)
                assert_allclose(got, og.advantages(REWARDS, "cvar:0.4"), atol=1e-13)


def test_a_compiled_small_group_is_nan_and_an_eager_value_too():
    """Nothing is looked at under jit: the group that is too small for K becomes NaN, the others are right."""
    mask = np.array([[True] * 6, [True, True, True, False, False, False]])
    got = jax.jit(lambda r, m: og.advantages(r, "max@3", where=m))(REWARDS, mask)
    assert_allclose(got[0], og.advantages(REWARDS[0], "max@3"), atol=1e-13)
    assert np.isnan(np.asarray(got)[1, :3]).all()
    zero = jax.jit(lambda r, m: og.advantages(r, "max@3", where=m, small="zero"))(REWARDS, mask)
    assert_allclose(zero[1], 0)
    shrunk = jax.jit(lambda r, m: og.advantages(r, "max@3", where=m, small="shrink"))(REWARDS, mask)
    assert_allclose(shrunk[1, :3], og.advantages(REWARDS[1, :3], "max@2"), atol=1e-13)


@pytest.mark.parametrize(("small", "expected"), [("error", np.nan), ("zero", 0.0), ("shrink", 0.0)])
@pytest.mark.parametrize("spec", ["mean", "max@2"])
def test_a_compiled_group_of_one_is_nan_wherever_its_sample_is(spec, small, expected):
    run = jax.jit(lambda r, m: og.advantages(r, spec, where=m, small=small))
    for mask in np.eye(4, dtype=bool):
        assert_allclose(run(REWARDS[0, :4], mask), np.where(mask, expected, 0.0))


def test_arrays_in_host_memory_are_checked():
    bad = REWARDS_J.at[1, 2].set(jnp.nan)
    with pytest.raises(ValueError, match="rewards must be finite"):
        og.advantages(bad, "mean")
    with pytest.raises(ValueError, match="rewards must be finite"):
        og.exact.value(bad, jnp.full(6, 1 / 6), "max@2")
    with pytest.raises(ValueError, match=r"sample_weight must be .*; got a weight of -1\.0"):
        og.advantages(REWARDS_J, "max@3", sample_weight=jnp.array([1, -1, 1, 1, 1, 1.0]))
    with pytest.raises(
        ValueError, match=r"probs must be nonnegative with sum 1 along axis -1; got sums from 6\.0 to 6\.0"
    ):
        og.exact.value(REWARDS_J, jnp.ones(6), "max@2")
    with pytest.raises(ValueError, match="where must leave at least 4 valid samples in every group"):
        og.advantages(REWARDS_J, "max@3", where=jnp.arange(6) < 3)
    assert_allclose(og.advantages(jnp.full(4, 3e38, jnp.float32), "mean"), 0)  # finite, their sum is not


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, lambda f: jax.jit(lambda x: jax.value_and_grad(f)(x)[0])])
def test_traced_arrays_are_not_looked_at(transform):
    x = REWARDS_J.at[1, 2].set(jnp.nan)
    assert np.isnan(transform(lambda r: og.value(r, "max@3").sum())(x)).any()
    transform(lambda r: og.value(r, "max@3", sample_weight=-r, where=r < jnp.inf).sum())(x)
    transform(lambda r: og.exact.value(r, r, "max@3").sum())(x)


def test_gradients_outside_compiled_code_are_of_checked_rewards():
    with pytest.raises(ValueError, match="rewards must be finite"):
        jax.grad(lambda r: og.value(r, "max@3"))(REWARDS_J[1].at[2].set(jnp.nan))


def test_whole_numbers_without_64_bits():
    program = (
        "import jax, ordergrad as og\n"
        "a = og.advantages(jax.numpy.asarray([0, 1, 5]), 'max@2')\n"
        "assert a.dtype == 'float32', a.dtype\n"
        "print(a.tolist(), jax.jit(og.value, static_argnums=1)(a > 0, 'max@2').dtype)\n"
    )
    environment = {"JAX_ENABLE_X64": "0", "JAX_PLATFORMS": "cpu", "PATH": ""}
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.strip() == "[-4.0, -4.0, 8.0] float32"


def test_every_estimator_without_64_bits():
    environment = {**os.environ, "JAX_ENABLE_X64": "0", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", str(Path(__file__).parents[1] / "support" / "jax_32_bits.py")]
    out = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert out.returncode == 0, out.stderr
    assert int(out.stdout.split()[0]) > 500


@pytest.mark.parametrize(("spec", "most"), [("cvar:0.1", 5), ("mean", 1), ("median", 4), ("max@8", 1024 / 2)])
def test_a_mask_adds_as_many_constants_as_there_are_different_slopes(spec, most):
    """All slopes of groups of 0..n valid rewards are n²/2 numbers, 33 MB at n = 4096: too many for a compiler."""
    n = 1024
    x, mask = jax.numpy.zeros((1, n)), jax.numpy.ones((1, n), bool)
    program = jax.make_jaxpr(lambda r, m: og.advantages(r, spec, where=m))(x, mask)
    assert sum(np.size(constant) for constant in program.consts) <= (most + 8) * n


@pytest.mark.parametrize("spec", ["cvar:0.3", "median", "max@3 - 0.5*gini", "top:2@4", "wang:0.5", "var:0.2"])
def test_masks_that_cannot_be_looked_at_give_what_the_host_gives(spec):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, (40, 11)).astype(np.float32)
    mask = rng.random(x.shape) < np.linspace(0.3, 1, 40)[:, None]
    mask[:, :6] = True
    quantities = (og.advantages, og.value, og.include_one, og.leave_one_out)
    traced = jax.jit(lambda r, m: [quantity(r, spec, where=m) for quantity in quantities])(x, mask)
    for got, quantity in zip(traced, quantities, strict=True):
        assert_allclose(got, quantity(x, spec, where=mask), atol=2e-5)
