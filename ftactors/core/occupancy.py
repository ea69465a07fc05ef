"""What is free on the nodes that are up: what is there, less what our attempts hold, less what others use.

What our attempts hold comes from the log; what there is, and what others on the cluster use, from Ray, which tells
sums only. What others use counts as whole devices and one share of a device, nobody knows which.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from zlib import crc32

from ftactors.core.capacity import Free, bare
from ftactors.core.events import Purpose, RankPlacement
from ftactors.core.job import Attempt, Job
from ftactors.core.judging import process_keys
from ftactors.core.needs import WHOLE
from ftactors.core.phases import Phase
from ftactors.core.seen import Node, Process, ProcessKey, Seen

SETTLING_S = 2.0
"""So long after an attempt left a node, Ray may still call its share used."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank of an attempt holds."""

    node_id: str | None
    """None: a preparation that Ray puts wherever there is room."""
    gpu_thousandths: int
    cpus: float
    mem_gib: float
    device: int | None = None
    """None: Ray has not told yet."""
    up: bool = False
    """Whether its process is seen up, and so is in what Ray calls used."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A job that holds an attempt."""

    job_id: str
    purpose: Purpose
    priority: int
    placed_at: float
    shares: tuple[Share, ...]
    preemptible: bool = False
    ends: bool = False
    """Whether it is giving its share back."""
    preempted_at: float | None = None
    """When it was told to, for a job of higher priority."""

    @property
    def nodes(self) -> set[str | None]:
        """Where it holds something."""
        return {share.node_id for share in self.shares}


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes that are up, and what is there that no holder accounts for."""

    nodes: tuple[Node, ...]
    lingering: Mapping[str, Collection[int]] = field(default_factory=dict)
    """By node, the devices of processes that nobody wants and that are not gone yet."""
    left: Collection[str] = ()
    """Nodes of which an attempt has just gone: Ray may still call its share used."""

    def settles(self, node_id: str) -> bool:
        """Return whether an attempt has just gone, or is going: then what others use there is not known."""
        return node_id in self.lingering or node_id in self.left


class Occupancy:
    """What holders leave free, now and once some of them are gone."""

    def __init__(self, cluster: Cluster, holders: Iterable[Holder]) -> None:
        self.cluster = cluster
        self._shares: dict[str, list[tuple[str, Share]]] = {node.node_id: [] for node in cluster.nodes}
        self._roaming_cpus = 0.0
        for holder in holders:
            for share in holder.shares:
                if share.node_id is None:
                    self._roaming_cpus += share.cpus
                elif share.node_id in self._shares:
                    self._shares[share.node_id].append((holder.job_id, share))
        self._jobs = {node_id: frozenset(job_id for job_id, _ in there) for node_id, there in self._shares.items()}
        self._of_others = {node.node_id: self._others(node) for node in cluster.nodes}
        self._later: dict[tuple[str, frozenset[str]], tuple[Free, Free]] = {}

    def now(self) -> dict[str, Free]:
        """Return what is free for certain, by node."""
        return {
            node.node_id: replace(self._free_now(node), roaming_cpus=self._roaming_cpus) for node in self.cluster.nodes
        }

    def soon(self) -> dict[str, Free]:
        """Return what may be free, by node, once Ray calls the shares free of the attempts that have just gone."""
        return {node.node_id: self._free_soon(node) for node in self.cluster.nodes}

    def without(self, gone: set[str]) -> dict[str, Free]:
        """Return what is left, by node, once these jobs are gone, and the processes that nobody wants with them."""
        return {node.node_id: self._free_without(node, gone)[0] for node in self.cluster.nodes}

    def likely_without(self, gone: set[str]) -> dict[str, Free]:
        """Return the same, with each share of which the device is not known where it fits best."""
        return {node.node_id: self._free_without(node, gone)[1] for node in self.cluster.nodes}

    def empty(self) -> dict[str, Free]:
        """Return what the nodes have when nothing runs on them."""
        return {node.node_id: bare(node) for node in self.cluster.nodes}

    def _free_now(self, node: Node) -> Free:
        return self._free_beside(node, self._of_others[node.node_id])

    def _free_soon(self, node: Node) -> Free:
        return self._free_beside(node, _NOTHING if node.node_id in self.cluster.left else self._of_others[node.node_id])

    def _free_beside(self, node: Node, others: Share) -> Free:
        shares = [share for _, share in self._shares[node.node_id]]
        return _less(bare(node), shares, others, self.cluster.lingering.get(node.node_id, frozenset()))

    def _free_without(self, node: Node, gone: set[str]) -> tuple[Free, Free]:
        key = (node.node_id, self._jobs[node.node_id] & gone)
        if key not in self._later:
            others = _NOTHING if self.cluster.settles(node.node_id) else self._of_others[node.node_id]
            stay = [share for job_id, share in self._shares[node.node_id] if job_id not in gone]
            free = _less(bare(node), stay, others, frozenset())
            self._later[key] = free, free.hoped()
        return self._later[key]

    def _others(self, node: Node) -> Share:
        """Return what neither Ray calls free nor we hold."""
        thousandths, cpus, mem_gib = node.gpus * WHOLE - node.free_gpu_thousandths, node.free_cpus, node.free_mem_gib
        for _, share in self._shares[node.node_id]:
            if share.up:
                thousandths -= share.gpu_thousandths
                cpus += share.cpus
                mem_gib += share.mem_gib
        return Share(node.node_id, max(0, thousandths), max(0.0, node.cpus - cpus), max(0.0, node.mem_gib - mem_gib))


_NOTHING = Share(None, 0, 0.0, 0.0)
_NAMED = 1_000_000  # beyond the number of any device


def cluster_of(seen: Seen, held: Mapping[str, Job], left: Iterable[str] = ()) -> Cluster:
    """Return the nodes as they are seen.

    Args:
        seen: The last look at the cluster.
        held: The jobs that hold an attempt.
        left: Nodes of which an attempt has just gone.
    """
    owned = {key for job in held.values() for key in process_keys(job)}
    lingering: defaultdict[str, set[int]] = defaultdict(set)
    for key, found in seen.processes.items():
        if key not in owned and found.state != "dead" and found.node_id is not None:
            lingering[found.node_id].update(_devices(found.devices))
    nodes = sorted((node for node in seen.nodes.values() if node.state == "up"), key=lambda node: node.node_id)
    return Cluster(tuple(nodes), lingering, frozenset(left))


def holder_of(job: Job, attempt: Attempt, seen: Seen) -> Holder:
    """Return what a job holds by the attempt that it has, with what is seen of its processes."""
    number, processes = attempt.number, seen.processes
    yields = job.phase is Phase.YIELDING
    return Holder(
        job_id=job.job_id,
        purpose=attempt.purpose,
        priority=job.priority,
        placed_at=attempt.placed_at,
        shares=tuple(
            _share(attempt, rank, placed, processes.get(ProcessKey(job.job_id, number, rank)))
            for rank, placed in enumerate(attempt.ranks)
        ),
        preemptible=bool(job.config.get("preemptible", False)) and job.phase in {Phase.PLACED, Phase.RUNNING},
        ends=yields or job.phase is Phase.CANCELLING,
        preempted_at=attempt.yield_at if yields and attempt.yield_reason == "preempted" else None,
    )


def holders_of(held: Mapping[str, Job], seen: Seen) -> list[Holder]:
    """Return what jobs hold."""
    return [holder_of(job, job.attempt, seen) for job in held.values() if job.attempt is not None]


def _share(attempt: Attempt, rank: int, placed: RankPlacement, found: Process | None) -> Share:
    """Return what a rank holds: where it was placed, or where its process has said that it is."""
    up = found if found is not None and found.state == "up" else None
    told = attempt.started[rank] if attempt.started else up
    devices = _devices(told.devices) if told else []
    return Share(
        node_id=(told.node_id if told else None) or placed.node_id,
        gpu_thousandths=placed.gpu_thousandths,
        cpus=placed.cpus,
        mem_gib=placed.mem_gib,
        device=devices[0] if devices else None,
        up=up is not None,
    )


def _devices(names: Iterable[str]) -> list[int]:
    """Return a number for each device: its own, or where Ray names it otherwise (`GPU-…`, `MIG-…`), one far beyond."""
    return [int(name) if name.isdecimal() else _NAMED + crc32(name.encode()) for name in names]


def _places(named: Iterable[int], count: int) -> dict[int, int]:
    """Return which of a node's devices each number means: itself, or one that is left where the node has none such.

    Ray tells what `CUDA_VISIBLE_DEVICES` said when the node started: with `2,3`, those are its two devices.
    """
    numbers = sorted(set(named))
    others = [number for number in numbers if number >= count]
    left = [place for place in range(count) if place not in numbers]
    return {number: number for number in numbers if number < count} | dict(zip(others, left, strict=False))


def _less(there: Free, shares: list[Share], others: Share, lingering: Collection[int]) -> Free:
    """Return what a node has left."""
    devices, unsettled, cpus, mem_gib = [*there.settled], [], there.cpus - others.cpus, there.mem_gib - others.mem_gib
    named = (share.device for share in shares if share.device is not None)
    places = _places((*named, *lingering), len(devices))
    for share in shares:
        cpus -= share.cpus
        mem_gib -= share.mem_gib
        place = None if share.device is None else places.get(share.device)
        if place is not None:
            devices[place] = max(0, devices[place] - share.gpu_thousandths)
        elif share.gpu_thousandths:
            unsettled.append(share.gpu_thousandths)
    for device in lingering:
        if device in places:
            devices[places[device]] = 0
    unsettled += _take_others(devices, others.gpu_thousandths)
    return Free(there.node, tuple(sorted(devices)), tuple(sorted(unsettled)), cpus, mem_gib)


def _take_others(devices: list[int], thousandths: int) -> Iterator[int]:
    """Take what others use from whole devices, and yield the share of one more, nobody knows which.

    Where that cannot be, for they share devices with us, it is taken from the emptiest.
    """
    whole, rest = divmod(thousandths, WHOLE)
    for index, free in enumerate(devices):
        if whole and free == WHOLE:
            devices[index], whole = 0, whole - 1
    if whole or rest > max(devices, default=0):
        rest += whole * WHOLE
        for index in sorted(range(len(devices)), key=lambda index: -devices[index]):
            taken = min(rest, devices[index])
            devices[index] -= taken
            rest -= taken
    elif rest:
        yield rest
