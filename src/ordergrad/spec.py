"""Objective strings: ``[c*]name[:number...][@K]`` joined by ``+`` or ``-``, and back.

``parse`` is the only place where a string becomes an objective; ``str(objective)`` is its exact inverse.
"""

import difflib
import re
from dataclasses import fields
from functools import lru_cache
from typing import Any, cast

from ordergrad import objectives
from ordergrad.objectives import Elementary, Objective, combine

__all__ = ["names", "parse"]

_NAMED: tuple[type[Elementary], ...] = (
    objectives.Mean,
    objectives.Gini,
    objectives.LMoment,
    objectives.Weights,
    objectives.Max,
    objectives.Min,
    objectives.Top,
    objectives.Bottom,
    objectives.Rank,
    objectives.TopBottom,
    objectives.Midrange,
    objectives.CVaR,
    objectives.UpperCVaR,
    objectives.Range,
    objectives.VaR,
    objectives.Quantile,
    objectives.Median,
    objectives.Trimmed,
    objectives.Winsorized,
    objectives.MaxRL,
    objectives.Wang,
    objectives.Power,
    objectives.Exponential,
)
_BY_NAME = {cls.name: cls for cls in _NAMED}
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_TERM = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<factor>{_NUMBER})\*)?(?P<name>[a-zA-Z_]\w*)"
    rf"(?P<arguments>(?::(?:[+-]?{_NUMBER}|[a-z]+))*)(?:@(?P<k>{_NUMBER}))?"
)


def names() -> list[str]:
    """Return the names that an objective string may use."""
    return list(_BY_NAME)


def parse(objective: str | Objective) -> Objective:
    """Return the objective that a string stands for; an objective is returned as it is.

    Args:
        objective: ``[c*]name[:number...][@K]`` terms joined by ``+`` or ``-``: ``"top:2@4"``,
            ``"0.7*mean+0.3*max@8"``, ``"mean-0.5*gini"``, ``"cvar:0.1"``. K may be real. Blanks around ``+``, ``-``,
            ``*``, ``:`` and ``@`` are ignored.

    Raises:
        ValueError: The string is not of that form, names no objective, or its numbers are out of range.
        TypeError: It is neither a string nor an objective.

    Example:
        >>> parse("0.7*mean+0.3*max@8")
        Mixture(parts=((0.7, Mean()), (0.3, Max(k=8))))
        >>> str(parse("cvar:0.1@16"))
        'cvar:0.1@16'
    """
    if isinstance(objective, Objective):
        return objective
    if not isinstance(objective, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"objective must be a string or an Objective; got {type(objective).__name__}")
    return _parse_text(objective)


@lru_cache(maxsize=1024)
def _parse_text(given: str) -> Objective:
    text = re.sub(r"\s*([-+*:@])\s*", r"\1", given.strip())
    every = re.search(rf"pass\^({_NUMBER})", text, re.IGNORECASE)
    if every is not None:
        raise ValueError(f"objective {given!r}: pass^{every[1]} is min@{every[1]} of rewards that are 0 or 1")
    terms: list[tuple[float, Objective]] = []
    position = 0
    while position < len(text) or not terms:
        match = _TERM.match(text, position)
        if match is None or (terms and not match["sign"]):
            hint = "; A..B is a schedule of `train llm`, elsewhere use anneal(A, B, t)" if ".." in text else ""
            raise ValueError(
                f"objective must be terms [c*]name[:number...][@K] joined by + or -; "
                f"got {given!r}, unreadable from {text[position:]!r}{hint}"
            )
        sign = -1.0 if match["sign"] == "-" else 1.0
        terms.append((sign * float(match["factor"] or 1), _elementary(match, given)))
        position = match.end()
    return combine(*terms)


def _elementary(match: re.Match[str], text: str) -> Elementary:
    cls = _BY_NAME.get(match["name"])
    if cls is None:
        unknown = f"{match['name']!r}{_hint(match)}"
        raise ValueError(f"objective {text!r} names no known objective: {unknown}; known: {', '.join(_BY_NAME)}")
    arguments = [_value(word) for word in match["arguments"].split(":")[1:]]
    allowed = [field.name for field in fields(cast(Any, cls))]
    options = {} if match["k"] is None else {"k": _value(match["k"])}
    if options and "k" not in allowed:
        raise ValueError(f"objective {text!r}: {cls.name} takes no @K, its comparison size is fixed")
    try:
        if len(arguments) > len(allowed) - ("k" in allowed) and cls is not objectives.Weights:
            raise TypeError("too many numbers")
        return cls(*arguments, **options)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(
            f"objective {text!r}: {match[0].lstrip('+-')!r} must be of the form {_form(cls)}{_example(cls)}"
        ) from error
    except ValueError as error:
        raise ValueError(f"objective {text!r}: {error}") from error


_MEANT = {
    "avar": "cvar",
    "tvar": "cvar",
    "es": "cvar",
    "cte": "cvar",
    "expected_shortfall": "cvar",
    "best": "max",
    "bon": "max",
    "best_of": "max",
    "worst": "min",
    "worst_of": "min",
    "average": "mean",
    "avg": "mean",
    "iqm": "range:0.25:0.75",
    "midmean": "range:0.25:0.75",
    "std": "gini",
    "variance": "gini",
}
"""Names of other places, and the objective that they stand for or come closest to."""


def _hint(match: re.Match[str]) -> str:
    """Return a hint for an unknown name."""
    name = match["name"].lower()
    if name == "pass" and match["k"]:
        return f" (pass@{match['k']} is max@{match['k']} of rewards that are 0 or 1)"
    if name == "grpo":
        return " (GRPO is 'mean' with scale='group' in the TRL, verl and SkyRL adapters)"
    if name in _MEANT:
        meant = _MEANT[name]
        if meant in _BY_NAME and meant not in ("mean", "gini"):
            several = {"max": "top", "min": "bottom"}.get(meant, meant) if match["arguments"] else meant
            meant = several + match["arguments"] + (f"@{match['k']}" if match["k"] else "")
        return f" (did you mean {meant!r}?)"
    close = difflib.get_close_matches(name, _BY_NAME, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _value(word: str) -> float | str:
    if word.isalpha():
        return word
    return int(word) if word.lstrip("+-").isdigit() else float(word)


def _example(cls: type[Elementary]) -> str:
    if cls is objectives.VaR:
        return ", such as var:0.1: the value at risk. Spreads are gini and lmoment:2"
    return ", such as cvar:0.1" if cls is objectives.CVaR else ""


def _form(cls: type[Elementary]) -> str:
    """Return the form of an objective's string, such as ``top:m@k`` or ``cvar:q[@k]``."""
    if cls is objectives.Weights:
        return "weights:number:number..."
    text = cls.name
    for field in fields(cast(Any, cls)):
        optional = field.name in cls.__dict__
        piece = f"@{field.name}" if field.name == "k" else f":{field.name}"
        text += f"[{piece}]" if optional else piece
    return text
