"""Timing: two things in turn, so that whatever else the machine does hits both."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

Block = Callable[[], Awaitable[Sequence[float]]]
"""Measures one of the two for a while, and returns what it measured, one number or many."""
_BEGAN = time.perf_counter()


def say(text: str) -> None:
    """Tell the one who waits what is being done."""
    print(f"[{time.perf_counter() - _BEGAN:5.0f} s] {text}", file=sys.stderr, flush=True)


def stopwatch() -> Callable[[], float]:
    """Return what tells the seconds since now."""
    began = time.perf_counter()
    return lambda: time.perf_counter() - began


async def in_turn(first: Block, second: Block, rounds: int) -> tuple[float, float]:
    """Return the medians of two measurements whose blocks took turns; the first round is to warm up."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for block, numbers in zip((first, second), found, strict=True):
            measured = await block()
            if number > 0:
                numbers.extend(measured)
    return statistics.median(found[0]), statistics.median(found[1])


def chunks(count: int, size: int) -> Iterator[range]:
    """Yield the numbers below `count` in pieces."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
