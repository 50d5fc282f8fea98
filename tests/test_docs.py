"""The code in the README and on the pages of the documentation.

Of each page the blocks ``python`` and ``console`` (lines that begin with ``$``) run in order, in one namespace and one
empty folder. Blocks ``py`` are excerpts and must be Python; ``sh`` and ``bash`` are for readers: they train for long,
or need what a test has not. Every block has one of these languages.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUN = ("python", "console")
SHOWN = ("py", "sh", "bash", "diff", "spectrum", "")


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    found = BLOCK.findall(page.read_text())
    return [(language, code) for language, code in found if not languages or language in languages]


def pages(*languages: str) -> list:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if blocks(page, *languages)]


@pytest.mark.parametrize("page", pages())
def test_every_block_has_a_language_that_says_whether_it_is_run(page: Path) -> None:
    assert {language for language, _ in blocks(page)} <= {*RUN, *SHOWN}


@pytest.mark.parametrize("page", pages("py"))
def test_excerpts_are_python(page: Path) -> None:
    for _, code in blocks(page, "py"):
        compile(code, str(page), "exec")


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch")
@pytest.mark.parametrize("page", pages(*RUN))
def test_the_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "__main__"}
    for number, (language, code) in enumerate(blocks(page, *RUN), 1):
        if language == "python":
            exec(compile(code, f"{page}, block {number}", "exec"), namespace)
        else:
            for line in code.splitlines():
                if line.startswith("$ "):
                    _shell(line[2:])


def _shell(line: str) -> None:
    """Run a command line as a reader would, with the commands of this environment first."""
    own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        line, shell=True, capture_output=True, text=True, env=os.environ | {"PATH": own}, check=False
    )
    assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
