"""Goals in plain terms, and the objectives that may serve them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ordergrad.objectives import Elementary, Objective, Winsorized, combine
from ordergrad.smoothing import quantile_level
from ordergrad.spec import parse
from ordergrad.weights import check_nonzero, sample_weights, smallest_group

__all__ = ["UNDERSTOOD", "Goal", "candidates", "next_group", "read_goal"]

UNDERSTOOD = (
    '"pass@16" or "best of 16", "best 10%", "worst 5%", "worst of 8", "median", "5% quantile", "robust to outliers", '
    '"less spread", "mean", or an objective such as cvar:0.1'
)
_QUANTILE_WIDTH = 0.1
Family = Callable[[float], str | None]


@dataclass(frozen=True)
class Goal:
    """What someone wants of the reward distribution.

    Attributes:
        text: The goal in words.
        target: The objective that measures it, without sampling error and without limit on K.
        slope: The objective whose gradient stands for that of the target. A quantile has none where rewards are
            discrete; the mean of a tenth of the outcomes around it stands for it.
        families: Objectives that may serve it: functions from K to a string, None if K does not fit.
        sizes: The comparison sizes that the goal names, whole or not; the others follow from the group.
        passes: Whether rewards count only as passed or not.
    """

    text: str
    target: str
    slope: str
    families: tuple[Family, ...]
    sizes: tuple[float, ...] = ()
    passes: bool = False


def read_goal(text: str) -> Goal:
    """Parse a goal in plain words.

    Raises:
        ValueError: They are not understood; the message lists what is.

    Example:
        >>> read_goal("worst 5%").target, read_goal("pass@16").target
        ('cvar:0.05', 'max@16')
    """
    words = " ".join(text.lower().replace("-", " ").split())
    for pattern, make in _PATTERNS:
        match = re.fullmatch(pattern, words)
        if match:
            return make(*match.groups())
    try:
        objective = parse(text.strip())
        check_nonzero(objective)
    except ValueError as error:
        raise ValueError(f"goal must be one of {UNDERSTOOD}; got {text!r} ({error})") from error
    return _of_objective(objective)


def candidates(goal: Goal, n: int) -> list[str]:
    """Return the objectives to weigh up in groups of n, the goal's own first, the mean last, none twice.

    Example:
        >>> candidates(read_goal("best of 16"), 8)
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
        >>> next_group(read_goal("top:2@4"), 2), next_group(read_goal("pass@1"), 2)
        (4, None)
    """
    last = max(smallest_group(parse(goal.target), "leave_one_out"), 3)
    return next((size for size in range(n + 1, last + 1) if candidates(goal, size) != ["mean"]), None)


def _at(name: str) -> Family:
    """Return the family of an objective at every K."""
    return lambda k: str(parse(name).closed(k))


def _counting(name: str, m: int) -> Family:
    """Return the family ``name:m@k``."""
    return lambda k: f"{name}:{m}@{k}" if k > m else None


def _share(name: str, q: float) -> Family:
    """Return the family of the m best or worst of k, twice as many as a share q of them."""
    return lambda k: f"{name}:{max(2, round(2 * q * k))}@{k}" if max(2, round(2 * q * k)) < k else None


def _largest_only(name: str) -> Family:
    return lambda k: f"{name}@{k}"


def _best_of(word: str, k: str) -> Goal:
    count, passes = _tries(k), word == "pass"
    text = f"the chance that one of {count} tries passes" if passes else f"the expected best of {count} tries"
    families = (_largest_only("max"), _counting("top", 2), _largest_only("maxrl"))
    return Goal(text, f"max@{count}", f"max@{count}", families, (count,), passes)


def _worst_of(k: str) -> Goal:
    count = _tries(k)
    families = (_largest_only("min"), _counting("bottom", 2))
    return Goal(f"the expected worst of {count} tries", f"min@{count}", f"min@{count}", families, (count,))


def _worst(percent: str) -> Goal:
    q = _level(percent)
    own = f"cvar:{q:g}"
    mixed: Family = lambda k: f"0.5*mean+0.5*{own}@{k}"  # noqa: E731
    return Goal(f"the mean of the worst {percent}%", own, own, (_at(own), _share("bottom", q), mixed))


def _best(percent: str) -> Goal:
    q = _level(percent)
    own = f"uppercvar:{q:g}"
    return Goal(f"the mean of the best {percent}%", own, own, (_at(own), _share("top", q)))


def _quantile(percent: str) -> Goal:
    q = _level(percent)
    half = min(_QUANTILE_WIDTH / 2, q, 1 - q)
    families = (_at(f"quantile:{q:g}"), _at(f"quantile:{q:g}:harrelldavis"), _at(f"range:{q - half:g}:{q + half:g}"))
    return Goal(f"the {percent}% quantile", f"var:{q:g}", f"range:{q - half:g}:{q + half:g}", families)


def _median() -> Goal:
    families = (_at("median"), _at("quantile:0.5:harrelldavis"), _at("trimmed:0.25"))
    return Goal("the median", "median", "range:0.45:0.55", families)


def _robust() -> Goal:
    families = (_at("trimmed:0.1"), _at("trimmed:0.25"), _at("winsorized:0.1"), _at("median"))
    return Goal("the mean of the middle 80%", "trimmed:0.1", "trimmed:0.1", families)


def _spread() -> Goal:
    families: tuple[Family, ...] = (
        lambda k: "mean-0.5*gini",
        lambda k: "mean-0.25*gini",
        lambda k: f"wang:0.5@{k}",
    )
    return Goal("the mean less half the mean difference of two", "mean-0.5*gini", "mean-0.5*gini", families)


def _mean() -> Goal:
    return Goal("the mean", "mean", "mean", (lambda k: "mean", _at("winsorized:0.1"), _at("trimmed:0.1")))


def _of_objective(objective: Objective) -> Goal:
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


_NUMBER = r"(\d+(?:\.\d+)?)"
_PATTERNS: Sequence[tuple[str, Callable[..., Goal]]] = (
    (r"(pass) ?@ ?(\d+)", _best_of),
    (r"(max|best) ?(?:@|of) ?(\d+)(?: tries)?", _best_of),
    (r"(?:min|worst) ?(?:@|of) ?(\d+)(?: tries)?", _worst_of),
    (rf"(?:the )?(?:worst|bottom|lower) {_NUMBER} ?%", _worst),
    (rf"(?:the )?(?:best|top|upper) {_NUMBER} ?%", _best),
    (rf"(?:the )?{_NUMBER} ?% quantile", _quantile),
    (r"(?:the )?median|typical(?: outcome)?", _median),
    (r"robust|robust to outliers|ignore outliers|outliers|noisy rewards?", _robust),
    (r"less spread|low spread|consistent|little variation|low variance", _spread),
    (r"(?:the )?(?:mean|average)(?: reward)?", _mean),
)
