"""A log folded in brief is the state that all of its events give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftactors.core.errors import StaleReportError
from ftactors.core.events import AnyEvent, Recorded
from ftactors.core.reports import fact_of
from ftactors.core.service_config import ServiceConfig
from ftactors.core.snapshot import frozen
from ftactors.core.state import State
from ftactors.core.work import AnyWord, CheckpointWritten, Evaluated, Progress, Report, StageBegun
from ftactors.log import brief
from ftactors.log.brief import in_brief
from ftactors.log.errors import LogDamagedError
from ftactors.log.reader import Reader
from ftactors.log.rows import START, Row, row_of
from tests.core.histories import prepared, progressed, running, state_after, submitted, training
from tests.log.examples import chain

JOBS = ("job-a", "job-b")
STAGES = st.sampled_from(["training", "evaluating"])
WORDS = st.one_of(
    st.builds(
        Progress,
        stage=STAGES,
        step=st.integers(0, 99),
        metrics=st.dictionaries(st.sampled_from(["loss", "grad_norm"]), st.floats(0, 9), max_size=2),
        tokens_per_second=st.none() | st.floats(1, 9),
        peak_mem_gib=st.none() | st.floats(1, 9),
    ),
    st.builds(StageBegun, stage=STAGES, index=st.just(1), of=st.just(2), total_steps=st.just(99)),
    st.builds(
        CheckpointWritten, stage=st.just("training"), step=st.integers(0, 99), path=st.just("/c"), digest=st.just("d")
    ),
    st.builds(Evaluated, of=st.just("tuned"), stage=STAGES, step=st.just(1), metrics=st.just({"loss": 1.0})),
)


def told(words: list[tuple[str, AnyWord]]) -> tuple[State, list[Recorded]]:
    """Return the state of two jobs whose trainers said these words, and the events that led there."""
    state, events = State(), list[Recorded]()

    def record(event: AnyEvent) -> None:
        recorded = state.recorded(event, state.at + 1.0)
        state.apply(recorded)
        events.append(recorded)

    for job_id in JOBS:
        for event in (submitted(job_id, new_model_id=job_id), *prepared(1, job_id), *running(2, job_id)):
            record(event)
    for job_id, word in words:
        job = state.jobs[job_id]
        assert job.attempt is not None
        report = Report(number=job.attempt.report + 1, word=word)
        fact = fact_of(job, report, stopping=False, rules=ServiceConfig(), now=state.at)
        assert fact is not None
        record(fact)
    return state, events


def rows_of(events: list[Recorded]) -> list[Row]:
    rows: list[Row] = []
    for recorded in events:
        rows.append(row_of(recorded, rows[-1].hash if rows else START.hash))
    return rows


def fold(rows: list[Row]) -> tuple[State, int]:
    """Return the state of rows folded in brief, and how many were passed over."""
    state, reader, passed = State(), Reader(), 0
    for read in in_brief(iter(rows)):
        state.apply_in_brief(reader.recorded(read.row), read.passed)
        passed += read.passed
    return state, passed


@pytest.fixture(autouse=True, scope="module")
def short_pages():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brief, "_ROWS_AT_ONCE", 7)
        yield


@given(st.lists(st.tuples(st.sampled_from(JOBS), WORDS), max_size=40))
def test_what_is_passed_over_changes_nothing(words: list[tuple[str, AnyWord]]):
    state, events = told(words)

    assert frozen(fold(rows_of(events))[0]) == frozen(state)


def test_of_progress_that_follows_progress_only_the_last_of_a_page_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(brief, "_ROWS_AT_ONCE", 1000)
    words: list[tuple[str, AnyWord]] = [("job-a", StageBegun(stage="training", index=1, of=1, total_steps=99))]
    words += [(JOBS[step % 2], Progress(stage="training", step=step)) for step in range(50)]
    state, events = told(words)

    folded, passed = fold(rows_of(events))

    assert passed == 48  # the last of each job is read
    assert frozen(folded) == frozen(state)


def test_progress_of_another_stage_or_attempt_supersedes_nothing():
    words: list[tuple[str, AnyWord]] = [
        ("job-a", Progress(stage=stage, step=1)) for stage in ("training", "evaluating")
    ]

    assert fold(rows_of(told(words)[1]))[1] == 0


def test_all_rows_before_a_damage_are_given_before_it_is_told():
    rows = chain([progressed(report=number, step=number) for number in range(1, 10)], START, epoch=1)

    def damaged():
        yield from rows[:4]
        raise LogDamagedError(5, "event 5 is lost")

    given: list[int] = []
    with pytest.raises(LogDamagedError):
        given.extend(read.row.seq for read in in_brief(damaged()))

    assert given == [4]  # the progress before it is superseded


def test_reports_that_are_missing_without_having_been_passed_over_are_noticed():
    state = state_after(submitted(), *prepared(), *running(), training())
    recorded = state.recorded(progressed(report=4, step=1), state.at)

    with pytest.raises(StaleReportError, match="report 3 is due, not 4"):
        state.apply_in_brief(recorded, 1)
