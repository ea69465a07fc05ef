"""How fast jobs start, and what being a job costs: `python -m benchmarks.start` prints a table of docs/benchmarks.md.

Everything is compared, within one run and in turns, with what people do without a service: a Ray actor that imports the
libraries and trains, `ray job submit` of a TRL script, that script alone. It takes about ten minutes; `--quick` shows
only that all of it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.job_submission import JobStatus as RayJobStatus
from ray.job_submission import JobSubmissionClient

from benchmarks import start_jobs as jobs
from benchmarks.local_ray import local_ray
from benchmarks.machine import facts
from benchmarks.measuring import say
from benchmarks.start_nodes import node_losses
from benchmarks.table import Line, Target, table
from benchmarks.trl_script import train
from ftactors import LLMFineTuningService
from ftactors.core.events import (
    AttemptPlaced,
    AttemptStarted,
    DatasetPrepared,
    JobCompleted,
    ProgressReported,
    Recorded,
    StageStarted,
)

_SCRIPT = Path(__file__).with_name("trl_script.py")
_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """How often each thing is done."""

    starts: int = 10
    jobs: int = 8
    steps: int = 20
    pairs: int = 5
    long_steps: int = 100
    releases: int = 10
    losses: int = 5


QUICK = Sizes(starts=1, jobs=2, steps=2, pairs=1, long_steps=10, releases=1, losses=1)


class Fresh:
    """A Ray actor that imports the libraries and trains."""

    def first_step(self, model: str, data: str, output: str) -> float:
        """Train for one step, and return when it ended."""
        return train(model, data, output, steps=1, rows=jobs.ROWS, save=False)[-1]


async def first_steps(directory: Path, sizes: Sizes, _: str) -> list[Line]:
    """Measure from the decision to the end of the first training step."""
    say("first training step of a job on a warm node, and of a fresh actor")
    model, data = jobs.tiny_model(directory / "tiny"), jobs.texts(directory / "texts.jsonl", 64)
    ours: list[float] = []
    fresh: list[float] = []
    async with jobs.service(directory, model) as running:
        for number in range(sizes.starts + 1):
            events = await jobs.events_of(running, jobs.lora(data, 1))
            placed = jobs.time_of(events, lambda event: isinstance(event, AttemptPlaced) and event.purpose == "train")
            stepped = jobs.time_of(events, lambda event: isinstance(event, ProgressReported) and event.step == 1)
            began, actor = time.time(), ray.remote(Fresh).options(num_cpus=1).remote()
            ended = await asyncio.to_thread(
                ray.get, actor.first_step.remote(str(model), str(data), str(directory / f"fresh-{number}"))
            )
            ray.kill(actor)
            if number > 0:  # the first warms the node up
                ours.append(stepped - placed)
                fresh.append(ended - began)
    our_s, fresh_s = statistics.median(ours), statistics.median(fresh)
    return [
        Line(
            "decision to the end of the first training step, warm node, p50",
            f"{our_s:.2f} s",
            f"fresh Ray actor {fresh_s:.1f} s",
            fresh_s / our_s,
            Target("at least", 5),
        )
    ]


async def makespans(directory: Path, sizes: Sizes, dashboard: str) -> list[Line]:
    """Measure how long several short jobs take, two at a time."""
    say(f"{sizes.jobs} short jobs, {_AT_ONCE} at a time")
    model, data = jobs.tiny_model(directory / "tiny"), jobs.texts(directory / "texts.jsonl", 256)
    async with jobs.service(directory, model, max_concurrent_fine_tuning_jobs=_AT_ONCE) as running:
        cold_s = await _seconds(lambda: _all_jobs(running, data, sizes))
        warm_s = await _seconds(lambda: _all_jobs(running, data, sizes))
    script_s = await _seconds(lambda: _all_scripts(JobSubmissionClient(dashboard), model, data, directory, sizes))
    return [
        Line(
            f"{sizes.jobs} LoRA jobs of {sizes.steps} steps, {_AT_ONCE} at a time, {how}",
            f"{our_s:.1f} s",
            f"ray job submit {script_s:.1f} s",
            script_s / our_s,
            Target("at least", 3),
        )
        for how, our_s in (("the service's first", cold_s), ("warm node", warm_s))
    ]


async def _seconds(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def _all_jobs(running: LLMFineTuningService, data: Path, sizes: Sizes) -> None:
    submitted = [await running.submit_fine_tuning_job(jobs.lora(data, sizes.steps)) for _ in range(sizes.jobs)]
    for status in submitted:
        await jobs.completed(running, status.job_id)


async def _all_scripts(client: JobSubmissionClient, model: Path, data: Path, directory: Path, sizes: Sizes) -> None:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def script(number: int) -> None:
        arguments = (model, data, directory / f"script-{number}", "--steps", sizes.steps, "--rows", jobs.ROWS)
        command = " ".join(map(str, (sys.executable, _SCRIPT, *arguments)))
        async with slots:
            name = await asyncio.to_thread(_submitted, client, command)
            while not (state := await asyncio.to_thread(client.get_job_status, name)).is_terminal():
                await asyncio.sleep(0.1)
            if state is not RayJobStatus.SUCCEEDED:
                raise RuntimeError(f"the script ended as {state}: {client.get_job_logs(name)[-2000:]}")

    await asyncio.gather(*map(script, range(sizes.jobs)))


def _submitted(client: JobSubmissionClient, command: str) -> str:
    """Submit a Ray job and return its id; two that come first at the same time find no agent, and one comes again."""
    for _ in range(30):
        with suppress(RuntimeError):
            return client.submit_job(entrypoint=command, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
        time.sleep(0.2)
    return client.submit_job(entrypoint=command)


async def overhead(directory: Path, sizes: Sizes, _: str) -> list[Line]:
    """Measure the speed of training, and what supervising costs, against the script alone."""
    say("tokens per second of a job, and of the script alone")
    model, data = jobs.small_model(directory / "small"), jobs.texts(directory / "long.jsonl", 512, sentences=8)
    ratios: list[float] = []
    rates: list[tuple[float, float]] = []
    shares: list[float] = []
    async with jobs.service(directory, model) as running:
        for pair in range(sizes.pairs + 1):
            our_s, share = await _trained(running, data, sizes.long_steps)
            script_s = await _script_s(model, data, directory / f"alone-{pair}", sizes.long_steps)
            if pair > 0:
                ratios.append(script_s / our_s)
                rates.append((sizes.long_steps / our_s, sizes.long_steps / script_s))
                shares.append(share)
    ours, alone = (statistics.median(rate) for rate in zip(*rates, strict=True))
    share = statistics.median(shares)
    return [
        Line(
            f"speed of {sizes.long_steps} steps as a job, median of {sizes.pairs} pairs",
            f"{ours:.1f} steps/s",
            f"the script alone {alone:.1f} steps/s",
            statistics.median(ratios),
            Target("at least", 0.95),
        ),
        Line("the trainer actor meanwhile", f"{share:.1%} of a core", "–", 100 * share, Target("at most", 2, "%")),
    ]


async def _trained(running: LLMFineTuningService, data: Path, steps: int) -> tuple[float, float]:
    """Train a job, and return the seconds of its training stage, and the share of a core that its actor took."""
    status = await running.submit_fine_tuning_job(jobs.lora(data, steps))
    while not (training := _stage(await running.list_job_events(status.job_id), "training")):
        await asyncio.sleep(0.2)
    events = await running.list_job_events(status.job_id)
    started = [recorded.event for recorded in events if isinstance(recorded.event, AttemptStarted)][-1]
    actor = psutil.Process(started.ranks[0].pid)
    before, began = actor.cpu_times(), time.time()
    while not (publishing := _stage(await running.list_job_events(status.job_id), "publishing")):
        used, now = actor.cpu_times(), time.time()
        await asyncio.sleep(0.5)
    busy_s = used.user + used.system - before.user - before.system
    await jobs.completed(running, status.job_id)
    return publishing[0] - training[0], busy_s / (now - began)


def _stage(events: list[Recorded], stage: str) -> list[float]:
    """Return when a stage began, if it did."""
    return [
        recorded.at for recorded in events if isinstance(recorded.event, StageStarted) and recorded.event.stage == stage
    ]


async def _script_s(model: Path, data: Path, output: Path, steps: int) -> float:
    """Return the seconds from the beginning of the script's training to the end of its last step."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, _SCRIPT, model, data, output, "--steps", str(steps), "--rows", str(jobs.ROWS)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as a job has with its one CPU
    )
    told, _ = await process.communicate()
    times: list[float] = json.loads(told.splitlines()[-1])
    return times[-1] - times[0]


async def releases(directory: Path, sizes: Sizes, _: str) -> list[Line]:
    """Measure from the end of a job to the next one's first training stage, its data prepared."""
    say("from a share's release to the next job's training")
    model, data = jobs.tiny_model(directory / "tiny"), jobs.texts(directory / "texts.jsonl", 64)
    async with jobs.service(directory, model) as running:
        await jobs.events_of(running, jobs.lora(data, 1))
        long = await running.submit_fine_tuning_job(jobs.lora(data, 4000))
        await jobs.until(running, long.job_id, StageStarted)
        waiting = [await running.submit_fine_tuning_job(jobs.lora(data, 5)) for _ in range(sizes.releases + 1)]
        for status in waiting:
            await jobs.until(running, status.job_id, DatasetPrepared)
        await running.cancel_fine_tuning_job(long.job_id)
        histories: list[list[Recorded]] = [await jobs.completed(running, status.job_id) for status in waiting]
    released = [jobs.time_of(events, lambda event: isinstance(event, JobCompleted)) for events in histories]
    began = [_stage(events, "training")[0] for events in histories]
    waits = [next_s - end_s for end_s, next_s in zip(released[:-1], began[1:], strict=True)]
    p50 = statistics.median(waits)
    return [
        Line("a share's release to the next job's training, p50", f"{p50:.2f} s", "–", p50, Target("at most", 2, "s"))
    ]


async def losses(directory: Path, sizes: Sizes, _: str) -> list[Line]:
    """Measure from a node's death to its job in the queue."""
    return [await node_losses(directory, sizes.losses)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parts: dict[str, Any] = {
        "first": first_steps,
        "makespan": makespans,
        "overhead": overhead,
        "release": releases,
        "loss": losses,
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="do little of everything: a smoke test")
    parser.add_argument("--part", choices=parts, action="append", help="measure only this part (default: all)")
    chosen = parser.parse_args(arguments)
    sizes = QUICK if chosen.quick else Sizes()
    lines: list[Line] = []
    with local_ray(cpus=8, dashboard=True) as dashboard:
        for part in chosen.part or parts:
            with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
                lines += asyncio.run(parts[part](Path(directory), sizes, dashboard))
    say("done: a smoke test, and its numbers mean nothing" if chosen.quick else "done")
    print(f"{facts(Path(tempfile.gettempdir()))}\n\n{table(lines)}")


if __name__ == "__main__":
    main()
