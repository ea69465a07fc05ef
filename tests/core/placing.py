"""Plain data for the policy, and a cluster that plays Ray: it puts shares on any device that has room."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ftactors.core.needs import WHOLE, Need
from ftactors.core.occupancy import Cluster, Holder, Share
from ftactors.core.policy import Candidate, Line, Plan, Rules, plan
from ftactors.core.seen import Node

RULES = Rules(training=100, preparing=2, max_wait_s=60.0)


def node(name: str, gpus: int = 2, *, cpus: float = 64.0, mem_gib: float = 64.0, kind: str | None = None) -> Node:
    """Return a node of which everything is free."""
    return Node(
        name,
        gpus=gpus,
        cpus=cpus,
        mem_gib=mem_gib,
        free_gpu_thousandths=gpus * WHOLE,
        free_cpus=cpus,
        free_mem_gib=mem_gib,
        accelerator_type=kind,
    )


def need(gpus: float = 1.0, workers: int = 1, *, cpus: float = 1.0, mem_gib: float = 0.0) -> Need:
    """Return a need."""
    return Need(workers, round(gpus * WHOLE), cpus, mem_gib, None)


def holder(job_id: str, *shares: Share, **changes: object) -> Holder:
    """Return a job that trains."""
    return replace(Holder(job_id, "train", 0, 0.0, shares), **changes)  # type: ignore[arg-type]


def share(node_id: str, gpus: float, device: int | None = None, *, up: bool = False) -> Share:
    """Return what a rank holds, beside one CPU."""
    return Share(node_id, round(gpus * WHOLE), 1.0, 0.0, device, up)


def line(asked: Need, *jobs: Candidate) -> Line:
    """Return a line of jobs that wait to train."""
    return Line("train", asked, jobs)


def planned(
    lines: Iterable[Line], nodes: Iterable[Node], holders: Iterable[Holder] = (), rules: Rules = RULES, now: float = 0.0
) -> Plan:
    """Return the plan for these nodes."""
    return plan([*lines], Cluster(tuple(nodes)), [*holders], rules, now)


def names(found: Plan) -> list[str]:
    """Return the jobs that are placed, in their order."""
    return [placed.job_id for placed in found.placed]


@dataclass
class Job:
    """A job of the simulation."""

    candidate: Candidate
    need: Need
    lasts_s: float
    preemptible: bool = False
    started_at: float | None = None


@dataclass
class Simulation:
    """Jobs that come, run for a while and end, on nodes on which Ray chooses devices by chance."""

    nodes: list[Node]
    rules: Rules = RULES
    seed: int = 0
    now: float = 0.0
    jobs: dict[str, Job] = field(default_factory=dict)
    holders: dict[str, Holder] = field(default_factory=dict)
    preempted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)

    def come(
        self, job_id: str, asked: Need, lasts_s: float = 10.0, *, priority: int = 0, preemptible: bool = False
    ) -> None:
        """Have a job come."""
        candidate = Candidate(job_id, priority, len(self.jobs), self.now)
        self.jobs[job_id] = Job(candidate, asked, lasts_s, preemptible)

    def waiting(self) -> list[Line]:
        """Return the jobs that wait, in lines."""
        lines: dict[Need, list[Candidate]] = {}
        for job_id, job in self.jobs.items():
            if job_id not in self.holders and job.started_at is None:
                lines.setdefault(job.need, []).append(job.candidate)
        return [line(asked, *sorted(jobs, key=lambda job: job.turn)) for asked, jobs in lines.items()]

    def decide(self) -> Plan:
        """Return the plan of this moment, and have it done."""
        found = planned(self.waiting(), self.nodes, self.holders.values(), self.rules, self.now)
        for placed in found.placed:
            job = self.jobs[placed.job_id]
            ranks = [node_id for node_id, workers in placed.where or () for _ in range(workers)]
            self.holders[placed.job_id] = holder(
                placed.job_id,
                *(Share(node_id, job.need.gpu_thousandths, job.need.cpus, job.need.mem_gib) for node_id in ranks),
                priority=job.candidate.priority,
                placed_at=self.now,
                preemptible=job.preemptible,
            )
            job.started_at = self.now
        for one in found.preempted:
            self.preempted.append(one.job_id)
            told = replace(self.holders[one.job_id], ends=True, preempted_at=self.now, preemptible=False)
            self.holders[one.job_id] = told
        return found

    def settle(self) -> None:
        """Have Ray put what it has not put yet on devices that have room, in any order.

        Raises:
            RuntimeError: a share finds no device.
        """
        unsettled = [
            (job_id, rank)
            for job_id, found in self.holders.items()
            for rank, held in enumerate(found.shares)
            if held.gpu_thousandths and held.device is None
        ]
        self._draw.shuffle(unsettled)
        for job_id, rank in unsettled:
            shares = [*self.holders[job_id].shares]
            held = shares[rank]
            roomy = [
                device for device, left in enumerate(self.free(held.node_id or "")) if left >= held.gpu_thousandths
            ]
            if not roomy:
                raise RuntimeError(f"{held} of {job_id} finds no device")
            shares[rank] = replace(held, device=self._draw.choice(roomy))
            self.holders[job_id] = replace(self.holders[job_id], shares=tuple(shares))

    def free(self, node_id: str) -> list[int]:
        """Return what is free of each device, once all is settled."""
        (there,) = (node for node in self.nodes if node.node_id == node_id)
        free = [WHOLE] * there.gpus
        for found in self.holders.values():
            for held in found.shares:
                if held.node_id == node_id and held.device is not None:
                    free[held.device] -= held.gpu_thousandths
        return free

    def pass_time(self, seconds: float = 1.0) -> None:
        """Have time pass, and jobs end."""
        self.now += seconds
        for job_id in [*self.holders]:
            job = self.jobs[job_id]
            if self.holders[job_id].ends:  # it waits again
                job.started_at, job.candidate = None, replace(job.candidate, waiting_since=self.now)
                del self.holders[job_id]
            elif job.started_at is not None and self.now >= job.started_at + job.lasts_s:
                del self.holders[job_id]
