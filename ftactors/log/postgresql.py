"""The log in a PostgreSQL database."""

from __future__ import annotations

import json
from collections.abc import Sequence

import psycopg
from sqlalchemy import URL, Connection, NullPool, create_engine, event
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect

from ftactors.core.errors import LogRefusedError
from ftactors.log.beside import Owner
from ftactors.log.rows import Row
from ftactors.log.sql import SqlStorage
from ftactors.log.tables import MOVE, events

_SCHEMA = "ftactors"
"""Of the tables, whose names are those of many."""
_OPENING = int.from_bytes(b"ftactors")
"""The number of the lock that whoever opens the log holds until its transaction ends."""
_LOCK_WAIT_S = 10
_IDLE_S = 5
"""How long a stopped process may keep a transaction open, and so others from the log."""
_CONNECTION = {
    "application_name": "ftactors",
    "connect_timeout": 10,
    "keepalives_idle": 10,  # seconds, as the next
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds until a server that acknowledges nothing is lost
}
"""What the log's URL may set otherwise, as all that libpq knows."""
_SESSION = {
    "search_path": _SCHEMA,
    "default_transaction_isolation": "read committed",  # the fence looks at the head as it is once it is its turn
    "idle_in_transaction_session_timeout": f"{_IDLE_S}s",
    "idle_session_timeout": "0",  # the log may be quiet for days
    "statement_timeout": "0",
}
_SET = "SELECT set_config(name, %s::json ->> name, false) FROM pg_settings WHERE name = ANY (%s)"
_FOUND = """
SELECT current_setting('fsync'), current_setting('full_page_writes'),
       set_config('synchronous_commit', current_setting('synchronous_commit'), false),
       pg_is_in_recovery()::text, current_setting('transaction_read_only'), current_setting('server_encoding')
"""
"""What it needs to keep what is committed. To set synchronous_commit to what it is keeps it so for this connection."""
_REFUSED = (
    ("fsync", "off", "set fsync = on for the server and reload it"),
    ("full_page_writes", "off", "set full_page_writes = on for the server and reload it"),
    ("synchronous_commit", "off", "set synchronous_commit = on for the server, the database or the user"),
    ("standby", "true", "name its primary instead"),
    ("read-only", "on", "set default_transaction_read_only = off for the database or the user"),
)
_ERROR_FULL, _ERROR_LOCKED = "53100", "55P03"
_ERRORS_DAMAGED = ("XX001", "XX002", "42P01", "42703")  # data or index corrupted; no such table, no such column


def _write_statement() -> str:
    """Return the one statement of a write: the head moves on, and if it did, the rows are added.

    A statement is a transaction of its own, so that no transaction stays open while this process is stopped. The rows
    go as one JSON array: a statement of an array per column, or a row at a time, takes twice as long.
    """
    dialect = psycopg_dialect(paramstyle="format")  # type: ignore[no-untyped-call]
    move = MOVE.compile(dialect=dialect)
    kinds = {column.name: column.type.compile(dialect=dialect) for column in events.columns} | {"hash": "TEXT"}
    names = ", ".join(kinds)
    values = ", ".join("decode(hash, 'hex')" if name == "hash" else name for name in kinds)
    added = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    return (
        f"WITH moved AS ({move} RETURNING id) INSERT INTO events ({names}) "  # noqa: S608
        f"SELECT {values} FROM moved, json_to_recordset(%s::json) AS added ({added})"
    )


_WRITE = _write_statement()
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class PostgresqlStorage(SqlStorage):
    """A storage in a database of a server, in a schema of its own.

    Args:
        url: Of the database, for psycopg.
    """

    def __init__(self, url: URL, *, owner: Owner | None = None) -> None:
        self._url = url
        port = f":{url.port}" if url.port else ""
        super().__init__(f"the log in database {url.database!r} on {url.host or 'this host'}{port}", owner or Owner())

    def _connect(self, *, looking: bool) -> Connection:
        settings = {name: value for name, value in _CONNECTION.items() if name not in self._url.query}
        engine = create_engine(
            self._url, poolclass=NullPool, pool_reset_on_return=None, connect_args={"autocommit": True, **settings}
        )
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY" if looking else "BEGIN"
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        connection = engine.connect()
        session = _SESSION | (
            {"idle_in_transaction_session_timeout": "0"} if looking else {}
        )  # that is in nobody's way
        with connection.begin():
            connection.exec_driver_sql(_SET, (json.dumps(session), list(session)))
        return connection

    def _prepare(self, connection: Connection) -> None:
        *found, encoding = connection.exec_driver_sql(_FOUND).one()
        wrong = [
            f"{name} is {value!r} ({remedy})"
            for value, (name, refused, remedy) in zip(found, _REFUSED, strict=True)
            if value == refused
        ]
        if encoding != "UTF8":
            wrong.append(f"encoding is {encoding!r} (create the database with ENCODING 'UTF8')")
        if wrong:
            raise LogRefusedError(f"{self._name} would not be kept safely: {'; '.join(wrong)}")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_OPENING,))
        if connection.exec_driver_sql("SELECT to_regnamespace(%s) IS NULL", (_SCHEMA,)).scalar_one():
            connection.exec_driver_sql(f"CREATE SCHEMA {_SCHEMA}")

    def _commit(self, rows: Sequence[Row], expected: int) -> bool:
        added = _json([row._asdict() | {"hash": row.hash.hex()} for row in rows])
        values = (*rows[-1].mark, self._epoch, expected, added)
        return bool(self._driver.execute(_WRITE, values, prepare=True).rowcount)

    def _is_full(self, error: BaseException | None) -> bool:
        return isinstance(error, psycopg.Error) and error.sqlstate == _ERROR_FULL

    def _unreadable(self, after: int, error: Exception) -> LogRefusedError:
        is_damaged = isinstance(error, psycopg.Error) and error.sqlstate in _ERRORS_DAMAGED
        if self._driver.closed or not is_damaged:
            return LogRefusedError(f"{self._name} does not answer any more: {_line(error)}")
        return super()._unreadable(after, error)

    def _why_not_opened(self, error: BaseException | None) -> str:
        if isinstance(error, psycopg.Error) and error.sqlstate == _ERROR_LOCKED:
            return f"is kept locked by another session for longer than {_LOCK_WAIT_S} s; see pg_stat_activity"
        return f"cannot be opened: {_line(error)}"


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())
