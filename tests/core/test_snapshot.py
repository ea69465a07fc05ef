"""A state as bytes and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from ftactors.core.errors import IllegalEventError, StaleReportError
from ftactors.core.job import Job
from ftactors.core.snapshot import frozen, thawed
from ftactors.core.state import State
from tests.core.histories import completed, prepared, running, state_after, submitted
from tests.core.test_random_histories import CHOICES, legal_next, walk


def parts(state: State) -> tuple[object, ...]:
    return (
        (state.seq, state.at, state.epoch, state.service),
        (state.jobs, state.held, list(state.turns), state.reserved),
        (state.finished, state.models, state.idempotency, list(state.newest_first())),
    )


@settings(max_examples=200)
@given(CHOICES)
def test_a_state_comes_back_from_its_document_as_it_was(choices: list[int]):
    state = walk(choices)

    assert parts(thawed(frozen(state))) == parts(state)


@given(CHOICES, CHOICES)
def test_a_snapshot_and_the_events_after_it_give_the_same_document_as_all_events(first: list[int], then: list[int]):
    state = walk(first)
    again = thawed(frozen(state))
    for choice in then:
        job: Job | None = next(iter(state.jobs.values()), None)
        if job is None:
            break
        event = legal_next(job)[choice % len(legal_next(job))]
        recorded = state.recorded(event, state.at + 1.0)
        try:
            state.apply(recorded)
        except (IllegalEventError, StaleReportError) as error:  # refused by both or by none
            with pytest.raises(type(error)):
                again.apply(recorded)
        else:
            again.apply(recorded)

    assert frozen(again) == frozen(state)


def test_the_document_is_the_same_in_whatever_order_a_mapping_came():
    first, last = submitted(metadata={"a": "1", "b": "2"}), completed()
    metrics = {"loss": 2.0, "perplexity": 7.4}
    ended = last.model_copy(update={"metrics": metrics})
    state = state_after(first, *prepared(), *running(), ended)

    backwards = dict(reversed({**first.config, "metadata": {"b": "2", "a": "1"}}.items()))
    other = state_after(
        first.model_copy(update={"config": backwards}),
        *prepared(),
        *running(),
        last.model_copy(update={"metrics": dict(reversed(metrics.items()))}),
    )

    assert frozen(other) == frozen(state)


def test_an_id_that_was_given_back_by_an_undo_leaves_no_trace():
    state = state_after(submitted(), *prepared(), *running())
    before = frozen(state)
    undo = state.apply(state.recorded(completed(), state.at + 1))
    assert frozen(state) != before
    undo()

    assert frozen(state) == before


@pytest.mark.parametrize("document", [b"", b"{}", b"[1]", b'{"seq": 1}\n{}'])
def test_what_is_no_document_is_an_error(document: bytes):
    with pytest.raises((ValueError, KeyError, TypeError)):
        thawed(document)
