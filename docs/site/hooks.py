"""What the site needs beyond MkDocs: files of the repository behind links, formulas, pictures of spectra.

* A link from a page to a file outside ``docs`` (a test, a script, a result) leads to a page of the site that shows it.
* Formulas are drawn when the site is built, in the text's colour and size: no script, no font from elsewhere.
* A block ``spectrum`` with one objective becomes a picture of its spectrum.
* A notebook becomes a page with its committed outputs; nothing is executed.
* Wide tables scroll by keyboard too, and the dialog of the search has a name.
"""

import base64
import html
import json
import os
import re
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import ziafont
import ziamath
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import ordergrad
from ordergrad.report.explore import fragment

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_LINK = re.compile(r"(?<!!)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(`{3,})[^`]*?\n.*?^\1[ ]*$", re.DOTALL | re.MULTILINE)
_SPECTRUM = re.compile(r"^```spectrum\n(.*?)\n```$", re.MULTILINE)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_LANGUAGES = {".py": "python", ".json": "json", ".toml": "toml", ".yml": "yaml", ".csv": "text", ".md": "markdown"}
_NOT_SEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
_SCROLLS = '<div class="scroll" role="group" aria-label="Table" tabindex="0">'
_WHOLE = 200_000
_PICTURES = (".png", ".svg", ".gif")


def on_config(config: MkDocsConfig) -> None:
    """Show the version at the foot of every page."""
    config.copyright = f"OrderGrad {ordergrad.__version__}, MIT licence"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every notebook, and for every file of the repository that a page or such a file links to."""
    for uri in [uri for uri in files.src_uris if uri.endswith(".ipynb")]:
        for own, content in _notebook(uri):
            files.append(File.generated(config, own, content=content))
    texts = [(file.src_uri, file.content_string) for file in files if file.is_documentation_page()]
    found: set[Path] = set()
    while texts:
        page, text = texts.pop()
        links = {_outside(page, link) for link, _ in _LINK.findall(_FENCE.sub("", text))}
        for path in sorted(path for path in links if path and path not in found and not path.is_relative_to(DOCS)):
            found.add(path)
            for uri, content in _shown(path):
                if uri not in files.src_uris:
                    files.append(File.generated(config, uri, content=content))
            if path.suffix == ".md":
                texts.append((_uri(path), path.read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their pages, and blocks of spectra into pictures."""

    def link(match: re.Match[str]) -> str:
        target = _outside(page.file.src_uri, match[1])
        if target is None:
            return match[0]
        start = PurePosixPath(page.file.src_uri).parent
        return f"]({os.path.relpath(_uri(target), start)}{match[2] or ''})"

    text, position = "", 0
    for fence in _FENCE.finditer(markdown):
        text += _LINK.sub(link, markdown[position : fence.start()]) + fence[0]
        position = fence.end()
    text += _LINK.sub(link, markdown[position:])
    return _SPECTRUM.sub(lambda match: _spectrum(match[1].strip()), text)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw the formulas, and put the interactive page in its place."""

    def formula(match: re.Match[str]) -> str:
        tex = html.unescape(match[2]).strip()
        try:
            return _drawn(tex, match[1] == "div")
        except Exception as error:
            raise PluginError(f"{page.file.src_uri}: the formula {tex!r} is not understood ({error!r})") from error

    content = content.replace("<table>", f"{_SCROLLS}<table>").replace("</table>", "</table></div>")
    return _FORMULA.sub(formula, content).replace("<!-- explore -->", fragment())


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Name the dialog of the search for screen readers."""
    return re.sub(r'(<div class="?md-search"?[^>]*role="?dialog"?)', r'\1 aria-label="Search"', output)


@cache
def _drawn(tex: str, block: bool) -> str:
    """Return a formula as SVG in units of the text's size, its TeX for screen readers."""
    ziafont.config.svg2 = False
    size = 20.0
    drawn = ziamath.Latex(tex, size=size, color="currentColor", inline=not block)
    svg = drawn.svgxml()
    width, height = (float(svg.get(name, 0)) / size for name in ("width", "height"))
    svg.set("width", f"{width:.3f}em")
    svg.set("height", f"{height:.3f}em")
    svg.set("role", "img")
    svg.set("aria-label", tex)
    shift = "" if block else f' style="vertical-align: {drawn.getyofst() / size:.3f}em"'
    tag = "div" if block else "span"
    text = ElementTree.tostring(svg, encoding="unicode")
    return f'<{tag} class="math"{shift}>{text}</{tag}>'


def _outside(page: str, link: str) -> Path | None:
    """Return the file that a link of a page leads to, if the link cannot stay as it is."""
    if link.startswith(("/", "<")) or (page.startswith("source/") and page.endswith("/index.md")):
        return None
    shown = page.startswith("source/")  # the text of a file that lies elsewhere in the repository
    folder = (ROOT / page.removeprefix("source/") if shown else DOCS / page).parent
    target = (folder / link).resolve()
    if not target.is_relative_to(ROOT) or (target.is_relative_to(DOCS) and not shown):
        return None
    if not target.exists():
        raise PluginError(f"{page}: the link {link} leads to nothing")
    return target


def _uri(path: Path) -> str:
    """Return the page that shows a file or a folder of the repository."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    own = path.relative_to(ROOT).as_posix()
    return f"source/{own}/index.md" if path.is_dir() else f"source/{own}" if _raw(path) else f"source/{own}.md"


def _raw(path: Path) -> bool:
    """Return whether a file is handed out as it is."""
    return path.suffix in _PICTURES or path.stat().st_size > _WHOLE


def _shown(path: Path) -> list[tuple[str, Any]]:
    """Return the pages, and their texts, that show a file, or a folder with all in it."""
    own = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        lines = [f"- [{p.relative_to(path)}]({os.path.relpath(_uri(p), f'source/{own}')})" for p in inside]
        pages = [(_uri(path), f"{_NOT_SEARCHED}# {own}\n\n" + "\n".join(lines) + "\n")]
        return pages + [page for p in inside for page in _shown(p)]
    if _raw(path):
        return [(_uri(path), path.read_bytes())]
    text = path.read_text()
    if path.suffix == ".md":  # a record: a title and tables
        return [(_uri(path), _NOT_SEARCHED + text)]
    block = f"````{_LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n````\n"
    return [(_uri(path), f"{_NOT_SEARCHED}# {own}\n\n{block}")]


def _notebook(uri: str) -> list[tuple[str, Any]]:
    """Return the page that shows a notebook, and its pictures."""
    stem = uri.removesuffix(".ipynb")
    name = PurePosixPath(stem).name
    parts: list[str] = []
    pictures: list[tuple[str, Any]] = []
    for cell in json.loads((DOCS / uri).read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"(\]\([^)\s]+)\.ipynb\)", r"\1.md)", source))
            continue
        parts.append(f"```python\n{source.strip()}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(_printed("".join(output["text"])))
            elif "image/png" in output["data"]:
                picture = f"{name}-{len(pictures) + 1}.png"
                data = base64.b64decode("".join(output["data"]["image/png"]))
                pictures.append((str(PurePosixPath(stem).with_name(picture)), data))
                parts.append(f"![{cell['metadata']['alt']}]({picture})")
            else:
                parts.append(_printed("".join(output["data"]["text/plain"])))
    parts.insert(1, f"[Download the notebook]({name}.ipynb){{ download }}")
    return [(f"{stem}.md", "\n\n".join(parts) + "\n"), *pictures]


def _printed(text: str) -> str:
    """Return the block of a page that shows what a cell printed, its columns kept."""
    return f"``` {{ .text .output }}\n{text.rstrip()}\n```"


def _spectrum(text: str) -> str:
    """Return the picture of an objective's spectrum, finite and in the limit."""
    import numpy as np
    from matplotlib.figure import Figure

    from ordergrad.report.explain import explain, population_spectrum
    from ordergrad.report.page import inline_svg
    from ordergrad.runs.plots import draw_curve, tidy
    from ordergrad.weights import spectrum

    told = explain(text)
    u = np.linspace(0, 1, 301)
    figure: Any = Figure(figsize=(5.0, 2.2), layout="constrained")
    axis = figure.subplots()
    tidy(axis)
    phi = spectrum(told.objective, u, k=told.k)
    axis.fill_between(u, phi, color="#0072B2", alpha=0.15, linewidth=0)
    draw_curve(axis, 0, f"K = {told.k}", u, phi)
    limit = population_spectrum(told.objective, u)
    if limit is not None:
        draw_curve(axis, 1, "K → ∞", u, limit)
        high, low = max(phi.max(), 0), min(phi.min(), 0)
        axis.set_ylim(low - 0.1 * (high - low), high + 0.15 * (high - low))
        axis.legend(frameon=False, fontsize=8)
    axis.axhline(0, color="#777777", linewidth=0.8)
    axis.set(xlim=(0, 1), xlabel="quantile level u (0: worst)", ylabel="φ(u)")
    name = "spectrum-" + re.sub(r"[^\w]+", "-", text)
    svg = inline_svg(figure, name, f"The spectrum of {text} at K = {told.k}")
    return f'<div class="spectrum">{svg}</div>'.replace("\n", " ")
