"""When a scheduler gives its log back, so that a service in another namespace of the cluster may take it."""

from __future__ import annotations

import pytest

from ftactors.core.errors import LogRefusedError
from ftactors.core.events import AnyEvent
from ftactors.log.beside import Owner
from ftactors.log.errors import LogDamagedError
from ftactors.log.memory import MemoryDisk, MemoryStorage
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.runtime.scheduler import Scheduler
from tests.core.histories import opened, placed, prepared, submitted


def scheduler_on(disk: MemoryDisk, namespace: str) -> Scheduler:
    storage = MemoryStorage(disk, owner=Owner(f"of {namespace}", "c", namespace))
    return Scheduler(storage, MemoryCluster([]), on_fatal=pytest.fail)


async def left_with(*history: AnyEvent) -> MemoryDisk:
    """Return the disk of a scheduler that was closed after these events."""
    disk = MemoryDisk()
    scheduler = scheduler_on(disk, "team-a")
    await scheduler.open(opened())
    for event in history:
        scheduler.record(event)
    await scheduler.close()
    return disk


async def test_a_closed_scheduler_that_holds_nothing_leaves_its_log_to_any_namespace():
    disk = await left_with(submitted(), *prepared())

    moved = scheduler_on(disk, "team-b")
    await moved.open(opened())

    assert len(moved.state.jobs) == 1
    await moved.close()


async def test_one_whose_trainers_may_run_leaves_it_to_its_own_namespace_alone():
    disk = await left_with(submitted(), placed(1, "prepare"))

    with pytest.raises(LogRefusedError, match="of a service in namespace 'team-a' of this cluster"):
        await scheduler_on(disk, "team-b").open(opened())

    assert disk.epoch == 1  # the refused one took nothing
    again = scheduler_on(disk, "team-a")
    await again.open(opened())
    assert len(again.state.held) == 1
    await again.close()


async def test_one_that_could_not_read_its_whole_log_knows_not_what_runs_and_gives_nothing_back():
    disk = await left_with(submitted())
    disk.rows[-1] = disk.rows[-1]._replace(at=0.5)
    refusing = scheduler_on(disk, "team-a")

    with pytest.raises(LogDamagedError):
        await refusing.open(opened())
    await refusing.close()

    with pytest.raises(LogRefusedError, match="of a service in namespace 'team-a' of this cluster"):
        await scheduler_on(disk, "team-b").open(opened())
