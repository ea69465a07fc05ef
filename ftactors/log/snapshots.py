"""The newest snapshot of a state, in a file: a cache, thrown away at the least doubt."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path

import ftactors
from ftactors.core.urls import without_password
from ftactors.log.beside import open_private
from ftactors.log.rows import Mark


def snapshot_path(url: str, state_dir: Path) -> Path:
    """Return where the snapshot of the log at a URL is kept: beside it, or in the state's directory."""
    _, is_file, path = url.partition("sqlite:///")
    if is_file:
        return Path(f"{path}.snapshot")
    return state_dir / f"{blake2b(without_password(url).encode(), digest_size=8).hexdigest()}.snapshot"


@dataclass(frozen=True, slots=True)
class _Header:
    """The first line of the file."""

    code: str
    """Which code folded the state; any other may fold the same events to something else."""
    seq: int
    hash: str
    size: int
    check: str


class SnapshotFile:
    """A file with a document, and the place in the log that it was made at."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[Mark, bytes] | None:
        """Return the place and the document; None where there is none that can be trusted."""
        with suppress(OSError, ValueError, TypeError):  # TypeError: a header with other fields
            first, document = self._path.read_bytes().split(b"\n", 1)
            header = _Header(**json.loads(first))
            if (header.code, header.size, header.check) == (_code(), len(document), _check(document)):
                return Mark(header.seq, bytes.fromhex(header.hash)), document
        return None

    def save(self, mark: Mark, document: bytes) -> bool:
        """Put a document in the place of the one before; return False where that failed, and the one before stays.

        The event at `mark` is durable before this is called, so the snapshot never knows more than the log.
        """
        header = _Header(_code(), mark.seq, mark.hash.hex(), len(document), _check(document))
        staged = self._path.with_name(f"{self._path.name}.new")
        with suppress(OSError):  # such as a full disk; the log itself is whole
            staged.parent.mkdir(parents=True, exist_ok=True)
            with open(staged, "wb", opener=open_private) as file:
                file.write(json.dumps(asdict(header)).encode() + b"\n" + document)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(self._path)
            return True
        with suppress(OSError):
            staged.unlink()
        return False


@cache
def _code() -> str:
    """Return a digest of all that decides what a state is: the version, and the sources of the core and the log."""
    digest = blake2b(ftactors.__version__.encode(), digest_size=16)
    for package in ("ftactors.core", "ftactors.log"):
        for source in sorted(files(package).iterdir(), key=lambda source: source.name):
            if source.name.endswith(".py"):
                digest.update(source.read_bytes())
    return digest.hexdigest()


def _check(document: bytes) -> str:
    return blake2b(document, digest_size=16).hexdigest()
