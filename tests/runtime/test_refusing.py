"""What a scheduler actor does when its log is damaged, too new, taken by another, or not to be had yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ftactors.core.errors import LogRefusedError
from ftactors.core.events import LogOpened
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import JobStatus
from ftactors.log.errors import LogDamagedError, LogTakenError, LogTooNewError
from ftactors.log.memory import MemoryDisk, MemoryStorage
from ftactors.log.rows import START, Head, chained
from ftactors.runtime.actor import SchedulerActor
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.runtime.scheduler import Scheduler
from tests.core.histories import JOB, NODE, opened, submitted
from tests.log.examples import chain, progress

RULES = ServiceConfig(job_queue_poll_interval_seconds=0.02)


class HeldStorage(MemoryStorage):
    """A log that another process holds at the first try."""

    tries = 0

    def open(self) -> Head:
        type(self).tries += 1
        if type(self).tries == 1:
            raise LogRefusedError("the log is held by pid 7 on host h")
        return super().open()


def actor(
    disk: MemoryDisk, storage: Callable[[MemoryDisk], MemoryStorage] = MemoryStorage
) -> tuple[SchedulerActor, MemoryCluster]:
    cluster = MemoryCluster([NODE])

    def make(_: ServiceConfig) -> tuple[Scheduler, LogOpened]:
        return Scheduler(storage(disk), cluster, on_fatal=lambda error: pytest.fail(str(error))), opened()

    return SchedulerActor(RULES, make), cluster


async def with_two_jobs() -> MemoryDisk:
    """Return a disk with the log of a service that has accepted two jobs."""
    disk = MemoryDisk()
    served, cluster = actor(disk)
    cluster.reachable = False  # so that neither is placed
    await served.ask("start", RULES, "someone", by_owner=True)
    await served.ask("submit", submitted())
    await served.ask("submit", submitted("ftjob-2", new_model_id="other"))
    await ended(served)
    return disk


async def ended(served: SchedulerActor) -> None:
    served._life.cancel()
    await asyncio.gather(served._life, return_exceptions=True)
    if served._scheduler is not None:
        await served._scheduler.close()


async def refused(served: SchedulerActor, method: str, *args: Any, **options: Any) -> LogRefusedError:
    with pytest.raises(LogRefusedError) as caught:
        await served.ask(method, *args, **options)
    return caught.value


async def test_a_damaged_log_is_read_up_to_the_damage_and_nothing_is_written():
    disk = await with_two_jobs()
    last = next(row for row in disk.rows if row.job_id == "ftjob-2")
    disk.rows[last.seq - 1] = last._replace(payload=last.payload.replace("a job", "another"))
    before, epoch = list(disk.rows), disk.epoch
    served, _ = actor(disk)

    status = await served.ask("status", JOB)
    assert status.status is JobStatus.QUEUED
    assert f"event {last.seq} is not what was written" in status.wait_reason
    assert await served.ask("status", "ftjob-2") is None
    assert [job.job_id for job in await served.ask("jobs", None, 10, 0, None)] == [JOB]
    assert f"event {last.seq}" in (await served.ask("hello")).refusal
    for write in (("submit", submitted("ftjob-3")), ("cancel", JOB, "r", "someone"), ("stop", "someone")):
        assert isinstance(await refused(served, *write), LogDamagedError)

    assert served._life.done()  # it waits for nothing, and tries nothing again
    assert (disk.rows, disk.epoch) == (before, epoch + 1)
    await ended(served)


async def test_a_log_of_a_newer_version_is_read_as_far_as_it_is_known():
    disk = await with_two_jobs()
    row = chain([progress(JOB, 1)], disk.rows[-1].mark, epoch=disk.epoch)[0]._replace(v=99)
    disk.rows.append(row._replace(hash=chained(disk.rows[-1].hash, row[:-2], row.payload)))
    served, _ = actor(disk)

    assert (await served.ask("status", JOB)).status is JobStatus.QUEUED
    assert isinstance(await refused(served, "cancel", JOB, "r", "someone"), LogTooNewError)
    await ended(served)


async def test_a_scheduler_whose_log_was_taken_answers_nothing_and_names_the_owner():
    disk = await with_two_jobs()
    first, _ = actor(disk)
    await first.ask("hello")
    second, _ = actor(disk)
    await second.ask("hello")

    with pytest.raises(LogRefusedError):
        await first.ask("cancel", JOB, "r", "someone")
    await asyncio.wait_for(asyncio.shield(first._life), 10)

    error = await refused(first, "status", JOB)
    assert isinstance(error, LogTakenError)
    assert "epoch 3" in str(error)
    assert not (await second.ask("status", JOB)).is_terminal
    await ended(first)
    await ended(second)


async def test_a_log_that_is_held_is_tried_again_until_it_is_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ftactors.runtime.actor._FIRST_RETRY_S", 0.01)
    served, _ = actor(await with_two_jobs(), HeldStorage)

    assert "held by pid 7" in str(await refused(served, "status", JOB))
    async with asyncio.timeout(10):
        while served._refusal is not None:
            await asyncio.sleep(0.01)
    assert not (await served.ask("status", JOB)).is_terminal
    await ended(served)


async def test_a_stored_configuration_that_this_version_refuses_is_no_crash_loop():
    disk = await with_two_jobs()
    started = next(row for row in disk.rows if row.type == "service_started")
    payload = started.payload.replace('"max_concurrent_preparations":2', '"max_concurrent_preparations":-2')
    assert payload != started.payload
    disk.rows[started.seq - 1] = started._replace(payload=payload)
    rehash(disk)
    served, _ = actor(disk)

    error = await refused(served, "cancel", JOB, "r", "someone")
    assert isinstance(error, LogTooNewError)
    assert f"event {started.seq} is not legal by the rules of ftactors" in str(error)
    assert served._life.done()
    await ended(served)


def rehash(disk: MemoryDisk) -> None:
    """Let the chain fit again, as if the rows had been written so."""
    last = START.hash
    for index, row in enumerate(disk.rows):
        last = chained(last, row[:-2], row.payload)
        disk.rows[index] = row._replace(hash=last)


async def test_closing_twice_is_closing_once_and_reading_then_is_refused():
    served, _ = actor(await with_two_jobs())
    await served.ask("hello")
    await served.ask("stop", "someone")
    assert served._scheduler is not None
    log = served._scheduler.log

    assert await asyncio.gather(served.close(), served.close()) == [True, True]
    with pytest.raises(LogRefusedError, match="the log is closed"):
        await log.rows()
    served._life.cancel()
