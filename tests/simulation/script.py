"""What a training process says next: plausible words, in their order, from what it has said so far."""

from __future__ import annotations

from collections.abc import Iterator

from ftactors.core.work import (
    AnyWord,
    CheckpointWritten,
    DatasetMissing,
    Evaluated,
    Failed,
    Prepared,
    Progress,
    Published,
    StageBegun,
    Stopped,
    Work,
)
from ftactors.runtime.memory_cluster import Trainer
from tests.core.histories import BASE

STEPS = 8
_EVERY = 4


def words_of(work: Work) -> list[AnyWord]:
    """Return all that a trainer says about its work when nothing comes in between."""
    return list(_preparing() if work.purpose == "prepare" else _training(work))


def stopping_words(trainer: Trainer) -> list[AnyWord]:
    """Return what a trainer says that was told to stop: its checkpoint, where one is wanted, and that it stopped."""
    save = trainer.stop is not None and trainer.stop.save and trainer.work is not None
    if save and trainer.work is not None and trainer.work.purpose == "train":
        return [_checkpoint(trainer.work, STEPS - 1), Stopped(clean=True)]
    return [Stopped(clean=save)]


def failing_word(*, retryable: bool) -> Failed:
    """Return that the work cannot go on."""
    return Failed(error_type="broken", message="it broke", retryable=retryable)


def out_of_memory_word() -> Failed:
    """Return that there was too little memory."""
    return Failed(stage="training", error_type="out_of_memory", message="no room for a step", hint="ask for less")


def missing_word() -> DatasetMissing:
    """Return that the prepared data is gone."""
    return DatasetMissing(path="/data", message="it is gone")


def published_word() -> Published:
    """Return that the model is published."""
    return Published(path="/m", digest="d", kind="adapter", base=BASE, metrics={"loss": 1.0}, trained_tokens=9)


def _preparing() -> Iterator[AnyWord]:
    yield StageBegun(stage="preparing", index=1, of=1, total_steps=2)
    yield Progress(stage="preparing", step=1)
    yield Prepared(path="/data", fingerprint="f", shape="text", counts={"train_rows": 8})


def _training(work: Work) -> Iterator[AnyWord]:
    first = work.resume_from.step if work.resume_from else 0
    yield StageBegun(stage="loading", index=1, of=4)
    if work.baseline is None:
        yield Evaluated(of="base", stage="baseline", step=0, metrics={"loss": 3.0})
    yield StageBegun(stage="training", index=2, of=4, total_steps=STEPS)
    for step in range(first + 1, STEPS + 1):
        yield Progress(stage="training", step=step, metrics={"loss": 3.0 - step / STEPS})
        if step % _EVERY == 0:
            yield _checkpoint(work, step)
    yield Evaluated(of="tuned", stage="evaluating", step=STEPS, metrics={"loss": 2.0})
    yield StageBegun(stage="publishing", index=4, of=4)
    yield published_word()


def _checkpoint(work: Work, step: int) -> CheckpointWritten:
    return CheckpointWritten(
        stage="training", step=step, path=f"{work.attempt_dir}/checkpoints/{step}", digest="d", pruned=work.checkpoints
    )
