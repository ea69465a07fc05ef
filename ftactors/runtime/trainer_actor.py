"""The trainer actor: it holds a share of the cluster, supervises one child process, and keeps its reports.

Thin on purpose: nothing in here imports torch, and the work is never done in this process, so that it always answers.
All of its methods run in one event loop; do not give them concurrency groups, for each of those is a loop of its own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from functools import partial
from uuid import uuid4

import ray

from ftactors.core.errors import RankLostError, StaleReportError
from ftactors.core.work import AnyWord, CheckpointWritten, Failed, Report, StopOrder, Stopped, Work
from ftactors.runtime.child import Child
from ftactors.runtime.described import Described
from ftactors.runtime.failure import last_word_for
from ftactors.runtime.meeting import Meeting
from ftactors.runtime.node_agent import template_of_node
from ftactors.runtime.outbox import Outbox
from ftactors.runtime.starting import start

PULL_WAIT_S = 20.0
"""How long a pull waits for a report."""
ORPHAN_GRACE_S = 600.0
"""How long an orphan's work may take to checkpoint: nobody waits for its share, so a large model may have its time."""

RANK_LOST_HELD_S = 5.0
"""How long the word that another rank is gone is held back: the scheduler looks more often than that."""


class TrainerActor:
    """One rank of one attempt. It starts empty and touches no file or device before `begin`.

    Args:
        job_id: The job.
        attempt: The attempt's number within the job.
        rank: The rank within the attempt.
        orphan_timeout_s: After so long without a pull, the work is stopped with a checkpoint and the actor exits.
        world_size: How many ranks the attempt has. The first alone reports, and the others meet it at its address.
        namespace: Where the agents of nodes are named; None: where this actor is at home.
    """

    def __init__(
        self,
        job_id: str,
        attempt: int,
        rank: int,
        *,
        orphan_timeout_s: float,
        world_size: int = 1,
        namespace: str | None = None,
    ) -> None:
        self._job_id, self._attempt, self._rank = job_id, attempt, rank
        self._incarnation = uuid4().hex
        self._outbox = Outbox()
        self._meeting = Meeting(ray.util.get_node_ip_address()) if world_size > 1 and rank == 0 else None
        self._failed: Failed | None = None
        self._namespace = namespace
        self._start: asyncio.Task[None] | None = None
        self._began_at = 0.0
        self._child: Child | None = None
        self._never_to_begin = False
        self._orphan_timeout_s = orphan_timeout_s
        self._wanted_at = time.monotonic()
        self._watch = asyncio.get_running_loop().create_task(self._exit_when_orphaned())

    async def describe(self) -> Described:
        """Return what and where this actor is, and how its work is."""
        if self._rank > 0:  # nobody pulls its reports: to be asked is to be wanted
            self._wanted_at = time.monotonic()
        context = ray.get_runtime_context()
        return Described(
            job_id=self._job_id,
            attempt=self._attempt,
            rank=self._rank,
            incarnation=self._incarnation,
            node_id=context.get_node_id(),
            devices=_devices(),
            pid=os.getpid(),
            begun=self._start is not None or self._never_to_begin,
            quiet_s=self._quiet_s(),
            last_report=self._outbox.last_number,
            ended=self._never_to_begin or (self._child is not None and self._child.ended.is_set()),
            address=None if self._meeting is None else self._meeting.address,
            failed=self._failed,
        )

    async def begin(self, incarnation: str, work: Work) -> bool:
        """Start the work, once however often it is called; return False where another incarnation is meant.

        The answer comes at once, though on a node without a warm template the start takes seconds.
        """
        if incarnation != self._incarnation:
            return False
        if self._start is None and not self._never_to_begin:
            self._wanted_at = self._began_at = time.monotonic()
            self._start = asyncio.get_running_loop().create_task(self._have_a_child(work))
            self._start.add_done_callback(self._tell_failed_start)
        return True

    async def reports(self, incarnation: str, after: int) -> list[Report]:
        """Return the reports above `after`, if any comes within `PULL_WAIT_S`; those up to it are acknowledged.

        Raises:
            StaleReportError: another incarnation is meant.
        """
        await self.acknowledge(incarnation, after)
        self._wanted_at = time.monotonic()
        found = await self._outbox.after(after, wait_s=PULL_WAIT_S)
        self._wanted_at = time.monotonic()
        return found

    async def acknowledge(self, incarnation: str, number: int) -> None:
        """Take note that the reports up to `number` are in the log: what they let go can be deleted.

        Raises:
            StaleReportError: another incarnation is meant.
        """
        if incarnation != self._incarnation:
            raise StaleReportError(
                f"attempt {self._attempt} of job {self._job_id!r}, rank {self._rank}: reports of incarnation "
                f"{incarnation} were asked for, but this actor is incarnation {self._incarnation}"
            )
        for report in self._outbox.acknowledge(number):
            if isinstance(report.word, CheckpointWritten):
                for path in report.word.pruned:  # here and now: whoever sees this actor dead finds them gone
                    shutil.rmtree(path, ignore_errors=True)

    async def stop(self, incarnation: str, grace_s: float, save: bool) -> None:  # noqa: FBT001 - Ray calls it by position
        """Let the work stop at its next step, and kill it after `grace_s` seconds; see `Child.stop`.

        Work that has not begun never will. An order for another incarnation does nothing.
        """
        if incarnation == self._incarnation:
            self._stop(StopOrder(grace_s=grace_s, save=save))

    async def kill_child(self) -> None:
        """Kill the work's process; return when it is gone. Where there is none yet, there never will be."""
        if self._child is not None:
            self._child.kill()
            await self._child.ended.wait()
        else:
            self._stop(StopOrder(grace_s=0.0, save=False))

    async def _have_a_child(self, work: Work) -> None:
        """Start the child and tell it its work. Cancelled, it leaves none: who was told nothing has done nothing."""
        template = partial(template_of_node, self._namespace)
        process = await start(work, threads=_threads(), devices=_devices(), template=template)
        self._child = Child(process, work, self._hear)

    def _tell_failed_start(self, start: asyncio.Task[None]) -> None:
        if not start.cancelled() and isinstance(error := start.exception(), Exception):
            self._never_to_begin = True
            self._hear(last_word_for(error, stage=None, dataset=None))

    def _quiet_s(self) -> float:
        if self._child is not None:
            return self._child.quiet_s
        return 0.0 if self._start is None or self._never_to_begin else time.monotonic() - self._began_at

    def _hear(self, word: AnyWord) -> None:
        """Keep a word to be pulled; of a rank that does not report, keep only how it failed.

        That another rank is gone says little: its own actor, or a look at its node, tells why. So the first rank says
        it late, and the others not at all.
        """
        if isinstance(word, Failed) and word.error_type == RankLostError.error_type:
            if self._rank == 0:
                asyncio.get_running_loop().call_later(RANK_LOST_HELD_S, self._outbox.put, word)
        elif self._rank == 0:
            self._outbox.put(word)
        elif isinstance(word, Failed):
            self._failed = word

    def _stop(self, order: StopOrder) -> None:
        if self._child is not None:
            self._child.stop(order)
        elif not self._never_to_begin:
            self._never_to_begin = True
            if self._start is not None:
                self._start.cancel()
            self._hear(Stopped(clean=True))  # nothing was begun, so nothing is lost

    async def _exit_when_orphaned(self) -> None:
        """Exit once nobody has pulled for the timeout, but let the work stop first."""
        while True:
            left_s = self._wanted_at + self._orphan_timeout_s - time.monotonic()
            if left_s > 0:
                await asyncio.sleep(left_s)
            elif self._child is not None and not self._child.ended.is_set():
                self._child.stop(StopOrder(grace_s=ORPHAN_GRACE_S, save=True))
                await self._child.ended.wait()  # whoever pulls meanwhile keeps the actor
            else:
                os._exit(0)  # no exception ends an actor from a background task


def _devices() -> tuple[str, ...]:
    """Return the accelerators that Ray has given this actor."""
    by_kind = ray.get_runtime_context().get_accelerator_ids()
    return tuple(device for ids in by_kind.values() for device in ids)


def _threads() -> int:
    """Return the number of whole CPUs that Ray has given this actor, but at least 1."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
