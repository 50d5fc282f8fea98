"""The command `ordergrad score`: objectives measured on reward logs, as tables and files."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ordergrad.commands.options import AsJson, Quiet, options_from, print_json
from ordergrad.runs.console import handling_errors, need_packages, reading_bars
from ordergrad.runs.errors import UserError
from ordergrad.runs.settings import check_settings
from ordergrad.runs.tables import number_text
from ordergrad.runs.terminal import show_table
from ordergrad.score.comparison import mixed_sizes
from ordergrad.score.settings import ScoreSettings
from ordergrad.score.tables import comparison_table, curve_table, objective_table, step_table, tail_table
from ordergrad.spec import parse

if TYPE_CHECKING:
    from ordergrad.score.opening import Log

_OBJECTIVES = ("mean", "max@4", "top:2@4", "maxrl", "cvar:0.1", "median")


@options_from(ScoreSettings)
def score(
    file: Annotated[
        list[str],
        typer.Argument(
            help="A log of any kind, a folder of them, a quoted pattern, or - for stdin.", show_default=False
        ),
    ],
    objective: Annotated[
        list[str] | None,
        typer.Option("--objective", "-o", help="What to measure (repeatable).", show_default=" ".join(_OBJECTIVES)),
    ] = None,
    k: Annotated[str | None, typer.Option("-k", help="Numbers of tries: 1,5,10.", show_default="powers of two")] = None,
    *,
    settings: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="Folder for all tables.", show_default="printed only")] = None,
    advantages: Annotated[Path | None, typer.Option(help="File for the rows with their advantages.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="File (.csv, .jsonl) for the prompts: keep, drop or resample, and a group size.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files and folders that are named.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure objectives on logs of rewards, and find the groups that carry a gradient."""
    console = Console(highlight=False, emoji=False, quiet=quiet or as_json)
    with handling_errors(console):
        objectives = _parsed(objective or _OBJECTIVES)
        ks = None if k is None else _tries(k)
        asked = ScoreSettings(**settings)
        check_settings(asked)
        if asked.weight is not None and asked.baseline != "leave_one_out":
            raise UserError(f"--weight needs --baseline leave_one_out; got {asked.baseline}")
        need_packages("reading logs", ("polars",), "score")
        from ordergrad.score.logs import Reading, RowStore, score_log, write_advantages
        from ordergrad.score.opening import open_logs

        logs = open_logs(file, asked)
        if advantages is not None:
            _check_advantages(advantages, logs, objectives, overwrite)
        if prompts is not None:
            _check_file("--prompts", prompts, (".csv", ".jsonl"), logs, overwrite)
            if logs[0].columns.group is None:
                raise UserError("--prompts needs groups; this log has none")

        from ordergrad.score.comparison import compare_logs
        from ordergrad.score.folder import check_folder, results_of, write_score
        from ordergrad.score.summary import Summary

        if out is not None:
            check_folder(out, overwrite=overwrite)
        with nullcontext() if advantages is None else RowStore(len(objectives)) as store:
            options: dict[str, Any] = {"keep": len(logs) > 1, "ks": ks, "store": store}
            options |= {name: getattr(asked, name) for name in ("success", "skip_broken", "baseline")}

            def read(objectives: Sequence[str]) -> list[tuple[Reading, Summary]]:
                with reading_bars([log.name for log in logs], console) as bars:
                    pairs = zip(logs, bars, strict=True)
                    return [score_log(log, objectives, report=report, **options) for log, report in pairs]

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
                console.print(f"{count:,} rows with advantages written to {escape(str(advantages))}")
        if prompts is not None:
            from ordergrad.score.prompts import write_prompts

            counts = write_prompts(logs[0], asked.success, scored[0][1].passes, prompts)
            shown = ", ".join(f"{count:,} to {action}" for action, count in counts.items())
            console.print(f"prompts written to {escape(str(prompts))}: {shown}")
        if out is not None:
            settings = {"logs": list(file), "objectives": objectives, "success": asked.success}
            settings |= {"columns": [vars(log.columns) for log in logs], "skip_broken": asked.skip_broken}
            write_score(out, settings, results)
            console.print(f"tables written to {escape(str(out))}")
        if as_json:
            print_json(results)


def _parsed(objectives: Sequence[str]) -> list[str]:
    """Return the objectives in their usual spelling, each once."""
    try:
        return list(dict.fromkeys(str(parse(objective)) for objective in objectives))
    except ValueError as error:
        raise UserError(str(error)) from error


def _tries(text: str) -> list[int]:
    """Return the numbers of tries that a list such as 1,5,10 names."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"-k must be whole numbers from 1 on, such as 1,5,10; got {text}")
    return sorted(set(map(int, parts)))


def _check_advantages(out: Path, logs: "Sequence[Log]", objectives: Sequence[str], overwrite: bool) -> None:
    """Check that advantages can be written."""
    from ordergrad.score.files import head

    file = logs[0].files[0]
    if len(logs) == 1 and (logs[0].load or file.suffix.lower() not in (".jsonl", ".ndjson", ".csv", ".parquet")):
        raise UserError(f"--advantages needs a log in JSON lines, CSV or Parquet; got {file}")
    if len(logs) == 1 and out.resolve() in {file.resolve() for file in logs[0].files}:
        raise UserError(f"--advantages must not be the log itself; got {out}")
    _check_file("--advantages", out, (file.suffix.lower(),), logs, overwrite)
    taken = {f"advantage({objective})" for objective in objectives} & set(head(file).columns)
    if taken:
        raise UserError(f"the log already has the column {min(taken)}")


def _check_file(option: str, out: Path, suffixes: Sequence[str], logs: "Sequence[Log]", overwrite: bool) -> None:
    """Check that a file about one log can be written."""
    if len(logs) != 1:
        raise UserError(f"{option} needs exactly one log; got {len(logs)}")
    if out.suffix.lower() not in suffixes:
        like = ", like the log" if len(suffixes) == 1 else ""
        raise UserError(f"{option} must end in {' or '.join(suffixes)}{like}; got {out}")
    if not out.parent.is_dir():
        raise UserError(f"{option} must lie in an existing folder; got {out}")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; add --overwrite to replace it")


def _show(console: Console, results: Mapping[str, Any], skip_broken: bool) -> None:
    for log in results["logs"]:
        console.print(f"\n[bold]{escape(log['log'])}[/]: {escape(_about(log))}")
        console.print(escape(log["read_as"]), style="dim")
        for finding in results["findings"]:
            if finding["log"] == log["log"]:
                console.print(f"- [bold]{escape(finding['text'])}[/] {escape(finding['advice'])}")
    table = objective_table(results)
    for last, log in zip([*[False] * (len(results["logs"]) - 1), True], results["logs"], strict=True):
        console.print(f"\n[bold]{escape(log['log'])}[/]" if len(results["logs"]) > 1 else "")
        show_table(console, table.where("log", log["log"]).without("log"), notes=last)
        mixed = mixed_sizes(log, results["objectives"])
        if mixed:
            console.print(escape(mixed), style="yellow")
    tables = [step_table(results, 8, 3), curve_table(results), tail_table(results), comparison_table(results)]
    for table in tables:
        if table.rows:
            console.print()
            show_table(console, table)
    count = sum(log["broken"] for log in results["logs"])
    if skip_broken and count:
        shown = results["broken"][:10]
        console.print(f"\n[yellow]{count:,} rows could not be used and were left out; the first {len(shown)}:[/]")
        for row in shown:
            console.print(f"  {escape(row['file'])}, {row['place']} {row['number']}: {escape(row['reason'])}")


def _about(log: Mapping[str, Any]) -> str:
    """Return in words what was read of a log, and the moments of its rewards."""
    least, most = log["smallest"], log["largest"]
    groups = f"{log['groups']:,} group{'' if log['groups'] == 1 else 's'} of {least}" if log["groups"] else "no groups"
    parts = [f"{log['rows']:,} rows", groups if least == most else f"{groups} to {most}"]
    text = ", ".join([*parts, *(f"{log[key]:,} {key}" for key in ("masked", "broken") if log[key])])
    if not log["used"]:
        return text
    spread = "" if log["sd"] is None else f" (standard deviation {number_text(log['sd'])})"
    ends = f"from {number_text(log['min'])} to {number_text(log['max'])}"
    return f"{text}\nreward {number_text(log['mean'])}{spread}, {ends}"
