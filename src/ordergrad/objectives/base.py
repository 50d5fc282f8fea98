"""The base classes: an objective is a weighted sum of elementary ones, which are fixed, counting or level."""

import math
from collections import defaultdict
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ordergrad.objectives.checks import number_text, real_number

__all__ = ["Counting", "Elementary", "Fixed", "Level", "Mixture", "Objective", "combine"]

Array = NDArray[np.float64]


class Objective:
    """A weighted sum of elementary objectives: `Mixture`, or one of them alone."""

    def terms(self) -> "tuple[tuple[float, Elementary], ...]":
        """Return the pairs (coefficient, elementary objective) whose sum this is."""
        raise NotImplementedError

    @property
    def is_open(self) -> bool:
        """Whether the group sets the comparison size of a term."""
        return any(part.comparison_size is None for _, part in self.terms())

    @property
    def largest_size(self) -> int:
        """The largest comparison size that is named, rounded up; 1 if none is."""
        return max((math.ceil(part.comparison_size or 1) for _, part in self.terms()), default=1)

    def at(self, k: float) -> "Objective":
        """Return the objective with every term that has a K at comparison size `k`.

        Example:
            >>> from ordergrad.objectives import CVaR, Max, Mean
            >>> print((Mean() + Max(8) + CVaR(0.1)).at(4))
            mean+cvar:0.1@4+max@4
        """
        return combine(*((c, part.at(k)) for c, part in self.terms()))

    def closed(self, k: float) -> "Objective":
        """Return the objective with the terms that leave K to the group at comparison size `k`.

        Example:
            >>> from ordergrad.objectives import CVaR, Max, Mean
            >>> print((Mean() + Max(8) + CVaR(0.1)).closed(4))
            mean+cvar:0.1@4+max@8
        """
        return combine(*((c, part.at(k) if part.comparison_size is None else part) for c, part in self.terms()))

    def shrunk(self, k_max: int) -> "Objective | None":
        """Return the objective at comparison sizes of at most `k_max`; None if a term would become another objective.

        Levels leave K to the group, ranks are counted among `k_max` rewards, which must be more than are counted, and
        objectives of fixed size do not shrink.

        Example:
            >>> from ordergrad.objectives import CVaR, Gini, Max, Mean, Top
            >>> print(Max(8).shrunk(4), CVaR(0.1, 8).shrunk(4), Top(2, 8).shrunk(2), (Mean() - Gini()).shrunk(1))
            max@4 cvar:0.1 None None
        """
        parts = [(c, part if (part.comparison_size or 1) <= k_max else part.smaller(k_max)) for c, part in self.terms()]
        kept = [(c, part) for c, part in parts if part is not None]
        return combine(*kept) if len(kept) == len(parts) else None

    def __add__(self, other: object) -> "Objective":
        return combine((1.0, self), (1.0, other)) if isinstance(other, Objective) else NotImplemented

    def __radd__(self, other: object) -> "Objective":
        return self if isinstance(other, Integral) and other == 0 else NotImplemented  # where sum() starts

    def __sub__(self, other: object) -> "Objective":
        return combine((1.0, self), (-1.0, other)) if isinstance(other, Objective) else NotImplemented

    def __neg__(self) -> "Objective":
        return combine((-1.0, self))

    def __mul__(self, factor: object) -> "Objective":
        if not isinstance(factor, Real):
            return NotImplemented
        return combine((real_number("factor", factor), self))

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> "Objective":
        if not isinstance(divisor, Real):
            return NotImplemented
        if divisor == 0:
            raise ValueError("divisor must not be 0")
        return combine(*((coefficient / real_number("divisor", divisor), part) for coefficient, part in self.terms()))

    def __str__(self) -> str:
        return "".join(_term_text(*term) for term in self.terms()).removeprefix("+") or "0*mean"


@dataclass(frozen=True)
class Mixture(Objective):
    """A sum of elementary objectives with coefficients; made by ``+``, ``-``, ``*``, ``/`` and `combine`.

    Attributes:
        parts: Pairs (coefficient, elementary objective), each objective at most once, no coefficient zero. Stored in
            one order: positive coefficients first, then the mean, then by name.
    """

    parts: "tuple[tuple[float, Elementary], ...]"

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(sorted(self.parts, key=_place)))

    def terms(self) -> "tuple[tuple[float, Elementary], ...]":
        """Return the pairs (coefficient, elementary objective)."""
        return self.parts


def combine(*parts: tuple[float, Objective]) -> Objective:
    """Return the weighted sum of objectives: terms that are the same objective merge, zero terms drop out.

    Args:
        *parts: Pairs (coefficient, objective).

    Example:
        >>> from ordergrad.objectives import Max, Mean
        >>> print(combine((0.5, Mean()), (0.5, Max(8) + Mean())))
        mean+0.5*max@8
    """
    found: dict[Elementary, list[float]] = defaultdict(list)
    for coefficient, objective in parts:
        for inner, part in objective.terms():
            found[part].append(real_number("coefficient", coefficient * inner))
    total = {part: real_number("coefficient", _sum(numbers)) for part, numbers in found.items()}
    kept = tuple((coefficient, part) for part, coefficient in total.items() if coefficient != 0)
    return kept[0][1] if len(kept) == 1 and kept[0][0] == 1 else Mixture(kept)


class Elementary(Objective):
    """An objective with a name, numbers, and rank weights for every comparison size K that it admits.

    Attributes:
        name: The word that stands for it in an objective string.
        kind: How its comparison size K is set.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["fixed", "counting", "level"]]

    def __post_init__(self) -> None:
        for field in fields(cast(Any, self)):
            value = getattr(self, field.name)
            if isinstance(value, Real) and not isinstance(value, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
                object.__setattr__(self, field.name, _plain(value))
        if self.kind != "fixed" and self.comparison_size is not None:
            k = real_number("k", self.comparison_size)
            if k < 1:
                raise ValueError(f"k must satisfy k >= 1; got k={self.comparison_size}")
            if k.is_integer() and k < 2**53:
                object.__setattr__(self, "k", int(k))
        self._check()

    def _check(self) -> None:
        """Check the numbers other than K."""

    @property
    def comparison_size(self) -> float | None:
        """The comparison size K, a real number; None if the group sets it."""
        return cast(Any, self).k

    def terms(self) -> "tuple[tuple[float, Elementary], ...]":
        """Return the objective itself, once."""
        return ((1.0, self),)

    def at(self, k: float | None) -> "Elementary":
        """Return the objective at comparison size `k`; one of fixed size is returned as it is."""
        return replace(cast(Any, self), k=k)

    def smaller(self, k_max: int) -> "Elementary | None":
        """Return the objective at a comparison size of `k_max`, below its own; None if that is another objective."""
        raise NotImplementedError

    def rank_weights(self, k: int) -> Array:
        """Return the k rank weights at comparison size `k`, float64, ascending ranks."""
        raise NotImplementedError

    def cumulative(self, u: Array) -> Array:
        r"""Return the population spectrum's integral $\Phi(u) = \int_0^u \varphi$, the limit of large K.

        Only objectives of levels have one; $J = \int Q(u) \, d\Phi(u)$ with Q the quantile function of the reward.
        """
        raise ValueError(f"{self} has no limit for large comparison sizes: it compares {self.comparison_size} rewards")

    def density(self, u: Array) -> Array:
        r"""Return the population spectrum $\varphi(u)$, the limit of large K, where it is a function."""
        raise ValueError(f"the population spectrum of {self} is not a function; give a comparison size: {self}@K")

    def __str__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(cast(Any, self))}
        k = values.pop("k", None)
        numbers = "".join(f":{number_text(value)}" for value in values.values())
        return self.name + numbers + ("" if k is None else f"@{number_text(k)}")


class Fixed(Elementary):
    """An objective whose comparison size follows from its definition."""

    kind: ClassVar[Literal["fixed", "counting", "level"]] = "fixed"

    def at(self, k: float | None) -> Elementary:
        """Return the objective as it is."""
        return self

    def smaller(self, k_max: int) -> Elementary | None:
        """Return None."""
        return None


class Counting(Elementary):
    """An objective that counts ranks among K rewards."""

    kind: ClassVar[Literal["fixed", "counting", "level"]] = "counting"

    @property
    def counted(self) -> int:
        """How many ranks are counted; of no more than that many rewards nothing is chosen."""
        return 1

    def smaller(self, k_max: int) -> Elementary | None:
        """Return the objective at `k_max`, None if that many ranks are counted."""
        return self.at(k_max) if self.counted < k_max else None


class Level(Elementary):
    """An objective of quantile levels, whose comparison size may be left to the group.

    Attributes:
        has_population: Whether it has a finite value for a population, the limit of large K.
    """

    kind: ClassVar[Literal["fixed", "counting", "level"]] = "level"
    has_population: ClassVar[bool] = True

    def smaller(self, k_max: int) -> Elementary | None:
        """Return the objective with its comparison size left to the group."""
        return self.at(None)


def _plain(value: Real) -> float:
    """Return a NumPy number or fraction as the Python number that it is."""
    if isinstance(value, Integral):
        return int(value)
    return float(value)


def _sum(numbers: list[float]) -> float:
    """Return the correctly rounded sum, which does not depend on the order."""
    try:
        return math.fsum(numbers)
    except OverflowError:
        return math.inf


def _place(term: tuple[float, Elementary]) -> tuple[bool, bool, str, int]:
    coefficient, part = term
    return coefficient < 0, part.name != "mean", str(part), id(getattr(part, "function", None))


def _term_text(coefficient: float, part: Elementary) -> str:
    sign = "-" if coefficient < 0 else "+"
    factor = "" if abs(coefficient) == 1 else f"{number_text(abs(coefficient))}*"
    return f"{sign}{factor}{part}"
