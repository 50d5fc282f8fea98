"""Episodes of RLlib: chunks are put together, wait within bounds until they are ranked, and get their credit."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false
# (RLlib leaves most of its types open)

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordergrad.adapters.episodes import WEIGHT, EpisodeRanking, thinned
from ordergrad.extras import extra

with extra("rllib"):
    from ray.rllib.core import DEFAULT_MODULE_ID
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

__all__ = ["ADVANTAGES", "WholeEpisodes", "by_policy"]

ADVANTAGES = "ordergrad_advantages"
_WAITING = 2  # rollouts whose steps may wait
_PIECE = 32  # steps of the pieces of which some are drawn where more wait


@dataclass
class _Piece:
    """Consecutive steps of an episode."""

    steps: SingleAgentEpisode
    before: float  # the return before them
    arrived: int  # the iteration in which they came
    share: float = 1.0  # how many steps each of them stands for


@dataclass
class _Episode:
    """An episode, and those of its steps that have not been trained on."""

    begun: int
    seen: int
    length: int = 0
    total: float = 0.0
    weight: float = 1.0
    pieces: list[_Piece] = field(default_factory=list[_Piece])


class WholeEpisodes:
    """Puts the chunks of episodes together and ranks the episodes that have ended once they are enough.

    Without a critic an episode's steps wait for its end, with one only for enough episodes. At most two rollouts of
    steps wait. With a critic the newest are kept; without one a random part, weighted up, so that no episode is left
    out of the ranking for its length and the gradient keeps its expectation.

    Args:
        ranking: The objective and the credit.
    """

    def __init__(self, ranking: EpisodeRanking):
        self.ranking, self.stats = ranking, ranking.stats
        self._open: dict[str, _Episode] = {}
        self._ended: list[_Episode] = []
        self._broken: set[str] = set()
        self._iteration = self._waiting_since = self._longest = self._rollout = 0
        self._random = np.random.default_rng(0)

    def take(self, chunks: Iterable[SingleAgentEpisode]) -> list[SingleAgentEpisode]:
        """Add what was sampled. Return what to train on, with its credit: nothing while too few episodes have ended.

        Args:
            chunks: Whole episodes and chunks of episodes, each of these after the one before it.
        """
        self._iteration += 1
        newest = sampled = 0
        for chunk in chunks:
            sampled += len(chunk)
            newest = max(newest, int(np.max(_weights_of(chunk), initial=0)))
            self._add(chunk)
        self._rollout = max(self._rollout, sampled)
        patience = max(self.ranking.patience, 2 * self._longest)
        self._abandon([key for key, episode in self._open.items() if self._iteration - episode.seen >= patience])
        count, waited = len(self._ended), self._iteration - self._waiting_since
        out_of_patience = waited >= patience
        self.stats |= {"episodes": 0, "waiting": count, "steps": 0, "stale": 0.0}
        if out_of_patience and count < self.ranking.need:
            self.ranking.complain(
                count,
                f"{waited} training iterations",
                "raise train_batch_size_per_learner, lower K or min_episodes, or limit the length of episodes",
            )
        trained: list[SingleAgentEpisode] = []
        if count >= self.ranking.need or (out_of_patience and count >= 2):
            trained = list(self._ranked())
            self.stats |= {"episodes": count, "waiting": 0}
        if trained:
            stale = np.concatenate([_weights_of(steps, newest) for steps in trained]) < newest
            self.stats |= {"steps": len(stale), "stale": float(np.mean(stale))}
        if self.stats["episodes"] or out_of_patience:
            self._waiting_since = self._iteration
        self._keep_back()
        return trained

    def _add(self, chunk: SingleAgentEpisode) -> None:
        """Keep a chunk, or leave its episode out if what came before it is missing."""
        key: str = chunk.id_
        episode = self._open.get(key)
        if key not in self._broken:
            if episode is None and len(chunk) == 0:
                return  # of an agent that has left
            if chunk.t_started != (episode.length if episode else 0):
                self._abandon([key])
        if key in self._broken:
            if chunk.is_done:
                self._broken.remove(key)
            return
        episode = episode or _Episode(self._iteration, self._iteration)
        if len(chunk):
            episode.pieces.append(_Piece(chunk, episode.total, self._iteration))
            episode.total += float(self._gains(chunk).sum())
            episode.length += len(chunk)
        episode.seen = self._iteration
        self._open[key] = episode
        if chunk.is_done:
            self._end(self._open.pop(key), chunk.get_infos(-1))

    def _end(self, episode: _Episode, info: dict[str, Any]) -> None:
        self._longest = max(self._longest, self._iteration - episode.begun + 1)
        if WEIGHT in info:
            self.ranking.check_weighted()
        episode.weight = float(info.get(WEIGHT, 1.0))
        if np.isfinite(episode.total) and 0 < episode.weight < np.inf:
            self._ended.append(episode)
        else:
            self.ranking.leave_out(1)

    def _abandon(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.stats["abandoned"] += 1
            self._open.pop(key, None)
            self._broken.add(key)

    def _gains(self, steps: SingleAgentEpisode) -> NDArray[np.float64]:
        """Return the discounted rewards of some steps."""
        powers = self.ranking.discount ** (steps.t_started + np.arange(len(steps)))
        return np.asarray(steps.get_rewards(), np.float64) * powers

    def _ranked(self) -> Iterator[SingleAgentEpisode]:
        """Yield the steps of the episodes that have ended, with their credit; with a critic those of the others too."""
        ended, self._ended = self._ended, []
        a = self.ranking.advantages(np.array([e.total for e in ended]), np.array([e.weight for e in ended]))
        for episode, advantage in zip(ended, a, strict=True):
            pieces = _joined(episode.pieces)
            for piece in pieces:
                last = piece is pieces[-1]
                self._pay(piece, float(advantage) if last or not self._has_critic else 0.0)
                if self._has_critic:  # nothing of f(R) comes after a time limit
                    piece.steps.is_terminated, piece.steps.is_truncated = last, False
                yield piece.steps
        if self._has_critic:
            for episode in self._open.values():
                pieces, episode.pieces = _joined(episode.pieces), []
                for piece in pieces:
                    self._pay(piece, 0.0)
                    yield piece.steps

    @property
    def _has_critic(self) -> bool:
        return self.ranking.credit != "episode"

    def _pay(self, piece: _Piece, advantage: float) -> None:
        """Put the credit of some steps beside them, or into their rewards."""
        steps, n = piece.steps, len(piece.steps)
        if self.ranking.credit == "episode":
            column = np.full(n, advantage * piece.share, np.float32)
            steps.extra_model_outputs[ADVANTAGES] = InfiniteLookbackBuffer(column, lookback=0)
            return
        rewards = np.zeros(n)
        if self.ranking.credit == "terminal":
            rewards[-1] = advantage
        else:
            gains = self._gains(steps)
            after = piece.before + np.cumsum(gains)
            rewards = self.ranking.telescoped(after - gains, after)
        steps.rewards = InfiniteLookbackBuffer(rewards, lookback=0)

    def _keep_back(self) -> None:
        """Keep the steps that wait, at most two rollouts of them."""
        episodes = [*self._ended, *self._open.values()]
        if self._has_critic:
            for episode in episodes:
                episode.pieces = [p for p in episode.pieces if p.arrived > self._iteration - _WAITING]
        waiting, most = _steps(episodes), _WAITING * self._rollout
        if waiting > most:
            self.ranking.thin(waiting / most, "train_batch_size_per_learner")
            for episode in episodes:
                episode.pieces = list(chain.from_iterable(map(self._split, episode.pieces)))
            pieces = [piece for episode in episodes for piece in episode.pieces]
            shares, lengths = np.array([p.share for p in pieces]), np.array([len(p.steps) for p in pieces])
            kept, shares = thinned(shares, most, self._random.random(), lengths)
            for i, share in zip(kept, shares, strict=True):
                pieces[i].share = float(share)
            chosen = {id(pieces[i]) for i in kept}
            for episode in episodes:
                episode.pieces = [piece for piece in episode.pieces if id(piece) in chosen]
        self.stats["open"] = _steps(episodes)

    def _split(self, piece: _Piece) -> Iterator[_Piece]:
        """Yield the parts of a piece, of equal length."""
        n = len(piece.steps)
        if n <= _PIECE:
            yield piece
            return
        before = piece.before + np.append(0.0, np.cumsum(self._gains(piece.steps)))
        bounds = np.linspace(0, n, -(-n // _PIECE) + 1).astype(int)
        for start, stop in pairwise(bounds):
            yield _Piece(_part(piece.steps, start, stop), float(before[start]), piece.arrived, piece.share)


def by_policy(chunks: Iterable[SingleAgentEpisode | MultiAgentEpisode]) -> dict[str, list[SingleAgentEpisode]]:
    """Return the chunks of each policy. An agent's episode ends with that of the environment at the latest."""
    found: dict[str, list[SingleAgentEpisode]] = {}
    for chunk in chunks:
        if isinstance(chunk, SingleAgentEpisode):
            found.setdefault(DEFAULT_MODULE_ID, []).append(chunk)
            continue
        agents: dict[Any, SingleAgentEpisode] = chunk.agent_episodes
        for episode in agents.values():
            episode.is_terminated |= chunk.is_done and not episode.is_truncated
            found.setdefault(str(episode.module_id), []).append(episode)
    return found


def _part(steps: SingleAgentEpisode, start: int, stop: int) -> SingleAgentEpisode:
    """Return some of the steps of an episode; RLlib's own slices forget the agent."""
    found: SingleAgentEpisode = steps.slice(slice(int(start), int(stop)), len_lookback_buffer=1 if start else None)
    found.agent_id, found.module_id = steps.agent_id, steps.module_id
    found.multi_agent_episode_id = steps.multi_agent_episode_id
    return found


def _joined(pieces: list[_Piece]) -> list[_Piece]:
    """Return pieces, with neighbours that follow each other put together."""
    joined: list[_Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last and last.share == piece.share and last.steps.t == piece.steps.t_started:
            last.steps.concat_episode(piece.steps)
        else:
            joined.append(piece)
    return joined


def _steps(episodes: Iterable[_Episode]) -> int:
    return sum(len(piece.steps) for episode in episodes for piece in episode.pieces)


def _weights_of(steps: SingleAgentEpisode, default: int = 0) -> NDArray[Any]:
    """Return the number of the policy's weights with which each action was chosen."""
    if "weights_seq_no" not in steps.extra_model_outputs:
        return np.full(len(steps), default)
    return np.asarray(steps.get_extra_model_outputs("weights_seq_no"))
