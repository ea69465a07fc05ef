"""Short histories of a job, to fold: each function returns the events of one leg of its way."""

from __future__ import annotations

from collections.abc import Iterable

from ftactors.core.config import FineTuningJobConfig
from ftactors.core.events import (
    AnyEvent,
    AnyJobEvent,
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
    LogOpened,
    ModelRef,
    PauseRequested,
    ProgressReported,
    PublishedModel,
    RankPlacement,
    RankStarted,
    Recorded,
    ResumeRequested,
    ServiceStarted,
    StageStarted,
    YieldRequested,
)
from ftactors.core.evolve import evolve
from ftactors.core.job import Job
from ftactors.core.phases import Phase
from ftactors.core.seen import Node
from ftactors.core.service_config import ServiceConfig
from ftactors.core.state import State

JOB = "ftjob-1"
BASE = ModelRef(model_id="base", path="/models/base", source="directory")
NODE = Node(
    node_id="node-a", name="a", gpus=2, cpus=8, mem_gib=32, free_gpu_thousandths=2000, free_cpus=8, free_mem_gib=32
)


def config(**changes: object) -> dict[str, object]:
    """A job's configuration as it is stored."""
    asked = {
        "job_name": "a job",
        "base_model_id": "base",
        "new_model_id": "tuned",
        "dataset_config": {"source_type": "file_path", "path_or_id": "/data/train.jsonl"},
        "fine_tuning_technique": {"method": "lora"},
        "resources": {"num_gpus": 1},
        **changes,
    }
    return FineTuningJobConfig.model_validate(asked).model_dump(mode="json")


def submitted(job_id: str = JOB, *, key: str | None = None, **changes: object) -> JobSubmitted:
    return JobSubmitted(
        job_id=job_id,
        config=config(**changes),  # type: ignore[arg-type]
        config_digest="digest",
        idempotency_key=key,
        base=BASE,
        trainer="trainers.sft:SftTrainer",
        handler="handlers.files:FilesHandler",
        run_dir=f"/runs/{job_id}",
        by="someone",
    )


def placed(attempt: int, purpose: str, job_id: str = JOB, *, resume_from: CheckpointRef | None = None) -> AttemptPlaced:
    gpu = 1000 if purpose == "train" else 0
    node_id = "node-a" if purpose == "train" else None
    return AttemptPlaced(
        job_id=job_id,
        attempt=attempt,
        purpose=purpose,  # type: ignore[arg-type]
        ranks=(RankPlacement(node_id=node_id, gpu_thousandths=gpu, cpus=1),),
        resume_from=resume_from,
    )


def started(attempt: int, job_id: str = JOB, *, step: int = 0) -> AttemptStarted:
    rank = RankStarted(node_id="node-a", devices=("0",), pid=7)
    return AttemptStarted(
        job_id=job_id, attempt=attempt, incarnation=f"i{attempt}", ranks=(rank,), resumed_from_step=step
    )


def prepared(attempt: int = 1, job_id: str = JOB) -> list[AnyJobEvent]:
    return [placed(attempt, "prepare", job_id), started(attempt, job_id), dataset_prepared(attempt, job_id, report=1)]


def dataset_prepared(attempt: int, job_id: str = JOB, *, report: int | None = None) -> DatasetPrepared:
    counts = {"train_rows": 80, "train_tokens": 800}
    return DatasetPrepared(
        job_id=job_id, attempt=attempt, report=report, path="/data", fingerprint="f", shape="text", counts=counts
    )


def running(attempt: int = 2, job_id: str = JOB) -> list[AnyJobEvent]:
    return [placed(attempt, "train", job_id), started(attempt, job_id)]


def training(attempt: int = 2, *, report: int = 1, total: int = 100) -> StageStarted:
    return StageStarted(job_id=JOB, attempt=attempt, report=report, stage="training", index=2, of=4, total_steps=total)


def progressed(attempt: int = 2, *, report: int, step: int) -> ProgressReported:
    return ProgressReported(
        job_id=JOB, attempt=attempt, report=report, stage="training", step=step, metrics={"loss": 2.5}
    )


def saved(attempt: int = 2, *, step: int, report: int | None = None, pruned: Iterable[str] = ()) -> CheckpointSaved:
    path = f"/runs/{JOB}/attempts/{attempt}/checkpoints/step-{step}"
    return CheckpointSaved(
        job_id=JOB,
        attempt=attempt,
        report=report,
        stage="training",
        step=step,
        path=path,
        digest="d",
        pruned=tuple(pruned),
    )


def evaluated(attempt: int = 2, *, of: str = "base", loss: float = 3.0) -> EvaluationReported:
    return EvaluationReported(
        job_id=JOB,
        attempt=attempt,
        of=of,  # type: ignore[arg-type]
        stage="baseline",
        step=0,
        metrics={"loss": loss},
    )


def failed(
    attempt: int = 2, *, cause: str = "trainer_lost", counts: bool = True, retry_at: float = 0.0
) -> AttemptFailed:
    return AttemptFailed(
        job_id=JOB, attempt=attempt, cause=cause, error_type=cause, message="it died", counts=counts, retry_at=retry_at
    )


def yielding(attempt: int = 2) -> YieldRequested:
    return YieldRequested(job_id=JOB, attempt=attempt, reason="paused", grace_s=10)


def stopped(attempt: int = 2) -> AttemptStopped:
    return AttemptStopped(job_id=JOB, attempt=attempt, reason="paused", clean=True)


def cancel_requested() -> CancelRequested:
    return CancelRequested(job_id=JOB, request_id="r1", by="someone", grace_s=10)


def cancelled(job_id: str = JOB) -> JobCancelled:
    return JobCancelled(job_id=job_id, request_id="r1", by="someone")


def job_failed(attempt: int = 2) -> JobFailed:
    return JobFailed(job_id=JOB, attempt=attempt, cause="work", error_type="diverged", message="the loss was nan")


def completed(attempt: int = 2, job_id: str = JOB) -> JobCompleted:
    model = PublishedModel(id="tuned", path="/runs/model", digest="d", kind="adapter", base=BASE)
    return JobCompleted(job_id=job_id, attempt=attempt, model=model, metrics={"loss": 2.0}, trained_tokens=800)


def one_of_each(job: Job) -> list[AnyJobEvent]:
    """Return one event of each type, fit for the attempt that the job holds or would be given."""
    now = job.attempt.number if job.attempt else job.attempts
    purpose = "prepare" if job.phase is Phase.SUBMITTED else "train"
    return [
        submitted(),
        placed(job.attempts + 1, purpose),
        started(max(now, 1)),
        dataset_prepared(max(now, 1)),
        DatasetLost(job_id=JOB, attempt=max(now, 1), path="/data", message="gone"),
        StageStarted(job_id=JOB, attempt=max(now, 1), stage="loading", index=1, of=4),
        ProgressReported(job_id=JOB, attempt=max(now, 1), stage="training", step=1),
        saved(max(now, 1), step=1),
        evaluated(max(now, 1)),
        yielding(max(now, 1)),
        stopped(max(now, 1)),
        failed(max(now, 1)),
        PauseRequested(job_id=JOB, request_id="p", by="someone"),
        ResumeRequested(job_id=JOB, request_id="p", by="someone"),
        cancel_requested(),
        cancelled(),
        job_failed(max(now, 1)),
        completed(max(now, 1)),
    ]


IN_PHASE: dict[Phase, list[AnyJobEvent]] = {
    Phase.SUBMITTED: [submitted()],
    Phase.PREPARING: [submitted(), placed(1, "prepare")],
    Phase.READY: [submitted(), *prepared()],
    Phase.PLACED: [submitted(), *prepared(), placed(2, "train")],
    Phase.RUNNING: [submitted(), *prepared(), *running()],
    Phase.YIELDING: [submitted(), *prepared(), *running(), yielding()],
    Phase.CANCELLING: [submitted(), *prepared(), *running(), cancel_requested()],
    Phase.COMPLETED: [submitted(), *prepared(), *running(), completed()],
    Phase.FAILED: [submitted(), *prepared(), *running(), job_failed()],
    Phase.CANCELLED: [submitted(), cancelled()],
}
"""For each phase, a history that ends in it."""


def recorded(events: Iterable[AnyEvent], *, seq: int = 0, at: float = 1000.0) -> list[Recorded]:
    """Put events in their places after `seq`, a second apart."""
    counts: dict[str, int] = {}
    places: list[Recorded] = []
    for number, event in enumerate(events, start=1):
        job_seq = None
        if isinstance(event, JobEvent):
            job_seq = counts[event.job_id] = counts.get(event.job_id, 0) + 1
        places.append(Recorded(seq=seq + number, at=at + number, epoch=1, event=event, job_seq=job_seq))
    return places


def fold(events: Iterable[AnyJobEvent]) -> Job:
    """Return the job after these events."""
    job: Job | None = None
    for place in recorded(events):
        job = evolve(job, place)
    assert job is not None
    return job


def opened(cluster_id: str = "cluster-1") -> LogOpened:
    return LogOpened(cluster_id=cluster_id, namespace="ftactors", actor_id="a", node_id="n", pid=1, version="0.1.0")


def state_after(*events: AnyEvent, **rules: object) -> State:
    """Return the state of a service that was started with these rules, after these events."""
    state = State()
    begun = ServiceStarted(config=ServiceConfig.model_validate(rules).model_dump(mode="json"), by="someone")
    for event in (opened(), begun, *events):
        state.apply(state.recorded(event, state.at + 1.0))
    return state
