"""Train one language model on one objective with one seed, with TRL, and measure it on held-out problems."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false

import json
import warnings
from collections.abc import Callable
from pathlib import Path

from datasets import disable_progress_bars
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from ordergrad.evaluate.evaluation import evaluate as sampled
from ordergrad.evaluate.evaluation import write_evaluation
from ordergrad.evaluate.models import load_model
from ordergrad.runs.folder import EVALUATION, METRICS, trim_metrics, write_csv
from ordergrad.runs.parallel import Report, ShouldStop
from ordergrad.train import countdown, small_lm
from ordergrad.train.llm_checks import task_of
from ordergrad.train.llm_settings import STARTS, LLMSettings, completions_file, start_name
from ordergrad.train.llm_trainer import Recorder, make_trainer, sampling_of
from ordergrad.train.tasks import countdown_level

_DONE = "finished.json"

disable_progress_bar()  # of Transformers and of Datasets: a run has one of its own
disable_progress_bars()
set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def prepare(
    settings: LLMSettings,
    out: Path,
    report: Callable[[int], None] = lambda step: None,
    stop: ShouldStop = lambda: False,
) -> bool:
    """Evaluate the model that all runs start from, and return whether that is done.

    The small one is first trained on demonstrations: `report` gets the step from time to time, and if `stop` is true
    after a step, that ends with a checkpoint.
    """
    folder = out / STARTS[start_name(settings)]
    if not settings.model and not (folder / _DONE).exists() and not _warm_start(settings, folder, report, stop):
        return False
    evaluate(settings, settings.model or str(folder), 0, folder)
    return not stop()


def _warm_start(settings: LLMSettings, folder: Path, report: Callable[[int], None], stop: ShouldStop) -> bool:
    level = countdown_level(settings.data) or countdown.Level()
    held_out = frozenset(countdown.problems(settings.eval_problems, 0, level))
    shown = countdown.demonstrations(settings.warm_steps * 128, 2, level, hit_rate=settings.warm_hits, exclude=held_out)
    tokenizer = small_lm.character_tokenizer(countdown.ALPHABET)
    model = small_lm.small_model(tokenizer, seed=0, width=settings.width, layers=settings.layers)
    finished = not stop() and small_lm.warm_start(
        *(model, tokenizer, shown, folder),
        steps=settings.warm_steps,
        seed=0,
        learning_rate=0.2 / settings.width,
        report=report,
        stop=stop,
    )
    if finished:
        (folder / _DONE).write_text(json.dumps({"steps": settings.warm_steps}) + "\n")
    return finished


def run(settings: LLMSettings, objective: str, seed: int, folder: Path, stop: ShouldStop, report: Report) -> bool:
    """Train and evaluate one run; return whether it has finished. Arguments as of `train`."""
    finished = train(settings, objective, seed, folder, stop, report) and not stop()
    if finished:
        evaluate(settings, str(folder / "model"), seed, folder)
    return finished


def train(settings: LLMSettings, objective: str, seed: int, folder: Path, stop: ShouldStop, report: Report) -> bool:
    """Train one run, from its newest checkpoint if there is one; return whether it has reached its number of steps.

    If `stop` is true after a step, the run ends with a checkpoint; `report` gets every row of metrics.
    """
    if (folder / _DONE).exists():
        return True
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    newest = get_last_checkpoint(str(checkpoints))
    trim_metrics(folder / METRICS, int(newest.rsplit("-", 1)[1]) if newest else 0)
    recorder = Recorder(folder / METRICS, stop, report)
    out = next(parent for parent in folder.parents if parent.name == "runs").parent
    start = settings.model or str(out / STARTS[start_name(settings)])
    trainer = make_trainer(settings, objective, seed, start, checkpoints, task_of(settings), recorder)
    trainer.train(resume_from_checkpoint=newest)
    if recorder.stopped:
        return False
    trainer.save_model(str(folder / "model"))
    (folder / _DONE).write_text(json.dumps({"steps": settings.steps}) + "\n")
    return True


def evaluate(settings: LLMSettings, model: str, seed: int, folder: Path) -> None:
    """Sample the test sets with a model, as in training, unless that has been done.

    The folder gets the completions of every test set, and ``evaluation.csv`` with the successes on the first.
    """
    if (folder / EVALUATION).exists():
        return
    task = task_of(settings)
    loaded, tokenizer = load_model(model)
    samples, table = settings.eval_samples, list[tuple[int | float, ...]]()
    for test, rows in reversed(task.tests.items()):
        found = sampled(loaded, tokenizer, rows, task.reward, samples, sampling_of(settings), seed=1_000_003 + seed)
        write_evaluation(completions_file(folder, test), found)
        good, tokens = (found.rewards >= settings.success).sum(1).tolist(), found.tokens.mean(1).tolist()
        table = [(i, n, samples, round(t, 2)) for i, (n, t) in enumerate(zip(good, tokens, strict=True))]
    # of the first test, which comes last: the file says that all have been sampled
    write_csv(folder / EVALUATION, ("problem", "successes", "samples", "mean_length"), table)
