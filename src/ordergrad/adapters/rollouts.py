r"""Rewards f(C_t) - f(C_{t-1}) in PyTorch, for the adapters of trainers with short rollouts of many environments.

Robots train in thousands of environments, 16 to 24 steps at a time, in episodes of hundreds of steps. Few of the
episodes that a rollout touches end in it, and ranking them needs all of their return, so f is that of the last returns
of all environments (`RunningTransform`), and every step of the rollout is paid by it. Nothing waits, and no episode is
left out for its length.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from typing import Any

from ordergrad.extras import extra
from ordergrad.objectives import Objective
from ordergrad.wrappers.running import RunningTransform

with extra("torch"):
    import torch
    from torch import Tensor

__all__ = ["RolloutRewards"]


class RolloutRewards:
    r"""Turns the rewards of one rollout after the other into $f(C_t) - f(C_{t-1})$, C the returns so far.

    f is the `RunningTransform` of the last returns, those that ended in the rollout among them. It stands still
    during a rollout. Before two episodes have ended rewards are 0.

    Args:
        num_envs: How many environments.
        objective: What to optimise: an objective or its string.
        discount: The discount of the returns that are ranked.
        window: The number of recent episodes that f is made of, at least.
        device: Where the rewards are.

    Attributes:
        transform: f, a `RunningTransform`, whose objective may be assigned.

    Example:
        >>> rewards = RolloutRewards(2, "cvar:0.5")
        >>> ended = torch.tensor([[False, True], [True, True]])
        >>> rewards(torch.tensor([[1.0, 3.0], [1.0, 0.0]]), ended)
        tensor([[1., 2.],
                [1., 0.]])
        >>> rewards.transform.returns
        array([3., 2., 0.])
    """

    def __init__(
        self,
        num_envs: int,
        objective: str | Objective = "mean",
        *,
        discount: float = 1.0,
        window: int = 1000,
        device: Any = "cpu",
    ):
        if not 0 < discount <= 1:
            raise ValueError(f"discount must satisfy 0 < discount <= 1; got {discount!r}")
        self.transform = RunningTransform(objective, window)
        self.discount = discount
        self._running = torch.zeros(num_envs, dtype=torch.float64, device=device)
        self._power = torch.ones_like(self._running)
        self._partial = torch.zeros(num_envs, dtype=torch.bool, device=device)

    def begin_in_the_middle(self, partial: Tensor) -> None:
        """Leave the running episodes of some environments out of the sample: their beginning was not seen."""
        self._partial = partial.clone()

    @torch.no_grad()
    def __call__(self, rewards: Tensor, ended: Tensor) -> Tensor:
        """Return the rewards of a rollout.

        Args:
            rewards: Those of the environments, shape (steps, num_envs).
            ended: Whether a step ended an episode, of the same shape.

        Returns:
            A tensor like `rewards`, 0 where the return so far is not finite.
        """
        before = torch.empty(rewards.shape, dtype=torch.float64, device=rewards.device)
        after, whole = torch.empty_like(before), ended.clone()
        for t in range(len(rewards)):
            before[t] = self._running
            after[t] = self._running + self._power * rewards[t]
            whole[t] &= ~self._partial
            self._running = torch.where(ended[t], 0.0, after[t])
            self._power = torch.where(ended[t], 1.0, self._power * self.discount)
            self._partial = self._partial & ~ended[t]
        self.transform.add(self._gathered(after[whole]).cpu().numpy())
        return self._shaped(before, after).to(rewards.dtype)

    def stats(self) -> dict[str, float]:
        """Return what to log: the objective's value in the sample, the episodes so far, and those left out."""
        f = self.transform
        return {"value": f.value, "episodes": float(f.total), "nonfinite": float(f.nonfinite)}

    def _shaped(self, before: Tensor, after: Tensor) -> Tensor:
        knots, heights, slopes = (torch.as_tensor(x, device=after.device) for x in self.transform.pieces())
        shaped = _interpolated(after, knots, heights, slopes) - _interpolated(before, knots, heights, slopes)
        return torch.where(shaped.isfinite(), shaped, 0.0)

    def _gathered(self, returns: Tensor) -> Tensor:
        """Return the returns that ended on all processes of a distributed training."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return returns
        found: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(found, returns.cpu())
        return torch.cat(found)


def _interpolated(x: Tensor, knots: Tensor, heights: Tensor, slopes: Tensor) -> Tensor:
    """Return the piecewise-linear function through the heights at sorted knots, with its end slopes beyond."""
    place = (torch.searchsorted(knots, x.contiguous(), right=True) - 1).clamp(0, len(slopes) - 1)
    return heights[place] + slopes[place] * (x - knots[place])
