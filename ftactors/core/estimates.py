"""When waiting jobs are expected to start: the policy, asked for each moment at which a running job should end."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import islice
from math import ceil

from ftactors.core.capacity import ROUNDING, Free
from ftactors.core.ends import expected_end
from ftactors.core.needs import WHOLE, Need, preparation_need
from ftactors.core.occupancy import Cluster, Holder, Occupancy, Share
from ftactors.core.placement import Spread
from ftactors.core.policy import Candidate, Line, Plan, Rules, plan
from ftactors.core.seen import Node
from ftactors.core.state import State
from ftactors.core.turns import Turn

_MINUTE_S = 60.0
_MOST_MOMENTS = 12
"""So many moments are looked at: what comes after so much has ended is a guess, and each costs a millisecond or two."""
_MOST_LINES = 8
"""So many lines are looked at in each moment: of jobs that need something else, only the first have an estimate."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The jobs of one line that nothing but a lack of room holds back at a moment, in their order."""

    state: State
    turns: Sequence[Turn]
    gone: Collection[str]
    at: float

    def __iter__(self) -> Iterator[Candidate]:
        for turn in self.turns:
            job = self.state.jobs[turn.job_id]
            if job.retry_at <= self.at and job.job_id not in self.gone:
                yield Candidate(job.job_id, job.priority, job.submitted_seq, job.waiting_since)


def lines_of(state: State, gone: Collection[str], at: float) -> list[Line]:
    """Return the jobs that wait and may be placed at a moment; paused ones wait for somebody.

    Args:
        state: All that is known.
        gone: Jobs to leave out.
        at: The moment.
    """
    return [
        Line(kind.purpose, kind.need or preparation_need(state.rules), Ready(state, turns, gone, at))
        for kind, turns in state.turns.lines.items()
        if not kind.paused
    ]


def rules_of(state: State) -> Rules:
    """Return what the service's configuration says about the order."""
    rules = state.rules
    return Rules(rules.max_concurrent_fine_tuning_jobs, rules.max_concurrent_preparations, rules.max_wait_seconds)


def plan_now(state: State, cluster: Cluster, holders: Sequence[Holder], alive: Collection[str], now: float) -> Plan:
    """Return who is placed next; nobody of whom a process is still seen alive."""
    return plan(lines_of(state, alive, now), cluster, holders, rules_of(state), now)


def estimated_starts(state: State, cluster: Cluster, holders: Iterable[Holder], now: float) -> dict[str, float]:
    """Return when jobs whose data is prepared should start to train, in seconds since 1970; only of whom it is known.

    Running jobs give back what they hold when they are expected to end; where that is not known, they keep it, and so
    do those that are placed on the way, for how long they will take nobody knows. Each is told to the next minute.
    """
    future = _Future(state, cluster, holders, now)
    starts: dict[str, float] = {}
    at: float | None = now
    for _ in range(_MOST_MOMENTS):
        if at is None or not state.turns.lines:
            break
        starts.update(dict.fromkeys(future.placed(at), _next_minute(at)))
        at = future.pass_to_next_end()
    return starts


class _Future:
    """The cluster as time goes on."""

    def __init__(self, state: State, cluster: Cluster, holders: Iterable[Holder], now: float) -> None:
        self._state = state
        self._holders = {holder.job_id: holder for holder in holders}
        ended = ((job_id, expected_end(state.held[job_id])) for job_id in self._holders)
        self._ends = [(max(now, at), job_id) for job_id, at in ended if at is not None]
        heapify(self._ends)
        self._nodes = {node.node_id: self._settled(node, cluster) for node in cluster.nodes}
        self._done: set[str] = set()

    def pass_to_next_end(self) -> float | None:
        """Let those end that do so next, within the same minute, and return when; None where nobody ends."""
        if not self._ends:
            return None
        at = self._ends[0][0]
        while self._ends and self._ends[0][0] <= _next_minute(at):
            ended_at, job_id = heappop(self._ends)
            at = max(at, ended_at)
            for share in self._holders.pop(job_id).shares:
                self._give_back(share)
        return at

    def placed(self, at: float) -> list[str]:
        """Place the jobs whose turn has come by now, and return those of them that train."""
        cluster, holders = Cluster((*self._nodes.values(),)), [*self._holders.values()]
        planned = plan(self._lines(cluster, holders, at), cluster, holders, rules_of(self._state), at)
        for preempted in planned.preempted:
            holder = self._holders[preempted.job_id]
            self._holders[holder.job_id] = replace(holder, ends=True, preemptible=False, preempted_at=at)
            self._ends = [(ends_at, job_id) for ends_at, job_id in self._ends if job_id != holder.job_id]
            heapify(self._ends)
            heappush(self._ends, (at + self._state.rules.stop_grace_seconds, holder.job_id))
        for placed in planned.placed:
            self._done.add(placed.job_id)
            each = Share(None, placed.need.gpu_thousandths, placed.need.cpus, placed.need.mem_gib)
            shares = tuple(replace(each, node_id=node_id) for node_id in _one_by_one(placed.where or ()))
            priority = self._state.jobs[placed.job_id].priority
            self._holders[placed.job_id] = Holder(placed.job_id, "train", priority, at, shares)
        return [placed.job_id for placed in planned.placed]

    def _lines(self, cluster: Cluster, holders: Sequence[Holder], at: float) -> list[Line]:
        """Return the line of the first job, for which room may be kept, and the next ones of which a worker may fit."""
        lines = [line for line in lines_of(self._state, self._done, at) if line.purpose == "train"]
        heads = [(head.turn, number) for number, line in enumerate(lines) for head in islice(line.jobs, 1)]
        in_order = [lines[number] for _, number in sorted(heads)]
        free = Occupancy(cluster, holders).now().values()
        behind = (line for line in in_order[1:] if any(_may_fit(line.need, there) for there in free))
        return [*in_order[:1], *islice(behind, _MOST_LINES)]

    def _settled(self, node: Node, cluster: Cluster) -> Node:
        """Return a node without what is in use now by processes that nobody wants and that will be gone by then."""
        if not cluster.settles(node.node_id):
            return node
        return replace(node, free_gpu_thousandths=node.gpus * WHOLE, free_cpus=node.cpus, free_mem_gib=node.mem_gib)

    def _give_back(self, share: Share) -> None:
        """Let Ray call a share free whose process it has called up."""
        node = self._nodes.get(share.node_id or "")
        if node is not None and share.up:
            self._nodes[node.node_id] = replace(
                node,
                free_gpu_thousandths=node.free_gpu_thousandths + share.gpu_thousandths,
                free_cpus=node.free_cpus + share.cpus,
                free_mem_gib=node.free_mem_gib + share.mem_gib,
            )


def _may_fit(need: Need, free: Free) -> bool:
    """Return whether a worker may find room; told quickly."""
    devices = free.settled[-1] if free.settled else 0
    return devices >= need.gpu_thousandths and free.cpus + ROUNDING >= need.cpus


def _next_minute(at: float) -> float:
    return ceil(at / _MINUTE_S) * _MINUTE_S


def _one_by_one(where: Spread) -> Iterator[str]:
    return (node_id for node_id, workers in where for _ in range(workers))
