"""Where each waiting job stands, and why it waits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from ftactors.core.decide import attempts_alive, why_held_back
from ftactors.core.ends import expected_end
from ftactors.core.estimates import estimated_starts, lines_of, plan_now
from ftactors.core.job import Job
from ftactors.core.needs import Need, holds_preparation, holds_training_share, need_of, preparation_need
from ftactors.core.occupancy import SETTLING_S, Cluster, Holder, Occupancy, cluster_of, holders_of
from ftactors.core.phases import WAITING_PHASES, Phase
from ftactors.core.placement import room_anywhere, spread
from ftactors.core.policy import Plan
from ftactors.core.reasons import Room, names_of, nodes_for, who_ends, why_never, why_no_room
from ftactors.core.seen import Seen
from ftactors.core.state import State
from ftactors.core.status import Waiting
from ftactors.core.turns import purpose_of


def waiting_jobs(state: State, seen: Seen, now: float) -> Mapping[str, Waiting]:
    """Return each waiting job's position, counted from 1, the reason why it waits, and when it should start.

    To be read before the state changes: what all jobs' answers rest on is found once, when the first one is asked for,
    and the reason is found for the jobs that are asked for alone.
    """
    return _Queue(state, seen, now)


class _Queue(Mapping[str, Waiting]):
    """The jobs that wait, in their order."""

    def __init__(self, state: State, seen: Seen, now: float) -> None:
        self._state, self._seen, self._now = state, seen, now
        self._why_no_room: dict[Need, str] = {}
        """Found so far."""

    def __getitem__(self, job_id: str) -> Waiting:
        job = self._state.jobs[job_id]
        if job.phase not in WAITING_PHASES:
            raise KeyError(job_id)
        return Waiting(self._state.turns.position(job), self._reason(job), self._start_of(job))

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.turns)

    def __len__(self) -> int:
        return len(self._state.turns)

    @cached_property
    def _alive(self) -> dict[str, int]:
        return attempts_alive(self._seen)

    @cached_property
    def _cluster(self) -> Cluster:
        left = [node_id for node_id, at in self._state.left.items() if self._now - at < SETTLING_S]
        return cluster_of(self._seen, self._state.held, left)

    @cached_property
    def _holders(self) -> list[Holder]:
        return holders_of(self._state.held, self._seen)

    @cached_property
    def _room(self) -> Room:
        occupancy = Occupancy(self._cluster, self._holders)
        ends = {job_id: expected_end(job) for job_id, job in self._state.held.items()}
        names = names_of(self._cluster.nodes)
        return Room(self._now, occupancy.now(), occupancy.empty(), self._seen.could_add, self._holders, ends, names)

    @cached_property
    def _plan(self) -> Plan:
        return plan_now(self._state, self._cluster, self._holders, self._alive, self._now)

    @cached_property
    def _next(self) -> frozenset[str]:
        return frozenset(placed.job_id for placed in self._plan.placed)

    @cached_property
    def _starts(self) -> dict[str, float]:
        return estimated_starts(self._state, self._cluster, self._holders, self._now)

    @cached_property
    def _preparing(self) -> int:
        return sum(map(holds_preparation, self._state.held.values()))

    @cached_property
    def _training(self) -> int:
        return sum(map(holds_training_share, self._state.held.values()))

    @cached_property
    def _first(self) -> Job | None:
        """The first job to train that waits for more than is free, and has a reservation."""
        heads = [
            (candidate.turn, candidate.job_id)
            for line in lines_of(self._state, {*self._alive, *self._next}, self._now)
            if line.purpose == "train" and spread(line.need, self._room.idle) is not None
            for candidate in [next(iter(line.jobs), None)]
            if candidate is not None
        ]
        return self._state.jobs[min(heads)[1]] if heads else None

    def _start_of(self, job: Job) -> float | None:
        if job.phase is not Phase.READY or job.paused or not (self._state.places and self._seen.complete):
            return None
        return self._starts.get(job.job_id)

    def _reason(self, job: Job) -> str:
        if not self._state.places:
            if job.paused:
                return "the job is paused, and the service is stopped; resume it to let it go on"
            return "the service is stopped; the job goes on at the next start"
        held_back = why_held_back(job, self._alive, self._now)
        if held_back is None:
            looked = self._seen.complete
            held_back = self._why_not_placed(job) if looked else "the cluster has not been looked at in full yet"
        return "; ".join((*_why_interrupted(job), held_back))

    def _why_not_placed(self, job: Job) -> str:
        if job.job_id in self._next:
            return "is next to be placed"
        if purpose_of(job) == "prepare":
            return self._why_not_prepared(preparation_need(self._state.rules))
        need, cap = need_of(job), self._state.rules.max_concurrent_fine_tuning_jobs
        if need not in self._why_no_room:
            self._why_no_room[need] = self._why_not_trained(need, cap)
        return self._why_no_room[need]

    def _why_not_prepared(self, need: Need) -> str:
        cap = self._state.rules.max_concurrent_preparations
        never = why_never(need, self._room)
        if never is None and self._preparing >= cap:
            return f"{self._preparing} of at most {cap} preparations run (max_concurrent_preparations)"
        if never is None and room_anywhere(need, self._room.free):
            return self._why_behind(need)
        return never or why_no_room(need, self._room)

    def _why_not_trained(self, need: Need, cap: int) -> str:
        never = why_never(need, self._room)
        if never is None and self._training >= cap:
            train = who_ends([holder for holder in self._holders if holder.purpose == "train"], self._room)
            return f"{self._training} of at most {cap} jobs train (max_concurrent_fine_tuning_jobs); {train}"
        if never is None and spread(need, self._room.free) is not None:
            return self._why_behind(need)
        return never or why_no_room(need, self._room)

    def _why_behind(self, need: Need) -> str:
        """Return why a job for which there is room is not placed."""
        if self._first is None:
            return "its turn comes once those before it are placed"
        of = f", of priority {self._first.priority}," if self._first.priority else ""
        return (
            f"job {self._first.job_id}{of} waits for {need_of(self._first)}; "
            f"what is free on {nodes_for(need, self._room)} is kept for it"
        )


def _why_interrupted(job: Job) -> Iterator[str]:
    """Yield why the job does not go on where it was, where something has taken its share."""
    if job.yielded is not None and job.yielded.reason == "preempted":
        yield f"gave its share to job {job.yielded.for_job} and goes on from its checkpoint"
    elif job.yielded is not None and job.yielded.reason == "draining":
        yield "left a node that is drained and goes on from its checkpoint"
