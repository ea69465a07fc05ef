"""The `eventsourcing` library at the same work: one aggregate a job, the same facts, SQLite, all its defaults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benchmarks.measuring import stopwatch
from benchmarks.stories import progressed, submitted
from ftactors.core.events import AnyEvent


class TuningJob(Aggregate):
    """A job that knows the newest of each thing it was told."""

    def __init__(self, fact: dict[str, Any]) -> None:
        self.known = dict(fact)

    @event("Told")
    def told(self, fact: dict[str, Any]) -> None:
        """Take a fact in."""
        self.known.update(fact)


class EventSourced:
    """An application of the library on a file."""

    def __init__(self, path: Path) -> None:
        environment = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
        self._application: Application[UUID] = Application(env=environment)
        self._job = _job_of(iter([submitted(0)]))
        self._application.save(self._job)
        self._ids: list[UUID] = []

    def save(self, count: int) -> Sequence[float]:
        """Return the seconds of each of so many saves, one report of progress each."""
        facts = [progressed(0, self._job.version + number).model_dump(mode="json") for number in range(count)]
        seconds: list[float] = []
        for fact in facts:
            took = stopwatch()
            self._job.told(fact)
            self._application.save(self._job)
            seconds.append(took())
        return seconds

    def fill(self, stories: Iterable[Iterator[AnyEvent]]) -> None:
        """Save jobs, each with all its events."""
        for story in stories:
            job = _job_of(story)
            self._application.save(job)
            self._ids.append(job.id)

    def replay(self) -> int:
        """Get each job that was filled in from its events; return the number of those."""
        return sum(self._application.repository.get(known).version for known in self._ids)

    def close(self) -> None:
        """Close the file."""
        self._application.close()


def _job_of(story: Iterator[AnyEvent]) -> TuningJob:
    job = TuningJob(next(story).model_dump(mode="json"))
    for fact in story:
        job.told(fact.model_dump(mode="json"))
    return job
