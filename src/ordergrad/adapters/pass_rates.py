"""A K for each prompt from its running pass rate: max@K with K near 1/p.

The pass rate p of a prompt is that of its latest completions before the current group, so K does not depend on the
rewards that it ranks and the advantages stay exact for max@K. In signal per generated token this was no better than
`maxrl`, which needs no memory: docs/studies/prompt_signal.md. Nothing here imports a framework.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.adapters.completions import SmallGroups
from ordergrad.estimators import advantages
from ordergrad.objectives import Max, Objective, whole_number

__all__ = ["PassRates", "advantages_by_k", "k_for_rate", "largest_k", "prompt_key"]


def k_for_rate(rate: float | NDArray[Any], largest: int) -> NDArray[np.int64]:
    """Return the K of max@K for a pass rate: 1/rate rounded, from 1 to the largest K.

    Example:
        >>> k_for_rate(np.array([0.0, 0.1, 0.3, 0.5, 0.9]), 7)
        array([7, 7, 3, 2, 1])
    """
    return np.clip(np.rint(1 / np.maximum(rate, 1e-9)), 1, largest).astype(np.int64)


def largest_k(objective: Objective) -> int:
    """Return the K of max@K.

    Raises:
        ValueError: The objective is another one, or its K is not whole.
    """
    if not isinstance(objective, Max) or not float(objective.k).is_integer():
        raise ValueError(
            f"k_window needs the objective max@K with a whole K, the largest that is chosen; got {objective}"
        )
    return int(objective.k)


class PassRates:
    """The latest outcomes of every prompt, and the K that follows from them.

    Args:
        window: How many completions of a prompt are remembered.

    Example:
        >>> rates = PassRates(window=4)
        >>> rates.record(["easy", "hard"], np.array([[1, 1, 0], [0, 0, 0]]))
        >>> rates.k(["easy", "hard", "new"], largest=4)
        array([2, 4, 1])
    """

    def __init__(self, window: int) -> None:
        self.window = whole_number("k_window", window)
        self._latest: dict[str, str] = {}

    def known(self, prompts: Sequence[str]) -> NDArray[np.bool_]:
        """Return which prompts have been seen before."""
        return np.array([prompt in self._latest for prompt in prompts])

    def k(self, prompts: Sequence[str], largest: int) -> NDArray[np.int64]:
        """Return K for each prompt: 1, the mean, for one that has not been seen, otherwise `k_for_rate`."""
        latest = [self._latest.get(prompt, "1") for prompt in prompts]
        return k_for_rate(np.array([one.count("1") / len(one) for one in latest]), largest)

    def record(self, prompts: Sequence[str], passed: NDArray[Any]) -> None:
        """Add the outcomes of a group of each prompt, shape (prompts, n); those that are NaN are left out."""
        for prompt, group in zip(prompts, passed.tolist(), strict=True):
            new = "".join("1" if one else "0" for one in group if one == one)
            if new:
                self._latest[prompt] = (self._latest.get(prompt, "") + new)[-self.window :]

    def state_dict(self) -> dict[str, str]:
        """Return the outcomes of every prompt, the oldest first: 1 passed, 0 failed."""
        return dict(self._latest)

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Replace the outcomes by those of `state_dict`."""
        self._latest = dict(state)


def prompt_key(prompt: Any) -> str:
    """Return the same short text for the same prompt in every process and run.

    Args:
        prompt: A string, or a conversation of strings.

    Raises:
        TypeError: The prompt holds something else, such as an image.
    """
    try:
        text = json.dumps(prompt, sort_keys=True)
    except TypeError as error:
        raise TypeError(f"k_window takes prompts of text only: {error}") from error
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def advantages_by_k(
    rewards: NDArray[Any], k: NDArray[np.int64], *, where: NDArray[np.bool_] | None = None, small: SmallGroups = "zero"
) -> NDArray[np.float64]:
    """Return the advantages of max@K with a K for each group.

    Args:
        rewards: Shape (groups, n).
        k: Shape (groups,).
        where: Mask of valid rewards.
        small: How to treat a group with too few valid rewards for its K.

    Example:
        >>> advantages_by_k(np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), np.array([1, 2]))
        array([[ 1. , -0.5, -0.5],
               [ 2. , -1. , -1. ]])
    """
    result = np.zeros(rewards.shape)
    for each in np.unique(k):
        rows = k == each
        mask = None if where is None else where[rows]
        result[rows] = advantages(rewards[rows], Max(int(each)), where=mask, small=small)
    return result
