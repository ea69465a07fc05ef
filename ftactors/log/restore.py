"""What to do about a log that cannot be read to its end."""

from __future__ import annotations

from ftactors.core.errors import FtactorsError
from ftactors.log.errors import LogDamagedError


def how_to_restore(error: FtactorsError) -> str | None:
    """Return what whoever runs the service can do about a damaged log; None for any other error."""
    if not isinstance(error, LogDamagedError):
        return None
    sound = "there is no sound event before it" if error.seq <= 1 else f"events 1 to {error.seq - 1} are sound"
    return (
        f"{sound}. To go on, stop the service and restore the log from a backup: of SQLite the file with those beside "
        f"it (-wal, .witness), all of one moment. Or move them away and begin a new log; "
        f"`ftactors log export -o FILE` keeps what is sound"
    )
