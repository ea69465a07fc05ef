"""A log in memory: for trying things out, and for tests that crash and restart a scheduler."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter

from ftactors.core.errors import LogFullError, LogRefusedError
from ftactors.log.beside import Found, Owner, this_process
from ftactors.log.errors import LogTakenError, LogViolatedError
from ftactors.log.rows import START, Head, Mark, Row, unique_keys

_NAME = "the log in memory"


@dataclass
class MemoryDisk:
    """What outlives a `MemoryStorage`, as a disk outlives a process."""

    rows: list[Row] = field(default_factory=list)
    keys: set[tuple[str | int | None, ...]] = field(default_factory=set)
    """Those of all rows that no other row may have."""
    epoch: int = 0
    owner: str = "nobody"
    owners: list[str] = field(default_factory=list)
    cluster_id: str = ""
    namespace: str = ""
    room: int | None = None
    """How many more rows fit; None: any number."""
    reserve: int = 0
    """How many rows are set aside, beside `room`, for what must be written when there is no more room."""
    given_back: bool = False
    """Whether the reserve is a part of `room` now."""

    @property
    def end(self) -> Mark:
        """The last row."""
        return self.rows[-1].mark if self.rows else START

    @property
    def found(self) -> Found:
        """What whoever opens the log is told."""
        return Found(self.end, self.epoch, self.owner, self.owners, self.cluster_id, self.namespace)


class MemoryStorage:
    """A storage on a `MemoryDisk`. As with a database server, the one that opened it last may write."""

    def __init__(self, disk: MemoryDisk | None = None, *, owner: Owner | None = None) -> None:
        self.disk = MemoryDisk() if disk is None else disk
        self._owner = owner or Owner()
        self._epoch: int | None = None
        self._snapshot: list[Row] | None = None

    def open(self) -> Head:
        """Take the log; see `Storage`."""
        disk = self.disk
        self._owner.check(disk.found, name=_NAME)
        disk.epoch += 1
        disk.owner, disk.owners = this_process(), self._owner.among(disk.owners)
        disk.cluster_id, disk.namespace = self._owner.cluster_id, self._owner.namespace
        self._epoch = disk.epoch
        return Head(disk.end, self._epoch)

    def look(self) -> Head | None:
        """Open the log for reading alone; see `Storage`."""
        if not self.disk.epoch:
            return None
        self._snapshot = self.disk.rows.copy()
        return Head(self.disk.end, self.disk.epoch + 1)

    def read(self, *, after: int = 0, job_id: str | None = None, limit: int | None = None) -> Iterator[Row]:
        """Yield committed rows; see `Storage`."""
        rows = self.disk.rows if self._snapshot is None else self._snapshot
        newer = rows[bisect_right(rows, after, key=attrgetter("seq")) :]
        return islice((row for row in newer if job_id is None or row.job_id == job_id), limit)

    def write(self, rows: Sequence[Row]) -> None:
        """Commit the rows, all or none; see `Storage`."""
        disk = self.disk
        if self._epoch is None:
            raise LogRefusedError(f"{_NAME} is not open for writing")
        if (self._epoch, rows[0].seq - 1) != (disk.epoch, disk.end.seq):
            raise self._fenced(rows[0].seq - 1)
        self._check_room(len(rows))
        keys: set[tuple[str | int | None, ...]] = set()
        for key in (key for row in rows for key in unique_keys(row)):
            if key in disk.keys or key in keys:
                raise LogViolatedError(f"{_NAME} has an event with {key} already")
            keys.add(key)
        disk.rows.extend(rows)
        disk.keys |= keys
        if disk.room is not None:
            disk.room -= len(rows)

    def confirm(self) -> None:
        """Make sure that nobody else has taken the log; see `Storage`."""
        if self._epoch != self.disk.epoch:
            raise self._fenced(self.disk.end.seq)

    def refill(self) -> bool:
        """Set the reserve aside again, if there is room for it twice; see `Storage`."""
        disk = self.disk
        if disk.given_back and (disk.room is None or disk.room >= 2 * disk.reserve):
            disk.given_back = False
            if disk.room is not None:
                disk.room -= disk.reserve
        return not disk.given_back

    def give_back(self) -> None:
        """Take note that nobody has the log; see `Storage`."""
        if self._epoch == self.disk.epoch:
            self.disk.cluster_id = self.disk.namespace = ""

    def close(self) -> None:
        """Let go of the log; see `Storage`."""
        self._epoch = None

    def _fenced(self, expected: int) -> LogTakenError:
        return LogTakenError(
            f"{_NAME} {self.disk.found.taken}; this is {this_process()} (epoch {self._epoch}, event {expected})"
        )

    def _check_room(self, wanted: int) -> None:
        disk = self.disk
        if disk.room is None or wanted <= disk.room:
            return
        room = disk.room
        if not disk.given_back:
            disk.given_back, disk.room = True, room + disk.reserve
        raise LogFullError(f"{_NAME} has room for {room} more events; {wanted} were to be written")
