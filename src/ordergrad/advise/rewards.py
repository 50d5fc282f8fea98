"""Rewards to advise on: named distributions, and the groups of a log.

Both become the same thing: a number of *prompts*, each with finitely many outcomes and their probabilities, and how
often each comes up. A named distribution is one prompt, a continuous one with 2,000 outcomes spaced finely in both
tails; ``betabernoulli`` is 200 prompts of different difficulty.

In a log each group is a prompt. If rewards are 0 or 1, the success rates of the prompts are fitted by a beta
distribution (beta-binomial likelihood): a group without a success is no proof that its prompt has none, and such
prompts are what pass@k is about. Continuous rewards (few ties in a group) are taken to have one shape, that of the
standardised rewards of all groups, shifted and scaled to each group's mean and standard deviation: sixteen rewards of
a prompt cannot show its worst 5%. Graded rewards of a group are taken as its distribution (the bootstrap's plug-in).

References:
    Skellam (1948). A probability distribution derived from the binomial distribution by regarding the probability of
        success as variable between the sets of trials. Journal of the Royal Statistical Society B 10(2).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ordergrad.score.grouping import Groups
    from ordergrad.score.logs import Reading
    from ordergrad.score.opening import Log

Array = NDArray[Any]
_OUTCOMES, _PROMPTS, _KEPT, _POINTS, _SHAPE, _CONTINUOUS = 2000, 200, 2000, 4096, 1024, 0.9
LAWS = (
    "bernoulli:p, betabernoulli:a:b (success rates that differ between prompts), normal[:mean:sd], student:df, "
    "lognormal[:sigma], uniform[:lo:hi], exponential[:scale]"
)


@dataclass(frozen=True)
class Prompts:
    """G prompts with m outcomes x each, ascending, and their probabilities p, (G, m); how often each comes up, (G,)."""

    x: Array
    p: Array
    share: Array


@dataclass(frozen=True)
class Rewards:
    """The rewards to advise on: prompts by number of outcomes, shares adding up to 1, and the usual size of a group."""

    text: str
    prompts: tuple[Prompts, ...]
    size: int | None = None

    def passed(self, success: float) -> "Rewards":
        """Return the rewards as 1 where they are at least `success`, else 0."""
        rate = [(group.p * (group.x >= success)).sum(axis=1).clip(0, 1) for group in self.prompts]
        return Rewards(self.text, (_binary(np.concatenate(rate), self.share()),), self.size)

    @property
    def binary(self) -> bool:
        """Whether all rewards are 0 or 1."""
        return all(np.isin(group.x, (0.0, 1.0)).all() for group in self.prompts)

    def share(self) -> Array:
        """Return the shares of all prompts."""
        return np.concatenate([group.share for group in self.prompts])


def named(text: str) -> Rewards | None:
    """Return a named distribution, or None if the text names none.

    Raises:
        ValueError: It names one, but its numbers are not right.

    Example:
        >>> named("bernoulli:0.25").prompts[0].p
        array([[0.75, 0.25]])
    """
    word, *numbers = text.split(":")
    if word not in _MAKERS:
        return None
    form = f"{text!r} must be one of {LAWS}"
    if not all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", number) for number in numbers):
        raise ValueError(form)
    try:
        return Rewards(text, (_MAKERS[word](*map(float, numbers)),))
    except (TypeError, ValueError) as error:
        raise ValueError(form if isinstance(error, TypeError) else f"{text!r}: {error}") from error


def sampled(
    log: "Log",
    *,
    success: float | None = None,
    skip_broken: bool = False,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda rows, done: None,
) -> Rewards:
    """Return the rewards of a log: of up to 2,000 groups drawn at random, of a log of one group all.

    With `success`, rewards of at least that are 1 and others 0. The other arguments are those of `read_log`.

    Raises:
        UserError: The log cannot be read, has broken rows, or has no rewards.
    """
    from ordergrad.runs.errors import UserError
    from ordergrad.score.logs import read_log

    def use(_: "Reading", groups: "Iterator[Groups]") -> list[tuple[Array, Array]]:
        return _reservoir(groups, np.random.default_rng(seed))

    reading, kept = read_log(log, use, skip_broken=skip_broken, report=report)
    if not kept:
        raise UserError(f"{log.name} has no rewards that can be used")
    if success is not None:
        kept = [((x >= success).astype(np.float64), weights) for x, weights in kept]
    sizes = np.array([len(x) for x, _ in kept])
    text, usual = f"{log.name}, {reading.rows:,} rows", int(np.median(sizes))
    if len(kept) == 1:
        return Rewards(f"{text}, taken as one distribution", (_prompts(_thinned(*kept[0]), 1),))
    text += f", {len(kept):,} groups"
    if log.columns.weight is None and all(np.isin(x, (0.0, 1.0)).all() for x, _ in kept):
        rates, how = _fitted(np.array([x.sum() for x, _ in kept]), sizes)
        return Rewards(f"{text}, {how}", (rates,), usual)
    if np.median([len(np.unique(x)) / len(x) for x, _ in kept]) > _CONTINUOUS and usual > 1:
        return Rewards(f"{text}, taken to have one shape, shifted and scaled", (_shaped(kept),), usual)
    return Rewards(f"{text}, each taken as the distribution of a prompt", _gathered(kept), usual)


def _reservoir(groups: "Iterator[Groups]", rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """Return rewards and weights of groups drawn at random, each as likely as any other."""
    kept: list[tuple[Array, Array]] = []
    seen = 0
    for some in groups:
        weights = some.extra.get("weight", np.ones(len(some.rewards)))
        ends = np.cumsum(some.sizes)
        places = rng.integers(0, np.arange(seen, seen + len(ends)) + 1)
        for index in np.flatnonzero((places < _KEPT) | (np.arange(seen, seen + len(ends)) < _KEPT)).tolist():
            rows = slice(int(ends[index] - some.sizes[index]), int(ends[index]))
            if weights[rows].sum() <= 0:
                continue
            one = some.rewards[rows].copy(), weights[rows].copy()
            if len(kept) < _KEPT:
                kept.append(one)
            else:
                kept[int(places[index])] = one
        seen += len(ends)
    return kept


def _shaped(groups: list[tuple[Array, Array]]) -> Prompts:
    """Return prompts whose rewards have the shape of all groups' standardised rewards."""
    shares = [weights / weights.sum() for _, weights in groups]
    means = np.array([(share * x).sum() for share, (x, _) in zip(shares, groups, strict=True)])
    squares = [(share * (x - mean) ** 2).sum() for share, (x, _), mean in zip(shares, groups, means, strict=True)]
    sizes = np.array([len(x) for x, _ in groups])
    spread = np.sqrt(np.array(squares) * sizes / np.maximum(sizes - 1, 1))
    wide = np.flatnonzero((spread > 0) & (sizes > 1))
    standard = [((groups[i][0] - means[i]) / spread[i], shares[i]) for i in wide.tolist()]
    x, p = _thinned(np.concatenate([z for z, _ in standard]), np.concatenate([share for _, share in standard]), _SHAPE)
    x = x - (p * x).sum()
    x = x / np.sqrt((p * x**2).sum())
    some = np.linspace(0, len(groups) - 1, min(len(groups), _PROMPTS)).round().astype(int)
    count = len(some)
    return Prompts(means[some, None] + spread[some, None] * x, np.tile(p, (count, 1)), np.full(count, 1 / count))


def _thinned(x: Array, weights: Array, points: int = _POINTS) -> tuple[Array, Array]:
    """Return a distribution with a moderate number of points."""
    from ordergrad.score.digest import Digest

    digest = Digest(points)
    digest.add(x, weights)
    return digest.points()


def _prompts(law: tuple[Array, Array], count: int) -> Prompts:
    x, p = law
    return Prompts(np.tile(x, (count, 1)), np.tile(p, (count, 1)), np.full(count, 1 / count))


def _gathered(groups: list[tuple[Array, Array]]) -> tuple[Prompts, ...]:
    """Return groups as prompts, equal ones together."""
    laws: dict[tuple[bytes, bytes], tuple[Array, Array, int]] = {}
    for rewards, weights in groups:
        x, inverse = np.unique(rewards, return_inverse=True)
        p = np.bincount(inverse, weights) / weights.sum()
        key = x.tobytes(), p.tobytes()
        laws[key] = x, p, laws[key][2] + 1 if key in laws else 1
    found: list[Prompts] = []
    for m in sorted({len(x) for x, _, _ in laws.values()}):
        alike = [law for law in laws.values() if len(law[0]) == m]
        x, p, count = (np.array(column) for column in zip(*alike, strict=True))
        found.append(Prompts(x, p, count / len(groups)))
    return tuple(found)


def _fitted(successes: Array, sizes: Array) -> tuple[Prompts, str]:
    """Return prompts whose success rates are beta distributed, fitted to groups, and a word on them."""
    from scipy.optimize import minimize
    from scipy.stats import betabinom

    mean = float(successes.sum() / sizes.sum())
    if mean in (0.0, 1.0) or sizes.max() < 2:
        return _bernoulli(mean), f"success rate {mean:.3g}"

    def loss(point: Array) -> float:
        a, b = np.exp(point)
        return -float(np.sum(betabinom.logpmf(successes, sizes, a, b)))

    start = np.log([mean, 1 - mean])
    a, b = np.exp(minimize(loss, start, method="L-BFGS-B", bounds=[(-9.0, 9.0)] * 2).x).tolist()
    return _beta_bernoulli(a, b), f"success rates fitted by a beta distribution ({a:.3g}, {b:.3g})"


def _binary(rate: Array, share: Array) -> Prompts:
    return Prompts(np.tile([0.0, 1.0], (len(rate), 1)), np.stack([1 - rate, rate], axis=1), share)


def _continuous(law: str, *numbers: float) -> Prompts:
    """Return the outcomes of a law of SciPy."""
    from scipy import stats

    edges = 1 / (1 + np.exp(-np.linspace(-34, 34, _OUTCOMES + 1)))
    p = np.diff(edges) / (edges[-1] - edges[0])
    x = getattr(stats, law)(*numbers).ppf((edges[1:] + edges[:-1]) / 2)
    return _prompts((np.asarray(x, np.float64), p), 1)


def _bernoulli(p: float) -> Prompts:
    if not 0 <= p <= 1:
        raise ValueError(f"p must satisfy 0 <= p <= 1; got p={p}")
    return _binary(np.array([p]), np.ones(1))


def _beta_bernoulli(a: float, b: float) -> Prompts:
    from scipy.stats import beta

    law = beta(_positive("a", a), _positive("b", b))
    rate = np.asarray(law.ppf((np.arange(_PROMPTS) + 0.5) / _PROMPTS), np.float64)
    return _binary(rate, np.full(_PROMPTS, 1 / _PROMPTS))


def _normal(mean: float = 0.0, sd: float = 1.0) -> Prompts:
    return _continuous("norm", mean, _positive("sd", sd))


def _student(df: float) -> Prompts:
    if df <= 2:
        raise ValueError(f"df must exceed 2, or the gradient has no finite variance; got df={df}")
    return _continuous("t", df)


def _lognormal(sigma: float = 1.0) -> Prompts:
    return _continuous("lognorm", _positive("sigma", sigma))


def _uniform(lo: float = 0.0, hi: float = 1.0) -> Prompts:
    return _continuous("uniform", lo, _positive("hi - lo", hi - lo))


def _exponential(scale: float = 1.0) -> Prompts:
    return _continuous("expon", 0.0, _positive("scale", scale))


def _positive(name: str, number: float) -> float:
    if not 0 < number < np.inf:
        raise ValueError(f"{name} must be positive; got {number:g}")
    return number


_MAKERS: dict[str, Callable[..., Prompts]] = {
    "bernoulli": _bernoulli,
    "betabernoulli": _beta_bernoulli,
    "normal": _normal,
    "student": _student,
    "lognormal": _lognormal,
    "uniform": _uniform,
    "exponential": _exponential,
}
