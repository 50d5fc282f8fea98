"""One search: a policy that writes expressions, trained on one contender until it writes the hidden function."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from symbolic.expressions import NGUYEN, PAD, data, encode, errors, evaluate, infix
from symbolic.policy import Batch, Policy, Rules, follow, sample
from symbolic.recovery import verdict

import ordergrad as og
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import CHECKPOINT, METRICS, read_checkpoint, trim_metrics, write_checkpoint, write_json
from ordergrad.runs.parallel import Report, ShouldStop

RESULT = "result.json"


@dataclass(frozen=True)
class Settings:
    """What is equal for all contenders: the published settings of deep symbolic regression, but the learning rate."""

    batch: int = 1000
    points: int = 20
    hidden: int = 32
    entropy: float = 0.03
    discount: float = 0.7  # of the entropy, from token to token
    rules: Rules = field(default_factory=Rules)
    learning_rate: float = 0.002


def sample_weights(contender: str, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What multiplies the log-probability and the entropy of each expression of a batch.

    `dsr:q` is the risk-seeking policy gradient: over the expressions from the empirical (1 - q)-quantile of the rewards
    on, the mean of (R - quantile) grad log p, and their entropy. The others are OrderGrad advantages.
    """
    if contender.startswith("dsr:"):
        level = float(contender.removeprefix("dsr:"))
        quantile = np.quantile(rewards, 1 - level, method="higher")
        kept = rewards >= quantile
        return np.where(kept, rewards - quantile, 0) / kept.sum(), kept / kept.sum()
    n = len(rewards)
    return og.advantages(rewards, contender) / n, np.full(n, 1 / n)


KEPT = ("expressions", "seconds", "best", "best_expression")


class Search:
    """The state of a run: policy, optimiser, random numbers, counts, and the best expression so far."""

    def __init__(self, settings: Settings, problem: str, contender: str, seed: int) -> None:
        self.settings, self.problem, self.contender, self.seed = settings, problem, contender, seed
        self.points, self.target = data(problem, seed, settings.points)
        self.fresh = NGUYEN[problem].points(np.random.default_rng([seed, 1, 1]), 100)
        self.rng = np.random.default_rng([seed, 2])
        torch.manual_seed(seed)
        self.policy = Policy(NGUYEN[problem].variables, settings.hidden)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=settings.learning_rate, maximize=True)
        self.expressions, self.seconds = 0, 0.0
        self.best, self.best_expression = 0.0, ""
        self.rejected: set[str] = set()
        self.recovered: dict[str, str] | None = None

    def step(self) -> tuple[Batch, np.ndarray]:
        """Sample a batch, look for the function in it, and improve the policy; returns the batch and its rewards."""
        begin = time.process_time()
        settings = self.settings
        batch = sample(self.policy, settings.rules, settings.batch, self.rng)
        _, first = np.unique(batch.distinct, return_index=True)
        wrong = errors(evaluate(batch.tokens[first], self.points), self.target)
        rewards = 1 / (1 + wrong[batch.distinct])
        self.look_at(batch.tokens, first, wrong)
        if self.recovered is None:
            on_logp, on_entropy = sample_weights(self.contender, rewards)
            self.optimizer.zero_grad()
            batch.weighted(on_logp, settings.entropy * on_entropy, settings.discount).backward()
            self.optimizer.step()
            self.expressions += settings.batch
        self.seconds += time.process_time() - begin
        return batch, rewards

    def look_at(self, tokens: np.ndarray, first: np.ndarray, wrong: np.ndarray) -> None:
        """Keep the best expression, and check those that fit the points: in order, as if one by one."""
        best = int(wrong.argmin())
        if 1 / (1 + wrong[best]) > self.best:
            self.best, self.best_expression = float(1 / (1 + wrong[best])), infix(tokens[first[best]])
        for position, expression in sorted((int(first[i]), tokens[first[i]]) for i in np.flatnonzero(wrong < 1e-8)):
            text, problem = infix(expression), NGUYEN[self.problem]
            fits = errors(evaluate(expression[None], self.fresh), problem.target(self.fresh))[0] < 1e-8
            if text in self.rejected or not fits:
                continue
            found = verdict(text, problem.formula, problem.variables, problem.low, problem.high)
            if found in ("proved", "digits"):
                self.recovered = {"expression": text, "how": found}
                self.expressions += position + 1
                return
            self.rejected.add(text)

    def metrics(self, batch: Batch, rewards: np.ndarray) -> dict[str, float]:
        """What is recorded of a batch."""
        solution = follow(self.policy, self.settings.rules, encode(NGUYEN[self.problem].solution)[None])
        tokens = (batch.tokens != PAD).sum()
        return {
            "step": self.expressions,
            "mean": float(rewards.mean()),
            "top": float(np.quantile(rewards, 0.95)),
            "batch_best": float(rewards.max()),
            "best": self.best,
            "distinct": float((batch.distinct.max() + 1) / len(rewards)),
            "length": float(tokens / len(rewards)),
            "entropy": float(batch.entropies().detach().numpy()[batch.prefix].mean()),
            "solution_logp": float(solution.log_probabilities()[0]),
        }

    def save(self, path: Path) -> None:
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"policy.{name}": weights for name, weights in self.policy.state_dict().items()}
        tensors |= {f"adam.{index}.{name}": value for index, row in moments.items() for name, value in row.items()}
        state = {name: getattr(self, name) for name in KEPT}
        state |= {"rejected": sorted(self.rejected), "random": self.rng.bit_generator.state}
        state |= {"settings": asdict(self.settings)}
        write_checkpoint(path, {name: tensor.numpy() for name, tensor in tensors.items()}, state)

    def restore(self, path: Path) -> None:
        arrays, state = read_checkpoint(path)
        if state["settings"] != asdict(self.settings):
            raise UserError(f"{path} was made with other settings; choose another --out, or delete it")
        for name in KEPT:
            setattr(self, name, state[name])
        self.rejected, self.rng.bit_generator.state = set(state["rejected"]), state["random"]
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        policy = {name: value for name, value in tensors.items() if name.startswith("policy.")}
        self.policy.load_state_dict({name.removeprefix("policy."): value for name, value in policy.items()})
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name in tensors.keys() - policy.keys():
            _, index, kind = name.split(".")
            moments.setdefault(int(index), {})[kind] = tensors[name]
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def search_on(search: Search, expressions: int, folder: Path, stop: ShouldStop, report: Report) -> bool:
    settings, checkpoint = search.settings, folder / CHECKPOINT
    if checkpoint.exists():
        search.restore(checkpoint)
    trim_metrics(folder / METRICS, search.expressions)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / METRICS).open("a") as file:
        while search.recovered is None and search.expressions < expressions:
            batch, rewards = search.step()
            last = search.recovered is not None or search.expressions >= expressions or stop()
            if last or search.expressions % (10 * settings.batch) == 0:
                row = search.metrics(batch, rewards)
                file.write(json.dumps(row) + "\n")
                file.flush()
                report(row)
            if search.recovered is None and (last or search.expressions % (100 * settings.batch) == 0):
                search.save(checkpoint)
            if last and search.recovered is None and search.expressions < expressions:
                return False
    write_json(folder / RESULT, as_row(search, expressions))
    return True


def as_row(search: Search, budget: int) -> dict[str, Any]:
    found = search.recovered
    return {
        "problem": search.problem,
        "contender": search.contender,
        "seed": search.seed,
        "budget": budget,
        "expressions": search.expressions,
        "recovered": found["how"] if found else "no",
        "best": round(search.best, 6),
        "seconds": round(search.seconds, 2),
        "expression": found["expression"] if found else search.best_expression,
    }
