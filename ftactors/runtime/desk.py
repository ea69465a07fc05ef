"""The scheduler's desk: a user's request becomes facts, and is answered once they are durable.

Every method is idempotent: ids of jobs and requests are made by the driver, so a call that is made again, because its
answer was lost, gets the same answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import ftactors
from ftactors.core import requests
from ftactors.core.errors import JobNotFoundError, LogFullError, ServiceUnavailableError
from ftactors.core.events import AnyEvent, JobSubmitted, ModelImported, Recorded
from ftactors.core.feasible import ClusterFacts
from ftactors.core.job import Job
from ftactors.core.models import Model
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import TERMINAL_STATUSES, FineTuningJobStatusInfo, JobStatus, Waiting, describe, status_of
from ftactors.runtime.scheduler import Scheduler

_LONGEST_WATCH_S = 20.0


@dataclass(frozen=True, slots=True)
class Hello:
    """Who answers, and by which rules."""

    version: str
    config: ServiceConfig
    epoch: int
    seq: int
    places: bool
    """Whether jobs are placed; False before the first start and after a stop."""
    pid: int
    refusal: str | None = None
    """Why nothing can be written; None where it can."""


class Desk:
    """Answers drivers.

    Args:
        scheduler: Opened before any method but the constructor is called.
        pid: Of the scheduler's process.
    """

    READS = frozenset({"hello", "status", "jobs", "events", "models", "watch"})
    """The methods that write nothing."""

    def __init__(self, scheduler: Scheduler, *, pid: int) -> None:
        self._scheduler = scheduler
        self._pid = pid

    async def hello(self) -> Hello:
        """Return the version, the rules, and how far the log is."""
        state, refusal = self._scheduler.state, self._scheduler.log.refusal
        told = None if refusal is None else str(refusal)
        return Hello(ftactors.__version__, state.rules, state.epoch, state.seq, state.places, self._pid, told)

    async def start(self, config: ServiceConfig, by: str, *, by_owner: bool) -> ServiceConfig:
        """Let the service place jobs, and return the rules in force.

        Args:
            config: The rules that are asked for.
            by: Who asks.
            by_owner: Whether that driver made this scheduler. To any other, a running service keeps its rules.
        """
        state = self._scheduler.state
        if by_owner or not state.places:
            await self._record(requests.start(state, config, by=by))
        return state.rules

    async def stop(self, by: str) -> None:
        """Ask all trainers to checkpoint and stop; nothing is placed from now on."""
        state = self._scheduler.state
        await self._record(requests.stop(state, grace_s=state.rules.stop_grace_seconds, by=by))

    async def wait_stopped(self) -> Literal["stopped", "stopping", "started"]:
        """Return once the service has stopped, or was started again, or after a while in which neither happened."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WATCH_S):
                while not (self.is_stopped() or self._scheduler.state.places):
                    await self._scheduler.changed()
        if self._scheduler.state.places:
            return "started"
        if not self.is_stopped():
            return "stopping"
        await self._scheduler.cluster.rest()
        state = self._scheduler.state
        return "started" if state.places else "stopped"  # it may have been, meanwhile

    def is_stopped(self) -> bool:
        """Return whether the service was asked to stop and holds nothing any more."""
        state, seen = self._scheduler.state, self._scheduler.seen
        alive = any(found.state != "dead" for found in seen.processes.values())
        return seen.complete and not (state.places or state.held or alive)

    async def cluster(self, *, anew: bool = False) -> ClusterFacts:
        """Return what the cluster has, once it was looked at in full.

        Args:
            anew: Look again first, for nodes that have come since.

        Raises:
            ServiceUnavailableError: Ray does not answer.
        """
        old = self._scheduler.seen if anew else None
        if anew:
            self._scheduler.wake()
        try:
            async with asyncio.timeout(_LONGEST_WATCH_S):
                while self._scheduler.seen is old or not self._scheduler.seen.complete:
                    await self._scheduler.changed()
        except TimeoutError:
            raise ServiceUnavailableError(
                f"Ray has not told what the cluster has for {_LONGEST_WATCH_S:g} s; try again once it answers"
            ) from None
        return ClusterFacts.of(self._scheduler.seen)

    async def submit(self, submitted: JobSubmitted) -> FineTuningJobStatusInfo:
        """Accept a job and return its status, queued; see `core.requests.submit` for what it raises."""
        await self._scheduler.log.refill()
        job_id, fact = requests.submit(self._scheduler.state, submitted)
        if fact is not None:
            self._scheduler.record(fact)
        accepted = self._known(job_id, self._scheduler.waiting())
        await self._scheduler.log.durable(self._scheduler.state.last_seq(job_id))
        return accepted

    async def job_of_key(self, key: str, config_digest: str) -> FineTuningJobStatusInfo | None:
        """Return the job that an idempotency key was used for; see `core.requests.job_of_key` for what it raises."""
        job_id = requests.job_of_key(self._scheduler.state, key, config_digest)
        return None if job_id is None else await self._known_status(job_id)

    async def status(self, job_id: str) -> FineTuningJobStatusInfo | None:
        """Return a job's status; None where there is no such job."""
        while True:
            document = self._document(job_id)
            if await self._stays(self._scheduler.state.last_seq(job_id)):
                return document

    async def jobs(
        self, status: JobStatus | None, limit: int, offset: int, after: str | None
    ) -> list[FineTuningJobStatusInfo]:
        """Return a page of jobs, newest first."""
        while True:
            page, seq = self._page(status, limit, offset, after)
            if await self._stays(seq):
                return page

    def _page(
        self, status: JobStatus | None, limit: int, offset: int, after: str | None
    ) -> tuple[list[FineTuningJobStatusInfo], int]:
        """Return a page of jobs, and the newest event that it rests on."""
        state, waiting = self._scheduler.state, self._scheduler.waiting()
        ids = state.newest_first(status, before=after)
        if status is not None and status not in TERMINAL_STATUSES:
            ids = (job_id for job_id in ids if status_of(state.jobs[job_id]) is status)
        page = [self._known(job_id, waiting) for job_id in islice(ids, offset, offset + limit)]
        return page, max((state.last_seq(document.job_id) for document in page), default=0)

    async def cancel(self, job_id: str, request_id: str, by: str) -> bool:
        """Return whether the job is, or will be, cancelled by this request."""
        state = self._scheduler.state
        accepted, fact = requests.cancel(
            state, job_id, request_id=request_id, by=by, grace_s=state.rules.cancel_grace_seconds
        )
        await self._record(fact)
        return accepted

    async def pause(self, job_id: str, request_id: str, by: str) -> FineTuningJobStatusInfo:
        """Let a job wait until it is resumed; if it trains, it checkpoints and gives its share back."""
        await self._record(requests.pause(self._scheduler.state, job_id, request_id=request_id, by=by))
        return await self._known_status(job_id)

    async def resume(self, job_id: str, request_id: str, by: str) -> FineTuningJobStatusInfo:
        """Let a paused job go on."""
        await self._record(requests.resume(self._scheduler.state, job_id, request_id=request_id, by=by))
        return await self._known_status(job_id)

    async def watch(self, job_id: str, after_seq: int) -> tuple[int, FineTuningJobStatusInfo]:
        """Return a job's status and its last seq once that is above `after_seq`, or after a while in any case.

        Raises:
            JobNotFoundError: there is no such job.
        """
        deadline = asyncio.get_running_loop().time() + _LONGEST_WATCH_S
        while self._scheduler.state.last_seq(job_id) <= after_seq:
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0 or not self._scheduler.state.last_seq(job_id):
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, 1.0)):
                    await self._scheduler.changed()
        seq = self._scheduler.state.last_seq(job_id)
        return seq, await self._known_status(job_id)

    async def events(self, job_id: str) -> list[Recorded]:
        """Return all events of a job, oldest first.

        Raises:
            JobNotFoundError: there is no such job.
        """
        await self._known_status(job_id)
        return await self._scheduler.log.read(job_id=job_id)

    async def import_model(self, event: ModelImported) -> Model:
        """Register a model; see `core.requests.import_model` for what it raises."""
        await self._scheduler.log.refill()
        await self._record(requests.import_model(self._scheduler.state, event))
        return self._scheduler.state.models[event.model_id]

    async def models(self) -> list[Model]:
        """Return the registered models, oldest first."""
        models = [*self._scheduler.state.models.values()]
        if models:
            await self._scheduler.log.durable(max(model.registered_seq for model in models))
        return models

    async def delete_model(self, model_id: str, registered_seq: int, by: str) -> None:
        """Delete a model from the registry; see `core.requests.delete_model`."""
        await self._record(requests.delete_model(self._scheduler.state, model_id, registered_seq, by=by))

    async def _record(self, fact: AnyEvent | None) -> None:
        """Record a fact and wait until it is durable; where there is none, because all is so already, until that is."""
        seq = self._scheduler.state.seq if fact is None else self._scheduler.record(fact)
        await self._scheduler.log.durable(seq)

    async def _stays(self, seq: int) -> bool:
        """Wait for an event; return whether it is durable, or was undone, so that other things are true now."""
        try:
            await self._scheduler.log.durable(seq)
        except LogFullError:
            return False
        return True

    def _document(self, job_id: str) -> FineTuningJobStatusInfo | None:
        if not self._scheduler.state.last_seq(job_id):
            return None
        return self._known(job_id, self._scheduler.waiting())

    def _known(self, job_id: str, waiting: Mapping[str, Waiting]) -> FineTuningJobStatusInfo:
        ended = self._scheduler.state.finished.get(job_id)
        return ended.document() if ended else self._described(self._scheduler.state.jobs[job_id], waiting)

    def _described(self, job: Job, waiting: Mapping[str, Waiting]) -> FineTuningJobStatusInfo:
        refusal = self._scheduler.log.refusal
        if refusal is None:
            return describe(job, waiting.get(job.job_id))
        return describe(job).model_copy(update={"wait_reason": f"nothing goes on, for the log is refused: {refusal}"})

    async def _known_status(self, job_id: str) -> FineTuningJobStatusInfo:
        document = await self.status(job_id)
        if document is None:
            raise JobNotFoundError(f"there is no job {job_id!r}")
        return document
