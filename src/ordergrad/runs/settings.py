"""Settings of commands: a frozen dataclass whose fields carry their help text and their check.

```py
@dataclass(frozen=True)
class Training:
    steps: Annotated[int, Setting("Optimiser steps of each run.", at_least(1))] = 600
```

Commands turn each such field into an option, and `check_settings` checks the values.
"""

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from ordergrad.runs.errors import UserError

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Check:
    """A requirement on a value: its text, after "must", and whether a value meets it."""

    text: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Setting:
    """What is known about a field of a settings dataclass besides its type and default.

    Attributes:
        help: One line for the help of the command.
        check: What its value must satisfy.
        default: The default in words where it depends on other settings; the option is then left out unless given.
    """

    help: str
    check: Check | None = None
    default: str | None = None


POSITIVE = Check("be positive and finite", lambda x: 0 < x < math.inf)


def at_least(bound: float) -> Check:
    """Return the check ``x >= bound``."""
    return Check(f"be at least {bound}", lambda x: x >= bound)


def within(interval: str) -> Check:
    """Return the check that a number lies in an interval such as ``[0, 1]`` or ``(0, 1]``.

    Example:
        >>> within("(0, 1]").holds(0), within("(0, 1]").holds(1)
        (False, True)
    """
    low, high = map(float, interval[1:-1].split(","))
    return Check(
        f"lie in {interval}",
        lambda x: (low < x or (interval[0] == "[" and low == x)) and (x < high or (interval[-1] == "]" and x == high)),
    )


def finite(*, negative: bool = True) -> Check:
    """Return the check that a number is finite, and not negative unless allowed."""
    text = "be finite" if negative else "be finite and not negative"
    return Check(text, lambda x: math.isfinite(x) and (negative or x >= 0))


def settings_of(kind: type[Any]) -> dict[str, tuple[Any, Setting]]:
    """Return the type and the `Setting` of every field that has one."""
    hints = get_type_hints(kind, include_extras=True)
    found = {field.name: getattr(hints[field.name], "__metadata__", ()) for field in fields(kind)}
    return {name: (hints[name].__origin__, part) for name, (part, *_) in ((n, p) for n, p in found.items() if p)}


def defaults_of(kind: type[Any]) -> dict[str, Any]:
    """Return the defaults of a settings dataclass, for the fields that have one."""
    found = {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    made = {field.name: field.default_factory() for field in fields(kind) if field.default_factory is not MISSING}
    return found | made


def restored(kind: type[Settings], content: dict[str, Any]) -> Settings:
    """Return settings from their JSON values, perhaps of an older version: one that is missing has its default.

    Raises:
        UserError: There is a setting that this version does not have, or one without a default is missing.
    """
    known = {field.name for field in fields(cast(Any, kind))}
    if unknown := content.keys() - known:
        raise UserError(f"the run was made with settings of another version: {', '.join(sorted(unknown))}")
    if missing := known - content.keys() - defaults_of(kind).keys():
        raise UserError(f"the configuration of the run lacks {', '.join(sorted(missing))}")
    return kind(**{name: tuple(cast(Any, x)) if isinstance(x, list) else x for name, x in content.items()})


def check_settings(settings: object) -> None:
    """Check every field on its own, and that a field of type ``Literal`` has one of its values.

    Raises:
        UserError: A value does not meet its requirement.
    """
    for name, (kind, setting) in settings_of(settings.__class__).items():
        value, check = getattr(settings, name), setting.check
        if get_origin(kind) is Literal:
            check = Check(f"be one of {', '.join(get_args(kind))}", get_args(kind).__contains__)
        if check is not None and value is not None and not check.holds(value):
            raise UserError(f"{name} must {check.text}; got {value!r}")
