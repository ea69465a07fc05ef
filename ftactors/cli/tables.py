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


NARROW = 110
"""Below so many columns, a terminal has no room for what a person can do without."""
_SPARED: Mapping[str, frozenset[str]] = {"now": frozenset({"model", "created"})}
"""Columns that a narrow terminal spares for the sake of another one; `status` shows what is in them."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, width: int = NARROW) -> Table:
    """Return rows of cells under their headings, for a terminal of so many columns."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    spared = frozenset().union(*(_SPARED.get(column, ()) for column in columns)) if width < NARROW else frozenset()
    shown = [index for index, column in enumerate(columns) if column not in spared]
    for index in shown:
        made.add_column(columns[index], no_wrap=columns[index] in _WHOLE, overflow="fold")
    for row in rows:
        made.add_row(*(Text(row[index], style=STYLES.get(row[index], "")) for index in shown))
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
