"""The recipes: each called as its framework calls it, with stand-ins of what the framework passes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ordergrad as og
from ordergrad.adapters.recipes import (
    art_rewards,
    check_fits,
    completion_advantages,
    rllm_estimator,
    sessions,
    slime_rewards,
    swift_advantages,
    tinker_advantages,
)

SIZES = [6, 5, 8]
GROUPS = [np.random.default_rng(i).normal(size=n) for i, n in enumerate(SIZES)]
FLAT = np.concatenate(GROUPS)
IDS = np.repeat(np.arange(3), SIZES)
EXPECTED = og.group_advantages(FLAT, IDS, "top:2@4")


# -------------------------------------------------------------------------------------------- completion_advantages


@pytest.mark.parametrize("objective", ["top:2@4", "mean", "cvar:0.25", "maxrl"])
def test_completion_advantages_are_group_advantages(objective: str) -> None:
    order = np.random.default_rng(0).permutation(len(FLAT))
    found = completion_advantages(FLAT[order], IDS[order], objective)
    np.testing.assert_allclose(found, og.group_advantages(FLAT[order], IDS[order], objective), rtol=1e-12)


def test_group_ids_may_be_anything_hashable() -> None:
    for ids in ([("prompt", i) for i in IDS], [str(i) for i in IDS], np.array([f"u{i}" for i in IDS], dtype=object)):
        np.testing.assert_allclose(completion_advantages(FLAT, ids, "top:2@4"), EXPECTED, rtol=1e-12)


def test_unscorable_rewards_are_left_out_of_the_ranks() -> None:
    rewards = [*FLAT[:-3].tolist(), None, float("nan"), float("inf")]
    found = completion_advantages(rewards, IDS, "top:2@4")
    np.testing.assert_allclose(found[:-3], og.group_advantages(FLAT[:-3], IDS[:-3], "top:2@4"), rtol=1e-12)
    assert not found[-3:].any()


def test_small_groups() -> None:
    rewards, ids = [1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 1.0, 9.0], [0, 0, 0, 0, 0, 1, 1, 2]
    found = completion_advantages(rewards, ids, "top:2@4")
    assert found[:5].any()
    assert not found[5:].any()
    np.testing.assert_allclose(completion_advantages(rewards, ids, "top:2@4", small="shrink")[5:], 0)
    np.testing.assert_allclose(completion_advantages(rewards, ids, "cvar:0.5@4", small="shrink")[5:], [-1, 1, 0])
    assert not completion_advantages([1.0, 2.0], ["a", "b"], "max@1", small="shrink").any()
    assert len(completion_advantages([], [], "top:2@4")) == 0


def test_scale_divides_by_the_standard_deviation() -> None:
    grouped = completion_advantages(FLAT, IDS, "mean", scale="group")
    grpo = np.concatenate([(g - g.mean()) / (g.std(ddof=1) + 1e-6) for g in GROUPS])
    np.testing.assert_allclose(grouped, grpo, rtol=1e-5)
    batched = completion_advantages(FLAT, IDS, "top:2@4", scale="batch")
    np.testing.assert_allclose(batched, EXPECTED / np.sqrt((EXPECTED**2).sum() / (len(FLAT) - 3)), rtol=1e-5)
    assert not completion_advantages([1.0, 1.0, 1.0], [0, 0, 0], "mean", scale="group").any()
    with_nan = completion_advantages([*GROUPS[0], np.nan], [0] * 7, "mean", scale="group")
    np.testing.assert_allclose(with_nan[:6], grpo[:6], rtol=1e-5)


def test_errors() -> None:
    with pytest.raises(ValueError, match="k < the group size; got k=8, the group size=8 for max@8"):
        completion_advantages(FLAT, IDS, "max@8")
    with pytest.raises(ValueError, match="small must be one of zero, shrink"):
        completion_advantages(FLAT, IDS, "mean", small="error")
    with pytest.raises(ValueError, match="scale must be one of"):
        completion_advantages(FLAT, IDS, "mean", scale="std")
    with pytest.raises(ValueError, match="no known objective"):
        completion_advantages(FLAT, IDS, "avg")
    with pytest.raises(ValueError, match="objective must have a nonzero term"):
        completion_advantages(FLAT, IDS, "max@2-max@2")
    check_fits("max@7", 8, "n")


def test_sessions_take_the_last_row() -> None:
    ranked, row_of = sessions(["b", "a", "b", "c", "a"], [1, 0, 0, 5, 1])
    assert ranked.tolist() == [0, 4, 3]
    assert row_of.tolist() == [0, 1, 0, 2, 1]
    ranked, row_of = sessions(["x", "y"])
    assert (ranked.tolist(), row_of.tolist()) == ([0, 1], [0, 1])


# ---------------------------------------------------------------------------------------------------------- recipes


def slime_sample(reward: float, group: int, rollout: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(get_reward_value=lambda args: reward, group_index=group, rollout_id=rollout)


def test_slime(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [slime_sample(r, g) for r, g in zip(FLAT.tolist(), IDS.tolist(), strict=True)]
    raw, advantages = slime_rewards(SimpleNamespace(ordergrad_objective="top:2@4"), samples)
    assert raw == FLAT.tolist()
    np.testing.assert_allclose(advantages, EXPECTED, rtol=1e-12)
    monkeypatch.setenv("ORDERGRAD_OBJECTIVE", "top:2@4")
    assert slime_rewards(SimpleNamespace(), samples)[1] == advantages
    monkeypatch.delenv("ORDERGRAD_OBJECTIVE")
    with pytest.raises(ValueError, match="ordergrad_objective"):
        slime_rewards(SimpleNamespace(), samples)
    with pytest.raises(ValueError, match="k < n_samples_per_prompt"):
        slime_rewards(SimpleNamespace(ordergrad_objective="max@8"), samples)


def test_slime_counts_a_rollout_of_several_samples_once() -> None:
    samples = [
        slime_sample(r, g, rollout)
        for rollout, (r, g) in enumerate(zip(FLAT.tolist(), IDS.tolist(), strict=True))
        for _ in range(1 + rollout % 3)
    ]
    _, advantages = slime_rewards(SimpleNamespace(ordergrad_objective="top:2@4"), samples)
    np.testing.assert_allclose(advantages, np.repeat(EXPECTED, [1 + i % 3 for i in range(len(FLAT))]), rtol=1e-12)


def test_tinker() -> None:
    groups = [SimpleNamespace(get_total_rewards=lambda g=g: g.tolist()) for g in GROUPS]
    found = tinker_advantages("top:2@4")(groups)
    assert [a.dtype for a in found] == [torch.float32] * 3
    assert [len(a) for a in found] == SIZES
    np.testing.assert_allclose(torch.cat(found), EXPECTED, rtol=1e-5, atol=1e-6)
    assert not tinker_advantages("mean")(groups[:1])[0].sum().abs() > 1e-6
    assert tinker_advantages("mean")([]) == []


def test_art_centring_changes_nothing() -> None:
    groups = [SimpleNamespace(trajectories=[SimpleNamespace(reward=r, metrics={}) for r in g.tolist()]) for g in GROUPS]
    art_rewards(groups, "top:2@4")
    trajectories = [t for group in groups for t in group.trajectories]
    assert [t.metrics["reward"] for t in trajectories] == FLAT.tolist()
    of_art = [
        t.reward - np.mean([u.reward for u in group.trajectories]) for group in groups for t in group.trajectories
    ]
    np.testing.assert_allclose(of_art, EXPECTED, rtol=1e-9, atol=1e-12)


def test_swift() -> None:
    per_function = torch.tensor(np.random.default_rng(0).normal(size=(16, 2)))
    per_function[3, 0] = torch.nan
    per_function[9] = torch.nan
    weights = torch.tensor([1.0, 0.5], dtype=torch.float64)
    named = {"advantage_estimator": "grpo", "scale_rewards": "group", "kl_in_reward": False, "beta": 0.04}
    a, rewards = swift_advantages("top:2@4")(
        rewards_per_func=per_function, reward_weights=weights, num_generations=8, kl_values=None, **named
    )
    expected = (per_function * weights).nansum(1)
    torch.testing.assert_close(rewards, expected)
    valid = torch.arange(16) != 9
    torch.testing.assert_close(a, og.group_advantages(expected, np.repeat([0, 1], 8), "top:2@4", where=valid))
    assert a[9] == 0
    kl = torch.rand(16, dtype=torch.float64)
    _, less = swift_advantages("mean")(per_function, weights, 8, kl_in_reward=True, beta=0.1, kl_values=kl)
    torch.testing.assert_close(less, expected - 0.1 * kl)
    with pytest.raises(ValueError, match="k < num_generations"):
        swift_advantages("max@8")(per_function, weights, 8)


def test_rllm() -> None:
    estimator = rllm_estimator("top:2@4")
    a, returns = estimator(rewards=GROUPS, algorithm_config=None, traj_groups=[])
    assert [len(x) for x in a] == SIZES
    np.testing.assert_allclose(np.concatenate(a), EXPECTED, rtol=1e-12)
    np.testing.assert_array_equal(np.concatenate(returns), np.concatenate(a))
