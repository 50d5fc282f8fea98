"""The interactive page about objectives: one self-contained HTML file, and the part of it that the site shows."""

from importlib import resources
from urllib.parse import urlencode


def fragment() -> str:
    """Return the HTML of the page's inside, with its style and scripts."""
    folder = resources.files("ordergrad.report") / "templates" / "explore"
    style, inside, *scripts = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.html", "mathematics.js", "page.js")
    )
    return f'<style>{style}</style><div class="og">{inside}</div>' + "".join(f"<script>{s}</script>" for s in scripts)


def page() -> str:
    """Return the whole page: it needs no network and keeps its state in the address."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>OrderGrad: what an objective weighs</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"></head><body class="og-alone">'
        f"<h1>What an objective weighs</h1>{fragment()}</body></html>\n"
    )


def state(objective: str, n: int) -> str:
    """Return the part of the page's address that shows an objective in groups of n.

    Example:
        >>> state("0.7*mean+0.3*max@8", 16)
        '#objective=0.7%2Amean%2B0.3%2Amax%408&n=16'
    """
    return "#" + urlencode({"objective": objective, "n": n})
