"""Flat rewards with ids: any hashable ids, any order, errors that name the group."""

import numpy as np
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


def test_strings_are_sequences_of_ids():
    assert_array_equal(
        og.group_advantages(REWARDS, "baaabba", "mean"), og.group_advantages(REWARDS, list("baaabba"), "mean")
    )


@given(st.lists(st.integers(0, 4), max_size=30))
def test_members_are_every_position_once(ids):
    members = group_members(ids)
    assert sorted(np.concatenate([m.ravel() for m in members]).tolist() if members else []) == list(range(len(ids)))
    for rows in members:
        for row in rows:
            assert len({ids[i] for i in row}) == 1
            assert ids.count(ids[row[0]]) == len(row)
            assert (np.diff(row) > 0).all()


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
    assert og.group_advantages(np.zeros(0), [], "mean").shape == (0,)


def test_errors_name_the_group():
    with pytest.raises(ValueError, match=r"group 'b': k must satisfy 1 <= k < N; got k=2, N=2"):
        og.group_advantages([1.0, 2.0, 3.0, 4.0, 5.0], ["a", "a", "a", "b", "b"], "max@2")
    with pytest.raises(ValueError, match=r"got k=1, N=1"):
        og.group_advantages([1.0, 2.0, 3.0], [7, 7, 8], "mean")
    with pytest.raises(ValueError, match="finite"):
        og.group_advantages([1.0, np.nan], [0, 0], "mean")


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
    with pytest.raises(TypeError, match="unhashable"):
        og.group_advantages([1.0, 2.0], [[0], [0]], "mean")
    with pytest.raises(ValueError, match="baseline must be one of"):
        og.group_advantages([1.0, 2.0], [0, 0], "mean", baseline="loo")


def test_many_small_groups_are_few_calls(monkeypatch):
    """One for each distinct size."""
    from ordergrad import groups

    shapes = []
    monkeypatch.setattr(groups, "advantages", lambda x, *a, **k: shapes.append(x.shape) or og.advantages(x, *a, **k))
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.repeat(np.arange(2000), rng.integers(3, 8, 2000)))
    a = og.group_advantages(rng.normal(size=len(ids)), ids, "max@2")
    assert sorted(n for _, n in shapes) == [3, 4, 5, 6, 7]
    assert_allclose(np.bincount(ids, a), 0, atol=1e-12)
