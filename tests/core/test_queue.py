"""Why a job waits and when it should start: the truth, in words with numbers, for the jobs that are asked for alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftactors.core import queue
from ftactors.core.decide import decide
from ftactors.core.events import (
    AnyEvent,
    AttemptPlaced,
    AttemptStarted,
    AttemptStopped,
    PauseRequested,
    ProgressReported,
    RankPlacement,
    RankStarted,
    StageStarted,
    YieldRequested,
)
from ftactors.core.phases import WAITING_PHASES
from ftactors.core.queue import waiting_jobs
from ftactors.core.seen import Node, Process, ProcessKey, Seen
from ftactors.core.state import State
from tests.core.histories import JOB, NODE, failed, prepared, running, state_after, submitted
from tests.core.test_random_histories import CHOICES, walk

A = Node("n-a", name="a", gpus=2, cpus=8, mem_gib=32)
B = Node("n-b", name="b", gpus=2, cpus=8, mem_gib=32)


def look(
    state: State, processes: Mapping[ProcessKey, Process] | None = None, nodes: Sequence[Node] = (NODE,), **more: object
) -> Seen:
    there = {node.node_id: node for node in nodes}
    return Seen(state.seq, complete=True, nodes=there, processes=processes or {}, **more)  # type: ignore[arg-type]


def idle(node: Node) -> Node:
    """Return the node as Ray shows it when nothing runs there."""
    return replace(node, free_gpu_thousandths=node.gpus * 1000, free_cpus=node.cpus, free_mem_gib=node.mem_gib)


def ready(job_id: str, **changes: object) -> list[AnyEvent]:
    return [submitted(job_id, new_model_id=f"m-{job_id}", **changes), *prepared(1, job_id)]


def holding(
    job_id: str, *devices: tuple[str, str], gpu: int = 1000, cpus: float = 1, mem_gib: float = 0
) -> list[AnyEvent]:
    """Return the placing and the start of an attempt on these devices: node's id, and number."""
    placed = [RankPlacement(node_id=node, gpu_thousandths=gpu, cpus=cpus, mem_gib=mem_gib) for node, _ in devices]
    began = [RankStarted(node_id=node, devices=(device,), pid=7) for node, device in devices]
    return [
        AttemptPlaced(job_id=job_id, attempt=2, purpose="train", ranks=tuple(placed)),
        AttemptStarted(job_id=job_id, attempt=2, incarnation="i2", ranks=tuple(began)),
    ]


def at_step(job_id: str, step: int, total: int = 100) -> list[AnyEvent]:
    """Return a training that has made `step` steps in a second."""
    stage = StageStarted(job_id=job_id, attempt=2, report=1, stage="training", index=2, of=4, total_steps=total)
    return [stage, ProgressReported(job_id=job_id, attempt=2, report=2, stage="training", step=step)]


def cluster(state: State, *nodes: Node, **more: object) -> Seen:
    """Return a look at nodes on which those run that have started."""
    free = {node.node_id: idle(node) for node in nodes}
    processes: dict[ProcessKey, Process] = {}
    for job in state.held.values():
        assert job.attempt is not None
        for rank, began in enumerate(job.attempt.started):
            key = ProcessKey(job.job_id, job.attempt.number, rank)
            processes[key] = Process("up", began.node_id, began.devices, incarnation="i2", begun=True)
            share, node = job.attempt.ranks[rank], free[began.node_id]
            free[began.node_id] = replace(
                node,
                free_gpu_thousandths=node.free_gpu_thousandths - share.gpu_thousandths,
                free_cpus=node.free_cpus - share.cpus,
                free_mem_gib=node.free_mem_gib - share.mem_gib,
            )
    return look(state, processes, [*free.values()], **more)


def reason(state: State, seen: Seen, job_id: str = JOB) -> str:
    return waiting_jobs(state, seen, state.at)[job_id].reason


def waits(*events: AnyEvent, nodes: Sequence[Node] = (A, B), **asked: object) -> str:
    """Return why job `w`, which asks for this, waits after these events."""
    state = state_after(*events, *ready("w", resources=asked), max_concurrent_fine_tuning_jobs=100)
    return reason(state, cluster(state, *nodes), "w")


def test_a_job_whose_old_trainer_is_still_seen_says_so_and_is_not_placed():
    state = state_after(submitted(), *prepared(), *running(), failed())
    seen = look(state, {ProcessKey(JOB, 2, 0): Process(state="up", incarnation="i2")})

    assert reason(state, seen) == "the process of attempt 2 is not gone yet; the next attempt starts once it is"
    assert decide(state, seen, state.at) == []


def test_a_dead_trainer_holds_nothing_back():
    state = state_after(submitted(), *prepared(), *running(), failed())
    seen = look(state, {ProcessKey(JOB, 2, 0): Process(state="dead")})

    assert reason(state, seen) == "is next to be placed"
    assert len(decide(state, seen, state.at)) == 1


def test_the_cap_is_the_rules_also_where_more_jobs_hold_than_it_allows():
    state = state_after(
        *ready("a"),
        *ready("b"),
        *ready("c"),
        *running(2, "a"),
        *running(2, "b"),
        max_concurrent_fine_tuning_jobs=1,
    )

    assert reason(state, look(state), "c") == (
        "2 of at most 1 jobs train (max_concurrent_fine_tuning_jobs); when job a on node a ends is not known yet"
    )


def test_the_cap_names_the_job_that_ends_next():
    state = state_after(*ready("a"), *ready("w"), *holding("a", ("n-a", "0")), *at_step("a", 10))

    assert reason(state, cluster(state, A), "w") == (
        "1 of at most 1 jobs train (max_concurrent_fine_tuning_jobs); job a on node a is expected to end in about 10 s"
    )


def test_the_cap_of_preparations_is_named():
    state = state_after(
        submitted("a"), prepared(1, "a")[0], submitted("b", new_model_id="b"), max_concurrent_preparations=1
    )

    assert reason(state, look(state), "b") == "1 of at most 1 preparations run (max_concurrent_preparations)"


def test_a_gang_waits_for_what_is_free_on_each_node_and_for_who_ends_first():
    others = [*ready("x"), *ready("y"), *ready("z"), *holding("x", ("n-b", "0"))]
    others += [*holding("y", ("n-b", "1"), gpu=500), *holding("z", ("n-a", "1")), *at_step("x", 1, total=721)]

    assert waits(*others, num_gpus=1, num_workers=2) == (
        "needs 2 workers of 1 GPU; free are 1 on node a and 0.5 on node b; "
        "job x on node b is expected to end in about 12 min"
    )


def test_a_fraction_waits_for_a_device_and_not_for_a_sum():
    others = [*ready("x"), *ready("y"), *holding("x", ("n-a", "0"), gpu=600), *holding("y", ("n-a", "1"), gpu=600)]

    assert waits(*others, nodes=[A], num_gpus=0.6) == (
        "needs 0.6 GPU on one device; free are 0.4 and 0.4 on node a; when job x on node a ends is not known yet"
    )


def test_a_device_that_ray_has_not_told_is_said_to_be_unconfirmed():
    placed = holding("x", ("n-a", "0"), gpu=400)[0]

    assert waits(*ready("x"), *ready("y"), placed, *holding("y", ("n-a", "1"), gpu=400), nodes=[A], num_gpus=0.8) == (
        "needs 0.8 GPU on one device; free may be 1 and 0.2 on node a, but Ray has not told yet which devices job x "
        "got there"
    )


@pytest.mark.parametrize(
    ("held", "asked", "said"),
    [
        ({"cpus": 6}, {"num_cpus": 4}, "needs 4 CPU; free are 2 on node a; "),
        ({"mem_gib": 30}, {"memory_gib": 16}, "needs 16 GiB of memory; free are 2 GiB on node a; "),
        (
            {"cpus": 6, "mem_gib": 30},
            {"num_cpus": 4, "memory_gib": 16},
            "needs 4 CPU and 16 GiB of memory; free are 2 CPU with 2 GiB on node a; ",
        ),
    ],
    ids=["cpus", "memory", "both"],
)
def test_what_is_short_is_told_and_what_is_not_is_left_out(held, asked, said):
    others = [*ready("x"), *holding("x", ("n-a", "0"), gpu=100, **held)]

    assert waits(*others, nodes=[A], num_gpus=0.1, **asked).startswith(said)


def test_only_nodes_of_the_type_that_is_asked_for_are_told():
    typed = replace(B, accelerator_type="L4")
    others = [*ready("x"), *holding("x", ("n-b", "0"), ("n-b", "1"))]

    assert waits(*others, nodes=[A, typed], num_gpus=1, accelerator_type="L4") == (
        "needs 1 GPU on a node of type L4; nothing of that is free on node b; "
        "when job x on node b ends is not known yet"
    )


def test_a_few_nodes_are_named_and_the_others_counted():
    nodes = [replace(A, node_id=f"n-{n}", name=f"{n}") for n in range(9)]
    state = state_after(*ready("w", resources={"num_gpus": 1, "num_workers": 10}), max_concurrent_fine_tuning_jobs=9)
    used_by_others = [replace(idle(node), free_gpu_thousandths=1000) for node in nodes]

    assert reason(state, look(state, nodes=used_by_others), "w") == (
        "needs 10 workers of 1 GPU; free are 1 on node 0, 1 on node 1, 1 on node 2 and not more on 6 other nodes; "
        "the rest is in use by others on the cluster"
    )


def test_nodes_of_the_same_name_are_told_apart_by_their_ids():
    assert "on node n-a and 0.5 on node n-b" in waits(
        *ready("x"),
        *ready("y"),
        *holding("x", ("n-a", "0"), gpu=500),
        *holding("y", ("n-b", "0"), gpu=500),
        nodes=[replace(A, gpus=1, name="host"), replace(B, gpus=1, name="host")],
        num_gpus=0.8,
    )


def test_what_no_node_has_even_when_idle_is_said_whatever_the_cap():
    state = state_after(*ready("a"), *ready("w", resources={"num_gpus": 0, "num_cpus": 9}), *running(2, "a"))

    assert reason(state, look(state), "w") == ("needs 9 CPU; no node of the cluster has that now, even when it is idle")


def test_a_gang_that_is_too_large_now_says_how_many_of_it_would_fit():
    assert waits(num_gpus=1, num_workers=5) == (
        "needs 5 workers of 1 GPU and 1 CPU; the nodes that are up have room for 4 of them, even when they are idle"
    )


def test_what_only_the_autoscaler_could_bring_is_said():
    state = state_after(*ready("w", resources={"num_gpus": 1}))
    coming = replace(A, node_id="gpus-1", name="gpus")

    assert reason(state, cluster(state, replace(A, gpus=0), could_add=(coming,)), "w").endswith(
        "even when it is idle; the autoscaler could add nodes that do (gpus)"
    )


def test_what_is_kept_for_a_job_of_higher_priority_is_said_to_be():
    state = state_after(
        *ready("x"),
        *ready("y", priority=5, resources={"num_gpus": 1, "num_workers": 2}),
        *ready("w"),
        *holding("x", ("n-a", "0")),
        max_concurrent_fine_tuning_jobs=9,
    )
    seen = cluster(state, A)

    assert decide(state, seen, state.at) == []
    assert reason(state, seen, "w") == (
        "job y, of priority 5, waits for 2 workers of 1 GPU and 1 CPU; what is free on node a is kept for it"
    )


def interrupted(why: str, for_job: str | None = None) -> list[AnyEvent]:
    return [
        *ready("w", preemptible=True),
        *holding("w", ("n-a", "0")),
        YieldRequested(job_id="w", attempt=2, reason=why, for_job=for_job, grace_s=10),  # type: ignore[arg-type]
        AttemptStopped(job_id="w", attempt=2, reason=why, clean=True),
    ]


def test_a_preempted_job_says_for_whom_and_what_it_waits_for():
    state = state_after(*ready("y", priority=5), *interrupted("preempted", "y"), *holding("y", ("n-a", "0")))

    assert reason(state, cluster(state, replace(A, gpus=1)), "w") == (
        "gave its share to job y and goes on from its checkpoint; 1 of at most 1 jobs train "
        "(max_concurrent_fine_tuning_jobs); when job y on node a ends is not known yet"
    )


def test_a_job_whose_node_was_drained_says_so_until_it_is_placed_again():
    state = state_after(*interrupted("draining"))

    assert reason(state, cluster(state, A), "w") == (
        "left a node that is drained and goes on from its checkpoint; is next to be placed"
    )


def test_a_job_that_gives_its_share_back_is_told_as_such():
    yields = YieldRequested(job_id="x", attempt=2, reason="preempted", for_job="w", grace_s=20)

    assert waits(*ready("x"), *holding("x", ("n-a", "0"), ("n-a", "1")), yields, nodes=[A], num_gpus=1).endswith(
        "nothing of that is free on node a; job x on node a gives its share back within 20 s"
    )


def starts(state: State, seen: Seen, *job_ids: str) -> list[float | None]:
    """Return after how many seconds each job should start."""
    queued = waiting_jobs(state, seen, state.at)
    moments = [queued[job_id].estimated_start_at for job_id in job_ids]
    return [None if at is None else at - state.at for at in moments]


def test_jobs_start_in_their_order_when_those_before_them_are_expected_to_end():
    state = state_after(
        *ready("x"),
        *ready("y"),
        *holding("x", ("n-a", "0")),
        *holding("y", ("n-a", "1")),
        *at_step("x", 1, total=301),
        *at_step("y", 1, total=3601),
        *ready("v"),
        *ready("w", priority=1),
        *ready("u"),
        max_concurrent_fine_tuning_jobs=9,
    )
    first, second, third = starts(state, cluster(state, A), "w", "v", "u")

    assert first is not None
    assert second is not None
    assert 240 <= first <= 360
    assert 3540 <= second <= 3660
    assert third is None  # those that go before it hold what they get for nobody knows how long


def test_a_smaller_job_of_lower_priority_does_not_start_before_the_room_that_is_kept_has_been_taken():
    state = state_after(
        *ready("x"),
        *holding("x", ("n-a", "0")),
        *at_step("x", 1, total=601),
        *ready("y", priority=5, resources={"num_gpus": 1, "num_workers": 2}),
        *ready("w"),
        max_concurrent_fine_tuning_jobs=9,
    )
    gang, small = starts(state, cluster(state, A), "y", "w")

    assert gang is not None
    assert 540 <= gang <= 660
    assert small is None


def test_nothing_is_estimated_before_there_is_a_speed_nor_for_a_job_that_is_paused_or_not_prepared():
    base = [*ready("x"), *holding("x", ("n-a", "0")), *ready("w"), submitted("v", new_model_id="v")]
    pause = PauseRequested(job_id="w", request_id="r", by="me")
    unmeasured, paused = state_after(*base), state_after(*base, *at_step("x", 1), pause)
    measured = state_after(*base, *at_step("x", 1))

    assert starts(unmeasured, cluster(unmeasured, A), "w", "v") == [None, None]
    assert starts(paused, cluster(paused, A), "w") == [None]
    assert [at is not None for at in starts(measured, cluster(measured, A), "w", "v")] == [True, False]
    assert starts(measured, replace(cluster(measured, A), complete=False), "w") == [None]


def check(state: State) -> None:
    for seen in (Seen(), look(state), cluster(state, A, NODE), look(state, nodes=())):
        queued = waiting_jobs(state, seen, state.at)
        ids = {job_id for job_id, job in state.jobs.items() if job.phase in WAITING_PHASES}

        assert set(queued) == ids
        going = sorted(waiting.position for job_id, waiting in queued.items() if not state.jobs[job_id].paused)
        assert going == [*range(1, len(going) + 1)]
        assert all(waiting.reason.strip() for waiting in queued.values())
        assert all((waiting.estimated_start_at or inf) >= state.at for waiting in queued.values())


def job_at(job_id: str, legs: int, gpus: float, workers: int, device: int, step: int, priority: int) -> list[AnyEvent]:
    """Return so many legs of a job's way."""
    asked = {"num_gpus": gpus, "num_workers": workers, "num_cpus": 1 + step % 9}
    grant = holding(job_id, *(("n-a", f"{device}"),) * workers, gpu=round(gpus * 1000))
    ways: list[list[AnyEvent]] = [
        [submitted(job_id, new_model_id=f"m-{job_id}", resources=asked, priority=priority, preemptible=device == 0)],
        prepared(1, job_id),
        [PauseRequested(job_id=job_id, request_id="r", by="me")] if step == 0 else [],
        grant[:1],
        grant[1:],
        at_step(job_id, step),
        [YieldRequested(job_id=job_id, attempt=2, reason="preempted", for_job="other", grace_s=step)],
        [AttemptStopped(job_id=job_id, attempt=2, reason="preempted", clean=True)],
    ]
    return [event for way in ways[: legs + 1] for event in way]


JOBS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 7]),
        st.sampled_from([0, 0.3, 0.6, 1]),
        st.integers(1, 3),
        st.integers(0, 1),
        st.integers(0, 100),
        st.integers(0, 2),
    ),
    max_size=7,
)


@settings(max_examples=150, deadline=None)
@given(CHOICES)
def test_a_job_that_waits_after_any_history_has_a_position_and_a_reason_and_no_start_before_now(choices: list[int]):
    check(walk(choices))


@settings(max_examples=150, deadline=None)
@given(JOBS, st.integers(1, 5))
def test_every_waiting_job_of_many_has_a_position_and_a_reason_and_no_start_before_now(
    jobs: list[tuple[int, float, int, int, int, int]], cap: int
):
    events = [event for number, job in enumerate(jobs) for event in job_at(f"j{number}", *job)]

    check(state_after(*events, max_concurrent_fine_tuning_jobs=cap))


def test_what_all_reasons_rest_on_is_found_once(monkeypatch: pytest.MonkeyPatch):
    state = state_after(*(event for name in "abcdef" for event in ready(name)), *running(2, "a"))
    calls: list[str] = []
    for name in ("Occupancy", "attempts_alive", "plan_now", "estimated_starts", "holders_of", "why_never"):
        original = getattr(queue, name)
        monkeypatch.setattr(queue, name, lambda *args, n=name, f=original: (calls.append(n), f(*args))[1])

    assert len(list(waiting_jobs(state, look(state), state.at).values())) == 5
    assert max(map(calls.count, calls)) == 1  # jobs that need the same wait for the same


def test_a_reason_is_found_only_for_the_job_that_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    state = state_after(*(event for name in "abc" for event in ready(name)))
    asked = []
    monkeypatch.setattr(queue, "why_held_back", lambda job, *_: asked.append(job.job_id) or "it must")

    assert waiting_jobs(state, look(state), state.at)["b"].position == 2
    assert asked == ["b"]


def test_a_job_that_does_not_wait_has_no_place():
    state = state_after(submitted(), *prepared(), *running())

    assert waiting_jobs(state, look(state), state.at).get(JOB) is None
    assert waiting_jobs(state, look(state), state.at).get("ftjob-unknown") is None


def test_one_status_of_two_thousand_waiting_jobs_is_quick():
    state = state_after(*(submitted(f"ftjob-{n}", new_model_id=f"m{n}", priority=n % 7) for n in range(2000)))
    before = time.perf_counter()

    waiting_jobs(state, look(state), state.at)["ftjob-1999"]

    assert time.perf_counter() - before < 0.5  # a few milliseconds; 2,000 reasons that count anew take seconds
