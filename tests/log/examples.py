"""Events and logs that the tests of the log share."""

from __future__ import annotations

from collections.abc import Sequence

from ftactors.core.events import (
    AnyEvent,
    AttemptPlaced,
    JobCancelled,
    JobSubmitted,
    ModelRef,
    ProgressReported,
    RankPlacement,
    Recorded,
)
from ftactors.log.log import EventLog
from ftactors.log.protocol import Storage
from ftactors.log.rows import Mark, Row, recorded_of, row_of

BASE = ModelRef(model_id="base", path="/models/base", source="directory")


def submitted(job_id: str, key: str | None = None, filler: str = "") -> JobSubmitted:
    return JobSubmitted(
        job_id=job_id,
        config={"job_name": filler},
        config_digest="digest",
        idempotency_key=key,
        base=BASE,
        trainer="trainers.sft:SftTrainer",
        handler="handlers.files:FileHandler",
        run_dir=f"/runs/{job_id}",
        by="ada",
    )


def placed(job_id: str, attempt: int) -> AttemptPlaced:
    ranks = (RankPlacement(node_id="n1", gpu_thousandths=500, cpus=1),)
    return AttemptPlaced(job_id=job_id, attempt=attempt, purpose="train", ranks=ranks)


def progress(job_id: str, step: int) -> ProgressReported:
    return ProgressReported(
        job_id=job_id, attempt=1, report=step + 1, stage="training", step=step, metrics={"loss": 1.5}
    )


def cancelled(job_id: str) -> JobCancelled:
    return JobCancelled(job_id=job_id, request_id="r1", by="ada")


def chain(events: Sequence[AnyEvent], after: Mark, epoch: int, job_seqs: Sequence[int] | None = None) -> list[Row]:
    """Return the rows of events that follow `after`; the event's place counts as its place in its job."""
    rows: list[Row] = []
    for index, event in enumerate(events):
        last = rows[-1].mark if rows else after
        job_seq = last.seq + 1 if job_seqs is None else job_seqs[index]
        recorded = Recorded(seq=last.seq + 1, at=1000.5 + last.seq, epoch=epoch, event=event, job_seq=job_seq)
        rows.append(row_of(recorded, last.hash))
    return rows


class Owner:
    """The least that has a log: its state is the list of the events."""

    def __init__(self, storage: Storage) -> None:
        self.undone: list[int] = []
        self.fatal: list[BaseException] = []
        self.log = EventLog(storage, on_undone=self._undo, on_fatal=self.fatal.append)
        self.log.open()
        for _ in self.log.replay():  # once that is done, events can be appended
            pass
        self.state: list[Recorded] = [recorded_of(row) for row in storage.read()]

    def record(self, event: AnyEvent) -> int:
        seq = self.log.seq + 1
        recorded = Recorded(seq=seq, at=1000.5 + seq, epoch=self.log.epoch, event=event, job_seq=seq)
        self.log.append(recorded)
        self.state.append(recorded)
        return seq

    def _undo(self, from_seq: int) -> None:
        self.undone.append(from_seq)
        del self.state[from_seq - 1 :]
