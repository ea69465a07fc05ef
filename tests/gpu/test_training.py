"""On a real device: the precision that it has, and the losses of a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ftactors import JobStatus
from tests.gpu.trainers import WITNESS, found_by

pytestmark = [pytest.mark.gpu, pytest.mark.ray]
TINY_GIB = 2.0  # no model of a few hundred kB needs as much


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
async def test_a_gpu_trains_in_bf16_where_it_has_it_and_learns_what_a_cpu_learns(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]], method: str
):
    async with services(max_concurrent_fine_tuning_jobs=2) as service:
        on_cpu = await service.submit_fine_tuning_job(job(method, resources__num_gpus=0))
        service._get_trainer_factory = lambda _: WITNESS
        on_gpu = await service.submit_fine_tuning_job(job(method, resources__num_gpus=1))
        cpu, gpu = [await service.wait_for_job(status.job_id, timeout=240) for status in (on_cpu, on_gpu)]

    assert [status.status for status in (cpu, gpu)] == [JobStatus.COMPLETED] * 2, (cpu.error_message, gpu.error_message)
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    assert found_by(gpu)["computes_in"] == ("torch.bfloat16" if has_bf16 else "None")
    assert gpu.warnings == cpu.warnings
    expected, learned = cpu.metrics or {}, gpu.metrics or {}
    assert learned["base_loss"] == pytest.approx(expected["base_loss"], abs=0.1)
    assert learned["delta_loss"] < -0.5
    assert learned["loss"] == pytest.approx(expected["loss"], abs=0.3)
    assert 0 < learned["peak_mem_gib"] < TINY_GIB
