"""On two real devices: two ranks, which meet over NCCL, learn what one learns with twice the accumulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ftactors import JobStatus
from tests.gpu.trainers import losses

pytestmark = [pytest.mark.gpu, pytest.mark.ray]
CURVE = {
    "hyperparameters__max_steps": 10,
    "hyperparameters__logging_steps": 1,
    "hyperparameters__bf16": False,
    "resources__num_gpus": 1,
}


async def test_two_ranks_have_the_losses_of_one_with_twice_the_accumulation(
    two_devices: int, services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    gang = job("lora", **CURVE, resources__num_workers=2)
    alone = job("lora", **CURVE, hyperparameters__gradient_accumulation_steps=2)
    async with services() as service:
        done = []
        for config in (gang, alone):
            submitted = await service.submit_fine_tuning_job(config)
            done.append(await service.wait_for_job(submitted.job_id, timeout=240))

    assert [status.status for status in done] == [JobStatus.COMPLETED] * 2, [status.error_message for status in done]
    ours, theirs = map(losses, done)
    assert len(ours) == 10
    assert ours == pytest.approx(theirs, rel=1e-2)
