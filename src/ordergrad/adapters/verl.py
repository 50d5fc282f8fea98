r"""verl: a registered advantage estimator, found by verl itself.

    python3 -m verl.trainer.main_ppo algorithm.adv_estimator=ordergrad +algorithm.ordergrad.objective=top:2@4 ...

The group is the responses to one prompt: verl's uid, `actor_rollout_ref.rollout.n` of them. Rewards are the sums of
verl's `token_level_rewards`, and each response's advantage stands at every one of its response tokens. Generation,
losses, logging, checkpoints and placement are verl's own.

Under the keys of ``algorithm.ordergrad``: `objective`, and `scale`, `small` and `group` as in
`ordergrad.adapters.completions.completion_advantages`.

verl finds this module by the entry point group ``verl.plugins`` when it is imported; ``ordergrad_verl`` is what it
loads, so that a failure is not passed over in silence. Settings are checked where verl checks its own, before Ray
starts; see `check` and `departures`.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
    Sheng et al. (2024). HybridFlow. arXiv 2409.19256. (verl)
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (verl leaves many of its types open)

import functools
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ordergrad.extras import extra
from ordergrad.objectives import Objective
from ordergrad.spec import parse

with extra("verl"):
    import torch
    import verl.utils.config
    from omegaconf import open_dict
    from verl.trainer.ppo.core_algos import register_adv_est

    from ordergrad.adapters.completions import (
        Group,
        Scale,
        SmallGroups,
        check_fits,
        check_options,
        completion_advantages,
        sessions,
    )

__all__ = ["Settings", "advantages", "check", "departures", "session_rows", "settings"]

_N = "actor_rollout_ref.rollout.n"


class Settings(NamedTuple):
    """The keys of ``algorithm.ordergrad``."""

    objective: Objective
    scale: Scale = "none"
    small: SmallGroups = "zero"
    group: Group = "prompt"


def settings(algorithm: Any) -> Settings:
    """Return what a verl configuration says under ``algorithm.ordergrad``.

    Args:
        algorithm: verl's ``config.algorithm``: a `DictConfig`, an `AlgoConfig` or a mapping.

    Raises:
        ValueError: The objective is missing or unknown, or another key or its value is.
    """
    given = algorithm.get("ordergrad", None) if algorithm is not None else None
    if not given or not given.get("objective", None):
        raise ValueError("adv_estimator=ordergrad needs an objective, such as +algorithm.ordergrad.objective=top:2@4")
    options: dict[str, Any] = {str(name): given[name] for name in given}
    unknown = sorted(options.keys() - set(Settings._fields))
    if unknown:
        raise ValueError(f"algorithm.ordergrad takes {', '.join(Settings._fields)}; got {', '.join(unknown)}")
    chosen = Settings(parse(options.pop("objective")), **options)
    check_options(chosen.scale, chosen.small, chosen.group, "algorithm.ordergrad.")
    return chosen


@register_adv_est("ordergrad")
def advantages(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: NDArray[Any] | Sequence[Any] | None = None,
    config: Any = None,
    *,
    batch_keys: Sequence[str] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the advantages of an objective, in the form of verl's advantage estimators.

    NaN and infinite rewards are left out of the ranks, get advantage 0 and are counted in a warning. A group of one,
    and the rows with which verl pads a batch, get 0. Several rows of one session (an agent loop with several outputs)
    count as one: its last output is ranked, and all its rows get that advantage.

    Args:
        token_level_rewards: Rewards of the tokens, shape (rows, T). Their sum over T is ranked.
        response_mask: 1 for the tokens of the response that the policy wrote, shape (rows, T).
        index: The group of every row, verl's uid.
        config: verl's ``config.algorithm``.
        batch_keys: verl's keys ``uid_session_output`` of the rows. Without them they are looked for in verl's frame.

    Returns:
        Advantages and returns, both of shape (rows, T): the row's advantage times the mask.

    Raises:
        ValueError: There is no `index`, a setting is wrong, or K is not below the size of any group.
    """
    chosen = settings(config)
    if index is None:
        raise ValueError("adv_estimator=ordergrad needs the uid of every row to form groups; got none")
    rewards = token_level_rewards.detach().sum(-1, dtype=torch.float32).cpu().numpy()
    ranked, row_of = session_rows(batch_keys or _batch_keys(), len(rewards))
    uids = np.array(index, dtype=object)
    if chosen.group == "batch":  # so that the rows that pad a batch are groups of one, which are not ranked
        padding = np.flatnonzero((response_mask == 0).all(-1).cpu().numpy())
        uids[padding] = [f"padding {row}" for row in padding]
    a = completion_advantages(
        rewards[ranked],
        uids[ranked],
        chosen.objective,
        small=chosen.small,
        scale=chosen.scale,
        group=chosen.group,
        size_name=_N,
    )
    column = torch.as_tensor(a[row_of], dtype=token_level_rewards.dtype, device=token_level_rewards.device)[:, None]
    spread = column * response_mask
    return spread, spread


def check(config: Any) -> None:
    """Raise ValueError for settings that cannot work, and warn of each that changes what is optimised.

    Runs before Ray starts, as part of verl's own `validate_config`. Does nothing for other estimators. Where
    ``algorithm.filter_groups`` is enabled for the metric ``reward``, it makes the samplers of
    `ordergrad.adapters.verl_sampling` verl's custom sampler, so that groups are filtered by their advantages.

    Args:
        config: verl's whole configuration.
    """
    if config.algorithm.adv_estimator != "ordergrad":
        return
    chosen = settings(config.algorithm)
    if chosen.small == "zero":
        prompts = config.data.train_batch_size if chosen.group == "batch" else 1
        name = _N if chosen.group == "prompt" else f"data.train_batch_size * {_N}"
        check_fits(chosen.objective, prompts * config.actor_rollout_ref.rollout.n, name)
    _filter_by_objective(config, chosen)
    for sentence in departures(config):
        warnings.warn(sentence, stacklevel=2)


def _filter_by_objective(config: Any, chosen: Settings) -> None:
    groups, v1 = config.algorithm.get("filter_groups", None), config.trainer.get("v1", None)
    if v1 is None or not groups or not groups.get("enable", False) or groups.get("metric", None) != "reward":
        return
    sampler, synchronous = v1.sampler, v1.trainer_mode == "sync"
    if sampler.custom_sampler.get("path", None) or chosen.group == "batch":
        return
    buffer: dict[str, Any] = {"sync_refill_failed_groups": bool(sampler.get("sync_refill_failed_groups", False))}
    if synchronous:
        buffer["train_batch_size"] = config.data.train_batch_size
        buffer["gen_batch_size"] = 1  # what verl sets for filtered groups
        buffer["max_inflight_gen_batches"] = groups.get("max_inflight_gen_batches", 1)
    own = {"objective": str(chosen.objective), "small": chosen.small, "buffer": buffer}
    with open_dict(sampler):
        sampler.custom_sampler.path = "pkg://ordergrad.adapters.verl_sampling"
        sampler.custom_sampler.name = "ObjectiveReplayBuffer" if synchronous else "ObjectiveReplayBufferAsync"
        sampler.sampler_kwargs = {**(sampler.get("sampler_kwargs", None) or {}), "ordergrad": own}


def session_rows(keys: Sequence[str] | None, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the last row of every session and, for every row, the index of its session.

    Args:
        keys: verl's keys ``uid_session_output`` of the rows. Without them every row is a session of its own.
        rows: The number of rows.

    Example:
        >>> session_rows(["a_0_0", "a_1_0", "a_0_1"], 3)                            # doctest: +SKIP
        (array([2, 1]), array([0, 1, 0]))
    """
    if keys is None:
        return np.arange(rows), np.arange(rows)
    if len(keys) != rows:
        raise ValueError(f"batch_keys must have one key per row; got {len(keys)} keys for {rows} rows")
    parts = [key.rpartition("_") for key in keys]
    return sessions([session for session, _, _ in parts], [int(output) for _, _, output in parts])


def departures(config: Any) -> list[str]:
    """Return one sentence for every setting of a verl configuration that changes what is optimised.

    Args:
        config: verl's whole configuration.
    """
    return list(_departures(config))


def _departures(config: Any) -> Iterator[str]:
    algorithm, actor, rollout = config.algorithm, config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    mode = actor.loss_agg_mode
    if mode == "seq-mean-token-mean":
        yield (
            f"actor.loss_agg_mode={mode} divides each response's term by its length, so short responses count more "
            "than the objective says; token-mean and seq-mean-token-sum do not."
        )
    if mode == "seq-mean-token-sum-norm" and actor.get("loss_scale_factor", None) is None:
        yield (
            f"actor.loss_agg_mode={mode} without actor.loss_scale_factor divides each micro-batch by its own padded "
            "length, so those with long responses count less; set loss_scale_factor to a constant."
        )
    loss = (actor.get("policy_loss", None) or {}).get("loss_mode", "vanilla")
    if loss != "vanilla":
        yield f"actor.policy_loss.loss_mode={loss} was not compared with the exact gradient; 'vanilla' was."
    if actor.ppo_epochs > 1 or actor.ppo_mini_batch_size < config.data.train_batch_size:
        yield (
            f"actor.ppo_epochs={actor.ppo_epochs} and actor.ppo_mini_batch_size={actor.ppo_mini_batch_size} with "
            f"data.train_batch_size={config.data.train_batch_size} take several steps on one batch with clipped "
            "ratios, so only the first has the exact gradient."
        )
    if algorithm.use_kl_in_reward:
        yield "algorithm.use_kl_in_reward ranks the rewards less the KL penalty instead of the rewards."
    if actor.use_kl_loss:
        yield "actor.use_kl_loss subtracts the KL divergence to the reference model from the objective."
    if actor.entropy_coeff:
        yield f"actor.entropy_coeff={actor.entropy_coeff} adds the entropy per token to the objective."
    groups = algorithm.get("filter_groups", None) or {}
    if groups.get("enable", False) and groups.get("metric", None) != "reward":
        yield (
            f"algorithm.filter_groups.metric={groups.get('metric', None)} drops groups by the standard deviation of "
            "that metric; 'reward' drops those without a signal under the objective."
        )
    if groups.get("enable", False) and algorithm.ordergrad.get("group", "prompt") == "batch":
        yield (
            "algorithm.filter_groups drops prompts, by the standard deviation of their rewards, before completions are "
            "ranked among the batch."
        )
    correction = algorithm.get("rollout_correction", None) or {}
    if correction.get("rollout_rs", None):
        yield "algorithm.rollout_correction.rollout_rs leaves responses out of the loss that are ranked."
    plain = {"temperature": (1, 1.0), "top_p": (1, 1.0), "top_k": (-1, 0)}
    changed = [f"{name}={rollout[name]}" for name, usual in plain.items() if rollout.get(name, usual[0]) not in usual]
    if changed:
        yield (
            f"rollout {', '.join(changed)} samples from another distribution than the model's; temperature alone makes "
            "the policy at that temperature the one that is optimised, truncation biases the gradient."
        )


def _batch_keys() -> list[str] | None:
    """Return the keys of the rows in verl's trainer, or None outside of it.

    verl treats the rows of a session as one for GRPO only; other estimators are not told which rows belong together.
    The keys that say so are an argument of the function, further up the stack, that makes that choice.
    """
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if frame.f_code.co_name == "compute_advantage_for_multi_trajectories":
            return list(frame.f_locals["batch_keys"])
        frame = frame.f_back
    return None


def _with_check(validate: Any) -> Any:
    @functools.wraps(validate)
    def validate_config(config: Any, *args: Any, **kwargs: Any) -> Any:
        check(config)
        return validate(config, *args, **kwargs)

    return validate_config


verl.utils.config.validate_config = _with_check(verl.utils.config.validate_config)
