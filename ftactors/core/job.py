"""What a job's events add up to. `evolve.py` says how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftactors.core.events import (
    CheckpointRef,
    DatasetPrepared,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobSubmitted,
    Metrics,
    PublishedModel,
    Purpose,
    RankPlacement,
    RankStarted,
    Stage,
)
from ftactors.core.phases import Phase

TRAINING_STAGES: frozenset[Stage] = frozenset({"training", "knowledge", "skills"})
"""The stages whose steps are the job's steps."""


@dataclass(frozen=True)  # no slots: see `replacing.py`
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
    rendezvous: str | None = None
    started_at: float | None = None
    report: int = 0
    """The number of the last report that became a fact."""
    yield_reason: str | None = None
    yield_for: str | None = None
    """The job that it makes room for, where it was preempted."""
    yield_at: float = 0.0
    yield_grace_s: float = 0.0

    def incarnation_of(self, rank: int) -> str | None:
        """Return the incarnation of a rank's trainer actor; None before the claim."""
        return self.started[rank].incarnation or self.incarnation if self.started else self.incarnation


@dataclass(frozen=True, slots=True)
class Yielded:
    """Why an attempt gave its share back."""

    reason: str
    for_job: str | None = None


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


@dataclass(frozen=True)
class Cancel:
    """A request to cancel."""

    request_id: str
    by: str
    grace_s: float
    at: float
    again: tuple[str, ...] = ()
    """Requests that came after it: they change nothing, but each gets the same answer when it is repeated."""

    @property
    def request_ids(self) -> tuple[str, ...]:
        """All requests, this one first."""
        return (self.request_id, *self.again)


@dataclass(frozen=True)
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
    asked: tuple[str, ...] = ()
    """The last requests to pause or resume, so that a repeated one does nothing."""
    attempts: int = 0
    """The number of the newest attempt."""
    attempt: Attempt | None = None
    """The attempt that holds a share now."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Those of the last attempt to train."""
    failures: tuple[Failure, ...] = ()
    """The last ones, oldest first."""
    failed_prepare: int = 0
    failed_train: int = 0
    retry_at: float = 0.0
    waiting_since: float = 0.0
    yielded: Yielded | None = None
    """Why the last attempt gave its share back; None where it ended in another way."""
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
    baseline_s: float | None = None
    """How long it took to measure the base model, on the data that the tuned one will be measured on."""
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


def nodes_of(job: Job) -> set[str]:
    """Return the nodes on which the attempt that a job holds is, as far as they are known."""
    if job.attempt is None:
        return set()
    placed = {rank.node_id for rank in job.attempt.ranks if rank.node_id is not None}
    return placed | {rank.node_id for rank in job.attempt.started}
