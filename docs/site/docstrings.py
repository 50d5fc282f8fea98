"""Docstrings as the site's generator reads them."""

import re
from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    """Let a section ``Example:`` be one of examples, with code, and each reference a line of its own."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the text of an object's docstring."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"^References:\n((?:    .*\n?)+)", _listed, text, flags=re.MULTILINE)


def _listed(match: re.Match[str]) -> str:
    lines = [re.sub(r"^    (?=\S)", "    - ", line) for line in match[1].splitlines()]
    return "References:\n\n" + "\n".join(lines).replace("    - ", "- ").replace("        ", "  ") + "\n"
