"""The order in which waiting jobs go: priority, then submission. Jobs that need the same wait in one line."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ftactors.core.events import Purpose
from ftactors.core.job import Job
from ftactors.core.needs import Need, need_of
from ftactors.core.phases import Phase


class Turn(NamedTuple):
    """A waiting job's place in the order."""

    priority: int
    """Negated, for the higher ones go first."""
    submitted_seq: int
    job_id: str


class Kind(NamedTuple):
    """What the jobs of one line have in common."""

    purpose: Purpose
    need: Need | None
    """None for preparations, which all need what the rules say."""
    paused: bool


def turn_of(job: Job) -> Turn:
    """Return a job's place in the order."""
    return Turn(-job.priority, job.submitted_seq, job.job_id)


def purpose_of(job: Job) -> Purpose:
    """Return what a waiting job's next attempt is for."""
    return "prepare" if job.phase is Phase.SUBMITTED else "train"


def kind_of(job: Job) -> Kind:
    """Return the kind of line in which a waiting job waits."""
    purpose = purpose_of(job)
    return Kind(purpose, need_of(job) if purpose == "train" else None, job.paused)


class Turns:
    """The waiting jobs, kept in their order, so that nobody has to sort them."""

    def __init__(self) -> None:
        self._order: list[Turn] = []
        self._lines: dict[Kind, list[Turn]] = {}

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        return (turn.job_id for turn in self._order)

    @property
    def lines(self) -> Mapping[Kind, Sequence[Turn]]:
        """The jobs of each kind that wait, in their order; none is empty."""
        return self._lines

    def add(self, job: Job) -> None:
        """Let a job wait."""
        turn = turn_of(job)
        insort(self._order, turn)
        insort(self._lines.setdefault(kind_of(job), []), turn)

    def remove(self, job: Job) -> None:
        """Let a job that waits as it is here wait no more."""
        turn, kind = turn_of(job), kind_of(job)
        line = self._lines[kind]
        del line[bisect_left(line, turn)]
        if not line:
            del self._lines[kind]
        del self._order[bisect_left(self._order, turn)]

    def position(self, job: Job) -> int:
        """Return how many jobs go before this one, and 1; a paused one goes before nobody."""
        turn = turn_of(job)
        return 1 + sum(bisect_left(line, turn) for kind, line in self._lines.items() if not kind.paused)
