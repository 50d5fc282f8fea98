"""What `ordergrad score` says in words: tokens that teach nothing, wrong formats, outcomes that grow alike."""

import json
from dataclasses import asdict

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from ordergrad.commands.cli import app
from ordergrad.score.groups import outcome_entropy
from ordergrad.score.means import Shares
from ordergrad.score.trend import fall_of


def command(*arguments):
    result = CliRunner().invoke(app, ["score", *map(str, arguments)], env={"COLUMNS": "160", "TERM": "dumb"})
    return result.exit_code, result.output


def written(path, columns):
    pl.DataFrame(columns).write_csv(path)
    return path


def language_log(path, prompts=40, steps=8, fall=0.0):
    """Write a log of 0/1 rewards, tokens and formats, whose success rates move to 1 or 0 from step 4 on."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.3, 0.7, prompts)
    rows = {name: [] for name in ("step", "prompt", "reward", "completion_tokens", "format")}
    for step in range(steps):
        moved = rates + fall * max(step - 3, 0) * np.where(rates > 0.5, 1 - rates, -rates)
        for prompt, rate in enumerate(moved):
            for passed in rng.random(8) < rate:
                row = (step, prompt, int(passed), int(rng.integers(5, 10)), int(passed or rng.random() < 0.5))
                for values, value in zip(rows.values(), row, strict=True):
                    values.append(value)
    return written(path, rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_file_of_prompts_is_a_data_set(tmp_path, suffix):
    """Chat messages come back as they were, with what belongs to the prompt; a trainer takes the file."""
    from ordergrad.train.tasks import load_problems

    chats = [[{"role": "user", "content": f"What is {i} + {i}?"}] for i in range(3)]
    rows = [
        {"step": 1, "prompt": chat, "answer": str(2 * i), "completion": f"{j}", "reward": float(j < 2 * i), "level": i}
        for i, chat in enumerate(chats)
        for j in range(8)
    ]
    frame, log, out = pl.DataFrame(rows), tmp_path / f"log{suffix}", tmp_path / "prompts.jsonl"
    frame.write_parquet(log) if suffix == ".parquet" else frame.write_ndjson(log)
    code, output = command(log, "-o", "mean", "--prompts", out)
    assert code == 0, output
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in found] == chats
    assert [(row["action"], row["answer"], row["level"]) for row in found] == [
        ("resample", "0", 0),
        ("keep", "2", 1),
        ("keep", "4", 2),
    ]
    assert "completion" not in found[0]
    problems, _ = load_problems(str(out), "exact", 10, "")
    assert [problem["prompt"] for problem in problems] == chats


def test_prompts_of_several_columns_keep_their_names(tmp_path):
    path = written(tmp_path / "log.csv", {"task": ["a", "a", "b"], "seed": [1, 1, 2], "reward": [0, 1, 1]})
    code, output = command(path, "--group", "task+seed", "--prompts", tmp_path / "prompts.csv")
    assert code == 0, output
    rows = pl.read_csv(tmp_path / "prompts.csv").to_dicts()
    assert [(row["task"], row["seed"], row["samples"]) for row in rows] == [("a", 1, 2), ("b", 2, 1)]


def test_tokens_that_teach_nothing(tmp_path):
    path = language_log(tmp_path / "log.csv", fall=0.24)
    code, output = command(path, "-o", "mean", "-o", "max@4", "--json")
    assert code == 0, output
    content = json.loads(output)
    frame = pl.read_csv(path)
    reward = pl.col("reward")
    groups = frame.group_by("step", "prompt").agg(reward.mean(), pl.col("completion_tokens").sum().alias("tokens"))
    silent = groups.filter((reward == 0) | (reward == 1))["tokens"].sum() / groups["tokens"].sum()
    [log] = content["logs"]
    assert log["lengths"] == "tokens"
    rows = {row["objective"]: row for row in log["generated"]}
    assert rows["mean"]["value"] == pytest.approx(silent)
    assert rows["mean"]["low"] < silent < rows["mean"]["high"]
    found = {finding["kind"]: finding for finding in content["findings"]}["generated"]
    best = rows["max@4"]
    assert f"{best['value']:.0%} ({best['low']:.0%} to {best['high']:.0%}) under max@4" in found["text"]
    assert f"The least is {silent:.0%}, under mean" in found["advice"]


def test_texts_are_counted_in_characters(tmp_path):
    rows = {"prompt": [0, 0, 1, 1], "reward": [1, 0, 1, 1], "completion": ["a", "abc", "12345", "1"]}
    path = tmp_path / "log.jsonl"
    pl.DataFrame(rows).write_ndjson(path)
    [log] = json.loads(command(path, "-o", "mean", "--json")[1])["logs"]
    assert (log["lengths"], log["generated"][0]["value"]) == ("characters", 0.6)
    [log] = json.loads(command(path, "-o", "mean", "--length", "", "--json")[1])["logs"]
    assert (log["lengths"], log["generated"]) == (None, [])


def test_formats_among_the_failures(tmp_path):
    path = language_log(tmp_path / "log.csv")
    code, output = command(path, "-o", "mean", "--json")
    assert code == 0, output
    content = json.loads(output)
    failed = pl.read_csv(path).filter(pl.col("reward") == 0)
    share = (failed["format"] == 0).mean()
    [row] = content["logs"][0]["formats"]
    assert row["value"] == pytest.approx(share)
    assert 0.4 < row["low"] < share < row["high"] < 0.6
    assert f"A wrong format is in {share:.0%}" in {f["kind"]: f["text"] for f in content["findings"]}["format"]
    content = json.loads(command(path, "-o", "mean", "--format", "", "--json")[1])
    assert "format" not in {finding["kind"] for finding in content["findings"]}


def test_the_format_is_no_part_of_what_fails(tmp_path):
    """Rewards of 1 for the answer and 0.5 for the format: a right format does not make up for a wrong answer."""
    rows = {"prompt": [0] * 4 + [1] * 4, "answer": [1, 0, 0, 0] * 2, "format": [1, 1, 0, 0] * 2}
    path = written(tmp_path / "log.csv", rows)
    [log] = json.loads(command(path, "--reward", "answer+2*format", "-o", "mean", "--json")[1])["logs"]
    assert log["formats"][0]["value"] == pytest.approx(2 / 3)


def test_from_which_step_the_entropy_falls(tmp_path):
    text = entropy_finding(language_log(tmp_path / "log.csv", steps=10, fall=0.15))
    assert "From step 3 on the entropy" in text or "From step 4 on the entropy" in text
    assert entropy_finding(language_log(tmp_path / "level.csv", steps=10)) is None


def entropy_finding(path):
    findings = json.loads(command(path, "-o", "mean", "--json")[1])["findings"]
    return next((finding["text"] for finding in findings if finding["kind"] == "entropy"), None)


def test_a_level_curve_is_seldom_said_to_fall():
    rng = np.random.default_rng(0)
    found = [fall_of(range(20), rng.normal(1, 0.05, 20)) for _ in range(400)]
    assert np.mean([fall is not None for fall in found]) < 0.05


def test_the_entropy_of_outcomes():
    x = np.array([0, 0, 1, 1, 0.5, 2, 2, 2.0])
    assert outcome_entropy(x, np.array([4, 1, 3])).tolist() == [1.0, 0.0, 0.0]
    assert outcome_entropy(np.arange(8.0), np.array([8])).tolist() == [3.0]


def test_shares_are_right_with_and_without_units():
    rng = np.random.default_rng(0)
    wholes = rng.uniform(1, 3, (60, 1))
    parts = wholes * (rng.random((60, 1)) < 0.3)
    alone, own, pairs = Shares(1), Shares(1), Shares(1)
    alone.add(parts, wholes)
    own.add(parts, wholes, np.arange(60, dtype=np.uint64))
    for half in (slice(0, 30), slice(30, 60)):
        pairs.add(parts[half], wholes[half], np.arange(30, dtype=np.uint64))
    assert asdict(alone.estimate(0)) == pytest.approx(asdict(own.estimate(0)))
    share = parts.sum() / wholes.sum()
    residuals = (parts - share * wholes).reshape(2, 30).sum(axis=0)
    assert pairs.estimate(0).value == pytest.approx(share)
    assert pairs.estimate(0).error == pytest.approx(np.sqrt((residuals**2).sum() * 30 / 29) / wholes.sum())


def test_reliability_is_trained_by_a_mixture(tmp_path):
    """min@4 alone has no gradient where few of four tries pass."""
    rng = np.random.default_rng(0)
    rows = [{"group": g, "reward": float(r)} for g in range(60) for r in rng.random(8) < 0.5]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, output = command(tmp_path / "log.jsonl", "--json")
    assert code == 0, output
    (found,) = (f for f in json.loads(output)["findings"] if f["kind"] == "reliability")
    assert "all of 8 tries" in found["text"]
    assert "train on 0.5*mean+0.5*min@4" in found["advice"]
