"""Any weighting of quantiles, given as a Python function."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ordergrad.bernstein import spectrum_of, subset_weights
from ordergrad.objectives.base import Level
from ordergrad.objectives.checks import number_text

__all__ = ["Spectrum"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum(Level):
    r"""Any spectrum φ on [0, 1], given as a Python function, as the rank weights of the same shape closest to it.

    The weights minimise $\int_0^1 (\sum_j \alpha_j b_{j,K}(u) - \varphi(u))^2 du$ at the mass
    $\sum_j \alpha_j = \int_0^1 \varphi$, and keep the shape of φ. If it nowhere increases, nor do they: a risk-averse
    spectrum stays one, and no mean-preserving spread raises its value. If it nowhere decreases, nor do they. If it is
    nowhere negative, nor are they: a better reward never gets a smaller advantage. A φ of either sign that goes up and
    down is fitted without bounds, and its weights can be large where φ is not smooth.

    Up to K = 64 all weights of that shape compete. Beyond, sums of the increments
    $\int_{(j-1)/K}^{j/K} \varphi$ (the choice of `CVaR` and `Wang`) and of the weights of that shape at K = 64, raised
    to K: steps and polynomials stay what they are, and the time grows in proportion to K.

    The function takes an array of levels and returns as many values; 1 in a bad tail and 0 elsewhere is q times a CVaR.
    It has no string form; it pickles if φ does. Two are the same if their functions are equal; one that cannot be
    hashed, such as ``numpy.poly1d``, is the same as itself alone, and must not change.

    Source: least squares in the Bernstein basis; Acerbi (2002) for spectral risk measures and their shape.

    Example:
        >>> Spectrum(lambda u: 3 * u**2).rank_weights(3).round(6)
        array([0., 0., 1.])
        >>> Spectrum(lambda u: np.where(u < 0.02, 50, 0)).rank_weights(100)[:4].round(3)
        array([0.5, 0.5, 0. , 0. ])
    """

    function: Callable[[Array], Array]
    k: float | None = None
    name: ClassVar[str] = "spectrum"

    def _check(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable; got {type(self.function).__name__}")

    def _key(self) -> tuple[object, float | None]:
        try:
            hash(self.function)
        except TypeError:
            return id(self.function), self.k
        return self.function, self.k

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spectrum) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def rank_weights(self, k: int) -> Array:
        """Return the best fit of the shape of φ."""
        levels, mass = _quadrature(k * -(-4096 // k))
        values = self.density(levels)
        increments = (mass * values).reshape(k, -1).sum(axis=1)
        own = min(k, 64)
        shapes, signed = _shapes(values, own)
        nodes, mass = _quadrature(64)
        densities = spectrum_of(shapes, nodes)
        if k > own:
            densities = np.column_stack([spectrum_of(increments[:, None], nodes), densities])
            shapes = np.column_stack([increments, *(subset_weights(shape, k) for shape in shapes.T)])
        root, firm = np.sqrt(mass), 1e4  # one more equation, of great weight: the mass of φ
        design = np.vstack([firm * shapes.sum(axis=0), root[:, None] * densities])
        fitted = _least_squares(design, np.append(firm * increments.sum(), root * self.density(nodes)), signed)
        return np.einsum("kc,c->k", shapes, fitted)

    def cumulative(self, u: Array) -> Array:
        """Return the integral of the function from 0 to u, by Gauss-Legendre quadrature."""
        nodes, mass = _quadrature(32)
        return np.sum(u[..., None] * mass * self.density(u[..., None] * nodes), axis=-1)

    def density(self, u: Array) -> Array:
        """Return the function's values."""
        values = np.asarray(self.function(u), dtype=np.float64)
        if values.shape != u.shape or not np.isfinite(values).all():
            raise ValueError(
                f"function must return one finite value per level; got shape {values.shape} for levels of shape "
                f"{u.shape}, {np.count_nonzero(~np.isfinite(values))} of them not finite"
            )
        return values

    def __str__(self) -> str:
        function = getattr(self.function, "__name__", repr(self.function))
        return f"spectrum({function})" + ("" if self.k is None else f"@{number_text(self.k)}")


def _quadrature(panels: int) -> tuple[Array, Array]:
    """Return nodes and weights on [0, 1]: Gauss-Legendre rules of 16 nodes on equal panels."""
    nodes, mass = np.polynomial.legendre.leggauss(16)
    return ((np.arange(panels)[:, None] + (nodes + 1) / 2) / panels).ravel(), np.tile(mass / (2 * panels), panels)


def _shapes(values: Array, k: int) -> tuple[Array, bool]:
    """Return the columns whose nonnegative sums are the k weights of the shape of a function, or all their sums."""
    slack = 1e-9 * np.abs(values).max()  # of rounding
    steps, nonnegative = np.diff(values), bool((values >= -slack).all())
    falling = bool((steps <= slack).all())
    if not falling and not (steps >= -slack).all():
        return np.eye(k), not nonnegative
    columns = np.triu(np.ones((k, k))) if falling else np.tril(np.ones((k, k)))
    return (columns if nonnegative else np.column_stack([columns, -np.ones(k)])), False


def _least_squares(design: Array, values: Array, signed: bool) -> Array:
    """Return the coefficients that fit best, nonnegative ones unless they may be `signed`."""
    from scipy.optimize import nnls

    scale = np.sqrt((design**2).sum(axis=0))
    scale[scale == 0] = 1
    design, values = _triangular(design / scale, values)
    solve: Any = partial(np.linalg.lstsq, rcond=2e-13) if signed else partial(nnls, maxiter=100 * len(scale))
    return np.asarray(solve(design, values)[0], dtype=np.float64) / scale


def _triangular(design: Array, values: Array) -> tuple[Array, Array]:
    """Return as many equations as unknowns with the same least-squares solutions, by Householder's reflections.

    So few that BLAS solves them without threads, which would not survive a fork.
    """
    table, columns = np.column_stack([design, values]), design.shape[1]
    for j in range(columns):
        mirror = table[j:, j].copy()
        mirror[0] += np.copysign(np.sqrt((mirror**2).sum()), mirror[0])
        length = (mirror**2).sum()
        if length > 0:
            share = np.einsum("i,ij->j", mirror, table[j:, j:]) * (2 / length)
            table[j:, j:] -= mirror[:, None] * share
    return table[:columns, :columns], table[:columns, columns]
