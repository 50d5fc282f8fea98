"""The evaluator: it samples as TRL does, calls rewards as TRL does, and its measures are means over problems."""

import asyncio
import csv
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl_toy import PROMPTS, language_model, make, tokenizer
from typer.testing import CliRunner

import ordergrad as og
from ordergrad.commands.cli import app
from ordergrad.evaluate import sampling as sampling_module
from ordergrad.evaluate.callback import HeldOutEvaluation, sampling_of
from ordergrad.evaluate.evaluation import Evaluation, evaluate, lead, measures, read_evaluation, write_evaluation
from ordergrad.evaluate.rewards import rewards_of
from ordergrad.evaluate.sampling import Sampling, cut_at_stop, rows_at_once, sample, sample_ids
from ordergrad.train import countdown, small_lm

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
torch.set_num_threads(1)


def drawn(model, prompts, samples, sampling, seed=0):
    return [[c.ids for c in group] for group in sample(model, tokenizer(), prompts, samples, sampling, seed=seed)]


def made(rewards, tokens=3, ended=True):
    rewards = np.array(rewards, float)
    groups = [["x"] * rewards.shape[1] for _ in rewards]
    return Evaluation(
        ["a"] * len(rewards), groups, rewards, np.full(rewards.shape, tokens), np.full(rewards.shape, ended)
    )


# Sampling


def test_completions_are_those_of_training(tmp_path):
    trainer = make("grpo", tmp_path, "mean", per_device_train_batch_size=24, temperature=1.3)
    tokens = tokenizer()(text=PROMPTS[:4])["input_ids"]
    torch.manual_seed(3)
    theirs, _ = trainer._generate_single_turn([ids for ids in tokens for _ in range(6)], None, {}, 6)
    torch.manual_seed(3)
    ours = sample_ids(trainer.model, tokenizer(), tokens, 6, sampling_of(trainer.args))
    assert [ids for group in ours for ids in group] == theirs


@pytest.mark.parametrize(
    "own",
    [
        {"no_repeat_ngram_size": 1},
        {"min_p": 0.99},
        {"repetition_penalty": 50.0},
        {"eos_token_id": [1, 5]},
        {"top_k": 1},
    ],
    ids=str,
)
def test_the_settings_of_a_model_act_as_in_training(own, tmp_path):
    model = language_model()
    for name, setting in own.items():
        setattr(model.generation_config, name, setting)
    trainer = make("grpo", tmp_path, "mean", model=model)
    tokens = tokenizer()(text=PROMPTS[:4])["input_ids"]
    torch.manual_seed(0)
    theirs, _ = trainer._generate_single_turn([ids for ids in tokens for _ in range(16)], None, {}, 16)
    torch.manual_seed(0)
    ours = list(sample_ids(trainer.model, tokenizer(), tokens, 16, sampling_of(trainer.args)))
    assert [ids for group in ours for ids in group] == theirs
    if "eos_token_id" in own:
        assert any(ids[-1] == 5 and len(ids) < 7 for ids in theirs)
        assert all(5 not in ids[:-1] for ids in theirs)


def test_a_shared_prompt_changes_nothing(monkeypatch):
    model, plain = language_model(), Sampling(max_completion=6)
    shared = drawn(model, ["a", "abc", "cb"], 5, plain)
    monkeypatch.setattr(sampling_module, "_prefix", lambda *_: {})
    assert drawn(model, ["a", "abc", "cb"], 5, plain) == shared


@pytest.mark.parametrize("at_once", [1, 3, 7, 20])
def test_batches_that_the_memory_bounds(at_once, monkeypatch):
    monkeypatch.setattr(sampling_module, "rows_at_once", lambda *_: at_once)
    groups = drawn(language_model(), ["a", "abc", "cb"], 5, Sampling(max_completion=6))
    assert [len(group) for group in groups] == [5, 5, 5]


def test_the_prompt_counts_in_the_memory(monkeypatch):
    monkeypatch.setattr(sampling_module, "_free_memory", lambda _: 10**7)
    model = language_model()
    row = 2 * 1 * 2 * 8 * 4 * 1000 + 4 * 6 * 11
    assert rows_at_once(model, 1000) == 10**7 // row
    assert rows_at_once(model, 10**9) == 1


def test_sampling_leaves_the_random_state_and_the_model_as_they_were():
    model = language_model().train()
    before = torch.get_rng_state()
    first = drawn(model, ["a"], 4, Sampling(max_completion=4), seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert drawn(model, ["a"], 4, Sampling(max_completion=4), seed=7) == first
    assert drawn(model, ["a"], 4, Sampling(max_completion=4), seed=8) != first


def test_stop_strings_end_a_completion():
    groups = list(
        sample(language_model(), tokenizer(), ["a", "b"], 32, Sampling(max_completion=6, stop=("3",)), seed=0)
    )
    flat = [c for group in groups for c in group]
    assert any("3" in c.content for c in flat)
    for c in flat:
        assert "3" not in c.content[:-1]
        assert c.ended == (c.content.endswith("3") or c.ids[-1] == 1)
    assert cut_at_stop(tokenizer(), [5, 6, 8, 9, 8], ("3",)) == [5, 6, 8]
    assert cut_at_stop(tokenizer(), [5, 6], ("3",)) == [5, 6]


def test_vllm_gets_the_same_settings(monkeypatch):
    asked = []

    class Engine:
        llm_engine = None

        def generate(self, prompts, parameters, use_tqdm):
            asked.extend([prompts, parameters])
            one = types.SimpleNamespace(token_ids=[5, 1], finish_reason="stop")
            cut = types.SimpleNamespace(token_ids=[5, 6], finish_reason="length")
            return [types.SimpleNamespace(outputs=[one, cut]) for _ in prompts]

    stand_in = types.ModuleType("vllm")
    stand_in.SamplingParams = dict
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    settings = Sampling(max_completion=2, temperature=0.7, top_k=0, stop=("3",), generation={"min_tokens": 1})
    found = evaluate(Engine(), tokenizer(), [{"prompt": "a"}, {"prompt": "b"}], lengths, 2, settings, seed=4)
    assert asked[0] == [{"prompt_token_ids": ids} for ids in tokenizer()(text=["a", "b"])["input_ids"]]
    expected = {"n": 2, "max_tokens": 2, "temperature": 0.7, "top_k": -1, "stop": ["3"], "seed": 4, "min_tokens": 1}
    assert expected.items() <= asked[1].items()
    np.testing.assert_array_equal(found.ended, [[True, False]] * 2)
    np.testing.assert_array_equal(found.tokens, [[2, 2]] * 2)


# Rewards


def lengths(completion_ids, **_):
    return [len(ids) / 7 for ids in completion_ids]


async def slow(completions, answer, trainer_state, log_extra, log_metric, **_):
    await asyncio.sleep(0)
    log_extra("seen", completions)
    log_metric("count", 1.0)
    return [None if trainer_state.global_step else float(c == a) for c, a in zip(completions, answer, strict=True)]


def test_rewards_are_called_as_trl_calls_them():
    found = rewards_of(slow, ["p", "p"], ["1", "2"], [[3], [4]], {"answer": ["1", "1"]})
    assert found.tolist() == [1.0, 0.0]
    found = rewards_of(lambda completions, **_: [None for _ in completions], ["p"], ["x"], [[1]], {})
    assert np.isnan(found).all()
    with pytest.raises(ValueError, match="'lengths' must return one reward for each completion; got 1 rewards for 2"):
        rewards_of(lengths, ["p", "p"], ["x", "y"], [[1]], {})
    with pytest.raises(ValueError, match=r"must return finite numbers, .* got 1 infinite values among 1"):
        rewards_of(lambda **_: [float("inf")], ["p"], ["x"], [[1]], {})


def test_evaluation_gives_each_reward_its_row():
    def right(prompts, completions, wanted, **_):
        return [float(w == p) for p, w in zip(prompts, wanted, strict=True)]

    rows = [{"prompt": p, "wanted": p if i % 3 else "no"} for i, p in enumerate(PROMPTS[:9])]
    found = evaluate(language_model(), tokenizer(), rows, right, 200, Sampling(max_completion=2))
    assert found.rewards.mean(1).tolist() == [0, 1, 1] * 3


# Measures


def test_every_problem_counts_the_same():
    solved = np.zeros((5, 4))
    solved[4] = 1
    found = measures(made(solved))
    assert found["pass@1"].mean == pytest.approx(0.2)
    assert found["pass@1"].high - found["pass@1"].mean == pytest.approx(2.776 * 0.2, rel=1e-3)


def test_passes_are_max_and_min_of_the_outcomes():
    rng = np.random.default_rng(0)
    outcomes = (rng.random((30, 8)) < rng.random((30, 1))).astype(float)
    found = measures(made(outcomes))
    for k in (2, 4, 8):
        assert found[f"pass@{k}"].mean == pytest.approx(og.value(outcomes, f"max@{k}").mean())
        assert found[f"pass^{k}"].mean == pytest.approx(og.value(outcomes, f"min@{k}").mean())
    assert not {"reward", "max@2", "no reward"} & found.keys()


def test_graded_rewards_and_completions_without_a_reward():
    rewards = np.array([[0.0, 0.5, 2.0, np.nan], [np.nan] * 4])
    found = measures(made(rewards, ended=False), success=0.5)
    assert found["pass@1"].by_problem.tolist() == [0.5, 0.0]
    assert found["reward"].mean == pytest.approx(2.5 / 3)
    assert found["max@2"].by_problem[0] == pytest.approx((0.5 + 2 + 2) / 3)
    assert np.isnan(found["max@4"].mean)
    assert found["no reward"].mean == pytest.approx(0.625)
    assert found["cut short"].mean == 1


def test_leads_are_paired_by_problem():
    rng = np.random.default_rng(1)
    hard = rng.random((40, 1))
    ours, theirs = (measures(made(rng.random((40, 64)) < hard + shift))["pass@1"] for shift in (0.05, 0.0))
    apart = lead(ours, theirs)
    assert apart.mean == pytest.approx(ours.mean - theirs.mean)
    assert apart.high - apart.low < 0.5 * (ours.high - ours.low)


def test_intervals_cover_and_those_of_completions_would_not():
    rng = np.random.default_rng(2)
    covered = naive = 0
    for _ in range(400):
        rates = rng.beta(0.3, 0.7, (30, 1))
        outcomes = (rng.random((30, 16)) < rates).astype(float)
        found = measures(made(outcomes))["pass@1"]
        covered += found.low <= 0.3 <= found.high
        naive += abs(outcomes.mean() - 0.3) <= 1.96 * outcomes.std() / outcomes.size**0.5
    assert covered / 400 > 0.91
    assert naive / 400 < 0.6


def test_completions_are_kept_and_read_again(tmp_path):
    found = evaluate(language_model(), tokenizer(), [{"prompt": "a"}, {"prompt": "bc"}], lengths, 3, Sampling(8))
    write_evaluation(tmp_path / "c.jsonl", found)
    again = read_evaluation(tmp_path / "c.jsonl")
    assert (again.prompts, again.completions) == (found.prompts, found.completions)
    np.testing.assert_array_equal(again.rewards, found.rewards)
    assert json.loads((tmp_path / "c.jsonl").read_text().splitlines()[3])["group"] == 1


# During training


def test_the_callback_measures_before_during_and_after(tmp_path):
    trainer = make("grpo", tmp_path, "mean", max_steps=5, reward_funcs=lengths)
    rows = [{"prompt": prompt} for prompt in PROMPTS[:3]]
    callback = HeldOutEvaluation(trainer, {"test": rows}, lengths, every=2, samples=4, success=0.5)
    trainer.add_callback(callback)
    trainer.train()
    assert [step for step, _ in callback.history] == [0, 2, 4, 5]
    logged = [row for row in trainer.state.log_history if "eval_test/pass@1" in row]
    assert [row["eval_test/pass^4"] for row in logged] == [found["test"]["pass^4"] for _, found in callback.history]
    steps = [row for row in trainer.state.log_history if "reward" in row]
    assert len(steps) == 5
    start = evaluate(language_model(), tokenizer(), rows, lengths, 4, sampling_of(trainer.args))
    assert callback.history[0][1]["test"]["pass@1"] == measures(start, 0.5)["pass@1"].mean
    with pytest.raises(ValueError, match="every and samples must be at least 1"):
        HeldOutEvaluation(trainer, {"test": rows}, lengths, every=0, samples=4)


# The command


def command(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)], env={"COLUMNS": "140"})


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = small_lm.character_tokenizer(countdown.ALPHABET)
    for seed in (0, 1):
        small_lm.small_model(words, seed=seed, width=8, layers=1).save_pretrained(f"model-{seed}")
        words.save_pretrained(f"model-{seed}")
    base = AutoModelForCausalLM.from_pretrained("model-0")
    get_peft_model(base, LoraConfig(r=2, target_modules="all-linear")).save_pretrained("adapter")
    config = json.loads(Path("adapter/adapter_config.json").read_text())
    Path("adapter/adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "model-0"}))
    for name in ("easy", "hard"):
        lines = [json.dumps({"prompt": f"{i}+{i}=", "answer": str(i)}) for i in range(4)]
        Path(f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    Path("graded_rewards.py").write_text(
        "async def graded(completions, completion_ids, answer, **_):\n"
        "    return [None if c == '' else len(ids) / 4 for c, ids in zip(completions, completion_ids)]\n"
    )
    return tmp_path


def test_eval_compares_models_on_several_files(models):
    common = ["--data", "easy.jsonl", "--data", "other=hard.jsonl", "--reward", "graded_rewards:graded"]
    sizes = ["--samples", "4", "--max-completion", "4", "--out", "out"]
    result = command("model-0", "model-1", *common, *sizes)
    assert result.exit_code == 0, result.output
    rows = read_csv("out/measures.csv")
    assert {(row["test"], row["model"]) for row in rows} == {
        (test, model) for test in ("easy", "other") for model in ("model-0", "model-1")
    }
    by = {(row["test"], row["model"], row["measure"]): float(row["mean"]) for row in rows}
    found = read_evaluation(Path("out/models/model-1/other.jsonl"))
    assert by["other", "model-1", "reward"] == pytest.approx(float(np.nanmean(np.nanmean(found.rewards, 1))))
    ahead = {(row["test"], row["measure"]): float(row["lead"]) for row in read_csv("out/leads.csv")}
    assert ahead["easy", "tokens"] == pytest.approx(by["easy", "model-1", "tokens"] - by["easy", "model-0", "tokens"])
    assert {"pass@4", "pass^4", "max@2", "cvar:0.25", "tokens"} <= {measure for _, measure in ahead}
    assert "4 problems x 4 completions" in result.output
    again = command("model-0", "model-1", *common, *sizes, "--resume")
    assert again.exit_code == 0
    assert "model-0: " not in again.output


def test_eval_measures_the_base_of_an_adapter(models):
    result = command("adapter", "--data", "countdown", "--problems", 3, "--samples", 2, "--max-completion", 3)
    assert result.exit_code == 0, result.output
    rows = read_csv("runs/eval/leads.csv")
    assert {(row["model"], row["over"]) for row in rows} == {("adapter", "model-0")}
    assert {float(row["lead"]) for row in rows} == {0.0}  # an adapter that has not been trained changes nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--data", "easy.jsonl", "--reward", "exact"], "nowhere must be a folder with a language model"),
        (["model-0", "--data", "easy.jsonl"], "--reward must be exact, math or module:function for a file"),
        (["model-0", "--data", "a=easy.jsonl", "--data", "a=hard.jsonl", "--reward", "exact"], "different names"),
        (["model-0", "--data", "easy.jsonl", "--reward", "exact", "--samples", "0"], "samples must be at least 1"),
        (["model-0", "--data", "easy.jsonl", "--reward", "exact", "--vllm"], "--vllm needs vLLM"),
        (["model-0", "--data", "easy.jsonl", "--reward", "exact", "--system-prompt", "Hi"], "has no chat template"),
    ],
)
def test_eval_refuses_what_does_not_fit(arguments, message, models):
    result = command(*arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def read_csv(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))
