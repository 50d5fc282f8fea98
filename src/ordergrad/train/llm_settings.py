"""The settings of `ordergrad train llm`, kept apart so that showing them needs none of the packages that train."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["GRPO", "LLMSettings", "as_json", "stages"]

GRPO = "grpo"
"""In the place of an objective: TRL's GRPO as it ships, to compare with."""


@dataclass(frozen=True)
class LLMSettings:
    """What `ordergrad train llm` trains.

    Attributes:
        objectives: One model is trained on each, for each seed. ``A..B`` turns from A to B during training
            (`ordergrad.anneal`); `GRPO` is TRL's own trainer.
        model: A folder or a hub id; empty for the small model that comes with the task.
        data: ``countdown``, with the numbers of a problem, the largest of them and the largest target as in
            ``countdown:4:9:50``, or a file (JSONL, CSV, Parquet) with the column ``prompt``.
        reward: ``task``, ``exact``, ``math``, or ``module:function``.
        length_penalty: Subtracted from the reward, times the tokens of the completion.
        seeds: Number of seeds, 0 to seeds - 1.
        steps: Optimiser steps of each run.
        prompts: Prompts in a step.
        samples: Completions of each prompt, the group.
        micro_batch: Completions in one forward and backward pass; None for all of a step. Changes no gradient.
        learning_rate: Constant after a short rise.
        max_completion: Longest completion, in tokens, with the end of it.
        width: Size of the hidden states of the small model.
        layers: Layers of the small model.
        warm_steps: Steps of supervised learning on demonstrations before, for the small model.
        warm_hits: Share of the demonstrations that solve their problem.
        lora: Train low-rank adapters instead of all weights.
        vllm: Generate with vLLM.
        temperature: Of the sampling, in training and evaluation.
        system: A system prompt before every prompt; texts become chats.
        template: Arguments of the chat template.
        stop: Strings that end a completion.
        tests: Files to measure on instead of held-out rows of `data`, each ``FILE`` or ``NAME=FILE``.
        eval_problems: Held-out problems on which each trained model is measured; of each test, the most to use.
        eval_samples: Completions of each of them; pass@k for k up to this.
        eval_every: Steps between quick evaluations during training, with at most 8 completions each; 0 for none.
        tracker: Where metrics are logged besides: a name that Transformers' `report_to` takes, or ``none``.
        success: The least reward, without the price of length, that is a success.
    """

    objectives: tuple[str, ...]
    model: str = ""
    data: str = "countdown"
    reward: str = "task"
    length_penalty: float = 0.0
    seeds: int = 1
    steps: int = 600
    prompts: int = 32
    samples: int = 8
    micro_batch: int | None = None
    learning_rate: float = 3e-4
    max_completion: int = 16
    width: int = 64
    layers: int = 3
    warm_steps: int = 2500
    warm_hits: float = 0.25
    lora: bool = False
    vllm: bool = False
    temperature: float = 1.0
    system: str = ""
    template: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stop: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    eval_problems: int = 200
    eval_samples: int = 64
    eval_every: int = 0
    tracker: str = "none"
    success: float = 1.0


def stages(objective: str) -> tuple[str, str]:
    """Return the objectives at the beginning and at the end of training.

    Example:
        >>> stages("max@4..mean"), stages("cvar:0.1")
        (('max@4', 'mean'), ('cvar:0.1', 'cvar:0.1'))
    """
    first, between, last = objective.partition("..")
    return (first, last) if between else (first, first)


def as_json(settings: LLMSettings) -> dict[str, Any]:
    """Return settings as JSON values."""
    return asdict(settings) | {"objectives": list(settings.objectives)}
