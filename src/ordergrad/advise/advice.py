r"""Which objective, K and baseline serve a goal in groups of N: bias, direction and noise of the gradient.

For a goal G (a functional of the reward distribution without limit on K) and a candidate objective J, both with their
exact advantages $A^G$ and $A^J$ under every prompt's distribution (`ordergrad.exact.advantages`), averages E over
prompts and outcomes:

* the *bias* is J - G, the difference of the values;
* the *direction* is the cosine $E[A^J A^G] / \sqrt{E[(A^J)^2] \, E[(A^G)^2]}$ of the two natural gradients, for
  policies that are free to change the probability of every outcome of every prompt;
* the *signal-to-noise ratio* is that of one group's gradient estimate along the direction in which the goal improves
  fastest, $\hat g = \frac1N \sum_i A_i s_i$ with the score $s = A^G / \sqrt{E[(A^G)^2]}$: its mean, which is
  $E[A^J s]$ exactly, over its standard deviation. A batch of B groups has $\sqrt B$ times it.

The standard deviation is exact where every prompt has at most two outcomes, by summing over the number of successes,
and otherwise that of 20,000 simulated groups (seed 0), fewer if N exceeds 800.

References:
    Amari (1998). Natural gradient works efficiently in learning. Neural Computation 10(2).
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad import exact
from ordergrad.advise.goals import Goal, candidates
from ordergrad.advise.rewards import Prompts, Rewards
from ordergrad.estimators import advantages
from ordergrad.objectives import Objective
from ordergrad.spec import parse
from ordergrad.weights import Baseline, rank_weights

Array = NDArray[Any]
FAITHFUL, LARGEST = 0.95, 4096
_WORTH, _ALIKE, _RARE = 1.25, 0.02, 0.05
_SIMULATED, _CELLS, _CHUNK = 20_000, 1 << 24, 1 << 20
Sample = tuple[Array, Callable[[Array], Array], Array]
"""Groups (R, n); from their advantages to gradient estimates (..., R); the probabilities of these."""


@dataclass(frozen=True)
class Candidate:
    """An objective with a baseline, weighed up.

    Attributes:
        value: Its exact value.
        bias: Its value less the goal's; None where its weights do not sum to those of the goal.
        direction: The cosine with the goal's gradient, NaN where one of the two is zero.
        snr: The signal-to-noise ratio of one group.
    """

    objective: str
    baseline: Baseline
    value: float
    bias: float | None
    direction: float
    snr: float


@dataclass(frozen=True)
class Advice:
    """What to train on in groups of n.

    Attributes:
        value: The value of the goal.
        scale: The root mean square of the rewards.
        table: All candidates: those with the baseline of the adapters first.
        best: The one to take; None where the goal has no gradient at all, or only the mean fits groups of n and it
            points elsewhere.
        simulated: The number of simulated groups behind the noise, 0 where it is exact.
        unsteady: Whether the simulated noise comes from few groups, so that its true size is not known.
    """

    goal: Goal
    rewards: Rewards
    n: int
    value: float
    scale: float
    table: tuple[Candidate, ...]
    best: Candidate | None
    simulated: int
    unsteady: bool


def advise(goal: Goal, rewards: Rewards, n: int) -> Advice:
    """Return what to train on to reach a goal with groups of n.

    That is the goal's own objective at the largest K that N allows, unless another one whose direction is at least
    0.95 too has at least 1.25 times its signal-to-noise ratio; then the one with the largest ratio, and the least bias
    of those within 2% of that. Where no direction reaches 0.95, it is the one with the best. The mean is only a
    reference unless it is the goal, or all that groups of n allow and as good as the goal: at a direction of 0.95.

    Example:
        >>> from ordergrad.advise.rewards import named
        >>> from ordergrad.advise.words import read_goal
        >>> advise(read_goal("best of 4"), named("normal"), 8).best.objective
        'max@4'
    """
    if not 2 <= n <= LARGEST:
        raise ValueError(f"n must satisfy 2 <= n <= {LARGEST}; got n={n}")
    slopes = [_advantages(group, parse(goal.slope)) for group in rewards.prompts]
    size = np.sqrt(_mean(rewards, [a * a for a in slopes]))
    scores = [a / size if size > 0 else a for a in slopes]
    binary = all(group.x.shape[1] <= 2 for group in rewards.prompts)
    count = 0 if binary else min(_SIMULATED, max(_CELLS // n, 1000))
    target = parse(goal.target)

    def weighed(pairs: Sequence[tuple[str, Baseline]]) -> list[tuple[Candidate, bool]]:
        samples = _every_group(rewards, scores, n) if binary else _some_groups(rewards, scores, n, count)
        return _weighed(pairs, rewards, scores, samples, target)

    found = weighed([(name, "leave_one_out") for name in candidates(goal, n)])
    table = [candidate for candidate, _ in found]
    best = _best(goal, table)
    if best is not None:
        others: list[tuple[str, Baseline]] = [(best.objective, "k_minus_one"), (best.objective, "none")]
        whole = goal.families[0](n) if not goal.sizes or max(goal.sizes) >= n else None
        if whole is not None and whole not in [candidate.objective for candidate in table]:
            others.append((whole, "k_minus_one"))
        table += [candidate for candidate, _ in weighed(others)]
    scale = float(np.sqrt(_mean(rewards, [group.x**2 for group in rewards.prompts])))
    unsteady = count > 0 and any(few for _, few in found)
    return Advice(goal, rewards, n, _value(rewards, target), scale, tuple(table), best, count, unsteady)


def enough(goal: Goal, rewards: Rewards, n: int) -> int | None:
    """Return the smallest of the sizes 2n, 4n, ... at which the goal's own objective has a direction of 0.95.

    Example:
        >>> from ordergrad.advise.rewards import named
        >>> from ordergrad.advise.words import read_goal
        >>> enough(read_goal("worst 5%"), named("normal"), 8)
        16
    """
    slopes = [_advantages(group, parse(goal.slope)) for group in rewards.prompts]
    while (n := 2 * n) <= LARGEST:
        own = parse(candidates(goal, n)[0])
        if _cosine(rewards, [_advantages(group, own) for group in rewards.prompts], slopes) >= FAITHFUL:
            return n
    return None


def direction_on(graded: Rewards, success: float, objective: str, goal: Goal) -> float:
    """Return the direction of an objective on graded rewards, where the goal is about success alone."""
    own = [_advantages(group, parse(objective)) for group in graded.prompts]
    passed = [Prompts((group.x >= success).astype(np.float64), group.p, group.share) for group in graded.prompts]
    return _cosine(graded, own, [_advantages(group, parse(goal.slope)) for group in passed])


def mixed(rewards: Rewards, n: int) -> tuple[float, float, float]:
    """Return the shares of groups of n, of two outcomes, that are all the lowest, differ, and are all the highest."""
    p = np.concatenate([group.p[:, -1] for group in rewards.prompts])
    share = rewards.share() / rewards.share().sum()
    never, always = float(share @ (1 - p) ** n), float(share @ p**n)
    return never, 1 - never - always, always


def _cosine(rewards: Rewards, own: Sequence[Array], slopes: Sequence[Array]) -> float:
    product = _mean(rewards, [a * b for a, b in zip(own, slopes, strict=True)])
    sizes = [_mean(rewards, [a * a for a in table]) for table in (own, slopes)]
    return float(product / np.sqrt(sizes[0] * sizes[1])) if min(sizes) > 0 else np.nan


def _weighed(
    pairs: Sequence[tuple[str, Baseline]],
    rewards: Rewards,
    scores: Sequence[Array],
    samples: Iterable[Sample],
    target: Objective,
) -> list[tuple[Candidate, bool]]:
    """Return objectives with their baselines and numbers, and whether the noise of each comes from few groups."""
    objectives = [parse(name) for name, _ in pairs]
    first, second, largest = np.zeros((3, len(pairs)))
    for x, estimates, chance in samples:
        for i, (objective, (_, baseline)) in enumerate(zip(objectives, pairs, strict=True)):
            estimate = estimates(advantages(x, objective, baseline=baseline))
            first[i] += (chance * estimate).sum()
            squares = chance * estimate**2
            second[i] += squares.sum()
            largest[i] = max(largest[i], squares.max())
    noises = np.sqrt(np.maximum(second - first**2, 0))
    found: list[Candidate] = []
    aim, mass = _value(rewards, target), _mass(target)
    for objective, pair, noise in zip(objectives, pairs, noises.tolist(), strict=True):
        own = [_advantages(group, objective) for group in rewards.prompts]
        signal = _mean(rewards, [a * s for a, s in zip(own, scores, strict=True)])
        size = np.sqrt(_mean(rewards, [a * a for a in own]))
        value = _value(rewards, objective)
        bias = value - aim if abs(_mass(objective) - mass) < 1e-9 else None
        direction = signal / size if size > 0 else np.nan
        snr = signal / noise if noise > 0 else np.nan
        found.append(Candidate(*pair, value, bias, float(direction), float(snr)))
    return list(zip(found, (largest > _RARE * second).tolist(), strict=True))


def _best(goal: Goal, table: Sequence[Candidate]) -> Candidate | None:
    known = [candidate for candidate in table if not np.isnan(candidate.direction) and not np.isnan(candidate.snr)]
    usable = [candidate for candidate in known if candidate.objective != "mean" or goal.target == "mean"]
    usable = usable or [candidate for candidate in known if candidate.direction >= FAITHFUL]
    if not usable:
        return None
    highest = max(candidate.direction for candidate in usable)
    faithful = [candidate for candidate in usable if candidate.direction >= min(FAITHFUL, highest)]
    top = max(candidate.snr for candidate in faithful)
    if faithful[0] is table[0] and top < _WORTH * table[0].snr:
        return table[0]
    alike = [candidate for candidate in faithful if candidate.snr >= top - _ALIKE * abs(top)]
    return min(alike, key=lambda candidate: np.inf if candidate.bias is None else abs(round(candidate.bias, 12)))


def _advantages(group: Prompts, objective: Objective) -> Array:
    return np.asarray(exact.advantages(group.x, group.p, objective), np.float64)


def _value(rewards: Rewards, objective: Objective) -> float:
    values = [np.asarray(exact.value(group.x, group.p, objective)) for group in rewards.prompts]
    return float(sum((group.share * value).sum() for group, value in zip(rewards.prompts, values, strict=True)))


def _mean(rewards: Rewards, tables: Sequence[Array]) -> float:
    """Return the mean of a number of every outcome, over prompts and outcomes."""
    pairs = zip(rewards.prompts, tables, strict=True)
    return float(sum(np.einsum("g,go,go->", group.share, group.p, table) for group, table in pairs))


def _mass(objective: Objective) -> float:
    """Return the sum of the weights of an objective."""
    return float(rank_weights(objective.closed(2)).sum())


def _every_group(rewards: Rewards, scores: Sequence[Array], n: int) -> Iterator[Sample]:
    """Yield every group of n that prompts of two outcomes can give, once for all prompts with these outcomes."""
    from scipy.stats import binom

    for group, score in zip(rewards.prompts, scores, strict=True):
        outcomes, kind = np.unique(group.x, axis=0, return_inverse=True)
        for i, x in enumerate(outcomes):
            p, share, s = group.p[kind == i, -1:].clip(0, 1), group.share[kind == i, None], score[kind == i]
            for first in range(0, n + 1, max(1, _CHUNK // n)):
                successes = np.arange(first, min(first + max(1, _CHUNK // n), n + 1))
                high = np.arange(n) >= n - successes[:, None]
                chance = share * np.asarray(binom.pmf(successes, n, p))
                yield np.where(high, x[-1], x[0]), partial(_of_outcomes, s, high), chance


def _of_outcomes(scores: Array, high: Array, a: Array) -> Array:
    """Return gradient estimates (prompts, groups) from the prompts' scores, and where groups have the high outcome."""
    return scores[:, :1] * np.where(high, 0, a).mean(axis=1) + scores[:, -1:] * np.where(high, a, 0).mean(axis=1)


def _some_groups(rewards: Rewards, scores: Sequence[Array], n: int, count: int) -> Iterator[Sample]:
    """Yield groups of n drawn at random, of prompts drawn at random."""
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(count, rewards.share() / rewards.share().sum())
    start = 0
    for group, score in zip(rewards.prompts, scores, strict=True):
        prompts = np.repeat(np.arange(len(group.x)), drawn[start : start + len(group.x)])
        start += len(group.x)
        upper = np.cumsum(group.p, axis=1)
        upper = (upper / upper[:, -1:] + np.arange(len(upper))[:, None]).ravel()
        for first in range(0, len(prompts), max(1, _CHUNK // n)):
            some = prompts[first : first + max(1, _CHUNK // n), None]
            places = np.searchsorted(upper, rng.random((len(some), n)) + some, side="right")
            yield group.x.ravel()[places], partial(_of_samples, score.ravel()[places]), np.full(len(some), 1 / count)


def _of_samples(scores: Array, a: Array) -> Array:
    """Return gradient estimates (groups,) from the scores of their samples."""
    return (a * scores).mean(axis=1)
