"""Random legal histories: folding never breaks, undoing is exact, and deciding converges."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ftactors.core.decide import decide
from ftactors.core.errors import IllegalEventError, StaleReportError
from ftactors.core.events import (
    AnyJobEvent,
    AttemptPlaced,
    AttemptStarted,
    PauseRequested,
    ServiceStarted,
    ServiceStopRequested,
)
from ftactors.core.job import Job
from ftactors.core.judging import process_keys
from ftactors.core.phases import HOLDING_PHASES, TRANSITIONS, WAITING_PHASES
from ftactors.core.queue import waiting_jobs
from ftactors.core.seen import Process, ProcessKey, Seen
from ftactors.core.service_config import ServiceConfig
from ftactors.core.state import State
from ftactors.core.wanted import Kill, Start, wanted
from ftactors.core.work import Failed
from tests.core.histories import JOB, NODE, one_of_each, opened, state_after, submitted

CHOICES = st.lists(st.integers(min_value=0, max_value=10_000), max_size=40)


def legal_next(job: Job) -> list:
    return [_of_all_ranks(job, event) for event in one_of_each(job) if type(event) in TRANSITIONS[job.phase]]


def _of_all_ranks(job: Job, event: AnyJobEvent) -> AnyJobEvent:
    """Return the event with as many ranks as the job's attempt has, or would be given."""
    if isinstance(event, AttemptPlaced) and event.purpose == "train":
        return event.model_copy(update={"ranks": event.ranks * job.config["resources"]["num_workers"]})
    if isinstance(event, AttemptStarted) and job.attempt is not None:
        incarnations = [f"{event.incarnation}-{rank}" for rank in range(len(job.attempt.ranks))]
        ranks = tuple(event.ranks[0].model_copy(update={"incarnation": each}) for each in incarnations)
        return event.model_copy(update={"incarnation": incarnations[0], "ranks": ranks})
    return event


def walk(choices: list[int]) -> State:
    """Return the state after a random legal history of one job, in a service that may stop and start."""
    workers = 1 + sum(choices) % 2
    resources = {"num_gpus": 1, "num_workers": workers}
    state = state_after(submitted(max_attempts=1000, resources=resources, preemptible=True))
    for choice in choices:
        job = state.jobs.get(JOB)
        if job is None:
            break
        others = [
            opened(f"cluster-{choice % 3}"),
            ServiceStopRequested(grace_s=10, by="someone"),
            ServiceStarted(config=ServiceConfig().model_dump(mode="json"), by="someone"),
        ]
        events = [*legal_next(job), *others]
        event = events[choice % len(events)]
        try:
            state.apply(state.recorded(event, state.at + 1.0))
        except (IllegalEventError, StaleReportError):  # an attempt that was claimed before
            continue
    return state


def snapshot(state: State) -> tuple:
    return (
        state.seq,
        state.at,
        state.epoch,
        state.service,
        dict(state.jobs),
        dict(state.held),
        list(state.turns),
        dict(state.finished),
        dict(state.models),
        dict(state.reserved),
        dict(state.idempotency),
        list(state.newest_first()),
    )


@given(CHOICES)
def test_a_job_holds_an_attempt_in_the_holding_phases_and_in_no_other(choices: list[int]):
    for job in walk(choices).jobs.values():
        assert (job.attempt is not None) == (job.phase in HOLDING_PHASES)


@given(CHOICES)
def test_undoing_events_newest_first_restores_the_state_exactly(choices: list[int]):
    state = walk(choices[:10])
    before, undos = snapshot(state), []
    for choice in choices[10:]:
        job = state.jobs.get(JOB)
        if job is None:
            break
        event = legal_next(job)[choice % len(legal_next(job))]
        try:
            undos.append(state.apply(state.recorded(event, state.at + 1.0)))
        except IllegalEventError:
            continue
    for undo in reversed(undos):
        undo()
    assert snapshot(state) == before


@given(CHOICES)
def test_a_refused_event_changes_nothing(choices: list[int]):
    state = walk(choices)
    job = state.jobs.get(JOB)
    before = snapshot(state)
    for event in one_of_each(job) if job else [submitted()]:
        if job is not None and type(event) in TRANSITIONS[job.phase]:
            continue
        try:
            state.apply(state.recorded(event, state.at + 1.0))
        except (IllegalEventError, StaleReportError):
            assert snapshot(state) == before


PROCESS = st.sampled_from(["absent", "starting", "up", "dead", "other", "one failed", "one dead"])
NODES = st.sampled_from(["up", "draining", "dead"])
BROKEN = Failed(error_type="broken", message="it broke", retryable=True)


def seen_of(state: State, kind: str, *, complete: bool, old: str, node: str = "up") -> Seen:
    processes: dict[ProcessKey, Process] = {}
    missing: set[ProcessKey] = set()
    for job in state.jobs.values():
        for key in process_keys(job):
            if kind == "absent":
                missing.add(key)
            else:
                processes[key] = _process(job, key, kind)
        if old != "absent" and job.attempts > 1:
            processes[ProcessKey(job.job_id, job.attempts - 1, 0)] = Process(state="up", incarnation="old")
    nodes = {"node-a": replace(NODE, state=node), "node-b": replace(NODE, node_id="node-b", gpus=1)}  # type: ignore[arg-type]
    return Seen(state.seq, complete=complete, nodes=nodes, processes=processes, missing=frozenset(missing))


def _process(job: Job, key: ProcessKey, kind: str) -> Process:
    """Return the trainer of a rank; what is of one rank befalls the last."""
    last = job.attempt is not None and key.rank == len(job.attempt.ranks) - 1
    kind = {"one failed": "failed" if last else "up", "one dead": "dead" if last else "up"}.get(kind, kind)
    if kind in {"starting", "dead"}:
        return Process(state=kind, node_id="node-a")  # type: ignore[arg-type]
    claimed = (job.attempt.incarnation_of(key.rank) if job.attempt else None) or f"i{key.rank}"
    incarnation = "another" if kind == "other" else claimed
    return Process("up", "node-a", incarnation=incarnation, failed=BROKEN if kind == "failed" else None)


@settings(max_examples=300)
@given(CHOICES, PROCESS, st.sampled_from(["complete", "incomplete"]), PROCESS, NODES, st.integers(0, 5000))
def test_recording_the_answer_leaves_nothing_to_decide(
    choices: list[int], kind: str, look: str, old: str, node: str, later_s: int
):
    state = walk(choices)
    seen = seen_of(state, kind, complete=look == "complete", old=old, node=node)
    now = state.at + later_s

    for fact in decide(state, seen, now):
        state.apply(state.recorded(fact, now))

    assert decide(state, seen, now) == []


@settings(max_examples=200)
@given(CHOICES, PROCESS, PROCESS)
def test_commands_start_only_what_is_held_and_kill_only_what_is_not_wanted(choices: list[int], kind: str, old: str):
    state = walk(choices)
    seen = seen_of(state, kind, complete=True, old=old)
    held = {key for job in state.jobs.values() for key in process_keys(job)}

    commands = wanted(state, seen, state.at)

    assert all(command.key in held for command in commands if isinstance(command, Start))
    assert all(command.key in seen.processes for command in commands if isinstance(command, Kill))


@given(CHOICES)
def test_every_waiting_job_has_a_place_and_a_reason(choices: list[int]):
    state = walk(choices)
    waiting = waiting_jobs(state, replace(Seen(), complete=True, nodes={"node-a": NODE}), state.at)

    assert set(waiting) == {job.job_id for job in state.jobs.values() if job.phase in WAITING_PHASES}
    assert all(place.reason and place.position >= 1 for place in waiting.values())


def test_a_paused_job_says_so():
    state = state_after(submitted(), PauseRequested(job_id=JOB, request_id="p", by="someone"))

    assert "paused" in waiting_jobs(state, Seen(complete=True, nodes={"node-a": NODE}), state.at)[JOB].reason
