"""The event log, read while no service has it open. Nothing is written to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ftactors.core.errors import FtactorsError, IllegalEventError, StaleReportError
from ftactors.core.events import Recorded
from ftactors.core.state import State
from ftactors.log.errors import LogDamagedError, LogTooNewError
from ftactors.log.protocol import Storage
from ftactors.log.reader import Reader
from ftactors.log.rows import Head, recorded_of
from ftactors.log.urls import storage_at
from ftactors.log.verify import verified

_LOCK_WAIT_S = 2.0
"""A service that just ended, or another reader, may hold the log for a moment longer."""


@dataclass(slots=True)
class LogContent:
    """What a log says."""

    url: str = ""
    state: State = field(default_factory=State)
    damage: FtactorsError | None = None
    """Why the log could not be read to its end: it is damaged, or newer than this version."""

    def events(self, job_id: str) -> list[Recorded]:
        """Return the events of a job, oldest first, read from the log again: they may be too many to keep them all.

        Raises:
            LogRefusedError: the log cannot be read any more.
        """
        with looked_at(self.url) as log:
            rows = log[0].read(job_id=job_id) if log else ()
            return [recorded_of(row) for row in rows if row.seq <= self.state.seq]


def apply(state: State, recorded: Recorded) -> None:
    """Let the state take the next event in.

    Raises:
        LogTooNewError: by what this version knows it cannot have happened.
    """
    try:
        state.apply(recorded)
    except (IllegalEventError, StaleReportError) as error:
        raise LogTooNewError(
            f"event {recorded.seq} cannot follow those before it, by what this version of ftactors knows: {error}"
        ) from error


@contextmanager
def looked_at(url: str, *, lock_wait_s: float = _LOCK_WAIT_S) -> Iterator[tuple[Storage, Head] | None]:
    """Open a log for reading alone, from `with` to its end; None where there is none.

    Raises:
        LogRefusedError: another process holds it, or it cannot be read at all.
    """
    storage = storage_at(url, timeout_s=lock_wait_s)
    try:
        head = storage.look()
        yield None if head is None else (storage, head)
    finally:
        storage.close()


def read_log(url: str, *, lock_wait_s: float = _LOCK_WAIT_S) -> LogContent | None:
    """Return what a log says, up to its end or its damage; None where there is none. It is given back at once.

    Raises:
        LogRefusedError: another process holds it, or it cannot be read at all.
    """
    with looked_at(url, lock_wait_s=lock_wait_s) as log:
        if log is None:
            return None
        storage, head = log
        content, reader = LogContent(url), Reader()
        try:
            for row in verified(storage.read(), head):
                apply(content.state, reader.recorded(row))
        except (LogDamagedError, LogTooNewError) as error:
            content.damage = error
        return content
