"""Judges what the schedulers do by what is on the disk at that moment, and by what really befell the trainers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from ftactors.core.errors import IllegalEventError, StaleReportError
from ftactors.core.events import (
    AttemptEvent,
    AttemptFailed,
    AttemptPlaced,
    AttemptStarted,
    CancelRequested,
    JobCancelled,
    JobEvent,
    JobFailed,
    Recorded,
    ReportedEvent,
    YieldRequested,
)
from ftactors.core.seen import ProcessKey
from ftactors.core.state import State
from ftactors.core.wanted import Begin, Command, Start
from ftactors.log.memory import MemoryDisk
from ftactors.log.reader import Reader
from ftactors.runtime.memory_cluster import MemoryCluster
from tests.simulation.fairness import passed_over, why_no_victim

_Attempt = tuple[str, int]


class Auditor:
    """Reads each row once it is committed; whatever is wrong is kept in `wrong`."""

    def __init__(self, disk: MemoryDisk, cluster: MemoryCluster) -> None:
        self.wrong: list[str] = []
        self.reached: Counter[str] = Counter()
        """How often each thing happened that a test wants to know it reached."""
        self.befell: set[ProcessKey] = set()
        """Trainers that died without any order, or that nobody could see any more."""
        self.unseen: set[str] = set()
        """Incarnations that lived on where nobody could see them."""
        self.state = State()
        """What is on the disk."""
        self._disk, self._cluster = disk, cluster
        self._reader = Reader()
        self._placed: dict[_Attempt, AttemptPlaced] = {}
        self._claims: dict[_Attempt, AttemptStarted] = {}
        self._reports: dict[_Attempt, int] = {}
        self._cancelled: set[str] = set()
        self._failed: set[_Attempt] = set()
        self._came_up: dict[str, ProcessKey] = {}
        self._writes_in: dict[str, _Attempt] = {}

    def follow(self, alive: Callable[[int], Collection[str] | None]) -> None:
        """Read what was committed since the last time.

        Args:
            alive: Returns the jobs of which the scheduler of an epoch saw a trainer last; None where it is dead.
        """
        for row in self._disk.rows[self.state.seq :]:
            recorded = self._reader.recorded(row)
            if isinstance(recorded.event, JobEvent):
                self._judge(recorded.event, recorded.seq)
            if (seen := alive(row.epoch)) is not None:
                self._placed_in_turn(recorded, seen)
            try:
                self.state.apply(recorded)
            except (IllegalEventError, StaleReportError) as error:
                self.wrong.append(f"event {row.seq} is on the disk, and must not be: {error}")
                return

    def order(self, command: Command) -> None:
        """Judge an order at the moment in which a scheduler gives it."""
        attempt, rank = (command.key.job_id, command.key.attempt), command.key.rank
        if isinstance(command, Start):
            placed = self._placed.get(attempt)
            as_placed = placed is not None and placed.ranks[rank : rank + 1] == (command.placed,)
            self._need(as_placed, f"{command.key} was started before its place was on the disk, or at another")
        if isinstance(command, Begin):
            claim = self._claims.get(attempt)
            claimed = claim and (claim.ranks[rank].incarnation or claim.incarnation)
            fine = claimed == command.incarnation
            self._need(fine, f"{command.key} was told to begin as {command.incarnation}; claimed is {claimed}")

    def came_up(self, key: ProcessKey, incarnation: str) -> None:
        """Note that a trainer is up."""
        self._came_up[incarnation] = key

    def begun(self, command: Begin) -> None:
        """Judge that a trainer begins its work."""
        key, work, attempt = command.key, command.work, (command.key.job_id, command.key.attempt)
        self._need_none_at_work(key, "begins")
        owner = self._writes_in.setdefault(work.attempt_dir, attempt)
        self._need(owner == attempt, f"{key} writes in {work.attempt_dir}, which is that of {owner}")
        several, there = len(self._placed[attempt].ranks), (work.rank, work.world_size)
        self._need(there == (key.rank, several), f"{key} is told to be rank {there[0]} of {there[1]}, not of {several}")
        meets = work.rendezvous is not None
        self._need(meets == (several > 1), f"{key}, one of {several} ranks, is to meet at {work.rendezvous}")

    def acknowledged(self, key: ProcessKey, number: int) -> None:
        """Judge that a trainer is told that it may forget its reports up to a number."""
        attempt = key.job_id, key.attempt
        nothing_follows = key.job_id in self._cancelled or attempt in self._failed
        fine = nothing_follows or number <= self._reports.get(attempt, 0)
        self._need(fine, f"{key} may forget its reports up to {number}; on the disk is {self._reports.get(attempt, 0)}")

    def _placed_in_turn(self, recorded: Recorded, alive: Collection[str]) -> None:
        """Judge that an attempt to train passes over no job of a higher priority that needs no more."""
        event = recorded.event
        if isinstance(event, AttemptPlaced) and event.purpose == "train":
            for job in passed_over(self.state, event, recorded.at, alive):
                self.wrong.append(f"event {recorded.seq} places {event.job_id} before {job.job_id}, which goes first")

    def _judge(self, event: JobEvent, seq: int) -> None:
        if isinstance(event, CancelRequested | JobCancelled):
            self._cancelled.add(event.job_id)
        if not isinstance(event, AttemptEvent):
            return
        attempt = event.job_id, event.attempt
        match event:
            case AttemptPlaced():
                self._placed[attempt] = event
                self.reached["resumed with smaller batches"] += bool(event.overrides)
                self.reached["gang on several nodes"] += len({rank.node_id for rank in event.ranks}) > 1
                self._need_none_at_work(ProcessKey(*attempt, 0), "is placed")
            case AttemptStarted():
                self._claims[attempt] = event
                self.reached["gang started"] += len(event.ranks) > 1
                self._all_are_up(event, seq)
            case AttemptFailed() | JobFailed():
                self._failed.add(attempt)
                self.reached[f"failed: {event.error_type}"] += 1
                fine = event.cause != "trainer_lost" or any(key[:2] == attempt for key in self.befell)
                self._need(fine, f"event {seq} says that a trainer of {attempt} died, and nothing befell it")
            case YieldRequested():
                self.reached[f"yield: {event.reason}"] += 1
                why = why_no_victim(self.state, event) if event.reason == "preempted" else None
                self._need(why is None, f"event {seq} lets {event.job_id} yield to {event.for_job}: {why}")
        if isinstance(event, ReportedEvent) and event.report is not None:
            self._reports[attempt] = event.report

    def _all_are_up(self, claim: AttemptStarted, seq: int) -> None:
        """Judge that each rank of an attempt came up before it is claimed."""
        incarnations = [rank.incarnation or claim.incarnation for rank in claim.ranks]
        up = [self._came_up.get(incarnation) for incarnation in incarnations]
        count = len(self._placed[claim.job_id, claim.attempt].ranks)
        wanted = [ProcessKey(claim.job_id, claim.attempt, rank) for rank in range(count)]
        self._need(up == wanted, f"event {seq} claims {incarnations}, which are {up}")

    def _need_none_at_work(self, key: ProcessKey, what: str) -> None:
        """Judge that no other attempt of the job works, as far as anybody can see."""
        others = [
            other
            for other, trainer in self._cluster.trainers.items()
            if other.job_id == key.job_id
            and other.attempt != key.attempt
            and trainer.process.begun
            and trainer.process.state == "up"
            and trainer.process.incarnation not in self.unseen
        ]
        self._need(not others, f"{key} {what} while {others} work on the same job")

    def _need(self, holds: bool, claim: str) -> None:  # noqa: FBT001 - reads as `assert` does
        if not holds:
            self.wrong.append(claim)
