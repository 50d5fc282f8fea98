"""The command `ordergrad explain`: what objectives weigh."""

import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ordergrad.report.explain import Explanation, compare, draw, save_comparison, save_figure, shares, spark
from ordergrad.report.explore import page, state

__all__ = ["explain"]

_PICTURES = (".png", ".svg", ".pdf")


def explain(
    objective: Annotated[
        list[str], typer.Argument(help="Objective strings: cvar:0.1, top:2@4, mean-0.5*gini; several are compared.")
    ],
    n: Annotated[int | None, typer.Option("--n", help="Group size N.", show_default="16, or twice K")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the picture to this file (PNG, SVG, PDF).")] = None,
    web: Annotated[bool, typer.Option("--web", help="Open the first objective as an interactive page.")] = False,
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
    console = Console(highlight=False)
    if len(results) == 1:
        _show_one(results[0], console)
    else:
        console.print(_comparison_table(results, bar=20 if console.width >= 100 else 10))
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


def _open_page(result: Explanation, console: Console) -> None:
    file = Path(tempfile.mkdtemp(prefix="ordergrad-")) / "objective.html"
    file.write_text(page(), encoding="utf-8")
    address = file.as_uri() + state(str(result.objective), result.n)
    webbrowser.open(address)
    console.print(address, soft_wrap=True)


def _show_one(result: Explanation, console: Console) -> None:
    console.print(f"[bold]{result.objective}[/bold]  group size N = {result.n}, comparison size K = {result.k}")
    _show_note(result, console)
    for coefficient, text, sentence in result.terms:
        console.print(f"  {coefficient:g} × {text}: {sentence}")
    console.print("\n[bold]Spectrum[/bold]: the weight of each quantile of the reward, worst on the left")
    console.print(draw(result.objective, result.k, width=max(20, min(console.width - 12, 72))))
    console.print(_mass_line(result))
    console.print(_weight_table(result))
    console.print(_risk_table(result))


def _show_note(result: Explanation, console: Console) -> None:
    if result.note:
        console.print(f"[yellow]{result.note[0].upper()}{result.note[1:]}.[/]")


def _comparison_table(results: list[Explanation], bar: int) -> Table:
    """Return the table of several objectives, one a row, with spectra of `bar` characters."""
    title = f"What objectives weigh, worst outcomes on the left, in groups of {results[0].n}"
    caption = "value: of normal rewards, at this K and in the population that the objective is named after"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    longest = max(len(str(result.objective)) for result in results)
    table.add_column("objective", overflow="fold", min_width=min(longest, 13))
    table.add_column("K", justify="right")
    table.add_column("spectrum", min_width=bar, no_wrap=True)
    for heading in ("worst 10%", "best 10%", "value", "K = ∞"):
        table.add_column(heading, justify="right", min_width=7)
    for result in results:
        _, finite, population = result.risks[0]
        table.add_row(
            str(result.objective),
            str(result.k),
            spark(result.objective, result.k, bar),
            *(f"{share:.1%}" for share in shares(result.objective, result.k)[::2]),
            _decimals(finite),
            "" if population is None else _decimals(population),
        )
    return table


def _mass_line(result: Explanation) -> str:
    shares = ", ".join(f"{share:.0%} below u={level:.3g}" for share, level in result.mass)
    return f"Of its absolute mass lie {shares}." if shares else "It weighs nothing."


def _weight_table(result: Explanation) -> Table:
    """Return the table of rank and sample weights, long ones shortened in the middle."""
    table = Table(title="Weights, ascending ranks (1 = worst)", title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column(f"rank weight, K={result.k}", justify="right")
    table.add_column(f"sample weight, N={result.n}", justify="right")
    shown = range(result.n) if result.n <= 16 else [*range(8), None, *range(result.n - 4, result.n)]
    for row in shown:
        if row is None:
            table.add_row("…", "…", "…")
        else:
            alpha = f"{result.alpha[row]:.6g}" if row < result.k else ""
            table.add_row(str(row + 1), alpha, f"{result.w[row]:.6g}")
    return table


def _risk_table(result: Explanation) -> Table:
    """Return the table of the finite-K objective beside the population risk."""
    table = Table(title="Finite K against the population", title_justify="left")
    for heading in ("reward", f"objective at K={result.k}", "population risk", "difference"):
        table.add_column(heading, justify="left" if heading == "reward" else "right")
    for name, finite, population in result.risks:
        if population is None:
            table.add_row(name, _decimals(finite), "the objective itself", "0")
        else:
            table.add_row(name, _decimals(finite), _decimals(population), _decimals(finite - population, "+"))
    return table


def _decimals(number: float, sign: str = "") -> str:
    """Return a number with four decimals, zero without a minus."""
    return f"{round(number, 4) + 0:{sign}.4f}"
