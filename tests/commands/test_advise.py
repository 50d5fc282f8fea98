"""`ordergrad advise`: goals in words, exact numbers on known distributions, and lines that run."""

import ast
import inspect
import itertools
import json
import re
import shlex
import tracemalloc
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

import ordergrad as og
from ordergrad.advise import advice as advice_module
from ordergrad.advise import rewards as rewards_module
from ordergrad.advise.advice import advise
from ordergrad.advise.goals import candidates
from ordergrad.advise.rewards import Prompts, Rewards, named, sampled
from ordergrad.advise.words import UnservedError, read_goal
from ordergrad.commands.advise import lines_for
from ordergrad.commands.cli import app
from ordergrad.score.columns import Columns
from ordergrad.score.opening import open_log


def command(*arguments):
    result = CliRunner().invoke(app, ["advise", *map(str, arguments)], env={"COLUMNS": "160", "TERM": "dumb"})
    return result.exit_code, result.output


def discrete(x, p):
    return Rewards("test", (Prompts(np.array([x], float), np.array([p], float), np.ones(1)),))


@pytest.mark.parametrize(
    ("text", "target", "first"),
    [
        ("pass@16", "max@16", "max@16"),
        ("Best of 8 tries", "max@8", "max@8"),
        ("max@3", "max@3", "max@3"),
        ("worst 5%", "cvar:0.05", "cvar:0.05@31"),
        ("the worst 2.5 %", "cvar:0.025", "cvar:0.025@31"),
        ("top 10%", "uppercvar:0.1", "uppercvar:0.1@31"),
        ("worst of 4", "min@4", "min@4"),
        ("median", "median", "median@31"),
        ("95% quantile", "var:0.95", "quantile:0.95@31"),
        ("robust to outliers", "trimmed:0.1", "trimmed:0.1@31"),
        ("less spread", "mean-0.5*gini", "mean-0.5*gini"),
        ("average", "mean", "mean"),
        ("wang:0.5", "wang:0.5", "wang:0.5@31"),
        ("0.5*mean+0.5*cvar:0.2", "0.5*mean+0.5*cvar:0.2", "0.5*mean+0.5*cvar:0.2@31"),
        ("top:2@4", "top:2@4", "top:2@4"),
        ("top:5@10", "top:5@10", "top:5@10"),
        ("rank:3@5", "rank:3@5", "rank:3@5"),
        ("max@3.5", "max@3.5", "max@3.5"),
        ("0.5*max@4+0.5*top:2@8", "0.5*max@4+0.5*top:2@8", "0.5*max@4+0.5*top:2@8"),
        ("winsorized:0.1", "winsorized:0.1", "winsorized:0.1@31"),
    ],
)
def test_goals(text, target, first):
    goal = read_goal(text)
    assert goal.target == target
    found = candidates(goal, 32)
    assert found[0] == first
    assert "mean" in found
    weights = [tuple(og.sample_weights(name, 32).round(12)) for name in found]
    assert len(set(weights)) == len(weights)
    result = advise(goal, named("normal"), 32)
    assert result.best is not None
    assert result.table[0].objective == first
    assert result.table[0].bias == pytest.approx(
        result.table[0].value - float(og.exact.value(*(part[0] for part in law()), target)), abs=1e-9
    )


def law():
    prompts = named("normal").prompts[0]
    return prompts.x, prompts.p


@pytest.mark.parametrize(
    ("text", "target", "passes"),
    [
        ("CVaR 5%", "cvar:0.05", False),
        ("CVaR at 5%", "cvar:0.05", False),
        ("95% CVaR", "cvar:0.05", False),
        ("value at risk 99%", "var:0.01", False),
        ("expected shortfall 2.5%", "cvar:0.025", False),
        ("5th percentile", "var:0.05", False),
        ("improve the 10th percentile", "var:0.1", False),
        ("p95", "var:0.95", False),
        ("value at risk 5%", "var:0.05", False),
        ("worst 1 percent", "cvar:0.01", False),
        ("maximise the worst 5% of returns", "cvar:0.05", False),
        ("bottom decile", "cvar:0.1", False),
        ("worst-case performance", "cvar:0.1", False),
        ("minimise risk", "cvar:0.1", False),
        ("Risk-averse", "cvar:0.1", False),
        ("maximise pass@8", "max@8", True),
        ("solve in 8 attempts", "max@8", True),
        ("optimise best of 16", "max@16", False),
        ("reliability over 8 runs", "min@8", True),
        ("pass^8", "min@8", True),
        ("all 8 runs succeed", "min@8", True),
        ("majority vote of 8", "rank:5@8", True),
        ("maj@7", "rank:4@7", True),
        ("top 10 percent", "uppercvar:0.1", False),
        ("less variance", "mean-0.5*gini", False),
        ("success rate", "mean", True),
        ("the average reward", "mean", False),
        ("typical outcome", "median", False),
        ("optimise cvar:0.1", "cvar:0.1", False),
    ],
)
def test_goals_in_peoples_own_words(text, target, passes):
    goal = read_goal(text)
    assert (goal.target, goal.passes) == (target, passes)


@pytest.mark.parametrize("text", ["reward >= 200", "probability that the return is at least 200", "returns above 200"])
def test_goals_that_name_a_threshold(text):
    goal = read_goal(text if text != "returns above 200" else "return above 200")
    assert (goal.target, goal.passes, goal.threshold) == ("mean", True, 200)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("Sharpe", "a ratio of two statistics"),
        ("maximise the Sharpe ratio", "less spread"),
        ("drawdown", "Make it the reward"),
        ("max drawdown below 10%", "property of the path"),
        ("diversity", "max@8 or pass@8 keeps rare good answers alive"),
        ("shorter answers", "subtract a price per token"),
        ("exploration", "entropy bonus"),
    ],
)
def test_goals_that_no_objective_of_ranks_serves(text, instead):
    with pytest.raises(UnservedError, match=instead):
        read_goal(text)
    code, output = command("normal", "--goal", text)
    assert code == 2
    assert "no objective of ranks serves" in output


def test_a_vote_of_the_majority_is_a_rank():
    """The chance that most of 7 tries pass."""
    p = 0.6
    value = float(og.exact.value([0.0, 1.0], [1 - p, p], read_goal("majority vote of 7").target))
    assert value == pytest.approx(stats.binom.sf(3, 7, p))


@pytest.mark.parametrize("text", ["be good", "worst 200%", "mox@3", "maxrl", "pass@0", "worst of 0", "0*mean"])
def test_other_goals_are_refused(text):
    with pytest.raises(ValueError, match=r"goal must|share must|maxrl has no"):
        read_goal(text)


@pytest.mark.parametrize("baseline", ["leave_one_out", "k_minus_one", "none"])
@pytest.mark.parametrize("objective", ["max@3", "mean", "cvar:0.3@3"])
def test_numbers_of_two_outcomes_are_those_of_enumeration(baseline, objective):
    x, p, n = np.array([-1.0, 2.0]), np.array([0.7, 0.3]), 5
    rewards = discrete(x, p)
    slope = og.exact.advantages(x, p, "max@4")
    score = slope / np.sqrt(p @ slope**2)
    samples = advice_module._every_group(rewards, [score[None]], n)
    [(found, _)] = advice_module._weighed([(objective, baseline)], rewards, [score[None]], samples, og.parse("max@4"))
    groups = np.array(list(itertools.product([0, 1], repeat=n)))
    chance = p[groups].prod(axis=1)
    estimate = (og.advantages(x[groups], objective, baseline=baseline) * score[groups]).mean(axis=1)
    mean = chance @ estimate
    assert found.snr == pytest.approx(mean / np.sqrt(chance @ (estimate - mean) ** 2))
    assert found.value == pytest.approx(float(og.exact.value(x, p, objective)))
    assert found.direction == pytest.approx(1)


@pytest.mark.parametrize(("law", "n"), [("betabernoulli:1:2", 30), ("normal", 30)])
def test_numbers_do_not_depend_on_the_pieces(monkeypatch, law, n):
    whole = advise(read_goal("best of 4"), named(law), n)
    monkeypatch.setattr(advice_module, "_CHUNK", 100)
    monkeypatch.setattr(advice_module, "_SIMULATED", whole.simulated)
    for found, known in zip(advise(read_goal("best of 4"), named(law), n).table, whole.table, strict=True):
        assert (found.objective, found.baseline) == (known.objective, known.baseline)
        assert (found.direction, found.snr) == pytest.approx((known.direction, known.snr), rel=1e-9)


def test_large_groups_take_little_memory():
    tracemalloc.start()
    advise(read_goal("pass@16"), named("bernoulli:0.05"), 3000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 150 << 20  # the rewards of all groups are 72 MB, their scores and their advantages as much again


def test_simulated_numbers_are_those_of_enumeration():
    x, p, n = np.array([-1.0, 0.5, 2.0]), np.array([0.5, 0.3, 0.2]), 4
    result = advise(read_goal("best of 3"), discrete(x, p), n)
    assert result.simulated == 20_000
    slope = og.exact.advantages(x, p, "max@3")
    score = slope / np.sqrt(p @ slope**2)
    groups = np.array(list(itertools.product(range(3), repeat=n)))
    chance = p[groups].prod(axis=1)
    for candidate in result.table:
        a = og.advantages(x[groups], candidate.objective, baseline=candidate.baseline)
        estimate = (a * score[groups]).mean(axis=1)
        mean = chance @ estimate
        noise = np.sqrt(chance @ (estimate - mean) ** 2)
        assert candidate.snr == pytest.approx(mean / noise, rel=0.03)
        own = og.exact.advantages(x, p, candidate.objective)
        assert candidate.direction == pytest.approx(p @ (own * slope) / np.sqrt((p @ own**2) * (p @ slope**2)))


def test_prompts_of_different_difficulty():
    rate, share = np.array([0.1, 0.6]), np.array([0.75, 0.25])
    rewards = Rewards("test", (Prompts(np.tile([0.0, 1.0], (2, 1)), np.stack([1 - rate, rate], axis=1), share),))
    result = advise(read_goal("best of 8"), rewards, 4)
    assert result.value == pytest.approx(share @ (1 - (1 - rate) ** 8))
    table = {(c.objective, c.baseline): c for c in result.table}
    own = table["max@3", "leave_one_out"]
    assert own.bias == pytest.approx(share @ ((1 - rate) ** 8 - (1 - rate) ** 3))

    def slope(k):
        return k * (1 - rate) ** (k - 1)  # of 1 - (1 - p)^k; the variance of the outcome is p (1 - p)

    def inner(a, b):
        return share @ (slope(a) * slope(b) * rate * (1 - rate))

    assert own.direction == pytest.approx(inner(3, 8) / np.sqrt(inner(3, 3) * inner(8, 8)))
    assert ("max@4", "k_minus_one") in table


def test_directions_of_a_normal_reward_are_the_closed_form():
    q = 0.05
    z, density = stats.norm.ppf(q), stats.norm.pdf(stats.norm.ppf(q))
    first = -density + z * (1 - q)
    second = q - z * density + z**2 * (1 - q)
    result = advise(read_goal("worst 5%"), named("normal"), 16)
    [mean] = [c for c in result.table if c.objective == "mean"]
    assert mean.direction == pytest.approx(q / np.sqrt(second - first**2), abs=1e-3)
    assert result.value == pytest.approx(-density / q, abs=1e-3)


def test_what_is_recommended():
    assert advise(read_goal("mean"), named("normal"), 8).best.objective == "mean"
    assert advise(read_goal("worst 5%"), named("normal"), 16).best.objective == "cvar:0.05@15"
    assert advise(read_goal("best of 4"), named("bernoulli:0"), 8).best is None
    single = advise(read_goal("pass@16"), named("bernoulli:0.05"), 16)
    assert single.best.objective != "max@15"  # one hill: less of K has more signal
    assert single.best.direction == pytest.approx(1)
    assert single.best.snr > 1.25 * single.table[0].snr
    heavy = advise(read_goal("worst 5%"), named("student:2.5"), 16)
    assert heavy.unsteady
    for goal, law, n, ok in (  # nothing but the mean fits
        ("pass@1", "betabernoulli:1:2", 8, True),
        ("max@1", "normal", 16, True),
        ("pass@8", "bernoulli:0.1", 2, True),
        ("top:2@4", "bernoulli:0.1", 3, True),
        ("pass@16", "betabernoulli:1:2", 2, False),
        ("top:2@4", "normal", 2, False),
        ("lmoment:10", "normal", 5, False),
    ):
        result = advise(read_goal(goal), named(law), n)
        assert {candidate.objective for candidate in result.table if candidate.baseline == "leave_one_out"} == {"mean"}
        assert (result.best is not None) == ok
    for n in (1, 5000):
        with pytest.raises(ValueError, match=f"n must satisfy 2 <= n <= 4096; got n={n}"):
            advise(read_goal("mean"), named("normal"), n)


@pytest.mark.parametrize(
    ("text", "mean", "sd"),
    [
        ("bernoulli:0.3", 0.3, np.sqrt(0.21)),
        ("normal:2:3", 2, 3),
        ("student:5", 0, np.sqrt(5 / 3)),
        ("lognormal:0.5", np.exp(0.125), np.sqrt((np.exp(0.25) - 1) * np.exp(0.25))),
        ("uniform:-1:3", 1, 4 / np.sqrt(12)),
        ("exponential:2", 2, 2),
        ("betabernoulli:2:3", 0.4, np.sqrt(0.24)),
    ],
)
def test_named_distributions(text, mean, sd):
    rewards = named(text)
    [prompts] = rewards.prompts
    first = prompts.share @ (prompts.p * prompts.x).sum(axis=1)
    second = prompts.share @ (prompts.p * prompts.x**2).sum(axis=1)
    assert (first, np.sqrt(second - first**2)) == pytest.approx((mean, sd), rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("text", ["bernoulli", "bernoulli:2", "normal:0:-1", "student:1", "normal:a", "uniform:1:0"])
def test_wrong_numbers_of_a_distribution_are_refused(text):
    with pytest.raises(ValueError, match="must"):
        named(text)


def write_log(path, rewards):
    rows = [{"group": g, "reward": float(r)} for g, row in enumerate(rewards) for r in row]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_groups_of_a_log_become_prompts(tmp_path):
    path = write_log(tmp_path / "log.jsonl", [[0, 1, 1, 3], [1, 1, 0, 3], [2, 2, 2, 2]])
    rewards = sampled(open_log("log", [path], Columns()), skip_broken=False)
    assert rewards.size == 4
    constant, other = rewards.prompts
    np.testing.assert_array_equal(constant.x, [[2]])
    np.testing.assert_array_equal(other.p, [[0.25, 0.5, 0.25]])
    np.testing.assert_allclose([constant.share[0], other.share[0]], [1 / 3, 2 / 3])
    [binary] = rewards.passed(2).prompts
    np.testing.assert_allclose(binary.p[:, 1], [1, 0.25])
    assert "fitted by a beta" in sampled(open_log("log", [path], Columns()), success=2, skip_broken=False).text
    whole = sampled(open_log("log", [path], Columns(group=None)), skip_broken=False)
    assert whole.size is None
    np.testing.assert_allclose(whole.prompts[0].p, [[2 / 12, 4 / 12, 4 / 12, 2 / 12]])


def test_success_rates_of_prompts_are_fitted(tmp_path):
    rng = np.random.default_rng(0)
    path = write_log(tmp_path / "log.jsonl", (rng.random((2000, 8)) < rng.beta(0.5, 2, size=(2000, 1))).astype(int))
    rewards = sampled(open_log("log", [path], Columns()), skip_broken=False)
    [prompts] = rewards.prompts
    truth = stats.beta(0.5, 2)
    for k in (1, 8, 16):
        found = prompts.share @ (1 - (1 - prompts.p[:, 1]) ** k)
        assert found == pytest.approx(truth.expect(lambda p, k=k: 1 - (1 - p) ** k), abs=0.02)
    equal = write_log(tmp_path / "equal.jsonl", rng.integers(0, 2, size=(500, 16)))
    [prompts] = sampled(open_log("log", [equal], Columns()), skip_broken=False).prompts
    assert prompts.p[:, 1] == pytest.approx(0.5, abs=0.1)  # no difference between prompts
    for rows, rate in (([[0, 0], [0, 0]], 0), ([[1], [0], [1], [1]], 0.75)):
        log = open_log("log", [write_log(tmp_path / "few.jsonl", rows)], Columns())
        assert sampled(log, skip_broken=False).prompts[0].p[0, 1] == rate


def test_continuous_rewards_of_prompts_share_a_shape(tmp_path):
    rng = np.random.default_rng(0)
    level, scale = rng.normal(size=(800, 1)), rng.uniform(0.5, 2, size=(800, 1))
    path = write_log(tmp_path / "log.jsonl", level + scale * rng.normal(size=(800, 16)))
    rewards = sampled(open_log("log", [path], Columns()), skip_broken=False)
    assert "one shape" in rewards.text
    result = advise(read_goal("worst 5%"), rewards, 16)
    truth = advise(read_goal("worst 5%"), named("normal"), 16)
    assert result.value == pytest.approx(truth.value * 1.25, abs=0.15)
    for found, known in zip(result.table[:4], truth.table[:4], strict=True):
        assert found.objective == known.objective
        assert found.direction == pytest.approx(known.direction, abs=0.03)
        assert found.bias == pytest.approx(1.25 * known.bias, rel=0.15)  # standardised by 16, tails are a little light
    assert result.best.objective == truth.best.objective


def test_own_rates_of_groups_would_mislead():
    """The log of docs/advise.md, every group taken for its prompt."""
    rng = np.random.default_rng(0)
    groups = [(rng.random(16) < rate).astype(float) for rate in rng.beta(0.4, 1.6, size=300)]
    rewards = Rewards("plug-in", rewards_module._gathered([(x, np.ones(16)) for x in groups]))
    result = advise(read_goal("pass@16"), rewards, 16)
    assert round(result.value, 2) == 0.6
    assert result.best.objective == "top:2@15"
    assert round(float(np.mean([og.value(x, "max@16") for x in groups])), 2) == 0.66
    truth = advise(read_goal("pass@16"), named("betabernoulli:0.4:1.6"), 16)
    assert truth.best.objective == "max@15"


def test_groups_are_drawn_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(rewards_module, "_KEPT", 50)
    path = write_log(tmp_path / "log.jsonl", [[g, g] for g in range(1000)])
    drawn = [
        x
        for seed in range(20)
        for x in sampled(open_log("log", [path], Columns()), skip_broken=False, seed=seed).prompts[0].x.ravel()
    ]
    assert len(drawn) == 1000
    assert stats.kstest(drawn, stats.uniform(0, 1000).cdf).pvalue > 0.01


# The command


def test_from_a_file_to_an_objective_in_two_commands(tmp_path):
    rng = np.random.default_rng(0)
    path = write_log(tmp_path / "log.jsonl", rng.random((200, 16)) < rng.beta(0.3, 1.2, size=(200, 1)))
    scored = CliRunner().invoke(app, ["score", str(path)], env={"COLUMNS": "160"})
    assert scored.exit_code == 0, scored.output
    code, output = command(path, "--goal", "pass@16")
    assert code == 0, output
    best = re.search(r"Recommended: (\S+) in groups of 16, baseline leave_one_out", output)
    assert best
    assert "exact" in output
    for trainer, line in lines_for(best[1], 16).items():
        code, output = command(path, "--goal", "pass@16", "--trainer", trainer)
        assert code == 0, output
        assert line in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("normal", "--goal", "glory"), 'goal must be one of "pass@16"'),
        (("normal", "--goal", "mean", "--n", "1"), "--n must be from 2 to 4096"),
        (("normal", "--goal", "mean", "--n", "100000"), "--n must be from 2 to 4096"),
        (("", "--goal", "mean"), "FILE must be a log, a folder of logs or a pattern that matches some; '' is none"),
        (("normal", "--goal", "worst of 0"), "goal must name at least 1 try; got 0"),
        (("nowhere.jsonl", "--goal", "pass@4", "--success", "inf"), "success must be finite; got inf"),
        (("nowhere.jsonl", "--goal", "mean"), "Distributions are bernoulli:p, betabernoulli:a:b"),
        (("bernoulli:2", "--goal", "mean"), "p must satisfy 0 <= p <= 1"),
    ],
)
def test_the_command_refuses_bad_input(arguments, message):
    code, output = command(*arguments)
    assert code == 2
    assert message in " ".join(output.split())


def test_rewards_without_a_gradient():
    code, output = command("bernoulli:1", "--goal", "pass@4")
    assert code == 0
    assert "No objective has a gradient here" in output


@pytest.mark.parametrize(
    ("law", "goal", "n", "enough"),
    [("betabernoulli:1:2", "pass@8", 2, 3), ("normal", "top:2@4", 3, 4), ("normal", "lmoment:10", 5, 11)],
)
def test_groups_too_small_for_the_goal(law, goal, n, enough):
    code, output = command(law, "--goal", goal, "--n", n)
    assert code == 0
    assert f"Groups of {n} are too small for this goal: only the mean fits them" in output
    assert f"Use --n {enough} or more." in output
    assert "No objective has a gradient" not in output
    assert "Recommended" not in output
    code, output = command(law, "--goal", goal, "--n", enough)
    assert "Recommended" in output


def test_the_mean_is_recommended_where_it_is_the_goal(tmp_path):
    path = write_log(tmp_path / "log.jsonl", [[0, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]])
    for goal in ("pass@1", "best of 1", "max@1"):
        code, output = command(path, "--goal", goal)
        assert code == 0
        assert "Recommended: mean in groups of 4, baseline leave_one_out, direction 1.000" in output
        assert 'og.advantages(rewards, "mean")' in output


def test_the_line_for_sb3_runs():
    from ordergrad.adapters.sb3 import OrderGradPPO

    model = eval(lines_for("cvar:0.1@15", 16)["sb3"], {"OrderGradPPO": OrderGradPPO, "env": "CartPole-v1"})
    assert str(model.rollout_buffer.objective) == "cvar:0.1@15"
    assert model.rollout_buffer.ranking.min_episodes == 16


def test_the_line_for_trl_names_what_there_is():
    import trl

    from ordergrad.adapters.trl import OrderGradGRPOTrainer

    call = ast.parse(lines_for("top:2@4", 8)["trl"]).body[0].value
    assert call.func.id == OrderGradGRPOTrainer.__name__
    config = {keyword.arg: keyword.value for keyword in call.keywords}
    assert ast.literal_eval(config["objective"]) == "top:2@4"
    own = set(inspect.signature(OrderGradGRPOTrainer).parameters) | set(inspect.signature(trl.GRPOTrainer).parameters)
    assert set(config) <= own
    settings = {keyword.arg: ast.literal_eval(keyword.value) for keyword in config["args"].keywords}
    assert settings == {"num_generations": 8, "per_device_train_batch_size": 8, "loss_type": "dr_grpo"}
    assert set(settings) <= {field.name for field in fields(trl.GRPOConfig)}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("n", [2, 8, 12, 15, 16, 64])
def test_the_configuration_for_trl_can_be_made(n):
    import trl

    config = ast.parse(lines_for("mean", n)["trl"]).body[0].value.keywords[-1].value
    made = eval(ast.unparse(config), {"GRPOConfig": partial(trl.GRPOConfig, use_cpu=True, bf16=False)})
    assert made.num_generations == n
    assert made.generation_batch_size % n == 0


def test_the_line_for_verl_is_one_word_of_any_shell():
    for objective in ("cvar:0.1@15", "mean-0.5*gini", "0.5*mean+0.5*cvar:0.05@15"):
        line = lines_for(objective, 16)["verl"]
        assert f"+algorithm.ordergrad.objective={objective}" in shlex.split(line)
        assert ("'" in line) == ("*" in objective)  # which zsh and fish would take for a pattern


def test_the_lines_are_those_of_the_guides():
    guides = Path(__file__).parents[2] / "docs" / "adapters"
    lines = lines_for("top:2@4", 8)
    verl = (guides / "verl.md").read_text()
    assert all(word in verl for word in lines["verl"].split() if word != "\\")
    skyrl = (guides / "skyrl.md").read_text()
    assert all(word in skyrl for word in lines["skyrl"].split() if word != "\\")
    trl = (guides / "trl.md").read_text()
    assert all(word in trl for word in ("OrderGradGRPOTrainer", 'loss_type="dr_grpo"', 'objective="top:2@4"'))
    assert 'OrderGradPPO("MlpPolicy"' in (guides / "sb3.md").read_text()


def graded_log(path, groups=60, each=16, seed=0):
    """Write graded rewards of which about a fifth reaches 1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(rng.normal(0, 0.7, size=(groups, 1)), 1, size=(groups, each))
    return write_log(path, x.tolist())


def test_a_success_rate_of_graded_rewards_needs_rewards_of_0_and_1(tmp_path):
    path = graded_log(tmp_path / "log.jsonl")
    code, output = command(path, "--goal", "pass@8", "--trainer", "trl")
    assert code == 0
    found = re.search(r"Train on rewards of 0 and 1, .*: on the graded ones max@8 has a direction of (0\.\d+)", output)
    assert found
    assert 0.4 < float(found[1]) < 0.8
    assert "# on the reward float(r >= 1)" in output
    code, output = command(path, "--goal", "best of 8")
    assert "Train on rewards of 0 and 1" not in output
    code, output = command(path, "--goal", "reward >= 0.5")
    assert "whether the reward is at least 0.5" in output


def test_the_direction_on_graded_rewards_is_the_cosine_of_the_two_gradients():
    x, p = np.array([-1.0, 0.0, 1.0, 3.0]), np.array([0.1, 0.4, 0.3, 0.2])
    a = np.asarray(og.exact.advantages(x, p, "max@4"))
    b = np.asarray(og.exact.advantages((x >= 1).astype(float), p, "max@8"))
    expected = p @ (a * b) / np.sqrt((p @ a**2) * (p @ b**2))
    assert advice_module.direction_on(discrete(x, p), 1.0, "max@4", read_goal("pass@8")) == pytest.approx(expected)


def test_the_group_that_would_be_large_enough():
    goal, rewards = read_goal("worst 5%"), named("normal")
    n = advice_module.enough(goal, rewards, 8)
    assert advise(goal, rewards, n).table[0].direction >= 0.95
    assert advise(goal, rewards, n // 2).table[0].direction < 0.95
    _, output = command("normal", "--goal", "worst 5%", "--n", "8")
    assert f"groups of {n} would be at 0.95" in output


@pytest.mark.parametrize(("p", "word"), [("0.005", "Easier"), ("0.995", "Harder")])
def test_other_prompts_where_groups_hold_one_outcome(p, word):
    code, output = command(f"bernoulli:{p}", "--goal", "pass@8", "--n", "8")
    assert code == 0
    assert "Only 4% of the groups of 8 hold both outcomes" in output
    assert f"{word} prompts would teach more" in output
    assert "hold both outcomes" not in command("bernoulli:0.3", "--goal", "pass@8", "--n", "8")[1]


def test_the_lines_are_for_the_trainer_of_the_log(tmp_path):
    code, output = command(write_log(tmp_path / "a.jsonl", [[0, 1, 1, 0], [0, 0, 0, 1]]), "--goal", "pass@2")
    assert code == 0
    assert "In a loop of your own" in output
    assert "--trainer trl, verl, skyrl or sb3" in output
    code, output = command("betabernoulli:1:2", "--goal", "pass@4", "--trainer", "verl")
    assert "algorithm.adv_estimator=ordergrad" in output
    assert "OrderGradPPO" not in output
    assert "--trainer trl" not in output


def test_a_log_of_verl_gets_the_lines_of_verl(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"input": f"Q{i}", "output": "o", "score": float(r), "step": 1} for i in range(9) for r in rng.random(4) < 0.5
    ]
    path = tmp_path / "1.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, output = command(path, "--goal", "pass@2")
    assert code == 0, output
    assert "read as verl" in output
    assert "algorithm.adv_estimator=ordergrad" in output
    assert "OrderGradGRPOTrainer" not in output


def test_json_and_quiet():
    result = CliRunner().invoke(app, ["advise", "betabernoulli:1:2", "--goal", "pass@4", "--n", "8", "--json"])
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    keys = {"goal", "rewards", "n", "candidates", "recommended", "notes", "trainer", "trainer_known", "lines"}
    assert set(content) == keys
    assert content["recommended"]["objective"] == content["candidates"][0]["objective"] == "max@4"
    result = CliRunner().invoke(app, ["advise", "betabernoulli:1:2", "--goal", "pass@4", "--n", "8", "--quiet"])
    assert result.stdout == "max@4\n"
