"""From errors to exit codes: one message for a person, one number for a script."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from enum import IntEnum

import typer

from ftactors.core.errors import (
    ConfigurationError,
    DatasetError,
    FtactorsError,
    JobExecutionError,
    JobNotFoundError,
    ModelImportError,
    ModelNotFoundError,
)
from ftactors.log.errors import LogDamagedError, LogTooNewError


class ExitCode(IntEnum):
    """What the end of a command means."""

    OK = 0
    JOB_FAILED = 1
    INVALID = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    LOG_DAMAGED = 5
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.OK: "it is done",
    ExitCode.JOB_FAILED: "the job that was waited for failed or was cancelled",
    ExitCode.INVALID: "the command line, a configuration or data is invalid; all problems are listed",
    ExitCode.NOT_FOUND: "there is no such job, model, log or event",
    ExitCode.UNAVAILABLE: "the service cannot be reached, or refused; any other error",
    ExitCode.LOG_DAMAGED: "the event log is damaged, or a newer version wrote it",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}


class LogNotFoundError(FtactorsError):
    """A process of a job has no log that can be seen from here."""


class EventNotFoundError(FtactorsError):
    """There is no event log, or no such event in it."""


def exit_code_of(error: FtactorsError) -> ExitCode:
    """Return the exit code that tells a script about an error."""
    match error:
        case ConfigurationError() | DatasetError() | ModelImportError():
            return ExitCode.INVALID
        case JobNotFoundError() | ModelNotFoundError() | LogNotFoundError() | EventNotFoundError():
            return ExitCode.NOT_FOUND
        case LogDamagedError() | LogTooNewError():
            return ExitCode.LOG_DAMAGED
        case JobExecutionError():
            return ExitCode.JOB_FAILED
    return ExitCode.UNAVAILABLE


def guarded(command: Callable[[], int]) -> int:
    """Return a command's exit code; where it raises, tell why on stderr."""
    try:
        return command()
    except FtactorsError as error:
        _tell(str(error))
        if isinstance(error, JobExecutionError) and error.hint:
            _tell(f"hint: {error.hint}")
        return exit_code_of(error)
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, it is told in full
        _tell(f"ftactors met an error that it does not know: {type(error).__name__}: {error}")
        _tell("please report it with the lines below, the command, and the versions of ftactors and ray")
        traceback.print_exception(error)
        return ExitCode.UNAVAILABLE


def _tell(message: str) -> None:
    typer.echo(message, err=True)
