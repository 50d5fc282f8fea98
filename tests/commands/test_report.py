"""`ordergrad report`: what its page says is what the runs hold, and the page needs nothing but itself."""

import base64
import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from report_runs import LLM, RL, llm_run, returns, rl_run, score_run, successes
from typer.testing import CliRunner

import ordergrad as og
from ordergrad.commands.cli import app
from ordergrad.runs.folder import run_folder, write_csv
from ordergrad.runs.plots import COLOURS, DASHES
from ordergrad.runs.statistics import pass_at_k
from ordergrad.runs.tables import number_text as number

ROOT = Path(__file__).parents[2]
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """The elements of a page: well nested or an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.heading = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        if tag in ("td", "th"):
            self.tables[self.heading][-1].append("")
        if tag == "h3":
            self.heading = ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if "script" in self.open or "style" in self.open:
            return
        self.text.append(data.strip())
        if self.open and self.open[-1] == "h3":
            self.heading += data.strip()
        if "td" in self.open or "th" in self.open:
            self.tables[self.heading][-1][-1] += data.strip()

    @property
    def words(self) -> str:
        return " ".join(part for part in self.text if part)


def report(*arguments) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*arguments) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def numbers(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """A run of each kind, each with its report."""
    out = tmp_path_factory.mktemp("runs")
    runs = {"rl": rl_run(out / "rl"), "llm": llm_run(out / "llm"), "score": score_run(out / "score")}
    for run in runs.values():
        report(run)
    report(*runs.values(), rl_run(out / "more", replace(RL, objectives=("gini",))), "--out", out / "all.html")
    return runs | {"all": out}


def page_of(made: dict[str, Path], name: str) -> tuple[str, Page]:
    text = (made[name] / ("all.html" if name == "all" else "report.html")).read_text()
    return text, Page(text)


@pytest.mark.parametrize("name", ["rl", "llm", "score", "all"])
def test_the_page_is_whole_small_and_needs_nothing_else(made, name) -> None:
    text, page = page_of(made, name)
    assert len(text) < 3e6
    ids = [own["id"] for _, own in page.attributes if "id" in own]
    assert len(set(ids)) == len(ids)
    named = set(re.findall(r"url\(#([^)]+)\)", text)) | {
        own[key][1:] for _, own in page.attributes for key in ("href", "xlink:href") if own.get(key, "")[:1] == "#"
    }
    assert named <= set(ids)
    for tag, own in page.attributes:
        for key in ("src", "href", "xlink:href", "action", "srcset"):
            assert own.get(key, "#").startswith(("#", "data:")), (tag, own)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", text)


@pytest.mark.parametrize("name", ["rl", "llm", "score"])
def test_every_figure_lies_beside_as_a_picture_and_as_numbers(made, name) -> None:
    _, page = page_of(made, name)
    folder = made[name] / "report-figures"
    figures = {own["id"] for tag, own in page.attributes if tag == "figure"}
    assert len(figures) >= 5
    assert {path.stem for path in folder.glob("*.png")} == {path.stem for path in folder.glob("*.csv")} == figures
    links = {own["download"]: own["href"] for _, own in page.attributes if "download" in own}
    for figure in figures:
        assert matplotlib.image.imread(folder / f"{figure}.png").std() > 0.01
        content = base64.b64decode(links[f"{figure}.csv"].split(",")[1]).decode()
        assert content == (folder / f"{figure}.csv").read_text()
        assert len(list(csv.reader(io.StringIO(content)))) > 1


def test_the_table_has_the_value_of_every_objective_under_every_policy(made) -> None:
    _, page = page_of(made, "rl")
    header, *rows = page.tables["Every objective under every policy"]
    assert header == ["trained on", "mean", "cvar:0.1", "max@8"]
    assert [row[0] for row in rows] == ["cvar:0.1", "mean", "max@8"]
    for index, row in enumerate(rows):
        for objective, cell in zip(header[1:], row[1:], strict=True):
            seeds = [float(og.value(returns(index, seed, RL.episodes), objective)) for seed in (0, 1)]
            half = 12.706204736 * np.std(seeds, ddof=1) / np.sqrt(2)  # Student's t with one degree of freedom
            assert cell == f"{number(np.mean(seeds))} ± {number(half, 2)}"


def test_the_figures_of_an_rl_run_are_its_episodes_and_metrics(made) -> None:
    folder = made["rl"] / "report-figures"
    both = np.concatenate([returns(1, seed, RL.episodes) for seed in (0, 1)])
    rows = [row for row in numbers(folder / "quantiles.csv") if row["contender"] == "mean"]
    for row in rows:
        u, value = float(row["u"]), float(row["value"])
        if row["curve"] == "quantile":
            assert value == pytest.approx(np.quantile(both, u, method="hazen"), rel=1e-5)
        else:
            assert value == pytest.approx(1)  # the mean weighs all levels alike
    tail = [
        row for row in numbers(folder / "quantiles.csv") if (row["contender"], row["curve"]) == ("cvar:0.1", "spectrum")
    ]
    expected = og.spectrum("cvar:0.1", np.array([float(row["u"]) for row in tail]), k=30)  # updates rank 31 episodes
    np.testing.assert_allclose([float(row["value"]) for row in tail], expected, rtol=1e-4, atol=1e-4)
    shares = [float(row["share"]) for row in numbers(folder / "returns.csv") if row["contender"] == "mean"]
    assert sum(shares) == pytest.approx(1)
    [curve] = folder.glob("learning-*-mean.csv")
    last = [row for row in numbers(curve) if row["contender"] == "mean"][-1]
    assert (last["step"], last["mean"], last["lowest_seed"], last["highest_seed"]) == ("2000", "23.5", "23", "24")


def test_the_numbers_of_an_llm_run_are_its_successes(made) -> None:
    _, page = page_of(made, "llm")
    runs = [(successes(1, seed, LLM), 16) for seed in (0, 1)]
    middle, low, high = pass_at_k(runs, [4])[0]
    header, *rows = page.tables["pass@k in percent"]
    row = next(row for row in rows if row[0] == "top:2@4")
    assert row[header.index("k=4")] == f"{number(100 * middle, 3)} ± {number(50 * (high - low), 2)}"
    header, *rows = page.tables["Every objective under every model"]
    assert header == ["trained on", "mean", "top:2@4", "cvar:0.25"]
    row = next(row for row in rows if row[0] == "top:2@4")
    outcomes = [(np.arange(16) < good[:, None]).astype(float) for good, _ in runs]
    for objective, cell in zip(("mean", "top:2@4", "cvar:0.25@7"), row[1:], strict=True):
        assert cell.split(" ")[0] == number(np.mean([og.value(o, objective).mean() for o in outcomes]))
    rows = numbers(made["llm"] / "report-figures" / "pass-at-k.csv")
    found = next(row for row in rows if (row["contender"], row["k"]) == ("top:2@4", "4"))
    assert float(found["value"]) == pytest.approx(middle, rel=1e-5)


def test_the_numbers_of_a_score_are_its_results(made) -> None:
    _, page = page_of(made, "score")
    assert page.tables["Every objective under every log"][1:] == [
        ["mean", "0.25 ± 0.2", "1.25 ± 0.2"],
        ["max@4", "0.75 ± 0.2", "1.75 ± 0.2"],
    ]
    assert page.tables["Comparisons"][1] == ["b − a", "mean", "1", "[0.8, 1.2]", "1e−05", "paired, 40 pairs"]
    assert ["a", "max@4", "25.0%", "3.5", "40.0%"] in page.tables["What carries the gradient"]
    assert "broken rows left out: 2;" in page.words
    rows = numbers(made["score"] / "report-figures" / "rewards.csv")
    share = sum(float(row["share"]) for row in rows if row["contender"] == "a" and float(row["from"]) >= 0.5)
    assert share == pytest.approx(0.25, abs=0.01)


def test_settings_versions_and_command_are_there(made) -> None:
    text, page = page_of(made, "rl")
    config = json.loads((made["rl"] / "config.json").read_text())
    settings = dict(page.tables["Settings"][1:])
    assert settings["env_id"] == "CartPole-v1"
    assert settings["objectives"] == json.dumps(config["settings"]["objectives"])
    assert set(settings) == set(config["settings"])
    assert dict(page.tables["Versions"][1:]) == config["versions"]
    assert "The exact command" in text
    assert config["command"] in page.words


def test_several_runs_share_pictures_where_they_are_comparable(made) -> None:
    _, page = page_of(made, "all")
    assert "Together: rl, more" in page.words
    header, *rows = page.tables["Every objective under every policy"][:5]
    assert header == ["trained on", "mean", "cvar:0.1", "max@8", "gini"]
    assert [row[0] for row in rows] == ["cvar:0.1 · rl", "mean · rl", "max@8 · rl", "gini · more"]
    assert page.tables["Settings of train rl"][0] == ["setting", "rl", "more"]
    assert page.tables["Settings of score"][0] == ["setting", "score"]
    assert page.tables["Versions"][0] == ["version", "rl", "llm", "score", "more"]


@pytest.mark.parametrize("kind", ["llm", "score"])
def test_models_and_logs_share_pictures_too(tmp_path, kind) -> None:
    make = {"llm": llm_run, "score": score_run}[kind]
    report(make(tmp_path / "one"), make(tmp_path / "two"), "--out", tmp_path / "both.html")
    page = Page((tmp_path / "both.html").read_text())
    assert "Together: one, two" in page.words
    wanted = {"llm": ["warm start · one", "grpo · two", "max@4..mean · two"], "score": ["a · one", "b · two"]}[kind]
    both = numbers(tmp_path / "both-figures" / "1-together-one-two-pass-at-k.csv")
    assert set(wanted) <= {row["contender"] for row in both}


@pytest.mark.parametrize(
    ("make", "settings", "other", "text"),
    [
        (rl_run, RL, {"env_id": "Acrobot-v1"}, "env_id (CartPole-v1, Acrobot-v1)"),
        (llm_run, LLM, {"eval_problems": 20}, "eval_problems (30, 20)"),
        (llm_run, LLM, {"success": 0.5}, "success (1.0, 0.5)"),
        (
            llm_run,
            LLM,
            {"samples": 4, "data": "countdown:5:9:99"},
            "data (countdown, countdown:5:9:99); samples (8, 4)",
        ),
    ],
)
def test_what_keeps_runs_apart_is_named(tmp_path, make, settings, other, text) -> None:
    report(make(tmp_path / "one"), make(tmp_path / "two", replace(settings, **other)), "--out", tmp_path / "both.html")
    page = Page((tmp_path / "both.html").read_text())
    assert f"Not drawn together: these runs differ in {text}. Each has a section of its own." in page.words


def stars(text: str, title: str) -> list[list[bool]]:
    """Which cells of a table are marked as the best."""
    table = text[text.index(title) :].split("</table>")[0]
    return [["best" in cell for cell in re.findall(r"<t[dh][^>]*>", row)] for row in table.split("<tr")[2:]]


def test_ties_of_all_are_not_marked(tmp_path) -> None:
    run = llm_run(tmp_path / "run", replace(LLM, objectives=("mean", "grpo"), seeds=1))
    nothing = [(i, 0, LLM.eval_samples, 9.5) for i in range(LLM.eval_problems)]
    for folder in (run / "warm-start", run_folder(run, "mean", 0), run_folder(run, "grpo", 0)):
        write_csv(folder / "evaluation.csv", ("problem", "successes", "samples", "mean_length"), nothing)
    report(run)
    text = (run / "report.html").read_text()
    for title in ("Every objective under every model", "pass@k in percent"):
        assert Page(text).tables[title][1][1].startswith("0 ±")
        assert not any(map(any, stars(text, title)))
    some = [(i, i % 2, LLM.eval_samples, 9.5) for i in range(LLM.eval_problems)]
    write_csv(run_folder(run, "mean", 0) / "evaluation.csv", ("problem", "successes", "samples", "mean_length"), some)
    report(run, "--overwrite")
    found = stars((run / "report.html").read_text(), "pass@k in percent")
    assert [any(row) for row in found] == [False, True, False]


def test_values_of_different_numbers_of_episodes_are_not_ranked(tmp_path) -> None:
    one, two = rl_run(tmp_path / "one"), rl_run(tmp_path / "two", replace(RL, episodes=100))
    report(one, two, "--out", tmp_path / "both.html")
    text = (tmp_path / "both.html").read_text()
    assert "Not marked: cvar:0.1, at K = N of runs with different N episodes." in Page(text).words
    columns = list(zip(*stars(text, "Every objective under every policy"), strict=True))
    assert [any(column) for column in columns] == [False, True, False, True]  # name, mean, cvar:0.1, max@8


def test_values_at_different_comparison_sizes_are_not_ranked(tmp_path) -> None:
    logs = []
    for n in (4, 8):
        rewards = np.random.default_rng(n).random((20, n)) + (n == 8)  # better beyond the interval
        path = tmp_path / f"n{n}.jsonl"
        rows = [json.dumps({"group": g, "reward": r}) for g, row in enumerate(rewards.tolist()) for r in row]
        path.write_text("\n".join(rows[n // 4 :]))  # the first group is smaller
        logs.append(str(path))
    command = ["score", *logs, "-o", "mean", "-o", "cvar:0.3", "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(app, command).exit_code == 0
    report(tmp_path / "run")
    text = (tmp_path / "run" / "report.html").read_text()
    page = Page(text)
    assert [row[:2] for row in page.tables["Comparisons"][1:]] == [
        ["n8.jsonl − n4.jsonl", "mean"],
        ["n8.jsonl − n4.jsonl", "cvar:0.3@4"],
    ]
    assert "Not marked: cvar:0.3, at K = N of each group" in page.words
    assert "n8.jsonl: cvar:0.3: averaged over groups at K = N of their own, 6 to 8" in page.words
    assert [any(row) for row in stars(text, "Every objective under every log")] == [True, False]


def test_an_unfinished_run_says_so(tmp_path) -> None:
    run = rl_run(tmp_path / "run", evaluate=False)
    (run_folder(run, "max@8", 1) / "metrics.jsonl").unlink()
    report(run)
    page = Page((run / "report.html").read_text())
    assert "Unfinished: cvar:0.1, seed 0, is at step 2,000 of 2,000 and not evaluated yet." in page.words
    assert "Unfinished: max@8, seed 1, is at step 0 of 2,000" in page.words
    assert "Every objective under every policy" not in page.tables
    assert list((run / "report-figures").glob("learning-*.png"))
    rl_run(tmp_path / "part")
    (run_folder(tmp_path / "part", "mean", 1) / "evaluation.csv").unlink()
    report(tmp_path / "part")
    page = Page((tmp_path / "part" / "report.html").read_text())
    assert "Unfinished: mean, seed 1" in page.words
    row = next(row for row in page.tables["Every objective under every policy"] if row[0] == "mean")
    assert row[1].split(" ")[0] == number(float(og.value(returns(1, 0, RL.episodes), "mean")))


def test_committed_results(tmp_path) -> None:
    runs = [ROOT / "experiments/results/train_rl" / name for name in ("cartpole", "lunarlander")]
    report(*runs, "--out", tmp_path / "new.html")
    page = Page((tmp_path / "new.html").read_text())
    assert "the folder has the table of results, not the episodes and curves behind it" in page.words
    assert ["cvar:0.1", "145.6 ± 34", "20.57 ± 91"] in page.tables["Every objective under every policy"]
    assert "The exact command" in page.words


def test_results_of_an_earlier_version(tmp_path) -> None:
    runs = [Path(__file__).parent / "earlier_results" / name for name in ("cartpole", "lunarlander")]
    report(*runs, "--out", tmp_path / "old.html")
    page = Page((tmp_path / "old.html").read_text())
    assert "the folder has the table of results, not the episodes and curves behind it" in page.words
    assert ["cvar:0.1", "496.2 ± 2.7", "461.8 ± 27"] in page.tables["Every objective under every policy"]
    assert "The exact command" not in page.words


def test_nothing_is_overwritten_silently(tmp_path) -> None:
    run = rl_run(tmp_path / "run")
    report(run)
    before = (run / "report.html").read_bytes()
    assert "--overwrite" in refusal(run)
    assert (run / "report.html").read_bytes() == before
    assert "once" in refusal(run, run, "--out", tmp_path / "x.html")
    report(run, "--overwrite")


def test_bad_input_is_told_before_any_work(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refusal(tmp_path / "empty")
    assert "is not a folder" in refusal(tmp_path / "nowhere")
    assert "a\\[/b] is not a folder" in refusal(r"a\[/b]")
    run = rl_run(tmp_path / "run")
    assert "must end in .html" in refusal(run, "--out", tmp_path / "report.pdf")
    assert "existing folder" in refusal(run, "--out", tmp_path / "no" / "report.html")
    (run / "config.json").write_text("{}")
    assert "is not the configuration of a run" in refusal(run)
    (run / "config.json").write_text(json.dumps({"kind": "dance", "settings": {}, "versions": {}}))
    assert "of the kind 'dance'" in refusal(run)
    score = score_run(tmp_path / "score")
    (score / "results.json").write_text("{}")
    assert "results.json is damaged" in refusal(score)
    other = rl_run(tmp_path / "other")
    (run_folder(other, "mean", 0) / "evaluation.csv").write_text("return,length\nx,1\n")
    assert "is damaged" in refusal(other)
    assert not list(tmp_path.rglob("*.html"))


def test_names_in_a_page_are_text_not_markup(tmp_path) -> None:
    run = rl_run(tmp_path / "<b>&run", replace(RL, env_args={"name": "<script>alert(1)</script>"}))
    report(run)
    page = Page((run / "report.html").read_text())
    assert sum(tag == "script" for tag, _ in page.attributes) == 1
    assert "<b>&run" in page.words


def machado(kind: str) -> np.ndarray:
    """How colours look to dichromats, linear RGB (Machado, Oliveira and Fernandes 2009, table 1, severity 1)."""
    rows = {
        "normal": "1 0 0 0 1 0 0 0 1",
        "protan": "0.152286 1.052583 -0.204868 0.114503 0.786281 0.099216 -0.003882 -0.048116 1.051998",
        "deutan": "0.367322 0.860646 -0.227968 0.280085 0.672501 0.047413 -0.011820 0.042940 0.968881",
        "tritan": "1.255528 -0.076749 -0.178779 -0.078411 0.930809 0.147602 0.004733 0.691367 0.303900",
    }
    return np.array(rows[kind].split(), dtype=float).reshape(3, 3)


def linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089], 0.008856, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def palettes() -> list[list[str]]:
    css = (ROOT / "src/ordergrad/report/templates/report.css").read_text()
    found = re.findall(r"--series-(\d): (#\w{6})", css)
    count = len(COLOURS)
    return [[colour for _, colour in found[i : i + count]] for i in (0, count)]


@pytest.mark.parametrize("eyes", ["normal", "protan", "deutan", "tritan"])
@pytest.mark.parametrize("index", [0, 1], ids=["light", "dark"])
def test_curves_can_be_told_apart_by_colour_blind_readers(eyes, index) -> None:
    palette = palettes()[index]
    seen = [lab(machado(eyes) @ linear(colour)) for colour in palette]
    for (i, a), (j, b) in combinations(enumerate(seen), 2):
        assert np.linalg.norm(a - b) > (10 if i % len(DASHES) != j % len(DASHES) else 20), (i, j)
    if index == 0:
        assert palette[:-1] == [colour.lower() for colour in COLOURS[:-1]]
