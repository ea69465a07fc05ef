"""wanted(state, seen, now): the commands that bring the cluster to what the log says.

All are idempotent. They are carried out only once the facts that they rest on are durable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ftactors.core.assignment import work_of
from ftactors.core.events import RankPlacement
from ftactors.core.job import Attempt, Job
from ftactors.core.judging import process_keys, stops
from ftactors.core.phases import Phase
from ftactors.core.seen import Process, ProcessKey, Seen
from ftactors.core.state import State
from ftactors.core.work import Work


@dataclass(frozen=True, slots=True)
class Start:
    """Make the trainer actor, unless it is there."""

    key: ProcessKey
    placed: RankPlacement
    accelerator_type: str | None
    orphan_timeout_s: float
    world_size: int = 1
    """How many ranks the attempt has."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Tell the trainer actor of this incarnation to begin its work."""

    key: ProcessKey
    incarnation: str
    work: Work


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell the trainer actor to stop its work: with a checkpoint, or without one where nothing will be resumed."""

    key: ProcessKey
    incarnation: str
    grace_s: float
    save: bool


@dataclass(frozen=True, slots=True)
class Kill:
    """End the trainer actor and its work at once."""

    key: ProcessKey


Command = Start | Begin | Stop | Kill


def wanted(state: State, seen: Seen, now: float) -> list[Command]:
    """Return the commands to give now."""
    commands: list[Command] = []
    kept: set[ProcessKey] = set()
    for job in state.held.values():
        attempt = job.attempt
        if attempt is None:
            continue
        for key, placed in zip(process_keys(job), attempt.ranks, strict=True):
            found = seen.processes.get(key)
            if _is_wanted(job, attempt, key.rank, found, state):
                kept.add(key)
                commands.extend(_orders(job, attempt, key, placed, found, state, now))
    unwanted = (key for key, found in seen.processes.items() if key not in kept and found.state != "dead")
    commands.extend(Kill(key) for key in unwanted)
    return commands


def _is_wanted(job: Job, attempt: Attempt, rank: int, found: Process | None, state: State) -> bool:
    if attempt.placed_seq < state.service.cluster_seq:
        return False
    if attempt.incarnation is None:
        return not stops(job, state)
    return found is None or found.incarnation in {None, attempt.incarnation_of(rank)}


def _orders(
    job: Job, attempt: Attempt, key: ProcessKey, placed: RankPlacement, found: Process | None, state: State, now: float
) -> Iterator[Command]:
    if found is not None and found.state == "dead":
        return
    incarnation = attempt.incarnation_of(key.rank)
    if incarnation is None:
        if found is None:
            accelerator_type = job.config.get("resources", {}).get("accelerator_type")
            of_type = accelerator_type if attempt.purpose == "train" else None
            yield Start(key, placed, of_type, state.rules.orphan_timeout_seconds, len(attempt.ranks))
        return
    if found is None or found.state != "up":
        return
    if stops(job, state):
        yield from _stop_orders(job, attempt, key, incarnation, state, now)
    elif not found.begun:
        yield Begin(key, incarnation, work_of(job, attempt, key.rank))


def _stop_orders(
    job: Job, attempt: Attempt, key: ProcessKey, incarnation: str, state: State, now: float
) -> Iterator[Command]:
    asked_at, grace_s = _deadline(job, attempt, state)
    if now > asked_at + grace_s + state.rules.kill_margin_seconds:
        yield Kill(key)
    else:
        yield Stop(key, incarnation, max(0.0, asked_at + grace_s - now), save=job.phase is Phase.YIELDING)


def _deadline(job: Job, attempt: Attempt, state: State) -> tuple[float, float]:
    """Return when the stop was asked for, and the seconds given."""
    if job.phase is Phase.CANCELLING and job.cancel is not None:
        return job.cancel.at, job.cancel.grace_s
    if job.phase is Phase.YIELDING:
        return attempt.yield_at, attempt.yield_grace_s
    stop = state.service.stop
    return (stop.at, stop.grace_s) if stop else (0.0, 0.0)
