"""Room on the disk that is set aside for the time when there is no other."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from ftactors.log.beside import open_private

RESERVE_BYTES = 4 * 2**20
_NOT_SUPPORTED = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


class Reserve:
    """A file of no use but its room, which is given back to a full disk: what must be written then still fits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole = False

    def refill(self) -> bool:
        """Set the room aside, if the disk has it twice; return whether it is set aside."""
        if not self._whole:
            with suppress(OSError):
                self._whole = self._is_there() or self._make()
        return self._whole

    def give_back(self) -> bool:
        """Give the room back to the disk; return whether there was any to give."""
        self._whole = False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def _is_there(self) -> bool:
        return self._path.exists() and self._path.stat().st_size >= RESERVE_BYTES

    def _make(self) -> bool:
        if free_bytes(self._path.parent) < 2 * RESERVE_BYTES:
            return False
        descriptor = open_private(self._path, os.O_WRONLY | os.O_CREAT)
        try:
            _allocate(descriptor)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(descriptor)
        return True


def free_bytes(directory: Path) -> int:
    """Return how much this user can still write on the disk of a directory."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _allocate(descriptor: int) -> None:
    """Take the room up, so that it is nobody else's: a size alone takes none."""
    try:
        os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NOT_SUPPORTED:
            raise
        os.write(descriptor, os.urandom(RESERVE_BYTES))  # what could be compressed would take up less
        os.fsync(descriptor)
