"""Settings dataclasses as the options of commands."""

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from ordergrad.runs.errors import UserError
from ordergrad.runs.settings import Setting, settings_of
from ordergrad.runs.tables import json_values

Command = Callable[..., None]
AsJson = Annotated[bool, typer.Option("--json", help="Print a single JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")]
StopTexts = Annotated[list[str] | None, typer.Option(help="String that ends a completion (repeatable).")]
Template = Annotated[list[str] | None, typer.Option(help="Argument of the chat template, NAME=JSON (repeatable).")]


def print_json(content: Mapping[str, Any]) -> None:
    """Print the document of ``--json``: unknown numbers are null, paths are text."""
    typer.echo(json.dumps(json_values(content), default=str))


def options_from(kind: type) -> Callable[[Command], Command]:
    """Add to a command one option for each field of a settings dataclass that has a `Setting`.

    The command takes their values in its parameter ``settings``, a dictionary; its other parameters stay. A setting
    whose default depends on others is missing there unless it was given.
    """
    known = settings_of(kind)
    options = [_option(name, *known[name], getattr(kind, name)) for name in known]

    def wrap(command: Command) -> Command:
        @functools.wraps(command)
        def with_options(**given: Any) -> None:
            values = {name: given.pop(name) for name in known}
            missing = {name for name, (_, setting) in known.items() if setting.default and values[name] is None}
            command(settings={name: value for name, value in values.items() if name not in missing}, **given)

        hints = get_type_hints(command, include_extras=True)
        parameters = [
            p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY)
            for p in inspect.signature(command).parameters.values()
        ]
        place = [p.name for p in parameters].index("settings")
        parameters[place : place + 1] = options
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_options

    return wrap


def named_values(option: str, words: Sequence[str] | None) -> dict[str, Any]:
    """Return the values of a repeatable option NAME=JSON; what is no JSON is text.

    Raises:
        UserError: A word has another form.

    Example:
        >>> named_values("template", ["enable_thinking=false", "style=short"])
        {'enable_thinking': False, 'style': 'short'}
    """
    values: dict[str, Any] = {}
    for word in words or ():
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--{option} must be NAME=VALUE; got {word!r}")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def _option(name: str, kind: Any, setting: Setting, default: Any) -> inspect.Parameter:
    """Return the parameter of one setting, as Typer reads it."""
    metavar = None
    if get_origin(kind) is Literal:
        kind, metavar = str, "|".join(get_args(kind))
    if setting.default is not None:
        default, kind = None, kind | None
    shown = setting.default if setting.default is not None else default is not None and default is not False
    option = typer.Option(f"--{name.replace('_', '-')}", help=setting.help, show_default=shown, metavar=metavar)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
