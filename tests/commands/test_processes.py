"""Runs and their processes: signals, orphans, the lock on a folder, environments of the working folder."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from ordergrad.adapters.sb3 import OrderGradPPO
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import open_folder, run_folder
from ordergrad.train.rl import train
from ordergrad.train.rl_checks import check
from ordergrad.train.rl_model import trained
from ordergrad.train.rl_settings import RLSettings

RUNS = """
import os, signal, sys, time
from pathlib import Path
from ordergrad.runs.folder import open_folder, run_folder
from ordergrad.runs.parallel import train_all

OUT = Path(sys.argv[1])

def wait(objective, seed, folder, stop, report):
    folder.mkdir(parents=True)
    (folder / "pid").write_text(str(os.getpid()))
    (folder / "begun").touch()
    while not stop():
        time.sleep(0.02)
    (folder / "saved").touch()
    return False

if __name__ == "__main__":
    open_folder(OUT, {}, kind="toy", resume=False)
    assert not train_all(wait, ["mean"], 2, OUT, int(sys.argv[2]), lambda *_: None)
    (OUT / "ended").touch()
"""


@pytest.fixture
def begun(tmp_path, request):
    """A command that trains in a folder, in one process or two, and its folder."""
    (tmp_path / "toy.py").write_text(RUNS)
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "toy.py", str(out), str(request.param)], cwd=tmp_path) as process:
        until(lambda: len(list(out.rglob("begun"))) == request.param)
        yield process, out
        process.kill()


def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("begun", [1, 2], indirect=True)
def test_sigterm_is_as_ctrl_c(begun):
    process, out = begun
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert (out / "ended").exists()
    assert len(list(out.rglob("saved"))) == len(list(out.rglob("begun")))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("begun", [2], indirect=True)
def test_workers_end_with_their_parent_and_the_folder_is_free_then_only(begun):
    process, out = begun
    with pytest.raises(UserError, match=r"another process is writing to .*out: wait until it has finished"):
        open_folder(out, {}, kind="toy", resume=True)
    workers = [int(path.read_text()) for path in out.rglob("pid")]
    assert all(alive(pid) for pid in workers)
    process.kill()
    process.wait()
    until(lambda: not any(alive(pid) for pid in workers), 20)
    open_folder(out, {}, kind="toy", resume=True)
    open_folder(out, {}, kind="toy", resume=True)  # once more in the same process


def test_environments_of_the_working_folder_are_found(tmp_path, monkeypatch):
    (tmp_path / "my_envs_here.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=50)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert check(RLSettings("my_envs_here:Mine-v0", ("mean",))).env_id == "my_envs_here:Mine-v0"
    assert str(tmp_path) in sys.path


def test_a_trained_policy_is_loaded_and_exported(tmp_path):
    settings = RLSettings("CartPole-v1", ("cvar:0.2",), steps=256, envs=2, rollout=64, min_episodes=4, episodes=20)
    open_folder(tmp_path / "out", asdict(settings), kind="train rl", resume=False)
    assert train(settings, "cvar:0.2", 0, run_folder(tmp_path / "out", "cvar:0.2", 0))
    model = trained(tmp_path / "out", "cvar:0.2")
    model.save(tmp_path / "policy.zip")
    observation = np.array([[0.1, 0.0, -0.1, 0.2]], np.float32)
    for again in (OrderGradPPO, PPO):
        exported = again.load(tmp_path / "policy.zip", device="cpu")
        for a, b in zip(model.policy.parameters(), exported.policy.parameters(), strict=True):
            assert torch.equal(a, b)
        assert exported.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]
    with pytest.raises(UserError, match=r"seed-7.*does not exist: objective and seed must be those of a run in"):
        trained(tmp_path / "out", "cvar:0.2", 7)
