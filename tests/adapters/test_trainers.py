"""The recipes under the trainers' own functions, executed from their source: importing them needs a GPU or much more.

Each test skips where its trainer is not installed. What a test passes in is what the trainer's own code passes in.
"""

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sources import executed

import ordergrad as og
from ordergrad.adapters.recipes import (
    areal_rewards,
    nemo_rl_estimator,
    openrlhf_advantages,
    prime_rl_advantages,
    rlinf_advantages,
    roll_rewards,
    slime_rewards,
)

N = 8
REWARDS = torch.as_tensor(np.random.default_rng(0).normal(size=(3, N))).float()
EXPECTED = og.advantages(REWARDS.double(), "top:2@4")
RLOO = og.advantages(REWARDS.double(), "mean")
MASK = torch.arange(6) < torch.as_tensor(np.random.default_rng(1).integers(1, 7, 3 * N))[:, None]
close = functools.partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6, check_dtype=False)


# ------------------------------------------------------------------------------------------------------------ OpenRLHF


def experiences(kl: float) -> list[SimpleNamespace]:
    """Return the shuffled completions as two micro-batches, as OpenRLHF's workers return them."""
    order = torch.as_tensor(np.random.default_rng(2).permutation(3 * N))
    return [
        SimpleNamespace(
            index=part.tolist(),
            rewards=REWARDS.flatten()[part],
            action_mask=MASK[part],
            kl=kl * MASK[part].float(),
            info={},
            values=None,
        )
        for part in order.split(14)
    ]


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_openrlhf(kl: float) -> None:
    penalties = executed("openrlhf.models.utils", "compute_reward", torch=torch)
    maker = executed(
        "openrlhf.trainer.ppo_utils.experience_maker",
        "RemoteExperienceMaker.compute_advantages_and_returns",
        "RemoteExperienceMaker.get_cumulative_returns",
        torch=torch,
        itertools=itertools,
        logger=logging.getLogger(),
        apply_length_penalties=lambda experiences, args: None,
        compute_reward=penalties.compute_reward,
    )
    algo = SimpleNamespace(advantage=SimpleNamespace(estimator="rloo", gamma=1.0, lambd=1.0, no_std_norm=True))
    args = SimpleNamespace(
        rollout=SimpleNamespace(n_samples_per_prompt=N), algo=algo, reward=SimpleNamespace(clip_range=(-10, 10))
    )
    self = SimpleNamespace(
        strategy=SimpleNamespace(args=args), kl_ctl=SimpleNamespace(value=0.1), advantage_estimator="rloo"
    )
    self.get_cumulative_returns = functools.partial(maker.get_cumulative_returns, self)
    theirs = maker.compute_advantages_and_returns(self, experiences(kl))
    same = openrlhf_advantages("mean")(maker.compute_advantages_and_returns)(self, experiences(kl))
    for own, other in zip(same, theirs, strict=True):
        close(own.advantages, other.advantages * other.action_mask)
    ours = openrlhf_advantages("top:2@4")(maker.compute_advantages_and_returns)(self, experiences(0.0))
    for batch in ours:
        close(batch.advantages, EXPECTED.flatten()[batch.index][:, None] * batch.action_mask)
        assert torch.equal(batch.returns, batch.advantages)
        assert "group_reward_std" in batch.info
    with pytest.raises(ValueError, match="k < n_samples_per_prompt; got k=8"):
        openrlhf_advantages("max@8")(maker.compute_advantages_and_returns)(self, experiences(0.0))


# ------------------------------------------------------------------------------------------------------------- NeMo-RL


def test_nemo_rl() -> None:
    baseline = executed("nemo_rl.algorithms.utils", "calculate_baseline_and_std_per_prompt", torch=torch)
    own = executed(
        "nemo_rl.algorithms.advantage_estimator", "GRPOAdvantageEstimator", torch=torch, **vars(baseline)
    ).GRPOAdvantageEstimator({"use_leave_one_out_baseline": True, "normalize_rewards": False}, None)
    config = SimpleNamespace(grpo={"num_generations_per_prompt": N})
    order = torch.as_tensor(np.random.default_rng(2).permutation(3 * N))
    batch = {
        "prompt_ids": torch.tensor([[5, 7, 0], [5, 8, 0], [6, 7, 1]]).repeat_interleave(N, 0)[order],
        "rewards": REWARDS.flatten()[order],
        "mask": MASK.float(),
        "repeated_batch": None,
        "logprobs_policy": None,
        "logprobs_reference": None,
    }
    close(nemo_rl_estimator("mean")(config).compute_advantage(**batch), own.compute_advantage(**batch))
    found = nemo_rl_estimator("top:2@4")(config).compute_advantage(**batch)
    close(found, EXPECTED.flatten()[order][:, None].expand(MASK.shape))
    with pytest.raises(ValueError, match=r"k < grpo\.num_generations_per_prompt; got k=8"):
        nemo_rl_estimator("max@8")(config)


# ------------------------------------------------------------------------------------------------------------ prime-rl


def trace(reward: float) -> SimpleNamespace:
    nodes = [
        SimpleNamespace(mask=[False] * 3, token_ids=[1, 2, 3], advantages=None),
        SimpleNamespace(mask=[True, True], token_ids=[4, 5], advantages=None),
    ]
    agent = SimpleNamespace(trainable=True)
    return SimpleNamespace(reward=reward, nodes=nodes, id="t", has_error=False, agent=agent)


def test_prime_rl() -> None:
    routing = executed("prime_rl.orchestrator.algo.routing", "assign_advantages", "is_trainable", vf=None)
    base = executed("prime_rl.orchestrator.algo.base", "iter_trainable_traces", vf=None)
    own = executed(
        "prime_rl.orchestrator.algo.max_rl",
        "MaxRLAlgorithm",
        torch=torch,
        Algorithm=object,
        iter_trainable_traces=base.iter_trainable_traces,
        assign_advantages=routing.assign_advantages,
    ).MaxRLAlgorithm()

    def scored(rewards: list[float], objective: str) -> list[list[float]]:
        traces = [trace(reward) for reward in rewards]
        for one, a in zip(traces, prime_rl_advantages(objective, N)(traces), strict=True):
            routing.assign_advantages(one, a)
        return [one.nodes[1].advantages for one in traces]

    binary = [1.0, 0, 0, 1, 0, 0, 0, 0]
    theirs = [trace(reward) for reward in binary]
    asyncio.run(own.score_group([SimpleNamespace(traces=[one]) for one in theirs]))
    np.testing.assert_allclose(scored(binary, "maxrl"), [one.nodes[1].advantages for one in theirs], rtol=1e-6)
    found = scored(REWARDS[0].tolist(), "top:2@4")
    np.testing.assert_allclose(found, EXPECTED[0][:, None].expand(-1, 2), rtol=1e-6)
    lost = scored(REWARDS[0, :3].tolist(), "top:2@4")  # errors left three rollouts
    assert not np.any(lost)
    without = [trace(reward) for reward in (1.0, 1.0, 1.0, 0.0)]
    for one, a in zip(without, prime_rl_advantages("max@2", 4)(without), strict=True):
        routing.assign_advantages(one, a)
    assert not any(routing.is_trainable(one) for one in without)  # prime-rl drops them itself


# --------------------------------------------------------------------------------------------------------------- AReaL


def test_areal() -> None:
    dist = SimpleNamespace(is_initialized=lambda: False)
    normalization = executed("areal.utils.data", "Normalization", torch=torch, np=np, dist=dist).Normalization
    levels = {"mean_level": "group", "mean_leave1out": True, "std_level": None, "std_unbiased": True}
    own = normalization(SimpleNamespace(**levels, group_size=N, eps=1e-5))
    close(areal_rewards("mean", N)(REWARDS.flatten()), own(REWARDS.flatten()))
    actor = executed("areal.trainer.ppo.actor", "PPOActor._compute_advantages", torch=torch)
    config = SimpleNamespace(overlong_reward_penalty=False, use_decoupled_loss=False, recompute_logprob=False)
    self = SimpleNamespace(
        config=config,
        reward_bias=0.0,
        reward_scaling=1.0,
        reward_clip=20.0,
        reward_norm=areal_rewards("top:2@4", N),
        adv_norm=None,
        kl_ctl=0.0,
        kl_estimator=lambda a, b: torch.zeros_like(a),
        mask_no_eos_with_zero=False,
        discount=1.0,
        gae_lambda=1.0,
    )
    lengths = MASK.sum(1)
    attention = torch.arange(9) < lengths[:, None] + 2  # prompts of two tokens
    loss = attention & (torch.arange(9) >= 2)
    batch = {
        "input_ids": torch.zeros(3 * N, 9, dtype=torch.int64),
        "attention_mask": attention,
        "loss_mask": loss,
        "rewards": REWARDS.flatten(),
        "logprobs": torch.zeros(3 * N, 9),
    }
    out: dict[str, Any] = actor._compute_advantages(self, batch)
    close(out["advantages"] * out["loss_mask"], EXPECTED.flatten()[:, None] * out["loss_mask"])
    with pytest.raises(ValueError, match=r"k < gconfig\.n_samples; got k=8"):
        areal_rewards("max@8", N)


# ---------------------------------------------------------------------------------------------------------------- ROLL


def test_roll() -> None:
    config = SimpleNamespace(
        adv_estimator="reinforce",
        reward_clip=None,
        norm_mean_type="group",
        norm_std_type=None,
        actor_infer=SimpleNamespace(generating_args=SimpleNamespace(num_return_sequences=N)),
    )
    own = executed("roll.utils.functionals", "reward_norm", "reward_postprocess", torch=torch)
    theirs, _ = own.reward_postprocess(data(), config, {})
    mean, metrics = roll_rewards("mean")(data(), config, {})
    assert metrics == {}
    close(mean.batch["response_level_rewards"] * (N - 1) / N, theirs.batch["response_level_rewards"])
    found, _ = roll_rewards("top:2@4")(data(), config, {})
    close(found.batch["response_level_rewards"], EXPECTED.flatten())
    returns = executed("roll.utils.functionals", "compute_reinforce_return", torch=torch).compute_reinforce_return
    tokens = torch.zeros(3 * N, 6)
    tokens[torch.arange(3 * N), MASK.sum(1) - 1] = found.batch["response_level_rewards"]
    close(returns(tokens, 1.0, 1.0)[0] * MASK, EXPECTED.flatten()[:, None] * MASK)


def data() -> SimpleNamespace:
    return SimpleNamespace(batch={"response_level_rewards": REWARDS.flatten().clone()})


# --------------------------------------------------------------------------------------------------------------- miles


def test_miles() -> None:
    own = executed(
        "miles.ray.rollout.train_data_conversion",
        "_post_process_rewards",
        "_normalize_rewards_by_rollout",
        "_reward_group_segments",
        torch=torch,
    )
    args = SimpleNamespace(
        advantage_estimator="grpo",
        rewards_normalization=True,
        grpo_std_normalization=False,
        n_samples_per_prompt=N,
        ordergrad_objective="mean",
    )
    samples = [
        SimpleNamespace(get_reward_value=lambda args, r=r: r, group_index=i // N, rollout_id=None, index=i)
        for i, r in enumerate(REWARDS.flatten().tolist())
    ]
    theirs = own._post_process_rewards(args, samples, None, None)
    raw, mean = own._post_process_rewards(args, samples, slime_rewards, None)
    assert raw == theirs[0]
    np.testing.assert_allclose(np.array(mean) * (N - 1) / N, theirs[1], rtol=1e-5, atol=1e-6)
    args.ordergrad_objective = "top:2@4"
    _, found = own._post_process_rewards(args, samples, slime_rewards, None)
    np.testing.assert_allclose(found, EXPECTED.flatten(), rtol=1e-6)


# --------------------------------------------------------------------------------------------------------------- RLinf


@pytest.mark.parametrize("task", ["reasoning", "embodied"])
def test_rlinf(task: str) -> None:
    helpers = (
        "preprocess_embodied_advantages_inputs",
        "preprocess_reasoning_advantages_inputs",
        "calculate_scores",
        "postprocess_embodied_advantages_outputs",
        "postprocess_reasoning_advantages_outputs",
    )
    registry = executed(
        "rlinf.algorithms.registry",
        "register_advantage",
        "get_adv_and_returns",
        "calculate_adv_and_returns",
        torch=torch,
        wraps=functools.wraps,
        Callable=Callable,
        ADV_REGISTRY={},
        **vars(executed("rlinf.algorithms.utils", *helpers, torch=torch)),
    )
    own = executed(
        "rlinf.algorithms.advantages",
        "compute_grpo_advantages",
        torch=torch,
        register_advantage=registry.register_advantage,
    )
    batch: dict[str, Any] = {"task_type": task, "adv_type": "grpo", "group_size": N}
    if task == "reasoning":
        batch |= {"rewards": REWARDS.flatten(), "loss_mask": MASK}
    else:
        rewards = torch.zeros(4, 3 * N, 1)
        rewards[-1, :, 0] = REWARDS.flatten()
        dones = torch.zeros(5, 3 * N, 1, dtype=torch.bool)
        dones[-1] = True
        mask = torch.ones(4, 3 * N, 1)
        batch |= {"rewards": rewards, "dones": dones, "loss_mask": mask, "reward_type": "chunk_level"}
    theirs = registry.calculate_adv_and_returns(**batch)
    assert own.compute_grpo_advantages
    registry.register_advantage("grpo")(rlinf_advantages("top:2@4"))
    found = registry.calculate_adv_and_returns(**batch)
    if task == "reasoning":
        assert found[0].shape == theirs[0].shape
        close(found[0], EXPECTED.flatten()[:, None] * MASK)
    else:
        assert found["advantages"].shape == theirs["advantages"].shape
        close(found["advantages"], EXPECTED.flatten()[None, :, None] * mask)
