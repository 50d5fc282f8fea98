r"""The most return subject to a limit on an objective of the cost: a Lagrange multiplier under PID control.

    constraint = Constraint("uppercvar:0.1", limit=25.0)
    model = OrderGradPPO("MlpPolicy", env, objective="mean", constraint=constraint)

The environment returns the cost of each step as ``info["cost"]``; higher is worse. $A$ are the advantages of the
returns and $A^c$ those of the costs, each divided by the scale (the standard deviation) of its signal; $s$ and $s^c$
are the steepest slopes of the objectives. The policy is trained on $(A - \lambda A^c)/(s + \lambda s^c)$. After each
group the multiplier $\lambda$ follows the error $e = (\text{objective of the cost} - \text{limit}) / \text{scale}$:
$\lambda = (k_p e + k_i I + k_d (e - e_{\text{last}})_+)_+$ with the integral $I \leftarrow (I + e)_+$.

References:
    Stooke, Achiam and Abbeel (2020). Responsive Safety in Reinforcement Learning by PID Lagrangian Methods.
        arXiv 2007.03964.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ordergrad.adapters.episodes import weighs_lower_tail
from ordergrad.objectives import Objective
from ordergrad.spec import parse
from ordergrad.weights import check_nonzero

__all__ = ["COST", "Constraint", "Multiplier", "step_costs"]

COST = "cost"
"""Where the info of a step has its cost."""


@dataclass(frozen=True)
class Constraint:
    """A limit on an objective of the episode's cost, and the gains of its multiplier.

    Args:
        objective: The objective of the cost, or its string. Higher costs are worse: ``uppercvar:0.1`` is the mean of
            the worst tenth.
        limit: What it should not exceed, in the unit of the cost.
        kp: Gain of the error, which is in standard deviations of the cost.
        ki: Gain of the sum of errors. Without it a binding limit is not met exactly.
        kd: Gain of the error's increase since the last group.

    Raises:
        ValueError: The objective string is wrong or weighs low costs most, the limit is not finite, a gain is
            negative or not finite, or kp and ki are both 0.

    Example:
        >>> Constraint("uppercvar:0.1", limit=25.0).limit
        25.0
    """

    objective: str | Objective
    limit: float
    kp: float = 1.0
    ki: float = 0.05
    kd: float = 0.0

    def __post_init__(self) -> None:
        objective = parse(self.objective)
        check_nonzero(objective)
        if weighs_lower_tail(objective):
            raise ValueError(
                "the objective of a constraint must not weigh low costs most, because high costs are the bad ones "
                f"(use uppercvar:q for the mean of the worst); got {objective}"
            )
        if not _is_finite(self.limit):
            raise ValueError(f"limit must be a finite number; got {self.limit!r}")
        for name in ("kp", "ki", "kd"):
            gain = getattr(self, name)
            if not _is_finite(gain) or gain < 0:
                raise ValueError(f"{name} must be a finite number of at least 0; got {gain!r}")
        if self.kp == self.ki == 0:
            raise ValueError("kp or ki must be positive; got 0 for both")
        object.__setattr__(self, "objective", objective)


class Multiplier:
    """The multiplier of a constraint.

    Args:
        constraint: The limit and the gains.

    Attributes:
        value: The multiplier, at least 0.

    Example:
        >>> multiplier = Multiplier(Constraint("mean", limit=1.0, kp=0.5, ki=0.1))
        >>> [round(multiplier.update(cost, scale=1.0), 2) for cost in (3.0, 3.0, 1.0, -9.0)]
        [1.2, 1.4, 0.4, 0.0]
    """

    def __init__(self, constraint: Constraint):
        self.constraint = constraint
        self.value = self._integral = 0.0
        self._last: float | None = None

    def update(self, cost: float, scale: float) -> float:
        """Return the multiplier after a group.

        Args:
            cost: The objective of the group's costs.
            scale: The deviation of the costs. If it is 0, no episode costs more than another, so that there is nothing
                to learn from them, and the error counts as 0.
        """
        c = self.constraint
        error = (cost - c.limit) / scale if scale > 0 else 0.0
        rise = 0.0 if self._last is None else max(error - self._last, 0.0)
        self._integral = max(self._integral + error, 0.0)
        self._last = error
        self.value = max(c.kp * error + c.ki * self._integral + c.kd * rise, 0.0)
        return self.value

    def combine(self, of_return: Any, of_cost: Any, steepness: float) -> Any:
        """Return the advantages or rewards to train on.

        Args:
            of_return: Those of the return, divided by scale and steepest slope.
            of_cost: Those of the cost, likewise.
            steepness: The steepest slope of the cost's objective over that of the return's.
        """
        weight = self.value * steepness
        return (of_return - weight * of_cost) / (1.0 + weight)

    def state(self) -> dict[str, Any]:
        """Return what a resumed training needs, as JSON values."""
        return {"value": self.value, "integral": self._integral, "last": self._last}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.value, self._integral, self._last = state["value"], state["integral"], state["last"]


def step_costs(infos: list[dict[str, Any]]) -> list[float]:
    """Return the cost of a step in each environment.

    Raises:
        ValueError: An info has no cost.

    Example:
        >>> step_costs([{"cost": 1.0}, {"cost": 0}])
        [1.0, 0.0]
    """
    for i, info in enumerate(infos):
        if COST not in info:
            raise ValueError(
                f"a constraint needs info[{COST!r}] at every step; environment {i} returned "
                f"{', '.join(map(repr, info)) or 'an empty info'}. Add it in the environment or a wrapper"
            )
    return [float(info[COST]) for info in infos]


def _is_finite(number: Any) -> bool:
    return isinstance(number, Real) and math.isfinite(number)
