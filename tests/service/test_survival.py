"""SIGKILL of the scheduler: trainers go on, calls are answered, and what was answered stays true."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ftactors import FineTuningJobStatusInfo, JobStatus, LLMFineTuningService
from ftactors.core.events import AttemptStarted, CheckpointSaved, JobSubmitted
from ftactors.runtime.whoami import whoami
from tests.service import gates
from tests.service.aftermath import at_work_in, workers_among
from tests.service.conftest import client_of, status_when, until

pytestmark = pytest.mark.ray
STEPS = 200
SHORT = {"hyperparameters__save_steps": 20, "hyperparameters__save_total_limit": 2, "metadata": {"gates": "publishing"}}


async def test_the_scheduler_is_killed_while_a_job_prepares_trains_and_publishes_and_nobody_notices(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    async with services(max_concurrent_preparations=1) as service:
        service._get_dataset_handler_factory = lambda _: gates.HANDLER
        service._get_trainer_factory = lambda _: gates.TRAINER
        client = client_of(service)
        going = await service.submit_fine_tuning_job(job(**SHORT, hyperparameters__max_steps=STEPS))
        await until(lambda: gates.is_reached(going.run_dir, "preparing"))

        # While it prepares: calls on their way, and calls that were answered although the reply is lost.
        answered, unanswered = [await asked_for(service, job(), key) for key in ("one", "another")]
        first = await client.ask("submit", answered)
        accepted = await client.ask("cancel", first.job_id, "a request", whoami())
        preparing = await workers(service, going)
        kill = await killer(service)
        lost = asyncio.create_task(client.ask("submit", unanswered))
        await asyncio.sleep(0)  # it is on its way
        kill()
        lost.cancel()
        status, jobs, late = await asyncio.gather(
            service.get_job_status(going.job_id),
            service.list_fine_tuning_jobs(),
            service.submit_fine_tuning_job(job()),
        )
        assert status is not None
        assert status.status is JobStatus.PREPROCESSING
        assert {going.job_id, first.job_id} <= {found.job_id for found in jobs}
        await the_answers_are_as_before(service, answered, unanswered, first.job_id, accepted=accepted)
        assert await workers(service, going) == preparing
        assert await service.cancel_fine_tuning_job(unanswered.job_id)
        await service.pause_fine_tuning_job(late.job_id)  # until it is cancelled
        gates.open_gate(going.run_dir, "preparing")

        await status_when(service, going.job_id, lambda status: status.stage == "training")
        training = await workers(service, going)
        (await killer(service))()
        assert await service.cancel_fine_tuning_job(late.job_id)
        await the_answers_are_as_before(service, answered, unanswered, first.job_id, accepted=accepted)
        assert await workers(service, going) == training

        await until(lambda: gates.is_reached(going.run_dir, "publishing"))
        (await killer(service))()
        gates.open_gate(going.run_dir, "publishing")
        done = await service.wait_for_job(going.job_id, timeout=90)
        await the_answers_are_as_before(service, answered, unanswered, first.job_id, accepted=accepted)
        assert (await client.ask("hello")).epoch == 4
        await it_went_through_at_once(service, going.job_id)
        await only_what_the_log_names_exists(service, going.job_id, limit=2)

    assert (done.status, done.current_step) == (JobStatus.COMPLETED, STEPS), done.error_message


async def asked_for(service: LLMFineTuningService, config: dict[str, Any], key: str) -> JobSubmitted:
    """Return what the service would ask its scheduler for, so that it can be asked for twice."""
    return (await service._plan(config)).event(f"ftjob-{key}", key, by=whoami())


async def killer(service: LLMFineTuningService) -> Callable[[], None]:
    """Return what kills the scheduler's process, and waits for nothing."""
    return partial(os.kill, (await client_of(service).ask("hello")).pid, signal.SIGKILL)


async def workers(service: LLMFineTuningService, job: FineTuningJobStatusInfo) -> tuple[AttemptStarted, str, str]:
    """Return the claim of a job's newest attempt, and the one process that does its work."""
    events = [recorded.event for recorded in await service.list_job_events(job.job_id)]
    claim = [event for event in events if isinstance(event, AttemptStarted)][-1]
    (worker,) = workers_among({claim.ranks[0].pid})
    (child,) = at_work_in(Path(job.run_dir))
    return claim, worker, child


async def the_answers_are_as_before(
    service: LLMFineTuningService, answered: JobSubmitted, unanswered: JobSubmitted, job_id: str, *, accepted: bool
) -> None:
    """Repeat calls whose answers were lost, by the same ids and by the same idempotency key with another id."""
    client = client_of(service)
    again = answered.model_copy(update={"job_id": "ftjob-another-id"})

    assert (await client.ask("submit", answered)).job_id == job_id
    assert (await client.ask("submit", again)).job_id == job_id
    assert (await client.ask("submit", unanswered)).job_id == unanswered.job_id
    assert await client.ask("cancel", job_id, "a request", whoami()) == accepted
    assert not await client.ask("cancel", job_id, "another request", whoami())


async def it_went_through_at_once(service: LLMFineTuningService, job_id: str) -> None:
    """Check that each attempt of a job was made, and begun, only once: one to prepare, one to train."""
    events = [recorded.event for recorded in await service.list_job_events(job_id)]
    begun = [event.stage for event in events if event.type == "stage_started"]
    assert [event.type for event in events].count("attempt_placed") == 2
    assert len(begun) == len(set(begun)), begun


async def only_what_the_log_names_exists(service: LLMFineTuningService, job_id: str, *, limit: int) -> None:
    events = [recorded.event for recorded in await service.list_job_events(job_id)]
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    pruned = {path for event in saved for path in event.pruned}
    kept = [event.path for event in saved if event.path not in pruned]

    assert len(kept) == limit
    assert all(Path(path).is_dir() for path in kept)
    await until(lambda: not any(Path(path).exists() for path in pruned), 10)
