"""Somebody else's actors on the cluster, which hold what our jobs then cannot have."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Foreign:
    """An actor that is not ours."""

    async def ready(self) -> bool:
        return True


def ask_for(node_id: str, gpus: float) -> Any:
    """Return an actor that waits for GPUs of a node, and holds them once they are free."""
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(Foreign).options(num_cpus=0, num_gpus=gpus, scheduling_strategy=where).remote()


async def hold(node_id: str, gpus: float) -> Any:
    """Return an actor that holds GPUs of a node."""
    actor = ask_for(node_id, gpus)
    async with asyncio.timeout(60):
        await actor.ready.remote()
    return actor
