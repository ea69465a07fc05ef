"""The trainer actor: it holds a share of the cluster, supervises one child process, and keeps its reports.

Thin on purpose: nothing in here imports torch, and the work is never done in this process, so that it always answers.
All of its methods run in one event loop; do not give them concurrency groups, for each of those is a loop of its own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from uuid import uuid4

import ray

from ftactors.core.errors import StaleReportError
from ftactors.core.work import AnyWord, CheckpointWritten, Failed, Report, StopOrder, Stopped, Work
from ftactors.runtime.child import Child
from ftactors.runtime.described import Described
from ftactors.runtime.failure import last_word_for
from ftactors.runtime.meeting import Meeting
from ftactors.runtime.outbox import Outbox

PULL_WAIT_S = 20.0
"""How long a pull waits for a report."""
ORPHAN_GRACE_S = 600.0
"""How long an orphan's work may take to checkpoint: nobody waits for its share, so a large model may have its time."""


class TrainerActor:
    """One rank of one attempt. It starts empty and touches no file or device before `begin`.

    Args:
        job_id: The job.
        attempt: The attempt's number within the job.
        rank: The rank within the attempt.
        orphan_timeout_s: After so long without a pull, the work is stopped with a checkpoint and the actor exits.
        world_size: How many ranks the attempt has. The first alone reports, and the others meet it at its address.
    """

    def __init__(self, job_id: str, attempt: int, rank: int, *, orphan_timeout_s: float, world_size: int = 1) -> None:
        self._job_id, self._attempt, self._rank = job_id, attempt, rank
        self._incarnation = uuid4().hex
        self._outbox = Outbox()
        self._meeting = Meeting(ray.util.get_node_ip_address()) if world_size > 1 and rank == 0 else None
        self._failed: Failed | None = None
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
            devices=tuple(device for ids in context.get_accelerator_ids().values() for device in ids),
            pid=os.getpid(),
            begun=self._child is not None or self._never_to_begin,
            quiet_s=self._child.quiet_s if self._child else 0.0,
            last_report=self._outbox.last_number,
            ended=self._never_to_begin or (self._child is not None and self._child.ended.is_set()),
            address=None if self._meeting is None else self._meeting.address,
            failed=self._failed,
        )

    async def begin(self, incarnation: str, work: Work) -> bool:
        """Start the work, once however often it is called; return False where another incarnation is meant."""
        if incarnation != self._incarnation:
            return False
        if self._child is None and not self._never_to_begin:
            self._wanted_at = time.monotonic()
            try:
                self._child = Child(work, self._hear, threads=_threads())
            except (OSError, ValueError) as error:  # ValueError: of a path that no file can have
                self._never_to_begin = True
                self._hear(last_word_for(error, stage=None, dataset=None))
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
        """Kill the work's process; return when it is gone."""
        if self._child is not None:
            self._child.kill()
            await self._child.ended.wait()

    def _hear(self, word: AnyWord) -> None:
        """Keep a word to be pulled; of a rank that does not report, keep only how it failed."""
        if self._rank == 0:
            self._outbox.put(word)
        elif isinstance(word, Failed):
            self._failed = word

    def _stop(self, order: StopOrder) -> None:
        if self._child is not None:
            self._child.stop(order)
        elif not self._never_to_begin:
            self._never_to_begin = True
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


def _threads() -> int:
    """Return the number of whole CPUs that Ray has given this actor, but at least 1."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
