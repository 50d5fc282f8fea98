"""TRL's trainers with a K for each prompt: every batch replayed from its logged prompts and rewards."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import TrlParser
from trl_toy import PROMPTS, make

import ordergrad as og
from ordergrad.adapters.trl import OrderGradGRPOConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")
torch.set_num_threads(1)
FEW = Dataset.from_dict({"prompt": PROMPTS[:8]})
SUCCESS = 1.25


def few(kind, folder, objective="max@5", *, options=None, **settings):
    """Return a trainer whose prompts come again every second step."""
    own = {"k_window": 8, "success": SUCCESS, **(options or {})}
    return make(kind, folder, objective, dataset=FEW, options=own, **{"max_steps": 6, **settings})


class Batches(TrainerCallback):
    """Keeps the prompts, rewards and advantages of every step."""

    def __init__(self, trainer):
        self.logs, self.all = trainer._logs, []
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, args, state, control, **_):
        columns = self.logs["prompt"], self.logs["rewards"]["reward"], self.logs["advantages"]
        self.all.append([np.reshape(list(column), (-1, 6)) for column in columns])


def replayed(batches, window):
    """Check every batch against the library with a K from the passes that were kept by hand; return all K."""
    history, chosen = {}, []
    for prompts, rewards, a in batches:
        assert (prompts == prompts[:, :1]).all()
        ks = []
        for prompt in prompts[:, 0]:
            past = history.get(prompt, [])[-window:]
            k = 1 if not past else 5 if not sum(past) else min(max(round(len(past) / sum(past)), 1), 5)
            ks.append(k)
        for prompt, group, found, k in zip(prompts[:, 0], rewards, a, ks, strict=True):
            np.testing.assert_allclose(found, og.advantages(group, f"max@{k}"), atol=1e-6)
            history.setdefault(prompt, []).extend(group >= SUCCESS)
        chosen.append(ks)
    return chosen


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 12}, {"steps_per_generation": 1}],
)
@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_each_prompt_has_its_own_k(kind, settings, tmp_path):
    trainer = few(kind, tmp_path, **settings)
    batches = Batches(trainer)
    trainer.train()
    chosen = replayed(batches.all, 8)
    assert len(chosen) == 6
    assert chosen[:2] == [[1] * 4] * 2
    assert len({k for ks in chosen for k in ks}) > 2
    history = trainer.state.log_history
    assert [entry["ordergrad/mean_k"] for entry in history[:-1]] == [np.mean(ks) for ks in chosen]
    assert [entry["ordergrad/unseen"] for entry in history[:-1]] == [1, 1, 0, 0, 0, 0]
    for entry, (_, rewards, a) in zip(history, batches.all, strict=False):
        assert entry["ordergrad/value"] == pytest.approx(og.value(rewards, "max@5").mean(), abs=1e-6)
        assert entry["ordergrad/no_signal"] == (a == 0).all(1).mean()


def test_the_largest_k_may_follow_a_schedule(tmp_path):
    trainer = few("rloo", tmp_path, lambda t: "max@5" if t < 0.5 else "max@1")
    trainer.train()
    found = [entry["ordergrad/mean_k"] for entry in trainer.state.log_history[:-1]]
    assert found[2] > 1
    assert found[3:] == [1, 1, 1]


def test_a_resumed_run_remembers(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 3}
    whole, resumed = few("rloo", tmp_path, **settings), few("rloo", tmp_path, **settings)
    before, after = Batches(whole), Batches(resumed)
    whole.train()
    folder = tmp_path / "checkpoint-3"
    assert json.loads((folder / "ordergrad.json").read_text())["k_window"] == 8
    resumed.train(resume_from_checkpoint=str(folder))
    assert len(after.all) == 3
    chosen = replayed(before.all[:3] + after.all, 8)
    means = [entry["ordergrad/mean_k"] for entry in resumed.state.log_history if "ordergrad/mean_k" in entry]
    assert means == [np.mean(ks) for ks in chosen]
    with pytest.raises(ValueError, match="was trained with k_window=8, now 4"):
        few("rloo", tmp_path, options={"k_window": 4}).train(resume_from_checkpoint=str(folder))
    (folder / "ordergrad_pass_rates.json").unlink()
    with pytest.warns(UserWarning, match="checkpoint-3 holds no pass rates"):
        few("rloo", tmp_path, **settings).train(resume_from_checkpoint=str(folder))


def test_evaluation_has_the_k_of_the_objective_and_is_not_remembered(tmp_path):
    trainer = few("grpo", tmp_path, max_steps=2, per_device_eval_batch_size=12)
    metrics = trainer.evaluate(FEW)
    assert "eval_ordergrad/mean_k" not in metrics
    assert not trainer.pass_rates.state_dict()
    rewards = np.reshape(list(trainer._logs["rewards"]["reward"]), (-1, 6))
    a = og.advantages(rewards, "max@5")
    np.testing.assert_allclose(np.reshape(list(trainer._logs["advantages"]), (-1, 6)), a, atol=1e-6)
    trainer.train()
    assert len(trainer.pass_rates.state_dict()) == 8


def rarely(completion_ids, **_):
    return [float(ids[0] in (5, 6)) for ids in completion_ids]


def test_refilled_groups_are_chosen_for_and_remembered(tmp_path):
    own = {"k_window": 6, "refill": 4}
    trainer = make("grpo", tmp_path, "max@5", reward_funcs=rarely, dataset=FEW, options=own, max_steps=3)
    calls, record = [], trainer.pass_rates.record
    trainer.pass_rates.record = lambda keys, passed: (calls.append((list(keys), passed.copy())), record(keys, passed))
    trainer.train()
    entries = trainer.state.log_history[:-1]
    assert len(calls) == sum(entry["ordergrad/generated_batches"] for entry in entries) > 3
    kept = {}
    for keys, passed in calls:
        for key, group in zip(keys, passed, strict=True):
            kept[key] = (kept.get(key, "") + "".join(str(int(one)) for one in group))[-6:]
    assert trainer.pass_rates.state_dict() == kept


def test_the_reward_function_of_success_decides(tmp_path):
    def other(completion_ids, **_):
        return [10.0 for _ in completion_ids]

    functions = [other, rarely]
    trainer = make(
        "rloo", tmp_path, "max@5", reward_funcs=functions, options={"k_window": 6, "success_reward": "rarely"}
    )
    trainer.train()
    logged = np.reshape(list(trainer._logs["rewards"]["rarely"]), (-1, 6)).astype(int)
    assert sorted(trainer.pass_rates.state_dict().values()) == sorted("".join(map(str, row)) for row in logged)
    with pytest.raises(ValueError, match=r"k_window needs success_reward.*one of other, rarely"):
        make("rloo", tmp_path, "max@5", reward_funcs=functions, options={"k_window": 6, "success_reward": None})


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        ("mean", {"k_window": 8}, r"k_window needs the objective max@K with a whole K.*got mean"),
        ("max@2.5", {"k_window": 8}, r"with a whole K, the largest that is chosen; got max@2.5"),
        ("max@4..mean", {"k_window": 8}, "k_window needs the objective max@K"),
        ("max@4", {"k_window": -1}, "k_window must be a whole number >= 0; got -1"),
        ("max@4", {"k_window": 2.5}, "k_window must be a whole number >= 0; got 2.5"),
        ("max@4", {"k_window": True}, "k_window must be a whole number >= 0; got True"),
        ("max@4", {"k_window": 8, "group": "batch"}, "k_window needs group='prompt'.*got 'batch'"),
        ("max@6", {"k_window": 8}, "1 <= k < num_generations; got k=6"),
    ],
)
def test_bad_settings_are_refused_before_the_model_is_loaded(objective, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make("grpo", tmp_path, objective, model="no/such/model", options=options)


def test_the_setting_stands_in_yaml_trackers_and_the_model_card(tmp_path):
    (tmp_path / "run.yaml").write_text(f"output_dir: {tmp_path}\nobjective: max@4\nk_window: 32\nuse_cpu: true\n")
    (args,) = TrlParser((OrderGradGRPOConfig,)).parse_args_and_config(["--config", str(tmp_path / "run.yaml")])
    assert args.k_window == 32
    trainer = few("grpo", tmp_path)
    assert trainer.args.to_sanitized_dict()["k_window"] == 8
    trainer.create_model_card("model")
    assert "- k_window: `8`" in (tmp_path / "README.md").read_text()
