"""Gymnasium environments of the risk literature, and a wrapper that samples conditions. Importing registers them.

    import gymnasium as gym
    import ordergrad.envs

    env = gym.make("ordergrad/GuardedMaze-v0")

| id | what it tests |
|---|---|
| `ordergrad/GuardedMaze-v0` | a short way with a rare, heavy cost against a long, safe one |
| `ordergrad/RiskyPendulum-v0` | continuous control (MuJoCo) with a half of the rail where rewards are noisy |
| `ordergrad/RiskyLander-v0` | landing (Box2D) on ground whose right half pays at random |

The last two need MuJoCo and Box2D, which are loaded when they are made. `ordergrad train rl` knows all by their ids.
"""

from gymnasium.envs.registration import register, registry  # pyright: ignore[reportUnknownVariableType]

from ordergrad.envs.conditions import SampledConditions
from ordergrad.envs.guarded_maze import GuardedMaze, GuardedMazeVector

__all__ = ["GuardedMaze", "GuardedMazeVector", "SampledConditions"]

if "ordergrad/GuardedMaze-v0" not in registry:
    register(
        id="ordergrad/GuardedMaze-v0",
        entry_point="ordergrad.envs.guarded_maze:GuardedMaze",
        vector_entry_point="ordergrad.envs.guarded_maze:GuardedMazeVector",
        max_episode_steps=160,
    )
for _kind, _class in (("pendulum", "RiskyPendulum"), ("lander", "RiskyLander")):
    if f"ordergrad/{_class}-v0" not in registry:
        register(
            id=f"ordergrad/{_class}-v0",
            entry_point=f"ordergrad.envs.risky_{_kind}:{_class}",
            max_episode_steps=1000,
        )
