"""The scheduler on the in-memory log and cluster: a job's way, deaths on it, and what a restart finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ftactors.core.errors import InvalidJobConfigError
from ftactors.core.phases import Phase
from ftactors.core.seen import Process, ProcessKey
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import JobStatus
from ftactors.core.wanted import Begin, Start
from ftactors.core.work import (
    CheckpointWritten,
    Failed,
    Prepared,
    Progress,
    Published,
    StageBegun,
    Stopped,
)
from ftactors.log.memory import MemoryDisk, MemoryStorage
from ftactors.runtime.desk import Desk
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.runtime.scheduler import Scheduler
from tests.core.histories import BASE, JOB, NODE, opened, submitted

PREPARED = Prepared(path="/data", fingerprint="f", shape="text", counts={"train_rows": 8})
PUBLISHED = Published(path="/m", digest="d", kind="adapter", base=BASE, metrics={"loss": 1.0}, trained_tokens=9)
RULES = ServiceConfig(retry_backoff_seconds=0, job_queue_poll_interval_seconds=0.02)


@asynccontextmanager
async def service(disk: MemoryDisk, cluster: MemoryCluster) -> AsyncIterator[tuple[Scheduler, Desk]]:
    """A scheduler that runs, until it dies without a word at the end."""
    deaths: list[BaseException] = []
    scheduler = Scheduler(MemoryStorage(disk), cluster, on_fatal=deaths.append)
    await scheduler.open(opened())
    desk = Desk(scheduler, pid=1)
    await desk.start(RULES, "someone", by_owner=True)
    life = asyncio.get_running_loop().create_task(scheduler.run())
    try:
        yield scheduler, desk
    finally:
        life.cancel()
        await scheduler.close()
        assert deaths == []


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition, at most so long."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def begun(cluster: MemoryCluster, attempt: int) -> ProcessKey:
    """Wait until an attempt's work was begun, and return its trainer."""
    key = ProcessKey(JOB, attempt, 0)
    await until(lambda: key in cluster.trainers and cluster.trainers[key].work is not None)
    return key


async def prepare(cluster: MemoryCluster) -> None:
    cluster.say(await begun(cluster, 1), PREPARED)


def checkpoint(step: int) -> CheckpointWritten:
    return CheckpointWritten(stage="training", step=step, path=f"/c/{step}", digest="d")


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster([NODE])


async def test_a_job_is_prepared_trained_and_registered(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (scheduler, desk):
        assert (await desk.submit(submitted())).status is JobStatus.QUEUED
        await prepare(cluster)
        trainer = await begun(cluster, 2)
        assert cluster.trainers[trainer].work.dataset.path == "/data"  # type: ignore[union-attr]
        cluster.say(trainer, StageBegun(stage="training", index=1, of=1, total_steps=10))
        cluster.say(trainer, Progress(stage="training", step=5, metrics={"loss": 2.0}))
        await until(lambda: scheduler.state.jobs[JOB].step == 5)
        status = await desk.status(JOB)
        assert status is not None
        assert (status.status, status.progress_percentage, status.metrics) == (JobStatus.RUNNING, 50.0, {"loss": 2.0})
        cluster.say(trainer, PUBLISHED)
        await until(lambda: JOB in scheduler.state.finished)
        await until(lambda: not cluster.trainers)

        status = await desk.status(JOB)
        assert status is not None
        assert (status.status, status.fine_tuned_model_id) == (JobStatus.COMPLETED, "tuned")
        assert [model.model_id for model in await desk.models()] == ["tuned"]


async def test_a_restarted_scheduler_adopts_living_trainers_and_loses_no_report(
    disk: MemoryDisk, cluster: MemoryCluster
):
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted())
        await prepare(cluster)
        trainer = await begun(cluster, 2)
        cluster.say(trainer, StageBegun(stage="training", index=1, of=1, total_steps=10))
        await until(lambda: scheduler.state.jobs[JOB].stage == "training")
    cluster.say(trainer, checkpoint(3), PUBLISHED)  # while nobody schedules

    async with service(disk, cluster) as (scheduler, desk):
        await until(lambda: JOB in scheduler.state.finished)
        kinds = [recorded.event.type for recorded in await desk.events(JOB)]

    assert kinds[-2:] == ["checkpoint_saved", "job_completed"]
    assert kinds.count("attempt_placed") == 2
    assert sum(isinstance(command, Start) for command in cluster.executed) == 2


async def test_a_dead_trainer_is_replaced_and_goes_on_from_the_checkpoint(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted())
        await prepare(cluster)
        trainer = await begun(cluster, 2)
        cluster.say(trainer, StageBegun(stage="training", index=1, of=1, total_steps=10), checkpoint(7))
        await until(lambda: bool(scheduler.state.jobs[JOB].checkpoints))
        cluster.die(trainer)
        work = cluster.trainers[await begun(cluster, 3)].work

    assert work is not None
    assert work.resume_from is not None
    assert (work.resume_from.step, work.resume_from.path) == (7, "/c/7")


async def test_a_lost_node_lets_its_job_wait_for_another(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted())
        await prepare(cluster)
        await begun(cluster, 2)
        cluster.lose("node-a")
        await until(lambda: scheduler.state.jobs[JOB].phase is Phase.READY)
        status = await desk.status(JOB)

    assert status is not None
    assert status.queue_position == 1
    assert "no node of the cluster has that" in (status.wait_reason or "")


async def test_an_unreachable_cluster_is_not_a_dead_one(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted())
        await prepare(cluster)
        await begun(cluster, 2)
        cluster.reachable = False
        looks = scheduler.seen
        scheduler.wake()
        await until(lambda: scheduler.seen is not looks and not scheduler.seen.complete)

        assert scheduler.state.jobs[JOB].phase is Phase.RUNNING


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.RUNNING])
async def test_a_held_job_is_cancelled_once_its_work_has_stopped(
    phase: Phase, disk: MemoryDisk, cluster: MemoryCluster
):
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted())
        if phase is Phase.RUNNING:
            await prepare(cluster)
        trainer = await begun(cluster, 2 if phase is Phase.RUNNING else 1)
        await until(lambda: scheduler.state.jobs[JOB].phase is phase)

        assert await desk.cancel(JOB, "r1", "someone")
        await until(lambda: cluster.trainers[trainer].stop is not None)
        cluster.say(trainer, Stopped(clean=False))
        await until(lambda: JOB in scheduler.state.finished)
        assert scheduler.state.finished[JOB].status is JobStatus.CANCELLED
        assert await desk.cancel(JOB, "r1", "someone")
        assert not await desk.cancel(JOB, "r2", "someone")


async def test_a_paused_job_gives_its_share_back_and_goes_on_when_resumed(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted())
        await prepare(cluster)
        trainer = await begun(cluster, 2)
        await desk.pause(JOB, "p", "someone")
        await until(lambda: cluster.trainers[trainer].stop is not None)
        cluster.say(trainer, checkpoint(4), Stopped(clean=True))
        await until(lambda: scheduler.state.jobs[JOB].phase is Phase.READY)
        paused = await desk.status(JOB)
        await desk.resume(JOB, "r", "someone")
        work = cluster.trainers[await begun(cluster, 3)].work

    assert paused is not None
    assert paused.status is JobStatus.PAUSED
    assert work is not None
    assert work.resume_from is not None


async def test_a_stopped_service_holds_nothing_and_goes_on_at_the_next_start(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (_, desk):
        await desk.submit(submitted())
        await prepare(cluster)
        trainer = await begun(cluster, 2)
        await desk.stop("someone")
        await until(lambda: cluster.trainers[trainer].stop is not None)
        assert not desk.is_stopped()
        cluster.say(trainer, checkpoint(4), Stopped(clean=True))
        await until(lambda: not cluster.trainers)
        before = await desk.status(JOB)
        assert desk.is_stopped()

    async with service(disk, cluster) as (_, desk):
        after = await desk.status(JOB)
        await begun(cluster, 3)

    assert before is not None
    assert after is not None
    volatile = {"wait_reason", "queue_position", "estimated_start_at"}
    assert before.model_dump(exclude=volatile) == after.model_dump(exclude=volatile)


async def test_failures_are_retried_until_there_were_enough(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted(max_attempts=2))
        await prepare(cluster)
        for attempt in (2, 3):
            trainer = await begun(cluster, attempt)
            cluster.say(trainer, Failed(error_type="internal", message=f"broke in {attempt}", retryable=True))
        await until(lambda: JOB in scheduler.state.finished)

    document = scheduler.state.finished[JOB].document()
    assert (document.status, document.error_type) == (JobStatus.FAILED, "internal")
    assert document.error_message == "attempt 3: broke in 3 (earlier: attempt 2: broke in 2)"


async def test_a_trainer_that_says_the_impossible_fails_its_job(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted())
        cluster.say(await begun(cluster, 1), PUBLISHED)
        await until(lambda: JOB in scheduler.state.finished)

    assert scheduler.state.finished[JOB].document().error_type == "protocol"


async def test_a_watcher_sees_each_change_and_the_end(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (_, desk):
        await desk.submit(submitted())

        async def watched() -> list[JobStatus]:
            seq, statuses = 0, []
            while not statuses or not statuses[-1].is_terminal:
                seq, status = await desk.watch(JOB, seq)
                statuses.append(status)
            return [status.status for status in statuses]

        watching = asyncio.get_running_loop().create_task(watched())
        await prepare(cluster)
        cluster.say(await begun(cluster, 2), PUBLISHED)
        seen = await asyncio.wait_for(watching, 10)

    order = [status for status, following in zip(seen, [*seen[1:], None], strict=True) if status != following]
    way = [JobStatus.QUEUED, JobStatus.PREPROCESSING, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.COMPLETED]
    steps = iter(way)
    assert order[-1] is JobStatus.COMPLETED
    assert all(status in steps for status in order), order


async def test_jobs_are_listed_newest_first_in_pages(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (_, desk):
        for number in range(5):
            await desk.submit(submitted(f"ftjob-{number}", new_model_id=f"m{number}"))
        await desk.cancel("ftjob-3", "r", "someone")

        async def ids(status: JobStatus | None = None, limit: int = 10, offset: int = 0, after: str | None = None):
            return [job.job_id[-1] for job in await desk.jobs(status, limit, offset, after)]

        assert await ids() == ["4", "3", "2", "1", "0"]
        assert await ids(limit=2, offset=1) == ["3", "2"]
        assert await ids(after="ftjob-2") == ["1", "0"]
        await asyncio.wait_for(_cancelled(desk, "ftjob-3"), 10)
        assert await ids(JobStatus.CANCELLED) == ["3"]
        assert "3" not in await ids(JobStatus.QUEUED)


async def _cancelled(desk: Desk, job_id: str) -> None:
    while (status := await desk.status(job_id)) and status.status is not JobStatus.CANCELLED:
        await asyncio.sleep(0.01)


async def test_an_attempt_is_begun_only_after_the_claim_is_recorded(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted())
        await begun(cluster, 1)
        kinds = [recorded.event.type for recorded in await desk.events(JOB)]

    begin = next(command for command in cluster.executed if isinstance(command, Begin))
    assert kinds[:3] == ["job_submitted", "attempt_placed", "attempt_started"]
    assert begin.incarnation == scheduler.state.jobs[JOB].attempt.incarnation  # type: ignore[union-attr]


async def test_stop_orders_do_not_keep_the_scheduler_busy(disk: MemoryDisk, cluster: MemoryCluster):
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted())
        await prepare(cluster)
        trainer = await begun(cluster, 2)
        await desk.cancel(JOB, "r1", "someone")
        await until(lambda: cluster.trainers[trainer].stop is not None)
        before, began_at = len(cluster.executed), scheduler.now()
        while scheduler.now() < began_at + 0.5:
            await scheduler.changed()

    assert len(cluster.executed) - before < 50  # at most one in each 0.02 s, the poll of these tests


async def test_a_trainer_that_dies_before_it_is_up_tells_why(disk: MemoryDisk):
    cluster = MemoryCluster([NODE], starts=False)
    async with service(disk, cluster) as (scheduler, desk):
        await desk.submit(submitted(max_attempts=1))
        key = ProcessKey(JOB, 1, 0)
        await until(lambda: key in cluster.trainers)
        cluster.trainers[key].process = Process(state="dead", why="No module named 'ftactors'")
        scheduler.wake()
        await until(lambda: JOB in scheduler.state.finished)

    document = scheduler.state.finished[JOB].document()
    assert document.error_type == "start_failed"
    assert "No module named 'ftactors'" in str(document.error_message)


async def test_a_stored_job_that_this_version_refuses_fails_alone(disk: MemoryDisk, cluster: MemoryCluster):
    stored = submitted()
    unknown = stored.model_copy(update={"config": {**stored.config, "from_a_later_version": 1}})
    async with service(disk, cluster) as (_, desk):
        await desk.submit(unknown)
        work = cluster.trainers[await begun(cluster, 1)].work

    assert work is not None
    with pytest.raises(InvalidJobConfigError, match="from_a_later_version"):
        _ = work.config


async def test_what_a_trainer_says_after_its_attempt_ended_is_not_acknowledged(
    disk: MemoryDisk, cluster: MemoryCluster
):
    told: list[int] = []
    acknowledge = cluster.acknowledge

    async def noted(key: ProcessKey, incarnation: str, number: int) -> None:
        told.append(number)
        await acknowledge(key, incarnation, number)

    cluster.acknowledge = noted  # type: ignore[method-assign]
    async with service(disk, cluster) as (_, desk):
        await desk.submit(submitted())
        await prepare(cluster)
        trainer = await begun(cluster, 2)
        told.clear()
        impossible = Prepared(path="/data", fingerprint="f", shape="text", counts={})
        cluster.say(trainer, checkpoint(1), impossible, checkpoint(2))  # the second of them ends the attempt
        await until(lambda: bool(told))
        kinds = [recorded.event.type for recorded in await desk.events(JOB)]

    assert told == [1]
    assert kinds.count("checkpoint_saved") == 1
