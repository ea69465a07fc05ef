"""The event log as the scheduler uses it: append at once, know later that it is on disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ftactors import __version__
from ftactors.core.errors import LogError, LogFullError, LogRefusedError
from ftactors.core.events import Recorded
from ftactors.log.brief import in_brief
from ftactors.log.errors import LogDamagedError, LogTooNewError, OutcomeUnknownError
from ftactors.log.protocol import Storage
from ftactors.log.reader import Reader
from ftactors.log.rows import START, Head, Mark, Row, row_of
from ftactors.log.verify import verified

T = TypeVar("T")
_PAGE = 1_000
_LEISURE = 4.0
"""How long checking in the background rests, in times of how long it works: commits go first."""


class EventLog:
    """Events in their order, committed in groups by one writer thread.

    All but `open`, `has` and `replay` belongs to one event loop. What is appended in one step of that loop is committed
    in one transaction, together with all that waited while the transaction before it was on its way.

    Args:
        on_undone: Called with the seq of the first event that will never be on disk, because the disk is full or
            another process has taken the log. That event and all after it are to be undone, newest first, before it
            returns; then their seqs are given again.
        on_fatal: Called when it is not known whether events are on disk, or the log is broken. Only opening the log
            anew can tell, in a new process.
    """

    tight = False
    """Whether the disk was full, and the reserve is not whole again: only what is vital should be appended."""

    def __init__(
        self, storage: Storage, *, on_undone: Callable[[int], None], on_fatal: Callable[[BaseException], None]
    ) -> None:
        self.epoch = 0
        self._storage = storage
        self._on_undone = on_undone
        self._on_fatal = on_fatal
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ftactors-log")
        self._refusal: LogRefusedError | None = LogRefusedError("the log is not open, or not yet replayed to its end")
        self._closed = False
        self._opened = Head(START, 0)
        self._queue: list[Row] = []
        self._appended = START
        self._committed = START
        self._writing = False
        """Whether rows are on their way to the disk, or will be at the loop's next turn."""
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}

    @property
    def seq(self) -> int:
        """The seq of the newest event, on disk or not."""
        return self._appended.seq

    @property
    def durable_seq(self) -> int:
        """The seq of the newest event that is on disk."""
        return self._committed.seq

    @property
    def head(self) -> Head:
        """The newest event that is on disk, and this opening; what was found at opening, while that is not replayed."""
        return self._opened if self._committed.seq < self._opened.end.seq else Head(self._committed, self.epoch)

    @property
    def mark(self) -> Mark:
        """The place of the newest event, on disk or not."""
        return self._appended

    @property
    def refusal(self) -> LogRefusedError | None:
        """Why nothing can be appended; None when it can."""
        return self._refusal

    def open(self) -> Head:
        """Take the log. May block; any thread may call it.

        Raises:
            LogRefusedError: another holds the log, or it is damaged, or newer than this version.
            LogFullError: the disk is full.
        """
        head = self._storage.open()
        self.epoch = head.epoch
        self.tight = not self._storage.refill()  # what it took to open a full disk may have been the reserve
        self._opened = head
        return head

    def replay(self, after: Mark = START) -> Iterator[tuple[Recorded, int]]:
        """Yield the events after a place, oldest first. May block; any thread may iterate.

        Reports of progress that the next event makes worthless are passed over; with each event comes how many of them.
        Events can be appended once the iterator has come to its end. Where it raises, what it gave is sound, and can be
        read for ever, but nothing can be appended.

        Raises:
            LogDamagedError: the log is not what was written, or has not the place to begin after.
            LogTooNewError: it holds what only a newer version of ftactors knows.
        """
        reader = Reader()
        try:
            for read in in_brief(self._rows_after(after)):
                yield reader.recorded(read.row), read.passed
        except LogRefusedError as error:
            self._refusal = error
            raise
        self._refusal = None

    def too_new(self, seq: int, why: Exception) -> LogTooNewError:
        """Refuse all appends, for by this version's rules an event of the log could not be; return the refusal."""
        self._refusal = LogTooNewError(
            f"event {seq} is not legal by the rules of ftactors {__version__}, so a version with others wrote it; "
            f"use that ({why})"
        )
        return self._refusal

    def has(self, mark: Mark) -> bool:
        """Return whether the log has this very place. May block; to be asked before the replay."""
        return any(row.mark == mark for row in self._storage.read(after=mark.seq - 1, limit=1))

    def append(self, recorded: Recorded) -> None:
        """Put the event on its way to the disk.

        Raises:
            LogRefusedError: nothing can be appended any more.
            LogError: it is not the next event of this epoch, or cannot be stored.
        """
        if self._refusal is not None:
            raise copy(self._refusal)
        if (recorded.seq, recorded.epoch) != (self.seq + 1, self.epoch):
            raise LogError(
                f"event {recorded.seq} of epoch {recorded.epoch} cannot be appended: "
                f"the next one is event {self.seq + 1} of epoch {self.epoch}"
            )
        row = row_of(recorded, self._appended.hash)
        self._queue.append(row)
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._write)  # with all that this step of the loop still appends
        self._appended = row.mark

    def durable(self, seq: int) -> asyncio.Future[None]:
        """Return a future that is done when the event is on disk. To cancel it cancels nothing but the wait.

        Ask for it in the same step of the loop in which the event was appended or seen: the seqs of undone events are
        given again.

        Raises (when awaited):
            LogFullError: the event was undone, for the disk is full.
            LogRefusedError: the event was undone, for another process has taken the log.
        """
        future = asyncio.get_running_loop().create_future()
        if seq <= self._committed.seq:
            future.set_result(None)
        elif seq <= self._appended.seq:
            self._waiting.setdefault(seq, []).append(future)
        else:
            future.set_exception(
                copy(self._refusal) or LogError(f"there is no event {seq}; the newest is event {self.seq}")
            )
        return future

    async def read(self, *, after: int = 0, job_id: str | None = None, limit: int | None = None) -> list[Recorded]:
        """Return events that are on disk and have a greater seq than `after`, of one job or of all, oldest first."""
        reader = Reader()
        return [reader.recorded(row) for row in await self.rows(after=after, job_id=job_id, limit=limit)]

    async def rows(self, *, after: int = 0, job_id: str | None = None, limit: int | None = None) -> list[Row]:
        """Return the rows of events as they are stored, of which `read` returns the events."""
        return await self._in_writer(lambda: list(self._storage.read(after=after, job_id=job_id, limit=limit)))

    async def confirm(self) -> None:
        """Make sure that the log is still ours, where something shall be done though nothing was written for it.

        Raises:
            LogRefusedError: another has taken it, and nothing can be appended any more.
        """
        try:
            await self._in_writer(self._storage.confirm)
        except LogRefusedError as error:
            self._undo(error)
            raise
        except OutcomeUnknownError as error:
            self._break(error)
            raise LogRefusedError(f"the log must be opened anew: {error}") from error

    async def refill(self) -> None:
        """Find out whether there is room on the disk again, if it was full."""
        if self.tight:
            self.tight = not await self._in_writer(self._storage.refill)

    async def check(self, until: Mark) -> None:
        """Verify the events up to a place that was not replayed, at leisure; refuse the log where one is damaged.

        Raises:
            LogDamagedError: an event is not what was written.
        """
        last = START
        while last.seq < until.seq:
            began = time.perf_counter()
            try:
                last = await self._in_writer(partial(self._checked_page, last, until))
            except LogDamagedError as error:
                self._refusal = error  # what is queued may still be committed: it was legal when it was appended
                raise
            await asyncio.sleep(_LEISURE * (time.perf_counter() - began))

    async def close(self, *, give_back: Callable[[], bool] = lambda: False) -> None:
        """Bring what was appended to the disk, and let go of the log. To be called as often as one likes.

        Args:
            give_back: Asked once it is known what is on disk: whether nothing runs for this log any more, so that
                another namespace may take it. Not asked where nothing could be appended: not all is known then.
        """
        if self._closed:
            return
        self._closed, closed = True, LogRefusedError("the log is closed")
        self._refusal = self._refusal or closed
        while self._writing:
            await self._run(_nothing)  # it is done after the write that is on its way
        if self._refusal is closed and give_back():
            await self._run(self._storage.give_back)
        await self._run(self._storage.close)
        self._writer.shutdown()

    def _rows_after(self, after: Mark) -> Iterator[Row]:
        """Yield verified rows, and take note of how far they go."""
        last: Mark | Row = after
        try:
            for row in verified(self._storage.read(after=after.seq), self._opened, after):
                last = row
                yield row
        finally:
            self._appended = self._committed = Mark(last.seq, last.hash)

    async def _in_writer(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise LogRefusedError("the log is closed")
        return await self._run(work)

    def _run(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Return the future of what the writer thread makes of a function, after all that it was given before."""
        return asyncio.get_running_loop().run_in_executor(self._writer, function, *args)

    def _checked_page(self, after: Mark, until: Mark) -> Mark:
        """Return the last place of the page of rows after `after`, all of which are as they were written."""
        rows = list(self._storage.read(after=after.seq, limit=min(_PAGE, until.seq - after.seq)))
        end = rows[-1].mark if rows and rows[-1].seq < until.seq else until
        witness = self._opened.witness
        known = witness if witness is not None and witness.seq <= end.seq else None
        for _ in verified(rows, replace(self._opened, end=end, witness=known), after):
            pass
        return end

    def _write(self) -> None:
        """Send all that is queued to the disk, in one transaction."""
        rows, self._queue = self._queue, []
        self._writing = bool(rows)
        if rows:
            written = self._run(self._storage.write, rows)
            written.add_done_callback(lambda done: self._written(rows, done))

    def _written(self, rows: list[Row], done: asyncio.Future[None]) -> None:
        """Take note of what became of rows, and send what was appended meanwhile."""
        try:
            error = done.exception()
            if error is None:
                self._commit(rows)
            elif isinstance(error, LogFullError | LogRefusedError):
                self._undo(error)
            else:
                self._break(error)
        except Exception as error:  # noqa: BLE001 - an owner that cannot undo: nothing can be relied on any more
            self._break(error)
        self._write()

    def _commit(self, rows: list[Row]) -> None:
        self._committed = rows[-1].mark
        for future in [future for row in rows for future in self._waiting.pop(row.seq, ())]:
            if not future.done():
                future.set_result(None)

    def _undo(self, error: LogFullError | LogRefusedError) -> None:
        """Forget what is not on disk, newest first, and tell all who wait for it."""
        self._queue.clear()
        self._appended = self._committed
        if isinstance(error, LogRefusedError):
            self._refusal = error
        else:
            self.tight = True
        self._on_undone(self._committed.seq + 1)
        self._fail_waiting(error)

    def _break(self, error: BaseException) -> None:
        """End it all: what is on disk is not known."""
        self._on_fatal(error)  # first of all, for nobody may be told anything that is not known
        self._queue.clear()
        self._refusal = LogRefusedError(f"the log must be opened anew, for a write to it failed: {error}")
        self._fail_waiting(self._refusal)

    def _fail_waiting(self, error: LogError) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in [future for futures in waiting.values() for future in futures]:
            if not future.done():
                future.set_exception(copy(error))  # one each, for a raised error collects the frames it came through


def _nothing() -> None:
    """Do nothing."""
