"""The parts of `benchmarks.gpu`, which measure on one CUDA device."""

from __future__ import annotations

import asyncio
import re
import statistics
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import start_jobs as jobs
from benchmarks.measuring import say
from benchmarks.table import Line, Target
from ftactors import FineTuningJobStatusInfo, LLMFineTuningService
from ftactors.core.events import AttemptStarted, ProgressReported, Recorded
from tests.service import gates

_SFT, _AGGRESSOR = "trainers.sft:SftTrainer", "tests.gpu.trainers:Aggressor"
_ROWS, _SENTENCES = 4096, 24
_GATE = "5"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How often each thing is done."""

    steps: int = 300
    rounds: int = 5
    starts: int = 10


QUICK = Sizes(steps=20, rounds=1, starts=1)


async def caps(directory: Path, sizes: Sizes) -> list[Line]:
    """Measure how much a job gets that asks for more than its share, and what becomes of two others meanwhile."""
    say("a job that allocates beyond its share of 0.2, beside two that hold 0.4 each")
    model, data = jobs.small_model(directory / "model"), jobs.texts(directory / "rows.jsonl", _ROWS, _SENTENCES)
    async with jobs.service(directory, model, max_concurrent_fine_tuning_jobs=3) as running:
        beside = [await _submit(running, _job(data, sizes.steps, 0.4), gates.TRAINER) for _ in range(2)]
        for status in beside:
            await _is_at_the_gate(status)
        loud = {**_job(data, sizes.steps, 0.2), "retry_on_oom": False, "metadata": {}}
        aggressor = await _submit(running, loud, _AGGRESSOR)
        failed = await running.wait_for_job(aggressor.job_id, timeout=600)
        for status in beside:
            gates.open_gate(status.run_dir, _GATE)
        others = [await running.wait_for_job(status.job_id, timeout=600) for status in beside]
    message = failed.error_message or ""
    peak, cap = re.search(r"has held ([\d.]+) GiB", message), re.search(r"0\.2 of .*?, is ([\d.]+) GiB", message)
    if failed.error_type != "out_of_memory" or peak is None or cap is None:
        raise RuntimeError(f"the job that allocates beyond its share is {failed.status}: {message}")
    unharmed = sum(status.output_model_path is not None and status.failed_attempts == 0 for status in others)
    return [
        Line(
            "memory of a job that wants more than its share",
            f"{peak[1]} GiB",
            f"0.2 of the device: {cap[1]} GiB",
            float(peak[1]) / float(cap[1]),
            Target("at most", 1.0),
        ),
        Line(
            "jobs beside it that were completed at their first attempt",
            f"{unharmed} of {len(others)}",
            f"that job: {failed.error_type}",
            unharmed,
            Target("at least", len(others), "jobs"),
        ),
    ]


async def sharing(directory: Path, sizes: Sizes) -> list[Line]:
    """Measure the tokens a second of two jobs that hold half of a device each, and of one that has it for itself."""
    say("two jobs with half of the device each, and one alone")
    model, data = jobs.small_model(directory / "model"), jobs.texts(directory / "rows.jsonl", _ROWS, _SENTENCES)
    pairs: list[float] = []
    single: list[float] = []
    async with jobs.service(directory, model, max_concurrent_fine_tuning_jobs=2) as running:
        for _ in range(sizes.rounds):
            single.append(_tokens_per_second(await jobs.events_of(running, _job(data, sizes.steps, 0.5))))
            both = [await _submit(running, _job(data, sizes.steps, 0.5)) for _ in range(2)]
            pairs.append(sum([_tokens_per_second(await jobs.completed(running, status.job_id)) for status in both]))
    ours, alone = statistics.median(pairs), statistics.median(single)
    return [
        Line(
            "two jobs on halves of a device, together",
            f"{ours:,.0f} tokens/s",
            f"one alone {alone:,.0f} tokens/s",
            ours / alone,
            Target("at least", 1.0),
        )
    ]


async def starts(directory: Path, sizes: Sizes) -> list[Line]:
    """Measure from the claim of an attempt to the end of its first step, on a cold node and on a warm one."""
    say("first training step on the device, of a child that is forked from a warm template")
    model, data = jobs.tiny_model(directory / "tiny"), jobs.texts(directory / "rows.jsonl", _ROWS, _SENTENCES)
    async with jobs.service(directory, model) as running:
        cold = _to_first_step(await jobs.events_of(running, _job(data, 1, 0.5)))
        warm = [_to_first_step(await jobs.events_of(running, _job(data, 1, 0.5))) for _ in range(sizes.starts)]
    return [
        Line(
            f"from the claim to the first step, warm node, p50 over {sizes.starts}",
            f"{statistics.median(warm):.2f} s",
            f"the first job on a cold node {cold:.2f} s",
            cold / statistics.median(warm),
            Target("at least", 1.0),
        )
    ]


PARTS: dict[str, Callable[[Path, Sizes], Coroutine[None, None, list[Line]]]] = {
    "caps": caps,
    "sharing": sharing,
    "starts": starts,
}


def _job(data: Path, steps: int, share: float) -> dict[str, Any]:
    return {**jobs.lora(data, steps), "resources": {"num_gpus": share}, "metadata": {"gates": _GATE}}


async def _submit(running: LLMFineTuningService, job: dict[str, Any], trainer: str = _SFT) -> FineTuningJobStatusInfo:
    running._get_trainer_factory = lambda _: trainer  # type: ignore[assignment, method-assign]  # noqa: SLF001
    return await running.submit_fine_tuning_job(job)


async def _is_at_the_gate(status: FineTuningJobStatusInfo) -> None:
    async with asyncio.timeout(120):
        while not gates.is_reached(status.run_dir, _GATE):
            await asyncio.sleep(0.05)


def _tokens_per_second(events: list[Recorded]) -> float:
    """Return the median of what a job's training reported, without the first report: kernels are chosen in it."""
    facts = (recorded.event for recorded in events)
    told = [
        fact.tokens_per_second
        for fact in facts
        if isinstance(fact, ProgressReported) and fact.stage == "training" and fact.tokens_per_second
    ]
    return statistics.median(told[1:] or told)


def _to_first_step(events: list[Recorded]) -> float:
    claimed = jobs.time_of(events, lambda event: isinstance(event, AttemptStarted))
    return jobs.time_of(events, _is_of_training) - claimed


def _is_of_training(event: Any) -> bool:
    return isinstance(event, ProgressReported) and event.stage == "training"
