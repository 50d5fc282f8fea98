"""The study of symbolic regression: expressions, the policy and its gradient, recovery, and all of it in small."""

import importlib
import itertools
import json

import matplotlib.image
import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from studies import FOLDER, load, read


@pytest.fixture(scope="module")
def study():
    return load("symbolic_regression")


@pytest.fixture(scope="module")
def expressions(study):
    return importlib.import_module("symbolic.expressions")


@pytest.fixture(scope="module")
def policies(study):
    return importlib.import_module("symbolic.policy")


@pytest.fixture(scope="module")
def recovery(study):
    return importlib.import_module("symbolic.recovery")


BINARY, UNARY, LEAVES = "+-*/", ("sin", "cos", "exp", "log"), "xy"
TREES = st.recursive(
    st.sampled_from(LEAVES).map(lambda leaf: [leaf]),
    lambda below: (
        st.tuples(st.sampled_from(UNARY), below).map(lambda t: [t[0], *t[1]])
        | st.tuples(st.sampled_from(BINARY), below, below).map(lambda t: [t[0], *t[1], *t[2]])
    ),
    max_leaves=12,
)


def padded(expressions, rows):
    encoded = [expressions.encode(" ".join(row)) for row in rows]
    tokens = np.full((len(rows), max(map(len, encoded))), expressions.PAD, np.int8)
    for line, row in zip(tokens, encoded, strict=True):
        line[: len(row)] = row
    return tokens


# Expressions --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(TREES, min_size=1, max_size=5))
def test_values_of_a_batch_are_those_of_sympy(expressions, rows):
    tokens = padded(expressions, rows)
    points = np.random.default_rng(0).uniform(0.1, 2, (2, 4))
    values = expressions.evaluate(tokens, points)
    assert values.shape == (len(rows), 4)
    for line, found in zip(tokens, values, strict=True):
        assert_allclose(found, slow_values(expressions, line, points), rtol=1e-9, atol=1e-9)


def slow_values(expressions, line, points):
    """By SymPy, every part of the expression on its own; NaN where one is not finite."""
    symbols = sympy.symbols("x y")
    line, finite = line[line != expressions.PAD], np.ones(points.shape[1], bool)
    for begin in reversed(range(len(line))):
        _, used = arity_ends(expressions, line[begin:])
        text = expressions.infix(line[begin : begin + used])
        formula = sympy.sympify(text, locals=dict(zip("xy", symbols, strict=True)), evaluate=False)
        with np.errstate(all="ignore"):
            values = np.broadcast_to(sympy.lambdify(symbols, formula, "numpy")(*points), points.shape[1:])
        finite &= np.isfinite(values)
    return np.where(finite, values, np.nan)


def test_a_part_that_is_not_finite_makes_an_expression_invalid(expressions):
    lines = padded(expressions, [text.split() for text in ("/ x / x - x x", "/ x exp exp exp + y y", "+ x / x x")])
    values = expressions.evaluate(lines, np.array([[1.0, 2.0], [0.1, 2.0]]))
    assert np.isnan(values[0]).all()
    assert_allclose(values[1], [1 / np.exp(np.exp(np.exp(0.2))), np.nan])
    assert_allclose(values[2], [2, 3])


def test_errors(expressions):
    target = np.array([0.0, 1.0, 2.0, 3.0])
    values = np.array([target, target + 1, [0, 1, 2, np.nan], [0, 1, 2, np.inf]])
    assert_allclose(expressions.errors(values, target), [0, 1 / np.std(target), np.inf, np.inf])


def test_every_problem_has_a_solution_in_its_tokens_and_its_range(expressions, policies):
    rng = np.random.default_rng(0)
    for name, problem in expressions.NGUYEN.items():
        solution = expressions.encode(problem.solution)
        assert solution.max() < expressions.tokens_for(problem.variables)
        symbols = sympy.symbols("x y")[: problem.variables]
        points = problem.points(rng, 50)
        assert points.shape == (problem.variables, 50)
        assert problem.low <= points.min() <= points.max() <= problem.high
        true = sympy.lambdify(symbols, sympy.sympify(problem.formula), "numpy")(*points)
        assert_allclose(problem.target(points), true, rtol=1e-9, err_msg=name)
        batch = policies.follow(policies.Policy(problem.variables), policies.Rules(), solution[None])
        assert np.isfinite(batch.log_probabilities()).all()  # the rules allow it


def test_data_depend_on_the_seed_and_the_problem_alone(expressions):
    first, again, other = (expressions.data("Nguyen-9", seed)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert first.shape == (2, 20)


# The policy ---------------------------------------------------------------------------------------------------------


def trained_a_little(policies, variables, seed=0):
    """A policy whose weights are not zero."""
    torch.manual_seed(seed)
    policy = policies.Policy(variables, hidden=8)
    with torch.no_grad():
        for weights in policy.parameters():
            weights.add_(0.5 * torch.randn_like(weights))
    return policy


def arity_ends(expressions, line):
    """Whether a line of tokens is one complete expression followed by padding, and its length."""
    open_places, used = 1, 0
    for token in line:
        if open_places == 0:
            break
        open_places += expressions.ARITY[token] - 1
        used += 1
    return open_places == 0 and (line[used:] == expressions.PAD).all(), used


@pytest.mark.parametrize(("shortest", "longest"), [(4, 64), (4, 7), (1, 3), (6, 6)])
@pytest.mark.parametrize("variables", [1, 2])
def test_samples_are_complete_and_obey_the_rules(expressions, policies, shortest, longest, variables):
    rules = policies.Rules(shortest, longest, typical=5, width=50)
    policy = trained_a_little(policies, variables)
    batch = policies.sample(policy, rules, 400, np.random.default_rng(1))
    lengths = []
    for line in batch.tokens:
        complete, used = arity_ends(expressions, line)
        assert complete
        lengths.append(used)
        text = expressions.infix(line)
        assert "log(exp(" not in text
        assert "exp(log(" not in text
        formula = sympy.sympify(text, evaluate=False)
        for outer in formula.atoms(sympy.sin, sympy.cos):
            assert not any(inner.atoms(sympy.sin, sympy.cos) for inner in outer.args)
    assert shortest <= min(lengths) <= max(lengths) <= longest
    assert len(set(lengths)) > 1 or shortest == longest


def test_samples_follow_the_policy(expressions, policies):
    """Every expression of a small language, its frequency against its probability."""
    rules, policy = policies.Rules(1, 3, typical=2, width=5), trained_a_little(policies, 1)
    language = []
    for length in (1, 2, 3):
        for line in itertools.product(range(policy.size), repeat=length):
            row = np.array([*line, *[expressions.PAD] * (3 - length)])
            complete, used = arity_ends(expressions, row)
            if complete and used == length:
                language.append(row)
    language = np.array(language)
    with np.errstate(invalid="ignore"):
        p = np.exp(policies.follow(policy, rules, language).log_probabilities())
    assert p.sum() == pytest.approx(1, abs=1e-5)
    batch = policies.sample(policy, rules, 20_000, np.random.default_rng(0))
    drawn = {line.tobytes(): 0 for line in language.astype(np.int8)}
    for line in batch.tokens:
        drawn[line.tobytes()] += 1
    share = np.array(list(drawn.values())) / 20_000
    assert_allclose(share, p, atol=4 * np.sqrt(0.25 / 20_000))
    assert (share[p == 0] == 0).all()


def test_following_a_sample_gives_its_probabilities(policies):
    policy, rules = trained_a_little(policies, 2), policies.Rules()
    batch = policies.sample(policy, rules, 300, np.random.default_rng(2))
    again = policies.follow(policy, rules, batch.tokens)
    assert_allclose(again.log_probabilities(), batch.log_probabilities(), rtol=1e-6)
    one = [policies.follow(policy, rules, line[None]).log_probabilities()[0] for line in batch.tokens[:20]]
    assert_allclose(one, batch.log_probabilities()[:20], rtol=1e-4)
    _, first = np.unique(batch.distinct, return_index=True)
    assert (batch.tokens[first[batch.distinct]] == batch.tokens).all()
    assert len(np.unique(batch.tokens, axis=0)) == len(first) == batch.distinct.max() + 1


def test_the_gradient_is_that_of_one_expression_at_a_time(expressions, policies):
    """In float64, without the tree of prefixes, and with the rules written down anew."""
    rules, policy, discount = policies.Rules(3, 9, typical=4, width=6), trained_a_little(policies, 2), 0.7
    batch = policies.sample(policy, rules, 40, np.random.default_rng(3))
    rng = np.random.default_rng(4)
    on_logp, on_entropy = rng.normal(size=40), rng.uniform(size=40)
    batch.weighted(on_logp, on_entropy, discount).backward()
    found = [weights.grad.numpy() for weights in policy.parameters()]

    twin = policies.Policy(2, hidden=8).double()
    twin.load_state_dict(policy.state_dict())
    total = torch.zeros((), dtype=torch.float64)
    for line, on_this, on_its_entropy in zip(batch.tokens, on_logp, on_entropy, strict=True):
        h, c = torch.zeros(1, 8, dtype=torch.float64), torch.zeros(1, 8, dtype=torch.float64)
        places = [(None, None, False)]  # parent, its place, inside a trigonometric function
        roots: dict[int, int] = {}
        for position, token in enumerate(line[line != expressions.PAD].tolist()):
            (parent, above, inside) = places.pop()
            sibling = roots.get(above) if parent is not None and above is not None else None
            one_hot = torch.zeros(1, 2 * policies.KINDS, dtype=torch.float64)
            one_hot[0, 0 if parent is None else parent + 1] = 1
            one_hot[0, policies.KINDS + (0 if sibling is None else sibling + 1)] = 1
            h, c = twin.cell(one_hot, (h, c))
            logits = twin.head(h)[0]
            open_places = len(places) + 1
            added = []
            for other in range(policy.size):
                arity, name = int(expressions.ARITY[other]), expressions.TOKENS[other]
                value = -np.log(sum(expressions.ARITY[: policy.size] == arity))
                if position and position < rules.typical and open_places == 1 and arity == 0:
                    value -= (position - rules.typical) ** 2 / (2 * rules.width)
                if position >= rules.typical and arity > 0:
                    value -= (position - rules.typical) ** 2 / (2 * rules.width)
                forbidden = inside and name in ("sin", "cos")
                forbidden |= parent is not None and {expressions.TOKENS[parent], name} == {"exp", "log"}
                forbidden |= open_places == 1 and arity == 0 and position + 1 < rules.shortest
                forbidden |= position + open_places + arity > rules.longest
                added.append(-np.inf if forbidden else value)
            logp = torch.log_softmax(logits + torch.tensor(added), 0)
            finite = logp[torch.isfinite(logp)]
            total = total + on_this * logp[token]
            total = total - on_its_entropy * discount**position * (finite.exp() * finite).sum()
            if above is not None:
                roots.setdefault(above, token)
            inside = inside or expressions.TOKENS[token] in ("sin", "cos")
            node = object()
            for _ in range(expressions.ARITY[token]):
                places.append((token, node, inside))
    total.backward()
    for gradient, (name, weights) in zip(found, twin.named_parameters(), strict=True):
        assert_allclose(gradient, weights.grad.numpy(), rtol=2e-3, atol=2e-4, err_msg=name)


# The estimators -----------------------------------------------------------------------------------------------------


def test_the_risk_seeking_policy_gradient_is_the_published_formula(study):
    """1/(q N) sum of (R - R_q) grad log p over R >= R_q, where the number above the quantile is q N."""
    rewards = np.random.default_rng(0).permutation(100) / 100
    on_logp, on_entropy = study.sample_weights("dsr:0.05", rewards)
    quantile = np.sort(rewards)[95]
    assert_allclose(on_logp, np.where(rewards >= quantile, rewards - quantile, 0) / 5)
    assert_allclose(on_entropy, (rewards >= quantile) / 5)


def test_the_risk_seeking_policy_gradient_is_ours_without_the_centre(study):
    n, q = 1001, 0.05  # q (N - 1) is whole
    rewards = np.random.default_rng(1).uniform(size=n)
    theirs = study.sample_weights(f"dsr:{q}", rewards)[0]
    ours = study.sample_weights(f"uppercvar:{q}", rewards)[0]
    kept = (theirs > 0).sum() + 1
    apart = theirs * kept / (q * n) - (n - 1) / n * ours
    assert_allclose(apart, apart.mean(), atol=1e-9)


def test_advantages_of_the_others(study):
    rewards = np.array([0.0, 0.0, 1.0, 3.0])
    on_logp, on_entropy = study.sample_weights("mean", rewards)
    assert_allclose(on_logp, (rewards - (4 - rewards) / 3) / 4)
    assert_allclose(on_entropy, 0.25)
    assert study.sample_weights("max@2", rewards)[0].sum() == pytest.approx(0)


# Recovery -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "candidate", "expected"),
    [
        ("Nguyen-10", "sin((x+y))+sin((x-y))", "proved"),
        ("Nguyen-11", "exp((y*log(x)))", "proved"),
        ("Nguyen-8", "(x/exp((log(x)*(x/(x+x)))))", "proved"),
        ("Nguyen-7", "(log(((x/x)+x))+log(((x/x)+(x*x))))", "proved"),
        ("Nguyen-6", "sin(x)+sin(x+x*x)*(1+1e-12)", "different"),
        ("Nguyen-1", "x*x*x+x*x+sin(x)", "different"),
    ],
)
def test_recovery_is_exact(expressions, recovery, problem, candidate, expected):
    hidden = expressions.NGUYEN[problem]
    assert recovery.verdict(candidate, hidden.formula, hidden.variables, hidden.low, hidden.high) == expected


def test_recovery_gives_up_in_time(recovery):
    assert recovery.verdict("x", "x", 1, 0, 1, seconds=0.01) == "undecided"


# The study ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(study, monkeypatch):
    monkeypatch.setattr(study, "STUDY", study.replace(study.STUDY, batch=120, hidden=4))
    return study


def arguments(folder, **changes):
    asked = {"problems": "Nguyen-5", "curves": "Nguyen-5", "seeds": "2", "expressions": "240"}
    asked |= {
        "out": str(folder / "runs"),
        "results": str(folder / "results"),
        "images": str(folder / "images"),
        "jobs": "1",
    }
    return [part for name, value in (asked | changes).items() for part in (f"--{name}", *value.split())]


def test_the_study_from_start_to_end(tiny, tmp_path):
    results = tmp_path / "results"
    tiny.main(arguments(tmp_path))
    rows = read(results / "runs.csv")
    assert {(row["contender"], row["seed"]) for row in rows} == set(itertools.product(tiny.CONTENDERS, "01"))
    assert all(row["expressions"] == "240" or row["recovered"] != "no" for row in rows)
    assert all(0 < float(row["best"]) <= 1 for row in rows)
    found = json.loads((results / "summary.json").read_text())["within"]["240"]
    assert found["problems"]["Nguyen-5"]["mean"]["runs"] == 2
    assert found["overall"]["max@20"]["recovered"] == found["problems"]["Nguyen-5"]["max@20"]["recovered"]
    for name in ("", "_limits"):
        assert matplotlib.image.imread(tmp_path / f"images/symbolic_regression{name}.png").std() > 0.02
    assert {row["seed"] for row in read(results / "curves.csv")} == {"0", "1"}

    with pytest.raises(SystemExit, match="already holds a run"):
        tiny.main(arguments(tmp_path))
    before = (results / "runs.csv").read_text()
    tiny.main([*arguments(tmp_path, out=str(tmp_path / "gone")), "--resume"])  # from the table alone
    assert (results / "runs.csv").read_text() == before
    assert not (tmp_path / "gone").exists()

    tiny.main([*arguments(tmp_path, seeds="3", expressions="360"), "--resume"])  # more of both
    rows = read(results / "runs.csv")
    assert len(rows) == 3 * len(tiny.CONTENDERS)
    assert all(row["budget"] == "360" for row in rows)
    assert all(row["expressions"] == "360" or row["recovered"] != "no" for row in rows)


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tiny, tmp_path):
    settings = tiny.STUDY

    def search(folder, expressions, stop=lambda: False):
        return tiny.run(
            settings, "Nguyen-12", expressions, frozenset(), 0, "uppercvar:0.05", 3, folder, stop, lambda row: None
        )

    assert search(tmp_path / "whole", 600)
    stops = iter([False, True])
    assert not search(tmp_path / "stopped", 600, lambda: next(stops))
    assert not (tmp_path / "stopped" / tiny.RESULT).exists()
    assert search(tmp_path / "stopped", 600)
    whole, stopped = (json.loads((tmp_path / name / tiny.RESULT).read_text()) for name in ("whole", "stopped"))
    assert whole["expressions"] == 600
    assert {**whole, "seconds": 0} == {**stopped, "seconds": 0}

    def last(name):
        return tiny.read_metrics(tmp_path / name / tiny.METRICS)[-1]

    assert last("whole") == last("stopped")
    settings = tiny.replace(settings, entropy=0.5)
    with pytest.raises(tiny.UserError, match="made with other settings"):
        search(tmp_path / "stopped", 720)


def test_a_recovered_function_ends_the_run(tiny, expressions, policies, monkeypatch):
    """The known solution is put into the third batch."""
    solution = expressions.encode(expressions.NGUYEN["Nguyen-11"].solution)
    searching = importlib.import_module("symbolic.search")
    truly, batches = searching.sample, iter(range(100))

    def sample(policy, rules, number, rng):
        batch = truly(policy, rules, number, rng)
        batch.distinct = np.arange(number)
        batch.tokens[batch.tokens == expressions.encode("exp")[0]] = expressions.encode("sin")[0]  # none by chance
        if next(batches) == 2:
            batch.tokens[7] = expressions.PAD
            batch.tokens[7, : len(solution)] = solution
        return batch

    monkeypatch.setattr(searching, "sample", sample)
    monkeypatch.setattr(policies.Batch, "weighted", lambda self, *_: self.logp.clamp(min=0).sum())  # the policy stays
    search = tiny.Search(tiny.STUDY, "Nguyen-11", "mean", 0)
    while search.recovered is None:
        search.step()
    assert search.expressions == 2 * 120 + 8
    assert search.recovered == {"expression": "exp((y*log(x)))", "how": "proved"}
    assert search.best == pytest.approx(1)


def test_gradients_on_equal_batches(tiny, tmp_path):
    tiny.main([*arguments(tmp_path), "--compare"])
    rows = read(tmp_path / "results" / "gradients.csv")
    assert [row["contender"] for row in rows] == 2 * list(tiny.CONTENDERS)
    ours = [row for row in rows if row["contender"] == "uppercvar:0.05"]
    assert all(row["cosine"] == "1.0000" and float(row["noise"]) > 0 for row in ours)


def test_the_learning_rate_was_the_best_of_the_tuning(study):
    found = study.tuned(FOLDER / "results" / "symbolic_regression" / "tuning.csv")
    assert set(found) == set(study.RATES)
    assert study.STUDY.learning_rate == min(found, key=lambda rate: found[rate])


def test_summary_of_made_up_runs(study):
    def row(problem, contender, seed, expressions, recovered, budget=1000):
        return {
            "problem": problem,
            "contender": contender,
            "seed": seed,
            "budget": budget,
            "expressions": expressions,
            "recovered": recovered,
        }

    rows = [row("Nguyen-1", "mean", s, 1000, "no") for s in range(4)]
    rows += [row("Nguyen-1", study.DSR, s, 10 ** min(s, 3), "proved" if s < 3 else "no") for s in range(4)]
    found = study.summarise(rows)["1000"]
    assert found["problems"]["Nguyen-1"]["mean"] == {
        "runs": 4,
        "recovered": 0,
        "interval": [0.0, 0.4899],
        "median": None,
    }
    theirs = found["problems"]["Nguyen-1"][study.DSR]
    assert (theirs["recovered"], theirs["median"]) == (3, 55)
    assert found["overall"][study.DSR]["against mean"]["lead"][0] == 0.75
    ratio = found["overall"]["mean"][f"against {study.DSR}"]["ratio"]
    logs = np.array([3, 2, 1, 0]) * np.log(10)
    assert_allclose(ratio[0], np.exp(logs.mean()), rtol=1e-3)
    assert 1 <= ratio[1] < ratio[0] < ratio[2] <= 1000  # the range of the four ratios


def test_bad_arguments(study, tmp_path, capsys):
    with pytest.raises(SystemExit, match="--seeds must be at least 1"):
        study.main(arguments(tmp_path, seeds="0"))
    with pytest.raises(SystemExit, match="jobs must be at least 1; got 0"):
        study.main(arguments(tmp_path, jobs="0"))
    with pytest.raises(SystemExit):
        study.main(arguments(tmp_path, problems="Nguyen-13"))
    assert "invalid choice: 'Nguyen-13'" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
