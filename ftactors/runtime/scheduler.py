"""The scheduler: it records facts, and brings the cluster to what they say. Knows neither Ray nor processes."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from ftactors.core.decide import decide
from ftactors.core.errors import IllegalEventError, LogFullError, LogRefusedError, StaleReportError
from ftactors.core.events import VITAL, AnyEvent, EvaluationReported, LogOpened, ProgressReported
from ftactors.core.judging import process_keys
from ftactors.core.queue import waiting_jobs
from ftactors.core.reports import fact_of, failed
from ftactors.core.seen import ProcessKey, Seen
from ftactors.core.state import State, Undo
from ftactors.core.status import Waiting
from ftactors.core.wanted import wanted
from ftactors.core.work import URGENT_WORDS, Failed, Report
from ftactors.log.errors import LogDamagedError
from ftactors.log.log import EventLog
from ftactors.log.protocol import Storage
from ftactors.log.rows import START, Mark
from ftactors.log.snapshots import SnapshotFile
from ftactors.runtime.clock import Clock
from ftactors.runtime.protocol import Cluster, ProcessGoneError
from ftactors.runtime.snapshots import Snapshots

_LOG = logging.getLogger(__name__)
_BUSY_S = 1.0
"""The longest wait between two looks while there are jobs."""
_RETRY_S = 2.0
"""The wait after the disk was full."""


class Scheduler:
    """State, log and cluster, kept in agreement.

    Args:
        storage: The event log's.
        cluster: Where trainers run.
        on_fatal: Called when only a new process, which replays the log, can go on.
        clock: Makes the service's clock, once the time of the last event is known.
        snapshots: Where snapshots are kept, so that opening need not replay all; None: nowhere.
    """

    def __init__(
        self,
        storage: Storage,
        cluster: Cluster,
        *,
        on_fatal: Callable[[BaseException], None],
        clock: Callable[[float], Clock] = Clock,
        snapshots: SnapshotFile | None = None,
    ) -> None:
        self.state = State()
        self.log = EventLog(storage, on_undone=self._undo_from, on_fatal=on_fatal)
        self.cluster = cluster
        self.seen = Seen()
        self._make_clock = clock
        self._clock = clock(0.0)
        self._snapshots = None if snapshots is None else Snapshots(snapshots, self.log)
        self._undos: deque[tuple[int, Undo]] = deque()
        """How to take back each event that is not durable yet."""
        self._woken = asyncio.Event()
        self._changed = asyncio.Event()
        self._pulls: dict[tuple[ProcessKey, str], asyncio.Task[None]] = {}

    def now(self) -> float:
        """Return the service's time."""
        return self._clock.now()

    async def open(self, opened: LogOpened) -> None:
        """Take the log, fold it, and record that it was opened.

        Raises:
            LogRefusedError: the log is another's, damaged or too new; what was folded so far can be read.
        """
        await asyncio.to_thread(self._replay)
        self.state.epoch = self.log.epoch
        self._clock = self._make_clock(self.state.at)
        self.cluster.on_change(self.wake)
        await self.log.durable(self.record(opened))

    def record(self, event: AnyEvent, *, needed: bool = False) -> int:
        """Take an event in and put it on its way to the disk; return its seq.

        Args:
            event: The fact.
            needed: Whether something vital rests on it, so that it may use the reserve of a full disk.

        Raises:
            IllegalEventError: it is not legal now.
            StaleReportError: it comes from an attempt that was given up.
            LogFullError: the disk is full, and the event is not vital.
            LogRefusedError: nothing can be recorded any more.
        """
        if self.log.tight and not (needed or isinstance(event, VITAL)):
            raise LogFullError(
                f"the disk of the event log is full: {event.type} is not recorded, for what room is left is kept for "
                "jobs to end in; make room and try again"
            )
        recorded = self.state.recorded(event, self.now())
        undo = self.state.apply(recorded)
        try:
            self.log.append(recorded)
        except BaseException:
            undo()
            raise
        while self._undos and self._undos[0][0] <= self.log.durable_seq:
            self._undos.popleft()
        self._undos.append((recorded.seq, undo))
        if not isinstance(event, ProgressReported | EvaluationReported):
            self.wake()
        self._pulse()
        return recorded.seq

    def wake(self) -> None:
        """Ask for a step soon; asking twice before it makes one step."""
        self._woken.set()

    async def run(self) -> None:
        """Step for ever; returns only when the log refuses."""
        checking = asyncio.get_running_loop().create_task(self._check_what_was_not_replayed())
        try:
            while self.log.refusal is None:
                await self._turn()
        finally:
            checking.cancel()
            for pull in self._pulls.values():  # who is not asked any more checkpoints and exits in time
                pull.cancel()

    async def _turn(self) -> None:
        """Step, and rest until there is a reason to step again."""
        self._woken.clear()
        try:
            await self.step()
            if self._snapshots is not None:
                self._snapshots.take_if_due(self.state)
        except LogFullError as error:
            _LOG.warning("%s; nothing was done, and it is tried again", error)
            await asyncio.sleep(_RETRY_S)
        except LogRefusedError:
            _LOG.exception("the scheduler stops placing jobs")
        else:
            await self._rest()

    async def step(self) -> None:
        """Look at the cluster, then tick."""
        await self.log.refill()
        expected = [key for job in self.state.held.values() for key in process_keys(job)]
        self.seen = await self.cluster.look(as_of_seq=self.state.seq, expected=expected)
        self._pulse()
        await self.tick()

    async def tick(self) -> None:
        """One step of reconciliation. Safe to repeat, and safe to die in: what is still wanted is seen again."""
        for fact in decide(self.state, self.seen, self.now()):  # no await in here
            if not self.log.tight or isinstance(fact, VITAL):
                self.record(fact)
        commands = wanted(self.state, self.seen, self.now())
        await self.log.durable(self.state.seq)
        await self.log.confirm()  # whoever took the log has trainers that this one knows nothing of
        for command in commands:
            self.cluster.execute(command)
        self._pull_from_started()

    def waiting(self) -> Mapping[str, Waiting]:
        """Return the place in the queue of each job that waits."""
        return waiting_jobs(self.state, self.seen, self.now())

    async def changed(self) -> None:
        """Wait until the next event is recorded, or the next look is taken."""
        await self._changed.wait()

    async def close(self) -> None:
        """Stop pulling, and let go of the log; what runs on the cluster stays. Where nothing does, it is given back."""
        for pull in self._pulls.values():
            pull.cancel()
        await asyncio.gather(*self._pulls.values(), return_exceptions=True)
        if self._snapshots is not None:
            await self._snapshots.close(self.state)
        await self.cluster.close()
        await self.log.close(give_back=lambda: not self.state.held)

    def _replay(self) -> None:
        """Fold the log: what came after the snapshot, where there is one that fits, else all."""
        self.log.open()
        found = self._snapshots.found() if self._snapshots else None
        if found is not None:
            mark, self.state = found
            try:
                self._fold(mark)
            except (IllegalEventError, StaleReportError):
                _LOG.exception("the snapshot does not go with the log; all is replayed")
            else:
                return
        self.state = State()
        try:
            self._fold(START)
        except (IllegalEventError, StaleReportError) as error:
            raise self.log.too_new(self.state.seq + 1, error) from error

    def _fold(self, after: Mark) -> None:
        gc.disable()  # nothing of what is folded is garbage, and to look through it again and again takes a tenth
        try:
            for recorded, passed in self.log.replay(after):
                self.state.apply_in_brief(recorded, passed)
        finally:
            gc.enable()

    async def _check_what_was_not_replayed(self) -> None:
        """Verify the events that the snapshot stood for; the log refuses from then on where one is damaged."""
        if self._snapshots is None:
            return
        try:
            await self.log.check(self._snapshots.mark)
        except LogDamagedError:
            _LOG.exception("the log was found damaged")
            self.wake()
        except LogRefusedError:
            _LOG.exception("the log could not be checked to its end")

    def _undo_from(self, seq: int) -> None:
        while self._undos and self._undos[-1][0] >= seq:
            self._undos.pop()[1]()

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _rest(self) -> None:
        """Wait for a reason to step, or for the time to look again."""
        poll_s = self.state.rules.job_queue_poll_interval_seconds
        busy = bool(self.state.held) or any(not job.paused for job in self.state.jobs.values())
        with suppress(TimeoutError):  # not wait_for, which can lose a cancellation before Python 3.12
            async with asyncio.timeout(min(poll_s, _BUSY_S) if busy else poll_s):
                await self._woken.wait()

    def _pull_from_started(self) -> None:
        """Keep one pull pending at the first rank of each attempt that has started."""
        for job in self.state.held.values():
            if job.attempt is None or job.attempt.incarnation is None:
                continue
            pull = (next(process_keys(job)), job.attempt.incarnation)
            if pull not in self._pulls:
                task = self._pulls[pull] = asyncio.get_running_loop().create_task(self._pull(*pull))
                task.add_done_callback(lambda done, pull=pull: self._pulled(pull, done))  # type: ignore[misc]

    def _pulled(self, pull: tuple[ProcessKey, str], done: asyncio.Task[None]) -> None:
        self._pulls.pop(pull, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            _LOG.error("pulling reports of %s ended: %s", pull[0], error, exc_info=error)

    async def _pull(self, key: ProcessKey, incarnation: str) -> None:
        """Take the reports of an attempt until it has ended or its process is gone."""
        handled = 0  # reports up to this one are facts, or were dropped, for the job was being cancelled
        while (attempt := self._attempt_of(key)) is not None:
            try:
                reports = await self.cluster.reports(key, incarnation, after=max(attempt, handled))
            except ProcessGoneError as error:
                _LOG.info("%s", error)
                self.wake()
                await asyncio.sleep(_BUSY_S)  # until a look sees it too, a pull would only wake the next look
                return
            urgent = any(isinstance(report.word, URGENT_WORDS) for report in reports)
            if self.log.tight and not urgent:  # the trainer keeps them until there is room
                await asyncio.sleep(_RETRY_S)
                continue
            for report in reports:
                if not self._take(key, report):  # what the log will never have must not be acknowledged
                    break
                handled = max(handled, report.number)
            try:
                await self.log.durable(self.state.seq)
            except LogFullError:  # undone: the trainer still has them
                handled = 0
                await asyncio.sleep(_RETRY_S)
        await self.cluster.acknowledge(key, incarnation, handled)

    def _attempt_of(self, key: ProcessKey) -> int | None:
        """Return the last report recorded of an attempt; None where the job does not hold it."""
        job = self.state.jobs.get(key.job_id)
        if job is None or job.attempt is None or job.attempt.number != key.attempt:
            return None
        return job.attempt.report

    def _take(self, key: ProcessKey, report: Report) -> bool:
        """Record what a report tells; return False where it tells nothing any more, for its attempt has ended."""
        job = self.state.jobs.get(key.job_id)
        if job is None or job.attempt is None or job.attempt.number != key.attempt:
            return False
        if report.number <= job.attempt.report:
            return True
        rules, now = self.state.rules, self.now()
        fact = fact_of(job, report, stopping=self.state.service.stop is not None, rules=rules, now=now)
        if fact is None:
            return True
        try:
            self.record(fact, needed=True)  # it may be what a vital one in the same batch waits for
        except (IllegalEventError, StaleReportError) as error:
            word = Failed(error_type="protocol", message=f"its trainer said what cannot be true now: {error}")
            self.record(failed(job, word, cause="protocol", counts=True, report=None, rules=rules, now=now))
            return False
        return True
