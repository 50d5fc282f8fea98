"""TRL's asynchronous trainer: what the objective makes of a group in the process that ranks, and how it gets there.

The rollout process needs a vLLM server, which is not there: its scoring is called directly, with TRL's own loop.
"""

import inspect
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import trl
from accelerate.state import PartialState
from trl.experimental.async_grpo import async_grpo_trainer, async_rollout_worker
from trl_toy import language_model, prompts, tokenizer

import ordergrad as og
from ordergrad.adapters.trl_async import AsyncGRPOConfig, ObjectiveRolloutLoop, OrderGradAsyncGRPOTrainer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def values(completions, **_):
    return [None if text == "?" else float(text) for text in completions]


def half(completions, **_):
    return [0.5] * len(completions)


def loop_of(reward_funcs=(values,), **settings):
    words = tokenizer()
    words.response_template = {}  # so that TRL does not look for one by the chat template
    given = {
        "num_generations": 6,
        "model_name": "toy",
        "dataset": prompts(),
        "reward_funcs": reward_funcs,
        "processing_class": words,
        "eos_token_ids": [1],
        "rollout_buffer": None,
        "model_version_value": SimpleNamespace(value=0),
        "heartbeat_value": None,
        "failed_event": None,
        "exception_info_queue": None,
        "metrics_queue": None,
    }
    known = inspect.signature(async_rollout_worker._AsyncRolloutLoop).parameters  # TRL 1.14 has fewer
    chosen = {"objective": "top:2@4", "scale": "none", "small": "zero", **settings}
    return ObjectiveRolloutLoop(**chosen, **{name: x for name, x in given.items() if name in known})


def group_of(texts, rows):
    """Return a group of completions, each with a number of rows to train on."""
    n = len(texts)
    sequences = [
        [async_rollout_worker.TrainingSequence([2, 3, i], [0, 1, 1], [0.0, -1.0, -1.0], str(i)) for _ in range(count)]
        for i, count in enumerate(rows)
    ]
    return async_rollout_worker.RolloutGroup(
        prompts=["a"] * n,
        reward_kwargs={},
        completions=texts,
        completions_ids=[[1]] * n,
        completions_sequences=sequences,
        tool_call_counts=[0] * n,
        tool_failure_counts=[0] * n,
        model_version=0,
        group_id=7,
        env_rewards=[None] * n,
        rollout_rewards=[None] * n,
    )


def scored(loop, texts, rows):
    PartialState()  # as TRL's process does before anything is logged
    try:
        return loop._loop.run_until_complete(loop._score_group(group_of(texts, rows)))
    finally:
        loop._loop.run_until_complete(loop._loop.shutdown_default_executor())
        loop._loop.close()


@pytest.mark.parametrize(("objective", "scale"), [("top:2@4", "none"), ("max@5", "none"), ("mean", "group")])
def test_every_row_of_a_conversation_has_its_advantage(objective, scale):
    rewards, rows = [0.0, 2.0, 1.0, 5.0, 2.0, 3.0], [1, 2, 0, 1, 3, 1]
    samples = scored(loop_of(objective=objective, scale=scale), [str(x) for x in rewards], rows)
    expected = og.advantages(np.array(rewards), objective)
    if scale == "group":
        expected = expected / (expected.std(ddof=1) + 1e-6)
    assert [sample.advantage for sample in samples] == pytest.approx(np.repeat(expected, rows).tolist())
    assert [int(sample.input_ids[-1]) for sample in samples] == np.repeat(np.arange(6), rows).tolist()


def test_unscorable_completions_are_left_out_and_rewards_are_summed():
    samples = scored(loop_of(), ["0", "1", "2", "?", "3", "4"], [1] * 6)
    known = og.advantages(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), "top:2@4")
    assert [sample.advantage for sample in samples] == pytest.approx([*known[:3], 0.0, *known[3:]])
    both = loop_of(reward_funcs=[values, half])
    samples = scored(both, ["0", "1", "2", "?", "3", "4"], [1] * 6)
    known = og.advantages(np.array([0.5, 1.5, 2.5, 0.5, 3.5, 4.5]), "top:2@4")
    assert [sample.advantage for sample in samples] == pytest.approx(known.tolist())


@pytest.fixture
def model(tmp_path):
    language_model().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.skipif(trl.__version__ < "1.16", reason="before TRL 1.16 the model needs an attention kernel for GPUs")
def test_the_trainer_gives_its_objective_to_the_process_that_ranks(model, tmp_path, monkeypatch):
    monkeypatch.setattr(async_rollout_worker, "is_vllm_available", lambda *_: True)
    monkeypatch.setattr(async_rollout_worker, "is_aiohttp_available", lambda *_: True)
    monkeypatch.setattr(async_grpo_trainer, "get_peak_flops_per_device", lambda *_: None)  # asks for a GPU
    trainer = OrderGradAsyncGRPOTrainer(
        model,
        values,
        AsyncGRPOConfig(str(tmp_path / "run"), max_steps=1, use_cpu=True, bf16=False, report_to=[]),
        prompts(),
        objective=og.parse("top:2@4"),
        weight_transfer=SimpleNamespace(),
    )
    worker = trainer.rollout_worker
    assert worker._loop_cls is ObjectiveRolloutLoop
    kwargs = pickle.loads(pickle.dumps(worker._loop_kwargs))
    assert {name: kwargs[name] for name in ("objective", "scale", "small")} == {
        "objective": "top:2@4",
        "scale": "none",
        "small": "zero",
    }
    assert async_grpo_trainer.AsyncRolloutWorker._loop_cls is not ObjectiveRolloutLoop


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "max@8"}, "k must satisfy 1 <= k < num_generations; got k=8, num_generations=8"),
        ({"objective": "mean", "scale": "batch"}, "scale must be none or group"),
        ({"objective": "mean", "small": "drop"}, "small must be one of zero, shrink"),
        ({"objective": "mean", "rollout_worker": object()}, "rollout_worker must be None"),
    ],
)
def test_what_it_cannot_do_is_refused_before_the_model_is_loaded(settings, message):
    with pytest.raises(ValueError, match=message):
        OrderGradAsyncGRPOTrainer("no-such-model", values, **settings)
