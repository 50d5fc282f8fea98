"""Countdown: what GRPO, its usual remedies and rank objectives do to pass@k and pass^k of a small language model.

A small decoder is trained on demonstrations of which a quarter is right, so that it solves a problem now and then and,
given 64 tries, most of them. Then it is post-trained, on policy, in a plain PyTorch loop: everything is equal but the
advantages and, for the remedies, one term of the loss. Three warm starts, two seeds each.

    python experiments/llm_countdown.py --results experiments/results/llm_countdown --images docs/images

Every measurement is a line of `runs.jsonl` in the folder of the results. What is there is not made again, so a study
that was stopped goes on with `--resume`. Results: docs/studies/llm_countdown.md.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096. (top:m@K, mixtures)
    Shao et al. (2024). DeepSeekMath. arXiv 2402.03300. (GRPO)
    Liu et al. (2025). Understanding R1-Zero-like training. arXiv 2503.20783. (Dr. GRPO)
    Yu et al. (2025). DAPO. arXiv 2503.14476.
    Walder and Karkhanis (2025). Pass@K policy optimization. arXiv 2505.15201. (max@K)
    Chen et al. (2025). Pass@k training. arXiv 2508.10751.
    Tajwar et al. (2026). Maximum likelihood reinforcement learning. (MaxRL)
    Chen et al. (2021). Evaluating large language models trained on code. arXiv 2107.03374. (unbiased pass@k)
"""

import copy
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import study
import torch
from countdown_lm.decoder import END, LONGEST, PROMPT, VOCABULARY, Decoder, answers, prompt_of
from countdown_lm.figures import draw_curves, draw_training, draw_worth
from scipy.special import comb
from scipy.stats import binom
from torch import Tensor
from torch.nn import functional as F

import ordergrad as og
from ordergrad.train import countdown

PASS_TRAINING = "pass@4 training"


@dataclass(frozen=True)
class Recipe:
    """What tells a contender from others."""

    objective: str = "mean"
    divide: bool = False  # the advantages by the standard deviation of their group, as GRPO does
    loss: str = "dr_grpo"  # the sum over tokens is divided by a constant, or by the number of tokens ("dapo")
    kl: float = 0.0  # weight of the KL divergence to the warm start, by the estimator of GRPO
    entropy: float = 0.0  # weight of the mean entropy per token
    price: float = 0.0  # of each token of an answer


GRPO = "grpo"
RECIPES = {
    GRPO: Recipe(divide=True),
    "max@4": Recipe("max@4"),
    "maxrl": Recipe("maxrl"),
    "top:2@4": Recipe("top:2@4"),
    "mean": Recipe(),
    "grpo, KL": Recipe(divide=True, kl=0.03),
    "grpo, entropy": Recipe(divide=True, entropy=0.02),
    "max@4, KL": Recipe("max@4", kl=0.03),
    PASS_TRAINING: Recipe(PASS_TRAINING),
    "0.5*mean+0.5*min@4": Recipe("0.5*mean+0.5*min@4"),
    "min@4": Recipe("min@4"),
    "grpo, dapo": Recipe(divide=True, loss="dapo"),
    "mean, dapo": Recipe(loss="dapo"),
}
ONE_SEED = ("grpo, dapo", "mean, dapo")
PRICE = 0.005
PRICED = {f"{name}, price": Recipe(**{**vars(RECIPES[name]), "price": PRICE}) for name in (GRPO, "top:2@4")}
TUNED = {
    **{f"grpo, KL {x:g}": Recipe(divide=True, kl=x) for x in (0.03, 0.3)},
    **{f"grpo, entropy {x:g}": Recipe(divide=True, entropy=x) for x in (0.02, 0.1)},
    **{f"{name}, rate {x:g}": RECIPES[name] for name in (GRPO, "max@4") for x in (1e-4, 3e-4, 1e-3)},
}
START = "start"
PARTS = ("tune", "study", "price")
TUNING_SEED = 100


@dataclass(frozen=True)
class Settings:
    """What is trained and how it is measured."""

    width: int = 64
    layers: int = 3
    warm_starts: int = 3
    seeds: int = 2
    warm_steps: int = 2500
    warm_batch: int = 128
    warm_hits: float = 0.25
    warm_rate: float = 3e-3
    steps: int = 300
    prompts: int = 24
    samples: int = 8
    learning_rate: float = 3e-4
    training_problems: int = 8000
    held_out: int = 256
    eval_samples: int = 64


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/llm_countdown")
    parts: tuple[str, ...] = field(default=PARTS, metadata={"help": "run only these", "choices": PARTS})
    report: bool = field(default=False, metadata={"help": "train nothing, write the tables of what has finished"})


# The task and the start ---------------------------------------------------------------------------------------------


@cache
def problems(training: int, held_out: int) -> tuple[list[countdown.Problem], list[countdown.Problem]]:
    """Return problems to train on and problems held out, of the same distribution."""
    drawn = countdown.problems(training + held_out, 0)
    random.Random(0).shuffle(drawn)
    return drawn[held_out:], drawn[:held_out]


def warm_start(settings: Settings, index: int, path: Path) -> Decoder:
    """Return a model trained on demonstrations, from its file if it is there."""
    torch.manual_seed(index)
    model = Decoder(settings.width, settings.layers)
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    held_out = frozenset(problems(settings.training_problems, settings.held_out)[1])
    count = settings.warm_steps * settings.warm_batch
    shown = countdown.demonstrations(count, index, hit_rate=settings.warm_hits, exclude=held_out)
    rows = torch.full((count, PROMPT + LONGEST), END)
    lengths = torch.tensor([len(d.answer) + 1 for d in shown])
    for row, d in zip(rows, shown, strict=True):
        ids = [*prompt_of(d.problem), *(VOCABULARY.index(c) for c in d.answer)]
        row[: len(ids)] = torch.tensor(ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.warm_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.warm_rate, settings.warm_steps, pct_start=0.1)
    for ids, size in zip(rows.split(settings.warm_batch), lengths.split(settings.warm_batch), strict=True):
        logits = model(ids[:, :-1])[:, PROMPT - 1 :]
        loss = F.cross_entropy(logits.transpose(1, 2), ids[:, PROMPT:], reduction="none")
        mask = torch.arange(LONGEST) < size[:, None]
        optimizer.zero_grad()
        ((loss * mask).sum() / mask.sum()).backward()
        optimizer.step()
        schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model


# Post-training ------------------------------------------------------------------------------------------------------


def advantages_of(recipe: Recipe, rewards: Any) -> Any:
    """Return the advantages of groups of rewards, shape (prompts, samples)."""
    if recipe.objective == PASS_TRAINING:
        return pass_training(rewards, 4)
    if recipe.divide:
        return (rewards - rewards.mean(-1, keepdims=True)) / (rewards.std(-1, ddof=1, keepdims=True) + 1e-4)
    return og.advantages(rewards, recipe.objective)


def pass_training(rewards: Any, k: int) -> Any:
    """Return the analytical advantages of Pass@k Training for rewards 0 and 1.

    The reward of a subset of k is whether one of it succeeds. The advantage of a sample is the average over the subsets
    that hold it of their rewards, less the mean, divided by the standard deviation over all subsets.
    """
    n = rewards.shape[-1]
    wrong = n - rewards.sum(-1, keepdims=True)
    mean = 1 - comb(wrong, k) / comb(n, k)
    spread = np.sqrt(mean * (1 - mean))
    with_wrong = 1 - comb(wrong - 1, k - 1) / comb(n - 1, k - 1)
    found = np.where(rewards == 1, 1 - mean, with_wrong - mean)
    return np.where(spread > 0, found / np.where(spread > 0, spread, 1), 0.0)


def train(settings: Settings, recipe: Recipe, model: Decoder, seed: int, measure: Any) -> list[dict[str, float]]:
    """Train a model in place, call measure(step) after half and all of the steps; return metrics."""
    reference = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    draw = random.Random(seed)
    training = problems(settings.training_problems, settings.held_out)[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    rows = []
    for step in range(1, settings.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, step / 10)
        chosen = draw.sample(training, settings.prompts)
        prompts = torch.tensor([prompt_of(problem) for problem in chosen])
        tokens, lengths, entropy = model.sample(prompts, settings.samples, generator)
        solved = rewards_of(chosen, tokens, settings.samples)
        rewards = solved - recipe.price * lengths.numpy().reshape(solved.shape).astype(float)
        a = advantages_of(recipe, rewards)
        idle = float((np.abs(a) < 1e-12).all(-1).mean())
        rows.append({"solved": float(solved.mean()), "entropy": entropy, "no_signal": idle})
        optimizer.zero_grad(set_to_none=False)
        update(recipe, model, reference, tokens, lengths, torch.tensor(a.ravel(), dtype=torch.float32))
        optimizer.step()
        if step in (settings.steps // 2, settings.steps):
            measure(step)
    return rows


def rewards_of(chosen: Sequence[countdown.Problem], tokens: Tensor, copies: int) -> Any:
    each = [float(countdown.check(chosen[i // copies], answer)) for i, answer in enumerate(answers(tokens))]
    return np.array(each).reshape(len(chosen), copies)


def update(recipe: Recipe, model: Decoder, reference: Decoder, tokens: Tensor, lengths: Tensor, a: Tensor) -> None:
    """Add the gradient of the loss. Completions that nothing depends on are left out."""
    mask = torch.arange(LONGEST) < lengths[:, None]
    total = len(a) * LONGEST if recipe.loss == "dr_grpo" else int(mask.sum())
    size = int(mask.sum())
    if not (recipe.kl or recipe.entropy):
        tokens, mask, a = (x[a != 0] for x in (tokens, mask, a))
    if not len(a):
        return
    logp = model(tokens[:, :-1])[:, PROMPT - 1 :].log_softmax(-1)
    chosen = logp.gather(2, tokens[:, PROMPT:, None])[..., 0]
    each = -a[:, None] * chosen
    if recipe.kl:
        with torch.no_grad():
            before = reference(tokens[:, :-1])[:, PROMPT - 1 :].log_softmax(-1)
        apart = before.gather(2, tokens[:, PROMPT:, None])[..., 0] - chosen
        each = each + recipe.kl * (apart.exp() - apart - 1)
    loss = (each * mask).sum() / total
    if recipe.entropy:
        loss = loss + recipe.entropy * ((logp.exp() * logp).sum(-1) * mask).sum() / size
    loss.backward()


def evaluate(settings: Settings, model: Decoder, seed: int) -> dict[str, Any]:
    """Return the successes on every held-out problem, and the mean length of answers."""
    held_out = problems(settings.training_problems, settings.held_out)[1]
    generator = torch.Generator().manual_seed(1_000_003 + seed)
    successes: list[int] = []
    lengths: list[float] = []
    for begin in range(0, len(held_out), 16):
        part = held_out[begin : begin + 16]
        prompts = torch.tensor([prompt_of(problem) for problem in part])
        tokens, size, _ = model.sample(prompts, settings.eval_samples, generator)
        successes += rewards_of(part, tokens, settings.eval_samples).sum(1).astype(int).tolist()
        lengths.append(float(size.sum()))
    return {"tokens": round(sum(lengths) / len(held_out) / settings.eval_samples, 3), "successes": successes}


# The runs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run of a part: a contender, the warm start it begins from, and its seed."""

    part: str
    contender: str
    warm: int
    seed: int

    @property
    def recipe(self) -> Recipe:
        return (RECIPES | PRICED | TUNED)[self.contender]


def runs_of(settings: Settings, parts: Sequence[str]) -> list[Run]:
    """Return the runs in the order in which they are made, seed by seed."""
    warm = range(settings.warm_starts)
    names = [name for name in RECIPES if name not in ONE_SEED]
    runs = [Run("study", name, w, seed) for seed in range(settings.seeds) for w in warm for name in names]
    runs += [Run("price", name, w, 0) for w in warm for name in PRICED]
    runs += [Run("study", name, w, 0) for w in warm for name in RECIPES if name in ONE_SEED]
    runs += [Run("tune", name, 0, TUNING_SEED) for name in TUNED]
    return [run for run in runs if run.part in parts]


def records_of(settings: Settings, run: Run, folder: Path) -> list[dict[str, Any]]:
    """Train one run; return a record for each measurement, the last with the training curves."""
    clock, records = time.process_time(), []
    model = warm_start(settings, run.warm, folder / f"warm-start-{run.warm}.pt")
    if run.part == "tune":
        rate = float(run.contender.rpartition(" ")[2]) if ", rate " in run.contender else settings.learning_rate
        settings = replace(settings, steps=settings.steps // 2, learning_rate=rate)

    def measure(step: int) -> None:
        if run.part == "study" or step == settings.steps:
            records.append({**vars(run), "step": step, **evaluate(settings, model, run.seed)})

    rows = train(settings, run.recipe, model, run.seed, measure)
    size = max(1, settings.steps // 20)
    parts = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    for name in rows[0]:
        records[-1][name] = [study.short(float(np.mean([row[name] for row in part]))) for part in parts]
    records[-1]["cpu_seconds"] = round(time.process_time() - clock, 1)
    return records


def run_all(s: study.Study, settings: Settings, parts: Sequence[str]) -> None:
    """Make every run that is not there yet."""
    path = s.results / "runs.jsonl"
    for run in runs_of(settings, parts):
        known = {(r["part"], r["contender"], r["warm"], r["seed"]) for r in study.read_records(path) if "solved" in r}
        if tuple(vars(run).values()) not in known:
            if not any(r["part"] == START and r["warm"] == run.warm for r in study.read_records(path)):
                model = warm_start(settings, run.warm, s.out / f"warm-start-{run.warm}.pt")
                start = Run(START, START, run.warm, 0)
                study.append_record(path, {**vars(start), "step": 0, **evaluate(settings, model, run.warm)})
            made = records_of(settings, run, s.out)
            for record in made:
                study.append_record(path, record)
            s.console.print(
                f"{run.part} {run.contender}, warm start {run.warm}, seed {run.seed}: "
                f"pass@1 {np.mean(made[-1]['successes']) / settings.eval_samples:.3f}, {made[-1]['cpu_seconds']} s"
            )


# What came out ------------------------------------------------------------------------------------------------------

KS = (1, 2, 4, 8, 16, 32, 64)
RELIABLE = (2, 4, 8)
MEASURES = (*(f"pass@{k}" for k in KS), *(f"pass^{k}" for k in RELIABLE))
CURVES = ("solved", "entropy", "no_signal")
SHOWN = (
    *(GRPO, "mean", "max@4", "maxrl", "top:2@4", PASS_TRAINING, "grpo, KL", "grpo, entropy", "max@4, KL"),
    "0.5*mean+0.5*min@4",
)


def measured(settings: Settings, record: Mapping[str, Any]) -> study.Record:
    """Return the row of one measurement: pass@k, pass^k, and statistics of the last fifth of training."""
    outcomes = (np.arange(settings.eval_samples) < np.array(record["successes"])[:, None]).astype(float)
    row = {name: record[name] for name in ("part", "contender", "warm", "seed", "step")}
    row |= {f"pass@{k}": float(og.value(outcomes, f"max@{k}").mean()) for k in KS}
    row |= {f"pass^{k}": float(og.value(outcomes, f"min@{k}").mean()) for k in RELIABLE}
    row |= {name: float(np.mean([float(x) for x in record.get(name, ["nan"])[-4:]])) for name in CURVES}
    return row | {"tokens": record["tokens"]}


def leads(rows: Sequence[study.Record]) -> list[study.Record]:
    """Return every contender's lead over the start and over GRPO, over the runs that both have."""
    final = {(r["contender"], r["warm"], r["seed"]): r for r in rows if r["part"] == "study" and r["last"]}
    start = {r["warm"]: r for r in rows if r["part"] == START}
    found: list[study.Record] = []
    for name in RECIPES:
        mine = [(w, seed) for c, w, seed in final if c == name]
        for against in (START, GRPO):
            pairs = [
                (final[name, w, seed], start[w] if against == START else final[GRPO, w, seed])
                for w, seed in mine
                if against == START or (GRPO, w, seed) in final
            ]
            if name == against or not pairs:
                continue
            for measure in MEASURES:
                ours, theirs = (np.array([pair[side][measure] for pair in pairs]) for side in (0, 1))
                ahead = int((ours > theirs).sum())
                keys = {"contender": name, "over": against, "measure": measure}
                found.append({**keys, **study.lead(ours, theirs), "ahead": ahead, "runs": len(pairs)})
    return found


def report(s: study.Study, settings: Settings) -> None:
    """Write the tables and pictures of the runs that have finished."""
    records = study.read_records(s.results / "runs.jsonl")
    finished = {key(r) for r in records if "solved" in r} | {key(r) for r in records if r["part"] == START}
    latest = {(*key(r), r["step"]): r for r in records if key(r) in finished}.values()
    rows = [measured(settings, r) | {"last": int(r["part"] == START or "solved" in r)} for r in latest]
    s.write_table("runs.csv", rows)
    counts = Counter(map(kind, rows))
    every = [row | {"runs": counts[kind(row)]} for row in rows]
    measures = (*MEASURES, "tokens", *CURVES)
    s.write_table("intervals.csv", study.intervals(every, ("part", "contender", "step", "runs"), measures))
    if found := leads(rows):
        s.write_table("leads.csv", found)
    s.write_table("worth.csv", worths(settings.samples))
    seconds = sum(r.get("cpu_seconds", 0) for r in latest)
    s.write_summary(
        settings,
        recipes={name: vars(recipe) for name, recipe in (RECIPES | PRICED).items()},
        runs={part: sum(r["last"] for r in rows if r["part"] == part) for part in PARTS},
        cpu_minutes=round(seconds / 60, 1),
    )
    draw_curves(rows, SHOWN, s.images / "llm_countdown.png")
    steps = (settings.steps // 2, settings.steps)
    draw_training(rows, latest, SHOWN, steps, s.images / "llm_countdown_training.png")
    rates = np.linspace(0.001, 0.999, 400)
    curves = {name: [worth(RECIPES[name], p, settings.samples) for p in rates] for name in WORTH}
    draw_worth(rates, curves, s.images / "llm_countdown_worth.png")


def key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("part", "contender", "warm", "seed"))


def kind(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("part", "contender", "step"))


def worth(recipe: Recipe, p: float, n: int) -> float:
    """Return what the update of a contender pays, on average, for a small rise of a prompt's success rate p.

    With a score function of the success rate, (r - p) / (p (1 - p)), an update on a group of n is mean(A * score);
    its expectation is the sum over the n + 1 numbers of successes. For an objective this is dJ/dp.
    """
    rewards = (np.arange(n) < np.arange(n + 1)[:, None]).astype(float)
    score = (rewards - p) / (p * (1 - p))
    chances = binom.pmf(np.arange(n + 1), n, p)
    return float(chances @ (advantages_of(recipe, rewards) * score).mean(-1))


WORTH = (GRPO, "mean", "max@4", "maxrl", "top:2@4", PASS_TRAINING, "0.5*mean+0.5*min@4", "min@4")


def worths(n: int) -> list[study.Record]:
    """Return what a rise of the success rate is worth, at both ends in the limit."""
    rates = (1e-6, 0.05, 0.2, 0.5, 0.8, 0.95, 1 - 1e-6)
    return [{"contender": c, **{f"p={round(p, 5):g}": worth(RECIPES[c], p, n) for p in rates}} for c in WORTH]


def main(argv: list[str] | None = None, settings: Settings = Settings()) -> None:
    options = study.parse(Options, "Post-train a small language model on Countdown.", argv)
    torch.set_num_threads(1)
    with study.Study(__file__, options, argv) as s:
        if not options.report:
            s.open(settings, may_change=("seeds",))
            run_all(s, settings, options.parts)
    report(s, settings)


if __name__ == "__main__":
    main()
