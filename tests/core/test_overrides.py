"""Out of memory is tried again once, with fewer rows at a time and the same rows a step, where that can help."""

from __future__ import annotations

from typing import Any

import pytest

from ftactors.core.decide import decide
from ftactors.core.events import AnyJobEvent, AttemptFailed, AttemptPlaced, JobFailed, StageStarted
from ftactors.core.evolve import evolve
from ftactors.core.overrides import smaller_batch
from ftactors.core.reports import fact_of
from ftactors.core.seen import Seen
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import describe
from ftactors.core.work import Failed, Report
from tests.core.histories import JOB, NODE, failed, fold, placed, prepared, recorded, running, state_after, submitted

RULES = ServiceConfig(retry_backoff_seconds=0)
OVERRIDES = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "per_device_eval_batch_size": 8,
}
HELD_OUT = {"source_type": "file_path", "path_or_id": "/data/train.jsonl", "validation_split_ratio": 0.1}


def asked(train: int = 8, accumulation: int = 1, evaluation: int = 16, **others: Any) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": train,
        "gradient_accumulation_steps": accumulation,
        "per_device_eval_batch_size": evaluation,
        **others,
    }


def out_of_memory(*, retryable: bool = True, stage: Any = None) -> Failed:
    return Failed(stage=stage, error_type="out_of_memory", message="no more", hint="buy more", retryable=retryable)


def history(stage: str | None = "training", **config: Any) -> list[AnyJobEvent]:
    """Return the way of a job to a stage of its first attempt to train."""
    events = [submitted(**{"hyperparameters": asked(), **config}), *prepared(), *running()]
    if stage is not None:
        events.append(StageStarted(job_id=JOB, attempt=2, stage=stage, index=1, of=4))
    return events


def ended(events: list[AnyJobEvent], word: Failed) -> AttemptFailed | JobFailed:
    """Return what becomes of an attempt that says this, and check that it is legal there."""
    job = fold(events)
    fact = fact_of(job, Report(number=1, word=word), stopping=False, rules=RULES, now=100.0)
    assert isinstance(fact, AttemptFailed | JobFailed)
    evolve(job, recorded([fact], seq=job.seq)[0])
    return fact


def placed_next(events: list[AnyJobEvent]) -> AttemptPlaced:
    """Return the attempt that is placed after these events, on a node with room."""
    state = state_after(*events)
    seen = Seen(as_of_seq=state.seq, complete=True, nodes={NODE.node_id: NODE})
    (placement,) = decide(state, seen, state.at + 1e6)
    assert isinstance(placement, AttemptPlaced)
    return placement


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((8, 1, 16), (4, 2, 8)),
        ((6, 3, 5), (3, 6, 2)),
        ((9, 2, 9), (3, 6, 4)),
        ((7, 1, 2), (1, 7, 1)),
    ],
)
def test_half_the_rows_at_a_time_or_the_next_smaller_divisor_leave_the_rows_of_a_step_as_they_were(before, after):
    smaller = smaller_batch(asked(*before))

    assert smaller == asked(*after)
    assert after[0] * after[1] == before[0] * before[1]


def test_what_is_1_already_stays_as_it_is():
    assert smaller_batch(asked(1, 4, 16)) == {"per_device_eval_batch_size": 8}
    assert smaller_batch(asked(2, 4, 1)) == {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    assert smaller_batch(asked(1, 4, 1)) == {}


def test_the_next_attempt_is_placed_with_smaller_batches_and_event_and_status_say_so():
    events = history()
    fact = ended(events, out_of_memory(stage="training"))
    assert isinstance(fact, AttemptFailed)
    assert (fact.error_type, fact.counts) == ("out_of_memory", False)
    assert fact.hint == (
        "the next attempt trains with per_device_train_batch_size=4, gradient_accumulation_steps=2, "
        "per_device_eval_batch_size=8"
    )

    placement = placed_next([*events, fact])

    assert placement.overrides == OVERRIDES
    status = describe(fold([*events, fact, placement]))
    (warning,) = status.warnings
    assert warning.startswith("after it ran out of memory the job trains with gradient_accumulation_steps=2, ")
    assert warning.endswith("per_device_eval_batch_size=8, per_device_train_batch_size=4")


def test_a_word_that_calls_itself_final_is_tried_again_where_smaller_batches_may_help():
    assert isinstance(ended(history(), out_of_memory(retryable=False)), AttemptFailed)


def test_attempts_after_the_smaller_one_keep_its_batches_whatever_ended_it():
    events = history()
    events.append(ended(events, out_of_memory()))
    events += [placed_next(events), failed(3, cause="start_timeout", counts=False)]

    assert placed_next(events).overrides == OVERRIDES


def test_batches_are_made_smaller_once_only():
    events = history()
    events.append(ended(events, out_of_memory()))
    events += [placed_next(events), running(3)[1], StageStarted(job_id=JOB, attempt=3, stage="training", index=1, of=4)]

    fact = ended(events, out_of_memory())

    assert isinstance(fact, JobFailed)
    assert fact.hint == "buy more"


def test_a_job_that_wants_no_retry_fails_with_the_hint():
    fact = ended(history(retry_on_oom=False), out_of_memory())

    assert isinstance(fact, JobFailed)
    assert fact.hint == "buy more"


def test_the_one_retry_with_smaller_batches_is_beyond_max_attempts():
    assert isinstance(ended(history(max_attempts=1), out_of_memory()), AttemptFailed)


def test_the_last_attempt_promises_no_other():
    fact = ended(history(max_attempts=1, retry_on_oom=False), out_of_memory())

    assert isinstance(fact, JobFailed)
    assert fact.hint == "buy more"


@pytest.mark.parametrize(
    ("stage", "sizes", "data"),
    [
        ("training", asked(1, 8, 16), {}),
        ("training", asked(1, 8, 16, evaluation_strategy="no"), HELD_OUT),
        ("training", asked(1, 8, 1), HELD_OUT),
        ("baseline", asked(8, 1, 1), HELD_OUT),
        ("evaluating", asked(8, 1, 1), HELD_OUT),
    ],
)
def test_where_the_stage_has_one_row_at_a_time_the_job_fails(stage, sizes, data):
    config = {"dataset_config": data} if data else {}

    fact = ended(history(stage, hyperparameters=sizes, **config), out_of_memory())

    assert isinstance(fact, JobFailed)
    assert fact.hint == "buy more"


@pytest.mark.parametrize(("stage", "sizes"), [("training", asked(1, 8, 16)), ("baseline", asked(1, 8, 16))])
def test_where_rows_are_held_out_it_may_have_been_their_batch(stage, sizes):
    fact = ended(history(stage, hyperparameters=sizes, dataset_config=HELD_OUT), out_of_memory())

    assert isinstance(fact, AttemptFailed)
    assert fact.hint == "the next attempt trains with per_device_eval_batch_size=8"


@pytest.mark.parametrize("stage", ["loading", "publishing"])
def test_where_batches_do_not_matter_the_trainers_word_counts(stage):
    again, never = (ended(history(stage), out_of_memory(retryable=retryable)) for retryable in (True, False))

    assert isinstance(again, AttemptFailed)
    assert isinstance(never, JobFailed)
    assert {again.hint, never.hint} == {"buy more"}
    assert placed_next([*history(stage), again]).overrides == {}


def test_a_preparation_that_runs_out_of_memory_changes_no_batch():
    events = [submitted(hyperparameters=asked()), *prepared()[:2]]
    fact = ended(events, out_of_memory(stage="preparing"))

    assert isinstance(fact, AttemptFailed)
    assert placed_next([*events, fact]).overrides == {}


def test_other_failures_change_no_batch():
    assert placed_next([*history(), failed(2)]).overrides == {}


def test_an_attempt_of_a_job_that_was_placed_with_overrides_knows_them():
    placement = placed(2, "train").model_copy(update={"overrides": OVERRIDES})

    assert fold([submitted(), *prepared(), placement]).overrides == OVERRIDES
