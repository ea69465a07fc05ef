"""What an attempt does otherwise than its job asks: a smaller micro-batch, once the memory was too small for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftactors.core.events import Stage
from ftactors.core.job import Job

OUT_OF_MEMORY = "out_of_memory"
OF_BATCHES: frozenset[Stage | None] = frozenset({"baseline", "training", "knowledge", "skills", "evaluating"})
"""The stages whose memory depends on the rows at a time."""
_TRAIN, _EVAL = "per_device_train_batch_size", "per_device_eval_batch_size"
_ACCUMULATION = "gradient_accumulation_steps"


def smaller_batch(hyperparameters: Mapping[str, Any]) -> dict[str, int] | None:
    """Return half the rows at a time and twice the accumulation, so that a step trains on the same rows.

    An odd micro-batch is divided by its smallest divisor. None where there is nothing to divide.
    """
    train, evaluation = int(hyperparameters[_TRAIN]), int(hyperparameters[_EVAL])
    if train == 1 and evaluation == 1:
        return None
    divisor = next((number for number in range(2, train + 1) if train % number == 0), 1)
    return {
        _TRAIN: train // divisor,
        _ACCUMULATION: int(hyperparameters[_ACCUMULATION]) * divisor,
        _EVAL: max(1, evaluation // 2),
    }


def told_overrides(overrides: Mapping[str, Any]) -> list[str]:
    """Return the overrides as a warning, where there are any."""
    if not overrides:
        return []
    told = ", ".join(f"{name}={value}" for name, value in sorted(overrides.items()))
    return [f"after it ran out of memory the job trains with {told}"]


def after_out_of_memory(job: Job, stage: Stage | None) -> dict[str, int] | None:
    """Return what the job's next attempt is to do otherwise after one of `stage`; None: no attempt would do better.

    Once, and only where the memory that was short depends on the rows at a time.
    """
    if job.overrides or stage not in OF_BATCHES or not job.config.get("retry_on_oom", True):
        return None
    return smaller_batch(job.config["hyperparameters"])


def overrides_of_next(job: Job) -> Mapping[str, Any]:
    """Return the overrides of the next attempt to train: the last one's, or smaller batches."""
    last = job.failures[-1] if job.failures else None
    if last is None or (last.purpose, last.attempt, last.error_type) != ("train", job.attempts, OUT_OF_MEMORY):
        return job.overrides
    return after_out_of_memory(job, last.stage) or job.overrides
