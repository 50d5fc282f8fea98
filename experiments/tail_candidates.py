"""Candidates for a better tail on the betting game of Return Capping, each beside `OrderGradPPO` as it is.

    python experiments/tail_candidates.py --out runs/tail_candidates --results experiments/results/tail_candidates

The game, the measure and the first of the settings are those of return_capping.py, with a fifth of its steps and other
seeds:

    ours                  OrderGradPPO on cvar:0.2
    pool of 4, of 16      f is that of the episodes of the last 4 or 16 rollouts
    small groups          ours with 8 games instead of 256: 43 episodes a rollout, ranked among themselves
    small groups, pool    the same, ranked with the last 1,400 episodes
    quantiles of f        the critic has 32 quantiles of what is left of f, and their mean as its value
    quantiles of returns  the critic has 32 quantiles of the return that is left, whatever f is; its value is the mean
                          of f over them, so that its targets do not move with f
    quantile term         the same, and half of the advantage from the quantile gradient of Luo and Delage

`--contenders`, `--seeds`, `--first-seed` and `--steps` choose runs; with `--resume` the same folder takes more of them.
The best candidate was then trained for a million steps:

    python experiments/tail_candidates.py --out runs/tail_candidates_long --steps 1000000 --seeds 5 --first-seed 0 \
        --contenders "quantile term" --results experiments/results/tail_candidates/long

References:
    Dabney, Rowland, Bellemare and Munos (2018). Distributional reinforcement learning with quantile regression. AAAI.
    Luo and Delage (2026). Boosting CVaR policy optimization with quantile gradients. arXiv 2601.22100.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import study
import torch
from capping.contenders import fresh
from return_capping import FIRST, TAIL, make_envs
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import ordergrad as og
from ordergrad.adapters.sb3 import OrderGradPPO, OrderGradRolloutBuffer
from ordergrad.envs.betting_game import returns_of_best

QUANTILES = 32
LEVELS = (np.arange(QUANTILES) + 0.5) / QUANTILES
UNIT = 64.0  # of the critic's returns
ROLLOUT = FIRST.envs * FIRST.rollout // 6  # episodes of a rollout, nearly all of six rounds
MEASURES = (TAIL, "cvar:0.05", "mean")


@dataclass(frozen=True)
class Candidate:
    """What differs from ours."""

    envs: int = FIRST.envs
    pool: int = 200
    critic: str = "value"  # "value", or quantiles of "f" or of "returns"
    term: float = 0.0  # share of the quantile gradient in the advantage


CANDIDATES = {
    "ours": Candidate(),
    "pool of 4": Candidate(pool=4 * ROLLOUT),
    "pool of 16": Candidate(pool=16 * ROLLOUT),
    "quantiles of f": Candidate(critic="f"),
    "quantiles of returns": Candidate(critic="returns"),
    "quantile term": Candidate(critic="returns", term=0.5),
    "small groups": Candidate(envs=8, pool=1),
    "small groups, pool": Candidate(envs=8, pool=1400),
}


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/tail_candidates")
    contenders: tuple[str, ...] = field(
        default=tuple(CANDIDATES), metadata={"choices": list(CANDIDATES), "help": "train only these"}
    )
    seeds: int = field(default=3, metadata={"help": "train so many seeds"})
    first_seed: int = field(default=100, metadata={"help": "the first of them"})
    steps: int = field(default=FIRST.steps // 5, metadata={"help": "environment steps of a training"})
    episodes: int = field(default=FIRST.fresh, metadata={"help": "fresh episodes of each policy"})


# Quantile critics ---------------------------------------------------------------------------------------------------


class QuantilePolicy(ActorCriticPolicy):
    """A policy whose critic has quantiles. The last ones of `forward` and `predict_values` are kept for the buffer."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.value_net = torch.nn.Linear(self.mlp_extractor.latent_dim_vf, QUANTILES)
        self.init_weights(self.value_net, gain=1)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def forward(self, obs: torch.Tensor, deterministic: bool = False) -> tuple[torch.Tensor, ...]:
        actions, quantiles, log_prob = super().forward(obs, deterministic)
        self.seen = quantiles.numpy()
        return actions, quantiles.mean(dim=1, keepdim=True), log_prob

    def predict_values(self, obs: Any) -> torch.Tensor:
        quantiles = super().predict_values(obs)
        self.last = quantiles.detach().numpy()
        return quantiles.mean(dim=1, keepdim=True)


class QuantileBuffer(OrderGradRolloutBuffer):
    """Gives a quantile critic its targets: what is left of f, or the return that is left, of the same episode.

    An episode that goes on ends with the critic's quantiles. `returns` of a step are QUANTILES equally likely targets.
    `policy` and `candidate` are set once the model is built.
    """

    policy: QuantilePolicy
    candidate: Candidate

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.seen = np.zeros((self.buffer_size, self.n_envs, QUANTILES))
        self.rest = np.zeros(self.n_envs)  # what the quantile gradient wants of the rest of the episode
        self.rng = np.random.default_rng(0)

    def add(self, *args: Any, **kwargs: Any) -> None:
        self.seen[self.pos] = self.policy.seen
        super().add(*args, **kwargs)

    def _append(self, dones: np.ndarray) -> None:
        earlier = self._stretch.get("seen")
        super()._append(dones)
        self._stretch["seen"] = self.seen.copy() if earlier is None else np.concatenate([earlier, self.seen])

    def _gae(self, rewards: np.ndarray, last_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s = self._stretch
        if self.candidate.critic == "f":
            return super()._gae(rewards, last_values)[0], self._left(rewards, self.policy.last)
        last = UNIT * self.policy.last
        s["values"] = self._worth(s["before"], UNIT * s["seen"])
        a, _ = super()._gae(rewards, self._worth(s["total"][-1], last))
        left = self._left(s["gains"], last)
        if share := self.candidate.term:
            term = self._quantile_gradient(left, UNIT * s["seen"])
            a = (1 - share) * a / a.std() + share * term / term.std()
        return a, left / UNIT

    def _worth(self, before: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
        """Return the mean of f over a distribution of the return that is left, less f of the return so far."""
        before = np.repeat(before[..., None], QUANTILES, axis=-1)
        return self.ranking.telescoped(before, before + quantiles).mean(axis=-1)

    def _left(self, gains: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return the sum of the gains from each step to the end of the episode, or of the rollout and `last` then."""
        going_on = ~self._stretch["ends"]
        left, running = np.empty((*gains.shape, QUANTILES)), last
        for t in reversed(range(len(gains))):
            left[t] = running = gains[t][:, None] + running * going_on[t][:, None]
        return left

    def _quantile_gradient(self, left: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
        """Return the advantages of the quantile gradient: level - P(rest of the return < its quantile at that level).

        The level is uniform up to that of the objective when an episode starts; later it is the one at which the
        critic's quantile is what is left to get.
        """
        s, quantiles = self._stretch, np.sort(quantiles, axis=-1)
        a = np.empty(left.shape[:2])
        for t in range(len(a)):
            level = np.array([np.interp(y, q, LEVELS) for y, q in zip(self.rest, quantiles[t], strict=True)])
            level = np.where(s["starts"][t], self.rng.uniform(0, 0.2, self.n_envs), level)
            want = np.array([np.interp(u, LEVELS, q) for u, q in zip(level, quantiles[t], strict=True)])
            a[t] = level - (left[t] < want[:, None]).mean(axis=1)
            self.rest = want - s["gains"][t]
        return a


class QuantilePPO(OrderGradPPO):
    """PPO with a critic of quantiles, fitted by quantile regression."""

    def train(self) -> None:
        if not self.rollout_buffer.ready:  # type: ignore[attr-defined]
            return
        self._update_learning_rate(self.policy.optimizer)
        clip = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        for _ in range(self.n_epochs):
            for batch in self.rollout_buffer.get(self.batch_size):
                quantiles, log_prob, _ = self.policy.evaluate_actions(
                    batch.observations, batch.actions.long().flatten()
                )
                a = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
                ratio = torch.exp(log_prob - batch.old_log_prob)
                gain = torch.min(a * ratio, a * ratio.clamp(1 - clip, 1 + clip)).mean()
                loss = self.vf_coef * quantile_loss(quantiles, batch.returns.view(-1, QUANTILES)) - gain
                self.policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
        self._n_updates += self.n_epochs


def quantile_loss(quantiles: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of quantile regression, every quantile against every target: both (batch, QUANTILES)."""
    apart = targets[:, None, :] - quantiles[:, :, None]
    level = torch.tensor(LEVELS, dtype=apart.dtype)[:, None]
    return (apart * (level - (apart < 0).to(apart.dtype))).mean()


# Runs ---------------------------------------------------------------------------------------------------------------


def build(candidate: Candidate, env: VecEnv, seed: int) -> OrderGradPPO:
    kind, policy, buffer = OrderGradPPO, "MlpPolicy", OrderGradRolloutBuffer
    if candidate.critic != "value":
        kind, policy, buffer = QuantilePPO, QuantilePolicy, QuantileBuffer
    model = kind(
        policy,
        env,
        objective=TAIL,
        credit="telescoped",
        cap=None,
        min_episodes=24,
        pool=candidate.pool,
        n_steps=FIRST.rollout,
        batch_size=min(FIRST.batch_size, candidate.envs * FIRST.rollout),
        n_epochs=FIRST.epochs,
        gamma=0.999,
        gae_lambda=0.95,
        learning_rate=lambda left: FIRST.learning_rate * left,
        rollout_buffer_class=buffer,
        seed=seed,
        device="cpu",
    )
    if isinstance(model.rollout_buffer, QuantileBuffer):
        model.rollout_buffer.policy, model.rollout_buffer.candidate = model.policy, candidate
        model.rollout_buffer.rng = np.random.default_rng(seed)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def play(contender: str, seed: int, steps: int, episodes: int) -> study.Record:
    """Train one policy and return what fresh episodes of it return."""
    torch.set_num_threads(1)
    candidate = CANDIDATES[contender]
    model = build(candidate, VecNormalize(make_envs("bets", candidate.envs, seed), norm_reward=False), seed)
    model.learn(steps)
    returns, _ = fresh(model, make_envs("bets", 50, 10_000 + seed), episodes)
    return {name: float(og.value(returns, name)) for name in MEASURES}


# Results ------------------------------------------------------------------------------------------------------------


def table(records: Sequence[study.Record]) -> list[study.Record]:
    """Return a row for every candidate: means over seeds, with intervals, and how far it is ahead of ours."""
    rows: list[study.Record] = []
    ours = {r["seed"]: r[TAIL] for r in records if r["contender"] == "ours"}
    for contender in dict.fromkeys(r["contender"] for r in records):
        mine = {r["seed"]: r for r in records if r["contender"] == contender}
        row: study.Record = {"contender": contender, "seeds": len(mine)}
        row[TAIL], row["low"], row["high"] = study.over_seeds([r[TAIL] for r in mine.values()])
        row |= {name: float(np.mean([r[name] for r in mine.values()])) for name in MEASURES[1:]}
        both = sorted(mine.keys() & ours.keys())
        ahead = study.paired([mine[i][TAIL] for i in both], [ours[i] for i in both])
        rows.append(row | {"ahead": ahead.value, "ahead low": ahead.low, "ahead high": ahead.high})
    return rows


def limit_of_quantile_gradient(rounds: int = 200) -> float:
    """Return the CVaR 20% at which the quantile gradient comes to rest when it starts from the best policy, exactly.

    Up to a factor it is the gradient of E[min(F(R), 0.2)], F the distribution of the returns of the present policy. In
    every round a smaller share of the policy is replaced by the best one for this utility (Frank and Wolfe).
    """
    chance = dict(zip(*returns_of_best(lambda r: np.minimum(r, 34.0)), strict=True))
    for k in range(rounds):
        reached = np.array(sorted(chance))
        below = np.cumsum([0.0, *(chance[r] for r in reached)])
        returns, better = returns_of_best(
            lambda r, x=reached, f=below: np.minimum(f[np.searchsorted(x, r, side="right")], 0.2)
        )
        share = 2 / (k + 3)
        chance = {r: (1 - share) * p for r, p in chance.items()}
        for r, p in zip(returns, better, strict=True):
            chance[r] = chance.get(r, 0.0) + share * p
    return float(og.exact.value(np.array(list(chance)), np.array(list(chance.values())), TAIL))


def main(argv: Sequence[str] | None = None) -> None:
    options = study.parse(Options, "Candidates for a better tail on the betting game.", argv)
    settings = {"steps": options.steps, "episodes": options.episodes}
    with study.Study(__file__, options, argv) as s:
        s.open(settings)
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        contenders = dict.fromkeys(("ours", *options.contenders))
        runs = [{"contender": c, "seed": seed, **settings} for seed in seeds for c in contenders]
        records = s.computed("runs.jsonl", runs, play)
    rows = table(records)
    shown = [(r["contender"], f"{r[TAIL]:.1f}", f"{r['ahead']:.1f}") for r in rows]
    s.show("Candidates", ("contender", TAIL, "ahead of ours"), shown)
    s.write_table("candidates.csv", rows)
    s.write_table("runs.csv", records, ("contender", "seed", *MEASURES))
    chosen = {c: study.as_dict(CANDIDATES[c]) for c in contenders}
    s.write_summary(settings, candidates=chosen, limit_of_quantile_gradient=limit_of_quantile_gradient())


if __name__ == "__main__":
    main()
