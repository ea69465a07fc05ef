"""A log in an SQL database; what differs between databases is in the subclasses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Select, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from ftactors.core.errors import LogError, LogFullError, LogRefusedError
from ftactors.log.beside import Witness, this_process
from ftactors.log.errors import LogDamagedError, LogViolatedError, OutcomeUnknownError
from ftactors.log.rows import START, Head, Mark, Row
from ftactors.log.tables import ADD, FORMAT, MOVE, events, head, metadata

_ROWS_AT_ONCE = 2_000


class SqlStorage(ABC):
    """A storage on exactly one connection.

    Each write moves the head from where this storage left it, in the epoch that it opened: who lost the log to another
    moves nothing, and its transaction is rolled back. The two statements of a write are compiled once, for compiling
    takes as long as the disk does; their parameters go by position.

    Args:
        name: The database, as messages call it.
    """

    def __init__(self, name: str, witness: Witness) -> None:
        self._name = name
        self._witness = witness
        self._opened: Connection | None = None
        self._epoch = 0
        self._add = self._move = ""

    @abstractmethod
    def _connect(self) -> Connection:
        """Return the connection; with SQLite it is the fence, too."""

    @abstractmethod
    def _is_full(self, error: DBAPIError) -> bool:
        """Return whether the disk is full and the transaction rolled back."""

    @abstractmethod
    def _holder(self, error: DBAPIError) -> str | None:
        """Return who holds the database, where that is what kept `_connect` from it."""

    @property
    def _connection(self) -> Connection:
        if self._opened is None:
            raise LogRefusedError(f"{self._name} is not open")
        return self._opened

    def open(self) -> Head:
        """Take the log; see `Storage`."""
        try:
            self._opened = self._connect()
            dialect = self._opened.dialect
            self._add, self._move = str(ADD.compile(dialect=dialect)), str(MOVE.compile(dialect=dialect))
            with self._opened.begin():
                metadata.create_all(self._opened)
            with self._opened.begin():
                return self._take(self._opened)
        except DBAPIError as error:
            raise self._why_not_opened(error) from error
        finally:
            if self._epoch == 0:
                self.close()

    def read(self, *, after: int = 0, job_id: str | None = None, limit: int | None = None) -> Iterator[Row]:
        """Yield committed rows; see `Storage`."""
        left = limit
        while left is None or left > 0:
            size = _ROWS_AT_ONCE if left is None else min(left, _ROWS_AT_ONCE)
            page = self._page(_selected(after, job_id).limit(size), after)
            yield from page
            if len(page) < size:
                return
            after, left = page[-1].seq, None if left is None else left - size

    def write(self, rows: Sequence[Row]) -> None:
        """Commit the rows, all or none; see `Storage`."""
        expected, end = rows[0].seq - 1, rows[-1].mark
        try:
            with self._connection.begin():
                moved = self._connection.exec_driver_sql(self._move, (*end, self._epoch, expected))
                if moved.rowcount != 1:
                    raise self._fenced(expected)
                self._connection.exec_driver_sql(self._add, [tuple(row) for row in rows])
        except IntegrityError as error:
            raise LogViolatedError(f"{self._name} refused events {expected + 1} to {end.seq}: {error.orig}") from error
        except DBAPIError as error:
            if self._is_full(error):
                raise LogFullError(f"the disk of {self._name} is full; make room and try again") from error
            raise OutcomeUnknownError(
                f"{self._name} failed while events {expected + 1} to {end.seq} were committed: {error.orig}"
            ) from error
        self._witness.write(end)

    def close(self) -> None:
        """Give the log back."""
        connection, self._opened, self._epoch = self._opened, None, 0
        if connection is not None:
            connection.close()
            connection.engine.dispose()
        self._witness.close()

    def _take(self, connection: Connection) -> Head:
        witness = self._witness.read()
        stored_format, before, end = self._found(connection)
        if stored_format > FORMAT:
            raise LogRefusedError(
                f"{self._name} has tables of format {stored_format}, and this version of ftactors knows formats up to "
                f"{FORMAT}: it was written by a newer one; use that"
            )
        if witness is None or witness.seq <= end.seq:  # else rows are lost, and all is left as it was found
            connection.execute(update(head).values(epoch=before + 1, owner=this_process()))
        self._epoch = before + 1
        return Head(end, self._epoch, witness)

    def _found(self, connection: Connection) -> tuple[int, int, Mark]:
        """Return the format, the epoch and the last row of the database, which is made ready where it is new."""
        found = connection.execute(select(head.c.format, head.c.epoch, head.c.seq, head.c.hash)).first()
        match None if found is None else tuple(found):
            case None:
                connection.execute(insert(head).values(id=1, format=FORMAT, epoch=0, seq=0, hash=START.hash, owner=""))
                return FORMAT, 0, START
            case (int(stored_format), int(epoch), int(seq), bytes(row_hash)):
                return stored_format, epoch, Mark(seq, row_hash)
        raise LogDamagedError(1, f"{self._name} has a head that was never written: {found}")

    def _page(self, query: Select[tuple[object, ...]], after: int) -> list[Row]:
        try:
            with self._connection.begin():
                return [Row._make(found) for found in self._connection.execute(query)]
        except DBAPIError as error:
            message = f"{self._name} cannot be read after event {after}: {error.orig}"
            raise LogDamagedError(after + 1, message) from error

    def _fenced(self, expected: int) -> LogRefusedError:
        epoch, seq, owner = self._connection.execute(select(head.c.epoch, head.c.seq, head.c.owner)).one()
        return LogRefusedError(
            f"{self._name} was taken by {owner} (epoch {epoch}, event {seq}); "
            f"this is {this_process()} (epoch {self._epoch}, event {expected})"
        )

    def _why_not_opened(self, error: DBAPIError) -> LogError:
        holder = self._holder(error)
        if holder is not None:
            return LogRefusedError(f"{self._name} is held by {holder}; stop that one first (this is {this_process()})")
        if self._is_full(error):
            return LogFullError(f"the disk of {self._name} is full; make room and try again")
        return LogRefusedError(f"{self._name} cannot be opened: {error.orig}")


def _selected(after: int, job_id: str | None) -> Select[tuple[object, ...]]:
    query = select(events).where(events.c.seq > after)
    if job_id is None:
        return query.order_by(events.c.seq)
    return query.where(events.c.job_id == job_id).order_by(events.c.job_seq)
