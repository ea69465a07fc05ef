"""Gangs on several nodes: as few of them as possible, all ranks or none, and the end of one rank ends the attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from ftactors import FineTuningJobStatusInfo, JobStatus, LLMFineTuningService
from ftactors.core.events import AttemptFailed, AttemptPlaced, AttemptStarted, CheckpointSaved
from tests.service import gates, idle
from tests.service.conftest import change_rules, event_when, until, waits_because
from tests.service.foreign import hold
from tests.service.nodes import KIND, Nodes
from tests.service.test_loss_curve import curves

pytestmark = pytest.mark.ray
GANG = {"resources__num_workers": 2, "resources__num_gpus": 1, "resources__accelerator_type": KIND}


async def test_all_ranks_of_a_gang_come_up_or_none_begins_and_they_are_on_as_few_nodes_as_can_be(
    nodes: Nodes, services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    nodes.add("small", gpus=1)
    nodes.add("large", gpus=2)
    foreign = await hold(nodes.id_of("large"), 1)
    async with services(max_concurrent_fine_tuning_jobs=2) as service:
        service._get_dataset_handler_factory = lambda _: gates.HANDLER
        service._get_trainer_factory = lambda _: idle.TRAINER
        apart = await service.submit_fine_tuning_job(job(**GANG))
        await until(lambda: gates.is_reached(apart.run_dir, "preparing"))
        with nodes.frozen("small"):
            await change_rules(service, start_timeout_seconds=2.0)
            gates.open_gate(apart.run_dir, "preparing")
            failed = await event_when(service, apart.job_id, lambda event: isinstance(event, AttemptFailed))
            assert isinstance(failed, AttemptFailed)
            await change_rules(service, start_timeout_seconds=300.0)
            assert (failed.cause, failed.counts) == ("start_timeout", False)
            assert not Path(apart.run_dir, "attempts", str(failed.attempt)).exists()
        await both_are_at_their_gate(apart)
        assert await nodes_of(service, nodes, apart) == ["large", "small"]

        together = await service.submit_fine_tuning_job(job(**GANG))
        gates.open_gate(together.run_dir, "preparing")
        await waits_because(service, together.job_id, "2 workers of 1 GPU")
        ray.kill(foreign)
        await waits_because(service, together.job_id, "free are 1 ")  # before that, Ray calls its share used
        gates.open_gate(apart.run_dir, idle.GATE)
        await both_are_at_their_gate(together)
        assert await nodes_of(service, nodes, together) == ["large", "large"]
        gates.open_gate(together.run_dir, idle.GATE)
        done = [await service.wait_for_job(status.job_id, timeout=60) for status in (apart, together)]

    assert [(status.status, status.failed_attempts) for status in done] == [(JobStatus.COMPLETED, 0)] * 2


async def test_a_gang_that_loses_a_rank_goes_on_from_its_checkpoint_and_learns_what_one_rank_learns(
    nodes: Nodes, services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    curve = {
        "hyperparameters__max_steps": 20,
        "hyperparameters__save_steps": 5,
        "hyperparameters__logging_steps": 1,
        "hyperparameters__per_device_train_batch_size": 4,
    }
    async with services(max_concurrent_fine_tuning_jobs=2) as service:
        service._get_trainer_factory = lambda _: gates.TRAINER
        gang = await service.submit_fine_tuning_job(
            job("lora", **curve, resources__num_workers=2, metadata={"gates": "7"})
        )
        alone = await service.submit_fine_tuning_job(
            job("lora", **curve, hyperparameters__gradient_accumulation_steps=2)
        )
        await until(lambda: gates.is_reached(gang.run_dir, "7"))
        await event_when(service, gang.job_id, lambda event: isinstance(event, CheckpointSaved))
        psutil.Process((await claim(service, gang)).ranks[1].pid).kill()
        failed = await event_when(service, gang.job_id, lambda event: isinstance(event, AttemptFailed))
        gates.open_gate(gang.run_dir, "7")
        done = [await service.wait_for_job(status.job_id, timeout=120) for status in (gang, alone)]
        events = [recorded.event for recorded in await service.list_job_events(gang.job_id)]

    assert [status.status for status in done] == [JobStatus.COMPLETED] * 2, [status.error_message for status in done]
    assert isinstance(failed, AttemptFailed)
    assert (failed.cause, failed.counts) == ("trainer_lost", True)
    assert "rank 1" in failed.message
    placed = [event for event in events if isinstance(event, AttemptPlaced) and event.purpose == "train"]
    assert [event.resume_from and event.resume_from.step for event in placed] == [None, 5]
    (losses,) = losses_of(done[1])
    for attempt in losses_of(done[0]):
        assert attempt == {step: pytest.approx(losses[step], abs=1e-5) for step in attempt}


def losses_of(status: FineTuningJobStatusInfo) -> list[dict[int, float]]:
    """Return the losses that each attempt to train wrote down, by step."""
    return [{step: line["loss"] for step, line in attempt.items()} for attempt in curves(status)]


async def both_are_at_their_gate(status: FineTuningJobStatusInfo) -> None:
    await until(lambda: all(gates.is_reached(status.run_dir, f"{idle.GATE}-{rank}") for rank in range(2)))


async def nodes_of(service: LLMFineTuningService, nodes: Nodes, status: FineTuningJobStatusInfo) -> list[str]:
    """Return the names of the nodes of a job's ranks, sorted."""
    return sorted(nodes.name_of(rank.node_id) for rank in (await claim(service, status)).ranks)


async def claim(service: LLMFineTuningService, status: FineTuningJobStatusInfo) -> AttemptStarted:
    """Return the claim of a job's newest attempt."""
    events = [recorded.event for recorded in await service.list_job_events(status.job_id)]
    return [event for event in events if isinstance(event, AttemptStarted)][-1]
