"""SkyRL 0.3 and 0.4: its own functions with the registered estimator. It shares the environment of verl."""

import importlib.util
import re
import sys
import typing
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import token_rewards
import torch

import ordergrad as og

if importlib.util.find_spec("skyrl") is None:
    pytest.skip("skyrl is not installed; 'make test-verl' builds its environment", allow_module_level=True)

if sys.version_info < (3, 12):  # Pydantic refuses SkyRL's use of typing.TypedDict there; SkyRL itself is run on 3.12
    import typing_extensions

    typing.TypedDict = typing_extensions.TypedDict

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray, Transformers and SkyRL warn while they are imported
    import cloudpickle
    from skyrl.backends.skyrl_train.training_batch import TrainingInputBatch, pad_training_input_batch
    from skyrl.backends.skyrl_train.utils import ppo_utils
    from skyrl.train.config.config import AlgorithmConfig
    from skyrl.train.trainer import RayPPOTrainer

    from ordergrad.adapters import skyrl as adapter
    from ordergrad.adapters.completions import completion_advantages

pytestmark = pytest.mark.filterwarnings(r"ignore:.*:DeprecationWarning", r"ignore:.*:FutureWarning")
QUIET = {
    "trainer.algorithm.ordergrad.objective": "top:2@4",
    "trainer.algorithm.use_kl_loss": False,
    "trainer.train_batch_size": 64,
    "trainer.policy_mini_batch_size": 64,
    "generator.n_samples_per_prompt": 8,
}


def configuration(**overrides):
    return adapter.OrderGradTrainConfig.from_cli_overrides(
        {**QUIET, **{name.replace("__", "."): value for name, value in overrides.items()}}
    )


def algorithm(objective: str = "top:2@4", **options):
    return adapter.OrderGradAlgorithmConfig(ordergrad=adapter.OrderGradConfig(objective, **options))


def batch(sizes: list[int], seed: int = 0, t: int = 6) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Return token-level rewards, masks and uids, group after group as SkyRL has them."""
    rewards, mask, uids = token_rewards.batch(sizes, seed, t)
    return rewards, mask, uids.tolist()


def dispatched(rewards, mask, uids, config, estimator="ordergrad", **named):
    return ppo_utils.compute_advantages_and_returns(
        rewards.clone(), mask, np.array(uids), adv_estimator=estimator, config=config, **named
    )


@pytest.mark.parametrize("objective", ["top:2@4", "mean", "max@3", "cvar:0.25", "0.7*mean+0.3*max@4", "maxrl"])
@pytest.mark.parametrize("sizes", [[8, 8, 8], [5, 9, 6, 16]])
def test_advantages_through_skyrl_are_those_of_the_library(objective: str, sizes: list[int]) -> None:
    rewards, mask, uids = batch(sizes)
    found, returns = dispatched(rewards, mask, uids, algorithm(objective))
    expected = og.group_advantages(rewards.sum(1).double(), uids, objective)
    assert found.dtype == rewards.dtype
    torch.testing.assert_close(found, (expected[:, None] * mask).float(), rtol=1e-6, atol=1e-6)
    assert torch.equal(returns, found)


def test_the_mean_is_skyrls_own_rloo_and_scaled_its_grpo() -> None:
    rewards, mask, uids = batch([8, 4, 6])
    theirs, _ = dispatched(rewards, mask, uids, AlgorithmConfig(), estimator="rloo")
    found, _ = dispatched(rewards, mask, uids, algorithm("mean"))
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-6)
    theirs, _ = dispatched(rewards, mask, uids, AlgorithmConfig(), estimator="grpo")
    found, _ = dispatched(rewards, mask, uids, algorithm("mean", scale="group"))
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)


def test_maxrl_is_skyrls_own() -> None:
    rewards, mask, uids = batch([8, 8, 8])
    rewards = (rewards > 0.3).float()
    theirs, _ = dispatched(rewards, mask, uids, AlgorithmConfig(), estimator="maxrl")
    found, _ = dispatched(rewards, mask, uids, algorithm("maxrl"))
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)


def trainer(config, step_wise: bool = False):
    """Return what `RayPPOTrainer.compute_advantages_and_returns` needs of a trainer."""
    config.generator.step_wise_trajectories = step_wise
    return SimpleNamespace(cfg=config, all_metrics={})


def input_batch(rewards, mask, uids, **metadata) -> TrainingInputBatch:
    data = TrainingInputBatch({"rewards": rewards, "response_mask": mask, "loss_mask": mask, "values": None})
    data.metadata = {"uids": list(uids), "avg_response_length": 1.0, **metadata}
    return data


def test_the_trainers_padding_gets_zero_and_changes_nothing() -> None:
    rewards, mask, uids = batch([8, 8])
    data = pad_training_input_batch(input_batch(rewards, mask, uids), 3)
    assert data.metadata["uids"][16:] == ["pad0", "pad1", "pad2"]
    found = RayPPOTrainer.compute_advantages_and_returns(trainer(configuration()), data)["advantages"]
    plain, _ = dispatched(rewards, mask, uids, algorithm())
    assert torch.equal(found[:16], plain)
    assert not found[16:].any()


def test_ranks_among_the_batch_leave_out_padding() -> None:
    rewards, mask, uids = batch([8, 8])
    expected = completion_advantages(rewards.sum(1).double().numpy(), uids, "cvar:0.1", group="batch")
    among = algorithm("cvar:0.1", group="batch")
    found, _ = dispatched(rewards, mask, uids, among)
    torch.testing.assert_close(found, (torch.tensor(expected)[:, None] * mask).float(), rtol=1e-6, atol=1e-6)
    config = configuration(
        trainer__algorithm__ordergrad__objective="cvar:0.1", trainer__algorithm__ordergrad__group="batch"
    )
    adapter.check(config)
    data = pad_training_input_batch(input_batch(rewards, mask, uids), 3)
    padded = RayPPOTrainer.compute_advantages_and_returns(trainer(config), data)["advantages"]
    assert torch.equal(padded[:16], found)
    assert not padded[16:].any()
    config.trainer.algorithm.ordergrad.objective = "max@512"
    with pytest.raises(
        ValueError, match=r"k < trainer\.train_batch_size \* generator\.n_samples_per_prompt; got k=512"
    ):
        adapter.check(config)


def test_step_wise_trajectories_count_once() -> None:
    rewards, _, uids = batch([6, 6])
    steps = [1 + i % 3 for i in range(12)]
    rows = [(i, step == steps[i] - 1) for i in range(12) for step in range(steps[i])]
    last = [is_last for _, is_last in rows]
    per_step = torch.stack([rewards[i] if is_last else torch.full((6,), 7.0) for i, is_last in rows])
    mask = torch.ones(len(rows), 6, dtype=torch.int64)
    data = input_batch(per_step, mask, [uids[i] for i, _ in rows], is_last_step=last)
    found = RayPPOTrainer.compute_advantages_and_returns(trainer(configuration(), step_wise=True), data)["advantages"]
    a = og.group_advantages(rewards.sum(1).double(), uids, "top:2@4")
    expected = a[[i for i, _ in rows]][:, None].expand(-1, 6)
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)


def test_unscorable_and_small_groups(caplog: pytest.LogCaptureFixture) -> None:
    rewards, mask, uids = batch([7, 4, 1])
    rewards[2, 0] = float("nan")
    found, _ = dispatched(rewards, mask, uids, algorithm())
    valid = np.arange(12) != 2
    scores = np.where(valid, rewards.sum(1).double().numpy(), 0)
    expected = og.group_advantages(scores, uids, "top:2@4", where=valid, small="zero")
    torch.testing.assert_close(found, (torch.as_tensor(expected)[:, None] * mask).float(), rtol=1e-6, atol=1e-6)
    assert not found[7:].any()
    assert "1 of 12 rewards are NaN or infinite" in caplog.text
    shrunk, _ = dispatched(rewards, mask, uids, algorithm(small="shrink"))
    assert shrunk[7:11].any()
    assert not shrunk[11].any()


def gradient(reduction: str) -> tuple[float, float, float]:
    """Return cosine and norm ratio of SkyRL's gradient to that of -mean(A logp), and the mean response length."""
    rewards, mask, uids = batch([8, 8, 8], seed=3)
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(5, mask.shape, generator=generator)
    a, _ = dispatched(rewards, mask, uids, algorithm())
    logp = theta.log_softmax(-1)[torch.arange(6), tokens]
    (expected,) = torch.autograd.grad(-((a[:, 0].double() * (logp * mask).sum(1)).mean()), theta, retain_graph=True)
    scaled = ppo_utils.apply_loss_reduction_to_advantages_minibatch(
        a.double(), mask, reduction, 4, 10, prompt_boundaries=[(0, 8), (8, 16), (16, 24)]
    )
    loss, _ = ppo_utils.PolicyLossRegistry.get("regular")(
        logp, logp.detach(), scaled, config=algorithm(), loss_mask=mask
    )
    (found,) = torch.autograd.grad(loss, theta)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
    return float(cosine), float(found.norm() / expected.norm()), float(mask.sum() / len(mask))


def test_exact_reductions_have_the_reference_gradient() -> None:
    cosine, scalar, length = gradient("token_mean")
    assert (cosine, scalar) == (pytest.approx(1, abs=1e-9), pytest.approx(1 / length, rel=1e-6))
    cosine, scalar, _ = gradient("seq_mean_token_sum_norm")
    assert (cosine, scalar) == (pytest.approx(1, abs=1e-9), pytest.approx(1 / 10, rel=1e-6))


@pytest.mark.parametrize("reduction", ["sequence_mean", "prompt_mean", "token_mean_legacy"])
def test_other_reductions_have_another_gradient(reduction: str) -> None:
    cosine, _, _ = gradient(reduction)
    assert cosine < 1 - 1e-4


def test_the_configuration_knows_the_objective_and_travels() -> None:
    config = configuration(trainer__algorithm__ordergrad__scale="batch")
    assert config.trainer.algorithm.advantage_estimator == "ordergrad"
    assert config.trainer.algorithm.ordergrad == adapter.OrderGradConfig("top:2@4", "batch", "zero")
    assert cloudpickle.loads(cloudpickle.dumps(config)) == config
    function = ppo_utils.AdvantageEstimatorRegistry.get("ordergrad")
    assert cloudpickle.loads(cloudpickle.dumps(function)) is function  # by reference: workers import the module
    with pytest.raises(ValueError, match="objektive"):
        configuration(trainer__algorithm__ordergrad__objektive="mean")


def test_wrong_settings_are_errors_before_training() -> None:
    rewards, mask, uids = batch([4, 4])
    for config in (AlgorithmConfig(), algorithm("")):
        with pytest.raises(ValueError, match=r"override_entrypoint=ordergrad\.adapters\.skyrl"):
            dispatched(rewards, mask, uids, config)
    with pytest.raises(ValueError, match=r"k < generator\.n_samples_per_prompt; got k=4"):
        dispatched(rewards, mask, uids, algorithm())
    with pytest.raises(ValueError, match=r"got k=8, generator\.n_samples_per_prompt=8"):
        adapter.check(configuration(trainer__algorithm__ordergrad__objective="max@8"))
    with pytest.raises(ValueError, match="names no known objective"):
        adapter.check(configuration(trainer__algorithm__ordergrad__objective="max8"))
    with pytest.raises(ValueError, match=r"ordergrad\.scale must be one of none, group, batch; got 'std'"):
        adapter.check(configuration(trainer__algorithm__ordergrad__scale="std"))
    adapter.check(configuration(trainer__algorithm__advantage_estimator="grpo"))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("trainer__algorithm__loss_reduction", "sequence_mean", "terms of each response by its length"),
        ("trainer__algorithm__loss_reduction", "prompt_mean", "terms of each prompt by its length"),
        ("trainer__algorithm__policy_loss_type", "gspo", "was not compared"),
        ("trainer__policy_mini_batch_size", 32, "several steps on one batch"),
        ("trainer__update_epochs_per_batch", 2, "several steps on one batch"),
        ("trainer__algorithm__advantage_batch_normalize", True, "shifts and scales"),
        ("trainer__algorithm__use_kl_in_reward", True, "ranks the rewards less the KL penalty"),
        ("trainer__algorithm__use_kl_loss", True, "subtracts the KL divergence"),
        ("trainer__algorithm__use_entropy_loss", True, "adds the entropy"),
        ("generator__apply_overlong_filtering", True, "leaves them out of the loss"),
        ("generator__sampling_params__top_p", 0.9, "top_p=0.9"),
    ],
)
def test_every_departure_from_the_objective_is_warned_of(name: str, value: object, sentence: str) -> None:
    assert adapter.departures(configuration()) == []
    (found,) = adapter.departures(configuration(**{name: value}))
    assert sentence in found
    with pytest.warns(UserWarning, match=sentence):
        adapter.check(configuration(**{name: value}))


def test_the_entry_point_runs_skyrls_training(monkeypatch: pytest.MonkeyPatch) -> None:
    # everything up to Ray is real; what Ray would start is recorded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from skyrl.train.entrypoints import main_base
        from skyrl.train.utils import utils
    started = []
    monkeypatch.setattr(utils, "initialize_ray", lambda config: started.append("ray"))
    monkeypatch.setattr(main_base, "skyrl_entrypoint", SimpleNamespace(remote=started.append))
    monkeypatch.setattr(adapter.ray, "get", lambda reference: None)
    monkeypatch.setattr(utils, "validate_cfg", lambda config: started.append("validated"))
    arguments = [f"{name}={value}" for name, value in QUIET.items()]
    monkeypatch.setattr(sys, "argv", ["main_base", "trainer.override_entrypoint=ordergrad.adapters.skyrl", *arguments])
    main_base.main()
    assert started == ["validated", "ray", configuration()]


def test_the_commands_of_the_guide_are_accepted() -> None:
    text = (Path(__file__).parents[2] / "docs" / "adapters" / "skyrl.md").read_text()
    command = re.findall(r"main_base \\\n((?:    [^\n]*\\\n)*    [^\n]*)\n```", text)[1]
    overrides = [word.replace('"', "") for word in command.replace("\\\n", " ").split() if "=" in word]
    assert len(overrides) == 12
    config = adapter.OrderGradTrainConfig.from_cli_overrides(overrides[1:])
    assert config.data.train_data == ["DATA/train.parquet"]
    assert adapter.departures(config) == []
    adapter.check(config)
