"""The ``console`` blocks of the documentation print what they show, after the page's ``python`` blocks have run."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ordergrad.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "```console\n" in page.read_text()]


def tidy(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").split("\n")]


def contains(printed: list[str], shown: list[str]) -> bool:
    """Return whether lines are shown as printed; a line of three dots stands for any lines."""
    pattern = "\n".join("[\\s\\S]*" if line == "..." else re.escape(line) for line in shown)
    return re.fullmatch(pattern, "\n".join(printed)) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_console_blocks_print_what_they_show(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(code, "<documentation>", "exec"), {})
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for command, shown in re.findall(r"^\$ ordergrad (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            result = CliRunner().invoke(app, shlex.split(command), env={"COLUMNS": "100", "TERM": "dumb"})
            assert contains(tidy(result.output), tidy(shown)), result.output
