"""What happened to services, told as the scheduler records it: the stories that become histories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ftactors import __version__
from ftactors.core.config import FineTuningJobConfig
from ftactors.core.events import (
    AnyEvent,
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
    JobFailed,
    JobSubmitted,
    LogOpened,
    ModelDeleted,
    ModelImported,
    ModelRef,
    PauseRequested,
    ProgressReported,
    PublishedModel,
    RankPlacement,
    RankStarted,
    RegistrarRef,
    ResumeRequested,
    ServiceStarted,
    ServiceStopRequested,
    StageStarted,
    YieldRequested,
)
from ftactors.core.service_config import ServiceConfig

Story = Callable[[], Iterator[AnyEvent]]
BY = "ada@lab (pid 4711)"
BASE = ModelRef(model_id="smollm2", registered_seq=3, path="/models/SmolLM2-135M", source="registered", digest="b4fe")
ADAPTER = ModelRef(
    model_id="org/adapter",
    path="org/adapter",
    source="hub",
    kind="adapter",
    revision="93efa2f",
    base=ModelRef(model_id="org/base", path="org/base", source="hub", revision="1c0ffee"),
)


def opened(cluster: str, pid: int = 801) -> LogOpened:
    return LogOpened(
        cluster_id=cluster, namespace="ftactors", actor_id=f"a{pid}", node_id="head", pid=pid, version=__version__
    )


def began(cluster: str = "cluster-1", **rules: Any) -> Iterator[AnyEvent]:
    yield opened(cluster)
    yield ServiceStarted(config=ServiceConfig.model_validate(rules).model_dump(mode="json"), by=BY)


def submitted(job_id: str, *, base: ModelRef = BASE, key: str | None = None, **asked: Any) -> JobSubmitted:
    config: dict[str, Any] = {
        "job_name": f"the job {job_id}",
        "base_model_id": base.model_id,
        "new_model_id": f"tuned-by-{job_id}",
        "dataset_config": {"source_type": "file_path", "path_or_id": "/data/train.jsonl"},
        "fine_tuning_technique": {"method": "lora"},
        **asked,
    }
    return JobSubmitted(
        job_id=job_id,
        config=FineTuningJobConfig.model_validate(config).model_dump(mode="json"),
        config_digest=f"digest-of-{job_id}",
        idempotency_key=key,
        base=base,
        trainer="trainers.sft:SftTrainer",
        handler="handlers.files:FilesHandler",
        run_dir=f"/runs/{job_id}",
        by=BY,
        warnings=("fp16 needs a GPU: fp32 is used",),
    )


class Attempt:
    """An attempt at a job, which numbers its reports."""

    def __init__(self, job_id: str, number: int) -> None:
        self._of = {"job_id": job_id, "attempt": number}
        self._reports = 0
        self.directory = f"/runs/{job_id}/attempts/{number}"

    def to_prepare(self) -> Iterator[AnyEvent]:
        yield AttemptPlaced(**self._of, purpose="prepare", ranks=(_rank(None, 0),))
        yield self.started()

    def prepared(self) -> Iterator[AnyEvent]:
        yield from self.to_prepare()
        yield self.stage("preparing", 1, 1)
        yield self.report(ProgressReported, stage="preparing", step=400)
        yield self.report(
            DatasetPrepared,
            path=f"{self.directory}/data",
            fingerprint="f00d",
            shape="prompt_completion",
            counts={"train_rows": 380, "train_tokens": 51_200, "validation_rows": 20},
            base_revision="93efa2f",
            warnings=("2 of 402 records were longer than 1024 tokens and are left out",),
        )

    def to_train(self, *, step: int = 0, overrides: dict[str, Any] | None = None) -> Iterator[AnyEvent]:
        yield self.placed(step=step, overrides=overrides)
        yield self.started(step=step)

    def placed(self, *, step: int = 0, overrides: dict[str, Any] | None = None) -> AttemptPlaced:
        resume_from = None
        if step:
            path = f"/runs/{self._of['job_id']}/attempts/2/checkpoints/step-{step}"
            resume_from = CheckpointRef(stage="training", step=step, path=path, digest=f"d{step}")
        ranks = (_rank("node-a", 500), _rank("node-b", 500))
        return AttemptPlaced(
            **self._of, purpose="train", ranks=ranks, resume_from=resume_from, overrides=overrides or {}
        )

    def started(self, *, step: int = 0) -> AttemptStarted:
        ranks = (RankStarted(node_id="node-a", devices=("GPU-5a",), pid=901), RankStarted(node_id="node-b", pid=902))
        incarnation = f"{self._of['job_id']}-{self._of['attempt']}-7f"
        return AttemptStarted(**self._of, incarnation=incarnation, ranks=ranks, resumed_from_step=step)

    def stage(self, stage: str, index: int, of: int = 5, total: int | None = None) -> AnyEvent:
        return self.report(StageStarted, stage=stage, index=index, of=of, total_steps=total)

    def saved(self, step: int, *pruned: int) -> AnyEvent:
        gone = tuple(f"{self.directory}/checkpoints/step-{old}" for old in pruned)
        path = f"{self.directory}/checkpoints/step-{step}"
        return self.report(CheckpointSaved, stage="training", step=step, path=path, digest=f"d{step}", pruned=gone)

    def progress(self, step: int, loss: float) -> AnyEvent:
        return self.report(
            ProgressReported,
            stage="training",
            step=step,
            metrics={"loss": loss, "grad_norm": None, "epoch": 1},
            tokens_per_second=812.5,
            peak_mem_gib=3.25,
        )

    def completed(self, *, base: ModelRef = BASE) -> AnyEvent:
        job_id = self._of["job_id"]
        model = PublishedModel(
            id=f"tuned-by-{job_id}", path=f"{self.directory}/model", digest="c0de", kind="adapter", base=base
        )
        return self.report(JobCompleted, model=model, metrics={"loss": 2.25, "perplexity": 9.5}, trained_tokens=153_600)

    def failed(self, cause: str, *, counts: bool, retry_at: float) -> AnyEvent:
        return AttemptFailed(
            **self._of,
            cause=cause,
            stage="training",
            error_type=cause,
            message="its process is gone",
            hint="look at train.log",
            counts=counts,
            retry_at=retry_at,
        )

    def yields(self, reason: str, **more: Any) -> AnyEvent:
        return YieldRequested(**self._of, reason=reason, grace_s=60, **more)

    def report(self, kind: type[AnyEvent], **fields: Any) -> AnyEvent:
        self._reports += 1
        return kind(**self._of, report=self._reports, **fields)

    def seen(self, kind: type[AnyEvent], **fields: Any) -> AnyEvent:
        """What the scheduler sees itself, with no report."""
        return kind(**self._of, **fields)


def _rank(node_id: str | None, gpu_thousandths: int) -> RankPlacement:
    return RankPlacement(node_id=node_id, gpu_thousandths=gpu_thousandths, cpus=1.5, mem_gib=4)


def from_import_to_model() -> Iterator[AnyEvent]:
    """A base model is imported, a job tunes it, the base is deleted."""
    yield from began(max_concurrent_fine_tuning_jobs=2)
    yield ModelImported(
        model_id="smollm2", source="directory", path="/models/SmolLM2-135M", digest="b4fe", kind="full", owned=False
    )
    yield submitted("ftjob-1", key="nightly-2026-01-31")
    yield from Attempt("ftjob-1", 1).prepared()
    train = Attempt("ftjob-1", 2)
    yield from train.to_train()
    yield train.stage("loading", 1)
    yield train.stage("baseline", 2)
    yield train.report(EvaluationReported, of="base", stage="baseline", step=0, metrics={"loss": 3.5})
    yield train.stage("training", 3, total=100)
    yield train.progress(25, 3.0)
    yield train.saved(50)
    yield train.saved(100, 50)
    yield train.stage("evaluating", 4)
    yield train.report(EvaluationReported, of="tuned", stage="evaluating", step=100, metrics={"loss": 2.25})
    yield train.stage("publishing", 5)
    yield train.completed()
    yield ModelDeleted(model_id="smollm2", registered_seq=3, by=BY)


def interrupted_in_every_way() -> Iterator[AnyEvent]:
    """A job is paused, loses its process, its data, its cluster, is stopped with the service, and completes."""
    yield from began()
    yield ModelImported(model_id="smollm2", source="hub", path="org/s", revision="93efa2f", owned=True)
    yield submitted("ftjob-1", max_attempts=5)
    yield PauseRequested(job_id="ftjob-1", request_id="p1", by=BY)
    yield ResumeRequested(job_id="ftjob-1", request_id="p2", by=BY)
    yield from Attempt("ftjob-1", 1).prepared()
    second = Attempt("ftjob-1", 2)
    yield from second.to_train()
    yield second.stage("training", 3, total=100)
    yield PauseRequested(job_id="ftjob-1", request_id="p3", by=BY)
    yield second.yields("paused")
    yield second.saved(30)
    yield second.report(AttemptStopped, reason="paused", clean=True)
    yield ResumeRequested(job_id="ftjob-1", request_id="p4", by=BY)
    third = Attempt("ftjob-1", 3)
    yield from third.to_train(step=30)
    yield third.failed("trainer_lost", counts=True, retry_at=1_769_860_900.5)
    fourth = Attempt("ftjob-1", 4)
    yield from fourth.to_train(step=30, overrides={"per_device_train_batch_size": 2})
    yield fourth.report(DatasetLost, path="/runs/ftjob-1/attempts/1/data", message="it is not there any more")
    yield from Attempt("ftjob-1", 5).prepared()
    sixth = Attempt("ftjob-1", 6)
    yield from sixth.to_train(step=30)
    yield ServiceStopRequested(grace_s=60, by=BY)
    yield sixth.yields("service_stopped")
    yield sixth.seen(AttemptStopped, reason="service_stopped", clean=False)
    yield from began("cluster-2", max_concurrent_fine_tuning_jobs=3)
    seventh = Attempt("ftjob-1", 7)
    yield from seventh.to_train(step=30)
    yield opened("cluster-3", pid=802)
    yield seventh.failed("cluster_lost", counts=False, retry_at=0)
    eighth = Attempt("ftjob-1", 8)
    yield from eighth.to_train(step=30)
    yield eighth.stage("training", 3, total=100)
    yield eighth.saved(100)
    yield eighth.yields("preempted", for_job="ftjob-2")
    yield eighth.completed()


def ended_otherwise() -> Iterator[AnyEvent]:
    """Jobs are cancelled while they wait and while they run, and fail in preparation and in training."""
    yield from began()
    yield submitted("waiting")
    yield JobCancelled(job_id="waiting", request_id="c1", by=BY)
    yield submitted("bad-data")
    yield from (bad := Attempt("bad-data", 1)).to_prepare()
    yield bad.report(
        JobFailed,
        cause="work",
        stage="preparing",
        error_type="invalid_data",
        message="/data/train.jsonl:7 is no JSON",
        hint="mend or delete the line",
    )
    yield submitted("running")
    yield from Attempt("running", 1).prepared()
    yield from (running := Attempt("running", 2)).to_train()
    yield running.stage("training", 3, total=100)
    yield CancelRequested(job_id="running", request_id="c2", by=BY, grace_s=30)
    yield JobCancelled(job_id="running", request_id="c2", by=BY, stage="training")
    yield submitted("diverging")
    yield from Attempt("diverging", 1).prepared()
    yield from (diverging := Attempt("diverging", 2)).to_train()
    yield diverging.seen(JobFailed, cause="work", error_type="diverged", message="the loss is nan at step 3")


def left_in_every_phase() -> Iterator[AnyEvent]:
    """A scheduler dies while it has a job in each phase that is not an end."""
    yield from began(max_concurrent_fine_tuning_jobs=8, max_concurrent_preparations=4)
    for phase in ("submitted", "preparing", "ready", "placed", "running", "yielding", "cancelling"):
        yield submitted(f"is-{phase}", key=f"key-{phase}", priority=3)
    yield from Attempt("is-preparing", 1).to_prepare()
    yield PauseRequested(job_id="is-submitted", request_id="p", by=BY)
    for phase in ("ready", "placed", "running", "yielding", "cancelling"):
        yield from Attempt(f"is-{phase}", 1).prepared()
    yield Attempt("is-placed", 2).placed()
    for phase in ("running", "yielding", "cancelling"):
        yield from (attempt := Attempt(f"is-{phase}", 2)).to_train()
        yield attempt.stage("training", 3, total=100)
        yield attempt.saved(20)
        yield attempt.progress(25, 2.75)
        if phase == "yielding":
            yield attempt.yields("draining")
    yield CancelRequested(job_id="is-cancelling", request_id="c", by=BY, grace_s=30)


def words_of_all_alphabets() -> Iterator[AnyEvent]:
    """Names that no ASCII holds, a base with a base of its own, and a model manager of the user's own."""
    yield from began(base_models={"μικρό": "/models/μικρό"})
    yield submitted(
        "ftjob-1", base=ADAPTER, job_name='наука "\\" \u2028 🤖', metadata={"équipe": "données"}
    ).model_copy(
        update={
            "registrar": RegistrarRef(path="lab.models:Registry", arguments={"url": "https://lab", "tries": [1, 2.5]})
        }
    )
    yield from Attempt("ftjob-1", 1).prepared()
    yield from (train := Attempt("ftjob-1", 2)).to_train()
    yield train.completed(base=ADAPTER)


def gangs_that_make_room() -> Iterator[AnyEvent]:
    """A gang yields to a more important job, loses a rank, runs out of memory, leaves a draining node, completes."""
    yield from began(max_concurrent_fine_tuning_jobs=4)
    ranks = {"num_workers": 2, "num_gpus": 0.5, "num_cpus": 1.5, "memory_gib": 4}
    yield submitted("gang", base=ADAPTER, resources=ranks, preemptible=True, priority=-1, max_attempts=4)
    yield from Attempt("gang", 1).prepared()
    second = Attempt("gang", 2)
    yield from _met(second)
    yield second.stage("training", 3, total=100)
    yield submitted("important", base=ADAPTER, resources=ranks, priority=5)
    yield from Attempt("important", 1).prepared()
    yield second.yields("preempted", for_job="important")
    yield second.saved(20)
    yield second.report(AttemptStopped, reason="preempted", clean=True)
    important = Attempt("important", 2)
    yield from _met(important)
    yield important.completed(base=ADAPTER)
    third = Attempt("gang", 3)
    yield from _met(third, step=20)
    yield third.failed("trainer_lost", counts=True, retry_at=0)
    fourth = Attempt("gang", 4)
    yield from _met(fourth, step=20)
    yield fourth.stage("training", 3, total=100)
    yield fourth.report(
        AttemptFailed,
        cause="work",
        stage="training",
        error_type="out_of_memory",
        message="rank 0 held 11.5 GiB of the 12 GiB that are its share",
        hint="the next attempt trains with per_device_train_batch_size=2, gradient_accumulation_steps=2",
        counts=True,
        retry_at=1_769_860_900,
    )
    smaller = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 2}
    fifth = Attempt("gang", 5)
    yield from _met(fifth, step=20, overrides=smaller)
    yield fifth.stage("training", 3, total=100)
    yield fifth.yields("draining")
    yield fifth.seen(AttemptStopped, reason="draining", clean=False)
    sixth = Attempt("gang", 6)
    yield from _met(sixth, step=20, overrides=smaller)
    yield sixth.stage("training", 3, total=100)
    yield sixth.progress(80, 2.5)
    yield sixth.completed(base=ADAPTER)
    yield submitted("left", base=ADAPTER, resources=ranks)
    yield from Attempt("left", 1).prepared()
    yield from _met(Attempt("left", 2), overrides=smaller)


def _met(attempt: Attempt, *, step: int = 0, overrides: dict[str, Any] | None = None) -> Iterator[AnyEvent]:
    """Place a gang, and have its ranks meet."""
    yield attempt.placed(step=step, overrides=overrides)
    started = attempt.started(step=step)
    ranks = tuple(
        rank.model_copy(update={"devices": (str(number),), "incarnation": f"{started.incarnation}-{number}"})
        for number, rank in enumerate(started.ranks)
    )
    meet = {"incarnation": f"{started.incarnation}-0", "ranks": ranks, "rendezvous": "10.0.0.7:40123"}
    yield started.model_copy(update=meet)


STORIES: dict[str, Story] = {
    "from-import-to-model": from_import_to_model,
    "interrupted-in-every-way": interrupted_in_every_way,
    "ended-otherwise": ended_otherwise,
    "left-in-every-phase": left_in_every_phase,
    "words-of-all-alphabets": words_of_all_alphabets,
    "gangs-that-make-room": gangs_that_make_room,
}
