"""The adapter for rsl_rl, with its own runner in thousands of copies of an environment."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from copies import Copies

pytest.importorskip("rsl_rl")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from rsl_rl.algorithms import PPO
    from rsl_rl.runners import OnPolicyRunner

    from ordergrad.adapters.rsl_rl import OrderGradPPO

pytestmark = pytest.mark.filterwarnings("ignore")
MODEL = {"class_name": "rsl_rl.models.MLPModel", "hidden_dims": [16], "activation": "elu"}
CONFIG: dict[str, Any] = {
    "num_steps_per_env": 8,
    "save_interval": 1000,
    "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
    "actor": MODEL | {"distribution_cfg": {"class_name": "rsl_rl.modules.GaussianDistribution", "init_std": 0.5}},
    "critic": MODEL,
    "algorithm": {
        "class_name": "ordergrad.adapters.rsl_rl:OrderGradPPO",
        "learning_rate": 1e-2,
        "schedule": "fixed",
        "gamma": 1.0,
        "entropy_coef": 0.0,
        "num_learning_epochs": 2,
    },
}


def runner(env, log_dir=None, steps=8, **algorithm):
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIG) | {"num_steps_per_env": steps}
    config["algorithm"] |= algorithm
    return OnPolicyRunner(env, config, log_dir=log_dir)


def stake(made):
    with torch.inference_mode():
        return float(made.get_inference_policy()(made.env.get_observations()).clamp(0, 1).mean())


@pytest.mark.parametrize(("objective", "high"), [("mean", True), ("cvar:0.1", False)])
def test_it_learns_what_the_objective_prefers(objective, high, capsys):
    made = runner(Copies(2048), objective=objective)
    assert isinstance(made.alg, OrderGradPPO)
    made.learn(40, init_at_random_ep_len=True)
    assert stake(made) > 0.7 if high else stake(made) < 0.2


def test_true_returns_of_whole_episodes_are_ranked_before_the_bootstrap(capsys):
    env = Copies(64)
    made = runner(env, objective="cvar:0.1", window=10_000)
    made.learn(10)
    np.testing.assert_allclose(made.alg.rewards.transform.returns, env.finished, atol=1e-5)


def test_episodes_under_way_at_the_start_are_not_ranked(capsys):
    env = Copies(64)
    made = runner(env, objective="cvar:0.1", window=10_000)
    made.learn(10, init_at_random_ep_len=True)
    ranked = np.sort(made.alg.rewards.transform.returns)
    partial = len(env.finished) - len(ranked)
    assert 55 < partial <= 64  # all but those that begin at length 0
    assert set(np.round(ranked, 4)) <= set(np.round(env.finished, 4))


def test_with_the_mean_and_no_time_limits_it_is_ppo(capsys):
    weights = []
    for name in ("ordergrad.adapters.rsl_rl:OrderGradPPO", "rsl_rl.algorithms:PPO"):
        env = Copies(32)
        env.timed[:] = False
        made = runner(env, steps=25, class_name=name)
        torch.manual_seed(1)
        made.learn(3)
        assert type(made.alg) is (OrderGradPPO if "ordergrad" in name else PPO)
        weights.append(torch.cat([p.detach().ravel() for p in made.alg.actor.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)


def test_checkpoints_keep_the_sample_and_those_of_ppo_load(tmp_path, capsys):
    made = runner(Copies(32), objective="cvar:0.1")
    made.learn(5)
    path = str(tmp_path / "model.pt")
    made.save(path)
    again = runner(Copies(32), objective="cvar:0.1")
    again.load(path)
    np.testing.assert_array_equal(again.alg.rewards.transform.returns, made.alg.rewards.transform.returns)
    plain = runner(Copies(32), class_name="rsl_rl.algorithms:PPO")
    plain.save(path)
    again.load(path)


def test_losses_tell_what_was_ranked(capsys):
    made = runner(Copies(32), objective="cvar:0.1")
    made.learn(5)
    stats = made.alg.rewards.stats()
    assert stats["episodes"] == 64
    assert np.isfinite(stats["value"])
