"""`ordergrad train rl`: small runs from start to end, stopping and resuming, and every kind of bad input."""

import csv
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import matplotlib.image
import numpy as np
import pytest
import torch
import typer
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from typer.testing import CliRunner

import ordergrad as og
from ordergrad.adapters.sb3 import OrderGradPPO
from ordergrad.commands import cli
from ordergrad.commands import train_rl as command
from ordergrad.commands.eval import EvalSettings
from ordergrad.commands.train_rl import rl
from ordergrad.runs import folder as folder_of_runs
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import (
    METRICS,
    last_line,
    open_folder,
    read_checkpoint,
    read_metrics,
    run_folder,
    write_checkpoint,
)
from ordergrad.runs.parallel import default_jobs, train_all
from ordergrad.runs.plots import learning_curves, return_distributions, save
from ordergrad.runs.settings import defaults_of
from ordergrad.runs.statistics import read_returns, values_of
from ordergrad.train.evaluation import fresh_episodes
from ordergrad.train.llm_settings import LLMSettings
from ordergrad.train.observations import learn_scale
from ordergrad.train.rl import _Recorder, run, train
from ordergrad.train.rl_checks import check
from ordergrad.train.rl_model import build, load_policy, restore, seed_of, settings_of_run
from ordergrad.train.rl_model import save as save_model
from ordergrad.train.rl_settings import RLSettings

torch.set_num_threads(1)
TINY = RLSettings(
    "CartPole-v1", ("cvar:0.1", "mean"), seeds=2, steps=1024, envs=4, rollout=64, min_episodes=4, episodes=20
)
ARGUMENTS = (
    "CartPole-v1 -o cvar:0.1 -a mean --seeds 2 --steps 1024 --envs 4 --rollout 64 --min-episodes 4 --episodes 20 "
    "--jobs 1"
)
app = typer.Typer()
app.command("rl")(rl)


class Countdown(gym.Env):
    """Episodes of a length drawn at the reset; the reward of a step is 1."""

    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 12))
        return np.array([self.left], np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.array([self.left], np.float32), 1.0, self.left <= 0, False, {}


class Faulty(Countdown):
    """A share of its episodes has a NaN reward; without an end, none ever ends."""

    def __init__(self, share=0.0, end=True):
        self.share, self.end = share, end

    def reset(self, *, seed=None, options=None):
        out = super().reset(seed=seed)
        self.faulty = self.np_random.random() < self.share
        return out

    def step(self, action):
        obs, reward, over, *rest = super().step(action)
        return np.abs(obs) % 100, np.nan if self.faulty else reward, over and self.end, *rest


class Odd(Countdown):
    """An environment whose spaces are given by its arguments, and which may be one that cannot be made."""

    def __init__(self, observation="box", action="discrete", licence=""):
        if licence == "none":
            raise OSError("no licence")
        if observation == "dict":
            self.observation_space = spaces.Dict({"a": Countdown.observation_space})
        if action == "tuple":
            self.action_space = spaces.Tuple([Countdown.action_space])
        if action == "unbounded":
            self.action_space = spaces.Box(-np.inf, np.inf, (1,))


gym.register("Countdown-v0", Countdown)
gym.register("Odd-v0", Odd)
gym.register("Faulty-v0", Faulty, disable_env_checker=True)  # which warns of NaN at every step
FAULTY = "Faulty-v0 -o cvar:0.1 --seeds 1 --steps 1024 --envs 4 --rollout 16 --min-episodes 4 --episodes 30 --jobs 1"


def invoke(out: Path, arguments: str = ARGUMENTS):
    return CliRunner().invoke(app, [*arguments.split(), "--out", str(out)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and what it printed."""
    out = tmp_path_factory.mktemp("run") / "out"
    result = invoke(out)
    assert result.exit_code == 0, result.output
    return out, result.output


def test_a_run_writes_what_the_documentation_says(finished):
    out, printed = finished
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    runs = [f"runs/{name}/seed-{seed}" for name in ("cvar-0.1", "mean") for seed in (0, 1)]
    each = [f"{run}/{file}" for run in runs for file in ("metrics.jsonl", "checkpoint.safetensors", "evaluation.csv")]
    assert files == {"config.json", ".lock", "results.csv", "results.json", "returns.png", "learning.png", *each}
    assert "trained on" in printed
    assert "2 seeds" in printed
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["objectives"] == ["cvar:0.1", "mean"]
    assert config["versions"]["ordergrad"]
    assert config["kind"] == "train rl"
    assert config["command"]


def test_metrics_are_complete(finished):
    rows = read_metrics(finished[0] / "runs/mean/seed-0/metrics.jsonl")
    assert [row["step"] for row in rows] == [256, 512, 768, 1024]
    assert rows[-1] == last_line(finished[0] / "runs/mean/seed-0/metrics.jsonl")
    for name in ("mean", "cvar:0.1", "best", "length", "entropy_loss", "value_loss"):
        assert np.isfinite(rows[-1][name])
    assert rows[-1]["best"] >= rows[-1]["mean"] >= rows[-1]["cvar:0.1"]
    assert rows[-1]["mean"] == pytest.approx(rows[-1]["length"], rel=1e-4)  # CartPole pays 1 for every step


def test_results_are_the_values_of_the_written_episodes(finished):
    out, _ = finished
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["trained"], row["evaluated"]) for row in rows} == {
        (a, b) for a in ("cvar:0.1", "mean") for b in ("cvar:0.1", "mean")
    }
    for row, entry in zip(rows, json.loads((out / "results.json").read_text()), strict=True):
        groups = [read_returns(run_folder(out, row["trained"], seed) / "evaluation.csv") for seed in (0, 1)]
        by_seed = [float(og.value(group, row["evaluated"])) for group in groups]
        np.testing.assert_allclose(entry["by_seed"], by_seed)
        assert float(row["value"]) == pytest.approx(np.mean(by_seed))
        half = 12.706204736 * np.std(by_seed, ddof=1) / np.sqrt(2)  # Student's t with one degree of freedom
        assert float(row["high"]) - float(row["value"]) == pytest.approx(half)


def test_figures_are_pictures(finished):
    for name in ("returns.png", "learning.png"):
        picture = matplotlib.image.imread(finished[0] / name)
        assert min(picture.shape[:2]) > 300
        assert picture[..., :3].std() > 0.02


def test_a_finished_run_is_never_overwritten(finished):
    out, _ = finished
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    result = invoke(out)
    assert result.exit_code == 2
    assert "--resume" in result.output
    assert "--out" in result.output
    result = invoke(out, ARGUMENTS + " --resume --gamma 0.5")
    assert result.exit_code == 2
    assert "gamma was 0.999, now 0.5" in " ".join(result.output.split())
    for path, content in before.items():
        assert path.read_bytes() == content


def test_resuming_a_finished_run_shows_it_again_and_more_steps_continue_it(finished, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    checkpoint = (out / "runs/mean/seed-1/checkpoint.safetensors").read_bytes()
    result = invoke(out, ARGUMENTS + " --resume")
    assert result.exit_code == 0
    assert (out / "runs/mean/seed-1/checkpoint.safetensors").read_bytes() == checkpoint
    result = invoke(out, ARGUMENTS.replace("1024", "1536") + " --resume")
    assert result.exit_code == 0
    rows = read_metrics(out / "runs/mean/seed-1/metrics.jsonl")
    assert [row["step"] for row in rows] == [256, 512, 768, 1024, 1280, 1536]
    assert rows[-1]["episodes"] > rows[3]["episodes"]


@pytest.mark.parametrize(("was", "now"), [("--steps 1024", "--steps 512"), ("--episodes 20", "--episodes 19")])
def test_a_run_is_never_resumed_with_less_than_it_was_made_with(finished, was, now):
    """Else its seeds would be of different lengths, and its configuration not what was done."""
    config = (finished[0] / "config.json").read_bytes()
    result = invoke(finished[0], ARGUMENTS.replace(was, now) + " --resume")
    assert result.exit_code == 2
    (name, before), after = was[2:].split(), now.split()[1]
    assert f"({name} was {before}, now {after}, and may only grow)" in " ".join(result.output.split())
    assert (finished[0] / "config.json").read_bytes() == config


def test_a_run_of_an_older_version_resumes_with_the_defaults_of_newer_settings(finished, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    config = json.loads((out / "config.json").read_text())
    for name in ("cap", "network", "normalize", "epochs", "anneal", "gae_lambda"):
        del config["settings"][name]
    (out / "config.json").write_text(json.dumps(config))
    tensors, state = read_checkpoint(out / "runs/mean/seed-1/checkpoint.safetensors")
    for name in ("recent", "scale"):  # what the first versions kept did not include them
        del state["ranking"][name]
    write_checkpoint(out / "runs/mean/seed-1/checkpoint.safetensors", tensors, state)
    assert settings_of_run(out).epochs == 6
    result = invoke(out, ARGUMENTS + " --resume --epochs 5")
    assert result.exit_code == 2
    assert "(epochs was 6, now 5)" in " ".join(result.output.split())
    result = invoke(out, ARGUMENTS.replace("1024", "1536") + " --resume")
    assert result.exit_code == 0, result.output
    assert read_metrics(out / "runs/mean/seed-1/metrics.jsonl")[-1]["step"] == 1536
    assert json.loads((out / "config.json").read_text())["settings"]["epochs"] == 6


@pytest.mark.parametrize(
    "settings", [TINY, LLMSettings(("top:2@4",)), EvalSettings(("test=a.jsonl",))], ids=lambda s: type(s).__name__
)
def test_folders_of_every_command_take_defaults_for_settings_that_they_lack(settings, tmp_path):
    open_folder(tmp_path, settings, kind="toy", resume=False)
    config = json.loads((tmp_path / "config.json").read_text())
    for name, default in defaults_of(type(settings)).items():
        older = {n: value for n, value in config["settings"].items() if n != name}
        (tmp_path / "config.json").write_text(json.dumps(config | {"settings": older}))
        if getattr(settings, name) == default:
            open_folder(tmp_path, settings, kind="toy", resume=True)
            assert json.loads((tmp_path / "config.json").read_text())["settings"] == config["settings"]
        else:
            with pytest.raises(UserError, match=f"{name} was "):
                open_folder(tmp_path, settings, kind="toy", resume=True)


def test_settings_that_this_version_does_not_have_are_refused(finished, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    config = json.loads((out / "config.json").read_text())
    config["settings"]["momentum"] = 0.5
    (out / "config.json").write_text(json.dumps(config))
    result = invoke(out, ARGUMENTS + " --resume")
    assert result.exit_code == 2
    assert "(momentum was 0.5, now unknown)" in " ".join(result.output.split())
    with pytest.raises(UserError, match="settings of another version: momentum"):
        settings_of_run(out)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="choose another --out"):
        open_folder(tmp_path, asdict(TINY), kind="train rl", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_is_none_of_this_command_says_so(tmp_path, resume):
    def refused(out):
        with pytest.raises(UserError) as caught:
            open_folder(out, asdict(TINY), kind="train rl", resume=resume)
        assert str(caught.value).endswith("; choose another --out")
        return str(caught.value)

    config = tmp_path / "llm" / "config.json"
    open_folder(config.parent, {"data": "countdown"}, kind="train llm", resume=False)
    assert f"{config.parent} is the folder of train llm, not of train rl" in refused(config.parent)
    for damaged in ("{", "[]", "{}", '{"settings": 3}', "\ud800"):
        config.write_bytes(damaged.encode(errors="surrogatepass"))
        assert f"{config} is not the configuration of a run, or damaged" in refused(config.parent)
    file = tmp_path / "file"
    file.write_text("")
    assert "is not the folder of a run" in refused(file)
    assert "cannot be the folder of a run ([Errno 20] Not a directory" in refused(file / "sub")
    assert file.read_text() == ""


def test_a_run_is_that_of_the_newest_version_of_its_environment(tmp_path):
    with pytest.warns(UserWarning, match="latest versioned environment") as warned:
        result = invoke(
            tmp_path / "out", ARGUMENTS.replace("CartPole-v1", "CartPole").replace("-a mean --seeds 2", "--seeds 1")
        )
    assert result.exit_code == 0, result.output
    assert len(warned) == 1
    assert "CartPole-v1, 1 objectives" in result.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["settings"]["env_id"] == "CartPole-v1"
    assert check(replace(TINY, env_id="gymnasium.envs:CartPole-v1")).env_id == "gymnasium.envs:CartPole-v1"


def test_an_outdated_environment_is_told_of_once(tmp_path):
    with pytest.warns(DeprecationWarning, match="out of date") as warned:
        result = invoke(
            tmp_path / "out", ARGUMENTS.replace("CartPole-v1", "CartPole-v0").replace("-a mean --seeds 2", "--seeds 1")
        )
    assert result.exit_code == 0, result.output
    assert len(warned) == 1


def test_environments_of_the_package_need_no_import():
    """In a process that has loaded nothing but the training, as those that train side by side do."""
    program = (
        "from ordergrad.train.rl_checks import check; from ordergrad.train.rl_settings import RLSettings;"
        "print(check(RLSettings('ordergrad/GuardedMaze-v0', ('cvar:0.05',))).env_id)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ordergrad/GuardedMaze-v0", done.stderr


def test_checkpoints_restore_everything(tmp_path):
    model = build(TINY, "cvar:0.1", 3)
    model.learn(512)
    save_model(model, tmp_path / "c.safetensors")
    drawn = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    other = build(TINY, "cvar:0.1", 4)
    restore(other, *read_checkpoint(tmp_path / "c.safetensors"))
    assert torch.equal(torch.rand(3), drawn[0])
    assert np.array_equal(np.random.rand(3), drawn[1])  # noqa: NPY002
    assert (other.num_timesteps, other._n_updates) == (model.num_timesteps, model._n_updates)
    for a, b in zip(model.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    mine, theirs = model.policy.optimizer.state_dict(), other.policy.optimizer.state_dict()
    assert [{**group, "betas": tuple(group["betas"])} for group in theirs["param_groups"]] == mine["param_groups"]
    for index, slots in mine["state"].items():
        for name, tensor in slots.items():
            assert torch.equal(tensor, theirs["state"][index][name])


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_stopping_and_resuming(tmp_path, algo):
    settings = replace(TINY, algo=algo)
    updates = []
    assert not train(settings, "mean", 0, tmp_path / "a", stop=lambda: len(updates) >= 2, report=updates.append)
    assert read_checkpoint(tmp_path / "a" / "checkpoint.safetensors")[1]["step"] == 512
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for name in "ab":
        assert train(settings, "mean", 0, tmp_path / name)
    a, b = (read_checkpoint(tmp_path / name / "checkpoint.safetensors") for name in "ab")
    assert a[1] == b[1]
    assert all(np.array_equal(a[0][name], b[0][name]) for name in a[0])
    rows = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [256, 512, 768, 1024]
    assert all(x["seconds"] <= y["seconds"] for x, y in itertools.pairwise(rows))


def test_a_killed_run_continues_from_its_checkpoint_without_doubled_metrics(tmp_path):
    class Killed(Exception):
        pass

    def kill(row):
        if row["step"] == 768:
            raise Killed

    with pytest.raises(Killed):
        train(TINY, "mean", 0, tmp_path, report=kill, checkpoints=2)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3
    assert train(TINY, "mean", 0, tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [256, 512, 768, 1024]


def test_the_same_seed_gives_the_same_run(tmp_path):
    for name in "ab":
        assert train(TINY, "cvar:0.1", 0, tmp_path / name)
    a, b = (read_checkpoint(tmp_path / name / "checkpoint.safetensors")[0] for name in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in a)


def everything(settings, folder, jobs, update):
    return train_all(partial(run, settings), settings.objectives, settings.seeds, folder, jobs, update)


def test_ctrl_c_saves_and_the_run_goes_on(tmp_path):
    settings = replace(TINY, objectives=("mean",))

    def interrupt(objective, seed, row):
        if row["step"] == 512:
            os.kill(os.getpid(), signal.SIGINT)

    assert not everything(settings, tmp_path, 1, interrupt)
    assert read_checkpoint(run_folder(tmp_path, "mean", 0) / "checkpoint.safetensors")[1]["step"] == 512
    assert not run_folder(tmp_path, "mean", 1).exists()
    assert everything(settings, tmp_path, 1, lambda *_: None)
    assert len(read_returns(run_folder(tmp_path, "mean", 1) / "evaluation.csv")) == 20


def test_runs_side_by_side_are_the_runs_one_by_one(finished, tmp_path):
    settings = replace(TINY, objectives=("mean",))
    seen = []
    assert everything(settings, tmp_path, 2, lambda objective, seed, row: seen.append((seed, row["step"])))
    assert {(0, 1024), (1, 1024)} <= set(seen)
    for seed in (0, 1):
        name = f"runs/mean/seed-{seed}/checkpoint.safetensors"
        here, there = read_checkpoint(tmp_path / name)[0], read_checkpoint(finished[0] / name)[0]
        assert all(np.array_equal(here[key], there[key]) for key in here)


def one_fails(objective, seed, folder, stop, report):
    folder.mkdir(parents=True)
    others = folder.with_name("seed-1")
    for _ in range(600):
        if seed == 0 and others.exists():
            raise UserError("this one fails")
        if stop():
            (folder / "stopped").touch()
            return False
        time.sleep(0.1)
    return True


def test_an_error_in_one_run_stops_the_others(tmp_path):
    with pytest.raises(UserError, match="this one fails"):
        train_all(one_fails, ["mean"], 3, tmp_path, 2, lambda *_: None)
    assert run_folder(tmp_path, "mean", 1).joinpath("stopped").exists()
    assert not run_folder(tmp_path, "mean", 2).exists()


def test_only_the_processors_that_may_be_used_are(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert default_jobs(8) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert default_jobs(8) == 8


@pytest.mark.parametrize("credit", ["episode", "terminal"])
def test_other_credits_and_continuous_actions(tmp_path, credit):
    settings = replace(TINY, env_id="Pendulum-v1", credit=credit, steps=1600, rollout=200, min_episodes=2)
    check(settings)
    assert train(settings, "cvar:0.1", 0, tmp_path)
    assert np.isfinite(last_line(tmp_path / "metrics.jsonl")["mean"])


def test_a_cap_is_for_the_objectives_of_the_lower_tail():
    settings = check(replace(TINY, objectives=("mean", "cvar:0.1"), cap=100.0))
    caps = [build(settings, objective, 0).rollout_buffer.ranking.cap for objective in settings.objectives]
    assert caps == ["falling", 100.0]


def test_the_objective_is_annealed_from_the_mean(tmp_path, monkeypatch):
    trained_on = []
    monkeypatch.setattr(OrderGradPPO, "train", lambda model: trained_on.append(str(model.rollout_buffer.objective)))
    train(replace(TINY, anneal=0.75), "cvar:0.1", 0, tmp_path / "a")
    assert trained_on[0] == "mean"
    assert trained_on[1:] == [str(og.anneal("mean", "cvar:0.1", t)) for t in (256 / 768, 512 / 768)] + ["cvar:0.1"]
    trained_on.clear()
    train(replace(TINY, anneal=0.0), "cvar:0.1", 0, tmp_path / "b")
    assert trained_on == ["cvar:0.1"] * 4


def test_fresh_episodes_are_whole_and_do_not_favour_short_ones():
    class Still:
        def predict(self, obs, deterministic):
            assert not deterministic
            return np.zeros(len(obs), int), None

    returns, lengths = fresh_episodes(Still(), "Countdown-v0", {}, 400, seed=5, envs=50)
    assert np.array_equal(returns, lengths)
    expected = []
    for index in range(50):  # a vector environment seeds its parts one after another
        env = Countdown()
        env.reset(seed=5 + index)
        lengths_here = [env.left]
        while len(lengths_here) < 8:
            env.reset()
            lengths_here.append(env.left)
        expected += lengths_here
    assert np.array_equal(lengths, expected)
    with pytest.raises(UserError, match="max_episode_steps"):
        fresh_episodes(Still(), "Countdown-v0", {}, 10, seed=0, longest=5)


def test_values_leave_out_what_is_not_finite():
    groups = [np.array([1.0, np.nan, 3.0]), np.array([np.inf, 2.0, 4.0, -np.inf]), np.array([np.nan, 5.0])]
    [mean] = values_of({"mean": groups, "max@2": [np.array([np.nan, 1.0])]}, ["mean"])
    assert (mean.trained, mean.seeds, mean.by_seed) == ("mean", 2, (2.0, 3.0))
    assert values_of({"mean": groups[2:]}, ["mean"]) == []


def test_values_of_one_seed_have_the_error_of_their_episodes():
    returns = np.arange(10.0)
    [entry] = values_of({"mean": [returns]}, ["mean"])
    assert entry.high - entry.value == pytest.approx(1.959964 * returns.std(ddof=1) / np.sqrt(10), rel=1e-6)


def test_seeds_are_distinct():
    seeds = {seed_of(seed, purpose, step) for seed in range(5) for purpose in (1, 2) for step in (0, 256)}
    assert len(seeds) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env_id": "CartPol-v1"}, "did you mean CartPole-v"),
        ({"env_id": "no_such_module:Thing-v0"}, "no_such_module"),
        ({"env_args": {"wings": 2}}, "wings"),
        ({"env_id": "Odd-v0", "env_args": {"action": "tuple"}}, "not Tuple"),
        ({"env_id": "Odd-v0", "env_args": {"action": "unbounded"}}, "finite bounds"),
        ({"objectives": ("cvr:0.1",)}, "did you mean 'cvar'"),
        ({"objectives": ("0*mean",)}, "objective must have a nonzero term"),
        ({"objectives": ("mean", "mean")}, "each objective once; mean and mean are the same"),
        (
            {"objectives": ("cvar:0.1", "mean", "cvar:0.10+0*mean")},
            r"once; cvar:0.1 and cvar:0.10\+0\*mean are the same",
        ),
        ({"env_id": "Odd-v0", "env_args": {"licence": "none"}}, "Odd-v0 cannot be made: OSError: no licence"),
        ({"objectives": ("max@5000",)}, "lower K, or raise --rollout"),
        ({"objectives": ("max@64",)}, "raise --episodes"),
        ({"steps": 100}, "steps must be at least 256 .one rollout"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"gamma": 1.5}, "gamma must lie in"),
        ({"anneal": -0.1}, "anneal must lie in"),
        ({"cap": np.inf}, "cap must be finite"),
        ({"cap": 9.0, "credit": "episode"}, "cap needs credit telescoped and no annealing; got credit episode"),
        ({"cap": 9.0, "anneal": 0.5}, "cap needs credit telescoped and no annealing; got .* anneal 0.5"),
        (
            {"cap": 9.0, "objectives": ("mean", "max@4")},
            "cap needs an objective of the lower tail.* got mean, max@4",
        ),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite; got 0.0"),
        ({"learning_rate": np.nan}, "learning_rate must be positive and finite; got nan"),
        ({"learning_rate": np.inf}, "learning_rate must be positive and finite; got inf"),
        ({"entropy": -1.0}, "entropy must be finite and not negative; got -1.0"),
        ({"entropy": np.nan}, "entropy must be finite and not negative; got nan"),
        ({"algo": "dqn"}, "algo must be one of ppo, a2c"),
        ({"credit": "step"}, "credit must be one of"),
    ],
)
def test_bad_settings_are_errors_before_any_work(change, message):
    with pytest.raises(UserError, match=message):
        check(replace(TINY, **change))


def test_bad_input_of_the_command(tmp_path, monkeypatch):
    def output(arguments):
        result = invoke(tmp_path / "out", arguments)
        assert result.exit_code == 2
        assert not (tmp_path / "out").exists()
        return " ".join(result.output.split())

    assert "did you mean" in output("CartPol-v1 -o mean")
    assert "names no known objective" in output("CartPole-v1 -o cvr:0.1")
    assert "NAME=VALUE" in output("CartPole-v1 -o mean --env-arg wings")
    assert "jobs must be at least 1" in output("CartPole-v1 -o mean --jobs 0")
    monkeypatch.setattr(command, "_NEEDED", ("torch", "no_such_package"))
    assert "needs no_such_package: pip install 'ordergrad[rl]'" in output("CartPole-v1 -o mean")


def test_episodes_that_never_end_stop_the_run_with_advice(tmp_path):
    """After as many rollouts as the adapter waits, where no time limit will end one; with a limit the run finishes."""
    never = FAULTY.replace("1024", "9999") + " --env-arg end=false"
    with pytest.warns(UserWarning, match="only 0 episodes ended"):
        result = invoke(tmp_path / "out", never)
    assert result.exit_code == 2
    output = " ".join(result.output.split())
    assert "no episode of Faulty-v0 has ended in 512 steps of 4 environments" in output
    assert "--env-arg max_episode_steps=N" in output
    assert [row["episodes"] for row in read_metrics(run_folder(tmp_path / "out", "cvar:0.1", 0) / METRICS)] == [0] * 31
    limited = FAULTY + " --env-arg end=false --env-arg max_episode_steps=9"
    assert invoke(tmp_path / "limited", limited).exit_code == 0


def test_some_nan_rewards_are_left_out_and_told_of(tmp_path):
    with pytest.warns(UserWarning, match="check the rewards"):
        result = invoke(tmp_path / "out", FAULTY + " --env-arg share=0.3")
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "fresh episodes had a NaN or infinite return, left out" in output
    assert "episodes had a NaN or infinite return and were left out" in output
    folder = run_folder(tmp_path / "out", "cvar:0.1", 0)
    assert last_line(folder / METRICS)["nonfinite"] > 0
    returns = read_returns(folder / "evaluation.csv")
    assert 0 < np.isnan(returns).sum() < len(returns)
    with (tmp_path / "out" / "results.csv").open() as file:
        values = {row["evaluated"]: float(row["value"]) for row in csv.DictReader(file)}
    assert values["mean"] == pytest.approx(np.nanmean(returns))


def test_nothing_but_nan_rewards_is_an_error_that_keeps_the_policies(tmp_path):
    with pytest.warns(UserWarning, match="check the rewards"):
        result = invoke(tmp_path / "out", FAULTY + " --env-arg share=1")
    assert result.exit_code == 2
    output = " ".join(result.output.split())
    assert "only 0 of 30 fresh episodes have a finite return" in output
    assert "rewards of Faulty-v0 are NaN or infinite" in output
    assert (run_folder(tmp_path / "out", "cvar:0.1", 0) / "checkpoint.safetensors").exists()
    page = tmp_path / "page.html"
    assert CliRunner().invoke(cli.app, ["report", str(tmp_path / "out"), "--out", str(page)]).exit_code == 0
    assert page.exists()


def test_too_few_episodes_for_k_rank_at_a_smaller_one_and_are_told_of(tmp_path):
    arguments = FAULTY.replace("cvar:0.1", "max@60").replace("--steps 1024", "--steps 1088")
    arguments = arguments.replace("--episodes 30", "--episodes 61").replace("--rollout 16", "--rollout 17")
    result = invoke(tmp_path / "out", arguments + " --env-arg end=false --env-arg max_episode_steps=17 --anneal 0")
    assert result.exit_code == 0, result.output
    rows = read_metrics(run_folder(tmp_path / "out", "max@60", 0) / METRICS)
    assert max(row["waiting"] for row in rows) == 60  # 4 episodes a rollout: 15 of 16 do not suffice
    assert any(row["ranked"] == 64 for row in rows)


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"half of a")
    with pytest.raises(UserError, match="delete it"):
        read_checkpoint(path)
    write_checkpoint(path, {"x": np.arange(3.0), "scalar": np.array(2.0)}, {"step": 1})
    tensors, state = read_checkpoint(path)
    assert tensors["scalar"].shape == ()
    assert state == {"step": 1}
    assert not list(tmp_path.glob("*.part"))


def test_figures_bear_gaps_and_single_points(tmp_path):
    nothing = {"mean": [(np.array([1.0, 2.0]), {"mean": np.array([np.nan, np.nan])})]}
    save(learning_curves(nothing, ["mean"]), tmp_path / "a.png")
    save(return_distributions({"mean": np.array([1.0, 1.0]), "max@2": np.array([np.inf])}), tmp_path / "b.png")


def fail_at(monkeypatch, number):
    """Make the number-th write of a run fail as on a full disk; return how often was written."""
    written = []

    def full(real):
        def write(*arguments, **options):
            written.append(arguments)
            if len(written) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return write

    monkeypatch.setattr(os, "fsync", full(os.fsync))
    names = {"loads": json.loads, "dumps": full(json.dumps), "JSONDecodeError": json.JSONDecodeError}
    monkeypatch.setattr(folder_of_runs, "json", SimpleNamespace(**names))  # metrics, which are appended, begin with it
    return written


def test_a_full_disk_at_any_point_loses_nothing_and_says_so(tmp_path, monkeypatch):
    arguments = ARGUMENTS.replace("-a mean --seeds 2", "--seeds 1").replace("--steps 1024", "--steps 512")
    folder = run_folder(tmp_path / "out", "cvar:0.1", 0)
    failures = 0
    for number in itertools.count(1):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        with monkeypatch.context() as patched:
            fail_at(patched, number)
            result = invoke(tmp_path / "out", arguments)
        if result.exit_code == 0:
            break
        failures += 1
        output = " ".join(result.output.split())
        assert "Error: no space left to write" in output, (number, result.exception)
        assert "Make room and run the same command again" in output
        assert not list((tmp_path / "out").rglob("*.part"))
        assert [json.loads(line) for line in read_text(folder / METRICS).splitlines()] == read_metrics(folder / METRICS)
        if (folder / "checkpoint.safetensors").exists():
            read_checkpoint(folder / "checkpoint.safetensors")
        resume = " --resume" if (tmp_path / "out" / "config.json").exists() else ""
        result = invoke(tmp_path / "out", arguments + resume)
        assert result.exit_code == 0, result.output
        assert [row["step"] for row in read_metrics(folder / METRICS)] == [256, 512]
        assert (tmp_path / "out" / "results.csv").exists()
    assert failures >= 8  # the configuration, metrics, checkpoints, episodes, results, two pictures


def read_text(path):
    return path.read_text() if path.exists() else ""


def test_metrics_that_were_cut_short_are_written_again(tmp_path):
    assert train(replace(TINY, steps=512), "mean", 0, tmp_path)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 768, "epi')
    assert train(TINY, "mean", 0, tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path / METRICS)] == [256, 512, 768, 1024]


# Networks and observations ------------------------------------------------------------------------------------------


def test_the_network_and_the_batches_are_those_of_the_settings(tmp_path):
    settings = replace(TINY, network="8,16", batch_size=128, epochs=2)
    model = build(settings, "mean", 0)
    assert [layer.out_features for layer in model.policy.mlp_extractor.policy_net if hasattr(layer, "weight")] == [
        8,
        16,
    ]
    assert (model.batch_size, model.n_epochs) == (128, 2)
    assert model.learn(256)._n_updates == 2
    with pytest.raises(UserError, match="network must be widths such as 64,64; got '64x64'"):
        check(replace(TINY, network="64x64"))


def test_normalised_observations_have_the_mean_and_deviation_of_those_seen(tmp_path):
    """Fixed during a rollout and its update, so that the ratio of PPO begins at 1."""
    model = build(replace(TINY, normalize=True, epochs=1, batch_size=256), "mean", 0)
    extractor = model.policy.features_extractor
    observations, ratios = [], []
    callback = _Recorder(tmp_path, TINY, "mean", 1, lambda: False, lambda row: None)

    class Watch(BaseCallback):
        def _on_step(self):
            observations.append(self.locals["obs_tensor"].numpy().copy())
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            _, log_prob, _ = self.model.policy.evaluate_actions(
                torch.tensor(buffer.observations), torch.tensor(buffer.actions).flatten()
            )
            ratios.append(np.abs(log_prob.detach().numpy() - buffer.log_probs.ravel()).max())

    model.learn(512, [callback, Watch()])
    learn_scale(model.policy)
    assert max(ratios) < 1e-5
    seen = np.concatenate(observations)
    assert float(extractor.count) == pytest.approx(len(seen), abs=2 * 4)  # and the last of each rollout
    np.testing.assert_allclose(extractor.mean, seen.mean(0), atol=0.02)
    np.testing.assert_allclose(extractor.variance, seen.var(0), rtol=0.05)
    normal = extractor(torch.tensor(seen)).numpy()
    np.testing.assert_allclose(normal.std(0), 1.0, atol=0.05)


def test_a_run_with_normalised_observations_resumes_exactly(tmp_path):
    settings = replace(TINY, normalize=True, network="16")
    updates = []
    assert not train(settings, "mean", 0, tmp_path / "a", stop=lambda: len(updates) >= 2, report=updates.append)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for name in "ab":
        assert train(settings, "mean", 0, tmp_path / name)
    a, b = (read_checkpoint(tmp_path / name / "checkpoint.safetensors")[0] for name in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    model = build(settings, "mean", 0)
    load_policy(model, a)
    counts = [x for name, x in a.items() if name.endswith("features_extractor.count")]
    assert float(counts[0]) == pytest.approx(1024, abs=4 * 4)
    assert train(settings, "mean", 0, tmp_path / "a")


def test_images_are_not_normalised_twice():
    gym.register("Picture-v0", Picture)
    with pytest.raises(UserError, match="normalize is not for images"):
        check(replace(TINY, env_id="Picture-v0", normalize=True))


class Picture(Countdown):
    observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)
