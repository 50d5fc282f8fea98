"""A few lines for each trainer that needs no adapter of its own.

Each recipe is a plain function with the signature that its trainer calls or replaces; `docs/adapters/recipes.md` shows
where it goes. None of them imports its trainer.
"""

# pyright: reportUnknownMemberType=false
# (torch leaves the type of unique open)

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ordergrad.adapters.completions import check_fits, completion_advantages, groups_with_signal, sessions
from ordergrad.extras import extra
from ordergrad.objectives import Objective

with extra("torch"):
    import torch

__all__ = [
    "areal_rewards",
    "art_rewards",
    "nemo_rl_estimator",
    "openrlhf_advantages",
    "prime_rl_advantages",
    "rlinf_advantages",
    "rllm_estimator",
    "roll_rewards",
    "slime_filter",
    "slime_rewards",
    "swift_advantages",
    "tinker_advantages",
]


def slime_rewards(args: Any, samples: Sequence[Any], **_: Any) -> tuple[list[float], list[float]]:
    """Return the raw rewards and the advantages of samples of slime or miles: ``--custom-reward-post-process-path``.

    The objective is ``args.ordergrad_objective`` (a line of the ``--custom-config-path`` file), or the environment
    variable ``ORDERGRAD_OBJECTIVE``. Samples with the same `rollout_id` are parts of one rollout: its last sample is
    ranked, and all of them get its advantage.

    Args:
        args: The trainer's arguments.
        samples: Samples with `group_index` and `get_reward_value`, and perhaps `rollout_id`.

    Raises:
        ValueError: The objective is missing, its K is not below ``n_samples_per_prompt``, or a sample has no group.
    """
    raw, ranked, row_of = _rollouts(args, samples)
    groups = [samples[i].group_index for i in ranked]
    if None in groups:
        raise ValueError(f"samples must have a group_index; got None for {groups.count(None)} of {len(groups)}")
    a = completion_advantages(
        raw[ranked],
        groups,
        _slime_objective(args),
        group_size=getattr(args, "n_samples_per_prompt", None),
        size_name="n_samples_per_prompt",
    )
    return raw.tolist(), a[row_of].tolist()


def slime_filter(args: Any, samples: Sequence[Any], **_: Any) -> bool:
    """Return whether to keep a group of slime's or miles' samples: ``--dynamic-sampling-filter-path``.

    Kept are groups with a nonzero advantage under the objective of `slime_rewards`.

    Args:
        args: The trainer's arguments.
        samples: The samples of one prompt; a rollout of several samples may be a list of them.
    """
    flat: list[Any] = []
    for item in samples:
        flat += item if isinstance(item, list) else [item]
    raw, ranked, _all = _rollouts(args, flat)
    return any(groups_with_signal(raw[ranked], [0] * len(ranked), _slime_objective(args)).values())


def _slime_objective(args: Any) -> str:
    objective = getattr(args, "ordergrad_objective", None) or os.environ.get("ORDERGRAD_OBJECTIVE")
    if not objective:
        raise ValueError("set ordergrad_objective in --custom-config-path, or the variable ORDERGRAD_OBJECTIVE")
    return objective


def _rollouts(args: Any, samples: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the rewards of samples, the last sample of every rollout, and for every sample its rollout's index."""
    ids = [getattr(sample, "rollout_id", None) for sample in samples]
    ranked, row_of = sessions([("row", i) if rollout is None else rollout for i, rollout in enumerate(ids)])
    return np.array([sample.get_reward_value(args) for sample in samples], dtype=np.float64), ranked, row_of


def openrlhf_advantages(objective: str | Objective) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator for OpenRLHF's `RemoteExperienceMaker.compute_advantages_and_returns`.

    OpenRLHF's own function runs first, with its length penalties and metrics; then its advantages are replaced. A KL
    penalty in the reward stays a term of every token and is not ranked. ``reward.clip_range``, which OpenRLHF applies
    to rewards after it has subtracted their baseline, has no effect.

    Args:
        objective: What to optimise.
    """

    def decorate(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def compute_advantages_and_returns(self: Any, experiences: list[Any]) -> list[Any]:
            n = self.strategy.args.rollout.n_samples_per_prompt
            divergences: list[torch.Tensor] = [experience.kl for experience in experiences]
            experiences = original(self, experiences)
            rewards = torch.cat([experience.rewards for experience in experiences])
            prompts = [i // n for experience in experiences for i in experience.index]
            a = completion_advantages(
                _on_host(rewards), prompts, objective, group_size=n, size_name="n_samples_per_prompt"
            )
            parts = np.split(a, np.cumsum([len(experience.index) for experience in experiences])[:-1])
            for experience, part, kl in zip(experiences, parts, divergences, strict=True):
                column = torch.as_tensor(part, dtype=kl.dtype, device=kl.device)[:, None]
                penalties = -max(self.kl_ctl.value, 0.0) * kl
                penalties = self.get_cumulative_returns(penalties, experience.action_mask, 1.0)
                experience.advantages = (column + penalties) * experience.action_mask
                experience.returns = experience.advantages.clone()
            return experiences

        return compute_advantages_and_returns

    return decorate


def nemo_rl_estimator(objective: str | Objective) -> Callable[[Any], Any]:
    """Return a function to replace `_create_advantage_estimator` of NeMo-RL's GRPO.

    Groups are the rows with equal prompts, as for NeMo-RL's own estimators.

    Args:
        objective: What to optimise.

    Returns:
        A function from NeMo-RL's configuration, whose ``grpo.num_generations_per_prompt`` K is checked against, to an
        object with `compute_advantage`.
    """

    class Estimator:
        def __init__(self, master_config: Any) -> None:
            self.group_size = int(master_config.grpo["num_generations_per_prompt"])
            check_fits(objective, self.group_size, "grpo.num_generations_per_prompt")

        def compute_advantage(
            self, prompt_ids: torch.Tensor, rewards: torch.Tensor, mask: torch.Tensor, **_: Any
        ) -> torch.Tensor:
            rows = prompt_ids.reshape(len(rewards), -1)
            prompts = cast("torch.Tensor", torch.unique(rows, dim=0, return_inverse=True)[1]).cpu().numpy()
            a = completion_advantages(_on_host(rewards), prompts, objective, group_size=self.group_size)
            return _like(a, rewards)[:, None].expand(mask.shape)

    return Estimator


def prime_rl_advantages(objective: str | Objective, group_size: int) -> Callable[[Sequence[Any]], list[float]]:
    """Return the advantages of one group of prime-rl, for the method `score_group` of an algorithm.

    Args:
        objective: What to optimise.
        group_size: prime-rl's ``group_size``, which K is checked against. A group that lost so many rollouts to errors
            that K no longer fits gets 0.

    Returns:
        A function from traces (or, before prime-rl 0.8.1, rollouts) with a `reward` to their advantages.
    """
    check_fits(objective, group_size, "group_size")

    def score(traces: Sequence[Any]) -> list[float]:
        rewards = [trace.reward for trace in traces]
        return completion_advantages(rewards, [0] * len(rewards), objective, group_size=group_size).tolist()

    return score


def areal_rewards(objective: str | Objective, group_size: int) -> Callable[..., torch.Tensor]:
    """Return a function for the attribute `reward_norm` of AReaL's `PPOActor`.

    Args:
        objective: What to optimise.
        group_size: ``gconfig.n_samples``. AReaL keeps the completions of one prompt together.

    Returns:
        A function from the rewards of whole groups, shape (M,), to their advantages, float32.
    """
    check_fits(objective, group_size, "gconfig.n_samples")

    def reward_norm(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        a = completion_advantages(_on_host(x), np.arange(len(x)) // group_size, objective, group_size=group_size)
        return torch.as_tensor(a, dtype=torch.float32, device=x.device)

    return reward_norm


def roll_rewards(objective: str | Objective) -> Callable[[Any, Any, Any], tuple[Any, dict[str, float]]]:
    """Return a function to replace `reward_postprocess` in ROLL's RLVR pipelines.

    Args:
        objective: What to optimise.

    Returns:
        A function that puts the advantages of a batch into ``response_level_rewards``. It raises ValueError for
        settings with which ROLL would change them afterwards.
    """

    def reward_postprocess(data: Any, pipeline_config: Any, running_ctrl: Any) -> tuple[Any, dict[str, float]]:
        needed = {"adv_estimator": "reinforce", "whiten_advantages": False, "whiten_rewards": False}
        needed |= {"reward_clip": None, "advantage_clip": None, "gamma": 1}
        wrong = {name: getattr(pipeline_config, name, need) for name, need in needed.items()}
        wrong = {name: got for name, got in wrong.items() if got != needed[name]}
        for name, got in wrong.items():
            raise ValueError(f"{name} must be {needed[name]}; got {got}")
        n = pipeline_config.actor_infer.generating_args.num_return_sequences
        rewards = data.batch["response_level_rewards"]
        groups = np.arange(len(rewards)) // n
        a = completion_advantages(_on_host(rewards), groups, objective, group_size=n, size_name="num_return_sequences")
        data.batch["response_level_rewards"] = _like(a, rewards)
        return data, {}

    return reward_postprocess


def rlinf_advantages(objective: str | Objective) -> Callable[..., tuple[torch.Tensor, None]]:
    """Return a function to register with RLinf's `register_advantage`, under the name ``grpo``.

    Args:
        objective: What to optimise.

    Returns:
        A function from the scores of whole groups, shape (groups, group size), and the mask, shape (steps, M), to
        advantages of the mask's shape.
    """

    def compute_advantages(
        rewards: torch.Tensor, loss_mask: torch.Tensor, group_size: int, **_: Any
    ) -> tuple[torch.Tensor, None]:
        scores = rewards.reshape(-1)
        groups = np.arange(len(scores)) // group_size
        a = completion_advantages(
            _on_host(scores), groups, objective, group_size=group_size, size_name="algorithm.group_size"
        )
        return _like(a, rewards)[None] * loss_mask, None

    return compute_advantages


def tinker_advantages(objective: str | Objective) -> Callable[[Sequence[Any]], list[torch.Tensor]]:
    """Return a function to replace `compute_advantages` of the Tinker cookbook.

    Args:
        objective: What to optimise.

    Returns:
        A function from trajectory groups, which have `get_total_rewards`, to one tensor of advantages for each.
    """

    def compute_advantages(trajectory_groups_P: Sequence[Any]) -> list[torch.Tensor]:  # noqa: N803
        groups = [np.asarray(group.get_total_rewards(), dtype=np.float64) for group in trajectory_groups_P]
        return [torch.tensor(a, dtype=torch.float32) for a in _by_group(groups, objective)]

    return compute_advantages


def art_rewards(trajectory_groups: Sequence[Any], objective: str | Objective) -> None:
    """Replace the rewards of ART's trajectories by the advantages of an objective.

    Advantages sum to zero in each group, so ART's own centring changes nothing; its scaling has to be off. The true
    rewards are kept in ``trajectory.metrics["reward"]``.

    Args:
        trajectory_groups: Groups with `trajectories`, which have `reward` and `metrics`. Changed in place.
        objective: What to optimise.
    """
    groups = [list(group.trajectories) for group in trajectory_groups]
    rewards = [np.array([trajectory.reward for trajectory in group], dtype=np.float64) for group in groups]
    for group, advantages in zip(groups, _by_group(rewards, objective), strict=True):
        for trajectory, a in zip(group, advantages.tolist(), strict=True):
            trajectory.metrics["reward"] = trajectory.reward
            trajectory.reward = a


def swift_advantages(objective: str | Objective) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Return a function to replace `compute_advantages` of ms-swift's GRPO trainers.

    A completion that no reward function scored is left out of the ranks.

    Args:
        objective: What to optimise.

    Returns:
        A function from the rewards of each reward function, shape (M, functions), and their weights to advantages and
        rewards, shape (M,).
    """

    def compute_advantages(
        rewards_per_func: torch.Tensor,
        reward_weights: torch.Tensor,
        num_generations: int,
        *_: Any,
        kl_in_reward: bool = False,
        beta: float = 0.0,
        kl_values: torch.Tensor | None = None,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rewards = (rewards_per_func * reward_weights).nansum(1)
        if kl_in_reward and kl_values is not None:
            rewards = rewards - beta * kl_values
        ranked = rewards.masked_fill(rewards_per_func.isnan().all(1), torch.nan).double().cpu().numpy()
        groups = np.arange(len(ranked)) // num_generations
        a = completion_advantages(ranked, groups, objective, size_name="num_generations")
        return _like(a, rewards), rewards

    return compute_advantages


def rllm_estimator(
    objective: str | Objective,
) -> Callable[..., tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]]:
    """Return an estimator for rLLM's `register_adv_estimator`.

    Args:
        objective: What to optimise.

    Returns:
        A function from one array of rewards per trajectory group to advantages and returns of the same shapes.
    """

    def estimator(rewards: Sequence[NDArray[Any]], *_: Any, **__: Any) -> tuple[Any, Any]:
        a = _by_group(rewards, objective)
        return a, a

    return estimator


def _by_group(groups: Sequence[NDArray[Any]], objective: str | Objective) -> list[NDArray[np.float64]]:
    sizes = [len(group) for group in groups]
    if not sum(sizes):
        return [np.zeros(0) for _ in groups]
    a = completion_advantages(np.concatenate(groups), np.repeat(np.arange(len(groups)), sizes), objective)
    return np.split(a, np.cumsum(sizes)[:-1])


def _like(a: NDArray[np.float64], rewards: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(a, dtype=rewards.dtype, device=rewards.device)


def _on_host(rewards: torch.Tensor) -> NDArray[Any]:
    """Return rewards as an array; its dtype says how finely they can differ."""
    return rewards.detach().to(torch.promote_types(rewards.dtype, torch.float32)).cpu().numpy()
