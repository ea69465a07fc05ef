"""decide(state, seen, now): the facts that follow from what is known and what is seen.

It looks at what is, never at what is new, so nothing is lost by dying before its answer is recorded; and once its
answer is recorded, it has nothing to add for the same look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge

from ftactors.core.events import AnyJobEvent, AttemptPlaced, RankPlacement, Recorded, YieldRequested
from ftactors.core.evolve import evolve
from ftactors.core.job import Job, nodes_of
from ftactors.core.judging import judge
from ftactors.core.needs import preparation_need
from ftactors.core.occupancy import SETTLING_S, cluster_of, holders_of
from ftactors.core.overrides import overrides_of_next
from ftactors.core.phases import HOLDING_PHASES, WAITING_PHASES, Phase
from ftactors.core.placement import ranks_of
from ftactors.core.policy import Candidate, Line, Placed, Rules, plan
from ftactors.core.seen import Seen
from ftactors.core.state import State
from ftactors.core.turns import Kind, Turn, kind_of, turn_of


def decide(state: State, seen: Seen, now: float) -> list[AnyJobEvent]:
    """Return the facts to record, in their order.

    Args:
        state: All that is known.
        seen: The last look at the cluster.
        now: The service's clock, in seconds.
    """
    facts: list[AnyJobEvent] = []
    judged: list[Job] = []
    for job in state.held.values():
        while (fact := judge(job, state, seen, now)) is not None:
            facts.append(fact)
            job = _after(job, fact, state.seq + len(facts), now)  # noqa: PLW2901 - as it is by now
        judged.append(job)
    if seen.complete and state.places:
        facts.extend(_placements(judged, state, seen, now))
    return facts


def attempts_alive(seen: Seen) -> dict[str, int]:
    """Return, by job, the newest attempt of which a trainer actor is seen starting or up."""
    alive: dict[str, int] = {}
    for key, found in seen.processes.items():
        if found.state in {"starting", "up"}:
            alive[key.job_id] = max(key.attempt, alive.get(key.job_id, 0))
    return alive


def why_held_back(job: Job, alive: Mapping[str, int], now: float) -> str | None:
    """Return why a waiting job may not be placed, however much is free; None where it may.

    Args:
        job: The job.
        alive: What `attempts_alive` says.
        now: The service's clock.
    """
    if job.paused:
        return "the job is paused; resume it to let it go on"
    if job.retry_at > now:
        return f"attempt {job.attempts} failed; the next one starts in {job.retry_at - now:.0f} s"
    if job.job_id in alive:
        if job.phase is Phase.READY and alive[job.job_id] == job.attempts and job.failed_train == 0:
            return "its turn comes as soon as the process of its last attempt is gone"
        return f"the process of attempt {alive[job.job_id]} is not gone yet; the next attempt starts once it is"
    return None


def _after(job: Job, fact: AnyJobEvent, seq: int, now: float) -> Job:
    """Return the job as it will be once the fact is recorded."""
    return evolve(job, Recorded(seq=seq, at=now, epoch=0, event=fact, job_seq=job.job_seq + 1))


def _placements(judged: list[Job], state: State, seen: Seen, now: float) -> Iterator[AnyJobEvent]:
    """Yield the attempts that are placed now, and what is asked of holders so that others can be.

    Args:
        judged: The jobs that held an attempt, as they are by now: some have let it go, and may be placed again.
    """
    held = {job.job_id: job for job in judged if job.phase in HOLDING_PHASES}
    freed = {job.job_id: job for job in judged if job.phase in WAITING_PHASES}
    left = {node_id for node_id, at in state.left.items() if now - at < SETTLING_S}
    left.update(*(nodes_of(job) for job_id, job in state.held.items() if job_id not in held))
    rules = Rules(
        state.rules.max_concurrent_fine_tuning_jobs,
        state.rules.max_concurrent_preparations,
        state.rules.max_wait_seconds,
    )
    planned = plan(_lines(state, freed, seen, now), cluster_of(seen, held, left), holders_of(held, seen), rules, now)
    for placed in planned.placed:
        yield _placed(freed.get(placed.job_id) or state.jobs[placed.job_id], placed)
    for preempted in planned.preempted:
        yield YieldRequested(
            job_id=preempted.job_id,
            attempt=held[preempted.job_id].attempts,
            reason="preempted",
            for_job=preempted.for_job,
            grace_s=state.rules.stop_grace_seconds,
        )


def _lines(state: State, freed: Mapping[str, Job], seen: Seen, now: float) -> list[Line]:
    """Return the jobs that wait, those among them that have just let their attempt go."""
    by_kind: dict[Kind, list[Job]] = {}
    for job in freed.values():
        by_kind.setdefault(kind_of(job), []).append(job)
    alive = attempts_alive(seen)
    return [
        Line(
            kind.purpose,
            kind.need or preparation_need(state.rules),
            _Ready(state, state.turns.lines.get(kind, ()), by_kind.get(kind, ()), alive, now),
        )
        for kind in {**state.turns.lines, **by_kind}
        if not kind.paused
    ]


@dataclass(frozen=True, slots=True)
class _Ready:
    """The jobs of one kind that nothing but a lack of room holds back, in their order."""

    state: State
    turns: Sequence[Turn]
    freed: Sequence[Job]
    alive: Mapping[str, int]
    now: float

    def __iter__(self) -> Iterator[Candidate]:
        freed = {job.job_id: job for job in self.freed}
        for turn in merge(self.turns, sorted(map(turn_of, self.freed))) if freed else self.turns:
            job = freed.get(turn.job_id) or self.state.jobs[turn.job_id]
            if why_held_back(job, self.alive, self.now) is None:
                yield Candidate(job.job_id, job.priority, job.submitted_seq, job.waiting_since)


def _placed(job: Job, placed: Placed) -> AttemptPlaced:
    need, trains = placed.need, placed.purpose == "train"
    anywhere = RankPlacement(node_id=None, gpu_thousandths=0, cpus=need.cpus, mem_gib=need.mem_gib)
    return AttemptPlaced(
        job_id=job.job_id,
        attempt=job.attempts + 1,
        purpose=placed.purpose,
        ranks=(anywhere,) if placed.where is None else ranks_of(need, placed.where),
        resume_from=job.checkpoint if trains else None,
        overrides=dict(overrides_of_next(job)) if trains else {},
    )
