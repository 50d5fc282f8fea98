"""`ordergrad play`: the chosen episode, recordings, and a policy for Stable-Baselines3."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from stable_baselines3 import A2C, PPO
from typer.testing import CliRunner

from ordergrad.adapters.sb3 import OrderGradPPO
from ordergrad.commands import cli
from ordergrad.runs.errors import UserError
from ordergrad.train.play import Episode, choose
from ordergrad.train.rl_model import trained

torch.set_num_threads(1)
TRAIN = "train rl {} -o cvar:0.2 -a mean --seeds 1 --steps 512 --envs 4 --rollout 64 --min-episodes 4 --episodes 20"


class Dial(gym.Env):
    """Five steps, each paid by chance; its picture is the number of the step in grey."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1000.0, 1000.0, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode=None, length=5, honest=True, nan=False):
        self.render_mode, self.length, self.honest, self.nan = render_mode, length, honest, nan

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed if self.honest else None)
        self.t = 0
        return np.float32([500.0, 0.0]), {}

    def step(self, action):
        self.t += 1
        reward = np.nan if self.nan else float(self.np_random.normal()) + action
        return np.float32([500.0 + self.t, self.t]), reward, self.t == self.length, False, {}

    def render(self):
        return np.full((20, 60, 3), 40 * min(self.t, 6), np.uint8)


class Pieces(Dial):
    """The same with a dictionary of observations."""

    observation_space = spaces.Dict(
        {
            "clock": spaces.Box(-1000.0, 1000.0, (2,)),
            "late": spaces.Discrete(2),
            "picture": spaces.Box(0, 255, (36, 36, 3), np.uint8),
        }
    )

    def reset(self, *, seed=None, options=None):
        clock, info = super().reset(seed=seed)
        return self.pieces(clock), info

    def step(self, action):
        clock, *others = super().step(action)
        return self.pieces(clock), *others

    def pieces(self, clock):
        return {"clock": clock, "late": self.t // 3, "picture": np.full((36, 36, 3), 40 * self.t, np.uint8)}


gym.register("Dial-v0", Dial, disable_env_checker=True)
gym.register("Pieces-v0", Pieces)


def invoke(arguments: str):
    return CliRunner().invoke(cli.app, arguments.split())


def train(out: Path, env_id: str = "Dial-v0", extra: str = "") -> Path:
    result = invoke(f"{TRAIN.format(env_id)} --jobs 1 --out {out} {extra}")
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("play") / "run")


def film_of(path: Path) -> tuple[tuple[int, int], list[int], list[int]]:
    """Return the size of a film, and of each picture how long it lasts, in ms, and how bright it is."""
    lasting, shades = [], []
    with Image.open(path) as film:
        for index in range(film.n_frames):  # equal pictures in a row are one that lasts longer
            film.seek(index)
            lasting.append(film.info["duration"])
            shades.append(int(np.asarray(film.convert("L"))[5, 5]))
        return film.size, lasting, shades


def said(result, code=0) -> str:
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def rows(output: str) -> dict[str, float]:
    """Return what the table says of the worst, the median and the best return."""
    found = (line.replace("│", " ").split() for line in output.splitlines() if line.startswith("│"))
    return {words[0]: float(words[2]) for words in found}


def test_the_chosen_episode_has_its_rank():
    episodes = [Episode(i, 10 + i, total, 5) for i, total in enumerate((3.0, np.nan, 1.0, 2.0, 9.0))]
    assert [choose(episodes, which).seed for which in ("worst", "median", "best")] == [12, 13, 14]
    assert choose(episodes[:1], "median").seed == 10
    with pytest.raises(UserError, match="no episode has a finite return"):
        choose(episodes[1:2], "best")


def test_episodes_are_summarised_and_follow_from_their_seed(run):
    first, again, other = (invoke(f"play {run} {more}").output for more in ("", "", "--episode-seed 1"))
    assert first == again != other
    found = rows(first)
    assert found["worst"] < found["median"] < found["best"]
    assert "Dial-v0, cvar:0.2, seed 0: 20 episodes" in first
    greedy = invoke(f"play {run} --greedy --objective mean").output
    assert "Dial-v0, mean, seed 0" in greedy
    assert greedy != first


@pytest.mark.parametrize("which", ["worst", "median", "best"])
def test_the_recording_is_of_the_chosen_episode(run, tmp_path, which):
    file = tmp_path / "film.gif"
    output = said(invoke(f"play {run} --which {which} --record {file} --size 30"))
    assert f"Recorded the {which} episode" in output
    assert "does not follow" not in output
    assert film_of(file) == ((30, 10), [100] * 6, [0, 40, 80, 120, 160, 200])
    assert not list(tmp_path.glob("*.part*"))


def test_a_film_of_a_long_episode_has_fewer_pictures(tmp_path):
    out = train(tmp_path / "run", extra="--env-arg length=32")
    config = out / "config.json"
    config.write_text(config.read_text().replace('"length": 32', '"length": 1500'))
    said(invoke(f"play {out} --episodes 1 --record {tmp_path / 'long.gif'}"))
    size, lasting, _ = film_of(tmp_path / "long.gif")
    assert size == (60, 20)
    assert sum(lasting) == pytest.approx(1501 / 10 * 1000, rel=0.01)


@pytest.mark.filterwarnings("ignore:os.fork.* was called:RuntimeWarning")  # by imageio-ffmpeg, where JAX is loaded
def test_mp4(run, tmp_path):
    from imageio_ffmpeg import count_frames_and_secs

    file = tmp_path / "film.mp4"
    said(invoke(f"play {run} --record {file}"))
    assert count_frames_and_secs(str(file)) == (6, pytest.approx(0.6))
    assert list(tmp_path.iterdir()) == [file]


def test_an_environment_that_its_seed_does_not_determine_is_told_of(tmp_path):
    out = train(tmp_path / "run", extra="--env-arg honest=false")
    output = said(invoke(f"play {out} --record {tmp_path / 'film.gif'}"))
    assert "the environment does not follow from its seed" in output


@pytest.mark.filterwarnings("ignore:.*has ended with a NaN.*", "ignore:an episode ended with")
def test_returns_that_are_not_finite_are_an_error(run, tmp_path):
    out = shutil.copytree(run, tmp_path / "run")
    config = json.loads((out / "config.json").read_text())
    config["settings"]["env_args"] = {"nan": True}
    (out / "config.json").write_text(json.dumps(config))
    assert "no episode has a finite return" in said(invoke(f"play {out}"), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{run}/runs", "runs is not the folder of a run: it has no config.json"),
        ("{run} --objective max@4", "(objectives cvar:0.2, mean, seeds 0 to 0)"),
        ("{run} --seed 3", "seed-3/checkpoint.safetensors does not exist"),
        ("{run} --record film.avi", "--record must end in .gif or .mp4; got film.avi"),
        ("{run} --record no/such/film.gif", "--record must lie in an existing folder"),
        ("{run} --watch", "Dial-v0 opens no window: its render_modes are rgb_array, without human"),
        ("{run} --which worse", "which must be one of worst, median, best; got 'worse'"),
        ("{run} --episodes 0", "episodes must be at least 1; got 0"),
    ],
)
def test_bad_input(run, arguments, message):
    assert message in said(invoke(f"play {arguments.format(run=run)}"), 2)


def test_an_environment_without_pictures(tmp_path):
    out = train(tmp_path / "run", "ordergrad/BettingGame-v0")
    result = invoke(f"play {out} --record {tmp_path / 'film.gif'}")
    assert "BettingGame-v0 draws no pictures: its render_modes are none" in said(result, 2)
    assert rows(invoke(f"play {out}").output)["best"] > -16


@pytest.mark.parametrize(("algo", "plain"), [("ppo", PPO), ("a2c", A2C)])
@pytest.mark.parametrize("normalize", ["", "--normalize"])
def test_an_exported_policy_is_a_plain_model(tmp_path, algo, plain, normalize):
    out = train(tmp_path / "run", extra=f"--algo {algo} {normalize}")
    file = tmp_path / "policy.zip"
    said(invoke(f"play {out} --export {file}"))
    ours, exported = trained(out), plain.load(file, env=gym.make("Dial-v0"), device="cpu")
    assert type(exported.rollout_buffer).__module__.startswith("stable_baselines3")
    observations = np.random.default_rng(0).normal(500, 3, (50, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        ours.predict(observations, deterministic=True)[0], exported.predict(observations, deterministic=True)[0]
    )
    exported.learn(300)
    if algo == "ppo":
        OrderGradPPO.load(file, env=gym.make("Dial-v0"), objective="cvar:0.2", device="cpu").learn(300)


@pytest.mark.parametrize("normalize", ["", "--normalize"])
def test_dictionaries_of_observations_are_trained_on_played_and_exported(tmp_path, normalize):
    out = train(tmp_path / "run", "Pieces-v0", f"{normalize} --network 16")
    file = tmp_path / "policy.zip"
    shown = said(invoke(f"play {out} --episodes 20 --record {tmp_path / 'film.gif'} --export {file}"))
    assert "worst" in shown
    assert len(film_of(tmp_path / "film.gif")[2]) > 3
    ours, exported = trained(out), PPO.load(file, env=gym.make("Pieces-v0"), device="cpu")
    observation, _ = gym.make("Pieces-v0").reset(seed=0)
    assert ours.predict(observation, deterministic=True)[0] == exported.predict(observation, deterministic=True)[0]
    exported.learn(100)
    if normalize:
        extractors = ours.policy.features_extractor.extractors
        assert float(extractors["clock"].mean[0]) == pytest.approx(502, abs=1)
        assert float(extractors["late"].mean.sum()) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore:.*(precision lowered|out of date|render_modes)")
def test_the_dictionary_environment_of_stable_baselines3(tmp_path):
    gym.register("Rooms-v0", "stable_baselines3.common.envs:SimpleMultiObsEnv", max_episode_steps=20)
    out = train(tmp_path / "run", "Rooms-v0")
    assert "worst" in said(invoke(f"play {out} --episodes 20"))


def test_the_policy_in_three_lines(run):
    model = trained(run, "mean", seed=0)
    action, _ = model.predict(np.float32([500.0, 0.0]), deterministic=True)
    assert action in (0, 1)


def test_environments_of_the_working_folder_are_found(tmp_path):
    """In a process that has not trained."""
    (tmp_path / "my_envs.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=50)\n"
    )
    for arguments in (TRAIN.format("my_envs:Mine-v0") + " --jobs 1 --out run", "play run --record film.gif"):
        command = [sys.executable, "-m", "ordergrad", *arguments.split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(film_of(tmp_path / "film.gif")[1]) > 5
