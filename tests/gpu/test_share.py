"""On a real device: a share is a cap, who goes beyond it fails alone, and a job that ran out goes on with less."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ftactors import FineTuningJobStatusInfo, JobStatus, LLMFineTuningService
from ftactors.core.events import AttemptFailed, AttemptPlaced
from tests.gpu.trainers import AGGRESSOR, WITNESS, found_by, losses
from tests.service import gates, hungry
from tests.service.conftest import until
from tests.service.test_memory import HUNGRY

pytestmark = [pytest.mark.gpu, pytest.mark.ray]
SHORT = {"hyperparameters__max_steps": 20}


async def submit(service: LLMFineTuningService, trainer: str, job: dict[str, Any]) -> FineTuningJobStatusInfo:
    service._get_trainer_factory = lambda _: trainer
    return await service.submit_fine_tuning_job(job)


async def test_who_allocates_beyond_its_share_fails_alone(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    quiet = {**SHORT, "resources__num_gpus": 0.4, "metadata": {"gates": "10"}}
    loud = {**SHORT, "resources__num_gpus": 0.2, "metadata": {"gates": "5"}, "retry_on_oom": False}
    async with services(max_concurrent_fine_tuning_jobs=3) as service:
        neighbours = [await submit(service, gates.TRAINER, job("lora", **quiet)) for _ in range(2)]
        aggressor = await submit(service, AGGRESSOR, job("lora", **loud))
        for status, gate in [*((status, "10") for status in neighbours), (aggressor, "5")]:
            await until(lambda status=status, gate=gate: gates.is_reached(status.run_dir, gate))
        gates.open_gate(aggressor.run_dir, "5")
        failed = await service.wait_for_job(aggressor.job_id, timeout=120)
        for status in neighbours:
            gates.open_gate(status.run_dir, "10")
        done = [await service.wait_for_job(status.job_id, timeout=120) for status in neighbours]

    assert (failed.status, failed.error_type) == (JobStatus.FAILED, "out_of_memory")
    message = failed.error_message or ""
    (peak,), (cap,) = (re.findall(rf"{words} ([\d.]+) GiB", message) for words in ("has held", r"0\.2 of .*?, is"))
    assert 0.85 * float(cap) < float(peak) <= float(cap)
    assert "resources.num_gpus=0.2" in (failed.error_hint or "")
    _, total = torch.cuda.mem_get_info()
    for status in done:
        assert (status.status, status.attempt, status.failed_attempts) == (JobStatus.COMPLETED, 2, 0)
        assert 0 < (status.metrics or {})["peak_mem_gib"] < 0.4 * total / 2**30
    assert (done[0].metrics or {})["loss"] == pytest.approx((done[1].metrics or {})["loss"], rel=0.05)


async def test_a_job_that_ran_out_of_its_share_goes_on_with_half_the_rows_at_a_time_and_the_same_losses(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    config = {**HUNGRY, "hyperparameters__logging_steps": 1, "hyperparameters__bf16": False}
    async with services() as service:
        submitted = await submit(service, hungry.TRAINER, job("lora", **config, resources__num_gpus=0.4))
        done = await service.wait_for_job(submitted.job_id, timeout=240)
        events = [recorded.event for recorded in await service.list_job_events(submitted.job_id)]
        undisturbed = await submit(service, "trainers.sft:SftTrainer", job("lora", **config, resources__num_gpus=0.4))
        calm = await service.wait_for_job(undisturbed.job_id, timeout=240)

    assert (done.status, done.attempt, done.current_step) == (JobStatus.COMPLETED, 3, 20), done.error_message
    (failure,) = [event for event in events if isinstance(event, AttemptFailed)]
    assert (failure.stage, failure.error_type) == ("training", "out_of_memory")
    assert "; its share, 0.4 of " in failure.message
    assert "per_device_train_batch_size=4, gradient_accumulation_steps=2" in (failure.hint or "")
    placed = [event for event in events if isinstance(event, AttemptPlaced)]
    assert placed[-1].overrides["per_device_train_batch_size"] == hungry.MOST_ROWS
    assert placed[-1].resume_from is not None
    curve, resumed = losses(calm), losses(done)
    assert list(resumed) == list(range(11, 21))
    assert resumed == pytest.approx({step: curve[step] for step in resumed}, rel=1e-2)


@pytest.mark.parametrize(("share", "fraction"), [(0.25, 0.25), (1, 1.0)])
async def test_a_trainer_of_the_users_own_is_capped_by_its_environment_and_a_whole_device_has_no_cap(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]], share: float, fraction: float
):
    async with services() as service:
        submitted = await submit(service, WITNESS, job("lora", **SHORT, resources__num_gpus=share))
        done = await service.wait_for_job(submitted.job_id, timeout=120)

    assert done.status is JobStatus.COMPLETED, done.error_message
    assert found_by(done)["fraction"] == pytest.approx(fraction)
