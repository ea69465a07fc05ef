"""Who is placed where, in which order, who is never pushed back for ever, and who makes room."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftactors.core.needs import WHOLE
from ftactors.core.occupancy import Cluster
from ftactors.core.policy import Candidate, Line, Preempted, plan
from tests.core.placing import RULES, Simulation, holder, line, names, need, node, planned, share

NODES = [node("a"), node("b")]
LONG_AGO = -1_000.0


def job(job_id: str, priority: int = 0, *, since: float = 0.0) -> Candidate:
    """A job that was submitted in the order of the ids."""
    return Candidate(job_id, priority, ord(job_id[0]), since)


def where(found) -> dict[str, list[tuple[str, int]]]:
    return {placed.job_id: list(placed.where) for placed in found.placed}


# ---------------------------------------------------------------------------------------------------------- the choice
def test_four_shares_of_0_6_on_two_nodes_of_two_devices_all_run():
    simulation = Simulation(NODES)
    for name in "abcd":
        simulation.come(name, need(0.6))

    assert names(simulation.decide()) == [*"abcd"]
    simulation.settle()
    assert [simulation.free(name) for name in "ab"] == [[400, 400], [400, 400]]


def test_fractions_fill_devices_so_that_whole_ones_stay_free():
    held = holder("x", share("b", 0.5, 0))

    assert where(planned([line(need(0.5), job("i"))], NODES, [held])) == {"i": [("b", 1)]}
    assert where(planned([line(need(0.6), job("i"))], NODES, [held])) == {"i": [("b", 1)]}


def test_whole_devices_go_where_the_fewest_are_idle():
    assert where(planned([line(need(), job("i"))], NODES, [holder("x", share("b", 1, 0))])) == {"i": [("b", 1)]}


def test_what_needs_no_gpu_goes_to_nodes_without():
    assert where(planned([line(need(0), job("i"))], [*NODES, node("z", 0)])) == {"i": [("z", 1)]}


def test_a_gang_goes_on_as_few_nodes_as_possible_and_there_where_the_fewest_devices_are_idle():
    nodes = [node("a", 8), node("b", 4), node("c", 2), node("d", 2)]

    assert where(planned([line(need(1, 4), job("i"))], nodes)) == {"i": [("b", 4)]}
    assert where(planned([line(need(1, 10), job("i"))], nodes)) == {"i": [("a", 8), ("c", 2)]}
    assert where(planned([line(need(1, 16), job("i"))], nodes)) == {"i": [("a", 8), ("b", 4), ("c", 2), ("d", 2)]}
    assert planned([line(need(1, 17), job("i"))], nodes).placed == ()


def test_a_gang_rather_waits_a_moment_for_what_has_just_been_left_than_be_on_more_nodes_for_good():
    used = replace(node("a"), free_gpu_thousandths=1000)  # by somebody, or by what has just left
    lines = [line(need(1, 2), job("g")), line(need(1), job("i"), job("j"))]
    nodes = [used, node("b", 1), node("c", 1)]
    settling = Cluster(tuple(nodes), left=["a"])

    assert where(planned(lines[:1], nodes)) == {"g": [("a", 1), ("b", 1)]}
    assert plan(lines[:1], settling, [], RULES, 0.0).placed == ()
    assert where(plan(lines, settling, [], RULES, 0.0)) == {"i": [("c", 1)]}  # what it would take is kept for it
    assert where(plan(lines[:1], Cluster(tuple(nodes), left=["b"]), [], RULES, 0.0)) == {"g": [("a", 1), ("b", 1)]}


# ----------------------------------------------------------------------------------------------------------- the order
def test_priority_goes_first_then_submission_whatever_is_asked_for():
    lines = [line(need(0.5), job("c", 1), job("a")), line(need(), job("d", 1), job("b"))]

    assert names(planned(lines, NODES)) == ["c", "d", "a", "b"]


def test_what_fits_goes_ahead_of_what_waits_for_more_until_that_has_waited_long():
    lines = [line(need(1, 4), job("a")), line(need(), job("b"))]
    held = [holder("x", share("a", 1, 0))]

    assert names(planned(lines, NODES, held, now=59.0)) == ["b"]
    assert names(planned(lines, NODES, held, now=60.0)) == []


def test_a_job_of_lower_priority_leaves_room_at_once():
    held = [holder("x", share("a", 1, 0), placed_at=LONG_AGO)]

    assert names(planned([line(need(1, 4), job("a", 1)), line(need(), job("b"))], NODES, held)) == []
    assert names(planned([line(need(1, 2), job("a", 1)), line(need(), job("b"))], NODES[:1], held)) == []


def test_what_the_waiting_job_does_not_need_is_not_idle():
    held = [holder(name, share(name, 1, 0), placed_at=LONG_AGO) for name in "ab"]
    lines = [line(need(1, 3), job("a", 1)), line(need(0.5), job("b"), job("c"), job("d"))]

    found = planned(lines, NODES, held)

    assert len(found.placed) == 2  # one of the four devices is not needed


def test_who_was_placed_beside_a_waiting_job_is_counted_on_to_stay():
    held = [holder(name, share(name, 1, 0), placed_at=LONG_AGO) for name in "ab"]
    beside = holder("y", share("a", 1, 1), placed_at=1.0)
    lines = [line(need(1, 3), job("a", 1)), line(need(0.5), job("b"))]

    assert names(planned(lines, NODES, [*held, beside], now=2.0)) == []
    assert names(planned(lines, NODES, [*held, replace(beside, placed_at=LONG_AGO)], now=2.0)) == ["b"]


def test_what_can_never_fit_reserves_nothing():
    assert names(planned([line(need(1, 5), job("a", 1)), line(need(), job("b"))], NODES)) == ["b"]


def test_preparations_leave_the_cpus_to_a_job_that_waits_for_them():
    lines = [line(need(0, cpus=64), job("a", 1)), Line("prepare", need(0), [job("b")])]
    held = [holder("x", share("a", 0), placed_at=LONG_AGO)]

    assert names(planned(lines, NODES[:1], held)) == []
    assert names(planned(lines[1:], NODES[:1], held)) == ["b"]


def test_the_caps_are_kept():
    rules = replace(RULES, training=2, preparing=1)
    lines = [line(need(0.1), *map(job, "abc")), Line("prepare", need(0), [job("d"), job("e")])]

    assert names(planned(lines, NODES, [holder("x")], rules)) == ["a", "d"]


def stream(simulation: Simulation, until: float) -> None:
    """Let small jobs come so fast that some always wait."""
    while simulation.now < until:
        for number in range(2):
            simulation.come(f"small-{simulation.now:.0f}-{number}", need(), 7.0 + number)
        simulation.decide()
        simulation.settle()
        simulation.pass_time()


@pytest.mark.parametrize(("priority", "waits_s"), [(0, 60.0), (1, 0.0)])
def test_a_gang_starts_in_time_although_small_jobs_never_cease(priority: int, waits_s: float):
    simulation = Simulation(NODES, seed=1)
    stream(simulation, 20.0)
    simulation.come("gang", need(1, 4), priority=priority)
    stream(simulation, 20.0 + waits_s + 10.0)  # no small job takes longer than 8 s

    assert simulation.jobs["gang"].started_at is not None
    assert simulation.jobs["gang"].started_at <= 20.0 + waits_s + 9.0


def test_without_a_reservation_the_gang_would_wait_for_ever():
    simulation = Simulation(NODES, rules=replace(RULES, max_wait_s=1e9), seed=1)
    stream(simulation, 20.0)
    simulation.come("gang", need(1, 4))
    stream(simulation, 300.0)

    assert simulation.jobs["gang"].started_at is None


# ---------------------------------------------------------------------------------------------------------- preemption
def running(job_id: str, *shares, priority: int = 0, at: float = LONG_AGO, **changes):
    return holder(job_id, *shares, priority=priority, placed_at=at, **({"preemptible": True} | changes))


def test_the_least_important_make_room_the_latest_first_and_no_more_than_needed():
    held = [
        running("x", share("a", 1, 0), at=1.0),
        running("y", share("a", 1, 1), at=2.0),
        running("z", share("b", 1, 0), priority=1, at=3.0),
        running("w", share("b", 1, 1), priority=1, at=4.0, preemptible=False),
    ]

    def preempted(gpus: float, workers: int, priority: int) -> list[str]:
        found = planned([line(need(gpus, workers), job("j", priority))], NODES, held, now=9.0)
        assert all(one.for_job == "j" for one in found.preempted)
        return [one.job_id for one in found.preempted]

    assert preempted(1, 1, 1) == ["y"]
    assert preempted(0.2, 1, 2) == ["y"]
    assert preempted(1, 2, 2) == ["y", "x"]
    assert preempted(1, 3, 2) == ["y", "x", "z"]
    assert preempted(1, 3, 1) == []  # not even all would do
    assert preempted(1, 4, 2) == []
    assert preempted(1, 1, 0) == []


def test_only_those_go_whose_room_is_of_use():
    held = [running("x", share("a", 1, 0)), running("y", share("b", 0.5, 0), at=5.0)]
    full = [holder("z", share("a", 1, 1), priority=9), holder("w", share("b", 1, 1), share("b", 0.5, 0), priority=9)]

    found = planned([line(need(), job("j", 1))], NODES, [*held, *full])

    assert found.preempted == (Preempted("x", "j"),)


def test_who_is_least_important_stays_where_its_room_is_too_small():
    held = [running("x", share("a", 0.3, 0), share("a", 0.3, 0)), running("y", share("a", 1, 1), priority=1)]
    other = holder("z", share("a", 0.4, 0), priority=9)

    assert planned([line(need(), job("j", 2))], NODES[:1], [*held, other]).preempted == (Preempted("y", "j"),)


def test_room_that_is_being_given_back_goes_to_who_is_first_of_its_priority_too():
    held = [holder("y", share("a", 1, 1), ends=True)]
    lines = [line(need(1, 2), job("a")), line(need(), job("b"))]

    assert planned(lines, NODES[:1], held).placed == ()
    assert names(planned(lines, NODES[:1], [replace(held[0], ends=False)])) == ["b"]


def test_nobody_is_preempted_where_enough_is_being_given_back():
    held = [running("x", share("a", 1, 0)), running("y", share("a", 1, 1), ends=True)]

    assert planned([line(need(), job("j", 1))], NODES[:1], held).preempted == ()
    assert planned([line(need(1, 2), job("j", 1))], NODES[:1], held).preempted == (Preempted("x", "j"),)


def test_a_cap_that_is_met_is_a_reason_to_preempt():
    rules = replace(RULES, training=1)

    found = planned([line(need(0.1), job("j", 1))], NODES, [running("x", share("a", 0.1, 0))], rules)

    assert found.preempted == (Preempted("x", "j"),)


def test_the_room_that_is_made_is_for_whom_it_was_made():
    simulation = Simulation(NODES[:1])
    simulation.come("low-1", need(), 100.0, preemptible=True)
    simulation.come("low-2", need(), 100.0, preemptible=True)
    simulation.decide()
    simulation.settle()
    simulation.pass_time()
    simulation.come("high", need(1, 2), priority=1)
    simulation.come("another", need(), priority=1)
    simulation.decide()
    assert sorted(simulation.preempted) == ["low-1", "low-2"]
    del simulation.holders["low-1"]  # it is the first to go

    assert simulation.decide().placed == ()
    simulation.pass_time()
    assert names(simulation.decide()) == ["high"]
    assert len(simulation.preempted) == 2


# ---------------------------------------------------------------------------------------------------------- properties
SHAPES = st.sampled_from([(0.1, 1), (0.3, 1), (0.4, 1), (0.6, 1), (1, 1), (0.5, 3), (1, 2), (1, 4), (0, 1), (1, 9)])
COMING = st.lists(st.tuples(SHAPES, st.integers(0, 2), st.booleans(), st.integers(1, 9)), max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(COMING, st.booleans()), max_size=8), st.integers(0, 9), st.sampled_from([0.0, 3.0, 60.0]))
def test_every_share_finds_a_device_and_a_plan_that_is_done_leaves_nothing_to_plan(
    steps: list[tuple[list, bool]], seed: int, max_wait_s: float
):
    nodes = [node("a", 2, cpus=8), node("b", 3, cpus=8)]
    simulation = Simulation(nodes, rules=replace(RULES, training=6, max_wait_s=max_wait_s), seed=seed)
    for coming, settles in steps:
        for (gpus, workers), priority, preemptible, lasts_s in coming:
            asked = need(gpus, workers)
            simulation.come(f"j{len(simulation.jobs)}", asked, lasts_s, priority=priority, preemptible=preemptible)
        twice = [planned(simulation.waiting(), nodes, simulation.holders.values(), simulation.rules, simulation.now)]
        waiting = {one.job_id: asked for asked in simulation.waiting() for one in asked.jobs}
        found = simulation.decide()
        assert [found] == twice
        again = simulation.decide()
        assert (again.placed, again.preempted) == ((), ())
        for placed in found.placed:  # nobody of higher priority waits for the same
            mine = simulation.jobs[placed.job_id].candidate
            same = [one for one in waiting[placed.job_id].jobs if one.job_id not in simulation.holders]
            assert all(mine.turn < one.turn for one in same)
        if settles:
            simulation.settle()  # raises where a share finds no device
        simulation.pass_time()
    assert sum(held.gpu_thousandths for one in simulation.holders.values() for held in one.shares) <= 5 * WHOLE


FOUND_BY_CHANCE = {
    "the room that is kept comes to lie elsewhere, and somebody fits after all": (
        0.0,
        [(0, 2, 2, 2), (0.5, 3, 2, 0), (1, 1, 2, 0), (0.5, 2, 1, 0), (0.5, 3, 1, 2), (0.1, 1, 2, 0)],
        ["j0", "j4", "j5", "j2"],
    ),
    "beside a share that fits, the one that waits would not": (
        60.0,
        [(0.1, 1, 2, 0), (0, 2, 2, 1), (0.7, 1, 2, 1), (0.3, 1, 2, 2), (0.3, 4, 2, 1)],
        ["j3", "j1", "j2"],
    ),
}


@pytest.mark.parametrize("name", FOUND_BY_CHANCE)
def test_a_plan_that_is_done_leaves_nothing_to_plan_where(name: str):
    max_wait_s, asked, expected = FOUND_BY_CHANCE[name]
    nodes = [node("a", cpus=6), node("b")]
    simulation = Simulation(nodes, rules=replace(RULES, training=5, max_wait_s=max_wait_s))
    for number, (gpus, workers, cpus, priority) in enumerate(asked):
        simulation.come(f"j{number}", need(gpus, workers, cpus=cpus), priority=priority, preemptible=True)

    assert names(simulation.decide()) == expected
    again = simulation.decide()
    assert (again.placed, again.preempted) == ((), ())
