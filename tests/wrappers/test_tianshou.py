"""The wrapper around single environments under Tianshou, which `make test-trainers` installs."""

import numpy as np
import pytest
import torch
from walk import Gamble

from ordergrad.wrappers.gymnasium import ObjectiveReward

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
