"""The documentation site: builds without a warning, fetches nothing from elsewhere, and reads well on a phone."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from chromium import launched, needs_chromium

import ordergrad
from ordergrad.spec import names

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; `strict` in mkdocs.yml turns every warning (a dead link, a page in no menu) into an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ROOT / "mkdocs.yml", "-d", out]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    return out


def test_every_page_is_there_and_fetches_nothing_from_elsewhere(site) -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]
    assert len(pages) >= 20
    for page in pages:
        text = (site / page.relative_to(ROOT / "docs")).with_suffix(".html").read_text()
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", text):
            address = re.search(r'(?:src|href)="?([^"\s>]+)', tag)
            assert address is None or not address[1].startswith(("http", "//")), tag
        assert "arithmatex" not in text


def test_proofs_lie_one_click_away(site) -> None:
    """Links to tests, scripts and results lead to pages of the site that show them."""
    text = (site / "mathematics.html").read_text()
    assert 'href="source/tests/core/test_unbiased.py.html"' in text
    shown = (site / "source/tests/core/test_unbiased.py.html").read_text()
    assert "test_expected_gradient_is_the_exact_gradient" in shown
    study = (site / "studies/guarded_maze.html").read_text()
    assert 'href="../source/experiments/results/guarded_maze/summary.json.html"' in study


def test_the_gallery_has_a_picture_of_every_objective(site) -> None:
    markdown = (ROOT / "docs/objectives.md").read_text()
    drawn = re.findall(r"^```spectrum\n(.*?)\n```", markdown, re.MULTILINE)
    assert {re.split(r"[:@*+-]", text)[0] for text in drawn} >= set(names())
    page = (site / "objectives.html").read_text()
    assert page.count('<div class="spectrum"><svg') == len(drawn)


def test_the_reference_has_every_public_name(site) -> None:
    text = "".join((site / f"api/{page}.html").read_text() for page in ("estimators", "objectives", "exact"))
    for name in ordergrad.__all__:
        if callable(getattr(ordergrad, name)):
            assert f'id="ordergrad.{name}"' in text, name
    for name in ordergrad.objectives.__all__:
        assert f'id="ordergrad.objectives.{name}"' in text, name


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


CROPPED = """[...document.querySelectorAll("pre > code")].filter(
    code => code.offsetParent !== null && code.scrollWidth > code.clientWidth + 1).map(code => code.textContent)"""

UNREACHABLE = """[...document.querySelectorAll("article :not(p, li, .math, code)")].filter(
    part => part.scrollWidth > part.clientWidth + 1 && getComputedStyle(part).overflowX === "auto" && part.tabIndex < 0
    && !part.querySelector("a[href], button, input")).map(part => part.outerHTML.slice(0, 200))"""


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_no_line_of_code_is_cropped_and_what_scrolls_does_so_by_keyboard(site, address, width) -> None:
    pages = sorted(page for page in site.rglob("*.html") if "source" not in page.parts)
    with launched() as browser:
        tab = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        for page in pages:
            tab.goto(f"{address}/{page.relative_to(site).as_posix()}")
            assert tab.evaluate(CROPPED) == [], page
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, page
            assert tab.evaluate(UNREACHABLE) == [], page


PAINTED = """() => new Promise((done, fail) => {
    new PerformanceObserver(list => {
        const largest = list.getEntries().at(-1);
        if (largest.element && largest.element.tagName === "IMG") done(largest.startTime);
    }).observe({type: "largest-contentful-paint", buffered: true});
    setTimeout(() => fail("the picture was not painted within a minute"), 60000);
})"""


@needs_chromium
def test_the_picture_of_the_front_page_is_its_largest_paint(address, record_property) -> None:
    """Reports when it is painted; no time is asserted.

    The browser reports each paint that is larger than those before: on a slow machine, the header and the text first.
    """
    with launched() as browser:
        times = []
        for _ in range(5):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            tab = context.new_page()
            tab.goto(f"{address}/index.html")
            times.append(tab.evaluate(PAINTED))
            context.close()
    record_property("largest_paint_ms", times)
    print("largest paint of the front page, ms:", *map(round, times))


def test_the_search_finds_pages_before_sources(site) -> None:
    index = json.loads((site / "search/search_index.json").read_text())
    assert not [entry["location"] for entry in index["docs"] if entry["location"].startswith("source/")]


@needs_chromium
def test_pages_in_a_browser(address) -> None:
    """No errors, no other server asked, nothing wider than a phone, both colour schemes, the search finds."""
    pages = (
        "index",
        "mathematics",
        "objectives",
        "papers",
        "migration",
        "api/estimators",
        "adapters/trl",
        "start/quant",
        "notebooks/risk_averse_agent",
    )
    with launched() as browser:
        wrong: list[str] = []
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
            page = context.new_page()
            page.on("console", lambda message: wrong.append(message.text))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("request", lambda request: wrong.extend(u for u in [request.url] if not u.startswith(address)))
            for name in pages:
                page.goto(f"{address}/{name}.html")
                assert page.get_by_role("dialog", name="Search", include_hidden=True).count() == 1
                assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
            back = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 300) == (scheme == "dark")
            context.close()
        page = browser.new_page()
        page.goto(f"{address}/index.html")
        page.locator("input.md-search__input").fill("jackknife")
        page.locator(".md-search-result__item").first.wait_for()
        page.close()
        assert not wrong
