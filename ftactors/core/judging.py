"""What is to be said of an attempt that a job holds, from how its trainer actors are seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftactors.core.events import AnyJobEvent, AttemptStarted, AttemptStopped, RankStarted, YieldRequested
from ftactors.core.job import Attempt, Job
from ftactors.core.phases import HOLDING_PHASES, Phase
from ftactors.core.reports import cancelled, failed
from ftactors.core.seen import Process, ProcessKey, Seen
from ftactors.core.state import State
from ftactors.core.work import Failed


def process_keys(job: Job) -> Iterator[ProcessKey]:
    """Yield the names of the trainer actors of the attempt that a job holds."""
    if job.attempt is not None:
        for rank in range(len(job.attempt.ranks)):
            yield ProcessKey(job.job_id, job.attempt.number, rank)


def stops(job: Job, state: State) -> bool:
    """Return whether the job's attempt shall end without a result: yielding, cancelling, or the service stops."""
    preparation_stops = job.phase is Phase.PREPARING and state.service.stop is not None
    return preparation_stops or job.phase in {Phase.YIELDING, Phase.CANCELLING}


def judge(job: Job, state: State, seen: Seen, now: float) -> AnyJobEvent | None:
    """Return the next fact about the attempt that a job holds."""
    attempt = job.attempt
    if attempt is None or job.phase not in HOLDING_PHASES:
        return None
    if attempt.placed_seq < state.service.cluster_seq:
        return _gone(job, state, now, "cluster_lost", "the cluster that it ran on is gone", counts=False)
    if attempt.placed_seq > seen.as_of_seq:
        return _yield_by_wish(job, attempt, state, seen)
    if attempt.incarnation is None:
        return _judge_unstarted(job, attempt, state, seen, now)
    return _judge_started(job, attempt, state, seen, now) or _yield_by_wish(job, attempt, state, seen)


def _judge_unstarted(job: Job, attempt: Attempt, state: State, seen: Seen, now: float) -> AnyJobEvent | None:
    found = [seen.processes.get(key) for key in process_keys(job)]
    if stops(job, state):
        absent = seen.complete and all(process is None or process.state == "dead" for process in found)
        return _gone(job, state, now, "stopped", "it was stopped before it began", counts=False) if absent else None
    lost = next((rank.node_id for rank in attempt.ranks if rank.node_id and _is_lost(rank.node_id, seen)), None)
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
    return _yield_by_wish(job, attempt, state, seen)


def _started(job: Job, attempt: Attempt, up: list[Process]) -> AttemptStarted:
    return AttemptStarted(
        job_id=job.job_id,
        attempt=attempt.number,
        incarnation=up[0].incarnation or "",
        ranks=tuple(
            RankStarted(
                node_id=found.node_id or "", devices=found.devices, pid=found.pid, incarnation=found.incarnation
            )
            for found in up
        ),
        resumed_from_step=attempt.resume_from.step if attempt.resume_from else 0,
        rendezvous=up[0].address if len(up) > 1 else None,
    )


def _judge_started(job: Job, attempt: Attempt, state: State, seen: Seen, now: float) -> AnyJobEvent | None:
    for rank, key in enumerate(process_keys(job)):
        node_id, found = attempt.started[rank].node_id, seen.processes.get(key)
        if _is_lost(node_id, seen):
            return _gone(
                job,
                state,
                now,
                "node_lost",
                f"node {node_id}, on which {_who(attempt, rank)} ran, is gone",
                counts=True,
            )
        if found is None:
            if key in seen.missing:
                return _gone(job, state, now, "trainer_lost", f"{_who(attempt, rank)} is gone", counts=True)
        elif found.state == "dead" or found.incarnation not in {None, attempt.incarnation_of(rank)}:
            return _gone(job, state, now, "trainer_lost", f"{_who(attempt, rank)} died", counts=True)
        elif found.failed is not None:
            return _rank_failed(job, found.failed, rank, state, now)
        elif found.begun and found.quiet_s > state.rules.stall_timeout_seconds and job.phase is not Phase.CANCELLING:
            quiet = f"{_who(attempt, rank)} made no progress for {found.quiet_s:.0f} s (stall_timeout_seconds)"
            return _gone(job, state, now, "stalled", quiet, counts=True)
    return None


def _who(attempt: Attempt, rank: int) -> str:
    return "its trainer process" if len(attempt.ranks) == 1 else f"the trainer process of rank {rank}"


def _rank_failed(job: Job, word: Failed, rank: int, state: State, now: float) -> AnyJobEvent:
    """Return the end of an attempt of which a rank that does not report has failed: without it, none goes on."""
    if stops(job, state):
        return _gone(job, state, now, "rank_failed", word.message, counts=True)
    told = word.model_copy(update={"message": f"rank {rank}: {word.message}"})
    return failed(job, told, cause="work", counts=True, report=None, rules=state.rules, now=now)


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


def _yield_by_wish(job: Job, attempt: Attempt, state: State, seen: Seen) -> YieldRequested | None:
    """Return the request to give the share back, where job or service are to stop and nobody has asked yet."""
    if job.phase not in {Phase.PLACED, Phase.RUNNING}:
        return None
    where: dict[str, Any] = {"job_id": job.job_id, "attempt": attempt.number}
    if state.service.stop is not None:
        return YieldRequested(**where, reason="service_stopped", grace_s=state.service.stop.grace_s)
    if job.paused:
        return YieldRequested(**where, reason="paused", grace_s=state.rules.stop_grace_seconds)
    nodes = [seen.nodes.get(rank.node_id) for rank in attempt.ranks if rank.node_id is not None]
    if any(node is not None and node.state == "draining" for node in nodes):
        return YieldRequested(**where, reason="draining", grace_s=state.rules.stop_grace_seconds)
    return None


def _is_lost(node_id: str, seen: Seen) -> bool:
    """Return whether a node is gone, as far as a complete look can tell."""
    node = seen.nodes.get(node_id)
    return seen.complete and (node is None or node.state == "dead")
