"""What the event log asks of a database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ftactors.log.rows import Head, Row


class Storage(Protocol):
    """Rows in a database. Used by one thread at a time; opened once, or looked at, not again after `close`."""

    def open(self) -> Head:
        """Take the log: from now on whoever had it before can no longer write.

        Raises:
            LogTakenError: this owner had it before, and another has taken it since.
            LogTooNewError: a newer version wrote it.
            LogRefusedError: another process holds it, or it cannot be read; the message says which.
            LogFullError: its disk has no room for the opening.
        """

    def look(self) -> Head | None:
        """Open the log for reading alone, and take it from nobody; None where there is none, and none is made.

        Raises:
            LogTooNewError: a newer version wrote it.
            LogRefusedError: another process holds it, or it cannot be read; the message says which.
        """

    def read(self, *, after: int = 0, job_id: str | None = None, limit: int | None = None) -> Iterator[Row]:
        """Yield the committed rows with a greater seq than `after`, of one job or of all, oldest first.

        Raises:
            LogDamagedError: the database cannot be read on.
            LogRefusedError: it does not answer any more.
        """

    def write(self, rows: Sequence[Row]) -> None:
        """Commit the rows, all or none. They are on disk when this returns.

        Raises:
            LogFullError: the disk is full; nothing was written, and the reserve was given back to the disk.
            LogViolatedError: a row that must be unique is not; nothing was written.
            LogTakenError: another has taken the log; nothing was written.
            OutcomeUnknownError: the rows may be there or not.
        """

    def confirm(self) -> None:
        """Make sure, without writing, that nobody else has taken the log.

        Raises:
            LogTakenError: another has.
            OutcomeUnknownError: the database does not say.
        """

    def refill(self) -> bool:
        """Set aside again what was given back to a full disk; return whether the reserve is whole."""

    def give_back(self) -> None:
        """Take note that nobody has the log, and nothing runs for it: who opens it next may be of another namespace.

        Does nothing where the log was only looked at, or is another's by now.
        """

    def close(self) -> None:
        """Let go of the log. What was not written stays unwritten."""
