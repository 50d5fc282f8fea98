r"""The betting game [1]: six favourable bets of a share of one's wealth, won with probability 0.88.

The mean return is largest if everything is staked every time, which ends in ruin more often than in one game of three.
The lower tail wants small stakes, and how small depends on the wealth: `BettingGame` is a task where a tail objective
needs another policy than the mean, not merely a more careful one.

The game is small enough to be solved: `best_value` gives the largest value of an objective that any policy reaches.

References:
    [1] Mead, Costen, Lacerda and Hawes (2025), "Return Capping: Sample Efficient CVaR Policy Gradient Optimisation",
        ICML, arXiv 2504.20887.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from ordergrad.objectives import CVaR, Max, Mean, Median, Objective, VaR
from ordergrad.spec import parse

__all__ = ["BettingGame", "BettingGameVector", "best_value", "returns_of_best"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

WEALTH, MOST, ROUNDS = 16.0, 256.0, 6
WIN_PROBABILITY = 0.88
STAKES = np.arange(9) / 8
"""What actions 0 to 8 stake, as a share of the wealth."""


def _stake(wealth: Floats, action: npt.ArrayLike) -> Floats:
    return np.minimum(wealth * STAKES[np.asarray(action)], MOST - wealth)


def _observe(wealth: Floats, rounds: npt.ArrayLike) -> npt.NDArray[np.float32]:
    return np.stack([wealth / MOST, np.asarray(rounds) / ROUNDS], axis=-1).astype(np.float32)


def _is_over(wealth: Floats, rounds: npt.ArrayLike) -> Bools:
    return (np.asarray(rounds) >= ROUNDS) | (wealth <= 0) | (wealth >= MOST)


class BettingGame(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """Start with a wealth of 16 and bet for six rounds.

    **Actions** 0 to 8 stake that many eighths of the wealth, but no more than leads to 256. **Reward**: the stake, won
    with probability 0.88 and else lost, so that the return is the final wealth less 16. **Observation**: wealth / 256
    and round / 6. **End**: after six rounds, or at a wealth of 0 or 256.

    Example:
        >>> import gymnasium, ordergrad.envs
        >>> env = gymnasium.make("ordergrad/BettingGame-v0")
        >>> env.reset(seed=0)[0].tolist()
        [0.0625, 0.0]
        >>> env.step(4)[1]  # half of 16
        8.0

    References:
        Mead et al. (2025), "Return Capping", ICML, arXiv 2504.20887.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(STAKES))
        self._wealth, self._rounds = np.float64(WEALTH), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Start a game."""
        super().reset(seed=seed)
        self._wealth, self._rounds = np.float64(WEALTH), 0
        return _observe(np.asarray(self._wealth), 0), {}

    def step(self, action: Any) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Play a round."""
        stake = float(_stake(np.asarray(self._wealth), action))
        reward = stake if self.np_random.random() < WIN_PROBABILITY else -stake
        self._wealth += reward
        self._rounds += 1
        wealth = np.asarray(self._wealth)
        return _observe(wealth, self._rounds), reward, bool(_is_over(wealth, self._rounds)), False, {}


class BettingGameVector(gymnasium.vector.VectorEnv[npt.NDArray[np.float32], npt.NDArray[np.int64], Any]):
    """A batch of betting games; the rules of `BettingGame`.

    With next-step autoreset, the step after a game's end resets it, ignores the action and pays 0.
    With same-step autoreset the last step returns the first observation of the next game, and its own in
    `info["final_obs"]`.

    Args:
        num_envs: Number of games side by side.
        max_episode_steps: Ignored: a game has six rounds.
        autoreset_mode: Next step or same step.

    Raises:
        ValueError: The autoreset mode is another one.

    Example:
        >>> import gymnasium, numpy as np, ordergrad.envs
        >>> envs = gymnasium.make_vec("ordergrad/BettingGame-v0", 3, vectorization_mode="vector_entry_point")
        >>> _ = envs.reset(seed=0)
        >>> envs.step(np.array([0, 4, 8]))[1].tolist()
        [0.0, 8.0, 16.0]
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        if autoreset_mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ValueError(f"autoreset_mode must be NextStep or SameStep; got {autoreset_mode}")
        self.metadata = {"render_modes": [], "autoreset_mode": autoreset_mode}
        self.num_envs = num_envs
        self.single_observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(len(STAKES))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)  # pyright: ignore[reportUnknownMemberType]
        self._wealth, self._rounds = np.full(num_envs, WEALTH), np.zeros(num_envs, int)
        self._finished = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Reset every game."""
        super().reset(seed=seed)
        self._wealth[:], self._rounds[:], self._finished[:] = WEALTH, 0, False
        return _observe(self._wealth, self._rounds), {}

    def step(self, actions: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], Floats, Bools, Bools, dict[str, Any]]:
        """Play a round of every game; reset those that have ended."""
        reset = self._finished
        stake = _stake(self._wealth, actions)
        reward = np.where(self.np_random.random(self.num_envs) < WIN_PROBABILITY, stake, -stake)
        reward[reset] = 0.0
        self._wealth = np.where(reset, WEALTH, self._wealth + reward)
        self._rounds = np.where(reset, 0, self._rounds + 1)
        over, info = _is_over(self._wealth, self._rounds) & ~reset, dict[str, Any]()
        if self.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP:
            self._finished = over
        elif over.any():
            info = {"final_obs": _observe(self._wealth, self._rounds), "_final_obs": over}
            self._wealth, self._rounds = np.where(over, WEALTH, self._wealth), np.where(over, 0, self._rounds)
        return _observe(self._wealth, self._rounds), reward, over.copy(), np.zeros_like(reset), info


# The optimum --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _tree() -> tuple[tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]], ...]:
    """Return for every round the wealths that can occur and where each action leads in the next round, won and lost."""
    wealth, layers = np.array([WEALTH]), list[Any]()
    for _ in range(ROUNDS):
        stake = np.where(_is_over(wealth, 0)[:, None], 0.0, _stake(wealth[:, None], np.arange(len(STAKES))))
        following, place = np.unique(np.stack([wealth[:, None] + stake, wealth[:, None] - stake]), return_inverse=True)
        place = place.reshape(2, *stake.shape)
        layers.append((wealth, place[0], place[1]))
        wealth = following
    none = np.zeros((0, 0), np.int64)
    return (*layers, (wealth, none, none))


def _best_mean(utility: Floats) -> tuple[float, Floats]:
    """Return the largest expected utility of any policy, and the chances of the final wealths under that policy."""
    layers = _tree()
    values, choices = utility, list[npt.NDArray[np.int64]]()
    for _, won, lost in reversed(layers[:-1]):
        of_actions = WIN_PROBABILITY * values[won] + (1 - WIN_PROBABILITY) * values[lost]
        choices.append(of_actions.argmax(1))
        values = of_actions.max(1)
    chances: Floats = np.ones(1)
    for (_, won, lost), choice, (following, _, _) in zip(layers[:-1], reversed(choices), layers[1:], strict=True):
        row = np.arange(len(choice))
        earlier, chances = chances, np.zeros(len(following))
        np.add.at(chances, won[row, choice], WIN_PROBABILITY * earlier)
        np.add.at(chances, lost[row, choice], (1 - WIN_PROBABILITY) * earlier)
    return float(values[0]), chances


def returns_of_best(utility: Callable[[Floats], Floats]) -> tuple[Floats, Floats]:
    """Return the returns and their probabilities under the policy of the largest expected utility of the return.

    Args:
        utility: A function of an array of returns, ascending; of the same shape.

    Example:
        >>> returns, chances = returns_of_best(lambda r: np.minimum(r, 34.0))  # a cap on the return
        >>> round(float(chances @ returns), 1)
        33.0
    """
    returns = _tree()[-1][0] - WEALTH
    chances = _best_mean(utility(returns))[1]
    return returns[chances > 0], chances[chances > 0]


def best_value(objective: str | Objective) -> float:
    r"""Return the largest value of an objective that any policy of the betting game reaches, by dynamic programming.

    For ``cvar:q`` it is the largest $s - E[(s - R)_+]/q$ over thresholds s and policies; for ``var:q`` the largest s
    with a policy of $P(R \ge s) \ge 1 - q$; for ``max@K`` the limit of the linearised problem (Frank and Wolfe).

    Args:
        objective: ``mean``, ``cvar:q``, ``var:q``, ``median`` or ``max@K``.

    Raises:
        ValueError: It is another objective.

    Example:
        >>> round(best_value("cvar:0.2"), 1)
        23.9
    """
    goal = parse(objective)
    returns = _tree()[-1][0] - WEALTH
    if isinstance(goal, Mean):
        return _best_mean(returns)[0]
    if isinstance(goal, CVaR) and goal.k is None:
        return _best_cvar(goal.q, returns)
    if isinstance(goal, VaR | Median) and goal.k is None:
        level = goal.q if isinstance(goal, VaR) else 0.5
        low, high = 0, len(returns)
        while high - low > 1:
            middle = (low + high) // 2
            reached = _best_mean((np.arange(len(returns)) >= middle).astype(float))[0] >= 1 - level - 1e-12
            low, high = (middle, high) if reached else (low, middle)
        return float(returns[low])
    if isinstance(goal, Max):
        return _best_max(goal.k, returns)
    raise ValueError(f"objective must be mean, cvar:q, var:q, median or max@K; got {goal}")


def _best_cvar(q: float, returns: Floats, points: int = 81) -> float:
    def value(s: float) -> float:
        return s + _best_mean(-np.maximum(s - returns, 0.0))[0] / q

    low, high = float(returns[0]), float(returns[-1])
    best = low
    while high - low > 1e-3:
        grid = np.linspace(low, high, points)
        values = [value(s) for s in grid]
        i = int(np.argmax(values))
        best = max(best, values[i])
        low, high = grid[max(i - 2, 0)], grid[min(i + 2, points - 1)]
    return float(best)


def _best_max(k: float, returns: Floats, iterations: int = 200) -> float:
    r"""Climb $E[\max] = r_0 + \int (1 - F^K)$, which is concave in F, over mixtures of policies."""
    gaps = np.diff(returns)
    chances = _best_mean(returns)[1]

    def value(chances: Floats) -> float:
        return float(returns[0] + gaps @ (1 - np.cumsum(chances)[:-1] ** k))

    best = value(chances)
    for i in range(iterations):
        slopes = k * np.cumsum(chances)[:-1] ** (k - 1)
        towards = _best_mean(np.concatenate([[0.0], np.cumsum(slopes * gaps)]))[1]
        chances = chances + (towards - chances) * 2 / (i + 3)
        best = max(best, value(chances), value(towards))
    return float(best)
