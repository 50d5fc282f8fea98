"""Completions from vLLM, sampled with the same settings as those from Transformers."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false, reportMissingTypeStubs=false

from collections.abc import Iterator, Sequence
from typing import Any

from ordergrad.evaluate.sampling import Completion, Sampling, completions_of, prompt_ids

__all__ = ["sample_with_vllm"]


def sample_with_vllm(
    engine: Any, tokenizer: Any, prompts: Sequence[Any], samples: int, sampling: Sampling, *, seed: int
) -> Iterator[list[Completion]]:
    """Yield `samples` completions of every prompt, in order; arguments as of `ordergrad.evaluate.sampling.sample`.

    Args:
        engine: A `vllm.LLM`, made with ``generation_config="vllm"`` so that the model's own settings do not apply;
            give them in `sampling` where training has them.
        tokenizer: The model's tokenizer.
        prompts: Texts, or chats.
        samples: Completions of each prompt.
        sampling: How they are sampled.
        seed: Of the sampling.
    """
    from vllm import SamplingParams

    parameters = SamplingParams(
        n=samples,
        max_tokens=sampling.max_completion,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k or -1,
        min_p=sampling.min_p or 0.0,
        repetition_penalty=sampling.repetition_penalty,
        stop=list(sampling.stop),
        include_stop_str_in_output=True,
        seed=seed,
        **sampling.generation,
    )
    tokens = prompt_ids(tokenizer, prompts, sampling.template)
    for output in engine.generate([{"prompt_token_ids": ids} for ids in tokens], parameters, use_tqdm=False):
        rows = [list(one.token_ids) for one in output.outputs]
        ended = [one.finish_reason == "stop" for one in output.outputs]
        yield completions_of(tokenizer, rows, ended, isinstance(prompts[0], str))
