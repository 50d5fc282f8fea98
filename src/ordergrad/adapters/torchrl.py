r"""TorchRL: advantages from the ranks of whole-episode returns, instead of GAE or MCAdvantage.

    advantage = OrderGradAdvantage("cvar:0.1")
    for data in collector:  # Collector(..., trajs_per_batch=64, traj_format="cat")
        advantage(data)
        ...  # replay buffer, ClipPPOLoss and optimiser as always

Three ways to hand a rank's credit to the steps of an episode:

``episode``
    Every step carries the episode's advantage A; no critic. With E ranked episodes of S steps in all, the loss over
    one batch is $-\frac1S \sum_i A_i \sum_t \log\pi_{it}$: E/S times the exact ``-mean(A * logp)`` over episodes.
``terminal``
    A is the only reward, at the episode's end; GAE and the critic as usual.
``telescoped``
    The same total spread over the steps, $f(C_t) - f(C_{t-1})$ with $C_t$ the return so far; GAE and the critic.

Only episodes that begin and end in the batch are ranked. The other steps get advantage 0 and are False in
``("collector", "mask")``, which the losses of TorchRL leave out. A collector with ``trajs_per_batch`` yields whole
episodes and keeps those in flight for later batches, so that none is left out.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
    Shao et al. (2024). DeepSeekMath. arXiv 2402.03300. (group-relative advantages, which `MCAdvantage` computes)
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false, reportIncompatibleVariableOverride=false
# (TorchRL leaves many of its types open)

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ordergrad.adapters.episodes import Credit, EpisodeRanking
from ordergrad.estimators import advantages
from ordergrad.extras import extra
from ordergrad.objectives import Objective
from ordergrad.spec import parse
from ordergrad.weights import smallest_group

with extra("torchrl"):
    import torch
    from tensordict import TensorDictBase
    from torchrl.objectives.llm import MCAdvantage
    from torchrl.objectives.value import GAE

__all__ = ["OrderGradAdvantage", "OrderGradMCAdvantage"]

_MASK = ("collector", "mask")
_IDS = ("collector", "traj_ids")


class OrderGradAdvantage(GAE):
    r"""An advantage module that ascends an objective of whole-episode returns.

    It writes ``"advantage"`` and ``("collector", "mask")`` into the batch, and ``"value_target"`` where there is a
    critic, and returns the batch. Calling it again on the same batch (the same rewards, episodes and trajectory ids),
    as loops over epochs do, changes nothing but the critic's part.

    Args:
        objective: An objective or its string, such as ``"cvar:0.1"`` or ``"0.7*mean+0.3*max@8"``.
        credit: ``episode``, ``terminal`` or ``telescoped``; see the module.
        discount: The discount of the returns that are ranked (`gamma` is the critic's).
        unit_scale: Divide the advantages (or the critic's rewards) by the scale of the returns so far and the
            objective's steepest slope. Default: with a critic.
        gamma: Discount of GAE.
        lmbda: Parameter of GAE.
        value_network: The critic. Without one, ``credit="episode"`` writes no ``"value_target"`` and the others expect
            ``"state_value"`` in the batch.
        **kwargs: Of GAE.

    Raises:
        ValueError: The objective string is wrong, or a number is out of range.

    Attributes:
        ranking: The objective, which may be assigned during training.
        stats: Of the last batch: ``episodes`` ranked, their ``steps``, the share of steps ``left_out``, the ``value``
            of the objective; and, since the start, ``nonfinite`` (episodes left out for NaN or infinite returns),
            ``abandoned`` (because they began in an earlier batch), ``shrunk`` (rankings at a smaller K), ``total``
            episodes ranked and the ``scale`` of their returns (root mean square deviation).

    Example:
        >>> from tensordict import TensorDict
        >>> rewards, done = torch.tensor([[1.0], [2.0], [0.0], [5.0]]), torch.tensor([[False], [True], [True], [True]])
        >>> batch = TensorDict({"next": {"reward": rewards, "done": done}}, [4])
        >>> OrderGradAdvantage("max@2")(batch)["advantage"].ravel()
        tensor([-2., -2., -2.,  4.])
    """

    def __init__(
        self,
        objective: str | Objective = "mean",
        *,
        credit: Credit = "episode",
        discount: float = 1.0,
        unit_scale: bool | None = None,
        gamma: float = 0.99,
        lmbda: float = 0.95,
        value_network: Any = None,
        **kwargs: Any,
    ):
        super().__init__(gamma=gamma, lmbda=lmbda, value_network=value_network, **kwargs)
        self.ranking = EpisodeRanking(objective, credit, discount, unit_scale=unit_scale)
        self.stats = self.ranking.stats
        self._cut: set[int] = set()
        self._last: tuple[Any, NDArray[np.float64]] = (None, np.zeros(0))
        self._warned = False

    @torch.compiler.disable
    def forward(
        self,
        tensordict: TensorDictBase,
        *,
        params: Any = None,
        target_params: Any = None,
        time_dim: int | None = None,
    ) -> TensorDictBase:
        """Rank the episodes of a batch and write their advantages.

        Args:
            tensordict: Steps, shape [*B, T] in the order of time or flat, with ``("next", "reward")`` and
                ``("next", "done")`` of one column. ``("collector", "traj_ids")`` and ``("collector", "mask")``, of
                collectors, and ``"is_init"``, of `InitTracker`, are taken into account.
            params: Of the critic, see `GAE`.
            target_params: Of the critic's target, see `GAE`.
            time_dim: The axis of time. Default: that named ``"time"``, or the last.

        Raises:
            KeyError: The batch holds no rewards, or no ends.
            ValueError: The rewards have more than one column.
        """
        keys = self.tensor_keys
        for key in (("next", keys.reward), ("next", keys.done)):
            if key not in tensordict.keys(include_nested=True):
                raise KeyError(f"the batch must hold {key}; see set_keys")
        reward = tensordict.get(("next", keys.reward))
        if reward.shape[len(tensordict.batch_size) :] != (1,):
            raise ValueError(
                f"rewards must have one column, shape {(*tensordict.batch_size, 1)}; got {tuple(reward.shape)}"
            )
        steps = _Steps.of(tensordict, keys.reward, keys.done, self._get_time_dim(time_dim, tensordict))
        mask, a, shaped = (steps.column(x).to(reward.device) for x in self._rank(steps))
        result = a.to(reward.dtype)
        if self.value_network is not None or self.ranking.credit != "episode":
            estimate = self._estimate(
                tensordict, shaped.to(reward.dtype), params=params, target_params=target_params, time_dim=time_dim
            )
            tensordict.set(keys.value_target, torch.where(mask, tensordict.get(keys.value_target), 0.0))
            if self.ranking.credit != "episode":
                result = torch.where(mask, estimate, 0.0)
        tensordict.set(keys.advantage, result)
        tensordict.set(_MASK, mask.squeeze(-1))
        return tensordict

    def _estimate(self, tensordict: TensorDictBase, shaped: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return what GAE makes of other rewards, and leave the critic's values and targets in the batch."""
        keys = self.tensor_keys
        own = {name: tensordict.get(("next", name), None) for name in (keys.reward, keys.terminated)}
        tensordict.set(("next", keys.reward), shaped)
        if self.ranking.credit != "episode":  # nothing of f(R) comes after a time limit
            tensordict.set(("next", keys.terminated), tensordict.get(("next", keys.done)))
        gae: Any = super()
        try:
            gae.forward(tensordict, **options)
        finally:
            for name, entry in own.items():
                if entry is None:
                    tensordict.exclude(("next", name), inplace=True)
                else:
                    tensordict.set(("next", name), entry)
        return tensordict.get(keys.advantage)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state of the ranking, which `state_dict` keeps."""
        return self.ranking.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Set the state of the ranking."""
        self.ranking.set_state(state)

    def _rank(self, steps: "_Steps") -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
        """Return for every step whether it is trained on, its episode's advantage, and the reward for the critic."""
        ranking, episode, first = self.ranking, steps.episode, steps.first
        gains = steps.reward * ranking.discount ** (np.arange(len(episode)) - first[episode])
        totals = np.bincount(episode, gains)
        began = steps.began.copy()
        if steps.ids is not None:
            began &= np.array([i not in self._cut for i in steps.ids[first].tolist()])
            self._cut |= set(steps.ids[first][~steps.ended & steps.valid[first]].tolist())
        whole = steps.ended & began
        ranked = whole & np.isfinite(totals)
        returns, count = totals[ranked], int(ranked.sum())
        chosen = ranked[episode]
        ids = np.zeros(0) if steps.ids is None else steps.ids
        key = (ranking.objective, *(x.tobytes() for x in (ids, steps.reward, chosen, first[ranked])))
        if key != self._last[0]:
            self._count(steps, count, int((whole & ~ranked).sum()), int((steps.ended & ~began).sum()), chosen)
            self._last = key, ranking.advantages(returns) if count > 1 else np.zeros(count)
        if count < 2:
            chosen = np.zeros_like(chosen)
        per_episode = np.zeros(len(totals))
        per_episode[ranked] = self._last[1]
        a = per_episode[episode]
        if ranking.credit == "episode" or count < 2:
            return chosen, a, np.nan_to_num(steps.reward, posinf=0.0, neginf=0.0)
        if ranking.credit == "terminal":
            shaped = np.where(steps.last, a, 0.0)
        else:
            with np.errstate(invalid="ignore"):
                running = np.cumsum(np.where(chosen, gains, 0.0))
            before = running - np.where(chosen, gains, 0.0)
            before, after = before - before[first][episode], running - before[first][episode]
            shaped = np.where(chosen, ranking.telescoped(before, after), 0.0)
        return chosen, a, shaped

    def _count(self, steps: "_Steps", count: int, nonfinite: int, cut: int, chosen: NDArray[np.bool_]) -> None:
        taken, valid = int(chosen.sum()) if count > 1 else 0, int(steps.valid.sum())
        self.stats |= {"episodes": count if count > 1 else 0, "steps": taken, "left_out": 1 - taken / max(valid, 1)}
        self.ranking.leave_out(nonfinite)
        self.stats["abandoned"] += cut
        if count < self.ranking.need:
            self.ranking.complain(
                count,
                f"a batch of {valid} steps",
                "raise trajs_per_batch or frames_per_batch, lower K, or limit the length of episodes",
            )
        if cut and not self._warned:
            warnings.warn(
                f"{cut} episodes that began in an earlier batch are left out, which favours short episodes: "
                'give the collector trajs_per_batch=N, traj_format="cat"',
                stacklevel=4,
            )
            self._warned = True


class OrderGradMCAdvantage(MCAdvantage):
    r"""The replay-buffer transform `MCAdvantage` with advantages that ascend an objective of each prompt's returns.

    Its base class divides the centred returns of a group by their standard deviation, which changes the objective (each
    prompt counts by its inverse spread). This one writes A as it is, so that the gradient is exact. Everything else is
    `MCAdvantage`'s: a group is written to the buffer once `grpo_size` whole trajectories with its prompt have arrived,
    and every step of a trajectory carries its advantage.

    Args:
        grpo_size: Trajectories of a group.
        objective: An objective or its string; K + 1 must not exceed `grpo_size`.
        trajectory_return: How a trajectory's rewards make its return: ``sum``, ``max`` or ``mean``.
        **kwargs: Of `MCAdvantage`.

    Raises:
        ValueError: The objective string is wrong, or `grpo_size` is too small for its K.

    Example:
        >>> from tensordict import TensorDict
        >>> def trajectory(reward):
        ...     return TensorDict({"query": torch.tensor([7]), "next": {"reward": [[reward]], "done": [[True]]}}, [1])
        >>> transform = OrderGradMCAdvantage(3, "max@2")
        >>> transform.inv(trajectory(0.0)), transform.inv(trajectory(1.0))
        (None, None)
        >>> transform.inv(trajectory(5.0))["advantage"].ravel()
        tensor([-4., -4.,  8.])
    """

    def __init__(
        self,
        grpo_size: int,
        objective: str | Objective = "mean",
        *,
        trajectory_return: Literal["sum", "max", "mean"] = "sum",
        **kwargs: Any,
    ):
        self.objective = parse(objective)
        need = smallest_group(self.objective, "leave_one_out")
        if grpo_size < need:
            raise ValueError(f"grpo_size must be at least {need} for {self.objective}; got {grpo_size}")
        super().__init__(grpo_size, trajectory_return=trajectory_return, **kwargs)

    def reset_stats(self) -> None:
        """Reset the counters."""
        super().reset_stats()
        self._set_stat("nonfinite_trajectories", 0)

    def get_stats(self) -> dict[str, float | int]:
        """Return the counters, with ``nonfinite_trajectories``: those left out for NaN or infinite returns."""
        return super().get_stats() | {"nonfinite_trajectories": self._get_stat("nonfinite_trajectories")}

    def _trajectory_advantage(self, trajs: list[TensorDictBase]) -> TensorDictBase | None:
        """Let the base class select, then write the advantages of this objective over its own."""
        trajs = [traj.exclude(self.advantage_key) for traj in trajs]
        if super()._trajectory_advantage(trajs) is None:
            return None
        selected = [traj for traj in trajs if traj.get(self.advantage_key, None) is not None]
        rewards = [traj.get(self.rewards_key) for traj in selected]
        returns = self._trajectory_returns(rewards)
        finite = torch.isfinite(returns)
        self._set_stat("nonfinite_trajectories", self._get_stat("nonfinite_trajectories") + int((~finite).sum()))
        a = advantages(returns, self.objective, where=finite, small="shrink")
        for traj, reward, one in zip(selected, rewards, a.unbind(0), strict=True):
            traj.set(self.advantage_key, one.expand(reward.shape).clone())
        return self._cat_tensordicts(selected, -1)


class _Steps(NamedTuple):
    """The steps of a batch on the host, row after row in the order of time, and the episodes they belong to."""

    shape: tuple[int, ...]
    axis: int
    reward: NDArray[np.float64]
    ids: NDArray[np.int64] | None
    valid: NDArray[np.bool_]
    last: NDArray[np.bool_]
    episode: NDArray[np.int64]
    first: NDArray[np.int64]
    began: NDArray[np.bool_]
    ended: NDArray[np.bool_]

    @classmethod
    def of(cls, tensordict: TensorDictBase, reward_key: Any, done_key: Any, axis: int) -> "_Steps":
        """Take what is needed of a batch; `first`, `began` and `ended` have one entry per piece of an episode."""
        size, rank = tensordict.batch_size, len(tensordict.batch_size)

        def rows(key: Any) -> Any:
            found = tensordict.get(key, None)
            if found is None:
                return None
            return found.reshape(size).movedim(axis, rank - 1).reshape(-1, size[axis]).cpu().numpy()

        reward, done = rows(("next", reward_key)), rows(("next", done_key))
        ids, valid, init = rows(_IDS), rows(_MASK), rows("is_init")
        valid = np.ones_like(done) if valid is None else valid
        new, gap = np.ones_like(done), np.zeros_like(done)
        new[:, 1:] = done[:, :-1]
        if ids is not None:
            new[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        gap[:, 1:] = ~valid[:, :-1] & valid[:, 1:] & ~new[:, 1:]
        first = np.flatnonzero(new | gap)
        last = np.append(first[1:], new.size) - 1
        began = valid.ravel()[first] & ~gap.ravel()[first]
        if ids is not None:  # steps that are not in the order of time fall into many pieces of one id
            _, same, pieces = np.unique(ids.ravel()[first], return_inverse=True, return_counts=True)
            padding = np.bincount(same, ~valid.ravel()[first])
            began &= (pieces - padding)[same] == 1
        if init is not None:
            began &= init.ravel()[first]
        is_last = np.zeros(new.size, bool)
        is_last[last] = True
        return cls(
            (*(size[i] for i in range(rank) if i != axis), size[axis]),
            axis,
            reward.astype(np.float64).ravel(),
            None if ids is None else ids.ravel(),
            valid.ravel(),
            is_last,
            np.cumsum((new | gap).ravel()) - 1,
            first,
            began,
            done.ravel()[last] & valid.ravel()[last],
        )

    def column(self, x: NDArray[Any]) -> torch.Tensor:
        """Return one number for each step, shaped as the rewards."""
        return torch.as_tensor(x.reshape(self.shape)).movedim(-1, self.axis).unsqueeze(-1)
