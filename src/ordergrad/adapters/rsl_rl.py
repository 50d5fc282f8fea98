"""rsl_rl: its PPO, for an objective of whole-episode returns. For Isaac Lab, MuJoCo playground and other simulators.

    train_cfg["algorithm"] |= {
        "class_name": "ordergrad.adapters.rsl_rl:OrderGradPPO",
        "objective": "cvar:0.1",
    }

Rewards become f(C_t) - f(C_{t-1}), C_t an episode's return so far and f of the last episodes of all environments; see
`ordergrad.adapters.rollouts`. The rest is PPO's.

References:
    Schwarke et al. (2025). RSL-RL: A Learning Library for Robotics Research. arXiv 2509.10771.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# (rsl_rl leaves some of its types open)

from typing import Any

from ordergrad.extras import extra
from ordergrad.objectives import Objective

with extra("rsl"):
    import torch
    from rsl_rl.algorithms import PPO
    from torch import Tensor

    from ordergrad.adapters.rollouts import RolloutRewards

__all__ = ["OrderGradPPO"]


class OrderGradPPO(PPO):
    """rsl_rl's PPO on an order-statistic objective of episode returns.

    Time limits are ends like any other: rsl_rl's bootstrap of ``time_outs`` is left out. Intrinsic rewards of random
    network distillation are added to those of f. Episodes that were under way at the beginning
    (``init_at_random_ep_len=True``) are not ranked, because a part of their return is missing.

    Args:
        *args: Of PPO.
        objective: An objective or its string, such as ``"cvar:0.1"``.
        discount: The discount of the returns that are ranked (`gamma` is the critic's).
        window: The number of recent episodes that f is made of, of all processes together.
        **kwargs: Of PPO.

    Attributes:
        rewards: The `RolloutRewards`; ``rewards.transform.objective`` may be assigned for a schedule.
    """

    def __init__(
        self,
        *args: Any,
        objective: str | Objective = "mean",
        discount: float = 1.0,
        window: int = 1000,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.rewards = RolloutRewards(
            self.storage.num_envs, objective, discount=discount, window=window, device=self.device
        )
        self._true = torch.zeros(self.storage.rewards.shape[:2], device=self.device)
        self._env: Any = None

    @staticmethod
    def construct_algorithm(obs: Any, env: Any, cfg: Any, device: str) -> "OrderGradPPO":
        """Make the algorithm, as `PPO.construct_algorithm`."""
        algorithm: Any = PPO.construct_algorithm(obs, env, cfg, device)
        algorithm._env = env
        return algorithm

    def act(self, obs: Any) -> Tensor:
        """Sample actions."""
        if self._env is not None:  # before the first step
            self.rewards.begin_in_the_middle(self._env.episode_length_buf.to(self.device) > 0)
            self._env = None
        return super().act(obs)

    def process_env_step(self, obs: Any, rewards: Tensor, dones: Tensor, extras: dict[str, Any]) -> None:
        """Record a step and its true rewards."""
        self._true[self.storage.step] = rewards
        super().process_env_step(obs, rewards, dones, {key: x for key, x in extras.items() if key != "time_outs"})

    def compute_returns(self, obs: Any) -> None:
        """Pay every step by f, and estimate advantages from that."""
        shaped = self.rewards(self._true, self.storage.dones.squeeze(-1).bool())
        self.storage.rewards += (shaped - self._true).unsqueeze(-1)
        super().compute_returns(obs)

    def update(self) -> dict[str, float]:
        """Update the policy, and return the losses with what was ranked."""
        return super().update() | {f"ordergrad_{name}": x for name, x in self.rewards.stats().items()}

    def save(self) -> dict[str, Any]:
        """Return what to save, the sample of returns included."""
        return super().save() | {"ordergrad": self.rewards.transform.state()}

    def load(self, loaded_dict: dict[str, Any], load_cfg: dict[str, Any] | None, strict: bool) -> bool:
        """Load what `save` returned, or a checkpoint of PPO."""
        if "ordergrad" in loaded_dict:
            self.rewards.transform.set_state(loaded_dict["ordergrad"])
        return super().load(loaded_dict, load_cfg, strict)
