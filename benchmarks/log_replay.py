"""How fast a log becomes a state again, and how much memory that state takes."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path

import psutil

from benchmarks.eventsourced import EventSourced
from benchmarks.measuring import say, stopwatch
from benchmarks.scheduling import opened
from benchmarks.stories import OPENED, STARTED, Filler, completing, ended, service
from benchmarks.table import Line, Target
from ftactors.log.sqlite import SqliteStorage

_MB = 1e6
_TAIL = 20
"""A snapshot is due after a twentieth of the log, so it is that old at most when it is needed."""


async def replay(directory: Path, events: int, sourced_jobs: int) -> list[Line]:
    """Measure the opening of a long log, from zero and from the oldest snapshot that there can be."""
    path = directory / "long.db"
    say(f"replay: a log of {events:,} events is written")
    stories, filler = service(events + events // _TAIL), Filler(SqliteStorage(path))
    filler.write(stories, events)
    say(f"replay: {sourced_jobs:,} jobs of eventsourcing are written")
    sourced = EventSourced(directory / "sourced-long.db")
    sourced.fill(completing(number, number % 91) for number in range(sourced_jobs))  # 10 to 100 events a job, as ours
    say("replay: from zero")
    theirs_s = [_per_event(sourced)]
    took = stopwatch()
    async with opened(path, snapshots=True):
        ours_s = took()
    theirs_s.append(_per_event(sourced))  # before and after ours
    sourced.close()
    say("replay: from a snapshot")
    filler.write(stories, events // _TAIL)
    took = stopwatch()
    async with opened(path, snapshots=True):
        snapshot_s = took()
    theirs = statistics.median(theirs_s)
    return [
        Line(
            f"replay of {events:,} events from zero",
            f"{1e6 * ours_s / events:.1f} µs an event, {ours_s:.1f} s",
            f"eventsourcing {1e6 * theirs:.1f} µs an event",
            theirs / (ours_s / events),
            Target("at least", 3),
        ),
        Line(
            "replay of as many, and a twentieth more, from a snapshot of as many",
            f"{snapshot_s:.2f} s",
            f"from zero {ours_s:.1f} s",
            ours_s / snapshot_s,
            Target("at least", 5),
        ),
    ]


def _per_event(sourced: EventSourced) -> float:
    took = stopwatch()
    return 1 / (sourced.replay() / took())


def finished_jobs(path: Path, jobs: int) -> None:
    """Write a log of so many finished jobs."""
    say(f"a log of {jobs:,} finished jobs is written")
    events = chain((OPENED, STARTED), *map(ended, range(jobs)))
    Filler(SqliteStorage(path)).write(events)


async def memory(path: Path, jobs: int) -> Line:
    """Measure how a process grows by folding a log of finished jobs, and leave a snapshot of it."""
    say("memory of a scheduler")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        grown = processes.submit(_grown, path).result()
    per_100_000 = grown / jobs * 100_000 / _MB
    return Line(
        f"memory of the scheduler, {jobs:,} finished jobs",
        f"{grown / _MB:.0f} MB",
        "the same process before",
        per_100_000,
        Target("at most", 400, "MB for 100,000"),
    )


def _grown(path: Path) -> int:
    """Return by how many bytes this process grew while it folded a log."""

    async def fold() -> int:
        async with opened(path.with_name("empty.db")):  # all is imported, and has been used
            before = _resident()
        async with opened(path, snapshots=True):
            return _resident() - before

    return asyncio.run(fold())


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
