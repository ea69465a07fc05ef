"""What users ask for becomes facts once, or is refused with a reason."""

from __future__ import annotations

import pytest

from ftactors.core import requests
from ftactors.core.errors import (
    IdempotencyConflictError,
    InvalidJobConfigError,
    JobNotFoundError,
    JobStateError,
    ModelConflictError,
    ModelNotFoundError,
    ServiceError,
)
from ftactors.core.events import (
    CancelRequested,
    JobCancelled,
    ModelImported,
    ModelRef,
    PauseRequested,
    ResumeRequested,
    ServiceStopRequested,
)
from ftactors.core.service_config import ServiceConfig
from tests.core.histories import (
    JOB,
    cancel_requested,
    cancelled,
    completed,
    prepared,
    running,
    state_after,
    submitted,
)

STOP = ServiceStopRequested(grace_s=10, by="someone")
IMPORT = ModelImported(model_id="base", source="/models/base", path="/models/base", owned=False)


def cancel(state, request_id="r1"):
    return requests.cancel(state, JOB, request_id=request_id, by="someone", grace_s=10)


def test_a_new_job_is_accepted():
    assert requests.submit(state_after(), submitted()) == (JOB, submitted())


def test_the_same_submit_again_is_the_same_job():
    assert requests.submit(state_after(submitted()), submitted()) == (JOB, None)


def test_the_same_key_and_configuration_is_the_same_job():
    state = state_after(submitted(key="k"))

    assert requests.submit(state, submitted("ftjob-2", key="k")) == (JOB, None)


def test_the_same_key_with_another_configuration_is_a_conflict():
    state = state_after(submitted(key="k"))
    other = submitted("ftjob-2", key="k").model_copy(update={"config_digest": "other"})

    with pytest.raises(IdempotencyConflictError, match="'k' was used for job 'ftjob-1'"):
        requests.submit(state, other)


@pytest.mark.parametrize(
    ("history", "words"), [([], "reserved by job 'ftjob-1'"), ([*prepared(), *running(), completed()], "is registered")]
)
def test_the_id_of_the_new_model_must_be_free(history: list, words: str):
    state = state_after(submitted(), *history)

    with pytest.raises(InvalidJobConfigError, match=words):
        requests.submit(state, submitted("ftjob-2"))


def test_the_id_of_a_cancelled_job_is_free_again():
    state = state_after(submitted(), cancelled())

    assert requests.submit(state, submitted("ftjob-2"))[0] == "ftjob-2"


def test_a_stopped_service_accepts_no_job():
    with pytest.raises(ServiceError, match="stopped"):
        requests.submit(state_after(STOP), submitted())


def test_a_base_model_that_was_deleted_meanwhile_is_not_found():
    base = ModelRef(model_id="base", registered_seq=77, path="/models/base", source="registered")

    with pytest.raises(ModelNotFoundError, match="was deleted"):
        requests.submit(state_after(), submitted().model_copy(update={"base": base}))


def test_a_waiting_job_is_cancelled_at_once_and_a_held_one_after_its_trainer_has_stopped():
    accepted, fact = cancel(state_after(submitted()))
    assert (accepted, type(fact)) == (True, JobCancelled)

    accepted, fact = cancel(state_after(submitted(), *prepared(), *running()))
    assert (accepted, type(fact)) == (True, CancelRequested)


def test_each_request_to_cancel_is_answered_the_same_when_it_is_repeated():
    state = state_after(submitted(), *prepared(), *running(), cancel_requested())
    assert cancel(state, "r1") == (True, None)
    accepted, fact = cancel(state, "r2")
    assert accepted
    state.apply(state.recorded(fact, 2000.0))

    assert [cancel(state, request_id)[0] for request_id in ("r1", "r2", "r3")] == [True, True, True]
    state.apply(state.recorded(cancelled(), 2001.0))
    assert [cancel(state, request_id) for request_id in ("r1", "r2", "r3")] == [
        (True, None),
        (True, None),
        (False, None),
    ]


def test_the_first_request_to_cancel_sets_the_grace():
    second = cancel_requested().model_copy(update={"request_id": "r2", "grace_s": 99.0})
    state = state_after(submitted(), *prepared(), *running(), cancel_requested(), second)

    request = state.jobs[JOB].cancel
    assert request is not None
    assert (request.request_id, request.grace_s) == ("r1", 10.0)


def test_a_repeated_cancel_is_answered_the_same_after_the_end():
    state = state_after(submitted(), cancelled())

    assert cancel(state, "r1") == (True, None)
    assert cancel(state, "r2") == (False, None)


def test_what_is_unknown_or_has_ended_cannot_be_cancelled():
    assert cancel(state_after()) == (False, None)
    assert cancel(state_after(submitted(), *prepared(), *running(), completed())) == (False, None)


def asked(state, ask, request_id):
    """Return whether the job is paused after a request that is a new one."""
    fact = ask(state, JOB, request_id=request_id, by="someone")
    assert isinstance(fact, PauseRequested if ask is requests.pause else ResumeRequested)
    state.apply(state.recorded(fact, 2000.0))
    return state.jobs[JOB].paused


def test_pausing_and_resuming_are_idempotent():
    state = state_after(submitted())

    assert asked(state, requests.pause, "p")
    assert requests.pause(state, JOB, request_id="p", by="someone") is None
    assert not asked(state, requests.resume, "r")
    assert requests.resume(state, JOB, request_id="r", by="someone") is None


def test_a_repeated_pause_does_not_undo_the_resume_that_came_after_it():
    state = state_after(submitted())
    asked(state, requests.pause, "p")
    asked(state, requests.resume, "r")

    assert requests.pause(state, JOB, request_id="p", by="someone") is None
    assert asked(state, requests.pause, "p2")


def test_a_pause_that_found_the_job_paused_does_not_undo_the_resume_that_came_after_it():
    state = state_after(submitted())
    assert [asked(state, requests.pause, request_id) for request_id in ("p1", "p2")] == [True, True]
    asked(state, requests.resume, "r")

    assert requests.pause(state, JOB, request_id="p2", by="someone") is None


def test_a_resume_that_found_nothing_to_resume_does_not_undo_the_pause_that_came_after_it():
    state = state_after(submitted(), *prepared(), *running())
    assert not asked(state, requests.resume, "r")
    asked(state, requests.pause, "p")

    assert requests.resume(state, JOB, request_id="r", by="someone") is None


def test_only_a_living_job_can_be_paused():
    with pytest.raises(JobNotFoundError):
        requests.pause(state_after(), JOB, request_id="p", by="someone")
    with pytest.raises(JobStateError, match="is cancelled: it cannot be paused"):
        requests.pause(state_after(submitted(), cancelled()), JOB, request_id="p", by="someone")
    state = state_after(submitted(), *prepared(), *running(), cancel_requested())
    with pytest.raises(JobStateError, match="is being cancelled"):
        requests.resume(state, JOB, request_id="p", by="someone")


def test_a_model_is_imported_once_and_its_id_belongs_to_its_source():
    state = state_after(IMPORT)

    assert requests.import_model(state_after(), IMPORT) == IMPORT
    assert requests.import_model(state, IMPORT) is None
    with pytest.raises(ModelConflictError, match="is registered for /models/base"):
        requests.import_model(state, IMPORT.model_copy(update={"source": "/elsewhere"}))


def test_another_revision_of_a_registered_model_is_a_conflict_that_names_both():
    first = ModelImported(model_id="base", source="me/m", path="me/m", revision="c1", owned=False)
    state = state_after(first)

    assert requests.import_model(state, first) is None
    with pytest.raises(
        ModelConflictError,
        match=r"is registered for me/m at revision c1, so it cannot be imported from me/m at rev.* c2",
    ):
        requests.import_model(state, first.model_copy(update={"revision": "c2"}))


def test_a_model_in_use_cannot_be_deleted():
    imported = state_after(IMPORT)
    base = imported.models["base"].ref()
    job = submitted().model_copy(update={"base": base})

    seq = imported.models["base"].registered_seq
    deleted = requests.delete_model(imported, "base", seq, by="someone")
    assert deleted is not None
    with pytest.raises(ModelConflictError, match="in use by job 'ftjob-1'"):
        requests.delete_model(state_after(IMPORT, job), "base", seq, by="someone")

    imported.apply(imported.recorded(deleted, 2000.0))
    assert requests.delete_model(imported, "base", seq, by="someone") is None  # asked again


def test_starting_twice_with_the_same_rules_is_starting_once():
    state = state_after()

    assert requests.start(state, ServiceConfig(), by="someone") is None
    assert requests.start(state, ServiceConfig(max_concurrent_fine_tuning_jobs=2), by="someone") is not None
    assert requests.start(state_after(STOP), ServiceConfig(), by="someone") is not None
    assert requests.stop(state_after(STOP), grace_s=1, by="someone") is None
