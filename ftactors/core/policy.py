"""Who is placed now, and who makes room: one pure function over plain data.

Priority first, then submission. What fits goes ahead of what waits for more, and the first job that waits for more is
never pushed back for ever: it has a reservation. What takes room behind it must leave it the room that it will have
once those who hold something now have ended. Against jobs of its own priority that holds after it has waited long, or
once others make room for it; against those of lower priority, at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from ftactors.core.capacity import Free
from ftactors.core.events import Purpose
from ftactors.core.needs import Need
from ftactors.core.occupancy import Cluster, Holder, Occupancy, Share
from ftactors.core.placement import Spread, fits, room_anywhere, spread, take
from ftactors.core.preemption import victims_for


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting job that may be placed."""

    job_id: str
    priority: int
    submitted_seq: int
    waiting_since: float

    @property
    def turn(self) -> tuple[int, int, str]:
        """Its place in the order."""
        return -self.priority, self.submitted_seq, self.job_id


@dataclass(frozen=True, slots=True)
class Line:
    """Candidates that need the same, in their order."""

    purpose: Purpose
    need: Need
    jobs: Iterable[Candidate]
    """Read anew for each round, and only as far as they are placed."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the service's configuration says about the order."""

    training: int
    """How many jobs may hold a training share at once."""
    preparing: int
    max_wait_s: float


@dataclass(frozen=True, slots=True)
class Placed:
    """A job that is placed."""

    job_id: str
    purpose: Purpose
    need: Need
    where: Spread | None
    """None: wherever Ray finds room."""


@dataclass(frozen=True, slots=True)
class Preempted:
    """A job that gives its share back for another one."""

    job_id: str
    for_job: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done now."""

    placed: tuple[Placed, ...]
    preempted: tuple[Preempted, ...]


def plan(lines: Sequence[Line], cluster: Cluster, holders: Sequence[Holder], rules: Rules, now: float) -> Plan:
    """Return who is placed and who is preempted; once that is done, there is nothing to add at the same moment.

    Args:
        lines: The jobs that wait, each in one line.
        cluster: What there is.
        holders: The jobs that hold something, those included that are giving it back.
        rules: The caps, and how long a job lets others of its priority go ahead.
        now: The service's clock.
    """
    placed: list[Placed] = []
    preempted: list[Preempted] = []
    known, done = list(holders), set[str]()
    while True:
        step = _Round(lines, cluster, known, rules, now, done)
        step.go()
        placed += step.placed
        preempted += step.preempted
        if not (step.kept_out and step.more_room):
            return Plan(tuple(placed), tuple(preempted))
        known = step.holders_after()
        lines = [*step.first_line, *step.kept_out]


class _Round:
    """One walk through the waiting jobs, in their order."""

    def __init__(
        self,
        lines: Sequence[Line],
        cluster: Cluster,
        holders: Sequence[Holder],
        rules: Rules,
        now: float,
        done: set[str],
    ) -> None:
        self._lines, self._cluster, self._holders, self._rules = lines, cluster, [*holders], rules
        self._now, self._done = now, done
        self._occupancy = Occupancy(cluster, holders)
        self._free = self._occupancy.now()
        self._training = sum(holder.purpose == "train" for holder in holders)
        self._preparing = len(holders) - self._training
        self._kept: tuple[Need, dict[str, Free]] | None = None
        """What the first job that waits for more needs, and where there will be room for it."""
        self._beside: dict[str, Free] = {}
        """What it leaves to others."""
        self._slots_beside = rules.training
        """How many of those that may train at once it leaves to others."""
        self._against_equals = False
        self._first: Candidate | None = None
        """The first job that waits for more."""
        self.first_line: list[Line] = []
        """The line in which it waits."""
        self.kept_out: list[Line] = []
        """Those in which somebody would have been placed, were it not for that job."""
        self.more_room = False
        """Whether the room that is kept came to lie elsewhere, so that some of them may find room after all."""
        self.placed: list[Placed] = []
        self.preempted: list[Preempted] = []

    def go(self) -> None:
        """Find who is placed and who is preempted."""
        queues = [(line, iter(line.jobs)) for line in self._lines]
        heads = [
            (candidate.turn, number, candidate)
            for number, (_, jobs) in enumerate(queues)
            if (candidate := next(jobs, None)) is not None
        ]
        heapify(heads)
        while heads:
            _, number, candidate = heappop(heads)
            line, jobs = queues[number]
            if candidate.job_id in self._done or self._goes(line, candidate):
                following = next(jobs, None)
                if following is not None:
                    heappush(heads, (following.turn, number, following))

    def holders_after(self) -> list[Holder]:
        """Return the holders as they are once the answer is recorded."""
        preempted = {one.job_id for one in self.preempted}
        return [
            replace(holder, ends=True, preempted_at=self._now) if holder.job_id in preempted else holder
            for holder in self._holders
        ]

    def _goes(self, line: Line, candidate: Candidate) -> bool:
        """Place the job, or return False: then none of its line can be placed."""
        if line.purpose == "prepare":
            where, goes = None, self._preparing < self._rules.preparing and self._prepares(line, candidate)
            self._preparing += goes
        else:
            where = self._where(line, candidate)
            goes = where is not None
            self._training += goes
        if goes:
            placed = Placed(candidate.job_id, line.purpose, line.need, where)
            if not self._is_worth_a_moment(line.need, where):
                self.placed.append(placed)
            self._holders.append(_holder(placed, candidate.priority, self._now))
            self._done.add(candidate.job_id)
        return goes

    def _is_worth_a_moment(self, need: Need, where: Spread | None) -> bool:
        """Return whether a gang may go on fewer nodes as soon as Ray calls free what has just been left there.

        The room that it would take now stays its own meanwhile.
        """
        if where is None or len(where) == 1 or not self._cluster.left:
            return False
        sooner = spread(need, Occupancy(self._cluster, self._holders).soon())
        return sooner is not None and len(sooner) < len(where)

    def _where(self, line: Line, candidate: Candidate) -> Spread | None:
        """Return where a job goes, and take the room there; None where it waits."""
        need = line.need
        behind = self._is_behind(candidate)
        if self._training >= self._rules.training:
            where = None
        elif behind:
            where = spread(need, self._free, self._beside)
            if where is None or self._slots_beside < 1 or not self._leaves_room(need, where):
                self.kept_out.append(line)
                return None
            self._slots_beside -= 1
        else:
            where = spread(need, self._free)
        if where is not None:
            take(need, where, self._free)
        elif self._first is None and fits(need, self._occupancy.without({holder.job_id for holder in self._holders})):
            self.first_line = [line]
            self._reserve(need, candidate)
        return where

    def _prepares(self, line: Line, candidate: Candidate) -> bool:
        """Take the room for a preparation, of which Ray chooses the node, and return whether there is room."""
        need = line.need
        open_to_it = room_anywhere(need, self._free)
        if not open_to_it:
            return False
        if self._is_behind(candidate) and not all(self._beside[node_id].fits(need) for node_id in open_to_it):
            self.kept_out.append(line)
            return False
        self.more_room |= self._first is not None  # once it is up, it takes the room of one node only
        for capacity in (self._free, self._beside):
            for node_id, free in capacity.items():
                capacity[node_id] = replace(free, roaming_cpus=free.roaming_cpus + need.cpus)
        return True

    def _is_behind(self, candidate: Candidate) -> bool:
        """Return whether a job must leave room for the first one that waits for more."""
        return self._first is not None and (self._against_equals or candidate.priority < self._first.priority)

    def _reserve(self, need: Need, first: Candidate) -> None:
        """Let all that come after this job leave it the room that it will have, and make room where that is right."""
        self._first = first
        if self.placed:
            self._occupancy = Occupancy(self._cluster, self._holders)
        victims = victims_for(need, first.priority, self._holders, self._occupancy, self._rules.training)
        self.preempted = [Preempted(victim.job_id, first.job_id) for victim in victims]
        told = [holder.preempted_at for holder in self._holders if holder.preempted_at is not None]
        since = min([first.waiting_since + self._rules.max_wait_s, *told, *([self._now] if victims else [])])
        self._against_equals = self._now >= since
        ending = {holder.job_id for holder in self._holders if holder.ends}.union(victim.job_id for victim in victims)
        before = {holder.job_id for holder in self._holders if not _came_after(holder, first, since)}
        for gone in (ending, ending | before):
            if self._keep(need, self._occupancy.without(gone)):
                staying = sum(holder.purpose == "train" and holder.job_id not in gone for holder in self._holders)
                self._slots_beside = self._rules.training - staying - 1
                self._against_equals |= gone == ending  # its room is being given back
                return
        self._beside = {
            node_id: replace(free, settled=(), cpus=0.0, mem_gib=0.0) if free.fits(need) else free
            for node_id, free in self._occupancy.empty().items()
        }

    def _keep(self, need: Need, room: dict[str, Free]) -> bool:
        """Keep room for the first job that waits for more, and return whether there will be room."""
        beside = {node_id: free.hoped() for node_id, free in room.items()}
        where = spread(need, beside)
        if where is None:
            return False
        take(need, where, beside)
        self._kept, self._beside = (need, room), {node_id: free.hoped() for node_id, free in beside.items()}
        return True

    def _leaves_room(self, need: Need, where: Spread) -> bool:
        """Return whether the room that is kept is there beside this, too, and take this from what is left."""
        if self._kept is None:
            take(need, where, self._beside)
            return True
        room, before = dict(self._kept[1]), self._beside
        take(need, where, room)
        if not self._keep(self._kept[0], room):
            return False
        self.more_room |= any(_has_more(free, before[node_id]) for node_id, free in self._beside.items())
        return True


def _holder(placed: Placed, priority: int, now: float) -> Holder:
    """Return what a job holds that is placed now."""
    need, where = placed.need, placed.where
    nodes = [None] if where is None else [node_id for node_id, workers in where for _ in range(workers)]
    return Holder(
        job_id=placed.job_id,
        purpose=placed.purpose,
        priority=priority,
        placed_at=now,
        shares=tuple(Share(node_id, need.gpu_thousandths, need.cpus, need.mem_gib) for node_id in nodes),
    )


def _has_more(free: Free, before: Free) -> bool:
    if free.cpus > before.cpus or free.mem_gib > before.mem_gib:
        return True
    return any(device > was for device, was in zip(free.settled, before.settled, strict=True))


def _came_after(holder: Holder, first: Candidate, since: float) -> bool:
    """Return whether a holder was placed when a reservation held against it."""
    began = first.waiting_since if holder.priority < first.priority else since
    return holder.priority <= first.priority and holder.placed_at >= began
