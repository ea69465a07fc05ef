"""Where a command's answer goes: to a person at a terminal, to a pipe, or to a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer
from pydantic import BaseModel

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Answers on stdout, and everything else on stderr.

    rich is loaded only where a person looks.
    """

    as_json: bool = False
    to_person: bool = False
    """Whether a person looks at the answer, at a terminal."""
    is_aside: bool = False
    """Whether lines are no part of the answer, and go to stderr too."""

    @classmethod
    def here(cls, *, as_json: bool) -> Output:
        """Return the output of this process."""
        return cls(as_json=as_json, to_person=not as_json and sys.stdout.isatty())

    def document(self, value: object) -> None:
        """Print one JSON document, on one line."""
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        typer.echo(json.dumps(value, ensure_ascii=False))

    def line(self, text: str) -> None:
        """Print a line of the answer."""
        typer.echo(text, err=self.is_aside)

    def say(self, text: str) -> None:
        """Tell the person, not the program, what is going on."""
        typer.echo(text, err=True)

    def rows(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
        """Print a table for a person, and lines of cells with tabs between them for a pipe."""
        if not self.to_person:
            for row in rows:
                self.line("\t".join(row))
            return
        from ftactors.cli.tables import table

        cells = [*rows]
        if cells:
            self.show(table(columns, cells, width=console_of_person().width))
        else:
            self.say(empty)

    def facts(self, facts: Mapping[str, str]) -> None:
        """Print what is known of one thing, a line for each."""
        if not self.to_person:
            for name, value in facts.items():
                self.line(f"{name}: {value}")
            return
        from ftactors.cli.tables import grid

        self.show(grid(facts))

    def show(self, renderable: RenderableType) -> None:
        """Print something made with rich."""
        console_of_person().print(renderable)


def console_of_person() -> Console:
    """Return the terminal as rich sees it."""
    from rich.console import Console

    return Console()
