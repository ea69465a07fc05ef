"""The invariants can fail: each history or state here breaks one of them by hand, and is caught by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from ftactors.core.events import AnyEvent, Recorded, ServiceStarted
from ftactors.core.phases import Phase
from ftactors.core.seen import Process, ProcessKey
from ftactors.core.service_config import ServiceConfig
from ftactors.core.state import State
from ftactors.log.memory import MemoryStorage
from ftactors.log.rows import START, Head, Row, row_of
from ftactors.runtime.desk import Desk
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.runtime.scheduler import Scheduler
from tests import invariants
from tests.core.histories import (
    JOB,
    NODE,
    cancel_requested,
    cancelled,
    completed,
    job_failed,
    opened,
    placed,
    prepared,
    progressed,
    recorded,
    running,
    started,
    submitted,
    training,
)
from tests.invariants import Ledger, check_live, check_log

RULES = ServiceConfig()
BEGUN = [opened(), ServiceStarted(config=RULES.model_dump(mode="json"), by="someone")]
WHOLE = [*BEGUN, submitted(), *prepared(), *running(), training(), progressed(report=2, step=4), completed()]
"""A sound history: one job from its submission to its model."""


@dataclass
class Rows:
    """A storage with rows that nothing has checked."""

    rows: Sequence[Row]
    end: Row | None = None
    """The row at which the head says that the log ends; None: the last one."""

    def look(self) -> Head:
        end = self.end or (self.rows[-1] if self.rows else None)
        epoch = max((row.epoch for row in self.rows), default=0) + 1
        return Head(end=end.mark if end else START, epoch=epoch)

    def read(self) -> Iterator[Row]:
        return iter(self.rows)

    def close(self) -> None:
        pass


def rows_of(events: Sequence[Recorded]) -> list[Row]:
    """Chain events as a log would, whatever they say."""
    rows: list[Row] = []
    for event in events:
        rows.append(row_of(event, rows[-1].hash if rows else START.hash))
    return rows


def check(*events: AnyEvent, ledger: Ledger | None = None, least: int = 1) -> State:
    """Check the log of these events."""
    return check_log(Rows(rows_of(recorded(events))), ledger or Ledger(), least=least)  # type: ignore[arg-type]


def refuses(match: str) -> pytest.RaisesExc[AssertionError]:
    return pytest.raises(AssertionError, match=match)


def test_a_sound_log_passes_and_gives_its_state():
    told = Ledger(submitted={JOB: JOB, "ftjob-repeated": JOB}, cancelled={(JOB, "late"): False, ("none", "r"): False})

    state = check(*WHOLE, ledger=told, least=len(WHOLE))

    assert [*state.models] == ["tuned"]


def test_i1_an_acknowledged_job_that_the_log_does_not_know_is_caught():
    with refuses("I1: job 'ftjob-2' was acknowledged"):
        check(*WHOLE, ledger=Ledger(submitted={"ftjob-2": "ftjob-2"}))


def test_i1_a_repeated_submit_that_made_a_second_job_is_caught():
    second = submitted("ftjob-2", new_model_id="other")

    with refuses("I1: job 'ftjob-2' is in the log, though its driver was told that 'ftjob-1' is the job"):
        check(*WHOLE, second, ledger=Ledger(submitted={"ftjob-2": JOB}))


def test_i1_an_event_of_a_job_that_nobody_submitted_is_caught():
    with refuses("I1: event 3 is of job 'ftjob-1', which nobody submitted"):
        check(*BEGUN, placed(1, "prepare"))


SUBMITTED = [*BEGUN, submitted()]
RUNNING = [*SUBMITTED, *prepared(), *running()]
PLACED = placed(2, "train")
GANG = PLACED.model_copy(update={"ranks": PLACED.ranks * 2})
ONE_FOR_TWO = started(2).model_copy(
    update={"ranks": (started(2).ranks[0].model_copy(update={"incarnation": "i2"}),) * 2}
)
HALF_A_STEP = PLACED.model_copy(update={"overrides": {"per_device_train_batch_size": 2}})
NOT_ONE_LIFE: dict[str, tuple[list[AnyEvent], str]] = {
    "a second end": ([*WHOLE, job_failed()], "comes after the end of job 'ftjob-1'"),
    "a job submitted twice": ([*SUBMITTED, submitted()], "submits job 'ftjob-1' again"),
    "a key that made two jobs": (
        [*BEGUN, submitted(key="k"), submitted("ftjob-2", key="k", new_model_id="other")],
        "key 'k' made jobs ftjob-1 and ftjob-2",
    ),
    "a model registered twice": (
        [*WHOLE, submitted("ftjob-2"), *prepared(1, "ftjob-2"), *running(2, "ftjob-2"), completed(2, "ftjob-2")],
        "registers model 'tuned' a second time",
    ),
    "a model that the job did not ask for": (
        [*BEGUN, submitted(new_model_id="other"), *prepared(), *running(), completed()],
        "registers 'tuned' for job 'ftjob-1'",
    ),
    "a claim of fewer ranks than were placed": ([*SUBMITTED, *prepared(), GANG, started(2)], "claims 1 of 2 ranks"),
    "one trainer claimed for two ranks": ([*SUBMITTED, *prepared(), GANG, ONE_FOR_TWO], "one trainer for two ranks"),
    "batches that change what a step is": ([*SUBMITTED, *prepared(), HALF_A_STEP], "train on 2 rows in a step, not 4"),
    "a second claim": ([*RUNNING, started(2)], "claims attempt 2 of job 'ftjob-1' a second time"),
    "an attempt beside an older one": ([*RUNNING, placed(3, "train")], "which holds attempt 2"),
    "an attempt that was left out": ([*SUBMITTED, placed(2, "prepare")], "places attempt 2"),
    "a word of an attempt that ended": ([*SUBMITTED, *prepared(), started(1)], "is of attempt 1; None is held"),
    "a report of an attempt without a claim": ([*SUBMITTED, *prepared(), placed(2, "train"), training()], "claimed"),
    "a report that was lost": ([*RUNNING, progressed(report=2, step=1)], "is report 2, after 0"),
    "a report told twice": ([*RUNNING, training(), training()], "is report 1, after 1"),
    "a job completed though it was cancelled": ([*RUNNING, cancel_requested(), completed()], "after its cancel"),
}


@pytest.mark.parametrize(("events", "claim"), NOT_ONE_LIFE.values(), ids=NOT_ONE_LIFE)
def test_i2_a_job_without_one_life_one_attempt_and_one_end_is_caught(events: list[AnyEvent], claim: str):
    with refuses(f"I2: .*{claim}"):
        check(*events)


def test_i2_a_canceller_who_was_told_true_of_a_job_that_ended_otherwise_is_caught():
    with refuses("I2: cancel 'r1' of job 'ftjob-1' was answered True, and the job ended as job_completed"):
        check(*WHOLE, ledger=Ledger(cancelled={(JOB, "r1"): True}))


def test_i2_a_canceller_who_was_told_true_of_a_job_that_goes_on_is_caught():
    with refuses("I2: .* was answered True, and the job goes on"):
        check(*RUNNING, ledger=Ledger(cancelled={(JOB, "r1"): True}))


def test_i2_a_canceller_who_was_told_false_though_it_was_his_cancel_is_caught():
    with refuses("I2: cancel 'r1' of job 'ftjob-1' was answered False, and it is in the log"):
        check(*SUBMITTED, cancelled(), ledger=Ledger(cancelled={(JOB, "r1"): False}))


def test_a_cancel_that_is_still_on_its_way_keeps_a_true_answer_true():
    check(*RUNNING, cancel_requested(), ledger=Ledger(cancelled={(JOB, "r1"): True}))


def _gap(events: list[Recorded]) -> list[Recorded]:
    return [*events[:3], *(event._replace(seq=event.seq + 1) for event in events[3:])]


def _fallen_epoch(events: list[Recorded]) -> list[Recorded]:
    return [events[0]._replace(epoch=2), *events[1:]]


def _fallen_time(events: list[Recorded]) -> list[Recorded]:
    return [*events[:-1], events[-1]._replace(at=1.0)]


def _unopened_epoch(events: list[Recorded]) -> list[Recorded]:
    return [*events[:-1], events[-1]._replace(epoch=2)]


def _epoch_opened_twice(events: list[Recorded]) -> list[Recorded]:
    last = events[-1]
    return [*events, Recorded(last.seq + 1, last.at, 1, opened())]


def _job_seq_left_out(events: list[Recorded]) -> list[Recorded]:
    return [*events[:-1], events[-1]._replace(job_seq=99)]


@pytest.mark.parametrize(
    ("doctor", "claim"),
    [
        (_gap, "event 5 follows event 3"),
        (_fallen_epoch, "event 2 is of epoch 1, after 2"),
        (_fallen_time, "of 1.0, after one of"),
        (_unopened_epoch, r"somebody wrote in epochs \[2\]"),
        (_epoch_opened_twice, r"an epoch was opened twice: \[1, 1\]"),
        (_job_seq_left_out, "is number 99 of job 'ftjob-1'"),
    ],
)
def test_i5_a_log_that_is_not_one_history_is_caught(doctor: Callable[[list[Recorded]], list[Recorded]], claim: str):
    with refuses(f"I5: .*{claim}"):
        check_log(Rows(rows_of(doctor(recorded(WHOLE)))), Ledger(), least=1)  # type: ignore[arg-type]


def test_i5_a_changed_row_is_caught():
    rows = rows_of(recorded(WHOLE))
    rows[4] = rows[4]._replace(payload=rows[4].payload.replace("node-a", "node-b"))

    with refuses("I5: event 5 breaks the chain"):
        check_log(Rows(rows), Ledger(), least=1)  # type: ignore[arg-type]


def test_i5_a_log_that_ends_before_its_head_is_caught():
    rows = rows_of(recorded(WHOLE))

    with refuses("I5: the log has events up to 9, but by its head it ends at 10"):
        check_log(Rows(rows[:9], end=rows[9]), Ledger(), least=1)  # type: ignore[arg-type]


def test_i6_a_snapshot_that_forgets_is_caught(monkeypatch: pytest.MonkeyPatch):
    sound = invariants.thawed

    def forgetful(document: bytes) -> State:
        state = sound(document)
        state.idempotency.clear()
        return state

    monkeypatch.setattr(invariants, "thawed", forgetful)

    with refuses("I6: the snapshot at event .* is not a replay from zero: idempotency"):
        check(*BEGUN, submitted(key="k"), *prepared())


def test_i7_a_test_that_did_next_to_nothing_is_caught():
    with refuses("I7: the log has 2 events; the test was to make at least 3"):
        check(*BEGUN, least=3)


@pytest.fixture
async def live() -> Scheduler:
    """A scheduler with nothing to do: one of its jobs prepares, the other waits."""
    deaths: list[BaseException] = []
    scheduler = Scheduler(MemoryStorage(), MemoryCluster([NODE]), on_fatal=deaths.append)
    await scheduler.open(opened())
    desk = Desk(scheduler, pid=1)
    await desk.start(ServiceConfig(max_concurrent_preparations=1), "someone", by_owner=True)
    for job in (submitted(), submitted("ftjob-2", new_model_id="other")):
        await desk.submit(job)
    for _ in range(3):
        await scheduler.step()
    assert deaths == []
    return scheduler


async def test_a_sound_scheduler_passes(live: Scheduler):
    check_live(live)
    assert {job.phase for job in live.state.jobs.values()} == {Phase.PREPARING, Phase.SUBMITTED}


async def test_i3_a_job_that_waits_without_a_reason_is_caught(live: Scheduler, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "waiting", dict)

    with refuses("I3: job 'ftjob-2' is submitted without a reason or a timer"):
        check_live(live)


async def test_i3_a_job_that_holds_no_attempt_though_it_should_is_caught(
    live: Scheduler, monkeypatch: pytest.MonkeyPatch
):
    live.state.jobs[JOB] = replace(live.state.jobs[JOB], attempt=None)
    monkeypatch.setattr(invariants, "check_same", lambda *_: None)  # which would have caught it before

    with refuses("I3: job 'ftjob-1' is preparing, and holds no attempt"):
        check_live(live)


async def test_i4_a_process_that_nobody_wants_and_nobody_kills_is_caught(
    live: Scheduler, monkeypatch: pytest.MonkeyPatch
):
    stranger = ProcessKey("ftjob-gone", 1, 0)
    processes = {**live.seen.processes, stranger: Process(state="up", node_id="node-a", incarnation="x")}
    live.seen = replace(live.seen, processes=processes)
    check_live(live)  # for it is being killed

    monkeypatch.setattr(invariants, "wanted", lambda *_: [])
    with refuses("I4: .*ftjob-gone.* nobody wants it, and it is not being killed"):
        check_live(live)


async def test_i4_a_process_of_another_incarnation_is_caught(live: Scheduler, monkeypatch: pytest.MonkeyPatch):
    key = next(iter(live.seen.processes))
    live.seen = replace(live.seen, processes={key: replace(live.seen.processes[key], incarnation="another")})
    monkeypatch.setattr(invariants, "wanted", lambda *_: [])

    with refuses("I4: .* is up as another; the log knows incarnation-1"):
        check_live(live)


async def test_i6_a_live_state_that_is_not_the_logs_is_caught(live: Scheduler):
    live.state.jobs[JOB] = replace(live.state.jobs[JOB], paused=True)

    with refuses("I6: the live state is not a replay of the log: jobs"):
        check_live(live)


async def test_i6_is_not_judged_while_something_is_pending(live: Scheduler):
    live.record(submitted("ftjob-3", new_model_id="third"))

    with refuses("only when nothing is pending: events up to"):
        check_live(live)
