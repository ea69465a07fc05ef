"""The nodes of the cluster as Ray knows them, and those that its autoscaler could bring."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import ray
from ray._private import state as ray_state  # the only place that knows what is free by node, and what could come

from ftactors.core.needs import WHOLE
from ftactors.core.seen import Node

_GIB = 2**30
_TYPE = "accelerator_type:"
_MOST_OF_A_GROUP = 64
"""A group of nodes without a limit is taken for so many."""
_GROUP_LABEL = "ray.io/node-group"
_KEPT_S = 10.0
"""So long the autoscaler's configuration is not asked for again."""


class Nodes:
    """Looks at the nodes."""

    def __init__(self) -> None:
        self._groups: list[Any] = []
        self._limits: dict[str, int] = {}
        self._read_at = -_KEPT_S

    def there(self) -> dict[str, Node]:
        """Return the nodes that are or were there, by id. Blocks."""
        free = ray_state.available_resources_per_node()
        draining = ray_state.state.get_draining_nodes()
        return {node["NodeID"]: _node(node, free.get(node["NodeID"], {}), draining) for node in ray.nodes()}

    def could_add(self) -> tuple[Node, ...]:
        """Return a node for each that the autoscaler may still add to a group. Blocks.

        It knows of autoscalers that report their configuration to Ray, as KubeRay's does where it is told to. Those
        that `ray up` starts report nothing, and what they could bring is not known.
        """
        if time.monotonic() - self._read_at >= _KEPT_S:
            config = ray_state.state.get_cluster_config()
            self._groups = [*config.node_group_configs] if config is not None else []
            self._limits = dict(config.max_resources) if config is not None else {}
            self._read_at = time.monotonic()
        if not self._groups:
            return ()
        alive = [node for node in ray.nodes() if node["Alive"]]
        up = [node.get("Labels", {}).get(_GROUP_LABEL) for node in alive]
        left = {
            name: max(0, limit - sum(int(node["Resources"].get(name, 0)) for node in alive))
            for name, limit in self._limits.items()
        }
        return tuple(node for group in self._groups for node in _nodes_of(group, left, up.count(group.name)))


def _nodes_of(group: Any, limits: Mapping[str, int], up: int) -> list[Node]:
    """Return the nodes that a group may still have: up to its limit, and to the cluster's for what they consist of."""
    resources = dict(group.resources)
    most = _MOST_OF_A_GROUP if group.max_count < 0 else min(group.max_count - up, _MOST_OF_A_GROUP)
    for name, limit in limits.items():
        if resources.get(name):
            most = min(most, limit // resources[name])
    return [
        Node(
            node_id=f"{group.name}-to-come-{number}",
            name=group.name,
            gpus=int(resources.get("GPU", 0)),
            cpus=float(resources.get("CPU", 0)),
            mem_gib=resources.get("memory", 0) / _GIB,
            free_gpu_thousandths=int(resources.get("GPU", 0)) * WHOLE,
            free_cpus=float(resources.get("CPU", 0)),
            free_mem_gib=resources.get("memory", 0) / _GIB,
            accelerator_type=_accelerator_type(resources),
        )
        for number in range(1, most + 1)
    ]


def _node(node: dict[str, Any], free: dict[str, float], draining: Collection[str]) -> Node:
    total = node["Resources"]
    return Node(
        node_id=node["NodeID"],
        state="dead" if not node["Alive"] else "draining" if node["NodeID"] in draining else "up",
        name=node["NodeName"],
        gpus=int(total.get("GPU", 0)),
        cpus=total.get("CPU", 0.0),
        mem_gib=total.get("memory", 0.0) / _GIB,
        free_gpu_thousandths=round(free.get("GPU", 0.0) * WHOLE),
        free_cpus=free.get("CPU", 0.0),
        free_mem_gib=free.get("memory", 0.0) / _GIB,
        accelerator_type=_accelerator_type(total),
    )


def _accelerator_type(resources: Mapping[str, float]) -> str | None:
    return next((name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE)), None)
