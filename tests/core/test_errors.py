"""Bad input: each a clear error that names the parameter, the requirement, what came and the shape."""

import importlib
import re

import numpy as np
import pytest
from libraries import library
from numpy.testing import assert_allclose, assert_array_equal

import ordergrad as og
from ordergrad.backends import host

R = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0]])
EVERY = [og.advantages, og.value, og.value_and_error, og.include_one, og.leave_one_out]
EXCLUDING = [og.advantages, og.value_and_error, og.leave_one_out]


def fails(error, text, function, *args, **kwargs):
    with pytest.raises(error, match=re.escape(text)):
        function(*args, **kwargs)


@pytest.mark.parametrize("function", EXCLUDING)
def test_comparison_size_equal_to_the_group(function):
    fails(ValueError, "k must satisfy 1 <= k < N; got k=4, N=4", function, R, "max@4")
    fails(ValueError, "(rewards shape (2, 4))", function, R, "max@4")
    fails(ValueError, "k must satisfy 1 <= k < N; got k=4, N=4", function, R, "0.5*mean+0.5*max@3.5")
    fails(ValueError, "k must satisfy 1 <= k < N; got k=1, N=1", function, R[:, :1], "mean")


@pytest.mark.parametrize("function", [og.value, og.include_one])
def test_comparison_size_above_the_group(function):
    function(R, "max@4")
    fails(ValueError, "k must satisfy 1 <= k <= N; got k=5, N=4", function, R, "max@5")
    fails(ValueError, "(rewards shape (2, 4))", function, R, "max@5")


def test_comparison_size_with_other_baselines():
    for baseline in ("k_minus_one", "none"):
        og.advantages(R, "max@4", baseline=baseline)
        fails(ValueError, "1 <= k <= N; got k=5, N=4", og.advantages, R, "max@5", baseline=baseline)
    one = {"baseline": "k_minus_one"}
    fails(
        ValueError, "N must satisfy N >= 2 for baseline='k_minus_one'; got N=1", og.advantages, R[:, :1], "mean", **one
    )
    fails(ValueError, "1 <= k <= N; got k=2, N=1", og.advantages, R[:, :1], "max@2", **one)


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rewards_that_are_not_finite(function, bad):
    rewards = R.copy()
    rewards[1, 2] = bad
    fails(
        ValueError,
        "rewards must be finite; got NaN or infinite values (rewards shape (2, 4))",
        function,
        rewards,
        "mean",
    )
    rewards = np.array([np.inf, -np.inf, 1.0, 2.0])  # their sum hides them
    fails(ValueError, "rewards must be finite", function, rewards, "mean")


def test_finite_rewards_whose_sum_overflows():
    rewards = np.array([1.5e308, 1.5e308, 1.4e308, 1.5e308])
    assert np.isfinite(og.advantages(rewards, "max@2", baseline="leave_one_out")).all()
    import torch

    assert torch.isfinite(og.advantages(torch.tensor(rewards), "max@2")).all()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("n", [4, 5000])
@pytest.mark.parametrize("function", [og.advantages, og.value, og.value_and_error])
@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_finite_rewards_whose_difference_overflows(name, function, n):
    """In the kernel, for few and many rewards, and beside it: 2 n times the range must fit the dtype."""
    xp = importlib.import_module(name)
    for dtype in (xp.float64, xp.float32):
        for share in (0.9, 0.26 / n, 0.24 / n):
            size = share * float(xp.finfo(dtype).max)
            rewards = xp.asarray([[*range(n)], [-size, size, *[0.0] * (n - 2)]], dtype=dtype)
            for options in ({}, {"where": xp.asarray([True] * n)}, {"sample_weight": xp.ones(n)}):
                if share * n > 0.25:
                    message = "rewards must lie closer together, or sums of"
                    fails(ValueError, message, function, rewards, "mean", **options)
                else:
                    function(rewards, "mean", **options)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_results_of_large_rewards_that_overflow(name, kernel, dtype, monkeypatch):
    if not kernel:
        monkeypatch.setattr(host, "kernel", lambda: None)
    top = float(np.finfo(dtype).max)
    x = library(name).array([[0.90 * top, 0.91 * top, 0.92 * top, 0.95 * top], [0.0, 1.0, 2.0, 3.0]], dtype)
    three = library(name).array([[True, True, True, False]] * 2, "bool")
    text = "the result must fit "
    for where in (None, three):
        options = {} if where is None else {"where": where}
        for baseline in ("leave_one_out", "k_minus_one"):
            assert np.isfinite(library(name).numpy(og.advantages(x, "max@2", baseline=baseline, **options))).all()
        fails(ValueError, text, og.advantages, x, "max@2", baseline="none", **options)
        fails(ValueError, text, og.rank_advantages, x, 2, baseline="none", **options)
        fails(ValueError, text, og.value, x, "2*max@2", **options)
        fails(ValueError, text, og.include_one, x, "2*max@2", **options)
        fails(ValueError, text, og.advantages, x, "1e9*mean", **options)
    few = og.value(x, "max@4", where=three, small="nan")  # NaN on purpose, not by overflow
    assert np.isnan(library(name).numpy(few)).all()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_factors_of_an_objective_that_overflow(name, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(host, "kernel", lambda: None)
    array = library(name).array
    x, weight = array([0.0, 1.0, 2.0, 3e14], "float32"), array([1.0, 1.0, 2.0, 1.0], "float32")
    everywhere = (og.advantages, og.value, og.value_and_error, og.include_one, og.leave_one_out)
    for objective in ("1e25*mean", "1e25*max@2"):
        for function in everywhere:
            fails(ValueError, "the result must fit", function, x, objective)
            fails(ValueError, "the result must fit", function, x, objective, where=array([True] * 4, "bool"))
        for function in everywhere[:3]:
            fails(ValueError, "the result must fit", function, x, objective, sample_weight=weight)
    assert np.isfinite(library(name).numpy(og.advantages(x, "1e23*cvar:0.5"))).all()


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_errors_of_large_rewards_do_not_overflow(name):
    rewards = np.array([0.0, 1.0, 2.0, 3e20])
    expected = og.value_and_error(rewards, "mean")
    found = og.value_and_error(library(name).array(rewards, "float32"), "mean")
    assert_allclose([float(number) for number in found], expected, rtol=1e-6)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_masked_samples_do_not_count_for_overflow(name, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(host, "kernel", lambda: None)
    top = float(np.finfo("float32").max)
    valid = library(name).array([[True] * 2 + [False] * 62], "bool")
    for share, fits in ((0.24, True), (0.26, False)):
        x = library(name).array([[share * top, *[0.0] * 62, top]], "float32")
        if fits:
            assert_allclose(library(name).numpy(og.advantages(x, "mean", where=valid))[0, :2] / top, [share, -share])
        else:
            fails(ValueError, "rewards must lie closer together", og.advantages, x, "mean", where=valid)


@pytest.mark.parametrize("function", EVERY)
def test_shapes(function):
    fails(ValueError, "at least one sample along axis -1; got shape ()", function, 3.0, "mean")
    fails(ValueError, "at least one sample along axis -1; got shape (0,)", function, [], "mean")
    fails(ValueError, "at least one sample along axis 0; got shape (0, 3)", function, np.zeros((0, 3)), "mean", axis=0)
    fails(
        ValueError, "axis must satisfy -2 <= axis < 2; got axis=2 (rewards shape (2, 4))", function, R, "mean", axis=2
    )
    fails(ValueError, "axis must satisfy -2 <= axis < 2; got axis=-3", function, R, "mean", axis=-3)


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("bad", [[1j, 2.0], np.array([1, 2], object), ["1", "2"], None, np.array([1, 2], "M8[s]")])
def test_rewards_that_are_not_real_numbers(function, bad):
    fails(TypeError, "rewards must be real numbers; got an array of dtype", function, bad, "mean")


@pytest.mark.parametrize("name", ["torch", "jax.numpy"])
def test_complex_rewards_of_other_libraries(name):
    xp = importlib.import_module(name)
    fails(TypeError, "rewards must be real numbers", og.advantages, xp.asarray([1j, 2.0]), "mean")


@pytest.mark.parametrize("function", EVERY)
def test_objectives(function):
    fails(ValueError, "did you mean 'max'?", function, R, "mox@3")
    fails(TypeError, "objective must be a string or an Objective; got int", function, R, 3)
    fails(TypeError, "objective must be a string or an Objective; got NoneType", function, R, None)
    fails(TypeError, "objective must be a string or an Objective; got list", function, R, ["mean"])
    fails(ValueError, "0 < q <= 1", function, R, "cvar:2@3")


@pytest.mark.parametrize("bad", ["loo", "value", "include_one", "excluded", "", None])
@pytest.mark.parametrize("options", [{}, {"where": R < 4}, {"sample_weight": R + 1}])
def test_unknown_baselines_and_policies(bad, options):
    choices = "must be one of leave_one_out, k_minus_one, none; got " + repr(bad)
    fails(ValueError, "baseline " + choices, og.advantages, R, "mean", baseline=bad, **options)
    fails(
        ValueError,
        "small must be one of error, zero, shrink; got " + repr(bad),
        og.advantages,
        R,
        "mean",
        small=bad,
        **options,
    )


@pytest.mark.parametrize("bad", ["zero", "shrnk"])
def test_unknown_policies_of_values(bad):
    for function in EVERY[1:]:
        fails(ValueError, f"small must be one of error, nan, shrink; got {bad!r}", function, R, "mean", small=bad)
    fails(ValueError, "small must be one of error, zero, shrink; got 'nan'", og.advantages, R, "mean", small="nan")


@pytest.mark.parametrize("function", EVERY)
def test_masks(function):
    fails(TypeError, "where must be a mask of bools; got dtype int64", function, R, "mean", where=[1, 1, 1, 0])
    fails(TypeError, "where must be a mask of bools; got dtype float64", function, R, "mean", where=np.ones(4))
    fails(ValueError, "where must be broadcastable to rewards; got shape (3,)", function, R, "mean", where=[True] * 3)
    fails(ValueError, "where must be broadcastable", function, R[0], "mean", where=np.ones((2, 4), bool))
    few = np.array([[True] * 4, [True, False, False, False]])
    fails(ValueError, "where must leave at least", function, R, "max@2", where=few)
    fails(ValueError, "got a group with 1 (rewards shape (2, 4)); small='shrink'", function, R, "max@2", where=few)


@pytest.mark.parametrize("function", EVERY[:3])
def test_importance_weights(function):
    text = "sample_weight must be finite and nonnegative, with a positive sum in every group"
    for bad in ([1, -1, 1, 1], [0, 0, 0, 0], [np.nan, 1, 1, 1], [np.inf, 1, 1, 1], [[1] * 4, [0] * 4]):
        fails(ValueError, text, function, R, "mean", sample_weight=bad)
    fails(ValueError, text, function, R, "mean", sample_weight=[0, 1, 1, 1], where=[True, False, False, False])
    fails(ValueError, "sample_weight must be broadcastable", function, R, "mean", sample_weight=[1, 1, 1])
    fails(ValueError, "got a weight of -2.0 (rewards shape (2, 4))", function, R, "mean", sample_weight=[1, -2, 1, -1])
    fails(ValueError, "got NaN or infinite weights (rewards", function, R, "mean", sample_weight=[1, np.nan, 1, 1])
    fails(ValueError, "got a group of weights 0; small='shrink'", function, R, "mean", sample_weight=[0, 0, 0, 0])
    for bad in (["a"] * 4, [1j] * 4, np.ones(4, object)):
        text = "sample_weight must be real numbers; got an array of dtype"
        fails(TypeError, text, function, R, "mean", sample_weight=bad)
    fails(TypeError, "objective must be a string", function, R, ["mean"], sample_weight=[1, 1, 1, 1])


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("bad", [1.0, None, (0, 1), "0"])
def test_axes_that_are_no_whole_numbers(function, bad):
    fails(TypeError, f"axis must be a whole number; got {bad!r}", function, R, "mean", axis=bad)
    assert_array_equal(function(R, "mean", axis=np.int64(1)), function(R, "mean"))


def test_importance_weights_of_other_libraries_that_are_not_numbers():
    import jax
    import torch

    for x in (torch.tensor(R), jax.numpy.asarray(R)):
        fails(TypeError, "sample_weight must be real numbers; got a", og.value, x, "mean", sample_weight=x * 1j)
    text = "sample_weight must be real numbers; too many dimensions 'str'"
    fails(TypeError, text, og.value, torch.tensor(R), "mean", sample_weight=["a"] * 4)


def test_importance_weights_have_one_baseline():
    for baseline in ("k_minus_one", "none"):
        text = f"sample_weight needs baseline='leave_one_out'; got baseline={baseline!r}"
        fails(ValueError, text, og.advantages, R, "mean", sample_weight=[1, 1, 1, 1], baseline=baseline)


@pytest.mark.parametrize("function", [og.order_statistics, og.rank_advantages])
def test_numbers_of_ranks(function):
    fails(ValueError, "k must satisfy k >= 1; got k=0", function, R, 0)
    for bad in ("a", 1.5, None, True):
        fails(TypeError, "k must be a whole number", function, R, bad)
    fails(ValueError, "got k=5, N=4", function, R, 5)
    assert_array_equal(function(R, np.int64(2)), function(R, 2))


def test_small_groups_as_the_caller_wants():
    """zero and nan leave the other groups alone; shrink lowers the size and keeps the level."""
    mask = np.array([[True] * 4, [True, True, False, False]])
    zero = og.advantages(R, "max@3", where=mask, small="zero")
    assert_array_equal(zero[1], 0)
    assert_allclose(zero[0], og.advantages(R[0], "max@3"))
    nan = og.value(R, "max@3", where=mask, small="nan")
    assert np.isnan(nan[1])
    assert nan[0] == og.value(R[0], "max@3")
    for spec, smaller in [
        ("max@9", "max@3"),
        ("cvar:0.5@9", "cvar:0.5@3"),
        ("top:2@9", "top:2@3"),
        ("max@5.5", "max@3"),
    ]:
        assert_allclose(og.advantages(R, spec, small="shrink"), og.advantages(R, smaller))
        assert_allclose(og.value(R, spec, small="shrink"), og.value(R, smaller.replace("@3", "@4")))
    assert_allclose(og.advantages(R, "max@3.5", small="shrink"), og.advantages(R, "max@3"))
    assert_array_equal(og.advantages(R[:, :1], "max@2", small="zero"), 0)
    assert np.isnan(og.value(R[:, :1], "max@2", small="nan")).all()
    every = np.zeros((2, 4), bool)
    assert_array_equal(og.advantages(R, "max@2", where=every, small="zero"), 0)
    assert_array_equal(og.advantages(R, "mean", where=every, small="shrink"), 0)


@pytest.mark.parametrize(
    ("spec", "n"),
    [
        ("mean-0.5*gini", 2),
        ("mean+lmoment:4", 4),
        ("weights:0:1:0", 3),
        ("max@8", 2),
        ("min@2.5", 2),
        ("top:2@8", 3),
        ("bottom:3@8", 4),
        ("rank:2@8", 3),
        ("topbottom:1@8", 3),
        ("midrange@8", 3),
        ("0.9*mean+0.1*top:2@8", 3),
        ("mean", 1),
        ("cvar:0.1", 1),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_shrinking_never_makes_another_objective(spec, n, masked):
    """A group in which a term would count all ranks, or is too small for its weights, has no advantages."""
    rewards = np.array([3.0, -1.0, 4.0, 1.0, -5.0])
    options = {"where": np.arange(5) < n} if masked else {}
    rewards = rewards if masked else rewards[:n]
    assert_array_equal(og.advantages(rewards, spec, small="shrink", **options), 0)
    for function in (og.value_and_error, og.leave_one_out):
        found = function(rewards, spec, small="shrink", **options)
        assert np.isnan(np.asarray(found[-1] if function is og.value_and_error else found[:n])).all()
    ids = ["small"] * n + ["large"] * 40
    together = og.group_advantages(np.append(rewards[:n], np.arange(40.0)), ids, spec, small="shrink")
    assert_array_equal(together[:n], 0)
    assert together[n:].any()


@pytest.mark.parametrize(("spec", "n"), [("gini", 1), ("lmoment:4", 3), ("top:2@8", 2), ("max@8", 1)])
def test_values_that_would_be_of_another_objective_are_nan(spec, n):
    rewards = np.arange(n, dtype=float)
    assert np.isnan(og.value(rewards, spec, small="shrink"))
    assert np.isnan(og.value(np.arange(9.0), spec, where=np.arange(9) < n, small="shrink"))


def test_masked_arrays_are_refused():
    masked = np.ma.masked_array([1.0, 2.0, 3.0], mask=[False, True, False])
    fails(
        TypeError,
        "masked arrays are not supported: pass rewards.data, and where=~rewards.mask",
        og.advantages,
        masked,
        "mean",
    )


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_results_that_overflow_the_dtype_of_the_rewards(name):
    x = library(name).array([0.0] * 15 + [1e4], "float16")
    text = f"the result must fit {x.dtype}, the dtype of the rewards; got a number above"
    fails(ValueError, text, og.advantages, x, "max@8")
    fails(ValueError, text, og.value, x, "40*max@8")
    fails(ValueError, text, og.include_one, x, "40*max@8")
    assert np.isfinite(library(name).numpy(og.advantages(x, "0.1*max@8"))).all()


def test_large_float32_rewards_always_have_the_same_outcome():
    x = np.array([3e37, -3e37, 0, 5], np.float32)
    for _ in range(50):
        fails(ValueError, "rewards must lie closer together", og.advantages, x, "max@2")
        fails(ValueError, "rewards must lie closer together", og.value, x, "max@2")


def sparse_and_others():
    import scipy.sparse
    import torch
    from jax.experimental import sparse

    rows = [torch.ones(2), torch.ones(3)]
    dense = torch.eye(3)
    sparse_torch = "rewards must be dense; got a tensor of layout torch.sparse_{}: pass rewards.to_dense()"
    nested = "nested tensors are not supported: pass torch.nested.to_padded_tensor(rewards, 0.0) and a mask"
    return {
        "csr_matrix": (scipy.sparse.csr_matrix(np.eye(3)), "sparse arrays are not supported: pass rewards.toarray()"),
        "coo_array": (scipy.sparse.coo_array(np.eye(3)), "sparse arrays are not supported: pass rewards.toarray()"),
        "BCOO": (sparse.BCOO.fromdense(np.eye(3)), "sparse arrays are not supported: pass rewards.todense()"),
        "sparse_coo": (dense.to_sparse(), sparse_torch.format("coo")),
        "sparse_csr": (dense.to_sparse_csr(), sparse_torch.format("csr")),
        "nested": (torch.nested.nested_tensor(rows), nested),
        "jagged": (torch.nested.nested_tensor(rows, layout=torch.jagged), nested),
        "masked": (torch.masked.as_masked_tensor(dense, dense > 0), "masked tensors are not supported: pass rewards."),
        "quantized": (torch.quantize_per_tensor(dense, 0.1, 0, torch.quint8), "rewards must be real numbers; got a"),
    }


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("function", [*EVERY, lambda x, o: og.group_advantages(x, [0, 0, 1], o)])
def test_arrays_that_cannot_be_served_say_what_to_pass(function):
    for x, text in sparse_and_others().values():
        fails(TypeError, text, function, x, "mean")


class DTensor:
    """By name and module, as making one needs a process group."""


DTensor.__module__ = "torch.distributed.tensor"


class Lazy:
    pass


Lazy.__module__ = "dask.array.core"


class Pydata:
    pass


Pydata.__module__ = "sparse.numba_backend._coo.core"


@pytest.mark.parametrize(
    ("kind", "text"),
    [(DTensor, "pass rewards.full_tensor()"), (Lazy, "pass rewards.compute()"), (Pydata, "pass rewards.todense()")],
)
def test_kinds_known_by_their_module(kind, text):
    for _ in range(2):
        fails(TypeError, text, og.advantages, kind(), "mean")


def test_symbolic_tracing():
    import torch

    with pytest.raises(TypeError, match=r"torch.fx.symbolic_trace cannot look inside: .* torch.fx.wrap"):
        torch.fx.symbolic_trace(lambda x: og.advantages(x, "mean"))


def test_lists_of_different_lengths():
    fails(ValueError, "rewards must have groups of one size; got a list", og.advantages, [[1.0, 2.0], [3.0]], "mean")
