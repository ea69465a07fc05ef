"""Events as rows of one table, each chained by a hash to the row before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from json.encoder import encode_basestring_ascii
from typing import NamedTuple, get_args

from pydantic import ValidationError

from ftactors import __version__
from ftactors.core.canonical import canonical
from ftactors.core.errors import LogError
from ftactors.core.events import EVENTS, TERMINAL, AnyEvent, AttemptPlaced, Event, Recorded
from ftactors.log.errors import LogTooNewError
from ftactors.log.upcast import UPCASTERS, Upcasters, upcast

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


def stored_name(event: type[Event]) -> tuple[str, int]:
    """Return an event's type and version."""
    return event.model_fields["type"].default, event.model_fields["v"].default


KNOWN = frozenset(stored_name(event) for event in get_args(AnyEvent))
"""Type and version of each event that can be read."""
TERMINAL_TYPES = tuple(stored_name(event)[0] for event in TERMINAL)
PLACED_TYPE = stored_name(AttemptPlaced)[0]


def row_of(recorded: Recorded, previous: bytes) -> Row:
    """Return the row of an event, chained to the hash of the row before it.

    Raises:
        LogError: the event holds what cannot be stored: half of a surrogate pair, which is no UTF-8, or a key with a
            NUL character, which PostgreSQL refuses.
    """
    event = recorded.event
    value = vars(event).get  # to ask a model for an attribute that it has not takes microseconds
    job_id, idempotency_key = value("job_id"), value("idempotency_key")
    for name, key in (("job_id", job_id), ("idempotency_key", idempotency_key)):
        if key is not None and "\0" in key:
            raise LogError(f"event {recorded.seq} ({event.type}) cannot be stored: {name} has a NUL character in it")
    columns = (
        recorded.seq,
        job_id,
        recorded.job_seq,
        value("attempt"),
        value("report"),
        recorded.epoch,
        event.type,
        event.v,
        float(recorded.at) + 0.0,  # an int would come back as a float, and -0.0 as 0.0, with another hash
        idempotency_key,
    )
    try:
        payload = canonical(event.model_dump(mode="json"))
        return Row(*columns, payload, chained(previous, columns, payload))
    except ValueError as error:
        raise LogError(f"event {recorded.seq} ({event.type}) cannot be stored: {error}") from error


def recorded_of(row: Row, *, writer: str | None = None, upcasters: Upcasters = UPCASTERS) -> Recorded:
    """Return the event of a row; see `Reader` for the events of many.

    Args:
        row: The row.
        writer: The version of ftactors that wrote it, where that is known.
        upcasters: How events of older versions are read.

    Raises:
        LogTooNewError: a newer version of ftactors wrote it.
    """
    name, payload = (row.type, row.v), row.payload
    if name not in KNOWN:
        upcasted = upcast(name, payload, KNOWN, upcasters)
        if upcasted is None:
            raise _too_new(row, f"in version {row.v}, which", writer)
        payload = upcasted
    try:
        event = EVENTS.validate_json(payload)
    except ValidationError as error:
        raise _too_new(row, f"with contents ({_where(error)}) that", writer) from error
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
    seq, job_id, job_seq, attempt, report, epoch, kind, v, at, key = columns
    # One string with places, in a third of an encoder's time: there are millions. `!r`: a number that damage has made a
    # text must give another hash.
    header = (
        f"[{seq!r},{_text(job_id)},{'null' if job_seq is None else repr(job_seq)},"
        f"{'null' if attempt is None else repr(attempt)},{'null' if report is None else repr(report)},"
        f"{epoch!r},{_text(kind)},{v!r},{at!r},{_text(key)}]"
    )
    return blake2b(previous + f"{header}\n{payload}".encode(), digest_size=HASH_BYTES).digest()


def _text(column: object) -> str:
    """Return a text as JSON; damage can bring about anything, and that shall be no error."""
    if column is None:
        return "null"
    return encode_basestring_ascii(column) if isinstance(column, str) else repr(column)


def _too_new(row: Row, what: str, writer: str | None) -> LogTooNewError:
    if writer in {None, __version__}:
        source = "a newer one wrote it; install that"
    else:
        source = f"it was written by ftactors {writer}; install {writer} or newer"
    return LogTooNewError(f"event {row.seq} is {row.type!r} {what} ftactors {__version__} does not know: {source}")


def _where(error: ValidationError) -> str:
    """Return the paths of the fields that were not understood."""
    paths = (".".join(map(str, problem["loc"][1:])) for problem in error.errors(include_url=False))
    return ", ".join(dict.fromkeys(filter(None, paths))) or "no JSON of an event"
