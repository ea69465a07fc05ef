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


def smaller_batch(hyperparameters: Mapping[str, Any]) -> dict[str, int]:
    """Return half the rows at a time and twice the accumulation, so that a step trains on the same rows.

    An odd micro-batch is divided by its smallest divisor. What is 1 already is not in the answer.
    """
    train, evaluation = int(hyperparameters[_TRAIN]), int(hyperparameters[_EVAL])
    smaller: dict[str, int] = {}
    if train > 1:
        divisor = next(number for number in range(2, train + 1) if train % number == 0)
        smaller |= {_TRAIN: train // divisor, _ACCUMULATION: int(hyperparameters[_ACCUMULATION]) * divisor}
    if evaluation > 1:
        smaller[_EVAL] = evaluation // 2
    return smaller


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
    smaller = smaller_batch(job.config["hyperparameters"])
    return smaller if smaller.keys() & _sizes_in(stage, job.config) else None


def overrides_of_next(job: Job) -> Mapping[str, Any]:
    """Return the overrides of the next attempt to train: the last one's, or smaller batches."""
    last = job.failures[-1] if job.failures else None
    if last is None or (last.purpose, last.attempt, last.error_type) != ("train", job.attempts, OUT_OF_MEMORY):
        return job.overrides
    return after_out_of_memory(job, last.stage) or job.overrides


def _sizes_in(stage: Stage | None, config: Mapping[str, Any]) -> set[str]:
    """Return the sizes that the memory of a stage depends on: training evaluates too, where rows are held out."""
    if stage in {"baseline", "evaluating"}:
        return {_EVAL}
    data = config["dataset_config"]
    holds_out = data.get("validation_split_name") or data.get("validation_split_ratio")
    evaluates = holds_out and config["hyperparameters"].get("evaluation_strategy") != "no"
    return {_TRAIN, _EVAL} if evaluates else {_TRAIN}
