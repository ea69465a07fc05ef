"""decide(state, seen, now): the facts that follow from what is known and what is seen.

It looks at what is, never at what is new, so nothing is lost by dying before its answer is recorded; and once its
answer is recorded, it has nothing to add for the same look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import merge
from typing import Any

from ftactors.core.events import (
    AnyJobEvent,
    AttemptPlaced,
    AttemptStarted,
    AttemptStopped,
    Purpose,
    RankPlacement,
    RankStarted,
    Recorded,
    YieldRequested,
)
from ftactors.core.evolve import evolve
from ftactors.core.job import Attempt, Job
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
from ftactors.core.reports import cancelled, failed
from ftactors.core.seen import Process, ProcessKey, Seen
from ftactors.core.state import State
from ftactors.core.turns import Turn, in_turn, purpose_of, turn_of
from ftactors.core.work import Failed


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
        while (fact := _judge(job, state, seen, now)) is not None:
            facts.append(fact)
            job = _after(job, fact, state.seq + len(facts), now)  # noqa: PLW2901 - as it is by now
        judged.append(job)
    if seen.complete and state.places:
        facts.extend(_placements(judged, state, seen, now))
    return facts


def process_keys(job: Job) -> Iterator[ProcessKey]:
    """Yield the names of the trainer actors of the attempt that a job holds."""
    if job.attempt is not None:
        for rank in range(len(job.attempt.ranks)):
            yield ProcessKey(job.job_id, job.attempt.number, rank)


def stops(job: Job, state: State) -> bool:
    """Return whether the job's attempt shall end without a result: yielding, cancelling, or the service stops."""
    preparation_stops = job.phase is Phase.PREPARING and state.service.stop is not None
    return preparation_stops or job.phase in {Phase.YIELDING, Phase.CANCELLING}


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


def _judge(job: Job, state: State, seen: Seen, now: float) -> AnyJobEvent | None:
    """Return the next fact about the attempt that a job holds."""
    attempt = job.attempt
    if attempt is None or job.phase not in HOLDING_PHASES:
        return None
    if attempt.placed_seq < state.service.cluster_seq:
        return _gone(job, state, now, "cluster_lost", "the cluster that it ran on is gone", counts=False)
    if attempt.placed_seq > seen.as_of_seq:
        return _yield_by_wish(job, attempt, state)
    if attempt.incarnation is None:
        return _judge_unstarted(job, attempt, state, seen, now)
    return _judge_started(job, attempt, state, seen, now) or _yield_by_wish(job, attempt, state)


def _judge_unstarted(job: Job, attempt: Attempt, state: State, seen: Seen, now: float) -> AnyJobEvent | None:
    found = [seen.processes.get(key) for key in process_keys(job)]
    if stops(job, state):
        absent = seen.complete and all(process is None or process.state == "dead" for process in found)
        return _gone(job, state, now, "stopped", "it was stopped before it began", counts=False) if absent else None
    lost = next((rank.node_id for rank in attempt.ranks if _node_is_lost(rank, seen)), None)
    if lost is not None:
        return _gone(job, state, now, "node_lost", f"node {lost} is gone", counts=False)
    dead = next((process for process in found if process is not None and process.state == "dead"), None)
    if dead is not None:
        return _gone(
            job, state, now, "start_failed", f"its trainer did not come up: {dead.why or 'it died'}", counts=True
        )
    up = [process for process in found if process is not None and process.state == "up"]
    if len(up) == len(found):
        return _started(job, attempt, up)
    if now - attempt.placed_at > state.rules.start_timeout_seconds:
        waited = f"its trainer was not up {state.rules.start_timeout_seconds:g} s after it was placed"
        return _gone(job, state, now, "start_timeout", waited, counts=False)
    return _yield_by_wish(job, attempt, state)


def _started(job: Job, attempt: Attempt, up: list[Process]) -> AttemptStarted:
    return AttemptStarted(
        job_id=job.job_id,
        attempt=attempt.number,
        incarnation=up[0].incarnation or "",
        ranks=tuple(RankStarted(node_id=found.node_id or "", devices=found.devices, pid=found.pid) for found in up),
        resumed_from_step=attempt.resume_from.step if attempt.resume_from else 0,
    )


def _judge_started(job: Job, attempt: Attempt, state: State, seen: Seen, now: float) -> AnyJobEvent | None:
    for key in process_keys(job):
        found = seen.processes.get(key)
        if found is None:
            if key in seen.missing:
                return _gone(job, state, now, "trainer_lost", "its trainer process is gone", counts=True)
        elif found.state == "dead" or (found.incarnation is not None and found.incarnation != attempt.incarnation):
            return _gone(job, state, now, "trainer_lost", "its trainer process died", counts=True)
        elif found.begun and found.quiet_s > state.rules.stall_timeout_seconds and job.phase is not Phase.CANCELLING:
            quiet = f"it made no progress for {found.quiet_s:.0f} s (stall_timeout_seconds)"
            return _gone(job, state, now, "stalled", quiet, counts=True)
    return None


def _gone(job: Job, state: State, now: float, cause: str, message: str, *, counts: bool) -> AnyJobEvent:
    """Return what the end of the attempt's processes means in the job's phase."""
    attempt = job.attempt
    if job.phase is Phase.CANCELLING:
        return cancelled(job)
    if attempt is not None and stops(job, state):
        reason = attempt.yield_reason or "service_stopped"
        return AttemptStopped(job_id=job.job_id, attempt=attempt.number, reason=reason, clean=False)
    word = Failed(stage=job.stage, error_type=cause, message=message, retryable=True)
    return failed(job, word, cause=cause, counts=counts, report=None, rules=state.rules, now=now)


def _yield_by_wish(job: Job, attempt: Attempt, state: State) -> YieldRequested | None:
    """Return the request to give the share back, where job or service are to stop and nobody has asked yet."""
    if job.phase not in {Phase.PLACED, Phase.RUNNING}:
        return None
    where: dict[str, Any] = {"job_id": job.job_id, "attempt": attempt.number}
    if state.service.stop is not None:
        return YieldRequested(**where, reason="service_stopped", grace_s=state.service.stop.grace_s)
    if job.paused:
        return YieldRequested(**where, reason="paused", grace_s=state.rules.stop_grace_seconds)
    return None


def _node_is_lost(rank: RankPlacement, seen: Seen) -> bool:
    if rank.node_id is None or not seen.complete:
        return False
    node = seen.nodes.get(rank.node_id)
    return node is None or node.state == "dead"


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
    )
