"""Goals, and the objectives that may serve them. `ordergrad.advise.words` reads them from plain words."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ordergrad.objectives import Elementary, Objective, Winsorized, combine
from ordergrad.smoothing import quantile_level
from ordergrad.spec import parse
from ordergrad.weights import sample_weights, smallest_group

_QUANTILE_WIDTH = 0.1
Family = Callable[[float], str | None]


@dataclass(frozen=True)
class Goal:
    """What someone wants of the reward distribution, in words and as objectives.

    Attributes:
        target: The objective that measures it, without sampling error and without limit on K.
        slope: The objective whose gradient stands for that of the target. A quantile has none where rewards are
            discrete; the mean of a tenth of the outcomes around it stands for it.
        families: Objectives that may serve it: functions from K to a string, None if K does not fit.
        sizes: The comparison sizes that the goal names, whole or not; the others follow from the group.
        passes: Whether rewards count only as passed or not.
        threshold: The smallest reward that passes, where the goal names it.
    """

    text: str
    target: str
    slope: str
    families: tuple[Family, ...]
    sizes: tuple[float, ...] = ()
    passes: bool = False
    threshold: float | None = None


def candidates(goal: Goal, n: int) -> list[str]:
    """Return the objectives to weigh up in groups of n, the goal's own first, the mean last, none twice.

    Example:
        >>> candidates(best_of("best", "16"), 8)
        ['max@7', 'max@4', 'max@2', 'top:2@7', 'top:2@4', 'maxrl@7', 'maxrl@4', 'mean']
    """
    named = [size for size in goal.sizes if size < n] or [n - 1]
    ladder = sorted({*named, *(1 << i for i in range(1, 12) if 1 << i < max(named))}, reverse=True)
    found = [family(k) for rank, family in enumerate(goal.families) for k in ladder[: 2 if rank else 4]]
    names = ["mean", *found] if goal.target == "mean" else [*found, "mean"]
    kept: dict[tuple[float, ...], str] = {}
    for objective in [parse(name) for name in names if name is not None]:
        if smallest_group(objective, "leave_one_out") <= n:
            same = tuple(sample_weights(objective, n).round(12).tolist())
            if str(objective) == "mean":
                kept.pop(same, None)
            kept.setdefault(same, str(objective))
    return list(kept.values())


def next_group(goal: Goal, n: int) -> int | None:
    """Return the smallest group beyond n in which more than the mean can serve a goal, None if no group does.

    Example:
        >>> next_group(of_objective(parse("top:2@4")), 2), next_group(best_of("pass", "1"), 2)
        (4, None)
    """
    last = max(smallest_group(parse(goal.target), "leave_one_out"), 3)
    return next((size for size in range(n + 1, last + 1) if candidates(goal, size) != ["mean"]), None)


def _at(name: str) -> Family:
    """Return the family of an objective at every K."""
    return lambda k: str(parse(name).closed(k))


def _two(name: str) -> Family:
    """Return the family ``name:2@k``."""
    return lambda k: f"{name}:2@{k}" if k > 2 else None


def _share(name: str, q: float) -> Family:
    """Return the family of the m best or worst of k, twice as many as a share q of them."""
    return lambda k: f"{name}:{max(2, round(2 * q * k))}@{k}" if max(2, round(2 * q * k)) < k else None


def _at_k(name: str) -> Family:
    return lambda k: f"{name}@{k}"


def best_of(word: str, k: str) -> Goal:
    """Return the goal of the best of k tries, or of a pass among them."""
    count, passes = _tries(k), word == "pass"
    text = f"the chance that one of {count} tries passes" if passes else f"the expected best of {count} tries"
    families = (_at_k("max"), _two("top"), _at_k("maxrl"))
    return Goal(text, f"max@{count}", f"max@{count}", families, (count,), passes)


def worst_of(k: str) -> Goal:
    """Return the goal of the worst of k tries."""
    count = _tries(k)
    families = (_at_k("min"), _two("bottom"))
    return Goal(f"the expected worst of {count} tries", f"min@{count}", f"min@{count}", families, (count,))


def rank_of(j: int, k: int) -> Goal:
    """Return the goal of the j-th best of k tries."""
    own = f"rank:{j}@{k}"
    family: Family = lambda n: f"rank:{max(1, round(j / k * n))}@{int(n)}" if n > 1 else None  # noqa: E731
    return Goal(f"the expected {j}-th best of {k} tries", own, own, (family,), (k,))


def worst(percent: str) -> Goal:
    """Return the goal of the mean of the worst share."""
    q = _level(percent)
    own = f"cvar:{q:g}"
    mixed: Family = lambda k: f"0.5*mean+0.5*{own}@{k}"  # noqa: E731
    return Goal(f"the mean of the worst {percent}%", own, own, (_at(own), _share("bottom", q), mixed))


def best(percent: str) -> Goal:
    """Return the goal of the mean of the best share."""
    q = _level(percent)
    own = f"uppercvar:{q:g}"
    return Goal(f"the mean of the best {percent}%", own, own, (_at(own), _share("top", q)))


def quantile(percent: str) -> Goal:
    """Return the goal of a quantile."""
    q = _level(percent)
    half = min(_QUANTILE_WIDTH / 2, q, 1 - q)
    families = (_at(f"quantile:{q:g}"), _at(f"quantile:{q:g}:harrelldavis"), _at(f"range:{q - half:g}:{q + half:g}"))
    return Goal(f"the {percent}% quantile", f"var:{q:g}", f"range:{q - half:g}:{q + half:g}", families)


def median_goal() -> Goal:
    """Return the goal of the median."""
    families = (_at("median"), _at("quantile:0.5:harrelldavis"), _at("trimmed:0.25"))
    return Goal("the median", "median", "range:0.45:0.55", families)


def robust() -> Goal:
    """Return the goal of a mean without outliers."""
    families = (_at("trimmed:0.1"), _at("trimmed:0.25"), _at("winsorized:0.1"), _at("median"))
    return Goal("the mean of the middle 80%", "trimmed:0.1", "trimmed:0.1", families)


def spread() -> Goal:
    """Return the goal of a high mean and little spread."""
    families: tuple[Family, ...] = (lambda k: "mean-0.5*gini", lambda k: "mean-0.25*gini", _at_k("wang:0.5"))
    return Goal("the mean less half the mean difference of two", "mean-0.5*gini", "mean-0.5*gini", families)


def mean_goal() -> Goal:
    """Return the goal of the mean."""
    return Goal("the mean", "mean", "mean", (lambda k: "mean", _at("winsorized:0.1"), _at("trimmed:0.1")))


def of_objective(objective: Objective) -> Goal:
    """Return the goal that an objective is, at the comparison sizes that it may have."""
    parts = [part for _, part in objective.terms()]
    for part in parts:
        if part.comparison_size is None:
            part.cumulative(np.array([0.5]))  # raises where there is no population value
    sizes = tuple(part.comparison_size for part in parts if part.comparison_size is not None and part.kind != "fixed")
    slope = combine(*((c, _smooth(part)) for c, part in objective.terms()))

    def family(k: float) -> str | None:
        try:
            return str(combine(*((c, part.at(min(k, part.comparison_size or k))) for c, part in objective.terms())))
        except ValueError:
            return None

    return Goal(str(objective), str(objective), str(slope), (family,), sizes)


def _smooth(part: Elementary) -> Objective:
    """Return what stands for the gradient of a term: a quantile's surroundings, anything else itself."""
    if part.comparison_size is not None:
        return part
    q = quantile_level(part)
    if q is not None:
        half = min(_QUANTILE_WIDTH / 2, q, 1 - q)
        return parse(f"range:{q - half:g}:{q + half:g}")
    return part.at(1000) if isinstance(part, Winsorized) else part


def _tries(k: str) -> int:
    if int(k) < 1:
        raise ValueError(f"goal must name at least 1 try; got {k}")
    return int(k)


def _level(percent: str) -> float:
    q = float(percent) / 100
    if not 0 < q < 1:
        raise ValueError(f"a share must lie between 0% and 100%; got {percent}%")
    return q
