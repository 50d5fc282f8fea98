"""The report in a headless Chromium: by keyboard, on a phone, in the dark, without a network.

Needs a Chromium of the machine; `make test-browser` fails where there is none, otherwise these tests are skipped.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from chromium import launched, needs_chromium
from report_runs import RL, llm_run, rl_run, score_run
from typer.testing import CliRunner

from ordergrad.commands.cli import app

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser():
    with launched() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reports")
    runs = [rl_run(out / "rl"), llm_run(out / "llm"), score_run(out / "score")]
    runs.append(rl_run(out / "unfinished", replace(RL, objectives=("gini",)), evaluate=False))
    result = CliRunner().invoke(app, ["report", *map(str, runs), "--out", str(out / "all.html")])
    assert result.exit_code == 0, result.output
    return out / "all.html"


@pytest.fixture
def visit(browser, page_file):
    """Open the report; whatever it asks of a network, or says on the console, is a failure."""
    contexts, wrong, own = [], [], ("data:", page_file.as_uri())

    def go(width: int = 1280, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.extend(u for u in [request.url] if not u.startswith(own)))
        page.goto(page_file.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert not wrong


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(visit, width) -> None:
    page = visit(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for figure in page.locator("figure").all():
        box = figure.locator("svg").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["height"] > 150


def test_text_in_figures_can_be_read_on_a_phone(visit) -> None:
    page = visit(390)
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().width "
        "/ s.viewBox.baseVal.width * Math.min(...[...s.querySelectorAll('text')].map(t => "
        "parseFloat(getComputedStyle(t).fontSize)))))"
    )
    assert smallest >= 9


def column(page, index: int) -> list[str]:
    return page.locator("#section-2 table").first.locator(f"tbody tr > :nth-child({index})").all_inner_texts()


def test_tables_sort_by_keyboard(visit) -> None:
    page = visit()
    first = page.locator("#section-2 table").first
    assert first.locator("thead th").all_inner_texts()[0].startswith("trained on")
    heading = first.locator("thead th").nth(1)
    heading.locator("button").focus()
    before = [float(text.split(" ")[0]) for text in column(page, 2)]
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert [float(text.split(" ")[0]) for text in column(page, 2)] == sorted(before, reverse=True)
    page.keyboard.press("Space")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [float(text.split(" ")[0]) for text in column(page, 2)] == sorted(before)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert column(page, 1) == sorted(column(page, 1))
    assert heading.get_attribute("aria-sort") == "none"


def test_everything_that_acts_can_be_reached_by_keyboard(visit) -> None:
    page = visit()
    acting = page.locator("button, a[href], [tabindex='0'], summary")
    page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
    wanted = acting.count()
    assert page.locator("summary").count() > 0
    reached = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(e => [...document.querySelectorAll('*')].indexOf(e))(document.activeElement)"))
    assert len(reached) == wanted


def test_a_legend_hides_and_shows_its_curve(visit) -> None:
    page = visit()
    section = page.locator("#section-2")
    button = section.locator(".legend button").first
    curve = section.locator("figure .series-0").first
    assert curve.is_visible()
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert not curve.is_visible()
    assert page.locator("#section-3 figure .series-0").first.is_visible()
    page.keyboard.press("Enter")
    assert curve.is_visible()


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_both_colour_schemes(visit, scheme) -> None:
    """At least 4.5 for text and 3 would do for curves (WCAG 2.2, 1.4.3 and 1.4.11); curves also differ by dashes."""
    page = visit(scheme=scheme)
    colours = page.evaluate(
        "['body', 'h1', 'h3', '.caption', 'figcaption', 'nav a', 'td.best', '.notes', 'figure svg text', 'th button']"
        ".map(s => { const e = document.querySelector(s); const style = getComputedStyle(e);"
        "let b = e; while (/, 0\\)$/.test(getComputedStyle(b).backgroundColor)) b = b.parentElement;"
        "return [s, s.includes('text') ? style.fill : style.color, getComputedStyle(b).backgroundColor]; })"
    )
    for what, front, back in colours:
        light, dark = sorted((luminance(front), luminance(back)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (what, front, back)
    assert (luminance(colours[0][2]) < 0.05) == (scheme == "dark")


def test_the_table_of_numbers_behind_a_figure_downloads(visit, tmp_path) -> None:
    page = visit()
    with page.expect_download() as download:
        page.locator("figure a[download]").first.click()
    download.value.save_as(tmp_path / "numbers.csv")
    assert (tmp_path / "numbers.csv").read_text().startswith("contender,")
