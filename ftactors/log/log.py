"""The event log as the scheduler uses it: append at once, know later that it is on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy

from ftactors.core.errors import LogError, LogFullError, LogRefusedError
from ftactors.core.events import Recorded
from ftactors.log.protocol import Storage
from ftactors.log.rows import START, Head, Row, recorded_of, row_of
from ftactors.log.verify import verified


class EventLog:
    """Events in their order, committed in groups by one writer thread.

    All but `open` belongs to one event loop. What is appended in one step of that loop is committed in one
    transaction, together with all that waited while the transaction before it was on its way.

    Args:
        on_undone: Called with the seq of the first event that will never be on disk, because the disk is full or
            another process has taken the log. That event and all after it are to be undone, newest first, before it
            returns; then their seqs are given again.
        on_fatal: Called when it is not known whether events are on disk, or the log is broken. Only opening the log
            anew can tell, in a new process.
    """

    def __init__(
        self, storage: Storage, *, on_undone: Callable[[int], None], on_fatal: Callable[[BaseException], None]
    ) -> None:
        self.epoch = 0
        self._storage = storage
        self._on_undone = on_undone
        self._on_fatal = on_fatal
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ftactors-log")
        self._refusal: LogRefusedError | None = LogRefusedError("the log is not open, or not yet replayed to its end")
        self._queue: list[Row] = []
        self._appended = START
        self._committed = START
        self._draining: asyncio.Task[None] | None = None
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
    def refusal(self) -> LogRefusedError | None:
        """Why nothing can be appended; None when it can."""
        return self._refusal

    def open(self) -> Iterator[Recorded]:
        """Take the log, and return all its events, oldest first. May block; any thread may call it and iterate.

        Events can be appended once the iterator has come to its end. Where it raises, what it gave is sound.

        Raises:
            LogRefusedError: another holds the log; while iterating: it is damaged, or newer than this version.
            LogFullError: the disk is full.
        """
        head = self._storage.open()
        self.epoch = head.epoch
        return self._replayed(head)

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
        if self._draining is None:
            self._start_draining()
        self._queue.append(row)
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
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, self._read, after, job_id, limit)

    async def close(self) -> None:
        """Bring what was appended to the disk, and give the log back."""
        self._refusal = self._refusal or LogRefusedError("the log is closed")
        while self._draining is not None:
            await asyncio.wait([self._draining])
        await asyncio.get_running_loop().run_in_executor(self._writer, self._storage.close)
        self._writer.shutdown()

    def _replayed(self, head: Head) -> Iterator[Recorded]:
        try:
            for row in verified(self._storage.read(), head):
                yield recorded_of(row)
        except LogRefusedError as error:
            self._refusal = error
            raise
        self._appended = self._committed = head.end
        self._refusal = None

    def _read(self, after: int, job_id: str | None, limit: int | None) -> list[Recorded]:
        return [recorded_of(row) for row in self._storage.read(after=after, job_id=job_id, limit=limit)]

    def _start_draining(self) -> None:
        self._draining = asyncio.get_running_loop().create_task(self._drain())
        self._draining.add_done_callback(self._drained)

    async def _drain(self) -> None:
        """Commit what is queued, group by group, until nothing is."""
        loop = asyncio.get_running_loop()
        while self._queue:
            rows, self._queue = self._queue, []
            try:
                await loop.run_in_executor(self._writer, self._storage.write, rows)
            except (LogFullError, LogRefusedError) as error:
                self._undo(error)
            else:
                self._commit(rows)

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
        self._on_undone(self._committed.seq + 1)
        self._fail_waiting(error)

    def _drained(self, draining: asyncio.Task[None]) -> None:
        self._draining = None
        if draining.cancelled():  # the loop itself comes to its end
            return
        error = draining.exception()
        if error is not None:
            self._break(error)
        elif self._queue:  # appended after the last look at the queue
            self._start_draining()

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
