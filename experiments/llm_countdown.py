"""Countdown: what post-training a language model on max@4, top:2@4, maxrl or the mean does to pass@k.

A small decoder is first trained on demonstrations of which a quarter is right, so that it solves a problem now and then
and, given 64 tries, most of them. Then TRL post-trains it, everything equal but the advantages:

1. *tune*: every contender at every learning rate, half as long, with one seed apart from those of the study; it gets
   the rate at which it does best what it optimises, over the last sixth of training;
2. *study*: every contender at its rate, five seeds, pass@k on a thousand held-out problems;
3. *length*: the mean, GRPO and top:2@4 once more, with a second reward function that charges for every token;
4. *long*: three of them once more, twice as long, two seeds.

    python experiments/llm_countdown.py --results experiments/results/llm_countdown --images docs/images
    python experiments/llm_countdown.py --size large        # some 100 million parameters, longer problems: one GPU

Ctrl-C stops after the current steps, `--resume` goes on. Needs `pip install "ordergrad[llm]"`. Results and what they
mean: docs/studies/llm_countdown.md.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
    Chen et al. (2021). Evaluating large language models trained on code. arXiv 2107.03374. (unbiased pass@k)
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import study
from rich.table import Table
from scipy.stats import binom

import ordergrad as og
from ordergrad.runs.folder import EVALUATION, METRICS, read_metrics, run_folder, write_csv
from ordergrad.runs.plots import new_figure, pass_curves, save, style
from ordergrad.runs.statistics import pass_at, pass_at_k, powers_of_two, read_successes
from ordergrad.train import llm
from ordergrad.train.llm_settings import GRPO, LLMSettings, stages

CONTENDERS = ("mean", GRPO, "max@4", "top:2@4", "maxrl", "max@4..mean")
PENALISED = ("mean", GRPO, "top:2@4")
LONGER = ("mean", GRPO, "max@4")
PARTS = {"study": CONTENDERS, "length": PENALISED, "long": LONGER}
TUNING_SEED = 100


@dataclass(frozen=True)
class Size:
    """What one size of the study trains."""

    settings: LLMSettings
    rates: tuple[float, ...]
    length_penalty: float


SIZES = {
    "small": Size(LLMSettings(CONTENDERS, seeds=5, eval_problems=1000), rates=(1e-4, 3e-4, 1e-3), length_penalty=0.005),
    "large": Size(
        LLMSettings(
            CONTENDERS,
            data="countdown:6:12:200",
            seeds=5,
            steps=2000,
            prompts=64,
            samples=8,
            max_completion=28,
            width=768,
            layers=14,
            warm_steps=20_000,
            eval_problems=1000,
        ),
        rates=(1e-5, 3e-5, 1e-4),
        length_penalty=0.005,
    ),
}

Rates = Mapping[str, float]


def tune_run(settings: LLMSettings, contender: str, seed: int, folder: Path, stop: Any, report: Any) -> bool:
    return llm.train(settings, contender, TUNING_SEED + seed, folder, stop=stop, report=report)


def rated_run(
    rates: Rates, settings: LLMSettings, contender: str, seed: int, folder: Path, stop: Any, report: Any
) -> bool:
    return llm.run(replace(settings, learning_rate=rates[contender]), contender, seed, folder, stop, report)


def shown(row: Mapping[str, Any], contender: str) -> str:
    return f"reward {row['reward']:.3f}  entropy {row['entropy']:.3f}"


def last_part(metrics: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return the average of a metric over the last sixth of training."""
    return float(np.mean([row[name] for row in metrics[-max(1, len(metrics) // 6) :]]))


def aim(contender: str) -> str:
    """Return the name of the metric that a contender maximises at the end of its training."""
    return "reward" if contender == GRPO or stages(contender)[1] == "mean" else "ordergrad/value"


# The parts ----------------------------------------------------------------------------------------------------


def run_study(s: study.Study, size: Size) -> None:
    """Train everything that is not there yet."""

    def train_part(part: str, run: Callable[..., bool], its: LLMSettings) -> None:
        s.train(partial(run, its), its.objectives, its.seeds, its.steps, shown, part)

    base = replace(size.settings, model=str(s.out / "warm-start"))
    if not (s.out / "warm-start" / EVALUATION).exists():
        s.console.print(f"[bold]warm start[/]: {base.warm_steps} steps on demonstrations")
        clock = time.perf_counter()
        llm.prepare(size.settings, s.out)
        s.console.print(f"took {time.perf_counter() - clock:.0f} s")
    for rate in size.rates:
        train_part(f"tune/{rate:g}", tune_run, replace(base, seeds=1, steps=base.steps // 2, learning_rate=rate))
    rates = best_rates(size, s.out)
    s.console.print("learning rates: " + ", ".join(f"{name} {rate:g}" for name, rate in rates.items()))
    rated = partial(rated_run, rates)
    train_part("study", rated, base)
    train_part("length", rated, replace(base, objectives=PENALISED, length_penalty=size.length_penalty))
    longer = replace(base, objectives=LONGER, steps=2 * base.steps, seeds=min(2, base.seeds))
    train_part("long", rated, longer)


def tuning(size: Size, out: Path) -> list[tuple[str, float, float, float, float]]:
    """Return contender, rate, what it aimed at, reward and entropy, over the last sixth of every tuning run."""
    rows: list[tuple[str, float, float, float, float]] = []
    for contender in CONTENDERS:
        for rate in size.rates:
            metrics = read_metrics(run_folder(out / f"tune/{rate:g}", contender, 0) / METRICS)
            found = (last_part(metrics, name) for name in (aim(contender), "reward", "entropy"))
            rows.append((contender, rate, *found))
    return rows


def best_rates(size: Size, out: Path) -> dict[str, float]:
    rows = tuning(size, out)
    return {c: max((aimed, rate) for name, rate, aimed, *_ in rows if name == c)[1] for c in CONTENDERS}


# What came out ------------------------------------------------------------------------------------------------------


def measured(size: Size, out: Path) -> list[dict[str, Any]]:
    """Return one record per run of every part but the tuning."""
    ks = powers_of_two(size.settings.eval_samples)
    records: list[dict[str, Any]] = []
    for part, contenders in PARTS.items():
        for contender in contenders:
            for seed in range(min(2, size.settings.seeds) if part == "long" else size.settings.seeds):
                folder = run_folder(out / part, contender, seed)
                successes, samples = read_successes(folder / EVALUATION)
                metrics = read_metrics(folder / METRICS)
                records.append(
                    {
                        "part": part,
                        "contender": contender,
                        "seed": seed,
                        **{f"pass@{k}": float(pass_at(successes, samples, k).mean()) for k in ks},
                        "length": float(np.loadtxt(folder / EVALUATION, delimiter=",", skiprows=1)[:, 3].mean()),
                        "entropy": last_part(metrics, "entropy"),
                        "reward_std_zero": last_part(metrics, "frac_reward_zero_std"),
                        "step_time": float(np.median([row["step_time"] for row in metrics])),
                    }
                )
    return records


def differences(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[study.Record]:
    """Return every contender's lead over GRPO and over the mean, seed by seed, with its interval."""
    rows: list[study.Record] = []
    for against in (GRPO, "mean"):
        for contender in CONTENDERS:
            for name in names if contender != against else ():
                found = study.paired(*(column(records, "study", c, name) for c in (contender, against)))
                row = {"contender": contender, "against": against, "measure": name, "lead": found.value}
                rows.append(row | {"low": found.low, "high": found.high, "p": found.p})
    return rows


def column(records: Sequence[Mapping[str, Any]], part: str, contender: str, name: str) -> Any:
    return study.column(records, name, part=part, contender=contender)


def start_curve(out: Path, ks: Sequence[int]) -> Any:
    return pass_at_k([read_successes(out / "warm-start" / EVALUATION)], ks)


def report(s: study.Study, size: Size) -> None:
    """Write and show the tables and pictures."""
    ks = powers_of_two(size.settings.eval_samples)
    records, start = measured(size, s.out), start_curve(s.out, ks)
    names = [f"pass@{k}" for k in ks]
    s.write_table("runs.csv", records)
    keys = ("contender", "learning_rate", "aim", "reward", "entropy")
    s.write_table("tuning.csv", [dict(zip(keys, row, strict=True)) for row in tuning(size, s.out)])
    keys = ("contender", "seed", "step", *CURVES)
    s.write_table("curves.csv", [dict(zip(keys, row, strict=True)) for row in training_curves(size, s.out)])
    s.write_table("differences.csv", differences(records, names))
    write_worth(size.settings.samples, s.results / "worth.csv")
    s.console.print(pass_table(records, names, start))
    s.write_summary(
        size.settings,
        rates=best_rates(size, s.out),
        length_penalty=size.length_penalty,
        start={name: round(float(row[0]), 5) for name, row in zip(names, start, strict=True)},
        columns=["mean", "low", "high"],
        **{part: {c: spread(records, part, c, names) for c in contenders} for part, contenders in PARTS.items()},
    )
    curves = {"warm start": start}
    curves |= {c: np.array([study.over_seeds(column(records, "study", c, k)) for k in names]) for c in CONTENDERS}
    save(pass_curves(curves, ks, "Countdown, held-out problems"), s.images / "llm_countdown.png")
    draw_training(size, s.out, s.images / "llm_countdown_training.png")
    draw_length(records, names, s.images / "llm_countdown_length.png")
    draw_worth(size.settings.samples, s.images / "llm_countdown_worth.png")


def spread(records: Sequence[Mapping[str, Any]], part: str, contender: str, names: Sequence[str]) -> dict[str, Any]:
    found = {name: study.over_seeds(column(records, part, contender, name)) for name in (*names, "length", "entropy")}
    return {name: study.rounded(values, 5) for name, values in found.items()}


def pass_table(records: Sequence[Mapping[str, Any]], names: Sequence[str], start: Any) -> Table:
    table = Table(title="Held-out problems, percent; 95% intervals over seeds", title_justify="left")
    for heading in ("trained on", *names, "tokens", "entropy"):
        table.add_column(heading, justify="left" if heading == "trained on" else "right")
    table.add_row("warm start", *(f"{100 * row[0]:.1f}" for row in start), "", "")
    notes = {"study": "", "length": ", penalised", "long": ", twice as long"}
    for part, contenders in PARTS.items():
        for c in contenders:
            cells = [study.over_seeds(column(records, part, c, name)) for name in names]
            length, entropy = (np.mean(column(records, part, c, name)) for name in ("length", "entropy"))
            passed = (f"{100 * x.value:.1f} [{100 * x.low:.1f}, {100 * x.high:.1f}]" for x in cells)
            table.add_row(c + notes[part], *passed, f"{length:.2f}", f"{entropy:.3f}")
    return table


CURVES = ("reward", "entropy", "completions/mean_length", "frac_reward_zero_std", "grad_norm")


def training_curves(size: Size, out: Path) -> list[tuple[Any, ...]]:
    """Return the metrics of every run of the study, averaged over thirty steps."""
    rows: list[tuple[Any, ...]] = []
    for contender in CONTENDERS:
        for seed in range(size.settings.seeds):
            metrics = read_metrics(run_folder(out / "study", contender, seed) / METRICS)
            for begin in range(0, len(metrics), 30):
                part = metrics[begin : begin + 30]
                means = (float(np.mean([row[name] for row in part if name in row] or [np.nan])) for name in CURVES)
                rows.append((contender, seed, part[-1]["step"], *(f"{x:.4g}" for x in means)))
    return rows


def draw_training(size: Size, out: Path, path: Path) -> None:
    """Draw reward, entropy and groups without a signal over training: medians over seeds, bands from least to most."""
    rows = training_curves(size, out)
    panels = (("reward", "training reward (pass@1)"), ("entropy", "entropy per token"))
    panels += (("frac_reward_zero_std", "groups whose rewards are all equal"),)
    figure, axes = new_figure(3, "Countdown, training")
    for axis, (name, label) in zip(axes, panels, strict=True):
        place = 3 + CURVES.index(name)
        for index, contender in enumerate(CONTENDERS):
            mine = [row for row in rows if row[0] == contender]
            steps = sorted({row[2] for row in mine})
            values = np.array([[float(row[place]) for row in mine if row[2] == step] for step in steps])
            colour, dash = style(index + 1)
            axis.fill_between(steps, values.min(1), values.max(1), color=colour, alpha=0.12, linewidth=0)
            axis.plot(steps, np.median(values, 1), color=colour, linestyle=dash, linewidth=1.8, label=contender)
        axis.set(xlabel="step", ylabel=label, ylim=(0, None))
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)


def draw_length(records: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """Draw pass@1 and the last pass@k against the length of the answers, with and without the penalty."""
    figure, axes = new_figure(2, "A price on every token")
    for axis, name in zip(axes, (names[0], names[-1]), strict=True):
        for index, c in enumerate(PENALISED):
            for part, marker in (("study", "o"), ("length", "^")):
                x, y = column(records, part, c, "length"), column(records, part, c, name)
                label = f"{c}, penalised" if part == "length" else c
                axis.scatter(x, y, color=style(index + 1)[0], marker=marker, s=28, alpha=0.8, label=label)
        axis.set(xlabel="tokens of an answer", ylabel=name, xlim=(0, None), ylim=(-0.02, None))
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)


def worth(contender: str, p: float, n: int) -> float:
    """Return what the update of a contender pays, on average, for a small rise of a prompt's success rate p.

    With a score function of the success rate, (r - p) / (p (1 - p)), an update on a group of n is mean(A * score);
    its expectation is the sum over the n + 1 numbers of successes. For an objective this is dJ/dp.
    """
    total = 0.0
    for successes in range(n + 1):
        rewards = (np.arange(n) < successes).astype(float)
        if contender == GRPO:
            a = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        else:
            a = og.advantages(rewards, contender)
        score = (rewards - p) / (p * (1 - p))
        total += float(binom.pmf(successes, n, p)) * float(np.mean(a * score))
    return total


def write_worth(n: int, path: Path) -> None:
    """Write what a rise of the success rate is worth, at both ends in the limit."""
    rates = (1e-6, 0.05, 0.2, 0.5, 0.8, 0.95, 1 - 1e-6)
    fixed = [c for c in CONTENDERS if stages(c)[0] == stages(c)[1]]
    rows = [(c, *(f"{worth(c, p, n):.4g}" for p in rates)) for c in fixed]
    write_csv(path, ("contender", *(f"p={round(p, 5):g}" for p in rates)), rows)


def draw_worth(n: int, path: Path) -> None:
    """Draw what a rise of the success rate is worth, relative to a prompt that is never solved yet."""
    figure, (axis,) = new_figure(1, "What more success on a prompt is worth")
    rates = np.linspace(0.001, 0.999, 400)
    for index, contender in enumerate(CONTENDERS):
        if stages(contender)[0] == stages(contender)[1]:
            values = np.array([worth(contender, p, n) for p in rates])
            colour, dash = style(index + 1)
            axis.plot(rates, values / values[0], color=colour, linestyle=dash, linewidth=2, label=contender)
    axis.set(xlabel="success rate of the prompt", ylabel="relative to success rate 0", xlim=(0, 1), ylim=(0, 1.5))
    axis.legend(frameon=False, fontsize=8)
    save(figure, path)


@dataclass(frozen=True)
class Options(study.Options):
    size: str = field(default="small", metadata={"choices": SIZES, "help": "large needs a GPU"})
    out: Path | None = field(default=None, metadata={"help": "folder of the runs [runs/llm_countdown-SIZE]"})


def main(argv: list[str] | None = None) -> None:
    options = study.parse(Options, "Post-train a small language model on rank objectives of Countdown.", argv)
    options, size = replace(options, out=options.out or Path(f"runs/llm_countdown-{options.size}")), SIZES[options.size]
    with study.Study(__file__, options, argv) as s:
        s.open(size.settings)
        run_study(s, size)
    report(s, size)


if __name__ == "__main__":
    main()
