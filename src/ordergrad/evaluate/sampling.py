"""Completions of held-out prompts, sampled exactly as TRL samples in training.

The generation settings, the end-of-sequence tokens, the chat template and its arguments are applied as `GRPOTrainer`
applies them, including what it takes over from the model's own ``generation_config.json``.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

__all__ = [
    "Completion",
    "Sampling",
    "StopsAt",
    "completions_of",
    "cut_at_stop",
    "end_tokens",
    "prompt_ids",
    "rows_at_once",
    "sample",
    "sample_ids",
]

_LOGIT_COPIES = 6  # of one row over the vocabulary, float32: scores, sorting and probabilities of a sampling step
_MOST_ROWS = 1024
SAME_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # in TRL's and Transformers' settings


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled; the defaults are TRL's.

    Attributes:
        max_completion: Longest completion, in tokens, with its end.
        temperature: Of the softmax.
        top_p: Nucleus size; 1 for all tokens.
        top_k: Only the k most likely tokens; 0 for all.
        min_p: Least probability relative to the most likely token's.
        repetition_penalty: Above 1 it discourages tokens that have occurred.
        stop: A completion ends after the first of these strings.
        template: Arguments of the chat template, such as ``enable_thinking``.
        generation: Further arguments of Transformers' `GenerationConfig`, as TRL's `generation_kwargs`.
    """

    max_completion: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    template: Mapping[str, Any] = field(default_factory=dict[str, Any])
    generation: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    Attributes:
        content: Its text, or for a chat prompt the list of messages that reward functions are given.
        ids: Its tokens, the end-of-sequence token included.
        ended: Whether it ended by itself, not at the longest length.
    """

    content: Any
    ids: list[int]
    ended: bool


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return every token that ends a completion: those of the model's generation settings, and the tokenizer's."""
    declared = model.generation_config.eos_token_id
    ids: list[int] = [declared] if isinstance(declared, int) else list(declared or ())
    return ids if tokenizer.eos_token_id in ids else [tokenizer.eos_token_id, *ids]


def prompt_ids(tokenizer: Any, prompts: Sequence[Any], template: Mapping[str, Any]) -> list[list[int]]:
    """Return the tokens of prompts, each a text or a chat, as `GRPOTrainer` makes them."""
    if isinstance(prompts[0], str):
        return tokenizer(text=list(prompts))["input_ids"]
    return tokenizer.apply_chat_template(
        conversation=list(prompts), add_generation_prompt=True, tokenize=True, return_dict=True, **template
    )["input_ids"]


def sample(
    model: Any, tokenizer: Any, prompts: Sequence[Any], samples: int, sampling: Sampling, *, seed: int
) -> Iterator[list[Completion]]:
    """Yield `samples` completions of every prompt, in order. PyTorch's global random state is left as it was.

    Args:
        model: A causal language model of Transformers (or of PEFT).
        tokenizer: Its tokenizer.
        prompts: Texts, or chats (lists of messages).
        samples: Completions of each prompt.
        sampling: How they are sampled.
        seed: Of the sampling.
    """
    if not prompts:
        return
    tokens = prompt_ids(tokenizer, prompts, sampling.template)
    ends, plain = end_tokens(model, tokenizer), isinstance(prompts[0], str)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for rows in sample_ids(model, tokenizer, tokens, samples, sampling):
            ended = [
                len(ids) < sampling.max_completion or ids[-1] in ends or _stops(tokenizer, ids, sampling.stop)
                for ids in rows
            ]
            yield completions_of(tokenizer, rows, ended, plain)


def sample_ids(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], samples: int, sampling: Sampling
) -> Iterator[list[list[int]]]:
    """Yield the tokens of `samples` completions of every tokenised prompt, each up to what ends it.

    Prompts are processed in batches that the memory bounds; each prompt is read once for all of its completions.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ends = end_tokens(model, tokenizer)
    settings = _generation_settings(sampling, tokenizer, pad, ends)
    config = GenerationConfig(**settings, disable_compile=True)
    criteria = StoppingCriteriaList([StopsAt(tokenizer, sampling.stop)] if sampling.stop else [])
    at_once = rows_at_once(model, max(map(len, prompts)) + sampling.max_completion)
    found: list[list[int]] = []
    for batch, copies in _batches(prompts, samples, at_once):
        with torch.no_grad(), _evaluating(model, settings):
            new = _generate(model, batch, copies, pad, config, criteria)
        ended = (_until_end(row, ends) for row in new.tolist())
        found += [cut_at_stop(tokenizer, ids, sampling.stop) for ids in ended]
        while len(found) >= samples:
            yield found[:samples]
            found = found[samples:]


def rows_at_once(model: Any, longest: int) -> int:
    """Return how many sequences fit a share of the free memory: half of a GPU's, a quarter of the host's.

    Args:
        model: The model: its keys and values are counted, and its vocabulary in the step that samples.
        longest: Tokens of a prompt and its completion.
    """
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    row = 2 * config.num_hidden_layers * keys * head * model.dtype.itemsize * longest
    row += 4 * _LOGIT_COPIES * config.vocab_size
    return max(1, min(_MOST_ROWS, _free_memory(model.device) // row))


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):  # where the system does not say
        return 1 << 30


def _batches(tokens: Sequence[list[int]], samples: int, at_once: int) -> Iterator[tuple[list[list[int]], int]]:
    """Yield prompts and the number of completions of each: several prompts, or part of one's completions."""
    if samples <= at_once:
        together = at_once // samples
        for begin in range(0, len(tokens), together):
            yield list(tokens[begin : begin + together]), samples
        return
    for ids in tokens:
        for begin in range(0, samples, at_once):
            yield [ids], min(at_once, samples - begin)


def _generation_settings(sampling: Sampling, tokenizer: Any, pad: int, ends: list[int]) -> dict[str, Any]:
    return {
        "max_new_tokens": sampling.max_completion,
        "do_sample": True,
        "pad_token_id": pad,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends,
        **{name: getattr(sampling, name) for name in SAME_NAMES},
        **sampling.generation,
    }


@contextmanager
def _evaluating(model: Any, settings: Mapping[str, Any]) -> Generator[None]:
    """Put a model into evaluation mode, and before Transformers 5 override its own settings as TRL does.

    From Transformers 5 on, what is None in the settings is taken from the model's ``generation_config.json``: in
    training as here.
    """
    own, training = model.generation_config, model.training
    try:
        if int(transformers.__version__.split(".")[0]) < 5:
            model.generation_config = GenerationConfig.from_dict(own.to_dict())
            model.generation_config.update(**settings)
        model.eval()
        yield
    finally:
        model.generation_config = own
        model.train(training)


def _generate(
    model: Any, batch: list[list[int]], copies: int, pad: int, config: GenerationConfig, criteria: Any
) -> torch.Tensor:
    """Return the new tokens of `copies` completions of each prompt, which is read once."""
    longest = max(map(len, batch))
    rows = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in batch], device=model.device)
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch], device=model.device)
    options: dict[str, Any] = {"generation_config": config, "stopping_criteria": criteria}
    if copies > 1 and longest > 1 and config.cache_implementation is None:
        options |= _prefix(model, rows, mask, copies)
    rows, mask = (x.repeat_interleave(copies, dim=0) for x in (rows, mask))
    return model.generate(input_ids=rows, attention_mask=mask, **options)[:, longest:]


def _prefix(model: Any, rows: torch.Tensor, mask: torch.Tensor, copies: int) -> dict[str, Any]:
    """Return the repeated keys and values of all of the prompts but their last tokens; nothing for other caches."""
    from transformers import DynamicCache

    places = (mask.cumsum(1) - 1).clamp(min=0)[:, :-1]
    out = model(input_ids=rows[:, :-1], attention_mask=mask[:, :-1], position_ids=places, use_cache=True)
    name = "cache" if "cache" in out else "past_key_values"  # renamed in Transformers 5
    cache = out.get(name)
    if type(cache) is not DynamicCache:
        return {}
    cache.batch_repeat_interleave(copies)
    return {name: cache}


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """Return tokens up to and with the first that ends a completion."""
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in ends), ids)


class StopsAt(StoppingCriteria):
    """Ends each sequence of one call of `generate` after any of some strings; works with every tokenizer.

    Args:
        tokenizer: Turns the end of a sequence into text.
        stop: The strings.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self.tokenizer, self.stop, self.length = tokenizer, tuple(stop), max(map(len, stop))
        self.prompt: int | None = None

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Return whether each sequence ends in a stop string; called after every new token."""
        if self.prompt is None:
            self.prompt = input_ids.shape[1] - 1
        new = input_ids[:, self.prompt :]
        tails = self.tokenizer.batch_decode(new[:, -self.length :], skip_special_tokens=True)
        ended = [any(string in tail for string in self.stop) for tail in tails]
        return torch.tensor(ended, device=input_ids.device)


def cut_at_stop(tokenizer: Any, ids: list[int], stop: Sequence[str]) -> list[int]:
    """Return the shortest beginning of a completion's tokens whose text holds one of the stop strings, or all."""
    if not _stops(tokenizer, ids, stop):
        return ids
    low, high = 0, len(ids)  # no stop string in the first `low` tokens, one in the first `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _stops(tokenizer, ids[:middle], stop) else (middle, high)
    return ids[:high]


def _stops(tokenizer: Any, ids: list[int], stop: Sequence[str]) -> bool:
    text = tokenizer.decode(ids, skip_special_tokens=True) if stop else ""
    return any(string in text for string in stop)


def completions_of(tokenizer: Any, rows: Sequence[list[int]], ended: Sequence[bool], plain: bool) -> list[Completion]:
    """Return completions from their tokens: texts, or messages for chats."""
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [
        Completion(text if plain else _messages(tokenizer, ids, text), ids, has_ended)
        for ids, text, has_ended in zip(rows, texts, ended, strict=True)
    ]


def _messages(tokenizer: Any, ids: list[int], text: str) -> list[dict[str, Any]]:
    """Return the messages of a chat completion: by the tokenizer's own template of responses where it has one."""
    if getattr(tokenizer, "response_template", None) or getattr(tokenizer, "response_schema", None):
        from trl.chat_template_utils import parse_response

        return [parse_response(tokenizer, ids)]
    return [{"role": "assistant", "content": text}]
