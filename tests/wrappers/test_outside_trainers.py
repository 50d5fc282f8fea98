"""The wrapper around one environment under trainers that need an environment of their own: Tianshou and PufferLib.

`make test-trainers` installs them.
"""

import numpy as np
import pytest
import torch
from gymnasium.wrappers import TransformReward
from walk import Gamble

from ordergrad.wrappers.gymnasium import ObjectiveReward
from ordergrad.wrappers.running import RunningTransform

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.parametrize(("objective", "risky"), [("mean", True), ("cvar:0.2", False)]),
    pytest.mark.filterwarnings("ignore"),
]
STATES = np.float32([[1.0, 0.0], [1.0, 0.5]])


def learned(logits: torch.Tensor, risky: bool) -> bool:
    """Return whether the policy takes one arm in both states; the risky one has the better mean and the worse tail."""
    share = torch.softmax(logits, -1)[:, 1]
    return bool((share > 0.9).all() if risky else (share < 0.1).all())


def test_ppo_of_tianshou(objective, risky):
    pytest.importorskip("tianshou")
    from tianshou.algorithm import PPO
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (the generator that Tianshou draws minibatches from)
    made = [ObjectiveReward(Gamble(), objective) for _ in range(16)]
    for env in made[1:]:
        env.transform = made[0].transform
    envs = DummyVectorEnv([lambda env=env: env for env in made])
    envs.seed(0)
    actor = DiscreteActor(preprocess_net=Net(state_shape=(2,), hidden_sizes=[16]), action_shape=2, softmax_output=False)
    critic = DiscreteCritic(preprocess_net=Net(state_shape=(2,), hidden_sizes=[16]))
    policy = ProbabilisticActorPolicy(
        actor=actor,
        dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
        action_space=made[0].action_space,
        action_scaling=False,
    )
    algorithm = PPO(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=0.01), gamma=1.0, ent_coef=0.0)
    params = OnPolicyTrainerParams(
        training_collector=Collector(algorithm, envs, VectorReplayBuffer(1024, 16)),
        max_epochs=1,
        epoch_num_steps=20_000,
        collection_step_num_env_steps=512,
        batch_size=128,
        update_step_num_repetitions=4,
        verbose=False,
        show_progress=False,
    )
    algorithm.run_training(params)
    assert made[0].transform.total > 9000
    assert learned(actor(STATES)[0], risky)


def test_puffer_rl_of_pufferlib(objective, risky):
    pytest.importorskip("pufferlib")
    import pufferlib.emulation
    import pufferlib.models
    import pufferlib.vector
    from pufferlib.pufferl import PuffeRL

    torch.manual_seed(0)
    transform = RunningTransform(objective)

    def make(buf=None, seed=0):
        def one():
            env = ObjectiveReward(Gamble(), objective)
            env.transform = transform
            return TransformReward(env, lambda reward: 0.25 * reward)  # PuffeRL clips rewards to [-1, 1]

        return pufferlib.emulation.GymnasiumPufferEnv(env_creator=one, buf=buf, seed=seed)

    envs = pufferlib.vector.make(make, backend=pufferlib.vector.Serial, num_envs=64)
    policy = pufferlib.models.Default(envs.driver_env, hidden_size=16)
    settings = {"batch_size": "auto", "bptt_horizon": 16, "minibatch_size": 256, "max_minibatch_size": 256}
    settings |= {"optimizer": "adam", "learning_rate": 0.01, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_eps": 1e-8}
    settings |= {"update_epochs": 4, "clip_coef": 0.2, "vf_clip_coef": 10.0, "vf_coef": 0.5, "ent_coef": 0.0}
    settings |= {"gamma": 1.0, "gae_lambda": 0.95, "vtrace_rho_clip": 1.0, "vtrace_c_clip": 1.0, "max_grad_norm": 0.5}
    settings |= {"prio_alpha": 0.0, "prio_beta0": 1.0, "anneal_lr": False, "total_timesteps": 40_000, "seed": 0}
    settings |= {"device": "cpu", "precision": "float32", "compile": False, "cpu_offload": False, "use_rnn": False}
    settings |= {"torch_deterministic": True, "checkpoint_interval": 10**9, "env": "gamble", "data_dir": "unused"}
    trainer = PuffeRL(settings, envs, policy)
    trainer.print_dashboard = lambda *args, **kwargs: None
    for _ in range(30):
        trainer.evaluate()
        trainer.train()
    trainer.utilization.stop()
    assert transform.total > 9000
    assert learned(policy.forward_eval(torch.tensor(STATES))[0], risky)
