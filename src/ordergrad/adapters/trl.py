r"""TRL: GRPO and RLOO for language models that optimise the ranks of the rewards of a prompt's completions.

    trainer = OrderGradGRPOTrainer(model, reward_funcs, args, train_dataset, objective="top:2@4")
    trainer.train()

The group is the `num_generations` completions of one prompt, on however many processes. TRL generates, calls the
reward functions, weighs and gathers their rewards; the advantages it then computes are replaced by those of the
objective. The loss, the KL term, logging, checkpoints and everything else are TRL's own.

One on-policy step then has the gradient of ``-mean(A * logp)``, logp the log-probability of a whole completion:
exactly with `RLOOTrainer` and the loss type ``luspo``, up to one positive number per batch with ``dr_grpo``, ``dapo``,
``cispo``, ``vespo`` and (one process, no gradient accumulation) ``bnpo``. Settings that change the objective are warned
of when the trainer is made; see `departures`.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
    Shao et al. (2024). DeepSeekMath. arXiv 2402.03300. (GRPO)
    Ahmadian et al. (2024). Back to Basics: Revisiting REINFORCE Style Optimization. arXiv 2402.14740. (RLOO)
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false
# (Accelerate, Transformers and TRL leave many of their types open)

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import advantages, value, value_and_error
from ordergrad.extras import extra
from ordergrad.objectives import Objective, real_number
from ordergrad.spec import parse
from ordergrad.weights import check_nonzero, smallest_group

with extra("llm"):
    import torch
    from accelerate.utils import gather
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
    from trl.trainer.utils import nanstd

    from ordergrad.adapters.recipes import Scale, Small, check_options, check_size, scaled

__all__ = ["ObjectiveSchedule", "OrderGradGRPOTrainer", "OrderGradMixin", "OrderGradRLOOTrainer", "departures"]

Array = NDArray[Any]


class ObjectiveSchedule(TrainerCallback):
    """The objective as a function of the progress of training, set before every optimiser step.

    Pass it to a trainer as ``objective=``; a plain function is wrapped. Progress is counted in optimiser steps, so a
    resumed run continues where it stopped.

    Args:
        schedule: From the progress t, 0 at the first step and 1 at the end, to an objective or its string.

    Attributes:
        objective: The objective in force.

    Example:
        >>> schedule = ObjectiveSchedule(lambda t: "mean" if t < 0.5 else "max@4")
        >>> print(schedule.objective)
        mean
    """

    def __init__(self, schedule: Callable[[float], str | Objective]) -> None:
        self.schedule = schedule
        self.objective = self.at(0.0)

    def at(self, t: float) -> Objective:
        """Return the objective at progress `t`."""
        return parse(self.schedule(t))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the objective for the step that begins."""
        self.objective = self.at(min(state.global_step / max(state.max_steps, 1), 1.0))


class OrderGradMixin:
    """What the two trainers share: the advantages of an objective in place of TRL's own, and metrics of the ranks.

    Metrics, averaged over the logging period and prefixed by ``eval_`` in evaluation: ``ordergrad/value``, the
    estimate of the objective, and ``ordergrad/value_error``, the standard error of that average for the prompts seen;
    ``ordergrad/max@k``, the expected best reward of k completions, and ``ordergrad/pass@k``, the probability that one
    of k succeeds, for k = 1, 2, 4, ... and the group size; ``ordergrad/no_signal``, the share of groups whose
    advantages are all zero; ``ordergrad/unscorable``, completions per generation batch for which every reward function
    returned None or NaN. Groups with too few scorable completions for K (or k) are left out of the averages.

    Args:
        *positional: What TRL's trainer takes.
        objective: What to optimise: an objective, its string, or a function from the progress t in [0, 1] to one of
            those (see `ObjectiveSchedule`). K must be below `num_generations`.
        scale: Divide the advantages by their standard deviation in the ``group`` or the whole ``batch``, for the
            magnitudes of GRPO; ``group`` with the objective ``mean`` is GRPO. ``none`` keeps the exact gradient. It
            replaces TRL's `scale_rewards` and `normalize_advantages`.
        small: What becomes of a group with too few scorable completions for K: advantage ``zero``, or ``shrink``, the
            same objective at the largest K it allows.
        success: A completion passes, for ``pass@k``, if the first reward function gives it at least this much.
        **named: What TRL's trainer takes.

    Raises:
        ValueError: The objective is unknown, has no weight (at the end of a schedule) or its K is not below
            `num_generations` (all before the model is loaded), or, in training, a reward function returned infinities
            or the wrong number of rewards.
        TypeError: The objective is neither a string nor an objective, or `success` is no number.
    """

    _config: ClassVar[Any]
    accelerator: Any
    args: Any
    model: Any
    scale: Scale
    small: Small
    num_generations: int
    num_generations_eval: int
    reward_func_names: list[str]
    reward_weights: torch.Tensor
    _logs: dict[str, Any]
    _metrics: dict[str, dict[str, list[float]]]

    def __init__(
        self,
        *positional: Any,
        objective: str | Objective | ObjectiveSchedule | Callable[[float], str | Objective],
        scale: Scale = "none",
        small: Small = "zero",
        success: float = 1.0,
        **named: Any,
    ) -> None:
        check_options(scale, small)
        self.schedule = _scheduled(objective)
        self.scale = scale
        self.small = small
        self.success = real_number("success", success)
        config = named.get("args", positional[2] if len(positional) > 2 else None) or self._config
        for t in (0.0, 0.25, 0.5, 0.75, 1.0):
            check_size(self.schedule.at(t), config.num_generations, "num_generations")
        check_nonzero(self.schedule.at(1.0))
        cast("Any", super()).__init__(*positional, **named)
        cast("Any", self).add_callback(self.schedule)
        self.normalize_advantages = False  # of RLOO: `scale` stands for it
        self._rewards_per_func = torch.empty(0)
        if self.accelerator.is_main_process:
            for sentence in departures(self.args):
                warnings.warn(sentence, stacklevel=2)

    @property
    def objective(self) -> Objective:
        """The objective in force."""
        return self.schedule.objective

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as TRL does, with the standard errors of single batches combined into that of their average."""
        errors = self._metrics["train" if self.model.training else "eval"].get("ordergrad/value_error")
        if errors:
            errors[:] = [math.hypot(*errors) / len(errors)]
        cast("Any", super()).log(logs, *args, **kwargs)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards = cast("Any", super())._calculate_rewards(*args, **kwargs)
        infinite = rewards.isinf().sum(0).tolist()
        for name, count in zip(self.reward_func_names, infinite, strict=True):
            if count:
                raise ValueError(
                    f"reward function {name!r} must return finite numbers, or None for a completion that it cannot "
                    f"score; got {count} infinite values among {len(rewards)}"
                )
        self._rewards_per_func = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = cast("Any", super())._generate_and_score_completions(inputs)
        self._replace_advantages(output, "train" if self.model.training else "eval")
        return output

    def _replace_advantages(self, output: dict[str, Any], mode: str) -> None:
        """Put the objective's advantages in the place of TRL's, in a batch and in the log of completions."""
        n = self.num_generations if mode == "train" else self.num_generations_eval
        if mode == "train":
            check_size(self.objective, n, "num_generations")
        per_function = self._rewards_per_func.cpu().double()
        rewards = self._combined_rewards(per_function, n)
        valid = ~np.isnan(rewards)
        a = advantages(rewards, self.objective, where=None if valid.all() else valid, small=self.small)
        for name, number in _metrics(rewards, valid, self.objective, a):
            self._metrics[mode]["ordergrad/" + name].append(number)
        first = per_function[:, 0].reshape(-1, n).numpy()
        for k, number in _best_of((first >= self.success).astype(np.float64), ~np.isnan(first)):
            self._metrics[mode][f"ordergrad/pass@{k}"].append(number)

        theirs = output["advantages"]
        a = (a + self._penalty(theirs, rewards, valid)).ravel()
        a = scaled(a, np.arange(len(a)) // n, valid.ravel(), self.scale, constant=1e-4)  # TRL's constant
        flat = torch.as_tensor(a, dtype=theirs.dtype, device=theirs.device)
        output["advantages"] = flat[self.accelerator.process_index * len(theirs) :][: len(theirs)]
        column = self._logs["advantages"]
        for _ in range(min(len(flat), len(column))):
            column.pop()
        column.extend(flat.tolist())

    def _combined_rewards(self, per_function: torch.Tensor, n: int) -> Array:
        """Return the weighted sum of the reward functions, shape (groups, n), NaN where none of them gave a reward."""
        unscorable = per_function.isnan().all(1)
        if getattr(self, "multi_objective_aggregation", None) == "normalize_then_sum":
            grouped = per_function.reshape(-1, n, per_function.shape[1])
            spread = nanstd(grouped, dim=1, keepdim=True) if n > 1 else torch.zeros(())
            per_function = ((grouped - grouped.nanmean(1, keepdim=True)) / (spread + 1e-4)).view_as(per_function)
        rewards = (per_function * self.reward_weights.cpu()).nansum(1).masked_fill(unscorable, math.nan)
        clip = getattr(self, "reward_clip_range", None)
        return (rewards.clamp(*clip) if clip else rewards).reshape(-1, n).numpy()

    def _penalty(self, theirs: torch.Tensor, rewards: Array, valid: Array) -> Array | float:
        """Return what TRL's advantages hold beside the reward functions' rewards."""
        return 0.0


class OrderGradGRPOTrainer(OrderGradMixin, GRPOTrainer):
    """TRL's `GRPOTrainer` with the advantages of an objective; the arguments are those of `OrderGradMixin`.

    Example:
        >>> args = GRPOConfig("run", loss_type="dr_grpo", num_generations=8)         # doctest: +SKIP
        >>> trainer = OrderGradGRPOTrainer(                                         # doctest: +SKIP
        ...     "Qwen/Qwen3-0.6B", reward, args, dataset, objective="top:2@4"
        ... )
    """

    _config = GRPOConfig
    _tag_names: ClassVar[list[str]] = ["trl", "grpo", "ordergrad"]


class OrderGradRLOOTrainer(OrderGradMixin, RLOOTrainer):
    """TRL's `RLOOTrainer` with the advantages of an objective; the arguments are those of `OrderGradMixin`.

    With `beta` not 0, TRL's KL term stays what it is: the objective of the rewards minus beta times the mean KL
    divergence. The ranks are those of the rewards alone.
    """

    _config = RLOOConfig
    _tag_names: ClassVar[list[str]] = ["trl", "rloo", "ordergrad"]
    beta: float

    def _penalty(self, theirs: torch.Tensor, rewards: Array, valid: Array) -> Array | float:
        if self.beta == 0:
            return 0.0
        everyone = cast("torch.Tensor", gather(theirs)).cpu().double().numpy().reshape(rewards.shape)
        return everyone - advantages(rewards, "mean", where=valid, small="zero")


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
        yield "scale_rewards and normalize_advantages are not used here: pass scale='batch' to the trainer instead."


def _scheduled(objective: Any) -> ObjectiveSchedule:
    if isinstance(objective, ObjectiveSchedule):
        return objective
    if callable(objective):
        return ObjectiveSchedule(cast("Callable[[float], str | Objective]", objective))
    fixed = parse(objective)
    return ObjectiveSchedule(lambda t: fixed)


def _metrics(rewards: Array, valid: Array, objective: Objective, a: Array) -> Iterator[tuple[str, float]]:
    """Yield the names and numbers that describe a batch of groups, except those that it does not determine."""
    yield "unscorable", float((~valid).sum())
    yield from (("value", number) for number in _mean_value(rewards, valid, objective))
    rows = valid.sum(-1) >= smallest_group(objective, "leave_one_out")
    if rows.any():
        yield "no_signal", float((a[rows] == 0).all(-1).mean())
        where = None if valid.all() else valid[rows]
        errors = value_and_error(rewards[rows], objective, where=where)[1]
        yield "value_error", float(np.sqrt((errors**2).sum()) / len(errors))
    yield from ((f"max@{k}", number) for k, number in _best_of(rewards, valid))


def _best_of(x: Array, valid: Array) -> Iterator[tuple[int, float]]:
    """Yield k = 1, 2, 4, ... up to the group size, and the mean over groups of the expected best of k."""
    n = x.shape[-1]
    for k in sorted({1 << i for i in range(n.bit_length())} & set(range(1, n)) | {n}):
        yield from ((k, number) for number in _mean_value(x, valid, f"max@{k}"))


def _mean_value(x: Array, valid: Array, objective: str | Objective) -> Iterator[float]:
    """Yield the mean value of the groups that are large enough for the objective, if there are any."""
    rows = valid.sum(-1) >= smallest_group(parse(objective), "value")
    if rows.any():
        yield float(np.mean(value(x[rows], objective, where=None if valid.all() else valid[rows])))
