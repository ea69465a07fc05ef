"""What a job's workers hold, and which cap an attempt counts against."""

from __future__ import annotations

from dataclasses import dataclass

from ftactors.core.job import Job
from ftactors.core.phases import HOLDING_PHASES
from ftactors.core.service_config import ServiceConfig

WHOLE = 1000
"""The thousandths of a whole device."""


@dataclass(frozen=True, slots=True)
class Need:
    """What each of a job's workers holds."""

    workers: int
    gpu_thousandths: int
    cpus: float
    mem_gib: float
    accelerator_type: str | None

    def __str__(self) -> str:
        gpu = f"{self.gpu_thousandths / WHOLE:g} GPU and " if self.gpu_thousandths else ""
        kind = f" of type {self.accelerator_type}" if self.accelerator_type else ""
        memory = f" and {self.mem_gib:g} GiB" if self.mem_gib else ""
        workers = f"{self.workers} workers of " if self.workers > 1 else ""
        return f"{workers}{gpu}{self.cpus:g} CPU{memory}{kind}"


def need_of(job: Job) -> Need:
    """Return what a job holds while it trains."""
    asked = job.config.get("resources", {})
    return Need(
        workers=asked.get("num_workers", 1),
        gpu_thousandths=round((asked.get("num_gpus") or 0) * WHOLE),
        cpus=asked.get("num_cpus", 1.0),
        mem_gib=asked.get("memory_gib") or 0.0,
        accelerator_type=asked.get("accelerator_type"),
    )


def preparation_need(rules: ServiceConfig) -> Need:
    """Return what a preparation holds."""
    return Need(1, 0, rules.preparation_num_cpus, 0.0, None)


def holds_training_share(job: Job) -> bool:
    """Return whether the job counts against `max_concurrent_fine_tuning_jobs`."""
    return job.phase in HOLDING_PHASES and job.attempt is not None and job.attempt.purpose == "train"


def holds_preparation(job: Job) -> bool:
    """Return whether the job counts against `max_concurrent_preparations`."""
    return job.phase in HOLDING_PHASES and not holds_training_share(job)
