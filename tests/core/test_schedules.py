"""Schedules: mixtures of two objectives at a number, a tensor or a traced t."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import ordergrad as og
from ordergrad.schedules import Schedule

torch = pytest.importorskip("torch")
testing = pytest.importorskip("torch._dynamo.testing")
jax = pytest.importorskip("jax")
jnp = jax.numpy

X = np.random.default_rng(0).standard_normal((3, 9)).astype(np.float32)
IDS = [0, 1, 0, 1, 1, 0, 2, 2, 2]
ENDS = ("mean", "cvar:0.3")
ESTIMATORS = {
    "advantages": lambda x, o: og.advantages(x, o),
    "k_minus_one": lambda x, o: og.advantages(x, o, baseline="k_minus_one"),
    "masked": lambda x, o: og.advantages(x, o, where=x > -0.5, small="zero"),
    "weighted": lambda x, o: og.advantages(x, o, sample_weight=abs(x)),
    "value": lambda x, o: og.value(x, o),
    "weighted value": lambda x, o: og.value(x, o, sample_weight=abs(x)),
    "error": lambda x, o: og.value_and_error(x, o)[1],
    "weighted error": lambda x, o: og.value_and_error(x, o, sample_weight=abs(x))[1],
    "include_one": lambda x, o: og.include_one(x, o),
    "leave_one_out": lambda x, o: og.leave_one_out(x, o),
}


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_tensor_gives_what_a_number_gives(name, t):
    run = ESTIMATORS[name]
    expected = run(X, og.anneal(*ENDS, t))
    assert_allclose(run(torch.tensor(X), og.anneal(*ENDS, torch.tensor(t))), expected, rtol=2e-5, atol=1e-6)
    assert_allclose(run(jnp.asarray(X), og.anneal(*ENDS, jnp.asarray(t))), expected, rtol=2e-5, atol=1e-6)
    assert_allclose(run(X, og.anneal(*ENDS, torch.tensor(t))), expected, rtol=2e-5, atol=1e-6)


def test_groups_by_id():
    expected = og.group_advantages(X[0], IDS, og.anneal("mean", "max@2", 0.3))
    schedule = og.anneal("mean", "max@2", torch.tensor(0.3, requires_grad=True))
    found = og.group_advantages(torch.tensor(X[0]), IDS, schedule)
    assert_allclose(found, expected, rtol=1e-5)
    assert not found.requires_grad


@pytest.mark.parametrize("t", [np.float32(0.25), np.array(0.25), 0.25])
def test_a_number_of_numpy_gives_an_exact_objective(t):
    assert og.anneal(*ENDS, t) == og.parse("0.75*mean+0.25*cvar:0.3")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_result_has_the_dtype_of_the_rewards(dtype):
    schedule = og.anneal(*ENDS, torch.tensor(0.3, dtype=dtype))
    for x in (torch.tensor(X), torch.tensor(X, dtype=torch.float64), torch.tensor(X, dtype=torch.bfloat16)):
        assert og.advantages(x, schedule).dtype == x.dtype
        assert all(part.dtype == x.dtype for part in og.value_and_error(x, schedule))


def test_twenty_steps_are_one_compilation_of_torch():
    torch._dynamo.reset()
    counter = testing.CompileCounter()

    @torch.compile(fullgraph=True, backend=counter)
    def step(x, t):
        return og.advantages(x, og.anneal("mean", "cvar:0.1", t)), og.value(x, og.anneal("mean", "cvar:0.1", t))

    x = torch.tensor(X)
    for t in np.linspace(0, 1, 20):
        a, v = step(x, torch.tensor(t, dtype=torch.float32))
        objective = og.anneal("mean", "cvar:0.1", float(t))
        assert_allclose(a, og.advantages(X, objective), rtol=2e-5, atol=1e-6)
        assert_allclose(v, og.value(X, objective), rtol=2e-5, atol=1e-6)
    assert counter.frame_count == 1


def test_twenty_steps_are_one_compilation_of_jax():
    traced = []

    @jax.jit
    def step(x, t):
        traced.append(t)
        return og.advantages(x, og.anneal("mean", "cvar:0.1", t))

    for t in np.linspace(0, 1, 20):
        found = step(jnp.asarray(X), float(t))
        expected = og.advantages(X, og.anneal("mean", "cvar:0.1", float(t)))
        assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    assert len(traced) == 1


def test_vmap_and_gradients_over_t():
    times = np.array([0.0, 0.5, 1.0], np.float32)
    expected = np.stack([og.value(X[0], og.anneal(*ENDS, float(t))) for t in times])
    slope = og.value(X[0], ENDS[1]) - og.value(X[0], ENDS[0])

    def of_torch(t):
        return og.value(torch.tensor(X[0]), og.anneal(*ENDS, t))

    def of_jax(t):
        return og.value(jnp.asarray(X[0]), og.anneal(*ENDS, t))

    assert_allclose(torch.vmap(of_torch)(torch.tensor(times)), expected, rtol=1e-5, atol=1e-6)
    assert_allclose(jax.vmap(of_jax)(jnp.asarray(times)), expected, rtol=1e-5, atol=1e-6)
    assert_allclose(torch.func.grad(of_torch)(torch.tensor(0.3)), slope, rtol=1e-5)
    assert_allclose(jax.grad(of_jax)(0.3), slope, rtol=1e-5)


def test_advantages_are_cut_from_t():
    t = torch.tensor(0.3, requires_grad=True)
    assert not og.advantages(torch.tensor(X), og.anneal(*ENDS, t)).requires_grad
    assert og.include_one(torch.tensor(X), og.anneal(*ENDS, t)).requires_grad


def test_a_schedule_has_no_string_hash_or_equality():
    schedule = og.anneal("mean", "max@2", torch.tensor(0.5))
    assert isinstance(schedule, Schedule)
    with pytest.raises(TypeError, match="unhashable"):
        hash(schedule)
    with pytest.raises(TypeError, match="a schedule has no equality"):
        _ = schedule == schedule
    with pytest.raises(TypeError, match="a schedule has no string"):
        str(schedule)
    assert repr(schedule) == "Schedule(start='mean', end='max@2', t=tensor(0.5000))"
    with pytest.raises(TypeError, match="objective must be a string or an Objective; got Schedule"):
        og.parse(schedule)


@pytest.mark.parametrize(
    ("a", "b", "t", "error", "message"),
    [
        ("mean", "max@2-max@2", torch.tensor(0.5), ValueError, "must have a nonzero term"),
        ("0*mean", "max@2", jnp.asarray(0.5), ValueError, "must have a nonzero term"),
        ("mean", "max@2", torch.tensor([0.5, 0.6]), ValueError, r"t must be one number; got shape \(2,\)"),
        ("mean", "max@2", np.array([0.5]), TypeError, "t must be a real number"),
        ("mean", "max@2", 1.5, ValueError, "t must satisfy 0 <= t <= 1; got t=1.5"),
        ("mean", "max@2", "0.5", TypeError, "t must be a real number; got '0.5'"),
        ("mean", "best@2", torch.tensor(0.5), ValueError, "names no known objective"),
    ],
)
def test_errors(a, b, t, error, message):
    with pytest.raises(error, match=message):
        og.anneal(a, b, t)
