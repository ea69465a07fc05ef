"""What goes on while the log's disk is full, and what waits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ftactors.core.errors import LogFullError
from ftactors.core.events import ModelImported
from ftactors.core.phases import Phase
from ftactors.core.status import JobStatus
from ftactors.core.work import Progress, StageBegun, Stopped
from ftactors.log.memory import MemoryDisk, MemoryStorage
from ftactors.log.snapshots import SnapshotFile
from ftactors.runtime import scheduler as scheduling
from ftactors.runtime.desk import Desk
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.runtime.scheduler import Scheduler
from ftactors.runtime.snapshots import Snapshots
from tests.core.histories import JOB, NODE, opened, submitted
from tests.runtime.test_scheduler import PUBLISHED, begun, prepare, service, until

MODEL = ModelImported(model_id="base", source="/models/base", path="/models/base", owned=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_RETRY_S", 0.02)


async def filled(disk: MemoryDisk, desk: Desk, scheduler: Scheduler) -> None:
    """Let the disk have no room but the reserve, and somebody notice it."""
    disk.room, disk.reserve = 0, 20
    with pytest.raises(LogFullError):
        await desk.submit(submitted("ftjob-9", new_model_id="m9"))
    assert scheduler.log.tight


async def test_a_full_disk_refuses_submits_and_lets_a_running_job_complete():
    disk, cluster = MemoryDisk(), MemoryCluster([NODE])
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted())
        await prepare(cluster)
        trainer = await begun(cluster, 2)
        await until(lambda: scheduler.state.jobs[JOB].phase is Phase.RUNNING)
        await filled(disk, desk, scheduler)

        cluster.say(trainer, StageBegun(stage="training", index=1, of=1, total_steps=9))
        with pytest.raises(LogFullError, match="job_submitted is not recorded"):
            await desk.submit(submitted("ftjob-9", new_model_id="m9"))
        assert scheduler.state.jobs[JOB].stage is None  # nothing rests on it yet, so it waits at the trainer
        cluster.say(trainer, Progress(stage="training", step=9), PUBLISHED)
        await until(lambda: JOB in scheduler.state.finished)
        assert await desk.status("ftjob-9") is None
        kinds = [recorded.event.type for recorded in await desk.events(JOB)]

    assert kinds[-3:] == ["stage_started", "progress_reported", "job_completed"]


async def test_a_job_can_be_cancelled_while_the_disk_is_full_and_nothing_new_is_placed():
    disk, cluster = MemoryDisk(), MemoryCluster([NODE])
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted())
        await prepare(cluster)
        trainer = await begun(cluster, 2)
        await desk.submit(submitted("ftjob-2", new_model_id="m2"))
        await desk.pause("ftjob-2", "p", "someone")
        await filled(disk, desk, scheduler)

        assert await desk.cancel(JOB, "r1", "someone")
        await until(lambda: cluster.trainers[trainer].stop is not None)
        cluster.say(trainer, Stopped(clean=False))
        await until(lambda: JOB in scheduler.state.finished)

        assert scheduler.state.finished[JOB].status is JobStatus.CANCELLED
        with pytest.raises(LogFullError):
            await desk.resume("ftjob-2", "r", "someone")


async def test_once_there_is_room_all_goes_on_and_the_reserve_is_whole_again():
    disk, cluster = MemoryDisk(), MemoryCluster([NODE])
    async with service(disk, cluster) as (scheduler, desk):
        await filled(disk, desk, scheduler)
        disk.room = 1000

        async with asyncio.timeout(10):
            status = await desk.submit(submitted())
        assert status.status is JobStatus.QUEUED
        assert not scheduler.log.tight
        await begun(cluster, 1)


async def test_whoever_reads_what_is_then_undone_is_told_what_is_true_after_it():
    disk, cluster = MemoryDisk(), MemoryCluster([NODE])
    async with service(disk, cluster) as (_, desk):
        await desk.submit(submitted())
        await begun(cluster, 1)
        disk.room, disk.reserve = 0, 20
        pause = asyncio.get_running_loop().create_task(desk.pause(JOB, "p", "someone"))
        await asyncio.sleep(0)  # it is recorded, and not on the disk
        reading = [desk.status(JOB), desk.watch(JOB, 0), desk.jobs(None, 10, 0, None)]
        status, (_, watched), (listed,) = await asyncio.gather(*reading)
        with pytest.raises(LogFullError):
            await pause

    assert status is not None
    assert {status.status, watched.status, listed.status} == {JobStatus.PREPROCESSING}


async def test_a_repeated_request_is_not_answered_before_the_first_one_is_on_the_disk():
    disk, cluster = MemoryDisk(), MemoryCluster([NODE])
    async with service(disk, cluster) as (scheduler, desk):
        disk.room = 0
        first = asyncio.get_running_loop().create_task(desk.import_model(MODEL))
        while MODEL.model_id not in scheduler.state.models:
            await asyncio.sleep(0)
        with pytest.raises(LogFullError):
            await desk.import_model(MODEL)
        with pytest.raises(LogFullError):
            await first

        assert await desk.models() == []


async def test_no_snapshot_is_taken_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ftactors.runtime.snapshots._LEAST_EVENTS", 1)
    disk, file = MemoryDisk(), SnapshotFile(tmp_path / "a.snapshot")
    scheduler = Scheduler(MemoryStorage(disk), MemoryCluster([]), on_fatal=pytest.fail, snapshots=file)
    await scheduler.open(opened())
    snapshots = Snapshots(file, scheduler.log)

    scheduler.log.tight = True
    snapshots.take_if_due(scheduler.state)
    assert snapshots._writing is None
    scheduler.log.tight = False
    snapshots.take_if_due(scheduler.state)
    await snapshots.close(scheduler.state)
    assert file.load() is not None
