r"""Rewards whose sum over an episode is f(R), with f from the returns of the last episodes.

The advantages of a group are $A_i = f(R_i) - \mathrm{mean} f$, where f is piecewise linear with slope $N w_m(N-1)$
between the m-th and the next of the N sorted returns. Here the group is a running sample of episode returns, and a step
that moves the return so far from $C_{t-1}$ to $C_t$ is paid $f(C_t) - f(C_{t-1})$. An algorithm that maximises the sum
of its rewards then ascends the objective: on or off policy, recurrent, masked, with a replay buffer.

It is an approximation, in three ways. The running sample contains returns of older policies. f changes during an
episode, by as much as the sample does. And rewards that wait in a replay buffer keep the f they were made with.
"""

from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.estimators import value
from ordergrad.objectives import Objective, whole_number
from ordergrad.spec import parse
from ordergrad.weights import check_nonzero, scan, shrunk

__all__ = ["ObjectiveRewards", "RunningTransform"]

Array = NDArray[Any]


class RunningTransform:
    r"""The function f of a running sample of episode returns, scaled so that its steepest slope is 1.

    For ``mean`` it is the identity, for ``cvar:q`` about $\min(R, Q(q))$, Q the quantile function of the sample. A
    median or quantile is smoothed. While the sample is too small for a comparison size, a smaller one takes its place
    where the objective keeps its meaning (`max@8` of five returns is `max@4`); otherwise f is 0.

    Args:
        objective: What to optimise: an objective or its string. May be assigned at any time, for a schedule.
        window: The number of episodes in the sample.

    Raises:
        ValueError: The objective string is wrong or has no weight, or `window` is below 2.

    Attributes:
        returns: The sample, oldest first.
        total: Episodes so far.
        nonfinite: Episodes left out for a NaN or infinite return.

    Example:
        >>> f = RunningTransform("cvar:0.5")
        >>> f.add([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> f(np.array([0.0, 2.0, 4.0, 6.0])) - f(np.array(2.0))
        array([-2.,  0.,  1.,  1.])
    """

    def __init__(self, objective: str | Objective = "mean", window: int = 1000):
        self.objective = objective
        check_nonzero(self.objective)
        if whole_number("window", window) < 2:
            raise ValueError(f"window must be at least 2; got {window}")
        self.window = window
        self.returns = np.zeros(0)
        self.total, self.nonfinite = 0, 0
        self._pieces: tuple[Array, Array, Array] | None = None

    @property
    def objective(self) -> Objective:
        """What is optimised."""
        return self._objective

    @objective.setter
    def objective(self, objective: str | Objective) -> None:
        self._objective = parse(objective)
        self._pieces = None

    @property
    def value(self) -> float:
        """The objective's value in the sample; NaN while it is too small."""
        if not len(self.returns):
            return float("nan")
        return float(value(self.returns, self.objective, small="shrink"))

    def add(self, returns: Any) -> None:
        """Take the returns of episodes that have ended. More than `window` at once stay together.

        Args:
            returns: One number per episode.
        """
        new = np.asarray(returns, np.float64).ravel()
        finite = np.isfinite(new)
        self.total += len(new)
        self.nonfinite += int((~finite).sum())
        self.returns = np.concatenate([self.returns, new[finite]])[-max(self.window, int(finite.sum())) :]
        self._pieces = None

    def __call__(self, returns: Array) -> Array:
        """Return f of returns of any shape."""
        knots, heights, slopes = self.pieces()
        inside = np.interp(returns, knots, heights)
        below, above = np.minimum(returns - knots[0], 0.0), np.maximum(returns - knots[-1], 0.0)
        return inside + slopes[0] * below + slopes[-1] * above

    def pieces(self) -> tuple[Array, Array, Array]:
        """Return the sorted sample, f there, and the slopes of f between neighbours, whose ends go on beyond."""
        if self._pieces is None:
            knots = np.sort(self.returns)
            slopes = _slopes(self.objective, len(knots))
            if len(knots) < 2:
                knots = np.zeros(2)
            self._pieces = knots, np.concatenate([[0.0], np.cumsum(slopes * np.diff(knots))]), slopes
        return self._pieces

    def state(self) -> dict[str, Any]:
        """Return the sample and the counts, as JSON values."""
        return {"returns": self.returns.tolist(), "total": self.total, "nonfinite": self.nonfinite}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.returns = np.array(state["returns"], np.float64)
        self.total, self.nonfinite = state["total"], state["nonfinite"]
        self._pieces = None


class ObjectiveRewards:
    """The rewards f(C_t) - f(C_{t-1}) of environments that run side by side.

    Args:
        num_envs: How many environments.
        objective: What to optimise: an objective or its string.
        discount: The discount of the returns that are ranked.
        window: The number of recent episodes that f is made of.

    Attributes:
        transform: f, a `RunningTransform`.
        running: The returns so far, shape (num_envs,); 0 where an episode has just ended.
        reached: The same before that: at the end of an episode its return.

    Example:
        >>> rewards = ObjectiveRewards(2, "cvar:0.5")
        >>> rewards.transform.add([0.0, 1.0, 2.0, 3.0])
        >>> rewards.step(np.array([1.0, 5.0]), np.array([False, True]))
        array([1., 2.])
        >>> rewards.running
        array([1., 0.])
    """

    def __init__(
        self, num_envs: int, objective: str | Objective = "mean", *, discount: float = 1.0, window: int = 1000
    ):
        if not isinstance(discount, Real) or not 0 < discount <= 1:
            raise ValueError(f"discount must satisfy 0 < discount <= 1; got {discount!r}")
        self.transform = RunningTransform(objective, window)
        self.discount = discount
        self.running, self.reached, self._power = np.zeros(num_envs), np.zeros(num_envs), np.ones(num_envs)

    def step(self, rewards: Array, ended: Array, idle: Array | None = None) -> Array:
        """Return the rewards of a step.

        Args:
            rewards: Those of the environments, shape (num_envs,).
            ended: Whether the step ended an episode.
            idle: Environments that this step only reset: their reward is 0.

        Returns:
            An array like `rewards`, 0 where the return so far is not finite.
        """
        rewards = np.asarray(rewards)
        gain = self._power * rewards if idle is None else np.where(idle, 0.0, self._power * rewards)
        self.reached = self.running + gain
        if ended.any():
            self.transform.add(self.reached[ended])
        with np.errstate(invalid="ignore"):
            shaped = self.transform(self.reached) - self.transform(self.running)
        self._power *= self.discount if idle is None else np.where(idle, 1.0, self.discount)
        self.running = self.reached
        self.reset(ended)
        shaped = np.where(np.isfinite(shaped), shaped, 0.0)
        return shaped.astype(rewards.dtype) if np.issubdtype(rewards.dtype, np.floating) else shaped

    def reset(self, which: Array | None = None) -> None:
        """Begin new episodes, in some environments or all."""
        which = np.ones(len(self.running), bool) if which is None else which
        self.running = np.where(which, 0.0, self.running)
        self._power = np.where(which, 1.0, self._power)


@lru_cache(maxsize=256)
def _slopes(objective: Objective, n: int) -> Array:
    """Return the slopes of f between n sorted returns, the steepest 1."""
    fitting = shrunk(objective, n, "leave_one_out") if n > 1 else None
    if fitting is None:
        return np.zeros(max(n - 1, 1))
    slopes = scan(fitting, n, "error").slopes
    return slopes / (np.abs(slopes).max() or 1.0)
