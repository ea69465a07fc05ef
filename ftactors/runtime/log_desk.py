"""What the scheduler answers about its log, page by page, so that no answer holds up the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ftactors.core.errors import LogError, LogRefusedError
from ftactors.log.log import EventLog
from ftactors.log.rows import Head

ROWS_AT_MOST = 1_000
"""In one answer; so many are read in milliseconds, and the writer waits for no longer."""
_LONGEST_WATCH_S = 20.0

Cells = tuple[Any, ...]
"""A row, as the plain tuple of its columns."""


@dataclass(frozen=True, slots=True)
class LogEnd:
    """How far the log can be read now."""

    head: Head
    """Where it ends on disk; the epoch is the one that the next opening would get."""
    refusal: LogRefusedError | None
    """Why nothing can be written to it; None where it can."""


@dataclass(frozen=True, slots=True)
class LogDesk:
    """Gives out the log's rows as they are on disk.

    Args:
        log: Open, and replayed to its end or its damage.
        changed: Waits until something was appended, or a while.
    """

    log: EventLog
    changed: Callable[[], Awaitable[None]]

    async def log_end(self) -> LogEnd:
        """Return how far the log can be read now."""
        head = self.log.head
        return LogEnd(replace(head, epoch=head.epoch + 1), self.log.refusal)

    async def log_rows(self, after: int, limit: int = ROWS_AT_MOST) -> list[Cells]:
        """Return the rows on disk that follow seq `after`, oldest first: `limit` of them, `ROWS_AT_MOST` at most."""
        rows = await self.log.rows(after=after, limit=min(limit, ROWS_AT_MOST))
        return [tuple(row) for row in rows]

    async def log_newer(self, after: int) -> list[Cells]:
        """Return rows as `log_rows` does, once there are any, or none after a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WATCH_S):
                while self.log.durable_seq <= after:
                    await self._something_new(after)
        return await self.log_rows(after)

    async def _something_new(self, after: int) -> None:
        if self.log.seq <= after:
            await self.changed()
            return
        with suppress(LogError):  # it was undone, and its seq will be given again
            await self.log.durable(self.log.seq)
