"""The settings of `ordergrad train llm`, apart from the training so that `--help` needs none of its packages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ordergrad.runs.settings import POSITIVE, Setting, at_least, finite, within


@dataclass(frozen=True)
class LLMSettings:
    """What `ordergrad train llm` trains.

    One model is trained for each of the `objectives` and each seed from 0 to `seeds` - 1. ``A..B`` moves from A to B
    during training (`ordergrad.anneal`); `GRPO` is TRL's own trainer. Without a `model`, a small one is built for the
    task and first trained on demonstrations. `template` holds arguments of the chat template, `stop` strings that end a
    completion, `tests` the files to measure on instead of held-out rows of `data`, each ``FILE`` or ``NAME=FILE``.
    """

    objectives: tuple[str, ...]
    model: Annotated[
        str, Setting("A folder or a hub id.", default="a small one, trained on demonstrations of countdown")
    ] = ""
    data: Annotated[str, Setting("countdown[:NUMBERS:LARGEST:TARGET], or a JSONL, CSV or Parquet file.")] = "countdown"
    reward: Annotated[str, Setting("task, exact or math (column answer), or module:function.")] = "task"
    length_penalty: Annotated[float, Setting("Cost of each token of a completion.", finite(negative=False))] = 0.0
    seeds: Annotated[int, Setting("Models per objective.", at_least(1))] = 1
    steps: Annotated[int, Setting("Optimiser steps of each model.", at_least(1))] = 600
    prompts: Annotated[int, Setting("Prompts in a step.", at_least(1))] = 32
    samples: Annotated[int, Setting("Completions of a prompt, the group.", at_least(2))] = 8
    micro_batch: Annotated[
        int | None,
        Setting(
            "Completions in one backward pass: less memory, the same gradient.",
            default="all of a step; with --model those of one prompt",
        ),
    ] = None
    learning_rate: Annotated[
        float, Setting("Step size, constant after ten steps.", POSITIVE, "3e-4; with --model 1e-6, and --lora 1e-5")
    ] = 3e-4
    max_completion: Annotated[
        int,
        Setting("Longest completion, in tokens.", at_least(1), "what demonstrations need; with --model 512"),
    ] = 16
    width: Annotated[int, Setting("Hidden size of the small model.", at_least(1))] = 64
    layers: Annotated[int, Setting("Layers of the small model.", at_least(1))] = 3
    warm_steps: Annotated[int, Setting("Steps on demonstrations, for the small model.", at_least(1))] = 2500
    warm_hits: Annotated[float, Setting("Share of correct demonstrations.", within("[0, 1]"))] = 0.25
    lora: Annotated[bool, Setting("Train low-rank adapters (peft).")] = False
    vllm: Annotated[bool, Setting("Generate with vLLM.")] = False
    temperature: Annotated[float, Setting("Of the sampling, in training and evaluation.", POSITIVE)] = 1.0
    system_prompt: Annotated[str, Setting("Before every prompt, which becomes a chat.")] = ""
    template: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stop: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    eval_problems: Annotated[int, Setting("Held-out problems; the most of each --test.", at_least(1))] = 200
    eval_samples: Annotated[int, Setting("Completions of each; pass@k for k up to this.", at_least(1))] = 64
    eval_every: Annotated[
        int, Setting("Steps between quick evaluations in training, of 8 completions each; 0: none.", at_least(0))
    ] = 0
    tracker: Annotated[str, Setting("Logs the metrics too: tensorboard, wandb, trackio, mlflow, ...")] = "none"
    success: Annotated[float, Setting("Smallest reward that is a success, for pass@k.", finite())] = 1.0


STARTS = {"warm start": "warm-start", "base model": "base"}
"""What runs start from, by the folder of its evaluation (and of the small model itself)."""


def start_name(settings: LLMSettings) -> str:
    """Return the name of the model that all runs start from."""
    return "base model" if settings.model else "warm start"


def completions_file(folder: Path, test: str) -> Path:
    """Return the file of the completions of a test set."""
    return folder / "completions" / f"{test}.jsonl"


def stages(objective: str) -> tuple[str, str]:
    """Return the objectives at the beginning and at the end of training.

    Example:
        >>> stages("max@4..mean"), stages("cvar:0.1")
        (('max@4', 'mean'), ('cvar:0.1', 'cvar:0.1'))
    """
    first, between, last = objective.partition("..")
    return (first, last) if between else (first, first)
