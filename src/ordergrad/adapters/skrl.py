"""skrl: its PPO, for an objective of whole-episode returns.

    agent = OrderGradPPO(models=models, memory=memory, cfg=cfg, objective="cvar:0.1", ...)

Rewards become f(C_t) - f(C_{t-1}), C_t an episode's return so far and f of the last episodes of all environments; see
`ordergrad.adapters.rollouts`. The rest is PPO's.

References:
    Serrano-Muñoz et al. (2023). skrl: Modular and Flexible Library for Reinforcement Learning. JMLR 24.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false
# (skrl leaves some of its types open)

from typing import Any

from ordergrad.extras import extra
from ordergrad.objectives import Objective

with extra("skrl"):
    import torch
    from skrl.agents.torch.ppo import PPO

    from ordergrad.adapters.rollouts import RolloutRewards

__all__ = ["OrderGradPPO"]


class OrderGradPPO(PPO):
    """skrl's PPO on an order-statistic objective of episode returns.

    Truncated episodes end like terminated ones. The ``rewards_shaper`` of the configuration is applied to the rewards
    of f; the environment's own rewards are ranked.

    Args:
        objective: An objective or its string, such as ``"cvar:0.1"``.
        discount: The discount of the returns that are ranked (``discount_factor`` is the critic's).
        window: The number of recent episodes that f is made of, of all processes together.
        **kwargs: Of PPO.

    Raises:
        ValueError: ``time_limit_bootstrap`` is set, or the memory does not hold exactly one rollout.

    Attributes:
        rewards: The `RolloutRewards`; ``rewards.transform.objective`` may be assigned for a schedule.
    """

    def __init__(
        self, *, objective: str | Objective = "mean", discount: float = 1.0, window: int = 1000, **kwargs: Any
    ):
        super().__init__(**kwargs)
        if self.cfg.time_limit_bootstrap:
            raise ValueError("time_limit_bootstrap must be False: the ranked return ends at the time limit; got True")
        memory: Any = self.memory
        if memory is not None and memory.memory_size != self.cfg.rollouts:
            raise ValueError(
                f"memory_size must be the rollouts of the configuration, {self.cfg.rollouts}; got {memory.memory_size}"
            )
        envs = 1 if memory is None else memory.num_envs
        self.rewards = RolloutRewards(envs, objective, discount=discount, window=window, device=self.device)
        self.checkpoint_modules["ordergrad"] = _Sample(self.rewards)
        self._true: list[torch.Tensor] = []

    def record_transition(self, **transition: Any) -> None:
        """Record a step and its true rewards."""
        if self.training:
            self._true.append(transition["rewards"].squeeze(-1).clone())
        super().record_transition(**transition)

    def update(self, *, timestep: int, timesteps: int) -> None:
        """Pay every step by f, then update as PPO."""
        memory: Any = self.memory
        ended = memory.get_tensor_by_name("terminated") | memory.get_tensor_by_name("truncated")
        shaped = self.rewards(torch.stack(self._true), ended.squeeze(-1)).unsqueeze(-1)
        self._true = []
        if self.cfg.rewards_shaper is not None:
            shaped = self.cfg.rewards_shaper(shaped, timestep, timesteps)
        memory.set_tensor_by_name("rewards", shaped)
        memory.set_tensor_by_name("terminated", ended)
        for name, number in self.rewards.stats().items():
            self.track_data(f"OrderGrad / {name}", number)
        super().update(timestep=timestep, timesteps=timesteps)


class _Sample(torch.nn.Module):
    """The sample of returns as what skrl saves with its checkpoints."""

    def __init__(self, rewards: RolloutRewards):
        super().__init__()
        self._rewards = rewards

    def get_extra_state(self) -> dict[str, Any]:
        return self._rewards.transform.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._rewards.transform.set_state(state)
