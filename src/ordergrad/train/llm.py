"""Train a language model on one objective and seed with TRL, and evaluate it on held-out problems."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false

import importlib.util
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
from trl import GRPOConfig, GRPOTrainer

from ordergrad.adapters.trl import OrderGradGRPOTrainer
from ordergrad.objectives import Objective
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import EVALUATION, METRICS, trim_metrics, write_csv
from ordergrad.runs.settings import check_settings
from ordergrad.schedules import anneal
from ordergrad.spec import parse
from ordergrad.train import countdown, small_lm
from ordergrad.train.llm_settings import GRPO, LLMSettings, stages
from ordergrad.train.tasks import Task, brevity, countdown_level, load_task
from ordergrad.weights import check_nonzero, smallest_group

__all__ = ["check", "evaluate", "prepare", "run", "train"]

Array = NDArray[Any]
_DONE = "finished.json"
_EVERY = 10
_TOKENS = 1 << 17  # of completions that are measured at a time: their keys and values must fit the memory

disable_progress_bar()  # of Transformers and Datasets: runs have their own
disable_progress_bars()
set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def check(settings: LLMSettings) -> Task:
    """Check settings before training, and return the task.

    Raises:
        UserError: A setting is wrong; the message says how to fix it.
    """
    check_settings(settings)
    same: dict[Any, str] = {}
    for text in settings.objectives:
        parts: list[Objective] = []
        for part in () if text == GRPO else stages(text):
            try:
                parts.append(parse(part))
                check_nonzero(parts[-1])
            except ValueError as error:
                raise UserError(str(error)) from error
            need = smallest_group(parts[-1], "leave_one_out")
            if need > settings.samples:
                raise UserError(
                    f"{part} compares {need - 1} completions and needs groups of at least {need}; "
                    f"--samples is {settings.samples}"
                )
        if tuple(parts) in same:
            raise UserError(f"each objective once; {same[tuple(parts)]} and {text} are the same")
        same[tuple(parts)] = text
    completions = settings.prompts * settings.samples
    if settings.micro_batch is not None and (settings.micro_batch < 1 or completions % settings.micro_batch):
        raise UserError(f"micro_batch must divide the {completions} completions of a step; got {settings.micro_batch}")
    if not settings.model and settings.width % 8:
        raise UserError(f"width must be a multiple of 8; got {settings.width}")
    level = countdown_level(settings.data)
    if not settings.model and level is None:
        raise UserError(
            f"--model must be a folder or a hub id for --data {settings.data}; only countdown brings its own"
        )
    least = countdown.longest_answer(level) + 1 if level and not settings.model else 1
    if settings.max_completion < least:
        raise UserError(
            f"max_completion must be at least {least}, for the longest demonstration of {settings.data} and its end; "
            f"got {settings.max_completion}"
        )
    if settings.vllm and importlib.util.find_spec("vllm") is None:
        raise UserError("--vllm needs vLLM: pip install vllm")
    task = load_task(settings.data, settings.reward, settings.eval_problems)
    if settings.prompts > len(task.train):
        raise UserError(
            f"prompts must be at most {len(task.train)}, the rows that {settings.data} leaves for training; got "
            f"{settings.prompts}"
        )
    if settings.model:
        _check_model(settings.model, chat=not isinstance(task.train[0]["prompt"], str))
    return task


def _check_model(name: str, *, chat: bool) -> None:
    """Load everything of a model but its weights."""
    try:
        AutoConfig.from_pretrained(name)
        tokenizer = _tokenizer(name)
    except Exception as error:  # loaders, hub and network raise many kinds
        raise UserError(
            f"--model must be a folder with a language model, or a hub id that can be reached; got {name} "
            f"({' '.join(str(error).split())})"
        ) from error
    if chat and not tokenizer.chat_template:
        raise UserError(f"the prompts are chats, and the tokenizer of {name} has no chat template")


def prepare(
    settings: LLMSettings,
    out: Path,
    report: Callable[[int], None] = lambda step: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train the small model of the task on demonstrations, and evaluate it: all runs start from it.

    Args:
        settings: What to train.
        out: The folder of the runs; the model goes to ``warm-start`` in it.
        report: Called with the step from time to time.
        stop: Called after every step; if true, the warm start ends with a checkpoint.

    Returns:
        Whether the model is ready.
    """
    folder = out / "warm-start"
    level = countdown_level(settings.data)
    if settings.model or level is None:
        return True
    if not (folder / _DONE).exists():
        held_out = frozenset(countdown.problems(settings.eval_problems, 0, level))
        shown = countdown.demonstrations(
            settings.warm_steps * 128, 2, level, hit_rate=settings.warm_hits, exclude=held_out
        )
        tokenizer = small_lm.character_tokenizer(countdown.ALPHABET)
        model = small_lm.small_model(tokenizer, seed=0, width=settings.width, layers=settings.layers)
        rate = 0.2 / settings.width
        finished = not stop() and small_lm.warm_start(
            *(model, tokenizer, shown, folder),
            steps=settings.warm_steps,
            seed=0,
            learning_rate=rate,
            report=report,
            stop=stop,
        )
        if not finished:
            return False
        (folder / _DONE).write_text(json.dumps({"steps": settings.warm_steps}) + "\n")
    if not (folder / EVALUATION).exists():
        task = load_task(settings.data, settings.reward, settings.eval_problems)
        measure(*_load(str(folder)), task, settings, 0, folder / EVALUATION)
    return not stop()


def run(
    settings: LLMSettings,
    objective: str,
    seed: int,
    folder: Path,
    stop: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
) -> bool:
    """Train and evaluate one run; return whether it has finished. Arguments as of `train`."""
    finished = train(settings, objective, seed, folder, stop=stop, report=report) and not stop()
    if finished:
        evaluate(settings, objective, seed, folder)
    return finished


def train(
    settings: LLMSettings,
    objective: str,
    seed: int,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> bool:
    """Train one run, from its newest checkpoint if there is one.

    Args:
        settings: What to train.
        objective: One of its objectives.
        seed: One of its seeds.
        folder: The folder of the run.
        stop: Called after every step; if true, the run ends with a checkpoint.
        report: Called with every row of metrics.

    Returns:
        Whether the run has reached its number of steps.
    """
    if (folder / _DONE).exists():
        return True
    task = load_task(settings.data, settings.reward, settings.eval_problems)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    newest = get_last_checkpoint(str(checkpoints))
    begin = int(newest.rsplit("-", 1)[1]) if newest else 0
    trim_metrics(folder / METRICS, begin)
    recorder = _Recorder(folder / METRICS, begin, stop, report)
    trainer = _trainer(settings, objective, seed, checkpoints, task, recorder)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=newest)
    if recorder.stopped:
        return False
    trainer.save_model(str(folder / "model"))
    (folder / _DONE).write_text(json.dumps({"steps": settings.steps}) + "\n")
    return True


def _trainer(
    settings: LLMSettings, objective: str, seed: int, checkpoints: Path, task: Task, recorder: TrainerCallback
) -> Any:
    model, tokenizer = _load(_start(settings, checkpoints), "auto" if settings.lora else "float32")
    options: dict[str, Any] = {} if torch.cuda.is_available() else {"use_cpu": True, "bf16": False}
    if objective != GRPO:
        options["loss_type"] = "dr_grpo"
    completions = settings.prompts * settings.samples
    micro_batch = settings.micro_batch or completions
    arguments = GRPOConfig(
        str(checkpoints),
        max_steps=settings.steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=completions // micro_batch,
        num_generations=settings.samples,
        max_completion_length=settings.max_completion,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=10,
        use_vllm=settings.vllm,
        gradient_checkpointing=False,
        logging_steps=_EVERY,
        save_steps=max(1, settings.steps // 5),
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        seed=seed,
        reward_weights=[1.0, settings.length_penalty] if settings.length_penalty else None,
        **options,
    )
    shared: dict[str, Any] = {
        "model": model,
        "reward_funcs": [task.reward, brevity] if settings.length_penalty else [task.reward],
        "args": arguments,
        "train_dataset": Dataset.from_list(task.train),
        "processing_class": tokenizer,
        "callbacks": [recorder],
        "peft_config": _lora() if settings.lora else None,
    }
    if objective == GRPO:
        return GRPOTrainer(**shared)
    return OrderGradGRPOTrainer(objective=_scheduled(objective), success=settings.success, **shared)


def _scheduled(text: str) -> str | Callable[[float], Objective]:
    """Return an objective, or for ``A..B`` the schedule from A to B."""
    first, last = stages(text)
    return text if first == last else lambda t: anneal(first, last, t)


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def _start(settings: LLMSettings, folder: Path) -> str:
    """Return the model that runs start from: the given one, or the warm start."""
    return settings.model or str(next(p for p in folder.parents if p.name == "runs").parent / "warm-start")


def _load(name: str, dtype: str = "auto") -> tuple[Any, Any]:
    """Return a model and its tokenizer. Full training needs float32: bfloat16 rounds small updates away."""
    return AutoModelForCausalLM.from_pretrained(name, dtype=dtype), _tokenizer(name)


def _tokenizer(name: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class _Recorder(small_lm.Stop):
    """Write logged metrics, except those of a period that a stop cut short."""

    def __init__(
        self, path: Path, begin: int, stop: Callable[[], bool], report: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__(stop)
        self.path, self.begin, self.report = path, begin, report

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Append a row."""
        step = state.global_step
        since = (step - 1) // _EVERY * _EVERY
        if logs is None or "reward" not in logs or since < self.begin or (self.stopped and step % _EVERY):
            return
        numbers = {name: float(number) for name, number in logs.items() if _is_number(number)}
        row = {"step": step, **{name: x for name, x in numbers.items() if np.isfinite(x)}}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.report(row)


def _is_number(x: Any) -> bool:
    try:
        float(x)
    except (TypeError, ValueError):
        return False
    return True


def evaluate(settings: LLMSettings, objective: str, seed: int, folder: Path) -> None:
    """Write the successes of a trained model on the held-out problems, unless already written.

    Every problem gets the same number of completions, sampled at temperature 1. A completion succeeds if its reward
    is at least ``success``.
    """
    if not (folder / EVALUATION).exists():
        task = load_task(settings.data, settings.reward, settings.eval_problems)
        source = _start(settings, folder / "model") if settings.lora else str(folder / "model")
        model, tokenizer = _load(source)
        if settings.lora:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder / "model"))
        measure(model, tokenizer, task, settings, seed, folder / EVALUATION)


def measure(model: Any, tokenizer: Any, task: Task, settings: LLMSettings, seed: int, path: Path) -> None:
    """Sample completions of the held-out problems, and write successes and mean lengths per problem."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval()
    torch.manual_seed(1_000_003 + seed)
    rows: list[tuple[int, int, int, float]] = []
    at_once = max(1, min(512, _TOKENS // settings.max_completion) // settings.eval_samples)
    for begin in range(0, len(task.held_out), at_once):
        group = [row for row in task.held_out[begin : begin + at_once] for _ in range(settings.eval_samples)]
        completions, lengths = _complete(model, tokenizer, [row["prompt"] for row in group], settings, device)
        columns = {name: [row[name] for row in group] for name in group[0] if name != "prompt"}
        rewards = task.reward(prompts=[row["prompt"] for row in group], completions=completions, **columns)
        good = np.array([reward is not None and reward >= settings.success for reward in rewards])
        good = good.reshape(-1, settings.eval_samples)
        sizes_ = np.array(lengths).reshape(good.shape).mean(1)
        rows += [
            (begin + i, int(good[i].sum()), settings.eval_samples, round(float(sizes_[i]), 2)) for i in range(len(good))
        ]
    write_csv(path, ("problem", "successes", "samples", "mean_length"), rows)


def _complete(
    model: Any, tokenizer: Any, prompts: Sequence[Any], settings: LLMSettings, device: str
) -> tuple[list[Any], list[int]]:
    """Return a sampled completion of each prompt, in the form of the prompt, and their lengths in tokens."""
    chat = not isinstance(prompts[0], str)
    texts = (
        [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
        if chat
        else list(prompts)
    )
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not chat).to(device)
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        output = model.generate(
            **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=settings.max_completion
        )
    new = output[:, inputs["input_ids"].shape[1] :]
    answers = tokenizer.batch_decode(new, skip_special_tokens=True)
    lengths = (new != tokenizer.pad_token_id).sum(1).tolist()
    return ([[{"role": "assistant", "content": a}] for a in answers] if chat else answers), lengths
