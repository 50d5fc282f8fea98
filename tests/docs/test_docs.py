"""The code in the README and on the pages of the documentation.

Of each page the blocks ``python`` and ``console`` run in order, in one namespace and one empty folder. A command in
``console`` (a line that begins with ``$``) prints what is shown below it; a line of three dots stands for any lines.
Blocks ``py`` are excerpts and must be Python; ``sh`` and ``bash`` are for readers: they train for long, or need what a
test has not. Every block has one of these languages.
"""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ordergrad.commands.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUN = ("python", "console")
LONGEST = 1500
LONGER = {"docs/mathematics.md": 2000, "docs/studies/llm_countdown.md": 1950}
OTHER_OPENINGS = {"README.md", "docs/index.md", "docs/studies/llm_countdown.md"}
OTHER_COMMENTS = {"README.md", "docs/adapters/trl.md"}
SHOWN = ("py", "sh", "bash", "diff", "spectrum", "yaml", "")


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    found = BLOCK.findall(page.read_text())
    return [(language, code) for language, code in found if not languages or language in languages]


def pages(*languages: str) -> list:
    """Return the pages that have blocks of one of these languages; without a language, all."""
    found = [page for page in PAGES if not languages or blocks(page, *languages)]
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in found]


@pytest.mark.parametrize("page", pages())
def test_every_block_has_a_language_that_says_whether_it_is_run(page: Path) -> None:
    assert {language for language, _ in blocks(page)} <= {*RUN, *SHOWN}


def words(page: Path) -> int:
    """Count the words of a page, those in tables too: what holds a letter or a digit outside of blocks of code."""
    return sum(any(map(str.isalnum, word)) for word in BLOCK.sub("", page.read_text()).split())


@pytest.mark.parametrize("page", pages())
def test_no_page_is_too_long_to_read(page: Path) -> None:
    name = str(page.relative_to(ROOT))
    assert words(page) <= (1200 if name == "README.md" else LONGER.get(name, LONGEST))


@pytest.mark.parametrize("page", pages())
def test_a_page_opens_with_what_its_reader_can_do(page: Path) -> None:
    name = str(page.relative_to(ROOT))
    opening = " ".join(page.read_text().split("\n\n")[1].split())
    assert name in OTHER_OPENINGS or re.match(r"(After|Here)\b.* you (can|know)\b", opening), opening


@pytest.mark.parametrize("page", pages())
def test_a_page_installs_from_a_clone_while_nothing_is_on_an_index(page: Path) -> None:
    assert "clone" in page.read_text() or not re.search(r"pip install[^`\n]*ordergrad", page.read_text())


@pytest.mark.parametrize("page", pages("python", "py", "sh", "bash"))
def test_a_line_that_wraps_has_its_comment_above(page: Path) -> None:
    lines = [line for _, code in blocks(page, "python", "py", "sh", "bash") for line in code.splitlines()]
    wrapped = [line for line in lines if len(line) > 88 and re.search(r"\S\s{2,}# ", line)]
    assert not wrapped or str(page.relative_to(ROOT)) in OTHER_COMMENTS


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
            for command, shown in re.findall(r"^\$ ordergrad (.*)\n((?:(?!\$ ).*\n)*)", code, re.MULTILINE):
                result = CliRunner().invoke(app, shlex.split(command), env={"COLUMNS": "100", "TERM": "dumb"})
                assert result.exit_code == 0, result.output
                assert shows(lines(result.output), lines(shown)), result.output


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").split("\n")]


def shows(printed: list[str], shown: list[str]) -> bool:
    pattern = "\n".join("[\\s\\S]*" if line == "..." else re.escape(line) for line in shown)
    return re.fullmatch(pattern, "\n".join(printed)) is not None
