"""Tables and colours for a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

STYLES: Mapping[str, str] = {
    "queued": "yellow",
    "preprocessing": "cyan",
    "running": "blue",
    "paused": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "dim",
    "error_message": "red",
    "error_hint": "yellow",
    "warnings": "yellow",
}
"""Of a cell that is such a status, and of a fact with such a name."""
_WHOLE = frozenset({"job", "status", "progress", "seq", "at", "event", "created"})
"""Columns that are never wrapped, for a person copies them."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return rows of cells under their headings."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, no_wrap=column in _WHOLE, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return made


def grid(facts: Mapping[str, str]) -> Table:
    """Return facts beside their names."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in facts.items():
        made.add_row(name, Text(value, style=STYLES.get(name) or STYLES.get(value, "")))
    return made


def ended(status: str, lines: Sequence[str]) -> Text:
    """Return how a job ended, the first line in the colour of its status."""
    head, *rest = lines
    return Text("\n").join([Text(head, style=STYLES[status]), *map(Text, rest)])
