"""What follows from what is known and seen: facts first, then commands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ftactors.core.decide import decide
from ftactors.core.events import (
    AnyEvent,
    AttemptFailed,
    AttemptPlaced,
    AttemptStarted,
    AttemptStopped,
    JobCancelled,
    JobFailed,
    PauseRequested,
    RankPlacement,
    RankStarted,
    ResumeRequested,
    ServiceStopRequested,
    YieldRequested,
)
from ftactors.core.seen import Node, Process, ProcessKey, Seen
from ftactors.core.state import State
from ftactors.core.wanted import Begin, Kill, Start, Stop, wanted
from ftactors.core.work import Failed
from tests.core.histories import (
    JOB,
    NODE,
    cancel_requested,
    failed,
    opened,
    placed,
    prepared,
    running,
    saved,
    started,
    state_after,
    submitted,
    yielding,
)

KEY = ProcessKey(JOB, 2, 0)
PREPARING = ProcessKey(JOB, 1, 0)
NOW = 1_000.0
STOP = ServiceStopRequested(grace_s=10, by="someone")
PAUSE = PauseRequested(job_id=JOB, request_id="p", by="someone")


def up(attempt: int = 2, *, begun: bool = True, quiet_s: float = 0.0) -> Process:
    return Process(
        state="up", node_id="node-a", devices=("0",), pid=7, incarnation=f"i{attempt}", begun=begun, quiet_s=quiet_s
    )


def look(
    state: State,
    processes: dict[ProcessKey, Process] | None = None,
    *,
    nodes: Iterable[Node] = (NODE,),
    missing: Iterable[ProcessKey] = (),
    complete: bool = True,
) -> Seen:
    return Seen(
        as_of_seq=state.seq,
        complete=complete,
        nodes={node.node_id: node for node in nodes},
        processes=processes or {},
        missing=frozenset(missing),
    )


def decided(state: State, seen: Seen, now: float = NOW) -> list[AnyEvent]:
    """Decide, record the answer, and check that there is nothing to add for the same look."""
    facts = decide(state, seen, now)
    for fact in facts:
        state.apply(state.recorded(fact, now))
    assert decide(state, seen, now) == []
    return list(facts)


def test_a_submitted_job_is_placed_to_prepare_wherever_there_is_room():
    state = state_after(submitted())

    (fact,) = decided(state, look(state))

    assert isinstance(fact, AttemptPlaced)
    assert (fact.attempt, fact.purpose, fact.ranks[0].node_id, fact.ranks[0].gpu_thousandths) == (1, "prepare", None, 0)


def test_a_prepared_job_is_placed_on_a_node_with_a_free_share():
    state = state_after(submitted(), *prepared())

    (fact,) = decided(state, look(state))

    assert isinstance(fact, AttemptPlaced)
    assert (fact.attempt, fact.purpose, fact.ranks[0].node_id) == (2, "train", "node-a")


def test_nothing_is_placed_by_an_incomplete_look():
    state = state_after(submitted())

    assert decided(state, look(state, complete=False)) == []


def test_higher_priority_goes_first_then_submission():
    jobs = [submitted(f"ftjob-{n}", priority=p, new_model_id=f"m{n}") for n, p in ((1, 0), (2, 5), (3, 5))]
    state = state_after(*jobs, max_concurrent_preparations=2)

    facts = decided(state, look(state))

    assert [fact.job_id for fact in facts if isinstance(fact, AttemptPlaced)] == ["ftjob-2", "ftjob-3"]


def test_training_and_preparing_have_caps_of_their_own():
    ready = [
        event for n in (1, 2) for event in (submitted(f"ftjob-{n}", new_model_id=f"m{n}"), *prepared(1, f"ftjob-{n}"))
    ]
    state = state_after(*ready, submitted("ftjob-3", new_model_id="m3"), max_concurrent_fine_tuning_jobs=1)

    facts = [fact for fact in decided(state, look(state)) if isinstance(fact, AttemptPlaced)]

    assert [(fact.job_id, fact.purpose) for fact in facts] == [("ftjob-1", "train"), ("ftjob-3", "prepare")]


def test_fractions_share_a_device_and_what_others_use_is_not_given_away():
    busy = replace(NODE, gpus=1, free_gpu_thousandths=500)
    ready = [
        event
        for n in (1, 2)
        for event in (
            submitted(f"ftjob-{n}", new_model_id=f"m{n}", resources={"num_gpus": 0.4}),
            *prepared(1, f"ftjob-{n}"),
        )
    ]
    state = state_after(*ready, max_concurrent_fine_tuning_jobs=4)

    facts = decided(state, look(state, nodes=[busy]))

    assert [fact.job_id for fact in facts] == ["ftjob-1"]


def test_a_job_waits_for_its_accelerator_type():
    state = state_after(submitted(resources={"num_gpus": 1, "accelerator_type": "H100"}), *prepared())

    assert decided(state, look(state)) == []
    assert len(decided(state, look(state, nodes=[replace(NODE, accelerator_type="H100")]))) == 1


def test_no_new_attempt_while_an_old_one_is_seen():
    state = state_after(submitted(), *prepared(), *running(), failed())

    assert decided(state, look(state, {KEY: up()})) == []
    assert len(decided(state, look(state, {}))) == 1


def test_a_failed_job_waits_for_its_retry():
    state = state_after(submitted(), *prepared(), *running(), failed(retry_at=NOW + 5))

    assert decided(state, look(state)) == []
    assert len(decided(state, look(state), now=NOW + 5)) == 1


def test_a_retry_resumes_from_the_newest_checkpoint():
    state = state_after(submitted(), *prepared(), *running(), saved(step=10), saved(step=20), failed())

    (fact,) = decided(state, look(state))

    assert isinstance(fact, AttemptPlaced)
    assert fact.resume_from is not None
    assert fact.resume_from.step == 20


def test_a_trainer_that_is_up_is_claimed():
    state = state_after(submitted(), placed(1, "prepare"))

    (fact,) = decided(state, look(state, {PREPARING: up(1, begun=False)}))

    assert isinstance(fact, AttemptStarted)
    assert (fact.incarnation, fact.ranks[0].pid) == ("i1", 7)


def test_a_trainer_that_does_not_come_up_in_time_is_given_up_uncounted():
    state = state_after(submitted(), placed(1, "prepare"), start_timeout_seconds=30, retry_backoff_seconds=5)

    (fact,) = decided(state, look(state, {PREPARING: Process(state="starting")}), now=NOW + 60)

    assert isinstance(fact, AttemptFailed)
    assert (fact.cause, fact.counts) == ("start_timeout", False)


def test_a_dead_trainer_is_a_failed_attempt_and_the_last_one_a_failed_job():
    state = state_after(submitted(max_attempts=1), *prepared(), *running())

    (fact,) = decided(state, look(state, {KEY: Process(state="dead")}))

    assert isinstance(fact, JobFailed)
    assert (fact.error_type, fact.attempt) == ("trainer_lost", 2)


def test_absence_counts_only_in_two_looks():
    state = state_after(submitted(), *prepared(), *running())

    assert decided(state, look(state)) == []
    (fact,) = decided(state, look(state, missing=[KEY]))
    assert isinstance(fact, AttemptFailed)


def test_an_attempt_placed_after_the_look_is_not_judged():
    state = state_after(submitted(), *prepared(), *running())
    seen = replace(look(state, {KEY: Process(state="dead")}), as_of_seq=state.seq - 2)

    assert decided(state, seen) == []


def test_another_incarnation_of_the_trainer_is_not_the_attempt():
    state = state_after(submitted(), *prepared(), *running())

    (fact,) = decided(state, look(state, {KEY: up(9)}))

    assert isinstance(fact, AttemptFailed)
    assert wanted(state, look(state, {KEY: up(9)}), NOW) == [Kill(KEY)]


def test_a_trainer_without_progress_is_stalled():
    state = state_after(submitted(), *prepared(), *running(), stall_timeout_seconds=60)

    (fact,) = decided(state, look(state, {KEY: up(quiet_s=61)}))

    assert isinstance(fact, AttemptFailed)
    assert fact.cause == "stalled"


def test_a_new_cluster_has_lost_all_attempts_uncounted():
    state = state_after(submitted(), *prepared(), *running(), opened("cluster-2"))

    (fact, *_) = decided(state, look(state))

    assert isinstance(fact, AttemptFailed)
    assert (fact.cause, fact.counts) == ("cluster_lost", False)


def test_pausing_makes_a_running_job_yield_and_a_waiting_one_wait():
    running_one = state_after(submitted(), *prepared(), *running(), PAUSE)
    waiting_one = state_after(submitted(), PAUSE)

    (fact,) = decided(running_one, look(running_one, {KEY: up()}))

    assert isinstance(fact, YieldRequested)
    assert fact.reason == "paused"
    assert decided(waiting_one, look(waiting_one)) == []


def test_stopping_the_service_makes_jobs_yield_and_places_nothing():
    state = state_after(submitted(), *prepared(), *running(), submitted("ftjob-2", new_model_id="m2"), STOP)

    (fact,) = decided(state, look(state, {KEY: up()}))

    assert isinstance(fact, YieldRequested)
    assert fact.reason == "service_stopped"


def test_a_yielding_trainer_that_is_gone_has_stopped():
    state = state_after(submitted(), *prepared(), *running(), yielding())

    (fact,) = [fact for fact in decided(state, look(state, missing=[KEY])) if not isinstance(fact, AttemptPlaced)]

    assert isinstance(fact, AttemptStopped)
    assert not fact.clean


@pytest.mark.parametrize("history", [[*running()], [placed(2, "train")]])
def test_a_job_is_cancelled_once_its_trainer_is_gone(history: list[AnyEvent]):
    state = state_after(submitted(), *prepared(), *history, cancel_requested())

    (fact,) = decided(state, look(state, missing=[KEY]))

    assert isinstance(fact, JobCancelled)


def test_what_is_placed_is_started_begun_stopped_and_killed_by_level():
    state = state_after(submitted(), *prepared(), placed(2, "train"))
    assert wanted(state, look(state), NOW) == [Start(KEY, state.jobs[JOB].attempt.ranks[0], None, 3600.0)]  # type: ignore[union-attr]

    state.apply(state.recorded(started(2), NOW))
    (begin,) = wanted(state, look(state, {KEY: up(begun=False)}), NOW)
    assert isinstance(begin, Begin)
    assert (begin.incarnation, begin.work.attempt, begin.work.attempt_dir) == ("i2", 2, f"/runs/{JOB}/attempts/2")
    assert wanted(state, look(state, {KEY: up()}), NOW) == []

    state.apply(state.recorded(cancel_requested(), NOW))
    assert wanted(state, look(state, {KEY: up()}), NOW + 4) == [Stop(KEY, "i2", 6.0, save=False)]
    assert wanted(state, look(state, {KEY: up()}), NOW + 60) == [Kill(KEY)]


def test_a_yielding_trainer_is_told_to_save():
    state = state_after(submitted(), *prepared(), *running(), yielding())

    (stop,) = wanted(state, look(state, {KEY: up()}), state.at)

    assert isinstance(stop, Stop)
    assert stop.save


def test_a_process_that_the_log_does_not_want_is_killed():
    state = state_after(submitted())

    assert wanted(state, look(state, {KEY: up()}), NOW) == [Kill(KEY)]


def test_a_stopped_service_stops_preparations_and_takes_them_up_again_later():
    state = state_after(submitted(), placed(1, "prepare"), started(1), STOP)

    (stop,) = wanted(state, look(state, {PREPARING: up(1)}), state.at)
    (fact,) = decided(state, look(state, missing=[PREPARING]))

    assert isinstance(stop, Stop)
    assert isinstance(fact, AttemptStopped)


# ------------------------------------------------------------------------------------------------------------- gangs
RANKS = [ProcessKey(JOB, 2, rank) for rank in (0, 1)]
OTHER_NODE = replace(NODE, node_id="node-b", gpus=1, free_gpu_thousandths=1000)
SMALL_NODE = replace(NODE, gpus=1, free_gpu_thousandths=1000)


def gang(*events: AnyEvent, **rules: object) -> State:
    """Return the state of a job of two ranks that is prepared."""
    return state_after(submitted(resources={"num_gpus": 1, "num_workers": 2}), *prepared(), *events, **rules)


def gang_placed() -> AttemptPlaced:
    ranks = tuple(RankPlacement(node_id=name, gpu_thousandths=1000, cpus=1) for name in ("node-a", "node-b"))
    return AttemptPlaced(job_id=JOB, attempt=2, purpose="train", ranks=ranks)


def gang_running() -> list[AnyEvent]:
    ranks = tuple(
        RankStarted(node_id=f"node-{name}", devices=("0",), pid=7, incarnation=f"i2-{rank}")
        for rank, name in enumerate("ab")
    )
    return [
        gang_placed(),
        AttemptStarted(job_id=JOB, attempt=2, incarnation="i2-0", ranks=ranks, rendezvous="10.0.0.1:5"),
    ]


def rank_up(rank: int, **changes: object) -> Process:
    node_id = f"node-{'ab'[rank]}"
    process = replace(up(), node_id=node_id, incarnation=f"i2-{rank}", address=f"10.0.0.{rank + 1}:5")
    return replace(process, **changes)  # type: ignore[arg-type]


def gang_look(state: State, processes: dict[ProcessKey, Process] | None = None, **changes: object) -> Seen:
    return look(state, processes, **({"nodes": [SMALL_NODE, OTHER_NODE]} | changes))  # type: ignore[arg-type]


def test_a_gang_is_placed_whole_or_not_at_all_and_on_one_node_where_one_has_room():
    state = gang()
    assert decided(state, look(state, nodes=[SMALL_NODE])) == []

    (apart,) = decided(gang(), gang_look(gang()))
    (together,) = decided(gang(), look(gang(), nodes=[NODE, OTHER_NODE]))

    assert isinstance(apart, AttemptPlaced)
    assert [rank.node_id for rank in apart.ranks] == ["node-a", "node-b"]
    assert isinstance(together, AttemptPlaced)
    assert [rank.node_id for rank in together.ranks] == ["node-a", "node-a"]


def test_a_gang_starts_only_when_all_ranks_are_up_each_with_its_incarnation():
    state = gang(gang_placed())
    one, both = {RANKS[0]: rank_up(0)}, {key: rank_up(key.rank) for key in RANKS}

    assert decided(state, gang_look(state, one), state.at) == []
    assert {command.key for command in wanted(state, gang_look(state), state.at)} == {*RANKS}
    (fact,) = decided(state, gang_look(state, both), state.at)

    assert isinstance(fact, AttemptStarted)
    assert [(rank.node_id, rank.incarnation) for rank in fact.ranks] == [("node-a", "i2-0"), ("node-b", "i2-1")]
    assert fact.rendezvous == "10.0.0.1:5"


def test_a_gang_of_which_one_rank_never_comes_up_is_let_go_and_placed_again_uncounted():
    state = gang(gang_placed(), start_timeout_seconds=30)
    seen = gang_look(state, {RANKS[0]: rank_up(0)})
    late = state.at + 31

    (fact,) = decided(state, seen, now=late)
    assert isinstance(fact, AttemptFailed)
    assert (fact.cause, fact.counts) == ("start_timeout", False)
    assert wanted(state, seen, late) == [Kill(RANKS[0])]
    (again,) = decided(state, gang_look(state), now=fact.retry_at)

    assert isinstance(again, AttemptPlaced)
    assert again.attempt == 3


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"processes": {RANKS[0]: rank_up(0), RANKS[1]: Process(state="dead")}}, "trainer_lost"),
        ({"processes": {RANKS[0]: rank_up(0)}, "missing": [RANKS[1]]}, "trainer_lost"),
        ({"processes": {key: rank_up(key.rank) for key in RANKS}, "nodes": [SMALL_NODE]}, "node_lost"),
        ({"processes": {RANKS[0]: rank_up(0), RANKS[1]: rank_up(1, quiet_s=9e9)}}, "stalled"),
        ({"processes": {RANKS[0]: rank_up(0), RANKS[1]: rank_up(1, incarnation="another")}}, "trainer_lost"),
    ],
)
def test_losing_one_rank_ends_the_attempt(changes: dict[str, object], cause: str):
    changes = dict(changes)
    state = gang(*gang_running())

    (fact,) = decided(state, gang_look(state, changes.pop("processes"), **changes))  # type: ignore[arg-type]

    assert isinstance(fact, AttemptFailed)
    assert (fact.cause, fact.counts) == (cause, True)
    assert "rank 1" in fact.message


def test_what_a_rank_that_does_not_report_says_of_its_failure_is_the_attempts():
    state = gang(*gang_running())
    word = Failed(error_type="data", message="row 7 is no text", hint="mend it")

    (fact,) = decided(state, gang_look(state, {RANKS[0]: rank_up(0), RANKS[1]: rank_up(1, failed=word)}))

    assert isinstance(fact, JobFailed)
    assert (fact.error_type, fact.message, fact.hint) == ("data", "rank 1: row 7 is no text", "mend it")


def test_a_gang_yields_where_one_of_its_nodes_drains_and_nothing_goes_there():
    state = gang(*gang_running())
    nodes = [SMALL_NODE, replace(OTHER_NODE, state="draining")]

    (fact,) = decided(state, gang_look(state, {key: rank_up(key.rank) for key in RANKS}, nodes=nodes))

    assert isinstance(fact, YieldRequested)
    assert fact.reason == "draining"
    assert decided(gang(), gang_look(gang(), nodes=nodes)) == []


# -------------------------------------------------------------------------------------------------------- preemption
def important(job_id: str = "ftjob-9", gpus: float = 1, workers: int = 2) -> list[AnyEvent]:
    asked = {"num_gpus": gpus, "num_workers": workers}
    return [submitted(job_id, new_model_id=job_id, priority=5, resources=asked), *prepared(1, job_id)]


def test_a_job_of_higher_priority_makes_a_preemptible_one_yield_and_gets_its_room():
    state = state_after(
        submitted(preemptible=True), *prepared(), *running(), *important(), stop_grace_seconds=7, max_wait_seconds=60
    )
    (fact,) = decided(state, look(state, {KEY: up()}))

    assert isinstance(fact, YieldRequested)
    assert (fact.job_id, fact.attempt, fact.reason, fact.for_job, fact.grace_s) == (JOB, 2, "preempted", "ftjob-9", 7)
    facts = decided(state, look(state, missing=[KEY]), NOW + 1)
    assert [type(fact) for fact in facts] == [AttemptStopped, AttemptPlaced]
    assert facts[1].job_id == "ftjob-9"  # type: ignore[union-attr]


def test_nobody_yields_who_is_not_preemptible():
    state = state_after(submitted(), *prepared(), *running(), *important())

    assert decided(state, look(state, {KEY: up()})) == []


def test_nobody_is_preempted_because_ray_has_not_heard_yet_that_a_share_is_free():
    low = [submitted("ftjob-3", new_model_id="m3", preemptible=True), *prepared(1, "ftjob-3")]
    started_low = RankStarted(node_id="node-a", devices=("1",), pid=8)
    state = state_after(
        submitted(),
        *prepared(),
        *running(),
        *low,
        placed(2, "train", "ftjob-3"),
        AttemptStarted(job_id="ftjob-3", attempt=2, incarnation="i2", ranks=(started_low,)),
        failed(),
        *important(workers=1),
        max_concurrent_fine_tuning_jobs=5,
    )
    processes = {ProcessKey("ftjob-3", 2, 0): replace(up(), devices=("1",))}
    stale = look(state, processes, nodes=[replace(NODE, free_gpu_thousandths=0)])

    assert decided(state, stale, state.at + 0.5) == []
    assert decided(state, replace(stale, processes=processes | {KEY: up()}), state.at + 9) == []  # it is going
    (fact,) = decided(state, stale, state.at + 9)  # others use it by now

    assert isinstance(fact, YieldRequested)
    assert fact.job_id == "ftjob-3"


def test_undoing_an_event_restores_what_is_known_of_nodes_that_were_left():
    state = state_after(submitted(), *prepared(), *running())
    before = state.left

    undo = state.apply(state.recorded(failed(), NOW))

    assert state.left == {"node-a": NOW}
    undo()
    assert state.left == before


def test_the_device_of_a_process_that_is_still_up_is_not_given_away():
    state = state_after(submitted(), *prepared(), *running(), failed(), *important(workers=1))
    one_device = replace(NODE, gpus=1, free_gpu_thousandths=1000)

    assert decided(state, look(state, {KEY: up()}, nodes=[one_device])) == []
    (fact,) = decided(state, look(state, nodes=[one_device]))

    assert isinstance(fact, AttemptPlaced)
    assert fact.job_id == "ftjob-9"


def test_a_job_that_is_resumed_begins_to_wait_anew():
    resume = ResumeRequested(job_id=JOB, request_id="q", by="someone")
    state = state_after(submitted(), *prepared(), PAUSE, resume)

    assert state.jobs[JOB].waiting_since == state.at
    state.apply(state.recorded(resume, state.at + 5))  # it was not paused
    assert state.jobs[JOB].waiting_since == state.at - 5
