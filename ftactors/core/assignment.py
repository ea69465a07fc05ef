"""What a job's attempt is told to do."""

from __future__ import annotations

from ftactors.core.events import DatasetPrepared
from ftactors.core.job import Attempt, Job
from ftactors.core.work import Dataset, Work


def work_of(job: Job, attempt: Attempt, rank: int = 0) -> Work:
    """Return the work of a rank of an attempt, all of it from the log."""
    dataset = _dataset(job.dataset) if job.dataset and attempt.purpose == "train" else None
    resumed = attempt.resume_from is not None
    return Work(
        job_id=job.job_id,
        attempt=attempt.number,
        purpose=attempt.purpose,
        job=dict(job.config),
        base=job.submitted.base,
        trainer=job.submitted.trainer,
        handler=job.submitted.handler,
        attempt_dir=f"{job.submitted.run_dir}/attempts/{attempt.number}",
        data_dir=f"{job.submitted.run_dir}/data",
        dataset=dataset,
        resume_from=attempt.resume_from,
        checkpoints=tuple(saved.path for saved in job.checkpoints) if resumed else (),
        baseline=job.baseline,
        registrar=job.submitted.registrar,
        uses_gpu=attempt.ranks[rank].gpu_thousandths > 0,
        gpu_thousandths=attempt.ranks[rank].gpu_thousandths,
        rank=rank,
        world_size=len(attempt.ranks),
        rendezvous=attempt.rendezvous,
        overrides=dict(attempt.overrides),
    )


def _dataset(prepared: DatasetPrepared) -> Dataset:
    return Dataset(path=prepared.path, fingerprint=prepared.fingerprint, shape=prepared.shape, counts=prepared.counts)
