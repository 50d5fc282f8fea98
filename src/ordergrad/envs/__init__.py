"""Gymnasium environments of the risk literature, and a wrapper that samples conditions. Importing registers them.

| id | what it tests |
|---|---|
| `ordergrad/GuardedMaze-v0` | a short way with a rare, heavy cost against a long, safe one |
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
