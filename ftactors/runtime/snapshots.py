"""When snapshots are taken, and whether the one that is found goes with the log."""

from __future__ import annotations

import asyncio
import logging

from ftactors.core.errors import LogError, LogRefusedError
from ftactors.core.snapshot import taken, thawed, written
from ftactors.core.state import State
from ftactors.log.log import EventLog
from ftactors.log.rows import START, Mark
from ftactors.log.snapshots import SnapshotFile

_LOG = logging.getLogger(__name__)
_LEAST_EVENTS = 5_000
"""Replayed in a twentieth of a second."""
_SHARE = 20
"""A snapshot is due after a twentieth of the log, so that writing them costs a constant share of all writing."""


class Snapshots:
    """Snapshots of a state, in a file beside its log.

    Args:
        file: Where they are kept.
        log: What they are of.
    """

    def __init__(self, file: SnapshotFile, log: EventLog) -> None:
        self._file = file
        self._log = log
        self._mark = START
        """Of the newest one."""
        self._writing: asyncio.Task[None] | None = None

    @property
    def mark(self) -> Mark:
        """The place of the newest snapshot: what comes before it is not replayed when the log is opened."""
        return self._mark

    def found(self) -> tuple[Mark, State] | None:
        """Return the state of the newest snapshot, and its place; None where it is not of this log. May block."""
        loaded = self._file.load()
        if loaded is None:
            return None
        mark, document = loaded
        if not self._is_of_this_log(mark):
            _LOG.warning("the snapshot at event %d is not of this log; all is replayed", mark.seq)
            return None
        try:
            state = thawed(document)
        except (ValueError, KeyError, TypeError):
            _LOG.exception("the snapshot at event %d cannot be read; all is replayed", mark.seq)
            return None
        self._mark = mark
        return mark, state

    def _is_of_this_log(self, mark: Mark) -> bool:
        try:
            return self._log.has(mark)
        except LogRefusedError:  # a replay from zero finds out what can be read
            return False

    def take_if_due(self, state: State) -> None:
        """Begin to write a snapshot where enough has happened since the last one; to be called on the event loop.

        While the disk is full, none is: what room is left is for events.
        """
        if self._writing is not None or self._log.tight:
            return
        if state.seq - self._mark.seq >= max(_LEAST_EVENTS, state.seq // _SHARE):
            self._writing = asyncio.get_running_loop().create_task(self._begin(state))
            self._writing.add_done_callback(self._wrote)

    async def close(self, state: State) -> None:
        """Write a last snapshot where that saves the next opening something, after the one that is being written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._log.refusal is None and state.seq - self._mark.seq >= _LEAST_EVENTS:
            await self._begin(state)

    async def _begin(self, state: State) -> None:
        now, mark = taken(state), self._log.mark
        try:
            await self._log.durable(mark.seq)
        except LogError:  # undone, and so is the state
            return
        if await asyncio.to_thread(lambda: self._file.save(mark, written(now))):
            self._mark = mark

    def _wrote(self, writing: asyncio.Task[None]) -> None:
        self._writing = None
        if not writing.cancelled() and (error := writing.exception()) is not None:
            _LOG.error("a snapshot could not be written: %s", error, exc_info=error)
