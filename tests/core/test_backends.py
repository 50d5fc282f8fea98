"""Every array library, eager and compiled and mapped, gives what NumPy gives; dtypes, gradients, purity."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from catalogue import OPEN, SIZED
from hypothesis import given
from hypothesis import strategies as st
from libraries import EAGER, TRANSFORMED, library
from numpy.testing import assert_allclose, assert_array_equal
from strategies import groups, objectives

import ordergrad as og
from ordergrad.backends.cache import Cache

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
]

N = 6
REWARDS = np.array([[0.5, -1.0, 2.0, 0.5, 3.0, -0.25], [1.0, 1.0, 0.0, 0.0, 1.0, 0.0], [4.0, 4.0, 4.0, 4.0, 4.0, 4.0]])
MASK = np.array([True, True, True, False, True, True])
WEIGHT = np.array([1.0, 2.0, 0.0, 0.5, 1.0, 3.0])
UNIFORM = np.full(N, 1 / N)
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}

FUNCTIONS = {
    "advantages": og.advantages,
    "k_minus_one": partial(og.advantages, baseline="k_minus_one"),
    "none": partial(og.advantages, baseline="none"),
    "value": og.value,
    "include_one": og.include_one,
    "leave_one_out": og.leave_one_out,
}
MORE = [
    lambda x, mask, weight, uniform: og.advantages(x, "max@3", where=mask),
    lambda x, mask, weight, uniform: og.advantages(x, "cvar:0.4", where=mask, baseline="k_minus_one"),
    lambda x, mask, weight, uniform: og.value(x, "max@3", where=mask),
    lambda x, mask, weight, uniform: og.leave_one_out(x, "max@3", where=mask),
    lambda x, mask, weight, uniform: og.value_and_error(x, "max@3", where=mask)[1],
    lambda x, mask, weight, uniform: og.value_and_error(x, "max@3")[1],
    lambda x, mask, weight, uniform: og.advantages(x, "max@3", sample_weight=weight),
    lambda x, mask, weight, uniform: og.value(x, "cvar:0.4", sample_weight=weight, where=mask),
    lambda x, mask, weight, uniform: og.advantages(x, "wang:0.4", sample_weight=weight, where=mask & (x > -0.5)),
    lambda x, mask, weight, uniform: og.value_and_error(x, "maxrl", sample_weight=weight, where=x < 2.5, small="nan")[
        1
    ],
    lambda x, mask, weight, uniform: og.order_statistics(x, 3),
    lambda x, mask, weight, uniform: og.rank_advantages(x, 3),
    lambda x, mask, weight, uniform: og.exact.value(x, uniform, "max@3"),
    lambda x, mask, weight, uniform: og.exact.advantages(x, uniform, "cvar:0.4@3.5"),
]


@pytest.mark.parametrize("name", EAGER[1:])
@given(rewards=groups(N, 2), objective=objectives(N - 1), which=st.sampled_from(sorted(FUNCTIONS)))
def test_every_library_agrees_with_numpy(name, rewards, objective, which):
    lib = library(name)
    expected = FUNCTIONS[which](rewards, objective)
    got = FUNCTIONS[which](lib.array(rewards), objective)
    assert_allclose(lib.numpy(got), expected, rtol=1e-9, atol=1e-9 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("spec", [*SIZED, *OPEN])
def test_float32_of_the_catalogue(name, spec):
    lib = library(name)
    x = lib.array(REWARDS, "float32")
    for function in FUNCTIONS.values():
        got, expected = function(x, spec), function(REWARDS, spec)
        assert got.dtype == x.dtype
        assert_allclose(lib.numpy(got), expected, atol=16 * EPS["float32"] * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("spec", ["mean", "cvar:0.4", "0.7*quantile:0.3:harrelldavis@4-0.3*max@2.5"])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_compiled_and_mapped(name, spec):
    lib = library(name)
    run = lib.run(lambda x: tuple(function(x, spec) for function in FUNCTIONS.values()))
    for rewards in (REWARDS, -REWARDS):
        for got, function in zip(run(lib.array(rewards)), FUNCTIONS.values(), strict=True):
            assert_allclose(lib.numpy(got), function(rewards, spec), atol=1e-13)


@pytest.mark.parametrize("name", [*EAGER[1:], *(name for name in TRANSFORMED if name != "torch-aot")])
def test_masks_importance_weights_and_exact_values(name):
    lib = library(name)
    constants = [lib.array(MASK, "bool"), lib.array(WEIGHT), lib.array(UNIFORM)]
    run = lib.run(lambda x: tuple(function(x, *constants) for function in MORE))
    for got, function in zip(run(lib.array(REWARDS)), MORE, strict=True):
        assert_allclose(lib.numpy(got), function(REWARDS, MASK, WEIGHT, UNIFORM), atol=1e-13)


@pytest.mark.parametrize("name", EAGER)
@given(data=st.data())
def test_small_floats_compute_in_float32(name, data):
    """The error is the rounding of the input, which is the reference here, and of the result: no more."""
    lib = library(name)
    dtype = data.draw(st.sampled_from(lib.dtypes))
    x = lib.array(data.draw(groups(N, 2).map(lambda r: r / 64)), dtype)
    objective = data.draw(st.sampled_from(["mean", "max@3", "cvar:0.4", "median", "gini", "mean-max@2.5"]))
    for function in FUNCTIONS.values():
        got, expected = function(x, objective), function(lib.numpy(x), objective)
        assert got.dtype == x.dtype
        scale = np.abs(expected).max() + np.abs(lib.numpy(x)).max()
        assert_allclose(
            lib.numpy(got),
            expected,
            rtol=EPS[dtype],
            atol=64 * max(EPS["float64"], EPS["float32"] * (dtype != "float64")) * scale
            + 2.0**-24 * (dtype == "float16"),
        )


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_whole_numbers_and_bools_become_floats(name, dtype):
    lib = library(name)
    ones = np.array([[0, 1, 1, 0, 1, 0]])
    for function in FUNCTIONS.values():
        got = function(lib.array(ones, dtype), "cvar:0.4")
        assert "float" in str(got.dtype)
        assert_allclose(lib.numpy(got), function(ones.astype(float), "cvar:0.4"), atol=1e-6)


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("value", [0.1, 1e6 + 0.3, -1 / 3])
def test_equal_rewards_have_advantage_exactly_zero(name, value):
    lib = library(name)
    for dtype in lib.dtypes:
        if dtype == "float16" and value > 1e4:
            continue
        x = lib.array(np.full((2, 7), value), dtype)
        for spec in ("mean", "max@3", "cvar:0.3", "quantile:0.37:harrelldavis", "lmoment:3"):
            assert_array_equal(lib.numpy(og.advantages(x, spec)), 0)
            assert_array_equal(lib.numpy(og.value_and_error(x, spec)[1]), 0)
            assert_array_equal(lib.numpy(og.advantages(x, spec, sample_weight=lib.array(np.arange(1.0, 8.0)))), 0)


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("n", [8, 64, 1024])
@pytest.mark.parametrize("spec", ["mean", "max@4", "cvar:0.25", "median", "wang:0.5@7", "maxrl"])
def test_float32_with_a_large_offset(name, spec, n):
    """Rewards 1e6 + x: the error is below 1e-6 of the size of the advantages."""
    lib = library(name)
    rewards = (1e6 + 16 * np.random.default_rng(n).normal(size=(4, n))).astype(np.float32).astype(np.float64)
    got = lib.numpy(og.advantages(lib.array(rewards, "float32"), spec))
    expected = og.advantages(rewards - 1e6, spec)
    assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("shape", [(N,), (0, N), (2, 3, N), (2, 1, 0, N)])
def test_any_leading_axes_and_any_axis(name, shape):
    lib = library(name)
    rewards = np.random.default_rng(0).normal(size=shape)
    weight = np.random.default_rng(1).uniform(1, 2, size=shape)
    expected = og.advantages(rewards.reshape(-1, N), "cvar:0.4").reshape(shape)
    for axis in range(-len(shape), len(shape)):
        moved = lib.array(np.ascontiguousarray(np.moveaxis(rewards, -1, axis)))
        for function in (og.advantages, og.include_one, og.leave_one_out):
            got = lib.numpy(function(moved, "cvar:0.4", axis=axis))
            assert_allclose(np.moveaxis(got, axis, -1), function(rewards, "cvar:0.4"), atol=1e-13)
        got = lib.numpy(og.advantages(moved, "cvar:0.4", axis=axis))
        assert_allclose(np.moveaxis(got, axis, -1), expected, atol=1e-13)
        got = lib.numpy(og.value(moved, "cvar:0.4", axis=axis))
        assert_allclose(got, og.value(rewards, "cvar:0.4"), atol=1e-13)
        assert og.order_statistics(moved, 3, axis=axis).shape == (*shape[:-1], 3)
        assert og.rank_advantages(moved, 3, axis=axis).shape == (*moved.shape, 3)
        other = lib.array(np.moveaxis(weight, -1, axis))
        got = lib.numpy(og.advantages(moved, "cvar:0.4", axis=axis, sample_weight=other, where=other < 1.9))
        expected_weighted = og.advantages(rewards, "cvar:0.4", sample_weight=weight, where=weight < 1.9)
        assert_allclose(np.moveaxis(got, axis, -1), expected_weighted, atol=1e-13)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_inputs_are_only_read(function):
    """Read-only, reversed, strided and transposed arrays, and lists."""
    wide = np.random.default_rng(0).normal(size=(12, 8))
    view = wide.T[::2, ::-2]
    plain = view.copy()
    expected = function(plain, "cvar:0.4")
    before = wide.copy()
    wide.flags.writeable = False
    assert_array_equal(function(view, "cvar:0.4"), expected)
    assert_array_equal(function(plain.tolist(), "cvar:0.4"), expected)
    assert_array_equal(function(np.asfortranarray(plain), "cvar:0.4"), expected)
    assert_array_equal(wide, before)
    result = function(plain, "cvar:0.4")
    result[...] = 0  # the result is the caller's own
    assert_array_equal(function(plain, "cvar:0.4"), expected)


@pytest.mark.parametrize("name", EAGER)
def test_ragged_groups(name):
    lib = library(name)
    ids = [1, 0, 1, 0, 0, 1, 0, 2, 2, 2]
    rewards = np.random.default_rng(0).normal(size=10)
    mask, weight = rewards < 1.5, np.arange(1.0, 11.0)
    for beside in ({}, {"where": mask}, {"sample_weight": weight}):
        own = {key: lib.array(x, "bool" if x.dtype == bool else "float64") for key, x in beside.items()}
        got = og.group_advantages(lib.array(rewards), ids, "cvar:0.5", **own)
        assert_allclose(lib.numpy(got), og.group_advantages(rewards, ids, "cvar:0.5", **beside), atol=1e-14)
    got = og.group_advantages(lib.array(rewards, "float32"), ids, "max@2")
    assert got.dtype == lib.array(rewards, "float32").dtype


@pytest.mark.parametrize("name", ["torch", "jax", "strict"])
def test_not_a_number_stays_in_its_group(name):
    """Host arrays raise; where the values cannot be looked at, other groups are untouched."""
    lib, mapped = library(name), library("jax-vmap" if name == "jax" else "torch-vmap")
    rewards = np.array([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0], [1.0, np.inf, 2.0]])
    with pytest.raises(ValueError, match="rewards must be finite"):
        og.advantages(lib.array(rewards), "max@2")
    if name != "strict":
        got = mapped.numpy(mapped.run(lambda x: og.advantages(x, "max@2"))(mapped.array(rewards)))
        assert_allclose(got[0], og.advantages(rewards[0], "max@2"))
        assert not np.isfinite(got[1:]).all(axis=-1).any()


WHOLE = {
    "numpy": ["bool", "int8", "uint8", "int16", "uint64", "int64", "int4", "uint4", "int2"],
    "torch": ["bool", "int8", "uint8", "int16", "uint16", "uint32", "int64"],
    "jax": ["bool", "int8", "uint8", "int16", "uint16", "int64", "int4", "uint4"],
    "strict": ["bool", "int8", "uint8", "int16", "uint64", "int64"],
}
DEFAULT = {"numpy": "float64", "torch": "torch.float32", "jax": "float64", "strict": "float64"}


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name, dtypes in WHOLE.items() for dtype in dtypes])
def test_whole_numbers_give_the_default_float(name, dtype):
    """And nothing is cut off in a type too narrow for advantages."""
    lib = library(name)
    if name == "numpy" and dtype in ("int4", "uint4", "int2"):
        x = np.array([0, 1, 1, 0]).astype(getattr(ml_dtypes, dtype))
    else:
        x = lib.array([0, 1, 1, 0], dtype)
    for function in FUNCTIONS.values():
        got = function(x, "max@2")
        assert str(got.dtype) in (DEFAULT[name], f"array_api_strict.{DEFAULT[name]}")
        assert_allclose(lib.numpy(got), function(np.array([0.0, 1, 1, 0]), "max@2"), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float8_e5m2", "float8_e4m3fn", "bfloat16"])
def test_extension_floats_of_numpy(dtype):
    x = np.array([0, 1, 1, 0]).astype(getattr(ml_dtypes, dtype))
    got = og.advantages(x, "max@2")
    assert got.dtype == x.dtype
    assert_allclose(got.astype(float), [-2 / 3, 2 / 3, 2 / 3, -2 / 3], rtol=0.1)


@pytest.mark.parametrize("default", ["bfloat16", "float16", "float32", "float64"])
def test_nothing_is_computed_below_float32(default):
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, default))
    try:
        x = torch.tensor([1000, 1001, 1002, 1003])
        own = torch.float64 if default == "float64" else torch.float32
        for options in ({}, {"where": x > 0}, {"sample_weight": torch.tensor([1, 1, 1, 1])}):
            got = og.advantages(x, "max@2", **options)
            assert got.dtype == own
            assert_allclose(got, og.advantages(x.numpy(), "max@2", **options), rtol=1e-4, atol=1e-4)
        assert og.exact.value(x, torch.full((4,), 0.25), "max@2").dtype == own
    finally:
        torch.set_default_dtype(before)


def test_the_cache_of_constants_is_bounded_and_the_oldest_leave_first():
    cache = Cache(limit=1000)
    for key in "abcb":
        (kept,) = cache.add(key, (np.zeros(10),), lambda constant: constant + 1)
        assert_array_equal(kept, 1)
    assert set(cache) == {"b", "c"}
    assert cache.get("a") is None
    cache.add("d", (np.zeros(10),), lambda constant: constant)
    assert set(cache) == {"b", "d"}
    huge = cache.add("huge", (np.zeros(10**4),), lambda constant: constant)
    assert list(cache) == ["huge"]
    assert cache.get("huge") is huge


def test_threads_share_the_cache_of_constants():
    cache = Cache(limit=2000)

    def fill(start):
        for i in range(500):
            key = (start + i) % 20
            found = cache.get(key) or cache.add(key, (np.full(10, key),), lambda constant: constant)
            assert found[0][0] == key

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(0, 20, 5)))
    assert 1 <= len(cache) <= 5


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("objective", ["mean", "cvar:0.3", "max@3", "median"])
def test_the_value_of_one_group_is_a_number_in_numpy_not_an_array(objective, dtype):
    r = np.array([1.0, 3.0, 0.0, 2.0, 2.0], dtype)
    kind = np.dtype(dtype).type
    assert type(og.value(r, objective)) is kind
    assert type(og.value(r, objective, where=r > 0)) is kind
    assert type(og.value(r, objective, sample_weight=r + 1)) is kind
    assert [type(x) for x in og.value_and_error(r, objective)] == [kind, kind]
    assert og.value(r[None], objective).shape == (1,)
