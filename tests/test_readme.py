"""The code in the README and the docs: ``python`` blocks run as they stand, ``py`` blocks (excerpts) are Python."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(language: str) -> list:
    return [
        pytest.param(code, id=f"{file.relative_to(ROOT)}:{number}")
        for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
        for number, code in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", file.read_text(), re.DOTALL | re.MULTILINE)
        )
    ]


@pytest.mark.parametrize("code", blocks("py"))
def test_excerpt_is_python(code: str) -> None:
    compile(code, "<documentation>", "exec")


@pytest.mark.parametrize("code", blocks("python"))
def test_code_block_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "<documentation>", "exec"), {})
