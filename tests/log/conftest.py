from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from ftactors.log.memory import MemoryDisk, MemoryStorage
from ftactors.log.protocol import Storage
from ftactors.log.sqlite import SqliteStorage
from ftactors.log.urls import storage_at
from tests.postgres import PostgresServer

StorageAgain = Callable[..., Storage]

FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'No space left on device'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON ftactors.events EXECUTE FUNCTION full_disk();
"""


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database."""
    return request.param


@pytest.fixture
def storage_again(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> StorageAgain:
    """Return a function whose every call gives a new storage for one and the same log; it may be told the owner."""
    if kind == "memory":
        disk = MemoryDisk()
        return lambda owner=None: MemoryStorage(disk, owner=owner)
    if kind == "sqlite":
        return lambda owner=None: SqliteStorage(tmp_path / "events.db", owner=owner)
    url = request.getfixturevalue("postgres_url")
    return lambda owner=None: storage_at(url, owner=owner)


@pytest.fixture
def full(kind: str, request: pytest.FixtureRequest) -> Callable[[Storage], AbstractContextManager[None]]:
    """Return a function that makes the disk of an open storage full for a while."""
    if kind == "memory":
        return _full_memory
    if kind == "sqlite":
        return _full_sqlite
    url = request.getfixturevalue("postgres_url")
    server: PostgresServer = request.getfixturevalue("postgres")
    return lambda _: _full_postgresql(server, url.rpartition("/")[2])


@contextmanager
def _full_memory(storage: MemoryStorage) -> Iterator[None]:
    storage.disk.room = 0
    yield
    storage.disk.room = None


@contextmanager
def _full_sqlite(storage: SqliteStorage) -> Iterator[None]:
    storage._driver.execute("PRAGMA max_page_count = 1")  # means: not one page more than there are now
    yield
    storage._driver.execute("PRAGMA max_page_count = 1000000")


@contextmanager
def _full_postgresql(server: PostgresServer, database: str) -> Iterator[None]:
    with server.connect(database) as connection:
        connection.execute(FULL)
        yield
        connection.execute("DROP FUNCTION full_disk CASCADE")
