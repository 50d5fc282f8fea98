"""What the studies share: their command lines, records that survive a kill, and intervals over seeds."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from studies import FOLDER, load, read

study = load("study")


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/toy")
    task: str = field(default="", metadata={"positional": True, "choices": ("easy", "hard")})
    sizes: tuple[int, ...] = (1, 2)
    rate: float = 0.5
    quick: bool = False


def test_a_command_line_is_a_dataclass():
    found = study.parse(Options, "", ["hard", "--sizes", "3", "4", "--rate", "2", "--quick", "--jobs", "2"])
    assert found == Options(task="hard", sizes=(3, 4), rate=2.0, quick=True, jobs=2)
    assert study.parse(Options, "", ["easy"]) == Options(task="easy")
    with pytest.raises(SystemExit):
        study.parse(Options, "", ["middle"])


def play(contender: str, seed: int) -> dict[str, float]:
    return {"score": len(contender) + seed}


TASKS = [{"contender": name, "seed": seed} for name in ("a", "bb") for seed in range(3)]


def opened(folder: Path, **options: object):
    return study.Study(str(FOLDER / "toy.py"), Options(out=folder, jobs=1, **options), ["easy", "--out", "x y"])


def test_records_are_made_once_and_in_order(tmp_path):
    made = []

    def counted(**task):
        made.append(task)
        return play(**task)

    s = opened(tmp_path)
    first = s.computed("runs.jsonl", TASKS[3:], counted)
    every = s.computed("runs.jsonl", TASKS, counted)
    assert [r["score"] for r in every] == [1, 2, 3, 2, 3, 4]
    assert every[3:] == first
    assert len(made) == len(TASKS)
    assert s.computed("runs.jsonl", TASKS, counted) == every
    assert len(made) == len(TASKS)
    np.testing.assert_array_equal(study.column(every, "score", contender="bb"), [2, 3, 4])


def test_processes_make_the_same_records(tmp_path):
    s = study.Study("toy.py", Options(out=tmp_path / "two", jobs=2), [])
    assert s.computed("runs.jsonl", TASKS, play) == opened(tmp_path / "one").computed("runs.jsonl", TASKS, play)


def test_a_line_cut_short_is_made_again_and_nothing_else_is_touched(tmp_path):
    s, path = opened(tmp_path), tmp_path / "runs.jsonl"
    s.computed("runs.jsonl", TASKS, play)
    whole = path.read_text()
    torn = whole[:-9]
    path.write_text(torn)
    assert [r["score"] for r in s.computed("runs.jsonl", TASKS, play)] == [1, 2, 3, 2, 3, 4]
    assert path.read_text() == torn + whole[whole.rindex("\n", 0, -1) :]
    assert len(study.read_records(path)) == len(TASKS)


SCRIPT = """
import signal, sys, time
from pathlib import Path
{ignored}
sys.path.insert(0, {folder!r})
import study

def slow(seed):
    time.sleep(0 if seed < 2 else 600)
    return {{"score": seed}}

if __name__ == "__main__":
    options = study.Options(out=Path({out!r}), jobs={jobs})
    with study.Study("toy.py", options, []) as s:
        s.computed("runs.jsonl", [{{"seed": seed}} for seed in range(4)], slow)
"""


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_records_survive_and_workers_end(tmp_path, kill, jobs):
    """In the background, where shells make Ctrl-C ignored, SIGTERM works too."""
    script, handler = tmp_path / "toy.py", "default_int_handler" if kill == signal.SIGINT else "SIG_IGN"
    ignored = f"signal.signal(signal.SIGINT, signal.{handler})"
    script.write_text(SCRIPT.format(folder=str(FOLDER), out=str(tmp_path), jobs=jobs, ignored=ignored))
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            wait(lambda: len(study.read_records(tmp_path / "runs.jsonl")) == 2)
            os.kill(process.pid, kill)
            shown, _ = process.communicate(timeout=120)
            wait(lambda: not _alive(process.pid))
        finally:
            if _alive(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == (-9 if kill == signal.SIGKILL else 130)
    assert kill == signal.SIGKILL or "Run the same command with --resume" in shown.replace("\n", "")
    assert {r["score"] for r in study.read_records(tmp_path / "runs.jsonl")} == {0, 1}


def wait(happened):
    until = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.1)


def _alive(group: int) -> bool:
    """Return whether a process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_results_name_the_command_that_made_them(tmp_path):
    s = opened(tmp_path)
    s.write_summary({"steps": 3}, found=[1, 2])
    s.write_table("runs.csv", [{"a": 1, "b": 0.123456789}])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["command"] == "python experiments/toy.py easy --out 'x y'"
    assert summary["settings"] == {"steps": 3}
    assert summary["found"] == [1, 2]
    assert {"date", "machine", "versions"} <= summary.keys()
    assert read(tmp_path / "runs.csv") == [{"a": "1", "b": "0.12346"}]


def test_intervals_never_leave_the_range_of_the_values():
    found = study.over_seeds([0, 0, 0, 0, 500])
    assert found.value == 100
    assert 0 <= found.low <= found.value <= found.high <= 500
    assert study.over_seeds([3.0, 3.0]) == (3, 3, 3)
    assert study.over_seeds([3.0]) == (3, 3, 3)


@pytest.mark.parametrize("seeds", [5, 10, 30])
@pytest.mark.parametrize("law", ["normal", "bimodal"])
def test_intervals_cover_what_they_should(seeds, law):
    """Percentiles that are not expanded cover the mean of five normal values in 83% of cases."""
    rng, hits = np.random.default_rng(seeds), 0
    for _ in range(200):
        x = rng.standard_normal(seeds) if law == "normal" else (rng.random(seeds) < 0.5) + 0.05 * rng.random(seeds)
        found = study.over_seeds(x)
        hits += found.low <= (0 if law == "normal" else 0.525) <= found.high
    assert hits / 200 > (0.86 if seeds == 5 else 0.9)


def test_intervals_are_those_of_student_for_many_normal_values():
    x = np.random.default_rng(0).standard_normal(200)
    found, half = study.over_seeds(x), 1.972 * x.std(ddof=1) / 200**0.5
    np.testing.assert_allclose(found, [x.mean(), x.mean() - half, x.mean() + half], atol=0.01)


def test_samples_are_resampled_each_on_its_own():
    assert study.over_seeds([0, 0, 0], [1, 1, 1]) == (0.5, 0.5, 0.5)
    together, apart = study.over_seeds([0, 1, 2, 10, 11, 12]), study.over_seeds([0, 1, 2], [10, 11, 12])
    assert together.value == apart.value == 6
    assert apart.high - apart.low < (together.high - together.low) / 2


def test_a_task_for_every_combination():
    assert study.grid(a="xy", b=range(2)) == [{"a": a, "b": b} for a in "xy" for b in range(2)]


def test_paired_differences():
    found = study.paired([3, 4, 5, 6, 7], [1, 3, 4, 4, 5])
    assert found.value == pytest.approx(1.6)
    assert found.low > 0
    assert found.p == 2 / 2**5  # all five seeds lead: nothing is more extreme but its mirror image
    assert study.paired([1.0, 2.0], [1.0, 2.0]).p == 1


def test_shares():
    assert study.share([True] * 16) == (1, pytest.approx(0.794, abs=1e-3), 1)
