"""Messages of the adapters about an objective in groups of a given size, each logged once."""

import logging
from functools import lru_cache

from ordergrad.objectives import Objective
from ordergrad.spec import parse
from ordergrad.weights import level_note

__all__ = ["note_levels"]

_logger = logging.getLogger(__name__)
_noted: set[str] = set()


@lru_cache(maxsize=256)
def note_levels(objective: str | Objective, n: int) -> None:
    """Log each level of an objective that a group of n cannot hold, the first time in a process.

    Args:
        objective: The objective in force; that of a schedule may change at every step.
        n: The group size.
    """
    for _, part in parse(objective).terms():
        note = level_note(part, n)
        if note and str(part) not in _noted:
            _noted.add(str(part))
            _logger.warning(note)
