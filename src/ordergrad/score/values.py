"""Values of the cells of a log: numbers, words for passed and failed, percentages, lists, conditions."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from ordergrad.runs.errors import UserError
from ordergrad.score.columns import Roles

SEPARATOR = "\x1f"
"""Between the parts of the id of a group that several columns name."""
_PASSED = ("true", "pass", "passed", "correct", "success", "succeeded", "solved", "yes")
_FAILED = ("false", "fail", "failed", "incorrect", "wrong", "failure", "unsolved", "no")


def usable(frame: pl.DataFrame, roles: Roles, source: str) -> tuple[dict[str, pl.Series], pl.Series, pl.Series]:
    """Return the columns that a score needs, why rows cannot be used, null where they can, and which are left out.

    Returns:
        ``reward`` (a list of several for rows that hold several samples), ``weight``, ``step``, ``group``, ``length``
        and ``format`` (null where they are not known), where the log has them; the reasons; and which rows are masked
        or do not meet a condition.

    Raises:
        UserError: A column has an unusable type.

    Example:
        >>> rows = pl.DataFrame({"reward": ["1", "x", "85%"], "mask": ["true", "true", "false"]})
        >>> good, reasons, masked = usable(rows, Roles({"reward": ("score",), "mask": ("keep",)}), "log.csv")
        >>> reasons.to_list(), masked.to_list()
        ([None, 'score is not a number: x', None], [False, False, True])
    """
    good: dict[str, pl.Series] = {}
    reasons = pl.Series("reason", [None], dtype=pl.String).extend_constant(None, frame.height)[1:]
    masked = pl.Series("masked", [False]).extend_constant(False, frame.height)[1:]
    for role, wanted in roles.wanted.items():
        masked = masked | ~_equals(frame[role], wanted)
    if "mask" in roles.paths:
        truth, _ = _numbers(frame["mask"], source, roles, "mask")
        masked = masked | (truth == 0).fill_null(False)
        neither = ~((truth == 0).fill_null(False) | (truth == 1).fill_null(False))
        reasons = _note(reasons, neither, f"{roles.name('mask')} is neither true nor false", frame["mask"])
    rewards, numbers = roles.of("reward"), list[pl.Series]()
    for role in (*rewards, "weight", "step"):
        if role not in roles.paths:
            continue
        values, missing = _numbers(frame[role], source, roles, role)
        single = values
        name = roles.name(role)
        if values.dtype.is_nested():
            if roles.lists == "sum":
                values = single = values.list.sum()
            elif role != "reward" or len(rewards) > 1:
                raise UserError(f"{source}: column {name} must hold numbers; it holds lists")
            else:
                ends = pl.struct(values).struct[0].list
                single = pl.select(pl.when(ends.min().is_finite() & ends.max().is_finite()).then(0.0).otherwise(np.inf))
                single = single.to_series()
        if role in rewards and len(rewards) > 1 and roles.partial:
            numbers.append(values.fill_nan(None))
            continue
        if role in rewards:
            numbers.append(values)
        else:
            good[role] = values.alias(role)
        reasons = _note(reasons, missing, f"{name} is missing")
        reasons = _note(reasons, single.is_null(), f"{name} is not a number", frame[role])
        reasons = _note(reasons, ~single.is_finite(), f"{name} is not finite", frame[role])
        if role == "weight":
            reasons = _note(reasons, values < 0, f"{name} is negative", frame[role])
    if numbers:
        if roles.partial and len(numbers) > 1:
            none = pl.select(pl.all_horizontal(part.is_null().alias(str(i)) for i, part in enumerate(numbers)))
            reasons = _note(reasons, none.to_series(), "every part of the reward is missing")
            numbers = [part.fill_null(0.0) for part in numbers]
        good["reward"] = _sum(numbers, roles.scales).alias("reward")
    for role in ("length", "format"):
        if role in roles.paths:
            good[role] = _numbers(frame[role], source, roles, role)[0].alias(role)
    if "text" in roles.paths:
        text = _text(frame["text"], source, roles.name("text"))
        good["length"] = text.str.len_chars().cast(pl.Float64).alias("length")
    good |= {role: frame[role] for role in roles.of("keep")}
    texts = [_text(frame[role], source, roles.name(role)) for role in roles.of("group")]
    for role, text in zip(roles.of("group"), texts, strict=True):
        reasons = _note(reasons, text.is_null() | (text == ""), f"{roles.name(role)} is missing")
    if texts:
        joined = pl.select(pl.concat_str(texts, separator=SEPARATOR)).to_series() if len(texts) > 1 else texts[0]
        good["group"] = joined.alias("group")
    return good, reasons.set(masked, None), masked


def _sum(numbers: Sequence[pl.Series], scales: Sequence[float]) -> pl.Series:
    if len(numbers) == 1 and scales[0] == 1:
        return numbers[0]
    total = numbers[0] * scales[0]
    for values, scale in zip(numbers[1:], scales[1:], strict=True):
        total = total + values * scale
    return total


def _note(reasons: pl.Series, where: pl.Series, text: str, shown: pl.Series | None = None) -> pl.Series:
    """Return the reasons with one more, for rows that have none yet; it shows what came."""
    where = where.fill_null(False) & reasons.is_null()
    if not where.any():
        return reasons
    if shown is not None and shown.dtype.is_nested():
        shown = pl.Series([json.dumps(value, default=str) for value in shown.to_list()])
    came = None if shown is None else shown.cast(pl.String).str.slice(0, 40).fill_null("")
    reason = pl.lit(text) if came is None else pl.format("{}: {}", pl.lit(text), came)
    return pl.select(pl.when(where).then(reason).otherwise(reasons)).to_series()


def _equals(values: pl.Series, wanted: Sequence[str]) -> pl.Series:
    """Return where values are one of those wanted, as text or as numbers."""
    if values.dtype.is_nested():
        texts = pl.Series([None if value is None else json.dumps(value) for value in values.to_list()], dtype=pl.String)
    else:
        texts = values.cast(pl.String)
    found = texts.str.strip_chars().is_in(list(wanted)).fill_null(False)
    numbers = pl.Series(list(wanted), dtype=pl.String).cast(pl.Float64, strict=False).drop_nulls()
    if len(numbers):
        found = found | texts.cast(pl.Float64, strict=False).is_in(numbers.to_list()).fill_null(False)
    return found


def _numbers(values: pl.Series, source: str, roles: Roles, role: str) -> tuple[pl.Series, pl.Series]:
    """Return a column as float64 or lists of it, null where it is not a number, and a mask of what is missing."""
    missing = values.is_null()
    if isinstance(values.dtype, (pl.List, pl.Array)):
        values = values.cast(pl.List(pl.Float64), strict=False)
        return values, missing | (values.list.len() == 0).fill_null(False)
    if values.dtype == pl.String:
        values = values.str.strip_chars()
        missing = missing | (values == "").fill_null(False)
        if roles.paths[role][0] in roles.decimal_comma:
            values = values.str.replace(",", ".", literal=True)
        numbers = values.cast(pl.Float64, strict=False)
        rest = numbers.is_null() & ~missing
        if rest.any():
            if values.filter(rest).str.starts_with("[").any():
                return _lists(values), missing | (values == "[]").fill_null(False)
            numbers = pl.select(pl.coalesce(numbers, _words(values))).to_series()
        return numbers, missing
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean or values.dtype == pl.Null):
        raise UserError(f"{source}: column {roles.name(role)} must hold numbers; it holds {values.dtype}")
    return values.cast(pl.Float64), missing


def _words(values: pl.Series) -> pl.Expr:
    """Return 1 and 0 for words that say passed and failed, and percentages as shares."""
    words = pl.lit(values.str.to_lowercase())
    percent = words.str.extract(r"^([+-]?[\d.]+(?:e[+-]?\d+)?)\s*%$").cast(pl.Float64, strict=False) / 100
    return pl.when(words.is_in(list(_PASSED))).then(1.0).when(words.is_in(list(_FAILED))).then(0.0).otherwise(percent)


def _lists(values: pl.Series) -> pl.Series:
    """Return JSON lists of numbers, null where a value is something else."""

    def decoded(text: str | None) -> list[float] | None:
        try:
            found: Any = json.loads(text) if text else None
        except ValueError:
            return None
        found = found if isinstance(found, list) else [found]
        return [float(x) for x in found] if all(isinstance(x, (int, float)) for x in found) else None

    return pl.Series(values.name, [decoded(text) for text in values.to_list()], dtype=pl.List(pl.Float64))


def _text(values: pl.Series, source: str, name: str) -> pl.Series:
    """Return a column as text; lists and objects, such as chat messages, as JSON."""
    if values.dtype == pl.Binary:
        raise UserError(f"{source}: column {name} must hold text or numbers; it holds {values.dtype}")
    if values.dtype.is_nested():
        encoded = pl.struct(values).struct.json_encode()
        return pl.select(pl.when(values.is_not_null()).then(encoded)).to_series()
    return values.cast(pl.String)
