"""The tables of a score, from the content of ``results.json`` (see `ordergrad.score.folder`)."""

from collections.abc import Mapping, Sequence
from typing import Any

from ordergrad.runs.tables import Row, Table, count, estimate, interval, number, percent, text
from ordergrad.score.comparison import mixed_sizes
from ordergrad.spec import parse

Results = Mapping[str, Any]
CURVE_NAMES = {"pass": "pass@k", "all": "pass^k", "max": "max@k"}


def objective_table(results: Results) -> Table:
    """Return one row for each log and objective: its value, and what carries its gradient."""
    rows: list[Row] = []
    for log in results["logs"]:
        values = {row["objective"]: row for row in log["values"]}
        others = {"log": log["log"], "low": None, "high": None}
        rows += [row | others | values.get(row["objective"], {}) for row in log["signal"]]
    small = any(row["too_small"] for row in rows)
    columns = (
        text("log"),
        text("objective"),
        estimate("value", note="mean over groups of the unbiased estimate, ± half of its 95% interval over prompts"),
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
    near = [name for name in results["objectives"] if not _apart(known, name)]
    caption = "Mean over groups of the unbiased estimate of each group ± half of its 95% interval over prompts."
    if len(results["logs"]) > 1:
        caption += " The highest of a row is marked if its interval lies above those of the others."
        if open_ones:
            caption += (
                f" Not marked: {', '.join(open_ones)}, at K = N of each group; with groups of different size they "
                "are other objectives. Comparisons are at one K."
            )
    wide = Table("Every objective under every log", table.columns, known, caption, unmarked=(*open_ones, *near))
    return wide.pivot("objective", "log", "value", marks="best of row")


def _apart(rows: Sequence[Row], objective: str) -> bool:
    """Return whether the interval of the highest value lies above those of the others."""
    found = [row for row in rows if row["objective"] == objective and row["value"] is not None]
    if any(row["low"] is None for row in found):
        return False
    best = max(found, key=lambda row: row["value"], default=None)
    return best is not None and all(row is best or row["high"] < best["low"] for row in found)


def curve_table(results: Results) -> Table:
    """Return pass@k, pass^k and max@k of every log, one column each."""
    several = len(results["logs"]) > 1
    rows = tuple(
        row | {"column": CURVE_NAMES[row["curve"]] + f" {log['log']}" * several}
        for log in results["logs"]
        for row in log["curves"]
    )
    title = "max@k, the expected best reward of k tries, ± half of the 95% interval"
    if any(row["curve"] == "pass" for row in rows):
        title = (
            f"One of k tries passes (pass@k), all of k pass (pass^k; reward ≥ {results['success']:g}), and max@k, "
            "± half of the 95% interval"
        )
    return Table(title, (count("k"), text("column"), estimate("value")), rows).pivot("k", "column", "value")


def step_table(results: Results, last: int | None = None, objectives: int | None = None) -> Table:
    """Return the values by step, the last step first; all, or so many of the last steps and first objectives."""
    shown = results["objectives"][:objectives]
    several = len(results["logs"]) > 1
    rows: list[Row] = []
    for log in results["logs"]:
        steps = sorted({row["step"] for row in log["steps"]}, reverse=True)[:last]
        name = f"{log['log']}, " if several else ""
        for step in steps if len(steps) > 1 else []:
            found = (row for row in log["steps"] if row["step"] == step and row["objective"] in shown)
            rows += [row | {"at": f"{name}{step:g}"} for row in found]
    title = "By step, the last first: values ± half of the 95% interval over the groups of the step"
    columns = (text("at", "step"), text("objective"), estimate("value"))
    return Table(title, columns, tuple(rows)).pivot("at", "objective", "value")


def tail_table(results: Results) -> Table:
    """Return statistics of all rewards of each log."""
    rows = tuple({"log": log["log"]} | row for log in results["logs"] for row in log["tails"])
    columns = (text("statistic"), text("log"), number("value"))
    table = Table("Tails and quantiles", columns, rows, "Of all rewards pooled, groups aside.")
    return table.pivot("statistic", "log", "value")


def comparison_table(results: Results) -> Table:
    """Return how logs differ from the first one."""
    rows: list[Row] = []
    for row in results["comparisons"]:
        tests = {"paired": f"paired, {row['pairs']:,} pairs", "none": "groups too small"}
        test = tests.get(row["method"], row["method"])
        rows.append(row | {"logs": f"{row['log']} − {row['against']}", "test": test})
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
    return Table("Comparisons", columns, tuple(rows), caption)


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
