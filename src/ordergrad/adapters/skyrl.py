r"""SkyRL: a registered advantage estimator, and an entry point whose configuration knows the objective.

    python -m skyrl.train.entrypoints.main_base trainer.override_entrypoint=ordergrad.adapters.skyrl \
        trainer.algorithm.ordergrad.objective=top:2@4 ...

The group is the responses to one prompt: `generator.n_samples_per_prompt` of them. Rewards are the sums of SkyRL's
token-level rewards, and each response's advantage stands at every one of its response tokens. With
``generator.step_wise_trajectories=true`` SkyRL itself ranks the last step of each trajectory and gives its advantage to
all steps. Everything else is SkyRL's own.

SkyRL's configuration accepts only fields that it knows, hence the entry point. A program with an entry point of its own
imports this module and uses `OrderGradAlgorithmConfig`, or another algorithm configuration with a field `ordergrad`.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUntypedFunctionDecorator=false
# (SkyRL leaves many of its types open)

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ordergrad.extras import extra
from ordergrad.spec import parse

with extra("skyrl"):
    import ray
    import torch
    from skyrl.backends.skyrl_train.utils.ppo_utils import register_advantage_estimator
    from skyrl.train.config.config import AlgorithmConfig, BaseConfig, SkyRLTrainConfig, TrainerConfig

    from ordergrad.adapters.completions import (
        Group,
        Scale,
        SmallGroups,
        check_fits,
        check_options,
        completion_advantages,
    )

__all__ = [
    "OrderGradAlgorithmConfig",
    "OrderGradConfig",
    "OrderGradTrainConfig",
    "OrderGradTrainerConfig",
    "advantages",
    "check",
    "departures",
    "main",
]

_N = "generator.n_samples_per_prompt"


@dataclass
class OrderGradConfig(BaseConfig):
    """The fields of ``trainer.algorithm.ordergrad``.

    Attributes:
        objective: What to optimise, such as ``top:2@4``.
        scale: As in `ordergrad.adapters.completions.completion_advantages`.
        small: As in `ordergrad.adapters.completions.completion_advantages`.
        group: As in `ordergrad.adapters.completions.completion_advantages`.
    """

    objective: str = ""
    scale: str = "none"
    small: str = "zero"
    group: str = "prompt"


@dataclass
class OrderGradAlgorithmConfig(AlgorithmConfig):
    """SkyRL's algorithm configuration with `ordergrad`, and that estimator as the default."""

    advantage_estimator: str = "ordergrad"
    ordergrad: OrderGradConfig = field(default_factory=OrderGradConfig)


@dataclass
class OrderGradTrainerConfig(TrainerConfig):
    """SkyRL's trainer configuration with `OrderGradAlgorithmConfig`."""

    algorithm: OrderGradAlgorithmConfig = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=OrderGradAlgorithmConfig
    )


@dataclass
class OrderGradTrainConfig(SkyRLTrainConfig):
    """SkyRL's configuration with `OrderGradAlgorithmConfig`."""

    trainer: OrderGradTrainerConfig = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=OrderGradTrainerConfig
    )


@register_advantage_estimator("ordergrad")
def advantages(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: NDArray[Any] | Sequence[Any],
    config: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the advantages of an objective, in the form of SkyRL's advantage estimators.

    NaN and infinite rewards are left out of the ranks, get advantage 0 and are counted in a warning. A group of one,
    such as the rows with which SkyRL pads a batch, gets 0.

    Args:
        token_level_rewards: Rewards of the tokens, shape (rows, T). Their sum over T is ranked.
        response_mask: 1 for the tokens of the response, shape (rows, T).
        index: The group of every row, SkyRL's uids.
        config: SkyRL's ``trainer.algorithm`` configuration, with a field `ordergrad`.

    Returns:
        Advantages and returns, both of shape (rows, T): the row's advantage times the mask.

    Raises:
        ValueError: A setting is missing or wrong, or K is not below the size of any group.
    """
    chosen = _settings(config)
    a = completion_advantages(
        token_level_rewards.detach().sum(-1, dtype=torch.float32).cpu().numpy(),
        np.asarray(index),
        chosen.objective,
        small=cast("SmallGroups", chosen.small),
        scale=cast("Scale", chosen.scale),
        group=cast("Group", chosen.group),
        size_name=_N,
    )
    column = torch.as_tensor(a, dtype=token_level_rewards.dtype, device=token_level_rewards.device)[:, None]
    spread = column * response_mask
    return spread, spread


def check(config: Any) -> None:
    """Raise ValueError for settings that cannot work, and warn of each that changes what is optimised.

    Does nothing for other estimators.

    Args:
        config: SkyRL's whole configuration.
    """
    if config.trainer.algorithm.advantage_estimator != "ordergrad":
        return
    chosen = _settings(config.trainer.algorithm)
    if chosen.small == "zero":
        prompts = config.trainer.train_batch_size if chosen.group == "batch" else 1
        name = _N if chosen.group == "prompt" else f"trainer.train_batch_size * {_N}"
        check_fits(chosen.objective, prompts * config.generator.n_samples_per_prompt, name)
    for sentence in departures(config):
        warnings.warn(sentence, stacklevel=2)


def departures(config: Any) -> list[str]:
    """Return one sentence for every setting of a SkyRL configuration that changes what is optimised.

    Args:
        config: SkyRL's whole configuration.
    """
    return list(_departures(config))


def main() -> None:
    """Run SkyRL's training with the configuration given on the command line: `OrderGradTrainConfig`."""
    from skyrl.train.entrypoints.main_base import skyrl_entrypoint
    from skyrl.train.utils.utils import initialize_ray, validate_cfg

    config = OrderGradTrainConfig.from_cli_overrides(
        [argument for argument in sys.argv[1:] if not argument.startswith("trainer.override_entrypoint=")]
    )
    check(config)
    validate_cfg(config)
    initialize_ray(config)
    ray.get(cast("Any", skyrl_entrypoint).remote(config))


def _settings(algorithm: Any) -> OrderGradConfig:
    chosen = getattr(algorithm, "ordergrad", None)
    if chosen is None or not chosen.objective:
        raise ValueError(
            "advantage_estimator=ordergrad needs an objective: trainer.override_entrypoint=ordergrad.adapters.skyrl "
            "and trainer.algorithm.ordergrad.objective=top:2@4"
        )
    parse(chosen.objective)
    check_options(chosen.scale, chosen.small, chosen.group, "algorithm.ordergrad.")
    return chosen


def _departures(config: Any) -> Iterator[str]:
    trainer, generator = config.trainer, config.generator
    algorithm, sampling = trainer.algorithm, generator.sampling_params
    reduction = algorithm.loss_reduction
    if reduction in ("sequence_mean", "prompt_mean", "token_mean_legacy"):
        part = {"sequence_mean": "response", "prompt_mean": "prompt", "token_mean_legacy": "micro-batch"}[reduction]
        yield (
            f"algorithm.loss_reduction={reduction} divides the terms of each {part} by its length, so short ones count "
            "more than the objective says; 'token_mean' and 'seq_mean_token_sum_norm' do not."
        )
    if algorithm.policy_loss_type not in ("regular", "dual_clip"):
        yield (
            f"algorithm.policy_loss_type={algorithm.policy_loss_type} was not compared with the exact gradient; "
            "'regular' was."
        )
    if trainer.update_epochs_per_batch > 1 or trainer.policy_mini_batch_size < trainer.train_batch_size:
        yield (
            f"trainer.update_epochs_per_batch={trainer.update_epochs_per_batch} and "
            f"trainer.policy_mini_batch_size={trainer.policy_mini_batch_size} with "
            f"trainer.train_batch_size={trainer.train_batch_size} take several steps on one batch with clipped ratios, "
            "so only the first has the exact gradient."
        )
    if algorithm.advantage_batch_normalize:
        yield "algorithm.advantage_batch_normalize shifts and scales the advantages; use ordergrad.scale=batch instead."
    if algorithm.use_kl_in_reward:
        yield "algorithm.use_kl_in_reward ranks the rewards less the KL penalty instead of the rewards."
    if algorithm.use_kl_loss:
        yield "algorithm.use_kl_loss subtracts the KL divergence to the reference model from the objective."
    if algorithm.use_entropy_loss:
        yield "algorithm.use_entropy_loss adds the entropy per token to the objective."
    if generator.apply_overlong_filtering:
        yield "generator.apply_overlong_filtering ranks truncated responses but leaves them out of the loss."
    plain = {"temperature": 1, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
    changed = [f"{name}={getattr(sampling, name)}" for name, usual in plain.items() if getattr(sampling, name) != usual]
    if changed:
        yield (
            f"sampling_params {', '.join(changed)}: temperature alone makes the policy at that temperature the one "
            "that is optimised; the others sample from another distribution than the one that is trained: biased."
        )


if __name__ == "__main__":
    main()
