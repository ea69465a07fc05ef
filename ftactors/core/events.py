"""What happened: one frozen model for each fact.

Stored events never change shape. A new field is optional, and its default means "not known then". A fact of an attempt
that was made from a trainer's report carries the report's number; numbers count from 1 within the attempt.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

Purpose = Literal["prepare", "train"]
Stage = Literal["loading", "baseline", "training", "knowledge", "skills", "evaluating", "publishing", "preparing"]
ModelKind = Literal["full", "adapter"]
Metrics = dict[str, float | int | None]


class Fact(BaseModel):
    """The base of all that is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelRef(Fact):
    """A base model as the job saw it when it was accepted."""

    model_id: str
    registered_seq: int | None = None
    """The event that registered it; None for a model used straight from a directory or the hub."""
    path: str
    """A local directory, or a hub id where `source` is `hub`."""
    source: Literal["registered", "directory", "hub"]
    kind: ModelKind = "full"
    base: ModelRef | None = None
    """For an adapter, the model it belongs on."""
    revision: str | None = None
    digest: str | None = None


class CheckpointRef(Fact):
    """A checkpoint that exists."""

    stage: Stage
    step: int = Field(ge=0)
    path: str
    digest: str


class RankPlacement(Fact):
    """What one rank of an attempt holds on a node."""

    node_id: str | None
    """None: wherever Ray finds room (preparation)."""
    gpu_thousandths: int = Field(ge=0, le=1000)
    cpus: float = Field(ge=0)
    mem_gib: float = Field(default=0.0, ge=0)


class RankStarted(Fact):
    """Where a rank's process really is."""

    node_id: str
    devices: tuple[str, ...] = ()
    pid: int
    incarnation: str | None = None
    """Its trainer actor's; None: that of the attempt, which is the first rank's."""


class RegistrarRef(Fact):
    """A model manager of the user's own: its class's import path, and its arguments."""

    path: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class PublishedModel(Fact):
    """A tuned model's files and lineage."""

    id: str
    path: str
    digest: str
    kind: ModelKind
    base: ModelRef


class Event(Fact):
    """A fact, without its place in the log."""

    v: Literal[1] = 1


class ServiceEvent(Event):
    """A fact about the service or its models."""


class JobEvent(Event):
    """A fact about a job."""

    job_id: str


class AttemptEvent(JobEvent):
    """A fact about an attempt at a job."""

    attempt: int = Field(ge=1)


class ReportedEvent(AttemptEvent):
    """A fact that a trainer's report can tell; those that the scheduler sees itself have no report number."""

    report: int | None = Field(default=None, ge=1)


class LogOpened(ServiceEvent):
    """A scheduler took the log; a `cluster_id` that is new means that every older attempt is lost."""

    type: Literal["log_opened"] = "log_opened"
    cluster_id: str
    namespace: str
    actor_id: str
    node_id: str
    pid: int
    version: str


class ServiceStarted(ServiceEvent):
    """The service places jobs, by this configuration."""

    type: Literal["service_started"] = "service_started"
    config: dict[str, JsonValue]
    by: str


class ServiceStopRequested(ServiceEvent):
    """Nothing is placed from now on, and what is held is to be let go."""

    type: Literal["service_stop_requested"] = "service_stop_requested"
    grace_s: float
    by: str


class ModelImported(ServiceEvent):
    """A base model is registered."""

    type: Literal["model_imported"] = "model_imported"
    model_id: str
    source: str
    path: str
    revision: str | None = None
    digest: str | None = None
    kind: ModelKind = "full"
    base: str | None = None
    owned: bool
    """False: the files are the user's, and are never deleted."""


class ModelDeleted(ServiceEvent):
    """The model that was registered at this seq is no longer registered."""

    type: Literal["model_deleted"] = "model_deleted"
    model_id: str
    registered_seq: int
    by: str


class JobSubmitted(JobEvent):
    """A job was accepted."""

    type: Literal["job_submitted"] = "job_submitted"
    config: dict[str, JsonValue]
    """The `FineTuningJobConfig`, resolved."""
    config_digest: str
    """Of the configuration as it was asked for."""
    idempotency_key: str | None = None
    base: ModelRef
    trainer: str
    handler: str
    run_dir: str
    by: str
    warnings: tuple[str, ...] = ()
    registrar: RegistrarRef | None = None


class AttemptPlaced(AttemptEvent):
    """Shares were set aside on nodes; the trainer actors may not exist yet."""

    type: Literal["attempt_placed"] = "attempt_placed"
    purpose: Purpose
    ranks: tuple[RankPlacement, ...] = Field(min_length=1)
    resume_from: CheckpointRef | None = None
    overrides: dict[str, JsonValue] = Field(default_factory=dict)


class AttemptStarted(AttemptEvent):
    """The claim: this incarnation of the trainer actors, and no other, does the attempt's work."""

    type: Literal["attempt_started"] = "attempt_started"
    incarnation: str
    ranks: tuple[RankStarted, ...] = Field(min_length=1)
    resumed_from_step: int = Field(default=0, ge=0)
    rendezvous: str | None = None
    """`host:port` on the first rank's node, where several ranks meet."""


class DatasetPrepared(ReportedEvent):
    """The data is read, checked, tokenized, counted and written. Ends the attempt."""

    type: Literal["dataset_prepared"] = "dataset_prepared"
    path: str
    fingerprint: str
    shape: str
    counts: dict[str, int]
    base_revision: str | None = None
    warnings: tuple[str, ...] = ()


class DatasetLost(ReportedEvent):
    """Prepared data is gone. Ends the attempt; the data will be prepared again."""

    type: Literal["dataset_lost"] = "dataset_lost"
    path: str
    message: str


class StageStarted(ReportedEvent):
    """The attempt's work came to a stage."""

    type: Literal["stage_started"] = "stage_started"
    stage: Stage
    index: int = Field(ge=1)
    of: int = Field(ge=1)
    total_steps: int | None = Field(default=None, ge=0)
    warnings: tuple[str, ...] = ()


class ProgressReported(ReportedEvent):
    """How far a stage is."""

    type: Literal["progress_reported"] = "progress_reported"
    stage: Stage
    step: int = Field(ge=0)
    metrics: Metrics = Field(default_factory=dict)
    tokens_per_second: float | None = None
    peak_mem_gib: float | None = None


class CheckpointSaved(ReportedEvent):
    """A checkpoint is complete on disk; those in `pruned` are no longer named, and may be deleted."""

    type: Literal["checkpoint_saved"] = "checkpoint_saved"
    stage: Stage
    step: int = Field(ge=0)
    path: str
    digest: str
    pruned: tuple[str, ...] = ()


class EvaluationReported(ReportedEvent):
    """The base or the tuned model was measured on the held-out data."""

    type: Literal["evaluation_reported"] = "evaluation_reported"
    of: Literal["base", "tuned"]
    stage: Stage
    step: int = Field(ge=0)
    metrics: Metrics


class YieldRequested(AttemptEvent):
    """The attempt shall checkpoint and give its share back."""

    type: Literal["yield_requested"] = "yield_requested"
    reason: Literal["paused", "preempted", "draining", "service_stopped"]
    for_job: str | None = None
    grace_s: float


class AttemptStopped(ReportedEvent):
    """The attempt gave its share back as asked. Ends the attempt; never counted as a failure."""

    type: Literal["attempt_stopped"] = "attempt_stopped"
    reason: str
    clean: bool


class AttemptFailed(ReportedEvent):
    """The attempt failed and the job will be tried again. Ends the attempt."""

    type: Literal["attempt_failed"] = "attempt_failed"
    cause: str
    stage: Stage | None = None
    error_type: str
    message: str
    hint: str | None = None
    counts: bool
    """Whether it counts against `max_attempts`."""
    retry_at: float


class PauseRequested(JobEvent):
    """The job shall wait until it is resumed."""

    type: Literal["pause_requested"] = "pause_requested"
    request_id: str
    by: str


class ResumeRequested(JobEvent):
    """The job shall no longer wait."""

    type: Literal["resume_requested"] = "resume_requested"
    request_id: str
    by: str


class CancelRequested(JobEvent):
    """The job shall be cancelled once its attempt has stopped."""

    type: Literal["cancel_requested"] = "cancel_requested"
    request_id: str
    by: str
    grace_s: float


class JobCancelled(JobEvent):
    """The job was cancelled. The end."""

    type: Literal["job_cancelled"] = "job_cancelled"
    request_id: str
    by: str
    stage: Stage | None = None


class JobFailed(ReportedEvent):
    """The last attempt failed. The end."""

    type: Literal["job_failed"] = "job_failed"
    cause: str
    stage: Stage | None = None
    error_type: str
    message: str
    hint: str | None = None


class JobCompleted(ReportedEvent):
    """The tuned model is published, and by this event registered. The end."""

    type: Literal["job_completed"] = "job_completed"
    model: PublishedModel
    metrics: Metrics
    trained_tokens: int = Field(ge=0)


AnyServiceEvent = LogOpened | ServiceStarted | ServiceStopRequested | ModelImported | ModelDeleted
AnyJobEvent = (
    JobSubmitted
    | AttemptPlaced
    | AttemptStarted
    | DatasetPrepared
    | DatasetLost
    | StageStarted
    | ProgressReported
    | CheckpointSaved
    | EvaluationReported
    | YieldRequested
    | AttemptStopped
    | AttemptFailed
    | PauseRequested
    | ResumeRequested
    | CancelRequested
    | JobCancelled
    | JobFailed
    | JobCompleted
)
AnyEvent = AnyServiceEvent | AnyJobEvent
TERMINAL = (JobCancelled, JobFailed, JobCompleted)
VITAL = (
    *TERMINAL,
    LogOpened,
    ServiceStopRequested,
    CancelRequested,
    YieldRequested,
    AttemptStarted,
    AttemptStopped,
    AttemptFailed,
    DatasetPrepared,
    DatasetLost,
    CheckpointSaved,
)
"""What is recorded even while the disk is full, from a reserve: work ends, gives its share back, or is not lost."""

EVENTS: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="type")])
"""Reads any stored event."""


class Recorded(NamedTuple):
    """An event in its place in the log."""

    seq: int
    """Counts all events, from 1, without a gap."""
    at: float
    """Seconds since 1970-01-01 UTC, by the service's clock, which never goes back."""
    epoch: int
    """Counts the openings of the log."""
    event: AnyEvent
    job_seq: int | None = None
    """Counts the events of one job, from 1; None for events of the service."""
