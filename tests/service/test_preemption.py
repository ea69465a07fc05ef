"""A share that changes hands: taken by a job of higher priority, given back by one that is paused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ftactors import JobStatus
from ftactors.core.events import AttemptFailed, AttemptPlaced, AttemptStopped, YieldRequested
from tests.service import gates, idle
from tests.service.conftest import event_when, status_when, until
from tests.service.nodes import KIND, Nodes
from tests.service.test_loss_curve import curves

pytestmark = pytest.mark.ray
ONE_GPU = {"resources__accelerator_type": KIND, "resources__num_gpus": 1}
STEPS = 40


async def test_a_preempted_job_gets_the_share_back_when_the_other_pauses_and_both_complete(
    nodes: Nodes, services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    nodes.add("only", gpus=1)
    async with services(max_concurrent_fine_tuning_jobs=2) as service:
        service._get_trainer_factory = lambda _: gates.SHARED
        low = await service.submit_fine_tuning_job(
            job(
                **ONE_GPU,
                preemptible=True,
                hyperparameters__max_steps=STEPS,
                hyperparameters__logging_steps=1,
                metadata={"gates": "15"},
            )
        )
        await until(lambda: gates.is_reached(low.run_dir, "15"))
        service._get_trainer_factory = lambda _: idle.TRAINER
        high = await service.submit_fine_tuning_job(job(**ONE_GPU, priority=5))
        asked = await event_when(service, low.job_id, lambda event: isinstance(event, YieldRequested))
        await until(lambda: gates.is_reached(high.run_dir, "idle-0"))
        preempted = await service.get_job_status(low.job_id)
        assert preempted is not None
        step = preempted.current_step
        assert preempted.status is JobStatus.QUEUED
        assert step in {15, 16}

        await service.pause_fine_tuning_job(high.job_id)
        await status_when(service, high.job_id, lambda status: status.status is JobStatus.PAUSED)
        gone_on = await service.wait_for_job(low.job_id, timeout=90)
        waiting = await service.get_job_status(high.job_id)
        assert waiting is not None
        assert (waiting.status, waiting.share) == (JobStatus.PAUSED, None)

        await service.resume_fine_tuning_job(high.job_id)
        gates.open_gate(high.run_dir, idle.GATE)
        done = await service.wait_for_job(high.job_id, timeout=60)
        events = [recorded.event for recorded in await service.list_job_events(low.job_id)]

    assert isinstance(asked, YieldRequested)
    assert (asked.reason, asked.for_job) == ("preempted", high.job_id)
    assert [event.clean for event in events if isinstance(event, AttemptStopped)] == [True]
    assert not [event for event in events if isinstance(event, AttemptFailed)]
    placed = [event for event in events if isinstance(event, AttemptPlaced) and event.purpose == "train"]
    assert [event.resume_from and event.resume_from.step for event in placed] == [None, step]
    assert (gone_on.status, gone_on.current_step) == (JobStatus.COMPLETED, STEPS), gone_on.error_message
    assert [sorted(attempt) for attempt in curves(gone_on)] == [[*range(1, step + 1)], [*range(step + 1, STEPS + 1)]]
    assert done.status is JobStatus.COMPLETED, done.error_message
