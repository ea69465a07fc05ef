"""How fast an event becomes durable, alone and in company."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path

from benchmarks.eventsourced import EventSourced
from benchmarks.measuring import in_turn, say, stopwatch
from benchmarks.scheduling import fatal, opened
from benchmarks.stories import STARTED, progressed, training
from benchmarks.table import Line, Target
from ftactors.core.events import AnyEvent, Recorded
from ftactors.log.log import EventLog
from ftactors.log.rows import START, row_of
from ftactors.log.sqlite import SqliteStorage

Record = Callable[[AnyEvent], int]
"""Takes an event in, and returns its seq."""
_BURST = 16
"""The reports of one pull from a trainer, which are recorded together."""


class _Appending:
    """A log of its own, into which events go one after the other."""

    def __init__(self, path: Path) -> None:
        self.log = EventLog(SqliteStorage(path), on_undone=print, on_fatal=fatal)
        self.log.open()
        for _ in self.log.replay():
            raise AssertionError(f"{path} is not new")

    def record(self, event: AnyEvent) -> int:
        """Append an event."""
        seq = self.log.seq + 1
        self.log.append(Recorded(seq, 1.7e9 + seq, self.log.epoch, event, seq))
        return seq


class _Trainer:
    """One job's reports, as they come from its trainer."""

    def __init__(self, number: int, log: EventLog, record: Record) -> None:
        self._number, self._log, self._record = number, log, record
        self._reports = count(1)

    async def report(self, reports: int, times: int = 1) -> None:
        """Record so many reports and wait until they are durable, so many times."""
        for _ in range(times):
            for _ in range(reports):
                seq = self._record(progressed(self._number, next(self._reports)))
            await self._log.durable(seq)


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

    appending = _Appending(directory / "one.db")
    trainer = _Trainer(1, appending.log, appending.record)

    async def ours() -> Sequence[float]:
        seconds: list[float] = []
        for _ in range(appends):
            took = stopwatch()
            await trainer.report(1)
            seconds.append(took())
        return seconds

    append_s, raw_s = await in_turn(ours, raw, rounds)
    await appending.log.close()
    os.close(file)
    return Line(
        "durable append, one at a time, p50",
        f"{1e3 * append_s:.2f} ms",
        f"write + fdatasync {1e3 * raw_s:.2f} ms",
        append_s / raw_s,
        Target("at most", 2),
    )


async def in_groups(directory: Path, trainers: int, times: int, saves: int, rounds: int) -> list[Line]:
    """Measure many appends at once, by the log alone and by a scheduler, against saves of `eventsourcing`."""
    say(f"durable append, {trainers * _BURST:,} in flight")
    appending = _Appending(directory / "groups.db")
    alone = [_Trainer(number, appending.log, appending.record) for number in range(trainers)]
    async with opened(directory / "scheduled.db") as scheduler:
        scheduler.record(STARTED)
        for number in range(trainers):
            for event in training(number):
                scheduler.record(event)
        folded = [_Trainer(number, scheduler.log, scheduler.record) for number in range(trainers)]
        lines = [
            await _against_saves(directory, "pydantic, JSON, hash chain", alone, times, saves, rounds),
            await _against_saves(directory, "by a scheduler, with its fold", folded, times, saves, rounds),
        ]
    await appending.log.close()
    return lines


async def _against_saves(
    directory: Path, what: str, trainers: Sequence[_Trainer], times: int, saves: int, rounds: int
) -> Line:
    sourced = EventSourced(directory / "sourced.db")

    async def theirs() -> Sequence[float]:
        return [saves / sum(sourced.save(saves))]

    async def ours() -> Sequence[float]:
        took = stopwatch()
        work: list[Awaitable[None]] = [trainer.report(_BURST, times) for trainer in trainers]
        await asyncio.gather(*work)
        return [len(trainers) * _BURST * times / took()]

    appends, singles = await in_turn(ours, theirs, rounds)
    sourced.close()
    return Line(
        f"durable append, {len(trainers) * _BURST:,} in flight: {what}",
        f"{appends:,.0f} events/s",
        f"eventsourcing {singles:,.0f} saves/s",
        appends / singles,
        Target("at least", 15),
    )
