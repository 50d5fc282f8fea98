"""The folder of a training run: its files, all readable without pickle.

```
OUT/
  config.json                          kind of run, command, settings, package versions
  .lock                                held by the process that writes to the folder
  runs/OBJECTIVE/seed-SEED/
    metrics.jsonl                      one JSON object per update
    checkpoint.safetensors             the latest state: tensors, and the rest as JSON in its metadata
    evaluation.csv                     fresh episodes of the trained policy
  results.csv, results.json, *.png     results over all runs
```

Files are replaced atomically: a killed run and a full disk leave the previous ones intact.
"""

import csv
import datetime
import errno
import io
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ordergrad.runs.errors import UserError
from ordergrad.runs.settings import defaults_of

Array = NDArray[Any]
CHECKPOINT, METRICS, EVALUATION = "checkpoint.safetensors", "metrics.jsonl", "evaluation.csv"
_LOCK = ".lock"
_held: dict[Path, int] = {}
_PACKAGES = (
    *("ordergrad", "numpy", "scipy", "torch", "gymnasium", "stable-baselines3", "safetensors"),
    *("transformers", "trl", "polars", "jax", "optax", "mujoco", "box2d", "skfolio", "botorch", "sympy"),
)


def open_folder(
    out: Path, settings: Any, *, kind: str, resume: bool, may_change: Sequence[str] = (), may_grow: Sequence[str] = ()
) -> None:
    """Create the folder of a run, or check that it can be resumed, and keep it to this process until that ends.

    Args:
        out: The folder.
        settings: The settings of the run, a dataclass or a mapping; JSON values.
        kind: The command that runs, such as ``train rl``.
        resume: Whether to continue an existing run.
        may_change: Settings that a resumed run may change.
        may_grow: Numbers that a resumed run may increase.

    A setting that the folder of an older version lacks counts as its default.

    Raises:
        UserError: The folder holds a run but `resume` is false, holds something else, is damaged, was made with other
            settings or by another command, is in use by another process, or cannot be written.
    """
    config = out / "config.json"
    program = Path(sys.argv[0]).name
    content: dict[str, Any] = asdict(settings) if is_dataclass(settings) else dict(settings)  # type: ignore[arg-type]
    command = shlex.join(["ordergrad" if program == "__main__.py" else program, *sys.argv[1:]])
    try:
        if config.exists():
            try:
                before = read_settings(out, kind)
            except UserError as error:
                raise UserError(f"{error}; choose another --out") from error
            if not resume:
                raise UserError(f"{out} already holds a run; add --resume to continue it, or choose another --out")
            defaults = defaults_of(type(settings)) if is_dataclass(settings) else {}
            before = json.loads(json.dumps(defaults, default=asdict)) | before  # an older version lacks newer settings
            _compare(out, before, json.loads(json.dumps(content)), may_change, may_grow)
        elif out.exists() and (not out.is_dir() or any(path.name != _LOCK for path in out.iterdir())):
            raise UserError(f"{out} exists and is not the folder of a run; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        _lock(out)
        write_json(config, {"kind": kind, "command": command, "settings": content, "versions": _versions()})
    except OSError as error:
        if is_full_disk(error):
            raise
        raise UserError(f"{out} cannot be the folder of a run ({error}); choose another --out") from error


def _lock(out: Path) -> None:
    """Keep other processes out of a folder until this one ends, however it does, or raise a UserError if one is in."""
    if sys.platform == "win32":
        return  # where files that are open cannot be replaced anyway
    import fcntl

    path = out.resolve() / _LOCK
    if path in _held and path.exists():
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"another process is writing to {out}: wait until it has finished, end it, or choose another --out"
        ) from error
    except OSError:
        pass  # a file system without locks
    _held[path] = descriptor


def read_settings(out: Path, kind: str) -> dict[str, Any]:
    """Return the settings of the run in a folder.

    Raises:
        UserError: It is not the folder of a run of this kind.
    """
    config = out / "config.json"
    if not config.exists():
        raise UserError(f"{out} is not the folder of a run: it has no config.json")
    try:
        content = json.loads(config.read_text())
        settings, made = dict(content["settings"]), content.get("kind", kind)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{config} is not the configuration of a run, or damaged ({type(error).__name__}: {error})"
        ) from error
    if made != kind:
        raise UserError(f"{out} is the folder of {made}, not of {kind}")
    return settings


def _compare(
    out: Path, before: Mapping[str, Any], asked: Mapping[str, Any], may_change: Sequence[str], may_grow: Sequence[str]
) -> None:
    """Check that a run is resumed with its own settings."""
    changes = [f"{name} was {was}, now unknown" for name, was in before.items() if name not in asked]
    for name, now in asked.items():
        was = before.get(name)
        if name in may_change or was == now:
            continue
        if name not in may_grow:
            changes.append(f"{name} was {was}, now {now}")
        elif was is None or now < was:
            changes.append(f"{name} was {was}, now {now}, and may only grow")
    if changes:
        raise UserError(
            f"{out} was made with other settings ({'; '.join(changes)}); use those, or choose another --out"
        )


def provenance(command: str) -> dict[str, Any]:
    """Return what it takes to reproduce a result: command, date, machine and package versions."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **_versions()},
    }


def run_folder(out: Path, objective: str, seed: int) -> Path:
    """Return the folder of one objective and seed, its name safe on every file system.

    Example:
        >>> run_folder(Path("out"), "0.7*mean+0.3*cvar:0.1@8", 2).as_posix()
        'out/runs/0.7xmean+0.3xcvar-0.1@8/seed-2'
    """
    name = re.sub(r"[^\w.@+-]", "-", objective.replace("*", "x"))
    return out / "runs" / name / f"seed-{seed}"


def write_json(path: Path, content: Any) -> None:
    """Write JSON by replacing the file atomically."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table by replacing the file atomically."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        text.detach()


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as CSV; nothing where there are none."""
    if rows:
        write_csv(path, list(rows[0]), [list(row.values()) for row in rows])


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    """Write the metrics of an update below those of the earlier ones."""
    with _naming(path), path.open("ab", buffering=0) as file:
        file.write((json.dumps(row) + "\n").encode())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run so far, without a line that is still being written."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def last_line(path: Path) -> dict[str, Any] | None:
    """Return the newest metrics, or None; reads the end of the file only."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().split(b"\n")[:-1]
    return json.loads(lines[-1]) if lines and lines[-1].startswith(b"{") else None


def trim_metrics(path: Path, step: int) -> None:
    """Drop the metrics after a step, which a run resumed from a checkpoint writes again."""
    if path.exists():
        kept = [json.dumps(row) for row in read_metrics(path) if row["step"] <= step]
        with replacing(path) as file:
            file.write("".join(line + "\n" for line in kept).encode())


def write_checkpoint(path: Path, tensors: Mapping[str, Array], state: Mapping[str, Any]) -> None:
    """Write a checkpoint by replacing the ``.safetensors`` file atomically; the state, JSON values, in its metadata."""
    from safetensors.numpy import save  # pyright: ignore[reportUnknownVariableType]

    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
    with replacing(path) as file:
        file.write(save(arrays, {"state": json.dumps(state)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the tensors and the state of a checkpoint.

    Raises:
        UserError: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:  # type: ignore[no-untyped-call]
            opened = cast(Any, file)
            state = json.loads(opened.metadata()["state"])
            return {name: opened.get_tensor(name) for name in opened.keys()}, state  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not a checkpoint or damaged ({error}); delete it to restart this run") from error


def _versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@contextmanager
def replacing(path: Path) -> Generator[io.BufferedWriter]:
    """Open a file that replaces another one once all of it is on the disk, and leaves nothing otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        with _naming(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Add the name of the file to errors of writing to it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def is_full_disk(error: OSError) -> bool:
    """Return whether a disk or a quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
