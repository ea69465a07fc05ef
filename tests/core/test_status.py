"""What users read of a job."""

from __future__ import annotations

import pytest

from ftactors.core.events import AnyJobEvent
from ftactors.core.reports import cancelled as end_of
from ftactors.core.status import describe
from tests.core.histories import (
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
