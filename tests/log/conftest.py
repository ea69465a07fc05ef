from collections.abc import Callable
from pathlib import Path

import pytest

from ftactors.log.memory import MemoryDisk, MemoryStorage
from ftactors.log.protocol import Storage
from ftactors.log.sqlite import SqliteStorage


@pytest.fixture(params=["memory", "sqlite"])
def storage_again(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Storage]:
    """Return a function whose every call gives a new storage for one and the same log."""
    if request.param == "memory":
        disk = MemoryDisk()
        return lambda: MemoryStorage(disk)
    return lambda: SqliteStorage(tmp_path / "events.db")
