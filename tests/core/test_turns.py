"""The order in which waiting jobs go, and the lines in which they wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ftactors.core.events import PauseRequested, ResumeRequested
from ftactors.core.turns import kind_of, turn_of
from tests.core.histories import JOB, prepared, running, state_after, submitted
from tests.core.test_queue import ready

ASKED = st.tuples(st.integers(-3, 3), st.sampled_from(["submitted", "ready", "paused"]), st.sampled_from([0.25, 1]))


@given(st.lists(ASKED, max_size=12))
def test_jobs_wait_by_priority_and_then_by_submission_whatever_they_wait_for(asked: list[tuple[int, str, float]]):
    events = []
    for number, (priority, phase, gpus) in enumerate(asked):
        name = f"ftjob-{number}"
        events.append(submitted(name, new_model_id=f"m{number}", priority=priority, resources={"num_gpus": gpus}))
        events += ready(name)[1:] if phase != "submitted" else []
        events += [PauseRequested(job_id=name, request_id="p", by="someone")] if phase == "paused" else []
    state = state_after(*events)

    order = [job.job_id for job in sorted(state.jobs.values(), key=turn_of)]

    assert list(state.turns) == order
    going = [name for name in order if not state.jobs[name].paused]
    assert [state.turns.position(state.jobs[name]) for name in going] == [*range(1, len(going) + 1)]
    assert len(state.turns) == len(order)
    for kind, line in state.turns.lines.items():
        assert list(line) == [turn_of(state.jobs[name]) for name in order if kind_of(state.jobs[name]) == kind]
    assert sum(map(len, state.turns.lines.values())) == len(order)


def test_a_line_is_gone_with_its_last_job():
    state = state_after(submitted(), *prepared())
    (kind,) = state.turns.lines

    assert kind.purpose == "train"
    for event in running():
        state.apply(state.recorded(event, state.at))
    assert not state.turns.lines


def test_a_paused_job_waits_in_a_line_of_its_own_until_it_is_resumed():
    state = state_after(submitted(), PauseRequested(job_id=JOB, request_id="p", by="someone"))

    assert [kind.paused for kind in state.turns.lines] == [True]
    state.apply(state.recorded(ResumeRequested(job_id=JOB, request_id="q", by="someone"), state.at))
    assert [kind.paused for kind in state.turns.lines] == [False]
