"""From a database's URL to its storage."""

from __future__ import annotations

from ftactors.core.errors import LogRefusedError
from ftactors.log.protocol import Storage
from ftactors.log.sqlite import SqliteStorage


def storage_at(url: str, *, timeout_s: float = 0.0) -> Storage:
    """Return the storage of a URL such as `sqlite:////var/lib/ftactors/events.db`, not yet opened.

    The path is taken as it is: `?` and `%20` in it are parts of names.

    Args:
        url: The URL.
        timeout_s: How long opening waits for another process that holds the database.

    Raises:
        LogRefusedError: it is the URL of no database that can hold the log.
    """
    scheme, _, path = url.partition("://")
    if scheme != "sqlite" or not path.startswith("//"):
        kept_at = repr(url) if scheme == "sqlite" else f"a database of another kind ({scheme!r})"  # may hold a password
        raise LogRefusedError(f"the log cannot be kept at {kept_at}; it can at sqlite:///PATH, where PATH is absolute")
    return SqliteStorage(path.removeprefix("/"), timeout_s=timeout_s)
