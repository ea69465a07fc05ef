"""What is free on a node, and what fits however Ray chooses the devices."""

from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from ftactors.core.capacity import best_fit, settles
from ftactors.core.occupancy import Cluster, Occupancy
from ftactors.core.placement import room_anywhere, spread
from ftactors.core.seen import Node
from tests.core.placing import holder, need, node, share

TENTHS = st.integers(1, 10).map(lambda tenths: tenths * 100)


def now_on(there: Node, *holders, **cluster):
    return Occupancy(Cluster((there,), **cluster), holders).now()[there.node_id]


@cache
def settles_by_trying_all(free: tuple[int, ...], shares: tuple[int, ...]) -> bool:
    for share_ in set(shares):
        roomy = {device for device in free if device >= share_}
        if not roomy:
            return False
        for device in roomy:
            left, rest = list(free), list(shares)
            left.remove(device)
            rest.remove(share_)
            if not settles_by_trying_all(tuple(sorted([*left, device - share_])), tuple(rest)):
                return False
    return True


@given(
    st.lists(st.integers(0, 10).map(lambda tenths: tenths * 100), max_size=3).map(sorted).map(tuple),
    st.lists(TENTHS, max_size=4).map(sorted).map(tuple),
)
def test_shares_settle_where_no_order_and_no_choice_of_devices_leaves_one_without(
    free: tuple[int, ...], shares: tuple[int, ...]
):
    assert settles(free, shares) == settles_by_trying_all(free, shares)


def test_where_too_many_ways_must_be_looked_through_nothing_is_certain():
    free, shares = (1000,) * 8, (*range(201, 215), 900)

    assert not settles(free, shares)
    assert settles(free, shares[:7])


def test_the_fullest_device_that_has_room_is_taken():
    assert best_fit((300, 600, 1000), (500,)) == (100, 300, 1000)
    assert best_fit((300, 600, 1000), (600, 300)) == (0, 0, 1000)
    assert best_fit((300, 400), (500,)) == (0, 300)


def test_a_share_is_taken_from_its_very_device():
    assert now_on(node("a"), holder("j", share("a", 0.6, 1))).devices == (400, 1000)
    assert now_on(node("a"), holder("j", share("a", 0.6, 1)), holder("k", share("a", 0.4, 1))).devices == (0, 1000)


def test_until_a_device_is_told_only_what_fits_on_every_one_is_placed():
    asked = [share("a", 0.4, 0), share("a", 0.4)]  # beside the first, or on the idle device

    unknown = now_on(node("a"), *(holder(str(number), held) for number, held in enumerate(asked)))
    known = now_on(node("a"), holder("0", asked[0]), holder("1", share("a", 0.4, 0)))

    assert (unknown.fits(need(1.0)), known.fits(need(1.0))) == (False, True)
    assert unknown.fits(need(0.6))
    assert not unknown.fits(need(0.7))


def test_what_others_use_is_whole_devices_and_one_share_nobody_knows_where():
    there = node("a", 4)
    others = Node("a", gpus=4, cpus=64, mem_gib=64, free_gpu_thousandths=2500, free_cpus=60, free_mem_gib=64)

    free = now_on(others)

    assert (free.settled, free.unsettled, free.cpus) == ((0, 1000, 1000, 1000), (500,), 60)
    assert free.room(need(1.0), 4) == 2
    assert free.room(need(0.5), 9) == 5
    assert now_on(there).room(need(0.5), 9) == 8


def test_devices_are_told_apart_whatever_they_are_called():
    for first, second in ((2, 3), (1, 2), (10**9, 10**9 + 1)):  # CUDA_VISIBLE_DEVICES=2,3 and the like, or names
        there = now_on(node("a"), holder("0", share("a", 0.4, first)), holder("1", share("a", 0.4, second)))

        assert (there.settled, there.unsettled) == ((600, 600), ())


def test_what_our_own_processes_use_is_not_that_of_others():
    there = Node("a", gpus=2, cpus=64, mem_gib=64, free_gpu_thousandths=1000, free_cpus=63, free_mem_gib=64)

    assert now_on(there, holder("j", share("a", 1.0, 0, up=True))).devices == (0, 1000)
    assert now_on(there, holder("j", share("a", 1.0, 0))).devices == (0, 0)


def test_a_device_of_a_process_that_nobody_wants_is_not_free_until_it_is_gone():
    occupancy = Occupancy(Cluster((node("a"),), {"a": {1}}, {"a"}), ())

    assert occupancy.now()["a"].devices == (0, 1000)
    assert occupancy.without(set())["a"].devices == (1000, 1000)


def test_memory_cpus_and_the_kind_of_device_must_do():
    there = Occupancy(Cluster((node("a", cpus=2, mem_gib=8, kind="A100"),)), ()).now()

    assert spread(need(cpus=2, mem_gib=8), there) == [("a", 1)]
    assert spread(need(cpus=2.5), there) is None
    assert spread(need(mem_gib=8.5), there) is None
    assert spread(need(0.5, 3), there) is None  # 3 CPUs


def test_a_preparation_that_has_not_come_up_may_be_on_any_node():
    there = Occupancy(
        Cluster((node("a", cpus=2), node("b", cpus=1))),
        [holder("p", share("a", 0)), holder("q", share(None, 0))],  # type: ignore[arg-type]
    ).now()

    assert room_anywhere(need(0), there) == ["a", "b"]
    assert spread(need(0), there) is None  # a worker of this node might find it there
    assert room_anywhere(need(0, cpus=2), there) == []
