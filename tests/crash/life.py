"""One life of a scheduler's process: it opens the log, hears the story, and rests, unless it is killed before."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import create_engine

from ftactors.core.events import AttemptPlaced, AttemptStarted, LogOpened, Recorded
from ftactors.core.phases import Phase
from ftactors.core.seen import ProcessKey
from ftactors.core.state import State
from ftactors.log import reserve
from ftactors.log.snapshots import SnapshotFile
from ftactors.log.urls import storage_at
from ftactors.runtime import scheduler as scheduling
from ftactors.runtime import snapshots as taking
from ftactors.runtime.desk import Desk
from ftactors.runtime.scheduler import Scheduler
from tests.core.histories import opened
from tests.crash.cluster import OutlivingCluster, Past
from tests.crash.driver import Driver, Notes
from tests.crash.points import NOWHERE, Points
from tests.crash.stories import Story
from tests.invariants import check_live, check_log

FATAL = 78
"""The exit status of a process that ended itself; none of these stories has a reason for it."""
_DATABASE_WAIT_S = 10.0
_DISK_RETRY_S = 0.02


async def live(story: Story, url: str, folder: Path, points: Points) -> None:
    """Live once, in the folder where all that outlives the process is.

    Raises:
        AssertionError: a promise was broken, by this process or by the one before.
    """
    storage = storage_at(url, timeout_s=_DATABASE_WAIT_S)
    notes, cluster = Notes(folder / "notes", points.cross), _cluster(story, folder, points)
    if cluster.was_there:
        story.meanwhile(cluster)
    snapshots = SnapshotFile(folder / "snapshot") if story.snapshot_every else None
    taking._LEAST_EVENTS, scheduling._RETRY_S, reserve.RESERVE_BYTES = story.snapshot_every or 0, _DISK_RETRY_S, 4096
    scheduler = Scheduler(storage, cluster, on_fatal=_die, snapshots=snapshots)
    await scheduler.open(_opening(cluster))
    check_kept(await scheduler.log.read(), scheduler.state, notes, cluster.past)
    life = asyncio.get_running_loop().create_task(scheduler.run())
    driver = Driver(Desk(scheduler, pid=os.getpid()), scheduler, cluster, notes, story.service_config)
    await driver.start()
    await story.tell(driver)
    await driver.rest()
    await scheduler.log.confirm()  # what a scheduler has to say that lost its log is not judged
    check_live(scheduler)
    life.cancel()
    await scheduler.close()


def check_kept(events: Sequence[Recorded], state: State, notes: Notes, past: Past) -> None:
    """Check that all that was said and done before the last crash rests on facts that survived it."""
    notes.check_kept(recorded.event for recorded in events)
    stored = [recorded.event for recorded in events]
    placed = {(event.job_id, event.attempt) for event in stored if isinstance(event, AttemptPlaced)}
    claims = {
        (ProcessKey(event.job_id, event.attempt, rank), started.incarnation or event.incarnation)
        for event in stored
        if isinstance(event, AttemptStarted)
        for rank, started in enumerate(event.ranks)
    }
    for key in past.made:
        assert (key.job_id, key.attempt) in placed, f"{key} was started, and no event of the log places it"
    for key, incarnation in past.begun:
        assert (key, incarnation) in claims, (
            f"{key} was told to begin as {incarnation}, and no event of the log claims that"
        )
    for (key, _), number in past.acknowledged.items():
        last = _last_report(state, key)
        assert last is None or last >= number, f"report {number} of {key} is forgotten; the log has {last}"


def check_end(story: Story, url: str, folder: Path) -> None:
    """Check what all the lives of a story have left."""
    notes, cluster = Notes(folder / "notes"), _cluster(story, folder, Points(NOWHERE, folder / "killed"))
    check_log(storage_at(url, timeout_s=_DATABASE_WAIT_S), notes.ledger(), least=story.least)
    begun = [key for key, _ in cluster.past.begun]
    assert len(begun) == len(set(begun)), f"the work of an attempt was begun twice: {begun}"
    assert not cluster.trainers, f"nobody wants these trainers any more: {[*cluster.trainers]}"


def empty(url: str) -> None:
    """Make a database server's database empty; a file of SQLite is new for each run."""
    if url.startswith("sqlite:"):
        return
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA IF EXISTS ftactors CASCADE")
    engine.dispose()


def new_cluster(story: Story, folder: Path) -> None:
    """Make a cluster that is not the one that a first scheduler finds."""
    _cluster(story, folder, Points(NOWHERE, folder / "killed")).begin_anew()


def _cluster(story: Story, folder: Path, points: Points) -> OutlivingCluster:
    return OutlivingCluster(
        story.nodes, folder / "cluster", cross=points.cross, script=story.script, comes_up=story.comes_up
    )


def _last_report(state: State, key: ProcessKey) -> int | None:
    """Return the last report in the log of an attempt that still counts; None where none of its words do."""
    job = state.jobs.get(key.job_id)
    if job is None or job.attempt is None or job.attempt.number != key.attempt or job.phase is Phase.CANCELLING:
        return None
    return job.attempt.report


def _opening(cluster: OutlivingCluster) -> LogOpened:
    return opened(f"cluster-{cluster.past.clusters}")


def _die(error: BaseException) -> None:
    traceback.print_exception(error)
    os._exit(FATAL)
