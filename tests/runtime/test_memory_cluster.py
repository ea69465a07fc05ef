"""The cluster in memory gives out shares as Ray does, and lets ranks, nodes and others on it do what they can do."""

from __future__ import annotations

import pytest

from ftactors.core.events import RankPlacement
from ftactors.core.seen import Node, ProcessKey, Seen
from ftactors.core.wanted import Begin, Kill, Start
from ftactors.core.work import Failed, Progress
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.runtime.protocol import ProcessGoneError

A, B = Node("a", gpus=2, cpus=4, mem_gib=8), Node("b", gpus=1, cpus=4, mem_gib=8, accelerator_type="H100")


def start(job_id: str, gpu: int, node_id: str | None = "a", *, rank: int = 0, ranks: int = 1, **more: object) -> Start:
    asked = RankPlacement(node_id=node_id, gpu_thousandths=gpu, cpus=more.pop("cpus", 1))  # type: ignore[arg-type]
    return Start(ProcessKey(job_id, 1, rank), asked, more.pop("kind", None), 60.0, ranks)  # type: ignore[arg-type]


def started(cluster: MemoryCluster, order: Start) -> str | None:
    """Start a trainer, and return the node and device that it got; None while it waits."""
    cluster.execute(order)
    process = cluster.trainers[order.key].process
    return f"{process.node_id}{''.join(process.devices)}" if process.state == "up" else None


async def seen(cluster: MemoryCluster) -> Seen:
    return await cluster.look(as_of_seq=0, expected=())


@pytest.mark.parametrize("seed", range(8))
def test_a_fraction_goes_on_the_fullest_device_that_has_room(seed: int):
    cluster = MemoryCluster([A], seed=seed)
    first = started(cluster, start("j1", 300))

    assert started(cluster, start("j2", 600)) == first
    assert started(cluster, start("j3", 500)) not in {first, None}
    assert started(cluster, start("j4", 600)) is None


def test_equally_full_devices_are_given_by_chance():
    assert {started(MemoryCluster([A], seed=seed), start("j1", 500)) for seed in range(20)} == {"a0", "a1"}


async def test_who_waits_is_seen_starting_and_comes_up_when_there_is_room():
    cluster = MemoryCluster([A])
    for job_id, gpu in (("j1", 1000), ("j2", 600)):
        assert started(cluster, start(job_id, gpu))
    waits = start("j3", 600)
    assert started(cluster, waits) is None
    look = await seen(cluster)
    cluster.execute(Kill(ProcessKey("j1", 1, 0)))

    assert (look.processes[waits.key].state, look.processes[waits.key].node_id) == ("starting", None)
    assert look.nodes["a"].free_gpu_thousandths == 400
    assert cluster.trainers[waits.key].process.state == "up"


async def test_a_share_is_held_from_when_it_is_given_to_when_its_trainer_dies():
    cluster = MemoryCluster([A], starts=False)
    order = start("j1", 600)
    cluster.execute(order)
    while_it_starts = (await seen(cluster)).nodes["a"]
    cluster.bring_up(order.key)
    cluster.die(order.key, leaves_a_trace=True)
    after = await seen(cluster)

    assert (while_it_starts.free_gpu_thousandths, while_it_starts.free_cpus) == (1400, 3)
    assert (after.nodes["a"].free_gpu_thousandths, after.nodes["a"].free_cpus) == (2000, 4)
    assert after.processes[order.key].state == "dead"


def test_an_accelerator_type_is_waited_for_and_who_is_pinned_nowhere_takes_any_node_with_room():
    cluster = MemoryCluster([A, B])

    assert started(cluster, start("j1", 500, "a", kind="H100")) is None
    assert started(cluster, start("j2", 500, None, kind="H100")) == "b0"
    assert started(cluster, start("j3", 0, None, cpus=4)) == "a"
    assert started(cluster, start("j4", 0, None, cpus=4)) is None


async def test_what_others_take_is_not_free_until_they_give_it_back():
    cluster = MemoryCluster([A])
    taken = cluster.occupy("a", RankPlacement(node_id=None, gpu_thousandths=700, cpus=1))
    assert taken is not None
    assert (await seen(cluster)).nodes["a"].free_gpu_thousandths == 1300
    assert started(cluster, start("j1", 1000))
    assert cluster.occupy("a", RankPlacement(node_id=None, gpu_thousandths=400, cpus=1)) is None
    assert started(cluster, waits := start("j2", 1000)) is None
    cluster.vacate(taken)

    assert cluster.trainers[waits.key].process.state == "up"


def test_nothing_new_comes_up_on_a_draining_node():
    cluster = MemoryCluster([A])
    assert started(cluster, start("j1", 500))
    cluster.drain("a")

    assert started(cluster, start("j2", 500)) is None
    assert len(cluster.trainers) == 2


async def test_a_dead_node_has_nothing():
    cluster = MemoryCluster([A, B])
    started(cluster, start("j1", 500))
    cluster.lose("a")
    look = await seen(cluster)

    assert (look.nodes["a"].state, look.nodes["a"].gpus, look.nodes["a"].free_cpus) == ("dead", 0, 0)
    assert not look.processes


async def test_only_the_first_of_several_ranks_has_an_address_and_reports_and_another_tells_how_it_failed():
    cluster = MemoryCluster([A])
    orders = [start("j1", 500, rank=rank, ranks=2) for rank in range(2)]
    for order in orders:
        assert started(cluster, order)
    first, second = (order.key for order in orders)
    word = Failed(error_type="out_of_memory", message="no room")
    for key in (first, second):
        cluster.say(key, Progress(stage="training", step=1), word)

    processes = (await seen(cluster)).processes
    assert [bool(processes[key].address) for key in (first, second)] == [True, False]
    assert [processes[key].failed for key in (first, second)] == [None, word]
    assert [cluster.trainers[key].said for key in (first, second)] == [2, 0]


async def test_who_is_cut_off_lives_on_unseen_and_comes_back_with_its_share():
    cluster = MemoryCluster([A, B])
    order = start("j1", 600)
    started(cluster, order)
    incarnation = str(cluster.trainers[order.key].process.incarnation)
    cluster.cut("a")
    with pytest.raises(ProcessGoneError):
        await cluster.reports(order.key, incarnation, after=0)
    cluster.execute(Kill(order.key))  # nobody is there to hear it
    cluster.say(order.key, Progress(stage="training", step=1))
    unseen = await seen(cluster)
    cluster.bring_back("a")
    back = await seen(cluster)

    assert order.key not in unseen.processes
    assert back.processes[order.key].incarnation == incarnation
    assert back.nodes["a"].free_gpu_thousandths == 1400
    assert len(await cluster.reports(order.key, incarnation, after=0)) == 1


def test_who_comes_back_to_find_its_name_given_away_is_gone():
    cluster = MemoryCluster([A, B])
    started(cluster, start("j1", 0, "a"))
    cluster.cut("a")
    started(cluster, other := start("j1", 0, "b"))
    cluster.bring_back("a")

    assert cluster.trainers[other.key].process.node_id == "b"
    assert not cluster.cut_off


def test_work_begins_only_as_the_incarnation_that_is_meant():
    cluster = MemoryCluster([A])
    started(cluster, order := start("j1", 0))
    cluster.execute(Begin(order.key, "another", None))  # type: ignore[arg-type]

    assert not cluster.trainers[order.key].process.begun
