"""Whether two splits share rows, as far as their names tell: `train[:90%]` and `train[90%:]` do not."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_SLICE = re.compile(r"(?P<split>[^\[]+)\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\]")


class _Cut(NamedTuple):
    start: float
    stop: float
    unit: str
    """`%` or rows; nothing where the cut has no ends."""


def overlap(one: str, other: str) -> bool:
    """Return whether two splits share rows.

    Slices whose ends cannot be compared before the rows are counted, such as `[:10%]` and `[500:]`, are taken to share
    none.
    """
    if one.partition("[")[0] != other.partition("[")[0]:
        return False
    if one == other or "[" not in one or "[" not in other:
        return True
    cut, against = _cut(one), _cut(other)
    if cut is None or against is None or (cut.unit and against.unit and cut.unit != against.unit):
        return False
    return max(cut.start, against.start) < min(cut.stop, against.stop)


def _cut(split: str) -> _Cut | None:
    """Return the rows or percents that a slice names; None where that takes the number of rows, or it names none."""
    found = _SLICE.fullmatch(split)
    if found is None:
        return None
    ends = [end for end in (found["start"], found["stop"]) if end is not None]
    units = {"%" if end.endswith("%") else "rows" for end in ends}
    if len(units) > 1 or any(end.startswith("-") and not end.endswith("%") for end in ends):
        return None
    start, stop = (None if end is None else _from_the_front(end) for end in (found["start"], found["stop"]))
    return _Cut(start or 0, math.inf if stop is None else stop, next(iter(units), ""))


def _from_the_front(end: str) -> int:
    number = int(end.removesuffix("%"))
    return number + 100 if number < 0 else number
