"""The TorchRL adapter against the reference gradient, through real collectors and losses."""

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from doctests import check_doctests
from walk import Gamble, Walk

import ordergrad as og

pytestmark = pytest.mark.filterwarnings("ignore:.*VanillaWeightUpdater.*:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def framework():
    """Import the framework with the first test: it takes seconds that collecting need not cost."""
    global TensorDict, TensorDictModule, LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement, GymWrapper
    global SerialEnv, ProbabilisticActor, TransformersWrapper, ClipPPOLoss, ReinforceLoss, GRPOLoss, MCAdvantage
    global GAE, language_model, score, tokenizer, OrderGradAdvantage, OrderGradMCAdvantage, Collector

    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
    from torchrl.envs import GymWrapper, SerialEnv
    from torchrl.modules import ProbabilisticActor
    from torchrl.modules.llm import TransformersWrapper
    from torchrl.objectives import ClipPPOLoss, ReinforceLoss
    from torchrl.objectives.llm import GRPOLoss, MCAdvantage
    from torchrl.objectives.value import GAE
    from trl_toy import language_model, score, tokenizer

    from ordergrad.adapters.torchrl import OrderGradAdvantage, OrderGradMCAdvantage

    with warnings.catch_warnings():  # one of its own classes inherits from a deprecated one
        warnings.simplefilter("ignore", DeprecationWarning)
        from torchrl.collectors import Collector


def test_doctests():
    check_doctests("ordergrad.adapters.torchrl")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # environments raise it when they close


def make_env(env=Walk, n_envs=2, made=None, **kwargs):
    """Return environments, and keep the Gymnasium ones among `made`."""

    def one():
        made_one = env(**kwargs)
        if made is not None:
            made.append(made_one)
        return GymWrapper(made_one, categorical_action_encoding=True)

    envs = SerialEnv(n_envs, one)
    envs.set_seed(3)
    return envs


def make_actor(continuous=False, hidden=8, actions=3):
    torch.manual_seed(0)
    outputs = 4 if continuous else actions
    layers: list[Any] = [torch.nn.Linear(2, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, outputs)]
    if continuous:
        layers.append(LocScale())
    keys = ["loc", "scale"] if continuous else ["logits"]
    net = TensorDictModule(torch.nn.Sequential(*layers), in_keys=["observation"], out_keys=keys)
    family = independent if continuous else torch.distributions.Categorical
    return ProbabilisticActor(net, in_keys=keys, distribution_class=family, return_log_prob=True)


class LocScale(torch.nn.Module):
    def forward(self, x):
        loc, scale = x.chunk(2, -1)
        return loc, scale.exp()


def independent(loc, scale):
    return torch.distributions.Independent(torch.distributions.Normal(loc, scale), 1)


def make_critic():
    torch.manual_seed(1)
    return TensorDictModule(torch.nn.Linear(2, 1), in_keys=["observation"], out_keys=["state_value"])


def collect(env, actor, batches=1, frames=128, **kwargs):
    """Return so many batches of a collector."""
    collector = Collector(
        env, actor, frames_per_batch=frames, total_frames=-1, auto_register_policy_transforms=True, **kwargs
    )
    found = []
    for data in collector:
        found.append(data)
        if len(found) == batches:
            break
    collector.shutdown()
    return found


LAYOUTS = {
    "fixed": {"frames": 256},
    "padded": {"trajs_per_batch": 24, "traj_format": "padded"},
    "cat": {"trajs_per_batch": 24, "traj_format": "cat"},
}


@cache
def kept(layout, continuous):
    return collect(make_env(continuous=continuous), make_actor(continuous), **LAYOUTS[layout])[0]


def batch(layout="cat", continuous=False):
    return kept(layout, continuous).clone()


def episodes_of(data):
    """Return the whole episodes of one batch, not looked at before."""
    done = []
    ids, valid = data["collector", "traj_ids"], data.get(("collector", "mask"), None)
    valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    for i in ids[valid].unique().tolist():
        steps = data[(ids == i) & valid]
        if bool(steps["next", "done"][-1]) and bool(steps["is_init"][0]):
            done.append(steps)
    return done


def return_of(steps):
    return float(steps["next", "reward"].sum())


def log_prob(actor, steps):
    return actor.get_dist(steps).log_prob(steps["action"]).sum()


def gradient(loss, actor):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(actor.parameters()))]).double()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("objective", ["mean", "cvar:0.2", "0.7*mean+0.3*max@8"])
@pytest.mark.parametrize("kind", ["ppo", "reinforce"])
def test_one_step_is_the_reference_gradient(kind, objective, continuous, layout):
    actor, critic = make_actor(continuous), make_critic()
    data = batch(layout, continuous)
    episodes = episodes_of(data)
    returns = np.array([return_of(e) for e in episodes])
    assert len(episodes) > 12
    if objective == "mean":
        a = returns - (returns.sum() - returns) / (len(returns) - 1)  # REINFORCE with leave-one-out baseline
    else:
        a = og.advantages(returns, objective)
    loss = torch.stack([-float(x) * log_prob(actor, e) for x, e in zip(a, episodes, strict=True)]).mean()
    reference = gradient(loss, actor)
    if kind == "ppo":
        module = ClipPPOLoss(actor, None, critic_coeff=None, entropy_bonus=False)
        part = module(OrderGradAdvantage(objective)(data))["loss_objective"]
    else:
        module = ReinforceLoss(actor, critic)
        part = module(OrderGradAdvantage(objective, value_network=critic)(data))["loss_actor"]
    grads = torch.autograd.grad(part, list(module.actor_network_params.values(True, True)))
    order = [name for name, _ in actor.named_parameters()]
    names = [".".join(key) for key in module.actor_network_params.keys(True, True)]
    ours = torch.cat([dict(zip(names, grads, strict=True))[name].flatten() for name in order]).double()
    assert float(ours @ reference / (ours.norm() * reference.norm())) == pytest.approx(1, abs=1e-6)
    scalar = len(episodes) / sum(len(e) for e in episodes)
    assert float(ours.norm() / reference.norm()) == pytest.approx(scalar, rel=1e-4)


def test_batches_of_any_layout_get_the_same_advantages():
    data = batch("fixed")
    module = OrderGradAdvantage("cvar:0.3")
    a = module(data.clone())
    flat = OrderGradAdvantage("cvar:0.3")(data.reshape(-1).clone())
    assert torch.equal(flat["advantage"], a["advantage"].reshape(-1, 1))
    assert torch.equal(flat["collector", "mask"], a["collector", "mask"].reshape(-1))
    deep = OrderGradAdvantage("cvar:0.3")(data.clone()[None].expand(1, *data.shape).clone())
    assert torch.equal(deep["advantage"][0], a["advantage"])
    across = OrderGradAdvantage("cvar:0.3", time_dim=0)(data.transpose(0, 1).clone())
    assert torch.equal(across["advantage"].transpose(0, 1), a["advantage"])
    compiled = torch.compile(OrderGradAdvantage("cvar:0.3"), backend="eager")(data.clone())
    assert torch.equal(compiled["advantage"], a["advantage"])
    names = {"advantage": "adv", "reward": "gain"}
    renamed = data.clone().rename_key_(("next", "reward"), ("next", "gain"))
    module.set_keys(**names)
    assert torch.equal(module(renamed)["adv"], a["advantage"])


@pytest.mark.filterwarnings("ignore:torch._dynamo.config.inline_inbuilt_nn_modules:FutureWarning")  # of tensordict
def test_a_compiled_loss_takes_the_ranked_batch():
    actor, data = make_actor(), batch()
    loss = ClipPPOLoss(actor, None, critic_coeff=None, entropy_bonus=False)
    OrderGradAdvantage("max@4")(data)
    compiled = torch.compile(loss, backend="eager")(data)
    torch.testing.assert_close(compiled["loss_objective"], loss(data)["loss_objective"])


def test_every_episode_is_ranked_once_by_its_true_return_with_whole_trajectories():
    """Episodes of 25 steps on average, polled every 8 steps an environment."""
    made: list[Any] = []
    env = make_env(n_envs=4, made=made, mean_length=25.0, end="truncated")
    batches = collect(env, make_actor(), batches=3, frames=32, trajs_per_batch=4, traj_format="cat")
    module, ranked = OrderGradAdvantage("cvar:0.5"), []
    for data in batches:
        episodes = episodes_of(data)
        ranked += [return_of(e) for e in episodes]
        module(data)
        assert data["collector", "mask"].all()
        per_episode = [e["advantage"].unique() for e in episodes_of(data)]
        assert all(len(a) == 1 for a in per_episode)
        assert float(sum(per_episode)) == pytest.approx(0, abs=1e-4)
    finished = np.concatenate([one.finished for one in made])
    assert len(ranked) == module.stats["total"] == 12
    assert all(np.isclose(finished, r, rtol=1e-5).any() for r in ranked)
    assert (module.stats["abandoned"], module.stats["left_out"]) == (0, 0)


@pytest.mark.parametrize("tracked", [False, True])
def test_episodes_that_span_two_batches_are_left_out_counted_and_warned_of(tracked):
    batches = collect(make_env(n_envs=4), make_actor(), batches=4, frames=80)
    module, total, spanning, seen = OrderGradAdvantage("mean"), 0, 0, set()
    for i, data in enumerate(batches):
        whole, ids = episodes_of(data), data["collector", "traj_ids"]
        total += len(whole)
        spanning += len(set(ids[data["next", "done"].squeeze(-1)].tolist()) & seen)
        seen |= set(ids.unique().tolist())
        if not tracked:
            del data["is_init"]  # the ids tell it, too
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            module(data)
        told = ["began in an earlier batch are left out, which favours short" in str(w.message) for w in caught]
        assert told == ([True] if i == 1 else [])
        mask = data["collector", "mask"]
        assert int(mask.sum()) == sum(map(len, whole)) == module.stats["steps"]
        assert all(mask[ids == int(e["collector", "traj_ids"][0])].all() for e in whole)
        assert not data["advantage"][~mask].any()
        again = module(data.clone())  # a loop over epochs
        assert torch.equal(again["advantage"], data["advantage"])
        assert torch.equal(again["collector", "mask"], mask)
    assert module.stats["total"] == total > 20
    assert module.stats["abandoned"] == spanning > 4
    assert 0 < module.stats["left_out"] < 1


def test_batches_of_the_same_rewards_are_told_apart_by_their_episodes():
    """Where rewards are sparse, returns are all zero in one batch after the other."""
    module = OrderGradAdvantage("cvar:0.5")
    ends = [[0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 0, 1]]
    ids = [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5], [6, 7, 7, 7, 7, 7], [8, 8, 9, 9, 9, 9], [10, 10, 11, 11, 11, 11]]
    total = 0
    for end, number in zip(ends, ids, strict=True):
        done = torch.tensor(end, dtype=torch.bool)[:, None]
        data = TensorDict(
            {
                "next": {"reward": torch.zeros(6, 1), "done": done},
                "collector": {"traj_ids": torch.tensor(number)},
            },
            [6],
        )
        total += sum(end)
        for _ in range(2):
            module(data)
            assert (module.stats["episodes"], module.stats["total"]) == (sum(end), total)
            assert int(data["collector", "mask"].sum()) == module.stats["steps"] == 1 + np.flatnonzero(end)[-1]
            assert not data["advantage"].any()


@pytest.mark.parametrize("credit", ["terminal", "telescoped"])
def test_with_a_critic_it_is_gae_of_the_transformed_rewards(credit):
    critic = make_critic()
    data = batch()
    module = OrderGradAdvantage(
        "cvar:0.4", credit=credit, discount=0.9, unit_scale=False, gamma=1.0, lmbda=1.0, value_network=critic
    )
    reward, terminated = data["next", "reward"].clone(), data["next", "terminated"].clone()
    module(data)
    assert torch.equal(data["next", "reward"], reward)
    assert torch.equal(data["next", "terminated"], terminated)
    episodes = episodes_of(data)
    returns = np.array([float((e["next", "reward"].ravel() * 0.9 ** torch.arange(len(e))).sum()) for e in episodes])
    a = og.advantages(returns, "cvar:0.4")
    totals = np.array([float(e["value_target"][0]) for e in episodes])  # what is to come at the first step
    np.testing.assert_allclose(totals - totals.mean(), a, atol=1e-4)
    torch.testing.assert_close(data["advantage"], data["value_target"] - data["state_value"], rtol=1e-4, atol=1e-4)
    if credit == "terminal":
        np.testing.assert_allclose(totals, a, atol=1e-4)


def test_telescoped_mean_is_gae():
    """For the mean the telescoped rewards are the rewards times N/(N-1)."""
    critic = make_critic()
    data = batch("padded")
    data["next", "terminated"] = data["next", "done"].clone()  # no bootstrap at time limits
    ours = OrderGradAdvantage("mean", credit="telescoped", unit_scale=False, value_network=critic)(data.clone())
    theirs = data.clone()
    theirs["next", "reward"] *= 24 / 23
    GAE(gamma=0.99, lmbda=0.95, value_network=critic)(theirs)
    mask = data["collector", "mask"]
    torch.testing.assert_close(ours["advantage"][mask], theirs["advantage"][mask], rtol=1e-4, atol=1e-4)


def test_the_critic_keeps_its_own_targets_with_episode_credit():
    critic = make_critic()
    data = batch()
    ours = OrderGradAdvantage("cvar:0.4", value_network=critic)(data.clone())
    theirs = GAE(gamma=0.99, lmbda=0.95, value_network=critic)(data.clone())
    assert torch.equal(ours["value_target"], theirs["value_target"])
    assert not torch.equal(ours["advantage"], theirs["advantage"])


def test_unit_scale_and_the_counts_survive_a_checkpoint():
    batches = collect(make_env(), make_actor(), batches=2, **LAYOUTS["cat"])
    plain, scaled = OrderGradAdvantage("cvar:0.3"), OrderGradAdvantage("cvar:0.3", unit_scale=True)
    a = [plain(data.clone())["advantage"] for data in batches]
    scaled(batches[0].clone())
    restored = OrderGradAdvantage("cvar:0.3", unit_scale=True)
    restored.load_state_dict(scaled.state_dict())
    got = restored(batches[1].clone())["advantage"]
    returns = [np.array([return_of(e) for e in episodes_of(data)]) for data in batches]
    scale = np.sqrt(np.mean(np.concatenate([r - r.mean() for r in returns]) ** 2))
    torch.testing.assert_close(got * (scale / 0.3), a[1], rtol=1e-4, atol=1e-4)
    assert restored.stats["total"] == 48


@pytest.mark.parametrize("credit", ["episode", "telescoped"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_returns_are_left_out_and_counted(bad, credit):
    critic, actor = make_critic(), make_actor()
    env = make_env(rewards=lambda env, r: bad if env.steps == 3 and env.state[0] > 1 else r)
    (data,) = collect(env, actor, **LAYOUTS["padded"])
    module = OrderGradAdvantage("cvar:0.3", credit=credit, value_network=critic)
    episodes = episodes_of(data)
    finite = [bool(e["next", "reward"].isfinite().all()) for e in episodes]
    with pytest.warns(UserWarning, match="NaN or infinite return"):
        module(data)
    assert module.stats["nonfinite"] == finite.count(False) > 0
    assert module.stats["episodes"] == finite.count(True)
    assert int(data["collector", "mask"].sum()) == sum(len(e) for e, ok in zip(episodes, finite, strict=True) if ok)
    loss = ClipPPOLoss(actor, critic)(data)
    total = loss["loss_objective"] + loss["loss_critic"]
    for grad in torch.autograd.grad(total, [*actor.parameters(), *critic.parameters()], allow_unused=True):
        assert grad is None or grad.isfinite().all()


def test_episodes_that_never_end_are_reported_not_fatal():
    actor = make_actor()
    (data,) = collect(make_env(mean_length=1e9), actor)
    module = OrderGradAdvantage("cvar:0.3")
    with pytest.warns(UserWarning, match=r"only . episodes ended in a batch of 128 steps.*raise trajs_per_batch"):
        module(data)
    assert (module.stats["episodes"], module.stats["left_out"]) == (0, 1)
    loss = ClipPPOLoss(actor, None, critic_coeff=None, entropy_bonus=False)(data)["loss_objective"]
    assert float(loss.detach()) == 0


def test_k_above_the_number_of_episodes_shrinks():
    data = batch()
    module = OrderGradAdvantage("max@300")
    with pytest.warns(UserWarning, match="only 24 episodes ended .* but max@300 needs 301"):
        module(data)
    returns = np.array([return_of(e) for e in episodes_of(data)])
    first = [float(e["advantage"][0]) for e in episodes_of(data)]
    np.testing.assert_allclose(first, og.advantages(returns, "max@23"), rtol=1e-4, atol=1e-4)
    assert module.stats["shrunk"] == 1


@pytest.mark.filterwarnings("ignore:only . episodes:UserWarning")
def test_steps_out_of_order_are_not_taken_for_episodes():
    module = OrderGradAdvantage("mean")
    long = collect(make_env(mean_length=20.0), make_actor(), frames=256)[0]
    short = [e for e in episodes_of(long) if len(e) == 1]
    with pytest.warns(UserWarning, match="left out"):
        module(long.transpose(0, 1).reshape(-1))
    assert module.stats["episodes"] == len(short) < 2


def test_a_schedule_may_change_the_objective():
    data = batch()
    module = OrderGradAdvantage("mean")
    mean = module(data.clone())["advantage"]
    module.ranking.objective = og.anneal("mean", "cvar:0.1", 0.5)
    assert not torch.equal(module(data.clone())["advantage"], mean)


def test_bad_input_is_an_error_before_training():
    with pytest.raises(ValueError, match="did you mean 'cvar'"):
        OrderGradAdvantage("cvr:0.1")
    with pytest.raises(ValueError, match="credit must be one of episode, terminal, telescoped"):
        OrderGradAdvantage(credit="step")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one column, shape \\(4, 1\\); got \\(4, 2\\)"):
        OrderGradAdvantage()(TensorDict({"next": {"reward": torch.zeros(4, 2), "done": torch.ones(4, 1)}}, [4]))
    with pytest.raises(KeyError, match=r"the batch must hold \('next', 'done'\)"):
        OrderGradAdvantage()(TensorDict({"next": {"reward": torch.zeros(4, 1)}}, [4]))
    with pytest.raises(ValueError, match="grpo_size must be at least 9 for max@8; got 8"):
        OrderGradMCAdvantage(8, "max@8")


@pytest.mark.parametrize(("objective", "best"), [("mean", 1), ("cvar:0.25", 0)])
def test_it_learns_what_the_objective_asks_for(objective, best):
    """The usual loop: collector, advantages, replay buffer, loss, optimiser."""
    actor = make_actor(actions=2)
    collector = Collector(
        make_env(Gamble, n_envs=4),
        actor,
        frames_per_batch=64,
        total_frames=-1,
        trajs_per_batch=64,
        traj_format="cat",
        auto_register_policy_transforms=True,
    )
    advantage, loss = OrderGradAdvantage(objective), ClipPPOLoss(actor, None, critic_coeff=None, entropy_bonus=False)
    buffer = ReplayBuffer(storage=LazyTensorStorage(256), sampler=SamplerWithoutReplacement(), batch_size=32)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for i, data in enumerate(collector):
        for _ in range(3):
            advantage(data)
            buffer.extend(data.reshape(-1))
            for _ in range(4):
                optimizer.zero_grad()
                loss(buffer.sample())["loss_objective"].backward()
                optimizer.step()
            buffer.empty()
        if i == 7:
            break
    collector.shutdown()
    obs = TensorDict({"observation": torch.tensor([[1.0, 0.0], [1.0, 0.5]])}, [2])
    assert actor.get_dist(obs).probs[:, best].min() > 0.8


def trajectory(prompt, rewards):
    n = len(rewards)
    done = torch.zeros(n, 1, dtype=torch.bool)
    done[-1] = True
    return TensorDict(
        {"query": [prompt] * n, "next": {"reward": torch.tensor(rewards, dtype=torch.float32)[:, None], "done": done}},
        [n],
    )


def test_prompts_are_ranked_each_on_its_own_in_a_replay_buffer():
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(storage=LazyTensorStorage(500), batch_size=10)
    buffer.append_transform(OrderGradMCAdvantage(5, "cvar:0.5@4", prompt_key="id"))
    returns: dict[int, list[float]] = {0: [], 1: []}
    for i in range(9):
        rewards = rng.normal(size=int(rng.integers(1, 4))).tolist()
        steps = trajectory("", rewards).exclude("query")
        steps["id"] = torch.full((len(rewards),), i % 2)
        returns[i % 2].append(float(np.sum(rewards)))
        buffer.extend(steps)
    written = buffer[:]
    assert set(written["id"].tolist()) == {0}  # the other prompt still waits for its fifth
    ends = written["next", "done"].squeeze(-1)
    expected = og.advantages(np.array(returns[0]), "cvar:0.5@4")
    np.testing.assert_allclose(written["advantage"][ends].squeeze(-1), expected, rtol=1e-5, atol=1e-6)


def test_mc_advantage_is_not_divided_by_the_spread_and_leaves_out_nan():
    ours, theirs = OrderGradMCAdvantage(4, "mean"), MCAdvantage(4, trajectory_return="sum")
    for value in (0.0, 1.0, 5.0):
        assert ours.inv(trajectory("p", [value])) is None
        theirs.inv(trajectory("p", [value]))
    out, divided = ours.inv(trajectory("p", [2.0, 4.0])), theirs.inv(trajectory("p", [2.0, 4.0]))
    a = og.advantages(np.array([0.0, 1.0, 5.0, 6.0]), "mean")
    np.testing.assert_allclose(out["advantage"].ravel(), [*a, a[-1]], rtol=1e-6)
    ratio = out["advantage"] / divided["advantage"]
    np.testing.assert_allclose(ratio, float(ratio[0]), rtol=1e-5)
    assert float(ratio[0]) == pytest.approx(4 / 3 * np.std([0, 1, 5, 6], ddof=1), rel=1e-5)
    for value in (0.0, float("nan"), 5.0, 6.0):
        out = ours.inv(trajectory("q", [value]))
    expected = og.advantages(np.array([0.0, 5.0, 6.0]), "mean")
    np.testing.assert_allclose(out["advantage"].ravel(), [expected[0], 0, *expected[1:]], rtol=1e-6)
    assert ours.get_stats()["nonfinite_trajectories"] == 1
    assert ours.get_stats()["written_groups"] == 2


@pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")  # of TorchRL's wrapper
def test_one_step_on_a_language_model_is_the_reference_gradient():
    """Two prompts, six completions each, of different lengths, through GRPOLoss."""
    model, objective = language_model().eval(), "cvar:0.5@4"
    actor = TransformersWrapper(
        model, tokenizer=tokenizer(), input_mode="tokens", generate=False, return_log_probs=True, pad_output=True
    )
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 11, (12, 8), generator=generator)
    tokens[:6, :3], tokens[6:, :3] = torch.tensor([2, 3, 4]), torch.tensor([4, 2, 2])
    mask = torch.arange(8) < torch.randint(4, 9, (12, 1), generator=generator)
    tokens[~mask] = 0
    rewards = torch.tensor([score(row[3:][kept[3:]].tolist()) for row, kept in zip(tokens, mask, strict=True)])
    data = TensorDict(
        {
            "id": torch.arange(12) // 6,
            "tokens": {"full": tokens, "prompt": tokens[:, :3]},
            "masks": {"all_attention_mask": mask},
            "next": {"reward": rewards[:, None, None], "done": torch.ones(12, 1, dtype=torch.bool)},
        },
        [12],
    )
    data["log_probs"] = actor(data.select("tokens", "masks"))["log_probs"].select("full").to_tensordict().detach()
    transform = OrderGradMCAdvantage(6, objective, prompt_key="id")
    groups = [transform.inv(one) for one in data.split(1)]
    loss = GRPOLoss(actor, masking_strategy="sft", entropy_bonus=False)
    ours = gradient(loss(torch.cat([group for group in groups if group is not None])).loss_objective, model)
    a = og.advantages(rewards.reshape(2, 6), objective).ravel()
    logits = model(tokens, attention_mask=mask.long()).logits[:, :-1]
    log_probs = torch.log_softmax(logits, -1).gather(-1, tokens[:, 1:, None]).squeeze(-1)[:, 2:]
    reference = gradient(-(a * (log_probs * mask[:, 3:]).sum(-1)).mean(), model)
    assert float(ours @ reference / (ours.norm() * reference.norm())) == pytest.approx(1, abs=1e-6)
    assert float(ours.norm() / reference.norm()) == pytest.approx(12 / int(mask[:, 3:].sum()), rel=1e-4)
