"""Directories that appear complete or not at all, and outlast a power cut."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 20


def digest_of(directory: Path) -> str:
    """Return a digest of the names and contents of all files below a directory."""
    digest = hashlib.blake2b(digest_size=32)
    for path in _files(directory):
        name = path.relative_to(directory).as_posix().encode()
        digest.update(b"%d:%b%d:" % (len(name), name, path.stat().st_size))
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def sizes_of(directory: Path) -> dict[str, int]:
    """Return the sizes in bytes of all files below a directory, by their names in it."""
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in _files(directory)}


def commit(staged: Path, final: Path) -> str:
    """Make a staged directory durable, give it its final name, and return its digest.

    Raises:
        FileExistsError: there is something of that name.
    """
    if final.exists():
        raise FileExistsError(f"{final} exists: {staged} cannot take its place")
    for path in [*_files(staged), *(path for path in staged.rglob("*") if path.is_dir()), staged]:
        _sync(path)
    digest = digest_of(staged)
    staged.rename(final)
    _sync(final.parent)
    return digest


def _files(directory: Path) -> Iterator[Path]:
    """Yield all files below a directory, in an order that depends on their names alone."""
    yield from sorted((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.as_posix())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
