"""What users read of a job."""

from __future__ import annotations

import pytest

from ftactors.core.ends import expected_end
from ftactors.core.events import (
    AnyJobEvent,
    AttemptPlaced,
    AttemptStarted,
    ProgressReported,
    RankPlacement,
    RankStarted,
    StageStarted,
    YieldRequested,
)
from ftactors.core.reports import cancelled as end_of
from ftactors.core.status import Waiting, describe
from tests.core.histories import (
    JOB,
    cancel_requested,
    cancelled,
    evaluated,
    fold,
    placed,
    prepared,
    progressed,
    running,
    submitted,
    training,
)


@pytest.mark.parametrize(
    ("history", "doing"),
    [
        ([placed(1, "prepare")], "while attempt 1 was starting"),
        ([*prepared(), placed(2, "train")], "while attempt 2 was starting"),
        ([*prepared(), *running()], "while attempt 2 was starting"),
        ([*prepared(), *running(), training()], "while training"),
    ],
    ids=["preparing", "placed", "running without a stage", "training"],
)
def test_a_cancelled_job_says_what_it_did(history: list[AnyJobEvent], doing: str):
    events = [submitted(), *history, cancel_requested()]

    job = fold([*events, end_of(fold(events))])

    assert describe(job).error_message == f"cancelled by someone {doing}"


@pytest.mark.parametrize("history", [[], prepared()], ids=["submitted", "ready"])
def test_a_job_that_was_cancelled_while_it_waited_says_so(history: list[AnyJobEvent]):
    job = fold([submitted(), *history, cancelled()])

    assert describe(job).error_message == "cancelled by someone while it waited"


def test_the_live_loss_is_that_of_the_training_and_an_evaluation_stands_beside_it():
    job = fold(
        [
            submitted(),
            *prepared(),
            *running(),
            evaluated(of="base", loss=3.0),
            training(report=1),
            evaluated(of="tuned", loss=2.9),
            progressed(report=2, step=7),
        ]
    )

    assert describe(job).metrics == {"base_loss": 3.0, "eval_loss": 2.9, "loss": 2.5}


def stage(name: str, *, report: int, total: int | None = None) -> StageStarted:
    return StageStarted(job_id=JOB, attempt=2, report=report, stage=name, index=1, of=4, total_steps=total)  # type: ignore[arg-type]


TRAINS = [submitted(), *prepared(), *running()]


def test_the_rest_is_the_steps_that_are_left_at_the_speed_so_far():
    job = fold([*TRAINS, training(total=20), progressed(report=2, step=4)])  # events are a second apart

    assert describe(job).eta_seconds == 4.0
    assert expected_end(job) == job.progress_at + 4.0


def test_the_evaluation_of_the_tuned_model_takes_as_long_as_that_of_the_base_did():
    measured = [stage("baseline", report=1, total=5), evaluated(of="base")]

    job = fold([*TRAINS, *measured, training(report=2, total=20), progressed(report=3, step=4)])

    assert describe(job).eta_seconds == 4.0 + 2.0


def test_while_the_tuned_model_is_evaluated_the_rest_is_that_of_the_evaluation():
    halfway = ProgressReported(job_id=JOB, attempt=2, report=4, stage="evaluating", step=2)
    done = [training(total=20), progressed(report=2, step=20)]

    assert describe(fold([*TRAINS, *done, stage("evaluating", report=3, total=6), halfway])).eta_seconds == 2.0


@pytest.mark.parametrize(
    "history",
    [
        [],
        [training()],
        [stage("loading", report=1)],
        [training(), progressed(report=2, step=100), stage("publishing", report=3)],
        [training(), progressed(report=2, step=9), YieldRequested(job_id=JOB, attempt=2, reason="paused", grace_s=9)],
    ],
    ids=["no stage", "no step", "loading", "publishing", "yielding"],
)
def test_no_rest_is_told_where_nothing_was_measured(history: list[AnyJobEvent]):
    assert describe(fold([*TRAINS, *history])).eta_seconds is None


def test_a_gang_tells_each_of_its_nodes_once_and_all_devices():
    where = (("node-b", "1"), ("node-b", "0"), ("node-a", "1"))
    placed = tuple(RankPlacement(node_id=node, gpu_thousandths=500, cpus=1) for node, _ in where)
    began = tuple(RankStarted(node_id=node, devices=(device,), pid=7) for node, device in where)
    gang = [
        AttemptPlaced(job_id=JOB, attempt=2, purpose="train", ranks=placed),
        AttemptStarted(job_id=JOB, attempt=2, incarnation="i", ranks=began),
    ]

    status = describe(fold([submitted(resources={"num_gpus": 0.5, "num_workers": 3}), *prepared(), *gang]))

    assert (status.node, status.nodes, status.devices) == ("node-b", ["node-b", "node-a"], ["1", "0", "1"])
    assert (status.share, status.num_workers, status.attempt) == (0.5, 3, 2)


def test_a_job_that_waits_holds_nothing_and_says_when_it_should_start():
    status = describe(fold([submitted()]), Waiting(2, "why", 1800.0))

    assert (status.node, status.nodes, status.devices, status.share) == (None, [], [], None)
    assert (status.queue_position, status.wait_reason) == (2, "why")
    assert str(status.estimated_start_at) == "1970-01-01 00:30:00+00:00"


def test_the_peak_of_memory_and_the_speed_are_those_that_were_reported_last():
    said = ProgressReported(
        job_id=JOB, attempt=2, report=2, stage="training", step=1, tokens_per_second=812.5, peak_mem_gib=7.5
    )
    status = describe(fold([*TRAINS, training(), said, progressed(report=3, step=2)]))

    assert (status.tokens_per_second, status.peak_mem_gib) == (812.5, 7.5)


@pytest.mark.parametrize(
    ("reason", "for_job", "said"),
    [
        ("preempted", "ftjob-9", "gives its share to job ftjob-9, which is of higher priority"),
        ("draining", None, "its node is drained"),
        ("service_stopped", None, "the service stops"),
        ("paused", None, "it was paused"),
    ],
)
def test_a_job_that_gives_its_share_back_says_why(reason: str, for_job: str | None, said: str):
    asked = YieldRequested(job_id=JOB, attempt=2, reason=reason, for_job=for_job, grace_s=60)  # type: ignore[arg-type]
    job = fold([*TRAINS, training(), asked])

    assert describe(job).yield_reason == f"{said}: it writes a checkpoint and stops, within 60 s"
    assert describe(job).wait_reason is None
    assert job.attempt is not None
    assert expected_end(job) == job.attempt.yield_at + 60
