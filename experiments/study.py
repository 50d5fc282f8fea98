"""What the studies share: the command line, runs that survive a kill, intervals over seeds, results with provenance.

    @dataclass(frozen=True)
    class Options(study.Options):
        out: Path = Path("runs/bandit")
        arms: int = field(default=10, metadata={"help": "number of arms"})

    options = study.parse(Options, "Compare bandits.", argv)
    with study.Study(__file__, options, argv) as s:
        s.open(settings)  # the folder of the runs; --resume goes on with the one that is there
        tasks = [{"contender": c, "seed": seed} for c in CONTENDERS for seed in range(10)]
        records = s.computed("runs.jsonl", tasks, play)  # play(contender=..., seed=...) -> measures, in processes
    s.write_table("runs.csv", records)
    s.write_summary(settings, lead=study.paired(ours, theirs)._asdict())

Long trainings with metrics and checkpoints of their own go through `Study.train`, the runs of `ordergrad train`.

References:
    Agarwal et al. (2021). Deep RL at the edge of the statistical precipice. NeurIPS 34. (rliable)
    Hesterberg (2015). What teachers should know about the bootstrap. American Statistician 69. (expanded percentiles)
"""

import argparse
import csv
import json
import math
import multiprocessing
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy import stats

from ordergrad.runs.console import chosen_jobs, ending_resumable, train_under_progress
from ordergrad.runs.folder import open_folder, provenance, write_csv, write_json

Array = Any
T = TypeVar("T")
Record = dict[str, Any]


# Command line -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """Options of every study. A study's own dataclass sets the default of `out` and adds fields."""

    out: Path = field(metadata={"help": "folder of the runs"})
    results: Path | None = field(default=None, metadata={"help": "folder of the tables [the folder of the runs]"})
    images: Path | None = field(default=None, metadata={"help": "folder of the pictures [the folder of the runs]"})
    jobs: int | None = field(default=None, metadata={"help": "runs side by side [one per processor]"})
    resume: bool = field(default=False, metadata={"help": "continue the runs in the folder"})


def parse(kind: type[T], description: str, argv: Sequence[str] | None = None) -> T:
    """Return the options on a command line: a flag for each field of a dataclass.

    The metadata of a field are arguments of `add_argument`, such as `help` and `choices`; `{"positional": True}` makes
    it an argument without a flag. A tuple takes several values.
    """
    parser = argparse.ArgumentParser(description=description)
    for option in fields(kind):  # type: ignore[arg-type]
        extra = dict(option.metadata)
        name = option.name if extra.pop("positional", False) else f"--{option.name.replace('_', '-')}"
        if option.type in (bool, "bool"):
            parser.add_argument(name, action="store_true", **extra)
            continue
        kinds = str(option.type)
        several = {"nargs": "+"} if "tuple" in kinds else {}
        default = {} if name == option.name else {"default": option.default}
        single = next((t for t in (Path, int, float) if t.__name__ in kinds), str)
        parser.add_argument(name, type=single, **several, **default, **extra)
    asked = vars(parser.parse_args(argv))
    return kind(**{name: tuple(x) if isinstance(x, list) else x for name, x in asked.items()})


# Runs ---------------------------------------------------------------------------------------------------------------


class Study:
    """One study: its folders, the command that was given, its runs and its results.

    As a context it ends with a message on Ctrl-C, on SIGTERM and on user errors.
    """

    def __init__(self, script: str, options: Options, argv: Sequence[str] | None = None):
        self.options, self.out, self.console = options, options.out, Console(highlight=False)
        self.results, self.images = options.results or options.out, options.images or options.out
        given = sys.argv[1:] if argv is None else argv
        self.command = shlex.join(["python", f"experiments/{Path(script).name}", *given])

    def __enter__(self) -> Self:
        self._ending = ending_resumable(self.out, self.console)
        self._ending.__enter__()
        self._before = signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(self, *error: Any) -> bool | None:
        signal.signal(signal.SIGTERM, self._before)
        return self._ending.__exit__(*error)

    def open(self, settings: Any, may_change: Sequence[str] = ()) -> None:
        """Make the folder of the runs, or check that the one to resume has the same settings."""
        open_folder(self.out, settings, kind="study", resume=self.options.resume, may_change=may_change)
        self.results.mkdir(parents=True, exist_ok=True)
        self.images.mkdir(parents=True, exist_ok=True)

    def train(
        self,
        run: Callable[..., bool],
        contenders: Sequence[str],
        seeds: int,
        steps: int,
        shown: Callable[[Mapping[str, Any], str], str],
        part: str = "",
    ) -> None:
        """Train every contender with every seed: run(contender, seed, folder, stop, report) -> whether it finished."""
        jobs = chosen_jobs(self.options.jobs, len(contenders) * seeds)
        if part:
            self.console.print(f"[bold]{part}[/]: {len(contenders)} contenders x {seeds} seeds x {steps:,} steps")
        if not train_under_progress(run, contenders, seeds, steps, self.out / part, jobs, self.console, shown):
            raise KeyboardInterrupt

    def computed(self, name: str, tasks: Sequence[Mapping[str, Any]], make: Callable[..., Record]) -> list[Record]:
        """Return a record for each task, its own values and those of make(**task), in the order of the tasks.

        Records are appended to the file `name` as they come, one line each. Those that are there are not made again.
        """
        path, jobs = self.out / name, chosen_jobs(self.options.jobs, len(tasks))
        found = {key_of(r, tasks[0]): r for r in reversed(read_records(path))}
        left = [task for task in tasks if key_of(task, task) not in found]
        with Progress(console=self.console) as progress:
            bar = progress.add_task(path.stem, total=len(tasks), completed=len(tasks) - len(left))
            for task, measures in _made(make, left, jobs):
                found[key_of(task, task)] = append_record(path, {**task, **measures})
                progress.advance(bar)
        return [found[key_of(task, task)] for task in tasks]

    def show(self, title: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> None:
        """Print a table, its first columns aligned to the left."""
        table = Table(title=title, title_justify="left")
        for place, heading in enumerate(headings):
            table.add_column(heading, justify="left" if place < left else "right", no_wrap=place < left)
        for row in rows:
            table.add_row(*map(str, row))
        self.console.print(table)

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
        """Write records as CSV, floats with five digits."""
        columns = columns or tuple(rows[0])
        write_csv(self.results / name, columns, [[short(row[column]) for column in columns] for row in rows])

    def write_summary(self, settings: Any, name: str = "summary.json", **content: Any) -> None:
        """Write the command, date, machine and versions, the settings, and the content."""
        summary = {**provenance(self.command), "settings": as_dict(settings), **content}
        write_json(self.results / name, summary)
        self.console.print(f"results: {self.results}; pictures: {self.images}")


def _interrupt(signum: int, frame: Any) -> None:
    """Do what Ctrl-C does, even in the background, where Ctrl-C is ignored."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def _made(make: Callable[..., Record], tasks: Sequence[Mapping[str, Any]], jobs: int) -> Any:
    """Yield tasks with what was made of them; with one job in this process, otherwise as they are done."""
    if jobs == 1 or len(tasks) < 2:
        yield from ((task, make(**task)) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(jobs, context, _begin_worker, (os.getpid(), stop))
    try:
        futures = {pool.submit(make, **task): task for task in tasks}
        yield from ((futures[future], future.result()) for future in as_completed(futures))
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(parent: int, stop: Any) -> None:
    """Leave Ctrl-C to the parent; end when it says so, or has been killed."""

    def watch() -> None:
        while os.getppid() == parent and not stop.wait(1):
            pass
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


# Records ------------------------------------------------------------------------------------------------------------


def read_records(path: Path) -> list[Record]:
    """Return the records of a file of JSON lines; a line that was cut short by a kill is none."""
    records: list[Record] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def read_table(path: Path) -> list[Record]:
    """Return the rows of a table, what looks like a number as one; none where there is no table."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def append_record(path: Path, record: Record) -> Record:
    """Append a record in one write, on a line of its own, and return it as it will be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record)
    with path.open("ab+") as file:
        size = file.tell()
        file.seek(max(0, size - 1))
        torn = size > 0 and file.read(1) != b"\n"
        file.write(b"\n" * torn + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return json.loads(line)


def key_of(record: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """Return what tells a record from others: its values for the names in the task."""
    return json.dumps([record.get(name) for name in task])


def grid(**values: Iterable[Any]) -> list[Record]:
    """Return a task for every combination of values, the last of which change fastest."""
    return [dict(zip(values, each, strict=True)) for each in product(*values.values())]


def column(records: Sequence[Mapping[str, Any]], name: str, **fixed: Any) -> Array:
    """Return one measure of the records in which other fields have fixed values."""
    return np.array([r[name] for r in records if all(r[key] == value for key, value in fixed.items())], float)


def with_digits(rows: Iterable[Mapping[str, Any]], digits: int = 3) -> list[list[Any]]:
    """Return the cells of rows, floats with so many digits after the point."""
    return [[f"{x:.{digits}f}" if isinstance(x, float) else x for x in row.values()] for row in rows]


def short(value: Any) -> Any:
    """Return a float with five digits, as text for a table; anything else as it is."""
    return f"{value:.5g}" if isinstance(value, float) else value


def as_dict(settings: Any) -> Record:
    return dict(settings) if isinstance(settings, Mapping) else asdict(settings)


# Statistics ---------------------------------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """A statistic over seeds and its 95% interval."""

    value: float
    low: float
    high: float


class Lead(NamedTuple):
    """A mean difference over seeds, its 95% interval, and the p-value of a test with its signs flipped."""

    value: float
    low: float
    high: float
    p: float


def over_seeds(*samples: Any) -> Estimate:
    """Return the mean of one value a seed and its 95% interval: bootstrap, expanded percentiles.

    The interval holds for bounded and bimodal values and never leaves their range, as Student's may. Percentiles of
    few seeds are too narrow; they are expanded to where Student's would lie if the values were normal. The mean of five
    normal values is still covered in 90% of cases only, of three in 75%. With one seed the interval is the value.
    Several samples are resampled each on its own (strata).
    """

    def mean(*samples: Array, axis: int = -1) -> Array:
        return np.concatenate(samples, axis=axis).mean(axis=axis)

    arrays = [np.asarray(sample, float) for sample in samples]
    value, n = float(mean(*arrays)), min(map(len, arrays))
    if n < 2 or all(np.ptp(array) == 0 for array in arrays):
        return Estimate(value, value, value)
    student = stats.t.ppf(0.975, sum(map(len, arrays)) - len(arrays))
    level = 2 * float(stats.norm.cdf(math.sqrt(n / (n - 1)) * student)) - 1
    options: dict[str, Any] = {"n_resamples": 20_000, "batch": 2000, "method": "percentile", "rng": 0}
    found = stats.bootstrap(arrays, mean, confidence_level=level, **options)
    return Estimate(value, float(found.confidence_interval.low), float(found.confidence_interval.high))


def intervals(records: Sequence[Mapping[str, Any]], keys: Sequence[str], measures: Sequence[str]) -> list[Record]:
    """Return the mean over seeds, with its interval, of every measure of every kind of run that the keys tell apart."""
    rows: list[Record] = []
    for values in dict.fromkeys(tuple(r[key] for key in keys) for r in records):
        kind = dict(zip(keys, values, strict=True))
        for name in measures:
            rows.append({**kind, "measure": name, **over_seeds(column(records, name, **kind))._asdict()})
    return rows


def paired(ours: Any, theirs: Any) -> Lead:
    """Return the mean difference seed by seed, its interval, and the two-sided p-value of all flips of its signs.

    Of n seeds the smallest p-value there can be is 2^(1 - n): 0.06 of five.
    """
    apart = np.asarray(ours, float) - np.asarray(theirs, float)
    return Lead(*over_seeds(apart), _flipped(tuple(apart.tolist())))


def lead(ours: Any, theirs: Any) -> Record:
    """Return the mean difference seed by seed, its interval and p-value, as columns of a table."""
    found = paired(ours, theirs)
    return {"lead": found.value, "low": found.low, "high": found.high, "p": found.p}


def lead_of(
    records: Sequence[Mapping[str, Any]], measure: str, key: str, ours: Any, theirs: Any, **fixed: Any
) -> Record:
    """Return the `lead` in a measure of the records with one value of a key over those with another."""
    return lead(*(column(records, measure, **{key: value}, **fixed) for value in (ours, theirs)))


@cache
def _flipped(apart: tuple[float, ...]) -> float:
    values = np.array(apart)
    if len(values) < 2 or not values.any():
        return 1.0
    found = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", vectorized=True, n_resamples=20_000, batch=2000, rng=0
    )
    return float(found.pvalue)


def share(hits: Any) -> Estimate:
    """Return a share of seeds and its 95% interval (Clopper and Pearson)."""
    hits = np.asarray(hits, bool)
    found = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci()
    return Estimate(float(hits.mean()), float(found.low), float(found.high))


def rounded(values: Sequence[float], digits: int = 4) -> list[float]:
    return [round(float(x), digits) for x in values]
