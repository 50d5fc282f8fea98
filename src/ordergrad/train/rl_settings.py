"""The settings of `ordergrad train rl`, kept apart so that showing them needs none of the packages that train."""

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["ALGORITHMS", "CREDITS", "RLSettings", "as_json", "watched"]

ALGORITHMS = ("ppo", "a2c")
CREDITS = ("episode", "terminal", "telescoped")


@dataclass(frozen=True)
class RLSettings:
    """What `ordergrad train rl` trains.

    Attributes:
        env_id: A registered Gymnasium environment.
        objectives: One policy is trained on each, for each seed.
        seeds: Number of seeds, 0 to seeds - 1.
        steps: Environment steps of each run.
        env_args: Keyword arguments of the environment.
        anneal: Share of the steps over which the objective turns from the mean into itself (`ordergrad.anneal`): a
            tail alone says little to a policy that is bad everywhere. 0 trains on it from the start.
        algo: ``ppo`` or ``a2c``.
        credit: How a rank reaches the steps of an episode: `ordergrad.adapters.sb3`.
        envs: Parallel environments.
        rollout: Steps of each environment between updates.
        min_episodes: Update only once this many episodes have ended.
        discount: Discount of the returns that are ranked.
        learning_rate: At the start; it falls linearly to 0.
        batch_size: Minibatch of PPO.
        epochs: Passes of PPO over the steps of an update.
        gamma: Discount of the critic.
        gae_lambda: GAE parameter of the critic.
        entropy: Coefficient of the entropy bonus.
        episodes: Fresh episodes on which each trained policy is evaluated.
    """

    env_id: str
    objectives: tuple[str, ...]
    seeds: int = 2
    steps: int = 500_000
    env_args: dict[str, Any] = field(default_factory=dict[str, Any])
    anneal: float = 1.0
    algo: str = "ppo"
    credit: str = "telescoped"
    envs: int = 16
    rollout: int = 256
    min_episodes: int = 24
    discount: float = 1.0
    learning_rate: float = 1e-3
    batch_size: int = 256
    epochs: int = 6
    gamma: float = 0.999
    gae_lambda: float = 0.98
    entropy: float = 0.01
    episodes: int = 500


def as_json(settings: RLSettings) -> dict[str, Any]:
    """Return settings as JSON values."""
    return asdict(settings) | {"objectives": list(settings.objectives)}


def watched(settings: RLSettings) -> tuple[str, ...]:
    """Return the objectives that are measured: the mean, the worst tenth, and those that are trained."""
    return tuple(dict.fromkeys(("mean", "cvar:0.1", *settings.objectives)))
