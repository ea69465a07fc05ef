"""The log in an SQLite file, on a disk of the machine it is used from."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, NullPool, create_engine, event
from sqlalchemy.dialects import sqlite

from ftactors.core.errors import LogFullError, LogRefusedError
from ftactors.log.beside import Owner, OwnerFile, Witness, open_private, this_process
from ftactors.log.errors import LogDamagedError
from ftactors.log.filesystem import mount_of
from ftactors.log.reserve import Reserve
from ftactors.log.rows import Head, Row
from ftactors.log.sql import SqlStorage
from ftactors.log.tables import ADD, MOVE

_PRAGMAS = {
    "locking_mode": "exclusive",  # the fence: until this connection closes, nobody else can read or write the file
    "journal_mode": "wal",
    "synchronous": "full",  # the WAL is synced at every commit
    "fullfsync": "on",  # and on macOS really so
}
_MOVE, _ADD = (str(statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))) for statement in (MOVE, ADD))
_INTO, _VALUES = _ADD.split(" VALUES ")
_ADD_MANY = {size: f"{_INTO} VALUES {', '.join([_VALUES] * size)}" for size in (64, 8, 1)}
"""Statements that add so many rows. The driver lets other threads run in each one, and a busy one gives the word back
after milliseconds: a statement for each row would make a busy loop wait for its commits ten times as long."""
_PRIMARY_CODE = 0xFF
"""The bits of SQLite's result code that name the kind of error; the others say more."""


class SqliteStorage(SqlStorage):
    """A storage in a file, which is created with its directories where it does not exist.

    Args:
        timeout_s: How long to wait for another process that holds the file.
    """

    def __init__(self, path: str | Path, *, timeout_s: float = 0.0, owner: Owner | None = None) -> None:
        self._path = Path(path).expanduser().resolve()
        self._timeout_s = timeout_s
        self._owner_file = OwnerFile(self._path.with_name(f"{self._path.name}.owner"))
        self._reserve = Reserve(self._path.with_name(f"{self._path.name}.reserve"))
        witness = Witness(self._path.with_name(f"{self._path.name}.witness"))
        super().__init__(f"the log {self._path}", owner or Owner(), witness)

    def open(self) -> Head:
        """Take the log; see `Storage`. One that has lost rows is only looked at, for more would be lost by writing."""
        self._check_not_gone()
        if self._has_lost_rows() and (found := self.look()) is not None:
            return found
        try:
            taken = super().open()
        except LogFullError:
            if not self._reserve.give_back():
                raise
            taken = super().open()
        self._owner_file.write()
        self._reserve.refill()
        return taken

    def look(self) -> Head | None:
        """Open the log for reading alone; see `Storage`."""
        self._check_not_gone()
        try:
            if self._path.stat().st_size == 0:
                return None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LogRefusedError(f"{self._name} cannot be opened: {error}") from error
        return super().look()

    def _check_not_gone(self) -> None:
        """Refuse to take a database that was lost for one that never was."""
        with suppress(OSError):
            if self._path.stat().st_size > 0:
                return
        witness = self._witnessed()
        if witness is not None and witness.seq > 0:
            raise LogDamagedError(
                1,
                f"{self._name} is gone: the file is not there or empty, and the witness beside it knows of event "
                f"{witness.seq}. Who would rather begin a new log moves the witness away",
            )

    def _has_lost_rows(self) -> bool:
        early = SqliteStorage(self._path)  # which waits for nobody
        try:
            found = early.look()
        except LogRefusedError:  # what is wrong is told by the opening that follows
            return False
        finally:
            early.close()
        return found is not None and found.witness is not None and found.witness.seq > found.end.seq

    def write(self, rows: Sequence[Row]) -> None:
        """Commit the rows, all or none; see `Storage`."""
        try:
            super().write(rows)
        except LogFullError:
            self._reserve.give_back()
            raise

    def refill(self) -> bool:
        """Set the reserve aside again; see `Storage`."""
        return self._reserve.refill()

    def _connect(self, *, looking: bool) -> Connection:
        if not looking:
            self._make_file()
        connect = self._looking if looking else self._taking
        engine = create_engine(
            "sqlite://", creator=connect, poolclass=NullPool, pool_reset_on_return=None, paramstyle="named"
        )
        begin = "BEGIN" if looking else "BEGIN IMMEDIATE"
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine.connect()

    def _make_file(self) -> None:
        mount = mount_of(self._path)
        if mount is not None and mount.is_network:
            raise LogRefusedError(
                f"{self._name} lies on {mount.kind} (mounted at {mount.point}); SQLite needs a local disk: set "
                f"state_dir to one, or log_url to a PostgreSQL database"
            )
        try:
            _create(self._path)
        except OSError as error:
            kind = LogFullError if error.errno == errno.ENOSPC else LogRefusedError
            raise kind(f"{self._name} cannot be created: {error}") from error

    def _taking(self) -> sqlite3.Connection:
        """Return a connection that has the file's lock, and keeps it."""
        pragmas = [f"PRAGMA {name}={value}" for name, value in _PRAGMAS.items()]
        return self._connected(str(self._path), pragmas, self._timeout_s)

    def _looking(self) -> sqlite3.Connection:
        """Return a connection that changes no byte: one that could write would bring the WAL into the file."""
        return self._connected(f"file:{quote(str(self._path))}?mode=ro", [], self._timeout_s)

    @staticmethod
    def _connected(name: str, pragmas: list[str], timeout_s: float) -> sqlite3.Connection:
        # One thread at a time uses it, but not always the same. Transactions are begun by us, not by the driver.
        connection = sqlite3.connect(
            name, uri=name.startswith("file:"), timeout=timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            for statement in [*pragmas, "SELECT count(*) FROM sqlite_master"]:  # the first access takes the lock
                connection.execute(statement).fetchall()
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: Connection) -> None:
        """Do nothing: the lock is taken with the connection, and what is synced is ours to say."""

    def confirm(self) -> None:
        """Do nothing: while this process holds the file's lock, nobody else can take the log."""

    def _commit(self, rows: Sequence[Row], expected: int) -> bool:
        driver: sqlite3.Connection = self._driver
        with driver:  # commits, or rolls back
            driver.execute("BEGIN IMMEDIATE")
            moved = driver.execute(_MOVE, (*rows[-1].mark, self._epoch, expected)).rowcount == 1
            if moved:
                self._add(rows)
        return moved

    def _add(self, rows: Sequence[Row]) -> None:
        done = 0
        for size, statement in _ADD_MANY.items():
            while len(rows) - done >= size:
                self._driver.execute(statement, [*chain.from_iterable(rows[done : done + size])])
                done += size

    def _is_damaged(self, error: BaseException | None) -> bool:
        return _code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

    def _is_full(self, error: BaseException | None) -> bool:
        return _code(error) == sqlite3.SQLITE_FULL

    def _why_not_opened(self, error: BaseException | None) -> str:
        if _code(error) == sqlite3.SQLITE_BUSY:
            return f"is held by {self._owner_file.read()}; stop that one first (this is {this_process()})"
        return f"cannot be opened: {error}"


def _code(error: BaseException | None) -> int:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE


def _create(path: Path) -> None:
    """Create the file, readable by its owner only, so that it is still there after a power cut.

    A file that exists is not even opened: to close it again would drop the locks that this process has on it.
    """
    missing = [directory for directory in path.parents if not directory.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(open_private(path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
        for directory in (path.parent, *(made.parent for made in missing)):
            descriptor = os.open(directory, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
