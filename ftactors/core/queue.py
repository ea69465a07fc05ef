"""Why each waiting job waits, in words with numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from ftactors.core.decide import attempts_alive, why_held_back
from ftactors.core.job import Job
from ftactors.core.phases import WAITING_PHASES
from ftactors.core.placement import (
    WHOLE,
    Free,
    could_ever_fit,
    free_capacity,
    holds_preparation,
    holds_training_share,
    need_of,
    preparation_need,
)
from ftactors.core.seen import Seen
from ftactors.core.state import State
from ftactors.core.status import Waiting
from ftactors.core.turns import purpose_of


def waiting_jobs(state: State, seen: Seen, now: float) -> Mapping[str, Waiting]:
    """Return each waiting job's position, counted from 1, and the reason why it waits.

    To be read before the state changes: what all jobs' answers rest on is counted once, when the first one is asked
    for, and the reason is found for the jobs that are asked for alone.
    """
    return _Queue(state, seen, now)


class _Queue(Mapping[str, Waiting]):
    """The jobs that wait, in their order."""

    def __init__(self, state: State, seen: Seen, now: float) -> None:
        self._state, self._seen, self._now = state, seen, now

    def __getitem__(self, job_id: str) -> Waiting:
        job = self._state.jobs[job_id]
        if job.phase not in WAITING_PHASES:
            raise KeyError(job_id)
        return Waiting(self._state.turns.position(job), self._reason(job))

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.turns)

    def __len__(self) -> int:
        return len(self._state.turns)

    @cached_property
    def _free(self) -> list[Free]:
        return free_capacity(self._state.held, self._seen)

    @cached_property
    def _alive(self) -> dict[str, int]:
        return attempts_alive(self._seen)

    @cached_property
    def _preparing(self) -> int:
        return sum(map(holds_preparation, self._state.held.values()))

    @cached_property
    def _training(self) -> int:
        return sum(map(holds_training_share, self._state.held.values()))

    def _reason(self, job: Job) -> str:
        if not self._state.places:
            if job.paused:
                return "the job is paused, and the service is stopped; resume it to let it go on"
            return "the service is stopped; the job goes on at the next start"
        held_back = why_held_back(job, self._alive, self._now)
        if held_back is not None:
            return held_back
        if not self._seen.complete:
            return "the cluster has not been looked at in full yet"
        return self._why_no_room(job)

    def _why_no_room(self, job: Job) -> str:
        rules = self._state.rules
        if purpose_of(job) == "prepare":
            need, held, cap = preparation_need(rules), self._preparing, rules.max_concurrent_preparations
            what, rule = "preparations run", "max_concurrent_preparations"
        else:
            need, held, cap = need_of(job), self._training, rules.max_concurrent_fine_tuning_jobs
            what, rule = "jobs train", "max_concurrent_fine_tuning_jobs"
        if held >= cap:
            return f"{held} of at most {cap} {what} ({rule})"
        if not could_ever_fit(need, self._seen):
            return f"needs {need}; no node of the cluster has that, even when it is idle"
        if any(there.fits(need) for there in self._free):
            return "is next to be placed"
        return f"needs {need}; free are {_listed(self._free)}"


def _listed(free: list[Free]) -> str:
    return ", ".join(f"{_amounts(there)} on node {there.node.name or there.node.node_id}" for there in free)


def _amounts(there: Free) -> str:
    gpus = f"{sum(there.devices) / WHOLE:g} GPU and " if there.devices else ""
    return f"{gpus}{max(0.0, there.cpus):g} CPU"
