"""What the desk tells of the cluster to a driver that is about to submit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ftactors.core.errors import InvalidJobConfigError, ModelNotFoundError
from ftactors.core.feasible import ClusterFacts
from ftactors.core.seen import Node
from ftactors.log.memory import MemoryDisk
from ftactors.models import BaseModelFound, LLMModelManager
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.service import LLMFineTuningService
from tests.configs import job
from tests.core.histories import BASE, NODE
from tests.runtime.test_scheduler import service, until

CPUS = ClusterFacts((Node("node-c", cpus=8, mem_gib=32),))
GPUS = ClusterFacts((Node("node-g", gpus=1, cpus=8, mem_gib=32),))


async def test_a_node_that_has_just_come_is_seen_by_who_looks_anew_and_a_lost_one_is_not():
    cluster = MemoryCluster([NODE])
    async with service(MemoryDisk(), cluster) as (scheduler, desk):
        await until(lambda: scheduler.seen.complete)
        cluster.nodes["node-b"] = replace(NODE, node_id="node-b", gpus=4)
        grown = await desk.cluster(anew=True)
        cluster.lose(NODE.node_id)
        left = await desk.cluster(anew=True)

    assert (grown.nodes, grown.gpus, grown.cpus) == (2, 6, 16)
    assert (left.nodes, left.gpus, left.cpus) == (1, 4, 8)


async def test_what_the_autoscaler_could_bring_is_told():
    cluster = MemoryCluster([replace(NODE, gpus=0)])
    cluster.could_add = (NODE,)
    async with service(MemoryDisk(), cluster) as (_, desk):
        facts = await desk.cluster()

    assert (facts.gpus, facts.could_have_gpus) == (0, True)


class Models(LLMModelManager):
    """Knows one model."""

    async def find_base(self, base_model_id: str) -> BaseModelFound:
        if base_model_id != "gpt2":
            raise ModelNotFoundError(f"there is no model {base_model_id!r}")
        return BaseModelFound(BASE, None)


class Scheduler:
    """Tells of a cluster to which nodes have come since the last look."""

    def __init__(self, seen: ClusterFacts, now: ClusterFacts) -> None:
        self.seen, self.now = seen, now
        self.asked: list[Any] = []

    async def ask(self, method: str, **options: Any) -> Any:
        self.asked.append((method, options))
        return self.now if options.get("anew") else self.seen


def driver(scheduler: Scheduler) -> LLMFineTuningService:
    made = LLMFineTuningService(Models(), {"runs_dir": "/runs"})
    made._client = scheduler  # type: ignore[assignment]
    return made


async def test_a_job_for_a_node_that_has_just_come_is_accepted():
    scheduler = Scheduler(CPUS, GPUS)

    planned = await driver(scheduler)._plan(job({"resources.num_gpus": 1}))

    assert planned.config.resources.num_gpus == 1
    assert [options for _, options in scheduler.asked] == [{}, {"anew": True}]


@pytest.mark.parametrize(
    ("changes", "looks"), [({"resources.num_gpus": 1}, 2), ({"priority": 5000}, 1)], ids=["resources", "other"]
)
async def test_a_job_that_is_refused_looks_anew_only_where_that_could_help(changes, looks):
    scheduler = Scheduler(CPUS, CPUS)

    with pytest.raises(InvalidJobConfigError):
        await driver(scheduler).preview_job(job(changes))
    assert len(scheduler.asked) == looks
