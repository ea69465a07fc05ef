"""What survives a stop: jobs go on, and statuses stay as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ftactors import JobStatus, LLMFineTuningService
from ftactors.core.events import AttemptPlaced
from tests.service.conftest import status_when

pytestmark = pytest.mark.ray
LONG = {"hyperparameters__max_steps": 300, "hyperparameters__save_steps": 20, "hyperparameters__logging_steps": 1}
VOLATILE = {"wait_reason", "queue_position", "estimated_start_at"}


def trains(step: int) -> Callable[[Any], bool]:
    return lambda status: status.stage == "training" and (status.current_step or 0) >= step


async def attempts(service: LLMFineTuningService, job_id: str) -> list[AttemptPlaced]:
    events = [recorded.event for recorded in await service.list_job_events(job_id)]
    return [event for event in events if isinstance(event, AttemptPlaced) and event.purpose == "train"]


async def test_a_stopped_service_goes_on_with_its_jobs_and_every_status_is_as_it_was(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    async with services() as service:
        done = await service.submit_fine_tuning_job(job("lora", hyperparameters__max_steps=3))
        await service.wait_for_job(done.job_id, timeout=120)
        going = await service.submit_fine_tuning_job(job("lora", **LONG))
        waiting = await service.submit_fine_tuning_job(job("lora", hyperparameters__max_steps=3))
        await status_when(service, going.job_id, trains(30))
        finished = await service.get_job_status(done.job_id)

    async with services() as service:
        events = await service.list_job_events(going.job_id)
        after = await service.get_job_status(done.job_id)
        resumed = await service.wait_for_job(going.job_id, timeout=180)
        last = await service.wait_for_job(waiting.job_id, timeout=120)
        placed = await attempts(service, going.job_id)

    assert finished == after
    assert "attempt_stopped" in [recorded.event.type for recorded in events]
    assert (resumed.status, resumed.current_step) == (JobStatus.COMPLETED, 300), resumed.error_message
    assert last.status is JobStatus.COMPLETED
    assert placed[-1].resume_from is not None
    assert placed[-1].resume_from.step >= 30


async def test_statuses_before_a_stop_are_the_same_after_it(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    async with services(max_concurrent_preparations=1) as service:
        cancelled = await service.submit_fine_tuning_job(job("lora"))
        await service.cancel_fine_tuning_job(cancelled.job_id)
        status = await service.submit_fine_tuning_job(job("lora", hyperparameters__max_steps=2))
        await service.wait_for_job(status.job_id, timeout=120)
        paused = await service.submit_fine_tuning_job(job("lora"))
        await service.pause_fine_tuning_job(paused.job_id)
        await status_when(service, paused.job_id, lambda status: status.status is JobStatus.PAUSED)
        before = await service.list_fine_tuning_jobs()

    async with services() as service:
        after = await service.list_fine_tuning_jobs()

    assert [status.model_dump(exclude=VOLATILE) for status in before] == [
        status.model_dump(exclude=VOLATILE) for status in after
    ]
    assert len(before) == 3
