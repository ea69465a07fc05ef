"""The fold of the whole log: jobs, models, the service, and the indices that deciding and listing need."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ftactors.core.errors import IllegalEventError
from ftactors.core.events import (
    JobCancelled,
    JobCompleted,
    JobEvent,
    JobSubmitted,
    LogOpened,
    ModelDeleted,
    ModelImported,
    Recorded,
    ServiceStarted,
    ServiceStopRequested,
)
from ftactors.core.evolve import evolve
from ftactors.core.job import Job
from ftactors.core.models import Model, completed, imported
from ftactors.core.phases import TERMINAL_PHASES
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus, describe

Undo = Callable[[], None]
"""Takes back the last change; to be called newest first."""


@dataclass(frozen=True, slots=True)
class StopRequest:
    """The service was asked to stop."""

    at: float
    grace_s: float


@dataclass(frozen=True, slots=True)
class _Service:
    """The service, as of the last event about it."""

    config: ServiceConfig | None = None
    stop: StopRequest | None = None
    cluster_id: str | None = None
    cluster_seq: int = 0
    """Attempts placed before this event were on another cluster."""


class State:
    """All that is known. The one mutable object of the core; jobs and models in it are frozen."""

    def __init__(self) -> None:
        self.seq = 0
        self.at = 0.0
        self.epoch = 0
        self.service = _Service()
        self.jobs: dict[str, Job] = {}
        """Those that have not ended, by submission."""
        self.finished: dict[str, FineTuningJobStatusInfo] = {}
        self.finished_seq: dict[str, int] = {}
        """The last event of each finished job."""
        self.cancelled_by: dict[str, str] = {}
        """The request that cancelled a job, so that a repeated one gets the same answer."""
        self.models: dict[str, Model] = {}
        self.reserved: dict[str, str] = {}
        """Ids of models to come, with their jobs."""
        self.idempotency: dict[str, tuple[str, str]] = {}
        """Keys with the job and the digest of the configuration that they were used for."""
        self._submitted: list[tuple[int, str]] = []
        self._submitted_seq: dict[str, int] = {}
        self._ended: dict[JobStatus, list[tuple[int, str]]] = {}

    @property
    def rules(self) -> ServiceConfig:
        """The configuration in force."""
        return self.service.config or ServiceConfig()

    @property
    def places(self) -> bool:
        """Whether the service places jobs now."""
        return self.service.config is not None and self.service.stop is None

    def recorded(self, event: object, at: float) -> Recorded:
        """Return the event in its place as the next one of the log."""
        job_seq = None
        if isinstance(event, JobEvent):
            job = self.jobs.get(event.job_id)
            job_seq = job.job_seq + 1 if job else 1
        return Recorded(self.seq + 1, at, self.epoch, event, job_seq)  # type: ignore[arg-type]

    def apply(self, recorded: Recorded) -> Undo:
        """Take the next event in, and return how to take it back.

        Raises:
            IllegalEventError: it is not the next one, or not legal now; nothing has changed.
            StaleReportError: it comes from an attempt that was given up; nothing has changed.
        """
        if recorded.seq != self.seq + 1:
            raise IllegalEventError(f"the log is at {self.seq}: event {recorded.seq} is not the next one")
        event = recorded.event
        undo = self._apply_job(recorded) if isinstance(event, JobEvent) else self._apply_service(recorded, event)
        before = (self.seq, self.at, self.epoch)
        self.seq, self.at, self.epoch = recorded.seq, recorded.at, recorded.epoch

        def undo_all() -> None:
            undo()
            self.seq, self.at, self.epoch = before

        return undo_all

    def describe(self, job_id: str) -> FineTuningJobStatusInfo | None:
        """Return a job's status without its place in the queue; None if there is no such job."""
        if job_id in self.finished:
            return self.finished[job_id]
        job = self.jobs.get(job_id)
        return describe(job) if job else None

    def last_seq(self, job_id: str) -> int:
        """Return the seq of the job's last event, or 0 where there is no such job."""
        job = self.jobs.get(job_id)
        return job.seq if job else self.finished_seq.get(job_id, 0)

    def newest_first(self, status: JobStatus | None = None, *, before: str | None = None) -> Iterator[str]:
        """Yield job ids, newest first.

        Args:
            status: Where given and terminal, only jobs of this status; others are for the caller to filter.
            before: Begin after this job.
        """
        order = self._submitted if status is None else self._ended.get(status, self._submitted)
        start = len(order)
        if before is not None:
            start = bisect_left(order, (self._submitted_seq.get(before, self.seq + 1), ""))
        for index in range(start - 1, -1, -1):
            yield order[index][1]

    def _apply_job(self, recorded: Recorded) -> Undo:
        event = recorded.event
        if not isinstance(event, JobEvent):
            raise IllegalEventError(f"{event.type} is no event of a job")
        job_id = event.job_id
        if job_id in self.finished:
            status = self.finished[job_id].status
            raise IllegalEventError(
                f"job {job_id!r} is {status}: {event.type} cannot be recorded (allowed now: nothing)"
            )
        before = self.jobs.get(job_id)
        job = evolve(before, recorded)
        if before is None:
            return self._submit(job)
        if job.phase in TERMINAL_PHASES:
            return self._finish(before, job, recorded)
        self.jobs[job_id] = job

        def undo() -> None:
            self.jobs[job_id] = before

        return undo

    def _submit(self, job: Job) -> Undo:
        submitted: JobSubmitted = job.submitted
        key, entry = submitted.idempotency_key, (job.submitted_seq, job.job_id)
        self.jobs[job.job_id] = job
        self.reserved[job.new_model_id] = job.job_id
        self._submitted.append(entry)
        self._submitted_seq[job.job_id] = job.submitted_seq
        if key is not None:
            self.idempotency[key] = (job.job_id, submitted.config_digest)

        def undo() -> None:
            del self.jobs[job.job_id], self.reserved[job.new_model_id]
            del self._submitted_seq[job.job_id]
            self._submitted.remove(entry)
            if key is not None:
                del self.idempotency[key]

        return undo

    def _finish(self, before: Job, job: Job, recorded: Recorded) -> Undo:
        job_id, event = job.job_id, recorded.event
        document, entry = describe(job), (job.submitted_seq, job.job_id)
        ended = self._ended.setdefault(document.status, [])
        order = list(self.jobs)
        del self.jobs[job_id], self.reserved[job.new_model_id]
        self.finished[job_id] = document
        self.finished_seq[job_id] = job.seq
        insort(ended, entry)
        if isinstance(event, JobCancelled):
            self.cancelled_by[job_id] = event.request_id
        if isinstance(event, JobCompleted):
            self.models[event.model.id] = completed(event, recorded.seq, recorded.at)

        def undo() -> None:
            self.jobs[job_id] = before
            self.jobs = {known: self.jobs[known] for known in order}
            self.reserved[job.new_model_id] = job_id
            del self.finished[job_id], self.finished_seq[job_id]
            ended.remove(entry)
            self.cancelled_by.pop(job_id, None)
            if isinstance(event, JobCompleted):
                del self.models[event.model.id]

        return undo

    def _apply_service(self, recorded: Recorded, event: object) -> Undo:
        service, models = self.service, self.models
        match event:
            case LogOpened():
                if event.cluster_id != service.cluster_id:
                    self.service = _Service(service.config, service.stop, event.cluster_id, recorded.seq)
            case ServiceStarted():
                known = {name: value for name, value in event.config.items() if name in ServiceConfig.model_fields}
                config = ServiceConfig.model_validate(known)
                self.service = _Service(config, None, service.cluster_id, service.cluster_seq)
            case ServiceStopRequested():
                stop = StopRequest(recorded.at, event.grace_s)
                self.service = _Service(service.config, stop, service.cluster_id, service.cluster_seq)
            case ModelImported():
                self._refuse_known(event.model_id)
                model = imported(event, recorded.seq, recorded.at, models.get(event.base or ""))
                self.models = {**models, event.model_id: model}
            case ModelDeleted():
                self._refuse_unknown(event)
                self.models = {key: model for key, model in models.items() if key != event.model_id}
            case _:
                raise IllegalEventError(f"{event!r} is no event that the log can hold")

        def undo() -> None:
            self.service, self.models = service, models

        return undo

    def _refuse_known(self, model_id: str) -> None:
        if model_id in self.models:
            raise IllegalEventError(f"model {model_id!r} is registered: it cannot be imported again")

    def _refuse_unknown(self, event: ModelDeleted) -> None:
        model = self.models.get(event.model_id)
        if model is None or model.registered_seq != event.registered_seq:
            raise IllegalEventError(f"model {event.model_id!r} of event {event.registered_seq} is not registered")
