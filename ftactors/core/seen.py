"""What the cluster looks like now, as the scheduler's last look saw it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ftactors.core.work import Failed


class ProcessKey(NamedTuple):
    """Names one trainer actor."""

    job_id: str
    attempt: int
    rank: int


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster."""

    node_id: str
    state: Literal["up", "draining", "dead"] = "up"
    name: str = ""
    gpus: int = 0
    cpus: float = 0.0
    mem_gib: float = 0.0
    free_gpu_thousandths: int = 0
    """As Ray says, all devices together."""
    free_cpus: float = 0.0
    free_mem_gib: float = 0.0
    accelerator_type: str | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A trainer actor."""

    state: Literal["starting", "up", "dead"]
    node_id: str | None = None
    devices: tuple[str, ...] = ()
    pid: int = 0
    incarnation: str | None = None
    begun: bool = False
    quiet_s: float = 0.0
    """Seconds since its work last said a word, or since it last answered."""
    why: str = ""
    """What killed it, where that is known."""
    address: str | None = None
    """`host:port` that it keeps for ranks to meet at, where it is the first of several."""
    failed: Failed | None = None
    """The last word of a rank that does not report, where its work failed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the cluster."""

    as_of_seq: int = 0
    """The log's last seq when the look began: attempts placed after it are not judged by it."""
    complete: bool = False
    """False: Ray did not answer in full, and nothing follows from absence."""
    nodes: Mapping[str, Node] = field(default_factory=dict)
    processes: Mapping[ProcessKey, Process] = field(default_factory=dict)
    missing: frozenset[ProcessKey] = frozenset()
    """Processes of started attempts that were absent in this and the last complete look."""
    could_add: tuple[Node, ...] = ()
    """Nodes that the cluster's autoscaler could bring, one for each that it may add of a kind; all of them free."""
