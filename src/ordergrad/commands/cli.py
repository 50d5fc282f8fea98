"""The ``ordergrad`` command."""

import sys
from typing import Annotated

try:
    import rich  # noqa: F401  # pyright: ignore[reportUnusedImport]
    import typer
except ImportError as error:  # pragma: no cover
    raise SystemExit(f"the ordergrad command needs the extra 'cli': pip install 'ordergrad[cli]' ({error})") from None

from ordergrad import __version__
from ordergrad.commands.advise import advise
from ordergrad.commands.eval import evaluate
from ordergrad.commands.explain import explain
from ordergrad.commands.play import play
from ordergrad.commands.report import report
from ordergrad.commands.score import score
from ordergrad.commands.train_llm import llm
from ordergrad.commands.train_rl import rl
from ordergrad.runs.encoding import spell_out

_HELP = {"help_option_names": ["-h", "--help"]}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ordergrad {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Optimise beyond the mean: order-statistic objectives for policy gradients."""
    spell_out(sys.stdout, sys.stderr)


train = typer.Typer(
    no_args_is_help=True, context_settings=_HELP, help="Train on an objective, and compare with others."
)
app = typer.Typer(no_args_is_help=True, context_settings=_HELP, pretty_exceptions_enable=False)
app.callback()(_main)
for command in (explain, score, advise, play, report):
    app.command()(command)
app.command("eval")(evaluate)
for command in (rl, llm):
    train.command()(command)
app.add_typer(train, name="train")
