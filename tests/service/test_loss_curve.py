"""Whatever ends an attempt, the job resumes from its checkpoint and learns what it would have learned undisturbed."""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftactors import FineTuningJobStatusInfo, JobStatus, LLMFineTuningService
from ftactors.core.events import AttemptFailed, AttemptPlaced, AttemptStarted, CheckpointSaved
from ftactors.runtime.whoami import whoami
from tests.service import gates
from tests.service.aftermath import workers_in
from tests.service.conftest import client_of, event_when, until

pytestmark = pytest.mark.ray
STEPS, SAVE_STEPS = 100, 20
CURVE = {
    "hyperparameters__max_steps": STEPS,
    "hyperparameters__save_steps": SAVE_STEPS,
    "hyperparameters__logging_steps": 1,
    "fine_tuning_technique__params": {"lora_dropout": 0.1},  # drawn at random, at each step
    "max_attempts": 5,
}

Fault = Callable[[LLMFineTuningService, FineTuningJobStatusInfo], Awaitable[None]]


async def test_attempts_that_are_killed_or_hang_leave_no_trace_in_the_loss_curve_and_the_model(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    faults: dict[int, tuple[str, Fault]] = {  # by the step at whose end they happen
        25: ("work", child_is_killed),
        45: ("trainer_lost", actor_is_killed),
        65: ("stalled", child_hangs),
        85: ("stalled", actor_hangs),
    }
    async with services(max_concurrent_fine_tuning_jobs=2) as service:
        service._get_trainer_factory = lambda _: gates.TRAINER
        calm = await service.submit_fine_tuning_job(job("lora", **CURVE))
        harmed = await service.submit_fine_tuning_job(
            job("lora", **CURVE, metadata={"gates": " ".join(map(str, faults))})
        )
        for attempt, (step, (_, fault)) in enumerate(faults.items(), start=2):
            await until(lambda step=step: gates.is_reached(harmed.run_dir, str(step)))
            await event_when(service, harmed.job_id, lambda event, step=step: is_saved(event, step - 5))
            await fault(service, harmed)
            gates.open_gate(harmed.run_dir, str(step))
            await event_when(service, harmed.job_id, lambda event, number=attempt: is_failed(event, number))
            await stalls_after(service, 1800.0)
        done = [await service.wait_for_job(status.job_id, timeout=120) for status in (calm, harmed)]
        events = [recorded.event for recorded in await service.list_job_events(harmed.job_id)]

    assert [status.status for status in done] == [JobStatus.COMPLETED] * 2, [status.error_message for status in done]
    placed = [event for event in events if isinstance(event, AttemptPlaced) and event.purpose == "train"]
    assert [event.cause for event in events if isinstance(event, AttemptFailed)] == [
        cause for cause, _ in faults.values()
    ]
    assert [event.resume_from and event.resume_from.step for event in placed] == [None, 20, 40, 60, 80]
    the_curves_are_the_same(*done)
    assert weights(done[0]) == weights(done[1])
    assert learned(done[0]) == learned(done[1])


async def child_is_killed(_: LLMFineTuningService, job: FineTuningJobStatusInfo) -> None:
    child_of(job).kill()


async def actor_is_killed(service: LLMFineTuningService, job: FineTuningJobStatusInfo) -> None:
    (await trainer(service, job.job_id)).kill()


async def child_hangs(service: LLMFineTuningService, job: FineTuningJobStatusInfo) -> None:
    child_of(job).send_signal(signal.SIGSTOP)
    await stalls_after(service, 3.0)


async def actor_hangs(service: LLMFineTuningService, job: FineTuningJobStatusInfo) -> None:
    (await trainer(service, job.job_id)).send_signal(signal.SIGSTOP)
    await stalls_after(service, 3.0)


async def stalls_after(service: LLMFineTuningService, seconds: float) -> None:
    """Let the running service take a trainer that is quiet for so long for hung; to load a model takes longer."""
    rules = service.rules.model_copy(update={"stall_timeout_seconds": seconds})
    await client_of(service).ask("start", rules, whoami(), by_owner=True)


async def trainer(service: LLMFineTuningService, job_id: str) -> psutil.Process:
    """Return the process of the newest attempt's trainer actor."""
    events = [recorded.event for recorded in await service.list_job_events(job_id)]
    started = [event for event in events if isinstance(event, AttemptStarted)]
    return psutil.Process(started[-1].ranks[0].pid)


def child_of(job: FineTuningJobStatusInfo) -> psutil.Process:
    """Return the one process that does a job's work."""
    (pid,) = workers_in(Path(job.run_dir))
    return psutil.Process(pid)


def is_saved(event: Any, step: int) -> bool:
    return isinstance(event, CheckpointSaved) and event.step == step


def is_failed(event: Any, attempt: int) -> bool:
    return isinstance(event, AttemptFailed) and event.attempt == attempt


def the_curves_are_the_same(calm: FineTuningJobStatusInfo, harmed: FineTuningJobStatusInfo) -> None:
    """Check that every attempt of a harmed job saw at each of its steps the very numbers of the undisturbed job."""
    (curve,) = curves(calm)
    attempts = curves(harmed)
    assert [min(attempt) for attempt in attempts] == [1, 21, 41, 61, 81]
    for attempt in attempts:
        assert attempt == {step: curve[step] for step in attempt}
    assert {step for attempt in attempts for step in attempt} == set(curve) == set(range(1, STEPS + 1))
    assert len({numbers["loss"] for numbers in curve.values()}) > STEPS / 2  # there was something to get wrong


def curves(status: FineTuningJobStatusInfo) -> list[dict[int, dict[str, float]]]:
    """Return the numbers that each attempt to train wrote down, by step."""
    files = sorted(Path(status.run_dir).glob("attempts/*/metrics.jsonl"), key=lambda file: int(file.parent.name))
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [{line["step"]: line for line in attempt if "loss" in line} for attempt in lines]


def learned(status: FineTuningJobStatusInfo) -> dict[str, Any]:
    """Return a job's metrics, but for the memory that its last attempt has needed."""
    return {name: value for name, value in (status.metrics or {}).items() if name != "peak_mem_gib"}


def weights(status: FineTuningJobStatusInfo) -> bytes:
    return (Path(status.output_model_path or "") / "adapter_model.safetensors").read_bytes()
