"""TRL's experimental `AsyncGRPOTrainer`, whose rollouts are generated and ranked in a process of their own.

    trainer = OrderGradAsyncGRPOTrainer(model, reward_funcs, args, train_dataset, objective="top:2@4")

The advantages are computed in that process, group by group, so the objective goes there. The trainer's loss is the mean
over all tokens of a step with clipped ratios, on completions that are up to `max_staleness` versions old: the gradient
is that of the objective up to one positive number while the policy that generated is the one that is trained.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateUsage=false, reportPrivateImportUsage=false

from dataclasses import replace
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np

from ordergrad.adapters.completions import SmallGroups, check_fits, check_options, completion_advantages
from ordergrad.extras import extra
from ordergrad.objectives import Objective
from ordergrad.spec import parse

with extra("llm"):
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer
    from trl.experimental.async_grpo.async_rollout_worker import RolloutGroup, TrainingSequence, _AsyncRolloutLoop

__all__ = ["ObjectiveRolloutLoop", "OrderGradAsyncGRPOTrainer"]

GroupScale = Literal["none", "group"]
_WORKER = 10  # the place of rollout_worker among the arguments of the trainer


class ObjectiveRolloutLoop(_AsyncRolloutLoop):
    """TRL's generation loop with the advantages of an objective.

    Args:
        objective: What to optimise.
        scale: Divide the advantages by their standard deviation in the ``group``, or ``none``.
        small: How to treat a group with too few scorable completions for K: ``zero`` or ``shrink``.
        **named: What TRL's loop takes.
    """

    num_generations: int

    def __init__(self, *, objective: str | Objective, scale: GroupScale, small: SmallGroups, **named: Any) -> None:
        super().__init__(**named)
        self.objective = parse(objective)
        self.scale: GroupScale = scale
        self.small: SmallGroups = small

    async def _score_group(self, group: RolloutGroup) -> list[Any]:
        nothing = TrainingSequence([], [], [], "")  # for completions without a row to train on, which still rank
        sequences = [rows or [nothing] for rows in group.completions_sequences]
        samples = await super()._score_group(replace(group, completions_sequences=sequences))
        owner = np.repeat(np.arange(len(sequences)), [len(rows) for rows in sequences])
        rewards = np.zeros(len(sequences))
        rewards[owner] = [sample.metrics["reward"] for sample in samples]
        a = completion_advantages(
            rewards,
            np.zeros(len(rewards), int),
            self.objective,
            small=self.small,
            scale=self.scale,
            group_size=self.num_generations,
            size_name="num_generations",
        )
        for sample, advantage in zip(samples, a[owner].tolist(), strict=True):
            sample.advantage = advantage
        return [sample for sample in samples if len(sample.input_ids)]


class OrderGradAsyncGRPOTrainer(AsyncGRPOTrainer):
    """TRL's `AsyncGRPOTrainer` with the advantages of an objective.

    Args:
        *positional: What TRL's trainer takes.
        objective: What to optimise: an objective or its string. K must be below `num_generations`. There is no
            schedule: the process that ranks does not know how far training is.
        scale: ``group`` divides the advantages by their standard deviation; with the objective ``mean`` that is GRPO.
        small: How to treat a group with too few scorable completions for K: advantage ``zero``, or ``shrink``, the same
            objective at the largest K it allows.
        **named: What TRL's trainer takes, except `rollout_worker`.

    Raises:
        ValueError: K is not below `num_generations`, an option is unknown, or there is a `rollout_worker`.

    Example:
        >>> trainer = OrderGradAsyncGRPOTrainer(                                            # doctest: +SKIP
        ...     "Qwen/Qwen3-0.6B", reward, AsyncGRPOConfig("run"), dataset, objective="top:2@4"
        ... )
    """

    _tag_names: ClassVar[list[str]] = ["trl", "async-grpo", "ordergrad"]
    _name = "OrderGrad with AsyncGRPO"

    def __init__(
        self,
        *positional: Any,
        objective: str | Objective,
        scale: GroupScale = "none",
        small: SmallGroups = "zero",
        **named: Any,
    ) -> None:
        check_options(scale, small)
        if scale not in get_args(GroupScale):
            raise ValueError(f"scale must be none or group, as groups are ranked one at a time; got {scale!r}")
        if named.get("rollout_worker", positional[_WORKER] if len(positional) > _WORKER else None) is not None:
            raise ValueError(
                "rollout_worker must be None, because TRL's own worker computes the advantages; in another worker, set "
                "the advantage of each sample with ordergrad.adapters.completions.completion_advantages and use "
                "AsyncGRPOTrainer"
            )
        config = named.get("args", positional[2] if len(positional) > 2 else None) or AsyncGRPOConfig
        check_fits(objective, config.num_generations, "num_generations")
        super().__init__(*positional, **named)
        worker = cast("Any", self).rollout_worker
        if worker is not None:  # it has not been started yet, and only the main process has one
            worker._loop_cls = ObjectiveRolloutLoop
            worker._loop_kwargs |= {"objective": str(parse(objective)), "scale": scale, "small": small}
