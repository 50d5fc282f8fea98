r"""RLlib: PPO that optimises the ranks of whole-episode returns.

    config = PPOConfig().environment("CartPole-v1")
    use(config, "cvar:0.1")
    algorithm = config.build_algo()

The env runners, on this machine or on a cluster, sample as always. The learner puts the episodes together from their
chunks, ranks those that have ended by their whole returns, and trains on them; the steps of the others wait. Three
ways to hand a rank's credit to the steps:

``episode``
    Every step of an episode carries the episode's advantage A, instead of GAE's; no critic. With E episodes of S
    steps in all, the loss over one batch is $-\frac1S \sum_i A_i \sum_t \log\pi_{it}$: E/S times the exact
    ``-mean(A * logp)`` over episodes.
``terminal``
    A is the only reward, at the episode's end; RLlib's GAE and critic as usual.
``telescoped``
    The same total spread over the steps, $f(C_t) - f(C_{t-1})$ with $C_t$ the return so far; GAE and critic as usual.

With ``episode`` credit, importance weights of episodes in ``info["ordergrad_weight"]`` are heeded, as in
`ordergrad.adapters.sb3`.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false, reportIncompatibleMethodOverride=false
# (RLlib leaves most of its types open)

import warnings
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ordergrad.adapters.episodes import WEIGHT, Credit, EpisodeRanking
from ordergrad.extras import extra
from ordergrad.objectives import Objective
from ordergrad.spec import parse

with extra("rllib"):
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
    from ray.rllib.connectors.connector_v2 import ConnectorV2
    from ray.rllib.core import DEFAULT_MODULE_ID
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.learner.training_data import TrainingData
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
    from ray.rllib.evaluation.postprocessing import Postprocessing

__all__ = ["OrderGradPPOLearner", "RankedAdvantages", "RanksEpisodes", "WholeEpisodes", "use"]

Config = TypeVar("Config", bound=AlgorithmConfig)
_COLUMN = "ordergrad_advantages"
_SETTINGS = "ordergrad"


def use(
    config: Config,
    objective: str | Objective = "mean",
    *,
    credit: Credit = "episode",
    discount: float = 1.0,
    min_episodes: int = 2,
    unit_scale: bool | None = None,
    patience: int = 32,
) -> Config:
    """Make a PPO configuration optimise an objective of whole-episode returns, and return it.

    It sets the learner's class, and ``use_critic=False`` with ``credit="episode"``, where nothing needs the critic.

    Args:
        config: Of PPO, or of an algorithm whose learner class is a `RanksEpisodes`.
        objective: An objective or its string, such as ``"cvar:0.1"`` or ``"0.7*mean+0.3*max@8"``.
        credit: ``episode``, ``terminal`` or ``telescoped``; see the module.
        discount: The discount of the returns that are ranked (``gamma`` is the critic's).
        min_episodes: Update only once this many episodes have ended. At least the K + 1 of the objective, and 2.
        unit_scale: Divide the advantages (or the critic's rewards) by the scale of the returns so far and the
            objective's steepest slope. Default: with a critic.
        patience: Iterations to wait for enough episodes. Then what there is is ranked at the largest K it allows;
            with fewer than two episodes it is dropped. Episodes longer than this many iterations are left out.

    Raises:
        ValueError: The objective string is wrong, a number is out of range, the learner class is another one's, or the
            configuration is for the old API stack, several learners or several agents. What is set later is checked
            when the algorithm is built.

    Example:
        >>> from ray.rllib.algorithms.ppo import PPOConfig
        >>> use(PPOConfig().environment("CartPole-v1"), "cvar:0.1").learner_class.__name__
        'OrderGradPPOLearner'
    """
    settings: dict[str, Any] = {
        "objective": parse(objective),
        "credit": credit,
        "discount": discount,
        "min_episodes": min_episodes,
        "unit_scale": unit_scale,
        "patience": patience,
    }
    EpisodeRanking(**settings)
    _check(config)
    learner = config.learner_class
    if learner is PPOTorchLearner:
        learner = OrderGradPPOLearner
    elif not issubclass(learner, RanksEpisodes):
        raise ValueError(
            f"config must be of PPO, or its learner class a RanksEpisodes; got {learner.__name__}. "
            f"Set config.learners(learner_class=...) to a class of your own: "
            f"class Ranked(RanksEpisodes, {learner.__name__})"
        )
    config.learners(learner_class=learner, learner_config_dict={_SETTINGS: settings})
    if credit == "episode":
        ppo: Any = config
        ppo.training(use_critic=False)
    return config


class WholeEpisodes:
    """Puts chunks of episodes together, keeps what has not ended, and ranks what has once it is enough.

    Args:
        ranking: The objective and the credit.
    """

    def __init__(self, ranking: EpisodeRanking):
        self.ranking, self.stats = ranking, ranking.stats
        self._open: dict[str, list[SingleAgentEpisode]] = {}
        self._broken: set[str] = set()
        self._begun: dict[str, int] = {}
        self._ended: list[SingleAgentEpisode] = []
        self._returns: list[float] = []
        self._weights: list[float] = []
        self._iteration = self._waiting_since = 0

    def take(self, chunks: Iterable[SingleAgentEpisode]) -> list[SingleAgentEpisode]:
        """Add what was sampled. Return the episodes to train on, with their credit, or none while they are too few.

        Args:
            chunks: Whole episodes and chunks of episodes, each of these after the one before it.
        """
        self._iteration += 1
        newest = 0
        for chunk in chunks:
            self._add(chunk)
            newest = max(newest, int(max(_model_output(chunk, "weights_seq_no", default=0))))
        patience = self.ranking.patience
        if late := [key for key, begun in self._begun.items() if self._iteration - begun >= patience]:
            self.ranking.leave_out_long(f"{patience} training iterations", "patience or train_batch_size_per_learner")
            self._abandon(late)
        count, waited = len(self._ended), self._iteration - self._waiting_since
        out_of_patience = waited >= patience
        self.stats |= {"episodes": 0, "waiting": count, "steps": 0, "stale": 0.0}
        episodes: list[SingleAgentEpisode] = []
        if out_of_patience and count < self.ranking.need:
            self.ranking.complain(
                count,
                f"{waited} training iterations",
                "raise train_batch_size_per_learner, lower K or min_episodes, or limit the length of episodes",
            )
        if count >= self.ranking.need or (out_of_patience and count >= 2):
            episodes = self._ended
            self._give_credit(episodes, np.array(self._returns), np.array(self._weights))
            stale = np.concatenate([_model_output(e, "weights_seq_no", default=newest) for e in episodes]) < newest
            self.stats |= {"episodes": count, "waiting": 0, "steps": len(stale), "stale": float(np.mean(stale))}
        if episodes or out_of_patience:
            self._ended, self._returns, self._weights = [], [], []
            self._waiting_since = self._iteration
        self.stats["open"] = sum(len(chunk) for chunks in self._open.values() for chunk in chunks)
        return episodes

    def _add(self, chunk: SingleAgentEpisode) -> None:
        """Keep a chunk, or leave its episode out if what came before it is missing."""
        key = chunk.id_
        before = self._open.get(key, [])
        if chunk.t_started != (before[-1].t if before else 0) and key not in self._broken:
            self._abandon([key])
        if key in self._broken:
            if chunk.is_done:
                self._broken.remove(key)
        elif chunk.is_done:
            self._begun.pop(key, None)
            self._finish([*self._open.pop(key, []), chunk])
        else:
            self._open.setdefault(key, []).append(chunk)
            self._begun.setdefault(key, self._iteration)

    def _finish(self, chunks: list[SingleAgentEpisode]) -> None:
        rewards = np.concatenate([np.asarray(chunk.get_rewards(), np.float64) for chunk in chunks])
        total = float(rewards @ self.ranking.discount ** np.arange(len(rewards)))
        info: dict[str, Any] = chunks[-1].get_infos(-1)
        if WEIGHT in info:
            self.ranking.check_weighted()
        weight = float(info.get(WEIGHT, 1.0))
        if not (np.isfinite(total) and 0 < weight < np.inf):
            self.ranking.leave_out(1)
            return
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole.concat_episode(chunk)
        self._ended.append(whole)
        self._returns.append(total)
        self._weights.append(weight)

    def _abandon(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.stats["abandoned"] += 1
            self._open.pop(key, None)
            self._begun.pop(key, None)
            self._broken.add(key)

    def _give_credit(
        self, episodes: list[SingleAgentEpisode], returns: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> None:
        """Put the advantages beside the steps, or into the rewards."""
        a = self.ranking.advantages(returns, weights)
        for i, episode in enumerate(episodes):
            n = len(episode)
            if self.ranking.credit == "episode":
                column = np.full(n, a[i], np.float32)
                episode.extra_model_outputs[_COLUMN] = InfiniteLookbackBuffer(column, lookback=0)
                continue
            rewards = np.zeros(n)
            if self.ranking.credit == "terminal":
                rewards[-1] = a[i]
            else:
                gains = np.asarray(episode.get_rewards(), np.float64) * self.ranking.discount ** np.arange(n)
                after = np.cumsum(gains)
                rewards = self.ranking.telescoped(after - gains, after)
            episode.rewards = InfiniteLookbackBuffer(rewards, lookback=0)
            episode.is_terminated, episode.is_truncated = True, False  # nothing of f(R) comes after a time limit


class RankedAdvantages(ConnectorV2):
    """The last piece of the learner's pipeline: the advantages that `WholeEpisodes` put beside the steps, not GAE's."""

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the batch of every module with its advantages replaced, where there are ranked ones."""
        for columns in batch.values():
            if _COLUMN in columns:
                columns[Postprocessing.ADVANTAGES] = columns.pop(_COLUMN)
        return batch


class RanksEpisodes(Learner):
    """What turns a learner that computes GAE in its pipeline into one that ranks whole-episode returns.

    For a learner of your own: ``class Ranked(RanksEpisodes, MyPPOLearner): pass``, given to `use` by
    ``config.learners(learner_class=Ranked)``.

    Attributes:
        ranking: The objective, which may be assigned during training, and the counts.
    """

    ranking: EpisodeRanking

    def build(self) -> None:
        """Build the learner, and append the ranked advantages to its pipeline.

        Raises:
            ValueError: The configuration splits the episodes over several learners or agents, or lacks a pipeline.
        """
        config: Any = self.config
        _check(config)
        if config.batch_mode == "complete_episodes":
            self._warn_of_complete_episodes(config)
        super().build()
        self.ranking = EpisodeRanking(**config.learner_config_dict[_SETTINGS])
        self._whole = WholeEpisodes(self.ranking)
        pipeline: Any = self._learner_connector
        pipeline.append(RankedAdvantages())

    def _warn_of_complete_episodes(self, config: Any) -> None:
        wrong: list[str] = []
        if config.num_envs_per_env_runner > 1:
            wrong.append(
                "with several environments per env runner RLlib drops the episodes that end last, which favours short "
                f"ones (num_envs_per_env_runner={config.num_envs_per_env_runner})"
            )
        if config.seed is not None:
            wrong.append(
                "with a seed RLlib resets environments to it before every episode, so that all episodes of an env "
                f"runner meet the same chance events (seed={config.seed})"
            )
        if wrong:
            warnings.warn(
                f"batch_mode='complete_episodes': {'; '.join(wrong)}. "
                "Set batch_mode='truncate_episodes': the learner puts the chunks of episodes together",
                stacklevel=3,
            )

    def update(self, *args: Any, training_data: TrainingData | None = None, **kwargs: Any) -> Any:
        """Update on the episodes that have ended, or not at all while they are too few; see `Learner.update`.

        Raises:
            ValueError: There are no episodes, but a batch.
        """
        if training_data is None:
            given = {name: kwargs.pop(name, None) for name in ("episodes", "episodes_refs")}
            training_data = TrainingData(**given)
        training_data.solve_refs()
        if args or training_data.episodes is None:
            raise ValueError("training_data must hold episodes: a batch of steps has no whole returns to rank")
        sampled: Any = training_data.episodes
        episodes: list[Any] = self._whole.take(sampled)
        stats = {name: float(number) for name, number in self.ranking.stats.items()}
        self.metrics.log_dict(stats, key=(DEFAULT_MODULE_ID, "ordergrad"), window=1)
        if not episodes:
            return self.metrics.reduce()
        return super().update(training_data=TrainingData(episodes=episodes), **kwargs)

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Return the learner's state and the counts; episodes in flight are not kept."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component("ordergrad", components, not_components):
            state["ordergrad"] = self.ranking.state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Set the learner's state and the counts."""
        super().set_state(state)
        if "ordergrad" in state:
            self.ranking.set_state(state["ordergrad"])


def _check(config: Any) -> None:
    """Check that the learner will see whole episodes of one agent.

    Raises:
        ValueError: It will not.
    """
    if not config.enable_rl_module_and_learner or not config.enable_env_runner_and_connector_v2:
        raise ValueError(
            "config must use the new API stack, for the old one has no learner to rank episodes; got "
            f"api_stack(enable_rl_module_and_learner={config.enable_rl_module_and_learner}, "
            f"enable_env_runner_and_connector_v2={config.enable_env_runner_and_connector_v2})"
        )
    if config.framework_str != "torch":
        raise ValueError(f"framework must be 'torch'; got {config.framework_str!r}")
    if config.num_learners > 1:
        raise ValueError(
            f"num_learners must be 0 or 1: RLlib cuts episodes to share them out among learners, so that none "
            f"sees a whole return; got num_learners={config.num_learners}. "
            "Add env runners instead (num_env_runners)"
        )
    if config.is_multi_agent:
        raise ValueError("config must be of a single agent: the returns of several agents are not comparable")
    if not config.add_default_connectors_to_learner_pipeline:
        raise ValueError("add_default_connectors_to_learner_pipeline must be True; got False")


class OrderGradPPOLearner(RanksEpisodes, PPOTorchLearner):
    """The learner of PPO on an order-statistic objective of episode returns; `use` puts it into a configuration."""


def _model_output(episode: SingleAgentEpisode, key: str, default: int) -> NDArray[Any]:
    """Return what the policy left beside the actions of an episode."""
    if key not in episode.extra_model_outputs:
        return np.full(max(len(episode), 1), default)
    return np.asarray(episode.get_extra_model_outputs(key))
