"""The command line's root, and how commands are added to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from ftactors import __version__
from ftactors.cli.edge import MEANINGS

Command = TypeVar("Command", bound=Callable[..., Any])

_EXIT_CODES = "\n".join(["Exit codes:", *(f"{code.value:5d}  {meaning}" for code, meaning in MEANINGS.items())])

app = typer.Typer(
    name="ftactors",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(*examples: str, name: str | None = None, group: typer.Typer = app) -> Callable[[Command], Command]:
    """Return what adds a function to the command line, with its docstring and the examples as help."""

    def add(function: Command) -> Command:
        title = "Example:" if len(examples) == 1 else "Examples:"
        epilog = "\n".join([title, *(f"$ {example}" for example in examples)])
        return group.command(name, help=reflowed(function.__doc__ or ""), epilog=epilog)(function)

    return add


def reflowed(text: str) -> str:
    """Return a docstring with each paragraph on one line, for the terminal to break."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        typer.echo(f"ftactors {__version__}")
        raise typer.Exit


_WHAT_IT_IS = """Fine-tune language models as durable jobs on Ray.

Where a Ray cluster runs, commands join it. Where none does, commands that need one start a Ray of their own, for as
long as they run; commands that only read look into the event log.

Each command takes --config FILE and --json, and has an example: ftactors COMMAND --help.
"""


@app.callback(help=reflowed(_WHAT_IT_IS))
def root(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Have options of the whole command line."""
