"""The tables of a score, from the content of ``results.json`` (see `ordergrad.score.folder`)."""

from collections.abc import Mapping, Sequence
from typing import Any

from ordergrad.runs.tables import Row, Table, count, estimate, interval, number, percent, text
from ordergrad.score.comparison import mixed_sizes
from ordergrad.spec import parse

__all__ = [
    "comparison_table",
    "curve_table",
    "log_table",
    "notes_of",
    "objective_table",
    "tail_table",
    "value_table",
]

Results = Mapping[str, Any]


def objective_table(results: Results) -> Table:
    """Return one row for each log and objective: its value, and what carries its gradient."""
    rows: list[Row] = []
    for log in results["logs"]:
        values = {row["objective"]: row for row in log["values"]}
        rows += [{"log": log["log"]} | row | values.get(row["objective"], {}) for row in log["signal"]]
    small = any(row["too_small"] for row in rows)
    columns = (
        text("log"),
        text("objective"),
        estimate("value", note="mean over groups of the unbiased estimate, ± half of its 95% interval over groups"),
        count("groups"),
        *((count("too_small", "too small", "groups smaller than K"),) if small else ()),
        percent("no_signal", "no signal", "share of groups in which all advantages are zero"),
        number(
            "effective", "effective", "rewards that carry the gradient of the other groups, (Σ|A|)² / ΣA²", digits=3
        ),
        percent("effective_share", "of all rows", "the same ratio over all rows, divided by their number"),
    )
    return Table("", columns, tuple(rows))


def value_table(results: Results) -> Table:
    """Return the value of every objective in every log."""
    table = objective_table(results)
    known = tuple(row for row in table.rows if "value" in row)
    sizes = {log[end] for log in results["logs"] for end in ("smallest", "largest") if log[end] is not None}
    open_ones = [name for name in results["objectives"] if parse(name).is_open] if len(sizes) > 1 else []
    caption = "Mean over groups of the unbiased estimate of each group ± half of its 95% interval over groups."
    if len(results["logs"]) > 1:
        caption += " The highest of each row is marked; where intervals overlap the order may be chance."
        if open_ones:
            caption += (
                f" Not marked: {', '.join(open_ones)}, at K = N of each group; with groups of different size they "
                "are other objectives. Comparisons are at one K."
            )
    wide = Table("Every objective under every log", table.columns, known, caption, unmarked=tuple(open_ones))
    return wide.pivot("objective", "log", "value", marks="best of row")


def curve_table(results: Results) -> Table:
    """Return max@k and pass@k of every log, one column each."""
    several = len(results["logs"]) > 1
    rows = tuple(
        row | {"column": f"{row['curve']}@k" + f" {log['log']}" * several}
        for log in results["logs"]
        for row in sorted(log["curves"], key=lambda row: row["curve"], reverse=True)
    )
    title = f"pass@k (reward ≥ {results['success']:g}) and max@k, ± half of the 95% interval"
    return Table(title, (count("k"), text("column"), estimate("value")), rows).pivot("k", "column", "value")


def tail_table(results: Results) -> Table:
    """Return statistics of all rewards of each log."""
    rows = tuple({"log": log["log"]} | row for log in results["logs"] for row in log["tails"])
    columns = (text("statistic"), text("log"), number("value"))
    table = Table("Tails and quantiles", columns, rows, "Of all rewards pooled, groups aside.")
    return table.pivot("statistic", "log", "value")


def comparison_table(results: Results) -> Table:
    """Return how logs differ from the first one."""

    def test(row: Row) -> str:
        if row["method"] == "paired":
            return f"paired, {row['pairs']:,} pairs"
        return "groups too small" if row["method"] == "none" else str(row["method"])

    rows = tuple(
        row | {"logs": f"{row['log']} − {row['against']}", "test": test(row)} for row in results["comparisons"]
    )
    caption = (
        "objectives without @K are compared at one K, the largest that the usual group of every log allows. "
        "Paired over groups of the same id where there are any, otherwise Welch's. p-values for each comparison alone."
    )
    columns = (
        text("logs", "difference"),
        text("objective"),
        number("difference", "estimate"),
        interval("95% interval"),
        number("p_value", "p", digits=2),
        text("test"),
    )
    return Table("Comparisons", columns, rows, caption)


def log_table(results: Results) -> Table:
    """Return the rows and groups of every log, and the moments of its rewards."""
    counts = ("rows", "used", "masked", "broken", "groups", "smallest", "largest")
    columns = (text("log"), *map(count, counts), *map(number, ("mean", "sd", "min", "max")))
    return Table("What was read", columns, tuple(results["logs"]), "smallest and largest: sizes of groups.")


def notes_of(log: Mapping[str, Any], objectives: Sequence[str]) -> list[str]:
    """Return what a reader of a log's values must know: rows and groups that were left out, mixed comparison sizes."""
    notes: list[str] = []
    if log["broken"]:
        notes.append(f"broken rows left out: {log['broken']:,}; broken.csv in the run's folder has the first.")
    if log["masked"]:
        notes.append(f"rows masked out: {log['masked']:,}.")
    too_small = max((row["too_small"] for row in log["values"]), default=0)
    if too_small:
        notes.append(f"groups too small for the largest comparison size: {too_small:,}.")
    mixed = mixed_sizes(log, objectives)
    return [*notes, f"{mixed}."] if mixed else notes
