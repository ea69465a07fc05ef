"""What must always hold, I1 to I7 of the design, as checks that every test of log and scheduler ends with.

`check_log` reads a log that nobody has open, `check_live` asks a scheduler that has nothing to do. Both say which
invariant is broken, and for which job or event. They count for themselves what a job's events may be, and do not ask
the table of transitions, which may be what is wrong.

I1  every acknowledged submit is a job in the log
I2  a job has at most one end, and at most one model; an attempt has at most one claim; one attempt at a time
I3  a job that has not ended has an attempt, a place in the queue with a reason, or a timer
I4  a share in use is held in the log, or its process is being killed
I5  no gap in the seqs, a valid chain, epochs and times that never fall: one history
I6  the live state is the one of a replay from zero, and the one of a snapshot and the events after it
I7  the test did enough for its pass to mean something
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftactors.core.events import (
    TERMINAL,
    AnyEvent,
    AttemptEvent,
    AttemptFailed,
    AttemptPlaced,
    AttemptStarted,
    AttemptStopped,
    CancelRequested,
    DatasetLost,
    DatasetPrepared,
    JobCancelled,
    JobCompleted,
    JobEvent,
    JobSubmitted,
    ModelDeleted,
    ModelImported,
    Recorded,
    ReportedEvent,
)
from ftactors.core.judging import process_keys
from ftactors.core.phases import HOLDING_PHASES, WAITING_PHASES
from ftactors.core.snapshot import frozen, thawed
from ftactors.core.state import State
from ftactors.core.wanted import Kill, wanted
from ftactors.log.errors import LogDamagedError
from ftactors.log.protocol import Storage
from ftactors.log.reader import Reader
from ftactors.log.rows import START, Head, Row, chained
from ftactors.log.verify import verified
from ftactors.runtime.scheduler import Scheduler

_WHOLE = 1000
"""Thousandths of a device."""
_OF_THE_PROCESS = "left"
"""What a state knows only of the last seconds of its own process, and a new one need not know."""
_ENDS_THE_ATTEMPT = (DatasetPrepared, DatasetLost, AttemptStopped, AttemptFailed, *TERMINAL)


@dataclass
class Ledger:
    """What drivers were told, which no crash may make untrue."""

    submitted: dict[str, str] = field(default_factory=dict)
    """The job that was asked for: the job that was answered, another one where the idempotency key was known."""
    cancelled: dict[tuple[str, str], bool] = field(default_factory=dict)
    """Job and request: the answer."""


def check_log(storage: Storage, ledger: Ledger, *, least: int) -> State:
    """Return the state that the log adds up to, once I1, I2, I5, I6 and I7 hold for it.

    Args:
        storage: Not open; it is looked at and closed.
        ledger: What drivers were told.
        least: How many events the test must have made at the least.
    """
    head = storage.look()
    rows = [] if head is None else [*storage.read()]
    storage.close()
    check_one_history(rows, head)
    events = events_of(rows)
    _need(len(events) >= least, f"I7: the log has {len(events)} events; the test was to make at least {least}")
    stories = check_stories(events)
    check_answers(stories, ledger)
    state = replayed(events)
    check_snapshots(events, state)
    return state


def check_live(scheduler: Scheduler) -> None:
    """Check I3, I4 and I6 of a scheduler that is open and has nothing on its way to the disk."""
    log, state = scheduler.log, scheduler.state
    pending = f"events up to {log.durable_seq} are durable of {log.seq}, and the state is at {state.seq}"
    _need(log.durable_seq == log.seq == state.seq, f"I6 can be checked only when nothing is pending: {pending}")
    durable = replayed(events_of(log._storage.read()))
    check_same(state, durable, "the live state", "a replay of the log")
    check_same(state, thawed(frozen(state)), "the live state", "its snapshot")
    check_nothing_is_stuck(scheduler)
    check_no_share_leaks(scheduler)


def check_one_history(rows: Sequence[Row], head: Head | None) -> None:
    """Check I5."""
    if head is None:
        return
    previous = START
    for before, row in zip([None, *rows], rows, strict=False):
        _need(row.seq == previous.seq + 1, f"I5: event {row.seq} follows event {previous.seq}")
        _need(row.hash == chained(previous.hash, row[:-2], row.payload), f"I5: event {row.seq} breaks the chain")
        if before is not None:
            _need(row.epoch >= before.epoch, f"I5: event {row.seq} is of epoch {row.epoch}, after {before.epoch}")
            _need(row.at >= before.at, f"I5: event {row.seq} is of {row.at}, after one of {before.at}")
        previous = row.mark
    try:
        _need(len([*verified(rows, head)]) == len(rows), "I5: the log's own verification left events out")
    except LogDamagedError as error:
        raise AssertionError(f"I5: {error}") from error
    if rows and rows[0].type == "log_opened":  # a log that a scheduler wrote, and not a test of the log alone
        openings = [row.epoch for row in rows if row.type == "log_opened"]
        _need(len(openings) == len(set(openings)), f"I5: an epoch was opened twice: {openings}")
        firsts = {row.epoch: row.type for row in reversed(rows)}
        unopened = [epoch for epoch, first in firsts.items() if first != "log_opened"]
        _need(not unopened, f"I5: somebody wrote in epochs {unopened} without having opened the log in them")


@dataclass
class Story:
    """What the events of one job say, counted here and nowhere else."""

    job_id: str
    job_seq: int = 0
    attempts: int = 0
    held: int | None = None
    """The attempt that holds a share."""
    ranks: int = 0
    """How many that attempt has."""
    claimed: bool = False
    report: int = 0
    ended: AnyEvent | None = None
    config: dict[str, Any] = field(default_factory=dict)
    cancels: list[str] = field(default_factory=list)
    """The requests whose cancel is a fact."""


def check_stories(events: Iterable[Recorded]) -> dict[str, Story]:
    """Return what the events say of each job, once I2 holds for it."""
    stories: dict[str, Story] = {}
    keys: dict[str, str] = {}
    models: set[str] = set()
    for recorded in events:
        event, seq = recorded.event, recorded.seq
        if isinstance(event, JobSubmitted):
            _need(event.job_id not in stories, f"I2: event {seq} submits job {event.job_id!r} again")
            stories[event.job_id] = Story(event.job_id, config=event.config)
            if event.idempotency_key is not None:
                known = keys.setdefault(event.idempotency_key, event.job_id)
                _need(known == event.job_id, f"I2: key {event.idempotency_key!r} made jobs {known} and {event.job_id}")
        if isinstance(event, JobEvent):
            _need(event.job_id in stories, f"I1: event {seq} is of job {event.job_id!r}, which nobody submitted")
            _tell(stories[event.job_id], recorded)
        if isinstance(event, JobCompleted | ModelImported):
            model_id = event.model.id if isinstance(event, JobCompleted) else event.model_id
            _need(model_id not in models, f"I2: event {seq} registers model {model_id!r} a second time")
            models.add(model_id)
        if isinstance(event, ModelDeleted):
            models.discard(event.model_id)
    return stories


def check_answers(stories: dict[str, Story], ledger: Ledger) -> None:
    """Check I1, and that what cancellers were told agrees with how their jobs ended."""
    for asked, answered in ledger.submitted.items():
        _need(answered in stories, f"I1: job {answered!r} was acknowledged, and the log does not know it")
        alone = asked == answered or asked not in stories
        _need(alone, f"I1: job {asked!r} is in the log, though its driver was told that {answered!r} is the job")
    for (job_id, request_id), accepted in ledger.cancelled.items():
        story = stories.get(job_id)
        if accepted:
            _need(story is not None, f"I2: a cancel of job {job_id!r} was granted, and the log does not know the job")
        if story is None:
            continue
        ended = story.ended
        if accepted:
            fine = isinstance(ended, JobCancelled) or (ended is None and bool(story.cancels))
            end = "goes on" if ended is None else f"ended as {ended.type}"
            _need(fine, f"I2: cancel {request_id!r} of job {job_id!r} was answered True, and the job {end}")
        else:
            _need(
                request_id not in story.cancels,
                f"I2: cancel {request_id!r} of job {job_id!r} was answered False, and it is in the log",
            )


def check_snapshots(events: Sequence[Recorded], state: State) -> None:
    """Check I6 of a log: snapshots taken on the way, and the events after them, give the same state."""
    count = len(events)
    for cut in sorted({0, count // 3, 2 * count // 3, count}):
        resumed = thawed(frozen(replayed(events[:cut])))
        for recorded in events[cut:]:
            resumed.apply(recorded)
        check_same(resumed, state, f"the snapshot at event {cut} and the events after it", "a replay from zero")


def check_same(one: State, other: State, this: str, that: str) -> None:
    """Check that two states are the same in all that they hold, and as snapshots; `this` and `that` name them."""
    mine, its = contents(one), contents(other)
    differing = [name for name in sorted({*mine, *its}) if mine.get(name) != its.get(name)]
    told = "; ".join(f"{name}: {mine.get(name)!r} and {its.get(name)!r}" for name in differing)
    _need(not differing, f"I6: {this} is not {that}: {told}")
    _need(frozen(one) == frozen(other), f"I6: {this} is {that}, but their snapshots differ")


def check_nothing_is_stuck(scheduler: Scheduler) -> None:
    """Check I3."""
    waiting, now = scheduler.waiting(), scheduler.now()
    positions = []
    for job in scheduler.state.jobs.values():
        if job.phase in WAITING_PHASES:
            _need(job.attempt is None, f"I3: job {job.job_id!r} waits, and holds attempt {job.attempts}")
            place = waiting.get(job.job_id)
            known = place is not None and bool(place.reason)
            _need(known or job.retry_at > now, f"I3: job {job.job_id!r} is {job.phase} without a reason or a timer")
            positions += [] if place is None or job.paused else [place.position]
        else:
            held = job.phase in HOLDING_PHASES and job.attempt is not None and job.attempt.number == job.attempts
            _need(held, f"I3: job {job.job_id!r} is {job.phase}, and holds no attempt")
    _need(sorted(positions) == [*range(1, len(positions) + 1)], f"I3: the places in the queue are {positions}")


def check_no_share_leaks(scheduler: Scheduler) -> None:
    """Check I4."""
    state, seen = scheduler.state, scheduler.seen
    killed = {command.key for command in wanted(state, seen, scheduler.now()) if isinstance(command, Kill)}
    _check_devices(state)
    incarnations = {
        key: job.attempt.incarnation_of(key.rank)
        for job in state.jobs.values()
        if job.attempt is not None
        for key in process_keys(job)
    }
    for key, found in seen.processes.items():
        if found.state == "dead" or key in killed:
            continue
        _need(key in incarnations, f"I4: {key} is {found.state}, nobody wants it, and it is not being killed")
        claimed = incarnations[key]
        of_another = claimed is not None and found.incarnation not in {None, claimed}
        _need(not of_another, f"I4: {key} is {found.state} as {found.incarnation}; the log knows {claimed}")


def events_of(rows: Iterable[Row]) -> list[Recorded]:
    """Return the events of a log's rows, from its first one on."""
    reader = Reader()
    return [reader.recorded(row) for row in rows]


def replayed(events: Iterable[Recorded]) -> State:
    """Return the state after these events, from zero."""
    state = State()
    for recorded in events:
        state.apply(recorded)
    return state


def contents(state: State) -> dict[str, Any]:
    """Return all that a state holds, by name, so that states compare whatever a snapshot may leave out."""
    kept = {name: _plain(value) for name, value in vars(state).items() if name != _OF_THE_PROCESS}
    return {**kept, "order of models": [*state.models]}


def _plain(value: Any) -> Any:
    """Return what a value holds, in types that compare; whether a list was ever begun says nothing."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items() if part != []}
    if hasattr(value, "__dict__") and type(value).__eq__ is object.__eq__:
        return _plain(vars(value))
    return value


def _tell(story: Story, recorded: Recorded) -> None:
    """Take a job's next event into its story, once it can be the next one."""
    event, job_id, seq = recorded.event, story.job_id, recorded.seq
    story.job_seq += 1
    _need(recorded.job_seq == story.job_seq, f"I5: event {seq} is number {recorded.job_seq} of job {job_id!r}")
    _need(story.ended is None, f"I2: event {seq} ({event.type}) comes after the end of job {job_id!r}")
    if isinstance(event, AttemptPlaced):
        _need(story.held is None, f"I2: event {seq} places job {job_id!r}, which holds attempt {story.held}")
        _need(event.attempt == story.attempts + 1, f"I2: event {seq} places attempt {event.attempt} of job {job_id!r}")
        story.held, story.attempts, story.claimed, story.report = event.attempt, event.attempt, False, 0
        story.ranks = len(event.ranks)
        _check_batches(story, event, seq)
    elif isinstance(event, AttemptEvent):
        _need(event.attempt == story.held, f"I2: event {seq} is of attempt {event.attempt}; {story.held} is held")
    if isinstance(event, AttemptStarted):
        _need(not story.claimed, f"I2: event {seq} claims attempt {event.attempt} of job {job_id!r} a second time")
        _need(len(event.ranks) == story.ranks, f"I2: event {seq} claims {len(event.ranks)} of {story.ranks} ranks")
        several = [rank.incarnation for rank in event.ranks if len(event.ranks) > 1]
        _need(len(several) == len({*several}), f"I2: event {seq} claims one trainer for two ranks: {several}")
        story.claimed = True
    if isinstance(event, ReportedEvent) and event.report is not None:
        _need(story.claimed, f"I2: event {seq} is a report of attempt {event.attempt}, which nobody has claimed")
        _need(event.report == story.report + 1, f"I2: event {seq} is report {event.report}, after {story.report}")
        story.report = event.report
    if isinstance(event, CancelRequested | JobCancelled):
        story.cancels.append(event.request_id)
    if isinstance(event, JobCompleted):
        _need(not story.cancels, f"I2: job {job_id!r} is completed by event {seq}, after its cancel")
        _need(
            event.model.id == story.config.get("new_model_id"),
            f"I2: event {seq} registers {event.model.id!r} for job {job_id!r}",
        )
    if isinstance(event, _ENDS_THE_ATTEMPT):
        story.held = None
    if isinstance(event, TERMINAL):
        story.ended = event


def _check_devices(state: State) -> None:
    """Check that what attempts hold of a device, by the log, is not more than there is."""
    held: Counter[tuple[str, str]] = Counter()
    for job in state.held.values():
        if job.attempt is not None and job.attempt.started:
            for placed, rank in zip(job.attempt.ranks, job.attempt.started, strict=True):
                for device in rank.devices:
                    held[rank.node_id, device] += placed.gpu_thousandths
    too_much = {device: thousandths for device, thousandths in held.items() if thousandths > _WHOLE}
    _need(not too_much, f"I4: more is held of these devices than there is: {too_much}")


def _check_batches(story: Story, event: AttemptPlaced, seq: int) -> None:
    """Check that an attempt trains on as many rows in a step as its job asks for, however it is to save memory."""
    asked = {**story.config.get("hyperparameters", {})}
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    if event.overrides and all(name in asked for name in names):
        rows, told = (math.prod(batches[name] for name in names) for batches in (asked, {**asked, **event.overrides}))
        _need(rows == told, f"I2: event {seq} lets job {story.job_id!r} train on {told} rows in a step, not {rows}")


def _need(holds: bool, claim: str) -> None:  # noqa: FBT001 - reads as `assert` does
    if not holds:
        raise AssertionError(claim)
