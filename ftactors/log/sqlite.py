"""The log in an SQLite file, on a disk of the machine it is used from."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError

from ftactors.core.errors import LogFullError, LogRefusedError
from ftactors.log.beside import PRIVATE, OwnerFile, Witness
from ftactors.log.sql import SqlStorage

_PRAGMAS = {
    "locking_mode": "exclusive",  # the fence: until this connection closes, nobody else can read or write the file
    "journal_mode": "wal",
    "synchronous": "full",  # the WAL is synced at every commit
    "fullfsync": "on",  # and on macOS really so
}
_PRIMARY_CODE = 0xFF
"""The bits of SQLite's result code that name the kind of error; the others say more."""


class SqliteStorage(SqlStorage):
    """A storage in a file, which is created with its directories where it does not exist.

    Args:
        timeout_s: How long to wait for another process that holds the file.
    """

    def __init__(self, path: str | Path, *, timeout_s: float = 0.0) -> None:
        self._path = Path(path).expanduser().resolve()
        self._timeout_s = timeout_s
        self._owner = OwnerFile(self._path.with_name(f"{self._path.name}.owner"))
        super().__init__(f"the log {self._path}", Witness(self._path.with_name(f"{self._path.name}.witness")))

    def _connect(self) -> Connection:
        try:
            _create(self._path)
        except OSError as error:
            kind = LogFullError if error.errno == errno.ENOSPC else LogRefusedError
            raise kind(f"{self._name} cannot be created: {error}") from error
        engine = create_engine("sqlite://", creator=self._connected, poolclass=NullPool)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        connection = engine.connect()
        self._owner.write()
        return connection

    def _connected(self) -> sqlite3.Connection:
        # One thread at a time uses it, but not always the same. Transactions are begun by us, not by the driver.
        connection = sqlite3.connect(self._path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)
        try:
            for name, value in _PRAGMAS.items():
                connection.execute(f"PRAGMA {name}={value}").fetchall()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # the first access takes the lock
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _is_full(self, error: DBAPIError) -> bool:
        return _code(error) == sqlite3.SQLITE_FULL

    def _holder(self, error: DBAPIError) -> str | None:
        return self._owner.read() if _code(error) == sqlite3.SQLITE_BUSY else None


def _code(error: DBAPIError) -> int:
    return getattr(error.orig, "sqlite_errorcode", 0) & _PRIMARY_CODE


def _create(path: Path) -> None:
    """Create the file, readable by its owner only, so that it is still there after a power cut.

    A file that exists is not even opened: to close it again would drop the locks that this process has on it.
    """
    missing = [directory for directory in path.parents if not directory.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE))
        for directory in (path.parent, *(made.parent for made in missing)):
            descriptor = os.open(directory, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
