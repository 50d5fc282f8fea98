"""The command `ordergrad explain`: what objectives weigh."""

import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ordergrad.commands.options import AsJson, print_json
from ordergrad.report.explain import Explanation, compare, draw, save_comparison, save_figure, shares, spark
from ordergrad.report.explore import page, state
from ordergrad.runs.tables import Column, Row, Table, count, decimals, number, percent, text
from ordergrad.runs.terminal import show_table

_PICTURES = (".png", ".svg", ".pdf")
_SHOWN = 16


def explain(
    objective: Annotated[
        list[str], typer.Argument(help="Objective strings: cvar:0.1, top:2@4, mean-0.5*gini; several are compared.")
    ],
    n: Annotated[int | None, typer.Option("--n", help="Group size N.", show_default="16, or twice K")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the picture to this file (PNG, SVG, PDF).")] = None,
    web: Annotated[bool, typer.Option("--web", help="Open the first objective as an interactive page.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what an objective weighs: ranks, samples, quantiles, and how far it is from the risk it is named after."""
    if plot is not None and plot.suffix.lower() not in _PICTURES:
        raise typer.BadParameter(f"--plot must end in one of {', '.join(_PICTURES)}; got {plot}")
    if plot is not None and not plot.parent.is_dir():
        raise typer.BadParameter(f"--plot must lie in an existing folder; got {plot}")
    try:
        results = compare(list(dict.fromkeys(objective)), n)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    console = Console(highlight=False, quiet=as_json)
    if as_json:
        print_json({"objectives": [_content(result) for result in results]})
    elif len(results) == 1:
        _show_one(results[0], console)
    else:
        show_table(console, comparison_table(results, bar=20 if console.width >= 100 else 10))
        for result in results:
            _show_note(result, console)
    if plot is not None:
        if len(results) == 1:
            save_figure(results[0], plot)
        else:
            save_comparison(results, plot)
        console.print(f"picture written to {plot}")
    if web:
        _open_page(results[0], console)


def _content(result: Explanation) -> dict[str, Any]:
    """Return what is known of an objective as plain values: what ``--json`` prints."""
    return {
        "objective": str(result.objective),
        "n": result.n,
        "k": result.k,
        "note": result.note,
        "terms": [{"coefficient": c, "term": str(term), "text": sentence} for c, term, sentence in result.terms],
        "rank_weights": list(map(float, result.alpha)),
        "sample_weights": list(map(float, result.w)),
        "risks": [{"reward": name, "finite": v, "population": whole} for name, v, whole in result.risks],
    }


def _open_page(result: Explanation, console: Console) -> None:
    file = Path(tempfile.mkdtemp(prefix="ordergrad-")) / "objective.html"
    file.write_text(page(), encoding="utf-8")
    address = file.as_uri() + state(str(result.objective), result.n)
    webbrowser.open(address)
    console.print(address, soft_wrap=True)


def _show_one(result: Explanation, console: Console) -> None:
    console.print(f"[bold]{result.objective}[/bold]  group size N = {result.n}, comparison size K = {result.k}")
    _show_note(result, console)
    for coefficient, name, sentence in result.terms:
        console.print(f"  {coefficient:g} × {name}: {sentence}")
    console.print("\n[bold]Spectrum[/bold]: the weight of each quantile of the reward, worst on the left")
    console.print(draw(result.objective, result.k, width=max(20, min(console.width - 12, 72))))
    parts = ", ".join(f"{share:.0%} below u={level:.3g}" for share, level in result.mass)
    console.print(f"Cumulative absolute weight: {parts}." if parts else "All weights are zero.")
    for table in (weight_table(result), risk_table(result)):
        console.print()
        show_table(console, table)


def _show_note(result: Explanation, console: Console) -> None:
    if result.note:
        console.print(f"[yellow]{result.note[0].upper()}{result.note[1:]}.[/]")


def comparison_table(results: list[Explanation], bar: int) -> Table:
    """Return several objectives, one a row, with spectra of `bar` characters."""
    columns = (
        text("objective"),
        count("k", "K"),
        Column("spectrum", "spectrum", lambda row: row["spectrum"]),
        percent("worst", "worst 10%"),
        percent("best", "best 10%"),
        decimals("value", note="for normal rewards, at this K"),
        decimals("population", "K = ∞", note="in the population that the objective is named after"),
    )
    rows: list[Row] = []
    for result in results:
        worst, _, best = shares(result.objective, result.k)
        _, finite, population = result.risks[0]
        row = {"objective": str(result.objective), "k": result.k, "spectrum": spark(result.objective, result.k, bar)}
        rows.append(row | {"worst": worst, "best": best, "value": finite, "population": population})
    return Table(f"Weights of outcomes, worst on the left, in groups of {results[0].n}", columns, tuple(rows))


def weight_table(result: Explanation) -> Table:
    """Return rank and sample weights, of large groups those at both ends."""
    columns = (
        count("rank"),
        number("alpha", f"rank weight, K={result.k}", digits=6),
        number("w", f"sample weight, N={result.n}", digits=6),
    )
    rows: list[Row] = [
        {"rank": i + 1, "alpha": float(result.alpha[i]) if i < result.k else None, "w": float(result.w[i])}
        for i in range(result.n)
    ]
    if result.n > _SHOWN:
        rows[8:-4] = [{}]
    return Table("Weights, ascending ranks (1 = worst)", columns, tuple(rows))


def risk_table(result: Explanation) -> Table:
    """Return the finite-K objective beside the population risk."""
    columns = (
        text("reward"),
        decimals("finite", f"objective at K={result.k}"),
        decimals("population", "population risk"),
        decimals("difference", sign="+"),
    )
    rows: tuple[Row, ...] = tuple(
        {"reward": name, "finite": finite, "population": finite if population is None else population}
        | {"difference": 0.0 if population is None else finite - population}
        for name, finite, population in result.risks
    )
    return Table("Finite K against the population", columns, rows)
