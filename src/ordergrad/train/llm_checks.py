"""Checks of the settings of `ordergrad train llm` before any work."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false

from typing import Any

from transformers import AutoConfig
from transformers.integrations import get_available_reporting_integrations

from ordergrad.evaluate.models import load_tokenizer, need_vllm
from ordergrad.objectives import Objective
from ordergrad.runs.contenders import GRPO
from ordergrad.runs.errors import UserError
from ordergrad.runs.settings import check_settings
from ordergrad.spec import parse
from ordergrad.train import countdown
from ordergrad.train.llm_settings import LLMSettings, stages
from ordergrad.train.tasks import Task, countdown_level, load_task
from ordergrad.weights import check_nonzero, smallest_group


def task_of(settings: LLMSettings) -> Task:
    """Return the task that settings name."""
    return load_task(settings.data, settings.reward, settings.eval_problems, settings.tests, settings.system_prompt)


def check(settings: LLMSettings) -> Task:
    """Check settings before any work, and return the task.

    Raises:
        UserError: Something does not fit; the message says what to change.
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
    if not settings.model and (settings.system_prompt or settings.template):
        raise UserError("--system-prompt and --template need a --model with a chat template")
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
    known = {"none", *get_available_reporting_integrations()}
    if settings.tracker not in known:
        raise UserError(
            f"--tracker must be one of those that are installed ({', '.join(sorted(known))}); got {settings.tracker}"
        )
    if settings.vllm:
        need_vllm()
    task = task_of(settings)
    if settings.prompts > len(task.train):
        raise UserError(
            f"prompts must be at most {len(task.train)}, the rows that {settings.data} leaves for training; got "
            f"{settings.prompts}"
        )
    if settings.model:
        _check_model(settings.model, chat=not isinstance(task.train[0]["prompt"], str))
    return task


def _check_model(name: str, *, chat: bool) -> None:
    """Load all of a model but its weights."""
    try:
        AutoConfig.from_pretrained(name)
        tokenizer = load_tokenizer(name)
    except Exception as error:  # the loaders, the hub and the network raise many kinds
        raise UserError(
            f"--model must be a folder with a language model, or a hub id that can be reached; got {name} "
            f"({' '.join(str(error).split())})"
        ) from error
    if chat and not tokenizer.chat_template:
        raise UserError(f"the prompts are chats, and the tokenizer of {name} has no chat template")
