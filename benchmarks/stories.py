"""Jobs as logs are full of: histories of a few or many events, and logs filled with them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from itertools import islice

from ftactors.core.config import FineTuningJobConfig
from ftactors.core.events import (
    AnyEvent,
    AttemptPlaced,
    AttemptStarted,
    CheckpointSaved,
    DatasetPrepared,
    EvaluationReported,
    JobCancelled,
    JobCompleted,
    JobEvent,
    JobFailed,
    JobSubmitted,
    LogOpened,
    ModelRef,
    ProgressReported,
    PublishedModel,
    RankPlacement,
    RankStarted,
    Recorded,
    ServiceStarted,
    StageStarted,
)
from ftactors.core.service_config import ServiceConfig
from ftactors.log.protocol import Storage
from ftactors.log.rows import Row, row_of

BASE = ModelRef(model_id="base", path="/models/base", source="directory")
OPENED = LogOpened(cluster_id="c1", namespace="ftactors", actor_id="a1", node_id="n1", pid=1, version="0.1.0")
STARTED = ServiceStarted(config=ServiceConfig().model_dump(mode="json"), by="ada@host:1")
FRAME = 10
"""The events of a job that completes, without its progress."""
_ROWS_AT_ONCE = 2_000
_SECONDS_A_STEP = 0.5


def id_of(number: int) -> str:
    """Return the id of a job by its number."""
    return f"ftjob-{number:024x}"


@cache
def _config() -> dict[str, object]:
    asked = {
        "job_name": "support answers",
        "base_model_id": "base",
        "new_model_id": "tuned",
        "dataset_config": {"source_type": "file_path", "path_or_id": "/data/answers.jsonl"},
        "fine_tuning_technique": {"method": "lora"},
        "resources": {"num_gpus": 1},
    }
    return FineTuningJobConfig.model_validate(asked).model_dump(mode="json")


def submitted(number: int, **changes: object) -> JobSubmitted:
    """Return the first event of a job; `changes` are of its configuration."""
    return JobSubmitted(
        job_id=id_of(number),
        config={**_config(), "new_model_id": f"tuned-{number}", **changes},  # type: ignore[arg-type]  # it was dumped
        config_digest=f"{number:064x}",
        idempotency_key=f"key-{number}",
        base=BASE,
        trainer="trainers.sft:SftTrainer",
        handler="handlers.files:FilesHandler",
        run_dir=f"/runs/{id_of(number)}",
        by="ada@host:1",
    )


def progressed(number: int, report: int) -> ProgressReported:
    """Return a report of training, as most events of a log are."""
    metrics = {"loss": 2.5 - report / 1000, "learning_rate": 0.0002, "grad_norm": 1.25, "epoch": report / 100}
    return ProgressReported(
        job_id=id_of(number),
        attempt=2,
        report=report,
        stage="training",
        step=10 * report,
        metrics=metrics,
        tokens_per_second=1234.5,
        peak_mem_gib=10.5,
    )


def training(number: int) -> Iterator[AnyEvent]:
    """Yield a job's events up to its training."""
    job_id = id_of(number)
    yield submitted(number)
    for attempt, purpose in ((1, "prepare"), (2, "train")):
        node = "n1" if purpose == "train" else None
        share = RankPlacement(node_id=node, gpu_thousandths=1000 if node else 0, cpus=1)
        yield AttemptPlaced(job_id=job_id, attempt=attempt, purpose=purpose, ranks=(share,))  # type: ignore[arg-type]
        rank = RankStarted(node_id="n1", devices=("0",) if node else (), pid=4711)
        yield AttemptStarted(job_id=job_id, attempt=attempt, incarnation=f"{number:032x}", ranks=(rank,))
        if purpose == "prepare":
            counts = {"train_rows": 800, "train_tokens": 80_000, "validation_rows": 80, "validation_tokens": 8_000}
            yield DatasetPrepared(
                job_id=job_id,
                attempt=1,
                report=1,
                path=f"/runs/{job_id}/data",
                fingerprint="f" * 32,
                shape="text",
                counts=counts,
            )


def completing(number: int, progress: int) -> Iterator[AnyEvent]:
    """Yield all events of a job that completes, with this many reports of progress among them."""
    job_id = id_of(number)
    yield from training(number)
    yield StageStarted(job_id=job_id, attempt=2, report=1, stage="training", index=1, of=2, total_steps=10 * progress)
    for report in range(2, 2 + progress):
        yield progressed(number, report)
    path = f"/runs/{job_id}/attempts/2"
    yield CheckpointSaved(
        job_id=job_id,
        attempt=2,
        report=progress + 2,
        stage="training",
        step=10 * progress,
        path=f"{path}/checkpoints/step-{10 * progress}",
        digest=f"{number:064x}",
    )
    metrics = {"loss": 1.25, "perplexity": 3.49}
    yield EvaluationReported(
        job_id=job_id, attempt=2, report=progress + 3, of="tuned", stage="evaluating", step=10, metrics=metrics
    )
    model = PublishedModel(
        id=f"tuned-{number}", path=f"{path}/model", digest=f"{number:064x}", kind="adapter", base=BASE
    )
    yield JobCompleted(
        job_id=job_id, attempt=2, report=progress + 4, model=model, metrics=metrics, trained_tokens=80_000
    )


def ended(number: int) -> Iterator[AnyEvent]:
    """Yield a short story with one of the three ends: most jobs complete, some fail, some are cancelled."""
    match number % 10:
        case 8:
            yield submitted(number)
            yield JobCancelled(job_id=id_of(number), request_id=f"r-{number}", by="ada@host:1")
        case 9:
            yield from training(number)
            yield JobFailed(
                job_id=id_of(number),
                attempt=2,
                report=1,
                cause="work",
                error_type="diverged",
                message="the loss was nan",
            )
        case _:
            yield from completing(number, 0)


def service(events: int) -> Iterator[AnyEvent]:
    """Yield this many events of a service whose jobs of 10 to 100 events all complete, but for the last."""
    yield OPENED
    yield STARTED
    lengths, number, left = random.Random(0), 0, events - 2  # noqa: S311 - a draw that can be repeated
    while left > 0:
        story = completing(number, lengths.randint(0, 90))
        for _, event in zip(range(left), story, strict=False):
            yield event
            left -= 1
        number += 1


class Filler:
    """Writes events to a log in bulk, chained as if they were recorded one by one."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._at = 1.7e9
        self._job_seqs: dict[str, int] = {}

    def write(self, events: Iterator[AnyEvent], limit: int | None = None) -> None:
        """Open the log, write the events or the next so many of them, and close it."""
        head = self._storage.open()
        last, left = head.end, islice(events, limit)
        while page := [*islice(left, _ROWS_AT_ONCE)]:
            rows: list[Row] = []
            for event in page:
                rows.append(row_of(self._placed(event, last.seq + 1, head.epoch), last.hash))
                last = rows[-1].mark
            self._storage.write(rows)
        self._storage.close()

    def _placed(self, event: AnyEvent, seq: int, epoch: int) -> Recorded:
        self._at += _SECONDS_A_STEP
        if not isinstance(event, JobEvent):
            return Recorded(seq, self._at, epoch, event)
        job_seq = self._job_seqs[event.job_id] = self._job_seqs.get(event.job_id, 0) + 1
        return Recorded(seq, self._at, epoch, event, job_seq)
