"""The order in which waiting jobs go: priority, then submission."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import merge
from typing import NamedTuple

from ftactors.core.events import Purpose
from ftactors.core.job import Job
from ftactors.core.phases import Phase


class Turn(NamedTuple):
    """A waiting job's place in the order."""

    priority: int
    """Negated, for the higher ones go first."""
    submitted_seq: int
    job_id: str


def turn_of(job: Job) -> Turn:
    """Return a job's place in the order."""
    return Turn(-job.priority, job.submitted_seq, job.job_id)


def purpose_of(job: Job) -> Purpose:
    """Return what a waiting job's next attempt is for."""
    return "prepare" if job.phase is Phase.SUBMITTED else "train"


class Turns:
    """The waiting jobs, kept in their order, so that nobody has to sort them."""

    def __init__(self) -> None:
        self._of: dict[Purpose, list[Turn]] = {"prepare": [], "train": []}

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __iter__(self) -> Iterator[str]:
        return (turn.job_id for turn in merge(*self._of.values()))

    def of(self, purpose: Purpose) -> list[Turn]:
        """Return those whose next attempt is for this."""
        return self._of[purpose]

    def add(self, job: Job) -> None:
        """Let a job wait."""
        insort(self._of[purpose_of(job)], turn_of(job))

    def remove(self, job: Job) -> None:
        """Let a job that waits as it is here wait no more."""
        turns = self._of[purpose_of(job)]
        del turns[bisect_left(turns, turn_of(job))]

    def position(self, job: Job) -> int:
        """Return how many jobs go before this one, and 1."""
        turn = turn_of(job)
        return 1 + sum(bisect_left(turns, turn) for turns in self._of.values())


def in_turn(queues: Mapping[Purpose, Iterable[Turn]], is_open: Callable[[Purpose], bool]) -> Iterator[str]:
    """Yield the ids of waiting jobs in their order, but only those of purposes that are open when their turn comes."""
    heads = {purpose: (queue := iter(turns), next(queue, None)) for purpose, turns in queues.items()}
    while True:
        going = [(head, purpose) for purpose, (_, head) in heads.items() if head is not None and is_open(purpose)]
        if not going:
            return
        turn, purpose = min(going)
        queue = heads[purpose][0]
        heads[purpose] = (queue, next(queue, None))
        yield turn.job_id
