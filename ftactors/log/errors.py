"""How writing to the log, or reading it, can end badly; what only the log and the scheduler tell apart."""

from __future__ import annotations

from ftactors.core.errors import LogError, LogRefusedError


class LogDamagedError(LogRefusedError):
    """The stored log is not what was written; `seq` is the first event that cannot be trusted."""

    def __init__(self, seq: int, message: str) -> None:
        self.seq, self.message = seq, message
        super().__init__(seq, message)

    @property
    def hint(self) -> str:
        """What whoever runs the service can do."""
        sound = "there is no sound event before it" if self.seq <= 1 else f"events 1 to {self.seq - 1} are sound"
        return (
            f"{sound}. To go on, stop the service and restore the log from a backup: of SQLite the file with those "
            f"beside it (-wal, .witness), all of one moment. Or move them away and begin a new log; "
            f"`ftactors log export -o FILE` keeps what is sound, to be read"
        )

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}"


class LogTakenError(LogRefusedError):
    """Another scheduler has taken the log, and what this one knows is of the past."""


class LogTooNewError(LogRefusedError):
    """A newer version of ftactors wrote to the log; the message names it."""


class LogViolatedError(LogError):
    """A unique index refused the rows, and nothing was recorded: the owner has a bug, or there are two writers."""


class OutcomeUnknownError(LogError):
    """The database failed while it committed: only opening the log again tells whether the rows are there."""
