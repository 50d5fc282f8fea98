"""Observations and actions of `ordergrad train rl`: what is accepted trains, and every hint works."""

import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation, FlattenObservation, TransformAction
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv

from ordergrad.adapters.sb3 import OrderGradPPO
from ordergrad.runs.errors import UserError
from ordergrad.train.rl_checks import check_spaces

INF = np.inf
BOX = spaces.Box(0, 1, (2, 2))
SMALL = spaces.Box(0, 255, (7, 7, 3), np.uint8)
MINIGRID = spaces.Dict({"image": SMALL, "direction": spaces.Discrete(4), "mission": spaces.Text(20)})


class Odd(gymnasium.Env):
    """Five steps of random observations; actions that are not of the space are an error."""

    def __init__(self, observation=None, action=None):
        self.observation_space = spaces.Box(0, 1, (3,)) if observation is None else observation
        self.action_space = spaces.Discrete(2) if action is None else action

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype))
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == 5, False, {}


def trains(make):
    """Check an environment, and train on it for two rollouts."""
    check_spaces(make())
    env = DummyVecEnv([make, make])
    several, image = isinstance(env.observation_space, spaces.Dict), is_image_space(env.observation_space)
    policy = "MultiInputPolicy" if several else "CnnPolicy" if image else "MlpPolicy"
    settings = {"n_steps": 16, "batch_size": 32, "n_epochs": 1, "device": "cpu"}
    OrderGradPPO(policy, env, credit="telescoped", **settings).learn(64)


def refused(observation=None, action=None):
    with pytest.raises(UserError) as caught:
        check_spaces(Odd(observation, action))
    return str(caught.value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-INF, INF, (2, 2)),
        spaces.Box(0, 255, (36, 36, 3), np.uint8),
        spaces.Box(0, 5, (4,), np.int64),
        spaces.Box(np.array([0, -INF]), np.array([1, INF]), dtype=np.float64),
        spaces.Discrete(4),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(3),
        spaces.MultiBinary((2, 3)),
        spaces.Dict({"a": BOX, "b": spaces.Discrete(3), "c": spaces.MultiBinary(2), "d": spaces.MultiDiscrete([3, 4])}),
        spaces.Dict({"picture": spaces.Box(0, 255, (36, 36, 3), np.uint8), "speed": spaces.Box(-INF, INF, (2,))}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*image:UserWarning")
def test_observations_that_are_accepted_train(space):
    trains(lambda: Odd(space))


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(3),
        spaces.Box(-2, 5, (2, 2)),
        spaces.Box(-1, 1, ()),
        spaces.Box(0, 10, (2,), np.int32),
        spaces.Box(-1, 1, (2,), np.float64),
    ],
    ids=str,
)
def test_actions_that_are_accepted_train(space):
    trains(lambda: Odd(action=space))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": BOX, "b": spaces.Dict({"c": BOX})}),
        spaces.Dict({"a": BOX, "b": spaces.Discrete(3, start=1)}),
        spaces.Dict({"picture": SMALL, "direction": spaces.Discrete(4)}),
        spaces.Dict({"position.x": BOX}),
        spaces.Dict({"values": BOX}),
        spaces.Tuple((BOX, spaces.Discrete(3))),
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([3, 4], start=[1, 0]),
        spaces.MultiDiscrete([[3, 4], [2, 2]]),
        spaces.Box(0, 1, ()),
        spaces.Box(0, 255, (8, 8, 3), np.uint8),
        spaces.Box(0, 255, (3, 40, 20), np.uint8),
    ],
    ids=str,
)
def test_flattened_observations_train(space):
    message = refused(space)
    assert message.startswith("observations ")
    assert message.endswith("register the environment with gymnasium.wrappers.FlattenObservation")
    trains(lambda: FlattenObservation(Odd(space)))


def test_observations_with_text_are_filtered():
    message = refused(spaces.Dict(MINIGRID.spaces | {"image": BOX}))
    assert message.endswith("with gymnasium.wrappers.FilterObservation(env, ['direction', 'image'])")
    trains(lambda: FilterObservation(Odd(spaces.Dict(MINIGRID.spaces | {"image": BOX})), ["direction", "image"]))


def test_small_images_with_text_are_filtered_and_flattened():
    message = refused(MINIGRID)
    assert "FlattenObservation(gymnasium.wrappers.FilterObservation(env, ['direction', 'image']))" in message
    trains(lambda: FlattenObservation(FilterObservation(Odd(MINIGRID), ["direction", "image"])))


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Sequence(BOX), spaces.Dict({"a": spaces.Text(5)})], ids=str)
def test_observations_without_arrays_need_a_function(space):
    assert "TransformObservation(env, function, space)" in refused(space)


def test_observations_without_a_number_are_refused():
    for space in (spaces.Box(0, 1, (0,)), spaces.Dict({}), spaces.Dict({"a": BOX, "b": spaces.Box(0, 1, (0,))})):
        assert "must hold at least one number" in refused(space)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=1),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([3, 4], start=[1, 2]),
        spaces.MultiDiscrete([[3, 4], [2, 2]]),
        spaces.MultiDiscrete([[3, 4]], start=[[1, 1]]),
        spaces.MultiBinary((2, 3)),
        spaces.Box(-INF, INF, (2,)),
        spaces.Box(np.float32([-1, -INF]), np.float32([1, 1])),
    ],
    ids=str,
)
def test_the_hint_for_actions_can_be_pasted(space):
    hint = re.search(r"gymnasium\.wrappers\.(TransformAction\(.*\))$", refused(action=space))[1]
    names = {"TransformAction": TransformAction, "gymnasium": gymnasium, "np": np}
    trains(lambda: eval(hint, names | {"env": Odd(action=space)}))


def test_actions_that_are_no_arrays_need_a_function():
    assert "TransformAction(env, function, space)" in refused(action=spaces.Tuple((BOX, BOX)))
