"""The guarded maze: its rules and its Gymnasium interface."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from ordergrad.envs import GuardedMaze, GuardedMazeVector, guarded_maze

ID = "ordergrad/GuardedMaze-v0"
LEFT, RIGHT, DOWN, UP = range(4)
SAFE_WAY = [UP] * 3 + [RIGHT] * 4 + [DOWN] * 4
SHORT_WAY = [RIGHT] * 3 + [UP]


def episode_at(x, y, *, guard=False):
    return guarded_maze.start_episodes(np.random.default_rng(0), 1, guard=guard, start=(x, y))


def move(episodes, action, noise=(0.0, 0.0)):
    reward, reached = guarded_maze.advance(episodes, [action], np.array([noise], dtype=float))
    return float(reward[0]), bool(reached[0])


def walk(env, actions):
    """Rewards and the last info of a fixed walk without noise."""
    rewards, info = [], {}
    for action in actions:
        _, reward, terminated, _, info = env.step(action)
        rewards.append(reward)
    return rewards, terminated, info


# The rules ----------------------------------------------------------------------------------------------------------


def test_the_map():
    drawn = ["########", "#......#", "#..###.#", "#....#.#", "#....#.#", "#....#.#", "#......#", "########"]
    assert (guarded_maze.WALLS == (np.array([list(row) for row in drawn[::-1]]) == "#").T).all()


def test_start_cells_are_the_nine_of_the_lower_left():
    episodes = guarded_maze.start_episodes(np.random.default_rng(0), 9000)
    cells, counts = np.unique(episodes.position, axis=0, return_counts=True)
    np.testing.assert_array_equal(cells, [(x, y) for x in (1, 2, 3) for y in (1, 2, 3)])
    assert counts.min() > 850
    assert abs(episodes.guard.mean() - 0.2) < 0.02
    assert abs(episodes.guard_cost.mean() - 32) < 1.5


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [((2, 2), LEFT, (1, 2)), ((2, 2), RIGHT, (3, 2)), ((2, 2), DOWN, (2, 1)), ((2, 2), UP, (2, 3))],
)
def test_moves(start, action, end):
    episodes = episode_at(*start)
    move(episodes, action)
    np.testing.assert_array_equal(episodes.position, [end])


@pytest.mark.parametrize(
    ("start", "action", "noise"),
    [
        ((1, 1), LEFT, (0, 0)),  # the outer wall
        ((4, 3), RIGHT, (0, 0)),  # the inner wall
        ((4, 4), UP, (0, 0)),
        ((4, 3), RIGHT, (1.0, 0)),  # beyond the wall, but the midpoint is in it
        ((6, 6), UP, (5.0, 5.0)),  # clipped to the corner, which is a wall
    ],
)
def test_walls_stop_a_move_and_it_costs_a_step(start, action, noise):
    episodes = episode_at(*start)
    assert move(episodes, action, noise) == (-1.0, False)
    np.testing.assert_array_equal(episodes.position, [start])
    assert episodes.steps == 1


def test_noise_moves_both_coordinates():
    episodes = episode_at(2, 2)
    move(episodes, UP, (0.25, -0.125))
    np.testing.assert_array_equal(episodes.position, [(2.25, 2.875)])


def test_positions_stay_on_the_map_and_out_of_walls():
    rng = np.random.default_rng(1)
    episodes = guarded_maze.start_episodes(rng, 500)
    for _ in range(100):
        guarded_maze.advance(episodes, rng.integers(0, 4, 500), 3 * rng.standard_normal((500, 2)))
        x, y = np.floor(episodes.position + 0.5).astype(int).T
        assert not guarded_maze.WALLS[x, y].any()


def test_steps_cost_one_for_32_steps_and_nothing_later():
    episodes = episode_at(1, 1)
    rewards = [move(episodes, LEFT)[0] for _ in range(40)]
    assert rewards == [-1.0] * 32 + [0.0] * 8


def test_the_step_into_the_goal_pays_16():
    episodes = episode_at(6, 3)
    assert move(episodes, DOWN) == (16.0, True)


@pytest.mark.parametrize("noise", [(0, 0), (1.2, 0)])  # into the zone; beyond it, with the midpoint in it
def test_the_guard_takes_its_cost_once(noise):
    episodes = episode_at(4, 1, guard=True)
    cost = float(episodes.guard_cost[0])
    assert move(episodes, RIGHT, noise)[0] == pytest.approx(-1 - cost)
    assert episodes.touched.all()
    assert move(episodes, LEFT)[0] == -1.0
    assert move(episodes, RIGHT)[0] == -1.0


def test_without_a_guard_the_zone_is_free_but_the_touch_is_known():
    episodes = episode_at(4, 1, guard=False)
    assert move(episodes, RIGHT)[0] == -1.0
    assert episodes.touched.all()


def test_observations_spread_the_position_bilinearly():
    position = np.vstack([np.random.default_rng(0).uniform(0, 7, (200, 2)), [(7, 7), (0, 7), (3, 3)]])
    maps = guarded_maze.observe(position)
    assert maps.shape == (203, 8, 8)
    assert maps.min() >= 0
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, rtol=1e-6)
    x = np.einsum("nxy,x->n", maps, np.arange(8))
    y = np.einsum("nxy,y->n", maps, np.arange(8))
    np.testing.assert_allclose(np.stack([x, y], axis=1), position, atol=1e-5)
    assert maps[-1, 3, 3] == 1


def test_episodes_can_be_chosen_and_replaced():
    episodes = guarded_maze.start_episodes(np.random.default_rng(0), 5)
    rows = np.array([True, False, True, False, False])
    chosen = episodes[rows]
    chosen.position += 0.25
    assert len(chosen) == 2
    assert (episodes.position % 1 == 0).all()
    episodes.replace(rows, chosen)
    np.testing.assert_array_equal(episodes.position[rows], chosen.position)


def test_a_condition_can_be_set_with_all_else_equal():
    one = guarded_maze.start_episodes(np.random.default_rng(3), 50)
    other = guarded_maze.start_episodes(np.random.default_rng(3), 50, guard=True)
    np.testing.assert_array_equal(one.position, other.position)
    np.testing.assert_array_equal(one.guard_cost, other.guard_cost)
    assert other.guard.all()


# The interface ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("render_mode", [None, "rgb_array", "ansi"])
def test_gymnasium_checker(render_mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ID, render_mode=render_mode).unwrapped)


def test_the_two_ways():
    env = GuardedMaze(noise=0.0)
    env.reset(seed=0, options={"guard": True, "start": (2, 3)})
    rewards, terminated, info = walk(env, SAFE_WAY)
    assert sum(rewards) == -10 + 16
    assert terminated
    assert (info["guard"], info["guard_touched"]) == (True, False)

    env.reset(options={"guard": False, "start": (3, 1)})
    rewards, terminated, info = walk(env, SHORT_WAY)
    assert sum(rewards) == -3 + 16
    assert terminated
    assert (info["guard"], info["guard_touched"]) == (False, True)


def test_time_limit():
    for env in (GuardedMaze(), gymnasium.make(ID)):
        env.reset(seed=0, options={"start": (1, 1)})
        ends = []
        for _ in range(160):
            _, _, terminated, truncated, _ = env.step(LEFT)
            ends.append((terminated, truncated))
        assert ends == [(False, False)] * 159 + [(False, True)]


def test_seeding():
    def trace(seed):
        env = GuardedMaze()
        observations = [env.reset(seed=seed)[0]] + [env.step(a % 4)[0] for a in range(20)]
        return np.stack(observations)

    np.testing.assert_array_equal(trace(5), trace(5))
    assert (trace(5) != trace(6)).any()


def test_single_and_vector_agree_step_by_step():
    env, envs = GuardedMaze(max_episode_steps=30), GuardedMazeVector(1, max_episode_steps=30)
    rng, options = np.random.default_rng(0), {"guard": True}
    observation, info = env.reset(seed=11, options=options)
    observations, infos = envs.reset(seed=11, options=options)
    over, episodes = False, 0
    for _ in range(400):
        np.testing.assert_array_equal(observations[0], observation)
        assert {name: np.asarray(infos[name][0]).tolist() for name in info} == {
            name: np.asarray(value).tolist() for name, value in info.items()
        }
        action = rng.integers(4)
        observations, rewards, terminated, truncated, infos = envs.step(np.array([action]))
        if over:  # the step after an end starts anew
            observation, info = env.reset()
            reward, over, episodes = 0.0, False, episodes + 1
            assert not terminated[0]
            assert not truncated[0]
        else:
            observation, reward, *ends, info = env.step(action)
            assert [terminated[0], truncated[0]] == ends
            over = any(ends)
        assert rewards[0] == reward
    assert episodes > 3


def test_vector_interface():
    envs = gymnasium.make_vec(ID, 6, vectorization_mode="vector_entry_point", guard_probability=1.0)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observations, info = envs.reset(seed=0)
    assert envs.observation_space.contains(observations)
    assert info["guard"].all()
    for _ in range(50):
        observations, rewards, terminated, truncated, info = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(observations)
        assert rewards.shape == terminated.shape == truncated.shape == info["guard_touched"].shape == (6,)
    guard = np.array([True, False, True, False, False, True])
    _, info = envs.reset(options={"guard": guard})
    np.testing.assert_array_equal(info["guard"], guard)
    copy = info["position"].copy()
    envs.step(np.full(6, UP))
    np.testing.assert_array_equal(info["position"], copy)


def test_drawings():
    envs = GuardedMazeVector(2, render_mode="rgb_array")
    envs.reset(seed=0, options={"start": (2, 2), "guard": np.array([True, False])})
    envs.step(np.array([UP, LEFT]))
    first, second = envs.render()
    assert first.shape == (512, 512, 3)
    assert first.dtype == np.uint8
    assert (first != second).any()
    env = GuardedMaze(render_mode="ansi", noise=0.0)
    env.reset(options={"start": (1, 3), "guard": False})
    assert env.render().splitlines()[4] == "#A...#.#"
    assert env.render().splitlines()[6] == "#....?.#"
    assert GuardedMaze().render() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guard_probability": 1.5}, r"guard_probability must lie in \[0, 1\]; got 1.5"),
        ({"guard_probability": float("nan")}, "guard_probability must lie"),
        ({"noise": -0.1}, "noise must be finite and at least 0; got -0.1"),
        ({"noise": float("inf")}, "noise must be finite"),
        ({"max_episode_steps": 0}, "max_episode_steps must be at least 1; got 0"),
        ({"render_mode": "human"}, "render_mode must be None or one of .*; got 'human'"),
    ],
)
def test_bad_arguments(arguments, message):
    for make in (GuardedMaze, GuardedMazeVector):
        with pytest.raises(ValueError, match=message):
            make(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guards": True}, "options must have no other keys"),
        ({"guard": 0.2}, "guard must be one bool or an array of 3 bools"),
        ({"guard": np.array([True, False])}, r"got dtype bool, shape \(2,\)"),
        ({"start": (0, 0)}, "start must lie in"),
        ({"start": (1.0, float("nan"))}, "start must lie in"),
        ({"start": (1.0, 2.0, 3.0)}, r"got shape \(3,\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GuardedMazeVector(3).reset(options=options)


def test_bad_actions_and_order():
    env, envs = GuardedMaze(), GuardedMazeVector(3)
    for early in (lambda: env.step(0), lambda: envs.step(np.zeros(3, int))):
        with pytest.raises(gymnasium.error.ResetNeeded):
            early()
    with pytest.raises(ValueError, match="num_envs must be at least 1; got 0"):
        GuardedMazeVector(0)
    env.reset()
    envs.reset()
    for bad in (4, -1, 0.5):
        with pytest.raises(ValueError, match="action must be an integer from 0 to 3"):
            env.step(bad)
    with pytest.raises(ValueError, match="of shape"):
        envs.step(np.zeros(2, int))
