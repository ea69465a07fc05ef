"""The scheduler's looks at Ray and its commands, on several nodes: what shows when something does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import psutil
import pytest
import ray

from ftactors.core.events import RankPlacement
from ftactors.core.seen import Process, ProcessKey, Seen
from ftactors.core.wanted import Kill, Start
from ftactors.runtime.cluster import RayCluster
from tests.service.aftermath import shares_taken
from tests.service.foreign import hold
from tests.service.nodes import KIND, Nodes

pytestmark = pytest.mark.ray


@pytest.fixture
async def cluster(ray_session: str) -> AsyncIterator[RayCluster]:
    """What a scheduler would see and order; all that it has made goes with it."""
    found = RayCluster(f"test-{uuid4().hex[:8]}")
    yield found
    await seen_when(found, lambda seen: all(one.state == "dead" for one in seen.processes.values()), kills=True)
    await found.close()
    async with asyncio.timeout(10):
        while shares_taken():
            await asyncio.sleep(0.05)


async def test_ranks_that_are_started_at_once_come_up_where_they_were_placed_and_hold_fractions_exactly(
    nodes: Nodes, cluster: RayCluster
):
    nodes.add("a", "b", gpus=1)
    ranks = [ProcessKey("ftjob-gang", 1, rank) for rank in range(6)]
    for key in ranks:
        cluster.execute(start(key, nodes.id_of("a" if key.rank < 3 else "b"), 333, accelerator_type=KIND))

    seen = await seen_when(cluster, lambda seen: is_up(seen, *ranks))

    assert [nodes.name_of(seen.processes[key].node_id) for key in ranks] == ["a"] * 3 + ["b"] * 3
    assert {seen.processes[key].devices for key in ranks} == {("0",)}
    assert {seen.nodes[nodes.id_of(name)].free_gpu_thousandths for name in ("a", "b")} == {1}
    assert {seen.nodes[nodes.id_of(name)].accelerator_type for name in ("a", "b")} == {KIND}


async def test_a_trainer_that_is_killed_while_it_waits_is_gone_and_says_nothing_of_the_next_with_its_name(
    nodes: Nodes, cluster: RayCluster
):
    nodes.add("a", gpus=1)
    foreign = await hold(nodes.id_of("a"), 1)
    key = ProcessKey("ftjob-late", 1, 0)
    cluster.execute(start(key, nodes.id_of("a"), 1000))
    seen = await seen_when(cluster, lambda seen: key in seen.processes)
    assert seen.processes[key] == Process(state="starting")
    cluster.execute(Kill(key))
    await seen_when(cluster, lambda seen: key not in seen.processes)

    cluster.execute(start(key, nodes.id_of("a"), 1000))
    seen = await seen_when(cluster, lambda seen: key in seen.processes)
    assert seen.processes[key] == Process(state="starting")
    ray.kill(foreign)
    seen = await seen_when(cluster, lambda seen: is_up(seen, key))
    assert seen.nodes[nodes.id_of("a")].free_gpu_thousandths == 0


async def test_a_trainer_that_does_not_answer_delays_one_look_only(ray_session: str, cluster: RayCluster):
    silent, well = ProcessKey("ftjob-silent", 1, 0), ProcessKey("ftjob-well", 1, 0)
    for key in (silent, well):
        cluster.execute(start(key, ray.get_runtime_context().get_node_id(), 100))
    seen = await seen_when(cluster, lambda seen: is_up(seen, silent, well))
    actor = psutil.Process(seen.processes[silent].pid)
    actor.suspend()
    try:
        await cluster.look(as_of_seq=0, expected=())
        began = time.monotonic()
        seen = await cluster.look(as_of_seq=0, expected=())
        took_s = time.monotonic() - began
        assert took_s < 1.0
        assert is_up(seen, silent, well)
        assert seen.processes[silent].quiet_s >= 1.0
    finally:
        actor.resume()


async def test_a_look_that_finds_a_trainer_dead_with_its_node_finds_the_node_dead_too(
    nodes: Nodes, cluster: RayCluster
):
    nodes.add("a", gpus=1)
    key = ProcessKey("ftjob-lost", 1, 0)
    cluster.execute(start(key, nodes.id_of("a"), 1000))
    seen = await seen_when(cluster, lambda seen: is_up(seen, key))

    nodes.kill("a")

    seen = await seen_when(cluster, lambda seen: key not in seen.processes or seen.processes[key].state == "dead")
    assert seen.nodes[nodes.id_of("a")].state == "dead"


def start(key: ProcessKey, node_id: str, gpu_thousandths: int, accelerator_type: str | None = None) -> Start:
    placed = RankPlacement(node_id=node_id, gpu_thousandths=gpu_thousandths, cpus=0.5)
    return Start(key, placed, accelerator_type, orphan_timeout_s=3600.0, world_size=1)


def is_up(seen: Seen, *keys: ProcessKey) -> bool:
    return all(key in seen.processes and seen.processes[key].state == "up" for key in keys)


async def seen_when(
    cluster: RayCluster, condition: Callable[[Seen], bool], *, kills: bool = False, seconds: float = 60.0
) -> Seen:
    """Return the first look that fulfils a condition; kill what it shows, where that is wanted, until then."""
    async with asyncio.timeout(seconds):
        while True:
            seen = await cluster.look(as_of_seq=0, expected=())
            if condition(seen):
                return seen
            if kills:
                for key in seen.processes:
                    cluster.execute(Kill(key))
            await asyncio.sleep(0.02)
