"""The scheduler gives out its log page by page, and tells who follows it when there is more."""

from __future__ import annotations

import asyncio

import pytest

from ftactors.log.errors import LogDamagedError
from ftactors.log.log import EventLog
from ftactors.log.memory import MemoryDisk, MemoryStorage
from ftactors.log.rows import Head, Row
from ftactors.log.verify import verified
from ftactors.runtime import log_desk
from ftactors.runtime.log_desk import ROWS_AT_MOST, LogDesk
from tests.log.examples import Owner, progress


class Desk:
    """A log with a desk before it, and a scheduler's pulse."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.owner = Owner(MemoryStorage(disk))
        self.pulse = asyncio.Event()
        self.desk = LogDesk(self.owner.log, self._changed)

    async def record(self, count: int) -> None:
        first = len(self.owner.state)
        seqs = [self.owner.record(progress("j1", first + step)) for step in range(count)]
        self.pulse.set()
        await self.owner.log.durable(seqs[-1])

    async def _changed(self) -> None:
        await self.pulse.wait()
        self.pulse.clear()


async def test_the_log_is_given_out_in_pages_that_verify():
    desk = Desk()
    await desk.record(ROWS_AT_MOST + 5)
    end = await desk.desk.log_end()
    first = await desk.desk.log_rows(0, 10 * ROWS_AT_MOST)
    second = await desk.desk.log_rows(first[-1][0])

    assert (len(first), len(second), len(await desk.desk.log_rows(2, 3))) == (ROWS_AT_MOST, 5, 3)
    assert type(first[0]) is tuple
    assert len(list(verified(map(Row._make, first + second), end.head))) == ROWS_AT_MOST + 5
    assert end == log_desk.LogEnd(Head(desk.owner.log.head.end, epoch=2), None)


async def test_who_follows_gets_what_comes_once_it_is_on_disk():
    desk = Desk()
    await desk.record(1)
    following = asyncio.create_task(desk.desk.log_newer(1))
    await asyncio.sleep(0)
    assert not following.done()
    await desk.record(2)

    assert [row[0] for row in await following] == [2, 3]
    assert [row[0] for row in await desk.desk.log_newer(0)] == [1, 2, 3]


async def test_who_follows_is_told_nothing_of_what_was_undone():
    disk = MemoryDisk(room=1)
    desk = Desk(disk)
    await desk.record(1)
    following = asyncio.create_task(desk.desk.log_newer(1))
    lost = asyncio.create_task(desk.record(1))
    await asyncio.wait([lost])
    disk.room = None
    await desk.record(1)

    assert lost.exception() is not None
    assert [Row._make(row).seq for row in await following] == [2]


async def test_who_follows_a_log_in_which_nothing_happens_is_answered_all_the_same(monkeypatch):
    monkeypatch.setattr(log_desk, "_LONGEST_WATCH_S", 0.01)

    assert await Desk().desk.log_newer(0) == []


async def test_a_damaged_log_is_given_out_as_it_is_with_the_reason_of_the_refusal():
    disk = MemoryDisk()
    desk = Desk(disk)
    await desk.record(3)
    disk.rows[1] = disk.rows[1]._replace(at=0.5)
    refused: list[object] = []
    log = EventLog(MemoryStorage(disk), on_undone=refused.append, on_fatal=refused.append)
    log.open()
    with pytest.raises(LogDamagedError):
        list(log.replay())
    damaged = LogDesk(log, desk._changed)
    end = await damaged.log_end()

    assert isinstance(end.refusal, LogDamagedError)
    assert end.head.end.seq == 3
    assert [Row._make(row).at for row in await damaged.log_rows(1, 1)] == [0.5]
