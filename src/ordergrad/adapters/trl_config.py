"""The settings of the trainers for TRL: in its configurations, so that YAML, checkpoints and trackers hold them."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ordergrad.extras import extra

with extra("llm"):
    from trl import GRPOConfig, RLOOConfig

    from ordergrad.adapters.completions import Group, Scale, SmallGroups
    from ordergrad.adapters.pass_rates import PassRates

__all__ = [
    "SETTINGS",
    "OrderGradGRPOConfig",
    "OrderGradRLOOConfig",
    "check_resumed",
    "departures",
    "leaks",
    "read_pass_rates",
    "write_pass_rates",
    "write_settings",
]

_FILE = "ordergrad.json"
_PASS_RATES = "ordergrad_pass_rates.json"
_LEAKING = (
    *("min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff", "no_repeat_ngram_size", "bad_words_ids"),
    *("suppress_tokens", "begin_suppress_tokens", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id"),
    *("exponential_decay_length_penalty", "guidance_scale", "min_length", "min_new_tokens"),
)


@dataclass
class _Settings:
    """The settings of `OrderGradMixin`, which describes them, as fields of a configuration.

    `objective` is a string, and has no default: the trainer refuses an empty one.
    """

    objective: str = field(default="", metadata={"help": "What to optimise, such as top:2@4 or max@4..mean."})
    scale: Scale = field(default="none", metadata={"help": "Divide the advantages by their standard deviation."})
    small: SmallGroups = field(default="zero", metadata={"help": "Advantages of a group that is too small for K."})
    success: float = field(default=1.0, metadata={"help": "Smallest reward that is a success, for pass@k."})
    success_reward: str | None = field(default=None, metadata={"help": "The reward function that decides it."})
    group: Group = field(default="prompt", metadata={"help": "What a completion is ranked among."})
    refill: int = field(default=0, metadata={"help": "Most further batches to replace groups without a signal."})
    k_window: int = field(
        default=0, metadata={"help": "Latest completions of a prompt whose pass rate chooses the K of max@K; 0: fixed."}
    )


@dataclass
class OrderGradGRPOConfig(_Settings, GRPOConfig):
    """TRL's `GRPOConfig` with the settings of `OrderGradMixin` as fields.

    Example:
        >>> OrderGradGRPOConfig("run", objective="top:2@4", loss_type="dr_grpo").objective      # doctest: +SKIP
        'top:2@4'
    """


@dataclass
class OrderGradRLOOConfig(_Settings, RLOOConfig):
    """TRL's `RLOOConfig` with the settings of `OrderGradMixin` as fields."""


SETTINGS = tuple(one.name for one in fields(_Settings))


def write_settings(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a trainer into a checkpoint."""
    Path(folder, _FILE).write_text(json.dumps(settings, indent=2) + "\n")


def check_resumed(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Check that a checkpoint was made with these settings.

    Raises:
        ValueError: It was made with others.
    """
    path = Path(folder, _FILE)
    if not path.is_file():
        return
    before = json.loads(path.read_text())
    changes = [
        f"{name}={before[name]!r}, now {now!r}" for name, now in settings.items() if before.get(name, now) != now
    ]
    if changes:
        raise ValueError(
            f"{folder} was trained with {'; '.join(changes)}. Resume with the same settings; for others, begin a new "
            "run with this model"
        )


def write_pass_rates(folder: str | Path, rates: PassRates) -> None:
    """Write the latest outcomes of every prompt into a checkpoint."""
    Path(folder, _PASS_RATES).write_text(json.dumps(rates.state_dict()))


def read_pass_rates(folder: str | Path, rates: PassRates) -> None:
    """Read the latest outcomes of every prompt from a checkpoint, with a warning if it holds none."""
    path = Path(folder, _PASS_RATES)
    if path.is_file():
        rates.load_state_dict(json.loads(path.read_text()))
    else:
        warnings.warn(f"{folder} holds no pass rates: every prompt counts as unseen for k_window", stacklevel=3)


def leaks(model_settings: Any, training: Any) -> dict[str, Any]:
    """Return the settings of a model's ``generation_config.json`` that act on TRL's sampling though nobody asked.

    Args:
        model_settings: The `GenerationConfig` of the model.
        training: That of the trainer; what is None in it is taken from the model.
    """
    own = {name: getattr(model_settings, name, None) for name in _LEAKING if getattr(training, name, None) is None}
    return {name: setting for name, setting in own.items() if setting not in (None, 0, 0.0, [])}


def departures(args: Any) -> list[str]:
    """Return one sentence for every setting of a TRL configuration that changes what is optimised.

    Args:
        args: A `GRPOConfig` or an `RLOOConfig`.

    Example:
        >>> departures(RLOOConfig("run", beta=0.05))                                # doctest: +SKIP
        ['beta=0.05 subtracts so much times the KL divergence to the reference model from the objective.']
    """
    return list(_departures(args))


def _departures(args: Any) -> Iterator[str]:
    loss = getattr(args, "loss_type", "rloo")
    if loss in ("grpo", "sapo"):
        yield (
            f"loss_type={loss!r} divides each completion's term by its length, so short completions count more than "
            "the objective says; 'luspo' or 'dr_grpo' do not."
        )
    micro_batches = args.world_size * args.gradient_accumulation_steps
    if loss == "bnpo" and micro_batches > 1:
        yield (
            f"loss_type='bnpo' divides each of the {micro_batches} micro-batches of a step by its own number of "
            "tokens, so those with short completions count more; 'dapo' divides all by the same."
        )
    if args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations):
        yield (
            f"num_iterations={args.num_iterations} and steps_per_generation={args.steps_per_generation} with "
            f"gradient_accumulation_steps={args.gradient_accumulation_steps} train on completions of an older policy "
            "with clipped ratios, so only the first step after each generation has the exact gradient."
        )
    if args.beta:
        yield f"beta={args.beta} subtracts so much times the KL divergence to the reference model from the objective."
    if getattr(args, "entropy_coef", 0.0) or getattr(args, "use_adaptive_entropy", False):
        yield "entropy_coef or use_adaptive_entropy adds the entropy per token to the objective."
    overrides = args.generation_kwargs or {}
    if args.temperature != 1:
        yield (
            f"temperature={args.temperature} makes the policy at that temperature the one that is optimised, not the "
            "one at temperature 1."
        )
    plain = {"top_p": (1.0,), "top_k": (0, None, -1), "min_p": (None, 0.0), "repetition_penalty": (1.0,)}
    truncated = {name: overrides.get(name, getattr(args, name)) for name in plain}
    changed = [f"{name}={got}" for name, got in truncated.items() if got not in plain[name]]
    if "temperature" in overrides and overrides["temperature"] != args.temperature:
        changed.append(f"generation_kwargs['temperature']={overrides['temperature']}")
    if changed:
        yield (
            f"{', '.join(changed)} samples from another distribution than the one whose log-probabilities are trained, "
            "so the gradient is biased."
        )
    if args.mask_truncated_completions:
        yield (
            "mask_truncated_completions=True ranks truncated completions but leaves them out of the loss, so the "
            "advantages that count no longer sum to zero."
        )
    if getattr(args, "top_entropy_quantile", 1.0) < 1:
        yield f"top_entropy_quantile={args.top_entropy_quantile} leaves tokens of low entropy out of the gradient."
    if getattr(args, "off_policy_mask_threshold", None) is not None:
        yield "off_policy_mask_threshold leaves completions with negative advantages out of the gradient."
    if getattr(args, "multi_objective_aggregation", "sum_then_normalize") != "sum_then_normalize":
        yield (
            "multi_objective_aggregation='normalize_then_sum' ranks rewards that are standardised within each group, "
            "so no reward has a fixed worth."
        )
    if getattr(args, "scale_rewards", "none") == "batch" or getattr(args, "normalize_advantages", False):
        yield "scale_rewards and normalize_advantages are not used here: set scale='batch' instead."
