"""Events as rows of one table, each chained by a hash to the row before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from json import JSONEncoder
from typing import NamedTuple, get_args

from pydantic import ValidationError

from ftactors.core.errors import LogError, LogRefusedError
from ftactors.core.events import EVENTS, TERMINAL, AnyEvent, AttemptPlaced, Event, Recorded

HASH_BYTES = 32


class Mark(NamedTuple):
    """A place in the log: a row's number and its hash."""

    seq: int
    hash: bytes


START = Mark(0, bytes(HASH_BYTES))
"""The place before the first row."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a storage knows of its log when it is opened."""

    end: Mark
    """The last row that was committed."""
    epoch: int
    """Counts the openings; this one included."""
    witness: Mark | None = None
    """The last row that was committed, as something outside of the database remembers it; it may lag behind."""


class Row(NamedTuple):
    """A recorded event as it is stored."""

    seq: int
    job_id: str | None
    job_seq: int | None
    attempt: int | None
    report: int | None
    epoch: int
    type: str
    v: int
    at: float
    idempotency_key: str | None
    payload: str
    """The whole event as canonical JSON: names sorted, no spaces, UTF-8."""
    hash: bytes
    """BLAKE2b over the previous row's hash and all other columns; see `chained`."""

    @property
    def mark(self) -> Mark:
        """The place of this row."""
        return Mark(self.seq, self.hash)


def _stored_name(event: type[Event]) -> tuple[str, int]:
    return event.model_fields["type"].default, event.model_fields["v"].default


KNOWN = frozenset(_stored_name(event) for event in get_args(AnyEvent))
"""Type and version of each event that can be read."""
TERMINAL_TYPES = tuple(_stored_name(event)[0] for event in TERMINAL)
PLACED_TYPE = _stored_name(AttemptPlaced)[0]

_canonical = JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode
# `default`: damage can change a column's type; that must give another hash, not a TypeError.
_header = JSONEncoder(separators=(",", ":"), default=repr).encode


def row_of(recorded: Recorded, previous: bytes) -> Row:
    """Return the row of an event, chained to the hash of the row before it.

    Raises:
        LogError: the event holds what JSON in UTF-8 cannot, such as half of a surrogate pair.
    """
    event = recorded.event
    columns = (
        recorded.seq,
        getattr(event, "job_id", None),
        recorded.job_seq,
        getattr(event, "attempt", None),
        getattr(event, "report", None),
        recorded.epoch,
        event.type,
        event.v,
        float(recorded.at),  # an int would come back as a float, with another hash
        getattr(event, "idempotency_key", None),
    )
    try:
        payload = _canonical(event.model_dump(mode="json"))
        return Row(*columns, payload, chained(previous, columns, payload))
    except ValueError as error:
        raise LogError(f"event {recorded.seq} ({event.type}) cannot be stored: {error}") from error


def recorded_of(row: Row) -> Recorded:
    """Return the event of a row.

    Raises:
        LogRefusedError: a newer version of ftactors wrote it.
    """
    if (row.type, row.v) not in KNOWN:
        raise LogRefusedError(
            f"event {row.seq} is {row.type!r} in version {row.v}, which this version of ftactors does not know: "
            f"the log was written by a newer one; use that"
        )
    try:
        event = EVENTS.validate_json(row.payload)
    except ValidationError as error:
        raise LogRefusedError(
            f"event {row.seq} is {row.type!r} with contents that this version of ftactors does not know: "
            f"the log was written by a newer one; use that ({error})"
        ) from error
    return Recorded(seq=row.seq, at=row.at, epoch=row.epoch, event=event, job_seq=row.job_seq)


def unique_keys(row: Row) -> Iterator[tuple[str | int | None, ...]]:
    """Yield the keys that no other row may have: those of the unique indexes of `sql.py`."""
    if row.job_id is not None:
        yield ("job_seq", row.job_id, row.job_seq)
    if row.type in TERMINAL_TYPES:
        yield ("end", row.job_id)
    if row.type == PLACED_TYPE:
        yield ("placed", row.job_id, row.attempt)
    if row.idempotency_key is not None:
        yield ("idempotency_key", row.idempotency_key)


def chained(previous: bytes, columns: tuple[object, ...], payload: object) -> bytes:
    """Return the hash over the previous hash, the columns as a JSON array, a line feed, and the payload.

    JSON escapes line feeds, so no two rows give the same bytes.
    """
    return blake2b(previous + f"{_header(columns)}\n{payload}".encode(), digest_size=HASH_BYTES).digest()
