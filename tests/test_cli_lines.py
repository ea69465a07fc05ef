"""What the command line says of jobs, events and models, as text."""

from __future__ import annotations

import pytest

from ftactors.cli import lines
from ftactors.core.events import ModelImported
from ftactors.core.models import imported
from ftactors.core.status import FineTuningJobStatusInfo, Waiting, describe
from tests.core import histories as h

TRAINING = [h.submitted(), *h.prepared(), *h.running(), h.training(total=20), h.progressed(report=2, step=9)]


def status(*events: object, waiting: Waiting | None = None) -> FineTuningJobStatusInfo:
    return describe(h.fold(events), waiting)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0s"),
        (59.4, "59s"),
        (60, "1m 00s"),
        (192, "3m 12s"),
        (3600, "1h 00m"),
        (7384, "2h 03m"),
        (90000, "1d 01h"),
    ],
)
def test_a_duration_is_told_in_its_two_greatest_units(seconds, said):
    assert lines.duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (20, "20"),
        (20.0, "20"),
        (2.8123456, "2.812"),
        (1e-4, "0.0001"),
        (9041.21, "9041"),
        (44693, "44693"),
        (1e12, "1000000000000"),
    ],
)
def test_a_number_has_as_many_digits_as_a_person_reads(value, said):
    assert lines.number(value) == said


def test_text_of_a_user_cannot_break_a_line_or_steer_the_terminal():
    assert lines.one_line("a\tjob\nof \x1b[31mmine\x07") == "a job of [31mmine"


def test_a_job_is_one_row_with_a_cell_under_each_column():
    row = lines.job_row(status(*TRAINING))

    assert row == ("ftjob-1", "running", "45%", "a job", "tuned", "1970-01-01T00:16:41Z", "1s left, 1 GPU on node-a")
    assert len(row) == len(lines.JOB_COLUMNS)


def test_the_facts_of_a_job_leave_out_what_is_not_known():
    facts = lines.facts_of_job(
        status(h.submitted(metadata={"team": "a"}), waiting=Waiting(2, "1 of at most 1 jobs train"))
    )

    assert (facts["status"], facts["wait_reason"], facts["queue_position"]) == (
        "queued",
        "1 of at most 1 jobs train",
        "2",
    )
    assert facts["metadata"] == "team=a"
    assert {"metrics", "stage", "error_message", "cancel_requested", "completed_at"} & facts.keys() == set()


def test_the_progress_of_a_training_is_told_with_step_loss_and_time_left():
    assert (
        lines.progress_line(status(*TRAINING))
        == "ftjob-1 running training 45% step 9/20 loss 2.5 eta 1s (1 GPU on node-a)"
    )


def test_a_job_that_waits_tells_why():
    waits = status(h.submitted(), waiting=Waiting(3, "needs 1 GPU; free are 0 GPU"))

    assert lines.progress_line(waits) == "ftjob-1 queued needs 1 GPU; free are 0 GPU (position 3)"


def test_a_job_in_the_queue_shows_its_position_and_when_it_should_start():
    waits = status(h.submitted(), waiting=Waiting(3, "needs 1 GPU; free are 0 GPU", 1_200_000.0))

    assert lines.now_of(waits) == "3 in line, starts by 01-14T21:20Z"
    assert lines.progress_line(waits).endswith("(position 3, starts by 01-14T21:20Z)")


def test_the_place_of_a_gang_is_told_with_its_size_and_a_long_id_is_cut():
    gang = status(*TRAINING).model_copy(update={"num_workers": 2, "share": 0.5, "nodes": ["a" * 56]})

    assert lines.place_of(gang) == "2 x 0.5 GPU on aaaaaaaaaaaa"
    assert lines.place_of(gang.model_copy(update={"nodes": ["a", "b"], "share": 0.0})) == "2 x CPU on 2 nodes"


def test_a_job_that_gives_its_share_back_says_why_in_the_place_of_its_progress():
    stops = status(*TRAINING, h.yielding())

    assert lines.progress_line(stops).startswith("ftjob-1 running training it was paused: it writes a checkpoint")
    assert lines.now_of(stops) == "stopping, 1 GPU on node-a"


def test_a_job_that_is_being_cancelled_says_so_until_it_is():
    assert lines.progress_line(status(*TRAINING, h.cancel_requested())).startswith("ftjob-1 running cancelling")
    assert lines.progress_line(status(*TRAINING, h.cancel_requested(), h.cancelled())).startswith("ftjob-1 cancelled")


def test_a_completed_job_ends_with_its_model_and_a_failed_one_with_its_error():
    done = lines.ending(status(*TRAINING, h.completed()))
    broken = lines.ending(status(*TRAINING, h.job_failed()))

    assert done[0] == "completed after 8s: ftjob-1"
    assert done[1:] == ["  metrics: loss=2", "  model:   tuned", "  path:    /runs/model"]
    assert broken == ["failed after 8s: ftjob-1", "  error:   the loss was nan"]


def test_an_event_is_one_row_that_leaves_out_what_is_empty():
    place = h.recorded([h.placed(2, "train")], seq=7)[0]
    row = lines.event_row(place)

    assert row[:3] == ("8", "1970-01-01T00:16:41Z", "attempt_placed")
    assert row[3].startswith('attempt=2 purpose=train ranks=[{"node_id":"node-a"')
    assert "overrides" not in row[3]


def test_an_event_for_programs_has_its_place_and_all_its_fields():
    place = h.recorded([h.progressed(report=2, step=9)])[0]

    told = lines.json_of_event(place)

    assert (told["seq"], told["job_seq"], told["event"]["type"], told["event"]["step"]) == (
        1,
        1,
        "progress_reported",
        9,
    )


def test_a_model_tells_what_it_was_made_of():
    event = ModelImported(model_id="mine", source="/a", path="/a", kind="adapter", base="/models/base", owned=False)
    model = imported(event, 3, 1000.0, None)

    assert lines.model_row(model) == ("mine", "adapter", "/models/base", "1970-01-01T00:16:40Z", "/a")
    assert lines.facts_of_model(model)["base"] == "/models/base (/models/base)"
    assert lines.facts_of_model(model)["owned"] == "no: its files are never deleted"
