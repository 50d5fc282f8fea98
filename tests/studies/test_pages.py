"""The numbers on the pages of the studies follow from the committed results; no interval leaves the possible range."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies import FOLDER, load, read

RESULTS, PAGES = FOLDER / "results", FOLDER.parent / "docs" / "studies"
study = load("study")

# The range of what is measured, by file and measure; a share of seeds or episodes lies in [0, 1].
CARTPOLE = (0.0, 500.0)
SHARE = (0.0, 1.0)


def tables() -> list[Path]:
    return [path for path in sorted(RESULTS.rglob("*.csv")) if {"low", "high"} <= set(header(path))]


def header(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return next(csv.reader(file))


@pytest.mark.parametrize("path", tables(), ids=lambda path: path.relative_to(RESULTS).as_posix())
def test_values_lie_in_their_intervals(path):
    rows = study.read_table(path)
    name = next(n for n in ("value", "lead", "ratio", "end", "cvar:0.2") if n in rows[0])
    for row in rows:
        if row[name] == row[name]:  # not NaN
            assert row["low"] <= row[name] + 1e-4 * abs(row[name]), row
            assert row[name] <= row["high"] + 1e-4 * abs(row[name]), row


def test_no_interval_leaves_the_possible_range():
    for row in study.read_table(RESULTS / "robustness/parts.csv"):
        low, high = SHARE if row["part"] == "parser" else CARTPOLE
        assert low <= row["low"] <= row["high"] <= high, row
    for row in study.read_table(RESULTS / "robustness/bandit.csv"):
        assert SHARE[0] <= row["low"] <= row["high"] <= SHARE[1], row
    for where, (low, high) in shares():
        assert SHARE[0] <= low <= high <= SHARE[1], where


def shares() -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield where and what of every interval of a share in the summaries."""
    names = {"found", "settled", "nothing", "decoy", "treasure", "goal", "risky"}
    for path in sorted(RESULTS.rglob("summary.json")):
        for keys, value in leaves(json.loads(path.read_text())):
            if keys[-1] in names and isinstance(value, list):
                yield f"{path.relative_to(RESULTS)}: {keys}", (value[1], value[2])
            elif keys[-1] == "interval":
                yield f"{path.relative_to(RESULTS)}: {keys}", (value[0], value[1])


def leaves(content, keys=()):
    if not isinstance(content, dict):
        yield keys, content
        return
    for key, value in content.items():
        yield from leaves(value, (*keys, key))


def test_the_leads_follow_from_the_runs():
    robustness, runs = load("robustness"), study.read_table(RESULTS / "robustness/runs.csv")
    agree(robustness.leads(runs), RESULTS / "robustness/leads.csv")
    table = study.intervals(runs, ("part", "trained", "setting", "rate"), ("clean",))
    agree(table, RESULTS / "robustness/parts.csv")


@pytest.mark.parametrize("task", ["pendulum", "lander", "lander_earlier"])
def test_the_leads_of_risky_control_follow_from_the_runs(task):
    folder = RESULTS / "risky_control" / task
    agree(load("risky_control").leads(study.read_table(folder / "runs.csv")), folder / "leads.csv")


def agree(rows, path):
    """Check that records are those of a table, up to its digits."""
    expected = study.read_table(path)
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        for name, value in other.items():
            assert row[name] == (
                pytest.approx(value, rel=1e-3, abs=1e-3) if isinstance(value, (int, float)) else value
            ), name


def test_the_ratios_of_variances_are_those_of_the_noise():
    """An average of ratios of small batches would not be."""
    for row in study.read_table(RESULTS / "pathwise/ratios.csv"):
        if row["ratio"] == row["ratio"]:
            assert (row["pathwise"] / row["likelihood"]) ** 2 == pytest.approx(row["ratio"], rel=2e-3)


# Pages --------------------------------------------------------------------------------------------------------------

PEERS = {"range": "`mean`, clipped to the known range", "sd": "`mean`, clipped at c sd", "mad": "`mean` in MADs"}
PEERS |= {"huber": "Huber's score", "trimmed": "`trimmed:p`", "winsorized": "`winsorized:p`"}


def robustness_rows() -> list[str]:
    """Return the rows of the page's tables: the clean value in every part, and the leads of trimming."""
    found = {(r["part"], r["trained"]): r for r in study.read_table(RESULTS / "robustness/parts.csv")}
    leads = {(r["part"], r["trained"], r["against"]): r for r in study.read_table(RESULTS / "robustness/leads.csv")}
    parts = list(dict.fromkeys(part for part, _ in found))

    def cell(row, part, key):
        unit, digits = (100, 1) if part == "parser" else (1, 0)
        return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(unit * row[k] for k in (key, "low", "high")), d=digits)

    rows: list[str] = []
    for name in dict.fromkeys(name for _, name in found):
        cells = [cell(found[part, name], part, "value") for part in parts]
        rows.append("| " + " | ".join([PEERS.get(name, f"`{name}`"), *cells]) + " |")
        if name in ("mean", "range", "sd", "huber"):
            apart = [leads[part, "trimmed", name] for part in parts]
            cells = [cell(r, part, "lead") + f", p = {r['p']:.2g}" for r, part in zip(apart, parts, strict=True)]
            rows.append("| " + " | ".join([PEERS.get(name, f"`{name}`"), *cells]) + " |")
    return rows


CORRUPTIONS = [("both", 0.0, 30), ("both", 0.05, 30), ("both", 0.05, 100), ("both", 0.2, 30), ("both", 0.4, 30)]
CORRUPTIONS += [("decoy", 0.05, 30), ("decoy", 0.3, 30)]
BANDITS = {"mean": "`mean`", "sd:1": "`mean`, clipped at 1 sd", "huber:1": "Huber's score, 1 MAD"}


def bandit_rows() -> list[str]:
    """Return the rows of the bandit's table, intervals where they are wider than 0.001."""
    found = {
        (r["contender"], r["kind"], r["share"], r["size"]): r
        for r in study.read_table(RESULTS / "robustness/bandit.csv")
    }
    rows: list[str] = []
    for name in dict.fromkeys(name for name, *_ in found if name not in ("sd:10", "mad")):
        cells = []
        for case in CORRUPTIONS:
            value, low, high = (found[name, *case][key] for key in ("end", "low", "high"))
            cells.append(f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if high - low > 0.0015 else ""))
        rows.append("| " + " | ".join([BANDITS.get(name, f"`{name}`"), *cells]) + " |")
    return rows


PATHWISE = ["mean", "gini", *(f"max@{k}" for k in (2, 4, 8, 16, 32, 64, 128, 255))]
PATHWISE += [f"{kind}@{k}" for kind in ("cvar:0.1", "median") for k in (8, 32, 255)]


def pathwise_rows() -> list[str]:
    found = study.read_table(RESULTS / "pathwise/ratios.csv")
    table = {(r["problem"], r["objective"], r["k"]): r["ratio"] for r in found if r["n"] == 256}
    problems, rows = dict.fromkeys(problem for problem, _, _ in table), []
    for objective in PATHWISE:
        kind, _, k = objective.partition("@")
        cells = [table[problem, kind, int(k) if k else {"mean": 1, "gini": 2}[kind]] for problem in problems]
        rows.append(
            " ".join(["|", f"`{objective}`", "|", " | ".join(map(significant, cells)), "|"]).replace("|  |", "| |")
        )
    return rows


def significant(x: float) -> str:
    """Return a number with two digits, with three from 100 to 1000, and nothing where there is none."""
    if x != x:
        return ""
    return f"{float(f'{x:.3g}' if 100 <= x < 1000 else f'{x:.2g}'):,g}"


def test_the_tables_of_robustness():
    page = (PAGES / "robustness.md").read_text()
    assert not {*robustness_rows(), *bandit_rows()} - set(page.splitlines())


def risky_rows(task: str) -> list[str]:
    """Return the rows of the page's table of a task: every contender by what each of the others asks for."""
    summary = json.loads((RESULTS / "risky_control" / task / "summary.json").read_text())
    found, rows = summary["study"], []
    columns = ["mean", *(name for name in found if name.endswith("gini")), "cvar:0.1"]
    columns += [name for name in found if name.endswith("variance")]
    for name, measures in found.items():
        cells = ["{:.1f} [{:.1f}, {:.1f}]".format(*measures[column]) for column in columns]
        share = "{:.0f}% [{:.0f}, {:.0f}%]".format(*(100 * x for x in measures["risky"]))
        rows.append(f"| `{name}` | " + " | ".join([*cells, share]) + " |")
    return rows


@pytest.mark.parametrize("task", ["pendulum", "lander"])
def test_the_tables_of_risky_control(task):
    page = (PAGES / "risky_control.md").read_text().replace("**", "")
    assert not set(risky_rows(task)) - set(page.splitlines())


def test_the_table_of_pathwise():
    missing = set(pathwise_rows()) - set((PAGES / "pathwise.md").read_text().splitlines())
    assert not missing


def countdown_rows() -> list[str]:
    """Return the rows of the two tables of Countdown, without the names of the contenders."""
    intervals = study.read_table(RESULTS / "llm_countdown/intervals.csv")
    found = {(r["part"], r["contender"], r["step"], r["measure"]): r for r in intervals}
    measures = ("pass@1", "pass@8", "pass@64", "pass^4")
    rows = []
    for name in {r["contender"] for r in intervals if r["part"] == "study"} - {"grpo, dapo", "mean, dapo"}:
        cells = (found["study", name, 300, measure] for measure in measures)
        rows.append([f"{100 * c['value']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in cells])
    leads = {
        (r["contender"], r["measure"]): r
        for r in study.read_table(RESULTS / "llm_countdown/leads.csv")
        if r["over"] == "grpo" and "dapo" not in r["contender"]
    }
    for name in {contender for contender, _ in leads} - {"min@4"}:
        cells = (leads[name, measure] for measure in measures)
        rows.append([f"{100 * c['lead']:+.1f} [{100 * c['low']:+.1f}, {100 * c['high']:+.1f}]" for c in cells])
    return [" | ".join(row) for row in rows]


def test_the_tables_of_countdown():
    page = (PAGES / "llm_countdown.md").read_text().replace("**", "")
    assert not [row for row in countdown_rows() if row not in page]


def test_the_table_of_signals():
    page = (PAGES / "prompt_signal.md").read_text()
    rows = {(r["state"], r["scheme"]): r for r in study.read_table(RESULTS / "prompt_signal/signal.csv")}
    for _, scheme in list(rows)[: len(rows) // 3]:
        start, grpo, best = (rows[state, scheme] for state in ("start", "grpo", "max@4"))
        cells = [f"{100 * start['signal']:.0f}%", f"{start['per 1000 tokens']:.1f}"]
        cells += [
            f"{100 * grpo['signal']:.0f}%",
            f"{grpo['per 1000 tokens']:.1f}",
            f"{100 * grpo['kept in vain']:.0f}%",
        ]
        cells += [f"{100 * best['signal']:.0f}%", f"{100 * best['kept in vain']:.0f}%", f"{grpo['rare over even']:.1f}"]
        assert " | ".join(cells) in page, scheme


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_numbers_on_pages_lie_in_their_intervals(page):
    """Wherever a number stands before an interval: 365 [191, 489]."""
    number = r"(?<![\d.])[-+]?[\d,]*\.?\d+"
    for value, low, high in re.findall(
        rf"(?<!of )(?<!of\n)({number})%? \[({number})%?, ({number})%?\]", page.read_text()
    ):
        value, low, high = (float(x.replace(",", "")) for x in (value, low, high))
        assert low <= value <= high, (value, low, high)


def test_commands_are_those_of_scripts():
    for path in sorted(RESULTS.rglob("*.json")):
        command = json.loads(path.read_text()).get("command", "")
        script = re.search(r"([\w/]+\.py)", command)
        if script:
            assert (FOLDER / Path(script[1]).name).exists(), path
        assert "/work" not in command
        assert "/tmp" not in command


def test_robust_bo_makes_no_claim_before_it_has_thirty_seeds():
    seeds = len({row["seed"] for row in read(RESULTS / "robust_bo/evaluations.csv")})
    readme = (FOLDER.parent / "README.md").read_text()
    assert seeds >= 30 or "robust_bo" not in readme
