"""The recipes: each called as its trainer calls it, with stand-ins of what the trainer passes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ordergrad as og
from ordergrad.adapters.recipes import (
    art_rewards,
    rllm_estimator,
    slime_filter,
    slime_rewards,
    swift_advantages,
    tinker_advantages,
)

SIZES = [6, 5, 8]
GROUPS = [np.random.default_rng(i).normal(size=n) for i, n in enumerate(SIZES)]
FLAT = np.concatenate(GROUPS)
IDS = np.repeat(np.arange(3), SIZES)
EXPECTED = og.group_advantages(FLAT, IDS, "top:2@4")


def slime_sample(reward: float, group: int | None, rollout: int | None = None) -> SimpleNamespace:
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


def test_slime_filter_keeps_groups_with_a_signal_under_the_objective() -> None:
    args = SimpleNamespace(ordergrad_objective="max@2", n_samples_per_prompt=4)
    assert not slime_filter(args, [slime_sample(r, 0) for r in (1.0, 1.0, 1.0, 0.0)])
    assert slime_filter(args, [slime_sample(r, 0) for r in (1.0, 1.0, 0.0, 0.0)])
    assert not slime_filter(args, [slime_sample(r, 0) for r in (0.1 + 0.2, 0.3, 0.3, 0.3)])
    nested = [[slime_sample(0.0, 0, 1), slime_sample(1.0, 0, 1)], *(slime_sample(1.0, 0, i) for i in (2, 3, 4))]
    assert not slime_filter(args, nested, evaluation=False)  # the last samples of the rollouts are all 1


def test_slime_samples_without_a_group_are_an_error() -> None:
    with pytest.raises(ValueError, match="must have a group_index; got None for 2 of 2"):
        slime_rewards(SimpleNamespace(ordergrad_objective="mean"), [slime_sample(1.0, None), slime_sample(0.0, None)])


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
