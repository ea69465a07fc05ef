"""What goes on while the log's disk is full, and what waits."""

from __future__ import annotations

import asyncio

import pytest

from ftactors.core.errors import LogFullError
from ftactors.core.phases import Phase
from ftactors.core.status import JobStatus
from ftactors.core.work import Progress, StageBegun, Stopped
from ftactors.log.memory import MemoryDisk
from ftactors.runtime import scheduler as scheduling
from ftactors.runtime.desk import Desk
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.runtime.scheduler import Scheduler
from tests.core.histories import JOB, NODE, submitted
from tests.runtime.test_scheduler import PUBLISHED, begun, prepare, service, until


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
