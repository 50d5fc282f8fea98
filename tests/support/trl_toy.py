"""A language model small enough for tests, and one training step taken apart. Shared with `trl_two_processes.py`."""

import itertools
import tempfile
import time

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, RLOOConfig

import ordergrad as og
from ordergrad.adapters.trl import OrderGradGRPOTrainer, OrderGradRLOOTrainer

PROMPTS = ["".join(letters) for n in (1, 2, 3) for letters in itertools.product("abc", repeat=n)]


def tokenizer():
    words = ["<pad>", "<eos>", *"abc", *"012345"]
    characters = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>")


def language_model(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def score(ids):
    """Return the reward of a completion's token ids: many different ones, and ties."""
    return (sum(3 * i for i in ids) + len(ids)) % 11 / 4


def reward(completion_ids, **_):
    return [score(ids) for ids in completion_ids]


def prompts():
    return Dataset.from_dict({"prompt": PROMPTS})


def make(kind, folder, objective, *, reward_funcs=reward, model=None, dataset=None, options=None, **settings):
    """Return a trainer of the toy model: on policy, no KL, unclipped gradients, nothing random but the samples."""
    trainer, config = {"grpo": (OrderGradGRPOTrainer, GRPOConfig), "rloo": (OrderGradRLOOTrainer, RLOOConfig)}[kind]
    defaults = {
        "per_device_train_batch_size": 24,
        "num_generations": 6,
        "max_completion_length": 7,
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "learning_rate": 1e-3,
        "beta": 0.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    if kind == "grpo":
        defaults["loss_type"] = "luspo"
        defaults["importance_sampling_level"] = "sequence"
    return trainer(
        model=model or language_model(),
        reward_funcs=reward_funcs,
        args=config(str(folder), **{**defaults, **settings}),
        train_dataset=dataset or prompts(),
        processing_class=tokenizer(),
        objective=objective,
        **{"success_reward": reward_funcs[0].__name__ if isinstance(reward_funcs, list) else None, **(options or {})},
    )


class Gradients(TrainerCallback):
    """Keeps the gradients of the last step, as the optimiser sees them."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.last = {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters()}


def one_step(trainer):
    """Train for one step; return the gradients, the completions of this process, and the model before the step."""
    before = language_model()
    before.load_state_dict(trainer.model.state_dict())
    callback = Gradients()
    trainer.add_callback(callback)
    trainer.train()
    return callback.last, trainer._buffered_inputs, before


def samples(batches):
    """Return the (prompt, completion, advantage) of every completion, ids without padding."""
    rows = []
    for batch in batches:
        for i, a in enumerate(batch["advantages"].tolist()):
            prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()
            completion = batch["completion_ids"][i][batch["completion_mask"][i].bool()].tolist()
            rows.append((tuple(prompt), tuple(completion), a))
    return rows


def expected(rows, objective):
    """Return the advantages of the completions from their ids alone."""
    rewards = torch.tensor([score(completion) for _, completion, _ in rows], dtype=torch.float64)
    return og.group_advantages(rewards, [prompt for prompt, _, _ in rows], objective)


def log_probability(model, prompt, completion):
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(completion)), list(completion)].sum()


def reference_gradient(model, rows, a, weight=lambda completion: 1.0):
    """Return the gradient of -mean(A * logp), each completion weighted."""
    model.zero_grad()
    terms = [
        weight(completion) * a_i * log_probability(model, prompt, completion)
        for (prompt, completion, _), a_i in zip(rows, a.tolist(), strict=True)
    ]
    (-sum(terms) / len(terms)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def compare(gradient, reference):
    """Return the cosine of two gradients and the number that turns the second into the first."""
    assert gradient.keys() == reference.keys()
    x = torch.cat([gradient[name].flatten().double() for name in gradient])
    y = torch.cat([reference[name].flatten().double() for name in gradient])
    return float(x @ y / (x.norm() * y.norm())), float(x @ y / (y @ y))


def mean_length(rows):
    return sum(len(completion) for _, completion, _ in rows) / len(rows)


def measured_shares(folder, steps=6):
    """Return the share of each training step that the transformation and its metrics take.

    The model has 340,000 parameters, the batch 32 prompts with 8 completions of up to 24 tokens.
    """
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    trainer = make(
        "rloo",
        folder,
        "top:2@4",
        model=LlamaForCausalLM(config),
        per_device_train_batch_size=256,
        num_generations=8,
        max_completion_length=24,
        max_steps=steps,
    )
    ours, replace = [], trainer._replace_advantages

    def timed(*arguments):
        start = time.perf_counter()
        replace(*arguments)
        ours.append(time.perf_counter() - start)

    trainer._replace_advantages = timed
    trainer.train()
    whole = [entry["step_time"] for entry in trainer.state.log_history if "step_time" in entry]
    return [part / step for part, step in zip(ours, whole, strict=True)][1:]  # the first step warms caches


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shares = measured_shares(folder)
    print("share of a training step:", ", ".join(f"{share:.3%}" for share in shares))
