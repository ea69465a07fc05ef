"""The table that a benchmark prints: what was measured, what it was measured against, and what is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

_HEADINGS = ("what", "ftactors", "against", "ratio", "target", "")


@dataclass(frozen=True, slots=True)
class Target:
    """A limit that a number keeps."""

    bound: Literal["at most", "at least"]
    limit: float
    unit: str = "×"

    def __str__(self) -> str:
        """Return the target as the table shows it."""
        return f"{'≤' if self.bound == 'at most' else '≥'} {self.limit:g} {self.unit}"

    def is_met(self, value: float) -> bool:
        """Return whether a value keeps the limit."""
        return value <= self.limit if self.bound == "at most" else value >= self.limit


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was measured."""

    what: str
    ours: str
    baseline: str
    value: float
    """What the target is about: a ratio, or a number in the target's unit."""
    target: Target

    @property
    def cells(self) -> tuple[str, ...]:
        """The line, as the table shows it."""
        met = "met" if self.target.is_met(self.value) else "NOT met"
        return (self.what, self.ours, self.baseline, f"{self.value:.3g} {self.target.unit}", str(self.target), met)


def table(lines: Iterable[Line]) -> str:
    """Return the lines as a table in Markdown that is readable as text, too."""
    rows = [_HEADINGS, *(line.cells for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return "\n".join([texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]])
