"""Reward functions, plain or async, called as TRL calls them: with columns, token ids, a state and loggers."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Reward", "reward_name", "rewards_of"]

Reward = Callable[..., Any]
Array = NDArray[Any]


def reward_name(reward: Reward) -> str:
    """Return the name of a reward function, as TRL logs it."""
    return getattr(reward, "__name__", type(reward).__name__)


def rewards_of(
    reward: Reward,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
) -> Array:
    """Return the rewards of completions, NaN where the function returned None.

    Args:
        reward: A function of TRL: `(prompts, completions, completion_ids, **columns)` to one number or None each.
        prompts: The prompt of each completion.
        completions: Texts, or lists of messages for chats.
        completion_ids: Their tokens.
        columns: The other columns of the data, one entry for each completion.

    Raises:
        ValueError: The function returned a wrong number of rewards, or infinities.

    Example:
        >>> async def length(completions, **_):
        ...     return [None if not text else len(text) for text in completions]
        >>> rewards_of(length, ["a", "a"], ["xyz", ""], [[1, 2], [2]], {})
        array([ 3., nan])
    """
    from transformers import TrainerState

    found = reward(
        prompts=list(prompts),
        completions=list(completions),
        completion_ids=[list(ids) for ids in completion_ids],
        trainer_state=TrainerState(),
        log_extra=_ignore,
        log_metric=_ignore,
        **columns,
    )
    if inspect.isawaitable(found):
        found = asyncio.run(_finished(found))
    numbers = np.array([np.nan if number is None else float(number) for number in found])
    name = reward_name(reward)
    if len(numbers) != len(completions):
        raise ValueError(
            f"reward function {name!r} must return one reward for each completion; got {len(numbers)} rewards for "
            f"{len(completions)} completions"
        )
    if np.isinf(numbers).any():
        raise ValueError(
            f"reward function {name!r} must return finite numbers, or None for a completion that it cannot score; got "
            f"{int(np.isinf(numbers).sum())} infinite values among {len(numbers)}"
        )
    return numbers


async def _finished(awaitable: Any) -> Any:
    return await awaitable


def _ignore(*_: Any) -> None:
    """Stand in for TRL's `log_extra` and `log_metric`."""
