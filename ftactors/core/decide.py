"""decide(state, seen, now): the facts that follow from what is known and what is seen.

It looks at what is, never at what is new, so nothing is lost by dying before its answer is recorded; and once its
answer is recorded, it has nothing to add for the same look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import merge

from ftactors.core.events import (
    AnyJobEvent,
    AttemptPlaced,
    Purpose,
    RankPlacement,
    Recorded,
)
from ftactors.core.evolve import evolve
from ftactors.core.job import Job
from ftactors.core.judging import judge
from ftactors.core.overrides import overrides_of_next
from ftactors.core.phases import HOLDING_PHASES, WAITING_PHASES, Phase
from ftactors.core.placement import (
    Need,
    free_capacity,
    holds_preparation,
    holds_training_share,
    need_of,
    place,
    preparation_need,
)
from ftactors.core.seen import Seen
from ftactors.core.state import State
from ftactors.core.turns import Turn, in_turn, purpose_of, turn_of


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


def _placements(judged: list[Job], state: State, seen: Seen, now: float) -> Iterator[AttemptPlaced]:
    """Yield the attempts that the caps and the free capacity allow now.

    Args:
        judged: The jobs that held an attempt, as they are by now: some have let it go, and may be placed again.
    """
    held = {job.job_id: job for job in judged if job.phase in HOLDING_PHASES}
    freed = {job.job_id: job for job in judged if job.phase in WAITING_PHASES}
    left = {
        "train": state.rules.max_concurrent_fine_tuning_jobs - sum(map(holds_training_share, held.values())),
        "prepare": state.rules.max_concurrent_preparations - sum(map(holds_preparation, held.values())),
    }
    free, alive = free_capacity(held, seen), attempts_alive(seen)
    too_large: set[Need] = set()  # for what is free by now, so that a thousand jobs alike are tried once
    for job_id in in_turn(_waiting(state, freed), lambda purpose: left[purpose] > 0):
        job = freed.get(job_id) or state.jobs[job_id]
        purpose = purpose_of(job)
        need = preparation_need(state.rules) if purpose == "prepare" else need_of(job)
        if need in too_large or why_held_back(job, alive, now) is not None:
            continue
        ranks = place(need, free)
        if ranks is None:
            too_large.add(need)
            if purpose == "prepare":
                left[purpose] = 0  # for they all need the same
            continue
        left[purpose] -= 1
        yield _placed(job, purpose, ranks)


def _waiting(state: State, freed: Mapping[str, Job]) -> dict[Purpose, Iterator[Turn]]:
    """Return the jobs that wait, those among them that have just let their attempt go, in their order."""
    purposes: tuple[Purpose, ...] = ("prepare", "train")
    return {
        purpose: merge(
            state.turns.of(purpose), sorted(turn_of(job) for job in freed.values() if purpose_of(job) == purpose)
        )
        for purpose in purposes
    }


def _placed(job: Job, purpose: Purpose, ranks: tuple[RankPlacement, ...]) -> AttemptPlaced:
    if purpose == "prepare":  # Ray may run it anywhere
        ranks = tuple(rank.model_copy(update={"node_id": None}) for rank in ranks)
    return AttemptPlaced(
        job_id=job.job_id,
        attempt=job.attempts + 1,
        purpose=purpose,
        ranks=ranks,
        resume_from=job.checkpoint if purpose == "train" else None,
        overrides=dict(overrides_of_next(job)) if purpose == "train" else {},
    )
