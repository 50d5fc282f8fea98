"""What surrounds the package: extras tested alone, a README that holds on a package index, where it installs from."""

import re
import tomllib
from pathlib import Path

import one_extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ELSEWHERE = {"verl", "skyrl", "verl-test", "dist", "dev"}  # `make test-verl`, `make dist`, `make test`


def test_every_extra_is_installed_alone_here_and_in_the_workflow() -> None:
    extras = {"none", *PROJECT["project"]["optional-dependencies"]} - ELSEWHERE
    made = re.search(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    hosted = re.search(r"extra: \[(.*)\]", (ROOT / ".github/workflows/ci.yml").read_text())
    assert made is not None
    assert hosted is not None
    assert set(made[1].split()) == extras
    assert set(hosted[1].split(", ")) == extras
    assert all(callable(vars(one_extra)[extra]) for extra in extras)


def test_the_description_on_an_index_has_no_link_to_a_file_that_it_lacks() -> None:
    text = (ROOT / "README.md").read_text()
    assert re.search(r"\]\((?!https:)", text)
    for substitution in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    assert not re.findall(r"\]\((?!https:|#)[^)]*\)", text)


def test_the_source_distribution_has_what_pages_and_tests_read() -> None:
    included = set(PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]
    assert {page.relative_to(ROOT).parts[0] for page in pages} <= included
    for page in pages:
        for link in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", page.read_text()):
            target = (page.parent / link).resolve()
            if target.exists():
                assert target.relative_to(ROOT).parts[0] in included | {"LICENSE"}, f"{page}: {link}"
