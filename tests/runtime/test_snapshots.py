"""Snapshots: opened from one or from zero, a log is the same state; and a snapshot is only ever a cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftactors.core.errors import LogRefusedError
from ftactors.core.snapshot import frozen
from ftactors.log.errors import LogDamagedError
from ftactors.log.memory import MemoryDisk, MemoryStorage
from ftactors.log.snapshots import SnapshotFile, snapshot_path
from ftactors.runtime import snapshots as taking
from ftactors.runtime.desk import Desk
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.runtime.scheduler import Scheduler
from tests.core.histories import JOB, opened, submitted
from tests.runtime.test_scheduler import until


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "_LEAST_EVENTS", 5)


@pytest.fixture
def file(tmp_path: Path) -> SnapshotFile:
    return SnapshotFile(tmp_path / "events.db.snapshot")


async def opening(disk: MemoryDisk, file: SnapshotFile | None) -> Scheduler:
    scheduler = Scheduler(MemoryStorage(disk), MemoryCluster([]), on_fatal=pytest.fail, snapshots=file)
    await scheduler.open(opened())
    return scheduler


async def with_jobs(file: SnapshotFile) -> MemoryDisk:
    """Return a disk with a log of eight jobs, four of them cancelled, of which a snapshot was taken at its end."""
    disk = MemoryDisk()
    scheduler = await opening(disk, file)
    desk = Desk(scheduler, pid=1)
    await desk.start(scheduler.state.rules, "someone", by_owner=True)
    for number in range(8):
        await desk.submit(submitted(f"ftjob-{number}", key=f"k{number}", new_model_id=f"m{number}"))
    for number in range(4):
        await desk.cancel(f"ftjob-{number}", "r", "someone")
    await scheduler.close()
    return disk


async def folded(disk: MemoryDisk, file: SnapshotFile | None) -> tuple[bytes, int]:
    """Return the state that an opening comes to, and how many events it replayed."""
    replayed = []
    scheduler = Scheduler(MemoryStorage(disk), MemoryCluster([]), on_fatal=pytest.fail, snapshots=file)
    replay = scheduler.log.replay
    scheduler.log.replay = lambda *args: (replayed.append(row) or row for row in replay(*args))  # type: ignore[method-assign]
    await scheduler.open(opened())
    document = frozen(scheduler.state).replace(f'"epoch":{disk.epoch}'.encode(), b'"epoch":0')
    return document.partition(b'"at":')[0] + document.partition(b'"epoch":')[2], len(replayed)


async def test_a_snapshot_and_the_tail_are_the_state_that_a_whole_replay_gives(file: SnapshotFile):
    disk = await with_jobs(file)
    events = len(disk.rows)

    from_snapshot, tail = await folded(disk, file)
    del disk.rows[events:]
    from_zero, all_of_it = await folded(disk, None)

    assert from_snapshot == from_zero
    assert (tail, all_of_it) == (0, events)


async def test_a_snapshot_is_taken_while_the_service_runs(file: SnapshotFile):
    disk = MemoryDisk()
    scheduler = await opening(disk, file)
    desk = Desk(scheduler, pid=1)
    await desk.start(scheduler.state.rules, "someone", by_owner=True)
    for number in range(8):
        await desk.submit(submitted(f"ftjob-{number}", new_model_id=f"m{number}"))
    assert scheduler._snapshots is not None
    scheduler._snapshots.take_if_due(scheduler.state)
    await until(lambda: file.load() is not None)

    found = file.load()
    assert found is not None
    assert found[0] == disk.rows[9].mark
    assert found[1] == frozen(scheduler.state)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data[:300] + b"?" + data[301:],
        lambda _: b"",
        lambda _: b'{"code":"","seq":1,"hash":"","size":0,"check":"","more":1}\n',
        lambda data: data.replace(b'"code": "', b'"code": "0'),
        lambda data: data.replace(b'"hash": "', b'"hash": "00'),
    ],
    ids=["cut", "changed", "empty", "of another form", "of other code", "of another log"],
)
async def test_in_any_doubt_all_is_replayed(file: SnapshotFile, tmp_path: Path, spoil):
    disk = await with_jobs(file)
    events = len(disk.rows)
    path = tmp_path / "events.db.snapshot"
    path.write_bytes(spoil(path.read_bytes()))

    assert (await folded(disk, file))[1] == events


async def test_a_snapshot_of_events_that_the_log_has_not_is_not_used(file: SnapshotFile):
    disk = await with_jobs(file)
    del disk.rows[-1:]

    assert (await folded(disk, file))[1] == len(disk.rows) - 1


async def test_damage_before_the_snapshot_is_found_while_the_service_runs_and_then_it_refuses(file: SnapshotFile):
    disk = await with_jobs(file)
    disk.rows[3] = disk.rows[3]._replace(at=0.5)
    scheduler = await opening(disk, file)

    await scheduler.run()

    assert isinstance(scheduler.log.refusal, LogDamagedError)
    assert scheduler.log.refusal.seq == 4
    with pytest.raises(LogRefusedError, match="event 4"):
        await Desk(scheduler, pid=1).cancel("ftjob-7", "r", "someone")
    status = await Desk(scheduler, pid=1).status("ftjob-7")
    assert status is not None
    assert "event 4" in str(status.wait_reason)


async def test_a_snapshot_that_cannot_be_written_leaves_the_one_before(tmp_path: Path):
    file = SnapshotFile(tmp_path / "snapshots" / "a.snapshot")
    disk = await with_jobs(file)
    (tmp_path / "snapshots" / "a.snapshot.new").mkdir()  # nothing can be written there

    file.save(disk.rows[2].mark, b"{}")

    found = file.load()
    assert found is not None
    assert found[0] == disk.rows[-1].mark


def test_the_snapshot_lies_beside_its_database_or_in_the_states_directory(tmp_path: Path):
    served = snapshot_path("postgresql+psycopg://me:secret@host/db", tmp_path)

    assert snapshot_path("sqlite:////var/x y.db", tmp_path) == Path("/var/x y.db.snapshot")
    assert served.parent == tmp_path
    assert served == snapshot_path("postgresql+psycopg://me:changed@host/db", tmp_path)
    assert JOB not in served.name
