"""The settings of `ordergrad train rl`, apart from the training so that `--help` needs none of its packages."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ordergrad.runs.settings import POSITIVE, Check, Setting, at_least, finite, within

_WIDTHS = Check("be widths such as 64,64", lambda text: all(part.isdecimal() and int(part) for part in text.split(",")))


@dataclass(frozen=True)
class RLSettings:
    """What `ordergrad train rl` trains.

    `env_id` is a registered Gymnasium environment and `env_args` its keyword arguments. One policy is trained for each
    of the `objectives` and each seed from 0 to `seeds` - 1.
    """

    env_id: str
    objectives: tuple[str, ...]
    seeds: Annotated[int, Setting("Policies per objective.", at_least(1))] = 5
    steps: Annotated[int, Setting("Environment steps of each policy.", at_least(1))] = 500_000
    env_args: dict[str, Any] = field(default_factory=dict[str, Any])
    anneal: Annotated[
        float,
        Setting(
            "Share of the steps over which the objective moves from the mean to itself.",
            within("[0, 1]"),
        ),
    ] = 0.0
    cap: Annotated[
        float | None,
        Setting(
            "A return that is good enough: for objectives of the lower tail none above it counts (Return Capping).",
            finite(),
            default="falls by itself, after the mean no longer raises the objective",
        ),
    ] = None
    algo: Annotated[Literal["ppo", "a2c"], Setting("The algorithm.")] = "ppo"
    credit: Annotated[
        Literal["episode", "terminal", "telescoped"], Setting("How a rank reaches the steps of an episode.")
    ] = "telescoped"
    envs: Annotated[int, Setting("Parallel environments of one run.", at_least(1))] = 16
    rollout: Annotated[int, Setting("Steps of each environment between updates.", at_least(2))] = 256
    min_episodes: Annotated[int, Setting("Episodes to wait for before an update.", at_least(2))] = 24
    discount: Annotated[float, Setting("Discount of the ranked returns.", within("(0, 1]"))] = 1.0
    learning_rate: Annotated[float, Setting("Initial step size; falls linearly to 0.", POSITIVE)] = 1e-3
    batch_size: Annotated[int, Setting("Minibatch of PPO, in steps.", at_least(2))] = 256
    epochs: Annotated[int, Setting("Passes of PPO over the steps of an update.", at_least(1))] = 6
    network: Annotated[
        str | None, Setting("Widths of the hidden layers.", _WIDTHS, default="64,64; none behind an image network")
    ] = None
    normalize: Annotated[bool, Setting("Subtract the mean of observations so far, and divide by their deviation.")] = (
        False
    )
    gamma: Annotated[float, Setting("Discount of the critic.", within("(0, 1]"))] = 0.999
    gae_lambda: Annotated[float, Setting("GAE parameter of the critic.", within("(0, 1]"))] = 0.98
    entropy: Annotated[float, Setting("Coefficient of the entropy bonus.", finite(negative=False))] = 0.01
    episodes: Annotated[int, Setting("Fresh episodes on which each policy is evaluated.", at_least(2))] = 500


def widths(network: str) -> list[int]:
    """Return the widths of layers from their text.

    Example:
        >>> widths("128,64")
        [128, 64]
    """
    return [int(part) for part in network.split(",")]


def watched(objectives: tuple[str, ...]) -> tuple[str, ...]:
    """Return the objectives that are measured: the mean, the worst tenth, and those that are trained."""
    return tuple(dict.fromkeys(("mean", "cvar:0.1", *objectives)))
