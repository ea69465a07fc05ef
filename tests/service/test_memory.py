"""Memory that runs out in training: the job goes on once with smaller batches, and tells all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ftactors import JobStatus
from ftactors.core.events import AttemptFailed, AttemptPlaced
from tests.service import hungry
from tests.service.conftest import status_when

pytestmark = pytest.mark.ray
HUNGRY = {
    "hyperparameters__max_steps": 20,
    "hyperparameters__save_steps": 10,
    "hyperparameters__per_device_train_batch_size": 8,
    "hyperparameters__gradient_accumulation_steps": 1,
    "hyperparameters__per_device_eval_batch_size": 6,
}


async def test_an_allocation_that_fails_is_tried_again_from_the_checkpoint_with_half_the_rows_at_a_time(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    async with services() as service:
        service._get_trainer_factory = lambda _: hungry.TRAINER
        submitted = await service.submit_fine_tuning_job(job("lora", **HUNGRY))
        failed = await status_when(service, submitted.job_id, lambda status: status.error_type == "out_of_memory", 180)
        done = await service.wait_for_job(submitted.job_id, timeout=240)
        events = [recorded.event for recorded in await service.list_job_events(submitted.job_id)]

    assert (failed.error_message or "").startswith("attempt 2 failed: out of memory in training with 8 rows at a time")
    assert "asked for 1073741824.00 GiB more; this machine has" in (failed.error_message or "")
    assert (failed.error_message or "").endswith("; it is tried again")
    (failure,) = [event for event in events if isinstance(event, AttemptFailed)]
    assert (failure.attempt, failure.stage, failure.error_type) == (2, "training", "out_of_memory")
    smaller = "per_device_train_batch_size=4, gradient_accumulation_steps=2, per_device_eval_batch_size=3"
    assert failure.hint == failed.error_hint == f"the next attempt trains with {smaller}"
    *_, first, second = (event for event in events if isinstance(event, AttemptPlaced))
    assert (first.overrides, first.resume_from) == ({}, None)
    assert second.overrides == {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "per_device_eval_batch_size": 3,
    }
    assert second.resume_from is not None
    assert second.resume_from.step == 10
    assert done.status is JobStatus.COMPLETED, done.error_message
    assert (done.attempt, done.current_step, done.failed_attempts) == (3, 20, 0)
    assert [warning for warning in done.warnings if "out of memory" in warning] == [
        f"after it ran out of memory the job trains with {', '.join(sorted(smaller.split(', ')))}"
    ]
    assert (done.metrics or {})["peak_mem_gib"] > 0.05


async def test_a_job_that_wants_no_retry_fails_with_what_to_change(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    async with services() as service:
        service._get_trainer_factory = lambda _: hungry.TRAINER
        submitted = await service.submit_fine_tuning_job(job("lora", **HUNGRY, retry_on_oom=False))
        done = await service.wait_for_job(submitted.job_id, timeout=240)

    assert (done.status, done.error_type, done.attempt) == (JobStatus.FAILED, "out_of_memory", 2)
    assert (done.error_message or "").startswith("out of memory in training with 8 rows at a time of up to ")
    assert (done.error_hint or "").startswith(
        "lower per_device_train_batch_size=8 and raise gradient_accumulation_steps=1 as much, "
        "lower per_device_eval_batch_size=6, turn gradient_checkpointing on, lower max_seq_length="
    )
    assert (done.error_hint or "").endswith("or ask for a node with more memory (resources.memory_gib)")
