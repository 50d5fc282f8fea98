"""A headless Chromium of the machine, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next((path for path in map(shutil.which, NAMES) if path), None)

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("ORDERGRAD_NEED_BROWSER"),
    reason="no Chromium on this machine (install one, or set CHROMIUM to its path)",
)
"""Skips where there is no Chromium; with ORDERGRAD_NEED_BROWSER, as in `make test-browser`, the test fails there."""


@contextmanager
def launched() -> Iterator[Any]:
    """Give a browser, and close it at the end."""
    assert CHROMIUM is not None, f"none of {', '.join(NAMES)} is installed, and CHROMIUM is not set"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
