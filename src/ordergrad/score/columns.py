"""The columns of a log: names, sums, nested fields and conditions, resolved against those of a file."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ordergrad.runs.errors import UserError
from ordergrad.score.files import Head

Path = tuple[str, ...]
"""A column, and the keys that lead to a field of its objects."""
Lists = Literal["samples", "sum"]
_OPTIONAL = ("mask", "weight", "step", "length", "format")


@dataclass(frozen=True)
class Columns:
    """The columns of a log.

    Attributes:
        group: The group of a sample: text, a number, or anything nested such as chat messages; ``a+b`` for several
            columns together. None makes all rows one group.
        reward: Its reward; ``a+b`` or ``0.5*a+b`` for sums.
        mask: Whether it counts: true or false.
        weight: Its importance weight, nonnegative.
        step: A number; the same group id at another step is another group.
        where: Conditions ``column=value`` on the rows that count; of one column any of the values.
        lists: What a list of rewards is: one ``samples`` each, or parts of one reward, to ``sum``.
        partial: Whether parts of a sum may be missing, as where a reward function does not apply to a prompt.
        length: How much was generated for it: a number of tokens, or the text itself.
        format: Whether its format is right: 1 or true.
    """

    group: str | None = "group"
    reward: str = "reward"
    mask: str | None = None
    weight: str | None = None
    step: str | None = None
    where: tuple[str, ...] = ()
    lists: Lists = "samples"
    partial: bool = False
    length: str | None = None
    format: str | None = None

    def text(self) -> str:
        """Describe the columns in words.

        Example:
            >>> Columns("input", "score", step="step").text()
            'group = input + step, reward = score'
        """
        group = " + ".join(filter(None, (*(self.group or "").split("+"), self.step if self.group else None)))
        parts = [f"group = {group}" if group else "no groups", f"reward = {' + '.join(self.reward.split('+'))}"]
        if self.step and not group:
            parts.append(f"step = {self.step}")
        parts += [f"{role} = {name}" for role in ("mask", "weight", "format") if (name := getattr(self, role))]
        return ", ".join([*parts, *(f"where {condition}" for condition in self.where)])


@dataclass(frozen=True)
class Roles:
    """The columns of a log, found in its files.

    Attributes:
        paths: Where the values of each role are: ``group`` and ``reward`` (and ``group 1``, ``reward 1``, ... where
            there are several), ``mask``, ``weight``, ``step``, ``where 0``, ..., ``length`` (a number) or ``text``,
            ``format``, ``keep 0``, ... (as they are).
        scales: The coefficients of the parts of the reward.
        wanted: The values that rows must have, by role.
        lists: As of `Columns`.
        partial: As of `Columns`.
        decimal_comma: The columns whose numbers have a decimal comma.
    """

    paths: dict[str, Path]
    scales: tuple[float, ...] = (1.0,)
    wanted: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    lists: Lists = "samples"
    partial: bool = False
    decimal_comma: frozenset[str] = frozenset()

    def name(self, role: str) -> str:
        """Return how a role's column is called in messages."""
        return ".".join(self.paths[role])

    @property
    def format_share(self) -> float:
        """The coefficient of the format in the reward, 0 if it is no part of it."""
        parts = zip(self.of("reward"), self.scales, strict=True)
        return sum(scale for role, scale in parts if self.paths[role] == self.paths.get("format"))

    def of(self, kind: str) -> list[str]:
        """Return the roles of a kind, such as ``reward`` and ``reward 1``."""
        return [role for role in self.paths if role.split()[0] == kind]


def resolve(columns: Columns, head: Head) -> Roles:
    """Find columns in a file.

    Raises:
        UserError: A column is missing; the message lists those that exist.
    """
    paths: dict[str, Path] = {}
    groups = [] if columns.group is None else split_sum(columns.group, head.columns)
    rewards = split_sum(columns.reward, head.columns)
    for kind, parts in (("group", groups), ("reward", rewards)):
        for i, (_, name) in enumerate(parts):
            paths[f"{kind} {i}" if i else kind] = _find(name, head, f"--{kind}")
    for role in _OPTIONAL:
        name = getattr(columns, role)
        if name is not None:
            path = _find(name, head, f"--{role}")
            paths["text" if role == "length" and _is_text(path, head) else role] = path
    wanted: dict[str, tuple[str, ...]] = {}
    for condition in columns.where:
        name, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--where must have the form column=value; got {condition!r}")
        path = _find(name.strip(), head, "--where")
        role = next((r for r in wanted if paths[r] == path), f"where {len(wanted)}")
        paths[role] = path
        wanted[role] = (*wanted.get(role, ()), value.strip())
    commas = head.dialect.decimal_comma if head.dialect else frozenset[str]()
    return Roles(paths, tuple(scale for scale, _ in rewards), wanted, columns.lists, columns.partial, commas)


def split_sum(text: str, found: Sequence[str]) -> list[tuple[float, str]]:
    """Return the columns that a sum names, with their coefficients.

    Example:
        >>> split_sum("accuracy+0.5*format", ["accuracy", "format"])
        [(1.0, 'accuracy'), (0.5, 'format')]
        >>> split_sum("a+b", ["a+b"])
        [(1.0, 'a+b')]
    """
    if text in found:
        return [(1.0, text)]
    parts: list[tuple[float, str]] = []
    for part in text.split("+"):
        scaled = re.fullmatch(r"\s*(-?\d*\.?\d+)\s*\*\s*(.+?)\s*", part)
        parts.append((float(scaled[1]), scaled[2]) if scaled and part not in found else (1.0, part.strip()))
    return parts


def _is_text(path: Path, head: Head) -> bool:
    """Return whether a column holds something other than numbers; those of CSV files are text that says one."""
    values = [found for value in head.values(path[0]) if (found := _field(value, path[1:])) is not None]
    if head.dialect is not None:
        return any(not re.fullmatch(r"\d+(\.\d+)?", str(value)) for value in values)
    return not all(isinstance(value, (int, float)) for value in values)


def _find(name: str, head: Head, option: str) -> Path:
    """Return where a column is, or a field of one."""
    if name in head.columns:
        return (name,)
    for end in range(len(name) - 1, 0, -1):
        if name[end] == "." and name[:end] in head.columns:
            keys = tuple(name[end + 1 :].split("."))
            if any(_field(value, keys) is not None for value in head.values(name[:end])) or not head.rows:
                return (name[:end], *keys)
            inner = sorted({f"{name[:end]}.{key}" for v in head.values(name[:end]) if isinstance(v, dict) for key in v})
            known = f"; it has {', '.join(inner)}" if inner else ""
            raise UserError(f"{head.file} has no field {name!r}{_near(name, inner)}{known}")
    hint = ", or --ungrouped if all its rows are one group" if option == "--group" else ""
    known = ", ".join(column or '"" (a column without a name)' for column in head.columns)
    raise UserError(
        f"{head.file} has no column {name!r}{_near(name, head.columns)}; it has {known}. "
        f"Name the right one by {option}{hint}"
    )


def _field(value: object, keys: Path) -> object:
    """Return a field of nested objects, also of objects as JSON text."""
    for key in keys:
        if isinstance(value, str) and value.startswith("{"):
            try:
                value = json.loads(value)
            except ValueError:
                return None
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def _near(name: str, known: Iterable[str]) -> str:
    lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), lower, 1)
    return f" (did you mean {lower[close[0]]!r}?)" if close else ""
