"""Observations divided by their running deviation, inside the policy.

The statistics are buffers of the policy's network, so that a checkpoint and an exported policy hold them, and `predict`
takes observations as the environment returns them.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (Stable-Baselines3 leaves many of its types open)

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor

_MOST = 10.0  # deviations at which observations are clipped


class NormalizedExtractor(FlattenExtractor):
    """Flat observations less their mean, divided by their deviation and clipped at 10.

    Both are those of the observations seen while `watch` was on, up to the last `learn_scale`: they stay fixed from the
    first step of a rollout to the end of its update, so that PPO's ratio starts at 1.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    count: torch.Tensor

    def __init__(self, observation_space: spaces.Space[Any]):
        super().__init__(observation_space)
        self.register_buffer("mean", torch.zeros(self.features_dim, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(self.features_dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.watching = False
        self._seen: list[torch.Tensor] = []

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the normalised observations, shape (batch, features)."""
        flat = super().forward(observations)
        if self.watching:
            self._seen.append(flat.detach().clone())
        scale = (self.variance + 1e-8).sqrt().to(flat.dtype)
        return ((flat - self.mean.to(flat.dtype)) / scale).clamp(-_MOST, _MOST)

    def learn_scale(self) -> None:
        """Update the statistics from the observations collected so far."""
        if not self._seen:
            return
        new = torch.cat(self._seen).double()
        self._seen = []
        total = self.count + len(new)
        apart = new.mean(0) - self.mean
        within = self.variance * self.count + new.var(0, correction=0) * len(new)
        self.variance.copy_((within + apart**2 * self.count * len(new) / total) / total)
        self.mean.add_(apart * len(new) / total)
        self.count.copy_(total)


class NormalizedParts(CombinedExtractor):
    """A dictionary of observations: each array by a `NormalizedExtractor`, images by their network."""

    def __init__(self, observation_space: spaces.Dict):
        super().__init__(observation_space)
        for name, part in list(self.extractors.items()):
            if isinstance(part, torch.nn.Flatten):
                self.extractors[name] = NormalizedExtractor(observation_space[name])


def watch(policy: torch.nn.Module, on: bool) -> None:
    """Start or stop collecting observations, if the policy normalises them."""
    for extractor in _extractors(policy):
        extractor.watching = on


def learn_scale(policy: torch.nn.Module) -> None:
    """Update the statistics from the observations collected so far, if the policy normalises them."""
    for extractor in _extractors(policy):
        extractor.learn_scale()


def _extractors(policy: torch.nn.Module) -> list[NormalizedExtractor]:
    return [module for module in policy.modules() if isinstance(module, NormalizedExtractor)]
