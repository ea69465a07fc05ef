"""A trainer's word becomes a fact, or is dropped; a failure is of the attempt or of the job."""

from __future__ import annotations

import pytest

from ftactors.core.events import (
    AttemptFailed,
    AttemptStopped,
    DatasetLost,
    DatasetPrepared,
    JobCancelled,
    JobCompleted,
    JobFailed,
    ProgressReported,
)
from ftactors.core.evolve import evolve
from ftactors.core.reports import backoff_s, fact_of
from ftactors.core.reports import failed as failed_fact
from ftactors.core.service_config import ServiceConfig
from ftactors.core.work import AnyWord, DatasetMissing, Failed, Prepared, Progress, Published, Report, Stopped
from tests.core.histories import (
    BASE,
    cancel_requested,
    fold,
    placed,
    prepared,
    recorded,
    running,
    started,
    submitted,
    yielding,
)

RULES = ServiceConfig(retry_backoff_seconds=5, retry_backoff_max_seconds=60)
PREPARING = [submitted(), placed(1, "prepare"), started(1)]
RUNNING = [submitted(), *prepared(), *running()]
PUBLISHED = Published(path="/m", digest="d", kind="adapter", base=BASE, metrics={"loss": 1.0}, trained_tokens=9)
BROKEN = Failed(error_type="internal", message="it broke", retryable=True)


def fact(history: list, word: AnyWord, *, stopping: bool = False):
    """Return the fact, and check that it is legal where it is made."""
    job = fold(history)
    made = fact_of(job, Report(number=1, word=word), stopping=stopping, rules=RULES, now=100.0)
    if made is not None:
        evolve(job, recorded([made], seq=job.seq)[0])
    return made


def test_words_become_facts_with_their_number():
    made = fact(RUNNING, Progress(stage="training", step=3, metrics={"loss": 2.0}))

    assert isinstance(made, ProgressReported)
    assert (made.attempt, made.report, made.step) == (2, 1, 3)


def test_what_does_not_count_is_tried_again_after_growing_waits_too():
    history, waits = [submitted(), *prepared()], []
    for attempt in range(2, 6):
        job = fold([*history, placed(attempt, "train")])
        word = Failed(error_type="start_timeout", message="it was not up", retryable=True)
        made = failed_fact(job, word, cause="start_timeout", counts=False, report=None, rules=RULES, now=100.0)
        assert isinstance(made, AttemptFailed)
        waits.append(made.retry_at - 100.0)
        history += [placed(attempt, "train"), made]

    assert waits == [5, 10, 20, 40]
    assert fold(history).failed_train == 0


def test_prepared_data_ends_the_preparation():
    made = fact(PREPARING, Prepared(path="/d", fingerprint="f", shape="text", counts={"train_rows": 1}))

    assert isinstance(made, DatasetPrepared)


def test_missing_data_is_prepared_again():
    assert isinstance(fact(RUNNING, DatasetMissing(path="/d", message="gone")), DatasetLost)


def test_a_published_model_completes_the_job_under_the_id_that_was_asked_for():
    made = fact(RUNNING, PUBLISHED)

    assert isinstance(made, JobCompleted)
    assert made.model.id == "tuned"


def test_a_failure_that_can_be_retried_is_of_the_attempt():
    made = fact(RUNNING, BROKEN)

    assert isinstance(made, AttemptFailed)
    assert (made.counts, made.retry_at) == (True, 105.0)


def test_a_failure_that_would_come_again_is_of_the_job():
    made = fact(PREPARING, Failed(error_type="invalid_data", message="line 3 is no JSON"))

    assert isinstance(made, JobFailed)


def test_the_last_attempt_fails_the_job():
    assert isinstance(fact([submitted(max_attempts=1), *prepared(), *running()], BROKEN), JobFailed)


@pytest.mark.parametrize("word", [PUBLISHED, Stopped(clean=False), BROKEN])
def test_whatever_ends_a_job_that_is_being_cancelled_cancels_it(word: AnyWord):
    assert isinstance(fact([*RUNNING, cancel_requested()], word), JobCancelled)


def test_what_else_a_job_says_while_it_is_being_cancelled_is_dropped():
    assert fact([*RUNNING, cancel_requested()], Progress(stage="training", step=3)) is None


def test_a_yielding_trainer_stops_cleanly():
    made = fact([*RUNNING, yielding()], Stopped(clean=True))

    assert isinstance(made, AttemptStopped)
    assert (made.reason, made.clean) == ("paused", True)


def test_a_preparation_stops_with_the_service():
    assert isinstance(fact(PREPARING, Stopped(clean=False), stopping=True), AttemptStopped)


def test_a_trainer_that_stops_unasked_has_failed_and_cannot_do_so_for_ever():
    made = fact(RUNNING, Stopped(clean=True))

    assert isinstance(made, AttemptFailed)
    assert (made.counts, made.retry_at) == (True, 105.0)


def test_the_wait_doubles_up_to_its_limit():
    assert [backoff_s(n, RULES) for n in (0, 1, 2, 3, 4, 5, 100)] == [0, 5, 10, 20, 40, 60, 60]
