"""The TRL trainers against the library's own advantages, reference gradients, and TRL itself."""

import json
import math
import os
import socket
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, TrlParser
from trl_toy import (
    PROMPTS,
    compare,
    expected,
    language_model,
    log_probability,
    make,
    mean_length,
    measured_shares,
    one_step,
    reference_gradient,
    reward,
    samples,
    score,
    tokenizer,
)

import ordergrad as og
from ordergrad.adapters.trl import (
    ObjectiveSchedule,
    OrderGradGRPOConfig,
    OrderGradGRPOTrainer,
    OrderGradRLOOConfig,
    OrderGradRLOOTrainer,
    departures,
)
from ordergrad.adapters.trl_refill import exchanged, fresh_prompts, idle_groups

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning"),  # TRL 1.16 on Transformers 5.23
]
torch.set_num_threads(1)


def log_of(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


# Advantages


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("objective", ["mean", "top:2@4", "cvar:0.25", "0.5*mean+0.5*max@3", "median", "maxrl"])
def test_advantages_are_those_of_the_library(kind, objective, tmp_path):
    trainer = make(kind, tmp_path, objective)
    _, batches, _ = one_step(trainer)
    rows = samples(batches)
    assert len(rows) == 24
    a = expected(rows, objective).tolist()
    assert [x for _, _, x in rows] == pytest.approx(a, abs=1e-6)
    assert sorted(trainer._logs["advantages"]) == pytest.approx(sorted(a), abs=1e-6)


def test_logged_advantages_stand_beside_their_completions(tmp_path):
    trainer = make("grpo", tmp_path, "max@4", log_completions=True, max_steps=3)
    trainer.train()
    for path in sorted(tmp_path.glob("completions/*.parquet")):
        table = pd.read_parquet(path)
        assert len(table) == 24
        a = og.group_advantages(table["reward"].to_numpy(), table["prompt"].tolist(), "max@4")
        np.testing.assert_allclose(table["advantage"], a, atol=1e-6)
    assert len(list(tmp_path.glob("completions/*.parquet"))) == 3


# Gradients

SCALES = {
    "dr_grpo": lambda rows: 1 / 7,
    "dapo": lambda rows: 1 / mean_length(rows),
    "bnpo": lambda rows: 1 / mean_length(rows),
    "vespo": lambda rows: 1 / mean_length(rows),
    "cispo": lambda rows: 0.2 / mean_length(rows),
    "luspo": lambda rows: 1.0,
}


def check_gradient(trainer, scale, weight=lambda completion: 1.0):
    gradient, batches, before = one_step(trainer)
    rows = samples(batches)
    assert len({len(completion) for _, completion, _ in rows}) > 2
    a = expected(rows, "top:2@4")
    cosine, factor = compare(gradient, reference_gradient(before, rows, a, weight))
    assert cosine == pytest.approx(1, abs=1e-10)
    assert factor == pytest.approx(scale(rows), rel=1e-5)
    return gradient, reference_gradient(before, rows, a)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradient_of_rloo_is_the_exact_one(accumulation, tmp_path):
    trainer = make("rloo", tmp_path, "top:2@4", gradient_accumulation_steps=accumulation)
    check_gradient(trainer, lambda rows: 1.0)


@pytest.mark.parametrize("level", ["sequence", "token"])
@pytest.mark.parametrize("loss", SCALES)
def test_gradient_of_grpo_is_the_exact_one_up_to_a_number(loss, level, tmp_path):
    trainer = make("grpo", tmp_path, "top:2@4", loss_type=loss, importance_sampling_level=level)
    check_gradient(trainer, SCALES[loss])


@pytest.mark.parametrize("loss", ["luspo", "dr_grpo", "dapo"])
def test_gradient_survives_accumulation(loss, tmp_path):
    settings = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 12, "loss_type": loss}
    check_gradient(make("grpo", tmp_path, "top:2@4", **settings), SCALES[loss])


@pytest.mark.filterwarnings("ignore:loss_type=:UserWarning")
@pytest.mark.parametrize("loss", ["grpo", "sapo"])
def test_losses_that_weigh_by_length_have_another_gradient(loss, tmp_path):
    trainer = make("grpo", tmp_path, "top:2@4", loss_type=loss, importance_sampling_level="token")
    gradient, exact = check_gradient(trainer, lambda rows: 1.0, lambda completion: 1 / len(completion))
    assert compare(gradient, exact)[0] < 0.99


def two_processes(folder):
    """Run `trl_two_processes.py` on two gloo processes and return what it found."""
    language_model().save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, str(Path(__file__).parents[1] / "support" / "trl_two_processes.py"), str(folder)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, output in zip(started, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
    return json.loads((folder / "result.json").read_text())


def test_groups_that_span_two_processes(tmp_path):
    found = two_processes(tmp_path)
    scales = {"dr_grpo": 1 / 7, "dapo": 1 / found["dapo"]["mean_length"]}
    for case in ("rloo, one group", "rloo, three groups", "luspo", "dr_grpo", "dapo", "bnpo"):
        step = found[case]
        assert step["completions"] == (6 if "one group" in case else 18), case
        assert step["spanning"] == 1, case
        assert step["error"] < 1e-6, case
        assert step["logged"] < 1e-6, case
        if case == "bnpo":  # every process divides by its own number of tokens, which the trainer warns of
            assert step["cosine_per_micro_batch"] == pytest.approx(1, abs=1e-10)
            assert step["cosine"] < 1 - 1e-7
        else:
            assert step["cosine"] == pytest.approx(1, abs=1e-10), case
            assert step["scale"] == pytest.approx(scales.get(case, 1.0), rel=1e-5), case
    assert len(found["infinite"]) == 2  # rewards that are infinite on one process stop both
    assert all("'broken' must return finite numbers" in message for message in found["infinite"])
    assert found["kl"]["moved"] > 0.01
    assert found["kl"]["sum"] < 1e-4
    assert found["kl"]["logged"] < 1e-6
    assert found["pass rates"][0] == found["pass rates"][1] != {}  # K for each prompt is the same on both processes
    own = found["own k"]
    assert own["k"][0] == own["k"][1]
    assert own["k"][0][0] == [1, 1, 1] != own["k"][0][2]
    a = [og.advantages(r, f"max@{k}") for r, k in zip(np.reshape(own["rewards"], (3, 6)), own["k"][0][2], strict=True)]
    assert own["advantages"] == pytest.approx(np.ravel(a), abs=1e-6)
    assert sorted(own["own advantages"]) == pytest.approx(sorted(own["advantages"]), abs=1e-6)


# The KL term of RLOO


@pytest.mark.filterwarnings("ignore:beta=:UserWarning")
def test_rloo_keeps_its_kl_term(tmp_path):
    language_model().save_pretrained(tmp_path / "model")
    trainer = make("rloo", tmp_path, "top:2@4", beta=0.5, model=str(tmp_path / "model"))
    with torch.no_grad():
        next(iter(trainer.ref_model.parameters())).mul_(1.5)
    old = language_model()
    old.load_state_dict(trainer.ref_model.state_dict())
    _, batches, before = one_step(trainer)
    rows = samples(batches)
    with torch.no_grad():
        kl = [float(log_probability(before, p, c) - log_probability(old, p, c)) for p, c, _ in rows]
    penalty = og.group_advantages(kl, [p for p, _, _ in rows], "mean")
    assert np.abs(penalty).max() > 0.1
    a = expected(rows, "top:2@4").numpy() - 0.5 * penalty
    np.testing.assert_allclose([x for _, _, x in rows], a, atol=2e-6)


# Rewards


def doubtful(completion_ids, **_):
    """Return None for completions that begin with one of two tokens."""
    return [None if ids[0] in (3, 5) else score(ids) for ids in completion_ids]


def length(completion_ids, **_):
    return [float(len(ids)) for ids in completion_ids]


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_weighted_reward_functions(kind, tmp_path):
    trainer = make(kind, tmp_path, "max@3", reward_funcs=[doubtful, length], reward_weights=[1.0, -0.25])
    _, batches, _ = one_step(trainer)
    rows = samples(batches)
    rewards = [(0 if c[0] in (3, 5) else score(c)) - 0.25 * len(c) for _, c, _ in rows]
    a = og.group_advantages(rewards, [p for p, _, _ in rows], "max@3")
    np.testing.assert_allclose([x for _, _, x in rows], a, atol=1e-6)
    assert log_of(trainer, "ordergrad/unscorable") == [0]
    assert log_of(trainer, "ordergrad/max@1") == pytest.approx([np.mean(rewards)])
    assert log_of(trainer, "reward") == pytest.approx([np.mean(rewards)])
    scored = [score(c) for _, c, _ in rows if c[0] not in (3, 5)]
    assert log_of(trainer, "rewards/doubtful/mean") == pytest.approx([np.mean(scored)])


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_unscorable_completions_are_masked_and_counted(kind, tmp_path):
    trainer = make(kind, tmp_path, "max@2", reward_funcs=doubtful)
    _, batches, _ = one_step(trainer)
    rows = samples(batches)
    scorable = np.array([c[0] not in (3, 5) for _, c, _ in rows])
    assert 0 < (~scorable).sum() < 24
    a = og.group_advantages([score(c) for _, c, _ in rows], [p for p, _, _ in rows], "max@2", where=scorable)
    np.testing.assert_allclose([x for _, _, x in rows], a, atol=1e-6)
    assert log_of(trainer, "ordergrad/unscorable") == [(~scorable).sum()]
    values = [
        og.value([score(c) for p, c, _ in rows if p == prompt and c[0] not in (3, 5)], "max@2")
        for prompt in {p for p, _, _ in rows}
    ]
    assert log_of(trainer, "ordergrad/value") == pytest.approx([np.mean(values)])


def scored_only(count):
    """Return a reward function that scores the first completions of every group of six."""
    return lambda completion_ids, **_: [score(ids) if i % 6 < count else None for i, ids in enumerate(completion_ids)]


@pytest.mark.parametrize("small", ["zero", "shrink"])
def test_groups_with_too_few_scorable_completions(small, tmp_path):
    trainer = make("rloo", tmp_path, "max@5", reward_funcs=scored_only(3), options={"small": small})
    trainer.train()
    a = np.reshape(trainer._logs["advantages"], (-1, 6))
    rewards = np.reshape(trainer._logs["rewards"]["<lambda>"], (-1, 6))
    shrunk = og.advantages(rewards[:, :3], "max@2")
    np.testing.assert_allclose(a[:, :3], shrunk if small == "shrink" else 0, atol=1e-6)
    assert not a[:, 3:].any()
    assert not log_of(trainer, "ordergrad/value")
    assert not log_of(trainer, "ordergrad/max@4")
    assert log_of(trainer, "ordergrad/max@2") == pytest.approx([og.value(rewards[:, :3], "max@2").mean()])


def test_nothing_scorable_at_all(tmp_path):
    trainer = make("grpo", tmp_path, "max@2", reward_funcs=scored_only(0))
    gradient, _, _ = one_step(trainer)
    assert not any(g.any() for g in gradient.values())
    assert log_of(trainer, "ordergrad/unscorable") == [24]
    assert not log_of(trainer, "ordergrad/no_signal")  # no group is large enough to have one


def test_clipped_rewards_are_ranked_as_clipped(tmp_path):
    trainer = make("rloo", tmp_path, "mean", reward_clip_range=(0.5, 1.5))
    _, batches, _ = one_step(trainer)
    rows = samples(batches)
    rewards = np.clip([score(c) for _, c, _ in rows], 0.5, 1.5)
    a = og.group_advantages(rewards, [p for p, _, _ in rows], "mean")
    np.testing.assert_allclose([x for _, _, x in rows], a, atol=1e-6)


@pytest.mark.filterwarnings("ignore:multi_objective_aggregation:UserWarning")
def test_normalised_reward_functions_are_those_of_trl(tmp_path):
    settings = {"multi_objective_aggregation": "normalize_then_sum", "reward_funcs": [reward, length]}
    ours = make("grpo", tmp_path, "mean", **settings, options={"scale": "batch"})
    ours.train()
    theirs = make("grpo", tmp_path, "mean", **settings)
    theirs._replace_advantages = lambda *_: None
    theirs.train()
    a, b = np.array(ours._logs["advantages"]), np.array(theirs._logs["advantages"])
    np.testing.assert_allclose(a / np.linalg.norm(a), b / np.linalg.norm(b), atol=1e-6)


# Scales


@pytest.mark.parametrize("reward_funcs", [reward, doubtful])
def test_mean_scaled_by_group_is_grpo(reward_funcs, tmp_path):
    ours = make("grpo", tmp_path, "mean", options={"scale": "group"}, reward_funcs=reward_funcs)
    ours.train()
    theirs = make("grpo", tmp_path, "mean", reward_funcs=reward_funcs)
    theirs._replace_advantages = lambda *_: None
    theirs.train()
    assert type(theirs).__mro__[2] is GRPOTrainer
    np.testing.assert_allclose(ours._logs["advantages"], theirs._logs["advantages"], rtol=1e-3)


def test_scale_of_the_batch(tmp_path):
    trainer = make("rloo", tmp_path, "max@4", options={"scale": "batch"})
    _, batches, _ = one_step(trainer)
    rows = samples(batches)
    found = np.array([x for _, _, x in rows])
    a = expected(rows, "max@4").numpy()
    assert compare({"a": torch.tensor(found)}, {"a": torch.tensor(a)})[0] == pytest.approx(1)
    assert (found**2).sum() / 20 == pytest.approx(1, rel=1e-3)  # four groups of six: 20 degrees of freedom


# Metrics


def test_metrics_of_the_ranks(tmp_path):
    trainer = make("grpo", tmp_path, "top:2@4", options={"success": 2.0})
    trainer.train()
    rewards = np.reshape(trainer._logs["rewards"]["reward"], (-1, 6))
    entry = trainer.state.log_history[0]
    values, errors = og.value_and_error(rewards, "top:2@4")
    assert entry["ordergrad/value"] == pytest.approx(values.mean())
    assert entry["ordergrad/value_error"] == pytest.approx(np.sqrt((errors**2).sum()) / 4)
    for k in (1, 2, 4, 6):
        assert entry[f"ordergrad/max@{k}"] == pytest.approx(og.value(rewards, f"max@{k}").mean())
        failures = (rewards < 2).sum(-1)
        missed = [math.comb(int(f), k) / math.comb(6, k) for f in failures]
        assert entry[f"ordergrad/pass@{k}"] == pytest.approx(1 - np.mean(missed))
    assert {name for name in entry if "@" in name} == {
        f"ordergrad/{m}@{k}" for m in ("max", "pass") for k in (1, 2, 4, 6)
    }
    assert entry["ordergrad/no_signal"] == np.mean((og.advantages(rewards, "top:2@4") == 0).all(-1))
    assert entry["reward"] == pytest.approx(rewards.mean())
    assert entry["rewards/reward/std"] == pytest.approx(rewards.std(ddof=1))


class Every(TrainerCallback):
    """Calls a function before every step."""

    def __init__(self, call):
        self.call = call

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.call(state)


def test_metrics_are_averaged_over_the_logging_period(tmp_path):
    batches = []
    trainer = make("rloo", tmp_path, "max@4", max_steps=3, logging_steps=3)
    trainer.add_callback(Every(lambda state: batches.append(np.reshape(trainer._logs["rewards"]["reward"], (-1, 6)))))
    trainer.train()
    values, errors = og.value_and_error(np.concatenate(batches), "max@4")
    assert log_of(trainer, "ordergrad/value") == pytest.approx([values.mean()])
    assert log_of(trainer, "ordergrad/value_error") == pytest.approx([np.sqrt((errors**2).sum()) / len(errors)])


@pytest.mark.parametrize(("n", "determined"), [(4, True), (3, False), (1, False)])
@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_evaluation_with_another_group_size(kind, n, determined, tmp_path):
    trainer = make(kind, tmp_path, "max@3", num_generations_eval=n, per_device_eval_batch_size=12)
    metrics = trainer.evaluate(Dataset.from_dict({"prompt": PROMPTS[:24]}))
    assert ("eval_ordergrad/value_error" in metrics) == determined
    assert ("eval_ordergrad/no_signal" in metrics) == determined
    assert ("eval_ordergrad/value" in metrics) == (n >= 3)
    assert metrics["eval_reward"] == pytest.approx(metrics["eval_ordergrad/max@1"], abs=1e-6)
    assert f"eval_ordergrad/pass@{n}" in metrics
    trainer.train()
    assert len(log_of(trainer, "ordergrad/value")) == 1


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_every_prompt_of_an_evaluation_counts_the_same(kind, tmp_path):
    def right(prompts, **_):  # one of five prompts, in batches of three and of two
        return [float(prompt == PROMPTS[0]) for prompt in prompts]

    options = {"num_generations_eval": 4, "per_device_eval_batch_size": 12}
    trainer = make(kind, tmp_path, "max@3", reward_funcs=right, **options)
    metrics = trainer.evaluate(Dataset.from_dict({"prompt": PROMPTS[:5]}))
    for name in ("pass@1", "pass@4", "max@1", "value"):
        assert metrics[f"eval_ordergrad/{name}"] == pytest.approx(0.2)
    assert metrics["eval_ordergrad/no_signal"] == 1


def test_metrics_weigh_batches_by_the_groups_that_they_describe(tmp_path):
    trainer = make("rloo", tmp_path, "max@2", max_steps=2, logging_steps=2)
    kept, counts = [], iter([6, 1])  # completions that are scored in the groups of a batch, but for the first group

    def some(completion_ids, **_):
        count = next(counts)
        return [score(ids) if i < 6 or i % 6 < count else None for i, ids in enumerate(completion_ids)]

    trainer.reward_funcs = [some]
    trainer.add_callback(Every(lambda state: kept.append(np.reshape(trainer._logs["rewards"]["reward"], (-1, 6)))))
    trainer.train()
    groups = np.concatenate([kept[0].astype(float), kept[1][:1].astype(float)])
    values, errors = og.value_and_error(groups, "max@2")
    assert log_of(trainer, "ordergrad/value") == pytest.approx([values.mean()], abs=1e-6)
    assert log_of(trainer, "ordergrad/value_error") == pytest.approx([np.sqrt((errors**2).sum()) / 5], abs=1e-6)


# The schedule


def rising(t):
    return og.anneal("mean", "max@4", t)


def test_the_objective_follows_the_schedule(tmp_path):
    used = []
    trainer = make("rloo", tmp_path, rising, max_steps=4)
    assert isinstance(trainer.schedule, ObjectiveSchedule)

    def check(state):
        used.append(str(trainer.objective))
        rewards = np.reshape(trainer._logs["rewards"]["reward"], (-1, 6))
        a = og.advantages(rewards, rising(state.global_step / 4))
        np.testing.assert_allclose(np.reshape(trainer._logs["advantages"], (-1, 6)), a, atol=1e-6)

    trainer.add_callback(Every(check))
    trainer.train()
    assert used == [str(rising(t)) for t in (0, 0.25, 0.5, 0.75)]


def test_a_schedule_of_the_comparison_size_as_a_callback(tmp_path):
    schedule = ObjectiveSchedule(lambda t: f"max@{1 + round(4 * t)}")
    trainer = make("grpo", tmp_path, schedule, max_steps=2)
    assert trainer.schedule is schedule
    trainer.train()
    assert str(trainer.objective) == "max@3"


# Training


def gamble(completion_ids, **_):
    """Return 1/2 for the first token 'a', 1 with probability 0.3 for 'b', 0 for all else."""
    luck = (torch.rand(len(completion_ids)) < 0.3).tolist()
    return [{2: 0.5, 3: float(lucky)}.get(ids[0], 0.0) for ids, lucky in zip(completion_ids, luck, strict=True)]


def gambler(folder, objective, **settings):
    defaults = {
        "max_steps": 40,
        "num_generations": 8,
        "per_device_train_batch_size": 96,
        "max_completion_length": 1,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
    }
    one_prompt = Dataset.from_dict({"prompt": PROMPTS[:1] * 24})
    return make("rloo", folder, objective, reward_funcs=gamble, dataset=one_prompt, **{**defaults, **settings})


def share(trainer, token):
    """Return the probability of a token after the prompt."""
    model = language_model()
    model.load_state_dict(trainer.model.state_dict())
    ids = tokenizer()(PROMPTS[:1], return_tensors="pt")["input_ids"]
    return model(ids).logits[0, -1].softmax(-1)[token].item()


@pytest.mark.parametrize(("objective", "token"), [("mean", 2), ("min@3", 2), ("max@6", 3)])
def test_each_objective_learns_its_own_choice(objective, token, tmp_path):
    trainer = gambler(tmp_path, objective)
    trainer.train()
    assert share(trainer, token) > 0.9
    assert log_of(trainer, "ordergrad/value")[-1] > log_of(trainer, "ordergrad/value")[0]


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = gambler(tmp_path, rising, **settings)
    whole.train()
    resumed = gambler(tmp_path, rising, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert str(resumed.objective) == str(whole.objective) == str(rising(5 / 6))
    for name, p in whole.model.named_parameters():
        torch.testing.assert_close(p, resumed.model.get_parameter(name), msg=name)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_lora(kind, tmp_path):
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = make(kind, tmp_path, "top:2@4", options={"peft_config": lora})
    start = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, start[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert len(log_of(trainer, "ordergrad/value")) == 1
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_the_share_of_a_training_step_is_small(tmp_path):
    assert statistics.median(measured_shares(tmp_path, steps=4)) < 0.005


# Settings that change the objective

QUIET = {"bf16": False, "use_cpu": True, "report_to": "none", "num_generations": 4, "per_device_train_batch_size": 4}


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        ({"loss_type": "grpo"}, "loss_type='grpo' divides"),
        ({"loss_type": "sapo"}, "loss_type='sapo' divides"),
        ({"loss_type": "bnpo", "gradient_accumulation_steps": 2}, "each of the 2 micro-batches"),
        ({"num_iterations": 2}, "num_iterations=2 and steps_per_generation=1"),
        ({"steps_per_generation": 4}, "num_iterations=1 and steps_per_generation=4"),
        ({"beta": 0.1}, "beta=0.1 subtracts"),
        ({"entropy_coef": 0.1}, "adds the entropy"),
        ({"temperature": 0.7}, "temperature=0.7 makes"),
        ({"top_p": 0.9, "top_k": 20}, "top_p=0.9, top_k=20 samples"),
        ({"min_p": 0.1}, "min_p=0.1 samples"),
        ({"repetition_penalty": 1.1}, "repetition_penalty=1.1 samples"),
        ({"generation_kwargs": {"temperature": 0.5}}, "generation_kwargs['temperature']=0.5 samples"),
        ({"mask_truncated_completions": True}, "leaves them out of the loss"),
        ({"top_entropy_quantile": 0.2}, "top_entropy_quantile=0.2"),
        ({"off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "standardised within each group"),
        ({"scale_rewards": "batch"}, "set scale='batch'"),
    ],
)
def test_departures(settings, fragment, tmp_path):
    (sentence,) = departures(GRPOConfig(str(tmp_path), **QUIET, **settings))
    assert fragment in sentence
    assert sentence.endswith(".")
    assert ". " not in sentence


def test_settings_that_change_nothing_are_not_mentioned(tmp_path):
    for loss in SCALES:
        assert not departures(GRPOConfig(str(tmp_path), **QUIET, loss_type=loss, gradient_accumulation_steps=1))
    assert not departures(RLOOConfig(str(tmp_path), **QUIET, beta=0.0, gradient_accumulation_steps=4))
    assert len(departures(RLOOConfig(str(tmp_path), **QUIET, beta=0.05, normalize_advantages=True))) == 2


def test_the_trainer_warns_when_it_is_made(tmp_path):
    with pytest.warns(UserWarning, match="temperature=0.7") as caught:
        make("rloo", tmp_path, "max@4", temperature=0.7)
    assert all("trl_toy" in str(w.filename) for w in caught if w.category is UserWarning)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        make("rloo", tmp_path, "max@4")
    assert not [w for w in caught if w.category is UserWarning]


# Bad input


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        ("max@6", ValueError, r"1 <= k < num_generations; got k=6, num_generations=6 for max@6"),
        ("maximum@4", ValueError, r"no known objective: 'maximum' \(did you mean"),
        ("mean-mean", ValueError, r"objective must have a nonzero term"),
        (3.5, TypeError, r"objective must be a string or an Objective; got float"),
        (lambda t: "max@8" if t == 1 else "mean", ValueError, r"got k=8, num_generations=6"),
    ],
)
def test_bad_objectives_are_refused_before_the_model_is_loaded(kind, objective, error, message, tmp_path):
    with pytest.raises(error, match=message):
        make(kind, tmp_path, objective, model="no/such/model")


def test_bad_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="scale must be one of none, group, batch; got 'std'"):
        make("rloo", tmp_path, "mean", options={"scale": "std"})
    with pytest.raises(ValueError, match="small must be one of zero, shrink; got 'error'"):
        make("rloo", tmp_path, "mean", options={"small": "error"})
    for success, error, message in (
        ("1", TypeError, "success must be a real number; got '1'"),
        (math.nan, ValueError, "success must be finite; got success=nan"),
    ):
        with pytest.raises(error, match=message):
            make("rloo", tmp_path, "mean", model="no/such/model", options={"success": success})


@pytest.mark.parametrize("trainer", [OrderGradGRPOTrainer, OrderGradRLOOTrainer])
def test_without_a_configuration_the_default_group_size_counts(trainer):
    with pytest.raises(ValueError, match=f"num_generations={trainer._config.num_generations} for max@8"):
        trainer("no/such/model", reward, objective="max@8")


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_bad_rewards_are_refused_by_name(kind, tmp_path):
    def endless(completion_ids, **_):
        return [-math.inf, *([0.0] * (len(completion_ids) - 1))]

    def short(completion_ids, **_):
        return [0.0] * (len(completion_ids) - 1)

    async def later(completion_ids, **_):
        return [math.inf for _ in completion_ids]

    for function, message in [
        (endless, "reward function 'endless' must return finite numbers.*got 1 infinite values among 24"),
        (later, "reward function 'later' must return finite numbers.*got 24 infinite"),
        (short, "reward function 'short' returned 23 rewards, but 24 were expected"),
    ]:
        trainer = make(kind, tmp_path, "mean", reward_funcs=[reward, function])
        with pytest.raises(ValueError, match=message):
            trainer.train()


# Settings in the configuration, in checkpoints, in the model card


def config(folder, **settings):
    return OrderGradGRPOConfig(str(folder), **{**TINY, **settings})


TINY = {
    "per_device_train_batch_size": 24,
    "num_generations": 6,
    "max_completion_length": 7,
    "max_steps": 2,
    "loss_type": "luspo",
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 1,
}


def from_config(args, reward_funcs=reward, **options):
    prompts = Dataset.from_dict({"prompt": PROMPTS})
    return OrderGradGRPOTrainer(language_model(), reward_funcs, args, prompts, processing_class=tokenizer(), **options)


def test_yaml_sets_the_objective(tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"output_dir: {tmp_path}/run\nobjective: top:2@4\nscale: batch\nsmall: shrink\nsuccess: 0.5\nuse_cpu: true\n"
    )
    parser = TrlParser((OrderGradGRPOConfig,))
    (args,) = parser.parse_args_and_config(["--config", str(tmp_path / "run.yaml"), "--scale", "group"])
    assert (args.objective, args.scale, args.small, args.success) == ("top:2@4", "group", "shrink", 0.5)
    assert OrderGradRLOOConfig(str(tmp_path), objective="min@3", use_cpu=True).objective == "min@3"


def test_the_configuration_is_enough(tmp_path):
    trainer = from_config(config(tmp_path, objective="top:2@4", scale="batch"))
    assert (str(trainer.objective), trainer.scale) == ("top:2@4", "batch")
    trainer = from_config(config(tmp_path, objective="top:2@4"), objective="max@3..mean")
    assert str(trainer.objective) == "max@3"
    assert trainer.args.objective == "max@3..mean"
    assert trainer.schedule.at(0.5) == og.parse("0.5*max@3+0.5*mean")
    with pytest.raises(ValueError, match="objective must be given"):
        from_config(GRPOConfig(str(tmp_path), **TINY))
    with pytest.raises(ValueError, match="group must be one of prompt, batch; got 'all'"):
        from_config(config(tmp_path, objective="mean", group="all"))
    with pytest.raises(ValueError, match="objective must be given"):
        from_config(config(tmp_path))


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_trackers_see_the_settings(kind, tmp_path):
    trainer = make(kind, tmp_path, "cvar:0.25", options={"small": "shrink"})
    shown = trainer.args.to_sanitized_dict()
    assert (shown["objective"], shown["small"], shown["group"]) == ("cvar:0.25", "shrink", "prompt")


def test_a_checkpoint_is_resumed_with_its_own_settings_only(tmp_path):
    make("grpo", tmp_path, "max@3", max_steps=2, save_strategy="steps", save_steps=1).train()
    folder = tmp_path / "checkpoint-1"
    assert json.loads((folder / "ordergrad.json").read_text())["objective"] == "max@3"
    other = make("grpo", tmp_path, "cvar:0.25", max_steps=2)
    for resumed in (str(folder), True):
        with pytest.raises(ValueError, match=r"was trained with objective='max@3', now 'cvar:0.25'"):
            other.train(resume_from_checkpoint=resumed)
    make("grpo", tmp_path, "1*max@3", max_steps=2, save_strategy="no").train(resume_from_checkpoint=str(folder))


def test_the_model_card_names_the_objective_and_the_paper(tmp_path):
    trainer = make("grpo", tmp_path, "top:2@4")
    trainer.create_model_card("model")
    card = (tmp_path / "README.md").read_text()
    assert "- objective: `top:2@4`" in card
    assert "2606.06096" in card
    assert "OrderGrad: Optimizing Beyond the Mean" in card
    assert card.index("## Objective") < card.index("## Citations")


# Several reward functions


def formatted(completions, **_):
    return [1.0 for _ in completions]


def correct(completion_ids, **_):
    return [float(ids[0] > 6) for ids in completion_ids]


def test_pass_at_k_follows_the_reward_function_that_is_named(tmp_path):
    trainer = make("grpo", tmp_path, "mean", reward_funcs=[formatted, correct], options={"success_reward": "correct"})
    trainer.train()
    assert log_of(trainer, "ordergrad/pass@1") == pytest.approx(log_of(trainer, "rewards/correct/mean"), abs=1e-6)
    with pytest.warns(UserWarning, match="pass@k is not logged, because any of formatted, correct may decide"):
        trainer = make("grpo", tmp_path, "mean", reward_funcs=[formatted, correct], options={"success_reward": None})
    trainer.train()
    assert not log_of(trainer, "ordergrad/pass@1")
    with pytest.raises(ValueError, match="success_reward must be one of formatted, correct; got 'right'"):
        make("grpo", tmp_path, "mean", reward_funcs=[formatted, correct], options={"success_reward": "right"})


def test_rounding_is_no_signal(tmp_path):
    def tenths(completions, **_):
        return [(0.1, 0.3)[i % 2] for i in range(len(completions))]

    def rest(completions, **_):
        return [(0.2, 0.0)[i % 2] for i in range(len(completions))]

    trainer = make("grpo", tmp_path, "max@2", reward_funcs=[tenths, rest], options={"success_reward": "rest"})
    trainer.train()
    assert log_of(trainer, "ordergrad/no_signal") == [1.0]
    assert set(trainer._logs["advantages"]) == {0.0}


def test_settings_of_the_model_that_leak_are_named(tmp_path):
    model = language_model()
    model.generation_config.no_repeat_ngram_size = 2
    model.generation_config.repetition_penalty = 1.1  # which TRL overrides
    with pytest.warns(UserWarning, match="^no_repeat_ngram_size=2 in the model's generation_config.json act on TRL's"):
        make("grpo", tmp_path, "mean", model=model)


# Ranks among all of the batch


def test_ranks_among_all_of_the_batch(tmp_path):
    trainer = make("grpo", tmp_path, "cvar:0.25", options={"group": "batch"})
    _, batches, _ = one_step(trainer)
    rows = samples(batches)
    order = sorted(range(24), key=lambda i: rows[i][0])
    rewards = np.array([score(rows[i][1]) for i in order]).reshape(4, 6)
    ranked = og.advantages(rewards.ravel(), "cvar:0.25").reshape(4, 6)
    others = (ranked.sum(1, keepdims=True) - ranked) / 5
    np.testing.assert_allclose(np.array([rows[i][2] for i in order]).reshape(4, 6), ranked - others, atol=1e-6)
    for metric, objective in (("value", "cvar:0.25"), ("batch_cvar:0.1", "cvar:0.1")):
        measured = log_of(trainer, f"ordergrad/{metric}")
        assert measured == pytest.approx([og.value(rewards.ravel(), objective)], abs=1e-6)


# Dynamic sampling


def rarely(completion_ids, **_):
    """Return 1 for completions that begin with one of two tokens: many groups of six are without a signal for max@5."""
    return [float(ids[0] in (5, 6)) for ids in completion_ids]


@pytest.mark.parametrize("loss", ["luspo", "dapo"])
def test_groups_without_a_signal_are_refilled(loss, tmp_path):
    trainer = make("grpo", tmp_path, "max@5", reward_funcs=rarely, loss_type=loss, options={"refill": 8})
    _, batches, _ = one_step(trainer)
    (idle,), (after,) = (
        log_of(trainer, "ordergrad/no_signal_after_refill"),
        log_of(trainer, "ordergrad/generated_batches"),
    )
    rows = samples(batches)
    rewards = {}
    for prompt, completion, a in rows:
        rewards.setdefault(prompt, []).append((rarely([completion])[0], a))
    assert len(rows) == 24
    assert idle < 0.5
    assert after > 1
    for group in rewards.values():
        values, found = zip(*group, strict=True)
        for begin in range(0, len(group), 6):
            np.testing.assert_allclose(
                sorted(found[begin : begin + 6]), sorted(og.advantages(values[begin : begin + 6], "max@5")), atol=1e-6
            )


def test_a_group_with_different_rewards_may_be_without_a_signal():
    a = torch.as_tensor(og.advantages(np.array([[1, 1, 1, 0.0], [1, 0, 0, 0]]), "max@2").ravel())
    assert idle_groups(a, 4).tolist() == [True, False]


def test_rows_are_exchanged_whatever_their_padding():
    def batch(prompt, completion, a):
        return {
            "prompt_ids": torch.tensor(prompt),
            "completion_ids": torch.tensor(completion),
            "advantages": torch.tensor(a),
            "num_items_in_batch": torch.tensor(4),
        }

    ours, theirs = batch([[0, 7], [8, 9]], [[1, 2], [3, 0]], [0.0, 1.0]), batch([[5, 5, 5]], [[4]], [2.0])
    found = exchanged(ours, theirs, torch.tensor([0]), torch.tensor([0]), 0)
    assert found["prompt_ids"].tolist() == [[5, 5, 5], [0, 8, 9]]
    assert found["completion_ids"].tolist() == [[4, 0], [3, 0]]
    assert found["advantages"].tolist() == [2.0, 1.0]
    with pytest.raises(ValueError, match="refill takes text only; the batch holds pixel_values"):
        exchanged({**ours, "pixel_values": 0}, theirs, torch.tensor([0]), torch.tensor([0]), 0)


def test_fresh_prompts_are_whole_groups_and_reproducible():
    rows = fresh_prompts(PROMPTS, 3, 2, (0, 1, 0, 0))
    assert rows[::2] == rows[1::2]
    assert len(set(rows)) == 3
    assert rows == fresh_prompts(PROMPTS, 3, 2, (0, 1, 0, 0)) != fresh_prompts(PROMPTS, 3, 2, (0, 1, 1, 0))
    assert len(fresh_prompts(PROMPTS[:2], 5, 2, (0,))) == 10
