"""Why each waiting job waits, in words with numbers."""

from __future__ import annotations

from ftactors.core.job import Job
from ftactors.core.phases import WAITING_PHASES
from ftactors.core.placement import (
    WHOLE,
    Free,
    could_ever_fit,
    free_capacity,
    holds_preparation,
    holds_training_share,
    in_order,
    need_of,
    preparation_need,
    purpose_of,
)
from ftactors.core.seen import Seen
from ftactors.core.state import State
from ftactors.core.status import Waiting


def waiting_jobs(state: State, seen: Seen, now: float) -> dict[str, Waiting]:
    """Return each waiting job's position, counted from 1, and the reason why it waits."""
    order = in_order(job for job in state.jobs.values() if job.phase in WAITING_PHASES)
    free = free_capacity(state.jobs, seen)
    return {
        job.job_id: Waiting(position, _reason(job, state, seen, free, now))
        for position, job in enumerate(order, start=1)
    }


def _reason(job: Job, state: State, seen: Seen, free: list[Free], now: float) -> str:  # noqa: PLR0911 - one a reason
    if not state.places:
        return "the service is stopped; the job goes on at the next start"
    if job.paused:
        return "the job is paused; resume it to let it go on"
    if job.retry_at > now:
        return f"attempt {job.attempts} failed; the next one starts in {job.retry_at - now:.0f} s"
    if not seen.complete:
        return "the cluster has not been looked at in full yet"
    rules = state.rules
    if purpose_of(job) == "prepare":
        held = sum(map(holds_preparation, state.jobs.values()))
        if held >= rules.max_concurrent_preparations:
            return f"{held} of at most {held} preparations run (max_concurrent_preparations)"
        need = preparation_need(rules)
    else:
        held = sum(map(holds_training_share, state.jobs.values()))
        if held >= rules.max_concurrent_fine_tuning_jobs:
            return f"{held} of at most {held} jobs train (max_concurrent_fine_tuning_jobs)"
        need = need_of(job)
    if not could_ever_fit(need, seen):
        return f"needs {need}; no node of the cluster has that, even when it is idle"
    if any(there.fits(need) for there in free):
        return "is next to be placed"
    return f"needs {need}; free are {_free(free)}"


def _free(free: list[Free]) -> str:
    return ", ".join(f"{_amounts(there)} on node {there.node.name or there.node.node_id}" for there in free)


def _amounts(there: Free) -> str:
    gpus = f"{sum(there.devices) / WHOLE:g} GPU and " if there.devices else ""
    return f"{gpus}{max(0.0, there.cpus):g} CPU"
