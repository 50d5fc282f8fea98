"""The notebooks run from top to bottom in a fresh kernel and print what is committed."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs/notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"(-?\d+(?:\.(\d+))?)")


def printed(cell: NotebookNode) -> str:
    """The text that a cell prints; a picture counts as there or not."""
    outputs = [
        output.text if output.output_type == "stream" else " ".join(sorted(output.data)) for output in cell.outputs
    ]
    return "".join(outputs)


def same(committed: str, now: str) -> bool:
    """Whether two texts agree: words exactly, numbers to one of their last digit or 1%."""

    def words(text: str) -> list[str]:
        return NUMBER.sub("#", text).split()

    if words(committed) != words(now):
        return False
    for before, after in zip(NUMBER.finditer(committed), NUMBER.finditer(now), strict=True):
        old, new, digits = float(before[1]), float(after[1]), len(before[2] or "")
        if abs(old - new) > max(1.01 * 10.0**-digits * (digits > 0), 0.01 * abs(old)):
            return False
    return True


def test_stale_numbers_are_found() -> None:
    assert same("mean  0.25 of 3", "mean 0.26 of 3")
    for stale in ("mean 0.27 of 3", "mean 0.25 of 4", "median 0.25 of 3", "mean 0.25", "mean -0.25 of 3"):
        assert not same("mean 0.25 of 3", stale)


def test_all_notebooks_are_here() -> None:
    assert len(NOTEBOOKS) == 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_needs_no_shell_and_prints_no_line_too_long_for_a_phone(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            compile(cell.source, str(path), "exec")  # no %%bash, no !command
            assert max(map(len, printed(cell).splitlines()), default=0) <= 56


@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_committed(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("COLUMNS", raising=False)
    committed = nbformat.read(path, as_version=4)
    executed = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(executed, timeout=300, kernel_name="python3", resources=folder).execute()
    for before, after in zip(committed.cells, executed.cells, strict=True):
        if before.cell_type == "code":
            assert same(printed(before), printed(after)), f"{before.source}\n\n{printed(before)}\n\n{printed(after)}"
