"""A trainer's word -> facts, or nothing; and what becomes of an attempt that failed.

A word is not yet a fact: what a job that is being cancelled still says is acknowledged and dropped.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from ftactors.core.events import (
    AnyJobEvent,
    AttemptFailed,
    AttemptStopped,
    CheckpointSaved,
    DatasetLost,
    DatasetPrepared,
    EvaluationReported,
    JobCancelled,
    JobCompleted,
    JobFailed,
    ProgressReported,
    PublishedModel,
    StageStarted,
)
from ftactors.core.job import TRAINING_STAGES, Attempt, Job
from ftactors.core.overrides import OF_BATCHES, OUT_OF_MEMORY, after_out_of_memory
from ftactors.core.phases import Phase
from ftactors.core.service_config import ServiceConfig
from ftactors.core.work import (
    LAST_WORDS,
    AnyWord,
    CheckpointWritten,
    DatasetMissing,
    Evaluated,
    Failed,
    Prepared,
    Progress,
    Published,
    Report,
    StageBegun,
    Stopped,
)


def fact_of(job: Job, report: Report, *, stopping: bool, rules: ServiceConfig, now: float) -> AnyJobEvent | None:
    """Return the fact that a report of the job's current attempt makes; None where it makes none.

    Args:
        job: The job, which holds the attempt that reports.
        report: Its next report.
        stopping: Whether the service was asked to stop.
        rules: For the retry policy.
        now: The service's clock.
    """
    attempt = job.attempt
    if attempt is None:
        return None
    if job.phase is Phase.CANCELLING:
        return cancelled(job) if isinstance(report.word, LAST_WORDS) else None
    return _fact(job, attempt, report.number, report.word, stopping=stopping, rules=rules, now=now)


def _fact(  # noqa: PLR0911 - one case a word
    job: Job, attempt: Attempt, number: int, word: AnyWord, *, stopping: bool, rules: ServiceConfig, now: float
) -> AnyJobEvent:
    where: dict[str, Any] = {"job_id": job.job_id, "attempt": attempt.number, "report": number}
    said = word.model_dump(exclude={"type"})
    match word:
        case Prepared():
            return DatasetPrepared(**where, **said)
        case DatasetMissing():
            return DatasetLost(**where, **said)
        case StageBegun():
            return StageStarted(**where, **said)
        case Progress():
            return ProgressReported(**where, **said | _known(job, word))
        case CheckpointWritten():
            return CheckpointSaved(**where, **said)
        case Evaluated():
            return EvaluationReported(**where, **said)
        case Stopped():
            return _stopped(job, attempt, word, number, stopping=stopping, rules=rules, now=now)
        case Failed():
            return failed(job, word, counts=True, cause="work", report=number, rules=rules, now=now)
        case Published():
            model = PublishedModel(
                id=job.new_model_id, path=word.path, digest=word.digest, kind=word.kind, base=word.base
            )
            return JobCompleted(**where, model=model, metrics=word.metrics, trained_tokens=word.trained_tokens)


def _known(job: Job, word: Progress) -> dict[str, Any]:
    """Return what was told before and is not told anew: each fact of progress carries all, and so supersedes the last.

    Source: `in_brief` of the log rests on it.
    """
    trained = (job.metrics or {}) if word.stage in TRAINING_STAGES else {}
    return {
        "metrics": {**trained, **word.metrics},
        "tokens_per_second": word.tokens_per_second or job.tokens_per_second,
        "peak_mem_gib": word.peak_mem_gib or job.peak_mem_gib,
    }


def _stopped(
    job: Job, attempt: Attempt, word: Stopped, number: int, *, stopping: bool, rules: ServiceConfig, now: float
) -> AnyJobEvent:
    where: dict[str, Any] = {"job_id": job.job_id, "attempt": attempt.number, "report": number}
    if job.phase is Phase.YIELDING or (job.phase is Phase.PREPARING and stopping):
        return AttemptStopped(**where, reason=attempt.yield_reason or "service_stopped", clean=word.clean)
    unasked = Failed(
        stage=job.stage,
        error_type="stopped_unasked",
        message="its process stopped although the service had not asked for it",
        retryable=True,
    )
    return failed(job, unasked, cause="stopped_unasked", counts=True, report=number, rules=rules, now=now)


def failed(
    job: Job, word: Failed, *, cause: str, counts: bool, report: int | None, rules: ServiceConfig, now: float
) -> AttemptFailed | JobFailed:
    """Return the failure of the job's current attempt: of the attempt where it is tried again, else of the job."""
    attempt = job.attempt
    if attempt is None:
        raise ValueError(f"job {job.job_id!r} is {job.phase} and holds no attempt that could fail")
    if word.error_type == OUT_OF_MEMORY and attempt.purpose == "train":
        word, counts = _out_of_memory(job, word)
    count = job.failed(attempt.purpose) + int(counts)
    was_the_last = counts and count >= int(job.config.get("max_attempts", 3))
    told: dict[str, Any] = {
        "job_id": job.job_id,
        "attempt": attempt.number,
        "report": report,
        "cause": cause,
        "stage": word.stage or job.stage,
        "error_type": word.error_type,
        "message": word.message,
        "hint": word.hint,
    }
    if not word.retryable or was_the_last:
        return JobFailed(**told)
    return AttemptFailed(
        **told, counts=counts, retry_at=now + backoff_s(count if counts else 1 + _uncounted(job), rules)
    )


def _out_of_memory(job: Job, word: Failed) -> tuple[Failed, bool]:
    """Return the word as it is meant, and whether it counts.

    Tried again with smaller batches, which is not counted and done once; or not at all where that cannot help.
    """
    stage = word.stage or job.stage
    smaller = after_out_of_memory(job, stage)
    if smaller is not None:
        told = ", ".join(f"{name}={value}" for name, value in smaller.items())
        return word.model_copy(update={"retryable": True, "hint": f"the next attempt trains with {told}"}), False
    return word.model_copy(update={"retryable": word.retryable and stage not in OF_BATCHES}), True


def _uncounted(job: Job) -> int:
    """Return how many of the last failures in a row did not count."""
    return len(list(takewhile(lambda failure: not failure.counts, reversed(job.failures))))


def backoff_s(failures: int, rules: ServiceConfig) -> float:
    """Return the wait before the next attempt: doubled with each failure, up to a limit."""
    doubled = rules.retry_backoff_seconds * 2.0 ** min(failures - 1, 30)
    return min(doubled, rules.retry_backoff_max_seconds) if failures > 0 else 0.0


def cancelled(job: Job) -> JobCancelled:
    """Return the end of a job whose cancel was requested."""
    if job.cancel is None:
        raise ValueError(f"job {job.job_id!r} was not asked to cancel")
    return JobCancelled(job_id=job.job_id, request_id=job.cancel.request_id, by=job.cancel.by, stage=job.stage)
