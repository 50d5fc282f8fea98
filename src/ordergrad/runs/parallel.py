"""Train and evaluate the runs of a command in parallel processes, and stop them cleanly on Ctrl-C or SIGTERM.

The workers leave both signals to the parent, and end at once when it has ended, however it did.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ordergrad.runs.folder import METRICS, last_line, run_folder

ShouldStop = Callable[[], bool]
"""Called after each update of a run; if true, the run ends with a checkpoint."""
Report = Callable[[dict[str, Any]], None]
"""Called with each new row of metrics of a run."""
Run = Callable[[str, int, Path, ShouldStop, Report], bool]
"""Trains and evaluates (objective, seed, folder, stop, report) and returns whether it has finished; picklable."""
Update = Callable[[str, int, dict[str, Any]], None]
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_stop: Any = None


def default_jobs(runs: int) -> int:
    """Return how many runs to train in parallel: one per processor available to this process."""
    return max(1, min(runs, _processors()))


def train_all(run: Run, objectives: Sequence[str], seeds: int, out: Path, jobs: int, update: Update) -> bool:
    """Train and evaluate every objective with every seed; return whether all have finished.

    With one job everything runs in this process. The first Ctrl-C or SIGTERM, or an error in one of several processes,
    lets every running process finish its update and write a checkpoint. `update` gets the latest metrics of a run
    whenever there are new ones.
    """
    tasks = [(objective, seed) for seed in range(seeds) for objective in objectives]
    if jobs == 1:
        stop = threading.Event()
        with interruptible(stop):
            finished = [_train_here(run, out, task, stop, update) for task in tasks]
        return all(finished)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    threads = max(1, _processors() // jobs)
    with interruptible(stop), ProcessPoolExecutor(jobs, context, _initialise, (stop, threads)) as pool:
        futures = {pool.submit(_work, run, objective, seed, out): (objective, seed) for objective, seed in tasks}
        _follow(futures, out, update)
        return all(future.result() for future in futures)


def _train_here(run: Run, out: Path, task: tuple[str, int], stop: Any, update: Update) -> bool:
    objective, seed = task
    folder = run_folder(out, objective, seed)
    return not stop.is_set() and run(objective, seed, folder, stop.is_set, lambda row: update(objective, seed, row))


def _initialise(stop: Any, threads: int) -> None:
    """Prepare a worker: leave signals to the parent, end with it, and use a share of the processors."""
    import torch

    global _stop
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _stop = stop


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # its sentinel is a pipe that the system closes, however the parent ends
        os._exit(1)


def _work(run: Run, objective: str, seed: int, out: Path) -> bool:
    if _stop.is_set():
        return False
    try:
        return run(objective, seed, run_folder(out, objective, seed), _stop.is_set, lambda _: None)
    except BaseException:
        _stop.set()  # the others too
        raise


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _follow(futures: dict[Future[bool], tuple[str, int]], out: Path, update: Update) -> None:
    """Report new metrics until all processes are done or one fails."""
    seen: dict[tuple[str, int], Any] = {}
    left = set(futures)
    while left:
        done, left = wait(left, timeout=0.5)
        for objective, seed in futures.values():
            row = last_line(run_folder(out, objective, seed) / METRICS)
            if row is not None and row != seen.get((objective, seed)):
                seen[objective, seed] = row
                update(objective, seed, row)
        for future in done:
            future.result()


@contextmanager
def interruptible(stop: Any) -> Generator[None]:
    """Make the first Ctrl-C or SIGTERM set `stop`; a second one raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
