"""Gymnasium environments of the risk literature, and wrappers. Importing registers them.

    import gymnasium as gym
    import ordergrad.envs

    env = gym.make("ordergrad/GuardedMaze-v0")

| id | what it tests |
|---|---|
| `ordergrad/GuardedMaze-v0` | a short way with a rare, heavy cost against a long, safe one |
| `ordergrad/RiskyPendulum-v0` | continuous control (MuJoCo) with a half of the rail where rewards are noisy |
| `ordergrad/RiskyLander-v0` | landing (Box2D) on ground whose right half pays at random |
| `ordergrad/BettingGame-v0` | six favourable bets; the tail needs stakes that depend on the wealth; optimum known |
| `ordergrad/WindfallLander-v0` | landing (Box2D) on one ground, with a windfall of high variance on its right |

The pendulum needs MuJoCo and the landers need Box2D, which are loaded when they are made. `ordergrad train rl` knows
all by their ids.
"""

from ordergrad.extras import extra

with extra("envs"):
    from gymnasium.envs.registration import register, registry  # pyright: ignore[reportUnknownVariableType]

    from ordergrad.envs.betting_game import BettingGame, BettingGameVector
    from ordergrad.envs.conditions import SampledConditions
    from ordergrad.envs.guarded_maze import GuardedMaze, GuardedMazeVector
    from ordergrad.envs.return_so_far import ReturnSoFar, VectorReturnSoFar

__all__ = [
    "BettingGame",
    "BettingGameVector",
    "GuardedMaze",
    "GuardedMazeVector",
    "ReturnSoFar",
    "SampledConditions",
    "VectorReturnSoFar",
]

if "ordergrad/GuardedMaze-v0" not in registry:
    register(
        id="ordergrad/GuardedMaze-v0",
        entry_point="ordergrad.envs.guarded_maze:GuardedMaze",
        vector_entry_point="ordergrad.envs.guarded_maze:GuardedMazeVector",
        max_episode_steps=160,
    )
if "ordergrad/BettingGame-v0" not in registry:
    register(
        id="ordergrad/BettingGame-v0",
        entry_point="ordergrad.envs.betting_game:BettingGame",
        vector_entry_point="ordergrad.envs.betting_game:BettingGameVector",
    )
for _module, _class in (
    ("risky_pendulum", "RiskyPendulum"),
    ("risky_lander", "RiskyLander"),
    ("windfall_lander", "WindfallLander"),
):
    if f"ordergrad/{_class}-v0" not in registry:
        register(
            id=f"ordergrad/{_class}-v0",
            entry_point=f"ordergrad.envs.{_module}:{_class}",
            max_episode_steps=1000,
        )
