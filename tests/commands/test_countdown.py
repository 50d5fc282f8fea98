"""The Countdown task: problems have solutions, and the verifier takes nothing but arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordergrad.train.countdown import (
    ALPHABET,
    Level,
    Problem,
    check,
    demonstrations,
    evaluate,
    longest_answer,
    parse_prompt,
    problems,
)


def test_problems_are_different_seeded_and_exclude_the_held_out() -> None:
    held_out = problems(200, seed=0)
    assert held_out == problems(200, seed=0)
    assert len(set(held_out)) == 200
    others = problems(500, seed=0, exclude=frozenset(held_out))
    assert not set(others) & set(held_out)
    assert all(1 <= p.target <= 50 and len(p.numbers) == 4 and max(p.numbers) <= 9 for p in others)


def test_demonstrations_hit_exactly_when_they_say_so() -> None:
    shown = demonstrations(2000, seed=3)
    assert all(check(d.problem, d.answer) == d.hit for d in shown)
    assert 0.45 < sum(d.hit for d in shown) / len(shown) < 0.55
    assert all(sorted(evaluate(d.answer)[1]) == sorted(d.problem.numbers) for d in shown)
    assert all(d.hit for d in demonstrations(50, seed=3, hit_rate=1.0))


@pytest.mark.parametrize("level", [Level(2), Level(3, 12, 99), Level(4)])
def test_the_longest_answer_is_that_of_many_demonstrations(level: Level) -> None:
    assert max(len(d.answer) for d in demonstrations(4000, seed=0, level=level)) == longest_answer(level)


def test_prompts_read_back_and_stay_in_the_alphabet() -> None:
    for problem in problems(100, seed=1, level=Level(numbers=6, largest=25, target=999)):
        assert parse_prompt(problem.prompt) == problem
        assert set(problem.prompt) <= set(ALPHABET)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("(1+2)*3", True),
        ("3*(2+1)", True),
        ("9", False),
        ("3*3", False),
        ("1+2*3+2", False),
        ("(1+2)*3+0", False),
        ("", False),
        ("(1+2)*3=9", False),
        ("(1+2)*3\n", False),
        ("((1+2)*3", False),
    ],
)
def test_check(answer: str, right: bool) -> None:
    assert check(Problem((1, 2, 3), 9), answer) is right


@pytest.mark.parametrize(
    "answer", ["2**3", "2//1", "6/2", "+3", "-3+1", "__import__('os')", "1_0", "9" * 300, "(" * 250]
)
def test_only_arithmetic_is_evaluated(answer: str) -> None:
    assert evaluate(answer) is None


@given(st.text(alphabet="0123456789+-*()", max_size=40))
def test_evaluate_agrees_with_python_or_refuses(answer: str) -> None:
    result = evaluate(answer)
    if result is not None:
        assert result[0] == eval(answer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"numbers": 1}, "numbers must satisfy"),
        ({"largest": 0}, "largest must satisfy"),
        ({"target": 0}, "target must satisfy"),
        ({"numbers": 2, "largest": 1}, "count must not exceed"),
    ],
)
def test_bad_ranges_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problems(100, 0, Level(**arguments))


def test_more_problems_than_there_are_is_told_soon() -> None:
    with pytest.raises(ValueError, match="got count=100000, at most 24750 with 4 numbers up to 9"):
        problems(100_000, 0)
    assert len(problems(6, 0, Level(2, 2, 4))) == 6
    with pytest.raises(ValueError, match="got count=7, found 6 with 2 numbers up to 2 and targets up to 4"):
        problems(7, 0, Level(2, 2, 4))
    with pytest.raises(ValueError, match="found 0 with 2 numbers up to 1000000000"):
        problems(1, 0, Level(2, 10**9, 1))


def test_demonstrations_of_nothing_are_refused() -> None:
    level = Level(2, 2, 4)
    every = frozenset(Problem(numbers, target) for numbers in ((1, 1), (1, 2), (2, 2)) for target in range(1, 5))
    with pytest.raises(ValueError, match="number of problems that are not excluded; got count=3, found 0"):
        demonstrations(3, 0, level, exclude=every)


def test_malformed_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="must be of the form"):
        parse_prompt("3,5;7=42")
