"""A failure is told by a stable word, with a hint where a user can do something."""

from __future__ import annotations

import errno
import signal

import pytest

from ftactors.core.errors import ConfigProblem, InvalidJobConfigError
from ftactors.core.work import Failed
from ftactors.runtime.failure import last_word_for, last_word_of_the_dead


class OutOfMemoryError(RuntimeError):
    """torch's, by its name and module, as far as anybody can tell who has not imported torch."""


OutOfMemoryError.__module__ = "torch"


def caused_by(cause: Exception) -> RuntimeError:
    error = RuntimeError("the step failed")
    error.__cause__ = cause
    return error


def failure(error: Exception) -> Failed:
    word = last_word_for(error, stage="training", dataset=None)
    assert isinstance(word, Failed)
    return word


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out_of_memory"),
        (caused_by(MemoryError()), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (ValueError("I/O error: No space left on device (os error 28)"), "disk_full"),
        (PermissionError(errno.EACCES, "Permission denied"), "internal"),
        (KeyError("loss"), "internal"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_may_pass_is_tried_again(error, error_type):
    told = failure(error)

    assert (told.error_type, told.retryable, told.stage) == (error_type, True, "training")
    assert (told.hint is None) == (error_type == "internal")


def test_a_trainer_of_the_users_own_that_runs_out_of_memory_is_told_what_to_change():
    hint = failure(OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")).hint or ""

    assert all(way in hint for way in ("train_batch_size", "gradient_checkpointing", "max_seq_length", "num_gpus"))


def test_an_invalid_configuration_is_not_tried_again():
    told = failure(InvalidJobConfigError([ConfigProblem("seed", "must be an integer", "'x'")]))

    assert (told.error_type, told.retryable) == ("configuration", False)
    assert "seed: must be an integer (got 'x')" in told.message


def test_an_error_without_text_is_told_by_its_type():
    assert failure(MemoryError()).message == "MemoryError"


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (-signal.SIGABRT, "was killed by SIGABRT"),
        (-(signal.SIGRTMIN + 1), f"was killed by signal {signal.SIGRTMIN + 1}"),
        (0, "ended with exit code 0"),
    ],
)
def test_a_death_is_told_by_signal_or_exit_code(code, how):
    told = last_word_of_the_dead(7, code, stage=None, asked_for=False, log_tail=[])

    assert told.message == f"the training process (pid 7) {how} before its work was done"
