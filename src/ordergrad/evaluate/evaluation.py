"""The evaluation of one model on one set of problems: completions, rewards, and what is computed from them.

All measures are means over problems, so their standard errors are those of problems (clusters), not of completions.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import value
from ordergrad.evaluate.rewards import Reward, rewards_of
from ordergrad.runs.folder import replacing
from ordergrad.runs.statistics import confidence_interval, powers_of_two

__all__ = ["Evaluation", "Measure", "evaluate", "lead", "measures", "read_evaluation", "write_evaluation"]

Array = NDArray[Any]
Row = Mapping[str, Any]
_AT_ONCE = 512  # completions that are scored in one call of the reward function
_TAIL = "cvar:0.25"


@dataclass(frozen=True)
class Evaluation:
    """Completions of a set of problems, their rewards and lengths: lists and arrays of shape (problems, samples).

    Attributes:
        prompts: The prompt of each problem.
        completions: Texts, or lists of messages for chats.
        rewards: NaN where the reward function could not score the completion.
        tokens: The length of each completion.
        ended: Whether it ended before the longest length.
    """

    prompts: list[Any]
    completions: list[list[Any]]
    rewards: Array
    tokens: Array
    ended: Array


class Measure(NamedTuple):
    """A mean over problems, the ends of its 95% interval, and the values of the problems."""

    mean: float
    low: float
    high: float
    by_problem: Array


def evaluate(
    model: Any, tokenizer: Any, rows: Sequence[Row], reward: Reward, samples: int, sampling: Any, *, seed: int = 0
) -> Evaluation:
    """Sample completions of every problem as training does, and score them.

    Args:
        model: A causal language model of Transformers or PEFT, or a `vllm.LLM`.
        tokenizer: Its tokenizer.
        rows: The problems: a ``prompt`` and the columns that the reward function needs.
        reward: A reward function of TRL.
        samples: Completions of each problem.
        sampling: How they are sampled, a `Sampling`.
        seed: Of the sampling.

    Raises:
        ValueError: The reward function returned anything but one finite number or None for each completion.
    """
    from ordergrad.evaluate.sampling import sample
    from ordergrad.evaluate.vllm_sampling import sample_with_vllm

    prompts = [row["prompt"] for row in rows]
    sampler = sample_with_vllm if hasattr(model, "llm_engine") else sample
    sampled = list(sampler(model, tokenizer, prompts, samples, sampling, seed=seed))
    at_once = max(1, _AT_ONCE // samples)
    places = [slice(begin, begin + at_once) for begin in range(0, len(rows), at_once)]
    rewards = [_scored(rows[some], sampled[some], reward, samples) for some in places]
    return Evaluation(
        prompts,
        [[completion.content for completion in group] for group in sampled],
        np.concatenate(rewards),
        np.array([[len(completion.ids) for completion in group] for group in sampled]),
        np.array([[completion.ended for completion in group] for group in sampled]),
    )


def _scored(rows: Sequence[Row], sampled: Sequence[Sequence[Any]], reward: Reward, samples: int) -> Array:
    """Return the rewards of the completions of some problems."""
    repeated = [row for row in rows for _ in range(samples)]
    flat = [completion for group in sampled for completion in group]
    columns = {name: [row[name] for row in repeated] for name in rows[0] if name not in _GIVEN}
    prompts, contents, ids = ([row["prompt"] for row in repeated], [c.content for c in flat], [c.ids for c in flat])
    return rewards_of(reward, prompts, contents, ids, columns).reshape(-1, samples)


_GIVEN = ("prompt", "completion", "completion_ids")


def measures(evaluation: Evaluation, success: float = 1.0) -> dict[str, Measure]:
    """Return pass@k, pass^k, the reward and its ranks, and lengths: each with its interval over problems.

    ``pass@k`` is the chance that one of k completions succeeds (`max@k` of 0 and 1), ``pass^k`` that all of them do
    (`min@k`). Rewards with other values than 0 and 1 add ``max@k``, and ``cvar:0.25``, the mean of the worst quarter
    of a problem's completions. A completion without a reward is a failure, and is left out of what the rewards give.

    Args:
        evaluation: What was sampled.
        success: The least reward that is a success.

    Example:
        >>> half = np.array([[1.0, 0.0], [1.0, 1.0]])
        >>> found = measures(Evaluation(["a", "b"], [["", ""]] * 2, half, np.ones((2, 2)), np.ones((2, 2))))
        >>> {name: measure.mean for name, measure in found.items() if name.startswith("pass")}
        {'pass@1': 0.75, 'pass@2': 1.0, 'pass^2': 0.5}
    """
    rewards, samples = evaluation.rewards, evaluation.rewards.shape[1]
    passed = (rewards >= success).astype(np.float64)
    ks = powers_of_two(samples)
    found = {f"pass@{k}": value(passed, f"max@{k}") for k in ks}
    found |= {f"pass^{k}": value(passed, f"min@{k}") for k in ks[1:]}
    scored = ~np.isnan(rewards)
    if not np.isin(rewards[scored], (0.0, 1.0)).all():
        for name, objective in {"reward": "mean", **{f"max@{k}": f"max@{k}" for k in ks[1:]}, _TAIL: _TAIL}.items():
            found[name] = value(rewards, objective, where=scored, small="nan")
    found["tokens"] = evaluation.tokens.mean(1)
    found["cut short"] = 1.0 - evaluation.ended.mean(1)
    if not scored.all():
        found["no reward"] = 1.0 - scored.mean(1)
    return {name: _measure(np.asarray(values, float)) for name, values in found.items()}


def _measure(by_problem: Array) -> Measure:
    known = by_problem[~np.isnan(by_problem)]
    if len(known) == 0:
        return Measure(np.nan, np.nan, np.nan, by_problem)
    mean = float(known.mean())
    error = float(known.std(ddof=1)) / len(known) ** 0.5 if len(known) > 1 else np.nan
    return Measure(mean, *confidence_interval(mean, error, len(known)), by_problem)


def lead(ours: Measure, theirs: Measure) -> Measure:
    """Return the difference of two measures on the same problems, problem by problem, with its 95% interval.

    Example:
        >>> lead(_measure(np.array([0.5, 1.0, 0.75])), _measure(np.array([0.25, 0.5, 0.75]))).mean
        0.25
    """
    return _measure(ours.by_problem - theirs.by_problem)


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write every completion as a line of JSON, in the form of a reward log that `ordergrad score` reads."""
    with replacing(path) as file:
        file.writelines(f"{json.dumps(row)}\n".encode() for row in _lines(evaluation))


def _lines(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for problem, completions in enumerate(evaluation.completions):
        for sample, completion in enumerate(completions):
            reward = float(evaluation.rewards[problem, sample])
            yield {
                "group": problem,
                "prompt": evaluation.prompts[problem],
                "completion": completion,
                "reward": None if np.isnan(reward) else reward,
                "tokens": int(evaluation.tokens[problem, sample]),
                "ended": bool(evaluation.ended[problem, sample]),
            }


def read_evaluation(path: Path) -> Evaluation:
    """Return what `write_evaluation` wrote."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    problems = 1 + max(row["group"] for row in rows)
    shape = (problems, len(rows) // problems)
    return Evaluation(
        [row["prompt"] for row in rows[:: shape[1]]],
        [[row["completion"] for row in rows[i * shape[1] :][: shape[1]]] for i in range(problems)],
        np.array([np.nan if row["reward"] is None else row["reward"] for row in rows]).reshape(shape),
        np.array([row["tokens"] for row in rows]).reshape(shape),
        np.array([row["ended"] for row in rows]).reshape(shape),
    )
