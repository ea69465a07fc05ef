"""Which job goes on which node and share. First fit.

A node's devices are bins of 1,000 thousandths. What our attempts hold comes from the log, what others on the cluster
use from what Ray says is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ftactors.core.events import RankPlacement
from ftactors.core.job import Job
from ftactors.core.phases import HOLDING_PHASES
from ftactors.core.seen import Node, Seen
from ftactors.core.service_config import ServiceConfig

WHOLE = 1000
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Need:
    """What each of a job's workers holds."""

    workers: int
    gpu_thousandths: int
    cpus: float
    mem_gib: float
    accelerator_type: str | None

    def __str__(self) -> str:
        gpu = f"{self.gpu_thousandths / WHOLE:g} GPU and " if self.gpu_thousandths else ""
        kind = f" of type {self.accelerator_type}" if self.accelerator_type else ""
        memory = f" and {self.mem_gib:g} GiB" if self.mem_gib else ""
        workers = f"{self.workers} workers of " if self.workers > 1 else ""
        return f"{workers}{gpu}{self.cpus:g} CPU{memory}{kind}"


@dataclass(slots=True)
class Free:
    """What is free on a node; changes as jobs are placed on it within one decision."""

    node: Node
    devices: list[int]
    """Free thousandths of each device."""
    cpus: float
    mem_gib: float

    def fits(self, need: Need) -> bool:
        """Return whether one worker fits."""
        wrong_type = need.accelerator_type is not None and need.accelerator_type != self.node.accelerator_type
        short_of_gpu = need.gpu_thousandths > 0 and max(self.devices, default=0) < need.gpu_thousandths
        short_of_rest = self.cpus + _ROUNDING < need.cpus or self.mem_gib + _ROUNDING < need.mem_gib
        return not (wrong_type or short_of_gpu or short_of_rest)

    def take(self, gpu_thousandths: int, cpus: float, mem_gib: float, device: int | None = None) -> None:
        """Take a worker's share, on the device named or else the fullest one that has room."""
        self.cpus -= cpus
        self.mem_gib -= mem_gib
        if not gpu_thousandths or not self.devices:
            return
        if device is None or not 0 <= device < len(self.devices):
            roomy = [index for index, free in enumerate(self.devices) if free >= gpu_thousandths]
            device = min(roomy, key=lambda index: self.devices[index], default=0)
        self.devices[device] -= gpu_thousandths


def need_of(job: Job) -> Need:
    """Return what a job holds while it trains."""
    asked = job.config.get("resources", {})
    return Need(
        workers=asked.get("num_workers", 1),
        gpu_thousandths=round((asked.get("num_gpus") or 0) * WHOLE),
        cpus=asked.get("num_cpus", 1.0),
        mem_gib=asked.get("memory_gib") or 0.0,
        accelerator_type=asked.get("accelerator_type"),
    )


def free_capacity(held: Mapping[str, Job], seen: Seen) -> list[Free]:
    """Return what is free on each node that is up.

    Args:
        held: The jobs that hold an attempt.
        seen: The last look at the cluster.
    """
    free = {node.node_id: _bare(node) for node in seen.nodes.values() if node.state == "up"}
    used_by_us = {node_id: [0.0, 0.0, 0.0] for node_id in free}
    up = {(key.job_id, key.attempt) for key, found in seen.processes.items() if found.state == "up"}
    for job, placed, node_id, device in _shares(held):
        if node_id not in free:
            continue
        free[node_id].take(placed.gpu_thousandths, placed.cpus, placed.mem_gib, device)
        if (job.job_id, job.attempts) in up:
            for index, amount in enumerate((placed.gpu_thousandths, placed.cpus, placed.mem_gib)):
                used_by_us[node_id][index] += amount
    for node_id, there in free.items():
        _take_others(there, used_by_us[node_id])
    return list(free.values())


def place(need: Need, free: list[Free]) -> tuple[RankPlacement, ...] | None:
    """Return a node for each worker and take its share from `free`; None, and nothing taken, where they do not fit."""
    trial = [replace(there, devices=list(there.devices)) for there in free]
    ranks: list[RankPlacement] = []
    for _ in range(need.workers):
        there = next((candidate for candidate in trial if candidate.fits(need)), None)
        if there is None:
            return None
        there.take(need.gpu_thousandths, need.cpus, need.mem_gib)
        ranks.append(
            RankPlacement(
                node_id=there.node.node_id,
                gpu_thousandths=need.gpu_thousandths,
                cpus=need.cpus,
                mem_gib=need.mem_gib,
            )
        )
    free[:] = trial
    return tuple(ranks)


def holds_training_share(job: Job) -> bool:
    """Return whether the job counts against `max_concurrent_fine_tuning_jobs`."""
    return job.phase in HOLDING_PHASES and job.attempt is not None and job.attempt.purpose == "train"


def holds_preparation(job: Job) -> bool:
    """Return whether the job counts against `max_concurrent_preparations`."""
    return job.phase in HOLDING_PHASES and not holds_training_share(job)


def preparation_need(rules: ServiceConfig) -> Need:
    """Return what a preparation holds."""
    return Need(1, 0, rules.preparation_num_cpus, 0.0, None)


def could_ever_fit(need: Need, seen: Seen) -> bool:
    """Return whether the workers fit on the nodes that are up when nothing else runs there."""
    empty = [_bare(node) for node in seen.nodes.values() if node.state == "up"]
    return place(need, empty) is not None


def _bare(node: Node) -> Free:
    return Free(node, [WHOLE] * node.gpus, node.cpus, node.mem_gib)


def _shares(held: Mapping[str, Job]) -> Iterator[tuple[Job, RankPlacement, str | None, int | None]]:
    for job in held.values():
        if job.attempt is None:
            continue
        for rank, placed in enumerate(job.attempt.ranks):
            started = job.attempt.started[rank] if job.attempt.started else None
            device = _index(started.devices[0]) if started and started.devices else None
            yield job, placed, (started.node_id if started else placed.node_id), device


def _index(device: str) -> int | None:
    return int(device) if device.isdecimal() else None


def _take_others(free: Free, used_by_us: list[float]) -> None:
    """Take what neither Ray calls free nor we hold: it is used by others on the cluster."""
    node = free.node
    gpu_of_others = node.gpus * WHOLE - node.free_gpu_thousandths - round(used_by_us[0])
    free.cpus -= max(0.0, node.cpus - node.free_cpus - used_by_us[1])
    free.mem_gib -= max(0.0, node.mem_gib - node.free_mem_gib - used_by_us[2])
    for index in sorted(range(len(free.devices)), key=lambda index: -free.devices[index]):
        taken = min(max(0, gpu_of_others), free.devices[index])
        free.devices[index] -= taken
        gpu_of_others -= taken
