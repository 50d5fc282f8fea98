"""The RLlib adapter against the reference gradient, on a local Ray with one learner and two, with several agents."""

import itertools
import sys
from typing import Any

import numpy as np
import pytest
import torch
import walk
from doctests import check_doctests
from walk import Gamble, Walk

import ordergrad as og
from ordergrad.adapters.episodes import EpisodeRanking

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.xdist_group("ray"),  # one local Ray at a time; the warnings are those of Ray and RLlib
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*Overriding environment rllib-:UserWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def framework():
    """Import the framework with the first test: it takes seconds that collecting need not cost."""
    global ray, cloudpickle, Algorithm, IMPALAConfig, PPOConfig, PPOTorchLearner, Columns, TrainingData
    global SingleAgentEnvRunner, MultiAgentEnvRunner, SingleAgentEpisode, MultiAgentBatch, register_env
    global OrderGradPPOLearner, RanksEpisodes, WholeEpisodes, by_policy, use, agents

    import agents
    import ray
    from ray import cloudpickle
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
    from ray.rllib.core.columns import Columns
    from ray.rllib.core.learner.training_data import TrainingData
    from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.policy.sample_batch import MultiAgentBatch
    from ray.tune.registry import register_env

    from ordergrad.adapters.rllib import OrderGradPPOLearner, RanksEpisodes, use
    from ordergrad.adapters.rllib_episodes import WholeEpisodes, by_policy


def test_doctests():
    check_doctests("ordergrad.adapters.rllib")


MODULE = "default_policy"


@pytest.fixture(scope="module")
def local_ray():
    for module in (walk, sys.modules[__name__]):  # the workers do not know these folders
        cloudpickle.register_pickle_by_value(module)
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def make_config(env=Walk, n_envs=2, steps=200, hidden=8, env_config=None, learner=None, **settings):
    """Return a configuration whose batch is one step of the optimiser."""
    register_env(env.__name__, lambda config: env(**config))
    config = PPOConfig().environment(env.__name__, env_config=env_config or {})
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=n_envs)
    config.training(train_batch_size_per_learner=steps, minibatch_size=None, num_epochs=1)
    config.rl_module(model_config={"fcnet_hiddens": [hidden]})
    config.debugging(seed=1)
    if learner is not None:
        config.learners(learner_class=learner)
    return use(config, **settings)


def make_learner(config):
    """Return a learner, a local env runner with the same weights, and the gradients that it will not apply."""
    runner = SingleAgentEnvRunner(config=config)
    learner = config.build_learner(spaces=runner.get_spaces())
    runner.module.set_state(learner.module[MODULE].get_state())
    kept = []
    learner.apply_gradients = kept.append  # the policy stays as it was
    return learner, runner, kept


def train(learner, runner, updates, steps):
    """Update on so many rollouts."""
    return [
        learner.update(training_data=TrainingData(episodes=runner.sample(num_timesteps=steps))) for _ in range(updates)
    ]


def synthetic(rewards, start=0, done="terminated", key="a", outputs=None, info=None):
    """Return an episode, or a chunk of one, with its last info."""
    n = len(rewards)
    return SingleAgentEpisode(
        id_=key,
        observations=[np.array([start + t], np.float32) for t in range(n + 1)],
        actions=[0] * n,
        rewards=list(rewards),
        infos=[{}] * n + [info or {}],
        terminated=done == "terminated",
        truncated=done == "truncated",
        extra_model_outputs={Columns.ACTION_LOGP: [0.0] * n} | (outputs or {}),
        t_started=start,
        len_lookback_buffer=0,
    ).to_numpy()


def log_prob(learner, episode):
    module = learner.module[MODULE]
    n = len(episode)
    out = module.forward_train({Columns.OBS: torch.as_tensor(episode.get_observations(slice(0, n)))})
    dist = module.get_train_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
    return dist.logp(torch.as_tensor(episode.get_actions(slice(0, n)))).sum()


def reference_gradient(learner, episodes, advantages):
    loss = -torch.stack([float(a) * log_prob(learner, e) for a, e in zip(advantages, episodes, strict=True)]).mean()
    params = [p for _, p in sorted(learner._params.items(), key=lambda item: str(item[0]))]
    grads = torch.autograd.grad(loss, params, allow_unused=True)
    return torch.cat([torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(params, grads, strict=True)])


def flat(gradients, learner):
    keys = sorted(learner._params, key=str)
    return torch.cat(
        [torch.zeros(learner._params[k].numel()) if gradients.get(k) is None else gradients[k].flatten() for k in keys]
    )


def stats_of(learner):
    return learner.rankings[MODULE].stats


@pytest.mark.parametrize("mode", ["truncate_episodes", "complete_episodes"])
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize(("objective", "critic"), [("mean", True), ("cvar:0.2", False), ("0.7*mean+0.3*max@8", True)])
def test_one_step_is_the_reference_gradient(objective, continuous, mode, critic):
    config = make_config(env_config={"continuous": continuous}, objective=objective, n_envs=1)
    config.env_runners(batch_mode=mode).training(use_critic=critic, vf_loss_coeff=0.0)
    if mode == "complete_episodes":
        config.debugging(seed=None)
    learner, runner, kept = make_learner(config)
    chunks = [e for _ in range(1 if mode == "truncate_episodes" else 30) for e in runner.sample()]
    episodes = [e[:] for e in chunks if e.is_done]
    returns = np.array([e.get_return() for e in episodes])
    assert len(episodes) > 12
    learner.update(training_data=TrainingData(episodes=chunks))
    if objective == "mean":
        a = returns - (returns.sum() - returns) / (len(returns) - 1)  # REINFORCE with leave-one-out baseline
    else:
        a = og.advantages(returns, objective)
    reference = reference_gradient(learner, episodes, a).double()
    (gradients,) = kept
    gradient = flat(gradients, learner).double()
    assert float(gradient @ reference / (gradient.norm() * reference.norm())) == pytest.approx(1, abs=1e-6)
    scalar = len(episodes) / sum(len(e) for e in episodes)
    assert float(gradient.norm() / reference.norm()) == pytest.approx(scalar, rel=1e-4)


def test_minibatches_and_recurrent_policies_carry_the_ranks_too():
    config = make_config(n_envs=1, objective="cvar:0.3")
    config.training(minibatch_size=64, num_epochs=2).rl_module(model_config={"use_lstm": True, "max_seq_len": 5})
    learner, runner, kept = make_learner(config)
    seen, compute = [], learner.compute_loss_for_module

    def spy(*, batch, **kwargs):
        seen.append((batch["advantages"].clone(), batch["loss_mask"].clone()))
        return compute(batch=batch, **kwargs)

    learner.compute_loss_for_module = spy
    episodes = runner.sample()
    returns = np.array([e.get_return() for e in episodes if e.is_done])
    learner.update(
        training_data=TrainingData(episodes=episodes), minibatch_size=64, num_epochs=2, shuffle_batch_per_epoch=True
    )
    a = og.advantages(returns, "cvar:0.3").astype(np.float32)
    assert len(seen) == len(kept) > 2
    for values, mask in seen:
        assert set(np.round(values[mask].numpy(), 4)) <= set(np.round(a, 4))


def test_two_env_runners_train_and_a_checkpoint_restores(local_ray, tmp_path):
    config = make_config(steps=160, n_envs=2, objective="0.5*mean+0.5*cvar:0.25", unit_scale=True, min_episodes=5)
    config.env_runners(num_env_runners=2)
    algorithm = config.build_algo()
    results = [algorithm.train() for _ in range(3)]
    logged = results[-1]["learners"][MODULE]["ordergrad"]
    assert logged["episodes"] >= 5
    assert logged["nonfinite"] == logged["abandoned"] == logged["shrunk"] == 0
    assert logged["total"] == sum(r["learners"][MODULE]["ordergrad"]["episodes"] for r in results)
    assert 0 < logged["stale"] < 1  # episodes that began before the last update
    assert np.isfinite(logged["value"])
    assert results[0]["env_runners"]["episode_return_mean"] != 0
    algorithm.save_to_path(tmp_path / "checkpoint")
    weights = algorithm.get_module().state_dict()
    algorithm.stop()
    restored = Algorithm.from_checkpoint(str(tmp_path / "checkpoint"))
    for name, old in weights.items():
        assert torch.equal(old, restored.get_module().state_dict()[name])
    again = restored.train()["learners"][MODULE]["ordergrad"]
    assert again["total"] > logged["total"]
    assert again["scale"] > 0
    learner = restored.learner_group._learner
    ranking = learner.rankings[MODULE]
    assert (str(ranking.objective), ranking.min_episodes) == ("0.5*mean+0.5*cvar:0.25", 5)
    restored.learner_group.foreach_learner(lambda learner: setattr(learner.rankings[MODULE], "objective", "cvar:0.25"))
    assert str(ranking.objective) == "cvar:0.25"
    restored.stop()


def test_a_learner_of_its_own_process_waits_for_enough_episodes(local_ray):
    config = make_config(n_envs=1, steps=60, objective="cvar:0.3", min_episodes=25).learners(num_learners=1)
    config.env_runners(num_env_runners=2, batch_mode="complete_episodes").debugging(seed=None)
    algorithm = config.build_algo()
    results = [algorithm.train()["learners"][MODULE] for _ in range(4)]
    counts = [result["ordergrad"]["episodes"] for result in results]
    assert counts[0] == 0 < results[0]["ordergrad"]["waiting"]
    assert all(n == 0 or n >= 25 for n in counts)
    assert sum(counts) > 0
    assert results[-1]["ordergrad"]["abandoned"] == 0
    algorithm.stop()


@pytest.mark.parametrize(("objective", "best"), [("mean", 1), ("cvar:0.25", 0)])
def test_it_learns_what_the_objective_asks_for(objective, best):
    config = make_config(env=Gamble, steps=256, n_envs=8, objective=objective)
    config.training(lr=0.03, use_kl_loss=False)
    runner = SingleAgentEnvRunner(config=config)
    learner = config.build_learner(spaces=runner.get_spaces())
    for _ in range(12):
        runner.module.set_state(learner.module[MODULE].get_state())
        learner.update(
            training_data=TrainingData(episodes=runner.sample(num_timesteps=256)), num_epochs=4, minibatch_size=128
        )
    obs = torch.tensor([[1.0, 0.0], [1.0, 0.5]])
    logits = learner.module[MODULE].forward_train({Columns.OBS: obs})[Columns.ACTION_DIST_INPUTS]
    assert torch.softmax(logits, -1)[:, best].min() > 0.8


@pytest.mark.parametrize("credit", ["terminal", "telescoped"])
def test_with_a_critic_the_rewards_add_up_to_the_transformed_return(credit):
    whole = WholeEpisodes(EpisodeRanking("cvar:0.4", credit, discount=0.9, unit_scale=False))
    rng = np.random.default_rng(0)
    rewards = [rng.normal(size=n) for n in (1, 4, 2, 6, 3)]
    episodes = whole.take(
        synthetic(r, key=str(i), done="truncated" if i % 2 else "terminated") for i, r in enumerate(rewards)
    )
    returns = np.array([r @ 0.9 ** np.arange(len(r)) for r in rewards])
    a = og.advantages(returns, "cvar:0.4", small="shrink")
    got = np.array([e.get_return() for e in episodes])
    np.testing.assert_allclose(got - got.mean(), a, atol=1e-6)
    assert all(e.is_terminated and not e.is_truncated for e in episodes)
    if credit == "terminal":
        np.testing.assert_allclose([e.get_rewards()[-1] for e in episodes], a, atol=1e-6)
        assert not any(np.any(e.get_rewards()[:-1]) for e in episodes)


@pytest.mark.parametrize("credit", ["terminal", "telescoped"])
def test_gae_and_the_critic_are_those_of_rllib(credit):
    learner, runner, kept = make_learner(make_config(objective="max@4", credit=credit))
    results = learner.update(training_data=TrainingData(episodes=runner.sample()))
    assert learner.config.use_critic
    assert stats_of(learner)["scale"] > 0  # rewards are divided by it
    assert float(results[MODULE]["vf_loss"].peek()) > 0
    assert len(kept) == 1


def test_whole_returns_are_ranked_whatever_the_cuts():
    """Episodes of 15 steps on average in rollouts of 20 steps an environment."""
    config = make_config(env_config={"mean_length": 15.0, "end": "truncated"}, n_envs=12, min_episodes=15)
    config.env_runners(rollout_fragment_length=20)
    learner, runner, kept = make_learner(config)
    ranked, batches = [], []
    whole, ranking = learner._whole[MODULE], learner.rankings[MODULE]
    take, advantages = whole.take, ranking.advantages

    def spy(chunks):
        batches.append(take(chunks))
        return batches[-1]

    def rank(returns, weights):
        ranked.extend(returns)
        return advantages(returns, weights)

    whole.take, ranking.advantages = spy, rank
    sampled = 0
    for _ in range(12):
        chunks = runner.sample(num_timesteps=240)
        sampled += sum(map(len, chunks))
        learner.update(training_data=TrainingData(episodes=chunks))
    finished = np.concatenate([env.unwrapped.finished for env in runner.env.unwrapped.envs])
    waiting = [episode.total for episode in whole._ended]
    np.testing.assert_allclose(sorted([*ranked, *waiting]), sorted(finished), rtol=1e-5)
    stats = stats_of(learner)
    assert stats["abandoned"] == 0
    assert stats["total"] == len(ranked) == sum(map(len, batches))
    trained = sum(len(e) - 1 for batch in batches for e in batch)  # one step more than sampled, which RLlib masks
    assert trained + stats["open"] == sampled
    assert len(kept) == sum(1 for batch in batches if batch) < 12


def test_nothing_is_trained_while_episodes_are_too_few():
    config = make_config(env_config={"mean_length": 1e9})
    learner, runner, kept = make_learner(config)
    results = train(learner, runner, 2, 50)
    assert all("policy_loss" not in result[MODULE] for result in results)
    assert stats_of(learner)["open"] == 100
    assert not kept


@pytest.mark.parametrize("credit", ["episode", "terminal", "telescoped"])
@pytest.mark.filterwarnings("ignore:more steps wait")
def test_episodes_that_never_end_are_reported_not_fatal(credit):
    config = make_config(env_config={"mean_length": 1e9}, patience=2, credit=credit)
    learner, runner, kept = make_learner(config)
    with pytest.warns(UserWarning, match=r"only 0 episodes ended in 2 training iterations.*train_batch_size"):
        train(learner, runner, 6, 50)
    assert stats_of(learner)["abandoned"] == 0
    assert 50 <= stats_of(learner)["open"] <= 2 * 50 + 32
    assert not kept


@pytest.mark.filterwarnings("ignore:only 0 episodes")
def test_an_episode_of_a_lost_env_runner_is_given_up():
    whole = WholeEpisodes(EpisodeRanking(patience=3))
    whole.take([synthetic([1.0, 2.0], done=None, key="lost"), synthetic([1.0], done=None, key="slow")])
    for t in range(1, 4):
        whole.take([synthetic([1.0], start=t, done=None, key="slow")])
    assert whole.stats["abandoned"] == 1
    assert list(whole._open) == ["slow"]


@pytest.mark.filterwarnings("ignore:more steps wait")
def test_episodes_of_twenty_rollouts_are_ranked_and_two_rollouts_wait_at_most():
    config = make_config(env_config={"mean_length": 300.0}, n_envs=4, min_episodes=6, patience=400)
    config.env_runners(rollout_fragment_length=16).training(lr=0.0)
    learner, runner, _ = make_learner(config)
    waiting = []
    for _ in range(150):
        learner.update(training_data=TrainingData(episodes=runner.sample(num_timesteps=64)))
        waiting.append(stats_of(learner)["open"])
    finished = np.concatenate([env.unwrapped.finished for env in runner.env.unwrapped.envs])
    stats = stats_of(learner)
    assert stats["abandoned"] == 0
    assert stats["total"] + stats["waiting"] == len(finished) > 15
    assert max(waiting) <= 2 * 64 + 32
    assert np.mean(waiting) > 100


@pytest.mark.filterwarnings("ignore:more steps wait")
def test_steps_that_were_drawn_stand_for_all_in_expectation():
    """400 steps of one episode in chunks of 40, where 80 may wait."""
    weights = np.zeros(400)
    for seed in range(300):
        whole = WholeEpisodes(EpisodeRanking())
        whole._random = np.random.default_rng(seed)
        for start in range(0, 400, 40):
            done = "terminated" if start == 360 else None
            trained = whole.take([synthetic(np.ones(40), start=start, done=done, key="long")])
        trained = whole.take([synthetic([0.0], key="short")])
        for steps in trained:
            t = steps.get_observations(slice(0, len(steps))).ravel().astype(int)
            if steps.id_ == "long":
                weights[t] += steps.extra_model_outputs["ordergrad_advantages"].data / 400
    np.testing.assert_allclose(weights.reshape(10, 40).mean(1) / 300, 1, atol=0.3)
    assert weights.mean() / 300 == pytest.approx(1, abs=0.1)


def test_with_a_critic_steps_do_not_wait_for_the_end_of_their_episode():
    whole = WholeEpisodes(EpisodeRanking("mean", "telescoped", discount=0.9, unit_scale=False))
    first = [synthetic([1.0, 2.0], key="a"), synthetic([4.0], key="b"), synthetic([3.0, 5.0], done=None, key="c")]
    trained = whole.take(first)
    assert [e.id_ for e in trained] == ["a", "b", "c"]
    np.testing.assert_allclose(trained[2].get_rewards(), 2 * np.array([3.0, 0.9 * 5.0]))  # f has slope N/(N-1)
    assert [e.is_done for e in trained] == [True, True, False]  # RLlib bootstraps what goes on
    assert whole.stats["open"] == 0
    second = [synthetic([7.0], start=2, key="c"), synthetic([1.0], key="d")]
    trained = whole.take(second)
    np.testing.assert_allclose(trained[0].get_rewards(), 4 / 3 * np.array([0.81 * 7.0]))
    assert whole.ranking._recent.tolist() == pytest.approx([2.8, 4.0, 3 + 4.5 + 0.81 * 7, 1.0])


@pytest.mark.filterwarnings("ignore:more steps wait")
def test_k_above_the_number_of_episodes_waits_then_shrinks():
    learner, runner, kept = make_learner(make_config(objective="max@60"))
    train(learner, runner, 4, 100)
    assert stats_of(learner)["shrunk"] == 0
    assert 0 < len(kept) < 4
    learner, runner, kept = make_learner(make_config(objective="max@3000", patience=2))
    with pytest.warns(UserWarning, match="needs 3001"):
        train(learner, runner, 8, 100)
    assert stats_of(learner)["shrunk"] == len(kept) in (2, 4)  # an episode may span two iterations


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_returns_are_left_out_and_counted(bad):
    def spoil(env, reward):
        return bad if env.steps == 3 and env.state[0] > 1 else reward

    config = make_config(env_config={"rewards": spoil}, objective="cvar:0.3", credit="telescoped")
    learner, runner, kept = make_learner(config)
    with pytest.warns(UserWarning, match="NaN or infinite return"):
        train(learner, runner, 3, 100)
    finished = np.concatenate([env.unwrapped.finished for env in runner.env.unwrapped.envs])
    assert stats_of(learner)["nonfinite"] == np.sum(~np.isfinite(finished)) > 0
    assert all(torch.isfinite(flat(gradients, learner)).all() for gradients in kept)


def test_a_chunk_whose_beginning_is_missing_is_never_ranked():
    whole = WholeEpisodes(EpisodeRanking())
    chunks = [synthetic([1.0, 2.0], done=None, key="a"), synthetic([9.0], start=1, done=None, key="b")]
    assert whole.take(chunks) == []
    assert whole.stats["abandoned"] == 1
    rest = [synthetic([3.0], start=2, key="a"), synthetic([9.0], start=2, key="b"), synthetic([0.0], key="c")]
    episodes = whole.take(rest)
    assert [e.id_ for e in episodes] == ["a", "c"]
    assert episodes[0].get_return() == 6.0
    assert episodes[0].get_observations().ravel().tolist() == [0, 1, 2, 3]
    assert episodes[0].extra_model_outputs["ordergrad_advantages"].data.tolist() == [6.0, 6.0, 6.0]
    assert whole.stats["abandoned"] == 1
    whole.take([synthetic([1.0], start=7, key="d")])
    assert whole.stats["abandoned"] == 2


def test_importance_weights_of_episodes():
    returns, weights = np.array([1.0, 4.0, 2.0, 0.0, 7.0]), np.array([0.5, 2.0, 1.0, 0.25, 1.5])
    rows = list(zip("abcde", returns, weights, strict=True))
    whole = WholeEpisodes(EpisodeRanking("cvar:0.4"))
    chunks = [synthetic([r / 2], done=None, key=k) for k, r, _ in rows]
    bad = [synthetic([3.0], key=str(w), info={"ordergrad_weight": w}) for w in (0.0, np.nan, np.inf)]
    ends = [synthetic([r / 2], start=1, key=k, info={"ordergrad_weight": w}) for k, r, w in rows]
    with pytest.warns(UserWarning, match="a weight that is not positive and finite"):
        episodes = whole.take([*chunks, *bad, *ends])
    a = og.advantages(returns, "cvar:0.4", sample_weight=weights) * 5 * weights / weights.sum()
    got = [e.extra_model_outputs["ordergrad_advantages"].data for e in episodes]
    np.testing.assert_allclose(got, np.column_stack([a, a]), rtol=1e-6)
    assert whole.stats["nonfinite"] == 3
    whole = WholeEpisodes(EpisodeRanking(credit="terminal"))
    with pytest.raises(ValueError, match=r"\['ordergrad_weight'\] needs credit='episode'"):
        whole.take([synthetic([1.0], info={"ordergrad_weight": 2.0})])


def test_bad_input_is_an_error_before_training():
    with pytest.raises(ValueError, match="did you mean 'cvar'"):
        use(PPOConfig(), "cvr:0.1")
    with pytest.raises(ValueError, match="credit must be one of episode, terminal, telescoped"):
        use(PPOConfig(), credit="step")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_episodes must be a positive whole number; got '4'"):
        use(PPOConfig(), min_episodes="4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="learner class a RanksEpisodes; got IMPALATorchLearner"):
        use(IMPALAConfig(), "cvar:0.1")
    with pytest.raises(ValueError, match="must use the new API stack"):
        use(PPOConfig().api_stack(False, False), "cvar:0.1")
    with pytest.raises(ValueError, match=r"framework must be 'torch'; got 'tf2'"):
        use(PPOConfig().framework("tf2"), "cvar:0.1")
    several: Any = PPOConfig().multi_agent(policies={"a"}, policy_mapping_fn=lambda *_: "a")
    with pytest.raises(ValueError, match=r"num_learners must be 0 or 1 with several agents.*got num_learners=3"):
        use(several.learners(num_learners=3), "cvar:0.1")
    with pytest.raises(ValueError, match=r"minibatch_size must be a number with several learners.*got None"):
        make_learner(make_config().learners(num_learners=2))
    with pytest.raises(ValueError, match="did you mean 'cvar'"):
        use(several.learners(num_learners=0), {"a": "cvr:0.1"})
    with pytest.raises(ValueError, match="add_default_connectors_to_learner_pipeline"):
        make_learner(make_config().learners(add_default_connectors_to_learner_pipeline=False))
    with pytest.raises(ValueError, match=r"objective must name policies; got a, but the policies are default_policy"):
        make_learner(make_config(objective={"a": "mean"}))
    with pytest.warns(UserWarning, match="favours short ones.*same chance events.*Set batch_mode='truncate_episodes'"):
        make_learner(make_config().env_runners(batch_mode="complete_episodes"))
    learner, _, _ = make_learner(make_config())
    with pytest.raises(ValueError, match="must hold episodes"):
        learner.update(training_data=TrainingData(batch=MultiAgentBatch({}, 0)))


def test_a_learner_class_of_the_user():
    class Mine(RanksEpisodes, PPOTorchLearner):
        pass

    learner, runner, kept = make_learner(make_config(learner=Mine))
    learner.update(episodes=runner.sample())
    assert isinstance(learner, Mine)
    assert not isinstance(learner, OrderGradPPOLearner)
    assert len(kept) == 1


# Several learners ---------------------------------------------------------------------------------------------------


def hold(learner):
    """Keep the gradients of a learner, and the advantages that it trains on, instead of applying them."""
    learner.kept, learner.seen = [], []
    learner.apply_gradients = learner.kept.append
    compute = learner.compute_loss_for_module

    def spy(*, batch, **kwargs):
        learner.seen.append(batch["advantages"][batch["loss_mask"]].tolist())
        return compute(batch=batch, **kwargs)

    learner.compute_loss_for_module = spy


def test_two_learners_make_the_step_of_one_that_has_all_episodes(local_ray):
    """Each gets chunks that RLlib has cut, so that neither has seen a whole episode of some."""
    config = make_config(env_config={"mean_length": 9.0}, objective="cvar:0.3", n_envs=4)
    learner, runner, _ = make_learner(config)
    hold(learner)
    two = config.copy(copy_frozen=False).learners(num_learners=2).training(minibatch_size=32)
    group = two.build_learner_group(spaces=runner.get_spaces())
    group.foreach_learner(hold)
    group.set_state({"learner": {"rl_module": learner.module.get_state()}})
    rounds = 0
    while rounds < 3:
        chunks = runner.sample(num_timesteps=200)
        copies = [chunk.slice(slice(None)) for chunk in chunks]  # with the steps before them, as they were sampled
        learner.update(training_data=TrainingData(episodes=chunks))
        group.update(episodes=copies)
        if stats_of(learner)["steps"] % 2 == 0:  # else one has a step more
            rounds += 1
    stats = stats_of(learner)
    for other in group.foreach_learner(lambda learner: learner.rankings[MODULE].stats):
        assert other.get() == stats
    gradients = [kept.get() for kept in group.foreach_learner(lambda learner: [flat(g, learner) for g in learner.kept])]
    seen = [values.get() for values in group.foreach_learner(lambda learner: learner.seen)]
    for i, gradient in enumerate(learner.kept):
        np.testing.assert_allclose(sorted(seen[0][i] + seen[1][i]), sorted(learner.seen[i]), rtol=1e-5, atol=1e-5)
        assert abs(len(seen[0][i]) - len(seen[1][i])) <= 1
        torch.testing.assert_close(gradients[0][i], gradients[1][i])
        if len(learner.seen[i]) % 2 == 0:
            torch.testing.assert_close(gradients[0][i], flat(gradient, learner), rtol=1e-3, atol=1e-4)
    group.shutdown()


@pytest.mark.parametrize("credit", ["episode", "telescoped"])
def test_two_learners_train_with_minibatches(local_ray, credit):
    config = make_config(n_envs=2, steps=100, objective="cvar:0.3", credit=credit).learners(num_learners=2)
    config.training(minibatch_size=32, num_epochs=2, lr=1e-2)
    algorithm = config.build_algo()
    before = {name: old.clone() for name, old in algorithm.get_module().state_dict().items()}
    results = [algorithm.train()["learners"][MODULE]["ordergrad"] for _ in range(3)]
    finished = np.concatenate([env.unwrapped.finished for env in algorithm.env_runner.env.unwrapped.envs])
    assert results[-1]["total"] + results[-1]["waiting"] == len(finished) > 60
    assert sum(result["episodes"] for result in results) == results[-1]["total"]
    weights = [w.get() for w in algorithm.learner_group.foreach_learner(lambda learner: learner.module.get_state())]
    for name, value in weights[0][MODULE].items():
        np.testing.assert_array_equal(value, weights[1][MODULE][name])
    assert any(not torch.equal(before[name], new) for name, new in algorithm.get_module().state_dict().items())
    algorithm.stop()


# Several agents -----------------------------------------------------------------------------------------------------


def make_agents(env, objective, policies=("bold", "careful"), steps=256, n_envs=2, **settings):
    agents.SEEDS = itertools.count()
    register_env(env.__name__, lambda config: env(**config))
    config = PPOConfig().environment(env.__name__, disable_env_checking=True)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=n_envs)
    config.training(train_batch_size_per_learner=steps, minibatch_size=128, num_epochs=4, lr=0.03, use_kl_loss=False)
    config.multi_agent(policies=set(policies), policy_mapping_fn=lambda agent, *_, **__: agent.split("-")[0])
    config.rl_module(model_config={"fcnet_hiddens": [8]}).debugging(seed=1)
    return use(config, objective, **settings)


@pytest.mark.parametrize("credit", ["episode", "terminal", "telescoped"])
@pytest.mark.filterwarnings("ignore:every advantage was zero")  # once the careful one no longer loses
def test_each_policy_learns_what_its_own_objective_asks_for(local_ray, credit):
    config = make_agents(agents.Gamblers, {"bold": "mean", "careful": "cvar:0.25"}, credit=credit)
    algorithm = config.build_algo()
    for _ in range(14):
        learned = algorithm.train()["learners"]
    obs = torch.tensor([[1.0, 0.0], [1.0, 0.5]])
    for policy, best in (("bold", 1), ("careful", 0)):
        logits = algorithm.get_module(policy).forward_inference({Columns.OBS: obs})[Columns.ACTION_DIST_INPUTS]
        assert torch.softmax(logits, -1)[:, best].min() > 0.8
        assert learned[policy]["ordergrad"]["episodes"] > 100
    algorithm.stop()


@pytest.mark.parametrize("env_name", ["Gamblers", "Turns"])
@pytest.mark.filterwarnings("ignore:more steps wait")
def test_the_whole_returns_of_each_agent_are_ranked_with_those_of_its_policy(local_ray, env_name):
    """In chunks of 7 steps, agents that stop at different times, or take turns."""
    config = make_agents(getattr(agents, env_name), "cvar:0.3", steps=14).env_runners(rollout_fragment_length=7)
    runner = MultiAgentEnvRunner(config=config)
    learner = config.build_learner(spaces=runner.get_spaces())
    ranked: dict[str, list[float]] = {"bold": [], "careful": []}
    for policy, ranking in learner.rankings.items():

        def rank(returns, weights, policy=policy, advantages=ranking.advantages):
            ranked[policy].extend(returns)
            return advantages(returns, weights)

        ranking.advantages = rank
    for _ in range(20):
        learner.update(training_data=TrainingData(episodes=runner.sample(num_timesteps=14)))
    for policy, whole in learner._whole.items():
        finished = np.concatenate([env.unwrapped.finished[policy] for env in runner.env.envs])
        waiting = [episode.total for episode in whole._ended]
        np.testing.assert_allclose(sorted([*ranked[policy], *waiting]), sorted(finished), rtol=1e-5)
        assert whole.stats["abandoned"] == 0
        assert len(ranked[policy]) > 5


def test_a_policy_that_is_not_trained_needs_no_objective(local_ray):
    config = make_agents(agents.Gamblers, {"bold": "max@4"}).multi_agent(policies_to_train=["bold"])
    algorithm = config.build_algo()
    before = {
        policy: {name: old.clone() for name, old in algorithm.get_module(policy).state_dict().items()}
        for policy in ("bold", "careful")
    }
    learned = algorithm.train()["learners"]
    assert "ordergrad" not in learned.get("careful", {})
    for policy, old in before.items():
        new = algorithm.get_module(policy).state_dict()
        assert all(torch.equal(old[name], new[name]) for name in old) == (policy == "careful")
    algorithm.stop()
    with pytest.raises(ValueError, match=r"for every policy that is trained; got none for 'careful' \(it has bold"):
        make_agents(agents.Gamblers, {"bold": "max@4"}).build_learner(env=agents.Gamblers())
