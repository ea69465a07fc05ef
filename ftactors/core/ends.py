"""When a job that runs is expected to end, by what was measured of it."""

from __future__ import annotations

from ftactors.core.job import Job
from ftactors.core.phases import Phase


def rest_s(job: Job) -> float | None:
    """Return the seconds that training and evaluating still take, counted from the last progress.

    The steps that are left, at the speed of those since the stage began, evaluations between them included; and after
    them the evaluation of the tuned model, which takes as long as that of the base did. Where the base was not
    measured, nothing is added for it; loading and publishing are never measured. None where there is no speed yet.
    """
    if job.phase is not Phase.RUNNING:
        return None
    took_s = job.progress_at - job.stage_at
    if job.stage == "training" and job.total_steps:
        rest = _rest_of(job.total_steps - job.step, job.step - job.first_step, took_s)
        return None if rest is None else rest + (job.baseline_s or 0.0)
    if job.stage == "evaluating" and job.stage_total:
        return _rest_of(job.stage_total - job.stage_step, job.stage_step, took_s)
    return None


def expected_end(job: Job) -> float | None:
    """Return when a job that holds an attempt gives its share back, in seconds since 1970; None where nobody knows.

    For one that stops, that is when its grace is over at the latest.
    """
    attempt = job.attempt
    if job.phase is Phase.YIELDING and attempt is not None:
        return attempt.yield_at + attempt.yield_grace_s
    if job.phase is Phase.CANCELLING and job.cancel is not None:
        return job.cancel.at + job.cancel.grace_s
    rest = rest_s(job)
    return None if rest is None else job.progress_at + rest


def _rest_of(left: int, done: int, took_s: float) -> float | None:
    return max(0, left) * took_s / done if done > 0 else None
