"""verl 0.9: its own functions with the estimator that it finds by entry point. It has an environment of its own."""

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import token_rewards
import torch

import ordergrad as og

if importlib.util.find_spec("verl") is None:
    pytest.skip("verl is not installed; 'make test-verl' builds its environment", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray, Transformers and verl warn while they are imported
    import verl
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.trainer import main_ppo
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.ray_trainer import compute_advantage
    from verl.trainer.ppo.v1 import trainer_base, utils
    from verl.workers.config import FSDPActorConfig

    from ordergrad.adapters.completions import completion_advantages
    from ordergrad.adapters.verl import advantages, check, departures, settings

pytestmark = pytest.mark.filterwarnings(r"ignore:.*:DeprecationWarning", r"ignore:.*:FutureWarning")
CONFIG = str(Path(verl.__file__).parent / "trainer" / "config")
QUIET = [
    "algorithm.adv_estimator=ordergrad",
    "+algorithm.ordergrad.objective=top:2@4",
    "actor_rollout_ref.rollout.n=8",
    "data.train_batch_size=64",
    "actor_rollout_ref.actor.ppo_mini_batch_size=64",
]


def configuration(*overrides: str):
    with initialize_config_dir(CONFIG, version_base=None):
        return compose("ppo_trainer", [*QUIET, *overrides])


def algorithm(objective: str = "top:2@4", **options):
    return OmegaConf.create({"ordergrad": {"objective": objective, **options}})


def batch(sizes: list[int], seed: int = 0, t: int = 6) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Return shuffled token-level rewards, masks and uids."""
    rewards, mask, uids = token_rewards.batch(sizes, seed, t)
    order = np.random.default_rng(seed).permutation(len(uids))
    return rewards[order], mask[order], uids[order].astype(object)


def dispatched(rewards, mask, uids, config, keys=None, estimator="ordergrad") -> tuple[torch.Tensor, torch.Tensor]:
    """Return the advantages that verl's own functions compute, with or without its sessions."""
    data = DataProto.from_dict(
        tensors={"token_level_rewards": rewards.clone(), "response_mask": mask}, non_tensors={"uid": uids}
    )
    if keys is None:
        data = compute_advantage(data, adv_estimator=estimator, config=config)
    else:
        data = utils.compute_advantage_for_multi_trajectories(
            data, batch_keys=keys, adv_estimator=estimator, config=config, norm_adv_by_std_in_grpo=False
        )
    return data.batch["advantages"], data.batch["returns"]


# ------------------------------------------------------------------------------------------------- dynamic sampling


def sampler(*overrides: str, mode: str = "sync"):
    """Return the replay buffer that verl's trainer builds from a configuration that was checked."""
    config = configuration("algorithm.filter_groups.enable=true", f"trainer.v1.trainer_mode={mode}", *overrides)
    check(config)
    self = SimpleNamespace(config=config, trainer_mode=mode, _add_prompts_to_generate=lambda n: None)
    self._resolve_filter_groups_metric = lambda: trainer_base.PPOTrainer._resolve_filter_groups_metric(self)
    return trainer_base.PPOTrainer._build_replay_buffer(self)


def filtered(buffer, rewards: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the groups that a buffer drops, given the reward of every row by its key ``uid_session_output``."""
    module = sys.modules["ordergrad.adapters.verl_sampling" if "ordergrad" in type(buffer).__module__ else REPLAY]
    store = SimpleNamespace(
        kv_batch_get=lambda keys, partition_id, select_fields: {
            "rm_scores": [torch.tensor([0.0, rewards[key]]) for key in keys]
        }
    )
    monkeypatch.setattr(module, "transfer_queue" if "ordergrad" in module.__name__ else "tq", store)
    buffer.partitions["train"] = {key: {} for key in rewards}
    buffer.finished_keys["train"] = {key.split("_")[0] for key in rewards}
    dropped, counts = buffer._dapo_filtered_keys("train")
    assert sum(counts.values()) == len(dropped)
    assert buffer._dapo_filtered_keys("train")[0] == dropped  # from the cache
    assert buffer._dapo_filtered_keys("val")[0] == set()
    return dropped


REPLAY = "verl.trainer.ppo.v1.replay_buffer"
GROUPS = {"solved": [1, 1, 1, 0], "half": [1, 1, 0, 0], "one": [0, 0, 0, 1], "all": [1, 1, 1, 1], "none": [0, 0, 0, 0]}
ROWS = {f"{uid}_{i}_0": float(r) for uid, rewards in GROUPS.items() for i, r in enumerate(rewards)}


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_dynamic_sampling_goes_by_the_advantages_of_the_objective(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["actor_rollout_ref.rollout.n=4", "algorithm.ordergrad.objective=max@2"]
    assert filtered(sampler(*small, mode=mode), ROWS, monkeypatch) == {"solved", "all", "none"}
    small[1] = "algorithm.ordergrad.objective=mean"
    assert filtered(sampler(*small, mode=mode), ROWS, monkeypatch) == {"all", "none"}
    rounded = {"a_0_0": 0.1 + 0.2, "a_1_0": 0.3, "a_2_0": float(np.float32(0.7) - np.float32(0.4)), "a_3_0": 0.3}
    assert filtered(sampler(*small, mode=mode), rounded, monkeypatch) == {"a"}
    sessions = {"b_0_0": 5.0, "b_0_1": 1.0, "b_1_0": 1.0, "b_2_0": 1.0, "b_3_0": 1.0}  # the last output counts
    assert filtered(sampler(*small, mode=mode), sessions, monkeypatch) == {"b"}


def test_the_sampler_is_verls_own_without_the_filter_and_for_other_metrics() -> None:
    config = configuration()
    check(config)
    assert config.trainer.v1.sampler.custom_sampler.path is None
    assert type(sampler("algorithm.adv_estimator=grpo")).__module__ == REPLAY
    with pytest.warns(UserWarning, match="metric=acc drops groups by the standard deviation"):
        assert type(sampler("algorithm.filter_groups.metric=acc")).__module__ == REPLAY
    buffer = sampler("algorithm.filter_groups.max_inflight_gen_batches=3")
    assert (buffer.max_inflight_gen_batches, buffer.gen_batch_size, buffer.train_batch_size) == (3, 1, 64)
    assert buffer.filter_groups_metric == "reward"


# ------------------------------------------------------------------------------------------------------- advantages


@pytest.mark.parametrize("objective", ["top:2@4", "mean", "max@3", "cvar:0.25", "0.7*mean+0.3*max@4", "maxrl"])
@pytest.mark.parametrize("sizes", [[8, 8, 8], [5, 9, 6, 16]])
def test_advantages_through_verl_are_those_of_the_library(objective: str, sizes: list[int]) -> None:
    rewards, mask, uids = batch(sizes)
    found, returns = dispatched(rewards, mask, uids, algorithm(objective))
    expected = og.group_advantages(rewards.sum(1).double(), uids, objective)
    assert found.dtype == rewards.dtype
    torch.testing.assert_close(found, (expected[:, None] * mask).float(), rtol=1e-6, atol=1e-6)
    assert returns is found or torch.equal(returns, found)


@pytest.mark.parametrize("name", ["rloo", "rloo_vectorized"])
def test_the_mean_is_verls_own_rloo(name: str) -> None:
    rewards, mask, uids = batch([8, 4, 6])
    theirs, _ = dispatched(rewards, mask, uids, AlgoConfig(), estimator=name)
    found, _ = dispatched(rewards, mask, uids, algorithm("mean"))
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-6)


def test_the_mean_scaled_by_group_is_verls_own_grpo() -> None:
    rewards, mask, uids = batch([8, 4, 6])
    theirs, _ = dispatched(rewards, mask, uids, AlgoConfig(), estimator="grpo")
    found, _ = dispatched(rewards, mask, uids, algorithm("mean", scale="group"))
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)


def test_the_sum_of_rewards_counts_wherever_they_stand() -> None:
    # the last token may be a tool's, which the mask leaves out; verl puts the reward there all the same
    rewards, mask, uids = batch([4, 4])
    mask[:, -1] = 0
    rewards = torch.cat([torch.zeros(8, 5), rewards.sum(1, keepdim=True)], 1)
    found, _ = dispatched(rewards, mask, uids, algorithm("max@2"))
    expected = og.group_advantages(rewards[:, -1].double(), uids, "max@2")
    torch.testing.assert_close(found, (expected[:, None] * mask).float(), rtol=1e-6, atol=1e-6)


def test_padding_gets_zero() -> None:
    # verl pads a batch with rows of one new uid, reward 0 and an empty mask; other trainers with a uid for each
    rewards, mask, uids = batch([8, 8])
    plain, _ = dispatched(rewards, mask, uids, algorithm())
    rewards, mask = torch.cat([rewards, torch.zeros(4, 6)]), torch.cat([mask, torch.zeros(4, 6, dtype=torch.int64)])
    for extra in (["pad"] * 4, ["pad1", "pad2", "pad3", "pad4"]):
        found, _ = dispatched(rewards, mask, np.array([*uids, *extra], dtype=object), algorithm())
        assert torch.equal(found[:16], plain)
        assert not found[16:].any()


def test_ranks_among_the_batch_leave_out_padding() -> None:
    rewards, mask, uids = batch([8, 8])
    expected = completion_advantages(rewards.sum(1).double().numpy(), uids, "cvar:0.1", group="batch")
    found, _ = dispatched(rewards, mask, uids, algorithm("cvar:0.1", group="batch"))
    torch.testing.assert_close(found, (torch.tensor(expected)[:, None] * mask).float(), rtol=1e-6, atol=1e-6)
    rewards, mask = torch.cat([rewards, torch.full((4, 6), -9.0)]), torch.cat([mask, torch.zeros(4, 6, dtype=int)])
    for extra in (["pad"] * 4, ["pad1", "pad2", "pad3", "pad4"]):
        padded = np.array([*uids, *extra], dtype=object)
        assert torch.equal(dispatched(rewards, mask, padded, algorithm("cvar:0.1", group="batch"))[0][:16], found)


def test_settings_of_ranks_among_the_batch() -> None:
    among = ["+algorithm.ordergrad.group=batch", "algorithm.ordergrad.objective=max@500"]
    check(configuration(*among))  # 64 prompts x 8 responses
    with pytest.raises(ValueError, match=r"k < data\.train_batch_size \* actor_rollout_ref\.rollout\.n; got k=512"):
        check(configuration(among[0], "algorithm.ordergrad.objective=max@512"))
    with pytest.warns(UserWarning, match="filter_groups drops prompts"):
        assert type(sampler(*among)).__module__ == REPLAY
    with pytest.raises(ValueError, match=r"ordergrad\.group must be one of prompt, batch; got 'all'"):
        settings(algorithm(group="all"))


def test_a_group_of_one_and_a_small_group_get_zero_or_shrink() -> None:
    rewards, mask, uids = batch([8, 1, 4])
    found, _ = dispatched(rewards, mask, uids, algorithm())
    large = uids == "uid0"
    assert found[large].any()
    assert not found[~large].any()
    shrunk, _ = dispatched(rewards, mask, uids, algorithm(small="shrink"))
    expected = og.group_advantages(rewards.sum(1).double(), uids, "top:2@4", small="shrink")
    torch.testing.assert_close(shrunk, (expected[:, None] * mask).float(), rtol=1e-6, atol=1e-6)
    assert shrunk[uids == "uid2"].any()
    assert not shrunk[uids == "uid1"].any()


def test_unscorable_responses_are_masked_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    rewards, mask, uids = batch([8, 8])
    bad = [2, 5, 11]
    for row, value in zip(bad, [float("nan"), float("inf"), float("-inf")], strict=True):
        rewards[row, 0] = value
    found, _ = dispatched(rewards, mask, uids, algorithm())
    valid = np.ones(16, dtype=bool)
    valid[bad] = False
    scores = rewards.sum(1).double().numpy()
    expected = og.group_advantages(np.where(valid, scores, 0), uids, "top:2@4", where=valid)
    torch.testing.assert_close(found, (torch.as_tensor(expected)[:, None] * mask).float(), rtol=1e-6, atol=1e-6)
    assert not found[bad].any()
    assert "3 of 16 rewards are NaN or infinite" in caplog.text


def test_a_session_with_several_outputs_counts_once() -> None:
    rng = np.random.default_rng(1)
    outputs = {(uid, session): int(rng.integers(1, 4)) for uid in ("a_1", "b") for session in range(6)}
    score = {session: float(rng.normal()) for session in outputs}
    rows = [(*session, output) for session, count in outputs.items() for output in range(count)]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    keys = [f"{uid}_{session}_{output}" for uid, session, output in rows]
    uids = np.array([uid for uid, _, _ in rows], dtype=object)
    rewards = torch.zeros(len(rows), 3)
    # only the last output's reward counts, whatever the others say
    rewards[:, 2] = torch.tensor([score[u, s] if o == outputs[u, s] - 1 else 100.0 for u, s, o in rows])
    mask = torch.ones(len(rows), 3, dtype=torch.int64)

    sessions = list(outputs)
    a = og.group_advantages(np.array([score[s] for s in sessions]), [uid for uid, _ in sessions], "top:2@4")
    of_session = dict(zip(sessions, a, strict=True))
    expected = torch.tensor([[of_session[u, s]] * 3 for u, s, _ in rows])
    found, _ = dispatched(rewards, mask, uids, algorithm(), keys=keys)
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)
    given, _ = advantages(rewards, mask, uids, algorithm(), batch_keys=keys)
    assert torch.equal(given, found)

    # the same rows and keys as verl's GRPO, which knows sessions itself
    grpo, _ = dispatched(rewards, mask, uids, AlgoConfig(), keys=keys, estimator="grpo")
    mean, _ = dispatched(rewards, mask, uids, algorithm("mean"), keys=keys)
    torch.testing.assert_close(mean, grpo * 6 / 5, rtol=1e-5, atol=1e-6)


def test_the_trainer_calls_the_function_that_knows_the_keys() -> None:
    assert trainer_base.compute_advantage_for_multi_trajectories is utils.compute_advantage_for_multi_trajectories


# --------------------------------------------------------------------------------------------------------- gradients


def cosine_and_scalar(mode: str, objective: str, micro_batches: int = 1, **info) -> tuple[float, float, float]:
    """Return cosine and norm ratio of verl's gradient to that of -mean(A logp), and the mean response length.

    A softmax policy over 5 tokens per position; verl's loss of each micro-batch with its global numbers, as
    `verl.workers.utils.losses.ppo_loss` passes them on.
    """
    rewards, mask, uids = batch([8, 8, 8], seed=3)
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(5, mask.shape, generator=generator)
    a, _ = dispatched(rewards, mask, uids, algorithm(objective))
    logp = theta.log_softmax(-1)[torch.arange(6), tokens]
    reference = -((a[:, 0].double() * (logp * mask).sum(1)).mean())
    (expected,) = torch.autograd.grad(reference, theta, retain_graph=True)

    loss = torch.zeros((), dtype=torch.float64)
    for rows in torch.arange(len(mask)).chunk(micro_batches):
        width = int(mask[rows].sum(1).max())
        part = (logp[rows, :width], a[rows, :width].double(), mask[rows, :width])
        actor = FSDPActorConfig(strategy="fsdp", ppo_micro_batch_size_per_gpu=1, rollout_n=8, loss_agg_mode=mode)
        actor.global_batch_info.update(
            dp_size=1, batch_num_tokens=mask.sum(), global_batch_size=len(mask), loss_scale_factor=None, **info
        )
        loss_part, _ = core_algos.get_policy_loss_fn("vanilla")(
            old_log_prob=part[0].detach(),
            log_prob=part[0],
            advantages=part[1],
            response_mask=part[2],
            loss_agg_mode=mode,
            config=actor,
        )
        loss = loss + loss_part
    (found,) = torch.autograd.grad(loss, theta)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
    return float(cosine), float(found.norm() / expected.norm()), float(mask.sum() / len(mask))


@pytest.mark.parametrize("objective", ["top:2@4", "cvar:0.25"])
@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("mode", ["token-mean", "token-sum", "seq-mean-token-sum"])
def test_exact_loss_modes_have_the_reference_gradient(mode: str, micro_batches: int, objective: str) -> None:
    cosine, scalar, length = cosine_and_scalar(mode, objective, micro_batches)
    assert cosine == pytest.approx(1, abs=1e-12)
    assert scalar == pytest.approx({"token-mean": 1 / length, "token-sum": 24, "seq-mean-token-sum": 1}[mode], rel=1e-9)


def test_the_normalised_mode_is_exact_with_a_constant() -> None:
    cosine, scalar, _ = cosine_and_scalar("seq-mean-token-sum-norm", "top:2@4")
    assert cosine == pytest.approx(1, abs=1e-12)
    assert scalar == pytest.approx(1 / 6, rel=1e-9)


def test_other_settings_have_another_gradient() -> None:
    cosine, _, _ = cosine_and_scalar("seq-mean-token-mean", "top:2@4")
    assert cosine < 0.99


@pytest.mark.parametrize(("mode", "scalar"), [("token-mean", None), ("seq-mean-token-sum", 1.0)])
def test_compute_policy_loss_has_the_reference_gradient(mode: str, scalar: float | None) -> None:
    rewards, mask, uids = batch([6, 7], seed=4)
    a, _ = dispatched(rewards, mask, uids, algorithm("max@4"))
    logp = torch.randn(13, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss, *_ = core_algos.compute_policy_loss(logp.detach(), logp, a, mask, cliprange=0.2, loss_agg_mode=mode)
    (found,) = torch.autograd.grad(loss, logp)
    expected = -a / 13 * (scalar or 13 / float(mask.sum()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


# -------------------------------------------------------------------------------------------- plugin, configuration


def run(code: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **environment},
        check=False,
    )


def test_found_by_entry_point(tmp_path: Path) -> None:
    assert [e.value for e in entry_points(group="verl.plugins", name="ordergrad")] == ["ordergrad_verl"]
    code = (
        "import verl; from verl.trainer.ppo.core_algos import get_adv_estimator_fn as get;"
        "print(get('ordergrad').__module__)"
    )
    found = run(code, tmp_path)
    assert found.stdout.strip().endswith("ordergrad.adapters.verl"), found.stderr


@pytest.mark.parametrize("missing", ["ordergrad.estimators", "ordergrad.adapters.completions"])
def test_a_failure_to_load_is_reported_and_raised(missing: str, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
import verl
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
try:
    get_adv_estimator_fn("ordergrad")(token_level_rewards=None, response_mask=None, index=None, config=None)
except RuntimeError as error:
    print("raised:", error, "from", type(error.__cause__).__name__)
"""
    found = run(code, tmp_path)
    assert "raised: ordergrad could not be loaded as a plugin of verl: " in found.stdout, found.stderr
    assert f"{missing} halted; None in sys.modules from ModuleNotFoundError" in found.stdout
    assert "ordergrad could not be loaded as a plugin of verl" in found.stderr
    assert "Traceback" in found.stderr


@pytest.mark.parametrize(
    "objective", ["top:2@4", "mean", "0.7*mean+0.3*max@4", "mean-0.5*gini", "cvar:0.1", "maxrl", "max@2.5"]
)
def test_objectives_pass_through_the_command_line(objective: str) -> None:
    config = configuration(f"algorithm.ordergrad.objective={objective}", "+algorithm.ordergrad.scale=batch")
    assert settings(config.algorithm) == (og.parse(objective), "batch", "zero", "prompt")
    assert settings({"ordergrad": {"objective": objective}}).objective == og.parse(objective)


def test_wrong_settings_are_errors() -> None:
    rewards, mask, uids = batch([4, 4])
    for config in (None, {}, AlgoConfig(), OmegaConf.create({"ordergrad": {"scale": "group"}})):
        with pytest.raises(ValueError, match=r"\+algorithm\.ordergrad\.objective=top:2@4"):
            advantages(rewards, mask, uids, config)
    with pytest.raises(ValueError, match="names no known objective"):
        advantages(rewards, mask, uids, algorithm("topp:2@4"))
    with pytest.raises(ValueError, match="takes objective, scale, small, group; got objektive"):
        settings(algorithm(objektive="mean"))
    with pytest.raises(ValueError, match=r"ordergrad\.scale must be one of none, group, batch; got 'std'"):
        settings(algorithm(scale="std"))
    with pytest.raises(ValueError, match="uid"):
        advantages(rewards, mask, None, algorithm("mean"))
    with pytest.raises(ValueError, match="one key per row; got 1 keys for 8 rows"):
        advantages(rewards, mask, uids, algorithm("mean"), batch_keys=["a_0_0"])


def test_k_not_below_the_group_size_is_an_error_that_names_the_setting() -> None:
    rewards, mask, uids = batch([4, 3])
    with pytest.raises(
        ValueError, match=r"k < actor_rollout_ref\.rollout\.n; got k=4, actor_rollout_ref\.rollout\.n=4"
    ):
        dispatched(rewards, mask, uids, algorithm("top:2@4"))


def test_the_configuration_is_checked_where_verl_checks_its_own(recwarn: pytest.WarningsRecorder) -> None:
    extra = ["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8", "actor_rollout_ref.rollout.temperature=1.0"]
    extra.append("actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8")
    main_ppo.validate_config(configuration(*extra), use_reference_policy=False, use_critic=False)
    assert not [w for w in recwarn if "ordergrad" in str(w.filename) or "gradient" in str(w.message)]
    wrong = configuration(*extra, "algorithm.ordergrad.objective=max@8")
    with pytest.raises(ValueError, match=r"got k=8, actor_rollout_ref\.rollout\.n=8"):
        main_ppo.validate_config(wrong, use_reference_policy=False, use_critic=False)
    wrong = configuration(*extra, "algorithm.ordergrad.objective=max8")
    with pytest.raises(ValueError, match="names no known objective"):
        main_ppo.validate_config(wrong, use_reference_policy=False, use_critic=False)
    other = configuration(*extra, "algorithm.adv_estimator=grpo", "algorithm.ordergrad.objective=nonsense")
    main_ppo.validate_config(other, use_reference_policy=False, use_critic=False)
    check(configuration("algorithm.ordergrad.objective=max@8", "+algorithm.ordergrad.small=shrink"))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean", "divides each response's term by its length"),
        ("actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm", "set loss_scale_factor"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode=gspo", "loss_mode=gspo was not compared"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=32", "several steps on one batch"),
        ("actor_rollout_ref.actor.ppo_epochs=2", "several steps on one batch"),
        ("algorithm.use_kl_in_reward=true", "ranks the rewards less the KL penalty"),
        ("actor_rollout_ref.actor.use_kl_loss=true", "subtracts the KL divergence"),
        ("actor_rollout_ref.actor.entropy_coeff=0.01", "adds the entropy"),
        ("algorithm.rollout_correction.rollout_rs=seq_mean_k3", "leaves responses out of the loss"),
        ("actor_rollout_ref.rollout.top_p=0.9", "top_p=0.9 samples from another distribution"),
        ("actor_rollout_ref.rollout.temperature=0.6", "temperature=0.6"),
    ],
)
def test_every_departure_from_the_objective_is_warned_of(override: str, sentence: str) -> None:
    assert departures(configuration()) == []
    (found,) = departures(configuration(override))
    assert sentence in found
    with pytest.warns(UserWarning, match=sentence.split(";")[0]):
        check(configuration(override))


def test_the_commands_of_the_guide_are_accepted() -> None:
    text = (Path(__file__).parents[2] / "docs" / "adapters" / "verl.md").read_text()
    (command,) = re.findall(r"main_ppo \\\n((?:    [^\n]*\\\n)*    [^\n]*)\n```", text)
    overrides = [word for word in command.replace("\\\n", " ").split() if "=" in word]
    assert len(overrides) == 16
    with initialize_config_dir(CONFIG, version_base=None):
        config = compose("ppo_trainer", overrides)
    assert departures(config) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(config)
