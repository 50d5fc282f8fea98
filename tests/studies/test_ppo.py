"""The single-file PPO: its first step against the reference gradient, whole episodes, what it says when it cannot."""

import csv
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from studies import load

import ordergrad as og


@pytest.fixture(scope="module")
def ppo():
    return load("ppo")


class Counting(gym.Env):
    """Ends after as many steps as the first action says, by itself or by truncation; pays the step number."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, continuous=False, endless=False, broken=False):
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32) if continuous else gym.spaces.Discrete(3)
        self.endless, self.broken = endless, broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.left = 0, None
        return self._observation(), {}

    def step(self, action):
        if self.left is None:
            self.left = 1 + int(np.abs(action).sum() * 2)
        self.steps += 1
        self.left -= 1
        ended = self.left <= 0 and not self.endless
        reward = np.nan if self.broken else float(self.steps)
        return self._observation(), reward, ended and self.steps % 2 == 0, ended and self.steps % 2 == 1, {}

    def _observation(self):
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def environments():
    for name, options in {
        "Counting": {},
        "CountingContinuous": {"continuous": True},
        "Endless": {"endless": True},
        "Broken": {"broken": True},
    }.items():
        gym.register(f"{name}-v0", Counting, kwargs=options, disable_env_checker=True)
    yield
    for name in ("Counting", "CountingContinuous", "Endless", "Broken"):
        del gym.registry[f"{name}-v0"]


def played(ppo, env_id, seed=0, **changes):
    args = ppo.Args(env_id=env_id, episodes=12, **changes)
    torch.manual_seed(seed)
    envs = gym.make_vec(env_id, num_envs=12, vectorization_mode="sync")
    policy = ppo.Policy(envs.single_observation_space, envs.single_action_space, 8)
    return args, policy, ppo.play(envs, policy, args, seed)


@pytest.mark.parametrize("env_id", ["Counting-v0", "CountingContinuous-v0", "CartPole-v1"])
@pytest.mark.parametrize("objective", ["mean", "cvar:0.3", "max@4"])
def test_the_first_step_is_the_reference_gradient(ppo, env_id, objective):
    """Cosine 1 with the gradient of -mean(A * log p) over episodes, and N/S times its length."""
    args, policy, episodes = played(ppo, env_id)
    a = torch.as_tensor(og.advantages(episodes.returns, objective), dtype=torch.float32)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    steps = torch.arange(len(episodes.episode))
    got = torch.autograd.grad(ppo.surrogate(policy, episodes, a, steps, args), parameters)

    log_prob = policy(episodes.observation).log_prob(episodes.action)
    whole = torch.stack([log_prob[episodes.episode == i].sum() for i in range(12)])
    wanted = torch.autograd.grad(-(a * whole).mean(), parameters)
    got, wanted = (torch.cat([g.flatten() for g in found]) for found in (got, wanted))
    assert wanted.norm() > 1e-3
    assert torch.cosine_similarity(got, wanted, dim=0) == pytest.approx(1.0, abs=1e-5)
    assert (got.norm() / wanted.norm()).item() == pytest.approx(12 / len(steps), rel=1e-4)


def test_every_environment_plays_one_whole_episode(ppo):
    _, _, episodes = played(ppo, "Counting-v0")
    lengths = torch.bincount(episodes.episode, minlength=12).numpy()
    first = np.array([int(episodes.action[episodes.episode == i][0]) for i in range(12)])
    assert (lengths == 1 + 2 * first).all()
    assert len(set(lengths)) > 1
    assert (episodes.returns == lengths * (lengths + 1) / 2).all()


def test_returns_are_the_true_ones_with_normalised_observations(ppo):
    envs = gym.wrappers.vector.NormalizeObservation(gym.make_vec("Counting-v0", 12, vectorization_mode="sync"))
    policy = ppo.Policy(envs.single_observation_space, envs.single_action_space, 8)
    episodes = ppo.play(envs, policy, ppo.Args(episodes=12), 0)
    lengths = torch.bincount(episodes.episode, minlength=12).numpy()
    assert (episodes.returns == lengths * (lengths + 1) / 2).all()


def test_log_probabilities_are_those_of_the_actions_as_drawn(ppo):
    """Not as clipped to the bounds of the environment, for which the ratio of an unchanged policy would not be 1."""
    _, policy, episodes = played(ppo, "CountingContinuous-v0")
    assert (episodes.action.abs() > 1).any()
    again = policy(episodes.observation).log_prob(episodes.action)
    assert torch.allclose(again, episodes.log_prob, atol=1e-5)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]


def test_it_learns_cartpole_a_little_and_does_so_again(ppo, tmp_path):
    command = ["--env-id", "CartPole-v1", "--objective", "cvar:0.5", "--updates", "8", "--episodes", "24"]
    for name in ("a", "b"):
        ppo.main([*command, "--out", str(tmp_path / name)])
    found = rows(tmp_path / "a")
    assert found[-1]["mean"] > 2 * found[0]["mean"]
    again = rows(tmp_path / "b")
    assert [row["mean"] for row in found] == [row["mean"] for row in again]
    assert json.loads((tmp_path / "a" / "args.json").read_text())["objective"] == "cvar:0.5"
    with pytest.raises(SystemExit, match="already holds a run"):
        ppo.main([*command, "--out", str(tmp_path / "a")])


def test_a_schedule_ranks_by_the_objective_between(ppo, tmp_path):
    command = ["--env-id", "Counting-v0", "--anneal-from", "mean", "--objective", "max@4", "--normalize"]
    ppo.main([*command, "--updates", "4", "--episodes", "8", "--out", str(tmp_path / "run")])
    first, _, third, _ = rows(tmp_path / "run")
    assert first["value"] == pytest.approx(first["mean"], rel=1e-5)
    assert third["value"] > third["mean"]


def test_ctrl_c_keeps_the_policy_and_the_metrics(ppo, tmp_path, monkeypatch):
    write = ppo.write_and_show

    def stop(folder, row):
        write(folder, row)
        if row["update"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ppo, "write_and_show", stop)
    with pytest.raises(SystemExit, match="Stopped; the policy and the metrics so far"):
        ppo.main(["--env-id", "Counting-v0", "--episodes", "8", "--out", str(tmp_path / "run")])
    assert len(rows(tmp_path / "run")) == 2
    assert "head.weight" in load_file(tmp_path / "run" / "policy.safetensors")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--objective", "max@8", "--episodes", "8"], r"max@8 needs groups of at least 9 episodes; got --episodes 8"),
        (["--objective", "maximum"], "names no known objective"),
        (["--updates", "0"], "--updates must be positive; got 0"),
        (["--env-id", "Nothing-v0"], "Nothing"),
        (["--env-args", "is_slippery=False"], "--env-args must be a JSON object; got is_slippery=False"),
        (["--env-args", "3"], "--env-args must be a JSON object; got 3"),
        (["--env-id", "Endless-v0", "--longest", "30"], "have not ended after 30 steps: raise --longest, or give"),
        (["--env-id", "Broken-v0"], "rewards that are NaN or infinite"),
        (["--env-id", "Blackjack-v1"], r"must have Discrete or Box observations; got Tuple"),
    ],
)
def test_what_cannot_be_trained_is_said(ppo, tmp_path, command, message):
    with pytest.raises(SystemExit, match=message):
        ppo.main([*command, "--out", str(tmp_path / "run")])
