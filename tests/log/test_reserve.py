"""A disk that is full, and the room that was set aside for that time.

The disk is a small one of its own where this machine lets us mount one, and always also one of which SQLite is told
that it is small.
"""

import errno
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftactors.core.errors import LogFullError
from ftactors.log import reserve
from ftactors.log.reserve import RESERVE_BYTES, Reserve
from ftactors.log.rows import Mark, Row
from ftactors.log.sqlite import SqliteStorage
from ftactors.log.verify import verified
from tests.log.examples import cancelled, chain, submitted

MIB = 2**20
PAGE = 4096


class MountedDisk:
    """A real file system of 24 MiB."""

    def __init__(self, directory: Path) -> None:
        self._others = directory / "others"
        self.storage = lambda: SqliteStorage(directory / "events.db")
        self.reserve = directory / "events.db.reserve"

    def fill(self) -> None:
        """Let other files take up what is free."""
        with self._others.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(PAGE))
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017

    def free(self, size: int) -> None:
        """Let other files go, until so much is free."""
        os.truncate(self._others, self._others.stat().st_size - size)


class ToldDisk:
    """A disk of which only we say how large it is: to SQLite, and to the reserve."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = directory / "events.db"
        self._bytes = 24 * MIB
        self.storage = lambda: _Told(self._path, self)
        self.reserve = directory / "events.db.reserve"
        monkeypatch.setattr(reserve, "free_bytes", lambda _: self.room() - self._path.stat().st_size)

    def room(self) -> int:
        """Return how large the database may be."""
        return self._bytes - (self.reserve.stat().st_size if self.reserve.exists() else 0)

    def fill(self) -> None:
        """Let there be no room but what is set aside."""
        self._bytes = 2 * PAGE + self._bytes - self.room()

    def free(self, size: int) -> None:
        """Let there be more room."""
        self._bytes += size


class _Told(SqliteStorage):
    def __init__(self, path: Path, disk: ToldDisk) -> None:
        super().__init__(path)
        self._disk = disk

    def _prepare(self, connection) -> None:
        super()._prepare(connection)
        self._tell()

    def _commit(self, rows, expected) -> bool:
        self._tell()
        return super()._commit(rows, expected)

    def _tell(self) -> None:
        self._driver.execute(f"PRAGMA max_page_count = {max(1, self._disk.room() // PAGE)}")


@contextmanager
def mounted() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ft-disk-"))
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "ftactors", directory], check=True, capture_output=True
        )
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)  # a test that failed may have files open
    finally:
        directory.rmdir()


def can_mount() -> bool:
    try:
        with mounted():
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@pytest.fixture(params=["told", *(["mounted"] if can_mount() else [])])
def disk(request, tmp_path, monkeypatch) -> Iterator[MountedDisk | ToldDisk]:
    if request.param == "told":
        yield ToldDisk(tmp_path, monkeypatch)
    else:
        with mounted() as directory:
            yield MountedDisk(directory)


def until_full(storage: SqliteStorage, end: Mark, epoch: int = 1) -> list[Row]:
    """Write until there is no room, and return what was written."""
    written: list[Row] = []
    while True:
        rows = chain([submitted(f"j{end.seq}", filler="x" * 100_000)], end, epoch)
        try:
            storage.write(rows)
        except LogFullError as error:
            assert str(error).endswith("is full; make room and try again")  # noqa: PT017
            return written
        written += rows
        end = rows[-1].mark


def vital(end: Mark, count: int, epoch: int = 1) -> Iterator[Row]:
    """Give small rows, one after the other."""
    for _ in range(count):
        (row,) = chain([cancelled(f"j{end.seq}")], end, epoch)
        yield row
        end = row.mark


def test_on_a_full_disk_nothing_is_lost_and_what_is_vital_still_fits(disk):
    storage = disk.storage()
    head = storage.open()
    assert storage.refill()
    disk.fill()

    rows = until_full(storage, head.end)
    assert not disk.reserve.exists()
    end = rows[-1].mark if rows else head.end
    for row in vital(end, 300):
        storage.write([row])
        rows.append(row)
    assert not storage.refill()
    assert list(storage.read()) == rows

    disk.free(12 * MIB)
    assert storage.refill()
    last = chain([submitted("last", filler="x" * 100_000)], rows[-1].mark, epoch=1)
    storage.write(last)
    storage.close()

    later = disk.storage()
    assert list(verified(later.read(), later.open())) == rows + last
    assert later.refill()
    later.close()


def test_a_log_is_opened_on_a_full_disk_with_the_room_that_was_set_aside(disk):
    storage = disk.storage()
    rows = list(vital(storage.open().end, 5))
    storage.write(rows)
    storage.close()
    disk.fill()

    for epoch in (2, 3):
        later = disk.storage()
        head = later.open()
        assert (head.epoch, head.end) == (epoch, rows[-1].mark)
        more = list(vital(head.end, 3, epoch))
        later.write(more)
        rows += more
        assert list(later.read()) == rows
        later.close()

    looking = disk.storage()
    assert list(verified(looking.read(), looking.look())) == rows
    looking.close()


def test_the_reserve_takes_up_room_and_only_the_owner_may_read_it(disk):
    storage = disk.storage()
    storage.open()

    found = disk.reserve.stat()

    assert found.st_blocks * 512 >= RESERVE_BYTES
    assert stat.S_IMODE(found.st_mode) == 0o600
    storage.close()


def test_it_is_not_set_aside_where_that_would_fill_the_disk(disk):
    storage = disk.storage()
    storage.open()
    disk.fill()
    until_full(storage, Mark(0, bytes(32)))
    disk.fill()

    disk.free(RESERVE_BYTES + MIB)

    assert not storage.refill()
    assert not disk.reserve.exists()
    disk.free(RESERVE_BYTES)
    assert storage.refill()
    storage.close()


def test_where_room_cannot_be_allocated_it_is_written(tmp_path, monkeypatch):
    def not_supported(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", not_supported)

    assert Reserve(tmp_path / "reserve").refill()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVE_BYTES


def test_a_reserve_that_could_not_be_made_whole_is_not_left_behind(tmp_path, monkeypatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    assert not Reserve(tmp_path / "reserve").refill()
    assert not (tmp_path / "reserve").exists()


def test_a_part_of_a_reserve_that_a_crash_left_is_made_whole(tmp_path):
    (tmp_path / "reserve").write_bytes(b"part")

    assert Reserve(tmp_path / "reserve").refill()
    assert (tmp_path / "reserve").stat().st_size == RESERVE_BYTES


def test_what_was_given_back_once_is_not_there_to_give_again(tmp_path):
    kept = Reserve(tmp_path / "reserve")
    kept.refill()

    assert [kept.give_back(), kept.give_back()] == [True, False]
    assert kept.refill()
