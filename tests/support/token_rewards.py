"""Token-level rewards of groups of responses, as verl and SkyRL hand them over."""

import numpy as np
import torch


def batch(sizes: list[int], seed: int, t: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Return rewards, each at the end of its response, masks and uids of groups of the given sizes, one after another.

    Args:
        sizes: The responses of each group.
        seed: Of their lengths and rewards.
        t: The longest response.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, t + 1, sum(sizes))
    mask = torch.as_tensor((np.arange(t) < lengths[:, None]).astype(np.int64))
    rewards = torch.zeros(sum(sizes), t)
    rewards[torch.arange(len(lengths)), torch.as_tensor(lengths - 1)] = torch.as_tensor(
        rng.normal(size=len(lengths))
    ).float()
    return rewards, mask, np.repeat([f"uid{i}" for i in range(len(sizes))], sizes)
