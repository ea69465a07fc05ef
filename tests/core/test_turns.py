"""The order in which waiting jobs go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ftactors.core.turns import in_turn, turn_of
from tests.core.histories import state_after, submitted
from tests.core.test_queue import ready


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=12))
def test_jobs_wait_by_priority_and_then_by_submission_whatever_they_wait_for(asked: list[tuple[int, bool]]):
    events = []
    for number, (priority, is_ready) in enumerate(asked):
        name = f"ftjob-{number}"
        first = submitted(name, new_model_id=f"m{number}", priority=priority)
        events += [first, *ready(name)[1:]] if is_ready else [first]
    state = state_after(*events)

    order = [job.job_id for job in sorted(state.jobs.values(), key=turn_of)]

    assert list(state.turns) == order
    assert [state.turns.position(state.jobs[name]) for name in order] == [*range(1, len(order) + 1)]
    assert len(state.turns) == len(order)
    queues = {"prepare": state.turns.of("prepare"), "train": state.turns.of("train")}
    assert list(in_turn(queues, lambda _: True)) == order  # type: ignore[arg-type]


def test_the_turn_of_a_purpose_that_closes_meanwhile_does_not_come():
    state = state_after(*(event for name in "ab" for event in ready(name)), submitted("c"), submitted("d"))
    queues = {"prepare": state.turns.of("prepare"), "train": state.turns.of("train")}
    taken: list[str] = []

    taken.extend(in_turn(queues, lambda purpose: purpose == "prepare" or not taken))  # type: ignore[arg-type]

    assert taken == ["a", "c", "d"]
