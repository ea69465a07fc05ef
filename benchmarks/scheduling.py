"""Schedulers without Ray: the log is a file, the cluster has no nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.stories import OPENED
from ftactors.log.snapshots import SnapshotFile
from ftactors.log.sqlite import SqliteStorage
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.runtime.scheduler import Scheduler


def fatal(error: BaseException) -> None:
    """End the benchmark: what is measured is no longer what was meant."""
    raise error


@asynccontextmanager
async def opened(path: Path, *, snapshots: bool = False) -> AsyncIterator[Scheduler]:
    """Give a scheduler that has opened its log.

    Args:
        path: The log's file.
        snapshots: Whether it begins with the snapshot that is there, and leaves one in the end.
    """
    file = SnapshotFile(path.with_name(f"{path.name}.snapshot")) if snapshots else None
    scheduler = Scheduler(SqliteStorage(path), MemoryCluster(()), on_fatal=fatal, snapshots=file)
    await scheduler.open(OPENED)
    yield scheduler
    await scheduler.close()
