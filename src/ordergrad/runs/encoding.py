"""Output in terminals and files whose encoding lacks some characters, such as cp1252 and ASCII."""

import codecs
import io
from typing import Any

_BARS = dict(zip("▁▂▃▄▅▆▇█", "_..::=##", strict=True))
_SPELLED = _BARS | {
    "√": "sqrt ",
    "Σ": "sum ",
    "∞": "inf",
    "≥": ">=",
    "≤": "<=",
    "±": "+/-",
    "×": "x",
    "²": "^2",
    "½": "1/2",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "·": "*",
    "α": "alpha",
    "φ": "phi",
    "•": "-",
}


def spell_out(*streams: Any) -> None:
    """Let streams that are not in a form of UTF write what their encoding lacks in other characters."""
    codecs.register_error("ordergrad.spell_out", _spelled)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="ordergrad.spell_out")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Return what to write for characters that cannot be encoded.

    Example:
        >>> "a ≥ √b, ü".encode("ascii", "ordergrad.spell_out") if spell_out() is None else b""
        b'a >= sqrt b, ?'
    """
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_SPELLED.get(character, "?") for character in error.object[error.start : error.end]), error.end
