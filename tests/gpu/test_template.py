"""On a real device: a child that a warm template forks has CUDA to itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ftactors import JobStatus
from tests.gpu.trainers import WITNESS, found_by

pytestmark = [pytest.mark.gpu, pytest.mark.ray]
TEMPLATE = "ftactors-templ"  # the name that a template gives itself


async def test_a_forked_child_sees_its_device_for_the_template_never_touched_cuda(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    async with services() as service:
        service._get_trainer_factory = lambda _: WITNESS
        config = {"hyperparameters__max_steps": 5, "resources__num_gpus": 0.5}
        done = []
        for _ in range(2):  # the first one warms the node
            submitted = await service.submit_fine_tuning_job(job("lora", **config))
            done.append(await service.wait_for_job(submitted.job_id, timeout=120))

    assert [status.status for status in done] == [JobStatus.COMPLETED] * 2, [status.error_message for status in done]
    found = found_by(done[1])
    assert found["parent"] == TEMPLATE
    assert (found["was_initialized"], found["was_forked_from_cuda"]) == (False, False)
    assert (found["devices"], found["fraction"]) == (1, pytest.approx(0.5))


async def test_qlora_runs_on_the_device_of_a_forked_child(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    """bitsandbytes, hidden from the template, chooses its CUDA kernels in the child."""
    async with services() as service:
        config = {"hyperparameters__max_steps": 5, "resources__num_gpus": 0.5}
        for method in ("lora", "qlora"):
            submitted = await service.submit_fine_tuning_job(job(method, **config))
            done = await service.wait_for_job(submitted.job_id, timeout=120)
            assert done.status is JobStatus.COMPLETED, done.error_message
