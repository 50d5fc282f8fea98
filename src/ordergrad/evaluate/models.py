"""Language models to evaluate: folders, hub ids and PEFT adapters, and the base model under an adapter."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false, reportMissingImports=false

import importlib.util
import json
from pathlib import Path
from typing import Any

from ordergrad.runs.errors import UserError

__all__ = ["base_of", "load_engine", "load_model", "load_tokenizer", "need_vllm"]

_ADAPTER = "adapter_config.json"


def base_of(name: str) -> str | None:
    """Return the model that an adapter in a folder was trained on; None for a whole model."""
    config = Path(name) / _ADAPTER
    return json.loads(config.read_text())["base_model_name_or_path"] if config.is_file() else None


def load_model(name: str) -> tuple[Any, Any]:
    """Return a model and its tokenizer, on a GPU where there is one.

    Args:
        name: A folder with a model or an adapter, or a hub id.

    Raises:
        UserError: It cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    base = base_of(name)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(base or name, dtype="auto")
        if base is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, name)
        tokenizer = load_tokenizer(name if base is None or (Path(name) / "tokenizer_config.json").exists() else base)
    except Exception as error:  # the loaders, the hub and the network raise many kinds
        raise UserError(
            f"{name} must be a folder with a language model or an adapter, or a hub id that can be reached "
            f"({' '.join(str(error).split())})"
        ) from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def need_vllm() -> None:
    """Raise a UserError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("--vllm needs vLLM: pip install vllm")


def load_engine(name: str) -> tuple[Any, Any]:
    """Return a vLLM engine of a whole model, and its tokenizer.

    Raises:
        UserError: vLLM is not installed, or the model is an adapter.
    """
    need_vllm()
    if base_of(name) is not None:
        raise UserError(f"--vllm takes whole models; {name} is an adapter: merge it, or leave --vllm out")
    from vllm import LLM

    return LLM(model=name, generation_config="vllm"), load_tokenizer(name)


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model, padding on the left; its padding token is the end of sequence if it has none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
