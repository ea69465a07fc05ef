"""A log in memory: for trying things out, and for tests that crash and restart a scheduler."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter

from ftactors.core.errors import LogFullError, LogRefusedError
from ftactors.log.beside import this_process
from ftactors.log.errors import LogViolatedError
from ftactors.log.rows import START, Head, Row, unique_keys


@dataclass
class MemoryDisk:
    """What outlives a `MemoryStorage`, as a disk outlives a process."""

    rows: list[Row] = field(default_factory=list)
    keys: set[tuple[str | int | None, ...]] = field(default_factory=set)
    """Those of all rows that no other row may have."""
    epoch: int = 0
    owner: str = "nobody"
    room: int | None = None
    """How many more rows fit; None: any number."""


class MemoryStorage:
    """A storage on a `MemoryDisk`. As with a database server, the one that opened it last may write."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = MemoryDisk() if disk is None else disk
        self._epoch: int | None = None

    def open(self) -> Head:
        """Take the log; see `Storage`."""
        self.disk.epoch += 1
        self.disk.owner = this_process()
        self._epoch = self.disk.epoch
        return Head(end=self.disk.rows[-1].mark if self.disk.rows else START, epoch=self._epoch)

    def read(self, *, after: int = 0, job_id: str | None = None, limit: int | None = None) -> Iterator[Row]:
        """Yield committed rows; see `Storage`."""
        rows = self.disk.rows[bisect_right(self.disk.rows, after, key=attrgetter("seq")) :]
        return islice((row for row in rows if job_id is None or row.job_id == job_id), limit)

    def write(self, rows: Sequence[Row]) -> None:
        """Commit the rows, all or none; see `Storage`."""
        disk = self.disk
        if self._epoch is None:
            raise LogRefusedError("the log in memory is not open")
        if self._epoch != disk.epoch:
            raise LogRefusedError(
                f"the log was taken by {disk.owner} (epoch {disk.epoch}); "
                f"this is {this_process()} (epoch {self._epoch})"
            )
        if disk.room is not None and disk.room < len(rows):
            raise LogFullError(
                f"the log in memory has room for {disk.room} more events; {len(rows)} were to be written"
            )
        keys: set[tuple[str | int | None, ...]] = set()
        for key in (key for row in rows for key in unique_keys(row)):
            if key in disk.keys or key in keys:
                raise LogViolatedError(f"the log in memory has an event with {key} already")
            keys.add(key)
        disk.rows.extend(rows)
        disk.keys |= keys
        if disk.room is not None:
            disk.room -= len(rows)

    def close(self) -> None:
        """Give the log back."""
        self._epoch = None
