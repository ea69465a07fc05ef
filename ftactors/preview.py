"""What a job would do, without a job: its data is prepared on this machine, counted, and thrown away."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass

from ftactors.core.errors import DatasetError, JobExecutionError
from ftactors.core.work import LAST_WORDS, AnyWord, Failed, Prepared, Work
from ftactors.runtime.child import Child
from ftactors.runtime.spawn import spawn
from ftactors.submission import Submission


@dataclass(frozen=True, slots=True)
class JobPreview:
    """A job's data and length."""

    shape: str
    counts: dict[str, int]
    total_steps: int
    effective_batch_size: int
    warnings: tuple[str, ...]


async def preview(submission: Submission) -> JobPreview:
    """Return what the job would do.

    Raises:
        JobExecutionError: the data cannot be prepared.
    """
    with tempfile.TemporaryDirectory(prefix="ftactors-preview-") as directory:
        word = await _prepare(_work(submission, directory))
    if not isinstance(word, Prepared):
        told = word if isinstance(word, Failed) else Failed(error_type="stopped", message="the preparation was stopped")
        kind = DatasetError if told.error_type == DatasetError.error_type else JobExecutionError
        raise kind(told.message, told.hint)
    hyper = submission.config.hyperparameters
    batch = hyper.per_device_train_batch_size * hyper.gradient_accumulation_steps
    rows = word.counts.get("train_rows", 0)
    warnings = [*submission.warnings, *word.warnings]
    if batch > rows:
        warnings.append(f"the effective batch of {batch} rows is larger than the {rows} rows of training data")
    return JobPreview(
        shape=word.shape,
        counts=word.counts,
        total_steps=total_steps(rows, submission),
        effective_batch_size=batch,
        warnings=tuple(warnings),
    )


def total_steps(rows: int, submission: Submission) -> int:
    """Return the optimizer steps of training on so many rows, as transformers' Trainer counts them."""
    hyper = submission.config.hyperparameters
    if hyper.max_steps is not None:
        return hyper.max_steps
    batches = math.ceil(rows / hyper.per_device_train_batch_size)
    return math.ceil(max(1, math.ceil(batches / hyper.gradient_accumulation_steps)) * hyper.num_train_epochs)


async def _prepare(work: Work) -> AnyWord:
    words: list[AnyWord] = []
    child = Child(spawn(work, os.cpu_count() or 1), work, words.append)
    try:
        await child.ended.wait()
    finally:
        child.kill()
    return next(word for word in reversed(words) if isinstance(word, LAST_WORDS))


def _work(submission: Submission, directory: str) -> Work:
    return Work(
        job_id="preview",
        attempt=1,
        purpose="prepare",
        job=submission.config.model_dump(mode="json"),
        base=submission.base,
        trainer=submission.trainer,
        handler=submission.handler,
        attempt_dir=f"{directory}/attempts/1",
        data_dir=f"{directory}/data",
    )
