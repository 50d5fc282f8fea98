"""The trainers of TRL that `ordergrad train llm` runs, and the recorder of their metrics."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PrinterCallback, StoppingCriteriaList
from trl import GRPOConfig, GRPOTrainer

from ordergrad.adapters.trl import OrderGradGRPOTrainer
from ordergrad.evaluate.callback import HeldOutEvaluation
from ordergrad.evaluate.models import load_tokenizer
from ordergrad.evaluate.rewards import reward_name
from ordergrad.evaluate.sampling import Sampling, StopsAt, cut_at_stop
from ordergrad.runs.contenders import GRPO
from ordergrad.runs.parallel import Report, ShouldStop
from ordergrad.train import small_lm
from ordergrad.train.llm_settings import LLMSettings
from ordergrad.train.tasks import Task, brevity

_QUICK = 8  # completions of a problem in an evaluation during training


class StopStrings:
    """A trainer of TRL whose completions end after a stop string; TRL itself would train on the padding behind it."""

    stop: Sequence[str] = ()
    processing_class: Any

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[list[list[int]], Any]:
        completions, log_probabilities = cast("Any", super())._generate_single_turn(*args, **kwargs)
        cut = [cut_at_stop(self.processing_class, ids, self.stop) for ids in completions]
        if log_probabilities is not None:
            log_probabilities = [row[: len(ids)] for row, ids in zip(log_probabilities, cut, strict=True)]
        return cut, log_probabilities


class _GRPO(StopStrings, GRPOTrainer):
    """TRL's own trainer."""


class _OrderGrad(StopStrings, OrderGradGRPOTrainer):
    """TRL's trainer with the advantages of an objective."""


def make_trainer(
    settings: LLMSettings, objective: str, seed: int, start: str, checkpoints: Path, task: Task, recorder: Any
) -> Any:
    """Return the trainer of one objective and seed, from a model that is a folder or a hub id."""
    # To train all weights takes float32: bfloat16 rounds small updates away.
    model: Any = AutoModelForCausalLM.from_pretrained(start, dtype="auto" if settings.lora else "float32")
    tokenizer = load_tokenizer(start)
    if settings.stop:
        model.generate = partial(_generate, model.generate, tokenizer, settings.stop)
    arguments = _arguments(settings, objective, seed, checkpoints)
    shared: dict[str, Any] = {
        "model": model,
        "reward_funcs": [task.reward, brevity] if settings.length_penalty else [task.reward],
        "args": arguments,
        "train_dataset": Dataset.from_list(task.train),
        "processing_class": tokenizer,
        "callbacks": [recorder],
        "peft_config": None,
    }
    if settings.lora:
        from peft import LoraConfig

        shared["peft_config"] = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    if objective == GRPO:
        trainer = _GRPO(**shared)
    else:
        deciding = {"success": settings.success, "success_reward": reward_name(task.reward)}
        trainer = _OrderGrad(objective=objective, **deciding, **shared)
    trainer.stop = settings.stop
    if settings.eval_every:
        options: dict[str, Any] = {"every": settings.eval_every, "samples": min(_QUICK, settings.eval_samples)}
        options |= {"success": settings.success, "sampling": sampling_of(settings)}
        trainer.add_callback(HeldOutEvaluation(trainer, task.tests, task.reward, **options))
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(settings: LLMSettings, objective: str, seed: int, checkpoints: Path) -> GRPOConfig:
    options: dict[str, Any] = {} if torch.cuda.is_available() else {"use_cpu": True, "bf16": False}
    if objective != GRPO:
        options["loss_type"] = "dr_grpo"
    if settings.vllm and settings.stop:
        options["generation_kwargs"] = {"stop": list(settings.stop), "include_stop_str_in_output": True}
    if settings.length_penalty:
        options["reward_weights"] = [1.0, settings.length_penalty]
    completions = settings.prompts * settings.samples
    micro_batch = settings.micro_batch or completions
    return GRPOConfig(
        str(checkpoints),
        max_steps=settings.steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=completions // micro_batch,
        num_generations=settings.samples,
        max_completion_length=settings.max_completion,
        temperature=settings.temperature,
        chat_template_kwargs=dict(settings.template) or None,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=10,
        use_vllm=settings.vllm,
        gradient_checkpointing=False,
        logging_steps=1,
        save_steps=max(1, settings.steps // 5),
        save_total_limit=1,
        report_to=[] if settings.tracker == "none" else [settings.tracker],
        run_name=f"{objective}-{seed}",
        disable_tqdm=True,
        seed=seed,
        **options,
    )


def _generate(generate: Callable[..., Any], tokenizer: Any, stop: Sequence[str], **options: Any) -> Any:
    """Generate with Transformers up to a stop string, which TRL has no setting for."""
    options.setdefault("stopping_criteria", StoppingCriteriaList([StopsAt(tokenizer, stop)]))
    return generate(**options)


def sampling_of(settings: LLMSettings) -> Sampling:
    """Return how completions are sampled, in evaluation as in training."""
    return Sampling(settings.max_completion, settings.temperature, stop=settings.stop, template=settings.template)


class Recorder(small_lm.Stop):
    """Writes the metrics of every step and of evaluations during training, one JSON object a line, and reports them."""

    def __init__(self, path: Path, stop: ShouldStop, report: Report) -> None:
        super().__init__(stop)
        self.path, self.report = path, report

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Append a row."""
        if logs is None or not any(name == "reward" or name.startswith("eval_") for name in logs):
            return
        row: dict[str, Any] = {"step": state.global_step}
        for name, number in logs.items():
            with suppress(TypeError, ValueError):
                if math.isfinite(float(number)):
                    row[name] = float(number)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if "reward" in row:
            self.report(row)
