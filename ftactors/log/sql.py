"""A log in an SQL database; what differs between databases is in the subclasses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from sqlalchemy import Compiled, Connection, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError

import ftactors
from ftactors.core.errors import LogError, LogFullError, LogRefusedError
from ftactors.log.beside import Found, Owner, Witness, this_process
from ftactors.log.errors import LogDamagedError, LogTakenError, LogTooNewError, LogViolatedError, OutcomeUnknownError
from ftactors.log.rows import START, Head, Mark, Row
from ftactors.log.tables import FORMAT, READ, READ_JOB, head, metadata

_ROWS_AT_ONCE = 2_000


class SqlStorage(ABC):
    """A storage on exactly one connection.

    SQLAlchemy makes the tables, the connection and the statements; rows are written and read on the driver's own
    connection, for each of them passes here. Each write moves the head from where this storage left it, in the epoch
    that it opened: who lost the log to another moves nothing, and writes nothing.

    Args:
        name: The database, as messages call it.
        owner: Who opens it.
        witness: What remembers the last row outside of the database, where something does.
    """

    def __init__(self, name: str, owner: Owner, witness: Witness | None = None) -> None:
        self._name = name
        self._owner = owner
        self._witness = witness
        self._opened: Connection | None = None
        self._driver: Any = None
        self._epoch = 0

    @abstractmethod
    def _connect(self, *, looking: bool) -> Connection:
        """Return the connection, whose transactions suit an opening or a look; with SQLite it is the fence, too."""

    @abstractmethod
    def _prepare(self, connection: Connection) -> None:
        """Begin the transaction of an opening, so that nobody else opens meanwhile.

        Raises:
            LogRefusedError: the database does not keep what is committed.
        """

    @abstractmethod
    def _commit(self, rows: Sequence[Row], expected: int) -> bool:
        """Commit the rows if the head is at event `expected` in the own epoch; return whether it was.

        Raises the driver's errors.
        """

    @abstractmethod
    def _is_full(self, error: BaseException | None) -> bool:
        """Return whether the disk is full and the transaction rolled back."""

    def _is_damaged(self, error: BaseException | None) -> bool:  # noqa: ARG002 - most databases tell later
        """Return whether the database is no longer one."""
        return False

    @abstractmethod
    def _why_not_opened(self, error: BaseException | None) -> str:
        """Return what kept the log from being opened, after its name."""

    @property
    def _connection(self) -> Connection:
        if self._opened is None:
            raise LogRefusedError(f"{self._name} is not open")
        return self._opened

    @cached_property
    def _by_seq(self) -> Compiled:
        return READ.compile(dialect=self._connection.dialect)

    @cached_property
    def _by_job(self) -> Compiled:
        return READ_JOB.compile(dialect=self._connection.dialect)

    def open(self) -> Head:
        """Take the log; see `Storage`."""
        with self._closed_if_it_fails():
            connection = self._attach(looking=False)
            with connection.begin():
                self._prepare(connection)
                metadata.create_all(connection)
                taken = self._take(connection)
        self._epoch = taken.epoch
        return taken

    def look(self) -> Head | None:
        """Open the log for reading alone; see `Storage`."""
        with self._closed_if_it_fails():
            connection = self._attach(looking=True)
            connection.begin()  # it lasts until the end, so that all that is read is of one moment
            found = _found(self._name, connection) if inspect(connection).has_table(head.name) else None
        return None if found is None else Head(found.end, found.epoch + 1, self._witnessed())

    def read(self, *, after: int = 0, job_id: str | None = None, limit: int | None = None) -> Iterator[Row]:
        """Yield committed rows; see `Storage`."""
        left = limit
        while left is None or left > 0:
            size = _ROWS_AT_ONCE if left is None else min(left, _ROWS_AT_ONCE)
            page, unreadable = self._page(after, job_id, size)
            yield from page
            if unreadable is not None:
                raise unreadable
            if len(page) < size:
                return
            after, left = page[-1].seq, None if left is None else left - size

    def write(self, rows: Sequence[Row]) -> None:
        """Commit the rows, all or none; see `Storage`."""
        expected, end = rows[0].seq - 1, rows[-1].mark
        dbapi = self._connection.dialect.loaded_dbapi
        if self._epoch == 0:
            raise LogRefusedError(f"{self._name} was opened for reading alone")
        try:
            moved = self._commit(rows, expected)
        except dbapi.IntegrityError as error:
            raise LogViolatedError(f"{self._name} refused events {expected + 1} to {end.seq}: {error}") from error
        except dbapi.Error as error:
            if self._is_full(error):
                raise self._full() from error
            raise OutcomeUnknownError(
                f"{self._name} failed while events {expected + 1} to {end.seq} were committed: {error}"
            ) from error
        if not moved:
            raise self._fenced(expected)
        if self._witness is not None:
            self._witness.write(end)

    def confirm(self) -> None:
        """Make sure that nobody else has taken the log; see `Storage`."""
        try:
            with self._connection.begin():
                found = _found(self._name, self._connection)
        except DBAPIError as error:
            raise OutcomeUnknownError(f"{self._name} does not say whose it is: {error.orig}") from error
        if found is None or found.epoch != self._epoch:
            raise self._fenced(0 if found is None else found.end.seq)

    def refill(self) -> bool:
        """Return True: a database's own disk is not ours to keep a reserve on."""
        return True

    def give_back(self) -> None:
        """Take note that nobody has the log; see `Storage`."""
        free = update(head).where(head.c.epoch == self._epoch).values(cluster_id="", namespace="")
        if self._epoch:
            with suppress(DBAPIError), self._connection.begin():  # else it is taken for one that was killed
                self._connection.execute(free)

    def close(self) -> None:
        """Let go of the log; see `Storage`."""
        connection, self._opened, self._epoch = self._opened, None, 0
        if connection is not None:
            with suppress(DBAPIError):  # it was lost before
                connection.close()
            connection.engine.dispose()
        if self._witness is not None:
            self._witness.close()

    def _attach(self, *, looking: bool) -> Connection:
        self._opened = self._connect(looking=looking)
        self._driver = self._opened.connection.driver_connection
        return self._opened

    @contextmanager
    def _closed_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            self.close()
            if self._is_full(error.orig):
                raise self._full() from error
            why_not = f"{self._name} {self._why_not_opened(error.orig)}"
            raise (LogDamagedError(1, why_not) if self._is_damaged(error.orig) else LogRefusedError(why_not)) from error
        except BaseException:
            self.close()
            raise

    def _take(self, connection: Connection) -> Head:
        found = _found(self._name, connection, locked=True)
        if found is None:
            found = Found(START, epoch=0, owner="", owners=[], cluster_id="", namespace="")
            empty = dict.fromkeys(("owner", "owners", "cluster_id", "namespace", "version"), "")
            connection.execute(insert(head).values(id=1, format=FORMAT, epoch=0, seq=0, hash=START.hash, **empty))
        self._owner.check(found, name=self._name)
        witness = self._witnessed()
        if witness is None or witness.seq <= found.end.seq:  # else rows are lost, and all is left as it was found
            connection.execute(
                update(head).values(
                    epoch=found.epoch + 1,
                    owner=this_process(),
                    owners=" ".join(self._owner.among(found.owners)),
                    cluster_id=self._owner.cluster_id,
                    namespace=self._owner.namespace,
                    version=ftactors.__version__,
                )
            )
        return Head(found.end, found.epoch + 1, witness)

    def _witnessed(self) -> Mark | None:
        return None if self._witness is None else self._witness.read()

    def _page(self, after: int, job_id: str | None, size: int) -> tuple[list[Row], LogRefusedError | None]:
        """Return the rows that can be read, and why there are no more of them where there should be."""
        query = self._by_seq if job_id is None else self._by_job
        values = query.construct_params({"after": after, "job_id": job_id, "size": size})
        page: list[Row] = []
        try:
            page.extend(map(Row._make, self._driver.execute(str(query), values)))
        except self._connection.dialect.loaded_dbapi.Error as error:
            unreadable = self._unreadable(page[-1].seq if page else after, error)
            unreadable.__cause__ = error
            return page, unreadable
        return page, None

    def _unreadable(self, after: int, error: Exception) -> LogRefusedError:
        """Return why the rows that follow `after` cannot be read."""
        return LogDamagedError(after + 1, f"{self._name} cannot be read after event {after}: {error}")

    def _fenced(self, expected: int) -> LogError:
        try:
            with self._connection.begin():
                found = _found(self._name, self._connection)
        except DBAPIError as error:
            return OutcomeUnknownError(f"{self._name} took no event after {expected}, and does not say why: {error}")
        if found is None:
            return LogDamagedError(1, f"{self._name} has no head any more")
        return LogTakenError(
            f"{self._name} {found.taken}; this is {this_process()} (epoch {self._epoch}, event {expected})"
        )

    def _full(self) -> LogFullError:
        return LogFullError(f"the disk of {self._name} is full; make room and try again")


def _found(name: str, connection: Connection, *, locked: bool = False) -> Found | None:
    """Return what the head says, where there is one; locked: nobody else moves it until the transaction ends."""
    query = select(head).with_for_update() if locked else select(head)
    found = connection.execute(query).first()
    match None if found is None else tuple(found):
        case None:
            return None
        case (1, int(stored_format), *_, str(version)) if stored_format > FORMAT:
            raise LogTooNewError(
                f"{name} has tables of format {stored_format}, and this version of ftactors ({ftactors.__version__}) "
                f"knows formats up to {FORMAT}: use ftactors {version} or a newer one"
            )
        case (
            1,
            int(),
            int(epoch),
            int(seq),
            bytes(row_hash),
            str(owner),
            str(owners),
            str(cluster),
            str(space),
            str(),
        ):
            return Found(Mark(seq, row_hash), epoch, owner, owners.split(), cluster, space)
    raise LogDamagedError(1, f"{name} has a head that was never written: {found}")
