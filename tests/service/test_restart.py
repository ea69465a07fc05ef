"""What survives what: stopped services, killed schedulers, killed trainers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftactors import JobStatus, LLMFineTuningService
from ftactors.core.events import AttemptPlaced, AttemptStarted, CheckpointSaved
from tests.service.conftest import status_when

pytestmark = pytest.mark.ray
LONG = {"hyperparameters__max_steps": 300, "hyperparameters__save_steps": 20, "hyperparameters__logging_steps": 1}
VOLATILE = {"wait_reason", "queue_position"}


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


async def test_a_killed_scheduler_comes_back_and_adopts_its_trainers(
    service: LLMFineTuningService, job: Callable[..., dict[str, Any]]
):
    submitted = await service.submit_fine_tuning_job(job("lora", **LONG, hyperparameters__save_total_limit=2))
    await status_when(service, submitted.job_id, trains(5))
    client = service._client
    assert client is not None
    hello = await client.ask("hello")

    os.kill(hello.pid, signal.SIGKILL)
    status = await service.get_job_status(submitted.job_id)
    again = await client.ask("hello")
    done = await service.wait_for_job(submitted.job_id, timeout=180)

    assert status is not None
    assert again.pid != hello.pid
    assert again.epoch == hello.epoch + 1
    assert done.status is JobStatus.COMPLETED, done.error_message
    assert len(await attempts(service, submitted.job_id)) == 1  # adopted, not started again
    await only_what_the_log_names_exists(service, submitted.job_id, limit=2)


async def test_killed_trainers_are_replaced_and_resume_from_the_checkpoint(
    service: LLMFineTuningService, job: Callable[..., dict[str, Any]]
):
    submitted = await service.submit_fine_tuning_job(job("lora", **LONG))
    await status_when(service, submitted.job_id, trains(30))
    actor = await trainer_process(service, submitted.job_id)
    children = actor.children(recursive=True)
    children[0].kill()
    await status_when(service, submitted.job_id, lambda status: status.attempt == 3 and trains(60)(status))
    actor = await trainer_process(service, submitted.job_id)
    children += actor.children(recursive=True)
    actor.kill()
    done = await service.wait_for_job(submitted.job_id, timeout=180)
    placed = await attempts(service, submitted.job_id)

    assert done.status is JobStatus.COMPLETED, done.error_message
    resumed = [attempt.resume_from.step for attempt in placed if attempt.resume_from]
    assert len(placed) == 3
    assert len(resumed) == 2
    assert resumed[0] >= 20
    assert resumed[1] >= 40
    assert not any(child.is_running() for child in children)


async def trainer_process(service: LLMFineTuningService, job_id: str) -> psutil.Process:
    """Return the process of the newest attempt's trainer actor."""
    events = [recorded.event for recorded in await service.list_job_events(job_id)]
    started = [event for event in events if isinstance(event, AttemptStarted)]
    return psutil.Process(started[-1].ranks[0].pid)


async def only_what_the_log_names_exists(service: LLMFineTuningService, job_id: str, *, limit: int) -> None:
    events = [recorded.event for recorded in await service.list_job_events(job_id)]
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    pruned = {path for event in saved for path in event.pruned}
    kept = [event.path for event in saved if event.path not in pruned]

    assert len(kept) == limit
    assert all(Path(path).is_dir() for path in kept)
    await asyncio.wait_for(_gone(pruned), 10)


async def _gone(paths: set[str]) -> None:
    while any(Path(path).exists() for path in paths):
        await asyncio.sleep(0.05)
