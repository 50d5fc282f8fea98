"""Evaluation on held-out problems during training with TRL, sampled as training samples.

trainer = OrderGradGRPOTrainer(model, reward, args, dataset, objective="top:2@4")
trainer.add_callback(HeldOutEvaluation(trainer, {"test": rows}, reward, every=50, samples=16))
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from transformers import TrainerCallback

from ordergrad.evaluate.evaluation import Evaluation, evaluate, measures
from ordergrad.evaluate.rewards import Reward
from ordergrad.evaluate.sampling import SAME_NAMES, Sampling

__all__ = ["HeldOutEvaluation", "sampling_of"]


def sampling_of(args: Any) -> Sampling:
    """Return how a trainer of TRL samples.

    Args:
        args: Its `GRPOConfig` or `RLOOConfig`.
    """
    same = {name: getattr(args, name) for name in SAME_NAMES}
    template, generation = dict(args.chat_template_kwargs or {}), dict(args.generation_kwargs or {})
    return Sampling(args.max_completion_length, **same, template=template, generation=generation)


class HeldOutEvaluation(TrainerCallback):
    """Measures a model before the first step, at intervals and at the end.

    Logged under ``eval_NAME/``: what `ordergrad.evaluate.evaluation.measures` returns, such as ``eval_test/pass@8``
    and ``eval_test/pass^8``. Several processes share the problems. Weights that are split over processes (FSDP,
    ZeRO-3) are not supported.

    Args:
        trainer: A trainer of TRL. Completions come from Transformers even where training uses vLLM.
        sets: Problems by the name of their set: rows with a ``prompt`` and what the reward function needs.
        reward: A reward function of TRL.
        every: Steps between evaluations.
        samples: Completions of each problem.
        success: The least reward that is a success.
        seed: Of the sampling, the same at every step.
        sampling: How completions are sampled; that of the trainer if it is None.

    Attributes:
        history: The step and the measures of each evaluation, by the name of the set.
    """

    def __init__(
        self,
        trainer: Any,
        sets: Mapping[str, Sequence[Mapping[str, Any]]],
        reward: Reward,
        *,
        every: int,
        samples: int,
        success: float = 1.0,
        seed: int = 0,
        sampling: Sampling | None = None,
    ) -> None:
        if every < 1 or samples < 1:
            raise ValueError(f"every and samples must be at least 1; got every={every}, samples={samples}")
        self.trainer, self.sets, self.reward = trainer, sets, reward
        self.every, self.samples, self.success, self.seed = every, samples, success, seed
        self.sampling = sampling or sampling_of(trainer.args)
        self.history: list[tuple[int, dict[str, dict[str, float]]]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure the model that training starts from."""
        self._measure(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure, if it is time."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            due = control.should_log
            self._measure(state.global_step)
            control.should_log = due  # which logging has reset: the metrics of the step are still to come

    def _measure(self, step: int) -> None:
        if self.history and self.history[-1][0] == step:
            return
        found = {name: self._measured(rows) for name, rows in self.sets.items()}
        self.history.append((step, found))
        logs = {f"eval_{name}/{measure}": number for name, all_ in found.items() for measure, number in all_.items()}
        model = self.trainer.model
        training = model.training
        model.eval()  # so that TRL leaves the metrics of training for their own period
        self.trainer.log(logs)
        model.train(training)

    def _measured(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        accelerator = self.trainer.accelerator
        rank, count = accelerator.process_index, accelerator.num_processes
        model = accelerator.unwrap_model(self.trainer.model)
        mine, found = list(rows)[rank::count], list[Evaluation]()
        if mine:
            how = self.reward, self.samples, self.sampling
            found.append(evaluate(model, self.trainer.processing_class, mine, *how, seed=self.seed))
        parts: list[Evaluation] = gather_object(found) if count > 1 else found
        whole = Evaluation(
            [prompt for part in parts for prompt in part.prompts],
            [group for part in parts for group in part.completions],
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("rewards", "tokens", "ended")),
        )
        return {name: measure.mean for name, measure in measures(whole, self.success).items()}
