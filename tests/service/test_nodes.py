"""Several nodes: shares of their GPUs are placed where they fit, and jobs outlive nodes that die or go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import ray

from ftactors import FineTuningJobStatusInfo, InvalidJobConfigError, JobStatus, LLMFineTuningService
from ftactors.core.events import AttemptFailed, AttemptPlaced, AttemptStarted, AttemptStopped, CheckpointSaved
from tests.service import gates, idle
from tests.service.conftest import event_when, status_when, until
from tests.service.foreign import hold
from tests.service.nodes import KIND, Nodes
from tests.service.test_loss_curve import curves, weights

pytestmark = pytest.mark.ray
ON_NODES = {"resources__accelerator_type": KIND}
STEPS = 60


async def test_what_no_node_has_is_refused_at_submit_and_accepted_once_a_node_has_it(
    nodes: Nodes, services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    wanted = job(**ON_NODES, resources__num_gpus=1)
    async with services() as service:
        with pytest.raises(InvalidJobConfigError, match=r"resources\.accelerator_type: cannot be had"):
            await service.submit_fine_tuning_job(wanted)
        assert await service.list_fine_tuning_jobs() == []
        nodes.add("a", gpus=1)
        accepted = await service.submit_fine_tuning_job(wanted)
        assert await service.cancel_fine_tuning_job(accepted.job_id)


async def test_four_jobs_of_0_6_gpu_run_on_two_nodes_of_two_gpus_once_nobody_else_holds_them(
    nodes: Nodes, services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    nodes.add("a", "b")
    foreign = [await hold(nodes.id_of(name), 1) for name in ("a", "b")]
    async with services(max_concurrent_fine_tuning_jobs=4, max_concurrent_preparations=4) as service:
        service._get_trainer_factory = lambda _: idle.TRAINER
        jobs = [await service.submit_fine_tuning_job(job(**ON_NODES, resources__num_gpus=0.6)) for _ in range(4)]
        first, waiting = await two_run_and_two_wait(service, jobs)
        assert {nodes.name_of(status.node) for status in first} == {"a", "b"}
        for status in waiting:
            assert "0.6 GPU" in (status.wait_reason or ""), status.wait_reason
            assert "0.4" in (status.wait_reason or ""), status.wait_reason
        for actor in foreign:
            ray.kill(actor)
        running = [await status_when(service, status.job_id, lambda status: bool(status.devices)) for status in jobs]
        for status in jobs:
            await until(lambda status=status: gates.is_reached(status.run_dir, "idle-0"))
        assert len({(status.node, *status.devices) for status in running}) == 4
        assert [nodes.name_of(status.node) for status in running].count("a") == 2
        assert {status.share for status in running} == {0.6}
        for status in jobs:
            gates.open_gate(status.run_dir, idle.GATE)
        done = [await service.wait_for_job(status.job_id, timeout=60) for status in jobs]

    assert [status.status for status in done] == [JobStatus.COMPLETED] * 4
    assert {status.attempt for status in done} == {2}  # one to prepare, one to train: none was placed in vain


async def test_a_job_goes_on_elsewhere_when_its_node_drains_and_when_its_node_dies(
    nodes: Nodes, services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    nodes.add("a", "b", "c", gpus=1, cpus=1)
    curve = {
        "hyperparameters__max_steps": STEPS,
        "hyperparameters__save_steps": 20,
        "hyperparameters__logging_steps": 1,
        "fine_tuning_technique__params": {"lora_dropout": 0.1},
    }
    async with services(max_concurrent_fine_tuning_jobs=2) as service:
        service._get_trainer_factory = lambda _: gates.SHARED
        moved = await service.submit_fine_tuning_job(
            job("lora", **curve, **ON_NODES, resources__num_gpus=1, metadata={"gates": "10 35"})
        )
        calm = await service.submit_fine_tuning_job(job("lora", **curve, resources__num_cpus=1.5))  # on the head

        await until(lambda: gates.is_reached(moved.run_dir, "10"))
        drained = await node_of(service, nodes, moved.job_id)
        nodes.drain(drained)
        stopped = await event_when(service, moved.job_id, lambda event: isinstance(event, AttemptStopped))

        await until(lambda: gates.is_reached(moved.run_dir, "35"))
        lost = await node_of(service, nodes, moved.job_id)
        await event_when(service, moved.job_id, lambda event: isinstance(event, CheckpointSaved) and event.step == 20)
        nodes.kill(lost)
        failed = await event_when(service, moved.job_id, lambda event: isinstance(event, AttemptFailed))
        gates.open_gate(moved.run_dir, "35")
        done = [await service.wait_for_job(status.job_id, timeout=90) for status in (moved, calm)]
        last = await node_of(service, nodes, moved.job_id)
        events = [recorded.event for recorded in await service.list_job_events(moved.job_id)]

    assert [status.status for status in done] == [JobStatus.COMPLETED] * 2, [status.error_message for status in done]
    assert isinstance(stopped, AttemptStopped)
    assert (stopped.reason, stopped.clean) == ("draining", True)
    assert isinstance(failed, AttemptFailed)
    assert (failed.cause, failed.counts) == ("node_lost", True)
    assert {drained, lost, last} == {"a", "b", "c"}
    assert done[0].failed_attempts == 1
    placed = [event for event in events if isinstance(event, AttemptPlaced) and event.purpose == "train"]
    assert [event.resume_from and event.resume_from.step for event in placed] in ([None, 10, 20], [None, 11, 20])
    (undisturbed,) = curves(done[1])
    seen = {step: numbers for attempt in curves(done[0]) for step, numbers in attempt.items()}
    assert seen == undisturbed
    assert weights(done[0]) == weights(done[1])


async def two_run_and_two_wait(
    service: LLMFineTuningService, jobs: list[FineTuningJobStatusInfo]
) -> tuple[list[FineTuningJobStatusInfo], list[FineTuningJobStatusInfo]]:
    """Return the jobs that run and those that wait, once all are prepared and two hold a device."""
    async with asyncio.timeout(90):
        while True:
            now = [await service.get_job_status(status.job_id) for status in jobs]
            known = [status for status in now if status is not None and status.dataset is not None]
            running = [status for status in known if status.devices]
            if len(known) == len(jobs) and len(running) == 2:
                return running, [status for status in known if not status.devices]
            await asyncio.sleep(0.05)


async def node_of(service: LLMFineTuningService, nodes: Nodes, job_id: str) -> str:
    """Return the name of the node on which the job's newest attempt started."""
    events = [recorded.event for recorded in await service.list_job_events(job_id)]
    started = [event for event in events if isinstance(event, AttemptStarted)][-1]
    return nodes.name_of(started.ranks[0].node_id)
