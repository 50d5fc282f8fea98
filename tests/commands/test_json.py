"""`--json` and `--quiet` of every command, as scripts run them: one document with the documented keys, or nothing."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/commands/scripts.md").read_text()
RL = (
    *("train", "rl", "CartPole-v1", "-o", "cvar:0.1", "--seeds", "2", "--steps", "512", "--envs", "4"),
    *("--rollout", "64", "--min-episodes", "4", "--episodes", "20", "--jobs", "2"),
)
LLM = (
    *("train", "llm", "-o", "top:2@3", "--seeds", "2", "--steps", "2", "--prompts", "2", "--samples", "4"),
    *("--warm-steps", "2", "--eval-problems", "4", "--eval-samples", "4", "--jobs", "2"),
)


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "ordergrad", *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)


def document(*arguments: object, cwd: Path) -> dict:
    done = command(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def documented(section: str) -> str:
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def check_keys(section: str, content: dict, *tables: str) -> None:
    """The keys of a document, and those of the first row of its tables, are on the page."""
    text = documented(section)
    for key in [*content, *(key for table in tables for key in content[table][0])]:
        assert f"`{key}`" in text, key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("json")
    rows = [{"prompt": i // 8, "reward": int(i % 8 < i // 8), "step": 1, "tokens": 5, "format": 1} for i in range(64)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_score_and_report(folder: Path) -> None:
    content = document("score", "log.jsonl", "--out", "score", cwd=folder)
    check_keys("score", content, "findings")
    [log] = content["logs"]
    check_keys("score", log, "values", "signal", "outcomes", "curves", "steps", "entropy", "generated", "formats")
    assert content == json.loads((folder / "score/results.json").read_text())
    content = document("report", "score", cwd=folder)
    check_keys("report", content)
    assert Path(folder, content["report"]).is_file()
    assert {path.stem for path in Path(folder, content["figures"]).iterdir()} == set(content["pictures"])


def test_advise_and_explain(folder: Path) -> None:
    content = document("advise", "log.jsonl", "--goal", "pass@4", cwd=folder)
    check_keys("advise", content, "candidates")
    content = document("explain", "max@4", cwd=folder)
    check_keys("explain", content, "objectives")


def test_train_rl(folder: Path) -> None:
    content = document(*RL, "--out", "rl", cwd=folder)
    check_keys("train rl", content, "values")
    assert content["finished"] is True
    assert content["values"] == json.loads((folder / "rl/results.json").read_text())
    assert all((folder / "rl" / file).is_file() for file in content["files"])
    content = document("play", "rl", "--episodes", "3", cwd=folder)
    check_keys("play", content, "episodes")
    assert content["chosen"] in content["episodes"]


def test_train_llm_and_eval(folder: Path) -> None:
    content = document(*LLM, "--out", "llm", cwd=folder)
    check_keys("train llm", content, "pass_at_k", "measures", "leads")
    assert content["finished"] is True
    assert all((folder / "llm" / file).is_file() for file in content["files"])
    models = ["llm/warm-start", "llm/runs/top-2@3/seed-0/model"]
    content = document(
        *("eval", *models, "--data", "countdown", "--samples", "2", "--problems", "2", "--out", "eval"), cwd=folder
    )
    check_keys("eval", content, "measures", "leads")
    assert all((folder / "eval" / file).is_file() for file in content["files"])


def test_quiet(folder: Path) -> None:
    for arguments in (("score", "log.jsonl"), (*RL, "--out", "quiet"), ("report", "quiet")):
        done = command(*arguments, "--quiet", cwd=folder)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("arguments", [("train", "rl", "Nothing-v0", "-o", "mean"), ("score", "nothing.csv")])
def test_errors_leave_standard_output_empty(folder: Path, arguments: tuple[str, ...]) -> None:
    done = command(*arguments, "--json", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error" in done.stderr


def test_an_interrupted_run_says_so(folder: Path) -> None:
    long = [word if word != "512" else "10000000" for word in RL]
    words = [sys.executable, "-m", "ordergrad", *long, "--out", "stopped", "--json"]
    run = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("stopped/**/metrics.jsonl")):
        time.sleep(0.2)
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 130, errors
    assert json.loads(output) == {"out": "stopped", "finished": False}
