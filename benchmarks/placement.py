"""How long a decision takes while many jobs wait: `python -m benchmarks.placement` prints the table.

A cluster of 64 devices is simulated: processes come up on devices that are chosen as Ray chooses them, jobs end, new
ones come. Only `decide` is timed. It takes half a minute; `--quick` takes seconds, and shows only that all of it runs.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import thread_time

from benchmarks.machine import facts
from benchmarks.measuring import say
from benchmarks.stories import OPENED, id_of, submitted
from benchmarks.table import Line, Target, table
from ftactors.core.decide import decide
from ftactors.core.events import (
    AnyEvent,
    AttemptPlaced,
    AttemptStarted,
    AttemptStopped,
    DatasetPrepared,
    JobCompleted,
    PublishedModel,
    RankPlacement,
    RankStarted,
    ServiceStarted,
)
from ftactors.core.judging import process_keys
from ftactors.core.needs import WHOLE
from ftactors.core.phases import Phase
from ftactors.core.seen import Node, Process, ProcessKey, Seen
from ftactors.core.service_config import ServiceConfig
from ftactors.core.state import State

NODES, DEVICES = 8, 8
SECONDS_A_STEP = 1.0
ENDING = 0.02
"""The part of the running jobs that end with a step, and of those that were told to yield."""
YIELDED = 0.3
URGENT = 9
"""The highest priority."""
SHARES = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75)
NEEDS: list[Mapping[str, float | None]] = [
    *[{"num_workers": 1, "num_gpus": share, "memory_gib": gib} for share in SHARES for gib in (None, 8.0, 16.0)],
    *[{"num_workers": 1, "num_gpus": 1, "num_cpus": cpus} for cpus in (1.0, 2.0, 4.0, 8.0)],
    *[{"num_workers": workers, "num_gpus": 1} for workers in (2, 3, 4, 6, 8, 12, 16)],
    *[{"num_workers": workers, "num_gpus": 0.5} for workers in (2, 4, 8)],
    *[{"num_workers": 1, "num_gpus": None, "num_cpus": cpus} for cpus in (8.0, 16.0)],
]
"""40 of them; they are drawn alike, so that a third asks for more than one device."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What goes on while decisions are measured."""

    what: str
    max_wait_s: float = 600.0
    """0: the job that waits for more goes before all that come after it."""
    preemptible: bool = False
    urgent: float = 0.0
    """How many jobs of the highest priority come with each step."""


TRAFFIC = (
    Traffic("fractions, whole devices and gangs"),
    Traffic("the same with a strict reservation", max_wait_s=0.0),
    Traffic("the same with preemption", preemptible=True, urgent=0.2),
)


class Simulation:
    """A service whose cluster is full, with so many jobs waiting."""

    def __init__(self, traffic: Traffic, waiting: int) -> None:
        self._traffic = traffic
        self._draw = random.Random(0)  # noqa: S311 - a draw that can be repeated
        self._now = 1.0
        self._jobs = 0
        self.state = State()
        rules = ServiceConfig(max_concurrent_fine_tuning_jobs=10_000, max_wait_seconds=traffic.max_wait_s)
        self._record(OPENED)
        self._record(ServiceStarted(config=rules.model_dump(mode="json"), by="ada@host:1"))
        self._nodes = [
            Node(f"n{number}", gpus=DEVICES, cpus=128.0, mem_gib=512.0, accelerator_type="A100")
            for number in range(NODES)
        ]
        self._processes: dict[ProcessKey, Process] = {}
        self._waiting = waiting
        self._refill()

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self.state.turns)

    @property
    def preempted(self) -> int:
        """How many jobs give their share back now."""
        return sum(job.phase is Phase.YIELDING for job in self.state.held.values())

    def step(self) -> float:
        """Let a second pass, and return how many seconds of CPU the decision took: it waits for nothing."""
        seen = self._seen()
        gc.disable()  # what it collects was left by the simulation
        began = thread_time()
        found = decide(self.state, seen, self._now)
        took = thread_time() - began
        gc.enable()
        for fact in found:
            self._record(fact)
        self._go_on()
        self._refill()
        self._now += SECONDS_A_STEP
        return took

    def _record(self, event: AnyEvent) -> None:
        self.state.apply(self.state.recorded(event, self._now))

    def _refill(self) -> None:
        if self._draw.random() < self._traffic.urgent:
            self._come(priority=URGENT)
        while self.waiting < self._waiting:
            self._come(priority=self._draw.choice([0, 0, 0, 1, 2, 5]))

    def _come(self, *, priority: int) -> None:
        """Have a job come, with its data prepared."""
        job_id, number = id_of(self._jobs), self._jobs
        self._jobs += 1
        asked = {"num_cpus": 1.0, "memory_gib": None, "accelerator_type": None, **self._draw.choice(NEEDS)}
        preemptible = self._traffic.preemptible and priority < URGENT
        self._record(submitted(number, resources=asked, priority=priority, preemptible=preemptible))
        anywhere = RankPlacement(node_id=None, gpu_thousandths=0, cpus=1)
        self._record(AttemptPlaced(job_id=job_id, attempt=1, purpose="prepare", ranks=(anywhere,)))
        there = RankStarted(node_id="n0", pid=1)
        self._record(AttemptStarted(job_id=job_id, attempt=1, incarnation="i", ranks=(there,)))
        self._record(DatasetPrepared(job_id=job_id, attempt=1, path="/data", fingerprint="f", shape="text", counts={}))

    def _go_on(self) -> None:
        """Have what is placed come up, and some of what runs end."""
        for job in [*self.state.held.values()]:
            attempt = job.attempt
            if attempt is None:
                continue
            if job.phase is Phase.YIELDING and self._draw.random() < YIELDED:
                self._record(AttemptStopped(job_id=job.job_id, attempt=attempt.number, reason="preempted", clean=True))
            elif job.phase is Phase.RUNNING and self._draw.random() < ENDING:
                base = job.submitted.base
                model = PublishedModel(id=job.new_model_id, path="/model", digest="d", kind="adapter", base=base)
                self._record(
                    JobCompleted(job_id=job.job_id, attempt=attempt.number, model=model, metrics={}, trained_tokens=1)
                )
            else:
                continue
            for key in process_keys(job):
                self._processes.pop(key, None)
        for job in self.state.held.values():
            for key, rank in zip(process_keys(job), job.attempt.ranks if job.attempt else (), strict=True):
                if key not in self._processes:
                    self._come_up(key, rank)

    def _come_up(self, key: ProcessKey, rank: RankPlacement) -> None:
        """Bring a process up on the fullest device that has room."""
        free = self._free(rank.node_id or "")
        roomy = [device for device, left in enumerate(free) if left >= rank.gpu_thousandths]
        devices: tuple[str, ...] = ()
        if rank.gpu_thousandths:
            devices = (str(min(roomy, key=lambda device: (free[device], self._draw.random()))),)
        self._processes[key] = Process(
            state="up", node_id=rank.node_id, devices=devices, pid=1, incarnation=f"{key}", begun=True, address="h:1"
        )

    def _free(self, node_id: str) -> list[int]:
        free = [WHOLE] * DEVICES
        for key, rank in self._ranks():
            found = self._processes.get(key)
            if found is not None and found.devices and found.node_id == node_id:
                free[int(found.devices[0])] -= rank.gpu_thousandths
        return free

    def _ranks(self) -> Iterator[tuple[ProcessKey, RankPlacement]]:
        for job in self.state.held.values():
            if job.attempt is not None:
                yield from zip(process_keys(job), job.attempt.ranks, strict=True)

    def _seen(self) -> Seen:
        """Return what a look tells: of what is free, the sums."""
        used = {node.node_id: [0, 0.0, 0.0] for node in self._nodes}
        for key, rank in self._ranks():
            if key in self._processes and rank.node_id is not None:
                sums = used[rank.node_id]
                sums[0] += rank.gpu_thousandths
                sums[1] += rank.cpus
                sums[2] += rank.mem_gib
        nodes = {
            node.node_id: replace(
                node,
                free_gpu_thousandths=int(node.gpus * WHOLE - used[node.node_id][0]),
                free_cpus=node.cpus - used[node.node_id][1],
                free_mem_gib=node.mem_gib - used[node.node_id][2],
            )
            for node in self._nodes
        }
        return Seen(self.state.seq, complete=True, nodes=nodes, processes=dict(self._processes))


def decisions(traffic: Traffic, waiting: int, count: int) -> Line:
    """Measure decisions while jobs come and go; the cluster is full before the first one counts."""
    say(f"{waiting:,} waiting jobs: {traffic.what}")
    simulation = Simulation(traffic, waiting)
    for _ in range(20):
        simulation.step()
    took: list[float] = []
    placed_before, preempted = simulation.state.seq, 0
    for _ in range(count):
        took.append(simulation.step())
        preempted += simulation.preempted > 0
    if simulation.state.seq - placed_before < count or bool(preempted) != traffic.preemptible:
        raise RuntimeError(f"{traffic.what}: next to nothing happened, or somebody was preempted who must not be")
    p99_ms = statistics.quantiles(took, n=100)[98] * 1e3
    p50_ms = statistics.median(took) * 1e3
    devices = NODES * DEVICES
    what = f"decision with {waiting:,} waiting jobs on {devices} devices, p99: {traffic.what}"
    return Line(what, f"{p99_ms:.2f} ms", f"p50 {p50_ms:.2f} ms", p99_ms, Target("at most", 5.0, "ms"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="do little of everything: a smoke test")
    chosen = parser.parse_args(arguments)
    waiting, count = (200, 60) if chosen.quick else (10_000, 500)
    lines = [decisions(traffic, waiting, count) for traffic in TRAFFIC]
    say("done: a smoke test, and its numbers mean nothing" if chosen.quick else "done")
    print(f"{facts(Path(tempfile.gettempdir()))}\n\n{table(lines)}")


if __name__ == "__main__":
    main()
