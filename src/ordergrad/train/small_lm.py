"""A small character-level language model, trained from scratch on demonstrations.

For the tasks that ship with OrderGrad: no download needed.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from ordergrad.runs.parallel import ShouldStop
from ordergrad.train.countdown import Demonstration

PAD, EOS = 0, 1


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each character of an alphabet, padding, and end of sequence.

    Example:
        >>> tokenizer = character_tokenizer("0123456789+=")
        >>> tokenizer.decode(tokenizer("1+2=3")["input_ids"])
        '1+2=3'
    """
    vocabulary = {"<pad>": PAD, "<eos>": EOS}
    vocabulary |= {character: len(vocabulary) + index for index, character in enumerate(dict.fromkeys(alphabet))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def small_model(tokenizer: PreTrainedTokenizerFast, seed: int, *, width: int, layers: int) -> LlamaForCausalLM:
    """Return an untrained decoder for a tokenizer; 149,000 parameters with 3 layers of width 64.

    The width of the hidden states is a multiple of 8; attention heads are of 64 if it is a multiple of that above 256,
    otherwise there are four.
    """
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=8 * width // 3,
            num_hidden_layers=layers,
            num_attention_heads=max(4, width // 64) if width % 64 == 0 else 4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            eos_token_id=EOS,
            bos_token_id=None,
        )
    )


def warm_start(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    demonstrations: Sequence[Demonstration],
    folder: Path,
    *,
    steps: int,
    seed: int,
    learning_rate: float,
    batch_size: int = 128,
    report: Callable[[int], None] = lambda step: None,
    stop: ShouldStop = lambda: False,
) -> bool:
    """Train a model to continue prompts as demonstrations do, from its newest checkpoint; return whether that is done.

    Only the answers are learned. The learning rate rises over a tenth of the steps to its peak, then decays as a
    cosine. The result goes to the folder, the tokenizer beside it. `report` gets the step from time to time; if `stop`
    is true after a step, training ends with a checkpoint.
    """
    vocabulary, checkpoints = tokenizer.get_vocab(), folder / "trainer"
    rows = Dataset.from_list([_tokens(d, vocabulary) for d in demonstrations[: steps * batch_size]])
    newest = get_last_checkpoint(str(checkpoints)) if checkpoints.exists() else None
    follow = _Follow(report, stop)
    options: dict[str, Any] = {"use_cpu": True} if not torch.cuda.is_available() else {}
    arguments = SFTConfig(
        str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 10),
        weight_decay=0.01,
        max_length=None,
        bf16=False,
        gradient_checkpointing=False,
        save_steps=max(1, steps // 5),
        save_total_limit=1,
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        seed=seed,
        **options,
    )
    trainer = SFTTrainer(model, args=arguments, train_dataset=rows, processing_class=tokenizer, callbacks=[follow])
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=newest)
    if follow.stopped:
        return False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(checkpoints)
    return True


def _tokens(demonstration: Demonstration, vocabulary: dict[str, int]) -> dict[str, list[int]]:
    """Return a demonstration in tokens, -100 where nothing is learned: SFTTrainer takes minutes for many of them."""
    prompt = [vocabulary[character] for character in demonstration.problem.prompt]
    answer = [*(vocabulary[character] for character in demonstration.answer), EOS]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


class Stop(TrainerCallback):
    """Stops training with a checkpoint if `stop` is true after a step that is not the last."""

    def __init__(self, stop: ShouldStop) -> None:
        self.stop = stop
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if asked, with a checkpoint."""
        if self.stop() and state.global_step < args.max_steps:
            self.stopped = True
            control.should_save = control.should_training_stop = True


class _Follow(Stop):
    """Report the steps of a trainer."""

    def __init__(self, report: Callable[[int], None], stop: ShouldStop) -> None:
        super().__init__(stop)
        self.report = report

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the step."""
        self.report(state.global_step)
