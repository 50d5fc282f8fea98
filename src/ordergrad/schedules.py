r"""Risk schedules: $(1-t) J_a + t J_b$, from one objective to another while a policy learns.

With a number t the result is an objective like any other. With a tensor or a traced t it is a `Schedule`: advantages
and values are linear in the objective, so the estimators compute those of both ends and mix them, and a compiled
training step serves every t.
"""

from collections.abc import Callable
from typing import Any, NoReturn, cast, overload

from ordergrad.backends import Array, Backend
from ordergrad.objectives import Objective, combine, real_number
from ordergrad.spec import parse
from ordergrad.weights import check_nonzero

__all__ = ["Schedule", "anneal"]


class Schedule:
    """The objective ``(1-t)*start + t*end`` for a t that may not be known yet; made by `anneal`.

    It has no string, no hash and no equality, for these would need the value of t.

    Attributes:
        start: The objective at t = 0.
        end: The objective at t = 1.
        t: The progress, an array of shape ().
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, start: str | Objective, end: str | Objective, t: Array) -> None:
        self.start, self.end, self.t = start, end, t

    def mix(self, ops: Backend, quantity: Callable[[str | Objective], Array]) -> Array:
        """Return a quantity that is linear in the objective, from that of either end."""
        first, last = quantity(self.start), quantity(self.end)
        t = ops.xp.astype(ops.asarray(self.t, first), first.dtype)
        return (1 - t) * first + t * last

    def detached(self, ops: Backend) -> "Schedule":
        """Return the schedule with t cut from the autodiff graph."""
        return Schedule(self.start, self.end, ops.detach(self.t))

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("a schedule has no equality: its t may not be known yet")

    def __str__(self) -> str:
        raise TypeError("a schedule has no string: its t may not be known yet; a number t gives an objective")

    def __repr__(self) -> str:
        return f"Schedule(start={self.start!r}, end={self.end!r}, t={self.t!r})"


@overload
def anneal(  # pyright: ignore[reportOverlappingOverload]
    a: str | Objective, b: str | Objective, t: float
) -> Objective: ...


@overload
def anneal(a: str | Objective, b: str | Objective, t: Array) -> Schedule: ...


def anneal(a: str | Objective, b: str | Objective, t: Any) -> Objective | Schedule:
    r"""Return the schedule $(1-t)\,a + t\,b$: every step of it is an exact objective.

    Args:
        a: The objective at t = 0.
        b: The objective at t = 1.
        t: The progress, from 0 to 1: a number, or a tensor or JAX array of shape (). Inside ``torch.compile`` or
            ``jax.jit``, pass it as a tensor or an argument, and one compilation serves every t. Its values are not
            looked at then.

    Returns:
        An objective for a number t. For an array a `Schedule`, which `advantages`, `value`, `value_and_error`,
        `include_one`, `leave_one_out` and `group_advantages` take instead of an objective. Values are
        differentiable in t.

    Raises:
        ValueError: `t` is outside [0, 1] or no single number, or nothing is left of an objective of a schedule.
        TypeError: `t` is not a number.

    Example:
        >>> print(anneal("mean", "cvar:0.05", 0.25))
        0.75*mean+0.25*cvar:0.05
    """
    shape = getattr(t, "shape", None)
    if shape is None or type(t).__module__ == "numpy":
        number = real_number("t", t.item() if shape == () else t)
        if not 0 <= number <= 1:
            raise ValueError(f"t must satisfy 0 <= t <= 1; got t={t}")
        return combine((1 - number, parse(a)), (number, parse(b)))
    if tuple(shape) != ():
        raise ValueError(f"t must be one number; got shape {tuple(shape)}")
    _check_ends(a, b)
    return Schedule(a, b, t)


def _check_ends(a: str | Objective, b: str | Objective) -> None:
    for end in (a, b):
        check_nonzero(parse(end))


cast(Any, _check_ends)._dynamo_marked_constant = True  # torch.compile runs it instead of tracing it
