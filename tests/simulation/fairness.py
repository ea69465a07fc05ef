"""Who must not have been passed over, and what must not lie idle: told from what is, not from how it is decided."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ftactors.core.events import AttemptPlaced, YieldRequested
from ftactors.core.job import Job
from ftactors.core.phases import Phase
from ftactors.core.state import State
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.runtime.memory_shares import free_thousandths

WHOLE = 1000


def size_of(job: Job) -> tuple[int, int]:
    """Return a job's number of workers, and the share of each."""
    resources = job.config["resources"]
    return resources["num_workers"], round(WHOLE * (resources["num_gpus"] or 0))


def may_go(state: State, now: float, alive: Collection[str]) -> list[Job]:
    """Return the jobs that wait for nothing but a share, those first that go first."""
    jobs = [
        job
        for job in state.jobs.values()
        if job.phase is Phase.READY and not job.paused and job.retry_at <= now and job.job_id not in alive
    ]
    return sorted(jobs, key=lambda job: (-job.priority, job.submitted_seq))


def passed_over(state: State, event: AttemptPlaced, now: float, alive: Collection[str]) -> Iterator[Job]:
    """Yield the jobs of a higher priority that could have had what this attempt gets."""
    placed = state.jobs[event.job_id]
    workers, share = size_of(placed)
    for job in may_go(state, now, alive):
        needs = size_of(job)
        if job.priority > placed.priority and needs[0] <= workers and needs[1] <= share:
            yield job


def why_no_victim(state: State, event: YieldRequested) -> str | None:
    """Return why a job must not have been preempted; None where it may."""
    victim, winner = state.jobs[event.job_id], state.jobs.get(event.for_job or "")
    if winner is None:
        return "there is no such job"
    if not victim.config["preemptible"]:
        return "it is not preemptible"
    if winner.priority <= victim.priority:
        return f"its priority is {victim.priority}, and the other's is {winner.priority}"
    return None


def fits(job: Job, cluster: MemoryCluster) -> bool:
    """Return whether all workers of a job fit on the devices that are free now."""
    workers, share = size_of(job)
    held = cluster.held()
    up = [node for node in cluster.nodes.values() if node.state == "up"]
    if share == 0:
        return bool(up)
    return sum(free // share for node in up for free in free_thousandths(node, held)) >= workers
