"""Flat rewards with ids: any hashable ids, any order, errors that name the group."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import ordergrad as og
from ordergrad.groups import group_members

IDS = [
    [3, 1, 3, 1, 1, 3, 1],
    ["b", "a", "b", "a", "a", "b", "a"],
    [("b", 1), ("a", 0), ("b", 1), ("a", 0), ("a", 0), ("b", 1), ("a", 0)],
    [None, "a", None, "a", "a", None, "a"],
    np.array([3, 1, 3, 1, 1, 3, 1]),
    np.array(["b", "a", "b", "a", "a", "b", "a"]),
    np.array(["b", 1, "b", 1, 1, "b", 1], object),
    np.array([0.5, 1.5, 0.5, 1.5, 1.5, 0.5, 1.5]),
    [True, False, True, False, False, True, False],
]
REWARDS = np.array([1.0, 5.0, -2.0, 0.0, 3.0, 4.0, 2.5])


@pytest.mark.parametrize("ids", IDS, ids=repr)
def test_any_hashable_ids(ids):
    first = np.array([0, 2, 5])
    second = np.array([1, 3, 4, 6])
    expected = np.zeros(7)
    for rows in (first, second):
        expected[rows] = og.advantages(REWARDS[rows], "cvar:0.5")
    assert_array_equal(og.group_advantages(REWARDS, ids, "cvar:0.5"), expected)


class OnDevice:
    """Ids that NumPy cannot read where they lie, like a tensor on a GPU."""

    def __init__(self, ids):
        self._ids = np.asarray(ids)
        self.shape = self._ids.shape

    def __len__(self):
        return len(self._ids)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert a device tensor to numpy")

    def cpu(self):
        return self._ids


def test_ids_on_a_device_are_taken_to_the_host():
    expected = og.group_advantages(REWARDS, IDS[0], "cvar:0.5")
    assert_array_equal(og.group_advantages(REWARDS, OnDevice(IDS[0]), "cvar:0.5"), expected)
    import torch

    assert_array_equal(og.group_advantages(REWARDS, torch.tensor(IDS[0]), "cvar:0.5"), expected)


def test_strings_are_sequences_of_ids():
    assert_array_equal(
        og.group_advantages(REWARDS, "baaabba", "mean"), og.group_advantages(REWARDS, list("baaabba"), "mean")
    )


@given(st.lists(st.integers(0, 4), max_size=30))
def test_members_are_every_position_once(ids):
    order, sizes = group_members(ids)
    assert sorted(order.tolist()) == list(range(len(ids)))
    for rows in np.split(order, np.cumsum(sizes)[:-1]) if ids else []:
        assert len({ids[i] for i in rows}) == 1
        assert ids.count(ids[rows[0]]) == len(rows)
        assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", "int64"])
def test_whole_ids_of_any_range(dtype):
    info = np.iinfo(dtype)
    ids = np.array([info.max, info.min, info.max, info.max - 1, info.min, info.max], dtype)
    assert_array_equal(group_members(ids)[0], group_members(ids.tolist())[0][[3, 4, 5, 0, 1, 2]])


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), min_size=1, max_size=25),
    st.sampled_from(["zero", "shrink"]),
)
def test_each_group_on_its_own(pairs, small):
    ids, rewards = zip(*pairs, strict=True)
    got = og.group_advantages([float(r) for r in rewards], ids, "max@3", small=small)
    for g in set(ids):
        rows = [i for i, own in enumerate(ids) if own == g]
        own = og.advantages(np.array([rewards[i] for i in rows], float), "max@3", small=small)
        assert_allclose(got[rows], own, atol=1e-13)


def test_masks_and_weights_follow_their_samples():
    ids = [0, 1, 0, 1, 0, 1, 0, 1]
    rewards, weight = np.arange(8.0) ** 2, np.arange(1.0, 9.0)
    mask = np.array([True] * 7 + [False])
    got = og.group_advantages(rewards, ids, "max@2", where=mask)
    assert got[7] == 0
    assert_allclose(got[[1, 3, 5]], og.advantages(rewards[[1, 3, 5]], "max@2"))
    got = og.group_advantages(rewards, ids, "max@2", sample_weight=weight)
    assert_allclose(got[::2], og.advantages(rewards[::2], "max@2", sample_weight=weight[::2]))


def test_no_rewards():
    for options in ({}, {"baseline": "k_minus_one", "small": "zero"}, {"sample_weight": []}):
        assert og.group_advantages(np.zeros(0, np.float32), [], "max@3", **options).shape == (0,)


def test_no_rewards_do_not_hide_bad_arguments():
    with pytest.raises(ValueError, match="names no known objective"):
        og.group_advantages([], [], "nonsense")
    with pytest.raises(ValueError, match="baseline must be one of"):
        og.group_advantages([], [], "mean", baseline="x")
    with pytest.raises(ValueError, match="small must be one of"):
        og.group_advantages([], [], "mean", small="x")


def test_errors_name_the_group():
    with pytest.raises(ValueError, match=r"group 'b': k must satisfy 1 <= k < N; got k=2, N=2"):
        og.group_advantages([1.0, 2.0, 3.0, 4.0, 5.0], ["a", "a", "a", "b", "b"], "max@2")
    with pytest.raises(ValueError, match=r"got k=1, N=1"):
        og.group_advantages([1.0, 2.0, 3.0], [7, 7, 8], "mean")
    with pytest.raises(ValueError, match="finite"):
        og.group_advantages([1.0, np.nan], [0, 0], "mean")


def test_series_of_pandas_and_polars():
    """Whatever their index and their own dtypes."""
    names, rows = ["b", "a", "b", "a", "a", "b", "a"], [6, 5, 4, 3, 2, 1, 0]
    expected = og.group_advantages(REWARDS, names, "cvar:0.5")
    rewards = [
        pd.Series(REWARDS, index=rows),
        pd.Series(REWARDS, index=rows, dtype="Float64"),
        pl.Series(REWARDS),
    ]
    for series in rewards:
        for ids in (names, pd.Series(names, index=rows), pl.Series(names)):
            assert_array_equal(og.group_advantages(series, ids, "cvar:0.5"), expected)
        assert_array_equal(og.advantages(series, "max@3"), og.advantages(REWARDS, "max@3"))
        assert og.value(series, "max@3") == og.value(REWARDS, "max@3")
    assert og.advantages(pd.Series(REWARDS, dtype="float32"), "max@3").dtype == np.float32
    assert_array_equal(og.advantages(pl.Series([1, 0, 5]), "mean"), og.advantages([1, 0, 5], "mean"))


@pytest.mark.parametrize("series", [pd.Series, pl.Series])
def test_errors_name_the_group_of_a_series_by_its_place(series):
    ids = pd.Series(["a", "b", "a", "c"], index=[3, 2, 1, 7]) if series is pd.Series else series(["a", "b", "a", "c"])
    with pytest.raises(ValueError, match="group 'b': k must satisfy 1 <= k < N; got k=1, N=1"):
        og.group_advantages(np.arange(4.0), ids, "mean")


@pytest.mark.parametrize("ids", [[0, 0], [0] * 4, []])
def test_lengths(ids):
    with pytest.raises(ValueError, match=r"rewards must have one entry per group id, shape \(\d,\); got shape \(3,\)"):
        og.group_advantages([1.0, 2.0, 3.0], ids, "mean")


def test_shapes_of_everything_beside_the_rewards():
    for name in ("where", "sample_weight"):
        with pytest.raises(ValueError, match=f"{name} must have one entry per group id"):
            og.group_advantages([1.0, 2.0], [0, 0], "mean", **{name: [True]})
    with pytest.raises(ValueError, match="rewards must have one entry per group id"):
        og.group_advantages(np.zeros((2, 2)), [0, 0], "mean")
    with pytest.raises(ValueError, match="group_ids must have one axis"):
        og.group_advantages([1.0, 2.0], np.zeros((2, 1)), "mean")
    with pytest.raises(TypeError, match=r"group_ids must be hashable: .*unhashable type: 'list'"):
        og.group_advantages([1.0, 2.0], [[0], [0]], "mean")
    for bad, kind in ((None, "NoneType"), (3, "int"), (iter([0, 0]), "list_iterator")):
        with pytest.raises(TypeError, match=f"group_ids must be a sequence of ids; got {kind}"):
            og.group_advantages([1.0, 2.0], bad, "mean")
    with pytest.raises(ValueError, match="baseline must be one of"):
        og.group_advantages([1.0, 2.0], [0, 0], "mean", baseline="loo")
    with pytest.raises(TypeError, match="where must be a mask of bools"):
        og.group_advantages([1.0, 2.0], [0, 0], "mean", where=[1, 0])


@pytest.fixture
def without_kernel(monkeypatch):
    monkeypatch.setattr("ordergrad.backends.host.kernel", lambda: None)


@pytest.mark.usefixtures("without_kernel")
def test_many_groups_of_many_sizes_are_few_calls(monkeypatch):
    """A class for each size up to 16, eight for each octave above."""
    from ordergrad import groups

    calls = []
    together = groups._together
    monkeypatch.setattr(groups, "_together", lambda *a: calls.append(a[-1]) or together(*a))
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 257, 1000)
    ids = rng.permutation(np.repeat(np.arange(1000), sizes))
    rewards = rng.normal(size=len(ids))
    a = og.group_advantages(rewards, ids, "max@2")
    assert len(calls) <= 14 + 4 * 8
    assert all(own.max() <= 1.125 * own.min() for own in calls)
    assert sum(len(own) for own in calls) == 1000
    assert_allclose(np.bincount(ids, a), 0, atol=1e-11)
    for g in range(0, 1000, 50):
        assert_allclose(a[ids == g], og.advantages(rewards[ids == g], "max@2"), atol=1e-12)


@pytest.mark.parametrize("small", ["error", "zero", "shrink"])
@pytest.mark.parametrize("baseline", ["leave_one_out", "k_minus_one", "none"])
@pytest.mark.parametrize("spec", ["cvar:0.3", "max@3", "mean"])
def test_padded_groups_equal_groups_alone(without_kernel, spec, baseline, small):
    rng = np.random.default_rng(1)
    ids = rng.permutation(np.repeat(np.arange(30), rng.integers(4 if small == "error" else 1, 40, 30)))
    rewards, mask = rng.normal(size=len(ids)), rng.random(len(ids)) < 0.9
    for where in (None, mask | (small == "error")):
        a = og.group_advantages(rewards, ids, spec, where=where, baseline=baseline, small=small)
        for g in range(30):
            own = {} if where is None else {"where": where[ids == g]}
            alone = og.advantages(rewards[ids == g], spec, baseline=baseline, small=small, **own)
            assert_allclose(a[ids == g], alone, atol=1e-12)


@pytest.mark.usefixtures("without_kernel")
def test_errors_find_the_group_among_padded_ones():
    ids = np.repeat(np.arange(100), np.arange(100) % 60 + 40)
    rewards = np.random.default_rng(0).normal(size=len(ids))
    with pytest.raises(ValueError, match=r"group np.int64\(0\): k must satisfy 1 <= k < N; got k=40, N=40"):
        og.group_advantages(rewards, ids, "max@40")
    rewards[ids == 77] = np.inf
    with pytest.raises(ValueError, match=r"group np.int64\(77\): rewards must be finite"):
        og.group_advantages(rewards, ids, "max@4")
