"""A node that dies under a job: how long until the job is in the queue again, and how long Ray takes to see it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker  # the only place that knows the head node
from ray.cluster_utils import Cluster

from benchmarks import start_jobs as jobs
from benchmarks.measuring import say
from benchmarks.table import Line, Target
from ftactors import LLMFineTuningService
from ftactors.core.events import AttemptFailed, Recorded, StageStarted

_MEMORY_GIB = 1024
"""What the nodes that die say they have, and the job asks for: that keeps it on them."""
_MORE_STEPS_THAN_IT_COMES_TO = 1_000_000
_POLL_S = 0.01


async def node_losses(directory: Path, rounds: int) -> Line:
    """Measure from the SIGKILL of a raylet to the fact that puts its job in the queue again, on the Ray that is there.

    Ray's own time is measured in the same rounds: until `ray.nodes()` says that the node is dead.
    """
    say("node killed to the job queued again")
    model, data = jobs.tiny_model(directory / "tiny"), jobs.texts(directory / "texts.jsonl", 64)
    job = jobs.lora(data, _MORE_STEPS_THAN_IT_COMES_TO)
    job |= {"max_attempts": rounds + 1, "resources": {"num_gpus": 0, "memory_gib": _MEMORY_GIB}}
    cluster = _cluster_here()
    seen_s: list[float] = []
    queued_s: list[float] = []
    async with jobs.service(directory, model, retry_backoff_seconds=0.1) as running:
        job_id: str | None = None
        for number in range(rounds):
            with _node(cluster) as node:
                if job_id is None:  # it cannot be placed before there is such a node, and is refused
                    job_id = (await running.submit_fine_tuning_job(job)).job_id
                await _trains_for_the(number + 1, running, job_id)
                seen, queued = await _loss_of(node, running, job_id, number + 1)
            say(f"Ray saw it after {seen:.2f} s, and the job was queued after {queued:.2f} s")
            seen_s.append(seen)
            queued_s.append(queued)
        if job_id is not None:
            await running.cancel_fine_tuning_job(job_id)
    more_s = statistics.median(queued - seen for seen, queued in zip(seen_s, queued_s, strict=True))
    return Line(
        "node killed (SIGKILL of its raylet) to the job queued again, p50",
        f"{statistics.median(queued_s):.2f} s",
        f"Ray says that the node is dead after {statistics.median(seen_s):.2f} s",
        more_s,
        Target("at most", 5, "s more"),
    )


def _cluster_here() -> Cluster:
    """Return what adds nodes to the Ray that this process has started."""
    cluster = Cluster()
    cluster.head_node = ray_worker.global_worker.node
    cluster.redis_address = cluster.head_node.redis_address
    return cluster


@contextmanager
def _node(cluster: Cluster) -> Iterator[Any]:
    """Give a node that was added, and take it away if it lives."""
    node = cluster.add_node(num_cpus=1, memory=_MEMORY_GIB * 2**30)
    try:
        yield node
    finally:
        cluster.remove_node(node)


async def _trains_for_the(time_: int, running: LLMFineTuningService, job_id: str) -> None:
    def trains(recorded: Recorded) -> bool:
        return isinstance(recorded.event, StageStarted) and recorded.event.stage == "training"

    while sum(map(trains, await running.list_job_events(job_id))) < time_:
        await asyncio.sleep(0.1)


async def _loss_of(node: Any, running: LLMFineTuningService, job_id: str, failures: int) -> tuple[float, float]:
    """SIGKILL a node; return the seconds until Ray called it dead, and until the job was in the queue."""
    raylet = node.all_processes["raylet"][0].process
    killed_at = time.time()
    raylet.kill()
    raylet.wait()  # a zombie would pass for alive with its workers
    seen = asyncio.create_task(asyncio.to_thread(_seen_dead, node.node_id))
    while True:
        found = [one for one in await running.list_job_events(job_id) if isinstance(one.event, AttemptFailed)]
        if len(found) == failures:
            return await seen - killed_at, found[-1].at - killed_at
        await asyncio.sleep(0.1)


def _seen_dead(node_id: str) -> float:
    """Return when Ray calls a node dead."""
    while any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id):
        time.sleep(_POLL_S)
    return time.time()
