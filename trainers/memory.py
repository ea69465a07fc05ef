"""The memory of an attempt: its share of a GPU, the most it has held, and what to change once that was too little."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ftactors.core.errors import JobExecutionError
from ftactors.core.events import Stage
from ftactors.core.overrides import OF_BATCHES, OUT_OF_MEMORY
from ftactors.core.shortage import asked_gib, is_of_the_machine, is_out_of_memory
from ftactors.core.work import Work

_GIB = 2**30
_WHOLE = 1000


class ShortOfMemoryError(JobExecutionError):
    """Memory ran out where smaller batches, or another device, may do."""

    error_type = OUT_OF_MEMORY
    retryable = True


class ShareTooSmallError(ShortOfMemoryError):
    """Memory ran out where only a larger share helps."""

    retryable = False


@dataclass(frozen=True, slots=True)
class Held:
    """What a process has held of the memory that it computes in, in GiB."""

    of: str
    """The device, or the machine."""
    total: float
    peak: float
    """The most that was in use at once: on a GPU in tensors, on a CPU by the whole process."""
    reserved: float | None = None
    """What torch's allocator has of a GPU now, in use or kept for later: the share limits this. None of a machine."""
    free: float | None = None
    """What nobody has of the device."""


def keep_to_share(gpu_thousandths: int) -> None:
    """Cap what torch's allocator takes of the GPU at the share; a whole GPU has no cap, and a lower one stays.

    The process's environment says so too (`ftactors/runtime/share.py`), for trainers of the user's own. This holds for
    the allocator's other backends as well, which do not read it there.
    """
    share = gpu_thousandths / _WHOLE
    if 0 < share < 1 and torch.cuda.get_per_process_memory_fraction(0) > share:
        torch.cuda.set_per_process_memory_fraction(share, 0)


def peak_mem_gib() -> float:
    """Return the most memory that the process has used at once: in tensors on its GPU, else of the machine.

    What the allocator of a GPU keeps beyond that, it would give back before it fails: a share of the peak, and a little
    more for what does not fit together, is enough.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / _GIB
    return _peak_rss_gib()


@contextmanager
def shortage_told(work: Work, stage: Callable[[], Stage]) -> Iterator[None]:
    """Tell of memory that runs out within: how much was held, and what to change.

    Raises:
        ShortOfMemoryError: it ran out; in a `ShareTooSmallError` where it would run out again.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError, JobExecutionError) as error:
        if not is_out_of_memory(error):
            raise
        of_gpu = torch.cuda.is_initialized() and not is_of_the_machine(error)
        raise shortage(work, stage(), _of_gpu() if of_gpu else _of_machine(), asked_gib(error)) from error


def shortage(work: Work, stage: Stage, found: Held, asked: float | None) -> ShortOfMemoryError:
    """Return the error of an attempt that ran out of memory.

    Args:
        work: The attempt.
        stage: What it was doing.
        found: What it had held.
        asked: The GiB that it could not get beyond that, where they are known.
    """
    is_capped = found.reserved is not None and 0 < work.gpu_thousandths < _WHOLE
    share = work.gpu_thousandths / _WHOLE if is_capped else None
    cap = None if share is None else share * found.total
    more = "" if asked is None else f" and asked for {asked:.2f} GiB more"
    fills_share = cap is not None and (asked is None or (found.reserved or 0.0) + asked > cap)
    kind = ShareTooSmallError if fills_share and stage not in OF_BATCHES else ShortOfMemoryError
    return kind(
        f"out of memory in {stage}{_batches(work, stage)}: the process has held {found.peak:.2f} GiB at most"
        f"{more}; {_room(found, share)}",
        hint=_hint(work, stage, share, on_gpu=found.reserved is not None, fills_share=fills_share),
    )


def _of_gpu() -> Held:
    free, total = torch.cuda.mem_get_info()
    return Held(
        of=torch.cuda.get_device_name(),
        total=total / _GIB,
        peak=torch.cuda.max_memory_allocated() / _GIB,
        reserved=torch.cuda.memory_reserved() / _GIB,
        free=free / _GIB,
    )


def _of_machine() -> Held:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Held(of="this machine", total=total / _GIB, peak=_peak_rss_gib())


def _peak_rss_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in KiB, on Linux


def _batches(work: Work, stage: Stage) -> str:
    """Return how large the batches of a stage are."""
    asked = work.config.hyperparameters
    if stage not in OF_BATCHES:
        return ""
    evaluates = stage in {"baseline", "evaluating"}
    rows = asked.per_device_eval_batch_size if evaluates else asked.per_device_train_batch_size
    length = f" of up to {asked.max_seq_length} tokens" if asked.max_seq_length else ""
    return f" with {rows} rows at a time{length}"


def _room(found: Held, share: float | None) -> str:
    """Return what there was to have."""
    if found.reserved is None:
        return f"{found.of} has {found.total:.2f} GiB"
    free = "" if found.free is None else f", of which {found.free:.2f} GiB are free"
    if share is None:
        return f"{found.of} has {found.total:.2f} GiB{free}"
    return f"its share, {share:g} of {found.of}, is {share * found.total:.2f} GiB of {found.total:.2f}{free}"


def _hint(work: Work, stage: Stage, share: float | None, *, on_gpu: bool, fills_share: bool) -> str:
    """Return what to change, the cheapest first."""
    ways = _smaller_ways(work) if stage in OF_BATCHES else []
    if stage == "loading" and work.config.fine_tuning_technique.method != "qlora":
        ways.append("quantize the base model (method qlora)")
    if share is not None:
        ways.append(f"ask for a larger share than resources.num_gpus={share:g}")
    elif on_gpu:
        ways.append("ask for a GPU with more memory (resources.accelerator_type)")
    else:
        ways.append("ask for a node with more memory (resources.memory_gib)")
    hint = ", ".join(ways[:-1]) + (", or " if ways[:-1] else "") + ways[-1]
    if share is not None and not fills_share:
        hint = f"the share was not full, so others use more of the device than theirs; else {hint}"
    return hint


def _smaller_ways(work: Work) -> list[str]:
    asked = work.config.hyperparameters
    ways: list[str] = []
    if asked.per_device_train_batch_size > 1:
        ways.append(
            f"lower per_device_train_batch_size={asked.per_device_train_batch_size} and raise "
            f"gradient_accumulation_steps={asked.gradient_accumulation_steps} as much"
        )
    if work.config.dataset_config.has_validation and asked.per_device_eval_batch_size > 1:
        ways.append(f"lower per_device_eval_batch_size={asked.per_device_eval_batch_size}")
    if asked.gradient_checkpointing is False or not (asked.gradient_checkpointing or work.uses_gpu):
        ways.append("turn gradient_checkpointing on")
    if asked.max_seq_length:
        ways.append(f"lower max_seq_length={asked.max_seq_length}")
    return ways
