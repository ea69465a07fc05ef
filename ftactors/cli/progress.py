"""How far a long reading is, for a person who waits for it; nobody else is told."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_WORTH_A_BAR = 20_000
"""So many rows take a quarter of a second."""


def shown_while(things: Iterable[T], *, total: int, doing: str) -> Iterator[T]:
    """Yield the things, with a bar on stderr where that is a terminal; it goes when they are through."""
    if total < _WORTH_A_BAR or not sys.stderr.isatty():
        yield from things
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(things, total=total, description=doing)
