r"""TRL: GRPO and RLOO for language models that optimise the ranks of the rewards of a prompt's completions.

    args = OrderGradGRPOConfig("run", objective="top:2@4", loss_type="dr_grpo")
    trainer = OrderGradGRPOTrainer(model, reward_funcs, args, train_dataset)
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
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from ordergrad.adapters.notes import note_levels
from ordergrad.estimators import advantages, value, value_and_error
from ordergrad.extras import extra
from ordergrad.objectives import Objective, real_number
from ordergrad.schedules import anneal
from ordergrad.spec import parse
from ordergrad.weights import check_nonzero, smallest_group

with extra("llm"):
    import torch
    from accelerate.utils import gather, gather_object
    from transformers import TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
    from trl.trainer.utils import nanstd

    from ordergrad.adapters.completions import (
        Group,
        Scale,
        SmallGroups,
        batch_advantages,
        check_options,
        check_size,
        scaled,
        with_ties,
    )
    from ordergrad.adapters.pass_rates import PassRates, advantages_by_k, largest_k, prompt_key
    from ordergrad.adapters.trl_config import (
        SETTINGS,
        OrderGradGRPOConfig,
        OrderGradRLOOConfig,
        check_resumed,
        departures,
        leaks,
        read_pass_rates,
        write_pass_rates,
        write_settings,
    )
    from ordergrad.adapters.trl_refill import exchanged, fresh_prompts, idle_groups

__all__ = [
    "ObjectiveSchedule",
    "OrderGradGRPOConfig",
    "OrderGradGRPOTrainer",
    "OrderGradMixin",
    "OrderGradRLOOConfig",
    "OrderGradRLOOTrainer",
    "departures",
]

Array = NDArray[Any]
_FLOAT32 = float(np.finfo(np.float32).eps)
_PAPER = {
    "title": "OrderGrad: Optimizing Beyond the Mean with Order-Statistic Policy Gradient Estimation",
    "id": "2606.06096",
    "citation": textwrap.dedent("""\
        @article{parmas2026ordergrad,
            title  = {{OrderGrad: Optimizing Beyond the Mean with Order-Statistic Policy Gradient Estimation}},
            author = {Paavo Parmas and Yongmin Kim and Kohsei Matsutani and Shota Takashiro and
                      Soichiro Nishimori and Takeshi Kojima and Yusuke Iwasawa and Yutaka Matsuo},
            year   = 2026,
            eprint = {arXiv:2606.06096},
        }"""),
}


class ObjectiveSchedule(TrainerCallback):
    """The objective as a function of the progress of training, set before every optimiser step.

    Pass it to a trainer as ``objective=``; a plain function is wrapped. Progress is counted in optimiser steps, so a
    resumed run continues where it stopped.

    Args:
        schedule: From the progress t, 0 at the first step and 1 at the end, to an objective or its string.
        text: What names the schedule in checkpoints and trackers.

    Attributes:
        objective: The objective in force.

    Example:
        >>> schedule = ObjectiveSchedule(lambda t: "mean" if t < 0.5 else "max@4")
        >>> print(schedule.objective)
        mean
    """

    def __init__(self, schedule: Callable[[float], str | Objective], text: str | None = None) -> None:
        self.schedule = schedule
        self.text = text
        self.objective = self.at(0.0)

    def __str__(self) -> str:
        """Return the objective, or the text of the schedule, without one the objectives of both ends and the middle."""
        ends = list(dict.fromkeys(str(self.at(t)) for t in (0.0, 0.5, 1.0)))
        return self.text or (ends[0] if len(ends) == 1 else f"schedule({', '.join(ends)})")

    def at(self, t: float) -> Objective:
        """Return the objective at progress `t`."""
        return parse(self.schedule(t))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the objective for the step that begins."""
        self.objective = self.at(min(state.global_step / max(state.max_steps, 1), 1.0))


class OrderGradMixin:
    """What the two trainers share: the advantages of an objective instead of TRL's own, and metrics of the ranks.

    Metrics, averaged over the groups of the logging period and prefixed by ``eval_`` in evaluation:
    ``ordergrad/value``, the estimate of the objective, and ``ordergrad/value_error``, the standard error of that
    average for the prompts seen; ``ordergrad/max@k``, the expected best reward of k completions, and
    ``ordergrad/pass@k``, the probability that one of k succeeds, for k = 1, 2, 4, ... and the group size;
    ``ordergrad/no_signal``, the share of groups whose advantages are all zero; ``ordergrad/unscorable``, completions
    per generation batch for which every reward function returned None or NaN; ``ordergrad/batch_cvar:0.1``, the mean
    of the worst tenth of all completions of a generation batch, over all prompts. Groups with too few scorable
    completions for K (or k) are left out of the averages.

    The settings below are fields of `OrderGradGRPOConfig` and `OrderGradRLOOConfig`; an argument of the trainer comes
    before the field. Either way they end up in the trainer's configuration, so trackers show them, and in every
    checkpoint, where they are compared on resuming.

    Args:
        *positional: What TRL's trainer takes.
        objective: What to optimise: an objective, its string, ``A..B``, which moves from A to B during training, or a
            function from the progress t in [0, 1] (see `ObjectiveSchedule`). K must be below `num_generations`.
        scale: Divide the advantages by their standard deviation in the ``group`` or the whole ``batch``, for the
            magnitudes of GRPO; ``group`` with the objective ``mean`` is GRPO. ``none``, the default, keeps the exact
            gradient. It replaces TRL's `scale_rewards` and `normalize_advantages`.
        small: How to treat a group with too few scorable completions for K: advantage ``zero``, the default, or
            ``shrink``, the same objective at the largest K it allows.
        success: A completion passes, for ``pass@k``, if its reward is at least this; 1 by default.
        success_reward: The name of the reward function that decides it. Needed if there are several; without it
            ``pass@k`` is not logged then.
        group: What a completion is ranked among: those of its ``prompt``, the default, or of the whole ``batch``; see
            `ordergrad.adapters.completions.batch_advantages`.
        refill: The most further batches that are generated in a step to replace groups whose advantages are all zero;
            0, none, by default. The groups of a process must be whole. Training then follows the objective of the
            prompts that have a signal, the more so the rarer their signal is.
        k_window: From how many of a prompt's latest completions its pass rate p is taken (see `success`), to train it
            on max@K with its own K: 1/p rounded, from 1 to the K of `objective`. The completions that are ranked do
            not count themselves, and a prompt that has not been seen has K = 1, the mean. 0, the default: all have the
            K of `objective`, which is also what ``ordergrad/value`` and evaluation go by. Metrics:
            ``ordergrad/mean_k`` and ``ordergrad/unseen``, the share of prompts that had not been seen.
        **named: What TRL's trainer takes.

    Raises:
        ValueError: The objective is missing, unknown, without a nonzero term (at the end of a schedule), or K is not
            below `num_generations` (all before the model is loaded); there is no reward function `success_reward`; with
            `k_window` the objective is not max@K, `group` is not prompt or nothing says which completions pass; a
            checkpoint to resume was made with other settings; or, in training, a reward function returned infinities or
            the wrong number of rewards.
        TypeError: The objective is neither a string nor an objective, or `success` is no number.
    """

    _config: ClassVar[Any]
    accelerator: Any
    args: Any
    model: Any
    scale: Scale
    small: SmallGroups
    group: Group
    num_generations: int
    num_generations_eval: int
    reward_func_names: list[str]
    reward_weights: torch.Tensor
    _logs: dict[str, Any]
    _metrics: dict[str, dict[str, list[float]]]

    def __init__(
        self,
        *positional: Any,
        objective: str | Objective | ObjectiveSchedule | Callable[[float], str | Objective] | None = None,
        scale: Scale | None = None,
        small: SmallGroups | None = None,
        success: float | None = None,
        success_reward: str | None = None,
        group: Group | None = None,
        refill: int | None = None,
        k_window: int | None = None,
        **named: Any,
    ) -> None:
        config = named.get("args", positional[2] if len(positional) > 2 else None)
        given = {"objective": objective, "scale": scale, "small": small, "success": success}
        given |= {"success_reward": success_reward, "group": group, "refill": refill, "k_window": k_window}
        chosen = _chosen(config, given, self._config)
        check_options(chosen["scale"], chosen["small"], chosen["group"])
        for name in ("refill", "k_window"):
            if isinstance(chosen[name], bool) or not isinstance(chosen[name], int) or chosen[name] < 0:
                raise ValueError(f"{name} must be a whole number >= 0; got {chosen[name]!r}")
        self.schedule = _scheduled(chosen["objective"])
        self.refill = chosen["refill"]
        self.pass_rates = PassRates(chosen["k_window"]) if chosen["k_window"] else None
        self.scale, self.small, self.group = chosen["scale"], chosen["small"], chosen["group"]
        self.success, self.success_reward = real_number("success", chosen["success"]), chosen["success_reward"]
        if self.group == "prompt":
            for t in (0.0, 0.25, 0.5, 0.75, 1.0):
                check_size(self.schedule.at(t), (config or self._config).num_generations, "num_generations")
        check_nonzero(self.schedule.at(1.0))
        if self.pass_rates is not None:
            if self.group != "prompt":
                raise ValueError(f"k_window needs group='prompt', as K is chosen for each prompt; got {self.group!r}")
            for t in (0.0, 0.25, 0.5, 0.75, 1.0):
                largest_k(self.schedule.at(t))
        cast("Any", super()).__init__(*positional, **named)
        cast("Any", self).add_callback(self.schedule)
        self.normalize_advantages = False  # of RLOO: `scale` stands for it
        self._rewards_per_func = torch.empty(0)
        self._prompt_keys: list[str] = []
        self._batches = {mode: defaultdict[str, list[tuple[float, float]]](list) for mode in ("train", "eval")}
        self.settings = {**chosen, "objective": str(self.schedule)}
        _record(self.args, self._config, self.settings)
        self._success_column = self._column_of_success()
        if self.accelerator.is_main_process:
            if self.group == "prompt":
                for t in (0.0, 0.5, 1.0):
                    note_levels(self.schedule.at(t), (config or self._config).num_generations)
            for sentence in self._departures():
                warnings.warn(sentence, stacklevel=2)

    def _column_of_success(self) -> int | None:
        """Return which reward function decides whether a completion passes; None if that is open."""
        names = self.reward_func_names
        if self.success_reward in names:
            return names.index(self.success_reward)
        if self.success_reward is not None:
            raise ValueError(f"success_reward must be one of {', '.join(names)}; got {self.success_reward!r}")
        if self.pass_rates is not None and len(names) > 1:
            raise ValueError(
                f"k_window needs success_reward, the reward function whose passes count: one of {', '.join(names)}"
            )
        return 0 if len(names) == 1 else None

    def _departures(self) -> Iterator[str]:
        yield from departures(self.args)
        if self._success_column is None:
            yield (
                f"pass@k is not logged, because any of {', '.join(self.reward_func_names)} may decide whether a "
                "completion passes: set success_reward to its name."
            )
        sampling = getattr(self, "generation_config", None)
        found = leaks(self.model.generation_config, sampling) if sampling is not None else {}
        if found:
            text = ", ".join(f"{name}={setting}" for name, setting in found.items())
            yield (
                f"{text} in the model's generation_config.json act on TRL's sampling, so completions come from another "
                "distribution than the one whose log-probabilities are trained and the gradient is biased: set them to "
                "None in model.generation_config."
            )

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as TRL does, after a check that a checkpoint to resume was made with the same settings."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
        if folder:
            check_resumed(folder, self.settings)
            if self.pass_rates is not None:
                read_pass_rates(folder, self.pass_rates)
        return cast("Any", super()).train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        cast("Any", super())._save_checkpoint(*args, **kwargs)
        folder = Path(cast("Any", self)._get_output_dir(args[1] if len(args) > 1 else kwargs.get("trial")))
        folder /= f"checkpoint-{cast('Any', self).state.global_step}"
        if self.accelerator.is_main_process and folder.is_dir():
            write_settings(folder, self.settings)
            if self.pass_rates is not None:
                write_pass_rates(folder, self.pass_rates)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write TRL's model card with the objective and the settings of its advantages."""
        cast("Any", super()).create_model_card(*args, **kwargs)
        card = Path(self.args.output_dir, "README.md")
        if self.accelerator.is_main_process and card.is_file():
            listed = "".join(f"- {name}: `{setting}`\n" for name, setting in self.settings.items())
            text = f"## Objective\n\nTrained with [OrderGrad](https://arxiv.org/abs/2606.06096):\n\n{listed}\n"
            before, heading, after = card.read_text().partition("## Citations")
            card.write_text(before + text + heading + after)

    @property
    def objective(self) -> Objective:
        """The objective in force."""
        return self.schedule.objective

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as TRL does, with metrics of the ranks that are averages over groups, not over batches."""
        mode = "train" if self.model.training else "eval"
        for name, batches in self._batches[mode].items():
            numbers, weights = np.array(batches).T
            terms = numbers * weights / weights.sum()
            average = math.hypot(*terms) if name == "value_error" else float(terms.sum())
            self._metrics[mode]["ordergrad/" + name] = [average]
        self._batches[mode].clear()
        cast("Any", super()).log(logs, *args, **kwargs)

    def _note(self, mode: str, name: str, number: float, weight: float = 1.0) -> None:
        """Keep a metric of a batch for the log, with its weight in the average: the groups that it describes."""
        self._batches[mode][name].append((number, weight))

    def _calculate_rewards(self, inputs: Any, prompts: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards = cast("Any", super())._calculate_rewards(inputs, prompts, *args, **kwargs)
        infinite = rewards.isinf().sum(0).tolist()
        for name, count in zip(self.reward_func_names, infinite, strict=True):
            if count:
                raise ValueError(
                    f"reward function {name!r} must return finite numbers, or None for a completion that it cannot "
                    f"score; got {count} infinite values among {len(rewards)}"
                )
        self._rewards_per_func = rewards
        if self.pass_rates is not None and self.model.training:
            self._prompt_keys = cast("list[str]", gather_object([prompt_key(prompt) for prompt in prompts]))
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = cast("Any", super())._generate_and_score_completions(inputs)
        self._replace_advantages(output, "train" if self.model.training else "eval")
        return self._refilled(output) if self.refill and self.model.training else output

    def _refilled(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with groups of further prompts instead of those without a signal, where any are found."""
        trainer, n = cast("Any", self), self.num_generations
        if len(output["advantages"]) % n:
            raise ValueError(
                f"refill needs whole groups in every process; got {len(output['advantages'])} completions with "
                f"num_generations={n}"
            )
        rank, step = self.accelerator.process_index, trainer.state.global_step
        pad = trainer.pad_token_id if hasattr(trainer, "pad_token_id") else trainer.processing_class.pad_token_id
        groups, batches = len(output["advantages"]) // n, 1
        for attempt in range(self.refill):
            idle = idle_groups(output["advantages"], n)
            if not int(cast("torch.Tensor", gather(idle.sum())).sum()):
                break
            key = (self.args.seed, step, attempt, rank)
            more = cast("Any", super())._generate_and_score_completions(
                fresh_prompts(trainer.train_dataset, groups, n, key)
            )
            self._replace_advantages(more, "train")
            batches += 1
            places, sources = idle.nonzero()[:, 0], (~idle_groups(more["advantages"], n)).nonzero()[:, 0]
            count = min(len(places), len(sources))
            rows = torch.arange(n, device=places.device)
            at, source = ((x[:count, None] * n + rows).flatten() for x in (places, sources))
            output = exchanged(output, more, at, source, pad)
        if "num_items_in_batch" in output:
            mask = output["completion_mask"] * output.get("tool_mask", 1)
            output["num_items_in_batch"] = cast("torch.Tensor", gather(mask.sum())).sum()
        left = cast("torch.Tensor", gather(idle_groups(output["advantages"], n).float())).mean()
        self._note("train", "no_signal_after_refill", float(left))
        self._note("train", "generated_batches", batches)
        return output

    def _replace_advantages(self, output: dict[str, Any], mode: str) -> None:
        """Replace TRL's advantages by the objective's, in a batch and in the log of completions."""
        n = self.num_generations if mode == "train" else self.num_generations_eval
        if mode == "train" and self.group == "prompt":
            check_size(self.objective, n, "num_generations")
        per_function = self._rewards_per_func.cpu().double()
        rewards = self._combined_rewards(per_function, n)
        valid = ~np.isnan(rewards)
        passed = self._passed(per_function, n)
        where = None if valid.all() else valid
        if self.group == "batch":
            codes = np.arange(rewards.size) // n
            a = batch_advantages(rewards.ravel(), codes, self.objective, where=valid.ravel(), small=self.small)
            a = a.reshape(rewards.shape)
        elif self.pass_rates is not None and mode == "train":
            a = advantages_by_k(rewards, self._chosen_k(cast("Array", passed), n), where=where, small=self.small)
        else:
            a = advantages(rewards, self.objective, where=where, small=self.small)
        for metric in _metrics(rewards, valid, self.objective, a, self.group):
            self._note(mode, *metric)
        if passed is not None:
            for k, number, count in _best_of(passed, ~np.isnan(passed)):
                self._note(mode, f"pass@{k}", number, count)

        theirs = output["advantages"]
        a = (a + self._penalty(theirs, rewards, valid)).ravel()
        a = scaled(a, np.arange(len(a)) // n, valid.ravel(), self.scale, constant=1e-4)  # TRL's constant
        flat = torch.as_tensor(a, dtype=theirs.dtype, device=theirs.device)
        output["advantages"] = flat[self.accelerator.process_index * len(theirs) :][: len(theirs)]
        column = self._logs["advantages"]
        for _ in range(min(len(flat), len(column))):
            column.pop()
        column.extend(flat.tolist())

    def _passed(self, per_function: torch.Tensor, n: int) -> Array | None:
        """Return which completions pass, shape (groups, n), NaN where that is unknown; None if nothing decides it."""
        if self._success_column is None:
            return None
        deciding = per_function[:, self._success_column].reshape(-1, n).numpy()
        return np.where(np.isnan(deciding), math.nan, deciding >= self.success)

    def _chosen_k(self, passed: Array, n: int) -> NDArray[np.int64]:
        """Return K for each group from what is known of its prompt, then add the group to it."""
        rates, keys = cast("PassRates", self.pass_rates), self._prompt_keys[::n]
        chosen = rates.k(keys, largest_k(self.objective))
        self._note("train", "mean_k", float(chosen.mean()))
        self._note("train", "unseen", float((~rates.known(keys)).mean()))
        rates.record(keys, passed)
        return chosen

    def _combined_rewards(self, per_function: torch.Tensor, n: int) -> Array:
        """Return the weighted sum of the reward functions, shape (groups, n), NaN where none of them gave a reward."""
        unscorable = per_function.isnan().all(1)
        if getattr(self, "multi_objective_aggregation", None) == "normalize_then_sum":
            grouped = per_function.reshape(-1, n, per_function.shape[1])
            spread = nanstd(grouped, dim=1, keepdim=True) if n > 1 else torch.zeros(())
            per_function = ((grouped - grouped.nanmean(1, keepdim=True)) / (spread + 1e-4)).view_as(per_function)
        rewards = (per_function * self.reward_weights.cpu()).nansum(1).masked_fill(unscorable, math.nan)
        clip = getattr(self, "reward_clip_range", None)
        groups = (rewards.clamp(*clip) if clip else rewards).reshape(-1, n).numpy()
        if per_function.shape[1] == 1:
            return groups
        size = (per_function * self.reward_weights.cpu()).abs().nansum(1).reshape(-1, n).numpy()
        tolerance = np.broadcast_to(4 * _FLOAT32 * size.max(-1, keepdims=True), groups.shape)
        codes = np.arange(groups.size) // n
        return with_ties(groups.ravel(), codes, tolerance.ravel()).reshape(groups.shape)

    def _penalty(self, theirs: torch.Tensor, rewards: Array, valid: Array) -> Array | float:
        """Return what TRL's advantages hold beside the reward functions' rewards."""
        return 0.0


class OrderGradGRPOTrainer(OrderGradMixin, GRPOTrainer):
    """TRL's `GRPOTrainer` with the advantages of an objective; the arguments are those of `OrderGradMixin`.

    Example:
        >>> args = OrderGradGRPOConfig(                                             # doctest: +SKIP
        ...     "run", objective="top:2@4", loss_type="dr_grpo", num_generations=8
        ... )
        >>> trainer = OrderGradGRPOTrainer("Qwen/Qwen3-0.6B", reward, args, dataset)  # doctest: +SKIP
    """

    _config = OrderGradGRPOConfig
    _tag_names: ClassVar[list[str]] = ["trl", "grpo", "ordergrad"]
    _name = "OrderGrad with GRPO"
    _paper = _PAPER


class OrderGradRLOOTrainer(OrderGradMixin, RLOOTrainer):
    """TRL's `RLOOTrainer` with the advantages of an objective; the arguments are those of `OrderGradMixin`.

    With `beta` not 0, TRL's KL term stays what it is: the objective of the rewards minus beta times the mean KL
    divergence. The ranks are those of the rewards alone.
    """

    _config = OrderGradRLOOConfig
    _tag_names: ClassVar[list[str]] = ["trl", "rloo", "ordergrad"]
    _name = "OrderGrad with RLOO"
    _paper = _PAPER
    beta: float

    def _penalty(self, theirs: torch.Tensor, rewards: Array, valid: Array) -> Array | float:
        if self.beta == 0:
            return 0.0
        everyone = cast("torch.Tensor", gather(theirs)).cpu().double().numpy().reshape(rewards.shape)
        return everyone - advantages(rewards, "mean", where=valid, small="zero")


def _chosen(config: Any, given: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Return the settings of a trainer: its arguments before the fields of its configuration before their defaults."""
    chosen: dict[str, Any] = {}
    for name in SETTINGS:
        found = given[name], getattr(config, name, None), getattr(kind, name)
        chosen[name] = next((setting for setting in found if setting is not None), None)
    if isinstance(chosen["objective"], str) and not chosen["objective"]:
        raise ValueError(
            f"objective must be given: to the trainer, or by args={kind.__name__}(objective=...); got none"
        )
    return chosen


def _record(args: Any, kind: Any, settings: Mapping[str, Any]) -> None:
    """Make a configuration of TRL one of ours, which trackers and checkpoints write, and set its fields."""
    if type(args) in (GRPOConfig, RLOOConfig):
        args.__class__ = kind  # the same fields, and ours
    for name, setting in settings.items():
        setattr(args, name, setting)


def _scheduled(objective: Any) -> ObjectiveSchedule:
    if isinstance(objective, ObjectiveSchedule):
        return objective
    if isinstance(objective, str) and ".." in objective:
        first, _, last = objective.partition("..")
        return ObjectiveSchedule(lambda t: anneal(first, last, t), objective)
    if callable(objective):
        return ObjectiveSchedule(cast("Callable[[float], str | Objective]", objective))
    fixed = parse(objective)
    return ObjectiveSchedule(lambda t: fixed)


def _metrics(
    rewards: Array, valid: Array, objective: Objective, a: Array, group: Group
) -> Iterator[tuple[str, float, float]]:
    """Yield name, number and weight of what describes a batch of groups, except what the batch does not determine."""
    yield "unscorable", float((~valid).sum()), 1.0
    if valid.any():
        yield "batch_cvar:0.1", float(value(rewards[valid], "cvar:0.1")), 1.0
    ranked, known = (rewards, valid) if group == "prompt" else (rewards.reshape(1, -1), valid.reshape(1, -1))
    yield from (("value", *average) for average in _mean_value(ranked, known, objective))
    rows = known.sum(-1) >= smallest_group(objective, "leave_one_out")
    if rows.any():
        idle = (a[rows if group == "prompt" else slice(None)] == 0).all(-1)
        yield "no_signal", float(idle.mean()), len(idle)
        where = None if valid.all() else known[rows]
        errors = value_and_error(ranked[rows], objective, where=where)[1]
        yield "value_error", float(np.sqrt((errors**2).sum()) / len(errors)), len(errors)
    yield from ((f"max@{k}", number, count) for k, number, count in _best_of(rewards, valid))


def _best_of(x: Array, valid: Array) -> Iterator[tuple[int, float, float]]:
    """Yield k = 1, 2, 4, ... up to the group size, the mean over groups of the expected best of k, and their number."""
    n = x.shape[-1]
    for k in sorted({1 << i for i in range(n.bit_length())} & set(range(1, n)) | {n}):
        yield from ((k, *average) for average in _mean_value(x, valid, f"max@{k}"))


def _mean_value(x: Array, valid: Array, objective: str | Objective) -> Iterator[tuple[float, float]]:
    """Yield the mean value of the groups that are large enough for the objective and their number, if there are any."""
    rows = valid.sum(-1) >= smallest_group(parse(objective), "value")
    if rows.any():
        values = value(x[rows], objective, where=None if valid.all() else valid[rows])
        yield float(np.mean(values)), len(values)
