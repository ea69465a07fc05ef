"""From a database's URL to its storage."""

from __future__ import annotations

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from ftactors.core.errors import LogRefusedError
from ftactors.log.protocol import Storage
from ftactors.log.sqlite import SqliteStorage


def storage_at(url: str, *, timeout_s: float = 0.0) -> Storage:
    """Return the storage of a URL such as `sqlite:////var/lib/ftactors/events.db`, not yet opened.

    Args:
        timeout_s: How long opening waits for another process that holds the database.

    Raises:
        LogRefusedError: it is the URL of no database that can hold the log.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise LogRefusedError(f"the log's URL {url!r} is not a database's URL; sqlite:///PATH is") from error
    if parsed.drivername != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise LogRefusedError(f"the log cannot be kept at {parsed.render_as_string()!r}; it can at sqlite:///PATH")
    return SqliteStorage(str(parsed.database), timeout_s=timeout_s)
