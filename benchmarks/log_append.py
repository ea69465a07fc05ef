"""How fast an event becomes durable, alone and in company."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from benchmarks.eventsourced import EventSourced
from benchmarks.measuring import in_turn, say, stopwatch
from benchmarks.scheduling import opened
from benchmarks.stories import STARTED, progressed, training
from benchmarks.table import Line, Target
from ftactors.core.events import Recorded
from ftactors.log.rows import START, row_of
from ftactors.runtime.scheduler import Scheduler


class _Reporters:
    """Jobs that train, and report."""

    def __init__(self, scheduler: Scheduler, jobs: int) -> None:
        self._scheduler = scheduler
        self._reports = [count(1) for _ in range(jobs)]
        scheduler.record(STARTED)
        for number in range(jobs):
            for event in training(number):
                scheduler.record(event)

    async def report(self, number: int) -> None:
        """Record the next report of a job, and return once it is durable."""
        seq = self._scheduler.record(progressed(number, next(self._reports[number])))
        await self._scheduler.log.durable(seq)

    async def report_often(self, number: int, times: int) -> None:
        """Record so many reports, one after the other."""
        for _ in range(times):
            await self.report(number)


async def one_at_a_time(directory: Path, appends: int, rounds: int) -> Line:
    """Measure one append after the other against the system calls that nobody can do without."""
    say("durable append, one at a time")
    row = row_of(Recorded(1, 1.7e9, 1, progressed(1, 1), 1), START.hash)
    plain = b"|".join(str(column).encode() for column in row[:-1]) + row.hash
    file = os.open(directory / "plain", os.O_WRONLY | os.O_CREAT, 0o600)

    async def raw() -> Sequence[float]:
        seconds: list[float] = []
        for _ in range(appends):
            took = stopwatch()
            os.write(file, plain)
            os.fdatasync(file)
            seconds.append(took())
        return seconds

    async with opened(directory / "one.db") as scheduler:
        reporters = _Reporters(scheduler, jobs=1)

        async def ours() -> Sequence[float]:
            seconds: list[float] = []
            for _ in range(appends):
                took = stopwatch()
                await reporters.report(0)
                seconds.append(took())
            return seconds

        append_s, raw_s = await in_turn(ours, raw, rounds)
    os.close(file)
    return Line(
        "durable append, one at a time, p50",
        f"{1e3 * append_s:.2f} ms",
        f"write + fdatasync {1e3 * raw_s:.2f} ms",
        append_s / raw_s,
        Target("at most", 2),
    )


async def in_groups(directory: Path, in_flight: int, times: int, saves: int, rounds: int) -> Line:
    """Measure many appends at once against saves of the `eventsourcing` library."""
    say(f"durable append, {in_flight} in flight")
    sourced = EventSourced(directory / "sourced.db")

    async def theirs() -> Sequence[float]:
        return [saves / sum(sourced.save(saves))]

    async with opened(directory / "groups.db") as scheduler:
        reporters = _Reporters(scheduler, in_flight)

        async def ours() -> Sequence[float]:
            took = stopwatch()
            await asyncio.gather(*(reporters.report_often(number, times) for number in range(in_flight)))
            return [in_flight * times / took()]

        appends, singles = await in_turn(ours, theirs, rounds)
    sourced.close()
    return Line(
        f"durable append, {in_flight} in flight",
        f"{appends:,.0f} events/s",
        f"eventsourcing {singles:,.0f} saves/s",
        appends / singles,
        Target("at least", 15),
    )
