r"""Rare bad conditions: a cross-entropy sampler of what an environment is started with, with importance weights.

A condition c (a guard that is there or not, a wind, a load) is drawn for each episode from a known reference
distribution p. If only few conditions are bad, few episodes say anything about the tail of the returns.
`ConditionSampler` draws from the mixture $m = \rho p + (1 - \rho) q$ instead, weighs each episode by
$\omega(c) = p(c) / m(c) \le 1/\rho$, so that $E_m[\omega f] = E_p[f]$ for every f, and moves q towards the conditions
of the worst episodes under p:

$$q \leftarrow \arg\max_q \sum_i \omega_i \, \tau_i \log q(c_i) ,$$

with $\tau_i$ the share of episode i that lies in the lower tail: 1 below the tail's quantile of the weighted returns, a
fraction at it (so that ties are treated alike and the tail has its exact mass), 0 above. For the exponential families
below, the maximum is a match of moments. The weights go into ``ordergrad.advantages(..., sample_weight=)``.

Greenberg et al. published the method and, as ``cross-entropy-method`` on PyPI, their code, which the tests compare this
one with. It is not used here: its generator is the global one of NumPy, it saves by pickle and without all of its
settings, samples one condition at a time, never forgets a sample, needs pandas and matplotlib to be imported, weighs by
p/q without a bound, and selects at random among tied returns, which time limits make frequent.

References:
    Greenberg, Chow, Ghavamzadeh and Mannor (2022). Efficient Risk-Averse Reinforcement Learning. NeurIPS 35.
        arXiv 2205.05138.
    Rubinstein and Kroese (2004). The Cross-Entropy Method. Springer.
    Veach and Guibas (1995). Optimally combining sampling techniques. SIGGRAPH. (weights of a mixture)
    Rockafellar and Uryasev (2002). Conditional value-at-risk for general loss distributions. Journal of Banking and
        Finance 26. (the tail with its fraction at the quantile)
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import root
from scipy.special import betaln, digamma, polygamma, xlog1py, xlogy

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "ConditionSampler",
    "Conditions",
    "Distribution",
    "Exponential",
    "Independent",
    "Normal",
]

Array = NDArray[Any]
Floats = NDArray[np.float64]


class Distribution(Protocol):
    """What a family of conditions offers; anything with these five members can be sampled."""

    @property
    def parameters(self) -> tuple[float, ...]:
        """Its numbers."""
        ...

    def at(self, parameters: Sequence[float]) -> Self:
        """Return the member of the family with other numbers."""
        ...

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Return n conditions, shape (n,) or (n, d)."""
        ...

    def log_density(self, conditions: Array) -> Floats:
        """Return the logarithm of the density or probability of each condition, shape (n,)."""
        ...

    def fit(self, conditions: Array, weight: Floats) -> Self:
        """Return the member with the largest weighted likelihood; weights are nonnegative with a positive sum."""
        ...


class _Family:
    """A family whose parameters are its fields."""

    @property
    def parameters(self) -> tuple[float, ...]:
        """Its numbers."""
        return tuple(map(float, astuple(self)))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

    def at(self, parameters: Sequence[float]) -> Self:
        """Return the member of the family with other numbers."""
        return type(self)(*parameters)


@dataclass(frozen=True)
class Bernoulli(_Family):
    """Conditions that hold or not, as bools.

    Args:
        probability: Of True, in [0, 1].
    """

    probability: float

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must lie in [0, 1]; got {self.probability}")

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Return n bools."""
        return rng.random(n) < self.probability

    def log_density(self, conditions: Array) -> Floats:
        """Return the log probability of each bool, of other things -inf."""
        x = np.asarray(conditions)
        return _log(np.where(x == 1, self.probability, np.where(x == 0, 1 - self.probability, 0.0)))

    def fit(self, conditions: Array, weight: Floats) -> Self:
        """Return the weighted share of True."""
        return type(self)(min(float(np.average(conditions, weights=weight)), 1.0))


@dataclass(frozen=True)
class Categorical:
    """Conditions 0, 1, ..., m - 1.

    Args:
        probabilities: Of each, nonnegative, of sum 1.
    """

    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        p = np.array(self.probabilities, dtype=float)
        if p.ndim != 1 or not (p >= 0).all() or abs(p.sum() - 1) > 1e-6:
            raise ValueError(f"probabilities must be nonnegative numbers of sum 1; got {self.probabilities}")
        object.__setattr__(self, "probabilities", tuple((p / p.sum()).tolist()))

    @property
    def parameters(self) -> tuple[float, ...]:
        """The probabilities."""
        return self.probabilities

    def at(self, parameters: Sequence[float]) -> Self:
        """Return the family with other probabilities."""
        return type(self)(tuple(parameters))

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Return n whole numbers."""
        return rng.choice(len(self.probabilities), n, p=self.probabilities)

    def log_density(self, conditions: Array) -> Floats:
        """Return the log probability of each condition, of other things -inf."""
        x = np.asarray(conditions)
        known = np.isin(x, np.arange(len(self.probabilities)))
        return _log(np.where(known, np.array(self.probabilities)[np.where(known, x, 0).astype(int)], 0.0))

    def fit(self, conditions: Array, weight: Floats) -> Self:
        """Return the weighted shares."""
        shares = np.bincount(np.asarray(conditions, int), weight, len(self.probabilities))
        return type(self)(tuple((shares / shares.sum()).tolist()))


@dataclass(frozen=True)
class Exponential(_Family):
    """Exponential conditions.

    Args:
        mean: Positive.
    """

    mean: float

    def __post_init__(self) -> None:
        _check_positive("mean", self.mean)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Return n nonnegative numbers."""
        return rng.exponential(self.mean, n)

    def log_density(self, conditions: Array) -> Floats:
        """Return the log density of each condition."""
        x = np.asarray(conditions, dtype=float)
        return np.where(x >= 0, -x / self.mean - math.log(self.mean), -np.inf)

    def fit(self, conditions: Array, weight: Floats) -> Self:
        """Return the weighted mean, at least a millionth of this one's."""
        return type(self)(max(float(np.average(conditions, weights=weight)), 1e-6 * self.mean))


@dataclass(frozen=True)
class Normal(_Family):
    """Normal conditions.

    Args:
        mean: Any number.
        sd: The standard deviation, positive.
    """

    mean: float
    sd: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise ValueError(f"mean must be finite; got {self.mean}")
        _check_positive("sd", self.sd)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Return n numbers."""
        return rng.normal(self.mean, self.sd, n)

    def log_density(self, conditions: Array) -> Floats:
        """Return the log density of each condition."""
        z = (np.asarray(conditions, dtype=float) - self.mean) / self.sd
        return -0.5 * z * z - math.log(self.sd * math.sqrt(2 * math.pi))

    def fit(self, conditions: Array, weight: Floats) -> Self:
        """Return the weighted mean and deviation, the latter at least a thousandth of this one's."""
        mean = float(np.average(conditions, weights=weight))
        variance = float(np.average((np.asarray(conditions) - mean) ** 2, weights=weight))
        return type(self)(mean, max(math.sqrt(variance), 1e-3 * self.sd))


@dataclass(frozen=True)
class Beta(_Family):
    """Conditions between 0 and 1; ``Beta(1, 1)`` is uniform.

    Args:
        a: Positive.
        b: Positive.
    """

    a: float
    b: float

    def __post_init__(self) -> None:
        _check_positive("a", self.a)
        _check_positive("b", self.b)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Return n numbers between 0 and 1."""
        return rng.beta(self.a, self.b, n)

    def log_density(self, conditions: Array) -> Floats:
        """Return the log density of each condition; where infinite, at 0 or 1, that of the nearest number between."""
        x = np.asarray(conditions, dtype=float)
        inside = np.clip(x, 0.0, 1.0)
        low = np.nextafter(0.0, 1.0) if self.a < 1 else 0.0
        high = np.nextafter(1.0, 0.0) if self.b < 1 else 1.0
        log = xlogy(self.a - 1, np.maximum(inside, low)) + xlog1py(self.b - 1, -np.minimum(inside, high))
        log -= betaln(self.a, self.b)
        return np.where(x == inside, log, -np.inf)

    def fit(self, conditions: Array, weight: Floats) -> Self:
        """Return a and b of the largest weighted likelihood, each between 0.001 and 10,000."""
        x = np.clip(np.asarray(conditions, dtype=float), 1e-9, 1 - 1e-9)
        target = np.array([np.average(np.log(x), weights=weight), np.average(np.log1p(-x), weights=weight)])
        mean = float(np.average(x, weights=weight))
        variance = float(np.average((x - mean) ** 2, weights=weight))
        total = max(mean * (1 - mean) / max(variance, 1e-12) - 1, 1e-2)

        def gap(log: Floats) -> Floats:
            a, b = map(float, np.exp(log))
            return np.array([digamma(a), digamma(b)], dtype=float) - float(digamma(a + b)) - target

        def slope(log: Floats) -> Floats:
            a, b = map(float, np.exp(log))
            own = np.diag(np.array([polygamma(1, a), polygamma(1, b)], dtype=float))
            return (own - float(polygamma(1, a + b))) * np.array([a, b])

        start = np.log(np.clip([mean * total, (1 - mean) * total], 1e-3, 1e4))
        solution: Any = root(gap, start, jac=slope)
        a, b = np.exp(np.clip(solution.x if solution.success else start, math.log(1e-3), math.log(1e4)))
        return type(self)(float(a), float(b))


@dataclass(frozen=True)
class Independent:
    """Several conditions at once, independent under the reference: the columns of an array of shape (n, d).

    Args:
        parts: A one-dimensional distribution for each column.
    """

    parts: tuple[Distribution, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts must hold at least one distribution; got none")

    @property
    def parameters(self) -> tuple[float, ...]:
        """The numbers of all parts."""
        return tuple(number for part in self.parts for number in part.parameters)

    def at(self, parameters: Sequence[float]) -> Self:
        """Return the parts with other numbers."""
        left = list(parameters)
        parts = [part.at([left.pop(0) for _ in part.parameters]) for part in self.parts]
        return type(self)(tuple(parts))

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Return numbers of shape (n, d)."""
        return np.stack([np.asarray(part.sample(n, rng), dtype=float) for part in self.parts], axis=1)

    def log_density(self, conditions: Array) -> Floats:
        """Return the log density of each row.

        Raises:
            ValueError: There is not one column for each part.
        """
        columns = np.asarray(conditions).T
        if columns.ndim != 2 or len(columns) != len(self.parts):
            raise ValueError(f"conditions must have shape (n, {len(self.parts)}); got {columns.shape[::-1]}")
        logs = [part.log_density(column) for part, column in zip(self.parts, columns, strict=True)]
        return np.sum(logs, axis=0)

    def fit(self, conditions: Array, weight: Floats) -> Self:
        """Return each part fitted to its column."""
        columns = np.asarray(conditions).T
        return type(self)(tuple(part.fit(column, weight) for part, column in zip(self.parts, columns, strict=True)))


class Conditions(NamedTuple):
    """Conditions of n episodes and the importance weight of each."""

    values: Array
    weight: Floats


class ConditionSampler:
    """Draw conditions more often where episodes end badly, and weigh each by the reference.

    Args:
        reference: The distribution p of the conditions in truth.
        seed: Of the conditions that are drawn.
        tail: Which share of the episodes, under p, the sampler seeks the conditions of: the level of the CVaR.
        elite: The least share of the reported episodes that an update rests on, regardless of weight: q approaches
            a small tail in several updates.
        reference_share: The share ρ of conditions drawn from p itself, in (0, 1]; weights are at most 1/ρ. With 1
            nothing is oversampled.
        every: Update once this many episodes have been reported.
        inertia: How much of the old parameters an update keeps, in [0, 1).

    Raises:
        ValueError: A number is out of range.

    Attributes:
        reference: p.
        current: q, p at first.
        updates: How often q has moved.
        nonfinite: Reported episodes that were left out because their return was NaN or infinite.

    Example:
        >>> import ordergrad as og
        >>> sampler = ConditionSampler(Bernoulli(0.05), seed=0)
        >>> for _ in range(5):
        ...     storm, weight = sampler.sample(400)
        ...     returns = np.where(storm, -10.0, 1.0)
        ...     a = og.advantages(returns, "cvar:0.05", sample_weight=weight)
        ...     _ = sampler.report(storm, weight, returns)
        >>> sampler.current.parameters[0] > 0.9, storm.mean() > 0.7
        (True, np.True_)
        >>> bool(abs(og.value(returns, "mean", sample_weight=weight) - 0.45) < 0.2)
        True
    """

    def __init__(
        self,
        reference: Distribution,
        *,
        seed: int,
        tail: float = 0.05,
        elite: float = 0.2,
        reference_share: float = 0.2,
        every: int = 100,
        inertia: float = 0.0,
    ):
        for name, number in (("tail", tail), ("elite", elite), ("reference_share", reference_share)):
            if not 0 < number <= 1:
                raise ValueError(f"{name} must satisfy 0 < {name} <= 1; got {number}")
        if not 0 <= inertia < 1:
            raise ValueError(f"inertia must satisfy 0 <= inertia < 1; got {inertia}")
        if every < 1:
            raise ValueError(f"every must be at least 1; got {every}")
        self.reference = self.current = reference
        self.tail, self.elite, self.reference_share = tail, elite, reference_share
        self.every, self.inertia = every, inertia
        self.updates = self.nonfinite = 0
        self._rng = np.random.default_rng(seed)
        self._waiting: list[tuple[Array, Floats, Floats]] = []

    def sample(self, n: int) -> Conditions:
        """Return n independent conditions from the mixture of p and q, and their weights p/m.

        Args:
            n: The number of episodes.
        """
        mine = self.reference.sample(n, self._rng)
        theirs = self.current.sample(n, self._rng)
        chosen = self._rng.random(n) < self.reference_share
        values = np.where(chosen.reshape(-1, *[1] * (mine.ndim - 1)), mine, theirs)
        return Conditions(values, self.weights(values))

    def weights(self, conditions: ArrayLike) -> Floats:
        """Return the importance weights of conditions drawn as `sample` draws them now, shape (n,).

        Args:
            conditions: Shape (n,) or (n, d).

        Raises:
            ValueError: Neither p nor q can have drawn them.
        """
        p, q = self._log_densities(np.asarray(conditions))
        with np.errstate(over="ignore"):
            return 1 / (self.reference_share + (1 - self.reference_share) * np.exp(q - p))

    def report(self, conditions: ArrayLike, weight: ArrayLike, returns: ArrayLike) -> bool:
        """Tell how episodes ended; once `every` have been told, q moves. Returns whether it has.

        Args:
            conditions: What `sample` returned, shape (n,) or (n, d); in any order, from any number of calls.
            weight: What it returned with them, shape (n,).
            returns: The return of each episode, shape (n,). NaN and infinite ones are left out and counted.

        Raises:
            ValueError: Shapes do not fit, weights are negative or not finite, or neither p nor q can have drawn the
                conditions.
        """
        c, w = np.asarray(conditions), np.asarray(weight, dtype=float)
        r = np.asarray(returns, dtype=float)
        if r.ndim != 1 or w.shape != r.shape or c.shape[:1] != r.shape:
            raise ValueError(
                f"conditions, weight and returns must have one row for each episode; got shapes {c.shape}, {w.shape} "
                f"and {r.shape}"
            )
        proper = np.isfinite(w) & (w >= 0)
        if not proper.all():
            raise ValueError(f"weight must be finite and nonnegative; got {w[~proper][0]}")
        self._log_densities(c)
        finite = np.isfinite(r)
        self.nonfinite += int((~finite).sum())
        if finite.any():
            self._waiting.append((c[finite], w[finite], r[finite]))
        if sum(len(told) for _, _, told in self._waiting) < self.every:
            return False
        c, w, r = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
        self._waiting = []
        if not w.sum() > 0:
            return False
        fitted = self.reference.fit(c, _tail_weight(r, w, self.tail, self.elite)).parameters
        kept = [self.inertia * old + (1 - self.inertia) * new for old, new in zip(self._numbers, fitted, strict=True)]
        self.current = self.reference.at(kept)
        self.updates += 1
        return True

    def state(self) -> dict[str, Any]:
        """Return all that changes, as JSON values: the parameters of q, episodes not yet used, the generator."""
        return {
            "current": list(self._numbers),
            "updates": self.updates,
            "nonfinite": self.nonfinite,
            "waiting": [[part.tolist() for part in told] for told in self._waiting],
            "random": self._rng.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, in a sampler with the same reference and settings.

        Raises:
            ValueError: It is the state of a sampler with another kind of reference.
        """
        if len(state["current"]) != len(self._numbers):
            raise ValueError(
                f"state must be that of a sampler with {len(self._numbers)} parameters; got {len(state['current'])}"
            )
        self.current = self.reference.at(state["current"])
        self.updates, self.nonfinite = state["updates"], state["nonfinite"]
        self._waiting = [(np.asarray(c), np.asarray(w, float), np.asarray(r, float)) for c, w, r in state["waiting"]]
        self._rng.bit_generator.state = state["random"]

    def _log_densities(self, values: Array) -> tuple[Floats, Floats]:
        """Return those under p and q, at least one of which must be able to draw each condition."""
        p, q = self.reference.log_density(values), self.current.log_density(values)
        if p.shape != values.shape[:1]:
            raise ValueError(f"conditions of {self.reference} must have shape (n,); got {values.shape}")
        possible = (p > -np.inf) | (q > -np.inf)
        if not possible.all():
            raise ValueError(f"conditions must be possible under {self.reference}; got {values[~possible][0]}")
        return p, q

    @property
    def _numbers(self) -> tuple[float, ...]:
        return self.current.parameters


def _tail_weight(returns: Floats, weight: Floats, tail: float, elite: float) -> Floats:
    """Return how much of each episode's normalised weight lies in the lower tail of the returns.

    The tail has the mass `tail`, or that of the lowest `elite` of the episodes if that is more. Of episodes that tie at
    its end, the same fraction of each belongs to it.
    """
    _, place, counts = np.unique(returns, return_inverse=True, return_counts=True)
    share = weight / weight.sum()
    mass = np.bincount(place, share)
    up_to = np.cumsum(mass)
    lowest = np.interp(elite * len(returns), np.append(0, np.cumsum(counts)), np.append(0.0, up_to))
    level = max(tail, float(lowest))
    inside = np.clip(level - (up_to - mass), 0.0, mass)
    fraction = np.divide(inside, mass, out=np.zeros_like(mass), where=mass > 0)
    return share * fraction[place]


def _log(x: ArrayLike) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(x)


def _check_positive(name: str, number: float) -> None:
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite; got {number}")
