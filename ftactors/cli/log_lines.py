"""What the commands about the log say of its rows, whether this version knows their events or not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from ftactors.cli.lines import one_line, short, time
from ftactors.log.rows import START, Row, chained

_LEFT_OUT = {"type", "v", "job_id"}
_SEQ_WIDTH, _TYPE_WIDTH, _JOB_WIDTH = 7, 19, 18


def day(row: Row) -> str:
    """Return the day in UTC on which the event was recorded."""
    return when(row).partition("T")[0]


def when(row: Row) -> str:
    """Return when the event was recorded, in UTC; a damaged row may say anything there."""
    try:
        return time(datetime.fromtimestamp(row.at, tz=UTC))
    except (TypeError, ValueError, OverflowError, OSError):
        return one_line(row.at)


def log_row(row: Row) -> tuple[str, ...]:
    """Return a row's cells for a pipe: number, time, type, job, and what it says."""
    return (str(row.seq), when(row), one_line(row.type), one_line(row.job_id or ""), _what(row))


def log_line(row: Row) -> str:
    """Return a row on one line for a person, who has been told the day; the end may be cut off."""
    seq, at, kind, job, what = log_row(row)
    job = f"{job:{_JOB_WIDTH}}  " if job else ""
    return f"{seq:>{_SEQ_WIDTH}}  {at.partition('T')[2].rstrip('Z') or at}  {kind:{_TYPE_WIDTH}}  {job}{what}"


def document_of_row(row: Row) -> dict[str, Any]:
    """Return a row for programs: all columns, the payload as the event that it is."""
    return row._asdict() | {"payload": payload_of(row), "hash": _digits(row.hash)}


def facts_of_row(row: Row) -> dict[str, str]:
    """Return all columns but the payload, by name; what is not there is left out."""
    columns = row._asdict() | {"at": f"{row.at} ({when(row)})", "hash": _digits(row.hash), "payload": None}
    return {name: one_line(value) for name, value in columns.items() if value is not None}


def fits(row: Row, previous: Row | None) -> bool:
    """Return whether a row is the one that was written after the previous one, None for the first."""
    last = previous.mark if previous else START
    return last.seq + 1 == row.seq and chained(last.hash, row[:-2], row.payload) == row.hash


def payload_lines(row: Row) -> list[str]:
    """Return the payload as indented JSON."""
    text = json.dumps(payload_of(row), ensure_ascii=False, indent=2)
    return ["".join(char for char in line if char.isprintable()) for line in text.split("\n")]


def payload_of(row: Row) -> Any:
    """Return the event as it is stored; where that is no JSON, the text."""
    try:
        return json.loads(row.payload)
    except (TypeError, ValueError):
        return str(row.payload)


def _what(row: Row) -> str:
    payload = payload_of(row)
    if not isinstance(payload, dict):
        return one_line(payload)
    fields = {name: value for name, value in payload.items() if name not in _LEFT_OUT and value not in (None, {}, [])}
    return one_line(" ".join(f"{name}={short(value)}" for name, value in fields.items()))


def _digits(stored: object) -> str:  # a damaged row may hold anything
    return stored.hex() if isinstance(stored, bytes) else str(stored)
