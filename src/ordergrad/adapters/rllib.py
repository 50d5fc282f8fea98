r"""RLlib: PPO that optimises the ranks of whole-episode returns.

    config = PPOConfig().environment("CartPole-v1")
    use(config, "cvar:0.1")
    algorithm = config.build_algo()

The env runners, on this machine or on a cluster, sample as always. The learner puts the episodes together from their
chunks, ranks those that have ended by their whole returns, and trains. Three ways to hand a rank's credit to the steps:

``episode``
    Every step of an episode carries the episode's advantage A, instead of GAE's; no critic. Steps wait for the end of
    their episode. With E episodes of S steps in all, the loss over one batch is
    $-\frac1S \sum_i A_i \sum_t \log\pi_{it}$: E/S times the exact ``-mean(A * logp)`` over episodes.
``terminal``
    A is the only reward, at the episode's end; RLlib's GAE and critic as usual.
``telescoped``
    The same total spread over the steps, $f(C_t) - f(C_{t-1})$ with $C_t$ the return so far; GAE and critic as usual.

With a critic, the steps of episodes that have not ended are trained on as well, bootstrapped by it.

Several learners gather the episodes, rank them all, and share the steps out. Several agents: the episodes of each
policy are ranked among themselves, by an objective of its own if it has one.

With ``episode`` credit, importance weights of episodes in ``info["ordergrad_weight"]`` are heeded, as in
`ordergrad.adapters.sb3`.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false, reportIncompatibleMethodOverride=false
# (RLlib leaves most of its types open)

import warnings
from collections.abc import Mapping
from itertools import chain
from typing import Any, TypeVar

from ordergrad.adapters.episodes import Credit, EpisodeRanking
from ordergrad.extras import extra
from ordergrad.objectives import Objective
from ordergrad.spec import parse

with extra("rllib"):
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
    from ray.rllib.connectors.connector_v2 import ConnectorV2
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.learner.training_data import TrainingData
    from ray.rllib.evaluation.postprocessing import Postprocessing
    from torch import distributed

    from ordergrad.adapters.rllib_episodes import ADVANTAGES, WholeEpisodes, by_policy

__all__ = ["OrderGradPPOLearner", "RankedAdvantages", "RanksEpisodes", "use"]

Config = TypeVar("Config", bound=AlgorithmConfig)
_SETTINGS = "ordergrad"


def use(
    config: Config,
    objective: str | Objective | Mapping[str, str | Objective] = "mean",
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
        objective: An objective or its string, such as ``"cvar:0.1"`` or ``"0.7*mean+0.3*max@8"``. With several agents
            also one for each policy that is trained, by its name.
        credit: ``episode``, ``terminal`` or ``telescoped``; see the module.
        discount: The discount of the returns that are ranked (``gamma`` is the critic's).
        min_episodes: Update only once this many episodes have ended. At least the K + 1 of the objective, and 2.
        unit_scale: Divide the advantages (or the critic's rewards) by the scale of the returns so far and the
            objective's steepest slope. Default: with a critic.
        patience: Iterations to wait for enough episodes, or longer, twice the longest episode. Then the episodes so far
            are ranked at the largest K they allow, with a warning.

    Raises:
        ValueError: The objective string is wrong, a number is out of range, the learner class is another one's, or the
            configuration is for the old API stack, or for several learners and several agents at once. What is set
            later is checked when the algorithm is built.

    Example:
        >>> from ray.rllib.algorithms.ppo import PPOConfig
        >>> use(PPOConfig().environment("CartPole-v1"), "cvar:0.1").learner_class.__name__
        'OrderGradPPOLearner'
    """
    settings: dict[str, Any] = {
        "credit": credit,
        "discount": discount,
        "min_episodes": min_episodes,
        "unit_scale": unit_scale,
        "patience": patience,
    }
    for one in objective.values() if isinstance(objective, Mapping) else [objective]:
        EpisodeRanking(one, **settings)
    settings["objective"] = dict(objective) if isinstance(objective, Mapping) else parse(objective)
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
        unused = {"find_unused_parameters": True}  # the critic's, or several learners wait for their gradients
        ppo.training(use_critic=False).framework(torch_ddp_kwargs=unused | ppo.torch_ddp_kwargs)
    return config


class RankedAdvantages(ConnectorV2):
    """The last piece of the learner's pipeline: the advantages that `WholeEpisodes` put beside the steps, not GAE's."""

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the batch of every module with its advantages replaced, where there are ranked ones."""
        for columns in batch.values():
            if ADVANTAGES in columns:
                columns[Postprocessing.ADVANTAGES] = columns.pop(ADVANTAGES)
        return batch


class RanksEpisodes(Learner):
    """What turns a learner that computes GAE in its pipeline into one that ranks whole-episode returns.

    For a learner of your own: ``class Ranked(RanksEpisodes, MyPPOLearner): pass``, given to `use` by
    ``config.learners(learner_class=Ranked)``.

    Attributes:
        rankings: By policy (``"default_policy"`` with a single agent), its objective, which may be assigned during
            training, and the counts.
    """

    rankings: dict[str, EpisodeRanking]

    def build(self) -> None:
        """Build the learner, and append the ranked advantages to its pipeline.

        Raises:
            ValueError: The configuration is one that `use` refuses, or the policies are not those with an objective.
        """
        config: Any = self.config
        _check(config)
        if config.batch_mode == "complete_episodes":
            self._warn_of_complete_episodes(config)
        super().build()
        self.rankings, self._whole = {}, {}
        policies: Any = self.module.keys()
        objective = config.learner_config_dict[_SETTINGS]["objective"]
        if isinstance(objective, dict) and (unknown := objective.keys() - set(policies)):
            raise ValueError(
                f"objective must name policies; got {', '.join(sorted(unknown))}, "
                f"but the policies are {', '.join(sorted(policies))}"
            )
        for policy in policies:
            self._add_ranking(policy)
        pipeline: Any = self._learner_connector
        pipeline.append(RankedAdvantages())

    def _add_ranking(self, policy: str) -> None:
        """Rank the episodes of a policy that is trained; its objective may be one of its own."""
        if policy in self.rankings or not self.should_module_be_updated(policy):
            return
        config: Any = self.config
        settings = dict(config.learner_config_dict[_SETTINGS])
        if isinstance(settings["objective"], dict):
            if policy not in settings["objective"]:
                raise ValueError(
                    f"objective must have an entry for every policy that is trained; got none for {policy!r} "
                    f"(it has {', '.join(sorted(settings['objective']))})"
                )
            settings["objective"] = settings["objective"][policy]
        self.rankings[policy] = EpisodeRanking(**settings)
        self._whole[policy] = WholeEpisodes(self.rankings[policy])

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
        sampled = by_policy(self._gathered(training_data.episodes))
        for policy in sampled:
            self._add_ranking(policy)
        episodes: list[Any] = []
        for policy, whole in self._whole.items():
            episodes += whole.take(sampled.get(policy, []))
            stats = {name: float(number) for name, number in whole.stats.items()}
            self.metrics.log_dict(stats, key=(policy, "ordergrad"), window=1)
        config: Any = self.config
        learners = max(config.num_learners, 1)
        if sum(map(len, episodes)) < learners:  # a step for each
            return self.metrics.reduce()
        for i, episode in enumerate(episodes):
            if episode.agent_id is not None:  # RLlib identifies the pieces of an agent's episode by this
                episode.multi_agent_episode_id = f"{episode.multi_agent_episode_id}_{i}"
        training_data = TrainingData(episodes=episodes)
        if learners > 1:
            known = {name: kwargs[name] for name in ("minibatch_size", "num_epochs") if name in kwargs}
            horizon = config.episode_lookback_horizon
            shards: Any = training_data.shard(num_shards=learners, len_lookback_buffer=horizon, **known)
            training_data, counts = shards[distributed.get_rank()]
            kwargs |= {name: max(count, 1) for name, count in counts.items()}
        return super().update(training_data=training_data, **kwargs)

    def _gathered(self, chunks: Any) -> list[Any]:
        """Return what all learners got, each chunk after the one before it; they all make the same ranking of it."""
        config: Any = self.config
        if config.num_learners < 2:
            return chunks
        found: list[Any] = [None] * config.num_learners
        distributed.all_gather_object(found, chunks)
        return sorted(chain.from_iterable(found), key=lambda chunk: chunk.t_started)

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Return the learner's state and the counts; episodes in flight are not kept."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component("ordergrad", components, not_components):
            state["ordergrad"] = {policy: ranking.state() for policy, ranking in self.rankings.items()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Set the learner's state and the counts."""
        super().set_state(state)
        for policy, counts in state.get("ordergrad", {}).items():
            self.rankings[policy].set_state(counts)


def _check(config: Any) -> None:
    """Raise ValueError if the learner will not see whole episodes."""
    if not config.enable_rl_module_and_learner or not config.enable_env_runner_and_connector_v2:
        raise ValueError(
            "config must use the new API stack, for the old one has no learner to rank episodes; got "
            f"api_stack(enable_rl_module_and_learner={config.enable_rl_module_and_learner}, "
            f"enable_env_runner_and_connector_v2={config.enable_env_runner_and_connector_v2})"
        )
    if config.framework_str != "torch":
        raise ValueError(f"framework must be 'torch'; got {config.framework_str!r}")
    if config.num_learners > 1 and config.is_multi_agent:
        raise ValueError(
            f"num_learners must be 0 or 1 with several agents: RLlib shares their episodes out among learners without "
            f"the infos and the rewards of agents that are not acting; got num_learners={config.num_learners}"
        )
    if config.num_learners > 1 and getattr(config, "minibatch_size", 1) is None:
        raise ValueError("minibatch_size must be a number with several learners, which take the same steps; got None")
    if not config.add_default_connectors_to_learner_pipeline:
        raise ValueError("add_default_connectors_to_learner_pipeline must be True; got False")


class OrderGradPPOLearner(RanksEpisodes, PPOTorchLearner):
    """The learner of PPO on an order-statistic objective of episode returns; `use` puts it into a configuration."""
