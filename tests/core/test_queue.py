"""Why a job waits: the truth, in words with numbers, and found for the jobs that are asked for alone."""

from __future__ import annotations

import time

import pytest

from ftactors.core import queue
from ftactors.core.decide import decide
from ftactors.core.events import AnyEvent
from ftactors.core.queue import waiting_jobs
from ftactors.core.seen import Process, ProcessKey, Seen
from ftactors.core.state import State
from tests.core.histories import JOB, NODE, failed, prepared, running, state_after, submitted


def look(state: State, processes: dict[ProcessKey, Process] | None = None) -> Seen:
    return Seen(state.seq, complete=True, nodes={"node-a": NODE}, processes=processes or {})


def ready(job_id: str) -> list[AnyEvent]:
    return [submitted(job_id, new_model_id=f"m-{job_id}"), *prepared(1, job_id)]


def test_a_job_whose_old_trainer_is_still_seen_says_so_and_is_not_placed():
    state = state_after(submitted(), *prepared(), *running(), failed())
    seen = look(state, {ProcessKey(JOB, 2, 0): Process(state="up", incarnation="i2")})

    assert waiting_jobs(state, seen, state.at)[JOB].reason == (
        "the process of attempt 2 is not gone yet; the next attempt starts once it is"
    )
    assert decide(state, seen, state.at) == []


def test_a_dead_trainer_holds_nothing_back():
    state = state_after(submitted(), *prepared(), *running(), failed())
    seen = look(state, {ProcessKey(JOB, 2, 0): Process(state="dead")})

    assert waiting_jobs(state, seen, state.at)[JOB].reason == "is next to be placed"
    assert len(decide(state, seen, state.at)) == 1


def test_the_cap_is_the_rules_also_where_more_jobs_hold_than_it_allows():
    state = state_after(
        *ready("a"),
        *ready("b"),
        *ready("c"),
        *running(2, "a"),
        *running(2, "b"),
        max_concurrent_fine_tuning_jobs=1,
    )

    reason = waiting_jobs(state, look(state), state.at)["c"].reason

    assert reason == "2 of at most 1 jobs train (max_concurrent_fine_tuning_jobs)"


def test_what_all_reasons_rest_on_is_counted_once(monkeypatch: pytest.MonkeyPatch):
    state = state_after(*(event for name in "abcdef" for event in ready(name)), *running(2, "a"))
    calls = []
    for name in ("free_capacity", "attempts_alive", "holds_training_share"):
        original = getattr(queue, name)
        monkeypatch.setattr(queue, name, lambda *args, n=name, f=original: (calls.append(n), f(*args))[1])

    assert len(list(waiting_jobs(state, look(state), state.at).values())) == 5
    assert calls.count("holds_training_share") <= len(state.jobs)
    assert all(calls.count(name) <= 1 for name in ("free_capacity", "attempts_alive"))


def test_a_reason_is_found_only_for_the_job_that_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    state = state_after(*(event for name in "abc" for event in ready(name)))
    asked = []
    monkeypatch.setattr(queue, "why_held_back", lambda job, *_: asked.append(job.job_id) or "it must")

    assert waiting_jobs(state, look(state), state.at)["b"].position == 2
    assert asked == ["b"]


def test_a_job_that_does_not_wait_has_no_place():
    state = state_after(submitted(), *prepared(), *running())

    assert waiting_jobs(state, look(state), state.at).get(JOB) is None
    assert waiting_jobs(state, look(state), state.at).get("ftjob-unknown") is None


def test_one_status_of_two_thousand_waiting_jobs_is_quick():
    state = state_after(*(submitted(f"ftjob-{n}", new_model_id=f"m{n}", priority=n % 7) for n in range(2000)))
    before = time.perf_counter()

    waiting_jobs(state, look(state), state.at)["ftjob-1999"]

    assert time.perf_counter() - before < 0.5  # a few milliseconds; 2,000 reasons that count anew take seconds
