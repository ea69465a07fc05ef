"""What users see of a job. A finished job is kept as this document."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ftactors.core.ends import rest_s
from ftactors.core.events import JobCancelled, JobCompleted, JobFailed, Metrics, Stage
from ftactors.core.job import Job
from ftactors.core.overrides import told_overrides
from ftactors.core.phases import HOLDING_PHASES, Phase


class JobStatus(StrEnum):
    """The statuses of a job."""

    QUEUED = "queued"
    PREPROCESSING = "preprocessing"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL_STATUSES = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


class FineTuningJobStatusInfo(BaseModel):
    """A job's status: a view of its events, and of the queue it waits in."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    job_name: str
    status: JobStatus
    base_model_id: str
    new_model_id: str
    method: str
    priority: int = 0
    metadata: dict[str, str] = Field(default_factory=dict)

    progress_percentage: float | None = None
    """Of the training's steps, 0 to 100."""
    current_step: int | None = None
    total_steps: int | None = None
    stage: Stage | None = None
    """What the attempt does now."""
    stage_progress_percentage: float | None = None
    metrics: Metrics | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    """Seconds that training and evaluating still take, at the speed of the attempt's steps so far; loading and
    publishing are not in it. None before there is a speed."""
    peak_mem_gib: float | None = None
    """The most memory that the process has held on its device, or of the machine where it trains on a CPU."""

    error_message: str | None = None
    error_type: str | None = None
    error_hint: str | None = None
    warnings: list[str] = Field(default_factory=list)

    created_at: datetime
    started_at: datetime | None = None
    """When its first attempt, to prepare the data, started."""
    training_started_at: datetime | None = None
    completed_at: datetime | None = None
    """When it ended, whichever way."""

    fine_tuned_model_id: str | None = None
    output_model_path: str | None = None
    run_dir: str

    attempt: int = 0
    """The number of the newest attempt: preparing the data is one, and so is going on after a pause or a stop."""
    failed_attempts: int = 0
    """Those of its present purpose, to prepare or to train, that failed and count against `max_attempts`."""
    max_attempts: int = 3
    num_workers: int = 1
    node: str | None = None
    """The first worker's."""
    nodes: list[str] = Field(default_factory=list)
    """Of all workers, each node once, the first worker's first."""
    devices: list[str] = Field(default_factory=list)
    """Of all workers, in their order."""
    share: float | None = None
    """The share of a GPU that each worker holds; None while it holds none."""
    queue_position: int | None = None
    """1 is next; only while it waits."""
    wait_reason: str | None = None
    """Why it waits, with numbers; only while it waits."""
    estimated_start_at: datetime | None = None
    """When its turn to train is expected to come, by the measured speed of what runs; None where nobody can tell."""
    yield_reason: str | None = None
    """Why it gives its share back; only while it does."""
    cancel_requested: bool = False
    dataset: dict[str, int] | None = None
    """Rows and tokens of the prepared data."""

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return self.status in TERMINAL_STATUSES


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job's place in the queue."""

    position: int
    reason: str
    estimated_start_at: float | None = None
    """In seconds since 1970."""


def status_of(job: Job) -> JobStatus:
    """Return the status that users see for the job's phase."""
    match job.phase:
        case Phase.SUBMITTED | Phase.READY:
            return JobStatus.PAUSED if job.paused else JobStatus.QUEUED
        case Phase.PREPARING:
            return JobStatus.PREPROCESSING
        case Phase.PLACED | Phase.RUNNING | Phase.YIELDING:
            return JobStatus.RUNNING
        case Phase.CANCELLING:
            prepares = job.attempt is not None and job.attempt.purpose == "prepare"
            return JobStatus.PREPROCESSING if prepares else JobStatus.RUNNING
        case Phase.COMPLETED | Phase.FAILED | Phase.CANCELLED:
            return JobStatus(job.phase.value)


def describe(job: Job, waiting: Waiting | None = None) -> FineTuningJobStatusInfo:
    """Return the status document of a job.

    Args:
        job: The job.
        waiting: Its place in the queue, where it waits.
    """
    config = job.config
    metrics = job.ended.metrics if isinstance(job.ended, JobCompleted) else _metrics(job)
    return FineTuningJobStatusInfo(
        job_id=job.job_id,
        job_name=config["job_name"],
        status=status_of(job),
        base_model_id=config["base_model_id"],
        new_model_id=job.new_model_id,
        method=config["fine_tuning_technique"]["method"],
        priority=job.priority,
        metadata=config.get("metadata", {}),
        metrics=metrics,
        warnings=[*job.warnings, *told_overrides(job.overrides)],
        created_at=_time(job.created_at),
        started_at=_time_or_none(job.started_at),
        training_started_at=_time_or_none(job.training_started_at),
        completed_at=_time_or_none(job.completed_at),
        fine_tuned_model_id=job.model.id if job.model else None,
        output_model_path=job.model.path if job.model else None,
        run_dir=job.submitted.run_dir,
        attempt=job.attempts,
        failed_attempts=job.failed_train if job.dataset else job.failed_prepare,
        max_attempts=config.get("max_attempts", 3),
        queue_position=waiting.position if waiting else None,
        wait_reason=waiting.reason if waiting else None,
        estimated_start_at=_time_or_none(waiting.estimated_start_at) if waiting else None,
        yield_reason=_yields(job),
        num_workers=config.get("resources", {}).get("num_workers", 1),
        cancel_requested=job.cancel is not None,
        dataset=dict(job.dataset.counts) if job.dataset else None,
        **_progress(job),
        **_held(job),
        **_error(job),
    )


def _metrics(job: Job) -> Metrics | None:
    """Return what is known while the job goes on: `loss` is that of the last training steps.

    On the held-out data the base measures `base_…` and the tuned model so far `eval_…`, as transformers names them.
    """
    base = {f"base_{name}": value for name, value in (job.baseline or {}).items()}
    tuned = {f"eval_{name}": value for name, value in (job.tuned or {}).items()}
    return {**base, **(job.metrics or {}), **tuned} or None


def _progress(job: Job) -> dict[str, Any]:
    if job.training_started_at is None:
        done = None
    elif job.phase is Phase.COMPLETED:
        done = 100.0
    else:
        done = _percentage(job.step, job.total_steps) or 0.0
    rest = rest_s(job)
    return {
        "progress_percentage": done,
        "current_step": job.step if job.training_started_at is not None else None,
        "total_steps": job.total_steps,
        "stage": None if job.phase is Phase.COMPLETED else job.stage,
        "stage_progress_percentage": _percentage(job.stage_step, job.stage_total),
        "tokens_per_second": job.tokens_per_second,
        "eta_seconds": None if rest is None else round(rest, 1),
        "peak_mem_gib": job.peak_mem_gib,
    }


def _percentage(step: int, total: int | None) -> float | None:
    return round(min(100.0, 100.0 * step / total), 1) if total else None


def _held(job: Job) -> dict[str, Any]:
    attempt = job.attempt
    if attempt is None or job.phase not in HOLDING_PHASES:
        return {}
    nodes = [rank.node_id for rank in attempt.started or attempt.ranks]
    return {
        "node": nodes[0],
        "nodes": list(dict.fromkeys(node for node in nodes if node is not None)),
        "devices": [device for rank in attempt.started for device in rank.devices],
        "share": attempt.ranks[0].gpu_thousandths / 1000 if attempt.purpose == "train" else None,
    }


def _yields(job: Job) -> str | None:
    attempt = job.attempt
    if job.phase is not Phase.YIELDING or attempt is None:
        return None
    match attempt.yield_reason:
        case "preempted":
            why = f"gives its share to job {attempt.yield_for}, which is of higher priority"
        case "draining":
            why = "its node is drained"
        case "service_stopped":
            why = "the service stops"
        case _:
            why = "it was paused"
    return f"{why}: it writes a checkpoint and stops, within {attempt.yield_grace_s:.0f} s"


def _error(job: Job) -> dict[str, Any]:
    match job.ended:
        case JobFailed() as failed:
            return {
                "error_message": _story(job, failed),
                "error_type": failed.error_type,
                "error_hint": failed.hint,
            }
        case JobCancelled() as cancelled:
            return {"error_message": f"cancelled by {cancelled.by} {_while_doing(job, cancelled)}"}
        case JobCompleted():
            return {}
    if not job.failures:
        return {}
    last = job.failures[-1]
    return {
        "error_message": f"attempt {last.attempt} failed: {last.message}; it is tried again",
        "error_type": last.error_type,
        "error_hint": last.hint,
    }


def _while_doing(job: Job, cancelled: JobCancelled) -> str:
    if cancelled.stage:
        return f"while {cancelled.stage}"
    held_an_attempt = job.cancel is not None  # else it was cancelled without a request to stop
    return f"while attempt {job.attempts} was starting" if held_an_attempt else "while it waited"


def _story(job: Job, failed: JobFailed) -> str:
    earlier = [failure for failure in job.failures if failure.attempt != failed.attempt]
    if not earlier:
        return failed.message
    told = "; ".join(f"attempt {failure.attempt}: {failure.message}" for failure in earlier)
    return f"attempt {failed.attempt}: {failed.message} (earlier: {told})"


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, tz=UTC)


def _time_or_none(at: float | None) -> datetime | None:
    return None if at is None else _time(at)
