"""PPO on the ranks of whole episodes, in one file: read it from top to bottom, then change it.

    python experiments/ppo.py --env-id CartPole-v1 --objective cvar:0.2
    python experiments/ppo.py --env-id MountainCarContinuous-v0 --objective max@8 --normalize --updates 100

What differs from PPO on the mean is one line, marked below, and what it needs: whole episodes. Every update plays
one episode in every environment, from its start to its end, so no return is partial, no short episode counts twice,
and the first gradient step is exact: -(1/S) sum_i A_i sum_t log pi_it over N episodes of S steps in all, which is N/S
times the unbiased gradient of the objective. There is no critic: nothing estimates what an episode will return.

Metrics go to RUN/metrics.csv, a line per update, the policy to RUN/policy.safetensors, at the end and on Ctrl-C.
Needs `pip install ".[rl]"`. How to change your own loop: docs/adapters/cleanrl.md.

References:
    Schulman et al. (2017). Proximal Policy Optimization Algorithms. arXiv 1707.06347.
    Huang et al. (2022). CleanRL: high-quality single-file implementations. JMLR 23. (the manner)
"""

import argparse
import csv
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributions import Categorical, Distribution, Independent, Normal

import ordergrad as og
from ordergrad.weights import smallest_group


@dataclass(frozen=True)
class Args:
    env_id: str = "CartPole-v1"
    env_args: str = "{}"  # keyword arguments of the environment, JSON
    objective: str = "cvar:0.2"
    anneal_from: str = ""  # an objective that turns into `objective` over the first half of training
    seed: int = 0
    out: str = ""  # folder of the run [runs/ppo/ENV-OBJECTIVE-SEED]
    episodes: int = 32  # episodes of an update, played side by side: the group that is ranked
    updates: int = 50
    longest: int = 10_000  # an episode that is longer is an error
    learning_rate: float = 3e-3  # falls linearly to 0
    epochs: int = 4
    minibatches: int = 4
    clip: float = 0.2
    entropy: float = 0.0  # coefficient of the entropy bonus
    max_grad_norm: float = 0.5
    hidden: int = 64
    normalize: bool = False  # observations, by their running mean and deviation; never rewards


class Policy(nn.Module):
    """A distribution over actions for every observation: categorical, or normal with a spread of its own."""

    def __init__(self, observations: gym.Space, actions: gym.Space, hidden: int):
        super().__init__()
        self.discrete = isinstance(actions, gym.spaces.Discrete)
        inputs, outputs = int(np.prod(observations.shape)), actions.n if self.discrete else int(np.prod(actions.shape))
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
        )
        self.head = nn.Linear(hidden, outputs)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.log_std = nn.Parameter(torch.zeros(outputs), requires_grad=not self.discrete)

    def forward(self, observation: torch.Tensor) -> Distribution:
        scores = self.head(self.body(observation))
        return Categorical(logits=scores) if self.discrete else Independent(Normal(scores, self.log_std.exp()), 1)


@dataclass
class Episodes:
    """Whole episodes: their returns, and all their steps in one flat list."""

    returns: np.ndarray  # (episodes,)
    observation: torch.Tensor  # (steps, ...)
    action: torch.Tensor  # (steps, ...)
    log_prob: torch.Tensor  # (steps,)
    episode: torch.Tensor  # (steps,): the episode that a step belongs to


@torch.no_grad()
def play(envs: gym.vector.VectorEnv, policy: Policy, args: Args, seed: int | None = None) -> Episodes:
    """Play one episode in every environment; one that has ended goes on, unrecorded, until the last one has."""
    observation, _ = envs.reset(seed=seed)
    returns, alive, steps = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool), []
    space = envs.single_action_space
    while alive.any():
        if len(steps) == args.longest:
            raise SystemExit(
                f"Error: {alive.sum()} of {len(alive)} episodes of {args.env_id} have not ended after {args.longest} "
                f"steps: raise --longest, or give the environment a time limit (max_episode_steps)"
            )
        seen = torch.as_tensor(observation, dtype=torch.float32)
        distribution = policy(seen)
        action = distribution.sample()
        steps.append((seen[alive], action[alive], distribution.log_prob(action)[alive], np.flatnonzero(alive)))
        played = action.numpy() if policy.discrete else action.numpy().reshape(-1, *space.shape)
        bounded = played if policy.discrete else np.clip(played, space.low, space.high).astype(space.dtype)
        observation, reward, terminated, truncated, _ = envs.step(bounded)
        returns[alive] += reward[alive]
        alive &= ~(terminated | truncated)
    if not np.isfinite(returns).all():
        raise SystemExit(f"Error: {args.env_id} returned rewards that are NaN or infinite: mend them in a wrapper")
    seen, action, log_prob, episode = zip(*steps, strict=True)
    return Episodes(returns, *map(torch.cat, (seen, action, log_prob)), torch.as_tensor(np.concatenate(episode)))


def surrogate(policy: Policy, played: Episodes, a: torch.Tensor, chosen: torch.Tensor, args: Args) -> torch.Tensor:
    """Return PPO's clipped loss on some steps; every step carries the advantage of its episode."""
    distribution = policy(played.observation[chosen])
    ratio = (distribution.log_prob(played.action[chosen]) - played.log_prob[chosen]).exp()
    a = a[played.episode[chosen]]
    gain = torch.minimum(ratio * a, ratio.clamp(1 - args.clip, 1 + args.clip) * a)
    return -(gain + args.entropy * distribution.entropy()).mean()


def make_envs(args: Args) -> gym.vector.VectorEnv:
    envs = gym.make_vec(args.env_id, args.episodes, "sync", **json.loads(args.env_args))
    if isinstance(envs.single_observation_space, gym.spaces.Discrete):
        envs = gym.wrappers.vector.FlattenObservation(envs)  # one-hot
    return gym.wrappers.vector.NormalizeObservation(envs) if args.normalize else envs


def train(
    args: Args, envs: gym.vector.VectorEnv, folder: Path, log: Callable[[Path, dict[str, float]], None]
) -> Policy:
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the networks are small
    policy = Policy(envs.single_observation_space, envs.single_action_space, args.hidden)
    optimizer = torch.optim.Adam(policy.parameters(), lr=args.learning_rate)
    spread, steps, begin = 0.0, 0, time.perf_counter()

    try:
        for update in range(args.updates):
            played = play(envs, policy, args, args.seed if update == 0 else None)

            # This is the line. An objective between two is exact at every moment of a schedule.
            t = min(1.0, 2 * update / args.updates)
            objective = og.anneal(args.anneal_from or args.objective, args.objective, t)
            a = torch.as_tensor(og.advantages(played.returns, objective), dtype=torch.float32)

            # A unit for the advantages: a positive number that changes slowly, and nothing is subtracted.
            size = float(a.square().mean().sqrt())
            spread = size if spread == 0 else 0.9 * spread + 0.1 * size
            a = a / (spread + 1e-8)

            # From here on, PPO as everywhere.
            optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - update / args.updates)
            total = len(played.episode)
            for _ in range(args.epochs):
                for chosen in torch.randperm(total).tensor_split(min(args.minibatches, total)):
                    optimizer.zero_grad()
                    surrogate(policy, played, a, chosen, args).backward()
                    nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
                    optimizer.step()

            steps += total
            row = {
                "update": update + 1,
                "steps": steps,
                "mean": played.returns.mean(),
                "value": float(og.value(played.returns, objective)),
                "best": played.returns.max(),
                "worst": played.returns.min(),
                "length": total / args.episodes,
                "seconds": time.perf_counter() - begin,
            }
            log(folder, row)
    finally:
        save_file(policy.state_dict(), folder / "policy.safetensors")
    return policy


def write_and_show(folder: Path, row: dict[str, float]) -> None:
    """Add a line to the metrics, and show it now and then."""
    with (folder / "metrics.csv").open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if row["update"] == 1:
            writer.writerow(row)
        writer.writerow([f"{x:.6g}" for x in row.values()])
    print("  ".join(f"{name} {x:.5g}" for name, x in row.items()), end="\r" if row["update"] % 10 else "\n", flush=True)


def check(args: Args) -> None:
    """Raise before any work is done if something does not fit."""
    for text in filter(None, (args.objective, args.anneal_from)):
        need = smallest_group(og.parse(text), "leave_one_out")
        if need > args.episodes:
            raise ValueError(f"{text} needs groups of at least {need} episodes; got --episodes {args.episodes}")
    for name in ("episodes", "updates", "longest", "learning_rate", "epochs", "minibatches", "hidden"):
        if getattr(args, name) <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive; got {getattr(args, name)}")
    try:
        options = dict(json.loads(args.env_args))
    except (ValueError, TypeError):
        raise ValueError(f"--env-args must be a JSON object; got {args.env_args}") from None
    with gym.make(args.env_id, **options) as env:
        if not isinstance(env.action_space, (gym.spaces.Discrete, gym.spaces.Box)):
            raise ValueError(f"{args.env_id} must have Discrete or Box actions; got {env.action_space}")
        if not isinstance(env.observation_space, (gym.spaces.Discrete, gym.spaces.Box)):
            raise ValueError(f"{args.env_id} must have Discrete or Box observations; got {env.observation_space}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="PPO on an objective of ranks of whole-episode returns.")
    for field in fields(Args):
        kind = {"action": "store_true"} if field.type is bool else {"type": field.type, "default": field.default}
        parser.add_argument(f"--{field.name.replace('_', '-')}", **kind)
    args = Args(**vars(parser.parse_args(argv)))
    name = f"{args.env_id}-{args.objective}-{args.seed}".replace("/", "-").replace(":", "-").replace("*", "x")
    folder = Path(args.out or f"runs/ppo/{name}")
    try:
        check(args)
        folder.mkdir(parents=True)
    except (ValueError, gym.error.Error) as error:
        raise SystemExit(f"Error: {error}") from None
    except FileExistsError:
        raise SystemExit(f"Error: {folder} already holds a run; choose another --out") from None
    (folder / "args.json").write_text(json.dumps(asdict(args), indent=1) + "\n")
    envs = make_envs(args)
    try:
        train(args, envs, folder, write_and_show)
    except KeyboardInterrupt:
        raise SystemExit(f"\nStopped; the policy and the metrics so far are in {folder}") from None
    finally:
        envs.close()
    print(f"\npolicy and metrics: {folder}")


if __name__ == "__main__":
    main()
