"""What is in a log, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftactors.cli.lines import number, one_line
from ftactors.cli.log_lines import day, payload_of, when
from ftactors.cli.output import Output
from ftactors.core.errors import LogRefusedError
from ftactors.core.events import LogOpened
from ftactors.log.rows import Row

_OPENING = LogOpened.model_fields["type"].default
_OPENING_COLUMNS = ("epoch", "seq", "at", "version", "pid", "node")
_SHOWN_TO_PERSON = 10
_KIB = 1024.0


@dataclass(slots=True)
class Statistics:
    """Rows, counted one by one in their order."""

    events: int = 0
    payload_bytes: int = 0
    first_at: str | None = None
    last_at: str | None = None
    types: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    days: Counter[str] = field(default_factory=Counter)
    """In UTC, oldest first."""
    openings: list[dict[str, Any]] = field(default_factory=list)
    """Of the log, by a scheduler that came up; oldest first."""

    def count(self, row: Row) -> None:
        """Take the next row in."""
        self.events += 1
        self.payload_bytes += len(row.payload.encode())
        self.first_at = self.first_at or when(row)
        self.last_at = when(row)
        self.types[row.type] += 1
        self.days[day(row)] += 1
        if row.job_id is not None:
            self.jobs[row.job_id] += 1
        if row.type == _OPENING:
            payload = payload_of(row)
            told = {"version": payload.get("version"), "pid": payload.get("pid"), "node": payload.get("node_id")}
            self.openings.append({"epoch": row.epoch, "seq": row.seq, "at": when(row), **told})

    def count_all(self, rows: Iterable[Row]) -> LogRefusedError | None:
        """Take rows in; return why they could not be read to their end, if so."""
        try:
            for row in rows:
                self.count(row)
        except LogRefusedError as error:
            return error
        return None

    def document(self, *, top: int) -> dict[str, Any]:
        """Return all counts for programs, with the `top` jobs that have most events."""
        return {
            "events": self.events,
            "payload_bytes": self.payload_bytes,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "jobs": len(self.jobs),
            "by_type": dict(self.types.most_common()),
            "by_job": dict(self.jobs.most_common(top)),
            "by_day": dict(self.days),
            "openings": self.openings,
        }


def size(count: int) -> str:
    """Return a number of bytes as a person reads it."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):  # noqa: B007 - the last one is used after the loop
        if value < _KIB:
            break
        value /= _KIB
    return f"{number(value)} {unit}"


def size_on_disk(url: str) -> int | None:
    """Return the bytes of an SQLite file and of its write-ahead log; None where they are not on this machine."""
    path = Path(url.removeprefix("sqlite:///"))
    files = [file for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]
    return sum(file.stat().st_size for file in files) if files else None


def show_statistics(counted: Statistics, name: str, bytes_on_disk: int | None, output: Output, *, top: int) -> None:
    """Tell the counts: tables for a person, and lines that begin with what is counted for a pipe."""
    facts = {
        "log": name,
        "events": f"{counted.events}",
        "first": counted.first_at,
        "last": counted.last_at,
        "payloads": size(counted.payload_bytes),
        "on disk": None if bytes_on_disk is None else size(bytes_on_disk),
        "jobs": f"{len(counted.jobs)}",
        "openings": f"{len(counted.openings)}",
    }
    output.facts({fact: told for fact, told in facts.items() if told})
    _show_rows("type", ("type", "events"), counted.types.most_common(), output)
    _show_rows("job", ("job", "events"), counted.jobs.most_common(top), output)
    _show_rows("day", ("day", "events"), [*counted.days.items()][_first_shown(counted.days, output) :], output)
    openings = [tuple(opening.values()) for opening in counted.openings]
    _show_rows("opening", _OPENING_COLUMNS, openings[_first_shown(openings, output) :], output)


def _first_shown(things: Sized, output: Output) -> int:
    """Return the index of the first that is shown: to a person the newest only."""
    return max(len(things) - _SHOWN_TO_PERSON, 0) if output.to_person else 0


def _show_rows(what: str, columns: Sequence[str], rows: Sequence[Sequence[object]], output: Output) -> None:
    cells = [tuple(map(one_line, row)) for row in rows]
    if not output.to_person:
        output.rows((), [(what, *row) for row in cells], empty="")
    elif cells:
        output.rows(columns, cells, empty="")
