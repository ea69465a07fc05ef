"""The tables of the log, alike in every database."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    insert,
    select,
    update,
)

from ftactors.log.rows import PLACED_TYPE, TERMINAL_TYPES

FORMAT = 1
"""Of these tables; raised when an older version of ftactors could no longer use them."""

_Count = BigInteger().with_variant(Integer(), "sqlite")  # only INTEGER names SQLite's own row id


class _Bytes(LargeBinary):
    """Bytes as the driver gives them; a damaged column of another type must show as a wrong hash, not as an error."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        """Return no processor."""


metadata = MetaData()

events = Table(
    "events",
    metadata,
    Column("seq", _Count, primary_key=True, autoincrement=False),
    Column("job_id", Text),
    Column("job_seq", _Count),
    Column("attempt", Integer),
    Column("report", _Count),
    Column("epoch", _Count, nullable=False),
    Column("type", Text, nullable=False),
    Column("v", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Column("idempotency_key", Text),
    Column("payload", Text, nullable=False),
    Column("hash", _Bytes, nullable=False),
)

head = Table(
    "head",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    Column("format", Integer, nullable=False),
    Column("epoch", _Count, nullable=False),
    Column("seq", _Count, nullable=False),
    Column("hash", _Bytes, nullable=False),
    Column("owner", Text, nullable=False),
    Column("owners", Text, nullable=False),
    Column("cluster_id", Text, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("version", Text, nullable=False),
)


def _unique(name: str, *columns: Column[object], where: object) -> Index:
    return Index(name, *columns, unique=True, sqlite_where=where, postgresql_where=where)


Index("events_of_a_job", events.c.job_id, events.c.job_seq, unique=True)
_unique("one_end_of_a_job", events.c.job_id, where=events.c.type.in_(TERMINAL_TYPES))
_unique("one_placement_of_an_attempt", events.c.job_id, events.c.attempt, where=events.c.type == PLACED_TYPE)
_unique("one_use_of_an_idempotency_key", events.c.idempotency_key, where=events.c.idempotency_key.is_not(None))

ADD = insert(events)
"""One row; its values in the order of the columns, which is the order of `Row`."""
MOVE = (
    update(head)
    .where(head.c.epoch == bindparam("own_epoch"), head.c.seq == bindparam("from_seq"))
    .values(seq=bindparam("to_seq"), hash=bindparam("to_hash"))
)
"""The head moves on, if this epoch still has the log; its values are to_seq, to_hash, own_epoch, from_seq."""
READ = select(events).where(events.c.seq > bindparam("after")).order_by(events.c.seq).limit(bindparam("size"))
READ_JOB = (
    select(events)
    .where(events.c.job_id == bindparam("job_id"), events.c.seq > bindparam("after"))
    .order_by(events.c.job_seq)
    .limit(bindparam("size"))
)
