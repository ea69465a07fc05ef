"""The rows of the log: through the scheduler while one runs, from its database else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from ftactors.cli.edge import EventNotFoundError
from ftactors.cli.offline import looked_at
from ftactors.cli.output import Output
from ftactors.cli.reading import answering_service
from ftactors.core.errors import LogRefusedError
from ftactors.core.service_config import ServiceConfig
from ftactors.core.urls import without_password
from ftactors.log.protocol import Storage
from ftactors.log.rows import Head, Row
from ftactors.runtime.actor import log_url
from ftactors.runtime.log_desk import ROWS_AT_MOST, LogEnd


class LogSource(Protocol):
    """A log that is read, and not written."""

    is_live: bool
    """Whether a service runs, so that there may be more soon."""
    name: str
    """What a person is told that is read."""
    head: Head
    """Where the log ended when it was opened here; the epoch is that of the next opening."""

    def rows(self, *, after: int = 0, limit: int | None = None) -> Iterator[Row]:
        """Yield the rows that follow seq `after`, oldest first, up to the head.

        Raises:
            LogRefusedError: the scheduler found the log damaged, or too new; all rows that are there were yielded.
        """

    def newer(self, after: int) -> list[Row]:
        """Return rows that follow seq `after`, once there are any, or none after a while."""


class LiveLog:
    """The log of a scheduler that runs.

    Args:
        ask: Returns the answer of a method of the scheduler.
    """

    is_live = True

    def __init__(self, name: str, ask: Callable[..., Any]) -> None:
        self.name = name
        self._ask = ask
        self._end: LogEnd = ask("log_end")
        self.head = self._end.head

    def rows(self, *, after: int = 0, limit: int | None = None) -> Iterator[Row]:
        """Yield the rows that follow seq `after`, page by page."""
        end = self.head.end.seq if limit is None else min(after + limit, self.head.end.seq)
        while after < end:
            page = self._ask("log_rows", after, min(end - after, ROWS_AT_MOST))
            if not page:  # some are lost
                break
            yield from map(Row._make, page)
            after = page[-1][0]
        if limit is None and self._end.refusal is not None:
            raise self._end.refusal

    def newer(self, after: int) -> list[Row]:
        """Return rows that follow seq `after`, once there are any."""
        return [Row._make(cells) for cells in self._ask("log_newer", after)]


class StoredLog:
    """The log in a database that nobody writes to."""

    is_live = False

    def __init__(self, name: str, storage: Storage, head: Head) -> None:
        self.name = name
        self.head = head
        self._storage = storage

    def rows(self, *, after: int = 0, limit: int | None = None) -> Iterator[Row]:
        """Yield the rows that follow seq `after`."""
        return self._storage.read(after=after, limit=limit)

    def newer(self, after: int) -> list[Row]:
        """Return rows that are there already; no more will come."""
        return list(self.rows(after=after))


@contextmanager
def open_log(config: ServiceConfig, output: Output) -> Iterator[LogSource]:
    """Open the log that a configuration names, from `with` to its end, and tell a person where it is read from.

    Raises:
        EventNotFoundError: there is none.
        LogRefusedError: it cannot be read at all, or is held by a process that is not on this cluster.
        ServiceError: a service runs and does not answer, or is of another version.
    """
    name = without_password(log_url(config))
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        client, refusal = runner.run(answering_service(config))
        if client is not None:
            yield LiveLog(name, lambda *asked: runner.run(client.ask(*asked)))
            return
        try:
            log = stack.enter_context(looked_at(log_url(config)))
        except LogRefusedError as error:
            raise refusal or error from None
        if log is None:
            raise EventNotFoundError(f"there is no log at {name}: no service has run with this configuration yet")
        output.say(f"the service refuses: {refusal}" if refusal else f"no service is running; this is its log ({name})")
        yield StoredLog(name, *log)
