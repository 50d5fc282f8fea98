"""The command `ordergrad score`: what reward logs say about objectives, in tables and files."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ordergrad.commands.options import options_from
from ordergrad.runs.console import ending_well, need_packages, plain, reading_bars
from ordergrad.runs.errors import UserError
from ordergrad.runs.settings import check_settings
from ordergrad.score.comparison import mixed_sizes
from ordergrad.score.settings import ScoreSettings
from ordergrad.spec import parse

if TYPE_CHECKING:
    from ordergrad.score.logs import Log

__all__ = ["score"]

_OBJECTIVES = ("mean", "max@4", "top:2@4", "maxrl", "cvar:0.1", "median")


@options_from(ScoreSettings)
def score(
    file: Annotated[
        list[str],
        typer.Argument(help="A log (JSONL, CSV, Parquet), a folder of them, or a quoted pattern.", show_default=False),
    ],
    objective: Annotated[
        list[str] | None,
        typer.Option("--objective", "-o", help="What to measure (repeatable).", show_default=" ".join(_OBJECTIVES)),
    ] = None,
    *,
    settings: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="Folder for all tables.", show_default="printed only")] = None,
    advantages: Annotated[Path | None, typer.Option(help="File for the rows with their advantages.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out and --advantages hold.")] = False,
) -> None:
    """Tell what objectives are worth in logs of rewards, and which groups a gradient could learn from."""
    console = Console(highlight=False, emoji=False)
    with ending_well(console):
        objectives = _parsed(objective or _OBJECTIVES)
        asked = ScoreSettings(**settings)
        check_settings(asked)
        if asked.weight is not None and asked.baseline != "leave_one_out":
            raise UserError(f"--weight needs --baseline leave_one_out; got {asked.baseline}")
        need_packages("reading logs", ("polars",), "score")
        from ordergrad.score.logs import Reading, RowStore, open_logs, score_log, write_advantages

        logs = open_logs(file, asked)
        if advantages is not None:
            _check_advantages(advantages, logs, objectives, overwrite)

        from ordergrad.score.comparison import compare_logs
        from ordergrad.score.folder import check_folder, results_of, write_score
        from ordergrad.score.summary import Summary

        if out is not None:
            check_folder(out, overwrite=overwrite)
        with nullcontext() if advantages is None else RowStore(len(objectives)) as store:

            def read(objectives: Sequence[str]) -> list[tuple[Reading, Summary]]:
                with reading_bars([log.name for log in logs], console) as bars:
                    return [
                        score_log(
                            log,
                            objectives,
                            success=asked.success,
                            skip_broken=asked.skip_broken,
                            keep=len(logs) > 1,
                            store=store,
                            baseline=asked.baseline,
                            report=report,
                        )
                        for log, report in zip(logs, bars, strict=True)
                    ]

            scored = read(objectives)
            comparisons = [
                {"log": logs[index].name, "against": logs[0].name} | row
                for index, row in compare_logs(
                    [summary for _, summary in scored], lambda named: [summary for _, summary in read(named)]
                )
            ]
            results = results_of(scored, objectives, asked.success, comparisons)
            _show(console, results, asked.skip_broken)
            if advantages is not None and store is not None:
                with console.status(f"writing {advantages}"):
                    count = write_advantages(logs[0], objectives, store, advantages)
                console.print(f"{count:,} rows with advantages written to {plain(str(advantages))}")
        if out is not None:
            settings = {
                "logs": list(file),
                "objectives": objectives,
                "success": asked.success,
                "columns": [vars(log.columns) for log in logs],
                "skip_broken": asked.skip_broken,
            }
            write_score(out, settings, results)
            console.print(f"tables written to {plain(str(out))}")


def _parsed(objectives: Sequence[str]) -> list[str]:
    """Return the objectives in their usual spelling, each once."""
    try:
        return list(dict.fromkeys(str(parse(objective)) for objective in objectives))
    except ValueError as error:
        raise UserError(str(error)) from error


def _check_advantages(out: Path, logs: "Sequence[Log]", objectives: Sequence[str], overwrite: bool) -> None:
    """Check that advantages can be written."""
    from ordergrad.score.reading import found_columns

    if len(logs) != 1:
        raise UserError(f"--advantages needs exactly one log; got {len(logs)}")
    suffix = logs[0].files[0].suffix
    if out.suffix.lower() != suffix.lower():
        raise UserError(f"--advantages must end in {suffix}, like the log; got {out}")
    if not out.parent.is_dir():
        raise UserError(f"--advantages must lie in an existing folder; got {out}")
    if out.resolve() in {file.resolve() for file in logs[0].files}:
        raise UserError(f"--advantages must not be the log itself; got {out}")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; add --overwrite to replace it")
    taken = {f"advantage({objective})" for objective in objectives} & set(found_columns(logs[0].files[0]))
    if taken:
        raise UserError(f"the log already has the column {min(taken)}")


def _show(console: Console, results: Mapping[str, Any], skip_broken: bool) -> None:
    for log in results["logs"]:
        _show_log(console, log)
    _show_curves(console, results)
    _show_tails(console, results)
    if results["comparisons"]:
        _show_comparisons(console, results)
    if skip_broken:
        _show_broken(console, results)


def _show_log(console: Console, log: Mapping[str, Any]) -> None:
    """Print what one log holds, and the table of its objectives."""
    least, most = log["smallest"], log["largest"]
    groups = f"{log['groups']:,} group{'' if log['groups'] == 1 else 's'} of {least}" if log["groups"] else "no groups"
    parts = [f"{log['rows']:,} rows", groups if least == most else f"{groups} to {most}"]
    parts += [f"{log[key]:,} {key}" for key in ("masked", "broken") if log[key]]
    console.print(f"\n[bold]{plain(log['log'])}[/]: {', '.join(parts)}")
    if log["used"]:
        spread = "" if log["sd"] is None else f" (standard deviation {_number(log['sd'])})"
        ends = f"from {_number(log['min'])} to {_number(log['max'])}"
        console.print(f"reward {_number(log['mean'])}{spread}, {ends}")
    by_name = {row["objective"]: row for row in log["values"]}
    small = any(row["too_small"] for row in (*log["values"], *log["signal"]))
    table = Table()
    table.add_column("objective", overflow="fold")
    last = ("no\nsignal", "effective", "of all\nrows")
    for heading in ("value", "±", "groups", *(["too\nsmall"] if small else []), *last):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in log["signal"]:
        of_value = by_name.get(row["objective"], {})
        table.add_row(
            plain(row["objective"]),
            _number(of_value.get("value")),
            _half(of_value),
            f"{of_value.get('groups', row['groups']):,}",
            *([f"{of_value.get('too_small', row['too_small']):,}"] if small else []),
            _percent(row["no_signal"]),
            _number(row["effective"], 3),
            _percent(row["effective_share"]),
        )
    console.print(table)
    console.print(
        "value: mean over groups of the unbiased estimate, ± half of its 95% interval; no signal: share of groups with "
        "all advantages zero; effective: rewards that carry the gradient of the other groups, (Σ|A|)² / ΣA²",
        style="dim",
    )
    mixed = mixed_sizes(log, list(by_name))
    if mixed:
        console.print(plain(mixed), style="yellow")


def _show_curves(console: Console, results: Mapping[str, Any]) -> None:
    """Print pass@k and max@k of all logs."""
    table = Table()
    table.add_column("k", justify="right")
    ks = sorted({row["k"] for log in results["logs"] for row in log["curves"]})
    for log in results["logs"]:
        name = f"\n{plain(log['log'])}" if len(results["logs"]) > 1 else ""
        table.add_column(f"pass@k{name}", justify="right", overflow="fold")
        table.add_column(f"max@k{name}", justify="right", overflow="fold")
    for k in ks:
        cells: list[str] = []
        for log in results["logs"]:
            for curve in ("pass", "max"):
                row = next((row for row in log["curves"] if row["k"] == k and row["curve"] == curve), None)
                cells.append(" ± ".join(filter(None, (_number(row["value"]), _half(row)))) if row else "")
        table.add_row(str(k), *cells)
    if ks:
        console.print(f"\npass@k (reward ≥ {results['success']:g}) and max@k, ± half of the 95% interval")
        console.print(table)


def _show_tails(console: Console, results: Mapping[str, Any]) -> None:
    """Print statistics of all rewards of each log."""
    table = Table()
    table.add_column("statistic")
    for log in results["logs"]:
        table.add_column(plain(log["log"]), justify="right", overflow="fold")
    statistics = {row["statistic"]: None for log in results["logs"] for row in log["tails"]}
    for statistic in statistics:
        cells = [{row["statistic"]: row["value"] for row in log["tails"]}.get(statistic) for log in results["logs"]]
        table.add_row(statistic, *map(_number, cells))
    if statistics:
        console.print("\nAll rewards together, groups aside")
        console.print(table)


def _show_comparisons(console: Console, results: Mapping[str, Any]) -> None:
    """Print how logs differ from the first."""
    rows, table = results["comparisons"], Table()
    for heading in ("log", "objective"):
        table.add_column(heading, overflow="fold", min_width=len(heading) + 1)
    for heading in ("difference", "95% interval", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("test, groups")
    tests = {"none": "groups too small"}
    for row in rows:
        method = row["method"]
        table.add_row(
            plain(row["log"]),
            plain(row["objective"]),
            _number(row["difference"]),
            "" if row["low"] is None else f"{_number(row['low'], 3)} to {_number(row['high'], 3)}",
            _number(row["p_value"], 2),
            f"paired, {row['pairs']:,}" if method == "paired" else tests.get(method, method),
        )
    console.print(f"\nHow much higher than in {plain(rows[0]['against'])} (p-values for each comparison alone)")
    console.print(table)
    if any(row["objective"] not in results["objectives"] for row in rows):
        console.print(
            "objectives without @K are compared at one K, the largest that the usual group of every log allows",
            style="dim",
        )


def _show_broken(console: Console, results: Mapping[str, Any]) -> None:
    count = sum(log["broken"] for log in results["logs"])
    if count:
        shown = results["broken"][:10]
        console.print(f"\n[yellow]{count:,} rows could not be used and were left out; the first {len(shown)}:[/]")
        for row in shown:
            console.print(f"  {plain(row['file'])}, {row['place']} {row['number']}: {plain(row['reason'])}")


def _half(row: Mapping[str, Any]) -> str:
    """Return half of the 95% interval of a row, if it is known."""
    known = row.get("low") is not None and row.get("high") is not None
    return _number((row["high"] - row["low"]) / 2, 2) if known else ""


def _number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:.{digits}g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
