"""The command line, as a user runs it."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

import ordergrad
from ordergrad.commands.cli import app
from ordergrad.report.explain import draw, explain, shares
from ordergrad.weights import rank_weights

runner = CliRunner()


def run(*arguments: str, columns: int = 120) -> tuple[int, str]:
    result = runner.invoke(app, list(arguments), env={"COLUMNS": str(columns), "TERM": "dumb"})
    return result.exit_code, result.output


def test_the_version_is_the_same_everywhere() -> None:
    assert run("--version") == (0, f"ordergrad {ordergrad.__version__}\n")
    assert ordergrad.__version__ == metadata.version("ordergrad")


def test_explain_prints_weights_spectrum_and_risk() -> None:
    code, output = run("explain", "cvar:0.1@16")
    assert code == 0
    assert "expected shortfall" in " ".join(output.split())
    assert "0.625" in output  # the weight of rank 1: 1 of the 1.6 ranks in the tail
    assert "0.3125" in output  # its sample weight at N = 32
    assert "-1.7550" in output  # the population CVaR of a normal reward
    assert "█" in output


def test_zero_has_no_minus() -> None:
    for objective in ("mean", "median", "lmoment:3"):
        code, output = run("explain", objective)
        assert code == 0, output
        assert "0.0000" in output
        assert "-0.0000" not in output


def test_explain_writes_a_picture(tmp_path) -> None:
    file = tmp_path / "median.png"
    code, output = run("explain", "median", "--n", "9", "--plot", str(file))
    assert code == 0, output
    pixels = matplotlib.image.imread(file)
    assert pixels.shape[0] > 400
    assert pixels.std() > 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("maxx@4",), "did you mean 'max'?"),
        (("max@9", "--n", "5"), "k must satisfy 1 <= k <= n; got k=9, n=5"),
        (("max@1e9",), "n must satisfy n <= 10000 to be explained; got n=2000000000, twice the size of max@1000000000"),
        (("max@1e9", "--n", "8"), "k must satisfy 1 <= k <= n; got k=1000000000, n=8"),
        (("mean", "gini", "--n", "20000000"), "n must satisfy n <= 10000 to be explained; got n=20000000"),
        (("median", "--n", "0"), "n must satisfy n >= 1; got n=0"),
        (("mean", "--plot", "picture.doc"), "must end in one of"),
        (("mean", "--plot", "no/such/folder/picture.png"), "existing folder"),
    ],
)
def test_explain_refuses_bad_input(arguments: tuple[str, ...], message: str) -> None:
    code, output = run("explain", *arguments)
    assert code == 2
    assert message in " ".join(output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("objective", "normal"),
    [("cvar:0.05", -2.0627), ("var:0.1", -1.2816), ("wang:0.5", -0.5), ("median", 0.0), ("uppercvar:0.05", 2.0627)],
)
def test_population_risks_of_a_normal_reward_are_the_closed_forms(objective: str, normal: float) -> None:
    _, _, population = explain(objective, 64).risks[0]
    assert population == pytest.approx(normal, abs=2e-4)


def test_finite_objectives_of_a_normal_reward_are_the_known_order_statistics() -> None:
    assert explain("max@2").risks[0][1] == pytest.approx(1 / np.sqrt(np.pi), abs=1e-8)
    assert explain("max@3").risks[0][1] == pytest.approx(1.5 / np.sqrt(np.pi), abs=1e-8)
    assert explain("gini").risks[0][1] == pytest.approx(2 / np.sqrt(np.pi), abs=1e-8)


def test_mass_lies_where_the_spectrum_is() -> None:
    assert dict(explain("min@4").mass)[0.5] == pytest.approx(1 - 0.5**0.25, abs=1e-3)
    assert dict(explain("gini").mass)[0.5] == pytest.approx(0.5, abs=1e-3)


def test_drawing_of_a_signed_spectrum_has_both_sides() -> None:
    rows = draw("gini", 2, width=10, height=4).split("\n")
    assert rows[0].endswith("█")
    assert rows[3].lstrip(" -0123456789.").startswith("│█")


def test_explain_compares_objectives(tmp_path) -> None:
    file = tmp_path / "three.png"
    code, output = run("explain", "mean", "max@4", "gini", "--plot", str(file))
    assert code == 0, output
    rows = {line.split()[1]: line for line in output.splitlines() if line.startswith("│")}
    assert set(rows) == {"mean", "max@4", "gini"}
    assert "1.0294" in rows["max@4"]  # E max of 4 normal rewards
    assert "34.4%" in rows["max@4"]  # 1 - 0.9^4
    assert "-18.0%" in rows["gini"]
    pixels = matplotlib.image.imread(file)
    assert pixels.shape[0] > 400
    assert pixels.std() > 0.05


def test_a_comparison_fits_a_narrow_terminal() -> None:
    long = "0.5*mean+0.5*cvar:0.05@100"
    for objectives, columns in ((("mean", "cvar:0.1", "max@4"), 72), (("median", "wang:0.5", "max@12"), 80)):
        code, output = run("explain", *objectives, columns=columns)
        assert code == 0, output
        rows = [line.split("│") for line in output.splitlines() if line.startswith("│")]
        assert [row[1].strip() for row in rows] == list(objectives)
        assert all(len(row) == 9 for row in rows)
        assert max(map(len, output.splitlines())) <= columns
    code, output = run("explain", "mean", long, "cvar:0.1", "--n", "1200", columns=80)
    rows = [line.split("│") for line in output.splitlines() if line.startswith("│")]
    assert "".join(row[1].strip() for row in rows) == "mean" + long + "cvar:0.1"
    assert all(len(row) == 9 for row in rows)  # seven columns, none cut off
    assert max(map(len, output.splitlines())) <= 80


def test_explain_compares_at_one_group_size() -> None:
    code, output = run("explain", "cvar:0.1", "max@12")
    assert code == 0, output
    assert "groups of 24" in output
    code, output = run("explain", "mean", "max@12", "--n", "8")
    assert code == 2
    assert "k must satisfy" in " ".join(output.replace("│", " ").split())


def test_shares_add_up_to_the_mass() -> None:
    for objective in ("mean", "cvar:0.1@15", "top:2@4", "gini"):
        assert sum(shares(objective, 15)) == pytest.approx(rank_weights(objective, 15).sum(), abs=2e-6)


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "ordergrad", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"ordergrad {ordergrad.__version__}\n"


@pytest.mark.parametrize("command", ["", "explain", "score", "advise", "report", "train", "train rl", "train llm"])
def test_every_command_has_short_help(command: str) -> None:
    code, output = run(*command.split(), "-h")
    assert code == 0
    assert (code, output) == run(*command.split(), "--help")
    assert "Usage: " in output


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_any_encoding(encoding: str, tmp_path: Path) -> None:
    """Characters that a terminal cannot show are spelled out, not a traceback."""
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f'{{"group": {i // 4}, "reward": {i % 3 // 2}}}\n' for i in range(40)))
    env = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "90"}
    for arguments in (
        ["score", str(log)],
        ["advise", "normal", "--goal", "worst 5%"],
        ["explain", "max@4", "cvar:0.1"],
    ):
        run = subprocess.run([sys.executable, "-m", "ordergrad", *arguments], env=env, capture_output=True, check=False)
        assert run.returncode == 0, run.stderr
        assert run.stdout.decode(encoding)


def test_explain_as_json() -> None:
    result = CliRunner().invoke(app, ["explain", "max@4", "cvar:0.1", "--n", "8", "--json"])
    assert result.exit_code == 0
    first, second = json.loads(result.stdout)["objectives"]
    assert (first["objective"], first["n"], first["k"], second["k"]) == ("max@4", 8, 4, 7)
    assert first["rank_weights"] == [0, 0, 0, 1]
    assert sum(first["sample_weights"]) == pytest.approx(1)
    assert set(first) == {"objective", "n", "k", "note", "terms", "rank_weights", "sample_weights", "risks"}


@pytest.mark.parametrize("width", ["40", "60", "100"])
def test_no_table_breaks_an_objective_into_another(width: str, tmp_path: Path) -> None:
    objectives = ["0.25*mean+0.75*cvar:0.05@100", "top:2@4", "trimmed:0.125@64"]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f'{{"group": {i // 128}, "reward": {i % 7}}}\n' for i in range(512)))
    options = [part for objective in objectives for part in ("-o", objective)]
    for arguments in (["score", str(log), *options], ["explain", *objectives, "--n", "128"]):
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": width, "TERM": "dumb"})
        assert result.exit_code == 0, result.output
        for term in ("0.75*cvar:0.05@100", "top:2@4", "trimmed:0.125@64"):
            assert term in result.output
