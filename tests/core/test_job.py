"""The table of transitions, and what each event changes."""

from __future__ import annotations

import pytest

from ftactors.core.errors import IllegalEventError, StaleReportError
from ftactors.core.events import DatasetLost, JobSubmitted, PauseRequested, ResumeRequested
from ftactors.core.evolve import evolve
from ftactors.core.phases import TERMINAL_PHASES, TRANSITIONS, Phase
from tests.core.histories import (
    IN_PHASE,
    JOB,
    cancel_requested,
    cancelled,
    completed,
    evaluated,
    failed,
    fold,
    one_of_each,
    placed,
    prepared,
    progressed,
    recorded,
    running,
    saved,
    started,
    stopped,
    submitted,
    training,
    yielding,
)


@pytest.mark.parametrize("phase", Phase)
def test_every_event_is_legal_in_a_phase_exactly_where_the_table_has_an_entry(phase: Phase):
    job = fold(IN_PHASE[phase])
    assert job.phase is phase

    for event in one_of_each(job):
        place = recorded([event], seq=job.seq)[0]
        if type(event) in TRANSITIONS[phase]:
            assert evolve(job, place).phase is TRANSITIONS[phase][type(event)], event.type
        else:
            with pytest.raises((IllegalEventError, StaleReportError)):
                evolve(job, place)


def test_an_illegal_event_names_the_job_its_phase_and_what_is_allowed():
    job = fold(IN_PHASE[Phase.READY])

    with pytest.raises(
        IllegalEventError,
        match=r"job 'ftjob-1' is ready: job_completed cannot be recorded \(allowed now: .*attempt_placed, job_cancel",
    ):
        evolve(job, recorded([completed()], seq=job.seq)[0])


def test_nothing_is_legal_after_the_end():
    assert all(not TRANSITIONS[phase] for phase in TERMINAL_PHASES)


def test_every_phase_is_reached_by_the_table():
    reached = {phase for row in TRANSITIONS.values() for phase in row.values()} | {Phase.SUBMITTED}

    assert reached == set(Phase)


def test_the_first_event_of_a_job_is_its_submission():
    with pytest.raises(IllegalEventError, match="does not exist"):
        evolve(None, recorded([cancelled()])[0])


def test_a_lost_attempt_goes_back_to_the_queue_and_keeps_its_checkpoint():
    job = fold([submitted(), *prepared(), *running(), saved(step=100), failed(retry_at=1234.0)])

    assert (job.phase, job.checkpoint and job.checkpoint.step, job.failed_train, job.retry_at) == (
        Phase.READY,
        100,
        1,
        1234.0,
    )
    assert job.attempt is None


def test_an_uncounted_failure_does_not_count():
    job = fold([submitted(), *prepared(), *running(), failed(cause="node_lost", counts=False)])

    assert (job.failed_train, job.failed_prepare, len(job.failures)) == (0, 0, 1)


def test_pruned_checkpoints_are_forgotten_and_the_newest_is_the_one_to_resume_from():
    first = saved(step=10)
    job = fold([submitted(), *prepared(), *running(), first, saved(step=20), saved(step=30, pruned=[first.path])])

    assert [checkpoint.step for checkpoint in job.checkpoints] == [20, 30]
    assert job.checkpoint is not None
    assert job.checkpoint.step == 30


def test_a_report_of_an_older_attempt_is_stale():
    job = fold([submitted(), *prepared(), *running(), failed(), placed(3, "train"), started(3)])

    with pytest.raises(StaleReportError, match="is at attempt 3, not at 2"):
        evolve(job, recorded([progressed(2, report=1, step=5)], seq=job.seq)[0])


@pytest.mark.parametrize("report", [1, 3])
def test_a_report_that_is_not_the_next_one_is_refused(report: int):
    job = fold([submitted(), *prepared(), *running(), training(report=1)])

    with pytest.raises(StaleReportError, match="report 2 is due"):
        evolve(job, recorded([progressed(report=report, step=5)], seq=job.seq)[0])


def test_an_attempt_is_claimed_once():
    job = fold([submitted(), placed(1, "prepare"), started(1)])

    with pytest.raises(IllegalEventError, match="was started before"):
        evolve(job, recorded([started(1)], seq=job.seq)[0])


def test_the_attempt_number_counts_up_by_one():
    with pytest.raises(IllegalEventError, match="no attempt 3 now"):
        fold([submitted(), placed(3, "prepare")])


def test_the_purpose_of_an_attempt_fits_the_phase():
    with pytest.raises(IllegalEventError, match="no attempt to train can be placed"):
        fold([submitted(), placed(1, "train")])


def test_progress_falls_back_to_the_step_that_an_attempt_resumed_from():
    events = [submitted(), *prepared(), *running(), training(report=1), progressed(report=2, step=150)]
    job = fold([*events, failed(), placed(3, "train"), started(3, step=100)])

    assert job.step == 100


def test_lost_data_is_prepared_again_and_checkpoints_are_kept():
    lost = DatasetLost(job_id=JOB, attempt=2, path="/data", message="gone")
    job = fold([submitted(), *prepared(), *running(), saved(step=10), lost])

    assert (job.phase, job.dataset, len(job.checkpoints)) == (Phase.SUBMITTED, None, 1)


def test_pausing_sets_a_flag_and_resuming_clears_it():
    pause = PauseRequested(job_id=JOB, request_id="p", by="someone")
    resume = ResumeRequested(job_id=JOB, request_id="r", by="someone")

    assert fold([submitted(), pause]).paused
    assert not fold([submitted(), pause, resume]).paused


def test_a_yielding_attempt_still_reports_and_may_even_complete():
    events = [submitted(), *prepared(), *running(), yielding()]

    assert fold([*events, saved(step=7), stopped()]).checkpoints[-1].step == 7
    assert fold([*events, completed()]).phase is Phase.COMPLETED


def test_a_job_that_is_being_cancelled_can_only_be_cancelled():
    events = [submitted(), *prepared(), *running(), cancel_requested()]

    assert fold([*events, cancelled()]).phase is Phase.CANCELLED
    with pytest.raises(IllegalEventError):
        fold([*events, completed()])


def test_times_are_those_of_the_first_attempts():
    job = fold([submitted(), *prepared(), *running(), failed(), placed(3, "train"), started(3), completed(3)])

    assert (job.created_at, job.started_at, job.training_started_at, job.completed_at) == (1001, 1003, 1006, 1010)


def test_the_base_and_the_tuned_model_are_measured_apart():
    job = fold([submitted(), *prepared(), *running(), evaluated(of="base", loss=3), evaluated(of="tuned", loss=2)])

    assert (job.baseline, job.tuned) == ({"loss": 3.0}, {"loss": 2.0})


def test_only_a_submission_begins_a_job():
    job = fold([submitted()])

    assert isinstance(job.submitted, JobSubmitted)
    with pytest.raises(IllegalEventError, match="submitted"):
        evolve(job, recorded([submitted()], seq=1)[0])
