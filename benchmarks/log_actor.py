"""What the scheduler costs as a Ray actor, against actors that do nothing but answer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray

from benchmarks.measuring import in_turn, say, stopwatch
from benchmarks.stories import id_of, submitted
from benchmarks.table import Line, Target
from ftactors.core.events import JobSubmitted
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus
from ftactors.runtime.client import SchedulerClient

_MORE_CPUS_THAN_THERE_ARE = 1e6
_PAGE = 100
Call = Callable[[], Awaitable[object]]


class Bare:
    """An actor that answers with what it was made with, whatever it is asked."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def answer(self, _question: object) -> object:
        """Return the one answer."""
        return self._answer

    async def pid(self) -> int:
        """Return the actor's process."""
        return os.getpid()


def _bare(answer: object) -> Any:
    options: dict[str, Any] = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": 10_000, "num_cpus": 0}
    return ray.remote(Bare).options(**options).remote(answer)


@asynccontextmanager
async def _service(log: Path) -> AsyncIterator[SchedulerClient]:
    """Give the client of a scheduler on this log, which starts nothing: no node has room for a preparation."""
    config = ServiceConfig(
        namespace=f"benchmark-{uuid4().hex[:8]}",
        state_dir=str(log.parent),
        log_url=f"sqlite:///{log}",
        preparation_num_cpus=_MORE_CPUS_THAN_THERE_ARE,
    )
    client = await SchedulerClient.connect(config)
    await client.ask("start", config, "ada@host:1", by_owner=True)
    yield client
    await client.ask("stop", "ada@host:1")
    await client.close_scheduler()


async def _seconds_of(call: Call, times: int) -> Sequence[float]:
    seconds: list[float] = []
    for _ in range(times):
        took = stopwatch()
        await call()
        seconds.append(took())
    return seconds


async def _rate_of(call: Call, clients: int, times: int) -> Sequence[float]:
    took = stopwatch()
    await asyncio.gather(*(_seconds_of(call, times) for _ in range(clients)))
    return [clients * times / took()]


async def submits(directory: Path, calls: int, clients: int, rounds: int) -> list[Line]:
    """Measure submits by one driver, and by many at once."""
    say("submit through the actor")
    jobs = (submitted(number) for number in count())
    async with _service(directory / "submits.db") as client:
        first: JobSubmitted = next(jobs)
        document: FineTuningJobStatusInfo = await client.ask("submit", first)
        bare = _bare(document)

        async def submit() -> None:
            await client.ask("submit", next(jobs))

        async def call() -> None:
            await bare.answer.remote(next(jobs))

        submit_s, call_s = await in_turn(lambda: _seconds_of(submit, calls), lambda: _seconds_of(call, calls), rounds)
        say(f"submit through the actor, {clients} drivers")
        times = max(1, 2 * calls // clients)
        submit_rate, call_rate = await in_turn(
            lambda: _rate_of(submit, clients, times), lambda: _rate_of(call, clients, times), rounds
        )
        ray.kill(bare)
    return [
        Line(
            "submit through the actor, 1 driver, p50",
            f"{1e3 * submit_s:.2f} ms",
            f"bare actor call {1e3 * call_s:.2f} ms",
            submit_s / call_s,
            Target("at most", 3),
        ),
        Line(
            f"submit through the actor, {clients} at once",
            f"{submit_rate:,.0f} a second",
            f"bare actor calls {call_rate:,.0f} a second",
            100 * submit_rate / call_rate,
            Target("at least", 50, "%"),
        ),
    ]


async def listing(log: Path, jobs: int, calls: int, rounds: int) -> Line:
    """Measure a page of a log's finished jobs by status, against the same page from an actor that holds it ready."""
    say(f"list of {jobs:,} jobs")
    async with _service(log) as client:
        page = await client.ask("jobs", JobStatus.FAILED, _PAGE, 0, None)
        bare = _bare(page)

        async def ask() -> None:
            await client.ask("jobs", JobStatus.FAILED, _PAGE, 0, None)

        async def call() -> None:
            await bare.answer.remote(JobStatus.FAILED)

        ask_s, call_s = await in_turn(lambda: _seconds_of(ask, calls), lambda: _seconds_of(call, calls), rounds)
        ray.kill(bare)
    return Line(
        f"list of {len(page)} of {jobs:,} jobs by status, newest first, p50",
        f"{1e3 * ask_s:.2f} ms",
        f"bare actor call with that page {1e3 * call_s:.2f} ms",
        ask_s / call_s,
        Target("at most", 2),
    )


async def restarts(log: Path, events: int, rounds: int) -> Line:
    """Measure the time from a kill of the scheduler to its next right answer, against a bare actor's."""
    async with _service(log) as client:
        say(f"kill -9 of a scheduler with {events:,} events")
        job_id = id_of(0)
        right = await client.ask("status", job_id)
        bare = _bare(right)

        async def ours() -> Sequence[float]:
            os.kill((await client.ask("hello")).pid, signal.SIGKILL)
            return await _seconds_until(right, lambda: client.ask("status", job_id))

        async def theirs() -> Sequence[float]:
            os.kill(await bare.pid.remote(), signal.SIGKILL)
            return await _seconds_until(right, lambda: bare.answer.remote(job_id))

        ours_s, theirs_s = await in_turn(ours, theirs, rounds)
        ray.kill(bare)
    return Line(
        f"kill -9 of the scheduler to the next right answer, {events:,} events",
        f"{ours_s:.2f} s",
        f"bare actor {theirs_s:.2f} s",
        ours_s - theirs_s,
        Target("at most", 1, "s more"),
    )


async def _seconds_until(right: object, call: Call) -> Sequence[float]:
    took = stopwatch()
    answer = await call()
    if answer != right:
        raise AssertionError(f"the answer after the restart is {answer}; before it was {right}")
    return [took()]
