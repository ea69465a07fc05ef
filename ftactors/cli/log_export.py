"""The log written out, line by line."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from ftactors.core.errors import FtactorsError, LogRefusedError
from ftactors.log.beside import open_private
from ftactors.log.rows import Row
from ftactors.log.transcript import line_of


def write_lines(rows: Iterable[Row], file: Path | None) -> int:
    """Write rows to a file, or to stdout, as they come; return how many.

    The file has its name once all is in it that can be read.

    Raises:
        LogRefusedError: the rows end there; those before are written.
        FtactorsError: the file cannot be written.
    """
    if file is None:
        return _write(rows, sys.stdout)
    part = file.with_name(f"{file.name}.part")
    try:
        with open(part, "w", encoding="utf-8", opener=open_private) as out:
            try:
                written = _write(rows, out)
            except LogRefusedError:
                part.replace(file)
                raise
        part.replace(file)
        return written
    except OSError as error:
        raise FtactorsError(f"{file} cannot be written: {error}") from error


def _write(rows: Iterable[Row], out: TextIO) -> int:
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007 - how many there were is asked after the loop
        out.write(f"{line_of(row)}\n")
    return count
