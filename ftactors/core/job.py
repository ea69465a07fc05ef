"""What a job's events add up to.

`TRANSITIONS` says what is legal, `evolve` what it changes. What is not in the table is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, assert_never

from ftactors.core.errors import IllegalEventError, StaleReportError
from ftactors.core.events import (
    AnyJobEvent,
    AttemptEvent,
    AttemptFailed,
    AttemptPlaced,
    AttemptStarted,
    AttemptStopped,
    CancelRequested,
    CheckpointRef,
    CheckpointSaved,
    DatasetLost,
    DatasetPrepared,
    EvaluationReported,
    JobCancelled,
    JobCompleted,
    JobEvent,
    JobFailed,
    JobSubmitted,
    Metrics,
    PauseRequested,
    ProgressReported,
    PublishedModel,
    Purpose,
    RankPlacement,
    RankStarted,
    Recorded,
    ReportedEvent,
    ResumeRequested,
    Stage,
    StageStarted,
    YieldRequested,
)

TRAINING_STAGES: frozenset[Stage] = frozenset({"training", "knowledge", "skills"})
"""The stages whose steps are the job's steps."""
_FAILURES_KEPT = 10


class Phase(StrEnum):
    """Where a job is on its way."""

    SUBMITTED = "submitted"
    PREPARING = "preparing"
    READY = "ready"
    PLACED = "placed"
    RUNNING = "running"
    YIELDING = "yielding"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


type_of_event = type[JobEvent]

_FLAGS = (PauseRequested, ResumeRequested)
_WORDS_OF_TRAINING = (StageStarted, ProgressReported, CheckpointSaved, EvaluationReported)


def _stays(phase: Phase, *events: type_of_event) -> dict[type_of_event, Phase]:
    return dict.fromkeys(events, phase)


TRANSITIONS: Mapping[Phase, Mapping[type_of_event, Phase]] = MappingProxyType(
    {
        Phase.SUBMITTED: {
            **_stays(Phase.SUBMITTED, *_FLAGS),
            AttemptPlaced: Phase.PREPARING,
            JobCancelled: Phase.CANCELLED,
        },
        Phase.PREPARING: {
            **_stays(Phase.PREPARING, *_FLAGS, AttemptStarted, StageStarted, ProgressReported),
            DatasetPrepared: Phase.READY,
            AttemptFailed: Phase.SUBMITTED,
            AttemptStopped: Phase.SUBMITTED,
            JobFailed: Phase.FAILED,
            CancelRequested: Phase.CANCELLING,
        },
        Phase.READY: {
            **_stays(Phase.READY, *_FLAGS),
            AttemptPlaced: Phase.PLACED,
            JobCancelled: Phase.CANCELLED,
        },
        Phase.PLACED: {
            **_stays(Phase.PLACED, *_FLAGS),
            AttemptStarted: Phase.RUNNING,
            YieldRequested: Phase.YIELDING,
            AttemptFailed: Phase.READY,
            JobFailed: Phase.FAILED,
            CancelRequested: Phase.CANCELLING,
        },
        Phase.RUNNING: {
            **_stays(Phase.RUNNING, *_FLAGS, *_WORDS_OF_TRAINING),
            YieldRequested: Phase.YIELDING,
            AttemptFailed: Phase.READY,
            DatasetLost: Phase.SUBMITTED,
            JobFailed: Phase.FAILED,
            JobCompleted: Phase.COMPLETED,
            CancelRequested: Phase.CANCELLING,
        },
        Phase.YIELDING: {
            **_stays(Phase.YIELDING, *_FLAGS, *_WORDS_OF_TRAINING),
            AttemptStopped: Phase.READY,
            AttemptFailed: Phase.READY,
            DatasetLost: Phase.SUBMITTED,
            JobFailed: Phase.FAILED,
            JobCompleted: Phase.COMPLETED,
            CancelRequested: Phase.CANCELLING,
        },
        Phase.CANCELLING: {JobCancelled: Phase.CANCELLED},
        Phase.COMPLETED: {},
        Phase.FAILED: {},
        Phase.CANCELLED: {},
    }
)
TERMINAL_PHASES = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED})
WAITING_PHASES = frozenset({Phase.SUBMITTED, Phase.READY})
HOLDING_PHASES = frozenset(Phase) - TERMINAL_PHASES - WAITING_PHASES
_PURPOSE_OF: Mapping[Phase, Purpose] = {Phase.SUBMITTED: "prepare", Phase.READY: "train"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt that a job holds a share for."""

    number: int
    purpose: Purpose
    ranks: tuple[RankPlacement, ...]
    placed_at: float
    placed_seq: int
    resume_from: CheckpointRef | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    incarnation: str | None = None
    """None until the claim: no process of this attempt may work yet."""
    started: tuple[RankStarted, ...] = ()
    started_at: float | None = None
    report: int = 0
    """The number of the last report that became a fact."""
    yield_reason: str | None = None
    yield_at: float = 0.0
    yield_grace_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt failed."""

    attempt: int
    purpose: Purpose
    cause: str
    stage: Stage | None
    step: int
    error_type: str
    message: str
    hint: str | None
    counts: bool
    at: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """A request to cancel."""

    request_id: str
    by: str
    grace_s: float
    at: float


@dataclass(frozen=True, slots=True)
class Job:
    """All that is known of one job."""

    job_id: str
    submitted: JobSubmitted
    created_at: float
    submitted_seq: int
    seq: int
    """The last event of this job."""
    job_seq: int
    phase: Phase = Phase.SUBMITTED
    paused: bool = False
    attempts: int = 0
    """The number of the newest attempt."""
    attempt: Attempt | None = None
    """The attempt that holds a share now."""
    failures: tuple[Failure, ...] = ()
    """The last ones, oldest first."""
    failed_prepare: int = 0
    failed_train: int = 0
    retry_at: float = 0.0
    waiting_since: float = 0.0
    dataset: DatasetPrepared | None = None
    checkpoints: tuple[CheckpointRef, ...] = ()
    """Those that exist, oldest first."""
    stage: Stage | None = None
    stage_index: int = 0
    stage_of: int = 0
    stage_at: float = 0.0
    stage_step: int = 0
    stage_total: int | None = None
    step: int = 0
    """Optimizer steps of training done."""
    first_step: int = 0
    """The step at which the stage began, after a resume."""
    total_steps: int | None = None
    progress_at: float = 0.0
    metrics: Metrics | None = None
    tokens_per_second: float | None = None
    peak_mem_gib: float | None = None
    baseline: Metrics | None = None
    tuned: Metrics | None = None
    warnings: tuple[str, ...] = ()
    cancel: Cancel | None = None
    ended: JobCompleted | JobFailed | JobCancelled | None = None
    started_at: float | None = None
    training_started_at: float | None = None
    completed_at: float | None = None

    @property
    def checkpoint(self) -> CheckpointRef | None:
        """The newest checkpoint."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration as it was accepted."""
        return self.submitted.config

    @property
    def priority(self) -> int:
        """Higher goes first."""
        return int(self.config.get("priority", 0))

    @property
    def new_model_id(self) -> str:
        """The id that the tuned model will have."""
        return str(self.config["new_model_id"])

    @property
    def model(self) -> PublishedModel | None:
        """The tuned model, once it is published."""
        return self.ended.model if isinstance(self.ended, JobCompleted) else None

    def failed(self, purpose: Purpose) -> int:
        """Return how many attempts of this purpose have failed and count."""
        return self.failed_prepare if purpose == "prepare" else self.failed_train


def evolve(job: Job | None, recorded: Recorded) -> Job:
    """Return the job after this event.

    Raises:
        IllegalEventError: TRANSITIONS has no entry for this phase and event, or the event does not fit the attempt.
        StaleReportError: the event comes from an attempt that was given up, or was recorded before.
    """
    event = recorded.event
    if not isinstance(event, JobEvent):
        raise IllegalEventError(f"{event.type} is no event of a job")
    if job is None:
        return _begin(event, recorded)
    phase = _next_phase(job, event)
    _guard(job, event)
    changed = _change(job, event, recorded.at, recorded.seq)
    if phase in WAITING_PHASES and job.phase not in WAITING_PHASES:
        changed = replace(changed, waiting_since=recorded.at)
    held = changed.attempt if phase in HOLDING_PHASES else None
    return replace(changed, phase=phase, attempt=held, seq=recorded.seq, job_seq=job.job_seq + 1)


def _begin(event: JobEvent, recorded: Recorded) -> Job:
    if not isinstance(event, JobSubmitted):
        raise IllegalEventError(
            f"job {event.job_id!r} does not exist: {_type(event)} cannot be recorded (allowed now: job_submitted)"
        )
    return Job(
        job_id=event.job_id,
        submitted=event,
        created_at=recorded.at,
        waiting_since=recorded.at,
        submitted_seq=recorded.seq,
        seq=recorded.seq,
        job_seq=1,
        warnings=event.warnings,
    )


def _type(event: JobEvent | type_of_event) -> str:
    return str(
        type(event).model_fields["type"].default if isinstance(event, JobEvent) else event.model_fields["type"].default
    )


def _next_phase(job: Job, event: JobEvent) -> Phase:
    allowed = TRANSITIONS[job.phase]
    if type(event) in allowed:
        return allowed[type(event)]
    names = ", ".join(_type(kind) for kind in allowed) or "nothing"
    raise IllegalEventError(
        f"job {job.job_id!r} is {job.phase}: {_type(event)} cannot be recorded (allowed now: {names})"
    )


def _guard(job: Job, event: JobEvent) -> None:
    """Check that an attempt's event is of the attempt the job holds, and its report the next one."""
    if isinstance(event, AttemptPlaced):
        if event.attempt != job.attempts + 1:
            raise IllegalEventError(
                f"job {job.job_id!r} has had {job.attempts} attempts: no attempt {event.attempt} now"
            )
        if event.purpose != _PURPOSE_OF[job.phase]:
            raise IllegalEventError(f"job {job.job_id!r} is {job.phase}: no attempt to {event.purpose} can be placed")
    elif isinstance(event, AttemptEvent):
        if job.attempt is None or event.attempt != job.attempt.number:
            raise StaleReportError(f"job {job.job_id!r} is at attempt {job.attempts}, not at {event.attempt}")
        if isinstance(event, AttemptStarted) and job.attempt.incarnation is not None:
            raise IllegalEventError(f"attempt {event.attempt} of job {job.job_id!r} was started before")
        report = event.report if isinstance(event, ReportedEvent) else None
        if report is not None and report != job.attempt.report + 1:
            raise StaleReportError(
                f"attempt {event.attempt} of job {job.job_id!r}: report {job.attempt.report + 1} is due, not {report}"
            )


def _change(job: Job, event: AnyJobEvent, at: float, seq: int) -> Job:  # noqa: C901, PLR0911, PLR0912 - one case an event
    job = _count_report(job, event)
    match event:
        case JobSubmitted():
            raise IllegalEventError(f"job {job.job_id!r} was submitted before")
        case AttemptPlaced():
            return _placed(job, event, at, seq)
        case AttemptStarted():
            return _started(job, event, at)
        case DatasetPrepared():
            return replace(job, dataset=event, warnings=_more(job.warnings, event.warnings), **_NO_STAGE)
        case DatasetLost():
            return replace(job, dataset=None, **_NO_STAGE)
        case StageStarted():
            return _stage_started(job, event, at)
        case ProgressReported():
            return _progressed(job, event, at)
        case CheckpointSaved():
            kept = tuple(known for known in job.checkpoints if known.path not in event.pruned)
            saved = CheckpointRef(stage=event.stage, step=event.step, path=event.path, digest=event.digest)
            return replace(job, checkpoints=(*kept, saved))
        case EvaluationReported(of="base"):
            return replace(job, baseline=event.metrics)
        case EvaluationReported():
            return replace(job, tuned=event.metrics)
        case YieldRequested():
            return replace(job, attempt=_yielding(job, event, at))
        case AttemptStopped():
            return replace(job, retry_at=at, **_NO_STAGE)
        case AttemptFailed():
            return _attempt_failed(job, event, at)
        case PauseRequested():
            return replace(job, paused=True)
        case ResumeRequested():
            return replace(job, paused=False)
        case CancelRequested():
            return replace(job, cancel=Cancel(event.request_id, event.by, event.grace_s, at))
        case JobCancelled() | JobFailed() | JobCompleted():
            return replace(job, ended=event, completed_at=at)
        case _:
            assert_never(event)


_NO_STAGE: dict[str, Any] = {"stage": None, "stage_index": 0, "stage_of": 0, "stage_step": 0, "stage_total": None}


def _more(warnings: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*warnings, *new)))


def _count_report(job: Job, event: JobEvent) -> Job:
    if isinstance(event, ReportedEvent) and event.report is not None and job.attempt is not None:
        return replace(job, attempt=replace(job.attempt, report=event.report))
    return job


def _placed(job: Job, event: AttemptPlaced, at: float, seq: int) -> Job:
    attempt = Attempt(
        number=event.attempt,
        purpose=event.purpose,
        ranks=event.ranks,
        placed_at=at,
        placed_seq=seq,
        resume_from=event.resume_from,
        overrides=event.overrides,
    )
    return replace(job, attempts=event.attempt, attempt=attempt)


def _started(job: Job, event: AttemptStarted, at: float) -> Job:
    held = _held(job)
    attempt = replace(held, incarnation=event.incarnation, started=event.ranks, started_at=at)
    trains = held.purpose == "train"
    return replace(
        job,
        attempt=attempt,
        step=event.resumed_from_step,
        first_step=event.resumed_from_step,
        started_at=at if job.started_at is None else job.started_at,
        training_started_at=at if trains and job.training_started_at is None else job.training_started_at,
    )


def _stage_started(job: Job, event: StageStarted, at: float) -> Job:
    total = event.total_steps if event.stage in TRAINING_STAGES else job.total_steps
    return replace(
        job,
        stage=event.stage,
        stage_index=event.index,
        stage_of=event.of,
        stage_at=at,
        stage_step=0,
        stage_total=event.total_steps,
        total_steps=total,
        first_step=job.step,
        progress_at=at,
        warnings=_more(job.warnings, event.warnings),
    )


def _progressed(job: Job, event: ProgressReported, at: float) -> Job:
    trains = event.stage in TRAINING_STAGES
    return replace(
        job,
        stage_step=event.step,
        step=event.step if trains else job.step,
        progress_at=at,
        metrics={**(job.metrics or {}), **event.metrics} if trains else job.metrics,
        tokens_per_second=event.tokens_per_second or job.tokens_per_second,
        peak_mem_gib=event.peak_mem_gib or job.peak_mem_gib,
    )


def _yielding(job: Job, event: YieldRequested, at: float) -> Attempt:
    return replace(_held(job), yield_reason=event.reason, yield_at=at, yield_grace_s=event.grace_s)


def _attempt_failed(job: Job, event: AttemptFailed, at: float) -> Job:
    purpose = _held(job).purpose
    failure = Failure(
        attempt=event.attempt,
        purpose=purpose,
        cause=event.cause,
        stage=event.stage,
        step=job.step,
        error_type=event.error_type,
        message=event.message,
        hint=event.hint,
        counts=event.counts,
        at=at,
    )
    counted = int(event.counts)
    return replace(
        job,
        failures=(*job.failures, failure)[-_FAILURES_KEPT:],
        failed_prepare=job.failed_prepare + (counted if purpose == "prepare" else 0),
        failed_train=job.failed_train + (counted if purpose == "train" else 0),
        retry_at=event.retry_at,
        **_NO_STAGE,
    )


def _held(job: Job) -> Attempt:
    if job.attempt is None:
        raise IllegalEventError(f"job {job.job_id!r} is {job.phase} and holds no attempt")
    return job.attempt
