"""Nodes of the one Ray of the test run, which a test adds, loses and drains."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

KIND = "T4"
"""The accelerator type of nodes that are added; the head has none, so a job that asks for it keeps off the head."""
_GONE_S = 30.0


class Nodes:
    """The nodes of one test, by names of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._nodes: dict[str, Any] = {}

    def add(self, *names: str, gpus: int = 2, cpus: int = 4) -> None:
        """Add a node for each name; return when all are up."""
        for name in names:
            self._nodes[name] = self._cluster.add_node(
                num_cpus=cpus, num_gpus=gpus, resources={f"accelerator_type:{KIND}": 1}, node_name=name, wait=False
            )
        _until(lambda: set(names) <= set(map(self.name_of, _alive())), f"nodes {names} up")

    def id_of(self, name: str) -> str:
        """Return Ray's id of a node."""
        node_id: str = self._nodes[name].node_id
        return node_id

    def name_of(self, node_id: str | None) -> str:
        """Return the name of a node; `head` where the test did not add it."""
        return next((name for name, node in self._nodes.items() if node.node_id == node_id), "head")

    def kill(self, name: str) -> None:
        """SIGKILL a node's raylet, as when the machine is gone; its workers find out, and end."""
        raylet = self._raylet(name)
        raylet.kill()
        raylet.wait()  # a zombie would pass for alive with its workers

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Have a node that starts nothing, although Ray takes it for up."""
        process = psutil.Process(self._raylet(name).pid)
        process.send_signal(signal.SIGSTOP)
        yield
        process.send_signal(signal.SIGCONT)

    def drain(self, name: str, *, left_s: float = 60.0) -> None:
        """Have Ray announce that a node will go, as for a spot instance that is taken back."""
        accepted, why_not = GcsClient(address=self._cluster.address).drain_node(
            self.id_of(name),
            DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
            "the test wants it gone",
            int(1000 * (time.time() + left_s)),
        )
        assert accepted, why_not

    def is_up(self, name: str) -> bool:
        """Return whether Ray takes a node for alive."""
        return self.id_of(name) in _alive()

    def remove_all(self) -> None:
        """Take the nodes away; return when Ray knows, and no process of theirs is left."""
        raylets = {self._raylet(name).pid for name in self._nodes}
        for node in self._nodes.values():
            self._cluster.remove_node(node)
        _until(lambda: not any(map(self.is_up, self._nodes)), f"nodes {list(self._nodes)} gone")
        _until(lambda: not _of_raylets(raylets), "the end of their processes", lambda: _of_raylets(raylets))

    def _raylet(self, name: str) -> Any:
        return self._nodes[name].all_processes["raylet"][0].process


def _alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _of_raylets(pids: set[int]) -> list[psutil.Process]:
    """Return the processes that these raylets started, by the environment that they hand down."""
    found = psutil.process_iter(["environ", "status"])
    marks = set(map(str, pids))
    return [
        process
        for process in found
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and (process.info["environ"] or {}).get("RAY_RAYLET_PID") in marks
    ]


def _until(condition: Callable[[], bool], what: str, found: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + _GONE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {_GONE_S:g} s for {what} {found()}"
        time.sleep(0.02)
