"""`ordergrad train llm`: a small run from start to end, resuming, tasks from files, and bad input before any work."""

import csv
import json
import signal
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from ordergrad import advantages
from ordergrad.commands.cli import app
from ordergrad.evaluate.evaluation import Evaluation, write_evaluation
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import read_metrics, run_folder
from ordergrad.runs.statistics import pass_at, pass_at_k, read_successes
from ordergrad.spec import parse
from ordergrad.train import countdown, small_lm
from ordergrad.train.llm import prepare, run, train
from ordergrad.train.llm_checks import check
from ordergrad.train.llm_settings import LLMSettings
from ordergrad.train.llm_summary import collected, leads, nothing_learned, write_summary
from ordergrad.train.llm_trainer import Recorder, make_trainer
from ordergrad.train.tasks import load_task, math

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
TINY = LLMSettings(
    objectives=("top:2@3", "grpo"), steps=6, prompts=2, samples=4, warm_steps=5, eval_problems=4, eval_samples=4
)
FLAGS = [
    *("--steps", "6", "--prompts", "2", "--samples", "4", "--warm-steps", "5"),
    *("--eval-problems", "4", "--eval-samples", "4", "--jobs", "1"),
]


def command(*arguments):
    return CliRunner().invoke(app, ["train", "llm", *map(str, arguments)], env={"COLUMNS": "140"})


def test_a_run_from_start_to_end(tmp_path):
    out = tmp_path / "run"
    result = command("-o", "top:2@3", "-a", "grpo", "--out", out, *FLAGS)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert {(row["trained"], int(row["k"])) for row in rows} == {
        (name, k) for name in ("warm start", "top:2@3", "grpo") for k in (1, 2, 4)
    }
    assert all(float(row["low"]) <= float(row["pass_at_k"]) <= float(row["high"]) for row in rows)
    assert matplotlib.image.imread(out / "pass_at_k.png").std() > 0.02
    assert json.loads((out / "config.json").read_text())["settings"]["objectives"] == ["top:2@3", "grpo"]
    again = command("-o", "top:2@3", "-a", "grpo", "--out", out, *FLAGS)
    assert again.exit_code == 2
    assert "already holds a run" in again.output
    resumed = command("-o", "top:2@3", "-a", "grpo", "--out", out, "--resume", *FLAGS)
    assert resumed.exit_code == 0, resumed.output


def test_a_stopped_run_goes_on_from_its_checkpoint(tmp_path):
    settings = replace(TINY, steps=24)
    assert prepare(settings, tmp_path)
    folder = run_folder(tmp_path, "top:2@3", 0)
    asked = iter([False] * 12 + [True])
    assert not train(settings, "top:2@3", 0, folder, lambda: next(asked), lambda row: None)
    assert sorted(path.name for path in (folder / "checkpoints").glob("checkpoint-*")) == ["checkpoint-13"]
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == list(range(1, 14))
    assert run(replace(settings, micro_batch=2), "top:2@3", 0, folder, lambda: False, lambda row: None)
    successes, samples = read_successes(folder / "evaluation.csv")
    assert len(successes) == 4
    assert samples == 4
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == list(range(1, 25))


def test_a_stopped_warm_start_goes_on_where_it_was(tmp_path):
    steps = []
    assert prepare(TINY, tmp_path / "whole", steps.append)
    assert steps[-1] == TINY.warm_steps
    asked = iter([False, False, False, True])
    assert not prepare(TINY, tmp_path / "parts", stop=lambda: next(asked))
    assert not list(tmp_path.glob("parts/warm-start/*.safetensors"))
    assert [path.name for path in tmp_path.glob("parts/warm-start/trainer/checkpoint-*")] == ["checkpoint-3"]
    assert prepare(TINY, tmp_path / "parts")
    assert not (tmp_path / "parts/warm-start/trainer").exists()
    whole, parts = (load_file(tmp_path / name / "warm-start/model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_ctrl_c_in_the_warm_start_ends_well(tmp_path, monkeypatch):
    made = countdown.demonstrations

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return made(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(countdown, "demonstrations", interrupted)
        stopped = command("-o", "top:2@3", "--out", tmp_path / "run", *FLAGS)
    assert stopped.exit_code == 130
    assert "Run the same command with --resume" in " ".join(stopped.output.split())
    resumed = command("-o", "top:2@3", "--out", tmp_path / "run", "--resume", *FLAGS)
    assert resumed.exit_code == 0, resumed.output


@pytest.mark.parametrize("objective", ["max@2", "grpo"])
def test_micro_batches_have_the_same_gradient(objective, tmp_path):
    settings = replace(TINY, objectives=(objective,), steps=3, length_penalty=0.25)
    prepare(settings, tmp_path)
    trained = []
    for size in (None, 2):
        folder = run_folder(tmp_path, objective, size or 0)
        assert train(replace(settings, micro_batch=size), objective, 0, folder, lambda: False, lambda row: None)
        trained.append(load_file(folder / "model" / "model.safetensors"))
    start = load_file(tmp_path / "warm-start" / "model.safetensors")
    for name, weights in start.items():
        torch.testing.assert_close(trained[1][name], trained[0][name], rtol=0, atol=1e-6)
        assert not torch.equal(trained[0][name], weights)


def test_a_model_and_a_reward_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = small_lm.character_tokenizer(countdown.ALPHABET)
    tokenizer.save_pretrained("model")
    small_lm.small_model(tokenizer, seed=0, width=8, layers=1).to(torch.bfloat16).save_pretrained("model")
    write(tmp_path / "data.jsonl", [{"prompt": f"{i}="} for i in range(12)])
    (tmp_path / "rewards_of_mine.py").write_text(
        "def graded(completions, **_):\n    return [0.5 for _ in completions]\n"
    )
    own = ["--model", "model", "--data", "data.jsonl", "--reward", "rewards_of_mine:graded", "--max-completion", "3"]
    common = ["-o", "top:2@3", *own, *FLAGS]
    result = command(*common, "--out", "half", "--success", "0.5", "--learning-rate", "1e-4")
    assert result.exit_code == 0, result.output
    assert "Completions were cut short at 3 tokens" in result.output
    assert {row["pass_at_k"] for row in csv.DictReader((tmp_path / "half/results.csv").open())} == {"1.0"}
    metrics = read_metrics(run_folder(tmp_path / "half", "top:2@3", 0) / "metrics.jsonl")
    assert metrics[-1]["ordergrad/pass@1"] == 1
    trained = load_file(run_folder(tmp_path / "half", "top:2@3", 0) / "model" / "model.safetensors")
    assert {weights.dtype for weights in trained.values()} == {torch.float32}
    result = command(*common, "--out", "whole", "--steps", "1")
    assert result.exit_code == 0, result.output
    assert {row["pass_at_k"] for row in csv.DictReader((tmp_path / "whole/results.csv").open())} == {"0.0"}
    settings = json.loads((tmp_path / "whole/config.json").read_text())["settings"]
    assert (settings["micro_batch"], settings["learning_rate"], settings["success"]) == (4, 1e-6, 1.0)


def test_a_pair_of_objectives_is_annealed_and_length_has_a_price(tmp_path, monkeypatch):
    settings = replace(TINY, objectives=("max@2..mean",), length_penalty=0.25, steps=4)
    prepare(settings, tmp_path)
    objectives, rewards = [], []

    def spy(rewards_, objective, **options):
        objectives.append(str(objective))
        rewards.append(np.array(rewards_))
        return advantages(rewards_, objective, **options)

    monkeypatch.setattr("ordergrad.adapters.trl.advantages", spy)
    folder = run_folder(tmp_path, "max@2..mean", 0)
    assert run(settings, "max@2..mean", 0, folder, lambda: False, lambda row: None)
    mixed = ["max@2", "0.75*max@2+0.25*mean", "0.5*max@2+0.5*mean", "0.25*max@2+0.75*mean"]
    assert list(map(parse, objectives)) == list(map(parse, mixed))
    priced = np.concatenate(rewards).ravel()
    assert (priced < 0).any()
    assert set(np.round(priced * 4) / 4) == set(priced)


def test_lora_trains_and_is_measured(tmp_path):
    settings = replace(TINY, objectives=("max@2",), lora=True, steps=2)
    prepare(settings, tmp_path)
    folder = run_folder(tmp_path, "max@2", 0)
    assert run(settings, "max@2", 0, folder, lambda: False, lambda row: None)
    assert (folder / "model" / "adapter_model.safetensors").exists()
    assert (folder / "evaluation.csv").exists()


def test_the_small_model_learns_its_demonstrations(tmp_path):
    tokenizer = small_lm.character_tokenizer(countdown.ALPHABET)
    model = small_lm.small_model(tokenizer, seed=0, width=64, layers=3)
    assert model.num_parameters() == 148_800
    one = countdown.demonstrations(1, seed=0)
    small_lm.warm_start(model, tokenizer, one * 480, tmp_path, steps=60, seed=0, learning_rate=3e-3, batch_size=8)
    prompt = tokenizer(one[0].problem.prompt, return_tensors="pt")["input_ids"]
    output = model.generate(prompt, do_sample=False, max_new_tokens=24)
    assert tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True) == one[0].answer


def test_pass_at_k_is_the_closed_form():
    successes = np.array([0, 1, 3, 8])
    expected = [0, 1 - 7 / 8 * 6 / 7, 1 - 5 / 8 * 4 / 7, 1]
    np.testing.assert_allclose(pass_at(successes, 8, 2), expected, atol=1e-12)
    middle, low, high = pass_at_k([(successes, 8), (successes, 8)], [2])[0]
    assert low == middle == high == pytest.approx(np.mean(expected))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_tasks_from_files(tmp_path):
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(6)]
    task = load_task(write(tmp_path / "data.jsonl", rows), "exact", 2)
    assert (len(task.train), len(task.tests["held-out"])) == (4, 2)
    assert list(task.reward(prompts=["1+1="], completions=[" 2\n"], answer=["2"])) == [1.0]
    task = load_task(write(tmp_path / "data.jsonl", rows), "math", 2)
    assert list(task.reward(completions=["so $\\frac{1}{2}$", "$3$"], answer=["0.5", "2"])) == [1.0, 0.0]
    task = load_task(write(tmp_path / "data.jsonl", rows), "ordergrad.train.tasks:exact", 2)
    assert list(task.reward(completions=[[{"role": "assistant", "content": "2"}]], answer=["2"])) == [1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ("max@4",)}, "max@4 compares 4 completions and needs groups of at least 5; --samples is 4"),
        ({"objectives": ("mox@2",)}, "did you mean 'max'"),
        ({"objectives": ("mean", "mean")}, "each objective once; mean and mean are the same"),
        ({"objectives": ("max@2", "grpo", "1*max@2")}, r"each objective once; max@2 and 1\*max@2 are the same"),
        ({"objectives": ("max@2..mean", "max@2.0..1*mean")}, "each objective once"),
        ({"objectives": ("grpo", "grpo")}, "each objective once; grpo and grpo are the same"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite; got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite; got inf"),
        ({"objectives": ("grpo",), "samples": 1}, "samples must be at least 2"),
        ({"width": 63}, "width must be a multiple of 8; got 63"),
        ({"eval_problems": 100_000}, "too few problems .* got count=100000, at most 24750"),
        ({"data": "some.jsonl"}, "--model must be a folder or a hub id"),
        ({"objectives": ("0*mean",)}, "objective must have a nonzero term"),
        ({"objectives": ("max@2..max@4-max@4",)}, "objective must have a nonzero term"),
        ({"success": float("nan")}, "success must be finite; got nan"),
        ({"micro_batch": 3}, "micro_batch must divide the 8 completions of a step; got 3"),
        ({"data": "countdown:6:9:99"}, "max_completion must be at least 20"),
        ({"objectives": ("max@2..mox",)}, "did you mean 'max'"),
        ({"objectives": ("mean..max@4",)}, "max@4 compares 4 completions"),
        ({"warm_hits": 1.5}, "warm_hits must lie in"),
        ({"warm_hits": float("nan")}, "warm_hits must lie in"),
        ({"length_penalty": -0.1}, "length_penalty must be finite and not negative"),
        ({"data": "countdown:4"}, "countdown:NUMBERS:LARGEST:TARGET"),
        ({"data": "countdown:1:9:50"}, "numbers must satisfy numbers >= 2"),
        ({"data": "countdown:2:3:5"}, "too few problems"),
        ({"data": "some.txt", "model": "x", "reward": "exact"}, "must be countdown or a file ending in"),
        ({"data": "some.jsonl", "model": "x", "reward": "exact"}, "does not exist"),
        ({"data": "some.jsonl", "model": "x"}, "--reward must be exact, math or module:function"),
        ({"reward": "nowhere:f"}, "must be task, exact, math or module:function"),
        ({"reward": "exact"}, "needs the column 'answer'"),
        ({"vllm": True}, "pip install vllm"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"system_prompt": "Hi"}, "need a --model with a chat template"),
        ({"tracker": "nowhere"}, "--tracker must be one of those that are installed"),
    ],
)
def test_bad_settings_are_refused_before_any_work(changes, message):
    with pytest.raises(UserError, match=message):
        check(replace(TINY, **changes))


@pytest.mark.parametrize("width", [8, 72, 256, 320, 328])
def test_every_multiple_of_8_is_a_width(width):
    tokenizer = small_lm.character_tokenizer("01")
    model = small_lm.small_model(tokenizer, seed=0, width=width, layers=1)
    assert model(**tokenizer("0110", return_tensors="pt", return_token_type_ids=False)).logits.shape == (1, 4, 4)


def test_errors_of_the_command_show_what_came(tmp_path, monkeypatch):
    result = command("-o", "mean", "--data", "x[/y].jsonl", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "must be a folder or a hub id for --data x[/y].jsonl" in " ".join(result.output.split())
    monkeypatch.setattr("ordergrad.commands.train_llm._NEEDED", ("torch", "no_such_package"))
    result = command("-o", "mean", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "needs no_such_package: pip install 'ordergrad[llm]'" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_files_without_the_columns_are_refused(tmp_path):
    with pytest.raises(UserError, match="must have the column 'prompt'"):
        load_task(write(tmp_path / "a.jsonl", [{"question": "1+1"}] * 9), "exact", 2)
    with pytest.raises(UserError, match="needs the column 'answer'"):
        load_task(write(tmp_path / "b.jsonl", [{"prompt": "1+1"}] * 9), "exact", 2)
    with pytest.raises(UserError, match="more than the 9 rows"):
        load_task(write(tmp_path / "c.jsonl", [{"prompt": "1+1", "answer": "2"}] * 9), "exact", 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("not json\n", "cannot be read: JSON parse error"),
        ('{"prompt": "1", "answer": "1"}\n{"prompt": null, "answer": "1"}\n', "row 2 has None"),
        ('{"prompt": "1", "answer": "1"}\n{"prompt": "", "answer": "1"}\n', "row 2 has ''"),
        ('{"prompt": [{"role": "user"}], "answer": "1"}\n' * 2, "row 1 has .*'role': 'user'"),
        ('{"prompt": "1", "answer": "1"}\n{"prompt": "1", "answer": null}\n', "an answer in every row; row 2 has none"),
    ],
)
def test_broken_rows_are_refused(text, message, tmp_path):
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        load_task(str(tmp_path / "data.jsonl"), "exact", 1)


def test_models_that_do_not_fit_are_refused_before_any_work(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "1+1="}], "answer": "2"}] * 9
    settings = replace(TINY, data=write(tmp_path / "chat.jsonl", rows), reward="exact")
    with pytest.raises(UserError, match="--model must be a folder with a language model, or a hub id"):
        check(replace(settings, model=str(tmp_path / "nowhere")))
    tokenizer = small_lm.character_tokenizer(countdown.ALPHABET)
    tokenizer.save_pretrained(tmp_path / "model")
    small_lm.small_model(tokenizer, seed=0, width=8, layers=1).config.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="has no chat template"):
        check(replace(settings, model=str(tmp_path / "model")))
    with pytest.raises(UserError, match="prompts must be at most 5, the rows that"):
        check(replace(settings, model=str(tmp_path / "model"), prompts=6))


def own_model(folder, chat=False):
    tokenizer = small_lm.character_tokenizer(countdown.ALPHABET)
    if chat:
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{{ end or ':' }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    small_lm.small_model(tokenizer, seed=0, width=8, layers=1).save_pretrained(folder)
    return str(folder)


def test_the_base_model_is_measured_and_nothing_learned_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_model("model")
    write(tmp_path / "data.jsonl", [{"prompt": f"{i}=", "answer": "right"} for i in range(12)])
    own = ["--model", "model", "--data", "data.jsonl", "--reward", "exact", "--max-completion", "3"]
    result = command("-o", "top:2@3", *own, *FLAGS, "--out", "run")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "Nothing was learned: no model is ahead of the base model" in text
    assert "None of 4 completions of any held-out problem succeeds: take easier problems" in text
    assert "top:2@3 seed 0 step 6 of 6" in text  # progress, though this is no terminal
    rows = list(csv.DictReader((tmp_path / "run/measures.csv").open()))
    assert {row["trained"] for row in rows} == {"base model", "top:2@3"}
    assert [row["step"] for row in read_metrics(run_folder(tmp_path / "run", "top:2@3", 0) / "metrics.jsonl")] == [
        *range(1, 7)
    ]


def test_what_was_learned_is_not_denied(tmp_path):
    settings = replace(TINY, objectives=("mean",), model="m")
    start = np.zeros((8, 4))
    for folder, rewards in ((tmp_path / "base", start), (run_folder(tmp_path, "mean", 0), start + 1)):
        groups = [["x"] * 4] * 8
        write_evaluation(
            folder / "completions/held-out.jsonl", Evaluation(["p"] * 8, groups, rewards, start + 1, start + 1)
        )
    found = collected(settings, tmp_path)
    assert nothing_learned(settings, tmp_path, found) is None
    assert leads(found["held-out"], "mean", "base model")["pass^4"] == (1, 1, 1)
    write_summary(settings, tmp_path, found)
    rows = list(csv.DictReader((tmp_path / "leads.csv").open()))
    assert {row["over"] for row in rows} == {"base model"}


def test_named_tests_stop_strings_a_template_and_quick_evaluations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_model("model", chat=True)
    write(tmp_path / "data.jsonl", [{"prompt": f"{i}=", "answer": "1"} for i in range(6)])
    write(tmp_path / "easy.jsonl", [{"prompt": f"{i}+", "answer": "1"} for i in range(3)])
    write(tmp_path / "hard.jsonl", [{"prompt": f"{i}*", "answer": "1"} for i in range(3)])
    (tmp_path / "slow_rewards.py").write_text(
        "async def ones(prompts, completions, completion_ids, **_):\n"
        "    assert prompts[0][0] == {'role': 'system', 'content': '7'}\n"
        "    return [float(c[0]['content'].endswith('1')) for c in completions]\n"
    )
    result = command(
        *("-o", "top:2@3", "-a", "grpo", "--model", "model", "--data", "data.jsonl", "--test", "easy.jsonl"),
        *("--test", "difficult=hard.jsonl", "--reward", "slow_rewards:ones", "--stop", "1", "--temperature", "1.5"),
        *("--system-prompt", "7", "--template", "end==", "--eval-every", "3", "--max-completion", "6", "--out", "run"),
        *FLAGS,
    )
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "run/measures.csv").open()))
    assert {row["test"] for row in rows} == {"easy", "difficult"}
    metrics = read_metrics(run_folder(tmp_path / "run", "grpo", 0) / "metrics.jsonl")
    assert [row["step"] for row in metrics if "eval_difficult/pass^4" in row] == [0, 3, 6]
    assert [row["step"] for row in metrics if "reward" in row] == [1, 2, 3, 4, 5, 6]
    lines = (run_folder(tmp_path / "run", "grpo", 0) / "completions/easy.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        text = line["completion"][0]["content"]
        assert "1" not in text[:-1]
        assert line["reward"] == text.endswith("1")


def test_completions_end_at_a_stop_string_in_training(tmp_path):
    settings = replace(TINY, model=own_model(tmp_path / "model"), stop=("1",), samples=16, max_completion=8)
    recorder = Recorder(tmp_path / "metrics.jsonl", lambda: False, lambda row: None)
    start = str(tmp_path / "model")
    trainer = make_trainer(settings, "mean", 0, start, tmp_path / "c", load_task("countdown", "task", 4), recorder)
    ids = trainer.processing_class(text=["1,2,3=9:"] * 64)["input_ids"]
    completions, _ = trainer._generate_single_turn(ids, None, {}, 64)
    one = trainer.processing_class("1")["input_ids"][0]
    assert any(ids[-1] == one and len(ids) < 8 for ids in completions)
    assert all(one not in ids[:-1] for ids in completions)


@pytest.mark.parametrize(
    ("answer", "completion", "reward"),
    [
        ("22", "... left the solution as 13 + 9, a", 0),
        ("22", "13 + 9 = 22", 1),
        ("22", "The answer is 22.", 1),
        ("22", "$13+9$", 0),
        ("22", "so $13+9=22$.", 1),
        ("22", r"\boxed{13+9}", 0),
        ("22", "", 0),
        ("1/2", r"it is \boxed{\frac{1}{2}}", 1),
        ("0.5", "it is 1/2", 1),
        ("1,234", "in all 1234 apples", 1),
        ("-5", "it's -5", 1),
        ("x+1", "So $x + 1$", 1),
        ("", "5", None),
        ("???", "5", None),
    ],
)
def test_math_takes_the_end_of_a_completion(answer, completion, reward):
    assert math(completions=[completion], answer=[answer]) == [reward]


def test_test_files_must_not_be_trained_on(tmp_path):
    rows = [{"prompt": f"{i}=", "answer": "1"} for i in range(6)]
    data, test = write(tmp_path / "data.jsonl", rows), write(tmp_path / "test.jsonl", rows[:2])
    with pytest.raises(UserError, match="test set test must not be trained on; 2 of its prompts"):
        load_task(data, "exact", 4, (test,))
