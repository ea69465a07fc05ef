"""The fold: what each event changes in its job. `phases.TRANSITIONS` says which of them are legal."""

from __future__ import annotations

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
    PauseRequested,
    ProgressReported,
    Recorded,
    ReportedEvent,
    ResumeRequested,
    StageStarted,
    YieldRequested,
)
from ftactors.core.job import TRAINING_STAGES, Attempt, Cancel, Failure, Job, Yielded
from ftactors.core.phases import HOLDING_PHASES, PURPOSE_OF, TRANSITIONS, WAITING_PHASES, EventType, Phase
from ftactors.core.replacing import replace

_FAILURES_KEPT = 10
_REQUESTS_KEPT = 20


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
        never_began = job.attempt is not None and job.attempt.incarnation is None
        if not (never_began and isinstance(event, AttemptFailed)):  # else it waits on, as long as it has waited
            changed = replace(changed, waiting_since=recorded.at)
    held = _counted(changed.attempt, event) if phase in HOLDING_PHASES else None
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


def _type(event: JobEvent | EventType) -> str:
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
        if event.purpose != PURPOSE_OF[job.phase]:
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
    match event:
        case ProgressReported():  # first, for so are most events
            return _progressed(job, event, at)
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
            return replace(job, retry_at=at, yielded=Yielded(event.reason, _held(job).yield_for), **_NO_STAGE)
        case AttemptFailed():
            return _attempt_failed(job, event, at)
        case PauseRequested():
            return replace(job, paused=True, asked=_asked(job, event.request_id))
        case ResumeRequested():
            since = at if job.paused and job.phase in WAITING_PHASES else job.waiting_since  # a pause is no wait
            return replace(job, paused=False, asked=_asked(job, event.request_id), waiting_since=since)
        case CancelRequested() if job.cancel is not None:
            return replace(job, cancel=replace(job.cancel, again=(*job.cancel.again, event.request_id)))
        case CancelRequested():
            return replace(job, cancel=Cancel(event.request_id, event.by, event.grace_s, at))
        case JobCancelled() | JobFailed() | JobCompleted():
            return replace(job, ended=event, completed_at=at)
        case _:
            assert_never(event)


_NO_STAGE: dict[str, Any] = {"stage": None, "stage_index": 0, "stage_of": 0, "stage_step": 0, "stage_total": None}


def _asked(job: Job, request_id: str) -> tuple[str, ...]:
    return (*job.asked, request_id)[-_REQUESTS_KEPT:]


def _more(warnings: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*warnings, *new)))


def _counted(attempt: Attempt | None, event: JobEvent) -> Attempt | None:
    if attempt is None or not isinstance(event, ReportedEvent) or event.report is None:
        return attempt
    return replace(attempt, report=event.report)


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
    overrides = event.overrides if event.purpose == "train" else job.overrides
    return replace(job, attempts=event.attempt, attempt=attempt, overrides=overrides, yielded=None)


def _started(job: Job, event: AttemptStarted, at: float) -> Job:
    held = _held(job)
    attempt = replace(
        held, incarnation=event.incarnation, started=event.ranks, rendezvous=event.rendezvous, started_at=at
    )
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
        baseline_s=at - job.stage_at if job.stage == "baseline" else job.baseline_s,
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
    return replace(
        _held(job), yield_reason=event.reason, yield_for=event.for_job, yield_at=at, yield_grace_s=event.grace_s
    )


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
