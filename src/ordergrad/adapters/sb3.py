r"""Stable-Baselines3: PPO and A2C that optimise the ranks of whole-episode returns.

    model = OrderGradPPO("MlpPolicy", env, objective="cvar:0.1")
    model.learn(200_000)

The group is the episodes that ended since the last update. Three ways to hand a rank's credit to the steps
(``telescoped`` is the default of `OrderGradPPO` and `OrderGradA2C`):

``episode``
    Every step of an episode carries the episode's advantage A; no critic. With E episodes of S steps in all, the loss
    is $-\frac1S \sum_i A_i \sum_t \log\pi_{it}$: E/S times the exact ``-mean(A * logp)`` over episodes.
``terminal``
    $A_i = f(R_i) - \mathrm{mean} f$ is the only reward, at the episode's end; GAE and the critic as usual.
``telescoped``
    The same total spread over the steps, $f(C_t) - f(C_{t-1})$ with $C_t$ the return so far: credit arrives when the
    return moves. For the objective ``mean`` it is ordinary PPO (rewards times N/(N-1), no bootstrap at time limits).

An episode is ranked once, by its whole return, when it ends, even if it began under an earlier policy: leaving such
episodes out would favour short ones, and ranking what a rollout has seen of them would rank partial returns. Until
then its steps wait (``episode``; PPO's ratio accounts for updates in between), or are bootstrapped by the critic.
While too few episodes have ended for the comparison size, nothing is updated and the next rollout adds to them.

Episodes under other conditions than the true ones carry their importance weight ω in ``info["ordergrad_weight"]``, as
`ordergrad.envs.SampledConditions` puts it there. With ``episode`` credit, A is that of the weighted returns, times
E ω/Σω: self-normalised, so consistent rather than unbiased. The other two credits raise an error, because their critic
would learn the values under the sampled conditions.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
    Schulman et al. (2016). High-Dimensional Continuous Control Using Generalized Advantage Estimation.
        arXiv 1506.02438.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (Stable-Baselines3 leaves many of its types open)

import io
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ordergrad.adapters.constraint import Constraint, Multiplier, step_costs
from ordergrad.adapters.episodes import (
    WEIGHT,
    Cap,
    Credit,
    EpisodeRanking,
    RankingSettings,
    steepest_slope,
    thinned,
)
from ordergrad.extras import extra
from ordergrad.objectives import Objective
from ordergrad.spec import parse

with extra("rl"):
    from gymnasium import spaces
    from stable_baselines3 import A2C, PPO
    from stable_baselines3.common.buffers import RolloutBuffer
    from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
    from stable_baselines3.common.preprocessing import get_obs_shape
    from stable_baselines3.common.save_util import load_from_zip_file
    from stable_baselines3.common.type_aliases import DictRolloutBufferSamples

__all__ = ["OrderGradA2C", "OrderGradPPO", "OrderGradRolloutBuffer", "RecordRewards"]

Array = NDArray[Any]
_SETTINGS = (*RankingSettings.__annotations__, "constraint")
_WAITING = 2  # rollouts whose steps may wait for the end of their episodes
_FIELDS = ("observations", "actions", "values", "log_probs", "rewards", "gains", "costs", "weights")
_TRAINED = ("observations", "actions", "values", "log_probs", "advantages", "returns")


class OrderGradRolloutBuffer(RolloutBuffer):
    """A rollout buffer whose advantages ascend an objective of whole-episode returns.

    `OrderGradPPO` and `OrderGradA2C` set it up. With another algorithm, pass it as ``rollout_buffer_class`` and give
    `learn` the callback `RecordRewards`, which passes the true rewards to the buffer: what Stable-Baselines3 hands to a
    buffer contains the critic's value at time limits and the scaling of ``VecNormalize``.

    Args:
        buffer_size: Steps per environment and rollout (set by the algorithm, as the next five).
        observation_space: Anything but tuples.
        action_space: The action space.
        device: Where batches go.
        gae_lambda: GAE parameter, for the critic.
        gamma: Discount of GAE, for the critic. It does not enter the ranked returns.
        n_envs: Parallel environments.
        constraint: A limit on an objective of the episode's cost, the sum of ``info["cost"]`` with the same discount;
            see `ordergrad.adapters.constraint`. Advantages are then always in the unit of `unit_scale`.
        **settings: Of `ordergrad.adapters.episodes.EpisodeRanking`: the objective, ``credit``, ``discount``,
            ``min_episodes``, ``unit_scale`` (by default False: advantages have the unit of the return, and where that
            is large the critic's loss drowns the policy's under gradient clipping), ``patience`` (or longer, twice the
            longest episode), ``pool`` and ``cap``.

    Raises:
        ValueError: The objective string is wrong, a number is out of range, or observations are tuples.

    Attributes:
        ready: Whether the last rollout led to a ranking, so that there is something to train on.
        stats: Of the last rollout: ``episodes`` ranked, ``waiting`` for a ranking, ``steps`` to train on, ``open``
            steps kept back, ``stale`` share of steps from before the last update, the ``value`` of the objective;
            with a constraint, the ``cost`` (its objective) and the multiplier ``lambda``;
            and, since the start, ``nonfinite`` (episodes left out for NaN or infinite returns or costs, or a weight
            that is not positive and finite), ``abandoned`` (cut short), ``shrunk`` (rankings at a smaller K),
            ``total`` episodes ranked and the ``scale`` of their returns (root mean square deviation).
        ended: Returns of the episodes that ended in the last rollout, whether ranked or not.
        lengths: Their lengths.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: Any = "auto",
        gae_lambda: float = 1.0,
        gamma: float = 0.99,
        n_envs: int = 1,
        *,
        constraint: Constraint | None = None,
        **settings: Unpack[RankingSettings],
    ):
        if isinstance(observation_space, spaces.Tuple):
            raise ValueError(
                "observation_space must not be a Tuple; wrap the environment in gymnasium.wrappers.FlattenObservation"
            )
        self._packed = _Packed(observation_space) if isinstance(observation_space, spaces.Dict) else None
        if self._packed:
            observation_space = spaces.Box(0, 255, (self._packed.size,), np.uint8)
        settings = {"unit_scale": False, **settings}
        self.multiplier = self.cost_ranking = None
        if constraint is not None:
            settings["unit_scale"] = True
            of_cost: RankingSettings = {**settings, "objective": constraint.objective, "cap": None}
            self.multiplier, self.cost_ranking = Multiplier(constraint), EpisodeRanking(**of_cost)
        self.ranking = EpisodeRanking(**settings)
        self.stats, self.discount = self.ranking.stats, self.ranking.discount
        self.gains, self.weights = np.zeros((buffer_size, n_envs)), np.ones((buffer_size, n_envs))
        self.costs = np.zeros((buffer_size, n_envs))
        self.ended, self.lengths = np.zeros(0), np.zeros(0, int)
        self.ready = False
        self._observed: tuple[Array, Array | None, Array | None] | None = None
        self._pending = False
        self._stretch: dict[str, Array] = {}
        self._queue = {"episode": np.zeros(0, int), "total": np.zeros(0), "weights": np.zeros(0)}
        self._queue["cost_total"] = np.zeros(0)
        self._clock = self._waited = self._longest = 0
        self._running, self._power, self._spent = np.zeros(n_envs), np.ones(n_envs), np.zeros(n_envs)
        self._length, self._episode = np.zeros(n_envs, int), np.full(n_envs, -1)
        self._broken, self._open = np.zeros(n_envs, bool), np.zeros(n_envs, bool)
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    @property
    def objective(self) -> Objective:
        """What is optimised. May be assigned, an objective or its string."""
        return self.ranking.objective

    @objective.setter
    def objective(self, objective: str | Objective) -> None:
        self.ranking.objective = objective

    def state(self) -> dict[str, Any]:
        """Return what a resumed training needs, as JSON values."""
        state = self.ranking.state()
        if self.multiplier and self.cost_ranking:
            state["constraint"] = {"multiplier": self.multiplier.state(), "ranking": self.cost_ranking.state()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.ranking.set_state(state)
        if self.multiplier and self.cost_ranking and "constraint" in state:
            self.multiplier.set_state(state["constraint"]["multiplier"])
            self.cost_ranking.set_state(state["constraint"]["ranking"])

    def reset(self) -> None:
        """Begin a rollout. One that was broken off leaves gaps: the episodes it was in are not ranked."""
        if self._pending and self.pos > 0:
            self._abandon(np.ones(self.n_envs, bool))
        super().reset()
        self.gains = np.zeros((self.buffer_size, self.n_envs))
        self.costs = np.zeros((self.buffer_size, self.n_envs))
        self.weights = np.ones((self.buffer_size, self.n_envs))
        self._observed, self._pending = None, True

    def observe(self, rewards: Array, weights: Array | None = None, costs: Array | None = None) -> None:
        """Take the true rewards and costs of the step that is added next; `RecordRewards` calls this.

        Args:
            rewards: Shape (n_envs,).
            weights: The importance weights of the episodes that end with it, shape (n_envs,); the others' are
                ignored. None: all are 1.
            costs: Shape (n_envs,), with a constraint.

        Raises:
            ValueError: There are weights, and the credit is not ``episode``; or a constraint and no costs.
        """
        if self.multiplier and costs is None:
            raise ValueError("costs must be given, because the buffer has a constraint; got None")
        if weights is not None:
            self.ranking.check_weighted()
        self._observed = np.array(rewards, dtype=np.float64), weights, costs

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a step; its true rewards must have been observed.

        Raises:
            RuntimeError: They have not, because the callback is missing.
        """
        if self._observed is None:
            raise RuntimeError(
                "OrderGradRolloutBuffer needs the true rewards: use OrderGradPPO or OrderGradA2C, "
                "or pass learn(..., callback=RecordRewards())"
            )
        self.gains[self.pos], weights, costs = self._observed
        if costs is not None:
            self.costs[self.pos] = costs
        if weights is not None:
            self.weights[self.pos] = weights
        self._observed = None
        obs, *others = args
        super().add(self._packed.pack(obs) if self._packed else obs, *others, **kwargs)

    def compute_returns_and_advantage(self, last_values: Any, dones: Array) -> None:
        """Rank the episodes that have ended and turn their ranks into advantages, or wait for more episodes.

        Args:
            last_values: The critic's values after the last step, a tensor of n_envs values.
            dones: Whether that step ended an episode, shape (n_envs,).
        """
        self._pending = False
        self._append(np.asarray(dones, bool))
        self._waited += 1
        demanding = max(filter(None, (self.ranking, self.cost_ranking)), key=lambda ranking: ranking.need)
        need, count = demanding.need, len(self._queue["total"])
        waited = self._waited * self.buffer_size
        out_of_patience = waited >= max(self.ranking.patience * self.buffer_size, 2 * self._longest)
        self.ready = count >= need or (out_of_patience and count >= 2)
        self.stats |= {"episodes": 0, "waiting": count, "steps": 0, "stale": 0.0}
        if out_of_patience and count < need:
            demanding.complain(
                count,
                f"{waited} steps of {self.n_envs} environments",
                "raise n_steps or n_envs, lower K or min_episodes, or limit the length of episodes",
            )
        if self.ready:
            self.stats |= {"episodes": count, "waiting": 0}
            last = last_values.detach().cpu().numpy().astype(np.float64).ravel()
            if self.ranking.credit == "episode":
                self._train_on_episodes(last)
            else:
                self._train_on_everything(last)
            self._queue = {name: array[:0] for name, array in self._queue.items()}
        else:
            flat = {name: self.swap_and_flatten(getattr(self, name)) for name in _TRAINED}
            self._expose(flat | {"advantages": np.zeros_like(flat["values"]), "returns": flat["values"]})
        if self.ready or out_of_patience:
            self._waited = 0
        self._keep_back()

    def get(self, batch_size: int | None = None) -> Any:
        """Yield the steps to train on in random minibatches of nearly equal size, near `batch_size`."""
        n = len(self.advantages)
        parts = 1 if batch_size is None else max(1, round(n / batch_size))
        for index in np.array_split(np.random.permutation(n), parts):  # noqa: NPY002 (the generator SB3 seeds)
            yield self._get_samples(index)

    def _get_samples(self, batch_inds: Array, env: Any = None) -> Any:
        samples = super()._get_samples(batch_inds, env)
        if not self._packed:
            return samples
        observations = self._packed.unpack(self.observations[batch_inds])
        tensors = {name: self.to_torch(array) for name, array in observations.items()}
        return DictRolloutBufferSamples(tensors, *samples[1:])

    def _append(self, dones: Array) -> None:
        """Add the rollout to what is kept from earlier ones, with each step's return so far and episode."""
        shape = (self.buffer_size, self.n_envs)
        starts = self.episode_starts > 0
        self._abandon(starts[0])  # environments that were reset in mid-episode
        chunk = {name: getattr(self, name) for name in _FIELDS}
        chunk |= {"before": np.empty(shape), "total": np.empty(shape), "length": np.empty(shape, int)}
        chunk |= {"cost_before": np.empty(shape), "cost_total": np.empty(shape)}
        chunk |= {"episode": np.empty(shape, int), "usable": np.empty(shape, bool), "starts": starts}
        chunk |= {"ends": np.vstack([starts[1:], dones]), "stale": np.zeros(shape, bool)}
        for t in range(self.buffer_size):
            start = starts[t]
            self._running[start], self._power[start], self._length[start], self._spent[start] = 0.0, 1.0, 0, 0.0
            self._broken &= ~start
            self._episode += start
            chunk["before"][t], chunk["cost_before"][t] = self._running, self._spent
            self._running += self._power * self.gains[t]
            self._spent += self._power * self.costs[t]
            self._power *= self.discount
            self._length += 1
            chunk["total"][t], chunk["length"][t] = self._running, self._length
            chunk["cost_total"][t] = self._spent
            chunk["episode"][t], chunk["usable"][t] = self._episode, ~self._broken
        self._open = ~dones & ~self._broken
        finished = chunk["ends"] & chunk["usable"]
        self.ended, self.lengths = chunk["total"][finished], chunk["length"][finished]
        self._longest = max(self._longest, int(self.lengths.max(initial=0)))
        finite = finished & np.isfinite(chunk["total"]) & np.isfinite(chunk["cost_total"])
        finite &= np.isfinite(chunk["weights"]) & (chunk["weights"] > 0)
        self.ranking.leave_out(int((finished & ~finite).sum()))
        chunk["episode"] = chunk["episode"] * self.n_envs + np.arange(self.n_envs)
        fresh = {name: chunk[name][finite] for name in self._queue}
        self._queue = {name: np.concatenate([old, fresh[name]]) for name, old in self._queue.items()}
        chunk |= {"clock": self._clock + np.arange(self.buffer_size), "share": np.ones(self.buffer_size)}
        self._clock += self.buffer_size
        old = self._stretch
        self._stretch = {name: np.concatenate([old[name], new]) if old else new for name, new in chunk.items()}

    def _train_on_episodes(self, last_values: Array) -> None:
        """Train on the steps of the ranked episodes; a step that stands for several is weighted by their number."""
        s = self._stretch
        chosen, a = self._of_steps(self._rank(self._queue["weights"]))
        _, critic = self._gae(np.nan_to_num(s["rewards"].astype(np.float64)), last_values)
        self._choose(chosen, a * s["share"][:, None], critic)
        s["usable"] &= ~chosen
        s["stale"][:] = True

    def _train_on_everything(self, last_values: Array) -> None:
        s = self._stretch
        a = self._rank()
        if self.ranking.credit == "terminal":
            ranked, of_steps = self._of_steps(a)
            rewards = np.where(ranked & s["ends"], of_steps, 0.0)
        else:
            rewards = self.ranking.telescoped(s["before"], s["total"])
            if self.multiplier and self.cost_ranking:
                of_cost = self.cost_ranking.telescoped(s["cost_before"], s["cost_total"])
                rewards = self.multiplier.combine(rewards, of_cost, self._steepness)
            rewards = rewards * s["usable"]
        gae, critic = self._gae(rewards, last_values)
        self._choose(np.ones(s["ends"].shape, bool), gae, critic)
        self._stretch = {}

    def _rank(self, weights: Array | None = None) -> Array:
        """Return the advantages of the episodes in the queue, those of the cost taken off."""
        a = self.ranking.advantages(self._queue["total"], weights)
        if not (self.multiplier and self.cost_ranking):
            return a
        of_cost = self.cost_ranking.advantages(self._queue["cost_total"], weights)
        cost = self.cost_ranking.stats["value"]
        self.stats |= {"cost": cost, "lambda": self.multiplier.update(cost, self.cost_ranking.stats["scale"])}
        return self.multiplier.combine(a, of_cost, self._steepness)

    @property
    def _steepness(self) -> float:
        """The steepest slope of the cost's objective over that of the return's."""
        assert self.cost_ranking
        return steepest_slope(self.cost_ranking.objective) / steepest_slope(self.objective)

    def _of_steps(self, a: Array) -> tuple[Array, Array]:
        """Return whether each step of the stretch belongs to a ranked episode, and that episode's advantage."""
        episode, ranked = self._stretch["episode"], self._queue["episode"]
        order = np.argsort(ranked)
        place = order[np.minimum(np.searchsorted(ranked, episode, sorter=order), len(ranked) - 1)]
        return (ranked[place] == episode) & self._stretch["usable"], a[place]

    def _keep_back(self) -> None:
        """Keep the steps that wait, at most two rollouts of them.

        A critic needs no step of an episode but the latest, so the oldest go. Without one, every step of an episode
        counts: a random part is kept, each step with the weight of those that it stands for, so that the gradient keeps
        its expectation.
        """
        s, most = self._stretch, _WAITING * self.buffer_size
        if s and self.ranking.credit == "episode":
            current = s["episode"] == self._episode * self.n_envs + np.arange(self.n_envs)
            s["usable"] &= (current & ~s["ends"][-1]) | np.isin(s["episode"], self._queue["episode"])
            kept = np.flatnonzero(s["usable"].any(axis=1))
            if len(kept) > most:
                self.ranking.thin(len(kept) / most, "n_steps")
                start = np.random.uniform()  # noqa: NPY002 (seeded by Stable-Baselines3)
                chosen, share = thinned(s["share"][kept], most, start)
                kept = kept[chosen]
                s["share"][kept] = share
            self._stretch = {name: array[kept] for name, array in s.items()} if len(kept) else {}
        elif s:
            self._stretch = {name: array[-most:] for name, array in s.items()}
        self.stats["open"] = int(self._stretch["usable"].sum()) if self._stretch else 0

    def _gae(self, rewards: Array, last_values: Array) -> tuple[Array, Array]:
        """Return advantages by generalised advantage estimation and the critic's targets, both (rows, n_envs)."""
        s = self._stretch
        values = s["values"].astype(np.float64)
        following = np.vstack([values[1:], last_values])
        going_on = ~s["ends"]
        going_on[:-1] &= ~s["starts"][1:]
        deltas = rewards + self.gamma * following * going_on - values
        decay = self.gamma * self.gae_lambda * going_on
        gap = np.append(np.diff(s["clock"]) > 1, False)  # the next step was not kept
        deltas[gap], decay[gap] = 0.0, 0.0
        result, running = np.empty_like(deltas), np.zeros(self.n_envs)
        for t in reversed(range(len(deltas))):
            result[t] = running = deltas[t] + decay[t] * running
        return result, result + values

    def _choose(self, chosen: Array, a: Array, critic: Array) -> None:
        """Expose the chosen steps of the stretch for training."""
        s = self._stretch
        flat = {name: s[name][chosen] for name in ("observations", "actions", "values", "log_probs")}
        flat |= {"advantages": a[chosen].astype(np.float32), "returns": critic[chosen].astype(np.float32)}
        self._expose(flat)
        self.stats |= {"steps": int(chosen.sum()), "stale": float(s["stale"][chosen].mean())}

    def _expose(self, flat: dict[str, Array]) -> None:
        for name in _TRAINED:
            setattr(self, name, flat[name])
        self.generator_ready = True

    def _abandon(self, which: Array) -> None:
        """Leave the unfinished episodes of some environments out of all rankings."""
        which = which & self._open
        self.stats["abandoned"] += int(which.sum())
        self._broken |= which
        self._open &= ~which
        if self._stretch:
            self._stretch["usable"] &= ~(which & (self._stretch["episode"] // self.n_envs == self._episode))


class _Packed:
    """Dictionaries of observations as rows of bytes, so that they are kept, thinned and drawn like any array."""

    def __init__(self, space: spaces.Dict):
        shapes: Any = get_obs_shape(space)
        self._parts = {name: (np.dtype(part.dtype), shapes[name]) for name, part in space.spaces.items()}
        self.size = sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in self._parts.values())

    def pack(self, observations: dict[str, Array]) -> Array:
        """Return one row for each environment."""
        parts = [np.asarray(observations[name], dtype) for name, (dtype, _) in self._parts.items()]
        return np.hstack([np.ascontiguousarray(x.reshape(len(x), -1)).view(np.uint8) for x in parts])

    def unpack(self, rows: Array) -> dict[str, Array]:
        """Return the dictionary of arrays, one entry for each row."""
        found: dict[str, Array] = {}
        start = 0
        for name, (dtype, shape) in self._parts.items():
            end = start + dtype.itemsize * int(np.prod(shape))
            found[name] = np.ascontiguousarray(rows[:, start:end]).view(dtype).reshape(len(rows), *shape)
            start = end
        return found


class RecordRewards(BaseCallback):
    """Tell an `OrderGradRolloutBuffer` the true rewards, weights and costs, and log what it did under ``ordergrad/``.

    Rewards are those that the environments return, before ``VecNormalize`` scales them and before the algorithm adds
    the critic's value at time limits. `OrderGradPPO` and `OrderGradA2C` bring it along.
    """

    def _on_step(self) -> bool:
        normalizer = self.model.get_vec_normalize_env()
        buffer: Any = self.locals["rollout_buffer"]
        infos, weights = self.locals["infos"], None
        ended = [i for i in np.flatnonzero(self.locals["dones"]) if WEIGHT in infos[i]]
        if ended:
            weights = np.ones(len(infos))
            weights[ended] = [infos[i][WEIGHT] for i in ended]
        costs = np.array(step_costs(infos)) if buffer.multiplier else None
        rewards = self.locals["rewards"] if normalizer is None else normalizer.get_original_reward()
        buffer.observe(rewards, weights, costs)
        return True

    def _on_rollout_end(self) -> None:
        buffer: Any = self.locals["rollout_buffer"]
        for name, number in buffer.stats.items():
            self.logger.record(f"ordergrad/{name}", number)


class _Ranked(OnPolicyAlgorithm):
    """What turns an on-policy algorithm into one that optimises ranks of whole-episode returns."""

    def __init__(
        self,
        policy: Any,
        env: Any,
        *args: Any,
        objective: str | Objective = "mean",
        credit: Credit = "telescoped",
        discount: float = 1.0,
        min_episodes: int = 2,
        unit_scale: bool | None = None,
        patience: int = 32,
        pool: int = 200,
        cap: Cap | None = "falling",
        constraint: Constraint | None = None,
        **kwargs: Any,
    ):
        settings = {"objective": parse(objective), "credit": credit, "discount": discount, "constraint": constraint}
        settings |= {"min_episodes": min_episodes, "unit_scale": unit_scale, "patience": patience}
        settings |= {"pool": pool, "cap": cap}
        kwargs["rollout_buffer_kwargs"] = _joined(settings, kwargs.get("rollout_buffer_kwargs"))
        kwargs = {"rollout_buffer_class": OrderGradRolloutBuffer} | _of_credit(credit) | kwargs
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        self.rollout_buffer_kwargs |= vars(self).pop("_given", {})
        super()._setup_model()
        buffer: Any = self.rollout_buffer
        if state := vars(self).pop("_ranking", None):
            buffer.set_state(state)

    def save(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Save as `BaseAlgorithm.save`, with the objective that a schedule has reached and the counts."""
        buffer: Any = self.rollout_buffer
        self.rollout_buffer_kwargs |= {"objective": buffer.objective, "cap": buffer.ranking.cap}
        self._ranking = buffer.state()
        super().save(path, *args, **kwargs)

    @classmethod
    def load(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load what `save` wrote, as `BaseAlgorithm.load`. Any argument of the class may be given again.

        A plain PPO or A2C model continues with an objective, and gets the defaults of this class. The others stay as
        they were saved, except that a `credit` brings its own ``vf_coef`` and ``normalize_advantage``, as in a new
        model, unless they are given too.
        """
        given: dict[str, Any] = {name: kwargs.pop(name) for name in _SETTINGS if name in kwargs}
        given = _joined(given, kwargs.pop("rollout_buffer_kwargs", None))
        if _is_plain(path):
            given = {"unit_scale": None, "credit": "telescoped", "cap": "falling", **given}
            kwargs = {"rollout_buffer_class": OrderGradRolloutBuffer} | kwargs
        if "credit" in given:
            kwargs = _of_credit(given["credit"]) | kwargs
        return super().load(path, *args, _given=given, **kwargs)

    def learn(self, total_timesteps: int, callback: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as usual, rewards recorded; see `OnPolicyAlgorithm.learn`."""
        callbacks = callback if isinstance(callback, list) else [] if callback is None else [callback]
        wrapped = [c if isinstance(c, BaseCallback) else ConvertCallback(c) for c in callbacks]
        own: Any = [RecordRewards(), *wrapped] if wrapped else RecordRewards()
        return super().learn(total_timesteps, own, *args, **kwargs)

    def train(self) -> None:
        """Update the policy, unless the episodes to rank are still too few."""
        buffer: Any = self.rollout_buffer
        if buffer.ready:
            super().train()


def _is_plain(path: Any) -> bool:
    """Return whether a saved model has another rollout buffer than ours."""
    data: Any = load_from_zip_file(path, load_data=True, device="cpu")[0]
    if isinstance(path, io.IOBase):
        path.seek(0)
    buffer = (data or {}).get("rollout_buffer_class") or RolloutBuffer
    return not issubclass(buffer, OrderGradRolloutBuffer)


def _joined(settings: dict[str, Any], others: dict[str, Any] | None) -> dict[str, Any]:
    """Return all settings of the buffer, none of which may be given twice."""
    others = others or {}
    if twice := settings.keys() & others.keys():
        raise ValueError(f"rollout_buffer_kwargs must not hold {', '.join(sorted(twice))}: give it as an argument")
    return settings | others


def _of_credit(credit: Credit) -> dict[str, Any]:
    """Return the settings of the algorithm that a credit wants: without a critic, nothing to fit and A as it is."""
    critic = credit != "episode"
    return {"vf_coef": 0.5 if critic else 0.0, "normalize_advantage": critic}


class OrderGradPPO(_Ranked, PPO):
    r"""PPO on an order-statistic objective of episode returns.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a policy class.
        env: An environment, its id, or a vectorised environment.
        objective: An objective or its string, such as ``"cvar:0.1"`` or ``"0.7*mean+0.3*max@8"``.
        credit: How a rank reaches the steps of an episode: ``telescoped`` (the default) for a critic, on long tasks;
            ``terminal``; or ``episode``, the exact gradient without a critic. See the module.
        discount: The discount of the returns that are ranked (`gamma` is the critic's).
        min_episodes: Update only once this many episodes have ended.
        unit_scale: Divide the advantages by the scale of the returns so far and the objective's steepest slope.
            Default: with a critic.
        patience: Rollouts to wait for enough episodes.
        pool: Number of recent episodes that f is taken from, with ``telescoped``.
        cap: With ``telescoped`` and an objective of the lower tail: a return that is good enough (Return Capping); none
            above it counts. ``falling`` (the default): the mean as long as that raises the objective, then a cap
            that falls by itself. None: the objective from the start.
        constraint: A limit on an objective of the cost, ``info["cost"]``: `ordergrad.adapters.constraint.Constraint`.
        *args: Of PPO, from the learning rate on.
        **kwargs: Of PPO. Unless given, ``credit="episode"`` sets ``vf_coef=0`` (nothing needs the critic) and
            ``normalize_advantage=False`` (A is centred over episodes already, and exact only so).

    Raises:
        ValueError: As `OrderGradRolloutBuffer`, or ``rollout_buffer_kwargs`` holds one of these arguments.

    Example:
        >>> model = OrderGradPPO("MlpPolicy", "CartPole-v1", objective="cvar:0.2", n_steps=256, seed=0, device="cpu")
        >>> model.learn(256).rollout_buffer.stats["episodes"] > 5
        True
    """


class OrderGradA2C(_Ranked, A2C):
    """A2C on an order-statistic objective of episode returns; arguments as `OrderGradPPO`, the rest those of A2C.

    A2C has no ratio to account for updates within an episode, so give it rollouts (`n_steps`) longer than most
    episodes. Its own default is 5.

    Example:
        >>> model = OrderGradA2C("MlpPolicy", "CartPole-v1", objective="max@4", n_steps=256, seed=0, device="cpu")
        >>> model.learn(256).rollout_buffer.stats["episodes"] > 4
        True
    """
