"""The fold of the whole log: jobs, models, the service, and the indices that deciding and listing need."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ftactors.core.canonical import canonical
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
    ReportedEvent,
    ServiceStarted,
    ServiceStopRequested,
)
from ftactors.core.evolve import evolve
from ftactors.core.finished import Finished
from ftactors.core.job import Job, nodes_of
from ftactors.core.models import Model, completed, imported
from ftactors.core.phases import HOLDING_PHASES, TERMINAL_PHASES, WAITING_PHASES
from ftactors.core.replacing import replace as quick_replace
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import TERMINAL_STATUSES, FineTuningJobStatusInfo, JobStatus, describe
from ftactors.core.turns import Turns

Undo = Callable[[], None]
"""Takes back the last change; to be called newest first."""


@dataclass(frozen=True, slots=True)
class StopRequest:
    """The service was asked to stop."""

    at: float
    grace_s: float


@dataclass(frozen=True, slots=True)
class Service:
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
        self.service = Service()
        self.jobs: dict[str, Job] = {}
        """Those that have not ended."""
        self.held: dict[str, Job] = {}
        """Those of them that hold an attempt."""
        self.turns = Turns()
        """Those of them that wait."""
        self.left: Mapping[str, float] = {}
        """When an attempt last left each node, as far as this process has seen it: Ray hears of it a moment later."""
        self.finished: dict[str, Finished] = {}
        self.models: dict[str, Model] = {}
        self.reserved: dict[str, str] = {}
        """Ids of models to come, with their jobs."""
        self.idempotency: dict[str, tuple[str, str]] = {}
        """Keys with the job and the digest of the configuration that they were used for."""
        self._submitted: list[tuple[int, str]] = []
        self._live: list[tuple[int, str]] = []
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
        held = self.held.get(event.job_id) if isinstance(event, JobEvent) else None
        undo = self._apply_job(recorded) if isinstance(event, JobEvent) else self._apply_service(recorded, event)
        before = (self.seq, self.at, self.epoch, self.left)
        self.seq, self.at, self.epoch = recorded.seq, recorded.at, recorded.epoch
        if held is not None and held.job_id not in self.held:
            self.left = {**self.left, **dict.fromkeys(nodes_of(held), recorded.at)}

        def undo_all() -> None:
            undo()
            self.seq, self.at, self.epoch, self.left = before

        return undo_all

    def apply_in_brief(self, recorded: Recorded, passed: int) -> None:
        """Take the next event in, where some before it were passed over; of its own job: reports of progress.

        That changes nothing, for the event itself is progress that tells all that they told.

        Raises:
            IllegalEventError, StaleReportError: as `apply` does.
        """
        if passed and isinstance(recorded.event, ReportedEvent):
            job = self.held.get(recorded.event.job_id)
            if job is not None and job.attempt is not None:
                reported = quick_replace(job.attempt, report=job.attempt.report + passed)
                job = quick_replace(job, job_seq=job.job_seq + passed, attempt=reported)
                self.jobs[job.job_id] = self.held[job.job_id] = job
        self.seq = max(self.seq, recorded.seq - 1)
        self.apply(recorded)

    def restore(self, job: Job) -> None:
        """Take a job that has not ended in, as a snapshot has it."""
        self._change(None, job)
        self.reserved[job.new_model_id] = job.job_id
        insort(self._submitted, (job.submitted_seq, job.job_id))
        insort(self._live, (job.submitted_seq, job.job_id))

    def restore_finished(self, job: Finished) -> None:
        """Take a job that has ended in, as a snapshot has it."""
        self.finished[job.job_id] = job
        insort(self._submitted, (job.submitted_seq, job.job_id))
        insort(self._ended.setdefault(job.status, []), (job.submitted_seq, job.job_id))

    def describe(self, job_id: str) -> FineTuningJobStatusInfo | None:
        """Return a job's status without its place in the queue; None if there is no such job."""
        if job_id in self.finished:
            return self.finished[job_id].document()
        job = self.jobs.get(job_id)
        return describe(job) if job else None

    def last_seq(self, job_id: str) -> int:
        """Return the seq of the job's last event, or 0 where there is no such job."""
        known = self.jobs.get(job_id) or self.finished.get(job_id)
        return known.seq if known else 0

    def newest_first(self, status: JobStatus | None = None, *, before: str | None = None) -> Iterator[str]:
        """Yield job ids, newest first.

        Args:
            status: Where given, only jobs that can be of this status: of those that have not ended, all.
            before: Begin after this job.
        """
        if status is None:
            order = self._submitted
        elif status in TERMINAL_STATUSES:
            order = self._ended.get(status, [])
        else:
            order = self._live
        start = len(order)
        known = None if before is None else self.jobs.get(before) or self.finished.get(before)
        if known is not None:
            start = bisect_left(order, (known.submitted_seq, ""))
        for index in range(start - 1, -1, -1):
            yield order[index][1]

    def _apply_job(self, recorded: Recorded) -> Undo:
        event = recorded.event
        if not isinstance(event, JobEvent):
            raise IllegalEventError(f"{event.type} is no event of a job")
        ended = self.finished.get(event.job_id)
        if ended is not None:
            raise IllegalEventError(
                f"job {event.job_id!r} is {ended.status}: {event.type} cannot be recorded (allowed now: nothing)"
            )
        before = self.jobs.get(event.job_id)
        job = evolve(before, recorded)
        if before is None:
            return self._submit(job)
        if job.phase in TERMINAL_PHASES:
            return self._finish(before, job, recorded)
        self._change(before, job)
        return lambda: self._change(job, before)

    def _change(self, before: Job | None, after: Job | None) -> None:
        """Put a job in the place of what it was before, in all that follows from its phase."""
        if before is not None:
            if before.phase in WAITING_PHASES:
                self.turns.remove(before)
            if after is None:
                del self.jobs[before.job_id]
            if after is None or after.phase not in HOLDING_PHASES:
                self.held.pop(before.job_id, None)
        if after is not None:
            self.jobs[after.job_id] = after
            if after.phase in WAITING_PHASES:
                self.turns.add(after)
            elif after.phase in HOLDING_PHASES:
                self.held[after.job_id] = after

    def _submit(self, job: Job) -> Undo:
        submitted: JobSubmitted = job.submitted
        key, entry = submitted.idempotency_key, (job.submitted_seq, job.job_id)
        self._change(None, job)
        self.reserved[job.new_model_id] = job.job_id
        self._submitted.append(entry)
        self._live.append(entry)
        if key is not None:
            self.idempotency[key] = (job.job_id, submitted.config_digest)

        def undo() -> None:
            self._change(job, None)
            del self.reserved[job.new_model_id]
            self._submitted.remove(entry)
            self._live.remove(entry)
            if key is not None:
                del self.idempotency[key]

        return undo

    def _finish(self, before: Job, job: Job, recorded: Recorded) -> Undo:
        event, entry = recorded.event, (job.submitted_seq, job.job_id)
        finished = _finished(job)
        ended = self._ended.setdefault(finished.status, [])
        self._change(before, None)
        del self.reserved[job.new_model_id]
        del self._live[bisect_left(self._live, entry)]
        self.finished[job.job_id] = finished
        insort(ended, entry)
        if isinstance(event, JobCompleted):
            self.models[event.model.id] = completed(event, recorded.seq, recorded.at)

        def undo() -> None:
            self._change(None, before)
            self.reserved[job.new_model_id] = job.job_id
            insort(self._live, entry)
            del self.finished[job.job_id]
            ended.remove(entry)
            if isinstance(event, JobCompleted):
                del self.models[event.model.id]

        return undo

    def _apply_service(self, recorded: Recorded, event: object) -> Undo:
        service, models = self.service, self.models
        match event:
            case LogOpened():
                moved = event.cluster_id != service.cluster_id
                self.service = replace(
                    service,
                    cluster_id=event.cluster_id,
                    cluster_seq=recorded.seq if moved else service.cluster_seq,
                )
            case ServiceStarted():
                config = _rules_of(event)
                self.service = replace(service, config=config, stop=None)
            case ServiceStopRequested():
                self.service = replace(service, stop=StopRequest(recorded.at, event.grace_s))
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


def _rules_of(started: ServiceStarted) -> ServiceConfig:
    """Return the rules that an event holds; what this version has no field for is left out.

    Raises:
        IllegalEventError: a field has a value that this version does not accept.
    """
    known = {name: value for name, value in started.config.items() if name in ServiceConfig.model_fields}
    try:
        return ServiceConfig.model_validate(known)
    except ValueError as error:
        raise IllegalEventError(f"the service's stored configuration is not one of this version: {error}") from error


def _finished(job: Job) -> Finished:
    document = describe(job)
    return Finished(
        job_id=job.job_id,
        submitted_seq=job.submitted_seq,
        seq=job.seq,
        status=document.status,
        json=canonical(document.model_dump(mode="json")).encode(),
        cancelled_by=_cancelled_by(job),
    )


def _cancelled_by(job: Job) -> tuple[str, ...]:
    if not isinstance(job.ended, JobCancelled):
        return ()
    return job.cancel.request_ids if job.cancel else (job.ended.request_id,)
