"""Size of a report, and how long a browser takes to open it; writes the record and a picture of the page.

python benchmarks/report_page.py REPORT.html benchmarks/report_page.md docs/images/report.png
"""

import datetime
import os
import platform
import shutil
import statistics
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPENINGS = 7
READ = """() => new Promise(done => requestAnimationFrame(() => setTimeout(() => {
  const [page] = performance.getEntriesByType("navigation");
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  done([paint ? paint.startTime : NaN, page.loadEventEnd]);
}, 200)))"""


def measure(browser, report: Path, slowdown: int) -> tuple[float, float]:
    """Return medians of the first paint and of the end of loading, in milliseconds."""
    times = []
    for _ in range(OPENINGS):
        context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True)
        page = context.new_page()
        context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slowdown})
        page.goto(report.as_uri())
        times.append(page.evaluate(READ))
        context.close()
    paint, load = (statistics.median(column) for column in zip(*times, strict=True))
    return paint, load


def main(report: Path, record: Path, picture: Path) -> None:
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        rows = [(slowdown, *measure(browser, report, slowdown)) for slowdown in (1, 4)]
        page = browser.new_page(viewport={"width": 1120, "height": 1180})
        page.goto(report.as_uri())
        page.screenshot(path=picture)
        version = browser.version
        browser.close()
    lines = [
        "# Opening a report",
        "",
        f"Written by `python benchmarks/report_page.py` on {datetime.date.today()}: Chromium {version}, headless, "
        f"{os.cpu_count()} cores, {platform.machine()}. Medians of {OPENINGS} openings from a file, at the width of a "
        f"phone. The report has {report.stat().st_size / 1e6:.2f} MB and "
        f"{report.read_text().count('<figure')} figures.",
        "",
        "| processor | first paint | loaded |",
        "|---|--:|--:|",
        *(
            f"| {'as it is' if slow == 1 else f'slowed {slow} times'} | {p:.0f} ms | {t:.0f} ms |"
            for slow, p, t in rows
        ),
        "",
    ]
    record.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:4]))
