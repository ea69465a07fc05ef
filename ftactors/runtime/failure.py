"""The last words of a process that could not do its work: from an exception, or from how it died."""

from __future__ import annotations

import errno
import signal
import traceback

from ftactors.core.errors import ConfigurationError, DatasetLostError, JobExecutionError, RankLostError
from ftactors.core.events import Stage
from ftactors.core.peers import is_lost_rank
from ftactors.core.shortage import causes, is_out_of_memory
from ftactors.core.work import DatasetMissing, Failed

OUT_OF_MEMORY_HINT = (
    "lower per_device_train_batch_size (and raise gradient_accumulation_steps), lower max_seq_length, "
    "turn gradient_checkpointing on, or ask for a larger share: resources.num_gpus, or resources.memory_gib on CPUs"
)
DISK_FULL_HINT = "free space where the job writes, or lower save_total_limit"
KILLED_HINT = (
    "the kernel kills this way when the host's memory runs out: ask for more resources.memory_gib, "
    "or lower per_device_train_batch_size or max_seq_length"
)
_NO_SPACE_TEXT = "No space left on device"  # safetensors and torch raise errors of their own with it


def last_word_for(error: Exception, *, stage: Stage | None, dataset: str | None) -> Failed | DatasetMissing:
    """Return the last word of a process whose work ended with `error`.

    Args:
        error: What the work raised.
        stage: The stage it was in.
        dataset: The path of the prepared data, where the work had any.
    """
    match error:
        case DatasetLostError() if dataset is not None:
            return DatasetMissing(path=dataset, message=str(error))
        case JobExecutionError():
            return Failed(
                stage=stage,
                error_type=error.error_type,
                message=error.message,
                hint=error.hint,
                retryable=error.retryable,
            )
        case ConfigurationError():
            return Failed(stage=stage, error_type="configuration", message=str(error))
    error_type, hint = _kind_of(error)
    return Failed(stage=stage, error_type=error_type, message=_told(error), hint=hint, retryable=True)


def last_word_of_the_dead(
    pid: int, code: int | None, *, stage: Stage | None, asked_for: bool, log_tail: list[str]
) -> Failed:
    """Return the last word for a process that ended without saying one.

    Args:
        pid: The process.
        code: Its exit code, negative for the signal that killed it; None where nobody could be told.
        stage: The stage it was in.
        asked_for: Whether its own actor killed it.
        log_tail: The last lines of its log.
    """
    how = _how(code)
    why = ", as its trainer actor was told to" if asked_for else " before its work was done"
    logged = "".join(f"\n  {line}" for line in log_tail)
    return Failed(
        stage=stage,
        error_type="process_died",
        message=f"the training process (pid {pid}) {how}{why}" + (f"; its log ends with:{logged}" if logged else ""),
        hint=KILLED_HINT if code == -signal.SIGKILL and not asked_for else None,
        retryable=True,
    )


def _how(code: int | None) -> str:
    if code is None:
        return "ended, with an exit code that is not known, for the template that had forked it ended first,"
    return f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"


def _kind_of(error: Exception) -> tuple[str, str | None]:
    if is_out_of_memory(error):
        return "out_of_memory", OUT_OF_MEMORY_HINT
    for link in causes(error):
        if getattr(link, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or _NO_SPACE_TEXT in str(link):
            return "disk_full", DISK_FULL_HINT
    if is_lost_rank(error):
        return RankLostError.error_type, None
    return "internal", None


def _told(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    text = str(error)
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def _signal_name(number: int) -> str:
    return next((known.name for known in signal.Signals if known == number), f"signal {number}")
