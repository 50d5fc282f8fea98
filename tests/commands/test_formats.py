"""Logs of many tools are recognised, read as their tools mean them, and refused where they hold no samples."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from ordergrad.commands.cli import app
from ordergrad.runs.errors import UserError
from ordergrad.score.logs import score_log
from ordergrad.score.opening import open_logs
from ordergrad.score.settings import LogSettings, ScoreSettings

WRITTEN = Path(__file__).parent / "logs"
"""Files that the packages wrote themselves: see tests/support/verifiers_logs.py."""


def readings(*arguments, **settings):
    """Return name, how it was read, groups, rewards and their mean of every log."""
    found = []
    for log in open_logs([str(a) for a in arguments], LogSettings(**settings)):
        _, summary = score_log(log, ["mean"])
        about = summary.about()
        found.append((log.name, log.read_as, about["groups"], about["used"], pytest.approx(about["mean"])))
    return found


def reading(*arguments, **settings):
    [found] = readings(*arguments, **settings)
    return found[1:]


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tries(prompts=6, each=4, seed=0):
    """Return 0/1 rewards by prompt."""
    rng = np.random.default_rng(seed)
    return (rng.random((prompts, each)) < rng.random((prompts, 1))).astype(float)


# Trainers


def trl_log(folder, weights=(1.0, 1.0), extra=None, objective=None):
    """Write completions as TRL does: rewards, then extra columns, then the advantages."""
    rng = np.random.default_rng(0)
    accuracy, format_ = tries(), tries(seed=1)
    total = weights[0] * accuracy + weights[1] * format_
    centred = total - total.mean(1, keepdims=True)
    advantage = centred / (total.std(1, keepdims=True) + 1e-4) if objective is None else objective(total)
    for step in (1, 2):
        columns = {"step": [step] * 24, "prompt": np.repeat([f"Q{i}" for i in range(6)], 4), "completion": ["x"] * 24}
        columns |= {"accuracy_reward": accuracy.ravel(), "format_reward": format_.ravel()}
        columns |= {name: rng.random(24) for name in extra or ()}
        folder.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(columns | {"advantage": advantage.ravel()}).write_parquet(
            folder / f"completions_{step:05d}.parquet"
        )
    return total.mean()


def test_trl(tmp_path):
    mean = trl_log(tmp_path / "run" / "completions")
    (tmp_path / "run" / "trainer_state.json").write_text('{"log_history": [{"loss": 1}]}')
    expected = ("read as TRL: group = prompt + step, reward = accuracy_reward + format_reward", 12, 48, mean)
    assert reading(tmp_path / "run") == reading(tmp_path / "run" / "completions") == expected
    assert reading(tmp_path / "run" / "completions" / "completions_00001.parquet")[1:3] == (6, 24)
    assert reading(tmp_path / "run", reward="accuracy_reward")[3] == tries().mean()
    assert reading(tmp_path / "run", reward="0.5*accuracy_reward+format_reward")[3] == pytest.approx(
        0.5 * tries().mean() + tries(seed=1).mean()
    )


def test_numbers_beside_the_rewards_of_trl_are_no_rewards(tmp_path):
    mean = trl_log(tmp_path, extra=["length_score", "difficulty"])
    found = reading(tmp_path)
    assert found[0].startswith("read as TRL: group = prompt + step, reward = accuracy_reward + format_reward (length")
    assert found[3] == mean


def test_trl_asks_where_rewards_have_weights(tmp_path):
    trl_log(tmp_path, weights=(1.0, -2.0))
    with pytest.raises(UserError, match=r"advantages do not rise with the sum .* --reward accuracy_reward\+format_rew"):
        readings(tmp_path)


def test_trl_with_the_advantages_of_an_objective(tmp_path):
    import ordergrad as og

    trl_log(tmp_path, objective=lambda total: og.advantages(total, "max@2"))
    assert "reward = accuracy_reward + format_reward" in reading(tmp_path)[0]


def test_reward_functions_of_trl_that_do_not_apply(tmp_path):
    trl_log(tmp_path)
    file = tmp_path / "completions_00001.parquet"
    frame = pl.read_parquet(file).with_columns(format_reward=pl.lit(None, pl.Float64), advantage=pl.lit(0.0))
    frame = frame.with_columns(advantage=pl.col("accuracy_reward") - 0.5)
    frame.write_parquet(file)
    assert reading(file)[3] == tries().mean()


def test_verl(tmp_path):
    rewards = tries(prompts=8)
    for step in (1, 2):
        rows = [
            {"input": f"Q{i}", "output": "o", "gts": "1", "score": r + step, "step": step, "uid": f"{i}_{j}_0"}
            for i, row in enumerate(rewards.tolist())
            for j, r in enumerate(row)
        ]
        lines(tmp_path / f"{step}.jsonl", rows)
    assert reading(tmp_path) == ("read as verl: group = input + step, reward = score", 16, 64, rewards.mean() + 1.5)
    assert reading(tmp_path / "2.jsonl")[1:] == (8, 32, rewards.mean() + 2)
    assert reading(tmp_path, group="input+step")[:2] == ("read as verl: group = input + step, reward = score", 16)


def test_skyrl(tmp_path):
    rewards = tries()
    rows = [
        {"input_prompt": f"Q{i}", "output_response": "o", "score": [0.0, 0.25, r], "data_source": "gsm8k"}
        for i, row in enumerate(rewards.tolist())
        for r in row
    ]
    lines(tmp_path / "evals" / "gsm8k.jsonl", rows)
    average = lines(tmp_path / "evals" / "aggregated_results.jsonl", [{"eval/gsm8k/avg_score": 0.3}])
    assert reading(tmp_path)[1:] == (6, 24, rewards.mean() + 0.25)
    with pytest.raises(UserError, match="holds averages of an evaluation by SkyRL"):
        readings(average)


def test_verifiers_and_prime_rl(tmp_path):
    rewards = tries()
    rows = [{"example_id": i, "task": "t", "reward": r} for i, row in enumerate(rewards.tolist()) for r in row]
    assert reading(lines(tmp_path / "results.jsonl", rows))[1:] == (6, 24, rewards.mean())
    rows = [
        {"group_id": i, "rewards": {"correct": {"score": r, "weight": 1.0}, "style": {"score": 1.0, "weight": 0.5}}}
        for i, row in enumerate(rewards.tolist())
        for r in row
    ]
    found = reading(lines(tmp_path / "traces.jsonl", rows))
    assert found[0] == "read as prime-rl: group = group_id, reward = rewards.correct.score + 0.5*rewards.style.score"
    assert found[1:] == (6, 24, rewards.mean() + 0.5)


def test_traces_that_verifiers_wrote():
    """Three tasks of three tries; a trace that failed and the traces of the judge do not count."""
    [(name, read_as, groups, used, mean)] = readings(WRITTEN / "verifiers")
    assert (name, groups, used) == ("verifiers", 3, 9)
    assert read_as == (
        "read as verifiers: group = task, reward = reward, where ok=true, where trainable=true (reward = the weighted "
        "sum of rewards.correct, rewards.style)"
    )
    rows = [json.loads(line) for line in (WRITTEN / "verifiers/traces.jsonl").read_text().splitlines()]
    correct = [row["traces"][0]["rewards"]["correct"]["score"] for row in rows if row["ok"]]
    assert mean == np.mean(correct) + 0.5
    assert reading(WRITTEN / "verifiers", reward="rewards.correct")[3] == np.mean(correct)
    [log] = open_logs([str(WRITTEN / "verifiers")], ScoreSettings())
    assert log.columns.length == "tokens"


def test_rollouts_of_prime_rl():
    """Training and evaluation are two logs; the effective episodes are among all of them and do not count twice."""
    evaluation, training = readings(WRITTEN / "prime_rl")
    assert (evaluation[0], training[0]) == ("eval", "train")
    assert evaluation[2:4] == training[2:4] == (4, 12)
    assert training[1].startswith("read as prime-rl: group = task + step, reward = reward, where ok=true")
    effective = readings(WRITTEN / "prime_rl/rollouts/step_1/train/effective/traces.jsonl")
    assert effective[0][2:4] == (1, 3)


def test_a_trace_on_each_line(tmp_path):
    rows = [
        {"task": {"data": {"idx": i}}, "nodes": [], "rewards": {"a": r, "b": 0.25}, "errors": []}
        for i, row in enumerate(tries().tolist())
        for r in row
    ]
    file = lines(tmp_path / "traces.jsonl", rows)
    assert reading(file)[1:] == (6, 24, tries().mean() + 0.25)
    file.write_text(file.read_text() + '{"task"')
    with pytest.raises(UserError, match=r"row 25: reward is missing"):
        readings(file)


# Evaluations


def test_filters_of_lm_eval_are_logs_of_their_own(tmp_path):
    rows = [
        {"doc_id": i, "target": "3", "resps": [["x"]], "filter": name, "metrics": ["exact_match"], "exact_match": r}
        for name, share in (("strict-match", 8), ("flexible-extract", 4))
        for i, r in enumerate((np.arange(120) % share == 0).astype(float).tolist())
    ]
    path = lines(tmp_path / "samples_gsm8k_2025.jsonl", rows)
    assert [(name, groups, used, mean) for name, _, groups, used, mean in readings(path)] == [
        ("samples_gsm8k_2025.jsonl [strict-match]", 120, 120, 0.125),
        ("samples_gsm8k_2025.jsonl [flexible-extract]", 120, 120, 0.25),
    ]
    assert reading(path, where=["filter=flexible-extract"])[1:] == (120, 120, 0.25)
    lines(tmp_path / "samples_arc_2025.jsonl", rows)
    assert [name for name, *_ in readings(tmp_path)] == [
        f"samples_{task}_2025.jsonl [{name}]"
        for task in ("arc", "gsm8k")
        for name in ("strict-match", "flexible-extract")
    ]


@pytest.mark.parametrize("form", ["eval", "json"])
def test_inspect(tmp_path, form):
    samples = [
        {"id": i, "epoch": e, "scores": {"match": {"value": "C" if i % 4 == e else "I"}, "grade": {"value": 0.5}}}
        for i in range(10)
        for e in (1, 2)
    ]
    path = tmp_path / f"log.{form}"
    if form == "json":
        path.write_text(json.dumps({"version": 2, "eval": {"task": "t"}, "samples": samples}, indent=2))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("header.json", "{}")
            for sample in samples:
                archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
    assert [(name, groups, used, mean) for name, _, groups, used, mean in readings(path)] == [
        (f"log.{form} [match]", 10, 20, 5 / 20),
        (f"log.{form} [grade]", 10, 20, 0.5),
    ]


def test_humaneval_and_evalplus(tmp_path):
    passed = tries(prompts=5, each=10)
    rows = [{"task_id": f"T/{i}", "passed": bool(r), "result": "?"} for i, row in enumerate(passed) for r in row]
    path = lines(tmp_path / "samples.jsonl_results.jsonl", rows)
    assert reading(path) == ("read as HumanEval: group = task_id, reward = passed", 5, 50, passed.mean())
    status = {True: "pass", False: "fail"}
    for plus, mean in ((True, 0.0), (False, passed.mean())):
        tasks = {
            f"T/{i}": [
                {"task_id": f"T/{i}", "base_status": status[bool(r)], "plus_status": "fail" if plus else None}
                for r in row
            ]
            for i, row in enumerate(passed)
        }
        path = tmp_path / f"{plus}_eval_results.json"
        path.write_text(json.dumps({"date": "2025", "hash": "0", "eval": tasks}))
        assert reading(path)[1:] == (5, 50, mean)


def test_openai_evals(tmp_path):
    events = [{"spec": {"eval_name": "e"}}, {"final_report": {"accuracy": 0.3}}]
    events += [{"sample_id": f"s.{i}", "type": "sampling", "data": {"prompt": "x"}} for i in range(10)]
    events += [{"sample_id": f"s.{i}", "type": "match", "data": {"correct": i < 3}} for i in range(10)]
    found = reading(lines(tmp_path / "events.jsonl", events))
    assert found == ("read as OpenAI evals: group = sample_id, reward = data.correct, where type=match", 10, 10, 0.3)


# Episodes and returns


def test_monitor_files_of_stable_baselines3(tmp_path):
    gym = pytest.importorskip("gymnasium")
    monitor = pytest.importorskip("stable_baselines3.common.monitor")
    returns = []
    for index in range(2):
        env = monitor.Monitor(gym.make("CartPole-v1"), str(tmp_path / str(index)))
        for seed in range(3):
            env.reset(seed=seed)
            done, total = False, 0.0
            while not done:
                _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
                done, total = terminated or truncated, total + reward
            returns.append(total)
        env.close()
    found = reading(tmp_path)
    assert found[0].startswith("read as Stable-Baselines3 Monitor: no groups, reward = r")
    assert found[1:] == (1, 6, np.mean(returns))
    assert reading(tmp_path / "0.monitor.csv")[2] == 3


def test_evaluations_of_stable_baselines3(tmp_path):
    results = np.arange(12.0).reshape(3, 4)
    np.savez(tmp_path / "evaluations.npz", timesteps=[10, 20, 30], results=results, ep_lengths=np.ones((3, 4), int))
    [log] = open_logs([str(tmp_path / "evaluations.npz")], LogSettings())
    _, summary = score_log(log, ["mean"])
    assert [(row["step"], row["value"]) for row in summary.tables()["steps"]] == [(10, 1.5), (20, 5.5), (30, 9.5)]


def test_means_of_rllib_are_no_episodes(tmp_path):
    path = tmp_path / "progress.csv"
    path.write_text("episode_reward_mean,training_iteration\n100,1\n101,2\n")
    with pytest.raises(UserError, match="Means have no tail and are no episodes"):
        readings(path)
    rows = [{"env_runners": {"episode_return_mean": 5.0}, "training_iteration": i} for i in range(3)]
    with pytest.raises(UserError, match=r"means over the episodes of each iteration \(env_runners\.episode_return_me"):
        readings(lines(tmp_path / "result.json", rows))
    assert reading(path, reward="episode_reward_mean", ungrouped=True)[2] == 2  # asked for by name


@pytest.mark.parametrize("where", ["hist_stats", "env_runners"])
def test_episodes_of_rllib_are_not_pooled_over_rows(tmp_path, where):
    """Each row holds the episodes that means are smoothed over, earlier ones again among them."""
    rows = []
    for i in range(3):
        stats = {"episode_reward": [float(x) for x in range(i, i + 10)]}
        part = {"hist_stats": stats} if where == "hist_stats" else {"env_runners": {"hist_stats": stats}}
        rows.append(part | {"training_iteration": i})
    found = reading(lines(tmp_path / "result.json", rows))
    assert "the episodes of the last iteration" in found[0]
    assert found[1:] == (1, 10, np.mean(range(2, 12)))


@pytest.mark.parametrize("decimal", [".", ","])
def test_returns_of_a_strategy(tmp_path, decimal):
    returns = np.random.default_rng(0).normal(0, 0.01, 50).round(6)
    rows = "".join(f"2020-01-{i % 28 + 1:02d};{r:.6f}\n" for i, r in enumerate(returns))
    path = tmp_path / "returns.csv"
    path.write_text(";strategy\n" + rows.replace(".", decimal))
    assert reading(path) == ("read as returns by date: no groups, reward = strategy", 1, 50, returns.mean())


def test_an_equity_curve_is_no_returns(tmp_path):
    curve = 100 * np.cumprod(1 + np.random.default_rng(0).normal(0, 0.01, 200))
    path = tmp_path / "curve.csv"
    path.write_text("date,portfolio\n" + "".join(f"2020-01-{i % 28 + 1:02d},{x}\n" for i, x in enumerate(curve)))
    with pytest.raises(UserError, match="looks like a price or the value of a portfolio"):
        readings(path)


@pytest.mark.parametrize(
    ("header", "tool"),
    [
        ("_step,_runtime,train/reward", "Weights & Biases"),
        ('"Step","run - train/reward","run - train/reward__MIN"', "Weights & Biases"),
        ("key,value,step,timestamp", "MLflow"),
        ("Wall time,Step,Value", "TensorBoard"),
    ],
)
def test_exports_of_means_are_refused(tmp_path, header, tool):
    path = tmp_path / "export.csv"
    path.write_text(header + "\n" + "\n".join(",".join("1" * (header.count(",") + 1)) for _ in range(3)) + "\n")
    with pytest.raises(UserError, match=f"export of {tool}, with one number for each step"):
        readings(path)


# The runs of this package


def test_runs_of_this_package(tmp_path):
    for seed, mean in enumerate((1.0, 3.0)):
        folder = tmp_path / "mean" / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "evaluation.csv").write_text("return,length\n" + f"{mean - 1},5\n{mean + 1},5\n")
    assert reading(tmp_path) == ("read as ordergrad train rl: group = seed, reward = return", 2, 4, 2.0)
    (tmp_path / "llm.csv").write_text("problem,successes,samples,mean_length\n0,1,4,9.5\n1,4,4,9.5\n")
    assert reading(tmp_path / "llm.csv")[1:] == (2, 8, 0.625)


# Forms of files


ROWS = [{"group": i, "reward": r} for i, row in enumerate(tries().tolist()) for r in row]
CSV = "group,reward\n" + "".join(f"{row['group']},{row['reward']}\n" for row in ROWS)
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def zstandard(data):
    pa = pytest.importorskip("pyarrow")
    sink = io.BytesIO()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
        stream.flush()
        written = sink.getvalue()
    return written or sink.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("a.jsonl.bz2", bz2.compress(JSONL.encode())),
        ("a.jsonl.xz", lzma.compress(JSONL.encode())),
        ("a.csv", CSV.encode("utf-16")),
        ("a.jsonl", JSONL.encode("utf-8-sig")),
        ("a.tsv", CSV.replace(",", "\t").encode()),
        ("a.csv", CSV.replace(",", ";").encode()),
        ("a.csv", CSV.replace(",", ";").replace(".", ",").encode()),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json", json.dumps({"rows": ROWS}).encode()),
        ("a.json", JSONL.encode()),
        ("a.json", json.dumps(tries().tolist()).encode()),
        ("a.json", json.dumps({f"Q{i}": row for i, row in enumerate(tries().tolist())}).encode()),
        ("a", JSONL.encode()),
    ],
)
def test_forms(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert reading(tmp_path / name)[1:] == (6, 24, tries().mean())


def test_zstandard(tmp_path):
    pa = pytest.importorskip("pyarrow")
    with pa.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as stream:
        stream.write(JSONL.encode())
    assert reading(tmp_path / "a.jsonl.zst")[1:] == (6, 24, tries().mean())


def test_a_broken_line_of_a_compressed_log_is_located(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(JSONL.encode() + b'{"group": 1, "rew\n'))
    with pytest.raises(UserError, match=r"a\.jsonl\.gz, line 25: not JSON"):
        readings(tmp_path / "a.jsonl.gz")


def test_arrays(tmp_path):
    np.save(tmp_path / "two.npy", tries())
    np.save(tmp_path / "one.npy", tries().ravel())
    np.savez(tmp_path / "named.npz", rewards=tries(), other=np.zeros(3))
    np.save(tmp_path / "three.npy", np.zeros((2, 3, 4)))
    assert reading(tmp_path / "two.npy")[1:] == reading(tmp_path / "named.npz")[1:] == (6, 24, tries().mean())
    assert reading(tmp_path / "one.npy")[1:] == (1, 24, tries().mean())
    with pytest.raises(UserError, match=r"shape \(samples,\) or \(groups, samples\); got shape \(2, 3, 4\)"):
        readings(tmp_path / "three.npy")


def test_standard_input():
    result = CliRunner().invoke(app, ["score", "-", "-o", "mean"], input=JSONL, env={"COLUMNS": "100", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    assert "standard input: 24 rows, 6 groups of 4" in result.output


# Columns


def test_lists_of_rewards(tmp_path):
    rows = [{"prompt": f"Q{i}", "rewards": row} for i, row in enumerate(tries().tolist())]
    path = lines(tmp_path / "a.jsonl", rows)
    assert reading(path)[1:] == (6, 24, tries().mean())
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    assert reading(tmp_path / "a.parquet")[1:] == (6, 24, tries().mean())
    assert reading(path, lists="sum")[1:] == (6, 6, tries().sum(1).mean())
    tokens = [{"prompt": f"Q{i // 2}", "reward": [0.0] * i + [1.0]} for i in range(4)]
    with pytest.raises(UserError, match="cannot be told"):  # samples, or tokens of one
        readings(lines(tmp_path / "b.jsonl", tokens))
    broken = lines(tmp_path / "c.jsonl", [{"group": 1, "reward": [1.0, None]}, {"group": 2, "reward": [float("nan")]}])
    with pytest.raises(UserError, match=r"line 1: reward is not finite.*\n.*line 2: reward is not finite"):
        readings(broken)


def test_nested_fields_sums_and_conditions(tmp_path):
    rows = [
        {"prompt": {"id": i}, "scores": {"a": r, "b": 2.0}, "split": split}
        for split in ("train", "test")
        for i, row in enumerate((tries() + (split == "train")).tolist())
        for r in row
    ]
    path = lines(tmp_path / "a.jsonl", rows)
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    for file in (path, tmp_path / "a.parquet"):
        asked = {"group": "prompt.id", "reward": "scores.a+0.5*scores.b"}
        assert reading(file, where=["split=test"], **asked)[1:] == (6, 24, tries().mean() + 1)
        assert reading(file, group="prompt.id+split", reward="scores.a")[1:] == (12, 48, tries().mean() + 0.5)
        assert reading(file, where=["split=test", "split=train"], **asked)[2] == 48
    with pytest.raises(UserError, match=r"has no field 'scores\.c'"):
        readings(path, group="prompt.id", reward="scores.c")
    with pytest.raises(UserError, match=r"has no column 'promt'.*did you mean 'prompt'"):
        readings(path, group="promt", reward="scores.a")
    with pytest.raises(UserError, match="--where must have the form column=value; got 'split'"):
        readings(path, group="prompt.id", reward="scores.a", where=["split"])


def test_words_and_percentages(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("group,reward\n1,pass\n1,FAIL\n1,correct\n1,85%\n")
    assert reading(path)[3] == pytest.approx((1 + 0 + 1 + 0.85) / 4)
    path.write_text("group,reward\n1,pass\n1,timeout\n")
    with pytest.raises(UserError, match="line 3: reward is not a number: timeout"):
        readings(path)


def test_what_is_not_known_is_asked(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("question_no,judge_a,judge_b\n1,0.5,0.25\n1,0.1,0.9\n2,0.3,0.4\n")
    with pytest.raises(
        UserError, match=r"judge_a +0\.5, 0\.1, 0\.3[\s\S]*--reward judge_a --group question_no"
    ) as error:
        readings(path)
    assert "cannot be told" in str(error.value)
    path.write_text("prompt,reward_a,score,acc,correct\nx,1,0.5,1,1\nx,1,0.2,0,0\n")
    with pytest.raises(UserError, match="cannot be told"):  # score and correct differ
        readings(path)


def test_ids_that_say_the_same_are_one_group(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("uid,prompt_id,prompt,score\na,1,x,0\nb,1,x,1\nc,2,y,1\nd,2,y,1\n")
    assert reading(path)[:2] == ("read as a table: group = prompt_id, reward = score", 2)


def test_a_folder_with_logs_of_several_tools(tmp_path):
    lines(tmp_path / "1.jsonl", [{"input": "x", "output": "y", "score": 1.0}])
    lines(tmp_path / "results.jsonl", [{"example_id": 1, "reward": 1.0}])
    with pytest.raises(UserError, match="holds logs of several tools; give one of them"):
        readings(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is none"):
        readings(tmp_path / "empty")
