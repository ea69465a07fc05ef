"""Every error that a user of ftactors can catch.

An error says which thing, what is true, what was asked, what is possible. All of them survive pickling,
for most of them cross a Ray call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class FtactorsError(Exception):
    """The base of all errors of ftactors."""

    retryable: ClassVar[bool] = False


@dataclass(frozen=True)
class ConfigProblem:
    """One thing that is wrong with a configuration."""

    field: str
    """The path of the field, such as `fine_tuning_technique.params.r`."""
    message: str
    """What is wrong, and what would be valid."""
    value: str | None = None
    """What was asked, as `repr` shows it; None where there is no value."""

    def __str__(self) -> str:
        asked = "" if self.value is None else f" (got {self.value})"
        return f"{self.field}: {self.message}{asked}"


class ConfigurationError(FtactorsError, ValueError):
    """A configuration with everything that is wrong with it."""

    what: ClassVar[str] = "configuration"

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return "\n".join([f"invalid {self.what}, {count}:", *(f"  {problem}" for problem in self.problems)])


class InvalidJobConfigError(ConfigurationError):
    """A `FineTuningJobConfig` that cannot be run; `problems` lists all that is wrong with it."""

    what = "job configuration"


class InvalidServiceConfigError(ConfigurationError):
    """A `ServiceConfig` that cannot be used; `problems` lists all that is wrong with it."""

    what = "service configuration"


class ModelNotFoundError(FtactorsError, LookupError):
    """No model of this id is registered, lies in a local directory, or is on the hub."""


class ModelConflictError(FtactorsError):
    """The model id is taken by another model, or the model is still in use."""


class ModelImportError(FtactorsError):
    """The files named cannot become a base model."""


class JobNotFoundError(FtactorsError, LookupError):
    """The service has never accepted a job of this id."""


class JobStateError(FtactorsError):
    """The job is in a state in which this cannot be asked of it."""


class JobExecutionError(FtactorsError):
    """Preparing, training or publishing failed; the job's `error_type` tells which way.

    Raised in the training process; drivers see its text in `FineTuningJobStatusInfo.error_message`.

    Args:
        message: What went wrong, with the file, line or step.
        error_type: A stable word for programs, such as `invalid_data` or `diverged`.
        hint: What the user can change.
    """

    error_type: ClassVar[str] = "execution_error"

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message, self.hint = message, hint
        super().__init__(message, hint)

    def __str__(self) -> str:
        return self.message


class DatasetError(JobExecutionError):
    """The data cannot be read or has nothing to train on."""

    error_type = "invalid_data"


class DatasetLostError(JobExecutionError):
    """Data that was prepared is no longer there; it can be prepared again."""

    error_type = "dataset_lost"
    retryable = True


class DivergedError(JobExecutionError):
    """A loss or a gradient norm was not finite."""

    error_type = "diverged"


class UnsupportedModelError(JobExecutionError):
    """The base model cannot be trained the way that was asked."""

    error_type = "unsupported_model"


class RankLostError(JobExecutionError):
    """Another rank of the attempt is gone, and without it none goes on."""

    error_type = "rank_lost"
    retryable = True


class DeviceError(JobExecutionError):
    """The device that was set aside cannot be used; another node's may."""

    error_type = "no_gpu"
    retryable = True


class IllegalEventError(FtactorsError):
    """The table of transitions has no entry for this phase and event."""


class StaleReportError(FtactorsError):
    """The report comes from an attempt that was given up, or was recorded before."""


class IdempotencyConflictError(FtactorsError):
    """The idempotency key was used before with another configuration."""


class LogError(FtactorsError):
    """The event log cannot be used."""


class LogFullError(LogError):
    """The log's disk is full; nothing was recorded. Try again once there is space."""

    retryable = True


class LogRefusedError(LogError):
    """The log is owned by another scheduler, damaged, or too new; nothing is written to it."""


class ServiceError(FtactorsError):
    """The service cannot be reached, or is not in a state for this."""


class ServiceNotStartedError(ServiceError):
    """`start()` was not called, or `stop()` was."""


class ServiceUnavailableError(ServiceError):
    """The scheduler does not answer."""

    retryable = True


class VersionMismatchError(ServiceError):
    """The driver and the running scheduler are of different versions of ftactors."""
