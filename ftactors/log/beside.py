"""The small files beside a database: who holds it, and how far it was written."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from ftactors.core.errors import LogRefusedError
from ftactors.log.errors import LogTakenError
from ftactors.log.rows import Mark

_OWNERS_KEPT = 50
_PRIVATE = 0o600
"""Only the service's own user reads or writes the log; configurations are in it."""


def open_private(path: str | Path, flags: int) -> int:
    """Return the descriptor of a file that, where this makes it, nobody else may read; also an `opener` for `open`."""
    return os.open(path, flags, _PRIVATE)


def this_process() -> str:
    """Return how this process is named to those who find the log held by it."""
    return f"pid {os.getpid()} on host {socket.gethostname()}"


@dataclass(frozen=True, slots=True)
class Found:
    """What the head of a log says to whoever opens it."""

    end: Mark
    """The last row."""
    epoch: int
    owner: str
    """The process that took the log last."""
    owners: Sequence[str]
    """The ids of the schedulers that had it, the last one last."""
    cluster_id: str
    """Where trainers may run that nobody else knows of; empty once the log was given back."""
    namespace: str
    """Of that cluster."""

    @property
    def taken(self) -> str:
        """By whom the log was taken last, and how far it was then."""
        return f"was taken by {self.owner} (epoch {self.epoch}, event {self.end.seq})"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who opens a log, as far as it is more than a process."""

    id: str = ""
    """Of the scheduler, kept when its process ends and another goes on in its place; empty: of no scheduler."""
    cluster_id: str = ""
    namespace: str = ""

    def check(self, found: Found, *, name: str) -> None:
        """Do nothing where the log is this owner's to take.

        Args:
            found: What the log's head says.
            name: The log, as messages call it.

        Raises:
            LogRefusedError: it was not given back by a service in another namespace of this cluster.
            LogTakenError: this owner had it, and another has taken it since.
        """
        if found.cluster_id and found.cluster_id == self.cluster_id and found.namespace != self.namespace:
            raise LogRefusedError(
                f"{name} is that of a service in namespace {found.namespace!r} of this cluster, which has not been "
                f"stopped, and whose trainers may run there; this is namespace {self.namespace!r}. Start it with "
                f"namespace={found.namespace!r}, or stop it there first"
            )
        if self.id in found.owners and found.owners[-1] != self.id:
            raise LogTakenError(f"{name} {found.taken} since this scheduler had it; this is {this_process()}")

    def among(self, owners: Sequence[str]) -> list[str]:
        """Return the owners with this one as the last."""
        if not self.id:
            return [*owners]
        return [*(owner for owner in owners if owner != self.id), self.id][-_OWNERS_KEPT:]


class OwnerFile:
    """The name of the process that holds a database, for whoever asks for it next."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self) -> None:
        """Name this process, in the place of the one before: on a full disk there may be no other place."""
        with suppress(OSError):
            descriptor = open_private(self._path, os.O_WRONLY | os.O_CREAT)
            try:
                name = f"{this_process()}\n".encode()
                os.pwrite(descriptor, name, 0)
                os.ftruncate(descriptor, len(name))
            finally:
                os.close(descriptor)

    def read(self) -> str:
        """Return the name of the process that took the database last."""
        with suppress(OSError):
            return self._path.read_text(encoding="utf-8", errors="replace").strip() or "an unknown process"
        return "an unknown process"


class Witness:
    """The last committed row, remembered outside of the database.

    It is written after the commit and not synced: after a power cut it may lag behind or be unreadable, but it never
    knows of a row that was not on disk. So a database that ends before its witness has lost rows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def read(self) -> Mark | None:
        """Return the row that was remembered last; None where there is none, or it is unreadable."""
        with suppress(OSError, ValueError):
            text, check = self._path.read_text(encoding="ascii").rsplit(" ", 1)
            seq, row_hash = text.split()
            if check.strip() == _check(text):
                return Mark(int(seq), bytes.fromhex(row_hash))
        return None

    def write(self, mark: Mark) -> None:
        """Remember that this row is committed."""
        text = f"{mark.seq:020d} {mark.hash.hex()}"  # of one length, so that each write covers the one before
        with suppress(OSError):  # the row is committed all the same; a witness that lags behind is still right
            if self._descriptor is None:
                self._descriptor = open_private(self._path, os.O_WRONLY | os.O_CREAT)
            os.pwrite(self._descriptor, f"{text} {_check(text)}\n".encode(), 0)

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _check(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
