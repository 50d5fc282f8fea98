"""Stable-Baselines3: evaluate by the objective while training, keep the best model, stop when it stops improving.

    callback = ObjectiveEvalCallback(eval_env, "cvar:0.1", eval_freq=10_000, best_model_save_path="best")
    model.learn(1_000_000, callback=callback)

`EvalCallback` of Stable-Baselines3 compares means. This one compares values of an objective, and counts a
model as better only if the difference exceeds its standard error, because the tail of a few episodes is noisy.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (Stable-Baselines3 leaves many of its types open)

import math
from pathlib import Path
from typing import Any

import numpy as np

from ordergrad.estimators import value_and_error
from ordergrad.extras import extra
from ordergrad.objectives import Objective
from ordergrad.spec import parse
from ordergrad.weights import smallest_group

with extra("rl"):
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize, sync_envs_normalization

__all__ = ["ObjectiveEvalCallback"]


class ObjectiveEvalCallback(BaseCallback):
    """Evaluates the policy by an objective of episode returns, at intervals. For any algorithm.

    It logs ``eval/objective`` and ``eval/objective_error``.

    Args:
        eval_env: A vector environment that is not the one of training, wrapped in ``VecMonitor`` or ``Monitor``.
        objective: An objective or its string.
        eval_freq: Steps between evaluations, of all environments together.
        n_eval_episodes: Fresh episodes of an evaluation.
        best_model_save_path: Folder of ``best_model.zip``. None: it is not kept.
        patience: Evaluations in a row without a better model after which training stops. None: it does not.
        deterministic: Whether the policy acts greedily.

    Raises:
        ValueError: The objective string is wrong, or compares more episodes than are evaluated.

    Attributes:
        best: The objective's value and its standard error for the best model.
        evaluations: Of each evaluation the step, the value and its standard error.
    """

    def __init__(
        self,
        eval_env: Any,
        objective: str | Objective,
        *,
        eval_freq: int = 10_000,
        n_eval_episodes: int = 100,
        best_model_save_path: str | Path | None = None,
        patience: int | None = None,
        deterministic: bool = True,
    ):
        super().__init__()
        self.eval_env, self.objective = eval_env, parse(objective)
        need = max(2, smallest_group(self.objective, "error"))
        if n_eval_episodes < need:
            raise ValueError(f"n_eval_episodes must be at least {need} for {self.objective}; got {n_eval_episodes}")
        self.eval_freq, self.n_eval_episodes, self.deterministic = eval_freq, n_eval_episodes, deterministic
        self.folder = None if best_model_save_path is None else Path(best_model_save_path)
        self.patience = patience
        self.best = (-math.inf, 0.0)
        self.evaluations: list[tuple[int, float, float]] = []
        self._next, self._worse = eval_freq, 0

    def _on_step(self) -> bool:
        if self.num_timesteps < self._next:
            return True
        self._next += self.eval_freq
        if isinstance(self.model.get_vec_normalize_env(), VecNormalize):
            sync_envs_normalization(self.training_env, self.eval_env)
        returns, _ = evaluate_policy(
            self.model,
            self.eval_env,
            self.n_eval_episodes,
            deterministic=self.deterministic,
            return_episode_rewards=True,
        )
        value, error = (float(x) for x in value_and_error(np.array(returns, np.float64), self.objective))
        self.evaluations.append((self.num_timesteps, value, error))
        self.logger.record("eval/objective", value)
        self.logger.record("eval/objective_error", error)
        self._worse += 1
        if value - self.best[0] > math.hypot(error, self.best[1]) or math.isinf(self.best[0]):
            self.best, self._worse = (value, error), 0
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.model.save(self.folder / "best_model")
        return self.patience is None or self._worse < self.patience
