"""From a database's URL to its storage."""

from __future__ import annotations

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from ftactors.core.errors import LogRefusedError
from ftactors.log.beside import Owner
from ftactors.log.protocol import Storage
from ftactors.log.sqlite import SqliteStorage

_POSTGRESQL = "postgresql+psycopg"
_POSSIBLE = f"sqlite:///PATH, where PATH is absolute, or at {_POSTGRESQL}://USER@HOST/DATABASE"


def storage_at(url: str, *, timeout_s: float = 0.0, owner: Owner | None = None) -> Storage:
    """Return the storage of a URL such as `sqlite:////var/lib/ftactors/events.db`, not yet opened.

    A path is taken as it is: `?` and `%20` in it are parts of names. No message says more of a URL than its scheme,
    host, port and database: it may hold a password.

    Args:
        url: The URL.
        timeout_s: How long opening waits for another process that holds the database.
        owner: Who opens it.

    Raises:
        LogRefusedError: it is the URL of no database that can hold the log.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("//"):
        return SqliteStorage(rest.removeprefix("/"), timeout_s=timeout_s, owner=owner)
    if scheme == _POSTGRESQL:
        return _postgresql(url, owner)
    if scheme in {"postgresql", "postgres"}:
        raise LogRefusedError(f"the log's URL begins with {scheme}://; write {_POSTGRESQL}:// (its driver is psycopg)")
    kept_at = repr(url) if scheme == "sqlite" else f"a database of another kind ({scheme!r})"
    raise LogRefusedError(f"the log cannot be kept at {kept_at}; it can at {_POSSIBLE}")


def _postgresql(url: str, owner: Owner | None) -> Storage:
    try:
        from ftactors.log.postgresql import PostgresqlStorage
    except ImportError as error:
        raise LogRefusedError(
            f"the log cannot be kept in a PostgreSQL database, for its driver is missing ({error}): "
            f"pip install 'ftactors[postgres]'"
        ) from error
    try:
        return PostgresqlStorage(make_url(url), owner=owner)
    except (ArgumentError, ValueError):
        raise LogRefusedError(f"the log's URL cannot be read; it can be kept at {_POSSIBLE}") from None
